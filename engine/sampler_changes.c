/* sampler_changes.c - step 1 of sampler.h: penalties and bias change logits. The first change of a logit is remembered, because
 * log-probabilities are those of the model, and because whoever only looks leaves the row as it was. */
#include "engine/sampler_work.h"

/* Flag in uses[]: repeat_penalty applies; the other bits count the uses in the answer. */
static const uint32_t USE_IN_WINDOW = 1u << 31;

static void change(struct sampler *sampler, float *logits, int32_t token, float logit) {
    sampler->before[sampler->n_before++] = (struct sampler_candidate){.logit = logits[token], .token = token};
    logits[token] = logit;
}

float sampler_logit_before(const struct sampler *sampler, const float *logits, int32_t token) {
    for (int i = 0; i < sampler->n_before; i++) {
        if (sampler->before[i].token == token) return sampler->before[i].logit;
    }
    return logits[token];
}

/* Of the blocks that have changed. */
static void update_maxima(const struct sampler *s, const struct sampler_draw *draw) {
    for (int i = 0; draw->maxima && i < s->n_before; i++) {
        int block = s->before[i].token / ROW_BLOCK, first = block * ROW_BLOCK;
        s->rows->maxima(draw->logits + first, sampler_block_end(s, block) - first, draw->maxima + block);
    }
}

static float penalized(const struct engine_sampling *params, uint32_t use, float logit) {
    if (use & USE_IN_WINDOW) logit = logit > 0 ? logit / params->repeat_penalty : logit * params->repeat_penalty;
    uint32_t n_uses = use & ~USE_IN_WINDOW;
    if (n_uses > 0) logit = logit - (float)n_uses * params->frequency_penalty - params->presence_penalty;
    return logit;
}

static void apply_uses(struct sampler *sampler, const struct engine_sampling *params, const int32_t *tokens, int n,
                       float *logits) {
    for (int i = 0; i < n; i++) {
        uint32_t *use = &sampler->uses[tokens[i]];
        if (*use == 0) continue; /* done at an earlier occurrence */
        change(sampler, logits, tokens[i], penalized(params, *use, logits[tokens[i]]));
        *use = 0;
    }
}

void sampler_apply_changes(struct sampler *sampler, const struct sampler_draw *draw) {
    const struct engine_sampling *params = draw->params;
    const struct sampler_history *history = &draw->history;
    const int32_t *answer = history->tokens + history->n_prompt;
    int n_answer = 0, n_window = 0;
    if (params->frequency_penalty != 0 || params->presence_penalty != 0) n_answer = history->n_tokens - history->n_prompt;
    if (params->repeat_penalty != 1) n_window = params->penalty_last_n;
    if (n_window > history->n_tokens) n_window = history->n_tokens;
    const int32_t *window = history->tokens + history->n_tokens - n_window;
    sampler->n_before = 0;
    for (int i = 0; i < n_answer; i++) sampler->uses[answer[i]]++;
    for (int i = 0; i < n_window; i++) sampler->uses[window[i]] |= USE_IN_WINDOW;
    apply_uses(sampler, params, answer, n_answer, draw->logits);
    apply_uses(sampler, params, window, n_window, draw->logits);
    for (int i = 0; i < params->n_bias; i++) {
        const struct engine_bias *bias = &params->bias[i];
        change(sampler, draw->logits, bias->token, draw->logits[bias->token] + bias->bias);
    }
    update_maxima(sampler, draw);
}

/* A token may have been changed twice: the first change was the model's logit. */
void sampler_undo_changes(struct sampler *s, const struct sampler_draw *draw) {
    for (int i = s->n_before - 1; i >= 0; i--) draw->logits[s->before[i].token] = s->before[i].logit;
    update_maxima(s, draw);
}
