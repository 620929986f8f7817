/* sampler_rows.c - see sampler_rows.h.
 *
 * The bodies are written once with the compiler's portable vectors of 16 floats and inlined into one function for each
 * instruction set. Nothing may be contracted into fused operations (-ffp-contract=off), or the versions would differ. */
#include "engine/sampler_rows.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "engine/philox.h"

enum { LANES = 16 };
typedef float lanes __attribute__((vector_size(64)));
typedef int32_t int_lanes __attribute__((vector_size(64)));
typedef int64_t halves __attribute__((vector_size(64)));
typedef uint32_t uint_lanes __attribute__((vector_size(64)));
typedef uint64_t ulong_lanes __attribute__((vector_size(64)));

#define INLINE static inline __attribute__((always_inline))

/* Vectors are passed by address: by value they would need an ABI that depends on the instruction set. */
INLINE void load(const float *x, lanes *out) { memcpy(out, x, sizeof *out); }

INLINE void choose(const int_lanes *mask, const lanes *yes, const lanes *no, lanes *out) {
    *out = (lanes)((*mask & (int_lanes)*yes) | (~*mask & (int_lanes)*no));
}

/* x becomes exp(x). */
INLINE void exp_lanes(lanes *x) {
    const lanes lowest = {-87, -87, -87, -87, -87, -87, -87, -87, -87, -87, -87, -87, -87, -87, -87, -87};
    int_lanes in_range = *x > lowest;
    lanes v, n, r, p;
    choose(&in_range, x, &lowest, &v);               /* 1e-38 stands for zero: no denormals */
    n = v * 1.44269504f + 12582912.0f - 12582912.0f; /* 1.5 * 2^23: the sum has no room for a fraction, so it rounds */
    r = v - n * 0.693359375f;                        /* exact: the constant has 9 bits */
    r = r - n * -2.12194440e-4f;
    p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    *x = p * (lanes)((__builtin_convertvector(n, int_lanes) + 127) << 23);
}

float sampler_exp(float x) {
    lanes v = {x};
    exp_lanes(&v);
    return v[0];
}

/* x - x is 0 for finite x and NaN otherwise. */
INLINE bool max_body(const float *x, int n, float *max) {
    lanes best = (lanes){0} - INFINITY, trouble = {0}, v;
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        load(x + i, &v);
        int_lanes is_better = v > best;
        choose(&is_better, &v, &best, &best);
        trouble += v - v;
    }
    float largest = -INFINITY, sum = 0;
    for (; i < n; i++) {
        if (x[i] > largest) largest = x[i];
        sum += x[i] - x[i];
    }
    for (int j = 0; j < LANES; j++) {
        if (best[j] > largest) largest = best[j];
        sum += trouble[j];
    }
    *max = largest;
    return sum == 0;
}

INLINE int next_block_body(const float *x, int first, int n, float threshold) {
    lanes border = (lanes){0} + threshold, v;
    for (; first + ROW_BLOCK <= n; first += ROW_BLOCK) {
        int_lanes hits = {0};
        for (int i = 0; i < ROW_BLOCK; i += LANES) {
            load(x + first + i, &v);
            hits |= v >= border;
        }
        halves h = (halves)hits;
        if (((h[0] | h[1]) | (h[2] | h[3])) | ((h[4] | h[5]) | (h[6] | h[7]))) return first;
    }
    return first < n ? first : n;
}

/* Lane sums are short enough for floats, then doubles. */
INLINE double weights_body(const float *x, int n, float max, float inverse_t, float *weights) {
    enum { CHUNK = 64 * LANES };
    double total = 0;
    for (int first = 0; first < n; first += CHUNK) {
        int end = first + CHUNK <= n ? first + CHUNK : n, i = first;
        lanes sum = {0}, v;
        for (; i + LANES <= end; i += LANES) {
            load(x + i, &v);
            v = (v - max) * inverse_t;
            exp_lanes(&v);
            memcpy(weights + i, &v, sizeof v);
            sum += v;
        }
        for (int j = 0; j < LANES; j++) total += (double)sum[j];
        for (; i < end; i++) total += (double)(weights[i] = sampler_exp((x[i] - max) * inverse_t));
    }
    return total;
}

/* One Philox block a lane. A 32 x 32 -> 64 bit product of all lanes is two products of 64-bit lanes, even and odd ones. */
INLINE void multiply(const uint_lanes *x, uint32_t factor, uint_lanes *high, uint_lanes *low) {
    const ulong_lanes mask = (ulong_lanes){0} + UINT32_MAX;
    ulong_lanes even = ((ulong_lanes)*x & mask) * factor, odd = ((ulong_lanes)*x >> 32) * factor;
    *low = (uint_lanes)((even & mask) | odd << 32);
    *high = (uint_lanes)(even >> 32 | (odd & ~mask));
}

INLINE void coarse_body(uint64_t seed, uint64_t position, int n, uint8_t *coarse) {
    const uint_lanes index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int first = 0; first < n; first += COARSE_BLOCK) {
        uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
        uint_lanes c0 = index + (uint32_t)(first / 16), c1 = (uint_lanes){0} + (uint32_t)position;
        uint_lanes c2 = (uint_lanes){0} + (uint32_t)(position >> 32), c3 = {0}, h0, l0, h1, l1;
        for (int round = 0; round < 10; round++, k0 += PHILOX_KEY_0, k1 += PHILOX_KEY_1) {
            multiply(&c0, PHILOX_FACTOR_0, &h0, &l0);
            multiply(&c2, PHILOX_FACTOR_1, &h1, &l1);
            c0 = h1 ^ c1 ^ k0;
            c2 = h0 ^ c3 ^ k1;
            c1 = l1;
            c3 = l0;
        }
        uint32_t *out = (uint32_t *)(void *)(coarse + first);
        for (int j = 0; j < LANES; j++) {
            out[4 * j] = c0[j];
            out[4 * j + 1] = c1[j];
            out[4 * j + 2] = c2[j];
            out[4 * j + 3] = c3[j];
        }
    }
}

#define VERSION(suffix, attribute)                                                                                               \
    attribute static bool max_##suffix(const float *x, int n, float *max) { return max_body(x, n, max); }                        \
    attribute static int next_block_##suffix(const float *x, int first, int n, float threshold) {                                \
        return next_block_body(x, first, n, threshold);                                                                          \
    }                                                                                                                            \
    attribute static double weights_##suffix(const float *x, int n, float max, float inverse_t, float *weights) {                \
        return weights_body(x, n, max, inverse_t, weights);                                                                      \
    }                                                                                                                            \
    attribute static void coarse_##suffix(uint64_t seed, uint64_t position, int n, uint8_t *coarse) {                            \
        coarse_body(seed, position, n, coarse);                                                                                  \
    }                                                                                                                            \
    static const struct sampler_rows rows_##suffix = {#suffix, max_##suffix, next_block_##suffix, weights_##suffix,              \
                                                      coarse_##suffix};

VERSION(plain, )
#ifdef __x86_64__
VERSION(avx2, __attribute__((target("avx2"))))
VERSION(avx512, __attribute__((target("avx512f,avx512dq"))))
#endif

const struct sampler_rows *sampler_rows_at(int i) {
    const struct sampler_rows *have[4] = {&rows_plain};
    int n = 1;
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) have[n++] = &rows_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) have[n++] = &rows_avx512;
#endif
    return i < n ? have[i] : NULL;
}

const struct sampler_rows *sampler_rows_best(void) {
    int i = 0;
    while (sampler_rows_at(i + 1)) i++;
    return sampler_rows_at(i);
}
