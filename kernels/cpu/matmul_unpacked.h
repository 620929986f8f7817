/* matmul_unpacked.h - matrix products of five and more activation rows for vectors of 8 lanes: AVX2 and AVX-VNNI.
 *
 * 16 registers do not hold the codes of a block beside the sums of many rows, and unpacking a block again for every few rows
 * costs as much as its products. So a run of blocks of 16 output rows is unpacked once, on the stack, for all activation rows
 * of the slice, and then read column by column: 2 vectors of codes and a broadcast of 4 activations are all that live beside
 * the sums of TILE activation rows by 16 output rows.
 *  (1) A run is short enough for the L1 cache; between runs the results wait in an array.
 *  (2) Every lane does what reference.c does: integer sums are exact in any order, blocks follow in ascending order. */
#ifndef FORESAY_KERNELS_MATMUL_UNPACKED_H
#define FORESAY_KERNELS_MATMUL_UNPACKED_H

#include "kernels/cpu/unpacked.h"

enum {
    TILE = 4,        /* activation rows */
    RUN_BLOCKS = 16, /* a K type's super-blocks are never cut */
    TILED_SLICE_ROWS = 64,
};

/* sums[t][p] += the dot products of vectors first .. first + n - 1 of a block for m activation rows; q: the first row's codes. */
INLINE void tile_dots(const enum dtype type, const int m, const int first, const int n, const uint8_t *codes, const int8_t *q,
                      size_t q_stride, vint sums[]) {
    struct dot_chain chains[TILE * PARTS];
#pragma GCC unroll 8
    for (int i = 0; i < m * PARTS; i++) chains[i] = dot_begin(sums[i]);
#pragma GCC unroll 8
    for (int v = 0; v < n; v++) {
        struct ready_codes w[PARTS];
#pragma GCC unroll 2
        for (int p = 0; p < PARTS; p++)
            w[p] = codes_ready(type_code_bits(type), vi_load(codes + (first + v) * LINE + p * VECTOR_LANES * 4));
#pragma GCC unroll 4
        for (int t = 0; t < m; t++) {
            const vint quads = vi_set(load_quad(q + (size_t)t * q_stride + 4 * (first + v)));
#pragma GCC unroll 2
            for (int p = 0; p < PARTS; p++) dot_step(type_code_bits(type), v, n, w[p], quads, &chains[t * PARTS + p]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < m * PARTS; i++) sums[i] = chains[i].sum;
}

/* A block for m activation rows from row `at` = row * (n_cols / 32) + b of the activations on. */
INLINE void tile_block_unpacked(const enum dtype type, const int m, const struct unpacked *w, const struct activation *in,
                                size_t at, float (*acc)[ROW_GROUP]) {
    const size_t n_blocks = (size_t)in->n_cols / QUANT_BLOCK;
    const bool corrected = SIGNED_BYTES && type_code_bits(type) == 8, halves = type_scales_halves(type);
    const int8_t *q = in->q + at * QUANT_BLOCK;
    vint first[TILE * PARTS], second[TILE * PARTS];
#pragma GCC unroll 8
    for (int i = 0; i < m * PARTS; i++) {
        const size_t row = at + (size_t)(i / PARTS) * n_blocks;
        first[i] = second[i] = vi_zero();
        if (halves) {
            first[i] = zero_start(type, in->sum16[2 * row]);
            second[i] = zero_start(type, in->sum16[2 * row + 1]);
        } else if (!corrected) {
            first[i] = zero_start(type, in->sum[row]);
        }
    }
    tile_dots(type, m, 0, halves ? 4 : 8, w->codes, q, (size_t)in->n_cols, first);
    if (halves) tile_dots(type, m, 4, 4, w->codes, q, (size_t)in->n_cols, second);
#pragma GCC unroll 8
    for (int i = 0; i < m * PARTS; i++) {
        float *out = acc[i / PARTS] + i % PARTS * VECTOR_LANES;
        const struct block_dots dots = {first[i], second[i]};
        vf_store(out, add_block(type, &w->factors[i % PARTS], dots, in, at + (size_t)(i / PARTS) * n_blocks, vf_load(out)));
    }
}

INLINE void tile_run(const enum dtype type, const int m, const struct unpacked *w, int n, const struct activation *in, size_t at,
                     float (*acc)[ROW_GROUP]) {
    for (int b = 0; b < n; b++) tile_block_unpacked(type, m, &w[b], in, at + (size_t)b, acc);
}

INLINE void group_unpacked(const enum dtype type, const struct matmul_slice *s, const uint8_t *group, float (*acc)[ROW_GROUP]) {
    const int n_blocks = s->in->n_cols / QUANT_BLOCK;
    struct unpacked w[RUN_BLOCKS];
    for (int first = 0; first < n_blocks; first += RUN_BLOCKS) {
        const int n = n_blocks - first < RUN_BLOCKS ? n_blocks - first : RUN_BLOCKS;
        unpack_run(type, group, first, n, w);
        int row = 0;
        size_t at = (size_t)s->first_row * (size_t)n_blocks + (size_t)first;
        for (; row + TILE <= s->n_rows; row += TILE, at += TILE * (size_t)n_blocks)
            tile_run(type, TILE, w, n, s->in, at, acc + row);
        switch (s->n_rows - row) {
        case 3:
            tile_run(type, 3, w, n, s->in, at, acc + row);
            break;
        case 2:
            tile_run(type, 2, w, n, s->in, at, acc + row);
            break;
        case 1:
            tile_run(type, 1, w, n, s->in, at, acc + row);
            break;
        default:
            break;
        }
    }
}

INLINE void unpacked_matmul(const enum dtype type, const struct matmul_slice *s) {
    for (int g = 0; g < s->n_groups; g++) {
        float acc[TILED_SLICE_ROWS][ROW_GROUP];
        memset(acc, 0, (size_t)s->n_rows * sizeof *acc);
        group_unpacked(type, s, s->weight->data + (size_t)(s->first_group + g) * s->weight->group_bytes, acc);
        for (int row = 0; row < s->n_rows; row++)
            for (int p = 0; p < PARTS; p++) {
                const int lane = p * VECTOR_LANES;
                store_out(s->out + (size_t)row * (size_t)s->out_stride + g * ROW_GROUP + lane, vf_load(acc[row] + lane), s->add);
            }
    }
}

#endif
