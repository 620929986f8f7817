/* sampler_rows.h - passes over a whole row of logits, as wide as the processor allows.
 *
 * Each version does the same additions, multiplications and comparisons on the same 16 lanes in the same order, so all give
 * the same bits; tests/test_sampler.c compares them. Pure functions. */
#ifndef FORESAY_SAMPLER_ROWS_H
#define FORESAY_SAMPLER_ROWS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/kernels.h"

enum { COARSE_BLOCK = 256, WEIGHTS_CHUNK = 1024, WEIGHTS_LANES = 16 };

/* philox_coarse of 256 tokens: token t of them stands in byte t % 4 of word[t / 4 % 4][t / 16]. */
struct coarse_block {
    uint32_t word[4][16];
    uint8_t largest[COARSE_BLOCK / ROW_BLOCK]; /* of each ROW_BLOCK tokens */
};

struct sampler_rows {
    const char *name;
    /* The largest of x[0 .. n); false when a value is not finite. */
    bool (*max)(const float *x, int n, float *max);
    /* out[i] = the largest of the i-th ROW_BLOCK values (the last block may be shorter), NaN when one of them is not finite. */
    void (*maxima)(const float *x, int n, float *out);
    /* The first block of ROW_BLOCK values, from the one at `first` (a multiple of ROW_BLOCK) on, that has a value of at least
     * threshold: its start. A last block of fewer values is always named; n when there is no block left. */
    int (*next_block)(const float *x, int first, int n, float threshold);
    /* Sums of exp((x[i] - max) * inverse_t) by sampler_exp: for each WEIGHTS_CHUNK values WEIGHTS_LANES partial sums, then the
     * values past the last whole WEIGHTS_LANES one by one. Returns how many numbers it wrote. */
    int (*weights)(const float *x, int n, float max, float inverse_t, float *sums);
    /* Tokens first .. first + COARSE_BLOCK - 1; first is a multiple of COARSE_BLOCK. */
    void (*coarse)(uint64_t seed, uint64_t position, uint32_t first, struct coarse_block *out);
};

/* The widest that this processor has. */
const struct sampler_rows *sampler_rows_best(void);
/* All that this processor has, for tests: NULL past the last. The first is the narrowest. */
const struct sampler_rows *sampler_rows_at(int i);

/* Numbers that weights writes for n values, at most. */
static inline int sampler_weights_room(int n) { return (n + WEIGHTS_CHUNK - 1) / WEIGHTS_CHUNK * WEIGHTS_LANES + WEIGHTS_LANES; }

/* exp(x) for x <= 0, relative error below 2e-7: additions and multiplications alone, no C library. */
float sampler_exp(float x);

#endif
