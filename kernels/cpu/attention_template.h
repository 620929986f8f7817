/* attention_template.h - attention of up to 6 query vectors over a span of one KV head's pages, compiled for AVX2 and AVX-512.
 *
 * For each chunk of 64 positions: scores, the softmax (exp_template.h), then values (attention_pages.h). A key or value is
 * converted to floats once for all vectors of the tile; converting whole chunks beforehand for larger tiles was slower, since
 * they do not fit the L1 cache.
 *  (1) Vectors stand by ascending position, so those that still see position p are the last ones.
 *  (2) A score beyond a vector's own position is computed where the page is read anyway and then overwritten with -infinity. A
 *      value beyond it is never used, since 0 * NaN is not 0. With a window, a vector joins at the chunk of its first position;
 *      until then its weights are 0 and its softmax rests, and so do the positions before its window in that chunk. */
#ifndef FORESAY_KERNELS_ATTENTION_TEMPLATE_H
#define FORESAY_KERNELS_ATTENTION_TEMPLATE_H

#include "kernels/cpu/attention_pages.h"

/* Tokens of the chunk that vector i sees, at most all. */
static int tokens_seen(const struct attention_state *s, int i) {
    const int seen = s->tile->pos[i] + 1 - s->chunk;
    return seen < ATTENTION_CHUNK ? seen : ATTENTION_CHUNK;
}

static void find_pages(struct attention_state *s) {
    const struct attention_tile *tile = s->tile;
    const int last = tile->pos[tile->n - 1] / KV_BLOCK;
    s->n_pages = (tokens_seen(s, tile->n - 1) + KV_BLOCK - 1) / KV_BLOCK;
    for (int i = 0; i < s->n_pages; i++) {
        const struct kv_pages pages = attention_pages(tile, s->chunk / KV_BLOCK + i);
        s->k[i] = pages.k;
        s->v[i] = pages.v;
        s->k_scales[i] = pages.k_scales;
        s->v_scales[i] = pages.v_scales;
        const int next = s->chunk / KV_BLOCK + PAGES_OF_CHUNK + i;
        const struct kv_pages ahead = next <= last ? attention_pages(tile, next) : tile->next[i].k ? tile->next[i] : pages;
        s->next_k[i] = ahead.k;
        s->next_v[i] = ahead.v;
    }
}

static void clear_sums(struct attention_state *s, int i) {
    memset(s->acc + i * QUERY_STRIDE, 0, (size_t)s->tile->head_dim * sizeof(float));
    if (s->tile->type == KV_INT4) memset(s->minima[i], 0, (size_t)value_groups(s) * sizeof *s->minima[i]);
}

/* Scores of vector i to weights; what was summed before follows the new maximum. */
static void soften(struct attention_state *s, int i) {
    const struct attention_tile *tile = s->tile;
    float *p = s->p[i], *acc = s->acc + i * QUERY_STRIDE;
    const int begin = attention_first_seen(tile->spec, tile->pos[i]) - s->chunk, seen = tokens_seen(s, i);
    if (begin >= ATTENTION_CHUNK) {
        memset(p, 0, sizeof s->p[i]);
        return;
    }
    if (begin >= 0) clear_sums(s, i); /* its first chunk; until then it may have met 0 * infinity */
    if (tile->spec->soft_cap > 0) soft_cap_row(p, ATTENTION_CHUNK, tile->spec->soft_cap);
    if (begin > 0 || seen < ATTENTION_CHUNK) hide_scores(p, begin, seen);
    const float factor = vector_softmax_chunk(&s->softmax[i], p);
    if (factor != 1.0f) { /* the maximum rarely moves after the first chunks */
        for (int d = 0; d < tile->head_dim; d++) acc[d] *= factor;
        for (int g = 0; tile->type == KV_INT4 && g < value_groups(s); g++)
            for (int l = 0; l < LANES; l++) s->minima[i][g][l] *= factor;
    }
    if (tile->type == KV_INT4) sum_minima(s, i, seen);
}

/* Vectors that end before the chunk stay out, those that end in it drop out on the way. */
static void attend_chunk(struct attention_state *s) {
    const int n = s->tile->n;
    int first = 0;
    while (tokens_seen(s, first) <= 0) first++;
    find_pages(s);
    scores_of(s, n - first);
    for (int i = first; i < n; i++) soften(s, i);
    for (int group = 0; group < value_groups(s); group++) {
        if (s->tile->type != KV_F16) weigh(s, first, group);
        for (int from = first, token = 0; from < n;) {
            const int seen = tokens_seen(s, from);
            values_of(s, n - from, group, token, seen);
            token = seen;
            while (from < n && tokens_seen(s, from) <= token) from++;
        }
    }
}

static void begin_vector(struct attention_state *s, int i) {
    const struct attention_tile *tile = s->tile;
    float *q = s->q + i * QUERY_STRIDE;
    s->softmax[i] = (struct softmax){.max = -INFINITY};
    for (int d = 0; d < tile->head_dim; d++) q[d] = tile->q[i][d] * tile->spec->scale;
    if (tile->type != KV_F16) quantize_query(q, tile->head_dim, &s->codes[i]);
    clear_sums(s, i);
}

static void end_vector(struct attention_state *s, int i) {
    const struct attention_tile *tile = s->tile;
    float *acc = s->acc + i * QUERY_STRIDE, *part = tile->part[i];
    if (tile->type == KV_INT4) add_minima(acc, tile->head_dim, s->minima[i]);
    memcpy(part + PART_HEAD, acc, (size_t)tile->head_dim * sizeof *acc);
    part[PART_MAX] = s->softmax[i].max;
    part[PART_TOTAL] = lane_tree(s->softmax[i].lane_sum);
}

static void attention(const struct attention_tile *tile) {
    struct attention_state s;
    s.tile = tile;
    for (int i = 0; i < tile->n; i++) begin_vector(&s, i);
    const int begin = attention_first_seen(tile->spec, tile->pos[0]), last = tile->pos[tile->n - 1];
    s.chunk = begin > tile->span ? begin / ATTENTION_CHUNK * ATTENTION_CHUNK : tile->span;
    for (; s.chunk <= last && s.chunk < tile->span + ATTENTION_SPAN; s.chunk += ATTENTION_CHUNK) attend_chunk(&s);
    for (int i = 0; i < tile->n; i++) end_vector(&s, i);
}

#endif
