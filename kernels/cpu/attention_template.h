/* attention_template.h - attention of up to 6 query vectors over a span of one KV head's pages, compiled for AVX2 and AVX-512.
 *
 * For each chunk of 64 positions: scores, the softmax (exp_template.h), then values (attention_pages.h). A key or value is
 * converted to floats once for all vectors of the tile; converting whole chunks beforehand for larger tiles was slower, since
 * they do not fit the L1 cache.
 *  (1) Vectors stand by ascending position, so those that still see position p are the last ones.
 *  (2) A score beyond a vector's own position is computed where the page is read anyway and then overwritten with -infinity. A
 *      value beyond it is never used, since 0 * NaN is not 0. With a window, a vector joins at the chunk of its first position;
 *      until then its weights are 0 and its softmax rests, and so do the positions before its window in that chunk. Values of
 *      8 bits are integers, as are their weights, so that what weighs nothing may be added (kv_template.h, 4). */
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
        __builtin_prefetch(ahead.k_scales);
        __builtin_prefetch(ahead.v_scales);
    }
}

static void clear_sums(struct attention_state *s, int i) {
    float *acc = s->acc + i * QUERY_STRIDE;
    for (int d = 0; d < s->tile->head_dim; d += LANES) memset(acc + d, 0, LANES * sizeof *acc); /* there is room */
    if (s->tile->type == KV_INT4) memset(s->minima[i], 0, (size_t)value_groups(s) * sizeof *s->minima[i]);
}

/* What was summed before, to the new maximum. */
static void scale_sums(struct attention_state *s, int i, float factor) {
    float *acc = s->acc + i * QUERY_STRIDE;
    for (int d = 0; d < s->tile->head_dim; d++) acc[d] *= factor;
    for (int g = 0; s->tile->type == KV_INT4 && g < value_groups(s); g++)
        for (int l = 0; l < LANES; l++) s->minima[i][g][l] *= factor;
}

/* The first token of the chunk that vector i sees. */
static int token_begin(const struct attention_state *s, int i) {
    const int begin = attention_first_seen(s->tile->spec, s->tile->pos[i]) - s->chunk;
    return begin > 0 ? begin : 0;
}

static void find_highest(struct attention_state *s, int i) {
    const struct attention_spec *spec = s->tile->spec;
    const int begin = token_begin(s, i), seen = tokens_seen(s, i);
    s->highest[i] = -INFINITY;
    s->most[i] = 0;
    if (begin >= ATTENTION_CHUNK) return;
    if (spec->soft_cap > 0) soft_cap_row(s->p[i], ATTENTION_CHUNK, spec->soft_cap);
    if (begin > 0 || seen < ATTENTION_CHUNK) hide_scores(s->p[i], begin, seen);
    s->highest[i] = vector_highest_score(s->p[i]);
    if (s->tile->type == KV_INT8) find_most(s, i, begin, seen < ATTENTION_CHUNK ? seen : ATTENTION_CHUNK);
}

/* softmax_factors_of, for all vectors at once. */
static void raise_maxima(struct attention_state *s) {
    const vfloat before = vf_load(s->max), chunk = vf_load(s->highest);
    const vint higher = vi_max(vi_ordered_bits(before), vi_ordered_bits(chunk));
    const vfloat max = vf_from_bits(vi_ordered_bits(vf_from_bits(higher)));
    vf_store(s->max, max);
    vf_store(s->factor, vf_exp(vf_sub(before, max)));
    vf_store(s->peak, vf_exp(vf_sub(chunk, max)));
}

/* Scores of vector i to weights; what was summed before follows the new maximum. */
static void weigh_chunk(struct attention_state *s, int i) {
    const struct attention_tile *tile = s->tile;
    const int begin = token_begin(s, i), seen = tokens_seen(s, i);
    const bool rests = begin >= ATTENTION_CHUNK;
    const float factor = s->factor[i];
    vfloat weight[CHUNK_VECTORS];
#pragma GCC unroll 8
    for (int j = 0; rests && j < CHUNK_VECTORS; j++) weight[j] = vf_zero();
    if (!rests) {
        if (s->chunk > s->first_chunk && attention_first_seen(tile->spec, tile->pos[i]) >= s->chunk) clear_sums(s, i);
        vector_weights(s->p[i], s->max[i], factor, s->lane_sum[i], weight);
        if (factor != 1.0f) scale_sums(s, i, factor); /* the maximum rarely moves after the first chunks */
    }
    if (tile->type == KV_INT8) {
        code_weights(s, i, begin, seen, weight);
        return;
    }
#pragma GCC unroll 8
    for (int j = 0; j < CHUNK_VECTORS; j++) vf_store(&s->p[i][j * VECTOR_LANES], weight[j]);
    if (tile->type == KV_INT4 && !rests) sum_minima(s, i, seen);
}

/* Scores of the vectors from `first` on to weights: each stage for all, so that the processor need not wait for any. */
static void soften(struct attention_state *s, int first) {
    if (s->tile->type == KV_INT8) read_scales(s);
    for (int i = first; i < s->tile->n; i++) find_highest(s, i);
    raise_maxima(s);
    if (s->tile->type == KV_INT8) scale_weights(s);
    for (int i = first; i < s->tile->n; i++) weigh_chunk(s, i);
}

/* Vectors that end before the chunk stay out, those that end in it drop out on the way. */
static void attend_chunk(struct attention_state *s) {
    const int n = s->tile->n;
    int first = 0;
    while (tokens_seen(s, first) <= 0) first++;
    find_pages(s);
    scores_of(s, n - first);
    soften(s, first);
    if (s->tile->type == KV_INT8) {
        sums_of(s, n - first);
        return;
    }
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
    s->max[i] = -INFINITY;
    memset(s->lane_sum[i], 0, sizeof s->lane_sum[i]);
    for (int d = 0; d < tile->head_dim; d++) q[d] = tile->q[i][d] * tile->spec->scale;
    if (tile->type != KV_F16) hadamard(q, tile->head_dim);
    clear_sums(s, i);
}

/* Each stage for all: one alone is a long way from result to result. */
static void begin_vectors(struct attention_state *s) {
    const int n = s->tile->n, head_dim = s->tile->head_dim;
    for (int i = 0; i < n; i++) begin_vector(s, i);
    if (s->tile->type == KV_F16) return;
    for (int i = 0; i < n; i++) quantize_query(s->q + i * QUERY_STRIDE, head_dim, &s->codes[i]);
    for (int i = 0; i < n; i++) s->codes[i].sum = total_of_codes(s->codes[i].q, head_dim);
}

static void end_vector(struct attention_state *s, int i) {
    const struct attention_tile *tile = s->tile;
    float *acc = s->acc + i * QUERY_STRIDE, *part = tile->part[i];
    if (tile->type == KV_INT4) add_minima(acc, tile->head_dim, s->minima[i]);
    memcpy(part + PART_HEAD, acc, (size_t)tile->head_dim * sizeof *acc);
    part[PART_MAX] = s->max[i];
    part[PART_TOTAL] = lane_tree(s->lane_sum[i]);
}

static void attention(const struct attention_tile *tile) {
    struct attention_state s;
    s.tile = tile;
    begin_vectors(&s);
    const int begin = attention_first_seen(tile->spec, tile->pos[0]), last = tile->pos[tile->n - 1];
    s.first_chunk = begin > tile->span ? begin / ATTENTION_CHUNK * ATTENTION_CHUNK : tile->span;
    for (s.chunk = s.first_chunk; s.chunk <= last && s.chunk < tile->span + ATTENTION_SPAN; s.chunk += ATTENTION_CHUNK)
        attend_chunk(&s);
    for (int i = 0; i < tile->n; i++) end_vector(&s, i);
}

#endif
