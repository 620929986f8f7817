/* simd.h - the few vector operations that the matmul and attention templates need, for AVX2 (8 lanes) and AVX-512 (16 lanes).
 * The compiler's flags for the including file choose. A lane is an output row, a position or a head dimension; nothing here
 * runs across lanes. */
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
INLINE vint vi_low_nibbles(vint x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
INLINE vint vi_high_nibbles(vint x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15)); }

/* start + the dot products of 32 unsigned codes a lane (8 vectors of 4) with 32 int8. Two chains hide the latency. */
INLINE vint dot_unsigned(const vint w[8], const int8_t *q, vint start) {
    vint even = start, odd = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        even = _mm512_dpbusd_epi32(even, w[i], _mm512_set1_epi32(load_quad(q + 4 * i)));
        odd = _mm512_dpbusd_epi32(odd, w[i + 1], _mm512_set1_epi32(load_quad(q + 4 * i + 4)));
    }
    return _mm512_add_epi32(even, odd);
}
INLINE vint dot_nibbles(const vint w[8], const int8_t *q, vint start) { return dot_unsigned(w, q, start); }
INLINE vint dot_bytes(const vint w[8], const int8_t *q, int32_t q_sum) { return dot_unsigned(w, q, vi_set(-128 * q_sum)); }
INLINE vint vi_load_bytes(const uint8_t *p) { return vi_load(p); }

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
INLINE vint vi_low_nibbles(vint x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
INLINE vint vi_high_nibbles(vint x) { return _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15)); }

/* Sums of two products fit 16 bits (15 * 127 * 2 = 3,810), and so do eight of those (30,480): one widening per block is enough.
 */
INLINE vint dot_nibbles(const vint w[8], const int8_t *q, vint start) {
    vint pairs = _mm256_maddubs_epi16(w[0], _mm256_set1_epi32(load_quad(q)));
#pragma GCC unroll 8
    for (int i = 1; i < 8; i++)
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w[i], _mm256_set1_epi32(load_quad(q + 4 * i))));
    return _mm256_add_epi32(start, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* Unsigned codes up to 255 would saturate 16 bits (255 * 127 * 2), so here weights are signed: |w| times q with the sign of w.
 * The sum of two is at most 128 * 127 * 2 = 32,512. */
INLINE vint vi_load_bytes(const uint8_t *p) { return _mm256_xor_si256(vi_load(p), _mm256_set1_epi8(-128)); }
INLINE vint dot_bytes(const vint w[8], const int8_t *q, int32_t q_sum) {
    (void)q_sum;
    vint sum = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const vint signed_q = _mm256_sign_epi8(_mm256_set1_epi32(load_quad(q + 4 * i)), w[i]);
        const vint pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w[i]), signed_q);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return sum;
}

#endif
#endif
