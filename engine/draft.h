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

struct draft_model;
struct request;
struct sampler_draw;
struct tokenizer;

struct draft_slot {
    struct request *owner; /* NULL = free */
    struct draft_odds own;
    struct token_tree tree;             /* the guess of this step; the root alone between steps */
    struct token_tree looked_up, asked; /* with is_model: what tree was made of; scored by the draws instead of it */
    bool is_model;                      /* the draft model or the head had a guess */
    struct draft_hints hints;           /* the head's; with is_hinted looked_up is the guess without them */
    bool is_hinted;
    bool is_drawn;          /* the tree is one that the draft model drew, from these rows: */
    struct drawn_row *rows; /* [DRAWN_DEPTH]; NULL = there is no draft model */
    int n_wanted;           /* nodes that were to be verified */
    int n_in_vain;          /* steps in a row of which none paid */
    bool is_resting;        /* no guess is looked up, nor asked for, in this step */
};

struct drafting {
    struct drafter drafter;
    struct ngram_store store; /* header NULL = none */
    char *store_path;
    void *store_image;
    struct draft_model *model; /* NULL = none */
    struct drafter head;       /* ops NULL = none; there may be a model or a head, not both */
    struct gguf *head_file;    /* until it is open */
    bool is_own_head;          /* nobody named it, it is the binary's */
    bool is_bare;              /* of the binary's own nothing is wanted */
    struct head_shape head_shape;
    struct controller controller;
    struct draft_odds odds;   /* of all sequences */
    struct draft_odds prior;  /* before anything was learned: what a text depends on must not depend on others */
    struct draft_slot *slots; /* [n_slots]; NULL = speculation is off */
    int n_slots;
    bool is_decode, warned; /* the step under way has decode rows alone */
    double asked_ms;        /* what asking the draft model or the head took in it */
    float least_chance;     /* of nodes that can pay in it */
    /* Scratch of a plan, [n_slots] each. */
    const struct token_tree **trees;
    struct request **guessing;
    int *kept;
    struct draft_ask *asks;
    struct draft_offer *offers;
    /* Scratch of draft_verify.c. */
    double *target_row;           /* [vocab_size] */
    struct drawn_row *drawn_rows; /* of all slots */
};

/* draft_open.c. Looks at the files that the configuration names; tokenizer, the target's shape and ctx_len are known. ENGINE_OK,
 * or a status with its sentence; draft_close frees what there is. */
int draft_look(struct engine *e, const struct model_shape *shape, struct engine_error *error);
/* Bytes that draft_open allocates besides a draft model's. */
uint64_t draft_bytes(const struct engine *e);
/* Model and tokenizer are open, draft_look has been called. */
int draft_open(struct engine *e, struct engine_error *error);
void draft_close(struct drafting *d);

/* The scheduler has planned n_rows rows; returns how many rows of drafts were added. */
int draft_plan(struct engine *e, int n_rows);
/* The draws have come to this node, whose path is text now: brings its keys and values behind those of the text. Returns the
 * number of tokens accepted. */
int draft_accept(struct engine *e, struct request *r, int node);
/* The target drew n tokens for this request in this step. */
void draft_learn(struct engine *e, struct request *r, const int32_t *drawn, int n);
/* All draws of this step are made: shows a head the rows that it computed. */
void draft_observe(struct engine *e, const struct model_batch *batch);
/* The step took ms, n_drafted of its n_rows rows were drafts; n_tokens came out. */
void draft_time(struct engine *e, int n_rows, int n_drafted, int n_tokens, double ms);
/* The request has ended. */
void draft_forget(struct engine *e, struct request *r);

/* draft_ask.c. Everyone's slot has what the lookup drafter guesses. Asks the draft model or the head where it may pay, or where
 * it is asked for; its guess joins the other. */
void draft_ask(struct engine *e, int n_rows, int budget);

/* draft_counts.c. The request has drawn in this step; the first n_accepted guesses of its draft, if it had one, were right. */
void draft_count(struct engine *e, struct request *r, int n_accepted);
enum engine_draft_off draft_off_of(const struct request *r);

/* draft_verify.c: for requests that verify otherwise than by matching. */
static inline bool draft_is_weighed(enum engine_verify verify) { return verify > ENGINE_VERIFY_MATCH; }
/* The draft model's guesses are drawn. */
static inline bool draft_wants_draws(enum engine_verify verify) {
    return draft_is_weighed(verify) && verify != ENGINE_VERIFY_TYPICAL;
}
/* A guess from the draft model's logits, the index-th of a round that began with so many tokens; row: what it was drawn from. The
 * draw's status tells whether there is one. */
void draft_draw(struct engine *e, struct sampler_draw *draw, int n_tokens, int index, struct drawn_row *row);
/* A chain of such guesses gets siblings, as many as the ask has room for: more draws from the same rows, with nothing behind
 * them. */
void draft_widen(const struct draft_ask *ask);
/* The request's draft, of which all nodes are computed: row i of the logits from first_row on belongs to node i. Returns the
 * number of tokens that come out, at least 1 and the last of them not the draft's; 0 when a row is not finite. */
int draft_verify(struct engine *e, struct request *r, int first_row, int32_t *out);

/* What the lookup drafter guesses for a request that has a slot; hints NULL = without. */
void draft_look_up(struct engine *e, struct request *r, const struct draft_hints *hints);
/* What a drafter is told of a request that has a slot. */
struct draft_context draft_context_of(const struct engine *e, const struct request *r);

/* draft_stores.c: a store inside the binary that belongs to this model. False: there is none. */
bool draft_find_store(struct ngram_store *out, uint32_t n_vocab, uint64_t vocab_digest, uint64_t target_digest);

/* A head inside the binary that has the measures for this model; whether it is its own the digests tell. */
bool draft_find_head(struct gguf **out, struct head_shape *shape, const struct model_shape *target);

/* What a store belongs to: the vocabulary, and the model whatever its quantization. */
void draft_digests(const struct tokenizer *tokenizer, const struct model *model, uint64_t *vocab, uint64_t *target);
uint64_t draft_vocab_digest(const struct tokenizer *tokenizer);

/* For tests: another drafter in place of the engine's own, which it closes. Before the first submit. */
void engine_set_drafter(struct engine *e, const struct drafter *drafter);

#endif
