/* draft_open.c - opening and closing what drafts: tables, an n-gram store, a draft model, a drafting head.
 *
 * The files are named in one setting, separated by commas, and told apart by how they begin; the word NO_BUILT_IN among them
 * leaves away what the binary has of its own. A draft model or head is looked at before anything large is allocated, so that its
 * memory counts among the engine's. Engine thread, or before it runs. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/draft_head.h"
#include "engine/draft_model.h"
#include "engine/internal.h"
#include "engine/log.h"

enum { STORE_MAX_BYTES = 1 << 30 };

#define NO_BUILT_IN "none"

static int fail(struct engine_error *error, int status, const char *path, const char *trouble) {
    snprintf(error->text, sizeof error->text, "%.300s %s", path, trouble);
    return status;
}

/* --- what a store or a model belongs to --- */

static uint64_t digest(uint64_t hash, const void *data, size_t n) { /* FNV-1a */
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n; i++) hash = (hash ^ bytes[i]) * 0x100000001B3u;
    return hash;
}

uint64_t draft_vocab_digest(const struct tokenizer *tokenizer) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (int32_t id = 0; id < tokenizer_vocab_size(tokenizer); id++) {
        size_t len;
        const char *name = tokenizer_name(tokenizer, id, &len);
        hash = digest(digest(hash, &len, sizeof len), name, len);
    }
    return hash;
}

void draft_digests(const struct tokenizer *tokenizer, const struct model *model, uint64_t *vocab, uint64_t *target) {
    *vocab = draft_vocab_digest(tokenizer);
    /* The last norm is kept as floats in every quantization, and no two trainings end with the same. */
    *target = digest(*vocab, model->output_norm, (size_t)model->shape.n_embd * sizeof *model->output_norm);
}

/* --- files --- */

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

static int open_store(struct engine *e, struct engine_error *error) {
    struct drafting *d = &e->drafting;
    uint64_t size, vocab, target;
    d->store_image = read_file(d->store_path, &size);
    if (!d->store_image) return fail(error, ENGINE_ERR_ARGUMENT, d->store_path, "cannot be read as an n-gram store");
    draft_digests(e->tokenizer, e->model, &vocab, &target);
    const char *trouble =
        ngram_open(&d->store, d->store_image, size, (uint32_t)tokenizer_vocab_size(e->tokenizer), vocab, target);
    return trouble ? fail(error, ENGINE_ERR_ARGUMENT, d->store_path, trouble) : ENGINE_OK;
}

/* Nobody named a store: the binary's own, if it has one for this model. */
static int find_store(struct engine *e, struct engine_error *error) {
    struct drafting *d = &e->drafting;
    enum engine_drafter drafter = e->config.drafter;
    uint64_t vocab, target;
    draft_digests(e->tokenizer, e->model, &vocab, &target);
    if (!d->is_bare && draft_find_store(&d->store, (uint32_t)tokenizer_vocab_size(e->tokenizer), vocab, target)) {
        log_info("engine", "this model's own n-gram store drafts, made of %llu tokens of its text",
                 (unsigned long long)d->store.header->n_text);
        return ENGINE_OK;
    }
    d->store = (struct ngram_store){0};
    if (drafter == ENGINE_DRAFTER_NGRAM)
        return fail(error, ENGINE_ERR_ARGUMENT, "ngram", "needs a store, none for this model is built in: --drafter ngram:FILE");
    if (drafter == ENGINE_DRAFTER_MERGE && !d->model && !d->head_file)
        return fail(error, ENGINE_ERR_ARGUMENT, "merge",
                    "needs a store, a draft model or a head; no store for this model is built in: --drafter merge:FILE");
    return ENGINE_OK;
}

static bool begins_as_model(const char *path, bool *can_read) {
    char magic[4] = "";
    FILE *file = fopen(path, "rb");
    *can_read = file != NULL;
    size_t n = file ? fread(magic, 1, sizeof magic, file) : 0;
    if (file) fclose(file);
    return n == sizeof magic && memcmp(magic, "GGUF", sizeof magic) == 0;
}

/* Keeps the file open if it is a head's; else it is a model's. */
static int look_at_head(struct engine *e, const struct model_shape *shape, const char *path, struct engine_error *error) {
    struct drafting *d = &e->drafting;
    struct gguf *gguf;
    int rc = gguf_open(&gguf, path, error);
    if (rc != ENGINE_OK) return rc;
    if (!head_is_one(gguf)) {
        gguf_close(gguf);
        return ENGINE_OK;
    }
    d->head_file = gguf;
    return head_read_shape(&d->head_shape, gguf, shape, error);
}

static int look_at(struct engine *e, const struct model_shape *shape, const char *path, struct engine_error *error) {
    struct drafting *d = &e->drafting;
    bool can_read, is_model = begins_as_model(path, &can_read);
    if (!can_read) return fail(error, ENGINE_ERR_IO, path, "(--drafter) cannot be read: no such file, or no permission");
    if (is_model ? d->model || d->head_file : d->store_path != NULL)
        return fail(error, ENGINE_ERR_ARGUMENT, path,
                    is_model ? "is a second draft model or head (--drafter): name one"
                             : "is a second n-gram store (--drafter): name one");
    int rc = is_model ? look_at_head(e, shape, path, error) : ENGINE_OK;
    if (rc != ENGINE_OK || d->head_file) return rc;
    if (is_model) return draft_model_look(&d->model, path, e, error);
    d->store_path = strdup(path);
    return d->store_path ? ENGINE_OK : fail(error, ENGINE_ERR_MEMORY, path, "could not be noted: no memory");
}

/* The drafter that is asked for has its file. */
static int check_files(const struct engine *e, struct engine_error *error) {
    const struct drafting *d = &e->drafting;
    enum engine_drafter drafter = e->config.drafter;
    const int kind = d->head_file ? (int)d->head_shape.kind : -1;
    static const char *const given[HEAD_KINDS] = {[HEAD_EAGLE] = "an EAGLE head: --drafter eagle:FILE",
                                                  [HEAD_MEDUSA] = "a Medusa head: --drafter medusa:FILE",
                                                  [HEAD_RECURRENT] = "a recurrent head: --drafter recurrent:FILE"};
    static const struct {
        enum engine_drafter drafter;
        enum head_kind kind;
        const char *wish;
    } needs[] = {
        {ENGINE_DRAFTER_EAGLE, HEAD_EAGLE, "eagle needs a head that was trained for the model: --drafter eagle:FILE"},
        {ENGINE_DRAFTER_MEDUSA, HEAD_MEDUSA, "medusa needs a Medusa head that was trained for the model: --drafter medusa:FILE"},
        {ENGINE_DRAFTER_BLOCKWISE, HEAD_MEDUSA,
         "blockwise needs a Medusa head that was trained for the model: --drafter blockwise:FILE"},
        {ENGINE_DRAFTER_RECURRENT, HEAD_RECURRENT,
         "recurrent needs a head that was trained for the model: --drafter recurrent:FILE"}};
    const char *trouble = NULL;
    char text[160];
    const bool needs_gguf = drafter >= ENGINE_DRAFTER_MODEL && drafter != ENGINE_DRAFTER_MERGE;
    if (needs_gguf && d->store_path) {
        snprintf(text, sizeof text, "is not a GGUF file: --drafter %s needs one", engine_drafter_name(drafter));
        return fail(error, ENGINE_ERR_ARGUMENT, d->store_path, text);
    }
    if (drafter == ENGINE_DRAFTER_MODEL && !d->model) trouble = "model needs a GGUF file of a model: --drafter model:FILE";
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
        if (drafter != needs[i].drafter || kind == (int)needs[i].kind) continue;
        if (kind >= 0) snprintf(text, sizeof text, "%s is given %s", engine_drafter_name(drafter), given[kind]);
        trouble = kind >= 0 ? text : needs[i].wish;
    }
    return trouble ? fail(error, ENGINE_ERR_ARGUMENT, "--drafter", trouble) : ENGINE_OK;
}

int draft_look(struct engine *e, const struct model_shape *shape, struct engine_error *error) {
    const struct engine_config *c = &e->config;
    struct drafting *d = &e->drafting;
    char path[4096];
    *d = (struct drafting){.n_slots = c->max_seqs};
    if (c->drafter == ENGINE_DRAFTER_NONE) return ENGINE_OK;
    for (const char *at = c->draft_files; at && *at;) {
        size_t n = strcspn(at, ",");
        if (n >= sizeof path) return fail(error, ENGINE_ERR_ARGUMENT, "--drafter", "names a file whose path is too long");
        memcpy(path, at, n);
        path[n] = 0;
        const bool is_word = strcmp(path, NO_BUILT_IN) == 0;
        int rc = is_word ? ENGINE_OK : look_at(e, shape, path, error);
        if (rc != ENGINE_OK) return rc;
        d->is_bare = d->is_bare || is_word;
        at += n + (at[n] == ',');
    }
    bool wants_head =
        c->drafter == ENGINE_DRAFTER_AUTO || c->drafter == ENGINE_DRAFTER_MERGE || c->drafter == ENGINE_DRAFTER_RECURRENT;
    if (wants_head && !d->is_bare && !d->model && !d->head_file)
        d->is_own_head = draft_find_head(&d->head_file, &d->head_shape, shape);
    return check_files(e, error);
}

/* --- open, close --- */

uint64_t draft_bytes(const struct engine *e) {
    const struct engine_config *c = &e->config;
    if (c->drafter == ENGINE_DRAFTER_NONE) return 0;
    uint64_t slot = sizeof(struct draft_slot) + sizeof(struct draft_ask) + sizeof(struct draft_offer);
    const struct head_shape *shape = &e->drafting.head_shape;
    uint64_t head = e->drafting.head_file ? head_bytes(e->drafting.head_file, shape, c->max_seqs, c->ctx_len) +
                                                head_drafter_bytes(shape, c->max_seqs)
                                          : 0;
    if (e->drafting.model) slot += DRAWN_DEPTH * sizeof(struct drawn_row);
    uint64_t row = (uint64_t)tokenizer_vocab_size(e->tokenizer) * sizeof(double);
    return lookup_drafter_bytes(c->max_seqs, c->ctx_len) + (uint64_t)c->max_seqs * slot + head + row +
           user_texts_bytes(c->user_texts, c->user_text_tokens);
}

static int open_tables(struct engine *e, struct engine_error *error) {
    struct drafting *d = &e->drafting;
    size_t n = (size_t)d->n_slots;
    d->slots = calloc(n, sizeof *d->slots);
    d->trees = calloc(n, sizeof *d->trees);
    d->guessing = calloc(n, sizeof *d->guessing);
    d->kept = calloc(n, sizeof *d->kept);
    d->asks = calloc(n, sizeof *d->asks);
    d->offers = calloc(n, sizeof *d->offers);
    d->target_row = calloc((size_t)tokenizer_vocab_size(e->tokenizer), sizeof *d->target_row);
    d->drawn_rows = calloc(d->model ? n : 1, DRAWN_DEPTH * sizeof *d->drawn_rows);
    for (size_t i = 0; i < n && d->model && d->slots && d->drawn_rows; i++) d->slots[i].rows = d->drawn_rows + i * DRAWN_DEPTH;
    const struct ngram_store *store = d->store.header ? &d->store : NULL;
    if (d->slots && d->trees && d->guessing && d->kept && d->asks && d->offers && d->target_row && d->drawn_rows &&
        lookup_drafter_open(&d->drafter, d->n_slots, e->config.ctx_len, store) == 0)
        return ENGINE_OK;
    snprintf(error->text, sizeof error->text, "no memory for the drafter's tables");
    return ENGINE_ERR_MEMORY;
}

static int open_head(struct engine *e, struct engine_error *error) {
    struct drafting *d = &e->drafting;
    struct head *head;
    uint64_t vocab, target;
    draft_digests(e->tokenizer, e->model, &vocab, &target);
    int rc = head_check_digests(d->head_file, vocab, target, error);
    if (rc != ENGINE_OK && d->is_own_head && e->config.drafter != ENGINE_DRAFTER_RECURRENT) {
        gguf_close(d->head_file);
        d->head_file = NULL;
        return ENGINE_OK;
    }
    if (rc != ENGINE_OK || (rc = head_open(&head, d->head_file, &d->head_shape, e->model, d->n_slots, error))) return rc;
    if (d->is_own_head) log_info("engine", "this model's own drafting head drafts, too");
    gguf_close(d->head_file);
    d->head_file = NULL;
    bool is_chain = e->config.drafter == ENGINE_DRAFTER_BLOCKWISE;
    return head_drafter_open(&d->head, head, is_chain, &d->controller.passes, error);
}

/* What a pass of the draft model or the head is first taken to cost, as a share of the target's. */
static double share_of(const struct engine *e) {
    const struct drafting *d = &e->drafting;
    if (d->model) return draft_model_share(d->model, e);
    return d->head_file ? (double)gguf_file_bytes(d->head_file) / (double)e->model->shape.weight_bytes : 0;
}

int draft_open(struct engine *e, struct engine_error *error) {
    struct drafting *d = &e->drafting;
    int rc;
    controller_init(&d->controller, share_of(e));
    odds_init_prior(&d->odds);
    d->prior = d->odds;
    if (e->config.drafter == ENGINE_DRAFTER_NONE) return ENGINE_OK;
    if ((rc = d->store_path ? open_store(e, error) : find_store(e, error))) return rc;
    if (d->model && (rc = draft_model_open(d->model, error))) return rc;
    if (d->head_file && (rc = open_head(e, error))) return rc;
    return open_tables(e, error);
}

void draft_close(struct drafting *d) {
    if (d->drafter.ops) d->drafter.ops->close(d->drafter.self);
    draft_model_close(d->model);
    if (d->head.ops) d->head.ops->close(d->head.self);
    gguf_close(d->head_file);
    free(d->store_path);
    free(d->store_image);
    free(d->slots);
    free(d->trees);
    free(d->guessing);
    free(d->kept);
    free(d->asks);
    free(d->offers);
    free(d->target_row);
    free(d->drawn_rows);
    *d = (struct drafting){0};
}

void engine_set_drafter(struct engine *e, const struct drafter *drafter) {
    assert(e->drafting.drafter.ops);
    e->drafting.drafter.ops->close(e->drafting.drafter.self);
    e->drafting.drafter = *drafter;
}
