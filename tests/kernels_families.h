/* kernels_families.h - the operations that only some families of models use: the plain C reference against slow computations in
 * double, and every subject against the reference, rows together against rows alone. Included by check_kernels.c only. */
#ifndef FORESAY_KERNELS_FAMILIES_H
#define FORESAY_KERNELS_FAMILIES_H

#include "tests/kernels_fixture.h"

enum { FAMILY_ROWS = 37, FAMILY_COLS = 200, FAMILY_STRIDE = 208, FAMILY_CELLS = FAMILY_ROWS * FAMILY_STRIDE };

static double gelu(double g) { return 0.5 * g * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * g * g * g))); }

/* Gate and up are both x, by a weight of 1. */
static void run_gelu(const struct backend *b, const float *x, int n, float *out) {
    const float one = 1.0f;
    struct weight *weight = load(b, (const uint8_t *)&one, DTYPE_F32, 1, 1);
    struct activation in = new_activation(b, n, 1);
    b->ops->quantize(b->self, x, 1, n, &in);
    b->ops->matmul_glu(b->self, GLU_GELU, weight, weight, &in, n, out, ROW_GROUP, NULL);
    activation_free(b, &in);
    b->ops->weight_free(b->self, weight);
}

static void check_gelu(void) {
    begin_op("GELU");
    enum { COUNT = 400 };
    static float x[COUNT], want[COUNT * ROW_GROUP], got[COUNT * ROW_GROUP];
    for (int i = 0; i < COUNT; i++) x[i] = (float)(i - COUNT / 2) * 0.0731f;
    run_gelu(&reference, x, COUNT, want);
    for (int i = 0; i < COUNT; i++) {
        const double expected = gelu(x[i]) * (double)x[i], value = (double)want[i * ROW_GROUP];
        expect(fabs(value - expected) <= 1e-6 * (1e-3 + fabs(expected)), "at %g: %g, not %g", (double)x[i], value, expected);
    }
    x[3] = NAN;
    x[5] = INFINITY;
    x[7] = -INFINITY;
    run_gelu(&reference, x, COUNT, want);
    for (int s = 0; s < n_subjects; s++) {
        run_gelu(&subjects[s].backend, x, COUNT, got);
        expect_floats(want, got, COUNT * ROW_GROUP, subjects[s].name, "GELU");
    }
    end_op();
}

static void check_soft_cap(void) {
    begin_op("soft_cap");
    static float x[FAMILY_CELLS], want[FAMILY_CELLS], got[FAMILY_CELLS];
    fill_floats(x, FAMILY_CELLS, 120.0f);
    for (int i = 0; i < FAMILY_COLS; i++) x[i] = (float)(i - 100) * 0.011f;
    memcpy(want, x, sizeof x);
    for (int row = 0; row < FAMILY_ROWS; row++)
        reference.ops->soft_cap(reference.self, want + row * FAMILY_STRIDE, FAMILY_STRIDE, FAMILY_COLS, 30.0f, 1);
    for (int i = 0; i < FAMILY_CELLS; i++) {
        const double expected = i % FAMILY_STRIDE < FAMILY_COLS ? 30 * tanh((double)x[i] / 30) : (double)x[i];
        expect(fabs((double)want[i] - expected) <= 4e-7 * fabs(expected), "of %g: %g, not %g", (double)x[i], (double)want[i],
               expected);
    }
    for (int s = 0; s < n_subjects; s++) {
        const struct backend *b = &subjects[s].backend;
        memcpy(got, x, sizeof x);
        b->ops->soft_cap(b->self, got, FAMILY_STRIDE, FAMILY_COLS, 30.0f, FAMILY_ROWS);
        expect_floats(want, got, FAMILY_CELLS, subjects[s].name, "soft cap");
    }
    end_op();
}

static void check_rmsnorm_add(void) {
    begin_op("rmsnorm_add");
    static float x[FAMILY_CELLS], y[FAMILY_CELLS], gamma[FAMILY_COLS], want[FAMILY_CELLS], got[FAMILY_CELLS];
    fill_floats(x, FAMILY_CELLS, 3.0f);
    fill_floats(y, FAMILY_CELLS, 0.01f);
    fill_floats(gamma, FAMILY_COLS, 2.0f);
    memcpy(want, x, sizeof x);
    for (int row = 0; row < FAMILY_ROWS; row++) {
        const float *y_row = y + row * FAMILY_STRIDE;
        double ss = 0;
        reference.ops->rmsnorm_add(reference.self, y_row, FAMILY_STRIDE, gamma, 1e-5f, FAMILY_COLS, 1, want + row * FAMILY_STRIDE,
                                   FAMILY_STRIDE);
        for (int i = 0; i < FAMILY_COLS; i++) ss += (double)y_row[i] * (double)y_row[i];
        for (int i = 0; i < FAMILY_COLS; i++) {
            const int at = row * FAMILY_STRIDE + i;
            const double expected = (double)x[at] + (double)y_row[i] / sqrt(ss / FAMILY_COLS + 1e-5) * (double)gamma[i];
            expect(fabs((double)want[at] - expected) <= 2e-6, "element %d: %g, not %g", at, (double)want[at], expected);
        }
    }
    for (int s = 0; s < n_subjects; s++) {
        const struct backend *b = &subjects[s].backend;
        memcpy(got, x, sizeof x);
        b->ops->rmsnorm_add(b->self, y, FAMILY_STRIDE, gamma, 1e-5f, FAMILY_COLS, FAMILY_ROWS, got, FAMILY_STRIDE);
        expect_floats(want, got, FAMILY_CELLS, subjects[s].name, "rmsnorm_add");
    }
    end_op();
}

/* The same products with a bias and without: one addition apart. */
static void check_bias(void) {
    begin_op("matmul: bias");
    static float x[FAMILY_ROWS * 32], bias[FAMILY_STRIDE], before[FAMILY_CELLS], plain[FAMILY_CELLS], got[FAMILY_CELLS];
    uint8_t *src = random_weights(DTYPE_Q8_0, FAMILY_COLS, 32);
    fill_floats(x, FAMILY_ROWS * 32, 1.0f);
    fill_floats(bias, FAMILY_COLS, 5.0f);
    fill_floats(before, FAMILY_CELLS, 5.0f);
    for (int s = 0; s < n_subjects; s++) {
        const struct backend *b = &subjects[s].backend;
        struct weight *weight = load(b, src, DTYPE_Q8_0, FAMILY_COLS, 32);
        struct activation in = new_activation(b, FAMILY_ROWS, 32);
        b->ops->quantize(b->self, x, 32, FAMILY_ROWS, &in);
        for (int add = 0; add < 2; add++) {
            struct matmul_job job = {.weight = weight, .out = plain, .out_stride = FAMILY_STRIDE, .add = add};
            memcpy(plain, before, sizeof plain);
            memcpy(got, before, sizeof got);
            b->ops->matmul(b->self, &job, 1, &in, FAMILY_ROWS);
            job.out = got;
            job.bias = bias;
            b->ops->matmul(b->self, &job, 1, &in, FAMILY_ROWS);
            for (int i = 0; i < FAMILY_CELLS; i++) plain[i] += bias[i % FAMILY_STRIDE];
            expect_floats(plain, got, FAMILY_CELLS, subjects[s].name, add ? "bias, added" : "bias");
        }
        activation_free(b, &in);
        b->ops->weight_free(b->self, weight);
    }
    free(src - 1);
    end_op();
}

/* Of each block of a row of n. */
static void expect_maxima(const float *row, int n, const float *maxima, const char *subject) {
    for (int block = 0; block < row_blocks(n); block++) {
        float want = -INFINITY;
        bool is_finite = true;
        for (int i = block * ROW_BLOCK; i < n && i < (block + 1) * ROW_BLOCK; i++) {
            is_finite &= isfinite(row[i]);
            want = row[i] > want ? row[i] : want;
        }
        if (!is_finite) want = NAN;
        expect(same_float(want + 0.0f, maxima[block]), "%s, block %d: %a, not %a", subject, block, (double)maxima[block],
               (double)want);
    }
}

enum { MAXIMA_OUT = 1003, MAXIMA_STRIDE = 1008, MAXIMA_IN = 32, MAXIMA_ROWS = 37, MAXIMA_BLOCKS = MAXIMA_OUT / ROW_BLOCK + 1 };

static void compare_maxima(const struct subject *s, enum dtype type, const float *x, const float *bias, int n) {
    static float want[MAXIMA_ROWS * MAXIMA_STRIDE], got[MAXIMA_ROWS * MAXIMA_STRIDE], beside[MAXIMA_ROWS * MAXIMA_STRIDE];
    const struct backend *b = &s->backend;
    uint8_t *src = random_weights(type, MAXIMA_OUT, MAXIMA_IN);
    struct weight *weight = load(b, src, type, MAXIMA_OUT, MAXIMA_IN);
    struct activation in = new_activation(b, n, MAXIMA_IN);
    float *maxima = take((size_t)((n + 1) * MAXIMA_BLOCKS) * sizeof *maxima);
    struct matmul_job jobs[2] = {{.weight = weight, .out = want, .out_stride = MAXIMA_STRIDE, .bias = bias},
                                 {.weight = weight, .out = beside, .out_stride = MAXIMA_STRIDE, .bias = bias}};
    b->ops->quantize(b->self, x, MAXIMA_IN, n, &in);
    b->ops->matmul(b->self, jobs, 1, &in, n);
    jobs[0].out = got;
    jobs[0].maxima = maxima;
    b->ops->matmul(b->self, jobs, 2, &in, n);
    expect_floats(want, got, n * MAXIMA_STRIDE, s->name, "outputs");
    expect_floats(want, beside, n * MAXIMA_STRIDE, s->name, "outputs beside");
    for (int i = 0; i < n; i++) expect_maxima(got + i * MAXIMA_STRIDE, MAXIMA_OUT, maxima + i * MAXIMA_BLOCKS, s->name);
    expect(maxima[n * MAXIMA_BLOCKS] == 0, "%s wrote too far", s->name);
    free(maxima);
    activation_free(b, &in);
    b->ops->weight_free(b->self, weight);
    free(src - 1);
}

/* Block maxima are those of the finished outputs, and the outputs are those without: a block of zeros, blocks with one value that
 * is not finite, a block whose sum is not although its values are, and a job beside it that has none. */
static void check_maxima(void) {
    begin_op("matmul: maxima");
    static const int counts[] = {1, 5, 16, MAXIMA_ROWS};
    static float x[MAXIMA_ROWS * MAXIMA_IN], bias[MAXIMA_STRIDE];
    fill_floats(x, MAXIMA_ROWS * MAXIMA_IN, 1.0f);
    memset(x + 2 * MAXIMA_IN, 0, MAXIMA_IN * sizeof *x);
    fill_floats(bias, MAXIMA_OUT, 3.0f);
    memset(bias + ROW_BLOCK, 0, ROW_BLOCK * sizeof *bias);
    bias[200] = NAN, bias[256] = INFINITY, bias[383] = -INFINITY, bias[1000] = -NAN, bias[400] = bias[440] = -3e38f;
    for (int s = 0; s < n_subjects; s++) {
        for (int i = 0; i < 4; i++) {
            compare_maxima(&subjects[s], DTYPE_Q8_0, x, bias, counts[i]);
            compare_maxima(&subjects[s], DTYPE_F32, x, bias, counts[i]);
        }
    }
    end_op();
}

/* --- experts --- */

static void check_route(void) {
    begin_op("route");
    enum { EXPERTS = 40, USED = 6, STRIDE = 48 };
    static float logits[FAMILY_ROWS * STRIDE], want[FAMILY_ROWS * USED], got[FAMILY_ROWS * USED];
    static int32_t chosen[FAMILY_ROWS * USED], got_chosen[FAMILY_ROWS * USED];
    for (int normalize = 0; normalize < 2; normalize++) {
        const struct route_spec spec = {.n_experts = EXPERTS, .n_used = USED, .normalize = normalize};
        fill_floats(logits, FAMILY_ROWS * STRIDE, 4.0f);
        logits[7] = logits[30] = logits[12] = 5.0f; /* equals: the lower index first */
        for (int row = 0; row < FAMILY_ROWS; row++) {
            const float *l = logits + row * STRIDE;
            double total = 0, of_chosen = 0;
            reference.ops->route(reference.self, l, STRIDE, &spec, 1, chosen + row * USED, want + row * USED);
            for (int e = 0; e < EXPERTS; e++) total += exp((double)l[e]);
            for (int r = 0; r < USED; r++) {
                const int e = chosen[row * USED + r];
                int rank = 0;
                for (int other = 0; other < EXPERTS; other++) rank += l[other] > l[e] || (l[other] == l[e] && other < e);
                expect(rank == r, "row %d: expert %d has rank %d, not %d", row, e, rank, r);
                of_chosen += exp((double)l[e]);
            }
            for (int r = 0; r < USED; r++) {
                const double share = exp((double)l[chosen[row * USED + r]]) / (normalize ? of_chosen : total);
                expect(fabs((double)want[row * USED + r] - share) <= 1e-6 * share, "row %d: share %g, not %g", row,
                       (double)want[row * USED + r], share);
            }
        }
        for (int s = 0; s < n_subjects; s++) {
            const struct backend *b = &subjects[s].backend;
            b->ops->route(b->self, logits, STRIDE, &spec, FAMILY_ROWS, got_chosen, got);
            expect(memcmp(chosen, got_chosen, sizeof chosen) == 0, "%s chose other experts", subjects[s].name);
            expect_floats(want, got, FAMILY_ROWS * USED, subjects[s].name, "shares");
        }
    }
    for (int i = 0; i < STRIDE; i++) logits[i] = NAN;
    const struct route_spec spec = {.n_experts = EXPERTS, .n_used = USED, .normalize = true};
    for (int s = 0; s < n_subjects; s++) {
        subjects[s].backend.ops->route(subjects[s].backend.self, logits, STRIDE, &spec, 1, got_chosen, got);
        for (int r = 0; r < USED; r++) expect(got_chosen[r] == r, "NaNs chose %d", got_chosen[r]);
    }
    end_op();
}

/* Sizes that fill tiles and that do not, one depth above GEMM_DEPTH, both factors both ways round. */
static void check_gemm(void) {
    begin_op("gemm");
    static const int sizes[][3] = {{1, 1, 1}, {6, 16, 40}, {13, 35, 257}, {100, 17, 600}, {7, 70, 33}};
    for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++) {
        const int m = sizes[z][0], n = sizes[z][1], k = sizes[z][2], stride = n + 3;
        float *a = take((size_t)(m * k) * sizeof *a), *b = take((size_t)(k * n) * sizeof *b);
        float *c = take((size_t)(m * stride) * sizeof *c), *want = take((size_t)(m * stride) * sizeof *c);
        float *got = take((size_t)(m * stride) * sizeof *c), *scratch = take(gemm_scratch_floats(m, n, k) * sizeof *c);
        fill_floats(a, m * k, 1);
        fill_floats(b, k * n, 1);
        fill_floats(c, m * stride, 1);
        for (int way = 0; way < 8; way++) {
            struct gemm_job job = {.m = m, .n = n, .k = k, .a = a, .b = b, .c = got, .c_row = (size_t)stride, .scratch = scratch};
            job.a_row = way & 1 ? 1 : (size_t)k, job.a_col = way & 1 ? (size_t)m : 1;
            job.b_row = way & 2 ? 1 : (size_t)n, job.b_col = way & 2 ? (size_t)k : 1;
            job.add = way & 4;
            memcpy(want, c, (size_t)(m * stride) * sizeof *c);
            for (int i = 0; i < m * n; i++) {
                const size_t row = (size_t)(i / n), col = (size_t)(i % n);
                float sum = job.add ? c[row * (size_t)stride + col] : 0;
                for (size_t at = 0; at < (size_t)k; at++)
                    sum = fmaf(a[row * job.a_row + at * job.a_col], b[at * job.b_row + col * job.b_col], sum);
                want[row * (size_t)stride + col] = sum;
            }
            for (int s = 0; s < n_subjects; s++) {
                memcpy(got, c, (size_t)(m * stride) * sizeof *c);
                subjects[s].backend.ops->gemm(subjects[s].backend.self, &job);
                expect_floats(want, got, m * stride, subjects[s].name, "gemm");
            }
        }
        free(a), free(b), free(c), free(want), free(got), free(scratch);
    }
    end_op();
}

enum { GATHER_COLS = 64 };

static bool has_same_codes(const struct activation *a, int a_row, const struct activation *b, int b_row) {
    const size_t blocks = GATHER_COLS / QUANT_BLOCK, x = (size_t)a_row, y = (size_t)b_row;
    return memcmp(a->q + x * GATHER_COLS, b->q + y * GATHER_COLS, GATHER_COLS) == 0 &&
           memcmp(a->d + x * blocks, b->d + y * blocks, blocks * sizeof *a->d) == 0 &&
           memcmp(a->ds + x * blocks, b->ds + y * blocks, blocks * sizeof *a->ds) == 0 &&
           memcmp(a->sum + x * blocks, b->sum + y * blocks, blocks * sizeof *a->sum) == 0 &&
           memcmp(a->sum16 + x * 2 * blocks, b->sum16 + y * 2 * blocks, 2 * blocks * sizeof *a->sum16) == 0;
}

static void check_combine(void) {
    begin_op("gather, combine");
    enum { USED = 3 };
    static float y[USED * FAMILY_CELLS], x[FAMILY_CELLS], want[FAMILY_CELLS], got[FAMILY_CELLS], share[FAMILY_ROWS * USED];
    static int32_t place[FAMILY_ROWS * USED], rows[FAMILY_ROWS];
    fill_floats(y, USED * FAMILY_CELLS, 1.0f);
    fill_floats(x, FAMILY_CELLS, 1.0f);
    fill_floats(share, FAMILY_ROWS * USED, 1.0f);
    for (int i = 0; i < FAMILY_ROWS * USED; i++) place[i] = random_below(FAMILY_ROWS * USED);
    for (int i = 0; i < FAMILY_ROWS; i++) rows[i] = random_below(FAMILY_ROWS);
    memcpy(want, x, sizeof x);
    for (int i = 0; i < FAMILY_ROWS * FAMILY_COLS; i++) {
        const int row = i / FAMILY_COLS, col = i % FAMILY_COLS, at = row * FAMILY_STRIDE + col;
        float sum = share[row * USED] * y[place[row * USED] * FAMILY_STRIDE + col];
        for (int r = 1; r < USED; r++) sum = fmaf(share[row * USED + r], y[place[row * USED + r] * FAMILY_STRIDE + col], sum);
        want[at] += sum;
    }
    for (int s = 0; s < n_subjects; s++) {
        const struct backend *b = &subjects[s].backend;
        memcpy(got, x, sizeof x);
        b->ops->combine(b->self, y, FAMILY_STRIDE, place, share, USED, FAMILY_COLS, FAMILY_ROWS, got, FAMILY_STRIDE);
        expect_floats(want, got, FAMILY_CELLS, subjects[s].name, "combine");
        struct activation in = new_refined(b, FAMILY_ROWS, GATHER_COLS), out = new_refined(b, FAMILY_ROWS, GATHER_COLS);
        b->ops->quantize(b->self, y, FAMILY_STRIDE, FAMILY_ROWS, &in);
        b->ops->gather(b->self, &in, rows, FAMILY_ROWS, &out);
        for (int i = 0; i < FAMILY_ROWS; i++)
            expect(memcmp(in.f + rows[i] * GATHER_COLS, out.f + i * GATHER_COLS, GATHER_COLS * sizeof *in.f) == 0 &&
                       has_same_codes(&in, rows[i], &out, i) && has_same_codes(in.rest, rows[i], out.rest, i),
                   "%s: gathered row %d differs", subjects[s].name, i);
        activation_free(b, &in);
        activation_free(b, &out);
    }
    end_op();
}

/* --- norms of heads, layers that do not turn --- */

enum { HEADS_DIM = 48, HEADS_Q = 3 };

/* One token at position 5: q after it, and the key as halves. */
static void run_heads(const struct backend *b, const struct rope_spec *rope, const float *in, float *q, float *key) {
    struct kv_pool kv;
    const int32_t block = 0;
    float k[HEADS_DIM], v[HEADS_DIM];
    const struct kernels_seq seq = {.n_rows = 1, .first_pos = 5, .blocks = &block};
    assert(kv_pool_alloc(b, 1, &(struct kv_shape){KV_F16, 1, 1, HEADS_DIM}, &kv) == KERNELS_OK);
    memcpy(q, in, HEADS_Q * HEADS_DIM * sizeof *q);
    memcpy(k, in, sizeof k);
    memcpy(v, in, sizeof v);
    const struct qkv_view qkv = {.q = q, .k = k, .v = v, .n_heads = HEADS_Q};
    b->ops->rope_kv(b->self, &qkv, rope, &seq, 1, &kv, 0);
    const uint16_t *page = (const uint16_t *)(const void *)kv.data;
    for (int i = 0; i < HEADS_DIM; i++) key[i] = half_to_float(page[i * KV_BLOCK + 5]);
    kv_pool_free(b, &kv);
}

static void check_heads(void) {
    begin_op("rope_kv: norms, no turn");
    float in[HEADS_Q * HEADS_DIM], q_norm[HEADS_DIM], k_norm[HEADS_DIM], cos_sin[6 * HEADS_DIM];
    float want[HEADS_Q * HEADS_DIM], got[HEADS_Q * HEADS_DIM], want_key[HEADS_DIM], key[HEADS_DIM];
    fill_floats(in, HEADS_Q * HEADS_DIM, 3.0f);
    fill_floats(q_norm, HEADS_DIM, 2.0f);
    fill_floats(k_norm, HEADS_DIM, 2.0f);
    fill_floats(cos_sin, 6 * HEADS_DIM, 1.0f);
    for (int turns = 0; turns < 2; turns++) {
        const struct rope_spec rope = {.cos_sin = turns ? cos_sin : NULL,
                                       .kind = ROPE_HALVES,
                                       .rope_dim = HEADS_DIM,
                                       .q_norm = q_norm,
                                       .k_norm = k_norm,
                                       .norm_eps = 1e-5f};
        run_heads(&reference, &rope, in, want, want_key);
        for (int i = 0; i < HEADS_Q * HEADS_DIM; i++) {
            const int head = i / HEADS_DIM * HEADS_DIM, pair = i % (HEADS_DIM / 2), half = HEADS_DIM / 2;
            double ss = 0;
            for (int j = 0; j < HEADS_DIM; j++) ss += (double)in[head + j] * (double)in[head + j];
            const double scale = 1 / sqrt(ss / HEADS_DIM + 1e-5);
            const double a = (double)in[head + pair] * scale, b = (double)in[head + pair + half] * scale;
            const double c = turns ? (double)cos_sin[5 * HEADS_DIM + 2 * pair] : 1;
            const double sine = turns ? (double)cos_sin[5 * HEADS_DIM + 2 * pair + 1] : 0;
            const bool low = i % HEADS_DIM < half;
            const double qa = a * (double)q_norm[pair], qb = b * (double)q_norm[pair + half];
            const double expected = low ? qa * c - qb * sine : qb * c + qa * sine;
            expect(near((double)want[i], expected, 2e-6), "q %d: %g, not %g", i, (double)want[i], expected);
            if (i >= HEADS_DIM) continue;
            const double ka = a * (double)k_norm[pair], kb = b * (double)k_norm[pair + half];
            const double expected_key = low ? ka * c - kb * sine : kb * c + ka * sine;
            expect(near((double)want_key[i], expected_key, 1e-3), "k %d: %g, not %g", i, (double)want_key[i], expected_key);
        }
        for (int s = 0; s < n_subjects; s++) {
            run_heads(&subjects[s].backend, &rope, in, got, key);
            expect_floats(want, got, HEADS_Q * HEADS_DIM, subjects[s].name, "q");
            expect_floats(want_key, key, HEADS_DIM, subjects[s].name, "k");
        }
    }
    end_op();
}

static void check_families(void) {
    check_gelu();
    check_soft_cap();
    check_rmsnorm_add();
    check_bias();
    check_maxima();
    check_route();
    check_combine();
    check_gemm();
    check_heads();
}

#endif
