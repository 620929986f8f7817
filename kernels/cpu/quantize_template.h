/* quantize_template.h - blocks of 32 floats to int8 in vectors, compiled for AVX2, AVX-VNNI and AVX-512: what quantize_block of
 * row_template.h does, bit by bit.
 *
 * A block by itself is one long chain: its maximum across lanes, a division, its codes, their sums across lanes. So a run of
 * VECTOR_LANES blocks goes through each stage together: maxima and sums are folded for all blocks at once (half of a fold's
 * shuffles serve two blocks), and one division is that of the whole run.
 *  (1) Rows end with a run that overlaps the one before it: its first blocks are made twice, with the same result.
 *  (2) A run with an infinity or a NaN, and a row shorter than a run, go block by block. */
#ifndef FORESAY_KERNELS_QUANTIZE_TEMPLATE_H
#define FORESAY_KERNELS_QUANTIZE_TEMPLATE_H

#include "kernels/cpu/simd.h"

enum {
    QUANT_RUN = VECTOR_LANES,
    BLOCK_VECTORS = QUANT_BLOCK / VECTOR_LANES,
    QUAD_VECTORS = QUANT_RUN * QUANT_BLOCK / (4 * VECTOR_LANES), /* of sums of four codes, in a run */
};

INLINE vint fold_two(const bool largest, vint a, vint b) { return largest ? vi_max(a, b) : vi_add(a, b); }

/* v[i] of four becomes dword i of each 128 bits: the fold of its own four dwords there. */
INLINE vint fold_quads(const bool largest, const vint v[4]) {
    const vint ab = fold_two(largest, vi_low_dwords(v[0], v[1]), vi_high_dwords(v[0], v[1]));
    const vint cd = fold_two(largest, vi_low_dwords(v[2], v[3]), vi_high_dwords(v[2], v[3]));
    return fold_two(largest, vi_low_pairs(ab, cd), vi_high_pairs(ab, cd));
}

/* Lane i: the largest lane of v[i]. */
INLINE vint largest_lanes(const vint v[VECTOR_LANES]) {
    vint quads[VECTOR_LANES / 4];
#pragma GCC unroll 4
    for (int i = 0; i < VECTOR_LANES / 4; i++) quads[i] = fold_quads(true, v + 4 * i);
    return vi_largest_of_quads(quads);
}

/* x: QUANT_BLOCK * QUANT_RUN floats. */
INLINE vfloat largest_magnitudes(const float *x) {
    vint largest[QUANT_RUN];
#pragma GCC unroll 16
    for (int b = 0; b < QUANT_RUN; b++) {
        vint v = vi_magnitude(vf_load(x + b * QUANT_BLOCK));
#pragma GCC unroll 4
        for (int i = 1; i < BLOCK_VECTORS; i++) v = vi_max(v, vi_magnitude(vf_load(x + b * QUANT_BLOCK + i * VECTOR_LANES)));
        largest[b] = v;
    }
    return vf_from_bits(largest_lanes(largest));
}

/* Codes of the run; quads: sums of four of them each, in ascending order. */
INLINE void quantize_codes(const float *x, const float inverse[QUANT_RUN], int8_t *q, vint quads[QUAD_VECTORS]) {
#pragma GCC unroll 8
    for (int i = 0; i < QUAD_VECTORS; i++) { /* four vectors of floats become one of codes */
        vint rounded[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const int at = (4 * i + j) * VECTOR_LANES;
            rounded[j] = vi_nearest(vf_mul(vf_load(x + at), vf_set(inverse[at / QUANT_BLOCK])));
        }
        const vint codes = vi_pack_bytes(rounded);
        vi_store((uint8_t *)q + i * 4 * VECTOR_LANES, codes);
        quads[i] = vi_sums_of_four(codes);
    }
}

/* False: nothing was done, since not all is finite. */
INLINE bool quantize_run(const float *x, int8_t *q, float *d, float *ds, int32_t *sum, int32_t *sum16) {
    const float least = 1e-30f;
    const vfloat amax = largest_magnitudes(x), whole = vf_set(127.0f);
    if (vf_has_nan(vf_mul(amax, vf_zero()))) return false;
    _Alignas(LINE) float inverse[QUANT_RUN];
    vf_store(inverse, vf_where_at_least(amax, least, vf_div(whole, amax)));
    const vfloat scale = vf_where_at_least(amax, least, vf_div(amax, whole));
    vint quads[QUAD_VECTORS], halves[2];
    quantize_codes(x, inverse, q, quads);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        halves[h] = vi_transpose_quads(fold_quads(false, quads + 4 * h));
        vi_store((uint8_t *)(sum16 + h * VECTOR_LANES), halves[h]);
    }
    const vint total = vi_sums_of_pairs(halves[0], halves[1]);
    vf_store(d, scale);
    vf_store(ds, vf_mul(scale, vf_from_int(total)));
    vi_store((uint8_t *)sum, total);
    return true;
}

/* A run by itself, whose blocks go to several rows. */
struct quantized_run {
    int8_t q[QUANT_RUN * QUANT_BLOCK];
    float d[QUANT_RUN], ds[QUANT_RUN];
    int32_t sum[QUANT_RUN], sum16[2 * QUANT_RUN];
};

/* n blocks, at most a run; few are not worth filling up the run with zeros. */
INLINE bool quantize_to_run(const float *x, int n, struct quantized_run *to) {
    float padded[QUANT_RUN * QUANT_BLOCK];
    if (n < QUANT_RUN / 2) return false;
    if (n < QUANT_RUN) {
        memcpy(padded, x, (size_t)(n * QUANT_BLOCK) * sizeof *x);
        memset(padded + n * QUANT_BLOCK, 0, (size_t)((QUANT_RUN - n) * QUANT_BLOCK) * sizeof *x);
        x = padded;
    }
    return quantize_run(x, to->q, to->d, to->ds, to->sum, to->sum16);
}

INLINE void copy_blocks(const struct quantized_run *run, int i, const int n, int block, const struct activation_row *to) {
    memcpy(to->q + block * QUANT_BLOCK, run->q + i * QUANT_BLOCK, (size_t)(n * QUANT_BLOCK));
    memcpy(to->d + block, run->d + i, (size_t)n * sizeof *to->d);
    memcpy(to->ds + block, run->ds + i, (size_t)n * sizeof *to->ds);
    memcpy(to->sum + block, run->sum + i, (size_t)n * sizeof *to->sum);
    memcpy(to->sum16 + 2 * block, run->sum16 + 2 * i, 2 * (size_t)n * sizeof *to->sum16);
}

/* Blocks i .. i + n - 1 to blocks `block` .. of a row. */
INLINE void take_blocks(const struct quantized_run *run, int i, int n, int block, const struct activation_row *to) {
    for (; n >= 4; n -= 4, i += 4, block += 4) copy_blocks(run, i, 4, block, to);
    for (; n >= 1; n--, i++, block++) copy_blocks(run, i, 1, block, to);
}

#endif
