/* sequence.h - one text in the making, as the scheduler and the model see it: tokens known, tokens computed, blocks held.
 *
 *  (1) tokens[0 .. n_prompt) came from the request, tokens[n_prompt .. n_tokens) were sampled.
 *  (2) The KV of tokens[0 .. n_computed) lies in the blocks of the table; n_computed < n_tokens between steps.
 *  (3) Preemption gives back the blocks and sets n_computed to 0; it keeps every token.
 * There are no phases: a prompt is a sequence with many tokens to compute, a decoding sequence has one. Engine thread only,
 * except that the tokenizer thread fills in a new sequence before the engine thread sees it. */
#ifndef FORESAY_SEQUENCE_H
#define FORESAY_SEQUENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/kv_cache.h"

enum sequence_state { SEQUENCE_NEW, SEQUENCE_WAITING, SEQUENCE_RUNNING };

struct sequence {
    int32_t *tokens; /* [max_tokens] */
    int n_prompt, n_tokens, max_tokens;
    int n_computed;
    struct kv_table table;
    uint64_t salt; /* the user: shares cached blocks, takes turns with other users */

    enum sequence_state state;
    struct sequence *next;   /* waiting list */
    uint64_t round, arrival; /* order of admission, see scheduler.c */
    int n_rows;              /* rows in the current step, those of a draft included */
    int n_draft;             /* the last rows of the step: guesses in tokens[n_tokens ..], see draft.c */
    int n_cached;            /* prompt tokens found in the prefix cache */
    int n_preempted;
    void *owner; /* the request */
};

/* The last known token is in this step: its logits give the next one, those of a draft's rows perhaps more. */
static inline bool sequence_wants_logits(const struct sequence *seq) {
    return seq->n_rows > 0 && seq->n_computed + seq->n_rows - seq->n_draft == seq->n_tokens;
}

#endif
