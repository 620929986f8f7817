/* matmul_unpacked.h - matrix products of several activation rows for vectors of 8 lanes: AVX2 and AVX-VNNI.
 *
 * 16 registers do not hold the codes of a block beside the sums of many rows, and unpacking a block again for every few rows
 * costs as much as its products. So a run of blocks of 16 output rows is unpacked once, on the stack, for all activation rows
 * of the slice, and then read column by column: 2 vectors of codes and a broadcast of 4 activations are all that live beside
 * the sums of TILE activation rows by 16 output rows. For few rows, codes come straight from their lines and take no stop
 * on the stack.
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
            for (int p = 0; p < PARTS; p++) {
                dot_step(type_code_bits(type), v, n, w[p], quads, &chains[t * PARTS + p]);
                dot_hold(type_code_bits(type), &chains[t * PARTS + p]);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < m * PARTS; i++) sums[i] = chains[i].sum;
}

/* Vector v of a block straight from its lines (weight_layout.h); lines are read again rather than kept. */
INLINE vint line_codes_5(const uint8_t *codes, const int v, const int part) {
    if (v < 5) return vi_and(code_line(codes, v, part), 31);
    if (v < 7) {
        const int low = 2 * (v - 5);
        const vint bits = vi_and(vi_shift_right(code_line(codes, low + 1, part), 6), 3);
        return vi_or_masked(bits, vi_shift_right(code_line(codes, low, part), 3), 0x1c);
    }
    const vint bit = vi_and(vi_shift_right(code_line(codes, 3, part), 5), 1);
    const vint bits = vi_or_masked(bit, vi_shift_right(code_line(codes, 1, part), 4), 2);
    return vi_or_masked(bits, vi_shift_right(code_line(codes, 4, part), 3), 0x1c);
}

INLINE vint line_codes_6(const uint8_t *codes, const int v, const int part) {
    const int line = v / 4 * 3;
    if (v % 4 < 3) return vi_and(code_line(codes, line + v % 4, part), 63);
    const vint low = vi_and(vi_shift_right(code_line(codes, line + 2, part), 6), 3);
    const vint bits = vi_or_masked(low, vi_shift_right(code_line(codes, line + 1, part), 4), 0x0c);
    return vi_or_masked(bits, vi_shift_right(code_line(codes, line, part), 2), 0x30);
}

INLINE vint line_codes_3(const uint8_t *codes, const int v, const int part) {
    if (v < 6) return vi_and(vi_shift_right(code_line(codes, v / 2, part), v % 2 * 3), 7);
    const vint bit = vi_and(vi_shift_right(code_line(codes, 1, part), v == 6 ? 7 : 6), 1);
    return vi_or_masked(bit, vi_shift_right(code_line(codes, v == 6 ? 0 : 2, part), 5), 6);
}

INLINE vint line_codes(const enum dtype type, const uint8_t *codes, const int v, const int part) {
    static const uint8_t table[16] = {IQ4_NL_TABLE};
    switch (type_stored_bits(type)) {
    case 2:
        return vi_and(vi_shift_right(code_line(codes, v / 4, part), v % 4 * 2), 3);
    case 3:
        return line_codes_3(codes, v, part);
    case 5:
        return line_codes_5(codes, v, part);
    case 6:
        return line_codes_6(codes, v, part);
    case 8:
        return SIGNED_BYTES ? vi_flip_signs(code_line(codes, v, part)) : code_line(codes, v, part);
    default:
        break;
    }
    const vint nibbles = vi_and(vi_shift_right(code_line(codes, v % 4, part), v / 4 * 4), 15);
    if (type != DTYPE_IQ4_NL) return nibbles;
    return SIGNED_BYTES ? vi_flip_signs(vi_lookup(table, nibbles)) : vi_lookup(table, nibbles);
}

/* sums += the dots of vectors first .. first + n - 1 of a block for m activation rows, without a stop in memory. Vectors of 4
 * bits that share a line stand together. */
INLINE void line_dots(const enum dtype type, const int m, const int first, const int n, const uint8_t *codes, const int8_t *q,
                      size_t q_stride, vint sums[]) {
    const int bits = type_code_bits(type);
    struct dot_chain chains[TILE * PARTS];
#pragma GCC unroll 8
    for (int i = 0; i < m * PARTS; i++) chains[i] = dot_begin(sums[i]);
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        const int v = type_stored_bits(type) == 4 ? i / 2 + i % 2 * 4 : first + i;
        struct ready_codes w[PARTS];
#pragma GCC unroll 2
        for (int p = 0; p < PARTS; p++) w[p] = codes_ready(bits, line_codes(type, codes, v, p));
#pragma GCC unroll 4
        for (int t = 0; t < m; t++) {
            const vint quads = vi_set(load_quad(q + (size_t)t * q_stride + 4 * v));
#pragma GCC unroll 2
            for (int p = 0; p < PARTS; p++) {
                dot_step(bits, i, n, w[p], quads, &chains[t * PARTS + p]);
                dot_hold(bits, &chains[t * PARTS + p]);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < m * PARTS; i++) sums[i] = chains[i].sum;
}

/* What the dots of m rows begin with. at: row * (n_cols / 32) + b of the first. */
INLINE void begin_dots(const enum dtype type, const int m, const struct activation *in, size_t at, vint first[], vint second[]) {
    const size_t n_blocks = (size_t)in->n_cols / QUANT_BLOCK;
    const bool corrected = SIGNED_BYTES && type_code_bits(type) == 8, halves = type_scales_halves(type);
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
}

/* A block for m activation rows from row `at` = row * (n_cols / 32) + b of the activations on. */
INLINE void tile_block_unpacked(const enum dtype type, const int m, const struct unpacked *w, const struct activation *in,
                                size_t at, float (*acc)[ROW_GROUP]) {
    const size_t n_blocks = (size_t)in->n_cols / QUANT_BLOCK;
    const bool halves = type_scales_halves(type);
    const int8_t *q = in->q + at * QUANT_BLOCK;
    vint first[TILE * PARTS], second[TILE * PARTS];
    begin_dots(type, m, in, at, first, second);
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

/* A group for few activation rows: each block is read once, for both parts and all rows. */
INLINE void group_lines(const enum dtype type, const int m, const struct matmul_slice *s, const uint8_t *group, int row,
                        vfloat acc[]) {
    const size_t n_blocks = (size_t)s->in->n_cols / QUANT_BLOCK, first_block = (size_t)(s->first_row + row) * n_blocks;
    const bool halved = type_scales_halves(type);
    const size_t stride = (size_t)s->in->n_cols;
    struct block_factors halves[PARTS] = {0};
#pragma GCC unroll 8
    for (int i = 0; i < m * PARTS; i++) acc[i] = vf_zero();
    for (size_t b = 0; b < n_blocks; b++) {
        const struct block_place place = block_place(type, group, (int)b);
        const int8_t *q = s->in->q + (first_block + b) * QUANT_BLOCK;
        vint first[TILE * PARTS], second[TILE * PARTS];
        if (m > 1 || !s->weight->comes_unasked) prefetch_block(type, m, place.codes + PREFETCH_BYTES);
        begin_dots(type, m, s->in, first_block + b, first, second);
        line_dots(type, m, 0, halved ? 4 : 8, place.codes, q, stride, first);
        if (halved) line_dots(type, m, 4, 4, place.codes, q, stride, second);
        for (int p = 0; p < PARTS; p++) {
            if (!type_is_k(type) || b % SUPER_BLOCKS == 0) halves[p] = load_halves(type, &place, p);
            const struct block_factors factors = load_factors(type, &place, p, &halves[p]);
#pragma GCC unroll 4
            for (int t = 0; t < m; t++) {
                const struct block_dots dots = {first[t * PARTS + p], second[t * PARTS + p]};
                vfloat *to = &acc[t * PARTS + p];
                *to = add_block(type, &factors, dots, s->in, first_block + b + (size_t)t * n_blocks, *to);
            }
        }
    }
}

INLINE void lines_tile(const enum dtype type, const int m, const struct matmul_slice *s, int g, int row) {
    vfloat acc[TILE * PARTS];
    group_lines(type, m, s, s->weight->data + (size_t)(s->first_group + g) * s->weight->group_stride, row, acc);
    float *out = s->out + (size_t)row * (size_t)s->out_stride + (size_t)g * ROW_GROUP;
#pragma GCC unroll 8
    for (int i = 0; i < m * PARTS; i++)
        store_out(out + (size_t)(i / PARTS) * (size_t)s->out_stride + i % PARTS * VECTOR_LANES, acc[i], s->add);
}

/* Tiles of equal size, as nearly as can be, of one group after the other: it is read from memory once. */
INLINE void lines_matmul(const enum dtype type, const struct matmul_slice *s) {
    for (int g = 0; g < s->n_groups; g++) {
        for (int row = 0, m; row < s->n_rows; row += m) {
            const int left = s->n_rows - row, n_tiles = (left + TILE - 1) / TILE;
            m = (left + n_tiles - 1) / n_tiles;
            switch (m) {
            case 4:
                lines_tile(type, 4, s, g, row);
                break;
            case 3:
                lines_tile(type, 3, s, g, row);
                break;
            case 2:
                lines_tile(type, 2, s, g, row);
                break;
            default:
                lines_tile(type, 1, s, g, row);
                break;
            }
        }
    }
}

/* Up to so many rows unpacking again for each tile is cheaper than a stop in memory. Codes of 5 and 6 bits take longest; nibbles
 * and bytes are quick beside the products of plain AVX2, but not beside those of a dot product instruction. */
INLINE int lines_rows(const enum dtype type) {
    const int bits = type_stored_bits(type);
    if (bits == 5 || bits == 6) return TILE;
    return SIGNED_BYTES && (bits == 8 || bits == 4) && type != DTYPE_IQ4_NL ? 8 * TILE : 2 * TILE;
}

INLINE void unpacked_matmul(const enum dtype type, const struct matmul_slice *s) {
    for (int g = 0; g < s->n_groups; g++) {
        float acc[TILED_SLICE_ROWS][ROW_GROUP];
        memset(acc, 0, (size_t)s->n_rows * sizeof *acc);
        group_unpacked(type, s, s->weight->data + (size_t)(s->first_group + g) * s->weight->group_stride, acc);
        for (int row = 0; row < s->n_rows; row++)
            for (int p = 0; p < PARTS; p++) {
                const int lane = p * VECTOR_LANES;
                store_out(s->out + (size_t)row * (size_t)s->out_stride + g * ROW_GROUP + lane, vf_load(acc[row] + lane), s->add);
            }
    }
}

INLINE void quantized_matmul(const enum dtype type, const struct matmul_slice *s) {
    s->n_rows <= lines_rows(type) ? lines_matmul(type, s) : unpacked_matmul(type, s);
}

#endif
