/* sampler_work.h - what the files of the sampler share: the memory of a draw, and the steps of sampler.h by file.
 *
 *     sampler_changes.c   step 1: penalties and bias; and back
 *     sampler_pass.c      passes over whole rows, spread over the compute threads; largest logits of blocks of 64 tokens
 *     sampler_cut.c       step 3: top-k, top-p, min-p
 *     sampler_noise.c     step 4: the noise, and who wins with it
 *     sampler_look.c      what there was to draw from, for verification and log-probabilities
 *     sampler.c           a draw from beginning to end
 *
 * A `work` is a draw in progress. One thread at a time; within a pass each part is one thread's. */
#ifndef FORESAY_SAMPLER_WORK_H
#define FORESAY_SAMPLER_WORK_H

#include "engine/sampler.h"

enum {
    TOGETHER = 16,             /* most draws of one pass */
    PART = 16 * WEIGHTS_CHUNK, /* tokens that one thread looks at in one go */
    PART_SUMS = PART / WEIGHTS_CHUNK * WEIGHTS_LANES,
    MANY = 16, /* one in so many tokens is a candidate: many */
};

/* The best (logit - max) / temperature + noise so far. */
struct contest {
    const struct sampler *sampler;
    uint64_t seed, position;
    double score, inverse_t;
    int32_t token;
    float max, temperature;
    float min_p;
    struct sampler_candidate worst; /* of those that may win; token < 0 = all may */
    float border[256];              /* a token with these coarse bits and a lower logit cannot win: it is spared the logarithms */
};

struct sampler_leader {
    double score;
    int32_t token;
};

struct sampler_work {
    struct sampler_draw *draw;
    float *maxima; /* [n_blocks]: the draw's, or own_maxima */
    float *own_maxima;
    float *sums; /* [sampler_weights_room] */
    int n_sums;
    float max, temperature, inverse_t;
    struct contest contest;
    struct sampler_leader *leaders; /* [n_parts] */
};

/* --- changes --- */

/* Penalties and bias of a draw; what they change is remembered until the next call. */
void sampler_apply_changes(struct sampler *s, const struct sampler_draw *draw);
void sampler_undo_changes(struct sampler *s, const struct sampler_draw *draw);
/* The model's logit of a token, whether changed or not. */
float sampler_logit_before(const struct sampler *s, const float *logits, int32_t token);

/* --- passes --- */

typedef void sampler_pass(const struct sampler *s, struct sampler_work *work, int first, int end);
/* The pass over all parts of n works. */
void sampler_spread(const struct sampler *s, struct sampler_work *const *works, int n, sampler_pass *pass);
/* Largest logits of blocks, of draws that come without. */
void sampler_find_maxima(const struct sampler *s, struct sampler_work *const *works, int n);
sampler_pass sampler_weights_pass; /* fills sums */
double sampler_total_weight(const struct sampler_work *w);
/* The first block from `block` on whose largest logit is at least threshold; n_blocks when there is none. */
int sampler_find_block(const struct sampler *s, const struct sampler_work *w, int block, float threshold);
int32_t sampler_first_reaching(const struct sampler *s, const struct sampler_work *w, float threshold);

static inline int sampler_block_end(const struct sampler *s, int block) {
    int end = (block + 1) * ROW_BLOCK;
    return end < s->vocab_size ? end : s->vocab_size;
}

/* --- cuts: candidates go to s->candidates[0 .. n); each returns n --- */

static inline bool sampler_has_top_k(const struct sampler *s, const struct engine_sampling *p) {
    return p->top_k > 0 && p->top_k < s->vocab_size;
}
static inline bool sampler_has_cut(const struct sampler *s, const struct engine_sampling *p) {
    return p->top_p < 1 || p->min_p > 0 || sampler_has_top_k(s, p);
}
/* Top-p alone: of the whole vocabulary, whose total weight it is a share of. */
static inline bool sampler_needs_total(const struct sampler *s, const struct engine_sampling *p) {
    return !sampler_has_top_k(s, p) && p->top_p < 1;
}
/* A strict order: no two candidates are equal. */
static inline bool sampler_is_better(const struct sampler_candidate *x, const struct sampler_candidate *y) {
    return x->logit != y->logit ? x->logit > y->logit : x->token < y->token;
}
/* The logit at which (logit - max) / temperature is `base`, lowered by more than the rounding of this and the later sums: a
 * first sieve that loses nothing. */
float sampler_logit_border(float max, float temperature, double base);
/* The candidates left by top-k, top-p and min-p; at least one of them is on. Where the total is needed, it is there. */
int sampler_cut(struct sampler *s, const struct sampler_work *w);
int sampler_cut_top_k(struct sampler *s, const struct sampler_work *w, int k);
/* The nucleus of the whole vocabulary. */
int sampler_cut_top_p(struct sampler *s, const struct sampler_work *w, uint64_t mass);
uint64_t sampler_nucleus_mass(const struct engine_sampling *p, double total);
/* Bounds of the total weight, without a pass over the row. False when the row is too flat for that. */
bool sampler_bound_weight(const struct sampler *s, const struct sampler_work *w, double *least, double *most);

/* --- noise --- */

/* bound[coarse]: more than the noise of any token with these coarse bits. */
void sampler_noise_bounds(double bound[256]);
/* The token leads from now on. */
void sampler_contest_lead(struct contest *c, int32_t token, double score);
void sampler_draw_from_few(struct contest *c, const struct sampler_candidate *candidates, int n);
sampler_pass sampler_noise_pass; /* all tokens that may win; fills leaders */
void sampler_take_leader(const struct sampler *s, struct sampler_work *w);

/* --- looks --- */

/* Fills draw->logprobs[1 .. n_top] from a row as the model left it. False when it is not finite. */
bool sampler_note_top(struct sampler *s, struct sampler_draw *draw, double *log_sum);

/* --- draws --- */

/* The best token, which is the result when there is no temperature. False: nothing is left to do. */
bool sampler_begin_draw(const struct sampler *s, struct sampler_work *w);

#endif
