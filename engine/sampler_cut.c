/* sampler_cut.c - step 3 of sampler.h: top-k, top-p and min-p, without looking at every token and without sorting the vocabulary.
 *
 *  (1) Only blocks are looked into whose largest logit can matter; a quickselect cuts the few candidates exactly.
 *  (2) The k-th largest block maximum is reached by k logits at least, so the k best are among those that reach it.
 *  (3) Sums of candidates' weights are whole numbers, so no result depends on the order in which candidates are found.
 *  (4) Top-p alone needs the weight of the whole row: bound_weight bounds it by the blocks' largest logits. */
#include <math.h>

#include "engine/sampler_work.h"

float sampler_logit_border(float max, float temperature, double base) {
    return (float)((double)max + base * (double)temperature - 0.01 - 1e-6 * fabs((double)max));
}

/* Adds the candidates with low <= logit < high to the n that are there. */
static int collect(struct sampler *s, const struct sampler_work *w, int n, float low, float high) {
    const float *logits = w->draw->logits;
    for (int b = 0; (b = sampler_find_block(s, w, b, low)) < s->n_blocks; b++) {
        for (int i = b * ROW_BLOCK, end = sampler_block_end(s, b); i < end; i++) {
            if (logits[i] >= low && logits[i] < high)
                s->candidates[n++] = (struct sampler_candidate){logits[i], sampler_exp((logits[i] - w->max) * w->inverse_t), i};
        }
    }
    return n;
}

/* --- cuts --- */

static void swap(struct sampler_candidate *x, struct sampler_candidate *y) {
    struct sampler_candidate t = *x;
    *x = *y;
    *y = t;
}

/* Splits [lo, hi): better ones than some pivot, the pivot, worse ones. Returns the pivot's place. */
static int partition(struct sampler_candidate *c, int lo, int hi) {
    int mid = lo + (hi - lo) / 2, last = hi - 1;
    if (sampler_is_better(&c[mid], &c[lo])) swap(&c[mid], &c[lo]);
    if (sampler_is_better(&c[last], &c[lo])) swap(&c[last], &c[lo]);
    if (sampler_is_better(&c[mid], &c[last])) swap(&c[mid], &c[last]); /* now the median of the three stands last */
    int place = lo;
    for (int i = lo; i < last; i++) {
        if (sampler_is_better(&c[i], &c[last])) swap(&c[i], &c[place++]);
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
        for (int b = 0; (b = sampler_find_block(s, w, b, w->max - levels[i])) < s->n_blocks; b++)
            c[n++] = (struct sampler_candidate){.logit = w->maxima[b], .token = b};
    }
    if (n < k) return -INFINITY;
    select_count(c, n, k);
    float least = w->max;
    for (int i = 0; i < k; i++) least = c[i].logit < least ? c[i].logit : least;
    return least;
}

int sampler_cut_top_k(struct sampler *s, const struct sampler_work *w, int k) {
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

uint64_t sampler_nucleus_mass(const struct engine_sampling *p, double total) {
    return (uint64_t)((double)p->top_p * total * 0x1p44);
}

int sampler_cut_top_p(struct sampler *s, const struct sampler_work *w, uint64_t mass) {
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

int sampler_cut(struct sampler *s, const struct sampler_work *w) {
    const struct engine_sampling *p = w->draw->params;
    struct sampler_candidate *c = s->candidates;
    int n;
    if (sampler_has_top_k(s, p)) {
        n = sampler_cut_top_k(s, w, p->top_k);
        if (p->top_p < 1) n = select_mass(c, n, (uint64_t)((double)p->top_p * (double)candidates_mass(c, n)));
    } else if (p->top_p < 1) {
        n = sampler_cut_top_p(s, w, sampler_nucleus_mass(p, sampler_total_weight(w)));
    } else {
        n = collect(s, w, 0, sampler_logit_border(w->max, w->temperature, sampler_log((double)p->min_p)), INFINITY);
    }
    return p->min_p > 0 ? cut_min_p(c, n, p->min_p) : n;
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
bool sampler_bound_weight(const struct sampler *s, const struct sampler_work *w, double *least, double *most) {
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
            near += weight_of(s, w, w->draw->logits + b * ROW_BLOCK, sampler_block_end(s, b) - b * ROW_BLOCK);
        if (n_rest == ROW_BLOCK || b + 1 == s->n_blocks) {
            far += ROW_BLOCK * weight_of(s, w, rest, n_rest);
            n_rest = 0;
        }
    }
    *least = near * (1 - 1e-5);
    *most = (near + far) * (1 + 1e-5);
    return true;
}
