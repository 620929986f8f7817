/* sampler_rows.h - passes over a whole row of logits, as wide as the processor allows.
 *
 * Each version does the same additions, multiplications and comparisons on the same 16 lanes in the same order, so all give
 * the same bits; tests/test_sampler.c compares them. Pure functions. */
#ifndef FORESAY_SAMPLER_ROWS_H
#define FORESAY_SAMPLER_ROWS_H

#include <stdbool.h>
#include <stdint.h>

enum { ROW_BLOCK = 64, COARSE_BLOCK = 256 };

struct sampler_rows {
    const char *name;
    /* The largest of x[0 .. n); false when a value is not finite. */
    bool (*max)(const float *x, int n, float *max);
    /* The first block of ROW_BLOCK values, from the one at `first` (a multiple of ROW_BLOCK) on, that has a value of at least
     * threshold: its start. A last block of fewer values is always named; n when there is no block left. */
    int (*next_block)(const float *x, int first, int n, float threshold);
    /* weights[i] = exp((x[i] - max) * inverse_t) by sampler_exp; returns their sum. */
    double (*weights)(const float *x, int n, float max, float inverse_t, float *weights);
    /* philox_coarse of tokens 0 .. n - 1; coarse has room for n rounded up to COARSE_BLOCK, and is aligned for words. */
    void (*coarse)(uint64_t seed, uint64_t position, int n, uint8_t *coarse);
};

/* The widest that this processor has. */
const struct sampler_rows *sampler_rows_best(void);
/* All that this processor has, for tests: NULL past the last. The first is the narrowest. */
const struct sampler_rows *sampler_rows_at(int i);

/* exp(x) for x <= 0, relative error below 2e-7: additions and multiplications alone, no C library. */
float sampler_exp(float x);

#endif
