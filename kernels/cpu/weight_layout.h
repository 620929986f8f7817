/* weight_layout.h - where things lie in a group of 16 repacked rows ("x16"); plain C, shared by repack.c, reference.c and the
 * vector code (weight_blocks.h). Inline, so that a type known to the compiler costs nothing.
 *
 * A lane is an output row, so that no sum runs across lanes. A group is one ascending run of lines of 64 bytes, for ascending
 * blocks of 32 columns:
 *   Q4_1, Q5_1           (16 d, 16 m), codes
 *   Q4_0, Q5_0, Q8_0,
 *   IQ4_NL               (16 d, 16 d of the next block), codes, codes of the next block
 *   K types, for 256     (16 d, 16 m), then four times: (integers, integers of the next block), codes, codes of the next block
 * With an odd number of blocks the last pair is cut after its first codes; super-blocks are never cut. "integers" are 32 bytes:
 *   Q4_K, Q5_K  16 scales, 16 minima;  Q6_K, Q3_K  16 signed scales of columns 0..15, 16 of columns 16..31;
 *   Q2_K  the same places, scale in the low and minimum in the high nibble.
 * "codes" are as many lines as a stored code has bits. Vector v (0..7) of a block holds, for row r and byte j, column 4v + j.
 * Codes that do not fill a byte are spread so that few instructions bring them back, with as few shifts as can be: most codes lie
 * whole in a line, and the bits that those leave free at the top of the bytes are the remaining codes, the highest bits first:
 *   8 bits  line v is vector v
 *   4 bits  line v has vectors v (low nibble) and v + 4 (high nibble)
 *   2 bits  line t has vectors 4t .. 4t + 3, from the low bits up
 *   6 bits  twice three lines: lines 0, 1, 2 have vectors 0, 1, 2 in their low 6 bits, and 2 bits each of vector 3
 *   5 bits  line k has vector k in its low 5 bits. Above: vector 5 is the 3 bits of line 0 and the upper 2 of line 1; vector 6
 *           the 3 of line 2 and the upper 2 of line 3; vector 7 the 3 of line 4 and bits 5 of lines 1 and 3
 *   3 bits  line k has vectors 2k (low 3 bits) and 2k + 1. Above: vector 6 is the 2 bits of line 0 and bit 7 of line 1; vector 7
 *           the 2 bits of line 2 and bit 6 of line 1
 * Hence the repacked form is as large as the file's, but for widened scales of the K types (+2 % for Q4_K, +5 % for Q3_K).
 * F32, F16, BF16: for each column the 16 weights. */
#ifndef FORESAY_KERNELS_WEIGHT_LAYOUT_H
#define FORESAY_KERNELS_WEIGHT_LAYOUT_H

#include "kernels/cpu/cpu.h"
#include "kernels/plain_block.h"

/* Block b of a group. The type decides which pointers mean something. */
struct block_place {
    const uint8_t *halves;   /* 16 d, then 16 m where the type has a minimum */
    const uint8_t *integers; /* 32 bytes, K types only */
    const uint8_t *codes;    /* type_stored_bits lines */
};

INLINE size_t code_bytes(const enum dtype type) { return (size_t)type_stored_bits(type) * LINE; }

/* A line of two half lines, and the codes of two blocks. */
INLINE size_t pair_bytes(const enum dtype type) { return LINE + 2 * code_bytes(type); }
INLINE size_t super_bytes(const enum dtype type) { return LINE + SUPER_BLOCKS / 2 * pair_bytes(type); }

INLINE struct block_place block_place(const enum dtype type, const uint8_t *group, int b) {
    const size_t block = (size_t)b;
    if (type_is_k(type)) {
        const uint8_t *super = group + block / SUPER_BLOCKS * super_bytes(type);
        const uint8_t *pair = super + LINE + block % SUPER_BLOCKS / 2 * pair_bytes(type);
        return (struct block_place){super, pair + block % 2 * (LINE / 2), pair + LINE + block % 2 * code_bytes(type)};
    }
    if (type_has_minimum(type)) {
        const uint8_t *at = group + block * (LINE + code_bytes(type));
        return (struct block_place){at, NULL, at + LINE};
    }
    const uint8_t *pair = group + block / 2 * pair_bytes(type);
    return (struct block_place){pair + block % 2 * (LINE / 2), NULL, pair + LINE + block % 2 * code_bytes(type)};
}

/* Bytes of a group of n_blocks blocks. */
INLINE size_t blocks_bytes(const enum dtype type, size_t n_blocks) {
    if (type_is_k(type)) return n_blocks / SUPER_BLOCKS * super_bytes(type);
    if (type_has_minimum(type)) return n_blocks * (LINE + code_bytes(type));
    return (n_blocks + 1) / 2 * LINE + n_blocks * code_bytes(type);
}

/* One lane of a block (repack.c). */
void lane_put(enum dtype type, uint8_t *group, int block, int lane, const struct plain_block *in);
void lane_get(enum dtype type, const uint8_t *group, int block, int lane, struct plain_block *out);

#endif
