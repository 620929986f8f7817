/* sampler.c - a draw from beginning to end: see sampler.h for what is drawn, sampler_work.h for the parts. Hardly any token is
 * looked at closely:
 *
 *  (1) The largest logit of each block of 64 tokens comes with the row, or from one pass over it. Greedy needs no more; the
 *      cuts and the noise look into those blocks only whose largest logit can matter.
 *  (2) Top-p alone needs the weight of the whole row. Block maxima bound it so closely that the token drawn is almost always the
 *      same at both bounds; only if it is not, the row is weighed.
 *  (3) Passes over whole rows are spread over the compute threads. All else is microseconds on the caller's thread. */
#include <assert.h>
#include <stdlib.h>

#include "engine/sampler_work.h"

/* --- open, close --- */

int sampler_init(struct sampler *sampler, int vocab_size) {
    size_t n = (size_t)vocab_size, n_blocks = (size_t)row_blocks(vocab_size), n_parts = (n + PART - 1) / PART;
    size_t row = n_blocks + (size_t)sampler_weights_room(vocab_size);
    *sampler = (struct sampler){
        .vocab_size = vocab_size, .n_blocks = (int)n_blocks, .n_parts = (int)n_parts, .rows = sampler_rows_best()};
    sampler_noise_bounds(sampler->noise_bound);
    sampler->candidates = malloc(n * sizeof *sampler->candidates);
    sampler->before = malloc((n + ENGINE_MAX_BIAS) * sizeof *sampler->before);
    sampler->uses = calloc(n, sizeof *sampler->uses);
    sampler->work = calloc(TOGETHER, sizeof *sampler->work);
    sampler->leaders = malloc(TOGETHER * n_parts * sizeof *sampler->leaders);
    sampler->row_memory = malloc(TOGETHER * row * sizeof *sampler->row_memory);
    if (!sampler->candidates || !sampler->before || !sampler->uses || !sampler->work || !sampler->leaders ||
        !sampler->row_memory) {
        sampler_free(sampler);
        return -1;
    }
    for (size_t i = 0; i < TOGETHER; i++) {
        sampler->work[i].own_maxima = sampler->row_memory + i * row;
        sampler->work[i].sums = sampler->row_memory + i * row + n_blocks;
        sampler->work[i].leaders = sampler->leaders + i * n_parts;
    }
    return 0;
}

void sampler_free(struct sampler *sampler) {
    free(sampler->candidates);
    free(sampler->before);
    free(sampler->uses);
    free(sampler->work);
    free(sampler->leaders);
    free(sampler->row_memory);
    *sampler = (struct sampler){0};
}

/* --- draws --- */

bool sampler_begin_draw(const struct sampler *s, struct sampler_work *w) {
    struct sampler_draw *draw = w->draw;
    const struct engine_sampling *p = draw->params;
    draw->status = s->rows->max(w->maxima, s->n_blocks, &w->max) ? ENGINE_OK : ENGINE_ERR_NUMERIC;
    if (draw->status != ENGINE_OK) return false;
    int32_t best = draw->token = sampler_first_reaching(s, w, w->max);
    if (p->temperature <= 0) return false;
    w->temperature = p->temperature > 1e-4f ? p->temperature : 1e-4f; /* its inverse stays finite */
    w->inverse_t = 1 / w->temperature;
    struct contest *c = &w->contest;
    *c = (struct contest){.sampler = s, .seed = p->seed, .position = (uint64_t)draw->history.n_tokens};
    c->max = w->max;
    c->temperature = w->temperature;
    c->inverse_t = 1.0 / (double)w->temperature;
    c->worst.token = -1;
    sampler_contest_lead(c, best, sampler_noise(c->seed, c->position, best));
    return true;
}

/* The draw from the nucleus that the largest possible weight of the row gives is the right one if its token is in the nucleus
 * that the least gives, too: if what is better weighs less than that. False when it is not, or when candidates are many. */
static bool draw_from_bounds(struct sampler *s, struct sampler_work *w) {
    const struct engine_sampling *p = w->draw->params;
    struct contest c = w->contest;
    double least, most;
    if (!sampler_bound_weight(s, w, &least, &most)) return false;
    int n = sampler_cut_top_p(s, w, sampler_nucleus_mass(p, most));
    if (n >= s->vocab_size / MANY) return false;
    c.min_p = p->min_p;
    sampler_draw_from_few(&c, s->candidates, n);
    const struct sampler_candidate drawn = {.logit = w->draw->logits[c.token], .token = c.token};
    uint64_t before = 0;
    for (int i = 0; i < n; i++)
        before += sampler_is_better(&s->candidates[i], &drawn) ? sampler_fixed(s->candidates[i].weight) : 0;
    w->draw->token = c.token;
    return before < sampler_nucleus_mass(p, least);
}

/* After the cuts. True: the token is drawn; false: there are so many candidates that a pass over all tokens is quicker. */
static bool draw_from_candidates(struct sampler *s, struct sampler_work *w) {
    const struct engine_sampling *p = w->draw->params;
    if (!sampler_has_cut(s, p)) return false;
    const struct sampler_candidate *c = s->candidates;
    int n = sampler_cut(s, w);
    assert(n > 0);
    if (n < s->vocab_size / MANY || n < 2 * ROW_BLOCK) {
        sampler_draw_from_few(&w->contest, c, n);
        w->draw->token = w->contest.token;
        return true;
    }
    w->contest.min_p = p->min_p;
    if (!sampler_has_top_k(s, p) && p->top_p >= 1) return false;
    w->contest.worst = c[0];
    for (int i = 1; i < n; i++) {
        if (sampler_is_better(&w->contest.worst, &c[i])) w->contest.worst = c[i];
    }
    return false;
}

static void draw_together(struct sampler *s, struct sampler_draw *draws, int n) {
    struct sampler_work *open[TOGETHER] = {0}, *summed[TOGETHER], *noisy[TOGETHER];
    int n_open = 0, n_summed = 0, n_noisy = 0;
    for (int i = 0; i < n; i++) {
        open[i] = &s->work[i];
        open[i]->draw = &draws[i];
        sampler_apply_changes(s, &draws[i]);
    }
    sampler_find_maxima(s, open, n);
    for (int i = 0; i < n; i++) {
        struct sampler_work *w = open[i];
        const struct engine_sampling *p = w->draw->params;
        if (!sampler_begin_draw(s, w)) continue;
        const bool is_summed = sampler_needs_total(s, p);
        if (is_summed && draw_from_bounds(s, w)) continue;
        open[n_open++] = w;
        if (is_summed) summed[n_summed++] = w;
    }
    sampler_spread(s, summed, n_summed, sampler_weights_pass);
    for (int i = 0; i < n_open; i++) {
        if (!draw_from_candidates(s, open[i])) noisy[n_noisy++] = open[i];
    }
    sampler_spread(s, noisy, n_noisy, sampler_noise_pass);
    for (int i = 0; i < n_noisy; i++) sampler_take_leader(s, noisy[i]);
}

/* A draw of its own, because the row is looked at twice: first as the model left it. */
static void draw_with_logprobs(struct sampler *s, struct sampler_draw *draw) {
    double log_sum;
    if (!sampler_note_top(s, draw, &log_sum)) return;
    draw_together(s, draw, 1);
    if (draw->status != ENGINE_OK) return;
    float logit = sampler_logit_before(s, draw->logits, draw->token);
    draw->logprobs[0] = (struct engine_logprob){draw->token, (float)((double)logit - log_sum)};
}

void sampler_draw(struct sampler *s, struct sampler_draw *draws, int n) {
    for (int first = 0; first < n;) {
        int count = 0;
        while (first + count < n && count < TOGETHER && !draws[first + count].logprobs) count++;
        if (count > 0)
            draw_together(s, draws + first, count);
        else
            draw_with_logprobs(s, draws + first);
        first += count > 0 ? count : 1;
    }
}

int sampler_sample(struct sampler *sampler, const struct engine_sampling *params, const struct sampler_history *history,
                   float *logits, int32_t *token) {
    struct sampler_draw draw = {.params = params, .history = *history, .logits = logits};
    sampler_draw(sampler, &draw, 1);
    if (draw.status == ENGINE_OK) *token = draw.token;
    return draw.status;
}
