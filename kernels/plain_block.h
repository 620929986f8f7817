/* plain_block.h - 32 weights of a quantised type in one form for all types: what a file's block says once its bits are sorted.
 *
 *     weight = d * scale[h] * w   [ + m  |  - m * min[h] ]        h = 0 for columns 0..15, 1 for columns 16..31
 *
 * The whole number w is the code less the type's zero point, or an entry of IQ4_NL's table. A type is told by the few properties
 * below; they are inline, so that a type known to the compiler costs nothing. Block 8s + j of a K type is sub-block j of
 * super-block s.
 *
 *  type         stored bits  zero  scale, min                           file's block
 *  Q4_0          4            8     1                                    d, 16 bytes
 *  Q4_1          4            0     1, + m                               d, m, 16 bytes
 *  Q5_0          5            16    1                                    d, 32 high bits, 16 bytes
 *  Q5_1          5            0     1, + m                               d, m, 32 high bits, 16 bytes
 *  Q8_0          8            128   1                                    d, 32 bytes (signed)
 *  IQ4_NL        4            -     1 (codes are entries of a table)     d, 16 bytes
 *  Q4_K, Q5_K    4, 5         0     6 bits for 32, - m * 6 bits for 32   see dtype.c
 *  Q6_K          6            32    8 bits (signed) for 16               see dtype.c
 *  Q3_K          3            4     6 bits less 32 for 16                see dtype.c
 *  Q2_K          2            0     4 bits for 16, - m * 4 bits for 16   see dtype.c */
#ifndef FORESAY_KERNELS_PLAIN_BLOCK_H
#define FORESAY_KERNELS_PLAIN_BLOCK_H

#include "kernels/kernels.h"

#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))
#endif

enum { SUPER_BLOCKS = 8, SUPER_COLS = SUPER_BLOCKS * QUANT_BLOCK }; /* blocks of 32 in a super-block of the K types */

struct plain_block {
    uint16_t d, m;              /* half floats; m is 0 where the type has no minimum */
    int8_t scale[2];            /* 1 where the type has none; both alike where it has one for 32 */
    uint8_t min[2];             /* the same for the factors of m */
    uint8_t codes[QUANT_BLOCK]; /* as stored: stored_bits wide, unsigned */
};

INLINE bool type_is_k(const enum dtype type) {
    return type == DTYPE_Q2_K || type == DTYPE_Q3_K || type == DTYPE_Q4_K || type == DTYPE_Q5_K || type == DTYPE_Q6_K;
}

/* Scales (and minima) for each 16 columns. */
INLINE bool type_scales_halves(const enum dtype type) { return type == DTYPE_Q2_K || type == DTYPE_Q3_K || type == DTYPE_Q6_K; }

INLINE bool type_has_minimum(const enum dtype type) {
    return type == DTYPE_Q4_1 || type == DTYPE_Q5_1 || type == DTYPE_Q2_K || type == DTYPE_Q4_K || type == DTYPE_Q5_K;
}

/* Bits of a code as it is stored. 32 columns of 16 rows take as many lines of 64 bytes. */
INLINE int type_stored_bits(const enum dtype type) {
    switch (type) {
    case DTYPE_Q2_K:
        return 2;
    case DTYPE_Q3_K:
        return 3;
    case DTYPE_Q5_0:
    case DTYPE_Q5_1:
    case DTYPE_Q5_K:
        return 5;
    case DTYPE_Q6_K:
        return 6;
    case DTYPE_Q8_0:
        return 8;
    default:
        return 4;
    }
}

/* Bits of the unsigned bytes that enter the dot product. */
INLINE int type_code_bits(const enum dtype type) { return type == DTYPE_IQ4_NL ? 8 : type_stored_bits(type); }

/* What an unsigned byte of the dot product has above the whole number it stands for. */
INLINE int type_zero_point(const enum dtype type) {
    switch (type) {
    case DTYPE_Q4_0:
        return 8;
    case DTYPE_Q5_0:
        return 16;
    case DTYPE_Q8_0:
    case DTYPE_IQ4_NL:
        return 128;
    case DTYPE_Q3_K:
        return 4;
    case DTYPE_Q6_K:
        return 32;
    default:
        return 0;
    }
}

/* The values of IQ4_NL's 16 codes, plus 128. */
#define IQ4_NL_TABLE 1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241
extern const uint8_t iq4_nl_table[16];

/* The whole number that a stored code means. */
INLINE int code_to_whole(const enum dtype type, uint8_t code) {
    return (type == DTYPE_IQ4_NL ? iq4_nl_table[code] : code) - type_zero_point(type);
}

/* Block `index` of a row in the file's layout. The type is quantised, the row long enough. */
void plain_block_read(enum dtype type, const uint8_t *row, int64_t index, struct plain_block *out);
void plain_block_to_float(enum dtype type, const struct plain_block *block, float *out);

#endif
