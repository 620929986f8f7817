/* head_trees.h - token trees of a recurrent head, of several sequences at once. Engine thread. */
#ifndef FORESAY_HEAD_TREES_H
#define FORESAY_HEAD_TREES_H

#include "engine/head_guess.h"

struct head_trees;

/* For at most n_slots trees at once. The head must outlive it; passes learns what passes of so many rows cost. NULL when memory
 * is refused. */
struct head_trees *head_trees_open(struct head *head, int n_slots, bool is_chain, struct cost_table *passes);
void head_trees_close(struct head_trees *trees); /* accepts NULL */
uint64_t head_trees_bytes(const struct head_shape *shape, int n_slots);

/* What the head holds likely behind the texts of n asks, in one pass for up to HEAD_BATCH of them, which the caller times; none
 * where states[i] is NULL. */
void head_trees_hint(struct head_trees *trees, const struct draft_ask *asks, const float *const *states, int n);

/* Grows the trees of n asks. states[i]: the target's last state, behind ask i's text; NULL = its tree stays as it is. */
void head_trees_grow(struct head_trees *trees, const struct draft_ask *asks, const float *const *states, int n);

#endif
