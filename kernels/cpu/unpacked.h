/* unpacked.h - blocks of 16 weight rows, unpacked once for many activation rows: for matmul_unpacked.h and for tiles of int8. */
#ifndef FORESAY_KERNELS_UNPACKED_H
#define FORESAY_KERNELS_UNPACKED_H

#include "kernels/cpu/weight_blocks.h"

/* A block of 16 output rows. */
struct unpacked {
    _Alignas(LINE) uint8_t codes[8 * LINE];
    struct block_factors factors[PARTS];
};

INLINE void unpack_block(const enum dtype type, const int part, const struct block_place *place,
                         const struct block_factors *halves, struct unpacked *to) {
    vint w[8];
    unpack_codes(type, place->codes, part, w);
    ready_codes(type, w);
#pragma GCC unroll 8
    for (int v = 0; v < 8; v++) vi_store(to->codes + v * LINE + part * VECTOR_LANES * 4, w[v]);
    const struct block_factors factors = load_factors(type, place, part, halves);
    to->factors[part].d = factors.d;
    if (type_has_minimum(type)) to->factors[part].min = factors.min;
    if (!type_scales_halves(type)) return;
    memcpy(to->factors[part].scale, factors.scale, sizeof factors.scale);
    if (type == DTYPE_Q2_K) memcpy(to->factors[part].scale_min, factors.scale_min, sizeof factors.scale_min);
}

INLINE void unpack_run(const enum dtype type, const uint8_t *group, int first, int n, struct unpacked *to) {
    const int together = type_is_k(type) ? SUPER_BLOCKS : 1; /* blocks that share their half floats */
    for (int i = 0; i < n; i += together)
#pragma GCC unroll 2
        for (int p = 0; p < PARTS; p++) {
            struct block_place place = block_place(type, group, first + i);
            const struct block_factors halves = load_halves(type, &place, p);
            for (int j = 0; j < together; j++) {
                place = block_place(type, group, first + i + j);
                if (p == 0) prefetch_block(type, 1, place.codes + PREFETCH_BYTES);
                unpack_block(type, p, &place, &halves, &to[i + j]);
            }
        }
}

#endif
