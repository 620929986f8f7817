/* test_model.c - the wiring of the network against a slow forward pass in double precision, written from the architecture's
 * definition and sharing nothing with the engine but the reader of files. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/kv_cache.h"
#include "engine/model.h"
#include "tests/tiny_model.h"

enum { N_TOKENS = 53, MAX_DIM = 256 };

static char path[64];

/* --- the slow model --- */

static double *matrix(const struct gguf *gguf, const char *name, int *n_rows, int *n_cols) {
    const struct gguf_tensor *tensor = gguf_find_tensor(gguf, name);
    enum dtype type;
    assert_non_null(tensor);
    assert_true(gguf_type_to_dtype(tensor->type, &type));
    *n_cols = (int)tensor->dims[0];
    *n_rows = (int)tensor->dims[1];
    double *out = malloc((size_t)*n_rows * (size_t)*n_cols * sizeof *out);
    float row[TINY_VOCAB];
    for (int r = 0; r < *n_rows; r++) {
        dtype_row_to_float(type, (const char *)tensor->data + (size_t)r * dtype_row_bytes(type, *n_cols), row, *n_cols);
        for (int c = 0; c < *n_cols; c++) out[r * *n_cols + c] = (double)row[c];
    }
    return out;
}

/* out = W x, W by name */
static void times(const struct gguf *gguf, const char *name, const double *x, double *out) {
    int n_rows, n_cols;
    double *w = matrix(gguf, name, &n_rows, &n_cols);
    for (int r = 0; r < n_rows; r++) {
        out[r] = 0;
        for (int c = 0; c < n_cols; c++) out[r] += w[r * n_cols + c] * x[c];
    }
    free(w);
}

static void normed(const struct gguf *gguf, const char *name, const double *x, int n, double *out) {
    int n_rows, n_cols;
    double *gamma = matrix(gguf, name, &n_rows, &n_cols), ss = 0;
    for (int i = 0; i < n; i++) ss += x[i] * x[i];
    for (int i = 0; i < n; i++) out[i] = x[i] / sqrt(ss / n + 1e-5) * gamma[i];
    free(gamma);
}

static void rotate(const struct gguf *gguf, const struct tiny_model *t, double *head, int pos) {
    int dim = t->n_embd / t->n_heads;
    const struct gguf_tensor *factors = gguf_find_tensor(gguf, "rope_freqs.weight");
    for (int i = 0; i < dim / 2; i++) {
        float factor = 1;
        if (factors) memcpy(&factor, (const char *)factors->data + 4 * i, 4);
        double scaled = t->linear_scaling > 0 ? pos / (double)t->linear_scaling : pos;
        double angle = scaled / pow(10000, 2.0 * i / dim) / (double)factor;
        double a = head[2 * i], b = head[2 * i + 1];
        head[2 * i] = a * cos(angle) - b * sin(angle);
        head[2 * i + 1] = a * sin(angle) + b * cos(angle);
    }
}

static double rounded_to_half(double x) { return (double)half_to_float(float_to_half((float)x)); }

struct slow {
    double k[4][N_TOKENS][MAX_DIM], v[4][N_TOKENS][MAX_DIM];
};

static void slow_attention(const struct gguf *gguf, const struct tiny_model *t, struct slow *s, int layer, int pos, double *x) {
    int dim = t->n_embd / t->n_heads, group = t->n_heads / t->n_kv_heads;
    double n[MAX_DIM], q[MAX_DIM], out[MAX_DIM] = {0}, o[MAX_DIM], *k = s->k[layer][pos], *v = s->v[layer][pos];
    char name[64];
#define NAME(part) (snprintf(name, sizeof name, "blk.%d." part ".weight", layer), name)
    normed(gguf, NAME("attn_norm"), x, t->n_embd, n);
    times(gguf, NAME("attn_q"), n, q);
    times(gguf, NAME("attn_k"), n, k);
    times(gguf, NAME("attn_v"), n, v);
    for (int h = 0; h < t->n_heads; h++) rotate(gguf, t, q + h * dim, pos);
    for (int h = 0; h < t->n_kv_heads; h++) rotate(gguf, t, k + h * dim, pos);
    for (int i = 0; i < t->n_kv_heads * dim; i++) k[i] = rounded_to_half(k[i]), v[i] = rounded_to_half(v[i]);
    for (int h = 0; h < t->n_heads; h++) {
        double weight[N_TOKENS], sum = 0, best = -1e300;
        int kv = h / group * dim;
        for (int p = 0; p <= pos; p++) {
            weight[p] = 0;
            for (int i = 0; i < dim; i++) weight[p] += q[h * dim + i] * s->k[layer][p][kv + i] / sqrt(dim);
            best = fmax(best, weight[p]);
        }
        for (int p = 0; p <= pos; p++) sum += weight[p] = exp(weight[p] - best);
        for (int p = 0; p <= pos; p++) {
            for (int i = 0; i < dim; i++) out[h * dim + i] += weight[p] / sum * s->v[layer][p][kv + i];
        }
    }
    times(gguf, NAME("attn_output"), out, o);
    for (int i = 0; i < t->n_embd; i++) x[i] += o[i];
}

static void slow_ffn(const struct gguf *gguf, const struct tiny_model *t, int layer, double *x) {
    double n[MAX_DIM], gate[MAX_DIM], up[MAX_DIM], down[MAX_DIM];
    char name[64];
    normed(gguf, NAME("ffn_norm"), x, t->n_embd, n);
    times(gguf, NAME("ffn_gate"), n, gate);
    times(gguf, NAME("ffn_up"), n, up);
    for (int i = 0; i < t->n_ffn; i++) gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    times(gguf, NAME("ffn_down"), gate, down);
    for (int i = 0; i < t->n_embd; i++) x[i] += down[i];
}

static void slow_logits(const struct gguf *gguf, const struct tiny_model *t, struct slow *s, int32_t token, int pos,
                        double *logits) {
    int n_rows, n_cols;
    double x[MAX_DIM], n[MAX_DIM], *embedding = matrix(gguf, "token_embd.weight", &n_rows, &n_cols);
    memcpy(x, embedding + token * n_cols, (size_t)n_cols * sizeof *x);
    free(embedding);
    for (int layer = 0; layer < t->n_layers; layer++) {
        slow_attention(gguf, t, s, layer, pos, x);
        slow_ffn(gguf, t, layer, x);
    }
    normed(gguf, "output_norm.weight", x, t->n_embd, n);
    times(gguf, gguf_find_tensor(gguf, "output.weight") ? "output.weight" : "token_embd.weight", n, logits);
}

/* --- the engine's model --- */

struct fast {
    struct backend backend;
    struct model *model;
    struct kv_pool pool;
    int32_t blocks[8];
};

static void fast_open(struct fast *f, const struct gguf *gguf, const char *isa, int max_rows, const char *activations) {
    struct engine_error error = {""};
    struct backend_config config = {.isa = isa, .n_threads = 1};
    char reason[256];
    struct model_shape shape;
    assert_int_equal(backend_open_cpu(&f->backend, &config, reason, sizeof reason), KERNELS_OK);
    assert_int_equal(model_read_shape(&shape, gguf, &error), ENGINE_OK);
    struct model_limits limits = {.max_rows = max_rows, .max_logits = max_rows, .ctx_len = 256};
    assert_int_equal(model_activations(&shape, activations, &limits.rests, &error), ENGINE_OK);
    int rc = model_open(&f->model, gguf, &shape, &f->backend, &limits, &error);
    if (rc != ENGINE_OK) print_message("%s\n", error.text);
    assert_int_equal(rc, ENGINE_OK);
    const struct kv_shape kv = {KV_F16, shape.n_layers, shape.n_kv_heads, shape.head_dim};
    assert_int_equal(kv_pool_alloc(&f->backend, 9, &kv, &f->pool), KERNELS_OK);
    for (int i = 0; i < 8; i++) f->blocks[i] = 8 - i; /* scattered */
}

static void fast_close(struct fast *f) {
    kv_pool_free(&f->backend, &f->pool);
    model_close(f->model);
    f->backend.ops->close(f->backend.self);
}

/* Logits of every position, computed in chunks. out: [n][TINY_VOCAB] */
static void fast_logits(struct fast *f, const int32_t *tokens, int n, int chunk, float *out) {
    int32_t rows[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++) rows[i] = i;
    for (int first = 0; first < n; first += chunk) {
        int n_rows = first + chunk <= n ? chunk : n - first;
        struct kernels_seq seq = {.first_row = 0, .n_rows = n_rows, .first_pos = first, .blocks = f->blocks};
        struct model_batch batch = {
            .tokens = tokens + first, .n_rows = n_rows, .seqs = &seq, .n_seqs = 1, .logit_rows = rows, .n_logits = n_rows};
        model_forward(f->model, &f->pool, &batch);
        for (int i = 0; i < n_rows; i++)
            memcpy(out + (first + i) * TINY_VOCAB, model_logits(f->model, i), TINY_VOCAB * sizeof *out);
    }
}

static void make_tokens(int32_t *tokens) {
    for (int i = 0; i < N_TOKENS; i++) tokens[i] = (int32_t)((i * 7919 + i / 3) % TINY_VOCAB);
}

/* Root mean square of the difference, relative to the spread of the logits. */
static double compare(const struct tiny_model *t, int chunk, const char *activations) {
    struct engine_error error;
    struct gguf *gguf;
    struct fast fast;
    int32_t tokens[N_TOKENS];
    static struct slow slow;
    static float got[N_TOKENS * TINY_VOCAB];
    double want[TINY_VOCAB], error_sum = 0, sum = 0;
    assert_true(tiny_model_write(path, t));
    assert_int_equal(gguf_open(&gguf, path, &error), ENGINE_OK);
    make_tokens(tokens);
    fast_open(&fast, gguf, "scalar", N_TOKENS, activations);
    fast_logits(&fast, tokens, N_TOKENS, chunk, got);
    for (int i = 0; i < N_TOKENS; i++) {
        slow_logits(gguf, t, &slow, tokens[i], i, want);
        for (int v = 0; v < TINY_VOCAB; v++) {
            double difference = (double)got[i * TINY_VOCAB + v] - want[v];
            error_sum += difference * difference;
            sum += want[v] * want[v];
        }
    }
    fast_close(&fast);
    gguf_close(gguf);
    return sqrt(error_sum / sum);
}

/* --- tests --- */

/* Protects: every connection of the network. With F32 weights only float rounding and the half floats of the cache remain (a
 * rounding that falls the other way now and then); a wrong wire gives errors of order one. */
static void float_models_match_the_definition(void **state) {
    (void)state;
    struct tiny_model cases[4];
    for (int i = 0; i < 4; i++) {
        cases[i] = tiny_model_default();
        cases[i].matrix_type = cases[i].embedding_type = DTYPE_F32;
        cases[i].seed = 10 + (uint64_t)i;
    }
    cases[1].untied = true;
    cases[1].n_kv_heads = 4;
    cases[2].rope_factors = true;
    cases[2].n_kv_heads = 1;
    cases[2].n_layers = 3;
    cases[3].linear_scaling = 4;
    for (int i = 0; i < 4; i++) {
        double error = compare(&cases[i], i % 2 ? 7 : N_TOKENS, "int8");
        printf("case %d: relative error %.1e\n", i, error);
        assert_true(error < 1e-3);
    }
}

/* Protects: every weight type. Int8 activations cost about a hundredth. */
static void quantized_models_are_close(void **state) {
    (void)state;
    for (int i = 0; i < DTYPE_COUNT; i++) {
        const enum dtype type = (enum dtype)i;
        struct tiny_model t = tiny_model_default();
        t.matrix_type = t.embedding_type = type;
        if (dtype_block_cols(type) > t.n_embd) t.n_embd = t.n_ffn = dtype_block_cols(type);
        t.seed = 20 + (uint64_t)i;
        double error = compare(&t, 16, "int8");
        printf("%s: relative error %.1e\n", dtype_name(type), error);
        assert_true(error < (dtype_is_quantized(type) ? 0.05 : 1e-3));
    }
    struct tiny_model t = tiny_model_default();
    t.every_type = true;
    t.n_embd = t.n_ffn = 256;
    t.n_layers = 4;
    double error = compare(&t, 16, "int8");
    printf("all types in turn: relative error %.1e\n", error);
    assert_true(error < 0.1); /* twice the layers */
}

/* Protects: what int8 leaves of inputs is kept where it was asked for, so each step up is nearer to the definition (before the
 * down projection alone by a little, seen over all cases); and "auto" takes the step that the coarsest weights need. */
static void activations_are_as_exact_as_told(void **state) {
    (void)state;
    const struct {
        enum dtype type;
        enum model_rests rests;
    } cases[] = {{DTYPE_Q2_K, MODEL_RESTS_ALL}, {DTYPE_Q3_K, MODEL_RESTS_DOWN}, {DTYPE_Q4_K, MODEL_RESTS_NONE}};
    double sums[MODEL_RESTS_ALL + 1] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tiny_model t = tiny_model_default();
        t.matrix_type = t.embedding_type = cases[i].type;
        t.n_embd = t.n_ffn = 256;
        double errors[MODEL_RESTS_ALL + 1];
        for (enum model_rests rests = MODEL_RESTS_NONE; rests <= MODEL_RESTS_ALL; rests++)
            sums[rests] += errors[rests] = compare(&t, 16, model_rests_name(rests));
        printf("%s: relative errors %.2e, %.2e, %.2e\n", dtype_name(cases[i].type), errors[0], errors[1], errors[2]);
        assert_true(errors[MODEL_RESTS_ALL] < errors[MODEL_RESTS_DOWN] / 4);
        assert_true(compare(&t, 16, "auto") == errors[cases[i].rests]);
    }
    assert_true(sums[MODEL_RESTS_DOWN] < sums[MODEL_RESTS_NONE]);
}

static void expect_same_chunks(const struct tiny_model *t) {
    struct engine_error error;
    struct gguf *gguf;
    struct fast fast;
    int32_t tokens[N_TOKENS], last_row = N_TOKENS - 1;
    static float whole[N_TOKENS * TINY_VOCAB], parts[N_TOKENS * TINY_VOCAB];
    assert_true(tiny_model_write(path, t));
    assert_int_equal(gguf_open(&gguf, path, &error), ENGINE_OK);
    make_tokens(tokens);
    fast_open(&fast, gguf, NULL, N_TOKENS, "int8");
    fast_logits(&fast, tokens, N_TOKENS, N_TOKENS, whole);
    for (int i = 0; i < N_TOKENS * TINY_VOCAB; i++) assert_true(isfinite(whole[i]));
    const int chunks[] = {1, 2, 5, 16, 17, 31};
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        fast_logits(&fast, tokens, N_TOKENS, chunks[i], parts);
        assert_memory_equal(parts, whole, sizeof whole);
    }
    struct kernels_seq seq = {.n_rows = N_TOKENS, .blocks = fast.blocks};
    struct model_batch batch = {
        .tokens = tokens, .n_rows = N_TOKENS, .seqs = &seq, .n_seqs = 1, .logit_rows = &last_row, .n_logits = 1};
    model_forward(fast.model, &fast.pool, &batch);
    assert_memory_equal(model_logits(fast.model, 0), whole + last_row * TINY_VOCAB, TINY_VOCAB * sizeof *whole);
    fast_close(&fast);
    gguf_close(gguf);
}

/* Protects: chunks of any size give the same bits, and so do logits asked for alone. */
static void chunks_do_not_change_a_bit(void **state) {
    (void)state;
    const struct tiny_model t = tiny_model_default();
    expect_same_chunks(&t);
}

/* The shape is right, a tensor is not. */
static void cannot_open(struct tiny_model t, const char *word) {
    struct engine_error error = {""};
    struct gguf *gguf;
    struct model_shape shape;
    struct model *model;
    struct backend backend;
    const struct model_limits limits = {.max_rows = 4, .max_logits = 4, .ctx_len = 64};
    assert_int_equal(backend_open_cpu(&backend, &(struct backend_config){.n_threads = 1}, NULL, 0), KERNELS_OK);
    assert_true(tiny_model_write(path, &t));
    assert_int_equal(gguf_open(&gguf, path, &error), ENGINE_OK);
    assert_int_equal(model_read_shape(&shape, gguf, &error), ENGINE_OK);
    assert_int_equal(model_open(&model, gguf, &shape, &backend, &limits, &error), ENGINE_ERR_MODEL);
    if (!strstr(error.text, word)) print_message("%s\n", error.text);
    assert_non_null(strstr(error.text, word));
    gguf_close(gguf);
    backend.ops->close(backend.self);
}

static void refused(struct tiny_model t, const char *word) {
    struct engine_error error = {""};
    struct gguf *gguf;
    struct model_shape shape;
    assert_true(tiny_model_write(path, &t));
    assert_int_equal(gguf_open(&gguf, path, &error), ENGINE_OK);
    assert_int_equal(model_read_shape(&shape, gguf, &error), ENGINE_ERR_MODEL);
    if (!strstr(error.text, word)) print_message("%s\n", error.text);
    assert_non_null(strstr(error.text, word));
    gguf_close(gguf);
}

/* Protects: a foreign model is refused with its name and the number at fault. */
static void foreign_shapes_are_refused(void **state) {
    (void)state;
    struct tiny_model t = tiny_model_default();
    t.architecture = "mamba";
    refused(t, "architecture 'mamba' is not supported; supported: llama, smollm3, qwen2,");
    t = tiny_model_default();
    t.n_heads = 8; /* heads of 8 */
    refused(t, "heads of 8 dimensions");
    t = tiny_model_default();
    t.n_kv_heads = 3;
    refused(t, "3 key/value heads");
}

/* Protects: keys that only some families have are checked too. */
static void foreign_family_keys_are_refused(void **state) {
    (void)state;
    struct tiny_model t = tiny_model_default();
    t.architecture = "gemma3";
    refused(t, "gemma3.attention.sliding_window");
    t.window = 8;
    t.window_period = -1; /* 4294967295 */
    refused(t, "gemma3.attention.sliding_window_pattern is 4.29497e+09");
    t = tiny_model_default();
    t.architecture = "qwen3moe";
    refused(t, "qwen3moe.expert_count");
    t.n_experts = 4;
    t.n_experts_used = 5;
    refused(t, "5 of 4 experts");
    t.n_experts = 600;
    refused(t, "qwen3moe.expert_count is 600");
    t.architecture = "qwen2";
    refused(t, "mixture of experts (600 experts) is not supported for the qwen2");
}

/* Protects: tensors that do not suit the keys, or have no place in the family, are named. */
static void foreign_family_tensors_are_refused(void **state) {
    (void)state;
    struct tiny_model t = tiny_model_default();
    t.tensors_of = "llama";
    t.architecture = "qwen3";
    cannot_open(t, "lacks the tensor blk.0.attn_q_norm.weight");
    t.architecture = "phi3";
    cannot_open(t, "lacks the tensor blk.0.attn_qkv.weight");
    t.architecture = "gemma2";
    t.window = 8;
    cannot_open(t, "lacks the tensor blk.0.post_attention_norm.weight");
    t = tiny_model_default();
    t.tensors_of = "qwen3";
    cannot_open(t, "tensor blk.0.attn_q_norm.weight has no place in the llama architecture");
}

/* Protects: a type without kernels is named, with what can be used instead; so are shapes that disagree. */
static void foreign_types_and_shapes_are_refused(void **state) {
    (void)state;
    const uint32_t iq4_xs = 23;
    struct tiny_model t = tiny_model_default();
    t.n_embd = t.n_ffn = 256;
    t.foreign_type = iq4_xs;
    cannot_open(t, "tensor blk.0.attn_output.weight has type IQ4_XS, which this program cannot compute with; use a file whose");
    t = tiny_model_experts();
    t.n_embd = t.n_ffn = 256;
    t.foreign_type = iq4_xs;
    t.n_layers = 1;
    cannot_open(t, "has type IQ4_XS");
    t = tiny_model_default();
    t.rope_factors = true;
    t.rope_dim = 8;
    refused(t, "tensor rope_freqs.weight is 8 x 1 x 1 x 1, but the model's metadata ask for 1 rows of 4");
    t.rope_dim = 18;
    refused(t, "18 rotated dimensions do not suit heads of 16");
}

/* Protects: families with all that they add give the same bits in chunks of any size. */
static void chunks_of_families_do_not_change_a_bit(void **state) {
    (void)state;
    const struct tiny_model cases[] = {tiny_model_gemma(), tiny_model_experts(), tiny_model_biased()};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) expect_same_chunks(&cases[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float_models_match_the_definition),
        cmocka_unit_test(quantized_models_are_close),
        cmocka_unit_test(activations_are_as_exact_as_told),
        cmocka_unit_test(chunks_do_not_change_a_bit),
        cmocka_unit_test(foreign_shapes_are_refused),
        cmocka_unit_test(foreign_family_keys_are_refused),
        cmocka_unit_test(foreign_family_tensors_are_refused),
        cmocka_unit_test(foreign_types_and_shapes_are_refused),
        cmocka_unit_test(chunks_of_families_do_not_change_a_bit),
    };
    snprintf(path, sizeof path, "/tmp/foresay_test_model_%d.gguf", getpid());
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return rc;
}
