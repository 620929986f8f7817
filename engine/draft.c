/* draft.c - speculation inside the engine: which sequences carry drafts in this step, and what their draws teach.
 *
 * Once the scheduler has planned a step, each sequence that decodes is asked for a guess, the controller keeps the nodes that
 * pay, and the scheduler gives them rows if it can do so without taking anything from others. A step with a piece of a prompt
 * in it does not draft: there each row costs its full arithmetic, and the prompt's own rows use it better.
 *
 *  (1) A draft's tokens lie behind the known ones, tokens[n_tokens .. n_tokens + n_draft), and their keys and values in the
 *      blocks behind; both are worth nothing until the target has drawn the same tokens.
 *  (2) A draft never reaches the last token a sequence may have: that one is always drawn.
 *  (3) A slot belongs to a request from its first guess to its end; one that was preempted may lose it and start anew. Engine
 *      thread. */
#include "engine/draft.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/draft_head.h"
#include "engine/internal.h"
#include "engine/log.h"

enum { STORE_MAX_BYTES = 1 << 30 };

/* --- open, close --- */

static bool is_head(enum engine_drafter drafter) {
    return drafter == ENGINE_DRAFTER_EAGLE || drafter == ENGINE_DRAFTER_MEDUSA || drafter == ENGINE_DRAFTER_BLOCKWISE;
}

uint64_t draft_bytes(const struct engine *e) {
    const struct engine_config *c = &e->config;
    const struct drafting *d = &e->drafting;
    if (c->drafter == ENGINE_DRAFTER_NONE) return 0;
    uint64_t slots = (uint64_t)c->max_seqs * sizeof(struct draft_slot);
    if (!d->head_file) return lookup_drafter_bytes(c->max_seqs, c->ctx_len) + slots;
    return head_bytes(d->head_file, &d->head_shape, c->max_seqs, c->ctx_len) + head_drafter_bytes(&d->head_shape, c->max_seqs) +
           slots;
}

int draft_prepare(struct engine *e, const struct model_shape *shape, struct model_limits *limits, struct engine_error *error) {
    struct drafting *d = &e->drafting;
    const struct engine_config *c = &e->config;
    if (!is_head(c->drafter)) return ENGINE_OK;
    if (!c->draft_store) {
        snprintf(error->text, sizeof error->text, "--drafter %s needs the head's file: --drafter %s:FILE",
                 engine_drafter_name(c->drafter), engine_drafter_name(c->drafter));
        return ENGINE_ERR_ARGUMENT;
    }
    int rc = gguf_open(&d->head_file, c->draft_store, error);
    if (rc != ENGINE_OK || (rc = head_read_shape(&d->head_shape, d->head_file, shape, error))) return rc;
    if ((d->head_shape.kind == HEAD_EAGLE) != (c->drafter == ENGINE_DRAFTER_EAGLE)) {
        snprintf(error->text, sizeof error->text, "%s holds %s head: say --drafter %s:FILE", c->draft_store,
                 d->head_shape.kind == HEAD_EAGLE ? "an EAGLE" : "a Medusa",
                 d->head_shape.kind == HEAD_EAGLE ? "eagle" : "medusa");
        return ENGINE_ERR_ARGUMENT;
    }
    memcpy(limits->feature_layers, d->head_shape.layers, sizeof limits->feature_layers);
    return ENGINE_OK;
}

static uint64_t digest(uint64_t hash, const void *data, size_t n) { /* FNV-1a */
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n; i++) hash = (hash ^ bytes[i]) * 0x100000001B3u;
    return hash;
}

void draft_digests(const struct tokenizer *tokenizer, const struct model *model, uint64_t *vocab, uint64_t *target) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (int32_t id = 0; id < tokenizer_vocab_size(tokenizer); id++) {
        size_t len;
        const char *name = tokenizer_name(tokenizer, id, &len);
        hash = digest(digest(hash, &len, sizeof len), name, len);
    }
    *vocab = hash;
    /* The last norm is kept as floats in every quantization, and no two trainings end with the same. */
    *target = digest(hash, model->output_norm, (size_t)model->shape.n_embd * sizeof *model->output_norm);
}

static int fail(struct engine_error *error, const char *path, const char *trouble) {
    snprintf(error->text, sizeof error->text, "%s %s", path, trouble);
    return ENGINE_ERR_ARGUMENT;
}

/* The whole file in memory, or NULL. */
static void *read_file(const char *path, uint64_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    long end = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    void *image = end >= 0 && end <= STORE_MAX_BYTES && fseek(file, 0, SEEK_SET) == 0 ? malloc((size_t)end + 1) : NULL;
    *size = (uint64_t)end;
    if (image && fread(image, 1, (size_t)end, file) != (size_t)end) {
        free(image);
        image = NULL;
    }
    fclose(file);
    return image;
}

static int open_store(struct engine *e, const char *path, struct engine_error *error) {
    struct drafting *d = &e->drafting;
    uint64_t size, vocab, target;
    d->store_image = read_file(path, &size);
    if (!d->store_image) return fail(error, path, "cannot be read as an n-gram store");
    draft_digests(e->tokenizer, e->model, &vocab, &target);
    const char *trouble =
        ngram_open(&d->store, d->store_image, size, (uint32_t)tokenizer_vocab_size(e->tokenizer), vocab, target);
    return trouble ? fail(error, path, trouble) : ENGINE_OK;
}

static int open_head(struct engine *e, struct engine_error *error) {
    struct drafting *d = &e->drafting;
    struct head *head;
    uint64_t vocab, target;
    draft_digests(e->tokenizer, e->model, &vocab, &target);
    int rc = head_check_digests(d->head_file, vocab, target, error);
    if (rc != ENGINE_OK || (rc = head_open(&head, d->head_file, &d->head_shape, e->model, d->n_slots, error))) return rc;
    gguf_close(d->head_file);
    d->head_file = NULL;
    d->has_head = true;
    return head_drafter_open(&d->drafter, head, e->config.drafter == ENGINE_DRAFTER_BLOCKWISE, error);
}

static int open_tables(struct engine *e, struct engine_error *error) {
    struct drafting *d = &e->drafting;
    size_t n = (size_t)d->n_slots;
    d->slots = calloc(n, sizeof *d->slots);
    d->trees = calloc(n, sizeof *d->trees);
    d->guessing = calloc(n, sizeof *d->guessing);
    d->kept = calloc(n, sizeof *d->kept);
    const struct ngram_store *store = d->store.header ? &d->store : NULL;
    bool has_tables = d->slots && d->trees && d->guessing && d->kept;
    if (has_tables && d->head_file) return open_head(e, error);
    if (has_tables && lookup_drafter_open(&d->drafter, d->n_slots, e->config.ctx_len, store) == 0) return ENGINE_OK;
    snprintf(error->text, sizeof error->text, "no memory for the drafter's tables");
    return ENGINE_ERR_MEMORY;
}

int draft_open(struct engine *e, struct engine_error *error) {
    struct drafting *d = &e->drafting;
    const struct engine_config *c = &e->config;
    d->n_slots = c->max_seqs;
    controller_init(&d->controller);
    odds_init_prior(&d->odds);
    if (c->drafter == ENGINE_DRAFTER_NONE) return ENGINE_OK;
    if (d->head_file) return open_tables(e, error);
    if (c->drafter > ENGINE_DRAFTER_SUFFIX && !c->draft_store)
        return fail(error, "--drafter", "ngram and merge need a store: --drafter ngram:FILE");
    int rc = c->draft_store ? open_store(e, c->draft_store, error) : ENGINE_OK;
    return rc != ENGINE_OK ? rc : open_tables(e, error);
}

void draft_close(struct drafting *d) {
    if (d->drafter.ops) d->drafter.ops->close(d->drafter.self);
    gguf_close(d->head_file);
    free(d->store_image);
    free(d->slots);
    free(d->trees);
    free(d->guessing);
    free(d->kept);
    *d = (struct drafting){0};
}

void engine_set_drafter(struct engine *e, const struct drafter *drafter) {
    assert(e->drafting.drafter.ops);
    e->drafting.drafter.ops->close(e->drafting.drafter.self);
    e->drafting.drafter = *drafter;
}

/* --- slots --- */

static struct draft_slot *find_free(struct drafting *d) {
    struct draft_slot *lost = NULL;
    for (int i = 0; i < d->n_slots; i++) {
        if (!d->slots[i].owner) return &d->slots[i];
        if (d->slots[i].owner->seq.state != SEQUENCE_RUNNING) lost = &d->slots[i];
    }
    assert(lost); /* at most n_slots run */
    lost->owner->draft = NULL;
    return lost;
}

static struct draft_slot *slot_of(struct drafting *d, struct request *r) {
    if (r->draft) return r->draft;
    struct draft_slot *slot = find_free(d);
    slot->owner = r;
    slot->own = (struct draft_odds){0};
    d->drafter.ops->begin(d->drafter.self, (int)(slot - d->slots));
    return r->draft = slot;
}

void draft_forget(struct request *r) {
    if (r->draft) r->draft->owner = NULL;
    r->draft = NULL;
}

/* --- a guess --- */

/* Nodes that can be computed: a chain of tokens that exist. A drafter may be broken; its guesses must not be. */
static int usable_nodes(struct engine *e, const struct token_tree *tree) {
    int n_vocab = tokenizer_vocab_size(e->tokenizer), i = 1;
    while (i < tree->n_nodes && tree->parent[i] == i - 1 && tree->tokens[i] >= 0 && tree->tokens[i] < n_vocab) i++;
    if (i < tree->n_nodes && !e->drafting.warned) {
        log_warn("engine", "the drafter %s proposed token %d, which this model does not have: dropped",
                 e->drafting.drafter.ops->name, tree->tokens[i]);
        e->drafting.warned = true;
    }
    return i;
}

/* The longest draft that invariant (2) allows. */
static int most_nodes(const struct engine *e, const struct sequence *seq) {
    int most = seq->max_tokens - seq->n_tokens - 1;
    return most < e->config.draft_max ? most : e->config.draft_max;
}

static int sources_of(enum engine_drafter drafter) {
    if (drafter == ENGINE_DRAFTER_SUFFIX) return DRAFT_FROM_SUFFIX;
    return drafter == ENGINE_DRAFTER_NGRAM ? DRAFT_FROM_STORE : DRAFT_FROM_ALL;
}

static void guess(struct engine *e, struct request *r) {
    struct drafting *d = &e->drafting;
    const struct sequence *seq = &r->seq;
    struct draft_slot *slot = slot_of(d, r);
    struct draft_context context = {.tokens = seq->tokens,
                                    .n_tokens = seq->n_tokens,
                                    .own = &slot->own,
                                    .all = &d->odds,
                                    .max_nodes = most_nodes(e, seq),
                                    .max_width = 1,
                                    .sources = sources_of(r->drafter)};
    tree_init(&slot->tree, seq->tokens[seq->n_tokens - 1]);
    if (context.max_nodes < 1) return;
    d->drafter.ops->propose(d->drafter.self, (int)(slot - d->slots), &context, &slot->tree);
    slot->tree.n_nodes = usable_nodes(e, &slot->tree);
}

/* Without the controller: the nodes that are not sure to be wasted. */
static int likely_nodes(const struct token_tree *tree) {
    int n = 0;
    while (n + 1 < tree->n_nodes && tree->chance[n + 1] >= 0.25f) n++;
    return n;
}

static bool all_decode(const struct scheduler *s) {
    for (int i = 0; i < s->n_running; i++) {
        const struct sequence *seq = s->running[i];
        if (seq->n_rows > 1 || (seq->n_rows == 1 && !sequence_wants_logits(seq))) return false;
    }
    return true;
}

/* Rows for the first n nodes, as far as the scheduler has them. Returns how many. */
static int give(struct engine *e, struct request *r, int n) {
    struct sequence *seq = &r->seq;
    const struct token_tree *tree = &r->draft->tree;
    n = scheduler_extend(&e->scheduler, seq, n);
    for (int i = 0; i < n; i++) seq->tokens[seq->n_tokens + i] = tree->tokens[i + 1];
    if (n == 0) return 0;
    r->n_draft_rounds++;
    r->n_drafted += n;
    e->counts.draft_rounds++;
    e->counts.drafted_tokens += (uint64_t)n;
    return n;
}

int draft_plan(struct engine *e, int n_rows) {
    struct drafting *d = &e->drafting;
    struct scheduler *s = &e->scheduler;
    int n_guesses = 0, n_forced = 0, n_drafted = 0, budget = DRAFT_ROWS;
    d->is_decode = all_decode(s);
    if (!d->slots || !d->is_decode) return 0;
    for (int i = 0; i < s->n_running; i++) {
        struct request *r = s->running[i]->owner;
        if (s->running[i]->n_rows == 0 || r->drafter == ENGINE_DRAFTER_NONE) continue;
        guess(e, r);
        if (r->drafter == ENGINE_DRAFTER_AUTO) {
            d->guessing[n_guesses] = r;
            d->trees[n_guesses++] = &r->draft->tree;
        } else {
            int n = likely_nodes(&r->draft->tree);
            n = give(e, r, n < budget ? n : budget);
            n_forced += n;
            budget -= n;
        }
    }
    controller_plan(&d->controller, d->trees, n_guesses, n_rows + n_forced, budget, d->kept);
    for (int i = 0; i < n_guesses; i++) {
        if (d->kept[i] > 0) n_drafted += give(e, d->guessing[i], d->kept[i]);
    }
    return n_forced + n_drafted;
}

/* --- learning --- */

void draft_learn(struct engine *e, struct request *r, const int32_t *drawn, int n) {
    struct draft_slot *slot = r->draft;
    if (!slot) return;
    odds_learn(&slot->own, &e->drafting.odds, &slot->tree, drawn, n);
    slot->tree.n_nodes = 1; /* the next guess may come many steps later */
}

/* Rows of the batch whose tokens are part of the text by now. */
void draft_observe(struct engine *e, const struct model_batch *batch) {
    const struct drafting *d = &e->drafting;
    if (!d->slots || !d->drafter.ops->observe) return;
    for (int i = 0; i < batch->n_seqs; i++) {
        struct request *r = e->row_owners[i];
        const struct kernels_seq *run = &batch->seqs[i];
        if (r->is_ending || r->seq.state != SEQUENCE_RUNNING || r->drafter == ENGINE_DRAFTER_NONE) continue;
        struct draft_rows rows = {.tokens = r->seq.tokens,
                                  .first_pos = run->first_pos,
                                  .n = r->seq.n_computed - run->first_pos,
                                  .features = model_features(e->model, run->first_row)};
        if (r->last_logits >= 0) rows.last_state = model_state(e->model, r->last_logits);
        struct draft_slot *slot = slot_of(&e->drafting, r);
        d->drafter.ops->observe(d->drafter.self, (int)(slot - d->slots), &rows);
    }
}

void draft_time(struct engine *e, int n_rows, int n_drafted, int n_tokens, double ms) {
    if (!e->drafting.is_decode) return;
    const struct step_outcome step = {.n_rows = n_rows, .n_drafted = n_drafted, .n_tokens = n_tokens, .ms = ms};
    controller_learn(&e->drafting.controller, &step);
}
