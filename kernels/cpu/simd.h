/* simd.h - the few vector operations that the matmul and attention templates need, for AVX2 and AVX-VNNI (8 lanes) and AVX-512
 * (16 lanes). The compiler's flags for the including file choose. A lane is an output row, a position or a head dimension;
 * only what gives one value of all runs across lanes. */
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

INLINE float largest_of_eight(__m256 x) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
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
INLINE void vi_store(uint8_t *p, vint x) { _mm512_storeu_si512(p, x); }
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
INLINE vfloat vf_max(vfloat a, vfloat b) { return _mm512_max_ps(a, b); }
INLINE float vf_largest(vfloat x) {
    const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
    return largest_of_eight(_mm256_max_ps(_mm512_castps512_ps256(x), high));
}
INLINE bool vf_has_nan(vfloat x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0; }
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
INLINE void vi_store(uint8_t *p, vint x) { _mm256_storeu_si256((void *)p, x); }
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
INLINE vfloat vf_max(vfloat a, vfloat b) { return _mm256_max_ps(a, b); }
INLINE float vf_largest(vfloat x) { return largest_of_eight(x); }
INLINE bool vf_has_nan(vfloat x) { return _mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)) != 0; }
INLINE vfloat vf_fnma(vfloat a, vfloat b, vfloat c) { return _mm256_fnmadd_ps(a, b, c); }

#endif

/* --- dot products of unsigned codes, four a lane, with int8 that are the same for all lanes ("quads": four of them in each) ---
 *
 * struct ready_codes is a vector of codes as dot_step takes it, struct dot_chain a sum on its way: dot_step with v = 0 .. n - 1
 * adds n vectors, dot_hold keeps many chains side by side in registers. dot_codes is all of it for one activation row. */

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

enum { SIGNED_BYTES = 0 }; /* 1: codes of 8 bits come with flipped signs: less 128 */
INLINE vint vi_flip_signs(vint x) { return x; }
#if defined(__AVX512VNNI__)
INLINE vint vi_codes_from_signed(vint x) { return _mm512_xor_si512(x, _mm512_set1_epi8(-128)); } /* for dot_codes of 8 bits */
#else
INLINE vint vi_codes_from_signed(vint x) { return _mm256_xor_si256(x, _mm256_set1_epi8(-128)); }
#endif

struct ready_codes {
    vint w;
};
struct dot_chain {
    vint sum;
};

INLINE struct ready_codes codes_ready(const int bits, vint w) {
    (void)bits;
    return (struct ready_codes){w};
}
INLINE struct dot_chain dot_begin(vint start) { return (struct dot_chain){start}; }
INLINE void dot_hold(const int bits, struct dot_chain *chain) { (void)bits, (void)chain; }

INLINE void dot_step(const int bits, const int v, const int n, struct ready_codes codes, vint quads, struct dot_chain *chain) {
    (void)bits, (void)v, (void)n;
#if defined(__AVX512VNNI__)
    chain->sum = _mm512_dpbusd_epi32(chain->sum, codes.w, quads);
#else
    chain->sum = _mm256_dpbusd_avx_epi32(chain->sum, codes.w, quads);
#endif
}

/* start + the dot product. Two chains hide the latency of eight; four are half of a block, and the other half is beside them. */
INLINE vint dot_codes(const int bits, const int n, const vint *w, const int8_t *q, vint start) {
    struct dot_chain even = dot_begin(start), odd = dot_begin(vi_zero());
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
        dot_step(bits, i, n, codes_ready(bits, w[i]), vi_set(load_quad(q + 4 * i)), n > 4 && i % 2 ? &odd : &even);
    return n > 4 ? vi_add(even.sum, odd.sum) : even.sum;
}

#else

enum { SIGNED_BYTES = 1 };
INLINE vint vi_flip_signs(vint x) { return _mm256_xor_si256(x, _mm256_set1_epi8(-128)); }
INLINE vint vi_codes_from_signed(vint x) { return x; }

struct ready_codes {
    vint w, magnitude; /* the latter of 8 bits */
};
struct dot_chain {
    vint sum, pairs;
};

INLINE struct ready_codes codes_ready(const int bits, vint w) {
    return (struct ready_codes){w, bits == 8 ? _mm256_abs_epi8(w) : w};
}
INLINE struct dot_chain dot_begin(vint start) { return (struct dot_chain){start, vi_zero()}; }
/* Adds here and now: left alone, gcc keeps the products of a whole block in memory and adds them up at its end. */
INLINE void dot_hold(const int bits, struct dot_chain *chain) {
    if (bits <= 5)
        __asm__ volatile("" : "+x"(chain->pairs));
    else
        __asm__ volatile("" : "+x"(chain->sum));
}

/* vpmaddubsw adds two products and saturates at 16 bits. |q| <= 127, so codes of 4 bits give at most 15 * 127 * 2 = 3,810, and
 * eight of these sums still fit (30,480); of 5 bits four (31 * 254 * 4 = 31,496); of 6 bits two (63 * 254 * 2 = 32,004). So many
 * are added before they are widened. Two products of 8 bits (255 * 254) would not fit: those codes come less 128, and it is |w|
 * times q with the sign of w, at most 128 * 127 * 2 = 32,512, widened each. */
INLINE void dot_step(const int bits, const int v, const int n, struct ready_codes codes, vint quads, struct dot_chain *chain) {
    const int length = bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
    const vint products = bits == 8 ? _mm256_maddubs_epi16(codes.magnitude, _mm256_sign_epi8(quads, codes.w))
                                    : _mm256_maddubs_epi16(codes.w, quads);
    chain->pairs = v % length == 0 ? products : _mm256_add_epi16(chain->pairs, products);
    if (v % length == length - 1 || v == n - 1)
        chain->sum = vi_add(chain->sum, _mm256_madd_epi16(chain->pairs, _mm256_set1_epi16(1)));
}

INLINE vint dot_codes(const int bits, const int n, const vint *w, const int8_t *q, vint start) {
    struct dot_chain chain = dot_begin(start);
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) dot_step(bits, i, n, codes_ready(bits, w[i]), vi_set(load_quad(q + 4 * i)), &chain);
    return chain.sum;
}

#endif
#endif
