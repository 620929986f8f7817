/* kernels_fixture.h - what the files of check_kernels share: reporting, random input.
 *
 * Any NaN counts as equal to any NaN; all other floats are compared by their bits. Included into one program only. */
#ifndef FORESAY_KERNELS_FIXTURE_H
#define FORESAY_KERNELS_FIXTURE_H

#include "kernels/kernels.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct backend reference; /* scalar, one thread */

/* --- reporting --- */

static const char *op_name;
static int op_comparisons, op_failures, total_comparisons, total_failures;

static void begin_op(const char *name) {
    op_name = name;
    op_comparisons = op_failures = 0;
}

static void end_op(void) {
    printf("  %-28s %6d comparisons  %s\n", op_name, op_comparisons, op_failures ? "FAILED" : "OK");
    total_comparisons += op_comparisons;
    total_failures += op_failures;
}

__attribute__((format(printf, 2, 3))) static void expect(bool ok, const char *format, ...) {
    enum { MOST_SHOWN = 8 };
    op_comparisons++;
    if (ok || op_failures++ >= MOST_SHOWN) return;
    va_list args;
    va_start(args, format);
    printf("  %s: ", op_name);
    vprintf(format, args);
    printf("\n");
    va_end(args);
}

static bool same_float(float a, float b) { return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b)); }

/* Index of the first difference, or -1. */
static int first_difference(const float *a, const float *b, int n) {
    for (int i = 0; i < n; i++)
        if (!same_float(a[i], b[i])) return i;
    return -1;
}

static void expect_floats(const float *expected, const float *got, int n, const char *subject, const char *what) {
    const int at = first_difference(expected, got, n);
    expect(at < 0, "%s, %s: element %d is %a, the reference says %a", subject, what, at, at < 0 ? 0 : (double)got[at],
           at < 0 ? 0 : (double)expected[at]);
}

/* --- random input --- */

static uint64_t random_state;

static uint32_t random_bits(void) { /* xorshift64* */
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)((random_state * 0x2545f4914f6cdd1dull) >> 32);
}
static int random_below(int n) { return (int)(random_bits() % (uint32_t)n); }
static float random_float(void) { return (float)(int32_t)random_bits() * 0x1p-31f; } /* -1 .. 1 */

static void fill_floats(float *x, int n, float scale) {
    for (int i = 0; i < n; i++) x[i] = random_float() * scale;
}

static void *take(size_t bytes) {
    void *memory = calloc(1, bytes > 0 ? bytes : 1);
    assert(memory);
    return memory;
}

/* --- weights --- */

/* Half floats for scales: mostly ordinary, some subnormal, zero or large. */
static uint16_t random_scale(void) {
    switch (random_below(8)) {
    case 0:
        return (uint16_t)random_below(0x400);
    case 1:
        return (uint16_t)(0x8000 + random_below(0x400));
    case 2:
        return 0;
    case 3:
        return float_to_half(random_float() * 30000.0f);
    default:
        return float_to_half(random_float() * 0.1f);
    }
}

/* Whether half floats m (or dmin) follow d. */
static bool has_m(enum dtype type) {
    return type == DTYPE_Q4_1 || type == DTYPE_Q5_1 || type == DTYPE_Q4_K || type == DTYPE_Q5_K || type == DTYPE_Q2_K;
}

/* n_cols rounded up to what rows of the type can have. */
static int suit_cols(enum dtype type, int n_cols) {
    const int block = dtype_block_cols(type);
    return (n_cols + block - 1) / block * block;
}

/* Random rows in the file's layout, at an odd address as in a file. */
static uint8_t *random_weights(enum dtype type, int n_rows, int n_cols) {
    const size_t row_bytes = dtype_row_bytes(type, n_cols), total = row_bytes * (size_t)n_rows;
    uint8_t *bytes = (uint8_t *)take(total + 1) + 1;
    for (size_t i = 0; i < total; i++) bytes[i] = (uint8_t)random_bits();
    if (!dtype_is_quantized(type)) {
        for (size_t i = 0; i < total; i += row_bytes / (size_t)n_cols) {
            const float value = random_float() * (random_below(50) ? 1.0f : 0x1p-15f); /* the latter are subnormal halves */
            const uint16_t half = float_to_half(value);
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            const uint16_t brain = (uint16_t)(bits >> 16);
            if (type == DTYPE_F32) memcpy(bytes + i, &value, 4);
            if (type == DTYPE_F16) memcpy(bytes + i, &half, 2);
            if (type == DTYPE_BF16) memcpy(bytes + i, &brain, 2);
        }
        return bytes;
    }
    const int cols = dtype_block_cols(type);
    const size_t block = dtype_row_bytes(type, cols), d_at = type == DTYPE_Q2_K                         ? 80
                                                             : type == DTYPE_Q3_K || type == DTYPE_Q6_K ? block - 2
                                                                                                        : 0;
    for (size_t i = 0; i < total; i += block) { /* d, and m beside it where there is one */
        const uint16_t d = random_scale(), m = random_scale();
        memcpy(bytes + i + d_at, &d, 2);
        if (has_m(type)) memcpy(bytes + i + d_at + 2, &m, 2);
        if (type == DTYPE_Q8_0 && random_below(4) == 0) memset(bytes + i + 2, 0x80, 8); /* -128, which no quantiser writes */
        if (type == DTYPE_Q6_K && random_below(4) == 0) { /* the largest sum of integers: codes 0, scales -128 */
            memset(bytes + i, 0, 192);
            memset(bytes + i + 192, 0x80, 16);
        }
    }
    return bytes;
}

static struct weight *load(const struct backend *b, const uint8_t *src, enum dtype type, int n_rows, int n_cols) {
    struct weight *weight = NULL;
    const int rc = b->ops->weight_load(b->self, src, type, n_rows, n_cols, &weight);
    assert(rc == KERNELS_OK);
    return weight;
}

/* --- activations --- */

/* Ordinary rows, and among them the extreme ones. */
static void fill_rows(float *x, int n, int n_cols, bool extremes) {
    for (int i = 0; i < n; i++) {
        float *row = x + i * n_cols;
        const int kind = extremes ? random_below(10) : 9;
        fill_floats(row, n_cols, kind == 0 ? 1e30f : kind == 1 ? 1e-30f : kind == 2 ? 1e-42f : kind == 3 ? 3e38f : 4.0f);
        if (kind == 4) memset(row, 0, (size_t)n_cols * sizeof *row);
        if (kind == 5) row[random_below(n_cols)] = NAN;
        if (kind == 6) row[random_below(n_cols)] = -INFINITY;
        if (kind == 7) row[random_below(n_cols)] = 1000.0f;
        for (int k = 0; kind == 8 && k < n_cols; k++) row[k] = i % 2 ? 2.0f : -2.0f; /* all codes 127: the largest sums */
    }
}

static struct activation new_activation(const struct backend *b, int n, int n_cols) {
    struct activation a;
    const int rc = activation_alloc(b, n, n_cols, true, n_cols % QUANT_BLOCK == 0, &a);
    assert(rc == KERNELS_OK);
    return a;
}

/* With a rest, where it has int8. */
static struct activation new_refined(const struct backend *b, int n, int n_cols) {
    struct activation a = new_activation(b, n, n_cols);
    const int rc = a.q ? activation_refine(b, &a) : KERNELS_OK;
    assert(rc == KERNELS_OK);
    return a;
}

/* Where an operation puts its result in int8 at once. */
static struct activation new_int8(const struct backend *b, int n, int n_cols) {
    struct activation a;
    const int rc = activation_alloc(b, n, n_cols, false, true, &a);
    assert(rc == KERNELS_OK);
    memset(a.q, 99, (size_t)n * (size_t)n_cols);
    return a;
}

/* got is what the reference makes of the rows. */
static void expect_int8(const float *rows, int stride, int n, const struct activation *got, const char *subject,
                        const char *what) {
    const size_t n_cols = (size_t)got->n_cols, blocks = n_cols / QUANT_BLOCK * (size_t)n;
    struct activation want = new_int8(&reference, n, got->n_cols);
    reference.ops->quantize(reference.self, rows, stride, n, &want);
    expect(memcmp(want.q, got->q, (size_t)n * n_cols) == 0, "%s: codes, %s", subject, what);
    expect_floats(want.d, got->d, (int)blocks, subject, what);
    expect_floats(want.ds, got->ds, (int)blocks, subject, what);
    expect(memcmp(want.sum, got->sum, 4 * blocks) == 0 && memcmp(want.sum16, got->sum16, 8 * blocks) == 0, "%s: sums, %s",
           subject, what);
    activation_free(&reference, &want);
}

#endif
