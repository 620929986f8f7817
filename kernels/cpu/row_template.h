/* row_template.h - inner functions over one row, in plain C. Compiled once per instruction set: by reference.c, where it is
 * the definition, and by kernels_avx2.c and kernels_avx512.c, where the compiler vectorises the same operations, but for those
 * that quantize_template.h and exp_template.h write out.
 *
 *  (1) Every rounding is written down. fmaf is one rounding, and the build forbids contraction of anything else, so that all
 *      instruction sets give the same bits.
 *  (2) Sums that could be ordered in several ways have 16 partial sums (element i goes to i mod 16) and end in one tree: 8 +
 *      8, 4 + 4, 2 + 2, 1 + 1. Maxima are taken over integers, where order does not matter, not even with NaNs.
 *  (3) No branch depends on a value inside a loop over elements; a choice is a select, between results of much work one of
 *      masks: the compiler makes a branch of `a ? work : 0`, and then the loop is scalar (-fopt-info-vec-missed shows it). */
#ifndef FORESAY_KERNELS_ROW_TEMPLATE_H
#define FORESAY_KERNELS_ROW_TEMPLATE_H

#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>
#if defined(__F16C__)
#include <immintrin.h>
#endif
#if defined(__AVX2__)
#include "kernels/cpu/quantize_template.h"
#endif

#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))
#endif

enum { LANES = 16 };

INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Adding it to |x| < 2^22 rounds x to the nearest even integer; the integer then stands in the low bits. */
#define ROUNDER      12582912.0f /* 1.5 * 2^23 */
#define ROUNDER_BITS 0x4b400000u

/* e^x to 1 ulp or so. x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts; a polynomial for e^r (Cephes' coefficients); times
 * 2^n through the exponent bits. Above 88.37 it stays at 2^127.5; below -87.33, where the result would be subnormal, it is 0. NaN
 * gives NaN. */
INLINE float exp_row(float x) {
    const float highest = 88.37f, lowest = -87.33f;
    const float bounded = highest < x ? highest : x;
    const float clamped = lowest > bounded ? lowest : bounded;
    const float rounded = fmaf(clamped, 1.44269504f, ROUNDER);
    const float n = rounded - ROUNDER;
    const float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, clamped));
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    const float e_r = fmaf(p, r * r, r) + 1.0f;
    const float power = float_of((bits_of(rounded) << 23) + 0x3f800000u); /* the rounder's own bits fall out at the top */
    const float result = e_r * power;
    return float_of(bits_of(result) & (x < lowest ? 0u : UINT32_MAX));
}

/* tanh to 1 ulp or so: Cephes' odd polynomial near 0, 1 - 2 / (e^2|x| + 1) beyond. NaN gives NaN. */
INLINE float tanh_row(float x) {
    const float magnitude = float_of(bits_of(x) & 0x7fffffffu), z = x * x;
    float p = -5.70498872745e-3f;
    p = fmaf(p, z, 2.06390887954e-2f);
    p = fmaf(p, z, -5.37397155531e-2f);
    p = fmaf(p, z, 1.33314422036e-1f);
    p = fmaf(p, z, -3.33332819422e-1f);
    const float near = fmaf(p * z, x, x);
    const float far = 1.0f - 2.0f / (exp_row(2.0f * magnitude) + 1.0f);
    const uint32_t far_bits = bits_of(far) | (bits_of(x) & 0x80000000u), is_near = magnitude < 0.625f ? UINT32_MAX : 0u;
    return float_of((bits_of(near) & is_near) | (far_bits & ~is_near));
}

INLINE float lane_tree(float *lane) {
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) lane[i] += lane[i + width];
    return lane[0];
}

/* --- norm and quantisation --- */

INLINE float sum_of_squares(const float *x, int n) {
    float lane[LANES] = {0};
    int i = 0;
#if defined(__AVX2__) /* left to gcc, these are sixteen scalars */
    vfloat sum[LANES / VECTOR_LANES] = {vf_zero()};
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES / VECTOR_LANES; j++) {
            const vfloat v = vf_load(x + i + j * VECTOR_LANES);
            sum[j] = vf_fma(v, v, sum[j]);
        }
    for (int j = 0; j < LANES / VECTOR_LANES; j++) vf_store(lane + j * VECTOR_LANES, sum[j]);
#endif
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] = fmaf(x[i + l], x[i + l], lane[l]);
    for (int l = 0; i + l < n; l++) lane[l] = fmaf(x[i + l], x[i + l], lane[l]);
    return lane_tree(lane);
}

/* One block of 32 to int8, as kernels.h says at struct activation. */
INLINE void quantize_block(const float *x, int8_t *q, float *d, float *ds, int32_t *sum, int32_t *sum16) {
    uint32_t amax_bits = 0;
    for (int i = 0; i < QUANT_BLOCK; i++) {
        const uint32_t magnitude = bits_of(x[i]) & 0x7fffffffu;
        amax_bits = magnitude > amax_bits ? magnitude : amax_bits;
    }
    const float amax = float_of(amax_bits);
    if (amax_bits >= 0x7f800000u || amax < 1e-30f) { /* an infinity or a NaN; or nothing worth a scale */
        memset(q, 0, QUANT_BLOCK);
        *d = *ds = amax_bits >= 0x7f800000u ? NAN : 0.0f;
        *sum = sum16[0] = sum16[1] = 0;
        return;
    }
    const float inverse = 127.0f / amax;
    for (int h = 0; h < 2; h++) {
        int32_t half = 0;
        for (int i = h * QUANT_BLOCK / 2; i < (h + 1) * QUANT_BLOCK / 2; i++) {
            const int32_t nearest = (int32_t)(bits_of(x[i] * inverse + ROUNDER) - ROUNDER_BITS);
            q[i] = (int8_t)nearest;
            half += nearest;
        }
        sum16[h] = half;
    }
    const int32_t total = sum16[0] + sum16[1];
    *d = amax / 127.0f;
    *ds = *d * (float)total;
    *sum = total;
}

/* x: n blocks, of which the first is block `at` of the row. */
INLINE void quantize_one_by_one(const float *x, int n, int at, const struct activation_row *out) {
    for (; n > 0; n--, at++, x += QUANT_BLOCK)
        quantize_block(x, out->q + at * QUANT_BLOCK, out->d + at, out->ds + at, out->sum + at, out->sum16 + 2 * at);
}

INLINE void quantize_blocks(const float *x, int n, int at, const struct activation_row *out) {
#if defined(__AVX2__)
    if (n >= QUANT_RUN) {
        for (int i = 0; i < n; i += QUANT_RUN) {
            const int b = i <= n - QUANT_RUN ? i : n - QUANT_RUN, to = at + b;
            const float *run = x + b * QUANT_BLOCK;
            if (!quantize_run(run, out->q + to * QUANT_BLOCK, out->d + to, out->ds + to, out->sum + to, out->sum16 + 2 * to))
                quantize_one_by_one(run, QUANT_RUN, to, out);
        }
        return;
    }
#endif
    quantize_one_by_one(x, n, at, out);
}

#if defined(__AVX2__)
/* Rows of few blocks share runs: block i of them all is block i % n_blocks of row i / n_blocks. */
INLINE void quantize_scattered(const float *x, int n_rows, int n_blocks, const struct activation *out, int first_row,
                               int first_block) {
    struct quantized_run run;
    int row = 0, block = 0; /* of what is taken next */
    for (int first = 0, n = n_rows * n_blocks; first < n; first += QUANT_RUN) {
        const int length = n - first < QUANT_RUN ? n - first : QUANT_RUN;
        const bool done = quantize_to_run(x + first * QUANT_BLOCK, length, &run);
        for (int i = 0, n_same; i < length; i += n_same) {
            const struct activation_row to = activation_row_at(out, first_row + row);
            n_same = n_blocks - block < length - i ? n_blocks - block : length - i;
            if (done)
                take_blocks(&run, i, n_same, first_block + block, &to);
            else
                quantize_one_by_one(x + (first + i) * QUANT_BLOCK, n_same, first_block + block, &to);
            block += n_same;
            if (block == n_blocks) block = 0, row++;
        }
    }
}
#endif

static void quantize_row(const float *x, int n_cols, const struct activation_row *out) {
    if (out->f) memcpy(out->f, x, (size_t)n_cols * sizeof *x);
    if (out->q) quantize_blocks(x, n_cols / QUANT_BLOCK, 0, out);
}

/* What the codes of a row have left of it; made in the rest's own floats. */
static void rest_row(const struct activation_row *of, int n_cols, const struct activation_row *rest) {
    for (int block = 0; block < n_cols / QUANT_BLOCK; block++) {
        const float *x = of->f + block * QUANT_BLOCK, d = of->d[block];
        const int8_t *q = of->q + block * QUANT_BLOCK;
        float *left = rest->f + block * QUANT_BLOCK;
        for (int i = 0; i < QUANT_BLOCK; i++) left[i] = x[i] - d * (float)q[i];
    }
    quantize_blocks(rest->f, n_cols / QUANT_BLOCK, 0, rest);
}

static void quantize_tile(const float *x, int n_rows, int n_blocks, const struct activation *out, int first_row,
                          int first_block) {
#if defined(__AVX2__)
    quantize_scattered(x, n_rows, n_blocks, out, first_row, first_block);
#else
    for (int row = 0; row < n_rows; row++) {
        const struct activation_row to = activation_row_at(out, first_row + row);
        quantize_one_by_one(x + row * n_blocks * QUANT_BLOCK, n_blocks, first_block, &to);
    }
#endif
}

static void rmsnorm_row(const float *x, const float *gamma, float eps, int n_cols, const struct activation_row *out) {
    enum { PIECE = 1024 };
    const float scale = 1.0f / sqrtf(sum_of_squares(x, n_cols) / (float)n_cols + eps);
    if (out->f)
        for (int i = 0; i < n_cols; i++) out->f[i] = x[i] * scale * gamma[i];
    if (!out->q) return;
    for (int first = 0; first < n_cols; first += PIECE) {
        float y[PIECE];
        const int n = n_cols - first < PIECE ? n_cols - first : PIECE;
        for (int i = 0; i < n; i++) y[i] = x[first + i] * scale * gamma[first + i];
        quantize_blocks(y, n / QUANT_BLOCK, first / QUANT_BLOCK, out);
    }
}

static void rmsnorm_add_row(const float *y, const float *gamma, float eps, int n_cols, float *x) {
    const float scale = 1.0f / sqrtf(sum_of_squares(y, n_cols) / (float)n_cols + eps);
    for (int i = 0; i < n_cols; i++) x[i] += y[i] * scale * gamma[i];
}

static void soft_cap_row(float *x, int n_cols, float cap) {
    for (int i = 0; i < n_cols; i++) x[i] = cap * tanh_row(x[i] / cap);
}

/* matmul_job's, of one block. */
static float plain_maximum(const float *x, int n) {
    float max = -INFINITY;
    bool is_finite = true;
    for (int i = 0; i < n; i++) {
        is_finite &= isfinite(x[i]);
        if (x[i] > max) max = x[i];
    }
    return is_finite ? max + 0.0f : NAN;
}

/* --- gated feed-forward --- */

/* -2 u of the tanh form of GELU: 1 + tanh(u) = 2 / (1 + e^(-2 u)). */
#define GELU_CUBIC  (-0.0713548162726f)
#define GELU_LINEAR (-1.59576912161f)
INLINE float gelu_exponent(float g) { return g * fmaf(g * g, GELU_CUBIC, GELU_LINEAR); }

#if !defined(__AVX2__) /* else in exp_template.h */
static void glu(enum glu_kind kind, const float *gate, const float *up, int step, float *out, int n) {
    for (int i = 0; i < n; i++) {
        const int at = i / ROW_GROUP * step + i % ROW_GROUP;
        const float exponent = kind == GLU_SILU ? -gate[at] : gelu_exponent(gate[at]);
        out[i] = gate[at] / (1.0f + exp_row(exponent)) * up[at];
    }
}
#endif

/* --- mixture of experts --- */

/* p becomes the softmax of logits. */
INLINE void softmax_row(const float *logits, int n, float *p) {
    float lane[LANES] = {0}, max = logits[0];
    for (int i = 1; i < n; i++) max = logits[i] > max ? logits[i] : max;
    for (int i = 0; i < n; i++) {
        p[i] = exp_row(logits[i] - max);
        lane[i % LANES] += p[i];
    }
    const float total = lane_tree(lane);
    for (int i = 0; i < n; i++) p[i] /= total;
}

static void route_row(const float *logits, const struct route_spec *spec, int32_t *chosen, float *share) {
    float p[MAX_EXPERTS], total = 0;
    bool taken[MAX_EXPERTS] = {false};
    softmax_row(logits, spec->n_experts, p);
    for (int rank = 0; rank < spec->n_used; rank++) {
        int best = 0;
        while (taken[best]) best++; /* NaNs compare with nothing: the choice stays valid */
        for (int e = best + 1; e < spec->n_experts; e++)
            if (!taken[e] && p[e] > p[best]) best = e;
        taken[best] = true;
        chosen[rank] = best;
        share[rank] = p[best];
        total += p[best];
    }
    for (int rank = 0; spec->normalize && rank < spec->n_used; rank++) share[rank] /= total;
}

static void combine_row(const float *y, int y_stride, const int32_t *place, const float *share, int n_used, int n_cols,
                        float *x) {
    for (int i = 0; i < n_cols; i++) {
        float sum = share[0] * y[(size_t)place[0] * (size_t)y_stride + (size_t)i];
        for (int rank = 1; rank < n_used; rank++)
            sum = fmaf(share[rank], y[(size_t)place[rank] * (size_t)y_stride + (size_t)i], sum);
        x[i] += sum;
    }
}

/* --- the running softmax of attention --- */

struct softmax {
    float max;
    float lane_sum[LANES]; /* position p adds to p mod 16 */
};

/* Bits of a float as an integer of the same order, and back (the map is its own inverse). */
INLINE int32_t ordered_bits(int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

INLINE float highest_score(const float *scores) {
    int32_t highest = INT32_MIN;
    for (int i = 0; i < ATTENTION_CHUNK; i++) {
        const int32_t key = ordered_bits((int32_t)bits_of(scores[i]));
        highest = key > highest ? key : highest;
    }
    return float_of((uint32_t)ordered_bits(highest));
}

/* Relative to the higher of the maximum so far and that of a chunk, both lie by a factor: 1 of the higher one, which brings what
 * was summed before to the new maximum, and is the chunk's largest weight. */
struct softmax_factors {
    float max, before, chunk;
};

INLINE struct softmax_factors softmax_factors_of(float before, float chunk) {
    if (ordered_bits((int32_t)bits_of(chunk)) > ordered_bits((int32_t)bits_of(before)))
        return (struct softmax_factors){chunk, before == chunk ? 1.0f : exp_row(before - chunk), 1.0f};
    return (struct softmax_factors){before, 1.0f, before == chunk ? 1.0f : exp_row(chunk - before)};
}

/* One chunk: scores (-infinity where nothing is seen) become weights relative to the new maximum. */
INLINE struct softmax_factors softmax_chunk(struct softmax *s, float *scores) {
    const struct softmax_factors factors = softmax_factors_of(s->max, highest_score(scores));
    const float max = s->max = factors.max, factor = factors.before;
    for (int l = 0; l < LANES; l++) s->lane_sum[l] *= factor;
    for (int i = 0; i < ATTENTION_CHUNK; i += LANES)
        for (int l = 0; l < LANES; l++) {
            scores[i + l] = exp_row(scores[i + l] - max);
            s->lane_sum[l] += scores[i + l];
        }
    return factors;
}

/* Two parts (cpu.h), both brought to the higher of their maxima. */
static void attention_join(float *to, const float *from, int head_dim) {
    const int32_t to_key = ordered_bits((int32_t)bits_of(to[PART_MAX])), key = ordered_bits((int32_t)bits_of(from[PART_MAX]));
    const float max = key > to_key ? from[PART_MAX] : to[PART_MAX];
    const float kept = max == to[PART_MAX] ? 1.0f : exp_row(to[PART_MAX] - max);
    const float added = max == from[PART_MAX] ? 1.0f : exp_row(from[PART_MAX] - max);
    to[PART_MAX] = max;
    to[PART_TOTAL] = fmaf(from[PART_TOTAL], added, to[PART_TOTAL] * kept);
    for (int i = PART_HEAD; i < PART_HEAD + head_dim; i++) to[i] = fmaf(from[i], added, to[i] * kept);
}

#if defined(__AVX2__)
#include "kernels/cpu/exp_template.h"
#endif

#endif
