/* sampler_pass.c - passes over whole rows of logits (largest logits of blocks, weights, noise) are cut into parts and spread over
 * the compute threads, several draws together; a part's result does not depend on who computes it. */
#include "engine/sampler_work.h"

struct spread {
    const struct sampler *sampler;
    struct sampler_work *const *works;
    sampler_pass *pass;
};

static void run_part(const void *arg, int i) {
    const struct spread *spread = arg;
    const struct sampler *s = spread->sampler;
    int first = i % s->n_parts * PART, end = first + PART < s->vocab_size ? first + PART : s->vocab_size;
    spread->pass(s, spread->works[i / s->n_parts], first, end);
}

void sampler_spread(const struct sampler *s, struct sampler_work *const *works, int n, sampler_pass *pass) {
    const struct spread spread = {s, works, pass};
    if (s->backend)
        s->backend->ops->parallel(s->backend->self, n * s->n_parts, run_part, &spread);
    else
        for (int i = 0; i < n * s->n_parts; i++) run_part(&spread, i);
}

static void maxima_pass(const struct sampler *s, struct sampler_work *w, int first, int end) {
    s->rows->maxima(w->draw->logits + first, end - first, w->maxima + first / ROW_BLOCK);
}

void sampler_find_maxima(const struct sampler *s, struct sampler_work *const *works, int n) {
    struct sampler_work *missing[TOGETHER] = {0};
    int n_missing = 0;
    for (int i = 0; i < n; i++) {
        struct sampler_work *w = works[i];
        w->maxima = w->draw->maxima ? w->draw->maxima : w->own_maxima;
        if (!w->draw->maxima) missing[n_missing++] = w;
    }
    sampler_spread(s, missing, n_missing, maxima_pass);
}

void sampler_weights_pass(const struct sampler *s, struct sampler_work *w, int first, int end) {
    int at = first / PART * PART_SUMS;
    int n = s->rows->weights(w->draw->logits + first, end - first, w->max, w->inverse_t, w->sums + at);
    if (end == s->vocab_size) w->n_sums = at + n;
}

double sampler_total_weight(const struct sampler_work *w) {
    double total = 0;
    for (int i = 0; i < w->n_sums; i++) total += (double)w->sums[i];
    return total;
}

int sampler_find_block(const struct sampler *s, const struct sampler_work *w, int block, float threshold) {
    while (block < s->n_blocks && !(w->maxima[block] >= threshold)) {
        block++;
        if (block % ROW_BLOCK == 0) block = s->rows->next_block(w->maxima, block, s->n_blocks, threshold);
    }
    return block;
}

int32_t sampler_first_reaching(const struct sampler *s, const struct sampler_work *w, float threshold) {
    int i = sampler_find_block(s, w, 0, threshold) * ROW_BLOCK;
    while (!(w->draw->logits[i] >= threshold)) i++;
    return i;
}
