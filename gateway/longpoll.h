/* longpoll.h - GET /api/poll: one answer with all that a connection owes, at once or as soon as there is something.
 *
 *  (1) {"next":N, "msgs":[...], "close":{code, reason}?}. The next poll says after=N; until then the messages are kept and given
 *      again to whoever asks with an earlier number.
 *  (2) `wait` is how many seconds an empty answer may be held back; 0 makes it plain polling. */
#ifndef FORESAY_LONGPOLL_H
#define FORESAY_LONGPOLL_H

#include "gateway/http.h"

void longpoll_get(struct exchange *exchange);

#endif
