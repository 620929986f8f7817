/* simd.h - the few vector operations that the matmul and attention templates need, for AVX2 and AVX-VNNI (8 lanes) and AVX-512
 * (16 lanes). The compiler's flags for the including file choose. A lane is an output row, a position or a head dimension;
 * only what gives one value of all runs across lanes. */
#ifndef FORESAY_KERNELS_SIMD_H
#define FORESAY_KERNELS_SIMD_H

#include <immintrin.h>
#include <stdbool.h>
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

INLINE int32_t largest_of_eight_integers(__m256i x) {
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

INLINE int32_t total_of_eight(__m256i x) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
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
INLINE vint vi_and_bits(vint a, vint b) { return _mm512_and_si512(a, b); }
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
INLINE vfloat vf_sub(vfloat a, vfloat b) { return _mm512_sub_ps(a, b); }
INLINE vfloat vf_min(vfloat a, vfloat b) { return _mm512_min_ps(a, b); }
INLINE vfloat vf_div(vfloat a, vfloat b) { return _mm512_div_ps(a, b); }
INLINE vfloat vf_from_bits(vint x) { return _mm512_castsi512_ps(x); }
INLINE vint vi_from_bits(vfloat x) { return _mm512_castps_si512(x); }
INLINE vfloat vf_where_at_least(vfloat x, float least, vfloat y) { /* x >= least ? y : 0 */
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, vf_set(least), _CMP_GE_OQ), y);
}
INLINE vfloat vf_unless_below(vfloat x, float least, vfloat y) { /* x < least ? 0 : y */
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, vf_set(least), _CMP_NLT_UQ), y);
}
INLINE vfloat vf_keep_lanes(vfloat x, int first, int end, float other) { /* other in lanes before first and from end on */
    const __mmask16 kept = (__mmask16)((1u << end) - (1u << first));     /* 0 <= first <= end <= 16 */
    return _mm512_mask_mov_ps(vf_set(other), kept, x);
}
INLINE vint vi_magnitude(vfloat x) { return _mm512_and_si512(_mm512_castps_si512(x), vi_set(0x7fffffff)); }
/* Order of the integers is that of the floats; the map is its own inverse. */
INLINE vint vi_ordered_bits(vfloat x) {
    const vint bits = _mm512_castps_si512(x);
    return _mm512_xor_si512(bits, _mm512_and_si512(_mm512_srai_epi32(bits, 31), vi_set(0x7fffffff)));
}
INLINE vint vi_shift_left_lanes(vint x, int n) { return _mm512_slli_epi32(x, (unsigned)n); }
INLINE vint vi_max(vint a, vint b) { return _mm512_max_epi32(a, b); }
INLINE int32_t vi_largest(vint x) {
    return largest_of_eight_integers(_mm256_max_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1)));
}
INLINE int32_t vi_total(vint x) {
    return total_of_eight(_mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1)));
}
INLINE vint vi_nearest(vfloat x) { return _mm512_cvtps_epi32(x); } /* to even */
/* Of each 128 bits of a and b: their lower dwords in turns, upper dwords, lower and upper pairs of dwords. */
INLINE vint vi_low_dwords(vint a, vint b) { return _mm512_unpacklo_epi32(a, b); }
INLINE vint vi_high_dwords(vint a, vint b) { return _mm512_unpackhi_epi32(a, b); }
INLINE vint vi_low_pairs(vint a, vint b) { return _mm512_unpacklo_epi64(a, b); }
INLINE vint vi_high_pairs(vint a, vint b) { return _mm512_unpackhi_epi64(a, b); }
/* Dword j of 128 bits k goes to dword k of the j-th four. */
INLINE vint vi_transpose_quads(vint x) {
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x);
}
/* Lane 4 i + j: the largest dword j among the 128 bits of v[i]. */
INLINE vint vi_largest_of_quads(const vint v[4]) {
    const vint ab = vi_max(_mm512_shuffle_i32x4(v[0], v[1], 0x88), _mm512_shuffle_i32x4(v[0], v[1], 0xdd));
    const vint cd = vi_max(_mm512_shuffle_i32x4(v[2], v[3], 0x88), _mm512_shuffle_i32x4(v[2], v[3], 0xdd));
    return vi_max(_mm512_shuffle_i32x4(ab, cd, 0x88), _mm512_shuffle_i32x4(ab, cd, 0xdd));
}
INLINE vint vi_pack_words(vint a, vint b) { return _mm512_packs_epi32(a, b); } /* within each 128 bits */
INLINE vint vi_bytes_from_words(vint a, vint b) { return vi_transpose_quads(_mm512_packs_epi16(a, b)); } /* of two such */
INLINE vint vi_sums_of_four(vint bytes) { return _mm512_dpbusd_epi32(vi_zero(), _mm512_set1_epi8(1), bytes); }
/* Of two lanes each, of which `other` has them in turn, the lower one becomes their sum, the upper one lower less upper. */
INLINE vfloat vf_butterfly(vfloat x, vfloat other, __mmask16 upper) {
    return vf_fma(x, _mm512_mask_blend_ps(upper, vf_set(1.0f), vf_set(-1.0f)), other);
}
/* The lanes times the Sylvester matrix of as many rows. */
INLINE vfloat vf_hadamard(vfloat x) {
    x = vf_butterfly(x, _mm512_shuffle_f32x4(x, x, 0x4e), 0xff00);
    x = vf_butterfly(x, _mm512_shuffle_f32x4(x, x, 0xb1), 0xf0f0);
    x = vf_butterfly(x, _mm512_permute_ps(x, 0x4e), 0xcccc);
    return vf_butterfly(x, _mm512_permute_ps(x, 0xb1), 0xaaaa);
}
/* Of lanes 0 and 1, 2 and 3 .. of a, then of b. */
INLINE vint vi_sums_of_pairs(vint a, vint b) {
    const vint even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const vint odd = _mm512_add_epi32(even, vi_set(1));
    return _mm512_add_epi32(_mm512_permutex2var_epi32(a, even, b), _mm512_permutex2var_epi32(a, odd, b));
}

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
INLINE vint vi_and_bits(vint a, vint b) { return _mm256_and_si256(a, b); }
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
INLINE vfloat vf_sub(vfloat a, vfloat b) { return _mm256_sub_ps(a, b); }
INLINE vfloat vf_min(vfloat a, vfloat b) { return _mm256_min_ps(a, b); }
INLINE vfloat vf_div(vfloat a, vfloat b) { return _mm256_div_ps(a, b); }
INLINE vfloat vf_from_bits(vint x) { return _mm256_castsi256_ps(x); }
INLINE vint vi_from_bits(vfloat x) { return _mm256_castps_si256(x); }
INLINE vfloat vf_where_at_least(vfloat x, float least, vfloat y) {
    return _mm256_and_ps(_mm256_cmp_ps(x, vf_set(least), _CMP_GE_OQ), y);
}
INLINE vfloat vf_unless_below(vfloat x, float least, vfloat y) {
    return _mm256_and_ps(_mm256_cmp_ps(x, vf_set(least), _CMP_NLT_UQ), y);
}
INLINE vfloat vf_keep_lanes(vfloat x, int first, int end, float other) {
    const vint lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const vint kept = _mm256_andnot_si256(_mm256_cmpgt_epi32(vi_set(first), lane), _mm256_cmpgt_epi32(vi_set(end), lane));
    return _mm256_blendv_ps(vf_set(other), x, _mm256_castsi256_ps(kept));
}
INLINE vint vi_magnitude(vfloat x) { return _mm256_and_si256(_mm256_castps_si256(x), vi_set(0x7fffffff)); }
INLINE vint vi_ordered_bits(vfloat x) {
    const vint bits = _mm256_castps_si256(x);
    return _mm256_xor_si256(bits, _mm256_and_si256(_mm256_srai_epi32(bits, 31), vi_set(0x7fffffff)));
}
INLINE vint vi_shift_left_lanes(vint x, int n) { return _mm256_slli_epi32(x, n); }
INLINE vint vi_max(vint a, vint b) { return _mm256_max_epi32(a, b); }
INLINE int32_t vi_largest(vint x) { return largest_of_eight_integers(x); }
INLINE int32_t vi_total(vint x) { return total_of_eight(x); }
INLINE vint vi_nearest(vfloat x) { return _mm256_cvtps_epi32(x); }
INLINE vint vi_low_dwords(vint a, vint b) { return _mm256_unpacklo_epi32(a, b); }
INLINE vint vi_high_dwords(vint a, vint b) { return _mm256_unpackhi_epi32(a, b); }
INLINE vint vi_low_pairs(vint a, vint b) { return _mm256_unpacklo_epi64(a, b); }
INLINE vint vi_high_pairs(vint a, vint b) { return _mm256_unpackhi_epi64(a, b); }
INLINE vint vi_transpose_quads(vint x) { return _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)); }
INLINE vint vi_largest_of_quads(const vint v[2]) {
    return vi_max(_mm256_permute2x128_si256(v[0], v[1], 0x20), _mm256_permute2x128_si256(v[0], v[1], 0x31));
}
INLINE vint vi_pack_words(vint a, vint b) { return _mm256_packs_epi32(a, b); }
INLINE vint vi_bytes_from_words(vint a, vint b) { return vi_transpose_quads(_mm256_packs_epi16(a, b)); }
INLINE vint vi_sums_of_four(vint bytes) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
}
#define VF_BUTTERFLY(x, other, upper) _mm256_blend_ps(_mm256_add_ps(x, other), _mm256_sub_ps(other, x), upper)
INLINE vfloat vf_hadamard(vfloat x) {
    x = VF_BUTTERFLY(x, _mm256_permute2f128_ps(x, x, 1), 0xf0);
    x = VF_BUTTERFLY(x, _mm256_permute_ps(x, 0x4e), 0xcc);
    return VF_BUTTERFLY(x, _mm256_permute_ps(x, 0xb1), 0xaa);
}
INLINE vint vi_sums_of_pairs(vint a, vint b) { return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8); }

#endif

/* Lanes of v[0], v[1] .. as bytes, one after the other; they fit. */
INLINE vint vi_pack_bytes(const vint v[4]) { return vi_bytes_from_words(vi_pack_words(v[0], v[1]), vi_pack_words(v[2], v[3])); }

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

/* --- sums over positions of weights of 14 bits times int8: a lane is a dimension, four positions ("a quad") a step ---
 *
 * struct wide_weights holds those of one query vector; a value is a vector of quads, as they lie in V pages of KV_INT8. A sum
 * are two vectors until wide_total. 64 positions stay far within 32 bits. */

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

struct wide_weights {
    uint8_t high[64], low[64]; /* 7 bits each */
};
struct wide_value {
    vint quads;
};
struct wide_quad {
    vint high, low;
};

/* 4 * VECTOR_LANES weights, from position `at` on. */
INLINE void wide_store(struct wide_weights *to, int at, const vint w[4]) {
    const vint a = vi_pack_words(w[0], w[1]), b = vi_pack_words(w[2], w[3]), low = vi_set(127 << 16 | 127);
    vi_store(to->high + at, vi_bytes_from_words(vi_shift_right(a, 7), vi_shift_right(b, 7)));
    vi_store(to->low + at, vi_bytes_from_words(vi_and_bits(a, low), vi_and_bits(b, low)));
}
INLINE struct wide_quad wide_quad_at(const struct wide_weights *w, int at) {
    return (struct wide_quad){vi_set(load_quad((const int8_t *)w->high + at)), vi_set(load_quad((const int8_t *)w->low + at))};
}
INLINE struct wide_value wide_load(const uint8_t *page) { return (struct wide_value){vi_load(page)}; }
INLINE void wide_step(vint sum[2], struct wide_quad w, struct wide_value value) {
#if defined(__AVX512VNNI__)
    sum[0] = _mm512_dpbusd_epi32(sum[0], w.high, value.quads);
    sum[1] = _mm512_dpbusd_epi32(sum[1], w.low, value.quads);
#if !defined(EMULATED_ISAS)
    __asm__ volatile("" : "+v"(sum[0]), "+v"(sum[1])); /* left alone, gcc moves 24 sums through memory at each step */
#endif
#else
    sum[0] = _mm256_dpbusd_avx_epi32(sum[0], w.high, value.quads);
    sum[1] = _mm256_dpbusd_avx_epi32(sum[1], w.low, value.quads);
#endif
}
INLINE vint wide_total(const vint sum[2]) { return vi_add(vi_shift_left_lanes(sum[0], 7), sum[1]); }

#else

struct wide_weights {
    int16_t w[64];
};
struct wide_value {
    vint first, second; /* halves of the dimensions, 16 bits a position */
};
struct wide_quad {
    vint w;
};

INLINE void wide_store(struct wide_weights *to, int at, const vint w[4]) {
    for (int i = 0; i < 4; i += 2)
        vi_store((uint8_t *)(to->w + at + i * VECTOR_LANES), _mm256_permute4x64_epi64(vi_pack_words(w[i], w[i + 1]), 0xd8));
}
INLINE struct wide_quad wide_quad_at(const struct wide_weights *w, int at) {
    int64_t quad;
    memcpy(&quad, w->w + at, sizeof quad);
    return (struct wide_quad){_mm256_set1_epi64x(quad)};
}
INLINE struct wide_value wide_load(const uint8_t *page) {
    return (struct wide_value){_mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)page)),
                               _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(page + 16)))};
}
INLINE void wide_step(vint sum[2], struct wide_quad w, struct wide_value value) { /* each dimension in two, pairs of positions */
    sum[0] = vi_add(sum[0], _mm256_madd_epi16(value.first, w.w));
    sum[1] = vi_add(sum[1], _mm256_madd_epi16(value.second, w.w));
}
INLINE vint wide_total(const vint sum[2]) { return vi_sums_of_pairs(sum[0], sum[1]); }

#endif
#endif
