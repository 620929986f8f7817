/* sse.h - GET /api/events: what a connection owes as an event stream (server-sent events), which an EventSource can read.
 *
 *  (1) One event a message: `id` is its number, `data` the JSON. The stream begins with an id and no data, so that a client that
 *      loses it before the first message asks for the right one.
 *  (2) A client that comes back says what it has by the header Last-Event-ID, which browsers send by themselves, or by `after`.
 *  (3) The end of the connection is an event named `close`: {code, reason}. A stream that ends without it is to be opened again.
 *  (4) Messages are taken when the socket can take bytes, so a slow reader gets fewer, larger deltas. */
#ifndef FORESAY_SSE_H
#define FORESAY_SSE_H

#include "gateway/http.h"

void sse_get(struct exchange *exchange);

#endif
