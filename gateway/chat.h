/* chat.h - what a client may ask for on its connection: turns, streams, history.
 *
 *  (1) Each request is answered once, ok or err, with its id; a write only after its commit.
 *  (2) Everything names the user, so another user's conversation, message or generation is "not found".
 *  (3) A repeated cid answers what the first one did; nothing is done twice.
 * Service thread only. */
#ifndef FORESAY_CHAT_H
#define FORESAY_CHAT_H

#include "gateway/connection.h"
#include "gateway/wire_in.h"

/* Any request but hello, ping and pong. May take over request->gen. */
void chat_request(struct connection *connection, struct request *request);
/* Goes on reading a stream as hello's resume list asks; what cannot be resumed is told by an err with g. */
void chat_resume(struct connection *connection, const struct request_resume *resume);
/* The connection is going away: its unanswered requests have nobody to tell. */
void chat_forget(struct connection *connection);

#endif
