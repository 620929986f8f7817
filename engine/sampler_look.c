/* sampler_look.c - what there was to draw from: log-probabilities of the likeliest tokens, and the chances that steps 1 to 3 of
 * sampler.h leave, for verifiers that weigh them. */
#include <assert.h>

#include "engine/sampler_work.h"

static void sort_best_first(struct sampler_candidate *c, int n) {
    for (int i = 1; i < n; i++) {
        const struct sampler_candidate x = c[i];
        int j = i;
        for (; j > 0 && sampler_is_better(&x, &c[j - 1]); j--) c[j] = c[j - 1];
        c[j] = x;
    }
}

bool sampler_note_top(struct sampler *s, struct sampler_draw *draw, double *log_sum) {
    struct sampler_work *w = &s->work[0];
    struct engine_logprob *top = draw->logprobs + 1;
    w->draw = draw;
    sampler_find_maxima(s, &w, 1);
    draw->status = s->rows->max(w->maxima, s->n_blocks, &w->max) ? ENGINE_OK : ENGINE_ERR_NUMERIC;
    if (draw->status != ENGINE_OK) return false;
    w->inverse_t = 1;
    sampler_spread(s, &w, 1, sampler_weights_pass);
    *log_sum = (double)w->max + sampler_log(sampler_total_weight(w));
    int n = draw->n_top > 0 ? sampler_cut_top_k(s, w, draw->n_top) : 0;
    assert(n == draw->n_top);
    sort_best_first(s->candidates, n);
    for (int i = 0; i < n; i++) {
        const struct sampler_candidate *c = &s->candidates[i];
        top[i] = (struct engine_logprob){c->token, (float)((double)c->logit - *log_sum)};
    }
    return true;
}

void sampler_logprobs(struct sampler *s, struct sampler_draw *draw) {
    double log_sum;
    if (!sampler_note_top(s, draw, &log_sum)) return;
    draw->logprobs[0] = (struct engine_logprob){draw->token, (float)((double)draw->logits[draw->token] - log_sum)};
}

/* --- chances --- */

/* The candidates that begin_draw and the cuts left. */
static void sum_up(const struct sampler *s, const struct sampler_work *w, struct sampler_softmax *out) {
    const struct sampler_candidate *c = s->candidates;
    *out = (struct sampler_softmax){.max = w->max, .inverse_t = w->inverse_t, .n = out->n};
    out->worst.token = -1;
    if (out->n == 0) out->sum = sampler_total_weight(w);
    for (int i = 0; i < out->n; i++) {
        out->sum += (double)c[i].weight;
        if (i == 0 || sampler_is_better(&out->worst, &c[i])) out->worst = c[i];
    }
}

int sampler_look(struct sampler *s, struct sampler_draw *draw, struct sampler_softmax *out) {
    const struct engine_sampling *p = draw->params;
    struct sampler_work *w = &s->work[0];
    w->draw = draw;
    sampler_apply_changes(s, draw);
    sampler_find_maxima(s, &w, 1);
    if (sampler_begin_draw(s, w)) {
        if (!sampler_has_top_k(s, p)) sampler_spread(s, &w, 1, sampler_weights_pass);
        out->n = sampler_has_cut(s, p) ? sampler_cut(s, w) : 0;
    } else {
        w->inverse_t = 0; /* all of the weight is the best one's */
        s->candidates[0] = (struct sampler_candidate){w->max, 1, draw->token};
        out->n = 1;
    }
    if (draw->status == ENGINE_OK) sum_up(s, w, out);
    sampler_undo_changes(s, draw);
    return draw->status;
}

static double chance_of(const struct sampler_softmax *softmax, float logit, int32_t token) {
    const struct sampler_candidate x = {.logit = logit, .token = token};
    if (softmax->worst.token >= 0 && sampler_is_better(&softmax->worst, &x)) return 0;
    return (double)sampler_exp((logit - softmax->max) * softmax->inverse_t) / softmax->sum;
}

void sampler_chances(struct sampler *s, const struct sampler_draw *draw, const struct sampler_softmax *softmax,
                     const int32_t *tokens, int n, double *p) {
    sampler_apply_changes(s, draw);
    for (int i = 0; i < n; i++) p[i] = chance_of(softmax, draw->logits[tokens[i]], tokens[i]);
    sampler_undo_changes(s, draw);
}

void sampler_row(struct sampler *s, const struct sampler_draw *draw, const struct sampler_softmax *softmax, double *p) {
    sampler_apply_changes(s, draw);
    for (int i = 0; i < s->vocab_size; i++) p[i] = chance_of(softmax, draw->logits[i], i);
    sampler_undo_changes(s, draw);
}
