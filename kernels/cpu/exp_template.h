/* exp_template.h - what is made of exponentials, in vectors, compiled for AVX2, AVX-VNNI and AVX-512: the running softmax of
 * attention, in pieces, and gates. Operation by operation and bit by bit what row_template.h defines (softmax_chunk, glu); left
 * to the compiler, the softmax took as long as scores and values together. */
#ifndef FORESAY_KERNELS_EXP_TEMPLATE_H
#define FORESAY_KERNELS_EXP_TEMPLATE_H

#include "kernels/cpu/simd.h"

enum { CHUNK_VECTORS = ATTENTION_CHUNK / VECTOR_LANES, SUM_VECTORS = LANES / VECTOR_LANES };

/* exp_row of each lane. */
INLINE vfloat vf_exp(vfloat x) {
    const float highest = 88.37f, lowest = -87.33f;
    const vfloat clamped = vf_max(vf_set(lowest), vf_min(vf_set(highest), x)); /* of a NaN its second operand: x */
    const vfloat rounded = vf_fma(clamped, vf_set(1.44269504f), vf_set(ROUNDER));
    const vfloat n = vf_sub(rounded, vf_set(ROUNDER));
    const vfloat r = vf_fma(n, vf_set(2.12194440e-4f), vf_fma(n, vf_set(-0.693359375f), clamped));
    vfloat p = vf_set(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set(5.0000001201e-1f));
    const vfloat e_r = vf_add(vf_fma(p, vf_mul(r, r), r), vf_set(1.0f));
    const vfloat power = vf_from_bits(vi_add(vi_shift_left_lanes(vi_from_bits(rounded), 23), vi_set(0x3f800000)));
    return vf_unless_below(x, lowest, vf_mul(e_r, power));
}

/* --- the softmax --- */

/* `other` where vector j of a chunk is before `begin` or from `end` on. */
INLINE vfloat keep_seen(vfloat x, int j, int begin, int end, float other) {
    const int from = begin - j * VECTOR_LANES, to = end - j * VECTOR_LANES;
    const int kept_from = from < 0 ? 0 : from > VECTOR_LANES ? VECTOR_LANES : from;
    const int kept_to = to < kept_from ? kept_from : to > VECTOR_LANES ? VECTOR_LANES : to;
    return from <= 0 && to >= VECTOR_LANES ? x : vf_keep_lanes(x, kept_from, kept_to, other);
}

/* Positions before `begin` and from `end` on weigh nothing. */
INLINE void hide_scores(float *scores, int begin, int end) {
#pragma GCC unroll 8
    for (int j = 0; j < CHUNK_VECTORS; j++) {
        float *at = scores + j * VECTOR_LANES;
        vf_store(at, keep_seen(vf_load(at), j, begin, end, -INFINITY));
    }
}

/* highest_score of a chunk alone. */
INLINE float vector_highest_score(const float *scores) {
    vint highest = vi_ordered_bits(vf_load(scores));
#pragma GCC unroll 8
    for (int i = 1; i < CHUNK_VECTORS; i++) highest = vi_max(highest, vi_ordered_bits(vf_load(scores + i * VECTOR_LANES)));
    return float_of((uint32_t)ordered_bits(vi_largest(highest)));
}

/* Scores to weights relative to max; the sum so far comes to that by `factor`. */
INLINE void vector_weights(const float *scores, float max, float factor, float lane_sum[LANES], vfloat weight[CHUNK_VECTORS]) {
    vfloat sum[SUM_VECTORS];
#pragma GCC unroll 2
    for (int j = 0; j < SUM_VECTORS; j++) sum[j] = vf_mul(vf_load(lane_sum + j * VECTOR_LANES), vf_set(factor));
#pragma GCC unroll 8
    for (int i = 0; i < CHUNK_VECTORS; i++) {
        weight[i] = vf_exp(vf_sub(vf_load(scores + i * VECTOR_LANES), vf_set(max)));
        sum[i % SUM_VECTORS] = vf_add(sum[i % SUM_VECTORS], weight[i]);
    }
#pragma GCC unroll 2
    for (int j = 0; j < SUM_VECTORS; j++) vf_store(lane_sum + j * VECTOR_LANES, sum[j]);
}

/* --- gates --- */

static void glu(enum glu_kind kind, const float *gate, const float *up, int step, float *out, int n) {
    for (int i = 0; i < n; i += VECTOR_LANES) {
        const int at = i / ROW_GROUP * step + i % ROW_GROUP;
        const vfloat g = vf_load(gate + at);
        const vfloat exponent =
            kind == GLU_SILU ? vf_sub(vf_zero(), g) : vf_mul(g, vf_fma(vf_mul(g, g), vf_set(GELU_CUBIC), vf_set(GELU_LINEAR)));
        vf_store(out + i, vf_mul(vf_div(g, vf_add(vf_set(1.0f), vf_exp(exponent))), vf_load(up + at)));
    }
}

#endif
