/* sampler.h - one token from one row of logits.
 *
 * The token is a pure function of (logits, tokens so far, parameters, seed): no generator state, no order of calls.
 *     1. penalties and bias change logits
 *     2. temperature divides them; 0 means the largest wins, ties go to the lowest id
 *     3. top-k, then top-p (of what top-k left), then min-p cut the set of candidates
 *     4. each candidate's logit / temperature gets Gumbel noise made from Philox(seed, position, token); the largest sum wins.
 * That is a draw from the softmax over the candidates, and any drafter that sees the same noise can draw the same token. A
 * sampler is scratch memory for one vocabulary: one thread at a time. */
#ifndef FORESAY_SAMPLER_H
#define FORESAY_SAMPLER_H

#include <stdint.h>

#include "engine/engine.h"
#include "engine/sampler_rows.h"

struct sampler_candidate {
    float logit, weight; /* weight = exp((logit - max) / temperature) */
    int32_t token;
};

struct sampler {
    int vocab_size;
    struct sampler_candidate *candidates; /* [vocab_size] */
    float *weights;                       /* [vocab_size] */
    uint32_t *uses;                       /* [vocab_size], all zero between calls */
    uint8_t *coarse;                      /* [vocab_size, rounded up to blocks] */
    const struct sampler_rows *rows;
    double noise_bound[256]; /* the noise of a token with these coarse bits is less */
};

/* What the tokens so far are: tokens[0 .. n_prompt) prompt, tokens[n_prompt .. n_tokens) answer. The token to draw has position
 * n_tokens. */
struct sampler_history {
    const int32_t *tokens;
    int n_prompt, n_tokens;
};

/* Returns 0, or -1 when memory is refused. */
int sampler_init(struct sampler *sampler, int vocab_size);
void sampler_free(struct sampler *sampler);

/* ENGINE_OK, or ENGINE_ERR_ARGUMENT with a sentence. */
int sampling_check(const struct engine_sampling *params, int vocab_size, struct engine_error *error);

/* logits: [vocab_size], changed by penalties and bias. ENGINE_OK and *token, or ENGINE_ERR_NUMERIC when a logit is not finite. */
int sampler_sample(struct sampler *sampler, const struct engine_sampling *params, const struct sampler_history *history,
                   float *logits, int32_t *token);

/* The standard Gumbel noise of a token at a position. */
double sampler_noise(uint64_t seed, uint64_t position, int32_t token);

/* The logarithm of x > 0 from additions, multiplications and divisions alone, so that no C library and no processor gives other
 * bits.
 * Relative error below 1e-15. */
double sampler_log(double x);

#endif
