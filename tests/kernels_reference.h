/* kernels_reference.h - the plain C reference against slow and obvious computations in double, with a tolerance. Included by
 * check_kernels.c only. */
#ifndef FORESAY_KERNELS_REFERENCE_H
#define FORESAY_KERNELS_REFERENCE_H

#include "tests/kernels_fixture.h"

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
    const float quiet = half_to_float(0xfc01);
    uint32_t quiet_bits;
    memcpy(&quiet_bits, &quiet, sizeof quiet_bits);
    expect(quiet_bits == 0xffc02000, "a signalling NaN became %#x", quiet_bits);
    expect(isnan(half_to_float(0x7c01)) && (float_to_half(NAN) & 0x7fff) > 0x7c00, "NaN");
    end_op();
}

static bool near(double a, double b, double tolerance) { return fabs(a - b) <= tolerance * (1 + fabs(b)); }

/* Row after row: the weights times x in double. */
static void check_exactness(enum dtype type, const uint8_t *src, int n_rows, const float *x, int n_cols, const float *out,
                            double allowed) {
    float *w = take((size_t)n_cols * sizeof *w);
    for (int r = 0; r < n_rows; r++) {
        double sum = 0, size = 0;
        dtype_row_to_float(type, src + (size_t)r * dtype_row_bytes(type, n_cols), w, n_cols);
        for (int k = 0; k < n_cols; k++) sum += (double)w[k] * x[k], size += fabs((double)w[k]);
        expect(fabs(sum - out[r]) <= size * allowed, "%s row %d: %g, not %g", dtype_name(type), r, (double)out[r], sum);
    }
    free(w);
}

/* The products' only error beyond float rounding is that of int8 activations: half a step of amax / 127 for each of the columns.
 * With a rest, which is half a step at most itself, it is 254 times less. */
static void check_reference_matmul(void) {
    begin_op("reference: matmul, SwiGLU");
    enum { ROWS = 20, MOST_COLS = 512, STRIDE = 32 };
    for (int t = 0; t < DTYPE_COUNT; t++) {
        const enum dtype type = (enum dtype)t;
        const int n_cols = dtype_block_cols(type) > 128 ? MOST_COLS : 128;
        uint8_t *src = random_weights(type, ROWS, n_cols);
        float x[MOST_COLS], out[STRIDE], glu[STRIDE], twice[STRIDE], fine[STRIDE];
        fill_floats(x, n_cols, 1.0f);
        struct weight *weight = load(&reference, src, type, ROWS, n_cols);
        struct activation in = new_activation(&reference, 1, n_cols), refined = new_refined(&reference, 1, n_cols);
        reference.ops->quantize(reference.self, x, n_cols, 1, &in);
        reference.ops->quantize(reference.self, x, n_cols, 1, &refined);
        const struct matmul_job job = {.weight = weight, .out = out, .out_stride = STRIDE};
        const struct matmul_job fine_job = {.weight = weight, .out = fine, .out_stride = STRIDE};
        reference.ops->matmul(reference.self, &fine_job, 1, &refined, 1);
        reference.ops->matmul(reference.self, &job, 1, &in, 1);
        reference.ops->matmul_glu(reference.self, GLU_SILU, weight, weight, &in, 1, glu, STRIDE, NULL);
        memcpy(twice, out, sizeof twice);
        reference.ops->matmul(reference.self,
                              &(struct matmul_job){.weight = weight, .out = twice, .out_stride = STRIDE, .add = true}, 1, &in, 1);
        for (int r = 0; r < ROWS; r++) {
            expect(same_float(twice[r], out[r] + out[r]), "%s row %d added to itself: %g", dtype_name(type), r, (double)twice[r]);
            const double g = out[r], expected = g / (1 + exp(-g)) * g;
            expect(near(glu[r], expected, 1e-5), "SwiGLU of %g: %g, not %g", g, (double)glu[r], expected);
        }
        const double step = dtype_is_quantized(type) ? 0.5 / 127 : 0;
        check_exactness(type, src, ROWS, x, n_cols, out, step + 1e-6);
        check_exactness(type, src, ROWS, x, n_cols, fine, step / 254 + 1e-6);
        activation_free(&reference, &in);
        activation_free(&reference, &refined);
        reference.ops->weight_free(reference.self, weight);
        free(src - 1);
    }
    end_op();
}

/* x * silu(x) over the range of the exponential: a weight of 1 makes gate and up equal to x. */
static void check_reference_exp(void) {
    begin_op("reference: exp in SwiGLU");
    enum { COUNT = 512 };
    const float one = 1.0f;
    float x[COUNT], out[COUNT * ROW_GROUP];
    for (int i = 0; i < COUNT; i++) x[i] = (float)(i - COUNT / 2) * 0.37f;
    struct weight *weight = load(&reference, (const uint8_t *)&one, DTYPE_F32, 1, 1);
    struct activation in = new_activation(&reference, COUNT, 1);
    reference.ops->quantize(reference.self, x, 1, COUNT, &in);
    reference.ops->matmul_glu(reference.self, GLU_SILU, weight, weight, &in, COUNT, out, ROW_GROUP, NULL);
    for (int i = 0; i < COUNT; i++) {
        const double expected = (double)x[i] * x[i] / (1 + exp(-(double)x[i])), got = (double)out[i * ROW_GROUP];
        expect(fabs(got - expected) <= 4e-7 * expected + 1e-30, "at %g: %g, not %g", (double)x[i], got, expected);
    }
    activation_free(&reference, &in);
    reference.ops->weight_free(reference.self, weight);
    end_op();
}

/* Rows of ordinary size and of the size of eps, against double. */
static void check_norm_row(struct activation *a, float scale) {
    enum { COLS = 576 };
    float x[COLS], gamma[COLS];
    fill_floats(x, COLS, scale);
    fill_floats(gamma, COLS, 2.0f);
    reference.ops->rmsnorm(reference.self, x, COLS, NULL, gamma, 1e-5f, 1, a);
    double ss = 0;
    for (int i = 0; i < COLS; i++) ss += (double)x[i] * x[i];
    for (int i = 0; i < COLS; i++) {
        const double expected = x[i] / sqrt(ss / COLS + (double)1e-5f) * gamma[i], step = (double)a->d[i / 32];
        expect(near(a->f[i], expected, 1e-6), "element %d: %g, not %g", i, (double)a->f[i], expected);
        expect(fabs(a->q[i] * step - expected) <= step * 0.5001, "code %d: %g, not %g", i, a->q[i] * step, expected);
    }
}

static void check_reference_norm(void) {
    begin_op("reference: rmsnorm, quantize");
    struct activation a = new_activation(&reference, 1, 576);
    check_norm_row(&a, 5.0f);
    check_norm_row(&a, 0.003f);
    activation_free(&reference, &a);
    static const struct {
        float value;
        double d;
        int q;
    } edges[] = {
        {0.9e-30f, 0, 0}, {1.1e-30f, 1.1e-30 / 127, 127}, {NAN, (double)NAN, 0}, {-INFINITY, (double)NAN, 0}, {-127, 1, -127}};
    a = new_activation(&reference, 1, QUANT_BLOCK);
    for (int i = 0; i < 5; i++) {
        float x[QUANT_BLOCK] = {0};
        x[7] = edges[i].value;
        reference.ops->quantize(reference.self, x, QUANT_BLOCK, 1, &a);
        const bool d_ok = isnan(edges[i].d) ? isnan(a.d[0]) && isnan(a.ds[0]) : fabs(a.d[0] - edges[i].d) <= 1e-6 * edges[i].d;
        expect(d_ok && a.q[7] == edges[i].q && a.sum[0] == edges[i].q, "block of %g: d %g, q %d", (double)edges[i].value,
               (double)a.d[0], a.q[7]);
    }
    activation_free(&reference, &a);
    end_op();
}

static void check_reference(void) {
    check_halves();
    check_reference_norm();
    check_reference_matmul();
    check_reference_exp();
}

#endif
