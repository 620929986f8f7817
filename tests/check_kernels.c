/* check_kernels.c - every instruction set and thread count against the plain C reference, bit by bit; with --bench the speed,
 * of a model's operations and then of every type (the latter alone with --bench-types).
 *
 * usage: check_kernels [--isa scalar|avx2|avxvnni|avx512|amx[,...]] [--seed N]
 *                      [--bench [--threads N] [--kv-type f16|int8|int4]] [--bench-types [--threads N] [--type T]]
 *
 *  (1) What is expected always comes from the scalar backend with one thread and one row a call. So each comparison checks
 *      instruction set, thread count, batch size and place in the batch at once. Bits must be equal, except that any NaN
 *      equals any NaN.
 *  (2) The reference itself is held against plain computations in double, with a tolerance (kernels_reference.h).
 *  (3) Random input is made from --seed, which is printed. Sizes are small, so that the whole also runs under the sanitizers.
 * Exit status 1 if anything differs. */
#include "tests/bench_kernels.h"
#include "tests/bench_types.h"
#include "tests/kernels_fixture.h"
#include "tests/kernels_reference.h"

#include <dirent.h>
#include <unistd.h>

/* --- the subjects --- */

enum { MAX_SUBJECTS = 16, MAX_N = 512 };

struct subject {
    struct backend backend;
    char name[24];
};

static struct subject subjects[MAX_SUBJECTS];
static int n_subjects;

/* Whether a list, its names parted by commas, names it; no list names all. */
static bool is_named(const char *list, const char *name) {
    const size_t len = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, name, len) == 0 && (at[len] == ',' || at[len] == 0)) return true;
    return !list;
}

static void open_subjects(const char *isa_list) {
    static const char *const isas[] = {"scalar", "avx2", "avxvnni", "avx512", "amx"};
    char reason[160];
    int rc = backend_open_cpu(&reference, &(struct backend_config){.isa = "scalar", .n_threads = 1}, reason, sizeof reason);
    assert(rc == KERNELS_OK);
    for (int i = 0; i < 5; i++) {
        if (!is_named(isa_list, isas[i])) continue;
        /* Plain C is slow, and its arithmetic is what is expected: only batches and threads are to be shown. */
        const bool is_reference = i == 0;
        for (int threads = is_reference ? 2 : 1; threads <= (is_reference ? 2 : 3); threads++) {
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
    expect(reference.ops->weight_load(reference.self, bytes, DTYPE_Q6_K, 1, 128, &weight) == KERNELS_ERR_DTYPE,
           "128 columns of Q6_K");
    expect(reference.ops->weight_load(reference.self, bytes, DTYPE_COUNT, 1, 32, &weight) == KERNELS_ERR_DTYPE, "unknown type");
    expect(reference.ops->weight_load(reference.self, bytes, DTYPE_F32, 0, 8, &weight) == KERNELS_ERR_DTYPE, "no rows");
    const void *const pair[2] = {bytes, bytes};
    const enum dtype types[2] = {DTYPE_F32, DTYPE_Q4_1};
    struct weight *out[2];
    expect(reference.ops->weight_load_pair(reference.self, pair, types, 1, 48, out) == KERNELS_ERR_DTYPE, "second of a pair");
    reference.ops->weight_free(reference.self, NULL);
    struct kv_pool pool;
    expect(kv_pool_alloc(&reference, 1, &(struct kv_shape){KV_F16, 1, 1, 100000}, &pool) == KERNELS_ERR_DTYPE, "head_dim 100000");
    expect(kv_pool_alloc(&reference, 1, &(struct kv_shape){KV_INT8, 1, 1, 20}, &pool) == KERNELS_ERR_DTYPE, "int8 heads of 20");
    expect(kv_pool_alloc(&reference, 1, &(struct kv_shape){KV_INT4, 1, 1, 80}, &pool) == KERNELS_ERR_DTYPE, "int4 heads of 80");
    struct activation activation;
    expect(activation_alloc(&reference, 1, 40, false, true, &activation) == KERNELS_ERR_DTYPE, "int8 activations of 40 columns");
    end_op();
}

/* --- memory --- */

/* Zeroed and aligned on both sides of the size from which memory is mapped in huge pages. */
static void check_alloc(void) {
    begin_op("alloc");
    static const size_t sizes[] = {0, 1, 100, 4096, (2 << 20) - 1, 2 << 20, (5 << 20) + 3};
    for (int i = 0; i < 7; i++) {
        uint8_t *memory = reference.ops->alloc(reference.self, sizes[i]);
        expect(memory && (uintptr_t)memory % 64 == 0, "%zu bytes at %p", sizes[i], (void *)memory);
        size_t dirty = 0;
        for (size_t b = 0; memory && b < sizes[i]; b++) dirty += memory[b] != 0;
        expect(dirty == 0, "%zu of %zu bytes are not zero", dirty, sizes[i]);
        if (memory) memset(memory, 0xff, sizes[i]);
        reference.ops->free(reference.self, memory, sizes[i]);
    }
    expect(!reference.ops->alloc(reference.self, SIZE_MAX / 4), "a quarter of the address space was granted");
    end_op();
}

/* --- weights --- */

/* embed gives the floats of the file's rows, although it reads the repacked ones. */
static void check_embed(void) {
    begin_op("embed");
    enum { ROWS = 37, MOST_COLS = 512 };
    float *expected = take(sizeof(float) * ROWS * MOST_COLS), *got = take(sizeof(float) * ROWS * MOST_COLS);
    for (int t = 0; t < DTYPE_COUNT; t++) {
        const enum dtype type = (enum dtype)t;
        const int n_cols = dtype_block_cols(type) > 96 ? MOST_COLS : 96;
        uint8_t *src = random_weights(type, ROWS, n_cols);
        int32_t tokens[ROWS];
        for (int i = 0; i < ROWS; i++) {
            tokens[i] = random_below(ROWS);
            dtype_row_to_float(type, src + (size_t)tokens[i] * dtype_row_bytes(type, n_cols), expected + i * n_cols, n_cols);
        }
        for (int s = 0; s < n_subjects; s++) {
            const struct backend *b = &subjects[s].backend;
            struct weight *weight = load(b, src, type, ROWS, n_cols);
            b->ops->embed(b->self, weight, tokens, ROWS, 1, got, n_cols);
            expect_floats(expected, got, ROWS * n_cols, subjects[s].name, dtype_name(type));
            b->ops->weight_free(b->self, weight);
        }
        free(src - 1);
    }
    free(expected);
    free(got);
    end_op();
}

/* --- activations --- */

static void expect_activation(const struct activation *expected, int row, const struct activation *got, int got_row,
                              const char *subject) {
    const int n_cols = expected->n_cols, blocks = n_cols / QUANT_BLOCK;
    expect_floats(expected->f + row * n_cols, got->f + got_row * n_cols, n_cols, subject, "floats");
    if (!expected->q) return;
    expect(memcmp(expected->q + row * n_cols, got->q + got_row * n_cols, (size_t)n_cols) == 0, "%s: codes of row %d", subject,
           row);
    expect_floats(expected->d + row * blocks, got->d + got_row * blocks, blocks, subject, "d");
    expect_floats(expected->ds + row * blocks, got->ds + got_row * blocks, blocks, subject, "ds");
    expect(memcmp(expected->sum + row * blocks, got->sum + got_row * blocks, (size_t)blocks * 4) == 0 &&
               memcmp(expected->sum16 + row * 2 * blocks, got->sum16 + got_row * 2 * blocks, (size_t)blocks * 8) == 0,
           "%s: sums of row %d", subject, row);
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
        if (one.q) one.sum16 += i * (n_cols / 16);
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

static const int row_cols[] = {8, 17, 32, 40, 96, 576, 1088, 1536}; /* those that are no multiple of 32 have floats only */
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
    bool pair;        /* and their weights are loaded as such, where that is looked at */
    bool rest;        /* activations have one */
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
    struct activation in = c->rest ? new_refined(b, n, c->n_cols) : new_activation(b, n, c->n_cols);
    b->ops->quantize(b->self, data->x + first * c->n_cols, c->n_cols, n, &in);
    struct matmul_job jobs[MOST_JOBS];
    for (int j = 0; j < c->n_jobs; j++)
        jobs[j] = (struct matmul_job){.weight = weights[j], .out = out[j], .out_stride = stride_of(c, j), .add = c->add};
    if (c->swiglu)
        b->ops->matmul_glu(b->self, GLU_SILU, weights[0], weights[1], &in, n, out[0], stride_of(c, 0), NULL);
    else
        b->ops->matmul(b->self, jobs, c->n_jobs, &in, n);
    activation_free(b, &in);
}

static void load_all(const struct backend *b, const struct matmul_case *c, const struct matmul_data *data,
                     struct weight **weights) {
    if (c->pair && b != &reference) {
        const void *const src[2] = {data->src[0], data->src[1]};
        const int rc = b->ops->weight_load_pair(b->self, src, c->types, c->n_rows[0], c->n_cols, weights);
        assert(rc == KERNELS_OK);
        return;
    }
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

/* A GLU once more, its result at once in int8. out: scratch */
static void expect_glu_int8(const struct subject *s, const struct matmul_case *c, const struct matmul_data *data,
                            struct weight *const *weights, float *out) {
    const struct backend *b = &s->backend;
    if (c->n_rows[0] % QUANT_BLOCK != 0) return;
    struct activation in = c->rest ? new_refined(b, c->n, c->n_cols) : new_activation(b, c->n, c->n_cols);
    struct activation to = new_int8(b, c->n, c->n_rows[0]);
    b->ops->quantize(b->self, data->x, c->n_cols, c->n, &in);
    b->ops->matmul_glu(b->self, GLU_SILU, weights[0], weights[1], &in, c->n, out, stride_of(c, 0), &to);
    expect_int8(data->expected[0], stride_of(c, 0), c->n, &to, s->name, "GLU to int8");
    activation_free(b, &in);
    activation_free(b, &to);
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
    if (c->swiglu) expect_glu_int8(s, c, data, weights, out[0]);
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
    const int wide = suit_cols(type, dtype_is_quantized(type) ? 288 : 33), tall = suit_cols(type, 96);
    char name[32];
    snprintf(name, sizeof name, "matmul %s", dtype_name(type));
    begin_op(name);
    for (int i = 0; i < 11; i++) {
        struct matmul_case c = {.n_jobs = 1,
                                .types = {type},
                                .n_rows = {rows[i % 5]},
                                .n_cols = suit_cols(type, cols[i % 4]),
                                .n = counts[i],
                                .add = i & 1};
        check_matmul_case(&c);
        c.n_rows[0] = rows[(i + 2) % 5];
        c.n_cols = dtype_is_quantized(type) ? wide : wide + i;
        check_matmul_case(&c);
        c.rest = true;
        check_matmul_case(&c);
    }
    check_matmul_case(&(struct matmul_case){.n_jobs = 1, .types = {type}, .n_rows = {80}, .n_cols = tall, .n = 512});
    end_op();
}

/* Several weights in one call, of different types and sizes; the boundaries between threads then fall inside and between jobs. */
static void check_matmul_jobs(void) {
    begin_op("matmul, three jobs");
    static const int counts[] = {1, 5, 16, 37};
    for (int i = 0; i < 4; i++) {
        check_matmul_case(&(struct matmul_case){.n_jobs = 3,
                                                .types = {DTYPE_Q4_K, DTYPE_Q6_K, DTYPE_Q5_0},
                                                .n_rows = {112, 33 + i, 65},
                                                .n_cols = 256,
                                                .n = counts[i],
                                                .add = i & 1});
        check_matmul_case(&(struct matmul_case){.n_jobs = 3,
                                                .types = {DTYPE_Q4_1, DTYPE_Q8_0, DTYPE_F16},
                                                .n_rows = {112, 40 + i, 65},
                                                .n_cols = 192,
                                                .n = counts[i],
                                                .add = i & 1});
    }
    end_op();
}

static void check_swiglu(void) {
    begin_op("matmul_swiglu");
    static const int counts[] = {1, 2, 7, 16, 40};
    for (int type = 0; type < DTYPE_COUNT; type++)
        for (int i = 0; i < 5; i++) {
            struct matmul_case c = {.n_jobs = 2, .n_cols = suit_cols((enum dtype)type, 96), .n = counts[i], .swiglu = true};
            c.n_rows[0] = c.n_rows[1] = i % 2 ? 100 : 416; /* the latter: whole blocks of int8 */
            c.types[0] = c.types[1] = (enum dtype)type;
            check_matmul_case(&c);
            c.pair = true;
            check_matmul_case(&c);
            c.types[1] = dtype_is_quantized(c.types[0]) ? DTYPE_Q8_0 : DTYPE_F32;
            c.rest = i & 1;
            check_matmul_case(&c);
        }
    end_op();
}

/* --- block copies --- */

static void check_copy_blocks(void) {
    begin_op("copy_blocks");
    for (int s = 0; s < n_subjects; s++) {
        const struct backend *b = &subjects[s].backend;
        struct kv_pool pool;
        const int rc = kv_pool_alloc(b, 4, &(struct kv_shape){KV_F16, 1, 1, 8}, &pool);
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

enum { MOST_TASKS = 1000 };

struct task_counts {
    int n;
    _Atomic int n_done, runs[MOST_TASKS];
    _Atomic bool waited_too_long;
};

/* Task 0 holds its thread until all others are done, those of its own range too. */
static void count_task(const void *arg, int i) {
    struct task_counts *counts = *(struct task_counts *const *)arg;
    for (int ms = 0; i == 0 && counts->n_done < counts->n - 1 && !counts->waited_too_long; ms++) {
        usleep(1000);
        counts->waited_too_long = ms > 20000;
    }
    counts->runs[i]++;
    counts->n_done++;
}

/* Every task runs once, also where the thread that it was meant for is held up. */
static void check_shared_tasks(const struct backend *b) {
    static const int sizes[] = {2, 3, 4, 5, 17, MOST_TASKS};
    static struct task_counts counts;
    struct task_counts *to = &counts;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        memset(&counts, 0, sizeof counts);
        counts.n = sizes[s];
        b->ops->parallel(b->self, counts.n, count_task, &to);
        expect(!counts.waited_too_long, "of %d tasks only %d ran beside the first", counts.n, counts.n_done - 1);
        for (int i = 0; i < MOST_TASKS; i++)
            expect(counts.runs[i] == (i < counts.n), "task %d of %d ran %d times", i, counts.n, counts.runs[i]);
    }
}

/* Many short forks with more threads than processors must come to an end, and afterwards the workers must sleep. */
static void check_pool(void) {
    begin_op("thread pool");
    enum { ROWS = 256, COLS = 128, FORKS = 2000, WORKERS = 3 };
    struct backend b;
    char reason[160];
    const int rc = backend_open_cpu(&b, &(struct backend_config){.n_threads = WORKERS + 1}, reason, sizeof reason);
    assert(rc == KERNELS_OK);
    check_shared_tasks(&b);
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

/* They use the subjects. */
#include "tests/kernels_attention.h"
#include "tests/kernels_families.h"
#include "tests/kernels_trees.h"

/* --- main --- */

static void check_all(void) {
    check_open();
    check_alloc();
    check_reference();
    check_embed();
    check_quantize();
    check_rmsnorm();
    for (int type = 0; type < DTYPE_COUNT; type++) check_matmul_type((enum dtype)type);
    check_matmul_jobs();
    check_swiglu();
    check_families();
    check_attention();
    check_trees();
    check_copy_blocks();
    check_pool();
}

int main(int argc, char **argv) {
    const char *isa = NULL, *only_type = NULL;
    bool bench = false, types = false;
    int threads = 0;
    enum kv_type type = KV_F16;
    uint64_t seed = 1;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--bench") == 0)
            bench = true;
        else if (strcmp(argv[i], "--bench-types") == 0)
            types = true;
        else if (strcmp(argv[i], "--isa") == 0 && value)
            isa = argv[++i];
        else if (strcmp(argv[i], "--threads") == 0 && value)
            threads = (int)strtol(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--type") == 0 && value)
            only_type = argv[++i];
        else if (strcmp(argv[i], "--kv-type") == 0 && kv_type_parse(value, &type))
            i++;
        else if (strcmp(argv[i], "--seed") == 0 && value)
            seed = strtoull(argv[++i], NULL, 10);
        else {
            fprintf(stderr, "usage: check_kernels [--isa scalar|avx2|avxvnni|avx512|amx[,...]] [--seed N]\n"
                            "                     [--bench [--threads N] [--kv-type f16|int8|int4]]\n"
                            "                     [--bench-types [--threads N] [--type T]]\n");
            return 2;
        }
    }
    if (bench && bench_kernels(isa, threads, type)) return 1;
    if (bench || types) return bench_types(isa, threads, only_type);
    random_state = seed * 0x9e3779b97f4a7c15ull + 1;
    printf("check_kernels: seed %llu\n", (unsigned long long)seed);
    open_subjects(isa);
    check_all();
    close_subjects();
    printf("check_kernels: %d comparisons, %d failed\n", total_comparisons, total_failures);
    return total_failures || n_subjects == 0;
}
