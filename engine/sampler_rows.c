/* sampler_rows.c - see sampler_rows.h.
 *
 * The bodies are written once with the compiler's portable vectors and inlined into one function for each instruction set.
 * Sixteen lanes are two vectors of eight: comparisons of wider vectors than the processor has would be taken apart. Nothing may
 * be contracted into fused operations (-ffp-contract=off), or the versions would differ. */
#include "engine/sampler_rows.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "engine/philox.h"

enum { LANES = 8, STEP = WEIGHTS_LANES };
typedef float lanes __attribute__((vector_size(32)));
typedef int32_t int_lanes __attribute__((vector_size(32)));
typedef int64_t long_lanes __attribute__((vector_size(32)));
typedef uint32_t uint_lanes __attribute__((vector_size(32)));
typedef uint64_t ulong_lanes __attribute__((vector_size(32)));
typedef uint8_t byte_lanes __attribute__((vector_size(32)));
typedef float quarter __attribute__((vector_size(16)));
typedef int32_t int_quarter __attribute__((vector_size(16)));

#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))
#endif

/* Vectors are passed by address: by value they would need an ABI that depends on the instruction set. */
INLINE void load(const float *x, lanes *out) { memcpy(out, x, sizeof *out); }

INLINE void choose(const int_lanes *mask, const lanes *yes, const lanes *no, lanes *out) {
    *out = (lanes)((*mask & (int_lanes)*yes) | (~*mask & (int_lanes)*no));
}

INLINE bool any(const int_lanes *mask) {
    long_lanes m = (long_lanes)*mask;
    return ((m[0] | m[1]) | (m[2] | m[3])) != 0;
}

INLINE void larger(lanes *x, const lanes *y) {
    int_lanes is_larger = *y > *x;
    choose(&is_larger, y, x, x);
}

INLINE float largest_lane(const lanes *v) {
    quarter half[2];
    memcpy(half, v, sizeof half);
    int_quarter is_larger = half[1] > half[0];
    quarter q = (quarter)((is_larger & (int_quarter)half[1]) | (~is_larger & (int_quarter)half[0]));
    float a = q[0] > q[1] ? q[0] : q[1], b = q[2] > q[3] ? q[2] : q[3];
    return a > b ? a : b;
}

/* e^r for |r| <= ln 2 / 2, of a float or of lanes of them. */
#define EXP_POLYNOMIAL(r)                                                                                                        \
    (((((((r) * (1.0f / 5040) + 1.0f / 720) * (r) + 1.0f / 120) * (r) + 1.0f / 24) * (r) + 1.0f / 6) * (r) + 0.5f) * (r) +       \
     1.0f) * (r) +                                                                                                               \
        1.0f

/* x becomes exp(x). */
INLINE void exp_lanes(lanes *x) {
    const lanes lowest = (lanes){0} - 87.0f;
    int_lanes in_range = *x > lowest;
    lanes v, n, r, p;
    choose(&in_range, x, &lowest, &v);               /* 1e-38 stands for zero: no denormals */
    n = v * 1.44269504f + 12582912.0f - 12582912.0f; /* 1.5 * 2^23: the sum has no room for a fraction, so it rounds */
    r = v - n * 0.693359375f;                        /* exact: the constant has 9 bits */
    r = r - n * -2.12194440e-4f;
    p = EXP_POLYNOMIAL(r);
    *x = p * (lanes)((__builtin_convertvector(n, int_lanes) + 127) << 23);
}

/* exp_lanes for one number. */
float sampler_exp(float x) {
    float v = x > -87.0f ? x : -87.0f, n = v * 1.44269504f + 12582912.0f - 12582912.0f, r, p, scale;
    r = v - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    p = EXP_POLYNOMIAL(r);
    int32_t bits = ((int32_t)n + 127) << 23;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* x - x is 0 for finite x and NaN otherwise. */
INLINE bool max_body(const float *x, int n, float *max) {
    lanes best = (lanes){0} - INFINITY, trouble = {0}, v;
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        load(x + i, &v);
        larger(&best, &v);
        trouble += v - v;
    }
    float largest = largest_lane(&best), sum = 0;
    for (; i < n; i++) {
        if (x[i] > largest) largest = x[i];
        sum += x[i] - x[i];
    }
    int_lanes is_bad = trouble != trouble;
    *max = largest;
    return sum == 0 && !any(&is_bad);
}

/* Zeros are written as +0 whichever came first. */
INLINE void maxima_body(const float *x, int n, float *out) {
    for (int first = 0; first < n; first += ROW_BLOCK) {
        int end = first + ROW_BLOCK <= n ? first + ROW_BLOCK : n;
        out[first / ROW_BLOCK] = max_body(x + first, end - first, &out[first / ROW_BLOCK]) ? out[first / ROW_BLOCK] + 0.0f : NAN;
    }
}

INLINE int next_block_body(const float *x, int first, int n, float threshold) {
    lanes border = (lanes){0} + threshold, v;
    for (; first + ROW_BLOCK <= n; first += ROW_BLOCK) {
        int_lanes hits = {0};
        for (int i = 0; i < ROW_BLOCK; i += LANES) {
            load(x + first + i, &v);
            hits |= v >= border;
        }
        if (any(&hits)) return first;
    }
    return first < n ? first : n;
}

/* Lane sums are short enough for floats. */
INLINE int weights_body(const float *x, int n, float max, float inverse_t, float *sums) {
    int n_sums = 0;
    for (int first = 0; first < n; first += WEIGHTS_CHUNK) {
        int end = first + WEIGHTS_CHUNK <= n ? first + WEIGHTS_CHUNK : n, i = first;
        lanes low = {0}, high = {0}, v, w;
        for (; i + STEP <= end; i += STEP) {
            load(x + i, &v);
            load(x + i + LANES, &w);
            v = (v - max) * inverse_t;
            w = (w - max) * inverse_t;
            exp_lanes(&v);
            exp_lanes(&w);
            low += v;
            high += w;
        }
        memcpy(sums + n_sums, &low, sizeof low);
        memcpy(sums + n_sums + LANES, &high, sizeof high);
        n_sums += STEP;
        for (; i < end; i++) sums[n_sums++] = sampler_exp((x[i] - max) * inverse_t);
    }
    return n_sums;
}

/* --- noise: one Philox block a lane --- */

typedef void multiply_function(const uint_lanes *x, uint32_t factor, uint_lanes *high, uint_lanes *low);

/* A 32 x 32 -> 64 bit product of all lanes is two products of 64-bit lanes, even and odd ones. */
INLINE void join_products(const ulong_lanes *even, const ulong_lanes *odd, uint_lanes *high, uint_lanes *low) {
    *low = __builtin_shufflevector((uint_lanes)*even, (uint_lanes)*odd, 0, 8, 2, 10, 4, 12, 6, 14);
    *high = __builtin_shufflevector((uint_lanes)*even, (uint_lanes)*odd, 1, 9, 3, 11, 5, 13, 7, 15);
}

INLINE void multiply_plain(const uint_lanes *x, uint32_t factor, uint_lanes *high, uint_lanes *low) {
    const ulong_lanes mask = (ulong_lanes){0} + UINT32_MAX;
    ulong_lanes even = ((ulong_lanes)*x & mask) * factor, odd = ((ulong_lanes)*x >> 32) * factor;
    join_products(&even, &odd, high, low);
}

#if defined(__x86_64__) && !defined(__clang__)
/* The same by name: GCC does not see that the upper halves are zero and would multiply them too (Clang does). */
__attribute__((target("avx2"))) INLINE void multiply_avx2(const uint_lanes *x, uint32_t factor, uint_lanes *high,
                                                          uint_lanes *low) {
    const int_lanes factors = (int_lanes)((uint_lanes){0} + factor);
    ulong_lanes even = (ulong_lanes)__builtin_ia32_pmuludq256((int_lanes)*x, factors);
    ulong_lanes odd = (ulong_lanes)__builtin_ia32_pmuludq256((int_lanes)((ulong_lanes)*x >> 32), factors);
    join_products(&even, &odd, high, low);
}
#else
#define multiply_avx2 multiply_plain
#endif

INLINE void larger_bytes(byte_lanes *x, const uint_lanes *y) {
    byte_lanes other = (byte_lanes)*y, is_larger = (byte_lanes)(other > *x);
    *x = (is_larger & other) | (~is_larger & *x);
}

/* Half of a block: tokens first .. first + 127. */
INLINE void coarse_half(uint64_t seed, uint64_t position, uint32_t first, multiply_function *multiply, struct coarse_block *out,
                        int half) {
    const uint_lanes index = {0, 1, 2, 3, 4, 5, 6, 7};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint_lanes c0 = index + first / 16, c1 = (uint_lanes){0} + (uint32_t)position;
    uint_lanes c2 = (uint_lanes){0} + (uint32_t)(position >> 32), c3 = {0}, h0, l0, h1, l1;
    for (int round = 0; round < 10; round++, k0 += PHILOX_KEY_0, k1 += PHILOX_KEY_1) {
        multiply(&c0, PHILOX_FACTOR_0, &h0, &l0);
        multiply(&c2, PHILOX_FACTOR_1, &h1, &l1);
        c0 = h1 ^ c1 ^ k0;
        c2 = h0 ^ c3 ^ k1;
        c1 = l1;
        c3 = l0;
    }
    memcpy(&out->word[0][LANES * half], &c0, sizeof c0);
    memcpy(&out->word[1][LANES * half], &c1, sizeof c1);
    memcpy(&out->word[2][LANES * half], &c2, sizeof c2);
    memcpy(&out->word[3][LANES * half], &c3, sizeof c3);
    byte_lanes best = (byte_lanes)c0;
    larger_bytes(&best, &c1);
    larger_bytes(&best, &c2);
    larger_bytes(&best, &c3);
    uint8_t each[32];
    memcpy(each, &best, sizeof each);
    for (int b = 0; b < 2; b++) { /* four lanes are 64 tokens */
        uint8_t largest = 0;
        for (int i = 16 * b; i < 16 * b + 16; i++) largest = each[i] > largest ? each[i] : largest;
        out->largest[2 * half + b] = largest;
    }
}

INLINE void coarse_body(uint64_t seed, uint64_t position, uint32_t first, multiply_function *multiply, struct coarse_block *out) {
    coarse_half(seed, position, first, multiply, out, 0);
    coarse_half(seed, position, first + COARSE_BLOCK / 2, multiply, out, 1);
}

#define VERSION(suffix, attribute, multiply)                                                                                     \
    attribute static bool max_##suffix(const float *x, int n, float *max) { return max_body(x, n, max); }                        \
    attribute static void maxima_##suffix(const float *x, int n, float *out) { maxima_body(x, n, out); }                         \
    attribute static int next_block_##suffix(const float *x, int first, int n, float threshold) {                                \
        return next_block_body(x, first, n, threshold);                                                                          \
    }                                                                                                                            \
    attribute static int weights_##suffix(const float *x, int n, float max, float inverse_t, float *sums) {                      \
        return weights_body(x, n, max, inverse_t, sums);                                                                         \
    }                                                                                                                            \
    attribute static void coarse_##suffix(uint64_t seed, uint64_t position, uint32_t first, struct coarse_block *out) {          \
        coarse_body(seed, position, first, multiply, out);                                                                       \
    }                                                                                                                            \
    static const struct sampler_rows rows_##suffix = {#suffix,          max_##suffix,   maxima_##suffix, next_block_##suffix,    \
                                                      weights_##suffix, coarse_##suffix};

VERSION(plain, , multiply_plain)
#ifdef __x86_64__
VERSION(avx2, __attribute__((target("avx2"))), multiply_avx2)
VERSION(avx512, __attribute__((target("avx2,avx512f,avx512dq,avx512bw,avx512vl"))), multiply_avx2)
#endif

const struct sampler_rows *sampler_rows_at(int i) {
    const struct sampler_rows *have[4] = {&rows_plain};
    int n = 1;
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) have[n++] = &rows_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        have[n++] = &rows_avx512;
#endif
    return i < n ? have[i] : NULL;
}

const struct sampler_rows *sampler_rows_best(void) {
    int i = 0;
    while (sampler_rows_at(i + 1)) i++;
    return sampler_rows_at(i);
}
