/* sampler.c - see sampler.h. How the token is found without looking at every token closely:
 *
 *  (1) The largest logit of each block of 64 tokens comes with the row, or from one pass over it. Greedy needs no more; the
 *      others look into those blocks only whose largest logit can matter. Nothing sorts the vocabulary: a quickselect cuts the
 *      few candidates exactly.
 *  (2) The k-th largest block maximum is reached by k logits at least, so the k best are among those that reach it.
 *  (3) Sums of candidates' weights are whole numbers, so no result depends on the order in which candidates are found.
 *  (4) A token can only win with noise that makes up for its distance to the leader. Its coarse noise bits bound its noise, so
 *      most tokens need none of the fine bits, and most blocks are passed over by their largest coarse bits; fine bits bound it
 *      more closely, so most of the others' logits are not even read.
 *  (5) Top-p alone needs the weight of the whole row. Block maxima bound it so closely that the token drawn is almost always the
 *      same at both bounds; only if it is not, the row is weighed.
 *  (6) Passes over whole rows (maxima, weights, noise) are cut into parts and spread over the compute threads, several draws
 *      together; a part's result does not depend on who computes it. All else is microseconds on the caller's thread. */
#include "engine/sampler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/philox.h"

enum {
    TOGETHER = 16,             /* most draws of one pass */
    PART = 16 * WEIGHTS_CHUNK, /* tokens that one thread looks at in one go */
    PART_BLOCKS = PART / ROW_BLOCK,
    PART_SUMS = PART / WEIGHTS_CHUNK * WEIGHTS_LANES,
    MANY = 16, /* one in so many tokens is a candidate: many */
};

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

/* --- the passes' own memory --- */

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

/* --- open, close --- */

int sampler_init(struct sampler *sampler, int vocab_size) {
    size_t n = (size_t)vocab_size, n_blocks = (size_t)row_blocks(vocab_size), n_parts = (n + PART - 1) / PART;
    size_t row = n_blocks + (size_t)sampler_weights_room(vocab_size);
    *sampler = (struct sampler){
        .vocab_size = vocab_size, .n_blocks = (int)n_blocks, .n_parts = (int)n_parts, .rows = sampler_rows_best()};
    /* The largest number that begins with these coarse bits, and a little for rounding. */
    for (uint32_t coarse = 0; coarse < 256; coarse++) sampler->noise_bound[coarse] = gumbel_of_bits(coarse, UINT32_MAX) + 1e-6;
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

/* --- 1: penalties and bias --- */

/* The first change of a logit is remembered: log-probabilities are those of the model. */
static void change(struct sampler *sampler, float *logits, int32_t token, float logit) {
    sampler->before[sampler->n_before++] = (struct sampler_candidate){.logit = logits[token], .token = token};
    logits[token] = logit;
}

static float logit_before(const struct sampler *sampler, const float *logits, int32_t token) {
    for (int i = 0; i < sampler->n_before; i++) {
        if (sampler->before[i].token == token) return sampler->before[i].logit;
    }
    return logits[token];
}

static int block_end(const struct sampler *s, int block) {
    int end = (block + 1) * ROW_BLOCK;
    return end < s->vocab_size ? end : s->vocab_size;
}

/* Of the blocks that have changed. */
static void update_maxima(const struct sampler *s, const struct sampler_draw *draw) {
    for (int i = 0; draw->maxima && i < s->n_before; i++) {
        int block = s->before[i].token / ROW_BLOCK, first = block * ROW_BLOCK;
        s->rows->maxima(draw->logits + first, block_end(s, block) - first, draw->maxima + block);
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

static void apply_changes(struct sampler *sampler, const struct sampler_draw *draw) {
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

/* --- passes over whole rows --- */

struct spread {
    const struct sampler *sampler;
    struct sampler_work *const *works;
    void (*pass)(const struct sampler *sampler, struct sampler_work *work, int first, int end);
};

static void run_part(const void *arg, int i) {
    const struct spread *spread = arg;
    const struct sampler *s = spread->sampler;
    int first = i % s->n_parts * PART, end = first + PART < s->vocab_size ? first + PART : s->vocab_size;
    spread->pass(s, spread->works[i / s->n_parts], first, end);
}

/* The pass over all parts of all works. */
static void spread_pass(const struct sampler *s, struct sampler_work *const *works, int n,
                        void (*pass)(const struct sampler *sampler, struct sampler_work *work, int first, int end)) {
    const struct spread spread = {s, works, pass};
    if (s->backend)
        s->backend->ops->parallel(s->backend->self, n * s->n_parts, run_part, &spread);
    else
        for (int i = 0; i < n * s->n_parts; i++) run_part(&spread, i);
}

static void maxima_pass(const struct sampler *s, struct sampler_work *w, int first, int end) {
    s->rows->maxima(w->draw->logits + first, end - first, w->maxima + first / ROW_BLOCK);
}

/* Of draws that come without. */
static void find_maxima(const struct sampler *s, struct sampler_work *const *works, int n) {
    struct sampler_work *missing[TOGETHER] = {0};
    int n_missing = 0;
    for (int i = 0; i < n; i++) {
        struct sampler_work *w = works[i];
        w->maxima = w->draw->maxima ? w->draw->maxima : w->own_maxima;
        if (!w->draw->maxima) missing[n_missing++] = w;
    }
    spread_pass(s, missing, n_missing, maxima_pass);
}

static void weights_pass(const struct sampler *s, struct sampler_work *w, int first, int end) {
    int at = first / PART * PART_SUMS;
    int n = s->rows->weights(w->draw->logits + first, end - first, w->max, w->inverse_t, w->sums + at);
    if (end == s->vocab_size) w->n_sums = at + n;
}

static double total_weight(const struct sampler_work *w) {
    double total = 0;
    for (int i = 0; i < w->n_sums; i++) total += (double)w->sums[i];
    return total;
}

/* The first block from `block` on whose largest logit is at least threshold; n_blocks when there is none. */
static int find_block(const struct sampler *s, const struct sampler_work *w, int block, float threshold) {
    while (block < s->n_blocks && !(w->maxima[block] >= threshold)) {
        block++;
        if (block % ROW_BLOCK == 0) block = s->rows->next_block(w->maxima, block, s->n_blocks, threshold);
    }
    return block;
}

static int32_t first_reaching(const struct sampler *s, const struct sampler_work *w, float threshold) {
    int i = find_block(s, w, 0, threshold) * ROW_BLOCK;
    while (!(w->draw->logits[i] >= threshold)) i++;
    return i;
}

/* The logit at which (logit - max) / temperature is `base`, lowered by more than the rounding of this and the later sums: a
 * first sieve that loses nothing. */
static float logit_border(float max, float temperature, double base) {
    return (float)((double)max + base * (double)temperature - 0.01 - 1e-6 * fabs((double)max));
}

/* Adds the candidates with low <= logit < high to the n that are there. */
static int collect(struct sampler *s, const struct sampler_work *w, int n, float low, float high) {
    const float *logits = w->draw->logits;
    for (int b = 0; (b = find_block(s, w, b, low)) < s->n_blocks; b++) {
        for (int i = b * ROW_BLOCK, end = block_end(s, b); i < end; i++) {
            if (logits[i] >= low && logits[i] < high)
                s->candidates[n++] = (struct sampler_candidate){logits[i], sampler_exp((logits[i] - w->max) * w->inverse_t), i};
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

static uint64_t candidates_mass(const struct sampler_candidate *c, int n) {
    uint64_t mass = 0;
    for (int i = 0; i < n; i++) mass += sampler_fixed(c[i].weight);
    return mass;
}

/* Moves the smallest set of best candidates that weighs at least `mass` to the front; returns its size, or n. */
static int select_mass(struct sampler_candidate *c, int n, uint64_t mass) {
    int lo = 0, hi = n;
    uint64_t before = 0; /* weight of c[0 .. lo) */
    while (lo < hi) {
        int place = partition(c, lo, hi);
        uint64_t left = before + candidates_mass(c + lo, place - lo);
        if (left >= mass && place > 0) {
            hi = place;
        } else if (left + sampler_fixed(c[place].weight) >= mass) {
            return place + 1;
        } else {
            before = left + sampler_fixed(c[place].weight);
            lo = place + 1;
        }
    }
    return lo;
}

/* Distance below the best logit at which to look first, then next, ...; in the end everything counts. */
static const float levels[] = {2, 4, 6, 8, 10, 12, 16, 20, INFINITY};
enum { N_LEVELS = sizeof levels / sizeof levels[0] };

/* A logit that at least k tokens reach. */
static float kth_maximum(struct sampler *s, const struct sampler_work *w, int k) {
    struct sampler_candidate *c = s->candidates;
    int n = 0;
    for (int i = 0; i < N_LEVELS && n < k; i++) {
        n = 0;
        for (int b = 0; (b = find_block(s, w, b, w->max - levels[i])) < s->n_blocks; b++)
            c[n++] = (struct sampler_candidate){.logit = w->maxima[b], .token = b};
    }
    if (n < k) return -INFINITY;
    select_count(c, n, k);
    float least = w->max;
    for (int i = 0; i < k; i++) least = c[i].logit < least ? c[i].logit : least;
    return least;
}

static int cut_top_k(struct sampler *s, const struct sampler_work *w, int k) {
    float high = kth_maximum(s, w, k);
    int n = 0;
    if (high == -INFINITY) { /* more than there are blocks: by levels */
        high = INFINITY;
        for (int i = 0; i < N_LEVELS && n < k; i++) {
            n = collect(s, w, n, w->max - levels[i], high);
            high = w->max - levels[i];
        }
    } else {
        n = collect(s, w, 0, high, INFINITY);
    }
    if (n <= k) return n;
    select_count(s->candidates, n, k);
    return k;
}

static uint64_t nucleus_mass(const struct engine_sampling *p, double total) {
    return (uint64_t)((double)p->top_p * total * 0x1p44);
}

/* The nucleus of the whole vocabulary. */
static int cut_top_p(struct sampler *s, const struct sampler_work *w, uint64_t mass) {
    uint64_t sum = 0;
    float high = INFINITY;
    int n = 0, from = 0;
    for (int i = 0; i < N_LEVELS && (n == 0 || sum < mass); i++, from = n) {
        float low = w->max - levels[i] * w->temperature;
        n = collect(s, w, n, low, high);
        sum += candidates_mass(s->candidates + from, n - from);
        high = low;
    }
    return select_mass(s->candidates, n, mass);
}

static int cut_min_p(struct sampler_candidate *c, int n, float min_p) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (c[i].weight >= min_p) c[kept++] = c[i]; /* the best one's weight is 1 */
    }
    return kept;
}

static bool has_top_k(const struct sampler *s, const struct engine_sampling *p) {
    return p->top_k > 0 && p->top_k < s->vocab_size;
}

static bool has_cut(const struct sampler *s, const struct engine_sampling *p) {
    return p->top_p < 1 || p->min_p > 0 || has_top_k(s, p);
}

/* The candidates left by top-k, top-p and min-p; at least one of them is on. */
static int cut(struct sampler *s, const struct sampler_work *w) {
    const struct engine_sampling *p = w->draw->params;
    struct sampler_candidate *c = s->candidates;
    int n;
    if (has_top_k(s, p)) {
        n = cut_top_k(s, w, p->top_k);
        if (p->top_p < 1) n = select_mass(c, n, (uint64_t)((double)p->top_p * (double)candidates_mass(c, n)));
    } else if (p->top_p < 1) {
        n = cut_top_p(s, w, nucleus_mass(p, total_weight(w)));
    } else {
        n = collect(s, w, 0, logit_border(w->max, w->temperature, sampler_log((double)p->min_p)), INFINITY);
    }
    return p->min_p > 0 ? cut_min_p(c, n, p->min_p) : n;
}

/* --- 4: noise --- */

static void contest_lead(struct contest *c, int32_t token, double score) {
    c->token = token;
    c->score = score;
    for (int i = 0; i < 256; i++) c->border[i] = logit_border(c->max, c->temperature, score - c->sampler->noise_bound[i]);
}

/* Of all tokens those that the cuts left. */
static bool may_win(const struct contest *c, const struct sampler_candidate *x) {
    if (c->worst.token >= 0 && is_better(&c->worst, x)) return false;
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
    if (may_win(c, &(struct sampler_candidate){.logit = logit, .token = token})) contest_lead(c, token, score);
}

static void draw_from_few(struct contest *c, const struct sampler_candidate *candidates, int n) {
    for (int i = 0; i < n; i++) {
        if (candidates[i].logit < c->border[255]) continue;
        uint32_t coarse = philox_coarse(c->seed, c->position, (uint32_t)candidates[i].token);
        contest_enter(c, candidates[i].logit, coarse, candidates[i].token);
    }
}

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

static void noise_pass(const struct sampler *s, struct sampler_work *w, int first, int end) {
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

static void take_leader(const struct sampler *s, struct sampler_work *w) {
    struct sampler_leader best = w->leaders[0];
    for (int i = 1; i < s->n_parts; i++) {
        const struct sampler_leader *x = &w->leaders[i];
        if (x->score > best.score || (x->score == best.score && x->token < best.token)) best = *x;
    }
    w->draw->token = best.token;
}

/* --- top-p without the weight of the whole row --- */

enum { NEAR = 12, FEW_NEAR = 8 }; /* blocks are near up to so far below the best; at most one in so many */

static double weight_of(const struct sampler *s, const struct sampler_work *w, const float *x, int n) {
    float sums[2 * WEIGHTS_LANES]; /* n <= ROW_BLOCK */
    double weight = 0;
    n = s->rows->weights(x, n, w->max, w->inverse_t, sums);
    for (int i = 0; i < n; i++) weight += (double)sums[i];
    return weight;
}

/* Bounds of total_weight: of near blocks the weight, of others at most that of their largest logits. The margins are more than
 * all sums of floats lose. False when too many blocks are near. */
static bool bound_weight(const struct sampler *s, const struct sampler_work *w, double *least, double *most) {
    const float border = w->max - NEAR * w->temperature;
    float rest[ROW_BLOCK];
    double near = 0, far = 0;
    int n_rest = 0, n_near = 0;
    for (int b = 0; b < s->n_blocks; b++) {
        if (w->maxima[b] < border)
            rest[n_rest++] = w->maxima[b];
        else if (++n_near > s->n_blocks / FEW_NEAR + 1)
            return false;
        else
            near += weight_of(s, w, w->draw->logits + b * ROW_BLOCK, block_end(s, b) - b * ROW_BLOCK);
        if (n_rest == ROW_BLOCK || b + 1 == s->n_blocks) {
            far += ROW_BLOCK * weight_of(s, w, rest, n_rest);
            n_rest = 0;
        }
    }
    *least = near * (1 - 1e-5);
    *most = (near + far) * (1 + 1e-5);
    return true;
}

/* The draw from the nucleus that the largest possible weight of the row gives is the right one if its token is in the nucleus
 * that the least gives, too: if what is better weighs less than that. False when it is not, or when candidates are many. */
static bool draw_from_bounds(struct sampler *s, struct sampler_work *w) {
    const struct engine_sampling *p = w->draw->params;
    struct contest c = w->contest;
    double least, most;
    if (!bound_weight(s, w, &least, &most)) return false;
    int n = cut_top_p(s, w, nucleus_mass(p, most));
    if (n >= s->vocab_size / MANY) return false;
    c.min_p = p->min_p;
    draw_from_few(&c, s->candidates, n);
    const struct sampler_candidate drawn = {.logit = w->draw->logits[c.token], .token = c.token};
    uint64_t before = 0;
    for (int i = 0; i < n; i++) before += is_better(&s->candidates[i], &drawn) ? sampler_fixed(s->candidates[i].weight) : 0;
    w->draw->token = c.token;
    return before < nucleus_mass(p, least);
}

/* --- draws --- */

/* The best token, which is the result when there is no temperature. False: nothing is left to do. */
static bool begin_draw(const struct sampler *s, struct sampler_work *w) {
    struct sampler_draw *draw = w->draw;
    const struct engine_sampling *p = draw->params;
    draw->status = s->rows->max(w->maxima, s->n_blocks, &w->max) ? ENGINE_OK : ENGINE_ERR_NUMERIC;
    if (draw->status != ENGINE_OK) return false;
    int32_t best = draw->token = first_reaching(s, w, w->max);
    if (p->temperature <= 0) return false;
    w->temperature = p->temperature > 1e-4f ? p->temperature : 1e-4f; /* its inverse stays finite */
    w->inverse_t = 1 / w->temperature;
    struct contest *c = &w->contest;
    *c = (struct contest){.sampler = s, .seed = p->seed, .position = (uint64_t)draw->history.n_tokens};
    c->max = w->max;
    c->temperature = w->temperature;
    c->inverse_t = 1.0 / (double)w->temperature;
    c->worst.token = -1;
    contest_lead(c, best, sampler_noise(c->seed, c->position, best));
    return true;
}

/* After the cuts. True: the token is drawn; false: there are so many candidates that a pass over all tokens is quicker. */
static bool draw_from_candidates(struct sampler *s, struct sampler_work *w) {
    const struct engine_sampling *p = w->draw->params;
    if (!has_cut(s, p)) return false;
    const struct sampler_candidate *c = s->candidates;
    int n = cut(s, w);
    assert(n > 0);
    if (n < s->vocab_size / MANY || n < 2 * ROW_BLOCK) {
        draw_from_few(&w->contest, c, n);
        w->draw->token = w->contest.token;
        return true;
    }
    w->contest.min_p = p->min_p;
    if (!has_top_k(s, p) && p->top_p >= 1) return false;
    w->contest.worst = c[0];
    for (int i = 1; i < n; i++) {
        if (is_better(&w->contest.worst, &c[i])) w->contest.worst = c[i];
    }
    return false;
}

static void draw_together(struct sampler *s, struct sampler_draw *draws, int n) {
    struct sampler_work *open[TOGETHER] = {0}, *summed[TOGETHER], *noisy[TOGETHER];
    int n_open = 0, n_summed = 0, n_noisy = 0;
    for (int i = 0; i < n; i++) {
        open[i] = &s->work[i];
        open[i]->draw = &draws[i];
        apply_changes(s, &draws[i]);
    }
    find_maxima(s, open, n);
    for (int i = 0; i < n; i++) {
        struct sampler_work *w = open[i];
        const struct engine_sampling *p = w->draw->params;
        if (!begin_draw(s, w)) continue;
        const bool is_summed = !has_top_k(s, p) && p->top_p < 1;
        if (is_summed && draw_from_bounds(s, w)) continue;
        open[n_open++] = w;
        if (is_summed) summed[n_summed++] = w;
    }
    spread_pass(s, summed, n_summed, weights_pass);
    for (int i = 0; i < n_open; i++) {
        if (!draw_from_candidates(s, open[i])) noisy[n_noisy++] = open[i];
    }
    spread_pass(s, noisy, n_noisy, noise_pass);
    for (int i = 0; i < n_noisy; i++) take_leader(s, noisy[i]);
}

/* --- log-probabilities --- */

static void sort_best_first(struct sampler_candidate *c, int n) {
    for (int i = 1; i < n; i++) {
        for (int j = i; j > 0 && is_better(&c[j], &c[j - 1]); j--) swap(&c[j], &c[j - 1]);
    }
}

/* The likeliest tokens of a row as the model left it. False when it is not finite. */
static bool note_top(struct sampler *s, struct sampler_draw *draw, double *log_sum) {
    struct sampler_work *w = &s->work[0];
    struct engine_logprob *top = draw->logprobs + 1;
    w->draw = draw;
    find_maxima(s, &w, 1);
    draw->status = s->rows->max(w->maxima, s->n_blocks, &w->max) ? ENGINE_OK : ENGINE_ERR_NUMERIC;
    if (draw->status != ENGINE_OK) return false;
    w->inverse_t = 1;
    spread_pass(s, &w, 1, weights_pass);
    *log_sum = (double)w->max + sampler_log(total_weight(w));
    int n = draw->n_top > 0 ? cut_top_k(s, w, draw->n_top) : 0;
    assert(n == draw->n_top);
    sort_best_first(s->candidates, n);
    for (int i = 0; i < n; i++) {
        const struct sampler_candidate *c = &s->candidates[i];
        top[i] = (struct engine_logprob){c->token, (float)((double)c->logit - *log_sum)};
    }
    return true;
}

/* A draw of its own, because the row is looked at twice: first as the model left it. */
static void draw_with_logprobs(struct sampler *s, struct sampler_draw *draw) {
    double log_sum;
    if (!note_top(s, draw, &log_sum)) return;
    draw_together(s, draw, 1);
    if (draw->status != ENGINE_OK) return;
    float logit = logit_before(s, draw->logits, draw->token);
    draw->logprobs[0] = (struct engine_logprob){draw->token, (float)((double)logit - log_sum)};
}

/* --- public --- */

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

/* A token may have been changed twice: the first change was the model's logit. */
static void undo_changes(struct sampler *s, const struct sampler_draw *draw) {
    for (int i = s->n_before - 1; i >= 0; i--) draw->logits[s->before[i].token] = s->before[i].logit;
    update_maxima(s, draw);
}

/* The candidates that begin_draw and the cuts left. */
static void sum_up(const struct sampler *s, const struct sampler_work *w, struct sampler_softmax *out) {
    const struct sampler_candidate *c = s->candidates;
    *out = (struct sampler_softmax){.max = w->max, .inverse_t = w->inverse_t, .n = out->n};
    out->worst.token = -1;
    if (out->n == 0) out->sum = total_weight(w);
    for (int i = 0; i < out->n; i++) {
        out->sum += (double)c[i].weight;
        if (i == 0 || is_better(&out->worst, &c[i])) out->worst = c[i];
    }
}

int sampler_look(struct sampler *s, struct sampler_draw *draw, struct sampler_softmax *out) {
    const struct engine_sampling *p = draw->params;
    struct sampler_work *w = &s->work[0];
    w->draw = draw;
    apply_changes(s, draw);
    find_maxima(s, &w, 1);
    if (begin_draw(s, w)) {
        if (!has_top_k(s, p)) spread_pass(s, &w, 1, weights_pass);
        out->n = has_cut(s, p) ? cut(s, w) : 0;
    } else {
        w->inverse_t = 0; /* all of the weight is the best one's */
        s->candidates[0] = (struct sampler_candidate){w->max, 1, draw->token};
        out->n = 1;
    }
    if (draw->status == ENGINE_OK) sum_up(s, w, out);
    undo_changes(s, draw);
    return draw->status;
}

static double chance_of(const struct sampler_softmax *softmax, float logit, int32_t token) {
    const struct sampler_candidate x = {.logit = logit, .token = token};
    if (softmax->worst.token >= 0 && is_better(&softmax->worst, &x)) return 0;
    return (double)sampler_exp((logit - softmax->max) * softmax->inverse_t) / softmax->sum;
}

void sampler_chances(struct sampler *s, const struct sampler_draw *draw, const struct sampler_softmax *softmax,
                     const int32_t *tokens, int n, double *p) {
    apply_changes(s, draw);
    for (int i = 0; i < n; i++) p[i] = chance_of(softmax, draw->logits[tokens[i]], tokens[i]);
    undo_changes(s, draw);
}

void sampler_row(struct sampler *s, const struct sampler_draw *draw, const struct sampler_softmax *softmax, double *p) {
    apply_changes(s, draw);
    for (int i = 0; i < s->vocab_size; i++) p[i] = chance_of(softmax, draw->logits[i], i);
    undo_changes(s, draw);
}

void sampler_logprobs(struct sampler *s, struct sampler_draw *draw) {
    double log_sum;
    if (!note_top(s, draw, &log_sum)) return;
    draw->logprobs[0] = (struct engine_logprob){draw->token, (float)((double)draw->logits[draw->token] - log_sum)};
}

int sampler_sample(struct sampler *sampler, const struct engine_sampling *params, const struct sampler_history *history,
                   float *logits, int32_t *token) {
    struct sampler_draw draw = {.params = params, .history = *history, .logits = logits};
    sampler_draw(sampler, &draw, 1);
    if (draw.status == ENGINE_OK) *token = draw.token;
    return draw.status;
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
