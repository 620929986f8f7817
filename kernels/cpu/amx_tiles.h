/* amx_tiles.h - matrix products of many activation rows on Intel's AMX tiles (int8); everything else is AVX-512's. A part of
 * kernels_avx512.c, so that those templates are compiled once for both tables.
 *
 * One tile product is 16 output rows x up to 16 activation rows x one block of 32 columns: exactly the integer sums that
 * reference.c defines, 8,192 products in one instruction. Scales and minima follow in vectors, in the order of the definition, so
 * the bits are those of every other instruction set.
 *  (1) A tile: codes of activations as they lie in struct activation. B tile: the unpacked code vectors of weight_blocks.h, which
 *      have just the layout that tiles want ([4 columns][16 rows][4 bytes]). C tile: a line is an activation row, a lane an
 *      output row.
 *  (2) A group is unpacked once, on the stack, for all activation rows of the slice; scales of activations are transposed once
 *      for all groups. So slices are taller here than elsewhere.
 *  (3) After a tile instruction the processors seen (Granite Rapids) start only one floating point instruction a cycle for about
 *      100 ns, integer ones not concerned. So the floating point instructions a block set the pace: 3, and 4 with a minimum.
 *  (4) Tiles are state of the thread: configured at the start of a slice and released at its end, which keeps context switches
 *      cheap.
 *  (5) Few rows, types with scales for 16 columns and very wide matrices stay with AVX-512. */
#ifndef FORESAY_KERNELS_AMX_TILES_H
#define FORESAY_KERNELS_AMX_TILES_H

#include "kernels/cpu/attention_template.h"
#include "kernels/cpu/gemm_template.h"
#include "kernels/cpu/matmul_template.h"
#include "kernels/cpu/probe_template.h"
#include "kernels/cpu/row_template.h"
#include "kernels/cpu/unpacked.h"

enum {
    TILE_ROWS = 16,
    MOST_TILES = 4,   /* of a slice */
    LEAST_ROWS = 24,  /* fewer are faster with AVX-512 */
    MAX_COLS = 16384, /* what fits an unpacked group on the stack and in the L2 cache */
    MAX_BLOCKS = MAX_COLS / QUANT_BLOCK,
    DOTS_AHEAD = 2,
};

/* Scales of a block of a tile of activation rows; rows beyond the last are 0. */
struct scales {
    _Alignas(LINE) float d[TILE_ROWS], ds[TILE_ROWS];
    int32_t start[TILE_ROWS]; /* what a sum of code * q begins at: zero_start */
};

/* --- preparing --- */

/* Operand of the tile configuration instruction: C tile 0, A tile 1, B tile 2. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static void configure_tiles(int n_rows) {
    struct tile_config config = {.palette = 1, .row_bytes = {LINE, QUANT_BLOCK, LINE}};
    config.rows[0] = config.rows[1] = (uint8_t)n_rows;
    config.rows[2] = QUANT_BLOCK / 4;
    _tile_loadconfig(&config);
}

/* Columns of [row][block] arrays become lines. */
INLINE void transpose_scales(const enum dtype type, const struct activation *in, int first_row, int n_rows, struct scales *to) {
    const int n_blocks = in->n_cols / QUANT_BLOCK;
    const __m512i at =
        _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), vi_set(n_blocks));
    const __mmask16 mask = (__mmask16)((1u << n_rows) - 1);
    const size_t first = (size_t)first_row * (size_t)n_blocks;
    for (int b = 0; b < n_blocks; b++) {
        const size_t from = first + (size_t)b;
        vf_store(to[b].d, _mm512_mask_i32gather_ps(vf_zero(), mask, at, in->d + from, 4));
        if (type_has_minimum(type)) vf_store(to[b].ds, _mm512_mask_i32gather_ps(vf_zero(), mask, at, in->ds + from, 4));
        if (type_zero_point(type)) {
            const vint sums = _mm512_mask_i32gather_epi32(vi_zero(), mask, at, in->sum + from, 4);
            _mm512_storeu_si512(to[b].start, _mm512_mullo_epi32(sums, vi_set(-type_zero_point(type))));
        }
    }
}

/* --- products --- */

INLINE void block_product(const int8_t *q, size_t q_stride, const uint8_t *codes, int32_t *dots) {
    _tile_zero(0);
    _tile_loadd(1, q, q_stride);
    _tile_loadd(2, codes, LINE);
    _tile_dpbsud(0, 1, 2);
    _tile_stored(0, dots, LINE);
}

/* One group for a tile of n activation rows, computed as if they were m; tiles are configured for n. The products run a block
 * ahead of the roundings. */
INLINE void group_tile(const enum dtype type, const int m, int n, const int8_t *q, int n_blocks, const struct unpacked *w,
                       const struct scales *s, float *out, size_t out_stride, bool add) {
    _Alignas(LINE) int32_t dots[DOTS_AHEAD][TILE_ROWS * ROW_GROUP];
    const size_t q_stride = (size_t)n_blocks * QUANT_BLOCK;
    vfloat acc[TILE_ROWS];
#pragma GCC unroll 16
    for (int t = 0; t < m; t++) acc[t] = vf_zero();
    block_product(q, q_stride, w[0].codes, dots[0]);
    for (int b = 0; b < n_blocks; b++) {
        if (b + 1 < n_blocks) block_product(q + (b + 1) * QUANT_BLOCK, q_stride, w[b + 1].codes, dots[(b + 1) % DOTS_AHEAD]);
        const int32_t *dot = dots[b % DOTS_AHEAD], *start = s[b].start;
        const float *row_d = s[b].d, *row_ds = s[b].ds;
        const vfloat d = w[b].factors[0].d;
        const vfloat min = type_has_minimum(type) ? w[b].factors[0].min : vf_zero();
#pragma GCC unroll 16
        for (int t = 0; t < m; t++) {
            vint sum = _mm512_load_si512(dot + t * ROW_GROUP);
            if (type_zero_point(type)) sum = _mm512_add_epi32(sum, vi_set(start[t]));
            if (type_has_minimum(type))
                acc[t] = type_is_k(type) ? vf_fnma(min, vf_set(row_ds[t]), acc[t]) : vf_fma(min, vf_set(row_ds[t]), acc[t]);
            acc[t] = vf_fma(vf_from_int(sum), vf_mul(d, vf_set(row_d[t])), acc[t]);
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < m; t++)
        if (t < n) vf_store(out + (size_t)t * out_stride, add ? vf_add(vf_load(out + (size_t)t * out_stride), acc[t]) : acc[t]);
}

INLINE void group_rows(const enum dtype type, const struct matmul_slice *slice, int first, int n, const struct unpacked *w,
                       const struct scales *s, float *out) {
    const int n_blocks = slice->in->n_cols / QUANT_BLOCK;
    const size_t stride = (size_t)slice->out_stride;
    const int8_t *q = slice->in->q + (size_t)(slice->first_row + first) * (size_t)slice->in->n_cols;
    out += (size_t)first * stride;
    if (n > 12)
        group_tile(type, 16, n, q, n_blocks, w, s, out, stride, slice->add);
    else if (n > 8)
        group_tile(type, 12, n, q, n_blocks, w, s, out, stride, slice->add);
    else if (n > 4)
        group_tile(type, 8, n, q, n_blocks, w, s, out, stride, slice->add);
    else
        group_tile(type, 4, n, q, n_blocks, w, s, out, stride, slice->add);
}

INLINE void tile_matmul(const enum dtype type, const struct matmul_slice *slice) {
    const int n_blocks = slice->in->n_cols / QUANT_BLOCK, n_rows = slice->n_rows, n_full = n_rows / TILE_ROWS * TILE_ROWS;
    struct unpacked w[MAX_BLOCKS];
    struct scales s[MOST_TILES * MAX_BLOCKS];
    for (int row = 0; row < n_rows; row += TILE_ROWS) {
        const int n = n_rows - row < TILE_ROWS ? n_rows - row : TILE_ROWS;
        transpose_scales(type, slice->in, slice->first_row + row, n, s + row / TILE_ROWS * n_blocks);
    }
    configure_tiles(n_full ? TILE_ROWS : n_rows);
    for (int g = 0; g < slice->n_groups; g++) {
        float *out = slice->out + (size_t)g * ROW_GROUP;
        unpack_run(type, slice->weight->data + (size_t)(slice->first_group + g) * slice->weight->group_stride, 0, n_blocks, w);
        for (int row = 0; row < n_full; row += TILE_ROWS)
            group_rows(type, slice, row, TILE_ROWS, w, s + row / TILE_ROWS * n_blocks, out);
        if (n_full == n_rows) continue;
        if (n_full) configure_tiles(n_rows - n_full);
        group_rows(type, slice, n_full, n_rows - n_full, w, s + n_full / TILE_ROWS * n_blocks, out);
        if (n_full) configure_tiles(TILE_ROWS);
    }
    _tile_release();
}

/* --- one function a type --- */

#define TILES(type, name)                                                                                                        \
    static void tiles_##name(const struct matmul_slice *slice) {                                                                 \
        if (slice->n_rows < LEAST_ROWS || slice->in->n_cols > MAX_COLS)                                                          \
            matmul_##name(slice);                                                                                                \
        else                                                                                                                     \
            tile_matmul(type, slice);                                                                                            \
    }
TILES(DTYPE_Q4_0, q4_0)
TILES(DTYPE_Q4_1, q4_1)
TILES(DTYPE_Q8_0, q8_0)
TILES(DTYPE_Q5_0, q5_0)
TILES(DTYPE_Q5_1, q5_1)
TILES(DTYPE_Q4_K, q4_k)
TILES(DTYPE_Q5_K, q5_k)
TILES(DTYPE_IQ4_NL, iq4_nl)

/* --- peak: full tiles, four chains that hide the latency --- */

static double probe_tiles(int n_loops) {
    enum { N = 4 };
    _Alignas(LINE) static const uint8_t ones[TILE_ROWS * LINE] = {1, 2, 3};
    struct tile_config config = {.palette = 1};
    for (int i = 0; i < N + 2; i++) {
        config.row_bytes[i] = LINE;
        config.rows[i] = TILE_ROWS;
    }
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, ones, LINE);
    _tile_loadd(5, ones, LINE);
    for (int loop = 0; loop < n_loops; loop++) {
        _tile_dpbsud(0, 4, 5);
        _tile_dpbsud(1, 4, 5);
        _tile_dpbsud(2, 4, 5);
        _tile_dpbsud(3, 4, 5);
    }
    _tile_release();
    return 2.0 * TILE_ROWS * ROW_GROUP * LINE * N * n_loops;
}

/* --- the table --- */

const struct cpu_kernels cpu_kernels_amx = {
    .name = "amx",
    .slice_rows = MOST_TILES * TILE_ROWS,
    .matmul = {[DTYPE_F32] = matmul_f32,
               [DTYPE_F16] = matmul_f16,
               [DTYPE_BF16] = matmul_bf16,
               [DTYPE_Q4_0] = tiles_q4_0,
               [DTYPE_Q4_1] = tiles_q4_1,
               [DTYPE_Q8_0] = tiles_q8_0,
               [DTYPE_Q5_0] = tiles_q5_0,
               [DTYPE_Q5_1] = tiles_q5_1,
               [DTYPE_Q4_K] = tiles_q4_k,
               [DTYPE_Q5_K] = tiles_q5_k,
               [DTYPE_Q6_K] = matmul_q6_k,
               [DTYPE_Q3_K] = matmul_q3_k,
               [DTYPE_Q2_K] = matmul_q2_k,
               [DTYPE_IQ4_NL] = tiles_iq4_nl},
    KERNELS_BY_NAME,
    .probe_read = probe_read,
    .probe_dots = probe_tiles,
};
#endif
