/* sampling.c - the parameters of a draw: what they are when nobody says, and what is refused. */
#include "engine/sampler.h"

static int refuse(struct engine_error *error, const char *name, double value, const char *range) {
    snprintf(error->text, sizeof error->text, "%s is %g; it must be %s", name, value, range);
    return ENGINE_ERR_ARGUMENT;
}

int sampling_check(const struct engine_sampling *p, int vocab_size, struct engine_error *error) {
    /* Written so that a NaN fails. */
    if (!(p->temperature >= 0 && p->temperature <= 5)) return refuse(error, "temperature", (double)p->temperature, "0 .. 5");
    if (!(p->top_p > 0 && p->top_p <= 1)) return refuse(error, "top_p", (double)p->top_p, "above 0 and at most 1");
    if (!(p->min_p >= 0 && p->min_p < 1)) return refuse(error, "min_p", (double)p->min_p, "at least 0 and below 1");
    if (p->top_k < 0) return refuse(error, "top_k", p->top_k, "0 (off) or more");
    if (!(p->repeat_penalty >= 0.01f && p->repeat_penalty <= 100))
        return refuse(error, "repeat_penalty", (double)p->repeat_penalty, "0.01 .. 100");
    if (!(p->frequency_penalty >= -2 && p->frequency_penalty <= 2))
        return refuse(error, "frequency_penalty", (double)p->frequency_penalty, "-2 .. 2");
    if (!(p->presence_penalty >= -2 && p->presence_penalty <= 2))
        return refuse(error, "presence_penalty", (double)p->presence_penalty, "-2 .. 2");
    if (p->penalty_last_n < 0) return refuse(error, "penalty_last_n", p->penalty_last_n, "0 (off) or more");
    if (p->n_bias < 0 || p->n_bias > ENGINE_MAX_BIAS || (p->n_bias > 0 && !p->bias))
        return refuse(error, "the number of logit biases", p->n_bias, "at most 300");
    for (int i = 0; i < p->n_bias; i++) {
        if (p->bias[i].token < 0 || p->bias[i].token >= vocab_size)
            return refuse(error, "a logit bias's token", p->bias[i].token, "a token of the vocabulary");
        if (!(p->bias[i].bias >= -100 && p->bias[i].bias <= 100))
            return refuse(error, "a logit bias", (double)p->bias[i].bias, "-100 .. 100");
    }
    return ENGINE_OK;
}

struct engine_sampling engine_sampling_default(void) {
    return (struct engine_sampling){.temperature = 0.7f, .top_p = 0.95f, .repeat_penalty = 1, .penalty_last_n = 64};
}
