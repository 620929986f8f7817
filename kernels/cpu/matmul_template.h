/* matmul_template.h - matrix products of groups of 16 output rows, compiled for AVX2, AVX-VNNI and AVX-512.
 *
 * One function body per family of types; the type and the number of activation rows M are constants where it is inlined, so
 * that the M accumulators and the 8 decoded code vectors of a block live in registers.
 *  (1) A lane is an output row: no sum runs across lanes, and every lane does what reference.c does.
 *  (2) Codes are decoded once per block and used for M activation rows. M = 1 is bound by memory, M = 16 by the dot products.
 *  (3) The weights of a slice are one ascending run of lines; PREFETCH_BYTES ahead of the codes is far enough for DRAM and
 *      near enough for the L1 cache. */
#ifndef FORESAY_KERNELS_MATMUL_TEMPLATE_H
#define FORESAY_KERNELS_MATMUL_TEMPLATE_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/row_template.h"
#include "kernels/cpu/weight_blocks.h"

/* --- quantised types: quantized_matmul --- */

#if !defined(__AVX512VNNI__)
#include "kernels/cpu/matmul_unpacked.h"
#else

/* What does not change along a group: parts first_part .. first_part + parts - 1 for rows first_row .. of the activations. */
struct tile {
    const struct activation *in;
    size_t first, n_blocks; /* of the first row's blocks; blocks of a row */
    int first_part;
    bool comes_unasked; /* the weight */
};

/* Block b at `place` for m activation rows. */
INLINE void tile_block(const enum dtype type, const int m, const int parts, const struct tile *tile, struct block_place place,
                       const struct block_factors halves[], size_t b, vfloat acc[]) {
    if (m > 1 || !tile->comes_unasked) prefetch_block(type, m, place.codes + PREFETCH_BYTES);
#pragma GCC unroll 2
    for (int p = 0; p < parts; p++) {
        vint w[8];
        unpack_codes(type, place.codes, tile->first_part + p, w);
        ready_codes(type, w);
        const struct block_factors factors = load_factors(type, &place, tile->first_part + p, &halves[p]);
        size_t at = tile->first + b;
#pragma GCC unroll 16
        for (int t = 0; t < m; t++, at += tile->n_blocks) {
            vfloat *sum = &acc[t * parts + p];
            *sum = add_block(type, &factors, block_dots(type, w, tile->in, at), tile->in, at, *sum);
        }
    }
}

INLINE void tile_halves(const enum dtype type, const int parts, const struct tile *tile, const struct block_place *place,
                        struct block_factors halves[]) {
#pragma GCC unroll 2
    for (int p = 0; p < parts; p++) halves[p] = load_halves(type, place, tile->first_part + p);
}

/* All blocks of a row; the half floats of a super-block are loaded once. */
INLINE void tile_blocks(const enum dtype type, const int m, const int parts, const struct tile *tile, const uint8_t *group,
                        vfloat acc[]) {
    struct block_factors halves[PARTS];
    for (size_t b = 0; b < tile->n_blocks;) {
        const struct block_place first = block_place(type, group, (int)b);
        tile_halves(type, parts, tile, &first, halves);
        if (!type_is_k(type)) {
            tile_block(type, m, parts, tile, first, halves, b++, acc);
            continue;
        }
        for (int i = 0; i < SUPER_BLOCKS; i++, b++)
            tile_block(type, m, parts, tile, block_place(type, first.halves, i), halves, b, acc);
    }
}

/* out: of this group */
INLINE void quantized_tile(const enum dtype type, const int m, const int parts, const uint8_t *group, int first_part,
                           const struct matmul_slice *s, int row, float *out) {
    const size_t n_blocks = (size_t)s->in->n_cols / QUANT_BLOCK, out_stride = (size_t)s->out_stride;
    const struct tile tile = {s->in, (size_t)(s->first_row + row) * n_blocks, n_blocks, first_part, s->weight->comes_unasked};
    vfloat acc[TOKEN_TILE];
#pragma GCC unroll 16
    for (int i = 0; i < m * parts; i++) acc[i] = vf_zero();
    tile_blocks(type, m, parts, &tile, group, acc);
    out += first_part * VECTOR_LANES;
#pragma GCC unroll 16
    for (int t = 0; t < m; t++)
#pragma GCC unroll 2
        for (int p = 0; p < parts; p++) store_out(out + (size_t)t * out_stride + p * VECTOR_LANES, acc[t * parts + p], s->add);
}

/* All groups of the slice for m rows. With few rows a group is read once, all parts together; with more, the accumulators of one
 * part fill the registers and the group is read from L1 again. */
INLINE void quantized_rows(const enum dtype type, const int m, const struct matmul_slice *s, int row) {
    const int parts = m <= 2 ? PARTS : 1;
    const size_t stride = (size_t)s->out_stride, bytes = s->weight->group_stride;
    for (int g = 0; g < s->n_groups; g++) {
        const uint8_t *group = s->weight->data + (size_t)(s->first_group + g) * bytes;
        float *out = s->out + (size_t)row * stride + (size_t)g * ROW_GROUP;
        for (int part = 0; part < PARTS; part += parts) quantized_tile(type, m, parts, group, part, s, row, out);
    }
}

/* The slice's rows in tiles of the sizes at hand, largest first; the weights are read again for each tile, from a cache. */
INLINE void quantized_matmul(const enum dtype type, const struct matmul_slice *s) {
    for (int row = 0; row < s->n_rows;) {
        const int left = s->n_rows - row, m = left >= 16 ? 16 : left >= 12 ? 12 : left >= 8 ? 8 : left == 7 ? 4 : left;
        switch (m) {
        case 16:
            quantized_rows(type, 16, s, row);
            break;
        case 12:
            quantized_rows(type, 12, s, row);
            break;
        case 8:
            quantized_rows(type, 8, s, row);
            break;
        case 6:
            quantized_rows(type, 6, s, row);
            break;
        case 5:
            quantized_rows(type, 5, s, row);
            break;
        case 4:
            quantized_rows(type, 4, s, row);
            break;
        case 3:
            quantized_rows(type, 3, s, row);
            break;
        case 2:
            quantized_rows(type, 2, s, row);
            break;
        default:
            quantized_rows(type, 1, s, row);
            break;
        }
        row += m;
    }
}
#endif

static void matmul_q4_0(const struct matmul_slice *slice) { quantized_matmul(DTYPE_Q4_0, slice); }
static void matmul_q4_1(const struct matmul_slice *slice) { quantized_matmul(DTYPE_Q4_1, slice); }
static void matmul_q8_0(const struct matmul_slice *slice) { quantized_matmul(DTYPE_Q8_0, slice); }
static void matmul_q5_0(const struct matmul_slice *slice) { quantized_matmul(DTYPE_Q5_0, slice); }
static void matmul_q5_1(const struct matmul_slice *slice) { quantized_matmul(DTYPE_Q5_1, slice); }
static void matmul_q4_k(const struct matmul_slice *slice) { quantized_matmul(DTYPE_Q4_K, slice); }
static void matmul_q5_k(const struct matmul_slice *slice) { quantized_matmul(DTYPE_Q5_K, slice); }
static void matmul_q6_k(const struct matmul_slice *slice) { quantized_matmul(DTYPE_Q6_K, slice); }
static void matmul_q3_k(const struct matmul_slice *slice) { quantized_matmul(DTYPE_Q3_K, slice); }
static void matmul_q2_k(const struct matmul_slice *slice) { quantized_matmul(DTYPE_Q2_K, slice); }
static void matmul_iq4_nl(const struct matmul_slice *slice) { quantized_matmul(DTYPE_IQ4_NL, slice); }

/* --- F32, F16, BF16 --- */

INLINE vfloat load_weights(const enum dtype type, const uint8_t *at) {
    if (type == DTYPE_F16) return vf_from_halves(at);
    if (type == DTYPE_BF16) return vf_from_brains(at);
    return vf_load((const float *)(const void *)at);
}

/* `vectors` consecutive vectors of output rows for m activation rows. Each output is one chain of fmaf, so only outputs side by
 * side hide its latency: few rows go with several groups. */
INLINE void float_tile(const enum dtype type, const int m, const int groups, const struct matmul_slice *s, int group, int row) {
    enum { MOST = 16 };
    const int vectors = groups * PARTS;
    const size_t size = type == DTYPE_F32 ? 4 : 2, n_cols = (size_t)s->in->n_cols, bytes = s->weight->group_stride;
    const uint8_t *w = s->weight->data + (size_t)(s->first_group + group) * bytes;
    const float *x = s->in->f + (size_t)(s->first_row + row) * n_cols;
    vfloat acc[MOST];
#pragma GCC unroll 16
    for (int i = 0; i < m * vectors; i++) acc[i] = vf_zero();
    for (size_t k = 0; k < n_cols; k++, w += ROW_GROUP * size) {
#pragma GCC unroll 4
        for (int g = 0; g < groups; g++) __builtin_prefetch(w + (size_t)g * bytes + PREFETCH_BYTES);
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) {
            const vfloat weight = load_weights(type, w + (size_t)(v / PARTS) * bytes + (size_t)(v % PARTS) * VECTOR_LANES * size);
#pragma GCC unroll 16
            for (int t = 0; t < m; t++)
                acc[t * vectors + v] = vf_fma(weight, vf_set(x[(size_t)t * n_cols + k]), acc[t * vectors + v]);
        }
    }
    float *out = s->out + (size_t)row * (size_t)s->out_stride + (size_t)group * ROW_GROUP;
#pragma GCC unroll 16
    for (int t = 0; t < m; t++)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++)
            store_out(out + (size_t)t * (size_t)s->out_stride + v * VECTOR_LANES, acc[t * vectors + v], s->add);
}

INLINE void float_rows(const enum dtype type, const int m, const int groups, const struct matmul_slice *s, int row) {
    int g = 0;
    for (; g + groups <= s->n_groups; g += groups) float_tile(type, m, groups, s, g, row);
    for (; g < s->n_groups; g++) float_tile(type, m, 1, s, g, row);
}

INLINE void float_matmul(const enum dtype type, const struct matmul_slice *s) {
    for (int row = 0; row < s->n_rows;) {
        const int left = s->n_rows - row;
#if defined(__AVX512VNNI__)
        const int m = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
#else
        const int m = left >= 4 ? 4 : left >= 2 ? 2 : 1;
#endif
        switch (m) {
#if defined(__AVX512VNNI__)
        case 8:
            float_rows(type, 8, 2, s, row);
            break;
#endif
        case 4:
            float_rows(type, 4, VECTOR_LANES / 8, s, row);
            break;
        case 2:
            float_rows(type, 2, VECTOR_LANES / 4, s, row);
            break;
        default:
            float_rows(type, 1, 4, s, row);
            break;
        }
        row += m;
    }
}

static void matmul_f32(const struct matmul_slice *slice) { float_matmul(DTYPE_F32, slice); }
static void matmul_f16(const struct matmul_slice *slice) { float_matmul(DTYPE_F16, slice); }
static void matmul_bf16(const struct matmul_slice *slice) { float_matmul(DTYPE_BF16, slice); }

/* --- maxima of blocks of outputs --- */

/* A sum is finite only if all of its terms are. If it is not, they may be all the same: plain_maximum looks closely. */
INLINE float block_maximum(const float *x) {
    vfloat max[2] = {vf_load(x), vf_load(x + VECTOR_LANES)}, sum[2] = {max[0], max[1]};
#pragma GCC unroll 8
    for (int i = 2; i < ROW_BLOCK / VECTOR_LANES; i++) {
        const vfloat v = vf_load(x + i * VECTOR_LANES);
        max[i % 2] = vf_max(max[i % 2], v);
        sum[i % 2] = vf_add(sum[i % 2], v);
    }
    const vfloat zero = vf_mul(vf_add(sum[0], sum[1]), vf_zero());
    return vf_has_nan(zero) ? plain_maximum(x, ROW_BLOCK) : vf_largest(vf_max(max[0], max[1])) + 0.0f;
}

static void maxima_row(const float *x, int n, float *maxima) {
    for (; n >= ROW_BLOCK; n -= ROW_BLOCK, x += ROW_BLOCK) *maxima++ = block_maximum(x);
    if (n > 0) *maxima = plain_maximum(x, n);
}

/* The initialiser of struct cpu_kernels.matmul. */
#define MATMUL_TABLE                                                                                                             \
    {                                                                                                                            \
        [DTYPE_F32] = matmul_f32, [DTYPE_F16] = matmul_f16, [DTYPE_BF16] = matmul_bf16, [DTYPE_Q4_0] = matmul_q4_0,              \
        [DTYPE_Q4_1] = matmul_q4_1, [DTYPE_Q8_0] = matmul_q8_0, [DTYPE_Q5_0] = matmul_q5_0, [DTYPE_Q5_1] = matmul_q5_1,          \
        [DTYPE_Q4_K] = matmul_q4_k, [DTYPE_Q5_K] = matmul_q5_k, [DTYPE_Q6_K] = matmul_q6_k, [DTYPE_Q3_K] = matmul_q3_k,          \
        [DTYPE_Q2_K] = matmul_q2_k, [DTYPE_IQ4_NL] = matmul_iq4_nl,                                                              \
    }

#endif
