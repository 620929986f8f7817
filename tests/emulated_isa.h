/* emulated_isa.h - AVX-512, AVX-VNNI and AMX instructions in plain C, so that kernels written with them are checked bit by bit
 * on a processor that lacks them (`make check-emulated`). Included before everything else in the files that use them.
 *
 * SIMDe gives the vector instructions under their own names; tiles are here, after Intel's manual: eight tiles of at most 16
 * lines of 64 bytes, of which the configuration names rows and bytes a line. */
#ifndef FORESAY_TESTS_EMULATED_ISA_H
#define FORESAY_TESTS_EMULATED_ISA_H

#define EMULATED_ISAS 1
/* Inlined, the templates would become megabytes of emulation. */
#define INLINE static inline

#if defined(EMULATE_512)
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __AVX512VNNI__ 1

/* What this SIMDe lacks, in halves: FROM is what half i comes from. */
#define EMULATED_HALVES(name, to, from_type, half)                                                                               \
    static inline simde##to emulated_##name(from_type from) {                                                                    \
        simde##to##_private both;                                                                                                \
        for (int i = 0; i < 2; i++) {                                                                                            \
            half;                                                                                                                \
        }                                                                                                                        \
        return simde##to##_from_private(both);                                                                                   \
    }
#define HALF_OF_256 _mm_loadu_si128((const __m128i *)(const void *)&from + i)
#define HALF_OF_128 _mm_loadl_epi64((const __m128i *)(const void *)((const char *)&from + 8 * i))
EMULATED_HALVES(cvtph_ps, __m512, __m256i, both.m256[i] = _mm256_cvtph_ps(HALF_OF_256))
EMULATED_HALVES(cvtepi32_ps, __m512, simde__m512i, both.m256[i] = _mm256_cvtepi32_ps(simde__m512i_to_private(from).m256i[i]))
EMULATED_HALVES(cvtepu16_epi32, __m512i, __m256i, both.m256i[i] = _mm256_cvtepu16_epi32(HALF_OF_256))
EMULATED_HALVES(cvtepu8_epi32, __m512i, __m128i, both.m256i[i] = _mm256_cvtepu8_epi32(HALF_OF_128))
EMULATED_HALVES(cvtepi8_epi32, __m512i, __m128i, both.m256i[i] = _mm256_cvtepi8_epi32(HALF_OF_128))
#define _mm512_cvtph_ps(from)       emulated_cvtph_ps(from)
#define _mm512_cvtepi32_ps(from)    emulated_cvtepi32_ps(from)
#define _mm512_cvtepu16_epi32(from) emulated_cvtepu16_epi32(from)
#define _mm512_cvtepu8_epi32(from)  emulated_cvtepu8_epi32(from)
#define _mm512_cvtepi8_epi32(from)  emulated_cvtepi8_epi32(from)

static inline simde__m512i emulated_srai(simde__m512i from, int n) {
    simde__m512i_private to = simde__m512i_to_private(from);
    for (int i = 0; i < 16; i++) to.i32[i] = to.i32[i] >> n;
    return simde__m512i_from_private(to);
}
static inline simde__m512i emulated_cvtps(simde__m512 from) {
    simde__m512i_private to;
    for (int i = 0; i < 2; i++) to.m256i[i] = _mm256_cvtps_epi32(simde__m512_to_private(from).m256[i]);
    return simde__m512i_from_private(to);
}
static inline simde__m512 emulated_permute(simde__m512 from, int lanes) { /* within each 128 bits */
    const simde__m512_private at = simde__m512_to_private(from);
    simde__m512_private to;
    for (int i = 0; i < 16; i++) to.f32[i] = at.f32[i / 4 * 4 + (lanes >> 2 * (i % 4) & 3)];
    return simde__m512_from_private(to);
}
#define _mm512_srai_epi32(from, n)     emulated_srai(from, n)
#define _mm512_cvtps_epi32(from)       emulated_cvtps(from)
#define _mm512_permute_ps(from, lanes) emulated_permute(from, lanes)
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4(a, b, lanes)                                                                                        \
    simde_mm512_castsi512_ps(simde_mm512_shuffle_i32x4(simde_mm512_castps_si512(a), simde_mm512_castps_si512(b), lanes))

/* Lanes whose bit is 0 keep `other`. */
static inline simde__m512i emulated_gather(simde__m512i other, uint16_t mask, simde__m512i index, const void *base) {
    simde__m512i_private to = simde__m512i_to_private(other);
    const simde__m512i_private at = simde__m512i_to_private(index);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) memcpy(&to.i32[i], (const char *)base + 4 * (ptrdiff_t)at.i32[i], sizeof to.i32[i]);
    return simde__m512i_from_private(to);
}
#undef _mm512_mask_i32gather_epi32
#undef _mm512_mask_i32gather_ps
#define _mm512_mask_i32gather_epi32(other, mask, index, base, scale) emulated_gather(other, mask, index, base)
#define _mm512_mask_i32gather_ps(other, mask, index, base, scale)                                                                \
    simde_mm512_castsi512_ps(emulated_gather(simde_mm512_castps_si512(other), mask, index, base))

struct emulated_tile {
    uint8_t line[16][64];
};
static _Thread_local struct emulated_tile emulated_tiles[8];
static _Thread_local struct { int rows[8], row_bytes[8]; } emulated_shape;

static inline void emulated_loadconfig(const void *config) {
    const uint8_t *bytes = config;
    for (int i = 0; i < 8; i++) {
        emulated_shape.row_bytes[i] = bytes[16 + 2 * i] + 256 * bytes[17 + 2 * i];
        emulated_shape.rows[i] = bytes[48 + i];
    }
    memset(emulated_tiles, 0, sizeof emulated_tiles);
}
static inline void emulated_zero(int tile) { memset(&emulated_tiles[tile], 0, sizeof emulated_tiles[tile]); }
static inline void emulated_load(int tile, const void *base, size_t stride) {
    assert(emulated_shape.rows[tile] > 0);
    emulated_zero(tile);
    for (int r = 0; r < emulated_shape.rows[tile]; r++)
        memcpy(emulated_tiles[tile].line[r], (const char *)base + (size_t)r * stride, (size_t)emulated_shape.row_bytes[tile]);
}
static inline void emulated_store(int tile, void *base, size_t stride) {
    for (int r = 0; r < emulated_shape.rows[tile]; r++)
        memcpy((char *)base + (size_t)r * stride, emulated_tiles[tile].line[r], (size_t)emulated_shape.row_bytes[tile]);
}
/* C[m][n] += sum over k of signed A[m][k] * unsigned B[k / 4][n][k % 4] */
static inline void emulated_dpbsud(int c, int a, int b) {
    for (int m = 0; m < emulated_shape.rows[c]; m++)
        for (int n = 0; n < emulated_shape.row_bytes[c] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &emulated_tiles[c].line[m][4 * n], sizeof sum);
            for (int k = 0; k < emulated_shape.row_bytes[a]; k++)
                sum += (int8_t)emulated_tiles[a].line[m][k] * emulated_tiles[b].line[k / 4][4 * n + k % 4];
            memcpy(&emulated_tiles[c].line[m][4 * n], &sum, sizeof sum);
        }
}

#undef _tile_loadconfig
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbsud
#undef _tile_release
#define _tile_loadconfig(config)         emulated_loadconfig(config)
#define _tile_zero(tile)                 emulated_zero(tile)
#define _tile_loadd(tile, base, stride)  emulated_load(tile, base, stride)
#define _tile_stored(tile, base, stride) emulated_store(tile, base, stride)
#define _tile_dpbsud(c, a, b)            emulated_dpbsud(c, a, b)
#define _tile_release()                  ((void)0)
#elif defined(EMULATE_VNNI)
#include <simde/x86/avx512.h>
#define __AVXVNNI__                      1
#define _mm256_dpbusd_avx_epi32(a, b, c) simde_mm256_dpbusd_epi32(a, b, c)
#endif
#endif
