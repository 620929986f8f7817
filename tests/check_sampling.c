/* check_sampling.c - what sampling costs beside the step that it follows.
 *
 *     check_sampling MODEL [THREADS] [BATCH] [STEPS]
 *
 * Decodes BATCH sequences as the engine does, model_forward and then one draw for each sequence, and takes the parameters of the
 * draws in turn, so that all of them meet the same machine and real logits. Prints the lowest decile of each and its share of the
 * step, and a checksum of the tokens: it changes with the noise or the definition of a draw, never with THREADS. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/model.h"
#include "engine/sampler.h"

enum { MAX_BATCH = 64, MAX_STEPS = 4096, CTX = 1024, N_MODES = 5 };

static const char *const mode_names[N_MODES] = {"greedy", "T 0.8, top-k 40, top-p 0.95", "T 0.8, top-p 0.95", "T 0.8",
                                                "T 0.8, top-k 40, penalties"};

struct bench {
    struct backend backend;
    struct model *model;
    struct kv_pool kv;
    struct sampler sampler;
    int vocab_size, n_threads, n_batch, n_steps;
    int32_t tokens[MAX_BATCH][CTX], blocks[MAX_BATCH][CTX / KV_BLOCK];
    double forward_ms[MAX_STEPS], draw_ms[N_MODES][MAX_STEPS];
    int n_draws[N_MODES];
};

/* Processor time of all threads: other programs do not count, waiting threads that spin do. */
static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static struct engine_sampling mode_sampling(int mode) {
    struct engine_sampling p = engine_sampling_default();
    p.temperature = mode == 0 ? 0 : 0.8f;
    p.top_p = mode == 1 || mode == 2 ? 0.95f : 1;
    p.top_k = mode == 1 || mode == 4 ? 40 : 0;
    if (mode == 4) p.repeat_penalty = 1.1f, p.frequency_penalty = 0.2f, p.presence_penalty = 0.1f;
    p.seed = 1234;
    return p;
}

static void step(struct bench *b, int at, int mode) {
    int32_t rows[MAX_BATCH], tokens[MAX_BATCH];
    struct kernels_seq seqs[MAX_BATCH];
    struct sampler_draw draws[MAX_BATCH];
    struct engine_sampling params = mode_sampling(mode);
    int pos = at % (CTX - 1);
    for (int i = 0; i < b->n_batch; i++) {
        rows[i] = i;
        tokens[i] = b->tokens[i][pos];
        seqs[i] = (struct kernels_seq){.first_row = i, .n_rows = 1, .first_pos = pos, .blocks = b->blocks[i]};
    }
    struct model_batch batch = {
        .tokens = tokens, .n_rows = b->n_batch, .seqs = seqs, .n_seqs = b->n_batch, .logit_rows = rows, .n_logits = b->n_batch};
    double begun = now_ms();
    model_forward(b->model, &b->kv, &batch);
    double drawing = now_ms();
    for (int i = 0; i < b->n_batch; i++) {
        draws[i] = (struct sampler_draw){.params = &params,
                                         .history = {.tokens = b->tokens[i], .n_prompt = 1, .n_tokens = pos + 1},
                                         .logits = model_logits(b->model, i),
                                         .maxima = model_maxima(b->model, i)};
    }
    sampler_draw(&b->sampler, draws, b->n_batch);
    for (int i = 0; i < b->n_batch; i++) b->tokens[i][pos + 1] = draws[i].token;
    b->forward_ms[at] = drawing - begun;
    b->draw_ms[mode][b->n_draws[mode]++] = now_ms() - drawing;
}

static int by_value(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* A tenth of the values is below: what a step costs while nobody else takes the processor. */
static double decile(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    return values[n / 10];
}

static void report(struct bench *b) {
    double forward = decile(b->forward_ms, b->n_steps);
    uint64_t sum = 0;
    for (int i = 0; i < b->n_batch; i++) {
        for (int pos = 0; pos < CTX; pos++) sum = sum * 31 + (uint64_t)b->tokens[i][pos];
    }
    printf("vocabulary %d, batch %d, %d threads, %d steps, tokens %016llx: forward %.3f ms\n", b->vocab_size, b->n_batch,
           backend_cpu_threads(&b->backend), b->n_steps, (unsigned long long)sum, forward);
    for (int mode = 0; mode < N_MODES; mode++) {
        double draw = decile(b->draw_ms[mode], b->n_draws[mode]);
        printf("  %-28s %8.1f us  %6.2f %%\n", mode_names[mode], draw * 1e3, 100 * draw / forward);
    }
}

static int open_bench(struct bench *b, const char *path, struct engine_error *error) {
    struct gguf *gguf = NULL;
    struct model_shape shape;
    const struct model_limits limits = {.max_rows = MAX_BATCH, .max_logits = MAX_BATCH, .ctx_len = CTX};
    int rc = gguf_open(&gguf, path, error);
    if (rc == ENGINE_OK) rc = model_read_shape(&shape, gguf, error);
    if (rc == ENGINE_OK) {
        struct backend_config config = {.n_threads = b->n_threads};
        if (backend_open_cpu(&b->backend, &config, error->text, sizeof error->text) != KERNELS_OK) rc = ENGINE_ERR_MEMORY;
    }
    if (rc == ENGINE_OK) rc = model_open(&b->model, gguf, &shape, &b->backend, &limits, error);
    gguf_close(gguf);
    if (rc != ENGINE_OK) return rc;
    b->vocab_size = shape.vocab_size;
    int n_blocks = b->n_batch * (CTX / KV_BLOCK);
    const struct kv_shape kv = {KV_F16, shape.n_layers, shape.n_kv_heads, shape.head_dim};
    if (kv_pool_alloc(&b->backend, n_blocks, &kv, &b->kv) != KERNELS_OK || sampler_init(&b->sampler, shape.vocab_size) != 0)
        abort();
    b->sampler.backend = &b->backend;
    for (int i = 0; i < b->n_batch; i++) {
        b->tokens[i][0] = 300 + 7 * i;
        for (int j = 0; j < CTX / KV_BLOCK; j++) b->blocks[i][j] = i * (CTX / KV_BLOCK) + j;
    }
    return ENGINE_OK;
}

static int number(int argc, char **argv, int i, int otherwise, int most) {
    long n = i < argc ? strtol(argv[i], NULL, 10) : otherwise;
    return n < 1 ? 1 : n > most ? most : (int)n;
}

int main(int argc, char **argv) {
    static struct bench b;
    struct engine_error error = {""};
    if (argc < 2) {
        fprintf(stderr, "usage: check_sampling MODEL [THREADS] [BATCH] [STEPS]\n");
        return 2;
    }
    b.n_threads = number(argc, argv, 2, 2, 64);
    b.n_batch = number(argc, argv, 3, 1, MAX_BATCH);
    b.n_steps = number(argc, argv, 4, 500, MAX_STEPS);
    if (open_bench(&b, argv[1], &error) != ENGINE_OK) {
        fprintf(stderr, "check_sampling: %s\n", error.text);
        return 2;
    }
    for (int at = 0; at < b.n_steps; at++) step(&b, at, at % N_MODES);
    report(&b);
    sampler_free(&b.sampler);
    kv_pool_free(&b.backend, &b.kv);
    model_close(b.model);
    b.backend.ops->close(b.backend.self);
    return 0;
}
