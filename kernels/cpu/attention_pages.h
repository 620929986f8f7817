/* attention_pages.h - scores and weighted values of up to 6 query vectors over the pages of one chunk, for each type of KV cache:
 * the inner loops of attention_template.h.
 *
 * A lane is a position in the scores (K pages are transposed, so no sum runs across lanes) and a dimension in the values. A key
 * or value is loaded and converted once for all vectors of the tile. Every function exists for 1 to 6 vectors: their number,
 * known to the compiler, decides what stays in registers. */
#ifndef FORESAY_KERNELS_ATTENTION_PAGES_H
#define FORESAY_KERNELS_ATTENTION_PAGES_H

#include "kernels/cpu/kv_template.h"
#include "kernels/cpu/simd.h"

enum {
    PAGES_OF_CHUNK = ATTENTION_CHUNK / KV_BLOCK,
    QUADS_OF_PAGE = KV_BLOCK / 4,
    VECTORS_OF_PAGE = KV_BLOCK / VECTOR_LANES,
    MAX_BESIDE = 8,
    QUERY_STRIDE = MAX_HEAD_DIM + 16, /* no power of two: rows should not share cache sets */
};

struct attention_state {
    const struct attention_tile *tile;
    float max[VECTOR_LANES]; /* of the scores so far; a lane is a query vector */
    float lane_sum[ATTENTION_TILE][LANES];
    float q[ATTENTION_TILE * QUERY_STRIDE];                       /* scaled */
    float acc[ATTENTION_TILE * QUERY_STRIDE];                     /* weighted sum of the values so far */
    struct query_codes codes[ATTENTION_TILE];                     /* of q, for quantised keys */
    float minima[ATTENTION_TILE][MAX_HEAD_DIM / KV_GROUP][LANES]; /* weighted sums of minima (KV_INT4) */
    int first_chunk;
    /* of the current chunk */
    int chunk, n_pages;
    const uint8_t *k[PAGES_OF_CHUNK], *v[PAGES_OF_CHUNK], *k_scales[PAGES_OF_CHUNK], *v_scales[PAGES_OF_CHUNK];
    const uint8_t *next_k[PAGES_OF_CHUNK], *next_v[PAGES_OF_CHUNK]; /* to be fetched; where there are none, of this chunk */
    float p[ATTENTION_TILE][ATTENTION_CHUNK];                       /* scores, then weights */
    float highest[VECTOR_LANES], factor[VECTOR_LANES], peak[VECTOR_LANES]; /* highest score, and softmax_factors */
    float weight[ATTENTION_TILE][ATTENTION_CHUNK]; /* of KV_INT4: times the scales of the current dimensions */
    /* of KV_INT8 */
    struct wide_weights wide[ATTENTION_TILE];
    float scales[ATTENTION_CHUNK];     /* of the values; anything where no vector sees, 0 in pages behind */
    int most_of, most_begin, most_end; /* the last vector whose largest scale was looked for, and where; -1: none in this chunk */
    float most[VECTOR_LANES], step[VECTOR_LANES], inverse[VECTOR_LANES]; /* largest scale that a vector sees, and weight_scale */
};

/* So many vectors of scores or values are accumulated in registers for each of n query vectors. Fewer than eight sums would wait
 * for each other; 16 registers hold twelve. */
INLINE int beside(const int n) { return VECTOR_LANES == 16 ? 4 : n == 1 ? 8 : n <= 3 ? 4 : 2; }

/* sums[i][j] += x[i * stride] * y[j] for j = first .. end - 1 of n times `vectors` sums. To be called for each j as soon as y[j]
 * is there, or where n is larger at once for all: either the x or the y find room in registers beside the sums. */
INLINE void add_products(const int n, const int vectors, const int first, const int end, const float *x, int stride,
                         const vfloat y[], vfloat sums[]) {
#pragma GCC unroll 6
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int j = first; j < end; j++) sums[i * vectors + j] = vf_fma(vf_set(x[i * stride]), y[j], sums[i * vectors + j]);
}

/* --- scores of the last n vectors of the tile --- */

/* Every page begins somewhere else, where the processor does not look ahead by itself. While keys of a chunk are read, those of
 * the next one are fetched, and likewise its values while values are read: the same place of the same page. */
INLINE void prefetch_keys(const struct attention_state *s, int page, int at) { __builtin_prefetch(s->next_k[page] + at); }

/* `pages` pages from `page` on. */
INLINE void score_f16(struct attention_state *s, const int n, const int pages, int page) {
    const int vectors = pages * VECTORS_OF_PAGE, head_dim = s->tile->head_dim;
    const float *q = s->q + (s->tile->n - n) * QUERY_STRIDE;
    float(*p)[ATTENTION_CHUNK] = s->p + (s->tile->n - n);
    const uint8_t *k[MAX_BESIDE];
    vfloat sum[ATTENTION_TILE * MAX_BESIDE];
#pragma GCC unroll 8
    for (int j = 0; j < vectors; j++) k[j] = s->k[page + j / VECTORS_OF_PAGE] + j % VECTORS_OF_PAGE * VECTOR_LANES * 2;
#pragma GCC unroll 24
    for (int i = 0; i < n * vectors; i++) sum[i] = vf_zero();
    for (int d = 0; d < head_dim; d++) {
        if (d % 2 == 0)
#pragma GCC unroll 4
            for (int j = 0; j < pages; j++) prefetch_keys(s, page + j, d * KV_BLOCK * 2);
        vfloat key[MAX_BESIDE];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) {
            key[j] = vf_from_halves(k[j] + d * KV_BLOCK * 2);
            if (n <= vectors) add_products(n, vectors, j, j + 1, q + d, QUERY_STRIDE, key, sum);
        }
        if (n > vectors) add_products(n, vectors, 0, vectors, q + d, QUERY_STRIDE, key, sum);
    }
#pragma GCC unroll 6
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) vf_store(&p[i][page * KV_BLOCK + j * VECTOR_LANES], sum[i * vectors + j]);
}

/* `vectors` vectors of positions from `token` on. Codes of 8 bits go into dot_codes as it wants them (simd.h). */
INLINE void score_int8(struct attention_state *s, const int n, const int vectors, int token) {
    enum { QUADS = 4, BYTES = 4 * KV_BLOCK };
    const int head_dim = s->tile->head_dim;
    const struct query_codes *q = s->codes + (s->tile->n - n);
    vint dot[ATTENTION_TILE * MAX_BESIDE];
#pragma GCC unroll 24
    for (int i = 0; i < n * vectors; i++) dot[i] = vi_set(SIGNED_BYTES ? 0 : -128 * q[i / vectors].sum);
    for (int d = 0; d < head_dim; d += 4 * QUADS) {
        vint key[MAX_BESIDE][QUADS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const int page = (token + v * VECTOR_LANES) / KV_BLOCK, lane = (token + v * VECTOR_LANES) % KV_BLOCK;
            const uint8_t *k = s->k[page] + 4 * lane;
#pragma GCC unroll 4
            for (int j = 0; j < QUADS; j++) {
                key[v][j] = vi_codes_from_signed(vi_load(k + (d / 4 + j) * BYTES));
                if (lane == 0) prefetch_keys(s, page, (d / 4 + j) * BYTES);
            }
        }
#pragma GCC unroll 24
        for (int i = 0; i < n * vectors; i++) dot[i] = dot_codes(8, QUADS, key[i % vectors], q[i / vectors].q + d, dot[i]);
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        const int at = token + v * VECTOR_LANES;
        const vfloat scale = vf_from_halves(s->k_scales[at / KV_BLOCK] + 2 * (at % KV_BLOCK));
#pragma GCC unroll 6
        for (int i = 0; i < n; i++)
            vf_store(&s->p[s->tile->n - n + i][at], vf_mul(vf_from_int(dot[i * vectors + v]), vf_mul(vf_set(q[i].d), scale)));
    }
}

INLINE void scores(struct attention_state *s, const int n, const enum kv_type type) {
    int page = 0;
    if (type == KV_F16) {
        const int pages = beside(n) / VECTORS_OF_PAGE;
        for (; page + pages <= s->n_pages; page += pages) score_f16(s, n, pages, page);
        for (; pages > 1 && page < s->n_pages; page++) score_f16(s, n, 1, page);
    }
    if (type == KV_F16) return;
    const int vectors = VECTOR_LANES == 16 ? 2 : 1, end = s->n_pages * KV_BLOCK;
    int token = 0;
    for (; token + vectors * VECTOR_LANES <= end; token += vectors * VECTOR_LANES) score_int8(s, n, vectors, token);
    for (; token < end; token += VECTOR_LANES) score_int8(s, n, 1, token);
}

/* --- values --- */

/* Dimensions from d on of a token. upper: of KV_INT4, d lies in the upper half of its 32. */
INLINE vfloat value_at(const enum kv_type type, const uint8_t *page, int slot, int head_dim, int d, const bool upper) {
    if (type == KV_F16) return vf_from_halves(page + (slot * head_dim + d) * 2);
    const vint both = vi_from_bytes(page + slot * head_dim / 2 + d / KV_GROUP * KV_GROUP / 2 + d % (KV_GROUP / 2));
    return vf_from_int(upper ? vi_high_nibble(both) : vi_and(both, 15));
}

/* The lines of `vectors` vectors of dimensions from d on. */
INLINE void prefetch_values(const enum kv_type type, const uint8_t *page, int slot, int head_dim, int d, const int vectors) {
    const int cell_bits = type == KV_F16 ? 16 : 4, bytes = vectors * VECTOR_LANES * cell_bits / 8;
#pragma GCC unroll 4
    for (int at = 0; at < bytes; at += LINE) __builtin_prefetch(page + (slot * head_dim + d) * cell_bits / 8 + at);
}

/* acc += weight * V over tokens of the chunk, for the last n vectors of the tile and `vectors` vectors of dimensions
 * from d on. */
INLINE void value_dims(struct attention_state *s, const int n, const enum kv_type type, const int vectors, int d,
                       const bool upper, int first_token, int end_token) {
    const int head_dim = s->tile->head_dim, from = s->tile->n - n;
    const float(*p)[ATTENTION_CHUNK] = (const float(*)[ATTENTION_CHUNK])((type == KV_F16 ? s->p : s->weight) + from);
    float *out = s->acc + from * QUERY_STRIDE + d;
    vfloat acc[ATTENTION_TILE * MAX_BESIDE];
#pragma GCC unroll 6
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) acc[i * vectors + j] = vf_load(out + i * QUERY_STRIDE + j * VECTOR_LANES);
    for (int t = first_token; t < end_token;) {
        const int page = t / KV_BLOCK, page_end = (page + 1) * KV_BLOCK, end = page_end < end_token ? page_end : end_token;
        const uint8_t *v = s->v[page], *next = s->next_v[page];
        for (; t < end; t++) {
            vfloat value[MAX_BESIDE];
            prefetch_values(type, next, t % KV_BLOCK, head_dim, d, vectors);
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++) {
                const bool is_upper = upper || j * VECTOR_LANES >= KV_GROUP / 2;
                value[j] = value_at(type, v, t % KV_BLOCK, head_dim, d + j * VECTOR_LANES, is_upper);
                if (n <= vectors) add_products(n, vectors, j, j + 1, &p[0][t], ATTENTION_CHUNK, value, acc);
            }
            if (n > vectors) add_products(n, vectors, 0, vectors, &p[0][t], ATTENTION_CHUNK, value, acc);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) vf_store(out + i * QUERY_STRIDE + j * VECTOR_LANES, acc[i * vectors + j]);
}

/* Dimensions that fill no vector (KV_F16). */
static void value_tail(struct attention_state *s, int n, int d, int first_token, int end_token) {
    const int head_dim = s->tile->head_dim;
    for (int t = first_token; t < end_token; t++) {
        const uint16_t *row = (const uint16_t *)(const void *)s->v[t / KV_BLOCK] + t % KV_BLOCK * head_dim;
        for (int i = s->tile->n - n; i < s->tile->n; i++) {
            float *acc = s->acc + i * QUERY_STRIDE;
            for (int j = d; j < head_dim; j++) acc[j] = fmaf(s->p[i][t], half_to_float(row[j]), acc[j]);
        }
    }
}

/* All dimensions of KV_F16, those of one scale of KV_INT4. */
INLINE void values(struct attention_state *s, const int n, const enum kv_type type, int group, int first, int end) {
    if (type == KV_INT4 && VECTOR_LANES == 16) {
        value_dims(s, n, type, 2, group * KV_GROUP, false, first, end);
    } else if (type == KV_INT4) {
        value_dims(s, n, type, 2, group * KV_GROUP, false, first, end);
        value_dims(s, n, type, 2, group * KV_GROUP + KV_GROUP / 2, true, first, end);
    } else {
        const int head_dim = s->tile->head_dim, dims = beside(n) * VECTOR_LANES;
        int d = 0;
        for (; d + dims <= head_dim; d += dims) value_dims(s, n, type, beside(n), d, false, first, end);
        for (; d + VECTOR_LANES <= head_dim; d += VECTOR_LANES) value_dims(s, n, type, 1, d, false, first, end);
        if (type == KV_F16 && d < head_dim) value_tail(s, n, d, first, end);
    }
}

/* --- values of 8 bits --- */

/* So many vectors of dimensions stand beside each other, two sums each for n query vectors. */
INLINE int sums_beside(const int n) { return VECTOR_LANES == 16 ? (n <= 3 ? 4 : 2) : n == 1 ? 4 : n <= 3 ? 2 : 1; }

/* `vectors` vectors of dimensions from d on. */
INLINE void sum_dims(struct attention_state *s, const int n, const int vectors, int d, int n_quads) {
    const int from = s->tile->n - n, row_bytes = 4 * s->tile->head_dim;
    const struct wide_weights *weights = s->wide + from;
    vint sum[2 * ATTENTION_TILE * MAX_BESIDE];
#pragma GCC unroll 48
    for (int i = 0; i < 2 * n * vectors; i++) sum[i] = vi_zero();
    for (int quad = 0; quad < n_quads;) {
        const int page = quad / QUADS_OF_PAGE, page_end = (page + 1) * QUADS_OF_PAGE,
                  end = page_end < n_quads ? page_end : n_quads;
        const uint8_t *v = s->v[page] + 4 * d, *next = s->next_v[page] + 4 * d;
        for (; quad < end; quad++, v += row_bytes, next += row_bytes) {
            struct wide_value value[MAX_BESIDE];
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) {
                value[j] = wide_load(v + 4 * j * VECTOR_LANES);
                if (j * VECTOR_LANES % 16 == 0) __builtin_prefetch(next + 4 * j * VECTOR_LANES);
            }
#pragma GCC unroll 6
            for (int i = 0; i < n; i++) {
                const struct wide_quad w = wide_quad_at(&weights[i], 4 * quad);
#pragma GCC unroll 4
                for (int j = 0; j < vectors; j++) wide_step(&sum[2 * (i * vectors + j)], w, value[j]);
            }
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) {
            float *acc = s->acc + (from + i) * QUERY_STRIDE + d + j * VECTOR_LANES;
            vf_store(acc, vf_fma(vf_from_int(wide_total(&sum[2 * (i * vectors + j)])), vf_set(s->step[from + i]), vf_load(acc)));
        }
}

/* acc += weights * V over the chunk, for the last n vectors of the tile. */
INLINE void sums(struct attention_state *s, const int n, int n_quads) {
    const int vectors = sums_beside(n), head_dim = s->tile->head_dim;
    int d = 0;
    for (; d + vectors * VECTOR_LANES <= head_dim; d += vectors * VECTOR_LANES) sum_dims(s, n, vectors, d, n_quads);
    for (; d < head_dim; d += VECTOR_LANES) sum_dims(s, n, 1, d, n_quads);
}

/* The chunk's scales, for all vectors of the tile. */
static void read_scales(struct attention_state *s) {
    memset(s->scales, 0, sizeof s->scales);
    s->most_of = -1;
    for (int token = 0; token < s->n_pages * KV_BLOCK; token += VECTOR_LANES)
        vf_store(s->scales + token, vf_from_halves(s->v_scales[token / KV_BLOCK] + token % KV_BLOCK * 2));
}

/* The largest scale among the positions begin .. end - 1; mostly those of the vector before. */
static void find_most(struct attention_state *s, int i, int begin, int end) {
    if (s->most_of >= 0 && begin == s->most_begin && end == s->most_end) {
        s->most[i] = s->most[s->most_of];
        return;
    }
    s->most_of = i, s->most_begin = begin, s->most_end = end;
    vint most = vi_zero();
#pragma GCC unroll 8
    for (int j = 0; j < CHUNK_VECTORS; j++)
        most = vi_max(most, vi_magnitude(keep_seen(vf_load(s->scales + j * VECTOR_LANES), j, begin, end, 0)));
    s->most[i] = float_of((uint32_t)vi_largest(most));
}

/* weight_scale_of, for all vectors at once. */
static void scale_weights(struct attention_state *s) {
    const vfloat most = vf_mul(vf_load(s->peak), vf_load(s->most)), full = vf_set(MOST_WEIGHT);
    vf_store(s->step, vf_unless_below(most, LEAST_WEIGHT, vf_add(vf_div(most, full), vf_sub(most, most))));
    vf_store(s->inverse, vf_unless_below(most, LEAST_WEIGHT, vf_div(full, most)));
}

/* Weights of vector i for the positions begin .. end - 1 of the chunk, which alone it sees; the others weigh nothing. */
static void code_weights(struct attention_state *s, int i, int begin, int end, const vfloat weight[CHUNK_VECTORS]) {
#pragma GCC unroll 2
    for (int j = 0; j < CHUNK_VECTORS; j += 4) {
        vint code[4];
#pragma GCC unroll 4
        for (int l = j; l < j + 4; l++) {
            const vfloat scaled = keep_seen(vf_mul(weight[l], vf_load(s->scales + l * VECTOR_LANES)), l, begin, end, 0);
            code[l - j] = vi_nearest(vf_mul(scaled, vf_set(s->inverse[i])));
        }
        wide_store(&s->wide[i], j * VECTOR_LANES, code);
    }
}

/* --- tables: [vectors - 1] --- */

#define SIX_SCORES(name, type)                                                                                                   \
    static void name##_1(struct attention_state *s) { scores(s, 1, type); }                                                      \
    static void name##_2(struct attention_state *s) { scores(s, 2, type); }                                                      \
    static void name##_3(struct attention_state *s) { scores(s, 3, type); }                                                      \
    static void name##_4(struct attention_state *s) { scores(s, 4, type); }                                                      \
    static void name##_5(struct attention_state *s) { scores(s, 5, type); }                                                      \
    static void name##_6(struct attention_state *s) { scores(s, 6, type); }
#define SIX_VALUES(name, type)                                                                                                   \
    static void name##_1(struct attention_state *s, int group, int t, int end) { values(s, 1, type, group, t, end); }            \
    static void name##_2(struct attention_state *s, int group, int t, int end) { values(s, 2, type, group, t, end); }            \
    static void name##_3(struct attention_state *s, int group, int t, int end) { values(s, 3, type, group, t, end); }            \
    static void name##_4(struct attention_state *s, int group, int t, int end) { values(s, 4, type, group, t, end); }            \
    static void name##_5(struct attention_state *s, int group, int t, int end) { values(s, 5, type, group, t, end); }            \
    static void name##_6(struct attention_state *s, int group, int t, int end) { values(s, 6, type, group, t, end); }
#define SIX_SUMS(name)                                                                                                           \
    static void name##_1(struct attention_state *s, int n_quads) { sums(s, 1, n_quads); }                                        \
    static void name##_2(struct attention_state *s, int n_quads) { sums(s, 2, n_quads); }                                        \
    static void name##_3(struct attention_state *s, int n_quads) { sums(s, 3, n_quads); }                                        \
    static void name##_4(struct attention_state *s, int n_quads) { sums(s, 4, n_quads); }                                        \
    static void name##_5(struct attention_state *s, int n_quads) { sums(s, 5, n_quads); }                                        \
    static void name##_6(struct attention_state *s, int n_quads) { sums(s, 6, n_quads); }
#define SIX(name)                                                                                                                \
    { name##_1, name##_2, name##_3, name##_4, name##_5, name##_6 }

SIX_SCORES(scores_f16, KV_F16)
SIX_SCORES(scores_int8, KV_INT8)
SIX_VALUES(values_f16, KV_F16)
SIX_VALUES(values_int4, KV_INT4)
SIX_SUMS(sums_int8)

static void scores_of(struct attention_state *s, int n) {
    static void (*const of[KV_TYPE_COUNT][ATTENTION_TILE])(struct attention_state *) = {
        [KV_F16] = SIX(scores_f16), [KV_INT8] = SIX(scores_int8), [KV_INT4] = SIX(scores_int8)};
    of[s->tile->type][n - 1](s);
}
static void values_of(struct attention_state *s, int n, int group, int first, int end) {
    static void (*const of[KV_TYPE_COUNT][ATTENTION_TILE])(struct attention_state *, int, int,
                                                           int) = {[KV_F16] = SIX(values_f16), [KV_INT4] = SIX(values_int4)};
    of[s->tile->type][n - 1](s, group, first, end);
}
static void sums_of(struct attention_state *s, int n) {
    static void (*const of[ATTENTION_TILE])(struct attention_state *, int) = SIX(sums_int8);
    const int seen = s->tile->pos[s->tile->n - 1] + 1 - s->chunk;
    of[n - 1](s, ((seen < ATTENTION_CHUNK ? seen : ATTENTION_CHUNK) + 3) / 4);
}

/* --- scales of values --- */

static int value_groups(const struct attention_state *s) { return s->tile->type == KV_INT4 ? s->tile->head_dim / KV_GROUP : 1; }

/* weight = p * d of the group's dimensions, for vectors from `from` on. Beyond a vector's own position it is never read. */
static void weigh(struct attention_state *s, int from, int group) {
    for (int token = 0; token < s->n_pages * KV_BLOCK; token += VECTOR_LANES) {
        const vfloat d = vf_from_halves(s->v_scales[token / KV_BLOCK] + (2 * group * KV_BLOCK + token % KV_BLOCK) * 2);
        for (int i = from; i < s->tile->n; i++) vf_store(&s->weight[i][token], vf_mul(vf_load(&s->p[i][token]), d));
    }
}

/* minima += p * m of the first `seen` tokens, which are all that hold anything. */
static void sum_minima(struct attention_state *s, int i, int seen) {
    for (int g = 0; g < value_groups(s); g++)
        for (int first = 0; first < seen; first += KV_BLOCK) {
            float *lane = s->minima[i][g];
            const uint16_t *m = (const uint16_t *)(const void *)s->v_scales[first / KV_BLOCK] + (2 * g + 1) * KV_BLOCK;
            const bool full = first + KV_BLOCK <= seen;
            for (int l = 0; full && l < KV_BLOCK; l += VECTOR_LANES)
                vf_store(lane + l, vf_fma(vf_load(&s->p[i][first + l]), vf_from_halves(m + l), vf_load(lane + l)));
            for (int l = 0; !full && l < seen - first; l++) lane[l] = fmaf(s->p[i][first + l], half_to_float(m[l]), lane[l]);
        }
}

#endif
