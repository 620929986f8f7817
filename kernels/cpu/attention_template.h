/* attention_template.h - attention of up to 6 query vectors over the pages of one KV head, compiled for AVX2 and AVX-512.
 *
 * For each chunk of 64 positions: scores (a lane is a position: K pages are transposed, so no sum runs across lanes), the
 * softmax of row_template.h, then values (a lane is a dimension). A key or value is converted from half float once for all
 * vectors of the tile.
 *  (1) Vectors stand by ascending position, so those that still see position p are the last ones.
 *  (2) A score beyond a vector's own position is computed where the page is read anyway and then overwritten with -infinity. A
 *      value beyond it is never used, since 0 * NaN is not 0. */
#ifndef FORESAY_KERNELS_ATTENTION_TEMPLATE_H
#define FORESAY_KERNELS_ATTENTION_TEMPLATE_H

#include "kernels/cpu/row_template.h"
#include "kernels/cpu/simd.h"

enum {
    PAGES_OF_CHUNK = ATTENTION_CHUNK / KV_BLOCK,
    VECTORS_OF_PAGE = KV_BLOCK / VECTOR_LANES,
    /* 6 query vectors times this many vectors of scores or values are accumulated in registers */
    BESIDE = VECTOR_LANES == 16 ? 4 : 2,
    PAGES_BESIDE = BESIDE / VECTORS_OF_PAGE,
};

struct attention_state {
    const struct attention_tile *tile;
    struct softmax softmax[ATTENTION_TILE];
    float q[ATTENTION_TILE][MAX_HEAD_DIM];    /* scaled */
    float acc[ATTENTION_TILE][MAX_HEAD_DIM];  /* weighted sum of the values so far */
    float p[ATTENTION_TILE][ATTENTION_CHUNK]; /* scores, then weights */
    const uint16_t *k[PAGES_OF_CHUNK], *v[PAGES_OF_CHUNK];
};

/* Scores of vectors from .. from + n - 1 for `pages` pages from `page` on. */
INLINE void score_pages(struct attention_state *s, const int n, const int pages, int from, int page) {
    const int vectors = pages * VECTORS_OF_PAGE, head_dim = s->tile->head_dim;
    const uint16_t *k[BESIDE];
    vfloat sum[ATTENTION_TILE * BESIDE];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) k[j] = s->k[page + j / VECTORS_OF_PAGE] + j % VECTORS_OF_PAGE * VECTOR_LANES;
#pragma GCC unroll 24
    for (int i = 0; i < n * vectors; i++) sum[i] = vf_zero();
    const float *q = s->q[from];
    for (int d = 0; d < head_dim; d++) {
        vfloat key[BESIDE];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) key[j] = vf_from_halves(k[j] + d * KV_BLOCK);
#pragma GCC unroll 6
        for (int i = 0; i < n; i++)
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++)
                sum[i * vectors + j] = vf_fma(vf_set(q[i * MAX_HEAD_DIM + d]), key[j], sum[i * vectors + j]);
    }
#pragma GCC unroll 6
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) vf_store(&s->p[from + i][page * KV_BLOCK + j * VECTOR_LANES], sum[i * vectors + j]);
}

/* acc += p * V over tokens of the chunk, for `vectors` vectors of dimensions from d on. */
INLINE void value_dims(struct attention_state *s, const int n, const int vectors, int from, int d, int first_token,
                       int end_token) {
    const int head_dim = s->tile->head_dim;
    vfloat acc[ATTENTION_TILE * BESIDE];
#pragma GCC unroll 6
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) acc[i * vectors + j] = vf_load(&s->acc[from + i][d + j * VECTOR_LANES]);
    for (int t = first_token; t < end_token;) {
        const int page = t / KV_BLOCK, page_end = (page + 1) * KV_BLOCK, end = page_end < end_token ? page_end : end_token;
        const uint16_t *row = s->v[page] + t % KV_BLOCK * head_dim + d;
        for (; t < end; t++, row += head_dim) {
            vfloat value[BESIDE];
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) value[j] = vf_from_halves(row + j * VECTOR_LANES);
#pragma GCC unroll 6
            for (int i = 0; i < n; i++)
#pragma GCC unroll 4
                for (int j = 0; j < vectors; j++)
                    acc[i * vectors + j] = vf_fma(vf_set(s->p[from + i][t]), value[j], acc[i * vectors + j]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) vf_store(&s->acc[from + i][d + j * VECTOR_LANES], acc[i * vectors + j]);
}

/* Dimensions that fill no vector. */
static void value_tail(struct attention_state *s, int n, int from, int d, int first_token, int end_token) {
    for (int t = first_token; t < end_token; t++) {
        const uint16_t *row = s->v[t / KV_BLOCK] + t % KV_BLOCK * s->tile->head_dim;
        for (int i = from; i < from + n; i++)
            for (int j = d; j < s->tile->head_dim; j++) s->acc[i][j] = fmaf(s->p[i][t], half_to_float(row[j]), s->acc[i][j]);
    }
}

INLINE void scores(struct attention_state *s, const int n, int from, int n_pages) {
    int page = 0;
    for (; page + PAGES_BESIDE <= n_pages; page += PAGES_BESIDE) score_pages(s, n, PAGES_BESIDE, from, page);
    for (; page < n_pages; page++) score_pages(s, n, 1, from, page);
}

INLINE void values(struct attention_state *s, const int n, int from, int first_token, int end_token) {
    enum { DIMS = BESIDE * VECTOR_LANES };
    int d = 0;
    for (; d + DIMS <= s->tile->head_dim; d += DIMS) value_dims(s, n, BESIDE, from, d, first_token, end_token);
    for (; d + VECTOR_LANES <= s->tile->head_dim; d += VECTOR_LANES) value_dims(s, n, 1, from, d, first_token, end_token);
    value_tail(s, n, from, d, first_token, end_token);
}

/* Scores and values of vectors from..n - 1 of the tile, with their number known to the compiler. */
static void scores_from(struct attention_state *s, int from, int n_pages) {
    switch (s->tile->n - from) {
    case 1:
        scores(s, 1, from, n_pages);
        break;
    case 2:
        scores(s, 2, from, n_pages);
        break;
    case 3:
        scores(s, 3, from, n_pages);
        break;
    case 4:
        scores(s, 4, from, n_pages);
        break;
    case 5:
        scores(s, 5, from, n_pages);
        break;
    default:
        scores(s, 6, from, n_pages);
        break;
    }
}
static void values_from(struct attention_state *s, int from, int first_token, int end_token) {
    switch (s->tile->n - from) {
    case 1:
        values(s, 1, from, first_token, end_token);
        break;
    case 2:
        values(s, 2, from, first_token, end_token);
        break;
    case 3:
        values(s, 3, from, first_token, end_token);
        break;
    case 4:
        values(s, 4, from, first_token, end_token);
        break;
    case 5:
        values(s, 5, from, first_token, end_token);
        break;
    default:
        values(s, 6, from, first_token, end_token);
        break;
    }
}

/* The values of a chunk for vectors from..n - 1; those whose position ends earlier drop out on the way. */
static void chunk_values(struct attention_state *s, int from, int chunk) {
    const int *pos = s->tile->pos;
    for (int token = 0; from < s->tile->n;) {
        const int sees = pos[from] + 1 - chunk, end = sees < ATTENTION_CHUNK ? sees : ATTENTION_CHUNK;
        if (end > token) values_from(s, from, token, end);
        token = end > token ? end : token;
        if (token == ATTENTION_CHUNK) return;
        while (from < s->tile->n && pos[from] + 1 - chunk <= token) from++;
    }
}

static void attend_chunk(struct attention_state *s, int chunk) {
    const struct attention_tile *tile = s->tile;
    const int n_tokens = tile->pos[tile->n - 1] + 1 - chunk;
    const int n_pages = n_tokens < ATTENTION_CHUNK ? (n_tokens + KV_BLOCK - 1) / KV_BLOCK : PAGES_OF_CHUNK;
    for (int i = 0; i < n_pages; i++) {
        const size_t block = (size_t)tile->blocks[chunk / KV_BLOCK + i] * tile->block_bytes;
        s->k[i] = (const uint16_t *)(const void *)(tile->k + block);
        s->v[i] = (const uint16_t *)(const void *)(tile->v + block);
    }
    int from = 0;
    while (tile->pos[from] < chunk) from++;
    scores_from(s, from, n_pages);
    for (int i = from; i < tile->n; i++) {
        for (int t = tile->pos[i] + 1 - chunk; t < ATTENTION_CHUNK; t++) s->p[i][t] = -INFINITY;
        const float factor = softmax_chunk(&s->softmax[i], s->p[i]);
        if (factor == 1.0f) continue; /* the maximum rarely moves after the first chunks */
        for (int d = 0; d < tile->head_dim; d++) s->acc[i][d] *= factor;
    }
    chunk_values(s, from, chunk);
}

static void attention(const struct attention_tile *tile) {
    struct attention_state s;
    s.tile = tile;
    for (int i = 0; i < tile->n; i++) {
        s.softmax[i] = (struct softmax){.max = -INFINITY};
        for (int d = 0; d < tile->head_dim; d++) s.q[i][d] = tile->q[i][d] * tile->scale;
        memset(s.acc[i], 0, (size_t)tile->head_dim * sizeof(float));
    }
    for (int chunk = 0; chunk <= tile->pos[tile->n - 1]; chunk += ATTENTION_CHUNK) attend_chunk(&s, chunk);
    for (int i = 0; i < tile->n; i++) {
        const float total = lane_tree(s.softmax[i].lane_sum);
        for (int d = 0; d < tile->head_dim; d++) tile->out[i][d] = s.acc[i][d] / total;
    }
}

#endif
