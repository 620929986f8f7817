/* draft_model.h - a second, smaller model of the same vocabulary as a drafter.
 *
 *     draft_model_look(&d, path, e, &error);     metadata and vocabulary; nothing large is allocated
 *     draft_model_bytes(d, n_blocks)             what it will take
 *     draft_model_open(d, &error);               weights, keys and values, buffers
 *     missing = draft_model_recall(d, ...);      the text as it is now
 *     draft_model_ops.propose_all(d, asks, n);
 *
 * It draws as the target does: with the request's sampling parameters and the noise of the position, from its own logits. So at
 * any temperature it draws the target's token wherever the two models agree well enough. Where an ask has rows it draws with
 * noise of its own instead, and tells what from. Engine thread only. */
#ifndef FORESAY_DRAFT_MODEL_H
#define FORESAY_DRAFT_MODEL_H

#include <stdint.h>

#include "engine/engine.h"
#include "speculative/speculative.h"

enum {
    DRAFT_SIBLING_CLASS = 14, /* further draws for the same place */
    DRAFT_DRAWN_CLASS = 15,   /* guesses that are drawn: their odds must not depend on the token, see speculative.h */
    DRAFT_MODEL_CLASS = 24    /* and the seven after it: odds by the probability that it gives its token */
};

struct draft_model;

/* The engine's tokenizer is open and its configuration complete. On failure *out is NULL. */
int draft_model_look(struct draft_model **out, const char *path, struct engine *e, struct engine_error *error);
/* Bytes with a cache of n_blocks blocks, which it keeps in mind for draft_model_open. */
uint64_t draft_model_bytes(struct draft_model *d, int n_blocks);
const char *draft_model_path(const struct draft_model *d);
/* What of the target's weights it has: a first guess at what a pass costs. */
double draft_model_share(const struct draft_model *d, const struct engine *e);
/* Backend, tokenizer and sampler of the engine are open. */
int draft_model_open(struct draft_model *d, struct engine_error *error);
/* Accepts NULL and half-built ones. */
void draft_model_close(struct draft_model *d);

/* The slot's text is now context's. Guesses that did not come true are forgotten. Returns how many of its tokens are not computed
 * yet, at least 1; 0 when the text is longer than this model can see. */
int draft_model_recall(struct draft_model *d, int slot, const struct draft_context *context);

extern const struct drafter_ops draft_model_ops;

#endif
