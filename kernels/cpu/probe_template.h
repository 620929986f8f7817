/* probe_template.h - what an instruction set can do at most, for probe.c: streaming reads, and integer dot products on registers.
 * Compiled once per instruction set, like the other templates. */
#ifndef FORESAY_KERNELS_PROBE_TEMPLATE_H
#define FORESAY_KERNELS_PROBE_TEMPLATE_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

#define OPAQUE(x) __asm__ volatile("" : "+m"(x)) /* the compiler must take x for used, and for a new value */

/* Loads every byte once; n is a multiple of LINE. */
static void probe_read(const uint8_t *data, size_t n) {
    enum { CHAINS = 4, VECTOR_BYTES = VECTOR_LANES * 4 };
    vint sums[CHAINS];
    for (int i = 0; i < CHAINS; i++) sums[i] = vi_zero();
    size_t at = 0;
    for (; at + CHAINS * VECTOR_BYTES <= n; at += CHAINS * VECTOR_BYTES) {
#pragma GCC unroll 4
        for (int i = 0; i < CHAINS; i++) sums[i] = vi_add(sums[i], vi_load(data + at + (size_t)(i * VECTOR_BYTES)));
    }
    for (; at < n; at += VECTOR_BYTES) sums[0] = vi_add(sums[0], vi_load(data + at));
    for (int i = 0; i < CHAINS; i++) OPAQUE(sums[i]);
}

/* Returns the operations done, a product and its addition counted as two. */
INLINE double probe_dots(int n_loops) {
    _Alignas(LINE) static const int8_t q[QUANT_BLOCK] = {1, -2, 3, -4, 5, -6, 7, -8, 9, -10, 11, -12, 13, -14, 15, -16, 17};
    vint w = vi_set(0x01020304);
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
    enum { N = 12 }; /* chains that hide the latency */
    vint sums[N];
    for (int i = 0; i < N; i++) sums[i] = vi_zero();
    for (int loop = 0; loop < n_loops; loop++) {
        OPAQUE(w);
#pragma GCC unroll 12
        for (int i = 0; i < N; i++) sums[i] = dot_quad(sums[i], w, q);
    }
    for (int i = 0; i < N; i++) OPAQUE(sums[i]);
#else /* the cheapest there is: codes of 4 bits, eight products added in 16 bits before they are widened */
    enum { N = QUANT_BLOCK / 4 };
    vint sum = vi_zero(), codes[N];
    for (int loop = 0; loop < n_loops; loop++) {
        OPAQUE(w);
        for (int i = 0; i < N; i++) codes[i] = w;
        sum = dot_codes(4, N, codes, q, sum);
    }
    OPAQUE(sum);
#endif
    return 2.0 * 4 * VECTOR_LANES * N * n_loops;
}

#endif
