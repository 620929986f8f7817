/* bench_kernels.h - times the operations in the shapes of a 135M-parameter model. Included by check_kernels.c only.
 *
 * Prints the best and the median of repeated runs: the best shows the kernel, the median the machine. Asserts nothing. */
#ifndef FORESAY_BENCH_KERNELS_H
#define FORESAY_BENCH_KERNELS_H

#include "kernels/kernels.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    BENCH_LAYERS = 30,
    BENCH_WIDTH = 576,
    BENCH_FFN = 1536,
    BENCH_VOCAB = 49152,
    BENCH_HEADS = 9,
    BENCH_KV_HEADS = 3,
    BENCH_HEAD_DIM = 64,
    BENCH_QKV = (BENCH_HEADS + 2 * BENCH_KV_HEADS) * BENCH_HEAD_DIM,
    BENCH_ROWS = 512,
    BENCH_CELLS = BENCH_ROWS * BENCH_FFN, /* floats; also 16 rows of logits */
    BENCH_CONTEXT = 1024,
    BENCH_RUNS = 31,
};

struct bench_model {
    struct backend b;
    struct weight *qkv[BENCH_LAYERS], *o[BENCH_LAYERS], *gate[BENCH_LAYERS], *up[BENCH_LAYERS], *down[BENCH_LAYERS], *head;
    struct activation wide, ffn;
    float *x, *y; /* BENCH_CELLS floats */
    struct kv_pool kv;
    int32_t blocks[BENCH_CONTEXT / KV_BLOCK];
};

static double bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int bench_order(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

/* Prints best and median seconds; bytes and ops of one run, 0 where meaningless. */
static void bench_time(const char *name, void (*run)(struct bench_model *m, int n), struct bench_model *m, int n, double bytes,
                       double ops) {
    double seconds[BENCH_RUNS];
    run(m, n);
    for (int i = 0; i < BENCH_RUNS; i++) {
        const double start = bench_now();
        run(m, n);
        seconds[i] = bench_now() - start;
    }
    qsort(seconds, BENCH_RUNS, sizeof *seconds, bench_order);
    const double best = seconds[0], median = seconds[BENCH_RUNS / 2];
    printf("  %-26s %4d rows  %9.1f us best %9.1f us median", name, n, best * 1e6, median * 1e6);
    if (bytes > 0) printf("  %6.1f GB/s", bytes / best * 1e-9);
    if (ops > 0) printf("  %6.3f Tops", ops / best * 1e-12);
    printf("\n");
}

/* Owned by the caller. */
static uint8_t *bench_source(enum dtype type, int n_rows, int n_cols) {
    const size_t bytes = dtype_row_bytes(type, n_cols) * (size_t)n_rows;
    uint8_t *src = malloc(bytes);
    assert(src);
    for (size_t i = 0; i < bytes; i++) src[i] = (uint8_t)(i * 31 % 61);
    return src;
}

static struct weight *bench_weight(const struct bench_model *m, enum dtype type, int n_rows, int n_cols) {
    uint8_t *src = bench_source(type, n_rows, n_cols);
    struct weight *weight = NULL;
    const int rc = m->b.ops->weight_load(m->b.self, src, type, n_rows, n_cols, &weight);
    assert(rc == KERNELS_OK);
    free(src);
    return weight;
}

/* Gate and up of a layer. */
static void bench_pair(struct bench_model *m, int layer) {
    static const enum dtype types[2] = {DTYPE_Q4_1, DTYPE_Q4_1};
    uint8_t *src = bench_source(DTYPE_Q4_1, BENCH_FFN, BENCH_WIDTH);
    struct weight *pair[2];
    const int rc = m->b.ops->weight_load_pair(m->b.self, (const void *const[2]){src, src}, types, BENCH_FFN, BENCH_WIDTH, pair);
    assert(rc == KERNELS_OK);
    m->gate[layer] = pair[0];
    m->up[layer] = pair[1];
    free(src);
}

static void bench_one(struct bench_model *m, const struct weight *weight, const struct activation *in, int n, int stride,
                      bool add) {
    const struct matmul_job job = {.weight = weight, .out = m->y, .out_stride = stride, .add = add};
    m->b.ops->matmul(m->b.self, &job, 1, in, n);
}

static void bench_layers(struct bench_model *m, int n) {
    for (int l = 0; l < BENCH_LAYERS; l++) {
        bench_one(m, m->qkv[l], &m->wide, n, BENCH_QKV, false);
        bench_one(m, m->o[l], &m->wide, n, BENCH_WIDTH, true);
        m->b.ops->matmul_glu(m->b.self, GLU_SILU, m->gate[l], m->up[l], &m->wide, n, m->y, BENCH_FFN, NULL);
        bench_one(m, m->down[l], &m->ffn, n, BENCH_WIDTH, true);
    }
}

static void bench_head(struct bench_model *m, int n) { bench_one(m, m->head, &m->wide, n, BENCH_VOCAB, false); }
static void bench_fork(struct bench_model *m, int n) { /* 48 row groups: next to nothing to do */
    for (int i = 0; i < 100; i++) bench_one(m, m->o[0], &m->wide, n, BENCH_WIDTH, false);
}
static void bench_quantize(struct bench_model *m, int n) { m->b.ops->quantize(m->b.self, m->x, BENCH_FFN, n, &m->ffn); }
static void bench_norm(struct bench_model *m, int n) {
    m->b.ops->rmsnorm(m->b.self, m->x, BENCH_WIDTH, NULL, m->y, 1e-5f, n, &m->wide);
}

static void bench_embed(struct bench_model *m, int n) {
    int32_t tokens[BENCH_ROWS];
    for (int i = 0; i < n; i++) tokens[i] = i * 91 % BENCH_VOCAB;
    m->b.ops->embed(m->b.self, m->head, tokens, n, 1, m->y, BENCH_WIDTH);
}

static struct qkv_view bench_view(const struct bench_model *m) {
    return (struct qkv_view){.q = m->x,
                             .k = m->x + BENCH_HEADS * BENCH_HEAD_DIM,
                             .v = m->x + (BENCH_HEADS + BENCH_KV_HEADS) * BENCH_HEAD_DIM,
                             .q_stride = BENCH_QKV,
                             .k_stride = BENCH_QKV,
                             .v_stride = BENCH_QKV,
                             .n_heads = BENCH_HEADS};
}

static void bench_rope(struct bench_model *m, int n) {
    const struct qkv_view qkv = bench_view(m);
    const struct kernels_seq seq = {.n_rows = n, .blocks = m->blocks};
    const struct rope_spec rope = {.cos_sin = m->y, .kind = ROPE_INTERLEAVED, .rope_dim = BENCH_HEAD_DIM};
    m->b.ops->rope_kv(m->b.self, &qkv, &rope, &seq, 1, &m->kv, 0);
}

/* The last n rows before position end, in all layers. */
static void bench_attend(struct bench_model *m, int n, int end) {
    const struct qkv_view qkv = bench_view(m);
    const struct kernels_seq seq = {.n_rows = n, .first_pos = end - n, .blocks = m->blocks};
    for (int l = 0; l < BENCH_LAYERS; l++)
        m->b.ops->attention(m->b.self, &qkv, &(struct attention_spec){.scale = 0.125f}, &seq, 1, &m->kv, l, m->y,
                            BENCH_HEADS * BENCH_HEAD_DIM, NULL);
}
static void bench_attend_256(struct bench_model *m, int n) { bench_attend(m, n, 256); }
static void bench_attend_512(struct bench_model *m, int n) { bench_attend(m, n, 512); }
static void bench_attend_1024(struct bench_model *m, int n) { bench_attend(m, n, 1024); }

static void bench_open(struct bench_model *m, enum kv_type type) {
    for (int l = 0; l < BENCH_LAYERS; l++) {
        m->qkv[l] = bench_weight(m, DTYPE_Q4_1, BENCH_QKV, BENCH_WIDTH);
        m->o[l] = bench_weight(m, DTYPE_Q4_1, BENCH_WIDTH, BENCH_WIDTH);
        bench_pair(m, l);
        m->down[l] = bench_weight(m, DTYPE_Q4_1, BENCH_WIDTH, BENCH_FFN);
    }
    m->head = bench_weight(m, DTYPE_Q8_0, BENCH_VOCAB, BENCH_WIDTH);
    m->x = m->b.ops->alloc(m->b.self, BENCH_CELLS * sizeof(float));
    m->y = m->b.ops->alloc(m->b.self, BENCH_CELLS * sizeof(float));
    int rc = activation_alloc(&m->b, BENCH_ROWS, BENCH_WIDTH, false, true, &m->wide);
    assert(rc == KERNELS_OK);
    rc = activation_alloc(&m->b, BENCH_ROWS, BENCH_FFN, false, true, &m->ffn);
    assert(rc == KERNELS_OK);
    rc = kv_pool_alloc(&m->b, BENCH_CONTEXT / KV_BLOCK, &(struct kv_shape){type, BENCH_LAYERS, BENCH_KV_HEADS, BENCH_HEAD_DIM},
                       &m->kv);
    assert(rc == KERNELS_OK && m->x && m->y);
    for (int i = 0; i < BENCH_CONTEXT / KV_BLOCK; i++) m->blocks[i] = i;
    for (size_t i = 0; i < BENCH_CELLS; i++) m->x[i] = (float)(i * 37 % 101) * 0.01f - 0.5f;
    m->b.ops->quantize(m->b.self, m->x, BENCH_WIDTH, BENCH_ROWS, &m->wide);
    m->b.ops->quantize(m->b.self, m->x, BENCH_FFN, BENCH_ROWS, &m->ffn);
}

static void bench_all(struct bench_model *m) {
    static const int counts[] = {1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64, 512};
    const double weights = (double)BENCH_LAYERS * BENCH_WIDTH * (BENCH_QKV + BENCH_WIDTH + 3.0 * BENCH_FFN);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        bench_time("matmul, 30 layers Q4_1", bench_layers, m, counts[i], weights * 20 / 32, 2 * weights * counts[i]);
    for (size_t i = 0; i < 9; i++)
        bench_time("matmul, head Q8_0", bench_head, m, counts[i], (double)BENCH_VOCAB * BENCH_WIDTH * 34 / 32,
                   2.0 * BENCH_VOCAB * BENCH_WIDTH * counts[i]);
    const double key_ops = 4.0 * BENCH_LAYERS * BENCH_HEADS * BENCH_HEAD_DIM;
    bench_time("attention to 256", bench_attend_256, m, 1, 256.0 * BENCH_LAYERS * BENCH_KV_HEADS * BENCH_HEAD_DIM * 4,
               256 * key_ops);
    bench_time("attention to 1024", bench_attend_1024, m, 1, 1024.0 * BENCH_LAYERS * BENCH_KV_HEADS * BENCH_HEAD_DIM * 4,
               1024 * key_ops);
    bench_time("attention to 1024", bench_attend_1024, m, 8, 0, 8 * 1024 * key_ops);
    bench_time("attention to 512", bench_attend_512, m, 512, 0, 512.0 * 256 * key_ops);
    bench_time("embed, 576 of Q8_0", bench_embed, m, 1, 0, 0);
    bench_time("embed, 576 of Q8_0", bench_embed, m, 512, 0, 0);
    bench_time("rmsnorm, 576", bench_norm, m, 1, 0, 0);
    bench_time("rmsnorm, 576", bench_norm, m, 512, 0, 0);
    bench_time("quantize, 1536", bench_quantize, m, 1, 0, 0);
    bench_time("quantize, 1536", bench_quantize, m, 512, 0, 0);
    bench_time("rope_kv", bench_rope, m, 1, 0, 0);
    bench_time("rope_kv", bench_rope, m, 512, 0, 0);
    bench_time("100 forks, 576 x 576", bench_fork, m, 1, 0, 0);
}

static int bench_kernels(const char *isa, int threads, enum kv_type type) {
    struct bench_model m = {0};
    char reason[160];
    if (backend_open_cpu(&m.b, &(struct backend_config){.isa = isa, .n_threads = threads}, reason, sizeof reason) != KERNELS_OK) {
        fprintf(stderr, "check_kernels: %s\n", reason);
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("bench: %s, %d threads\n", backend_cpu_isa(&m.b), backend_cpu_threads(&m.b));
    const double start = bench_now();
    bench_open(&m, type);
    printf("  repacked 96 MB of weights in %.0f ms\n", (bench_now() - start) * 1e3);
    bench_all(&m);
    struct weight **const matrices[] = {m.qkv, m.o, m.gate, m.up, m.down};
    for (int l = 0; l < 5 * BENCH_LAYERS; l++) m.b.ops->weight_free(m.b.self, matrices[l % 5][l / 5]);
    m.b.ops->weight_free(m.b.self, m.head);
    m.b.ops->free(m.b.self, m.x, BENCH_CELLS * sizeof(float));
    m.b.ops->free(m.b.self, m.y, BENCH_CELLS * sizeof(float));
    kv_pool_free(&m.b, &m.kv);
    activation_free(&m.b, &m.wide);
    activation_free(&m.b, &m.ffn);
    m.b.ops->close(m.b.self);
    return 0;
}

#endif
