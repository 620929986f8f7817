/* simd.h - the few vector operations that the matmul and attention templates need, for AVX2 and AVX-VNNI (8 lanes) and AVX-512
 * (16 lanes). The compiler's flags for the including file choose. A lane is an output row, a position or a head dimension;
 * nothing here runs across lanes. */
#ifndef FORESAY_KERNELS_SIMD_H
#define FORESAY_KERNELS_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))
#endif

INLINE int32_t load_quad(const int8_t *q) {
    int32_t quad;
    memcpy(&quad, q, sizeof quad);
    return quad;
}

#if defined(__AVX512VNNI__)

enum { VECTOR_LANES = 16 };
typedef __m512 vfloat;
typedef __m512i vint;

INLINE vfloat vf_zero(void) { return _mm512_setzero_ps(); }
INLINE vfloat vf_set(float x) { return _mm512_set1_ps(x); }
INLINE vfloat vf_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(float *p, vfloat x) { _mm512_storeu_ps(p, x); }
INLINE vfloat vf_add(vfloat a, vfloat b) { return _mm512_add_ps(a, b); }
INLINE vfloat vf_mul(vfloat a, vfloat b) { return _mm512_mul_ps(a, b); }
INLINE vfloat vf_fma(vfloat a, vfloat b, vfloat c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vfloat vf_from_int(vint x) { return _mm512_cvtepi32_ps(x); }
INLINE vfloat vf_from_halves(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
INLINE vfloat vf_from_brains(const void *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
INLINE vint vi_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE vint vi_set(int32_t x) { return _mm512_set1_epi32(x); }
INLINE vint vi_zero(void) { return _mm512_setzero_si512(); }
INLINE vint vi_and(vint x, uint8_t mask) { return _mm512_and_si512(x, _mm512_set1_epi8((char)mask)); }
INLINE vint vi_or_masked(vint base, vint x, uint8_t mask) { /* base | (x & mask) */
    return _mm512_ternarylogic_epi32(base, x, _mm512_set1_epi8((char)mask), 0xf8);
}
/* Bits move between the two bytes of a half word: mask afterwards. */
INLINE vint vi_shift_right(vint x, int n) { return n ? _mm512_srli_epi16(x, n) : x; }
INLINE vint vi_shift_left(vint x, int n) { return n ? _mm512_slli_epi16(x, n) : x; }
INLINE vint vi_lookup(const uint8_t table[16], vint index) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table)), index);
}
INLINE vint vi_from_bytes(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p)); }
INLINE vint vi_from_signed_bytes(const uint8_t *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)); }
INLINE vint vi_add(vint a, vint b) { return _mm512_add_epi32(a, b); }
INLINE vint vi_high_nibble(vint x) { return _mm512_srli_epi32(x, 4); } /* of lanes below 256 */
INLINE vfloat vf_fnma(vfloat a, vfloat b, vfloat c) { return _mm512_fnmadd_ps(a, b, c); }

#else

enum { VECTOR_LANES = 8 };
typedef __m256 vfloat;
typedef __m256i vint;

INLINE vfloat vf_zero(void) { return _mm256_setzero_ps(); }
INLINE vfloat vf_set(float x) { return _mm256_set1_ps(x); }
INLINE vfloat vf_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vf_store(float *p, vfloat x) { _mm256_storeu_ps(p, x); }
INLINE vfloat vf_add(vfloat a, vfloat b) { return _mm256_add_ps(a, b); }
INLINE vfloat vf_mul(vfloat a, vfloat b) { return _mm256_mul_ps(a, b); }
INLINE vfloat vf_fma(vfloat a, vfloat b, vfloat c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vfloat vf_from_int(vint x) { return _mm256_cvtepi32_ps(x); }
INLINE vfloat vf_from_halves(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
INLINE vfloat vf_from_brains(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
INLINE vint vi_load(const uint8_t *p) { return _mm256_loadu_si256((const void *)p); }
INLINE vint vi_set(int32_t x) { return _mm256_set1_epi32(x); }
INLINE vint vi_zero(void) { return _mm256_setzero_si256(); }
INLINE vint vi_and(vint x, uint8_t mask) { return _mm256_and_si256(x, _mm256_set1_epi8((char)mask)); }
INLINE vint vi_or_masked(vint base, vint x, uint8_t mask) { return _mm256_or_si256(base, vi_and(x, mask)); }
INLINE vint vi_shift_right(vint x, int n) { return n ? _mm256_srli_epi16(x, n) : x; }
INLINE vint vi_shift_left(vint x, int n) { return n ? _mm256_slli_epi16(x, n) : x; }
INLINE vint vi_lookup(const uint8_t table[16], vint index) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table)), index);
}
INLINE vint vi_from_bytes(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)); }
INLINE vint vi_from_signed_bytes(const uint8_t *p) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)); }
INLINE vint vi_add(vint a, vint b) { return _mm256_add_epi32(a, b); }
INLINE vint vi_high_nibble(vint x) { return _mm256_srli_epi32(x, 4); }
INLINE vfloat vf_fnma(vfloat a, vfloat b, vfloat c) { return _mm256_fnmadd_ps(a, b, c); }

#endif

/* --- dot products: n vectors of unsigned codes, four a lane, with 4n int8 that are the same for all lanes --- */

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

enum { SIGNED_BYTES = 0 }; /* 1: codes of 8 bits go into dot_codes with flipped signs: less 128 */
INLINE vint vi_flip_signs(vint x) { return x; }
#if defined(__AVX512VNNI__)
INLINE vint vi_codes_from_signed(vint x) { return _mm512_xor_si512(x, _mm512_set1_epi8(-128)); } /* for dot_codes of 8 bits */
#else
INLINE vint vi_codes_from_signed(vint x) { return _mm256_xor_si256(x, _mm256_set1_epi8(-128)); }
#endif

INLINE vint dot_quad(vint sum, vint w, const int8_t *q) {
#if defined(__AVX512VNNI__)
    return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(load_quad(q)));
#else
    return _mm256_dpbusd_avx_epi32(sum, w, _mm256_set1_epi32(load_quad(q)));
#endif
}

/* start + the dot product. Two chains hide the latency of eight; four are half of a block, and the other half is beside them. */
INLINE vint dot_codes(const int bits, const int n, const vint *w, const int8_t *q, vint start) {
    (void)bits;
    vint even = start, odd = vi_zero();
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        vint *sum = n > 4 && i % 2 ? &odd : &even;
        *sum = dot_quad(*sum, w[i], q + 4 * i);
    }
    return n > 4 ? vi_add(even, odd) : even;
}

#else

enum { SIGNED_BYTES = 1 };
INLINE vint vi_flip_signs(vint x) { return _mm256_xor_si256(x, _mm256_set1_epi8(-128)); }
INLINE vint vi_codes_from_signed(vint x) { return x; }

/* vpmaddubsw adds two products and saturates at 16 bits. |q| <= 127, so codes of 4 bits give at most 15 * 127 * 2 = 3,810, and
 * eight of these sums still fit (30,480); of 5 bits four (31 * 254 * 4 = 31,496); of 6 bits two (63 * 254 * 2 = 32,004). So many
 * are added before they are widened. Two products of 8 bits (255 * 254) would not fit: those codes come less 128, and it is |w|
 * times q with the sign of w, at most 128 * 127 * 2 = 32,512, widened each. */
INLINE vint dot_codes(const int bits, const int n, const vint *w, const int8_t *q, vint start) {
    const int chain = bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
    const vint ones = _mm256_set1_epi16(1);
    vint sum = start, pairs = vi_zero();
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        const vint quads = _mm256_set1_epi32(load_quad(q + 4 * i));
        const vint products = bits == 8 ? _mm256_maddubs_epi16(_mm256_abs_epi8(w[i]), _mm256_sign_epi8(quads, w[i]))
                                        : _mm256_maddubs_epi16(w[i], quads);
        pairs = i % chain == 0 ? products : _mm256_add_epi16(pairs, products);
        if (i % chain == chain - 1 || i == n - 1) sum = vi_add(sum, _mm256_madd_epi16(pairs, ones));
    }
    return sum;
}

#endif
#endif
