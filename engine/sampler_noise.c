/* sampler_noise.c - step 4 of sampler.h: Gumbel noise from Philox(seed, position, token), and the token that wins with it.
 *
 *  (1) A token can only win with noise that makes up for its distance to the leader. Its coarse noise bits bound its noise, so
 *      most tokens need none of the fine bits, and most blocks are passed over by their largest coarse bits; fine bits bound it
 *      more closely, so most of the others' logits are not even read.
 *  (2) Logarithms come from sampler_log: no C library and no processor gives other bits. */
#include <string.h>

#include "engine/philox.h"
#include "engine/sampler_work.h"

double sampler_log(double x) {
    union {
        double f;
        uint64_t u;
    } bits = {.f = x};
    int exponent = (int)(bits.u >> 52) - 1023;
    bits.u = (bits.u & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    double m = bits.f; /* [1, 2) */
    if (m > 1.4142135623730951) {
        m *= 0.5;
        exponent++;
    }
    /* log m = 2 artanh s, s = (m - 1) / (m + 1), |s| < 0.172: the first power left out is s^25 / 25 < 4e-21 */
    double s = (m - 1.0) / (m + 1.0), s2 = s * s, sum = 0.0;
    for (int n = 23; n >= 3; n -= 2) sum = (sum + 1.0 / n) * s2;
    return exponent * 0.693147180559945309417 + 2.0 * (s + s * sum);
}

/* -log u, u in (0, 1) made of these bits. */
static double arrival_of_bits(uint32_t coarse, uint32_t fine) {
    return -sampler_log(((double)((uint64_t)coarse << 32 | fine) + 0.5) * 0x1p-40);
}

static double gumbel_of_bits(uint32_t coarse, uint32_t fine) { return -sampler_log(arrival_of_bits(coarse, fine)); }

double sampler_arrival(uint64_t seed, uint64_t position, int32_t token) {
    return arrival_of_bits(philox_coarse(seed, position, (uint32_t)token), philox_fine(seed, position, (uint32_t)token));
}

double sampler_noise(uint64_t seed, uint64_t position, int32_t token) {
    return -sampler_log(sampler_arrival(seed, position, token));
}

/* The largest number that begins with these coarse bits, and a little for rounding. */
void sampler_noise_bounds(double bound[256]) {
    for (uint32_t coarse = 0; coarse < 256; coarse++) bound[coarse] = gumbel_of_bits(coarse, UINT32_MAX) + 1e-6;
}

/* --- the contest --- */

void sampler_contest_lead(struct contest *c, int32_t token, double score) {
    c->token = token;
    c->score = score;
    for (int i = 0; i < 256; i++) c->border[i] = sampler_logit_border(c->max, c->temperature, score - c->sampler->noise_bound[i]);
}

/* Of all tokens those that the cuts left. */
static bool may_win(const struct contest *c, const struct sampler_candidate *x) {
    if (c->worst.token >= 0 && sampler_is_better(&c->worst, x)) return false;
    return c->min_p == 0 || sampler_exp((x->logit - c->max) * (1 / c->temperature)) >= c->min_p;
}

/* More than the noise of these bits: -log(-log u) <= -log(1 - u), and how many zeros 1 - u begins with bounds its logarithm.
 * Twice 1 - u is odd in units of 2^-40, so it is not zero. */
static double noise_limit(uint32_t coarse, uint32_t fine) {
    uint64_t twice_left = (((uint64_t)1 << 40) - ((uint64_t)coarse << 32 | fine)) * 2 - 1;
    return 0.6931471806 * (__builtin_clzll(twice_left) - 22) + 1e-9;
}

static void contest_enter(struct contest *c, float logit, uint32_t coarse, int32_t token) {
    if (logit < c->border[coarse]) return;
    double base = (double)(logit - c->max) * c->inverse_t;
    double score = base + gumbel_of_bits(coarse, philox_fine(c->seed, c->position, (uint32_t)token));
    if (score < c->score || (score == c->score && token >= c->token)) return;
    if (may_win(c, &(struct sampler_candidate){.logit = logit, .token = token})) sampler_contest_lead(c, token, score);
}

void sampler_draw_from_few(struct contest *c, const struct sampler_candidate *candidates, int n) {
    for (int i = 0; i < n; i++) {
        if (candidates[i].logit < c->border[255]) continue;
        uint32_t coarse = philox_coarse(c->seed, c->position, (uint32_t)candidates[i].token);
        contest_enter(c, candidates[i].logit, coarse, candidates[i].token);
    }
}

/* --- all tokens --- */

/* The top bit of each byte that is at least `least`. */
static uint64_t bytes_reaching(uint64_t bytes, uint32_t least) {
    const uint64_t ones = 0x0101010101010101u, low = bytes & 0x7f * ones;
    uint64_t reach = least < 128 ? (low + (128 - least) * ones) | bytes : (low + (256 - least) * ones) & bytes;
    return reach & 0x80 * ones;
}

/* Block b of the 256 tokens from `at` on: none with fewer coarse bits than `least` could win, whatever its logit, and few with
 * their fine bits if they had the largest logit of the block. Others' logits are not read: the row may have left the caches. */
static void enter_block(struct contest *c, const struct coarse_block *coarse, const float *logits, float max, int at, int b,
                        int end) {
    const double base = (double)(max - c->max) * c->inverse_t;
    uint32_t least = coarse->largest[b];
    while (least > 0 && c->border[least - 1] <= max) least--;
    for (int i = 0; i < 8; i++) { /* words of lanes 4 b .. 4 b + 3, two at a time */
        const int lane = 4 * b + i / 4 * 2, word = i % 4;
        uint64_t bytes;
        memcpy(&bytes, &coarse->word[word][lane], sizeof bytes);
        for (uint64_t left = bytes_reaching(bytes, least); left; left &= left - 1) {
            const int byte = __builtin_ctzll(left) / 8, t = at + 16 * (lane + byte / 4) + 4 * word + byte % 4;
            const uint32_t own = bytes >> 8 * byte & 255;
            const double limit = noise_limit(own, philox_fine(c->seed, c->position, (uint32_t)t));
            if (t < end && base + limit >= c->score) contest_enter(c, logits[t], own, t);
        }
    }
}

void sampler_noise_pass(const struct sampler *s, struct sampler_work *w, int first, int end) {
    struct contest c = w->contest;
    struct coarse_block coarse;
    for (int at = first; at < end; at += COARSE_BLOCK) {
        int block = at / ROW_BLOCK, last = (end - at + ROW_BLOCK - 1) / ROW_BLOCK;
        if (last > COARSE_BLOCK / ROW_BLOCK) last = COARSE_BLOCK / ROW_BLOCK;
        bool may_matter = false;
        for (int b = 0; b < last; b++) may_matter |= w->maxima[block + b] >= c.border[255];
        if (!may_matter) continue;
        s->rows->coarse(c.seed, c.position, (uint32_t)at, &coarse);
        for (int b = 0; b < last; b++) {
            float max = w->maxima[block + b];
            if (max < c.border[coarse.largest[b]]) continue;
            enter_block(&c, &coarse, w->draw->logits, max, at, b, end);
        }
    }
    w->leaders[first / PART] = (struct sampler_leader){c.score, c.token};
}

void sampler_take_leader(const struct sampler *s, struct sampler_work *w) {
    struct sampler_leader best = w->leaders[0];
    for (int i = 1; i < s->n_parts; i++) {
        const struct sampler_leader *x = &w->leaders[i];
        if (x->score > best.score || (x->score == best.score && x->token < best.token)) best = *x;
    }
    w->draw->token = best.token;
}
