/* draft_model.c - see draft_model.h.
 *
 * A slot has its own copy of the text, with the guesses behind it, and its own table of blocks in a pool of its own.
 *  (1) tokens[0 .. n_text) are the sequence's, tokens[n_text ..) guesses of the latest round.
 *  (2) The table has the keys and values of tokens[0 .. n_computed). draft_model_recall takes back what of it is not the text,
 *      and always the text's last token: its logits are wanted.
 *  (3) Only text is published in the prefix cache, under the sequence's salt.
 * A round is a pass for each depth, over all sequences that ask. The first pass also computes what they miss, at most PASS_ROWS
 * tokens in all: a sequence that misses more guesses in a later round. One that gets no block does not guess. Nothing is
 * allocated after draft_model_open. */
#include "engine/draft_model.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "engine/log.h"

enum {
    MOST_ASKS = DRAFT_ROWS, /* of a round */
    PASS_ROWS = 128,
};

struct model_slot {
    int32_t *tokens; /* [ctx_len] */
    struct kv_table table;
    int n_text, n_computed;
};

/* The chain of one sequence in this round. */
struct chain {
    const struct draft_ask *ask;
    struct model_slot *slot;
    int n_tokens; /* text and guesses */
    int n_rows;   /* in the pass under way */
    bool goes_on;
};

struct draft_model {
    struct engine *engine; /* its backend, sampler and controller */
    char *path;
    struct gguf *gguf; /* until it is open */
    struct model_shape shape;
    struct kv_shape kv_shape;
    struct model_limits limits;
    struct model *model;
    struct kv_pool pool;
    struct kv_cache cache;
    struct model_slot *slots; /* [n_slots] */
    int32_t *memory;          /* of the slots: tokens, blocks */
    int n_slots, n_blocks;

    /* One pass. */
    struct chain chains[MOST_ASKS];
    struct chain *drawing[MOST_ASKS]; /* those whose logits the pass computes */
    struct kernels_seq seqs[MOST_ASKS];
    struct sampler_draw draws[MOST_ASKS];
    struct engine_logprob logprobs[MOST_ASKS];
    int32_t row_tokens[PASS_ROWS], logit_rows[MOST_ASKS];
    int n_chains, n_drawing;
};

/* --- open, close --- */

static int refuse(struct draft_model *d, int status, const char *trouble, struct engine_error *error) {
    snprintf(error->text, sizeof error->text, "the draft model %.250s %s", d->path, trouble);
    return status;
}

static int check_vocabulary(struct draft_model *d, struct engine_error *error) {
    struct tokenizer *own = NULL;
    int rc = tokenizer_open(&own, d->gguf, error);
    if (rc != ENGINE_OK) return rc;
    const struct tokenizer *target = d->engine->tokenizer;
    bool is_same = tokenizer_vocab_size(own) == tokenizer_vocab_size(target) &&
                   draft_vocab_digest(own) == draft_vocab_digest(target) && d->shape.vocab_size >= tokenizer_vocab_size(target);
    tokenizer_close(own);
    if (is_same) return ENGINE_OK;
    return refuse(d, ENGINE_ERR_ARGUMENT,
                  "has another vocabulary than the model: its tokens would mean other text. Choose one of the same family and "
                  "generation, or leave --drafter away",
                  error);
}

static int look(struct draft_model *d, struct engine_error *error) {
    const struct engine_config *c = &d->engine->config;
    int rc = gguf_open(&d->gguf, d->path, error);
    if (rc != ENGINE_OK || (rc = model_read_shape(&d->shape, d->gguf, error)) || (rc = model_check(d->gguf, &d->shape, error)) ||
        (rc = check_vocabulary(d, error)))
        return rc;
    if (model_kv_shape(&d->shape, c->kv_type, &d->kv_shape, error) != ENGINE_OK && /* its heads may not suit the target's type */
        (rc = model_kv_shape(&d->shape, NULL, &d->kv_shape, error)))
        return rc;
    d->n_slots = c->max_seqs;
    d->limits = (struct model_limits){.max_rows = PASS_ROWS,
                                      .max_logits = c->max_seqs < MOST_ASKS ? c->max_seqs : MOST_ASKS,
                                      .ctx_len = c->ctx_len < d->shape.ctx_train ? c->ctx_len : d->shape.ctx_train};
    return model_activations(&d->shape, c->activations, &d->limits.rests, error);
}

int draft_model_look(struct draft_model **out, const char *path, struct engine *e, struct engine_error *error) {
    struct draft_model *d = calloc(1, sizeof *d);
    *out = NULL;
    if (d) d->path = strdup(path);
    if (!d || !d->path) {
        free(d);
        snprintf(error->text, sizeof error->text, "no memory");
        return ENGINE_ERR_MEMORY;
    }
    d->engine = e;
    int rc = look(d, error);
    if (rc == ENGINE_OK)
        *out = d;
    else
        draft_model_close(d);
    return rc;
}

static size_t slot_words(const struct draft_model *d) {
    return (size_t)d->limits.ctx_len + (size_t)kv_blocks_for(d->limits.ctx_len);
}

uint64_t draft_model_bytes(struct draft_model *d, int n_blocks) {
    int most = d->n_slots * kv_blocks_for(d->limits.ctx_len);
    d->n_blocks = n_blocks < most ? n_blocks : most;
    return model_weight_memory(d->gguf) + model_buffer_bytes(&d->shape, &d->limits) +
           (uint64_t)d->n_blocks * kv_block_bytes(&d->kv_shape) + (uint64_t)d->n_slots * slot_words(d) * sizeof(int32_t) +
           sizeof *d;
}

const char *draft_model_path(const struct draft_model *d) { return d->path; }

double draft_model_share(const struct draft_model *d, const struct engine *e) {
    return (double)d->shape.weight_bytes / (double)e->model->shape.weight_bytes;
}

static bool open_slots(struct draft_model *d) {
    size_t words = slot_words(d);
    d->slots = calloc((size_t)d->n_slots, sizeof *d->slots);
    d->memory = calloc((size_t)d->n_slots * words, sizeof *d->memory);
    if (!d->slots || !d->memory) return false;
    for (int i = 0; i < d->n_slots; i++) {
        struct model_slot *slot = &d->slots[i];
        slot->tokens = d->memory + (size_t)i * words;
        kv_table_init(&d->cache, &slot->table, slot->tokens + d->limits.ctx_len, kv_blocks_for(d->limits.ctx_len), 0);
    }
    return true;
}

int draft_model_open(struct draft_model *d, struct engine_error *error) {
    const struct backend *backend = &d->engine->backend;
    uint64_t identity = d->shape.n_parameters * 31 + d->shape.weight_bytes;
    int rc = model_open(&d->model, d->gguf, &d->shape, backend, &d->limits, error);
    log_progress_end();
    gguf_close(d->gguf);
    d->gguf = NULL;
    if (rc != ENGINE_OK) return rc;
    if (kv_pool_alloc(backend, d->n_blocks, &d->kv_shape, &d->pool) != KERNELS_OK ||
        kv_cache_init(&d->cache, backend, &d->pool, d->engine->config.prefix_cache, identity) != 0 || !open_slots(d))
        return refuse(d, ENGINE_ERR_MEMORY, "does not fit: no memory for its keys and values; lower --kv-mem or --max-seqs",
                      error);
    log_info("engine", "draft model %s: %s, %.1f M parameters, %.2f of the target's weights", d->path,
             d->shape.family->architecture, (double)d->shape.n_parameters / 1e6, draft_model_share(d, d->engine));
    return ENGINE_OK;
}

void draft_model_close(struct draft_model *d) {
    if (!d) return;
    gguf_close(d->gguf);
    free(d->slots);
    free(d->memory);
    kv_cache_free(&d->cache);
    if (d->pool.data) kv_pool_free(&d->engine->backend, &d->pool);
    model_close(d->model);
    free(d->path);
    free(d);
}

/* --- slots --- */

static void end_slot(void *self, int slot) {
    struct draft_model *d = self;
    kv_cache_release(&d->cache, &d->slots[slot].table);
    d->slots[slot].n_text = d->slots[slot].n_computed = 0;
}

int draft_model_recall(struct draft_model *d, int slot, const struct draft_context *context) {
    struct model_slot *s = &d->slots[slot];
    const struct request *r = context->request;
    int n = context->n_tokens, same = s->n_text < s->n_computed ? s->n_text : s->n_computed;
    if (n >= d->limits.ctx_len) return 0;
    assert(n >= s->n_text);
    while (same < s->n_computed && same < n && s->tokens[same] == context->tokens[same]) same++;
    s->n_computed = same < n - 1 ? same : n - 1;
    memcpy(s->tokens + s->n_text, context->tokens + s->n_text, (size_t)(n - s->n_text) * sizeof *s->tokens);
    if (s->n_text == 0) {
        kv_table_init(&d->cache, &s->table, s->table.blocks, s->table.capacity, r->seq.salt);
        s->n_computed = kv_cache_match(&d->cache, &s->table, s->tokens, n);
    }
    s->n_text = n;
    kv_cache_cut(&d->cache, &s->table, s->n_computed);
    return n - s->n_computed;
}

/* --- a round --- */

static void begin_chains(struct draft_model *d, const struct draft_ask *asks, int n) {
    d->n_chains = 0;
    for (int i = 0; i < n && d->n_chains < d->limits.max_logits; i++) {
        if (asks[i].context.max_nodes < 1 || draft_model_recall(d, asks[i].slot, &asks[i].context) == 0) continue;
        d->chains[d->n_chains++] = (struct chain){
            .ask = &asks[i], .slot = &d->slots[asks[i].slot], .n_tokens = asks[i].context.n_tokens, .goes_on = true};
    }
}

/* Gives a chain its rows of this pass. */
static void add_rows(struct draft_model *d, struct chain *chain, struct model_batch *batch) {
    struct model_slot *s = chain->slot;
    int n = chain->n_tokens - s->n_computed, most = PASS_ROWS - batch->n_rows;
    bool is_last = n <= most; /* then its logits give the next guess */
    chain->n_rows = is_last ? n : most;
    chain->goes_on = chain->n_rows > 0 && kv_cache_reserve(&d->cache, &s->table, s->n_computed, s->n_computed + chain->n_rows);
    if (!chain->goes_on) return;
    d->seqs[batch->n_seqs++] = (struct kernels_seq){
        .first_row = batch->n_rows, .n_rows = chain->n_rows, .first_pos = s->n_computed, .blocks = s->table.blocks};
    memcpy(d->row_tokens + batch->n_rows, s->tokens + s->n_computed, (size_t)chain->n_rows * sizeof *s->tokens);
    batch->n_rows += chain->n_rows;
    s->n_computed += chain->n_rows;
    chain->goes_on = is_last;
    if (!is_last) return;
    d->logit_rows[batch->n_logits++] = batch->n_rows - 1;
    d->drawing[d->n_drawing++] = chain;
}

/* Of the last guess. */
static int depth_of(const struct draft_ask *ask) { return ask->tree->n_nodes - 1; }

static void draw(struct draft_model *d) {
    for (int i = 0; i < d->n_drawing; i++) {
        const struct chain *chain = d->drawing[i];
        const struct request *r = chain->ask->context.request;
        d->draws[i] = (struct sampler_draw){
            .params = &r->sampling,
            .history = {.tokens = chain->slot->tokens, .n_prompt = r->seq.n_prompt, .n_tokens = chain->n_tokens},
            .logits = model_logits(d->model, i),
            .maxima = model_maxima(d->model, i),
            .logprobs = &d->logprobs[i]};
    }
    for (int i = 0, n; i < d->n_drawing; i += n) {
        const struct draft_ask *ask = d->drawing[i]->ask;
        if (ask->rows) draft_draw(d->engine, &d->draws[i], ask->context.n_tokens, depth_of(ask), &ask->rows[depth_of(ask)]);
        for (n = 1; !ask->rows && i + n < d->n_drawing && !d->drawing[i + n]->ask->rows;) n++;
        if (!ask->rows) sampler_draw(&d->engine->sampler, d->draws + i, n);
    }
}

/* The guess joins its chain, if it may, and is the row of the next pass, if that can pay. One that was drawn always may, whatever
 * it is, an end token too: a draft without those would be drawn from something else. */
static void take_guess(struct draft_model *d, struct chain *chain, const struct sampler_draw *drawn) {
    const struct draft_context *context = &chain->ask->context;
    const struct request *r = context->request;
    struct token_tree *tree = chain->ask->tree;
    chain->goes_on = false;
    bool is_drawn = chain->ask->rows != NULL;
    if (drawn->status != ENGINE_OK || (!is_drawn && !r->ignore_eos && tokenizer_is_eog(d->engine->tokenizer, drawn->token)))
        return;
    int class = is_drawn ? DRAFT_DRAWN_CLASS : odds_class_of(DRAFT_MODEL_CLASS, expf(drawn->logprobs->logprob));
    int node = tree_add(tree, tree->n_nodes - 1, drawn->token, class, odds_estimate(context->own, context->all, class));
    if (chain->n_tokens == d->limits.ctx_len || tree->n_nodes > context->max_nodes || tree->chance[node] < context->least_chance)
        return;
    if (is_drawn && tree->n_nodes > DRAWN_DEPTH) return;
    chain->slot->tokens[chain->n_tokens++] = drawn->token;
    chain->goes_on = true;
}

/* One depth further. False when no chain goes on. */
static bool run_pass(struct draft_model *d) {
    struct model_batch batch = {.tokens = d->row_tokens, .seqs = d->seqs, .logit_rows = d->logit_rows};
    double start = now_ms();
    d->n_drawing = 0;
    for (int i = 0; i < d->n_chains; i++) {
        if (d->chains[i].goes_on) add_rows(d, &d->chains[i], &batch);
    }
    if (batch.n_rows == 0) return false;
    model_forward(d->model, &d->pool, &batch);
    draw(d);
    for (int i = 0; i < d->n_drawing; i++) take_guess(d, d->drawing[i], &d->draws[i]);
    cost_learn(&d->engine->drafting.controller.passes, batch.n_rows, now_ms() - start);
    return true;
}

static void propose_all(void *self, const struct draft_ask *asks, int n) {
    struct draft_model *d = self;
    begin_chains(d, asks, n);
    while (run_pass(d)) {
    }
    for (int i = 0; i < d->n_chains; i++) {
        struct model_slot *s = d->chains[i].slot;
        if (d->chains[i].ask->rows) draft_widen(d->chains[i].ask);
        int known = s->n_computed < s->n_text ? s->n_computed : s->n_text - 1;
        kv_cache_publish(&d->cache, &s->table, s->tokens, known);
    }
    assert(d->cache.n_free + d->cache.n_cached + d->cache.n_used == d->cache.n_blocks);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    kv_cache_check(&d->cache);
#endif
}

static void propose(void *self, int slot, const struct draft_context *context, struct token_tree *tree) {
    const struct draft_ask ask = {.slot = slot, .context = *context, .tree = tree};
    propose_all(self, &ask, 1);
}

static void close_model(void *self) { draft_model_close(self); }

const struct drafter_ops draft_model_ops = {.name = "draft model",
                                            .begin = end_slot,
                                            .propose = propose,
                                            .close = close_model,
                                            .propose_all = propose_all,
                                            .end = end_slot};
