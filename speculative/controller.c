/* controller.c - how much of the drafts a step verifies: none, unless measurements say that it pays.
 *
 * A step of n rows gives each sequence a token for certain and, with k nodes more, the sum of their chances on top. The nodes
 * of all trees are taken in order of chance, and the k with the most expected tokens per millisecond is kept, if it beats k =
 * 0 by MARGIN. Cost is scanned over all k: kernels work on tiles of rows, so it rises in steps.
 *
 * The two ways to be wrong for long are closed: when every step drafts, a plain one is measured after PLAIN_EVERY; when none does
 * although a guess is likely, one is tried after probe_after steps, which doubles as long as the answer stays the same. */
#include <assert.h>
#include <string.h>

#include "speculative/speculative.h"

static const double MARGIN = 1.03; /* below that the measurements cannot tell */
static const double MOST_MARGIN = 1.5;
static const double SURPRISE = 0.7;       /* a probe that takes less than so much of what was expected */
static const double LATELY = 0.98;        /* weight of the gain so far when a step is added */
static const double UNKNOWN_SLOPE = 0.15; /* of a step's cost for as many rows again, before anything was measured: hopeful */
static const float LEAST_CHANCE = 0.02f;  /* a node below cannot pay anywhere */
static const float PROBE_CHANCE = 0.5f;   /* a first node worth a probe */

enum { TRUSTED = 3, PLAIN_EVERY = 128, PROBE_FIRST = 32, PROBE_MOST = 512, PROBE_NODES = 3, PROBE_MAX_ROWS = 8 };

void controller_init(struct controller *c) {
    memset(c, 0, sizeof *c);
    c->probe_after = PROBE_FIRST;
}

/* --- what a step costs --- */

static float median_of(const float *samples, int n) {
    float sorted[COST_SAMPLES];
    for (int i = 0; i < n; i++) {
        int at = i;
        for (; at > 0 && sorted[at - 1] > samples[i]; at--) sorted[at] = sorted[at - 1];
        sorted[at] = samples[i];
    }
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static void add_sample(struct controller *c, int n_rows, double ms) {
    struct step_cost *cost = &c->costs[n_rows];
    if (cost->n == 0) cost->next = 0;
    cost->samples_ms[cost->next] = (float)ms;
    cost->next = (cost->next + 1) % COST_SAMPLES;
    if (cost->n < COST_SAMPLES) cost->n++;
    cost->median_ms = median_of(cost->samples_ms, cost->n);
    cost->step = c->n_steps;
}

/* The nearest sizes with at least `enough` samples: the largest at or below n_rows, the smallest above; 0 = none. */
static int measured_below(const struct controller *c, int n_rows, int enough) {
    int n = n_rows < COST_MAX_ROWS ? n_rows : COST_MAX_ROWS;
    while (n > 0 && c->costs[n].n < enough) n--;
    return n;
}

static int measured_above(const struct controller *c, int n_rows, int enough) {
    for (int n = n_rows + 1; n <= COST_MAX_ROWS; n++) {
        if (c->costs[n].n >= enough) return n;
    }
    return 0;
}

typedef double cost_function(const struct controller *c, int n_rows);

/* The line through the nearest sizes that have enough samples. */
static double interpolate(const struct controller *c, int n_rows, int enough, cost_function *cost) {
    int low = measured_below(c, n_rows, enough), high = measured_above(c, n_rows, enough);
    if (low == 0) return high > 0 ? cost(c, high) : 0;
    double low_ms = cost(c, low), slope = UNKNOWN_SLOPE * low_ms / low;
    int lower = high > 0 ? 0 : measured_below(c, low - 1, enough);
    if (high > 0) slope = (cost(c, high) - low_ms) / (high - low);
    if (lower > 0) slope = (low_ms - cost(c, lower)) / (low - lower);
    return low_ms + (slope > 0 ? slope : 0) * (n_rows - low);
}

static double median_cost(const struct controller *c, int n_rows) { return (double)c->costs[n_rows].median_ms; }

/* One or two samples may have met a busy moment, after which the size would never be tried again: they count beside what the
 * better known sizes suggest. */
static double measured_cost(const struct controller *c, int n_rows) {
    const struct step_cost *cost = &c->costs[n_rows];
    double suggested = cost->n < TRUSTED ? interpolate(c, n_rows, TRUSTED, median_cost) : 0;
    if (suggested <= 0) return (double)cost->median_ms;
    return (cost->n * (double)cost->median_ms + suggested) / (cost->n + 1);
}

double controller_cost_ms(const struct controller *c, int n_rows) {
    if (n_rows >= 1 && n_rows <= COST_MAX_ROWS && c->costs[n_rows].n > 0) return measured_cost(c, n_rows);
    return interpolate(c, n_rows, 1, measured_cost);
}

/* --- what drafts gained --- */

/* The plan takes the best of many noisy figures, so it hopes for too much. What drafts gained in truth puts that right. */
static double margin_now(const struct controller *c) {
    double gain = c->drafted_ms > 0 ? c->worth_ms / c->drafted_ms : MARGIN;
    double margin = gain < MARGIN ? MARGIN + 2 * (MARGIN - gain) : MARGIN;
    return margin < MOST_MARGIN ? margin : MOST_MARGIN;
}

/* The machine is not what it was. */
static void forget_above(struct controller *c, int n_rows) {
    for (int n = n_rows + 1; n <= COST_MAX_ROWS; n++) c->costs[n].n = 0;
}

void controller_learn(struct controller *c, const struct step_outcome *step) {
    int n_plain = step->n_rows - step->n_drafted;
    c->n_steps++;
    if (n_plain < 1 || step->n_rows > COST_MAX_ROWS || !(step->ms > 0)) return;
    double plain_ms = controller_cost_ms(c, n_plain);
    c->drafted_ms *= step->n_drafted > 0 ? LATELY : 1;
    c->worth_ms *= step->n_drafted > 0 ? LATELY : 1;
    if (step->n_drafted > 0 && plain_ms > 0) {
        double most = 4 * controller_cost_ms(c, step->n_rows); /* the system was busy with something else */
        c->drafted_ms += step->ms < most ? step->ms : most;
        c->worth_ms += plain_ms * step->n_tokens / n_plain;
    } else {
        c->worth_ms += (c->drafted_ms * MARGIN - c->worth_ms) * (1 - LATELY) / 16; /* old grudges fade */
    }
    if (c->is_probe && step->ms < SURPRISE * controller_cost_ms(c, step->n_rows)) forget_above(c, n_plain);
    c->is_probe = false;
    add_sample(c, step->n_rows, step->ms);
}

/* --- the plan --- */

/* The tree whose next node is the likeliest, or -1. */
static int next_tree(const struct token_tree *const *trees, int n_trees, const int *taken) {
    int best = -1;
    float best_chance = LEAST_CHANCE;
    for (int i = 0; i < n_trees; i++) {
        int node = taken[i] + 1;
        if (node >= trees[i]->n_nodes || trees[i]->chance[node] <= best_chance) continue;
        best = i;
        best_chance = trees[i]->chance[node];
    }
    return best;
}

/* Takes nodes until none is left or the budget is spent; returns how many of them are best, 0 for none. The order is in picks. */
static int best_count(const struct controller *c, const struct token_tree *const *trees, int n_trees, int n_rows, int budget,
                      int *taken, int *picks) {
    double expected = n_rows, best_rate = margin_now(c) * expected / controller_cost_ms(c, n_rows);
    int n_best = 0;
    for (int k = 0; k < budget; k++) {
        int i = next_tree(trees, n_trees, taken);
        if (i < 0) break;
        picks[k] = i;
        expected += (double)trees[i]->chance[++taken[i]];
        double rate = expected / controller_cost_ms(c, n_rows + k + 1);
        if (rate > best_rate) n_best = k + 1, best_rate = rate;
    }
    return n_best;
}

/* One guess is tried although it does not seem to pay. */
static int probe(struct controller *c, const struct token_tree *const *trees, int n_trees, int n_rows, int budget, int *kept) {
    if (n_rows > PROBE_MAX_ROWS || budget < 1 || c->n_steps - c->last_draft < (uint64_t)c->probe_after) return 0;
    int i = next_tree(trees, n_trees, kept);
    if (i < 0 || trees[i]->chance[1] < PROBE_CHANCE) return 0;
    int n = trees[i]->n_nodes - 1;
    if (n > PROBE_NODES) n = PROBE_NODES;
    if (n > budget) n = budget;
    if (c->probe_after < PROBE_MOST) c->probe_after *= 2;
    c->last_draft = c->n_steps;
    c->is_probe = true;
    return kept[i] = n;
}

int controller_plan(struct controller *c, const struct token_tree *const *trees, int n_trees, int n_rows, int budget, int *kept) {
    int picks[TREE_MAX_NODES];
    memset(kept, 0, (size_t)n_trees * sizeof *kept);
    if (budget > TREE_MAX_NODES) budget = TREE_MAX_NODES;
    if (n_rows < 1 || n_rows > COST_MAX_ROWS || controller_cost_ms(c, n_rows) <= 0) return 0;
    const struct step_cost *plain = &c->costs[n_rows];
    if (plain->n == 0 || c->n_steps - plain->step >= PLAIN_EVERY) return 0; /* the measure of all others comes first */
    int n = best_count(c, trees, n_trees, n_rows, budget, kept, picks);
    memset(kept, 0, (size_t)n_trees * sizeof *kept);
    if (n == 0) return probe(c, trees, n_trees, n_rows, budget, kept);
    for (int k = 0; k < n; k++) kept[picks[k]]++;
    c->last_draft = c->n_steps;
    c->probe_after = PROBE_FIRST;
    return n;
}
