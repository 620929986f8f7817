/* sampler.c - see sampler.h.
 *
 * Nothing here sorts the vocabulary. Candidates are collected by a threshold below the best logit that falls until enough are in,
 * then a quickselect cuts exactly. Passes over the whole row are in sampler_rows.c. */
#include "engine/sampler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/philox.h"

enum { MANY = 16 }; /* one in so many tokens is a candidate: many */

/* Flag in uses[]: repeat_penalty applies; the other bits count the uses in the answer. */
static const uint32_t USE_IN_WINDOW = 1u << 31;

/* --- elementary functions --- */

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

/* -log(-log u) for u in (0, 1). */
static double gumbel(double u) { return -sampler_log(-sampler_log(u)); }

static double gumbel_of_bits(uint32_t coarse, uint32_t fine) {
    return gumbel(((double)((uint64_t)coarse << 32 | fine) + 0.5) * 0x1p-40);
}

double sampler_noise(uint64_t seed, uint64_t position, int32_t token) {
    return gumbel_of_bits(philox_coarse(seed, position, (uint32_t)token), philox_fine(seed, position, (uint32_t)token));
}

/* --- open, close --- */

int sampler_init(struct sampler *sampler, int vocab_size) {
    size_t n = (size_t)vocab_size;
    *sampler = (struct sampler){.vocab_size = vocab_size, .rows = sampler_rows_best()};
    /* The largest number that begins with these coarse bits, and a little for rounding. */
    for (uint32_t coarse = 0; coarse < 256; coarse++) sampler->noise_bound[coarse] = gumbel_of_bits(coarse, UINT32_MAX) + 1e-6;
    sampler->candidates = malloc(n * sizeof *sampler->candidates);
    sampler->weights = malloc(n * sizeof *sampler->weights);
    sampler->uses = calloc(n, sizeof *sampler->uses);
    sampler->coarse = malloc(n + COARSE_BLOCK);
    if (sampler->candidates && sampler->weights && sampler->uses && sampler->coarse) return 0;
    sampler_free(sampler);
    return -1;
}

void sampler_free(struct sampler *sampler) {
    free(sampler->candidates);
    free(sampler->weights);
    free(sampler->uses);
    free(sampler->coarse);
    *sampler = (struct sampler){0};
}

/* --- 1: penalties and bias --- */

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
        logits[tokens[i]] = penalized(params, *use, logits[tokens[i]]);
        *use = 0;
    }
}

static void apply_penalties(struct sampler *sampler, const struct engine_sampling *params, const struct sampler_history *history,
                            float *logits) {
    const int32_t *answer = history->tokens + history->n_prompt;
    int n_answer = 0, n_window = 0;
    if (params->frequency_penalty != 0 || params->presence_penalty != 0) n_answer = history->n_tokens - history->n_prompt;
    if (params->repeat_penalty != 1) n_window = params->penalty_last_n;
    if (n_window > history->n_tokens) n_window = history->n_tokens;
    const int32_t *window = history->tokens + history->n_tokens - n_window;
    for (int i = 0; i < n_answer; i++) sampler->uses[answer[i]]++;
    for (int i = 0; i < n_window; i++) sampler->uses[window[i]] |= USE_IN_WINDOW;
    apply_uses(sampler, params, answer, n_answer, logits);
    apply_uses(sampler, params, window, n_window, logits);
}

/* --- whole rows --- */

static int32_t first_reaching(const struct sampler *sampler, const float *x, float threshold) {
    int i = sampler->rows->next_block(x, 0, sampler->vocab_size, threshold);
    while (!(x[i] >= threshold)) i++;
    return i;
}

/* The logit at which (logit - max) / temperature is `base`, lowered by more than the rounding of this and the later sums: a
 * first sieve that loses nothing. */
static float logit_border(float max, float temperature, double base) {
    return (float)((double)max + base * (double)temperature - 0.01 - 1e-6 * fabs((double)max));
}

/* Candidates with logits from the threshold up, by id. Weights are not set. */
static int collect(struct sampler *sampler, const float *logits, float threshold) {
    int n = 0, vocab = sampler->vocab_size;
    for (int i = 0; (i = sampler->rows->next_block(logits, i, vocab, threshold)) < vocab;) {
        for (int end = i + ROW_BLOCK < vocab ? i + ROW_BLOCK : vocab; i < end; i++) {
            if (logits[i] >= threshold) sampler->candidates[n++] = (struct sampler_candidate){.logit = logits[i], .token = i};
        }
    }
    return n;
}

/* --- 3: cuts --- */

/* A strict order: no two candidates are equal. */
static bool is_better(const struct sampler_candidate *x, const struct sampler_candidate *y) {
    return x->logit != y->logit ? x->logit > y->logit : x->token < y->token;
}

static void swap(struct sampler_candidate *x, struct sampler_candidate *y) {
    struct sampler_candidate t = *x;
    *x = *y;
    *y = t;
}

/* Splits [lo, hi): better ones than some pivot, the pivot, worse ones. Returns the pivot's place. */
static int partition(struct sampler_candidate *c, int lo, int hi) {
    int mid = lo + (hi - lo) / 2, last = hi - 1;
    if (is_better(&c[mid], &c[lo])) swap(&c[mid], &c[lo]);
    if (is_better(&c[last], &c[lo])) swap(&c[last], &c[lo]);
    if (is_better(&c[mid], &c[last])) swap(&c[mid], &c[last]); /* now the median of the three stands last */
    int place = lo;
    for (int i = lo; i < last; i++) {
        if (is_better(&c[i], &c[last])) swap(&c[i], &c[place++]);
    }
    swap(&c[place], &c[last]);
    return place;
}

/* Moves the k best to the front. */
static void select_count(struct sampler_candidate *c, int n, int k) {
    int lo = 0, hi = n;
    while (lo < hi) {
        int place = partition(c, lo, hi);
        if (place == k) return;
        if (place > k)
            hi = place;
        else
            lo = place + 1;
    }
}

/* Moves the smallest set of best candidates that weighs at least `mass` to the front; returns its size. */
static int select_mass(struct sampler_candidate *c, int n, double mass) {
    int lo = 0, hi = n;
    double before = 0; /* weight of c[0 .. lo) */
    while (lo < hi) {
        int place = partition(c, lo, hi);
        double left = before;
        for (int i = lo; i < place; i++) left += (double)c[i].weight;
        if (left >= mass && place > 0) {
            hi = place;
        } else if (left + (double)c[place].weight >= mass) {
            return place + 1;
        } else {
            before = left + (double)c[place].weight;
            lo = place + 1;
        }
    }
    return lo;
}

static double candidates_mass(const struct sampler_candidate *c, int n) {
    double mass = 0;
    for (int i = 0; i < n; i++) mass += (double)c[i].weight;
    return mass;
}

/* Distance below the best logit at which to look first, then next, ...; in the end everything counts. */
static const float levels[] = {2, 4, 6, 8, 10, 12, 16, 20, INFINITY};
enum { N_LEVELS = sizeof levels / sizeof levels[0] };

static int cut_top_k(struct sampler *sampler, const float *logits, float max, int k) {
    int n = 0;
    for (int i = 0; i < N_LEVELS && n < k; i++) n = collect(sampler, logits, max - levels[i]);
    if (n <= k) return n;
    select_count(sampler->candidates, n, k);
    return k;
}

/* The nucleus of the whole vocabulary. */
static int cut_top_p(struct sampler *sampler, const float *logits, float max, double mass, float temperature) {
    int n = 0;
    for (int i = 0; i < N_LEVELS; i++) {
        n = collect(sampler, logits, max - levels[i] * temperature);
        for (int c = 0; c < n; c++) sampler->candidates[c].weight = sampler->weights[sampler->candidates[c].token];
        if (candidates_mass(sampler->candidates, n) >= mass) break;
    }
    return select_mass(sampler->candidates, n, mass);
}

static int cut_min_p(struct sampler_candidate *c, int n, float min_p) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (c[i].weight >= min_p) c[kept++] = c[i]; /* the best one's weight is 1 */
    }
    return kept;
}

/* The candidates left by top-k, top-p and min-p; at least one of them is on. */
static int cut(struct sampler *sampler, const struct engine_sampling *params, const float *logits, float max, float temperature) {
    struct sampler_candidate *c = sampler->candidates;
    float inverse_t = 1 / temperature;
    int n;
    if (params->top_k > 0 && params->top_k < sampler->vocab_size) {
        n = cut_top_k(sampler, logits, max, params->top_k);
        for (int i = 0; i < n; i++) c[i].weight = sampler_exp((c[i].logit - max) * inverse_t);
        if (params->top_p < 1) n = select_mass(c, n, (double)params->top_p * candidates_mass(c, n));
    } else if (params->top_p < 1) {
        double total = sampler->rows->weights(logits, sampler->vocab_size, max, inverse_t, sampler->weights);
        n = cut_top_p(sampler, logits, max, (double)params->top_p * total, temperature);
    } else {
        n = collect(sampler, logits, logit_border(max, temperature, sampler_log((double)params->min_p)));
        for (int i = 0; i < n; i++) c[i].weight = sampler_exp((c[i].logit - max) * inverse_t);
    }
    return params->min_p > 0 ? cut_min_p(c, n, params->min_p) : n;
}

/* --- 4: noise --- */

/* The best (logit - max) / temperature + noise so far. */
struct contest {
    const struct sampler *sampler;
    uint64_t seed, position;
    double score, inverse_t;
    int32_t token;
    float max, temperature;
    float border[256]; /* a token with these coarse bits and a lower logit cannot win: it is spared the logarithms */
};

static void contest_lead(struct contest *c, int32_t token, double score) {
    c->token = token;
    c->score = score;
    for (int i = 0; i < 256; i++) c->border[i] = logit_border(c->max, c->temperature, score - c->sampler->noise_bound[i]);
}

static void contest_enter(struct contest *c, float logit, uint32_t coarse, int32_t token) {
    if (logit < c->border[coarse]) return;
    double base = (double)(logit - c->max) * c->inverse_t;
    double score = base + gumbel_of_bits(coarse, philox_fine(c->seed, c->position, (uint32_t)token));
    if (score > c->score || (score == c->score && token < c->token)) contest_lead(c, token, score);
}

static void draw_from_many(struct contest *c, const struct sampler_candidate *candidates, int n) {
    const struct sampler *s = c->sampler;
    s->rows->coarse(c->seed, c->position, s->vocab_size, s->coarse); /* all together are cheaper than many one by one */
    for (int i = 0; i < n; i++) contest_enter(c, candidates[i].logit, s->coarse[candidates[i].token], candidates[i].token);
}

static void draw_from_few(struct contest *c, const struct sampler_candidate *candidates, int n) {
    for (int i = 0; i < n; i++) {
        if (candidates[i].logit < c->border[255]) continue;
        uint32_t coarse = philox_coarse(c->seed, c->position, (uint32_t)candidates[i].token);
        contest_enter(c, candidates[i].logit, coarse, candidates[i].token);
    }
}

/* Two sieves pass over whole blocks: no logit could win with the largest noise there is; none with the largest in this block. */
static void draw_from_all(struct contest *c, const float *logits) {
    const struct sampler *s = c->sampler;
    int vocab = s->vocab_size, first = 0;
    s->rows->coarse(c->seed, c->position, vocab, s->coarse);
    for (; (first = s->rows->next_block(logits, first, vocab, c->border[255])) < vocab; first += ROW_BLOCK) {
        int end = first + ROW_BLOCK < vocab ? first + ROW_BLOCK : vocab;
        const uint8_t *coarse = s->coarse + first;
        uint8_t largest = 0;
        for (int i = 0; i < ROW_BLOCK; i++) largest = coarse[i] > largest ? coarse[i] : largest;
        if (s->rows->next_block(logits + first, 0, end - first, c->border[largest]) != 0) continue;
        for (int t = first; t < end; t++) contest_enter(c, logits[t], coarse[t - first], t);
    }
}

/* --- public --- */

int sampler_sample(struct sampler *sampler, const struct engine_sampling *params, const struct sampler_history *history,
                   float *logits, int32_t *token) {
    apply_penalties(sampler, params, history, logits);
    for (int i = 0; i < params->n_bias; i++) logits[params->bias[i].token] += params->bias[i].bias;
    float max;
    if (!sampler->rows->max(logits, sampler->vocab_size, &max)) return ENGINE_ERR_NUMERIC;
    int32_t best = first_reaching(sampler, logits, max);
    *token = best;
    if (params->temperature <= 0) return ENGINE_OK;

    struct contest contest = {.sampler = sampler, .seed = params->seed, .position = (uint64_t)history->n_tokens, .max = max};
    contest.temperature = params->temperature > 1e-4f ? params->temperature : 1e-4f; /* its inverse stays finite */
    contest.inverse_t = 1.0 / (double)contest.temperature;
    contest_lead(&contest, best, sampler_noise(contest.seed, contest.position, best));
    bool is_cut = params->top_p < 1 || params->min_p > 0 || (params->top_k > 0 && params->top_k < sampler->vocab_size);
    if (is_cut) {
        int n = cut(sampler, params, logits, max, contest.temperature);
        assert(n > 0);
        if (n < sampler->vocab_size / MANY)
            draw_from_few(&contest, sampler->candidates, n);
        else
            draw_from_many(&contest, sampler->candidates, n);
    } else {
        draw_from_all(&contest, logits);
    }
    *token = contest.token;
    return ENGINE_OK;
}

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
