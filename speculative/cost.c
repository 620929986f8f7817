/* cost.c - what a pass of n rows takes: moving medians of measured times, and what they say about sizes never measured. */
#include <assert.h>

#include "speculative/speculative.h"

static const double UNKNOWN_SLOPE = 0.15; /* of a pass's cost for as many rows again, before anything was measured: hopeful */

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

void cost_learn(struct cost_table *t, int n_rows, double ms) {
    t->n_passes++;
    if (n_rows < 1 || n_rows > COST_MAX_ROWS || !(ms > 0)) return;
    struct row_cost *cost = &t->rows[n_rows];
    if (cost->n == 0) cost->next = 0;
    cost->samples_ms[cost->next] = (float)ms;
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
    if (n_rows >= 1 && n_rows <= COST_MAX_ROWS && t->rows[n_rows].n > 0) return measured_cost(t, n_rows);
    return interpolate(t, n_rows, 1, measured_cost);
}
