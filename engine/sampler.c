/* sampler.c - see sampler.h.
 *
 * Nothing here sorts the vocabulary. Candidates are collected by a threshold below the best logit that falls until enough are in,
 * then a quickselect cuts exactly. Loops over the whole row use the compiler's portable vectors: one order of operations,
 * whatever the processor. */
#include "engine/sampler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/philox.h"

enum { LANES = 16 };
static const uint32_t USE_IN_WINDOW =
    1u << 31; /* flag in uses[]: repeat_penalty applies; the other bits count the answer's uses */

int sampler_init(struct sampler *sampler, int vocab_size) {
    size_t n = (size_t)vocab_size;
    *sampler = (struct sampler){.vocab_size = vocab_size};
    sampler->candidates = malloc(n * sizeof *sampler->candidates);
    sampler->weights = malloc(n * sizeof *sampler->weights);
    sampler->uses = calloc(n, sizeof *sampler->uses);
    if (sampler->candidates && sampler->weights && sampler->uses) return 0;
    sampler_free(sampler);
    return -1;
}

void sampler_free(struct sampler *sampler) {
    free(sampler->candidates);
    free(sampler->weights);
    free(sampler->uses);
    *sampler = (struct sampler){0};
}

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

/* Four lanes; the compiler has such vectors on every processor, so this stays plain C with one order of operations. */
typedef float float4 __attribute__((vector_size(16)));
typedef int32_t int4 __attribute__((vector_size(16)));
typedef int64_t long2 __attribute__((vector_size(16)));

static inline float4 load4(const float *x) {
    float4 v;
    memcpy(&v, x, sizeof v);
    return v;
}

static inline float4 splat4(float x) { return (float4){x, x, x, x}; }
static inline float4 select4(int4 mask, float4 yes, float4 no) { return (float4)((mask & (int4)yes) | (~mask & (int4)no)); }

static inline float4 exp4(float4 x) {
    x = select4(x > -87.0f, x, splat4(-87.0f));             /* 1e-38 stands for zero: no denormals */
    float4 n = x * 1.44269504f + 12582912.0f - 12582912.0f; /* 1.5 * 2^23: the sum has no room for a fraction, so it rounds */
    float4 r = x - n * 0.693359375f;                        /* exact: the constant has 9 bits */
    r = r - n * -2.12194440e-4f;
    float4 p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * (float4)((__builtin_convertvector(n, int4) + 127) << 23);
}

float sampler_exp(float x) { return exp4(splat4(x))[0]; }

/* u in (0, 1), then -log(-log u). */
static double gumbel(uint32_t word) {
    double u = ((double)word + 0.5) * 0x1p-32;
    return -sampler_log(-sampler_log(u));
}

double sampler_noise(uint64_t seed, uint64_t position, int32_t token) {
    struct philox_block block = philox_tokens(seed, position, (uint32_t)token >> 2);
    return gumbel(block.word[token & 3]);
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

/* False when a logit is not finite. x - x is 0 for finite x and NaN otherwise. */
static bool row_max(const float *x, int n, float *max) {
    float4 best = splat4(-INFINITY), trouble = splat4(0);
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        float4 v = load4(x + i);
        best = select4(v > best, v, best);
        trouble += v - v;
    }
    for (; i < n; i++) {
        if (x[i] > best[0]) best[0] = x[i];
        trouble[0] += x[i] - x[i];
    }
    bool finite = true;
    for (int j = 0; j < 4; j++) {
        if (best[j] > best[0]) best[0] = best[j];
        finite &= trouble[j] == 0;
    }
    *max = best[0];
    return finite;
}

/* True when one of the 16 reaches the threshold. */
static inline bool any_reaches(const float *x, float threshold) {
    int4 hits = load4(x) >= threshold;
    for (int j = 4; j < LANES; j += 4) hits |= load4(x + j) >= threshold;
    long2 halves = (long2)hits;
    return (halves[0] | halves[1]) != 0;
}

static int32_t first_reaching(const float *x, int n, float threshold) {
    int i = 0;
    while (i + LANES <= n && !any_reaches(x + i, threshold)) i += LANES;
    while (i < n && !(x[i] >= threshold)) i++;
    return i;
}

/* The logit at which (logit - max) / temperature is `base`, lowered by more than the rounding of this and the later sums: a first
 * sieve that loses nothing. */
static float logit_border(float max, float temperature, double base) {
    return (float)((double)max + base * (double)temperature - 0.01 - 1e-6 * fabs((double)max));
}

/* Candidates with logits from the threshold up, by id. Weights are not set. */
static int collect(struct sampler *sampler, const float *logits, float threshold) {
    int n = 0, vocab = sampler->vocab_size;
    for (int i = 0; i < vocab; i += LANES) {
        int end = i + LANES <= vocab ? i + LANES : vocab;
        if (end - i == LANES && !any_reaches(logits + i, threshold)) continue;
        for (int t = i; t < end; t++) {
            if (logits[t] >= threshold) sampler->candidates[n++] = (struct sampler_candidate){.logit = logits[t], .token = t};
        }
    }
    return n;
}

/* weights[i] = exp((x[i] - max) * inverse_t); returns their sum. Lane sums are short enough for floats, then doubles. */
static double row_weights(const float *x, int n, float max, float inverse_t, float *weights) {
    enum { CHUNK = 256 };
    double total = 0;
    for (int first = 0; first < n; first += CHUNK) {
        int end = first + CHUNK <= n ? first + CHUNK : n, i = first;
        float4 sum = splat4(0);
        for (; i + 4 <= end; i += 4) {
            float4 w = exp4((load4(x + i) - max) * inverse_t);
            memcpy(weights + i, &w, sizeof w);
            sum += w;
        }
        for (; i < end; i++) sum[0] += weights[i] = sampler_exp((x[i] - max) * inverse_t);
        total += ((double)sum[0] + (double)sum[1]) + ((double)sum[2] + (double)sum[3]);
    }
    return total;
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
        double total = row_weights(logits, sampler->vocab_size, max, inverse_t, sampler->weights);
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
    double score;
    int32_t token;
    float max;
    double inverse_t;
};

/* No noise is larger: -log(-log u) for the largest u = 1 - 2^-33. */
static const double NOISE_MAX = 22.874;
static const double LN2_UP = 0.693148; /* ln 2, rounded up */

/* Most tokens cannot win and are spared the logarithms: -log u >= 1 - u, so the noise is at most -log(1 - u), and 1 - u is at
 * least 2^-(z + 1) when the complement of the word has z leading zeros. */
static inline double noise_bound(uint32_t word) {
    int zeros = ~word == 0 ? 32 : __builtin_clz(~word);
    return (zeros + 1) * LN2_UP;
}

static inline void contest_enter(struct contest *contest, float logit, uint32_t word, int32_t token) {
    double base = (double)(logit - contest->max) * contest->inverse_t;
    if (base + noise_bound(word) < contest->score) return;
    double score = base + gumbel(word);
    if (score < contest->score || (score == contest->score && token > contest->token)) return;
    contest->score = score;
    contest->token = token;
}

static void draw_from_candidates(struct contest *contest, const struct sampler_candidate *c, int n, uint64_t seed,
                                 uint64_t position) {
    for (int i = 0; i < n; i++) {
        if ((double)(c[i].logit - contest->max) * contest->inverse_t + NOISE_MAX < contest->score) continue;
        struct philox_block noise = philox_tokens(seed, position, (uint32_t)c[i].token >> 2);
        contest_enter(contest, c[i].logit, noise.word[c[i].token & 3], c[i].token);
    }
}

static void draw_from_all(struct contest *contest, const float *logits, int n, float temperature, uint64_t seed,
                          uint64_t position) {
    for (int first = 0; first < n; first += LANES) {
        int end = first + LANES <= n ? first + LANES : n;
        bool whole = end - first == LANES;
        float threshold = logit_border(contest->max, temperature, contest->score - NOISE_MAX);
        if (whole && !any_reaches(logits + first, threshold)) continue;
        uint32_t words[LANES], largest = 0;
        philox_tokens16(seed, position, (uint32_t)first, words);
        for (int j = 0; j < LANES; j++) largest = words[j] > largest ? words[j] : largest;
        threshold = logit_border(contest->max, temperature, contest->score - noise_bound(largest));
        if (whole && !any_reaches(logits + first, threshold)) continue;
        for (int t = first; t < end; t++) contest_enter(contest, logits[t], words[t - first], t);
    }
}

/* --- public --- */

int sampler_sample(struct sampler *sampler, const struct engine_sampling *params, const struct sampler_history *history,
                   float *logits, int32_t *token) {
    apply_penalties(sampler, params, history, logits);
    for (int i = 0; i < params->n_bias; i++) logits[params->bias[i].token] += params->bias[i].bias;
    float max;
    if (!row_max(logits, sampler->vocab_size, &max)) return ENGINE_ERR_NUMERIC;
    int32_t best = first_reaching(logits, sampler->vocab_size, max);
    *token = best;
    if (params->temperature <= 0) return ENGINE_OK;

    float temperature = params->temperature > 1e-4f ? params->temperature : 1e-4f; /* its inverse stays finite */
    uint64_t position = (uint64_t)history->n_tokens;
    struct contest contest = {.token = best, .max = max, .inverse_t = 1.0 / (double)temperature};
    contest.score = sampler_noise(params->seed, position, best);
    bool is_cut = params->top_p < 1 || params->min_p > 0 || (params->top_k > 0 && params->top_k < sampler->vocab_size);
    if (is_cut) {
        int n = cut(sampler, params, logits, max, temperature);
        assert(n > 0);
        draw_from_candidates(&contest, sampler->candidates, n, params->seed, position);
    } else {
        draw_from_all(&contest, logits, sampler->vocab_size, temperature, params->seed, position);
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
