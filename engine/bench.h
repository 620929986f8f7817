/* bench.h - what the files of `foresay bench` share: settings, results, the parts of a run.
 *
 *     tool_bench.c    options, the order of the parts
 *     bench_engine.c  through the whole engine, as a chat would: prefill, decode by batch, blocks of mixed lengths
 *     bench_steps.c   single steps of the model: verification by rows, decode by length of the context
 *     bench_speculative.c  answers with and without a drafter, by classes of prompts
 *     bench_report.c  the table and the JSON object
 * Main thread only. */
#ifndef FORESAY_BENCH_H
#define FORESAY_BENCH_H

#include <stdint.h>

#include "engine/internal.h"

enum {
    BENCH_MAX_POINTS = 32,
    BENCH_MAX_RUNS = 101,
    BENCH_MAX_BATCH = 1024,
    BENCH_MAX_ROWS = 256,
    BENCH_MAX_WORDS = 64,
    BENCH_BLOCK_SEQS = 16
};

/* Numbers of a list option, and what was measured for each. */
struct bench_series {
    int n, at[BENCH_MAX_POINTS];
    double value[BENCH_MAX_POINTS];
};

enum bench_part { BENCH_PREFILL, BENCH_DECODE, BENCH_VERIFY, BENCH_CONTEXT, BENCH_BLOCKS, BENCH_N_PARTS };
extern const char *const bench_part_names[BENCH_N_PARTS];

struct bench_settings {
    const char *model, *isa, *kv_type, *activations, *parts, *prompts, *batches, *rows, *contexts;
    const char *drafter_name, *draft_files, *verify_name;
    enum engine_drafter drafter;
    enum engine_verify verify;
    int threads, depth, n_generate, n_runs, step_tokens;
    int draft_max, draft_width;
    bool json, speculative;
    bool wants[BENCH_N_PARTS];
};

struct bench_blocks {
    int n_seqs, n_steps;       /* counted after every step */
    double mean_tokens, waste; /* that a sequence holds; the share of the slots of held blocks that no token fills */
};

struct bench_result {
    struct bench_series prefill; /* tok/s by prompt length */
    struct bench_series decode;  /* tok/s of all sequences together, by batch */
    struct bench_series verify;  /* ms of a step by rows of one sequence, logits of all rows */
    struct bench_series context; /* ms of a decode step by tokens before it */
    struct bench_blocks blocks;
    struct model_cost cost;
    double kv_bytes; /* keys and values that a token read in decode with batch 1, mean */
    /* Probes by turns with what they are compared with, 0 = not measured: bytes per second, with runs of decode; operations per
     * second, with runs of prefill. */
    double read_speed, int8_speed;
};

struct bench {
    struct bench_settings settings;
    struct engine *engine, *rival; /* rival: --speculative has a second one, NULL else */
    struct bench_result result;
    struct engine_error error;
    const char *words[BENCH_MAX_WORDS]; /* each is one token of the model */
    int n_words;
};

double bench_median(double *values, int n); /* sorts them */
/* What is going on, for people who wait: one line that moves on a terminal, a line each elsewhere. */
void bench_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));
void bench_progress_end(void);

/* Each returns an engine_status and, if it is not ENGINE_OK, fills in error. */
int bench_find_words(struct bench *bench);
int bench_prefill(struct bench *bench);
int bench_decode(struct bench *bench);
/* Tokens that each of n sequences generates: so many that there is a phase of --generate steps in which all n decode. */
int bench_decode_tokens(const struct bench *bench, int n);
int bench_block_use(struct bench *bench);
/* bench_speculative.c: prints its tables itself. */
int bench_speculative(struct bench *bench);
/* Only while the engine has no request: its thread sleeps then, and its model and KV memory are borrowed. */
int bench_verify(struct bench *bench);
int bench_context(struct bench *bench);

void bench_report(const struct bench *bench);

#endif
