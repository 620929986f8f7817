/* learning.h - a user's own earlier answers as guesses for the next ones, for those who allow it.
 *
 *  (1) The setting is the user's, in the store (users.learns), off at first. What the engine knows of him is a copy of answers
 *      in the store, kept in memory: read when he connects, allows it, or begins a turn, and the engine knows nothing, and added
 *      to as answers end.
 *  (2) Only what is stored in conversations is learned, and only conversations are helped: what somebody does with an API key may
 *      serve others, and how fast it comes would tell them of him.
 *  (3) When the setting is turned off or a conversation deleted, the engine forgets all of the user at once; what is left comes
 *      back with his next turn. A read that was under way then is not used: its number is out of date.
 *  (4) What the engine makes of it while idle (engine/user_tune.h) goes the same way; nothing of it is on disk.
 * Service thread only. */
#ifndef FORESAY_LEARNING_H
#define FORESAY_LEARNING_H

#include "gateway/turn.h"

/* A connection of his is open; learns: his setting. */
void learning_greet(struct gateway *gateway, int64_t user, bool learns);
/* The path of a stored turn is about to be read; has been read: generation->learns is set. */
void learning_prepare(struct generation *generation);
void learning_begin(struct generation *generation, const struct store_op *path);
/* The answer has ended and is on disk. */
void learning_end(struct generation *generation);
/* Something of the user's is gone. */
void learning_forget(struct gateway *gateway, int64_t user);
/* The setting is on disk. */
void learning_set(struct gateway *gateway, int64_t user, bool learns);

#endif
