/* bench_types.h - times the matrix product of each element type in one common shape. Included by check_kernels.c only.
 *
 * A line a type: decode (1 row) from the L2 cache and from memory in GB/s of the file's bytes, then 4, 8, 64 and 512 rows in
 * Tops. Best of many short runs. "cycles" are for 16 rows by 32 columns at 1 row from the cache, counted by the time stamp
 * counter, which runs at the nominal clock. Asserts nothing. */
#ifndef FORESAY_BENCH_TYPES_H
#define FORESAY_BENCH_TYPES_H

#include "tests/bench_kernels.h"
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

enum {
    TYPE_COLS = 2048,
    TYPE_ROWS = 512, /* half a megabyte at 4 bits */
    TYPE_COPIES = 96,
    TYPE_BATCH = 512,
};

struct bench_type {
    struct backend b;
    enum dtype type;
    struct weight *weights[TYPE_COPIES];
    struct activation in;
    float *y;
};

static double type_ticks(void) {
#if defined(__x86_64__)
    return (double)__rdtsc();
#else
    return 0;
#endif
}

static void type_product(const struct bench_type *t, int copy, int n) {
    const struct matmul_job job = {.weight = t->weights[copy], .out = t->y, .out_stride = TYPE_ROWS};
    t->b.ops->matmul(t->b.self, &job, 1, &t->in, n);
}

/* Best seconds (and ticks) of a run over the first `copies` matrices. */
static double type_best(const struct bench_type *t, int copies, int n, int runs, double *ticks) {
    double best = 1e30;
    for (int i = 0; i <= runs; i++) {
        const double start = bench_now(), start_ticks = type_ticks();
        for (int c = 0; c < copies; c++) type_product(t, c, n);
        const double seconds = bench_now() - start;
        if (i == 0 || seconds >= best) continue;
        best = seconds;
        *ticks = type_ticks() - start_ticks;
    }
    return best;
}

static void bench_one_type(struct bench_type *t) {
    static const int counts[] = {4, 8, 64, 512};
    const struct bench_model model = {.b = t->b};
    for (int c = 0; c < TYPE_COPIES; c++) t->weights[c] = bench_weight(&model, t->type, TYPE_ROWS, TYPE_COLS);
    const double bytes = (double)dtype_row_bytes(t->type, TYPE_COLS) * TYPE_ROWS, ops = 2.0 * TYPE_COLS * TYPE_ROWS;
    const int copies = bytes > 2e6 ? TYPE_COPIES / 4 : TYPE_COPIES;
    double ticks = 0;
    const double cached = type_best(t, 1, 1, 400, &ticks);
    const double cycles = ticks * backend_cpu_threads(&t->b) / (TYPE_ROWS / 16.0 * TYPE_COLS / 32.0);
    const double streamed = type_best(t, copies, 1, 20, &ticks);
    printf("  %-7s 1 row: %5.1f cycles %6.1f GB/s cached %6.1f GB/s streamed", dtype_name(t->type), cycles, bytes / cached * 1e-9,
           bytes * copies / streamed * 1e-9);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const double seconds = type_best(t, 1, counts[i], counts[i] > 64 ? 12 : counts[i] > 16 ? 60 : 200, &ticks);
        printf("  %d rows: %5.3f Tops", counts[i], ops * counts[i] / seconds * 1e-12);
    }
    printf("\n");
    for (int c = 0; c < TYPE_COPIES; c++) t->b.ops->weight_free(t->b.self, t->weights[c]);
}

/* only: one type's name, or NULL. */
static int bench_types(const char *isa, int threads, const char *only) {
    struct bench_type t = {0};
    char reason[160];
    if (backend_open_cpu(&t.b, &(struct backend_config){.isa = isa, .n_threads = threads}, reason, sizeof reason) != KERNELS_OK) {
        fprintf(stderr, "check_kernels: %s\n", reason);
        return 1;
    }
    const int rc = activation_alloc(&t.b, TYPE_BATCH, TYPE_COLS, true, true, &t.in);
    t.y = t.b.ops->alloc(t.b.self, (size_t)TYPE_BATCH * TYPE_ROWS * sizeof(float));
    float *x = malloc(sizeof(float) * TYPE_BATCH * TYPE_COLS);
    assert(rc == KERNELS_OK && t.y && x);
    for (int i = 0; i < TYPE_BATCH * TYPE_COLS; i++) x[i] = (float)(i * 37 % 101) * 0.01f - 0.5f;
    t.b.ops->quantize(t.b.self, x, TYPE_COLS, TYPE_BATCH, &t.in);
    printf("bench of types, %d x %d: %s, %d threads\n", TYPE_ROWS, TYPE_COLS, backend_cpu_isa(&t.b), backend_cpu_threads(&t.b));
    for (int type = 0; type < DTYPE_COUNT; type++) {
        t.type = (enum dtype)type;
        if (only && strcmp(only, dtype_name(t.type)) != 0) continue;
        bench_one_type(&t);
    }
    free(x);
    t.b.ops->free(t.b.self, t.y, (size_t)TYPE_BATCH * TYPE_ROWS * sizeof(float));
    activation_free(&t.b, &t.in);
    t.b.ops->close(t.b.self);
    return 0;
}

#endif
