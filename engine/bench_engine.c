/* bench_engine.c - measurements through the whole engine: tokenizer, scheduler, model, greedy sampling and events, as a chat
 * has them.
 *
 *  (1) Prefill: from a prompt's first step to its first token.
 *  (2) Decode with batch N: tokens that come out while all N sequences decode, divided by the time of that phase on the wall
 *      clock. It begins after the first token of the last sequence and ends before the end of the first one; the first ones have
 *      been decoding before, so each generates more tokens than that phase needs.
 *  (3) Blocks: sequences of mixed lengths; after every step, slots of held blocks that no token fills.
 * Main thread: it is the consumer of events. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bench.h"

static int fail(struct bench *bench, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int fail(struct bench *bench, int status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(bench->error.text, sizeof bench->error.text, format, args);
    va_end(args);
    return status;
}

/* --- prompts of an exact number of tokens --- */

/* Words that nearly every vocabulary has as one token; in prompts they follow each other in an order of chance, because models
 * with experts must not see one token over and over. */
static const char *const common_words[] = {
    " the",  " and",  " of",    " to",    " in",   " is",    " for",    " on",    " that", " with",  " as",    " was",   " are",
    " it",   " by",   " from",  " at",    " this", " have",  " or",     " not",   " be",   " but",   " they",  " all",   " can",
    " one",  " more", " time",  " about", " when", " which", " people", " their", " into", " other", " some",  " first", " new",
    " work", " only", " after", " made",  " over", " water", " many",   " also",  " day",  " place", " system"};

static int count_tokens(const struct bench *bench, const char *text) {
    struct token_list list = {.limit = SIZE_MAX};
    int rc = tokenizer_encode_prompt(bench->engine->tokenizer, text, strlen(text), &list);
    int n = rc == ENGINE_OK ? (int)list.n : -1;
    token_list_free(&list);
    return n;
}

int bench_find_words(struct bench *bench) {
    const char *start = common_words[0];
    char pair[64];
    int one = count_tokens(bench, start);
    for (size_t i = 0; i < sizeof common_words / sizeof *common_words; i++) {
        snprintf(pair, sizeof pair, "%s%s", start, common_words[i]);
        if (count_tokens(bench, pair) == one + 1) bench->words[bench->n_words++] = common_words[i];
    }
    if (bench->n_words > 0) return ENGINE_OK;
    return fail(bench, ENGINE_ERR_MODEL, "this model's vocabulary has none of the common English words that prompts are made of");
}

/* A prompt of n tokens, BOS included where the model wants it; *random picks the words. NULL when memory is refused. */
static char *make_prompt(const struct bench *bench, int n, uint64_t *random) {
    enum { WORD_BYTES = 16 };
    char *text = malloc((size_t)n * WORD_BYTES + WORD_BYTES);
    if (!text) return NULL;
    for (int n_words = n, left = 2; left > 0 && n_words > 0; left--) {
        uint64_t state = *random;
        size_t len = 0;
        for (int i = 0; i < n_words; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            const char *word = bench->words[(state >> 33) % (uint64_t)bench->n_words];
            len += (size_t)snprintf(text + len, WORD_BYTES, "%s", word);
        }
        const int n_tokens = count_tokens(bench, text);
        if (n_tokens == n) break;
        n_words += n - n_tokens; /* BOS, or a vocabulary that treats the first word differently */
    }
    *random += 0x9e3779b97f4a7c15u;
    return text;
}

static int submit(struct bench *bench, int n_prompt, int n_generate, uint64_t *random, uint64_t *id) {
    char *prompt = make_prompt(bench, n_prompt, random);
    if (!prompt) return fail(bench, ENGINE_ERR_MEMORY, "no memory");
    struct engine_request request = {.prompt = prompt,
                                     .prompt_len = strlen(prompt),
                                     .max_tokens = n_generate,
                                     .sampling = engine_sampling_default(),
                                     .ignore_eos = true};
    request.sampling.temperature = 0;
    int rc = engine_submit(bench->engine, &request, id, &bench->error);
    free(prompt);
    return rc;
}

/* --- one run: n sequences side by side --- */

struct run {
    int n_done;
    struct engine_stats before, after;
    float prefill_ms;                          /* of the last to end */
    int prompt_tokens;                         /* likewise */
    double held_tokens, held_slots, held_seqs; /* summed over steps */
    int n_steps;
    uint64_t last_step;
};

static int take_event(struct bench *bench, struct run *run, const struct engine_event *event) {
    if (event->kind != ENGINE_EVENT_DONE) return ENGINE_OK;
    run->n_done++;
    run->prefill_ms = event->usage.prefill_ms;
    run->prompt_tokens = event->usage.prompt_tokens;
    return event->finish == ENGINE_FINISH_ERROR ? fail(bench, event->status, "%s", event->message) : ENGINE_OK;
}

static int take_events(struct bench *bench, struct run *run) {
    struct engine_event events[64];
    int rc = ENGINE_OK;
    for (int n; rc == ENGINE_OK && (n = engine_poll(bench->engine, events, 64)) > 0;)
        for (int i = 0; i < n && rc == ENGINE_OK; i++) rc = take_event(bench, run, &events[i]);
    return rc;
}

/* The engine's own counts after its latest step; steps that this thread misses are like those that it sees. */
static void look_at_step(struct bench *bench, struct run *run) {
    struct engine_stats stats;
    engine_stats(bench->engine, &stats);
    if (stats.steps == run->last_step || stats.n_running == 0) return;
    run->last_step = stats.steps;
    run->held_tokens += stats.kv_tokens;
    run->held_seqs += stats.n_running;
    run->held_slots += (double)stats.blocks_used * KV_BLOCK;
    run->n_steps++;
}

/* prompts[i] tokens each, n_generate more. */
static int run_batch(struct bench *bench, struct run *run, const int *prompts, int n, int n_generate) {
    uint64_t random = 1, id = 0;
    int rc = ENGINE_OK;
    *run = (struct run){0};
    engine_stats(bench->engine, &run->before);
    for (int i = 0; i < n && rc == ENGINE_OK; i++) rc = submit(bench, prompts[i], n_generate, &random, &id);
    while (rc == ENGINE_OK && run->n_done < n) {
        engine_wait(bench->engine, 1000);
        rc = take_events(bench, run);
        look_at_step(bench, run);
    }
    engine_stats(bench->engine, &run->after);
    if (rc != ENGINE_OK || run->after.preemptions == run->before.preemptions) return rc;
    return fail(bench, ENGINE_ERR_ARGUMENT, "%d sequences did not fit the KV memory of %d tokens; lower --batch or --depth", n,
                run->after.blocks_total * KV_BLOCK);
}

/* --- the parts --- */

typedef int measure_function(struct bench *bench, int at, double *rate);
typedef double probe_function(const struct backend *backend); /* of what the machine can do */

/* The median of --runs runs for each point of a series, of fewer where one takes long. *limit: of probes by turns with the runs
 * of its first point, or of point 1. */
static int measure_series(struct bench *bench, struct bench_series *series, const char *what, measure_function *measure,
                          probe_function *probe, double *limit) {
    const double enough_ms = 8000;
    double rates[BENCH_MAX_RUNS], limits[BENCH_MAX_RUNS];
    for (int p = 0; p < series->n; p++) {
        const double start = now_ms();
        int i = 0;
        for (; i < bench->settings.n_runs && (i == 0 || now_ms() - start < enough_ms); i++) {
            bench_progress("%s %d, run %d of %d", what, series->at[p], i + 1, bench->settings.n_runs);
            limits[i] = probe(&bench->engine->backend);
            int rc = measure(bench, series->at[p], &rates[i]);
            if (rc != ENGINE_OK) return rc;
        }
        series->value[p] = bench_median(rates, i);
        if (p == 0 || series->at[p] == 1) *limit = bench_median(limits, i);
    }
    return ENGINE_OK;
}

static int prefill_once(struct bench *bench, int n_prompt, double *rate) {
    struct run run;
    int rc = run_batch(bench, &run, &n_prompt, 1, 1);
    if (rc == ENGINE_OK) *rate = run.prompt_tokens * 1e3 / (double)run.prefill_ms;
    return rc;
}

/* Behind a short prompt, so that the first series does not pay for memory that is touched for the first time. */
int bench_prefill(struct bench *bench) {
    enum { WARM_UP_TOKENS = 16 };
    double rate;
    int rc = prefill_once(bench, WARM_UP_TOKENS, &rate);
    if (rc != ENGINE_OK) return rc;
    return measure_series(bench, &bench->result.prefill, "prefill, tokens", prefill_once, backend_cpu_int8_speed,
                          &bench->result.int8_speed);
}

int bench_decode_tokens(const struct bench *bench, int n) {
    const int prefill_rows = bench->engine->config.step_tokens - n;
    return bench->settings.n_generate + n * bench->settings.depth / prefill_rows + 2;
}

/* Bytes of keys and values that attention reads for a token with so many before it. */
static double kv_bytes(const struct bench *bench, double n_tokens) {
    const struct kv_pool *pool = &bench->engine->pool;
    const struct model_shape *shape = &bench->engine->model->shape;
    double layers = 0; /* that read all */
    for (int i = 0; i < shape->n_layers; i++)
        layers += shape->window > 0 && shape->is_local[i] && n_tokens > shape->window ? shape->window / n_tokens : 1;
    return n_tokens * layers / shape->n_layers * (double)pool->block_bytes / KV_BLOCK;
}

/* Where the first answers end before the last prompt is computed, there is another try, twice as long. */
static int decode_once(struct bench *bench, int n, double *rate) {
    enum { TRIES = 5 };
    int prompts[BENCH_MAX_BATCH], n_generate = bench_decode_tokens(bench, n);
    for (int i = 0; i < n; i++) prompts[i] = bench->settings.depth;
    for (int try = 0; try < TRIES && bench->settings.depth + n_generate <= bench->engine->limit; try++, n_generate *= 2) {
        struct run run;
        int rc = run_batch(bench, &run, prompts, n, n_generate);
        if (rc != ENGINE_OK) return rc;
        const struct engine_even *even = &run.after.even;
        if (even->n_seqs != n || (double)even->n_tokens < 0.5 * n * bench->settings.n_generate) continue;
        *rate = (double)even->n_tokens * 1e3 / even->ms;
        if (n == 1) bench->result.kv_bytes = kv_bytes(bench, bench->settings.depth + n_generate / 2.0);
        return ENGINE_OK;
    }
    return fail(bench, ENGINE_ERR_BUSY, "the first of %d answers ended before all had begun; more --generate might do", n);
}

int bench_decode(struct bench *bench) {
    return measure_series(bench, &bench->result.decode, "decode, batch", decode_once, backend_cpu_read_speed,
                          &bench->result.read_speed);
}

/* Lengths from a fifth of the longest to the longest, in an order of chance. */
int bench_block_use(struct bench *bench) {
    enum { N = BENCH_BLOCK_SEQS, LONGEST = 448, GENERATE = 32 };
    const int room = (bench->engine->limit - GENERATE), longest = room < LONGEST ? room : LONGEST;
    int prompts[N];
    struct run run;
    for (int i = 0; i < N; i++) prompts[i] = longest / 5 + i * 7 % N * (longest - longest / 5) / (N - 1);
    bench_progress("KV blocks of %d sequences of mixed lengths", N);
    int rc = run_batch(bench, &run, prompts, N, GENERATE);
    if (rc != ENGINE_OK) return rc;
    bench->result.blocks = (struct bench_blocks){.n_seqs = N,
                                                 .n_steps = run.n_steps,
                                                 .mean_tokens = run.held_tokens / run.held_seqs,
                                                 .waste = 1 - run.held_tokens / run.held_slots};
    return ENGINE_OK;
}
