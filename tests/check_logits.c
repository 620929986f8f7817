/* check_logits.c - the logits of a model file for given token ids, for comparison with other programs (tests/oracle).
 *
 *     check_logits MODEL CTX <ids >floats
 *
 * ids: whole numbers in text; floats: [n_ids][vocab_size], position after position. The ids are
 * computed in one pass, in chunks, one by one, beside another sequence, and by every instruction set that this processor has; the
 * bits must be the same, those of the features that drafting heads read, too: exit status 1 if not, 2 for bad usage or a file
 * that cannot be computed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model.h"

enum { MAX_IDS = 4096 };

struct run {
    const char *isa;
    int n_threads;
    int chunk;
    bool beside; /* another sequence's rows come first in every pass */
};

struct task {
    const struct gguf *gguf;
    struct model_shape shape;
    int ctx, n_ids;
    int32_t ids[MAX_IDS], rows[2 * MAX_IDS];
};

/* Floats a row; a model of one layer has none. */
static size_t n_features(const struct task *t) { return t->shape.n_layers > 1 ? MODEL_FEATURES * (size_t)t->shape.n_embd : 0; }

static int passes(const struct task *t, const struct run *run, struct model *model, struct kv_pool *kv, float *out) {
    int n_blocks = (t->n_ids + KV_BLOCK - 1) / KV_BLOCK;
    int32_t *blocks = malloc(2 * (size_t)n_blocks * sizeof *blocks), tokens[2 * MAX_IDS];
    if (!blocks) return 2;
    for (int i = 0; i < 2 * n_blocks; i++) blocks[i] = 2 * n_blocks - 1 - i;
    for (int first = 0; first < t->n_ids; first += run->chunk) {
        int n = first + run->chunk <= t->n_ids ? run->chunk : t->n_ids - first, before = run->beside ? n : 0;
        struct kernels_seq seqs[2] = {{.first_row = 0, .n_rows = n, .first_pos = first, .blocks = blocks + n_blocks},
                                      {.first_row = before, .n_rows = n, .first_pos = first, .blocks = blocks}};
        for (int i = 0; i < before; i++) tokens[i] = t->ids[t->n_ids - 1 - first - i];
        memcpy(tokens + before, t->ids + first, (size_t)n * sizeof *tokens);
        struct model_batch batch = {.tokens = tokens,
                                    .n_rows = before + n,
                                    .seqs = run->beside ? seqs : seqs + 1,
                                    .n_seqs = run->beside ? 2 : 1,
                                    .logit_rows = t->rows + before,
                                    .n_logits = n};
        model_forward(model, kv, &batch);
        size_t vocab = (size_t)t->shape.vocab_size;
        for (int i = 0; i < n; i++) memcpy(out + (size_t)(first + i) * vocab, model_logits(model, i), vocab * sizeof *out);
        float *features = out + (size_t)t->n_ids * vocab;
        size_t width = n_features(t);
        for (int i = 0; width > 0 && i < n; i++)
            memcpy(features + (size_t)(first + i) * width, model_features(model, before + i), width * sizeof *out);
    }
    free(blocks);
    return 0;
}

static int compute(const struct task *t, const struct run *run, float *out) {
    struct backend backend;
    struct model *model = NULL;
    struct kv_pool kv = {0};
    struct engine_error error = {""};
    char reason[256] = "";
    struct model_limits limits = {.max_rows = 2 * t->n_ids, .max_logits = t->n_ids, .ctx_len = t->ctx};
    if (n_features(t) > 0 && model_feature_layers(&t->shape, limits.feature_layers, &error) != ENGINE_OK) return 2;
    if (backend_open_cpu(&backend, &(struct backend_config){.isa = run->isa, .n_threads = run->n_threads}, reason,
                         sizeof reason) != KERNELS_OK)
        return -1; /* not on this processor */
    struct kv_shape kv_shape;
    if (model_kv_shape(&t->shape, "f16", &kv_shape, &error) != ENGINE_OK) return 2;
    int rc = 2, n_blocks = 2 * ((t->n_ids + KV_BLOCK - 1) / KV_BLOCK);
    if (model_open(&model, t->gguf, &t->shape, &backend, &limits, &error) != ENGINE_OK)
        fprintf(stderr, "check_logits: %s\n", error.text);
    else if (kv_pool_alloc(&backend, n_blocks, &kv_shape, &kv) == KERNELS_OK)
        rc = passes(t, run, model, &kv, out);
    kv_pool_free(&backend, &kv);
    model_close(model);
    backend.ops->close(backend.self);
    return rc;
}

static int compare_runs(const struct task *t) {
    const struct run runs[] = {{"scalar", 1, t->n_ids, false}, {"auto", 2, t->n_ids, false}, {"auto", 1, 1, false},
                               {"auto", 1, 7, true},           {"avx2", 1, 16, false},       {"avx512", 1, 33, true}};
    const size_t n_logits = (size_t)t->n_ids * (size_t)t->shape.vocab_size, n = n_logits + (size_t)t->n_ids * n_features(t);
    float *want = calloc(n, sizeof *want), *got = calloc(n, sizeof *got);
    int rc = want && got ? compute(t, &runs[0], want) : 2;
    for (size_t i = 1; i < sizeof runs / sizeof runs[0] && rc == 0; i++) {
        int status = compute(t, &runs[i], got);
        if (status == 2) rc = 2;
        if (status != 0 || memcmp(want, got, n * sizeof *want) == 0) continue;
        fprintf(stderr, "check_logits: %s, chunks of %d%s: other bits than scalar in one pass\n", runs[i].isa, runs[i].chunk,
                runs[i].beside ? " beside another sequence" : "");
        rc = 1;
    }
    if (rc != 2) fwrite(want, sizeof *want, n_logits, stdout);
    free(want);
    free(got);
    return rc;
}

int main(int argc, char **argv) {
    static struct task t;
    struct engine_error error = {""};
    struct gguf *gguf = NULL;
    t.ctx = argc == 3 ? (int)strtol(argv[2], NULL, 10) : 0;
    while (t.n_ids < MAX_IDS && scanf("%d", &t.ids[t.n_ids]) == 1) t.n_ids++;
    for (int i = 0; i < 2 * MAX_IDS; i++) t.rows[i] = i;
    if (t.n_ids < 1 || t.ctx < t.n_ids) {
        fprintf(stderr, "usage: check_logits MODEL CTX <ids >floats, with 1 to CTX ids\n");
        return 2;
    }
    int rc = 2;
    if (gguf_open(&gguf, argv[1], &error) == ENGINE_OK && model_read_shape(&t.shape, gguf, &error) == ENGINE_OK) {
        t.gguf = gguf;
        for (int i = 0; i < t.n_ids; i++) {
            if (t.ids[i] < 0 || t.ids[i] >= t.shape.vocab_size) t.ids[i] = 0;
        }
        rc = compare_runs(&t);
    } else {
        fprintf(stderr, "check_logits: %s\n", error.text);
    }
    gguf_close(gguf);
    return rc;
}
