/* cost.c - what a pass of n rows takes: moving medians of measured times, and what they say about sizes never measured.
 *
 * A shared machine is faster in one second than in the next, and sizes are measured in different ones: among dozens the one
 * that met the best second would always look like a bargain. So times are kept as if the machine went at one pace, which every
 * pass of a known size measures. */
#include <assert.h>
#include <math.h>

#include "speculative/speculative.h"

static const double UNKNOWN_SLOPE = 0.15; /* of a pass's cost for as many rows again, before anything was measured: hopeful */

static const double PACE_STEP = 1.0 / 4, PACE_MOST = 1.1; /* of what a pass says; beyond it was disturbed */
static const double PACE_DECAY = 1.0 / 64;                /* a pass: what lasts is for the medians to learn */

enum { TRUSTED = 2 };

/* Of two in the middle the lower: a busy moment only adds. */
static float median_of(const float *samples, int n) {
    float sorted[COST_SAMPLES];
    for (int i = 0; i < n; i++) {
        int at = i;
        for (; at > 0 && sorted[at - 1] > samples[i]; at--) sorted[at] = sorted[at - 1];
        sorted[at] = samples[i];
    }
    return sorted[(n - 1) / 2];
}

static double pace_of(const struct cost_table *t) { return t->pace > 0 ? t->pace : 1; }

/* Slowly: one pass says little. */
static void learn_pace(struct cost_table *t, const struct row_cost *cost, double ms) {
    if (cost->n < TRUSTED) return;
    double said = ms / ((double)cost->median_ms * pace_of(t));
    double pace = pace_of(t) * (1 + PACE_STEP * (fmax(fmin(said, PACE_MOST), 1 / PACE_MOST) - 1));
    t->pace = pace + PACE_DECAY * (1 - pace);
}

void cost_learn(struct cost_table *t, int n_rows, double ms) {
    t->n_passes++;
    if (n_rows < 1 || n_rows > COST_MAX_ROWS || !(ms > 0)) return;
    struct row_cost *cost = &t->rows[n_rows];
    learn_pace(t, cost, ms);
    if (cost->n == 0) cost->next = 0;
    cost->samples_ms[cost->next] = (float)(ms / pace_of(t));
    cost->next = (cost->next + 1) % COST_SAMPLES;
    if (cost->n < COST_SAMPLES) cost->n++;
    cost->median_ms = median_of(cost->samples_ms, cost->n);
    cost->pass = t->n_passes;
}

void cost_forget_above(struct cost_table *t, int n_rows) {
    for (int n = n_rows + 1; n <= COST_MAX_ROWS; n++) t->rows[n].n = 0;
}

/* The nearest sizes with at least `enough` samples: the largest at or below n_rows, the smallest above; 0 = none. */
static int measured_below(const struct cost_table *t, int n_rows, int enough) {
    int n = n_rows < COST_MAX_ROWS ? n_rows : COST_MAX_ROWS;
    while (n > 0 && t->rows[n].n < enough) n--;
    return n;
}

static int measured_above(const struct cost_table *t, int n_rows, int enough) {
    for (int n = n_rows + 1; n <= COST_MAX_ROWS; n++) {
        if (t->rows[n].n >= enough) return n;
    }
    return 0;
}

typedef double cost_function(const struct cost_table *t, int n_rows);

/* The line through the nearest sizes that have enough samples. */
static double interpolate(const struct cost_table *t, int n_rows, int enough, cost_function *cost) {
    int low = measured_below(t, n_rows, enough), high = measured_above(t, n_rows, enough);
    if (low == 0) return high > 0 ? cost(t, high) : 0;
    double low_ms = cost(t, low), slope = UNKNOWN_SLOPE * low_ms / low;
    int lower = high > 0 ? 0 : measured_below(t, low - 1, enough);
    if (high > 0) slope = (cost(t, high) - low_ms) / (high - low);
    if (lower > 0) slope = (low_ms - cost(t, lower)) / (low - lower);
    return low_ms + (slope > 0 ? slope : 0) * (n_rows - low);
}

static double median_cost(const struct cost_table *t, int n_rows) { return (double)t->rows[n_rows].median_ms; }

/* A single sample may have met a busy moment, after which the size would never be tried again: what the better known sizes
 * suggest is believed if it is less. */
static double measured_cost(const struct cost_table *t, int n_rows) {
    double median = (double)t->rows[n_rows].median_ms;
    double suggested = t->rows[n_rows].n < TRUSTED ? interpolate(t, n_rows, TRUSTED, median_cost) : 0;
    return suggested > 0 && suggested < median ? suggested : median;
}

double cost_ms(const struct cost_table *t, int n_rows) {
    if (n_rows >= 1 && n_rows <= COST_MAX_ROWS && t->rows[n_rows].n > 0) return pace_of(t) * measured_cost(t, n_rows);
    return pace_of(t) * interpolate(t, n_rows, 1, measured_cost);
}

double cost_median_ms(const struct cost_table *t, int n_rows) { return pace_of(t) * median_cost(t, n_rows); }
