/* gemm_template.h - the inner tile of gemm.c: GEMM_ROWS rows by GEMM_COLS columns of products of floats, kept in registers. One
 * fmaf chain an element, over ascending k, so every instruction set gives the same bits. Compiled once per instruction set. */
#ifndef FORESAY_KERNELS_GEMM_TEMPLATE_H
#define FORESAY_KERNELS_GEMM_TEMPLATE_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

static void gemm_tile(const float *a, const float *b, int k, float *c, size_t c_row) {
    enum { VECTORS = GEMM_COLS / VECTOR_LANES };
    vfloat sums[GEMM_ROWS][VECTORS];
#pragma GCC unroll 6
    for (int i = 0; i < GEMM_ROWS; i++) {
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) sums[i][v] = vf_load(c + (size_t)i * c_row + v * VECTOR_LANES);
    }
    for (int at = 0; at < k; at++, a += GEMM_ROWS, b += GEMM_COLS) {
        vfloat columns[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) columns[v] = vf_load(b + v * VECTOR_LANES);
#pragma GCC unroll 6
        for (int i = 0; i < GEMM_ROWS; i++) {
            const vfloat row = vf_set(a[i]);
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) sums[i][v] = vf_fma(row, columns[v], sums[i][v]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < GEMM_ROWS; i++) {
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) vf_store(c + (size_t)i * c_row + v * VECTOR_LANES, sums[i][v]);
    }
}

#endif
