/* attention_template.h - attention of up to 6 query vectors over the pages of one KV head, compiled for AVX2 and AVX-512.
 *
 * For each chunk of 64 positions: scores (a lane is a position: K pages are transposed, so no sum runs across lanes), the
 * softmax of row_template.h, then values (a lane is a dimension). A key or value is converted from half float once for all
 * vectors of the tile; converting whole chunks beforehand for larger tiles was slower, since floats do not fit the L1 cache.
 *  (1) Vectors stand by ascending position, so those that still see position p are the last ones.
 *  (2) A score beyond a vector's own position is computed where the page is read anyway and then overwritten with -infinity. A
 *      value beyond it is never used, since 0 * NaN is not 0. With a window, a vector joins at the chunk of its first position;
 *      until then its weights are 0 and its softmax rests, and so do the positions before its window in that chunk. */
#ifndef FORESAY_KERNELS_ATTENTION_TEMPLATE_H
#define FORESAY_KERNELS_ATTENTION_TEMPLATE_H

#include "kernels/cpu/row_template.h"
#include "kernels/cpu/simd.h"

enum {
    PAGES_OF_CHUNK = ATTENTION_CHUNK / KV_BLOCK,
    VECTORS_OF_PAGE = KV_BLOCK / VECTOR_LANES,
    /* a tile's query vectors times this many vectors of scores or values are accumulated in registers */
    BESIDE = VECTOR_LANES == 16 ? 4 : 2,
    PAGES_BESIDE = BESIDE / VECTORS_OF_PAGE,
    QUERY_STRIDE = MAX_HEAD_DIM + 16, /* no power of two: rows should not share cache sets */
};

struct attention_state {
    const struct attention_tile *tile;
    struct softmax softmax[ATTENTION_TILE];
    float q[ATTENTION_TILE * QUERY_STRIDE];   /* scaled */
    float acc[ATTENTION_TILE * QUERY_STRIDE]; /* weighted sum of the values so far */
    /* of the current chunk */
    int chunk, n_pages;
    const uint16_t *k[PAGES_OF_CHUNK], *v[PAGES_OF_CHUNK];
    float p[ATTENTION_TILE][ATTENTION_CHUNK]; /* scores, then weights */
};

/* Scores of the last n vectors of the tile for `pages` pages from `page` on. */
INLINE void score_pages(struct attention_state *s, const int n, const int pages, int page) {
    const int vectors = pages * VECTORS_OF_PAGE, head_dim = s->tile->head_dim;
    const float *q = s->q + (s->tile->n - n) * QUERY_STRIDE;
    float(*p)[ATTENTION_CHUNK] = s->p + (s->tile->n - n);
    const uint16_t *k[BESIDE];
    vfloat sum[ATTENTION_TILE * BESIDE];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) k[j] = s->k[page + j / VECTORS_OF_PAGE] + j % VECTORS_OF_PAGE * VECTOR_LANES;
#pragma GCC unroll 24
    for (int i = 0; i < n * vectors; i++) sum[i] = vf_zero();
    for (int d = 0; d < head_dim; d++) {
        vfloat key[BESIDE];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) key[j] = vf_from_halves(k[j] + d * KV_BLOCK);
#pragma GCC unroll 6
        for (int i = 0; i < n; i++)
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++)
                sum[i * vectors + j] = vf_fma(vf_set(q[i * QUERY_STRIDE + d]), key[j], sum[i * vectors + j]);
    }
#pragma GCC unroll 6
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) vf_store(&p[i][page * KV_BLOCK + j * VECTOR_LANES], sum[i * vectors + j]);
}

INLINE void scores(struct attention_state *s, const int n) {
    int page = 0;
    for (; page + PAGES_BESIDE <= s->n_pages; page += PAGES_BESIDE) score_pages(s, n, PAGES_BESIDE, page);
    for (; page < s->n_pages; page++) score_pages(s, n, 1, page);
}

/* acc += p * V over tokens of the chunk, for the last n vectors of the tile and `vectors` vectors of dimensions from d on. */
INLINE void value_dims(struct attention_state *s, const int n, const int vectors, int d, int first_token, int end_token) {
    const int head_dim = s->tile->head_dim;
    const float(*p)[ATTENTION_CHUNK] = (const float(*)[ATTENTION_CHUNK])(s->p + (s->tile->n - n));
    float *out = s->acc + (s->tile->n - n) * QUERY_STRIDE + d;
    vfloat acc[ATTENTION_TILE * BESIDE];
#pragma GCC unroll 6
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) acc[i * vectors + j] = vf_load(out + i * QUERY_STRIDE + j * VECTOR_LANES);
    for (int t = first_token; t < end_token;) {
        const int page = t / KV_BLOCK, page_end = (page + 1) * KV_BLOCK, end = page_end < end_token ? page_end : end_token;
        const uint16_t *halves = s->v[page] + t % KV_BLOCK * head_dim + d;
        for (; t < end; t++, halves += head_dim) {
            vfloat value[BESIDE];
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) value[j] = vf_from_halves(halves + j * VECTOR_LANES);
#pragma GCC unroll 6
            for (int i = 0; i < n; i++)
#pragma GCC unroll 4
                for (int j = 0; j < vectors; j++) acc[i * vectors + j] = vf_fma(vf_set(p[i][t]), value[j], acc[i * vectors + j]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) vf_store(out + i * QUERY_STRIDE + j * VECTOR_LANES, acc[i * vectors + j]);
}

/* Dimensions that fill no vector. */
static void value_tail(struct attention_state *s, int n, int d, int first_token, int end_token) {
    const int head_dim = s->tile->head_dim;
    for (int t = first_token; t < end_token; t++) {
        const uint16_t *row = s->v[t / KV_BLOCK] + t % KV_BLOCK * head_dim;
        for (int i = s->tile->n - n; i < s->tile->n; i++) {
            float *acc = s->acc + i * QUERY_STRIDE;
            for (int j = d; j < head_dim; j++) acc[j] = fmaf(s->p[i][t], half_to_float(row[j]), acc[j]);
        }
    }
}

INLINE void values(struct attention_state *s, const int n, int first_token, int end_token) {
    enum { DIMS = BESIDE * VECTOR_LANES };
    const int head_dim = s->tile->head_dim;
    int d = 0;
    for (; d + DIMS <= head_dim; d += DIMS) value_dims(s, n, BESIDE, d, first_token, end_token);
    for (; d + VECTOR_LANES <= head_dim; d += VECTOR_LANES) value_dims(s, n, 1, d, first_token, end_token);
    if (d < head_dim) value_tail(s, n, d, first_token, end_token);
}

/* The number of vectors is known to the compiler in each of these. */
#define SCORES_AND_VALUES(n)                                                                                                     \
    static void scores_##n(struct attention_state *s) { scores(s, n); }                                                          \
    static void values_##n(struct attention_state *s, int first, int end) { values(s, n, first, end); }

SCORES_AND_VALUES(1)
SCORES_AND_VALUES(2)
SCORES_AND_VALUES(3)
SCORES_AND_VALUES(4)
SCORES_AND_VALUES(5)
SCORES_AND_VALUES(6)

static void scores_of(struct attention_state *s, int n) {
    static void (*const of[])(struct attention_state *) = {scores_1, scores_2, scores_3, scores_4, scores_5, scores_6};
    of[n - 1](s);
}
static void values_of(struct attention_state *s, int n, int first, int end) {
    static void (*const of[])(struct attention_state *, int, int) = {values_1, values_2, values_3, values_4, values_5, values_6};
    of[n - 1](s, first, end);
}

/* Tokens of the chunk that vector i sees, at most all. */
static int tokens_seen(const struct attention_state *s, int i) {
    const int seen = s->tile->pos[i] + 1 - s->chunk;
    return seen < ATTENTION_CHUNK ? seen : ATTENTION_CHUNK;
}

static void find_pages(struct attention_state *s) {
    const struct attention_tile *tile = s->tile;
    s->n_pages = (tokens_seen(s, tile->n - 1) + KV_BLOCK - 1) / KV_BLOCK;
    for (int i = 0; i < s->n_pages; i++) {
        const size_t block = (size_t)tile->blocks[s->chunk / KV_BLOCK + i] * tile->block_bytes;
        s->k[i] = (const uint16_t *)(const void *)(tile->k + block);
        s->v[i] = (const uint16_t *)(const void *)(tile->v + block);
    }
}

/* Vectors that end before the chunk stay out, those that end in it drop out on the way. */
static void attend_chunk(struct attention_state *s) {
    const int n = s->tile->n;
    const struct attention_spec *spec = s->tile->spec;
    int from = 0;
    while (tokens_seen(s, from) <= 0) from++;
    find_pages(s);
    scores_of(s, n - from);
    for (int i = from; i < n; i++) {
        float *p = s->p[i], *acc = s->acc + i * QUERY_STRIDE;
        const int begin = attention_first_seen(spec, s->tile->pos[i]) - s->chunk;
        if (begin >= ATTENTION_CHUNK) {
            memset(p, 0, sizeof s->p[i]);
            continue;
        }
        if (spec->soft_cap > 0) soft_cap_row(p, ATTENTION_CHUNK, spec->soft_cap);
        for (int t = 0; t < begin; t++) p[t] = -INFINITY;
        for (int t = tokens_seen(s, i); t < ATTENTION_CHUNK; t++) p[t] = -INFINITY;
        const float factor = softmax_chunk(&s->softmax[i], p);
        if (factor == 1.0f) continue; /* the maximum rarely moves after the first chunks */
        for (int d = 0; d < s->tile->head_dim; d++) acc[d] *= factor;
    }
    for (int token = 0; from < n;) {
        const int seen = tokens_seen(s, from);
        values_of(s, n - from, token, seen);
        token = seen;
        while (from < n && tokens_seen(s, from) <= token) from++;
    }
}

static void attention(const struct attention_tile *tile) {
    struct attention_state s;
    s.tile = tile;
    for (int i = 0; i < tile->n; i++) {
        s.softmax[i] = (struct softmax){.max = -INFINITY};
        for (int d = 0; d < tile->head_dim; d++) s.q[i * QUERY_STRIDE + d] = tile->q[i][d] * tile->spec->scale;
        memset(s.acc + i * QUERY_STRIDE, 0, (size_t)tile->head_dim * sizeof(float));
    }
    const int begin = attention_first_seen(tile->spec, tile->pos[0]);
    for (s.chunk = begin / ATTENTION_CHUNK * ATTENTION_CHUNK; s.chunk <= tile->pos[tile->n - 1]; s.chunk += ATTENTION_CHUNK)
        attend_chunk(&s);
    for (int i = 0; i < tile->n; i++) {
        const float total = lane_tree(s.softmax[i].lane_sum);
        for (int d = 0; d < tile->head_dim; d++) tile->out[i][d] = s.acc[i * QUERY_STRIDE + d] / total;
    }
}

#endif
