/* draft_head.h - drafters that compute: a drafting head (head.h) behind struct drafter_ops.
 *
 * EAGLE's memory of a sequence begins where the engine first shows it computed rows (a prefix from the cache it never sees), and
 * begins anew behind a gap. Medusa needs the last state alone. Engine thread. */
#ifndef FORESAY_DRAFT_HEAD_H
#define FORESAY_DRAFT_HEAD_H

#include "engine/head.h"
#include "speculative/speculative.h"

/* The drafter owns the head from here on, also when this fails. is_chain: one guess a depth, whatever the context allows.
 * passes learns what its calls cost. */
int head_drafter_open(struct drafter *out, struct head *head, bool is_chain, struct cost_table *passes,
                      struct engine_error *error);
/* Rows that the head must compute before it can guess what follows the text, at least 1; 0 = it cannot. */
int head_drafter_missing(void *self, int slot, const struct draft_context *context);
/* Bytes that it allocates besides the head. */
uint64_t head_drafter_bytes(const struct head_shape *shape, int n_slots);

#endif
