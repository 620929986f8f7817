/* bench_steps.c - times of single steps of the model, for what a chat cannot be told to do: check so many rows of one sequence,
 * decode behind so many tokens.
 *
 *  (1) The points of a series take turns, round after round, so that a neighbour on the machine disturbs all alike; then medians.
 *  (2) Keys and values in front of the measured rows are made up: attention takes as long for any values. They must be written
 *      all the same: memory that never was is one page of zeros to the system.
 *  (3) Main thread, in the engine thread's place: without requests that one sleeps (bench.h). */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bench.h"

enum { MIN_ROUNDS = 5, MAX_ROUNDS = 61, MADE_UP = 0x30 /* half floats of 0.13, small numbers in other formats */ };

static const double ENOUGH_MS = 1500; /* of a series, once MIN_ROUNDS are done */

/* A step of n_rows tokens behind `depth` others. */
struct step_point {
    int depth, n_rows;
};

/* Ms, logits of all rows included. */
static double time_step(struct engine *e, const int32_t *blocks, struct step_point point) {
    int32_t tokens[BENCH_MAX_ROWS], logit_rows[BENCH_MAX_ROWS];
    for (int i = 0; i < point.n_rows; i++) {
        tokens[i] = (int32_t)((1000u + (uint32_t)i * 7919u) % (uint32_t)e->model->shape.vocab_size);
        logit_rows[i] = i;
    }
    const struct kernels_seq seq = {.n_rows = point.n_rows, .first_pos = point.depth, .blocks = blocks};
    const struct model_batch batch = {
        .tokens = tokens, .n_rows = point.n_rows, .seqs = &seq, .n_seqs = 1, .logit_rows = logit_rows, .n_logits = point.n_rows};
    const double start = now_ms();
    model_forward(e->model, &e->pool, &batch);
    return now_ms() - start;
}

/* ms[i] of points[i]: medians over rounds. */
static int time_points(struct bench *bench, const struct step_point *points, int n, double *ms) {
    struct engine *e = bench->engine;
    int longest = 0;
    assert(n <= BENCH_MAX_POINTS);
    if (n < 1) return ENGINE_OK;
    for (int i = 0; i < n; i++)
        longest = points[i].depth + points[i].n_rows > longest ? points[i].depth + points[i].n_rows : longest;
    const size_t n_blocks = (size_t)kv_blocks_for(longest);
    double(*times)[MAX_ROUNDS] = calloc((size_t)n, sizeof *times);
    int32_t *blocks = calloc(n_blocks, sizeof *blocks);
    int round = 0;
    if (times && blocks) {
        for (size_t i = 0; i < n_blocks; i++) blocks[i] = (int32_t)i;
        memset(e->pool.data, MADE_UP, n_blocks * e->pool.block_bytes);
        for (int i = 0; i < n; i++) time_step(e, blocks, points[i]);
        for (const double start = now_ms(); round < MAX_ROUNDS && (round < MIN_ROUNDS || now_ms() - start < ENOUGH_MS); round++)
            for (int i = 0; i < n; i++) times[i][round] = time_step(e, blocks, points[i]);
        for (int i = 0; i < n; i++) ms[i] = bench_median(times[i], round);
    }
    free(times);
    free(blocks);
    if (round > 0) return ENGINE_OK;
    snprintf(bench->error.text, sizeof bench->error.text, "no memory");
    return ENGINE_ERR_MEMORY;
}

int bench_verify(struct bench *bench) {
    struct bench_series *series = &bench->result.verify;
    struct step_point points[BENCH_MAX_POINTS];
    bench_progress("steps of several rows");
    for (int i = 0; i < series->n; i++) points[i] = (struct step_point){bench->settings.depth, series->at[i]};
    return time_points(bench, points, series->n, series->value);
}

int bench_context(struct bench *bench) {
    struct bench_series *series = &bench->result.context;
    struct step_point points[BENCH_MAX_POINTS];
    bench_progress("decode steps behind long contexts");
    for (int i = 0; i < series->n; i++) points[i] = (struct step_point){series->at[i], 1};
    return time_points(bench, points, series->n, series->value);
}
