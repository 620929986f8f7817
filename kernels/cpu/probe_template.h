/* probe_template.h - what an instruction set can do at most, for probe.c: streaming reads, and integer dot products on registers.
 * Compiled once per instruction set, like the other templates. */
#ifndef FORESAY_KERNELS_PROBE_TEMPLATE_H
#define FORESAY_KERNELS_PROBE_TEMPLATE_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

/* x, but the compiler must take it for another value. */
INLINE vint opaque(vint x) {
    __asm__ volatile("" : "+m"(x));
    return x;
}

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
    for (int i = 0; i < CHAINS; i++) opaque(sums[i]);
}

/* Returns the operations done, a product and its addition counted as two. */
INLINE double probe_dots(int n_loops) {
    static const int8_t q[QUANT_BLOCK] = {1,  -2,  3,  -4,  5,  -6,  7,  -8,  9,  -10, 11, -12, 13, -14, 15, -16,
                                          17, -18, 19, -20, 21, -22, 23, -24, 25, -26, 27, -28, 29, -30, 31, -32};
    const vint codes = vi_set(0x01020304);
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
    enum { CHAINS = 12, N = 8 * CHAINS }; /* chains hide the latency; rounds of them the compiler's moves between loops */
    struct dot_chain chains[CHAINS];
    const vint quads = vi_set(load_quad(q));
    for (int i = 0; i < CHAINS; i++) chains[i] = dot_begin(opaque(vi_zero()));
    const struct ready_codes ready = codes_ready(4, opaque(codes));
    for (int loop = 0; loop < n_loops; loop++) {
#pragma GCC unroll 96
        for (int i = 0; i < N; i++) dot_step(4, i, N, ready, quads, &chains[i % CHAINS]);
    }
    for (int i = 0; i < CHAINS; i++) opaque(chains[i].sum);
#else /* the cheapest there is: codes of 4 bits, eight products added in 16 bits before they are widened */
    enum { N = QUANT_BLOCK / 4 };
    vint sum = vi_zero(), block[N];
    for (int loop = 0; loop < n_loops; loop++) {
        const vint w = opaque(codes);
        for (int i = 0; i < N; i++) block[i] = w;
        sum = dot_codes(4, N, block, q, sum);
    }
    opaque(sum);
#endif
    return 2.0 * 4 * VECTOR_LANES * N * n_loops;
}

#endif
