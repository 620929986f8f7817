/* sampler.h - one token from one row of logits.
 *
 * The token is a pure function of (logits, tokens so far, parameters, seed): no generator state, no order of calls.
 *     1. penalties and bias change logits
 *     2. temperature divides them; 0 means the largest wins, ties go to the lowest id
 *     3. top-k, then top-p (of what top-k left), then min-p cut the set of candidates
 *     4. each candidate's logit / temperature gets Gumbel noise made from Philox(seed, position, token); the largest sum wins.
 * That is a draw from the softmax over the candidates, and any drafter that sees the same noise can draw the same token.
 * tests/test_sampler.c holds the plain form of this definition; here is the quick one (sampler.c says how), which gives the same
 * token. A sampler is scratch memory for one vocabulary: one thread at a time. */
#ifndef FORESAY_SAMPLER_H
#define FORESAY_SAMPLER_H

#include <stdint.h>

#include "engine/engine.h"
#include "engine/sampler_rows.h"
#include "kernels/kernels.h"

struct sampler_candidate {
    float logit, weight; /* weight = exp((logit - max) / temperature) */
    int32_t token;
};

/* What the tokens so far are: tokens[0 .. n_prompt) prompt, tokens[n_prompt .. n_tokens) answer. The token to draw has position
 * n_tokens. */
struct sampler_history {
    const int32_t *tokens;
    int n_prompt, n_tokens;
};

/* One token to draw. */
struct sampler_draw {
    const struct engine_sampling *params;
    struct sampler_history history;
    float *logits;                   /* [vocab_size], changed by penalties and bias */
    float *maxima;                   /* theirs, as matmul_job has them, kept up with changes; NULL = they are looked for */
    struct engine_logprob *logprobs; /* [1 + n_top] to fill: the token drawn, then the likeliest ones; NULL = not wanted */
    int n_top;
    int32_t token; /* result */
    int status;    /* result: ENGINE_OK, or ENGINE_ERR_NUMERIC when a logit is not finite */
};

struct sampler_work;
struct sampler_leader;
struct sampler {
    int vocab_size, n_blocks, n_parts;
    const struct backend *backend; /* passes over whole rows are spread over its threads; NULL = the caller's alone */
    const struct sampler_rows *rows;
    struct sampler_candidate *candidates; /* [vocab_size] */
    struct sampler_candidate *before;     /* [vocab_size + ENGINE_MAX_BIAS] logits as they were before they were changed */
    int n_before;
    uint32_t *uses;            /* [vocab_size], all zero between calls */
    struct sampler_work *work; /* of the draws that are made together, with their memory: */
    struct sampler_leader *leaders;
    float *row_memory;
    double noise_bound[256]; /* the noise of a token with these coarse bits is less */
};

/* Without backend. Returns 0, or -1 when memory is refused. */
int sampler_init(struct sampler *sampler, int vocab_size);
void sampler_free(struct sampler *sampler);

/* ENGINE_OK, or ENGINE_ERR_ARGUMENT with a sentence. */
int sampling_check(const struct engine_sampling *params, int vocab_size, struct engine_error *error);

/* Makes n draws; each gives what it gives alone. Log-probabilities are the model's: log softmax of the logits as they come,
 * before penalties, bias, temperature and cuts. */
void sampler_draw(struct sampler *sampler, struct sampler_draw *draws, int n);

/* What a draw is made from, in short: the tokens that steps 1 to 3 leave, their chances as their weights. */
struct sampler_softmax {
    float max, inverse_t;           /* a weight is exp((logit - max) * inverse_t) */
    struct sampler_candidate worst; /* no token is left that is worse (less likely, or as likely and of a higher id); token < 0:
                                       all are left */
    double sum;                     /* of the weights */
    int n; /* tokens that are left: sampler->candidates[0 .. n), until the next call; 0: all are, and not listed */
};
/* Instead of a draw. Returns the draw's status. This and the next two leave the logits as they are. */
int sampler_look(struct sampler *sampler, struct sampler_draw *draw, struct sampler_softmax *out);
/* The chances of n tokens, and of all, in such a draw. */
void sampler_chances(struct sampler *sampler, const struct sampler_draw *draw, const struct sampler_softmax *softmax,
                     const int32_t *tokens, int n, double *p);
void sampler_row(struct sampler *sampler, const struct sampler_draw *draw, const struct sampler_softmax *softmax, double *p);
/* Fills the log-probabilities of a draw whose token is known and whose logits are as the model left them. */
void sampler_logprobs(struct sampler *sampler, struct sampler_draw *draw);

/* One draw: returns its status; *token is not touched unless that is ENGINE_OK. */
int sampler_sample(struct sampler *sampler, const struct engine_sampling *params, const struct sampler_history *history,
                   float *logits, int32_t *token);

/* The standard Gumbel noise of a token at a position; the same as an exponential variate, exp(-noise). */
double sampler_noise(uint64_t seed, uint64_t position, int32_t token);
double sampler_arrival(uint64_t seed, uint64_t position, int32_t token);

/* The weight of a candidate in sums: a whole number, so that no order of addition matters. */
static inline uint64_t sampler_fixed(float weight) { return (uint64_t)((double)weight * 0x1p44); }

/* The logarithm of x > 0 from additions, multiplications and divisions alone, so that no C library and no processor gives other
 * bits.
 * Relative error below 1e-15. */
double sampler_log(double x);

#endif
