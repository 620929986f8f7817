/* check_kernels.c - every instruction set and thread count against the plain C reference, bit by bit; with --bench also the
 * speed.
 *
 * usage: check_kernels [--isa scalar|avx2|avx512] [--seed N] [--bench [--threads N]]
 *
 *  (1) What is expected always comes from the scalar backend with one thread and one row a call. So each comparison checks
 *      instruction set, thread count, batch size and place in the batch at once. Bits must be equal, except that any NaN
 *      equals any NaN.
 *  (2) The reference itself is held against plain computations in double, with a tolerance (check_reference_*).
 *  (3) Random input is made from --seed, which is printed. Sizes are small, so that the whole also runs under the sanitizers.
 * Exit status 1 if anything differs. */
#include "kernels/kernels.h"
#include "tests/bench_kernels.h"

#include <assert.h>
#include <dirent.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

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

/* --- the subjects --- */

enum { MAX_SUBJECTS = 16, MAX_N = 512 };

struct subject {
    struct backend backend;
    char name[24];
};

static struct backend reference;
static struct subject subjects[MAX_SUBJECTS];
static int n_subjects;

static void open_subjects(const char *only_isa) {
    static const char *const isas[] = {"scalar", "avx2", "avx512"};
    char reason[160];
    int rc = backend_open_cpu(&reference, &(struct backend_config){.isa = "scalar", .n_threads = 1}, reason, sizeof reason);
    assert(rc == KERNELS_OK);
    for (int i = 0; i < 3; i++) {
        if (only_isa && strcmp(only_isa, isas[i]) != 0) continue;
        for (int threads = 1; threads <= 3; threads++) {
            struct subject *s = &subjects[n_subjects];
            rc = backend_open_cpu(&s->backend, &(struct backend_config){.isa = isas[i], .n_threads = threads}, reason,
                                  sizeof reason);
            if (rc != KERNELS_OK) {
                printf("  skipped: %s\n", reason);
                break;
            }
            snprintf(s->name, sizeof s->name, "%s with %d", isas[i], threads);
            n_subjects++;
        }
    }
}

static void close_subjects(void) {
    for (int i = 0; i < n_subjects; i++) subjects[i].backend.ops->close(subjects[i].backend.self);
    reference.ops->close(reference.self);
}

/* --- opening --- */

static void check_open(void) {
    begin_op("open");
    char reason[160] = "";
    struct backend backend = {0};
    int rc = backend_open_cpu(&backend, &(struct backend_config){.isa = "sse9"}, reason, sizeof reason);
    expect(rc == KERNELS_ERR_ISA && strstr(reason, "sse9") && !backend.ops, "an unknown instruction set gave %d, \"%s\"", rc,
           reason);
    expect(backend_open_cpu(&backend, &(struct backend_config){.isa = "sse9"}, NULL, 0) == KERNELS_ERR_ISA, "no reason wanted");
    rc = backend_open_cpu(&backend, &(struct backend_config){.isa = "auto"}, reason, sizeof reason);
    expect(rc == KERNELS_OK && backend_cpu_threads(&backend) >= 1, "auto gave %d, \"%s\"", rc, reason);
    if (rc == KERNELS_OK) backend.ops->close(backend.self);

    const uint8_t bytes[64] = {0};
    struct weight *weight = NULL;
    expect(reference.ops->weight_load(reference.self, bytes, DTYPE_Q4_1, 1, 48, &weight) == KERNELS_ERR_DTYPE,
           "48 columns of Q4_1");
    expect(reference.ops->weight_load(reference.self, bytes, DTYPE_COUNT, 1, 32, &weight) == KERNELS_ERR_DTYPE, "unknown type");
    expect(reference.ops->weight_load(reference.self, bytes, DTYPE_F32, 0, 8, &weight) == KERNELS_ERR_DTYPE, "no rows");
    reference.ops->weight_free(reference.self, NULL);
    struct kv_pool pool;
    expect(kv_pool_alloc(&reference, 1, 1, 1, 100000, &pool) == KERNELS_ERR_DTYPE, "head_dim 100000");
    struct activation activation;
    expect(activation_alloc(&reference, 1, 40, false, true, &activation) == KERNELS_ERR_DTYPE, "int8 activations of 40 columns");
    end_op();
}

/* --- half floats --- */

/* The nearest half by search over all finite ones: slow and obvious. */
static double half_value(int h) { return ldexp((h & 0x3ff) | (h >> 10 ? 0x400 : 0), (h >> 10 ? h >> 10 : 1) - 25); }

static void check_halves(void) {
    begin_op("half floats");
    for (int h = 0; h < 0x7c00; h++) {
        const float value = half_to_float((uint16_t)h);
        const double between =
            (half_value(h) + half_value(h + 1)) / 2; /* exact; for the largest it is 65520, a tie with infinity */
        const uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        expect((double)value == half_value(h) && half_to_float((uint16_t)(h | 0x8000)) == -value, "half %#x became %a", h,
               (double)value);
        expect(float_to_half(value) == h && float_to_half(-value) == (h | 0x8000), "half %#x there and back", h);
        expect(float_to_half((float)between) == even, "tie above half %#x", h);
        expect(float_to_half(nextafterf((float)between, 0)) == h, "just below the tie above half %#x", h);
        expect(float_to_half(nextafterf((float)between, INFINITY)) == h + 1, "just above the tie above half %#x", h);
    }
    expect(isinf(half_to_float(0x7c00)) && float_to_half(-INFINITY) == 0xfc00 && float_to_half(1e30f) == 0x7c00, "infinities");
    expect(isnan(half_to_float(0x7c01)) && (float_to_half(NAN) & 0x7fff) > 0x7c00, "NaN");
    end_op();
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
    const size_t block = dtype_row_bytes(type, QUANT_BLOCK);
    for (size_t i = 0; i < total; i += block) {
        const uint16_t d = random_scale(), m = random_scale();
        memcpy(bytes + i, &d, 2);
        if (type == DTYPE_Q4_1) memcpy(bytes + i + 2, &m, 2);
        if (type == DTYPE_Q8_0 && random_below(4) == 0) memset(bytes + i + 2, 0x80, 8); /* -128, which no quantiser writes */
    }
    return bytes;
}

static struct weight *load(const struct backend *b, const uint8_t *src, enum dtype type, int n_rows, int n_cols) {
    struct weight *weight = NULL;
    const int rc = b->ops->weight_load(b->self, src, type, n_rows, n_cols, &weight);
    assert(rc == KERNELS_OK);
    return weight;
}

/* embed gives the floats of the file's rows, although it reads the repacked ones. */
static void check_embed(void) {
    begin_op("embed");
    enum { ROWS = 37, COLS = 96 };
    for (int type = 0; type < DTYPE_COUNT; type++) {
        uint8_t *src = random_weights((enum dtype)type, ROWS, COLS);
        float expected[ROWS * COLS], got[ROWS * COLS];
        int32_t tokens[ROWS];
        for (int i = 0; i < ROWS; i++) {
            tokens[i] = random_below(ROWS);
            dtype_row_to_float((enum dtype)type, src + (size_t)tokens[i] * dtype_row_bytes((enum dtype)type, COLS),
                               expected + i * COLS, COLS);
        }
        for (int s = 0; s < n_subjects; s++) {
            const struct backend *b = &subjects[s].backend;
            struct weight *weight = load(b, src, (enum dtype)type, ROWS, COLS);
            b->ops->embed(b->self, weight, tokens, ROWS, got, COLS);
            expect_floats(expected, got, ROWS * COLS, subjects[s].name, dtype_name((enum dtype)type));
            b->ops->weight_free(b->self, weight);
        }
        free(src - 1);
    }
    end_op();
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
    }
}

static struct activation new_activation(const struct backend *b, int n, int n_cols) {
    struct activation a;
    const int rc = activation_alloc(b, n, n_cols, true, n_cols % QUANT_BLOCK == 0, &a);
    assert(rc == KERNELS_OK);
    return a;
}

static void expect_activation(const struct activation *expected, int row, const struct activation *got, int got_row,
                              const char *subject) {
    const int n_cols = expected->n_cols, blocks = n_cols / QUANT_BLOCK;
    expect_floats(expected->f + row * n_cols, got->f + got_row * n_cols, n_cols, subject, "floats");
    if (!expected->q) return;
    expect(memcmp(expected->q + row * n_cols, got->q + got_row * n_cols, (size_t)n_cols) == 0, "%s: codes of row %d", subject,
           row);
    expect_floats(expected->d + row * blocks, got->d + got_row * blocks, blocks, subject, "d");
    expect_floats(expected->ds + row * blocks, got->ds + got_row * blocks, blocks, subject, "ds");
    expect(memcmp(expected->sum + row * blocks, got->sum + got_row * blocks, (size_t)blocks * 4) == 0, "%s: sums of row %d",
           subject, row);
}

/* quantize, or rmsnorm when gamma is given, of rows picked by `rows`; row by row on the reference, at once on the subjects. */
static void check_activation(int n_cols, int n, const float *gamma) {
    float *x = take(sizeof(float) * (size_t)(n * n_cols));
    int32_t rows[MAX_N], one_row[1];
    fill_rows(x, n, n_cols, true);
    for (int i = 0; i < n; i++) rows[i] = random_below(n);
    struct activation expected = new_activation(&reference, n, n_cols);
    for (int i = 0; i < n; i++) {
        struct activation one = expected;
        one.f += i * n_cols;
        if (one.q) one.q += i * n_cols, one.d += i * (n_cols / 32), one.ds += i * (n_cols / 32), one.sum += i * (n_cols / 32);
        one_row[0] = rows[i];
        if (gamma)
            reference.ops->rmsnorm(reference.self, x, n_cols, one_row, gamma, 1e-5f, 1, &one);
        else
            reference.ops->quantize(reference.self, x + i * n_cols, n_cols, 1, &one);
    }
    for (int s = 0; s < n_subjects; s++) {
        const struct backend *b = &subjects[s].backend;
        struct activation got = new_activation(b, n, n_cols);
        if (gamma)
            b->ops->rmsnorm(b->self, x, n_cols, rows, gamma, 1e-5f, n, &got);
        else
            b->ops->quantize(b->self, x, n_cols, n, &got);
        for (int i = 0; i < n; i++) expect_activation(&expected, i, &got, i, subjects[s].name);
        activation_free(b, &got);
    }
    activation_free(&reference, &expected);
    free(x);
}

static const int row_cols[] = {8, 17, 32, 40, 96, 576, 1536}; /* those that are no multiple of 32 have floats only */
static const int row_counts[] = {1, 2, 37};

static void check_quantize(void) {
    begin_op("quantize");
    for (size_t c = 0; c < sizeof row_cols / sizeof *row_cols; c++)
        for (size_t n = 0; n < 3; n++) check_activation(row_cols[c], row_counts[n], NULL);
    end_op();
}

static void check_rmsnorm(void) {
    begin_op("rmsnorm");
    float gamma[1536];
    fill_floats(gamma, 1536, 2.0f);
    for (size_t c = 0; c < sizeof row_cols / sizeof *row_cols; c++)
        for (size_t n = 0; n < 3; n++) check_activation(row_cols[c], row_counts[n], gamma);
    end_op();
}

/* --- matmul --- */

enum { MOST_JOBS = 3 };

struct matmul_case {
    int n_jobs, n_cols, n;
    enum dtype types[MOST_JOBS];
    int n_rows[MOST_JOBS];
    bool add, swiglu; /* swiglu: two jobs, one output */
};

struct matmul_data {
    uint8_t *src[MOST_JOBS];
    float *x;                 /* [n, n_cols] */
    float *before[MOST_JOBS]; /* [n, stride], what `add` adds to */
    float *expected[MOST_JOBS];
};

/* A spare group of 16 after each row shows whether a kernel writes too far. */
static int stride_of(const struct matmul_case *c, int job) { return row_group_pad(c->n_rows[job]) + 16; }

/* Runs the case on rows first .. first + n - 1; out: a block of [n, stride] for each job. */
static void run_matmul(const struct backend *b, const struct matmul_case *c, const struct matmul_data *data,
                       struct weight *const *weights, int first, int n, float *const *out) {
    struct activation in = new_activation(b, n, c->n_cols);
    b->ops->quantize(b->self, data->x + first * c->n_cols, c->n_cols, n, &in);
    struct matmul_job jobs[MOST_JOBS];
    for (int j = 0; j < c->n_jobs; j++)
        jobs[j] = (struct matmul_job){.weight = weights[j], .out = out[j], .out_stride = stride_of(c, j), .add = c->add};
    if (c->swiglu)
        b->ops->matmul_swiglu(b->self, weights[0], weights[1], &in, n, out[0], stride_of(c, 0));
    else
        b->ops->matmul(b->self, jobs, c->n_jobs, &in, n);
    activation_free(b, &in);
}

static void load_all(const struct backend *b, const struct matmul_case *c, const struct matmul_data *data,
                     struct weight **weights) {
    for (int j = 0; j < c->n_jobs; j++) weights[j] = load(b, data->src[j], c->types[j], c->n_rows[j], c->n_cols);
}
static void free_all(const struct backend *b, const struct matmul_case *c, struct weight **weights) {
    for (int j = 0; j < c->n_jobs; j++) b->ops->weight_free(b->self, weights[j]);
}

static void make_expected(const struct matmul_case *c, struct matmul_data *data) {
    struct weight *weights[MOST_JOBS];
    load_all(&reference, c, data, weights);
    for (int row = 0; row < c->n; row++) {
        float *out[MOST_JOBS] = {NULL};
        for (int j = 0; j < c->n_jobs; j++) out[j] = data->expected[j] + row * stride_of(c, j);
        run_matmul(&reference, c, data, weights, row, 1, out);
    }
    free_all(&reference, c, weights);
}

static void compare_matmul(const struct subject *s, const struct matmul_case *c, const struct matmul_data *data) {
    struct weight *weights[MOST_JOBS];
    float *out[MOST_JOBS] = {NULL};
    load_all(&s->backend, c, data, weights);
    for (int j = 0; j < c->n_jobs; j++) {
        const size_t bytes = sizeof(float) * (size_t)(c->n * stride_of(c, j));
        out[j] = take(bytes);
        memcpy(out[j], data->before[j], bytes);
    }
    run_matmul(&s->backend, c, data, weights, 0, c->n, out);
    for (int j = 0; j < (c->swiglu ? 1 : c->n_jobs); j++) {
        char what[96];
        snprintf(what, sizeof what, "%s [%d, %d] x %d rows", dtype_name(c->types[j]), c->n_rows[j], c->n_cols, c->n);
        expect_floats(data->expected[j], out[j], c->n * stride_of(c, j), s->name, what);
    }
    for (int j = 0; j < c->n_jobs; j++) free(out[j]);
    free_all(&s->backend, c, weights);
}

static void check_matmul_case(const struct matmul_case *c) {
    struct matmul_data data = {.x = take(sizeof(float) * (size_t)(c->n * c->n_cols))};
    fill_rows(data.x, c->n, c->n_cols, true);
    for (int j = 0; j < c->n_jobs; j++) {
        const int cells = c->n * stride_of(c, j);
        data.src[j] = random_weights(c->types[j], c->n_rows[j], c->n_cols);
        data.before[j] = take(sizeof(float) * (size_t)cells);
        data.expected[j] = take(sizeof(float) * (size_t)cells);
        fill_floats(data.before[j], cells, 1.0f);
        memcpy(data.expected[j], data.before[j], sizeof(float) * (size_t)cells);
    }
    make_expected(c, &data);
    for (int s = 0; s < n_subjects; s++) compare_matmul(&subjects[s], c, &data);
    for (int j = 0; j < c->n_jobs; j++) {
        free(data.src[j] - 1);
        free(data.before[j]);
        free(data.expected[j]);
    }
    free(data.x);
}

static void check_matmul_type(enum dtype type) {
    static const int counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 16, 23, 37}, rows[] = {1, 15, 16, 17, 100}, cols[] = {32, 64, 96, 352};
    char name[32];
    snprintf(name, sizeof name, "matmul %s", dtype_name(type));
    begin_op(name);
    for (int i = 0; i < 11; i++) {
        struct matmul_case c = {
            .n_jobs = 1, .types = {type}, .n_rows = {rows[i % 5]}, .n_cols = cols[i % 4], .n = counts[i], .add = i & 1};
        check_matmul_case(&c);
        c.n_rows[0] = rows[(i + 2) % 5];
        c.n_cols = dtype_is_quantized(type) ? 288 : 33 + i;
        check_matmul_case(&c);
    }
    check_matmul_case(&(struct matmul_case){.n_jobs = 1, .types = {type}, .n_rows = {80}, .n_cols = 96, .n = 512});
    end_op();
}

/* Several weights in one call, of different types and sizes; the boundaries between threads then fall inside and between jobs. */
static void check_matmul_jobs(void) {
    begin_op("matmul, three jobs");
    static const int counts[] = {1, 5, 16, 37};
    for (int i = 0; i < 4; i++)
        check_matmul_case(&(struct matmul_case){.n_jobs = 3,
                                                .types = {DTYPE_Q4_1, DTYPE_Q8_0, DTYPE_F16},
                                                .n_rows = {112, 40 + i, 65},
                                                .n_cols = 192,
                                                .n = counts[i],
                                                .add = i & 1});
    end_op();
}

static void check_swiglu(void) {
    begin_op("matmul_swiglu");
    static const int counts[] = {1, 2, 7, 16, 40};
    for (int type = 0; type < DTYPE_COUNT; type++)
        for (int i = 0; i < 5; i++) {
            struct matmul_case c = {.n_jobs = 2, .n_rows = {100, 100}, .n_cols = 96, .n = counts[i], .swiglu = true};
            c.types[0] = c.types[1] = (enum dtype)type;
            check_matmul_case(&c);
        }
    end_op();
}

/* --- rope_kv and attention --- */

enum { MAX_SEQS = 9, MAX_BLOCKS = 160 };

struct kv_shape {
    int n_heads, n_kv_heads, head_dim, rope_dim;
    enum rope_kind kind;
};

/* A batch of ragged sequences over one shuffled pool. */
struct kv_case {
    struct kv_shape shape;
    int n_seqs, n_rows;
    struct kernels_seq seqs[MAX_SEQS];
    int32_t blocks[MAX_BLOCKS];
    float *q, *k, *v; /* [n_rows, heads * head_dim] */
    float *cos_sin;
};

enum { KV_LAYERS = 2, KV_LAYER = 1, MAX_POS = 512 };

static int q_width(const struct kv_case *c) { return c->shape.n_heads * c->shape.head_dim; }
static int kv_width(const struct kv_case *c) { return c->shape.n_kv_heads * c->shape.head_dim; }

/* Sequences of (first_pos, n_rows) pairs. */
static void make_kv_case(struct kv_case *c, const struct kv_shape *shape, const int (*runs)[2], int n_seqs) {
    memset(c, 0, sizeof *c);
    c->shape = *shape;
    c->n_seqs = n_seqs;
    int n_blocks = 0;
    for (int i = 0; i < MAX_BLOCKS; i++) c->blocks[i] = i;
    for (int i = MAX_BLOCKS - 1; i > 0; i--) {
        const int other = random_below(i + 1), kept = c->blocks[i];
        c->blocks[i] = c->blocks[other];
        c->blocks[other] = kept;
    }
    for (int s = 0; s < n_seqs; s++) {
        c->seqs[s] = (struct kernels_seq){
            .first_row = c->n_rows, .n_rows = runs[s][1], .first_pos = runs[s][0], .blocks = c->blocks + n_blocks};
        c->n_rows += runs[s][1];
        n_blocks += (runs[s][0] + runs[s][1] + KV_BLOCK - 1) / KV_BLOCK;
        assert(runs[s][0] + runs[s][1] <= MAX_POS && n_blocks <= MAX_BLOCKS);
    }
    c->q = take(sizeof(float) * (size_t)(c->n_rows * q_width(c)));
    c->k = take(sizeof(float) * (size_t)(c->n_rows * kv_width(c)));
    c->v = take(sizeof(float) * (size_t)(c->n_rows * kv_width(c)));
    fill_floats(c->q, c->n_rows * q_width(c), 3.0f);
    fill_floats(c->k, c->n_rows * kv_width(c), 3.0f);
    fill_floats(c->v, c->n_rows * kv_width(c), 1.0f);
    c->v[0] = 1e-6f; /* a subnormal half */
    c->cos_sin = take(sizeof(float) * (size_t)(MAX_POS * shape->rope_dim));
    for (int p = 0; p < MAX_POS; p++)
        for (int i = 0; i < shape->rope_dim / 2; i++) {
            const double angle = p * pow(10000.0, -2.0 * i / shape->rope_dim);
            c->cos_sin[p * shape->rope_dim + 2 * i] = (float)cos(angle);
            c->cos_sin[p * shape->rope_dim + 2 * i + 1] = (float)sin(angle);
        }
}

static void free_kv_case(struct kv_case *c) {
    free(c->q);
    free(c->k);
    free(c->v);
    free(c->cos_sin);
}

/* All pages are NaN, except for the positions before each run: those hold random halves, the same for each backend. */
static struct kv_pool new_pool(const struct backend *b, const struct kv_case *c) {
    struct kv_pool pool;
    const struct kv_shape *shape = &c->shape;
    const int rc = kv_pool_alloc(b, MAX_BLOCKS, KV_LAYERS, shape->n_kv_heads, shape->head_dim, &pool);
    assert(rc == KERNELS_OK && pool.block_bytes == kv_block_bytes(KV_LAYERS, shape->n_kv_heads, shape->head_dim));
    memset(pool.data, 0xff, pool.block_bytes * MAX_BLOCKS);
    const uint64_t kept = random_state;
    const size_t page = (size_t)KV_BLOCK * (size_t)shape->head_dim; /* halves */
    for (int s = 0; s < c->n_seqs; s++)
        for (int pos = 0; pos < c->seqs[s].first_pos; pos++) {
            uint16_t *block = (uint16_t *)(void *)(pool.data + (size_t)c->seqs[s].blocks[pos / KV_BLOCK] * pool.block_bytes);
            for (int head = 0; head < shape->n_kv_heads; head++) {
                uint16_t *k = block + (size_t)(KV_LAYER * 2 * shape->n_kv_heads + head) * page;
                uint16_t *v = k + (size_t)shape->n_kv_heads * page;
                for (int d = 0; d < shape->head_dim; d++) {
                    k[d * KV_BLOCK + pos % KV_BLOCK] = float_to_half(random_float());
                    v[pos % KV_BLOCK * shape->head_dim + d] = float_to_half(random_float());
                }
            }
        }
    random_state = kept;
    return pool;
}

static struct qkv_view view_of(const struct kv_case *c, float *q) {
    return (struct qkv_view){.q = q,
                             .k = c->k,
                             .v = c->v,
                             .q_stride = q_width(c),
                             .k_stride = kv_width(c),
                             .v_stride = kv_width(c),
                             .n_heads = c->shape.n_heads};
}

/* rope_kv, then attention. q is rotated in place. With one_by_one each row is a call of its own, in the order of the batch. */
static void run_kv(const struct backend *b, const struct kv_case *c, float *q, struct kv_pool *pool, float *out,
                   bool one_by_one) {
    const struct qkv_view qkv = view_of(c, q);
    const float scale = 0.125f;
    if (!one_by_one) {
        b->ops->rope_kv(b->self, &qkv, c->cos_sin, c->shape.kind, c->shape.rope_dim, c->seqs, c->n_seqs, pool, KV_LAYER);
        b->ops->attention(b->self, &qkv, scale, c->seqs, c->n_seqs, pool, KV_LAYER, out, q_width(c));
        return;
    }
    for (int s = 0; s < c->n_seqs; s++)
        for (int i = 0; i < c->seqs[s].n_rows; i++) {
            struct kernels_seq one = c->seqs[s];
            one.first_row += i;
            one.first_pos += i;
            one.n_rows = 1;
            b->ops->rope_kv(b->self, &qkv, c->cos_sin, c->shape.kind, c->shape.rope_dim, &one, 1, pool, KV_LAYER);
            b->ops->attention(b->self, &qkv, scale, &one, 1, pool, KV_LAYER, out, q_width(c));
        }
}

static void check_kv_case(struct kv_case *c) {
    const int cells = c->n_rows * q_width(c);
    const size_t bytes = sizeof(float) * (size_t)cells;
    float *expected_q = take(bytes), *expected = take(bytes), *q = take(bytes), *out = take(bytes);
    struct kv_pool expected_pool = new_pool(&reference, c);
    memcpy(expected_q, c->q, bytes);
    run_kv(&reference, c, expected_q, &expected_pool, expected, true);
    for (int s = 0; s < n_subjects; s++) {
        const struct backend *b = &subjects[s].backend;
        struct kv_pool pool = new_pool(b, c);
        memcpy(q, c->q, bytes);
        memset(out, 0xff, bytes);
        run_kv(b, c, q, &pool, out, false);
        char what[96];
        snprintf(what, sizeof what, "%d/%d heads of %d, %d rows in %d sequences from %d", c->shape.n_heads, c->shape.n_kv_heads,
                 c->shape.head_dim, c->n_rows, c->n_seqs, c->seqs[0].first_pos);
        expect_floats(expected_q, q, cells, subjects[s].name, "rotated queries");
        expect(memcmp(expected_pool.data, pool.data, pool.block_bytes * MAX_BLOCKS) == 0, "%s: the KV pool differs, %s",
               subjects[s].name, what);
        expect_floats(expected, out, cells, subjects[s].name, what);
        kv_pool_free(b, &pool);
    }
    kv_pool_free(&reference, &expected_pool);
    free(expected_q);
    free(expected);
    free(q);
    free(out);
}

static const struct kv_shape kv_shapes[] = {
    {9, 3, 64, 64, ROPE_INTERLEAVED}, {4, 4, 16, 16, ROPE_HALVES},   {8, 1, 32, 16, ROPE_HALVES},
    {4, 2, 20, 10, ROPE_INTERLEAVED}, {8, 2, 128, 128, ROPE_HALVES}, {3, 1, 96, 96, ROPE_INTERLEAVED},
};
enum { N_KV_SHAPES = sizeof kv_shapes / sizeof *kv_shapes };

/* Contexts around the edges of pages and chunks, decode and short runs together. */
static void check_attention(void) {
    begin_op("rope_kv, attention: ragged");
    static const int runs[MAX_SEQS][2] = {{0, 1}, {14, 1}, {15, 1}, {16, 1}, {62, 3}, {63, 1}, {64, 1}, {199, 1}, {57, 9}};
    for (int i = 0; i < N_KV_SHAPES; i++) {
        struct kv_case c;
        make_kv_case(&c, &kv_shapes[i], runs, MAX_SEQS);
        check_kv_case(&c);
        free_kv_case(&c);
    }
    end_op();
    begin_op("rope_kv, attention: one");
    static const int lone[][2] = {{0, 1}, {200, 1}, {0, 80}, {100, 70}, {60, 8}};
    for (int i = 0; i < 5; i++) {
        struct kv_case c;
        make_kv_case(&c, &kv_shapes[i % 2], lone + i, 1);
        if (i == 4) c.v[3 * kv_width(&c)] = INFINITY, c.k[5 * kv_width(&c)] = NAN; /* rows before them must stay finite */
        check_kv_case(&c);
        free_kv_case(&c);
    }
    end_op();
}

static void check_copy_blocks(void) {
    begin_op("copy_blocks");
    for (int s = 0; s < n_subjects; s++) {
        const struct backend *b = &subjects[s].backend;
        struct kv_pool pool;
        const int rc = kv_pool_alloc(b, 4, 1, 1, 8, &pool);
        assert(rc == KERNELS_OK);
        for (int i = 0; i < 4; i++) memset(pool.data + (size_t)i * pool.block_bytes, i + 1, pool.block_bytes);
        const int32_t src[] = {0, 1, 2, 2}, dst[] = {1, 3, 2, 0}; /* in order: 3 gets what came from 0 */
        b->ops->copy_blocks(b->self, &pool, src, dst, 4);
        const uint8_t expected[] = {3, 1, 3, 1};
        for (int i = 0; i < 4; i++)
            expect(pool.data[(size_t)i * pool.block_bytes] == expected[i] &&
                       pool.data[(size_t)(i + 1) * pool.block_bytes - 1] == expected[i],
                   "%s: block %d", subjects[s].name, i);
        kv_pool_free(b, &pool);
    }
    end_op();
}

/* --- the reference against computations in double --- */

static bool near(double a, double b, double tolerance) { return fabs(a - b) <= tolerance * (1 + fabs(b)); }

/* The products' only error beyond float rounding is that of int8 activations: half a step of amax / 127 for each of the columns.
 */
static void check_reference_matmul(void) {
    begin_op("reference: matmul, SwiGLU");
    enum { ROWS = 20, COLS = 128, STRIDE = 32 };
    for (int t = 0; t < DTYPE_COUNT; t++) {
        const enum dtype type = (enum dtype)t;
        uint8_t *src = random_weights(type, ROWS, COLS);
        float x[COLS], w[COLS], out[STRIDE], glu[STRIDE];
        fill_floats(x, COLS, 1.0f);
        struct weight *weight = load(&reference, src, type, ROWS, COLS);
        struct activation in = new_activation(&reference, 1, COLS);
        reference.ops->quantize(reference.self, x, COLS, 1, &in);
        const struct matmul_job job = {.weight = weight, .out = out, .out_stride = STRIDE};
        reference.ops->matmul(reference.self, &job, 1, &in, 1);
        reference.ops->matmul_swiglu(reference.self, weight, weight, &in, 1, glu, STRIDE);
        for (int r = 0; r < ROWS; r++) {
            double sum = 0, size = 0;
            dtype_row_to_float(type, src + (size_t)r * dtype_row_bytes(type, COLS), w, COLS);
            for (int k = 0; k < COLS; k++) sum += (double)w[k] * x[k], size += fabs((double)w[k]);
            const double allowed = size * (dtype_is_quantized(type) ? 0.5 / 127 : 1e-6);
            expect(fabs(sum - out[r]) <= allowed, "%s row %d: %g, not %g", dtype_name(type), r, (double)out[r], sum);
            const double g = out[r], expected = g / (1 + exp(-g)) * g;
            expect(near(glu[r], expected, 1e-5), "SwiGLU of %g: %g, not %g", g, (double)glu[r], expected);
        }
        activation_free(&reference, &in);
        reference.ops->weight_free(reference.self, weight);
        free(src - 1);
    }
    end_op();
}

static void check_reference_norm(void) {
    begin_op("reference: rmsnorm, quantize");
    enum { COLS = 576 };
    float x[COLS], gamma[COLS];
    fill_floats(x, COLS, 5.0f);
    fill_floats(gamma, COLS, 2.0f);
    struct activation a = new_activation(&reference, 1, COLS);
    reference.ops->rmsnorm(reference.self, x, COLS, NULL, gamma, 1e-5f, 1, &a);
    double ss = 0;
    for (int i = 0; i < COLS; i++) ss += (double)x[i] * x[i];
    for (int i = 0; i < COLS; i++) {
        const double expected = x[i] / sqrt(ss / COLS + 1e-5) * gamma[i], step = (double)a.d[i / 32];
        expect(near(a.f[i], expected, 1e-6), "element %d: %g, not %g", i, (double)a.f[i], expected);
        expect(fabs(a.q[i] * step - expected) <= step * 0.5001, "code %d: %g, not %g", i, a.q[i] * step, expected);
    }
    activation_free(&reference, &a);
    end_op();
}

static double half_in_pool(const struct kv_pool *pool, const struct kernels_seq *seq, int pos, int head, int d, bool value) {
    const size_t page = (size_t)(KV_BLOCK * pool->head_dim);
    const uint16_t *at = (const uint16_t *)(const void *)(pool->data + (size_t)seq->blocks[pos / KV_BLOCK] * pool->block_bytes);
    at += (size_t)((KV_LAYER * 2 + value) * pool->n_kv_heads + head) * page;
    const int slot = pos % KV_BLOCK;
    return (double)half_to_float(value ? at[slot * pool->head_dim + d] : at[d * KV_BLOCK + slot]);
}

/* Softmax attention of one head of one row, in double, over the pool's pages. */
static void naive_attention(const struct kv_case *c, const struct kv_pool *pool, const float *q, int row, int head, double *out) {
    const struct kernels_seq *seq = &c->seqs[0];
    const int kv_head = head / (c->shape.n_heads / c->shape.n_kv_heads), dims = c->shape.head_dim, n = seq->first_pos + row + 1;
    double p[MAX_POS], most = -INFINITY, total = 0;
    for (int t = 0; t < n; t++) {
        p[t] = 0;
        for (int d = 0; d < dims; d++)
            p[t] += (double)q[row * q_width(c) + head * dims + d] * half_in_pool(pool, seq, t, kv_head, d, false);
        p[t] *= 0.125;
        most = fmax(most, p[t]);
    }
    for (int t = 0; t < n; t++) total += p[t] = exp(p[t] - most);
    for (int d = 0; d < dims; d++) {
        out[d] = 0;
        for (int t = 0; t < n; t++) out[d] += p[t] / total * half_in_pool(pool, seq, t, kv_head, d, true);
    }
}

static void check_reference_attention(void) {
    begin_op("reference: rope, attention");
    static const int run[1][2] = {{70, 3}};
    for (int i = 0; i < N_KV_SHAPES; i++) {
        struct kv_case c;
        make_kv_case(&c, &kv_shapes[i], run, 1);
        const int cells = c.n_rows * q_width(&c), half = c.shape.rope_dim / 2;
        float *q = take(sizeof(float) * (size_t)cells), *out = take(sizeof(float) * (size_t)cells);
        memcpy(q, c.q, sizeof(float) * (size_t)cells);
        struct kv_pool pool = new_pool(&reference, &c);
        run_kv(&reference, &c, q, &pool, out, false);
        for (int j = 0; j < half; j++) { /* the first head of the first row, at position 70 */
            const int a = c.shape.kind == ROPE_HALVES ? j : 2 * j, b = c.shape.kind == ROPE_HALVES ? j + half : 2 * j + 1;
            const double angle = 70 * pow(10000.0, -2.0 * j / c.shape.rope_dim);
            expect(near(q[a], c.q[a] * cos(angle) - c.q[b] * sin(angle), 1e-5), "rotated dimension %d", a);
            expect(near(q[b], c.q[b] * cos(angle) + c.q[a] * sin(angle), 1e-5), "rotated dimension %d", b);
        }
        for (int row = 0; row < c.n_rows; row++)
            for (int head = 0; head < c.shape.n_heads; head++) {
                double expected[128];
                naive_attention(&c, &pool, q, row, head, expected);
                for (int d = 0; d < c.shape.head_dim; d++)
                    expect(near(out[row * q_width(&c) + head * c.shape.head_dim + d], expected[d], 1e-5), "row %d head %d dim %d",
                           row, head, d);
            }
        kv_pool_free(&reference, &pool);
        free(q);
        free(out);
        free_kv_case(&c);
    }
    end_op();
}

/* --- the thread pool --- */

/* Number of this process's threads that neither run nor wait for a processor. */
static int sleeping_threads(void) {
    int n = 0;
    DIR *folder = opendir("/proc/self/task");
    assert(folder);
    for (struct dirent *entry; (entry = readdir(folder));) {
        char path[300], line[256] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/stat", entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (!file) continue;
        const char *state = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
        n += state && state[2] == 'S';
        fclose(file);
    }
    closedir(folder);
    return n;
}

/* Many short forks with more threads than processors must come to an end, and afterwards the workers must sleep. */
static void check_pool(void) {
    begin_op("thread pool");
    enum { ROWS = 256, COLS = 128, FORKS = 2000, WORKERS = 3 };
    struct backend b;
    char reason[160];
    const int rc = backend_open_cpu(&b, &(struct backend_config){.n_threads = WORKERS + 1}, reason, sizeof reason);
    assert(rc == KERNELS_OK);
    uint8_t *src = random_weights(DTYPE_Q4_0, ROWS, COLS);
    float x[COLS], first[ROWS], out[ROWS];
    fill_floats(x, COLS, 1.0f);
    struct weight *weight = load(&b, src, DTYPE_Q4_0, ROWS, COLS);
    struct activation in = new_activation(&b, 1, COLS);
    b.ops->quantize(b.self, x, COLS, 1, &in);
    for (int i = 0; i < FORKS; i++) {
        const struct matmul_job job = {.weight = weight, .out = i ? out : first, .out_stride = ROWS};
        b.ops->matmul(b.self, &job, 1, &in, 1);
        if (i > 0) expect(memcmp(first, out, sizeof out) == 0, "fork %d gave another result", i);
    }
    int sleeping = 0;
    for (int i = 0; i < 500 && sleeping < WORKERS; i++, usleep(10000)) sleeping = sleeping_threads();
    expect(sleeping >= WORKERS, "only %d of %d workers sleep while nothing is to do", sleeping, WORKERS);
    activation_free(&b, &in);
    b.ops->weight_free(b.self, weight);
    b.ops->close(b.self);
    free(src - 1);
    end_op();
}

/* --- main --- */

static void check_all(void) {
    check_open();
    check_halves();
    check_reference_norm();
    check_reference_matmul();
    check_reference_attention();
    check_embed();
    check_quantize();
    check_rmsnorm();
    for (int type = 0; type < DTYPE_COUNT; type++) check_matmul_type((enum dtype)type);
    check_matmul_jobs();
    check_swiglu();
    check_attention();
    check_copy_blocks();
    check_pool();
}

int main(int argc, char **argv) {
    const char *isa = NULL;
    bool bench = false;
    int threads = 0;
    uint64_t seed = 1;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--bench") == 0)
            bench = true;
        else if (strcmp(argv[i], "--isa") == 0 && value)
            isa = argv[++i];
        else if (strcmp(argv[i], "--threads") == 0 && value)
            threads = (int)strtol(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0 && value)
            seed = strtoull(argv[++i], NULL, 10);
        else {
            fprintf(stderr, "usage: check_kernels [--isa scalar|avx2|avx512] [--seed N] [--bench [--threads N]]\n");
            return 2;
        }
    }
    if (bench) return bench_kernels(isa, threads);
    random_state = seed * 0x9e3779b97f4a7c15ull + 1;
    printf("check_kernels: seed %llu\n", (unsigned long long)seed);
    open_subjects(isa);
    check_all();
    close_subjects();
    printf("check_kernels: %d comparisons, %d failed\n", total_comparisons, total_failures);
    return total_failures || n_subjects == 0;
}
