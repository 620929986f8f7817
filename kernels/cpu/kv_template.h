/* kv_template.h - RoPE and the write into the KV cache, and what attention shares with it: the Hadamard turn and the quantisation
 * of heads. In plain C, compiled once per instruction set like row_template.h, whose rules hold here too.
 *
 *  (1) hadamard multiplies each run of n & -n dimensions (the largest power of two that divides the head) by the orthonormal
 *      Sylvester matrix, which is its own inverse. Dot products stay what they are when both sides turn.
 *  (2) Scales are rounded to half floats first, and codes are made with the rounded scale.
 *  (3) Where a NaN or an infinity is among the values, the scale becomes NaN and surfaces in the logits; a scale beyond a half's
 *      range becomes infinite and does so too.
 *  (4) Over values of 8 bits the weights of a chunk, times the values' scales, become integers, too: exact sums, four positions
 *      at once. They have 14 bits, so that what is far from the largest still counts, and come in two parts of 7 bits, which the
 *      instructions for dot products take (simd.h). Their step follows the largest that the chunk could have, its highest weight
 *      times its largest scale: known before any weight is, and a heavy position coarsens but the 63 others of its chunk. */
#ifndef FORESAY_KERNELS_KV_TEMPLATE_H
#define FORESAY_KERNELS_KV_TEMPLATE_H

#include "kernels/cpu/row_template.h"
#if defined(__AVX2__)
#include "kernels/cpu/simd.h"
#endif

enum { HALF_NAN = 0x7e00, INFINITY_BITS = 0x7f800000 };

/* --- Hadamard --- */

#if defined(__AVX2__)
/* size = vectors * VECTOR_LANES elements: stages of whole vectors first, then within them. */
INLINE void hadamard_vectors(float *x, const int vectors, float scale) {
    vfloat v[MAX_HEAD_DIM / VECTOR_LANES];
#pragma GCC unroll 64
    for (int i = 0; i < vectors; i++) v[i] = vf_load(x + i * VECTOR_LANES);
#pragma GCC unroll 8
    for (int half = vectors / 2; half > 0; half /= 2)
#pragma GCC unroll 64
        for (int i = 0; i < vectors; i++) {
            if (i & half) continue;
            const vfloat a = v[i], b = v[i + half];
            v[i] = vf_add(a, b);
            v[i + half] = vf_sub(a, b);
        }
#pragma GCC unroll 64
    for (int i = 0; i < vectors; i++) vf_store(x + i * VECTOR_LANES, vf_mul(vf_hadamard(v[i]), vf_set(scale)));
}

static void hadamard_run(float *x, int size, float scale) {
    const int vectors = size / VECTOR_LANES;
    if (vectors == 1)
        hadamard_vectors(x, 1, scale);
    else if (vectors == 2)
        hadamard_vectors(x, 2, scale);
    else if (vectors == 4)
        hadamard_vectors(x, 4, scale);
    else if (vectors == 8)
        hadamard_vectors(x, 8, scale);
    else if (vectors == 16)
        hadamard_vectors(x, 16, scale);
    else if (vectors == 32)
        hadamard_vectors(x, 32, scale);
    else
        hadamard_vectors(x, MAX_HEAD_DIM / VECTOR_LANES, scale);
}
#else
static void hadamard_run(float *x, int size, float scale) {
    for (int half = size / 2; half > 0; half /= 2)
        for (int i = 0; i < size; i++) {
            if (i & half) continue;
            const float a = x[i], b = x[i + half];
            x[i] = a + b;
            x[i + half] = a - b;
        }
    for (int i = 0; i < size; i++) x[i] *= scale;
}
#endif

/* n: a multiple of 16. */
static void hadamard(float *x, int n) {
    const int size = n & -n;
    const float scale = 1.0f / sqrtf((float)size);
    for (int first = 0; first < n; first += size) hadamard_run(x + first, size, scale);
}

/* A part of all that a vector sees to its result; values of KV_INT4 are turned. */
static void attention_end(const float *part, enum kv_type type, int head_dim, float *out) {
    for (int i = 0; i < head_dim; i++) out[i] = part[PART_HEAD + i] / part[PART_TOTAL];
    if (type == KV_INT4) hadamard(out, head_dim);
}

/* --- quantisation of a head --- */

/* The nearest integer to x, at least low and at most high; right also where x is far beyond them. */
INLINE int32_t nearest_within(float x, int32_t low, int32_t high) {
    const int32_t nearest = (int32_t)(bits_of(x + ROUNDER) - ROUNDER_BITS), raised = nearest < low ? low : nearest;
    return raised > high ? high : raised;
}

/* As float_to_half and half_to_float. */
INLINE uint16_t half_of(float x) {
#if defined(__F16C__)
    return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
    return float_to_half(x);
#endif
}
INLINE float float_of_half(uint16_t half) {
#if defined(__F16C__)
    return _cvtsh_ss(half);
#else
    return half_to_float(half);
#endif
}

/* The bits of the largest magnitude of n values, a multiple of 16. */
INLINE uint32_t largest_bits(const float *x, int n) {
#if defined(__AVX2__)
    vint most = vi_zero();
    for (int i = 0; i < n; i += VECTOR_LANES) most = vi_max(most, vi_magnitude(vf_load(x + i)));
    return (uint32_t)vi_largest(most);
#else
    uint32_t most = 0;
    for (int i = 0; i < n; i++) {
        const uint32_t magnitude = bits_of(x[i]) & 0x7fffffffu;
        most = magnitude > most ? magnitude : most;
    }
    return most;
#endif
}

/* The nearest of x[i] * inverse in [-127, 127]. */
INLINE void codes_int8(const float *x, int n, float inverse, int8_t *q) {
    int i = 0;
#if defined(__AVX2__)
    for (; i + 4 * VECTOR_LANES <= n; i += 4 * VECTOR_LANES) {
        vint nearest[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const vfloat scaled = vf_mul(vf_load(x + i + j * VECTOR_LANES), vf_set(inverse));
            nearest[j] = vi_nearest(vf_min(vf_max(scaled, vf_set(-127)), vf_set(127)));
        }
        vi_store((uint8_t *)q + i, vi_pack_bytes(nearest));
    }
#endif
    for (; i < n; i++) q[i] = (int8_t)nearest_within(x[i] * inverse, -127, 127);
}

/* n values (a multiple of 16) to codes in [-127, 127]; the half float d. */
INLINE uint16_t quantize_int8(const float *x, int n, int8_t *q) {
    const uint32_t most = largest_bits(x, n);
    const uint16_t half = most >= INFINITY_BITS ? HALF_NAN : half_of(float_of(most) / 127.0f);
    const float d = float_of_half(half);
    if (d > 0 && d < INFINITY)
        codes_int8(x, n, 1.0f / d, q);
    else
        memset(q, 0, (size_t)n);
    return half;
}

INLINE int32_t total_of_codes(const int8_t *q, int n) {
    int32_t total = 0;
    int i = 0;
#if defined(__AVX2__)
    vint fours = vi_zero();
    for (; i + 4 * VECTOR_LANES <= n; i += 4 * VECTOR_LANES)
        fours = vi_add(fours, vi_sums_of_four(vi_load((const uint8_t *)q + i)));
    total = vi_total(fours);
#endif
    for (; i < n; i++) total += q[i];
    return total;
}

/* 32 values to codes in [0, 15]; the half floats d and m. */
INLINE void quantize_int4(const float *x, uint8_t *q, uint16_t *d_half, uint16_t *m_half) {
    int32_t high = INT32_MIN, low = INT32_MAX;
    for (int i = 0; i < KV_GROUP; i++) {
        const int32_t key = ordered_bits((int32_t)bits_of(x[i]));
        high = key > high ? key : high;
        low = key < low ? key : low;
    }
    const float top = float_of((uint32_t)ordered_bits(high)), bottom = float_of((uint32_t)ordered_bits(low));
    const bool finite = bottom > -INFINITY && top < INFINITY;
    *m_half = finite ? half_of(bottom) : HALF_NAN;
    *d_half = finite ? half_of((top - bottom) / 15.0f) : HALF_NAN;
    const float d = float_of_half(*d_half), m = float_of_half(*m_half), inverse = 1.0f / d;
    memset(q, 0, KV_GROUP);
    if (!(d > 0 && d < INFINITY)) return;
    for (int i = 0; i < KV_GROUP; i++) q[i] = (uint8_t)nearest_within((x[i] - m) * inverse, 0, 15);
}

/* --- RoPE --- */

INLINE void rotate(float *x0, float *x1, float c, float s) {
    const float a = *x0, b = *x1;
    *x0 = fmaf(-b, s, a * c);
    *x1 = fmaf(b, c, a * s);
}

INLINE void norm_head(float *head, const float *gamma, const struct rope_row *rope) {
    if (!gamma) return;
    const float scale = 1.0f / sqrtf(sum_of_squares(head, rope->head_dim) / (float)rope->head_dim + rope->norm_eps);
    for (int i = 0; i < rope->head_dim; i++) head[i] = head[i] * scale * gamma[i];
}

INLINE void turn_head(float *q, const struct rope_row *rope) {
    if (!rope->cos_sin) return;
    const int half = rope->rope_dim / 2;
    const float *cos_sin = rope->cos_sin;
    if (rope->kind == ROPE_INTERLEAVED)
        for (int i = 0; i < half; i++) rotate(&q[2 * i], &q[2 * i + 1], cos_sin[2 * i], cos_sin[2 * i + 1]);
    else
        for (int i = 0; i < half; i++) rotate(&q[i], &q[i + half], cos_sin[2 * i], cos_sin[2 * i + 1]);
}

static void rope_query(float *q, const struct rope_row *rope) {
    norm_head(q, rope->q_norm, rope);
    turn_head(q, rope);
}

/* --- the write --- */

static void halves_from_floats(const float *src, uint16_t *dst, int n) {
    int i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(dst + i), _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n; i++) dst[i] = float_to_half(src[i]);
}

static void write_f16(const float *k, const float *v, int n, const struct kv_slot *to) {
    uint16_t halves[MAX_HEAD_DIM], *k_page = (uint16_t *)(void *)to->pages.k, *v_page = (uint16_t *)(void *)to->pages.v;
    halves_from_floats(k, halves, n);
    for (int i = 0; i < n; i++) k_page[i * KV_BLOCK + to->slot] = halves[i];
    halves_from_floats(v, v_page + to->slot * n, n);
}

static void write_keys_int8(const float *k, int n, const struct kv_slot *to) {
    int8_t codes[MAX_HEAD_DIM];
    uint16_t *scales = (uint16_t *)(void *)to->pages.k_scales;
    scales[to->slot] = quantize_int8(k, n, codes);
    for (int i = 0; i < n; i += 4) memcpy(to->pages.k + i * KV_BLOCK + 4 * to->slot, codes + i, 4);
}

static void write_values_int8(const float *v, int n, const struct kv_slot *to) {
    int8_t codes[MAX_HEAD_DIM];
    uint16_t *scales = (uint16_t *)(void *)to->pages.v_scales;
    scales[to->slot] = quantize_int8(v, n, codes);
    uint8_t *at = to->pages.v + int8_value_at(n, to->slot, 0);
    for (int i = 0; i < n; i++, at += 4) *at = (uint8_t)codes[i];
}

static void write_values_int4(const float *v, int n, const struct kv_slot *to) {
    enum { BYTES = KV_GROUP / 2 };
    for (int g = 0; g < n / KV_GROUP; g++) {
        uint8_t codes[KV_GROUP], *bytes = to->pages.v + to->slot * n / 2 + g * BYTES;
        uint16_t *scales = (uint16_t *)(void *)to->pages.v_scales + 2 * g * KV_BLOCK + to->slot;
        quantize_int4(v + g * KV_GROUP, codes, &scales[0], &scales[KV_BLOCK]);
        for (int i = 0; i < BYTES; i++) bytes[i] = (uint8_t)(codes[i] | codes[i + BYTES] << 4);
    }
}

static void rope_key_value(const float *k, const float *v, const struct rope_row *rope, const struct kv_slot *to) {
    float key[MAX_HEAD_DIM];
    const int n = rope->head_dim;
    memcpy(key, k, (size_t)n * sizeof *k);
    norm_head(key, rope->k_norm, rope);
    turn_head(key, rope);
    if (to->type == KV_F16) {
        write_f16(key, v, n, to);
        return;
    }
    hadamard(key, n);
    write_keys_int8(key, n, to);
    if (to->type == KV_INT8) {
        write_values_int8(v, n, to);
        return;
    }
    float value[MAX_HEAD_DIM];
    memcpy(value, v, (size_t)n * sizeof *v);
    hadamard(value, n);
    write_values_int4(value, n, to);
}

/* --- queries --- */

/* A query for quantised keys: d * q ~= H x. */
struct query_codes {
    float d;
    int32_t sum; /* of the codes */
    int8_t q[MAX_HEAD_DIM];
};

/* x has been turned. All but the sum. */
INLINE void quantize_query(const float *x, int n, struct query_codes *out) {
    out->d = float_of_half(quantize_int8(x, n, out->q));
}

/* --- weights of values in 8 bits --- */

enum { MOST_WEIGHT = (1 << 14) - 1 };

/* Weight ~= step * nearest(weight * inverse), the latter in 0 .. MOST_WEIGHT. */
struct weight_scale {
    float step, inverse;
};

#define LEAST_WEIGHT 1e-30f /* of a chunk that is worth a scale */

/* For weights of `most` and less. An infinity or a NaN gives NaN. */
INLINE struct weight_scale weight_scale_of(float most) {
    if (most < LEAST_WEIGHT) return (struct weight_scale){0, 0};
    return (struct weight_scale){most / MOST_WEIGHT + (most - most), MOST_WEIGHT / most};
}

/* --- results --- */

/* The sums of minima of each 32 dimensions onto those. */
INLINE void add_minima(float *acc, int n, float (*minima)[LANES]) {
    for (int g = 0; g < n / KV_GROUP; g++) {
        const float sum = lane_tree(minima[g]);
        for (int i = 0; i < KV_GROUP; i++) acc[g * KV_GROUP + i] += sum;
    }
}

#endif
