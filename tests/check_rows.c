/* check_rows.c - a row's logits are a function of the tokens up to it, bit by bit: whatever the number of rows of a step, the
 * sequences beside it, the threads, the instruction set. For every weight type and every thing that a family of models adds.
 *
 *     check_rows [WORD]      only cases whose name holds WORD
 *
 * The reference is plain C, one thread, one pass over 512 tokens. Against it, by memcmp: one sequence in steps of 1, 2, 3, 5, 8,
 * 16, 37 and 512 rows; that many sequences with one row each, at different positions; and eight sequences with runs of different
 * lengths, each with one and two threads on every instruction set that this processor has. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/kv_cache.h"
#include "engine/model.h"
#include "tests/tiny_model.h"

enum {
    N_LONG = 512,  /* tokens of the reference and of the step of 512 rows */
    N_SHORT = 112, /* of the shorter steps: beyond a chunk of attention (64) and every window */
    N_BESIDE = 40, /* of sequences beside each other */
    MAX_SEQS = 37,
    STAGGER = 3, /* steps between the starts of two sequences */
    N_BLOCKS = MAX_SEQS * (N_BESIDE / KV_BLOCK + 1),
};
_Static_assert(N_BLOCKS >= N_LONG / KV_BLOCK, "one long sequence fits too");

static const int steps[] = {1, 2, 3, 5, 8, 16, 37, 512};
enum { N_STEPS = sizeof steps / sizeof steps[0] };

struct machine {
    struct backend backend;
    struct model *model;
    struct kv_pool pool;
    const char *isa;
    int n_threads;
};

static char path[64];
static int32_t tokens[N_LONG], every_row[N_LONG], block_of[N_BLOCKS];
static float reference[N_LONG * TINY_VOCAB];
static long n_compared;
static int n_failures;

/* --- cases --- */

struct rows_case {
    const char *name;
    struct tiny_model model;
    enum kv_type kv;
};
enum { MAX_CASES = 64 };
static struct rows_case cases[MAX_CASES];
static int n_cases;

static struct tiny_model *add_case(const char *name, const char *architecture) {
    struct rows_case *c = &cases[n_cases++];
    assert(n_cases <= MAX_CASES);
    *c = (struct rows_case){.name = name, .model = tiny_model_default()};
    c->model.architecture = architecture;
    c->model.every_type = true;
    c->model.seed = (uint64_t)n_cases;
    return &c->model;
}

static void add_types(void) {
    for (int i = 0; i < DTYPE_COUNT; i++) {
        struct tiny_model *t = add_case(dtype_name((enum dtype)i), "llama");
        t->every_type = false;
        t->n_layers = 1;
        t->matrix_type = t->embedding_type = (enum dtype)i;
        if (dtype_block_cols(t->matrix_type) > QUANT_BLOCK) t->n_embd = t->n_ffn = dtype_block_cols(t->matrix_type);
    }
}

static void add_families(void) {
    struct tiny_model *t = add_case("llama 3 (factors)", "llama");
    t->rope_factors = t->untied = true;
    t = add_case("linear scaling, one KV head", "llama");
    t->linear_scaling = 4;
    t->n_kv_heads = 1;
    t = add_case("mistral (window), groups of three", "llama");
    t->window = 20;
    t->n_embd = 96;
    t->n_heads = 6;
    t = add_case("mixtral", "llama");
    t->n_experts = 5;
    t->n_experts_used = 2;
    t = add_case("smollm3", "smollm3");
    t->n_layers = 4; /* the last one does not turn */
    t = add_case("qwen2 (biases), YaRN", "qwen2");
    t->yarn = 8;
    add_case("qwen3 (norms of heads)", "qwen3");
    t = add_case("qwen3moe", "qwen3moe");
    t->n_experts = 7;
    t->n_experts_used = 3;
    t = add_case("gemma2 (window, soft caps)", "gemma2");
    t->window = 20;
    t->soft_cap = 8;
    t = add_case("gemma3 (windows, two tables)", "gemma3");
    t->n_layers = 3;
    t->window = 50;
    t->window_period = 3;
    t = add_case("phi3 (fused, window)", "phi3");
    t->window = 33;
    t = add_case("phi3 (LongRoPE, partial)", "phi3");
    t->long_rope = true;
    t->rope_dim = 12;
}

/* What attention does, over keys and values of 8 and 4 bits. */
static void add_kv_types(void) {
    for (int kv = KV_F16 + 1; kv < KV_TYPE_COUNT; kv++) {
        struct tiny_model *t = add_case("groups of four", "llama");
        t->n_embd = 128; /* heads of 32 */
        t->n_kv_heads = 1;
        cases[n_cases - 1].kv = (enum kv_type)kv;
        t = add_case("window and soft caps", "gemma2");
        t->n_embd = 128;
        t->window = 20;
        t->soft_cap = 8;
        cases[n_cases - 1].kv = (enum kv_type)kv;
    }
}

/* --- machines --- */

static bool machine_open(struct machine *m, const struct gguf *gguf, enum kv_type kind) {
    char reason[256];
    struct engine_error error = {""};
    struct model_shape shape;
    const struct model_limits limits = {.max_rows = N_LONG, .max_logits = N_LONG, .ctx_len = N_LONG};
    const struct backend_config config = {.isa = m->isa, .n_threads = m->n_threads};
    struct kv_shape kv;
    if (backend_open_cpu(&m->backend, &config, reason, sizeof reason) != KERNELS_OK) return false;
    if (model_read_shape(&shape, gguf, &error) != ENGINE_OK ||
        model_open(&m->model, gguf, &shape, &m->backend, &limits, &error) != ENGINE_OK ||
        model_kv_shape(&shape, kv_type_name(kind), &kv, &error) != ENGINE_OK ||
        kv_pool_alloc(&m->backend, N_BLOCKS, &kv, &m->pool) != KERNELS_OK) {
        fprintf(stderr, "check_rows: %s\n", error.text);
        exit(2);
    }
    return true;
}

static void machine_close(struct machine *m) {
    kv_pool_free(&m->backend, &m->pool);
    model_close(m->model);
    m->backend.ops->close(m->backend.self);
}

static void forward(struct machine *m, const int32_t *batch_tokens, const struct kernels_seq *seqs, int n_seqs) {
    struct model_batch batch = {.tokens = batch_tokens, .seqs = seqs, .n_seqs = n_seqs, .logit_rows = every_row};
    for (int i = 0; i < n_seqs; i++) batch.n_rows += seqs[i].n_rows;
    batch.n_logits = batch.n_rows;
    model_forward(m->model, &m->pool, &batch);
}

/* The rows of a run against the reference at their positions. */
static bool same_run(const struct machine *m, const struct kernels_seq *run) {
    for (int i = 0; i < run->n_rows; i++) {
        const float *want = reference + (size_t)(run->first_pos + i) * TINY_VOCAB;
        n_compared++;
        if (memcmp(model_logits(m->model, run->first_row + i), want, TINY_VOCAB * sizeof *want) != 0) return false;
    }
    return true;
}

/* --- ways --- */

/* One sequence in steps of n_rows; the first position that differs, or -1. */
static int in_steps(struct machine *m, int n_rows, int n) {
    for (int pos = 0; pos < n; pos += n_rows) {
        struct kernels_seq run = {.n_rows = pos + n_rows <= n ? n_rows : n - pos, .first_pos = pos, .blocks = block_of};
        forward(m, tokens + pos, &run, 1);
        if (!same_run(m, &run)) return pos;
    }
    return -1;
}

/* n_seqs sequences of the same tokens, each a few steps behind the one before, with 1 row a step or (ragged) 1 to 7. */
static int beside(struct machine *m, int n_seqs, bool ragged) {
    int pos[MAX_SEQS] = {0}, n_left = n_seqs;
    for (int step = 0; n_left > 0; step++) {
        struct kernels_seq runs[MAX_SEQS];
        int32_t batch_tokens[MAX_SEQS * 7];
        int n_runs = 0, n_rows = 0;
        for (int s = 0; s < n_seqs && s * STAGGER <= step; s++) {
            int n = ragged ? 1 + (s + step) % 7 : 1;
            if (n > N_BESIDE - pos[s]) n = N_BESIDE - pos[s];
            if (n == 0) continue;
            memcpy(batch_tokens + n_rows, tokens + pos[s], (size_t)n * sizeof *tokens);
            const int32_t *blocks = block_of + s * (N_BLOCKS / MAX_SEQS);
            runs[n_runs++] = (struct kernels_seq){.first_row = n_rows, .n_rows = n, .first_pos = pos[s], .blocks = blocks};
            n_rows += n;
            pos[s] += n;
            if (pos[s] == N_BESIDE) n_left--;
        }
        if (n_runs == 0) continue;
        forward(m, batch_tokens, runs, n_runs);
        for (int i = 0; i < n_runs; i++)
            if (!same_run(m, &runs[i])) return runs[i].first_pos;
    }
    return -1;
}

static void judge(const struct machine *m, const char *name, const char *way, int n, int differs_at) {
    if (differs_at < 0) return;
    n_failures++;
    printf("  %s: %s, %d threads, %s %d: other bits from position %d on\n", name, m->isa, m->n_threads, way, n, differs_at);
}

/* Plain C takes shorter ways, and with one thread it was the reference. */
static void check_machine(struct machine *m, const char *name) {
    bool is_slow = strcmp(m->isa, "scalar") == 0;
    for (int i = 0; i < N_STEPS; i++) {
        int n = steps[i];
        if (!(is_slow && n == N_LONG && m->n_threads == 1))
            judge(m, name, "steps of", n, in_steps(m, n, n == N_LONG ? N_LONG : is_slow ? N_SHORT / 4 : N_SHORT));
        if (n > 1 && n <= MAX_SEQS && !is_slow) judge(m, name, "sequences:", n, beside(m, n, false));
    }
    judge(m, name, "ragged sequences:", 8, beside(m, 8, true));
}

/* --- the program --- */

static void make_reference(const struct gguf *gguf, enum kv_type kind) {
    struct machine m = {.isa = "scalar", .n_threads = 1};
    struct kernels_seq run = {.n_rows = N_LONG, .blocks = block_of};
    machine_open(&m, gguf, kind);
    forward(&m, tokens, &run, 1);
    for (int i = 0; i < N_LONG; i++)
        memcpy(reference + (size_t)i * TINY_VOCAB, model_logits(m.model, i), TINY_VOCAB * sizeof *reference);
    machine_close(&m);
}

static void check_case(const struct rows_case *c, enum kv_type kind) {
    static const char *const isas[] = {"scalar", "avx2", "avxvnni", "avx512", "amx"};
    struct engine_error error = {""};
    struct gguf *gguf;
    int failed_before = n_failures;
    long compared_before = n_compared;
    if (!tiny_model_write(path, &c->model) || gguf_open(&gguf, path, &error) != ENGINE_OK) {
        fprintf(stderr, "check_rows: %s: %s\n", path, error.text);
        exit(2);
    }
    make_reference(gguf, kind);
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
        for (int n_threads = 1; n_threads <= 2; n_threads++) {
            struct machine m = {.isa = isas[i], .n_threads = n_threads};
            if (!machine_open(&m, gguf, kind)) continue; /* not on this processor */
            check_machine(&m, c->name);
            machine_close(&m);
        }
    }
    gguf_close(gguf);
    printf("  %-34s %s  %7ld rows  %s\n", c->name, kv_type_name(kind), n_compared - compared_before,
           n_failures == failed_before ? "equal" : "DIFFERS");
    fflush(stdout);
}

int main(int argc, char **argv) {
    snprintf(path, sizeof path, "/tmp/foresay_check_rows_%d.gguf", getpid());
    for (int i = 0; i < N_LONG; i++) {
        tokens[i] = (int32_t)((i * 7919 + i / 3) % TINY_VOCAB);
        every_row[i] = i;
    }
    for (int i = 0; i < N_BLOCKS; i++) block_of[i] = i * 17 % N_BLOCKS; /* scattered; N_BLOCKS = 3 * 37 */
    add_types();
    add_families();
    add_kv_types();
    for (int i = 0; i < n_cases; i++) {
        if (argc > 1 && !strstr(cases[i].name, argv[1])) continue;
        check_case(&cases[i], cases[i].kv);
    }
    unlink(path);
    printf(n_failures ? "check_rows: %d differences in %ld rows\n" : "check_rows: all equal\n", n_failures, n_compared);
    return n_failures > 0;
}
