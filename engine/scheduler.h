/* scheduler.h - which sequences get rows in the next step.
 *
 *     scheduler_add(s, seq);
 *     n_rows = scheduler_plan(s);      seq->n_rows of every running sequence is set, its blocks are writable
 *     ... scheduler_extend(s, seq, n): rows for a draft, from what the plan left over ...
 *     ... model_forward ...
 *     scheduler_commit(s);             n_computed moves on, full blocks are published
 *     ... scheduler_accept(s, seq, n): as many rows of the draft turned out right ...
 *
 * Engine thread only. */
#ifndef FORESAY_SCHEDULER_H
#define FORESAY_SCHEDULER_H

#include <stdint.h>

#include "engine/sequence.h"

struct scheduler {
    struct kv_cache *cache;
    int step_tokens, max_seqs;
    struct sequence **running; /* [max_seqs], in order of admission */
    struct sequence **order;   /* [max_seqs], scratch of a plan */
    int n_running, n_waiting;
    struct sequence *waiting; /* by round, then arrival */
    uint64_t round_now, n_arrivals;
    int rows_left; /* budget of the plan in the making */
    uint64_t n_preemptions;
};

/* step_tokens >= max_seqs, so that every decoding sequence gets its row in every step. Returns 0, or -1 when memory is refused.
 */
int scheduler_init(struct scheduler *s, struct kv_cache *cache, int step_tokens, int max_seqs);
void scheduler_free(struct scheduler *s);

/* The caller has checked that max_tokens fits the pool. */
void scheduler_add(struct scheduler *s, struct sequence *seq);
/* Takes the sequence out, wherever it stands, and gives its blocks back. */
void scheduler_remove(struct scheduler *s, struct sequence *seq);
/* Returns the number of rows of the step; 0 only when nothing runs or waits. */
int scheduler_plan(struct scheduler *s);
/* Up to n rows more for a sequence whose last known token is in the step, without preempting anyone. Returns how many. */
int scheduler_extend(struct scheduler *s, struct sequence *seq, int n);
/* Known tokens alone; what a draft computed stays unknown until scheduler_accept. */
void scheduler_commit(struct scheduler *s);
/* The first n_accepted rows of the draft are known tokens by now. The others are forgotten, with the blocks that they lie in. */
void scheduler_accept(struct scheduler *s, struct sequence *seq, int n_accepted);

#endif
