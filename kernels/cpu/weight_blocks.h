/* weight_blocks.h - a block of 32 columns of 16 repacked rows in vectors: the pieces of which every tile loop over quantised
 * weights is made, whatever its shape. Compiled for AVX2, AVX-VNNI and AVX-512 by the including file's flags.
 *
 *     place   = block_place(type, group, b)                         (weight_layout.h)
 *     unpack_codes(type, place.codes, part, w)                      8 vectors of unsigned bytes, i has columns 4i .. 4i + 3
 *     halves  = load_halves(type, &place, part)                     once per block, or per super-block
 *     factors = load_factors(type, &place, part, &halves)           float scale, minimum, integer scales: once per block
 *     dots    = block_dots(type, w, in, at)                         exact sums of whole number * q, for one activation block
 *     acc     = add_block(type, &factors, dots, in, at, acc)        the roundings of kernels.h, for one activation block
 *
 *  (1) A lane is an output row; a group has PARTS vectors of them (two of 8 or one of 16), and `part` picks one.
 *  (2) `type` is a constant where these are inlined. `at` is row * (n_cols / 32) + b of the activations. Nothing depends on how
 *      many activation rows there are.
 *  (3) Another way to the dots (an int8 matrix unit) takes unpack_codes' vectors, sums code * q for columns 0..31, or for 0..15
 *      and 16..31 apart where type_scales_halves, starts at zero_start's values or adds them afterwards, and goes on with
 *      add_block. */
#ifndef FORESAY_KERNELS_WEIGHT_BLOCKS_H
#define FORESAY_KERNELS_WEIGHT_BLOCKS_H

#include "kernels/cpu/simd.h"
#include "kernels/cpu/weight_layout.h"

enum { PARTS = ROW_GROUP / VECTOR_LANES };

INLINE void store_out(float *out, vfloat result, bool add) { vf_store(out, add ? vf_add(vf_load(out), result) : result); }

/* A block's code lines and one more, so that the lines of scales between them are covered too; for K types also the one before,
 * since two follow each other between super-blocks. Few rows keep up with the memory and want the lines in L1. Where a byte takes
 * several products, lines that come early only take L1 from the activations: they stop in L2 until they are read. Beyond 8 rows
 * L1 is as good or a little better. */
INLINE void prefetch_block(const enum dtype type, const int m, const uint8_t *ahead) {
    const bool has_time = m <= 8 && 2 * m >= type_stored_bits(type);
#pragma GCC unroll 9
    for (int line = type_is_k(type) ? -1 : 0; line < type_stored_bits(type) + 1; line++) {
        if (has_time)
            __builtin_prefetch(ahead + line * LINE, 0, 2);
        else
            __builtin_prefetch(ahead + line * LINE);
    }
}

/* --- codes --- */

INLINE vint code_line(const uint8_t *codes, int line, int part) { return vi_load(codes + line * LINE + part * VECTOR_LANES * 4); }

INLINE void unpack_2_bits(const uint8_t *codes, const int part, vint w[8]) {
#pragma GCC unroll 8
    for (int v = 0; v < 8; v++) w[v] = vi_and(vi_shift_right(code_line(codes, v / 4, part), v % 4 * 2), 3);
}

INLINE void unpack_3_bits(const uint8_t *codes, const int part, vint w[8]) {
    vint l[3];
#pragma GCC unroll 3
    for (int k = 0; k < 3; k++) {
        l[k] = code_line(codes, k, part);
        w[2 * k] = vi_and(l[k], 7);
        w[2 * k + 1] = vi_and(vi_shift_right(l[k], 3), 7);
    }
    w[6] = vi_or_masked(vi_and(vi_shift_right(l[1], 7), 1), vi_shift_right(l[0], 5), 6);
    w[7] = vi_or_masked(vi_and(vi_shift_right(l[1], 6), 1), vi_shift_right(l[2], 5), 6);
}

INLINE void unpack_4_bits(const uint8_t *codes, const int part, vint w[8]) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
        const vint both = code_line(codes, v, part);
        w[v] = vi_and(both, 15);
        w[v + 4] = vi_and(vi_shift_right(both, 4), 15);
    }
}

INLINE void unpack_5_bits(const uint8_t *codes, const int part, vint w[8]) {
    vint l[5];
#pragma GCC unroll 5
    for (int k = 0; k < 5; k++) {
        l[k] = code_line(codes, k, part);
        w[k] = vi_and(l[k], 31);
    }
    w[5] = vi_or_masked(vi_and(vi_shift_right(l[1], 6), 3), vi_shift_right(l[0], 3), 0x1c);
    w[6] = vi_or_masked(vi_and(vi_shift_right(l[3], 6), 3), vi_shift_right(l[2], 3), 0x1c);
    w[7] = vi_or_masked(vi_and(vi_shift_right(l[3], 5), 1), vi_shift_right(l[1], 4), 2);
    w[7] = vi_or_masked(w[7], vi_shift_right(l[4], 3), 0x1c);
}

INLINE void unpack_6_bits(const uint8_t *codes, const int part, vint w[8]) {
#pragma GCC unroll 2
    for (int g = 0; g < 2; g++) {
        const vint l0 = code_line(codes, 3 * g, part), l1 = code_line(codes, 3 * g + 1, part);
        const vint l2 = code_line(codes, 3 * g + 2, part);
        w[4 * g] = vi_and(l0, 63);
        w[4 * g + 1] = vi_and(l1, 63);
        w[4 * g + 2] = vi_and(l2, 63);
        w[4 * g + 3] = vi_or_masked(vi_and(vi_shift_right(l2, 6), 3), vi_shift_right(l1, 4), 0x0c);
        w[4 * g + 3] = vi_or_masked(w[4 * g + 3], vi_shift_right(l0, 2), 0x30);
    }
}

/* The codes of 32 columns as unsigned bytes. */
INLINE void unpack_codes(const enum dtype type, const uint8_t *codes, const int part, vint w[8]) {
    switch (type_stored_bits(type)) {
    case 2:
        unpack_2_bits(codes, part, w);
        break;
    case 3:
        unpack_3_bits(codes, part, w);
        break;
    case 4:
        unpack_4_bits(codes, part, w);
        break;
    case 5:
        unpack_5_bits(codes, part, w);
        break;
    case 6:
        unpack_6_bits(codes, part, w);
        break;
    default:
#pragma GCC unroll 8
        for (int v = 0; v < 8; v++) w[v] = code_line(codes, v, part);
        break;
    }
    if (type != DTYPE_IQ4_NL) return;
    static const uint8_t table[16] = {IQ4_NL_TABLE};
#pragma GCC unroll 8
    for (int v = 0; v < 8; v++) w[v] = vi_lookup(table, w[v]);
}

/* --- dots --- */

struct block_dots {
    vint first, second; /* of columns 0..15 and 16..31 where type_scales_halves; else all in first */
};

/* What a sum of code * q starts at, so that it becomes one of whole number * q; q_sum is over the same columns. */
INLINE vint zero_start(const enum dtype type, int32_t q_sum) {
    return type_zero_point(type) ? vi_set(-type_zero_point(type) * q_sum) : vi_zero();
}

/* Codes as block_dots wants them: plain AVX2 takes codes of 8 bits less 128, which is then their zero point. */
INLINE void ready_codes(const enum dtype type, vint w[8]) {
    if (!SIGNED_BYTES || type_code_bits(type) != 8) return;
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) w[i] = vi_flip_signs(w[i]);
}

INLINE struct block_dots block_dots(const enum dtype type, const vint w[8], const struct activation *in, size_t at) {
    const int bits = type_code_bits(type);
    const int8_t *q = in->q + at * QUANT_BLOCK;
    if (type_scales_halves(type))
        return (struct block_dots){dot_codes(bits, 4, w, q, zero_start(type, in->sum16[2 * at])),
                                   dot_codes(bits, 4, w + 4, q + 16, zero_start(type, in->sum16[2 * at + 1]))};
    const bool corrected = SIGNED_BYTES && bits == 8;
    return (struct block_dots){dot_codes(bits, 8, w, q, corrected ? vi_zero() : zero_start(type, in->sum[at])), vi_zero()};
}

/* --- scales and the roundings --- */

struct block_factors {
    vfloat d, min;       /* multiply the sum of integers: d, or d * scale where a scale serves 32 columns; the same for m */
    vfloat scale[2];     /* whole numbers, where type_scales_halves */
    vfloat scale_min[2]; /* the same for Q2_K's minima */
};

/* The half floats: of a block, or for K types of a super-block, to be loaded once for all of its blocks. */
INLINE struct block_factors load_halves(const enum dtype type, const struct block_place *place, const int part) {
    struct block_factors f;
    const uint8_t *halves = place->halves + part * VECTOR_LANES * 2;
    f.d = vf_from_halves(halves);
    f.min = type_has_minimum(type) ? vf_from_halves(halves + LINE / 2) : vf_zero();
    f.scale[0] = f.scale[1] = f.scale_min[0] = f.scale_min[1] = vf_zero();
    return f;
}

/* A block's factors from the half floats. */
INLINE struct block_factors load_factors(const enum dtype type, const struct block_place *place, const int part,
                                         const struct block_factors *halves) {
    struct block_factors f = *halves;
    if (!type_is_k(type)) return f;
    const uint8_t *integers = place->integers + part * VECTOR_LANES;
    if (!type_scales_halves(type)) {
        f.d = vf_mul(f.d, vf_from_int(vi_from_bytes(integers)));
        f.min = vf_mul(f.min, vf_from_int(vi_from_bytes(integers + ROW_GROUP)));
        return f;
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        if (type == DTYPE_Q2_K) {
            const vint both = vi_from_bytes(integers + h * ROW_GROUP);
            f.scale[h] = vf_from_int(vi_and(both, 15));
            f.scale_min[h] = vf_from_int(vi_high_nibble(both));
        } else {
            f.scale[h] = vf_from_int(vi_from_signed_bytes(integers + h * ROW_GROUP));
        }
    }
    return f;
}

/* The exact integer sum of a block, as a float. With scales for 16 columns its parts and itself stay below 2^24 (Q6_K:
 * 16 * 32 * 127 * 128 * 2 = 16,646,144; Q3_K 16 * 4 * 127 * 32 * 2; Q2_K 16 * 3 * 127 * 15 * 2), so that products and sum in
 * floats are exact, and cheaper than vpmulld. */
INLINE vfloat integer_sum(const enum dtype type, const struct block_factors *f, struct block_dots dots) {
    if (!type_scales_halves(type)) return vf_from_int(dots.first);
    return vf_fma(vf_from_int(dots.second), f->scale[1], vf_mul(vf_from_int(dots.first), f->scale[0]));
}

/* acc + this block for one activation row. */
INLINE vfloat add_block(const enum dtype type, const struct block_factors *f, struct block_dots dots, const struct activation *in,
                        size_t at, vfloat acc) {
    const vfloat d = vf_set(in->d[at]);
    if (type == DTYPE_Q2_K) {
        const vfloat s0 = vf_from_int(vi_set(in->sum16[2 * at])), s1 = vf_from_int(vi_set(in->sum16[2 * at + 1]));
        const vfloat minima = vf_fma(f->scale_min[1], s1, vf_mul(f->scale_min[0], s0));
        acc = vf_fnma(minima, vf_mul(f->min, d), acc);
    } else if (type_has_minimum(type)) {
        const vfloat ds = vf_set(in->ds[at]);
        acc = type_is_k(type) ? vf_fnma(f->min, ds, acc) : vf_fma(f->min, ds, acc);
    }
    return vf_fma(integer_sum(type, f, dots), vf_mul(f->d, d), acc);
}

#endif
