/* draft.h - speculation inside the engine; the guessing itself is in speculative/.
 *
 *     n_rows = scheduler_plan(s);
 *     n_rows += draft_plan(e, n_rows);      seq->n_draft rows more for some
 *     ... model_forward; draws; draft_learn for each sequence that drew ...
 *     draft_time(e, ...);
 *
 * Engine thread only. */
#ifndef FORESAY_DRAFT_H
#define FORESAY_DRAFT_H

#include <stdint.h>

#include "engine/engine.h"
#include "engine/head.h"
#include "speculative/speculative.h"

enum { DRAFT_ROWS = 64 }; /* nodes of all drafts in one step: their logits must fit memory */

struct model;
struct request;
struct tokenizer;

struct draft_slot {
    struct request *owner; /* NULL = free */
    struct draft_odds own;
    struct token_tree tree; /* the guess of this step; the root alone between steps */
};

struct drafting {
    struct drafter drafter;
    struct ngram_store store; /* header NULL = none */
    void *store_image;
    struct controller controller;
    struct draft_odds odds;   /* of all sequences */
    struct draft_slot *slots; /* [n_slots]; NULL = speculation is off */
    int n_slots;
    struct gguf *head_file; /* of a drafting head; NULL once it is read */
    struct head_shape head_shape;
    bool has_head;
    bool is_decode, warned; /* the step under way has decode rows alone */
    /* Scratch of a plan, [n_slots] each. */
    const struct token_tree **trees;
    struct request **guessing;
    int *kept;
};

/* Before the model is opened: reads what a drafting head asks of it into limits. */
int draft_prepare(struct engine *e, const struct model_shape *shape, struct model_limits *limits, struct engine_error *error);
/* Bytes that draft_open allocates. After draft_prepare; ctx_len is set in the configuration. */
uint64_t draft_bytes(const struct engine *e);
/* Model and tokenizer are open. ENGINE_OK, or a status with its sentence; draft_close frees what there is. */
int draft_open(struct engine *e, struct engine_error *error);
void draft_close(struct drafting *d);

/* The scheduler has planned n_rows rows; returns how many rows of drafts were added. */
int draft_plan(struct engine *e, int n_rows);
/* The target drew n tokens for this request in this step. */
void draft_learn(struct engine *e, struct request *r, const int32_t *drawn, int n);
/* All draws of this step are made: shows a head the rows that it computed. */
void draft_observe(struct engine *e, const struct model_batch *batch);
/* The step took ms, n_drafted of its n_rows rows were drafts; n_tokens came out. */
void draft_time(struct engine *e, int n_rows, int n_drafted, int n_tokens, double ms);
/* The request has ended. */
void draft_forget(struct request *r);

/* What a store belongs to: the vocabulary, and the model whatever its quantization. */
void draft_digests(const struct tokenizer *tokenizer, const struct model *model, uint64_t *vocab, uint64_t *target);

/* For tests: another drafter in place of the engine's own, which it closes. Before the first submit. */
void engine_set_drafter(struct engine *e, const struct drafter *drafter);

#endif
