/* turn.h - one generation from its request to the stored answer.
 *
 *  (1) PREPARING (the conversation's path is being read) -> RUNNING (the engine has it) -> SAVING (the final text is being
 *      committed) -> ENDED (DONE is in the log; kept for readers who come back).
 *  (2) A stored generation's DONE is appended only after its final text is committed, or after that failed and DONE says so.
 *  (3) While it runs the whole text is saved every TURN_CHECKPOINT_MS if it changed, and earlier when much is unsaved. A
 *      checkpoint that fails costs nothing but safety: the text goes on, and what failed last is told in DONE if the final save
 *      fails too. An answer that could not be saved is tried again every TURN_RETRY_MS as long as it is in memory.
 *  (4) Ended logs are kept TURN_KEEP_MS, at most TURN_KEEP_BYTES together, oldest out first; never while somebody reads.
 *  (5) Nothing but turn_cancel, the engine and the end of the server stops a generation: readers come and go.
 * Generations of the HTTP API (not stored) belong to their request: turn_forget when it is over. Service thread only. */
#ifndef FORESAY_TURN_H
#define FORESAY_TURN_H

#include "gateway/core.h"
#include "gateway/logprobs.h"
#include "gateway/stream.h"
#include "gateway/wire_in.h"
#include "gateway/wire_out.h"

enum {
    TURN_CHECKPOINT_MS = 500,
    TURN_CHECKPOINT_BYTES = 256, /* a fast model writes more than a reader would like to lose in half a second */
    TURN_RETRY_MS = 10 * 1000,
    TURN_KEEP_MS = 300 * 1000,           /* a laptop lid closed for some minutes */
    TURN_KEEP_BYTES = 256 * 1024 * 1024, /* of ended logs */
};

enum turn_phase { TURN_PREPARING, TURN_RUNNING, TURN_SAVING, TURN_ENDED };

struct generation {
    struct gateway *gateway;
    struct wire_stream ids;
    int64_t user;
    bool stored;
    enum turn_phase phase;
    struct stream *stream;
    struct logprob_list logprobs; /* if params asked for them */
    struct gen_params params;
    uint64_t engine_id;
    bool cancel_wanted;
    bool interrupted; /* the server is going away */
    bool overflowed;  /* the text reached STREAM_MAX_TEXT */
    int n_traces_lost;

    struct timer timer; /* RUNNING: next checkpoint. ENDED: next try to save, or time to forget */
    size_t checkpoint_len;
    int saves_in_flight; /* store operations that point here */
    bool unsaved;
    int64_t ended_ms;
    struct stream_result result;
    /* After DONE is appended; may be NULL. saved: the store's answer to the final save, NULL when it failed or there was none. */
    void (*ended)(struct generation *generation, const struct store_op *saved);
    void *owner; /* for ended */

    struct generation *next_by_id, *next_by_engine;
    struct generation *newer, *older; /* ended ones, by time */
};

/* Takes over params. Counts against the user's and everybody's limit. NULL: a limit (code and message are filled) or memory. */
struct generation *turn_new(struct gateway *gateway, int64_t user, const struct wire_stream *ids, bool stored, const char *base,
                            size_t base_len, struct gen_params *params, struct wire_error *error);
/* Would turn_new refuse? Asked before the user's message is stored. */
bool turn_may_begin(struct gateway *gateway, int64_t user, struct wire_error *error);
/* Stored: reads the path to `message` and submits it; continued: that message is the answer to go on with. */
void turn_begin(struct generation *generation, const struct store_id *message, bool continued);
/* Hands messages to the engine. False: error is filled and nothing runs. */
bool turn_submit(struct generation *generation, const struct engine_message *messages, int n, bool continued,
                 struct wire_error *error);
/* The same for a plain text to go on with. */
bool turn_submit_prompt(struct generation *generation, const char *prompt, size_t len, struct wire_error *error);
/* Ends an API generation that was refused. */
void turn_fail(struct generation *generation);
void turn_cancel(struct generation *generation);
/* API generations: cancel if needed and free as soon as nothing points to it. No reader may be attached. */
void turn_forget(struct generation *generation);

struct generation *turn_find(struct gateway *gateway, const struct store_id *generation, int64_t user);
/* The running generation of a conversation, or NULL. */
struct generation *turn_find_live(struct gateway *gateway, const struct store_id *conv, int64_t user);
void turns_cancel_conversation(struct gateway *gateway, const struct store_id *conv, int64_t user);

void turns_poll_engine(struct gateway *gateway);
/* Streams may say what was guessed ahead. */
bool turns_show_guesses(const struct gateway *gateway);
void turns_on_pace(struct timer *timer); /* gateway->pace_timer: the same */
void turns_interrupt_all(struct gateway *gateway);
/* The engine did not answer in time: whatever still runs is ended as interrupted with the text it has. */
void turns_give_up(struct gateway *gateway);
void turns_free(struct gateway *gateway);

#endif
