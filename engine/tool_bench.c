/* tool_bench.c - `foresay bench`: how fast a model runs on this machine, and how much of what the machine can give that is.
 *
 * The parts of a run follow each other (bench.h); what the machine gives is measured beside the part that it limits. Every number
 * is the median of several runs. Main thread. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/bench.h"
#include "engine/log.h"
#include "engine/options.h"
#include "engine/tools.h"

const char *const bench_part_names[BENCH_N_PARTS] = {"prefill", "decode", "verify", "context", "blocks"};

static int fail(const char *text) {
    bench_progress_end();
    fprintf(stderr, "foresay bench: %s\n", text);
    return 1;
}

/* --- what the parts share --- */

static int compare_doubles(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

double bench_median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

void bench_progress(const char *format, ...) {
    char text[79]; /* one line of a terminal */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%-78s", text);
    else
        fprintf(stderr, "%s\n", text);
}

void bench_progress_end(void) {
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%-78s\r", "");
}

/* --- lists --- */

/* "1,2,4", each 1 .. max. */
static bool parse_series(const char *option, const char *text, int max, struct bench_series *series) {
    for (const char *at = text;; at++) {
        char *end;
        long n = strtol(at, &end, 10);
        const bool is_number = end > at && (*end == 0 || *end == ',') && n >= 1 && n <= max;
        if (!is_number || series->n == BENCH_MAX_POINTS) {
            fprintf(stderr, "foresay bench: --%s is \"%s\"; it must be a list such as 1,2,4 of up to %d numbers from 1 to %d\n",
                    option, text, BENCH_MAX_POINTS, max);
            return false;
        }
        series->at[series->n++] = (int)n;
        at = end;
        if (*at == 0) return true;
    }
}

static bool parse_parts(struct bench_settings *s) {
    const char *at = s->parts;
    for (;;) {
        size_t len = strcspn(at, ",");
        int part = 0;
        while (part < BENCH_N_PARTS && (strlen(bench_part_names[part]) != len || strncmp(at, bench_part_names[part], len) != 0))
            part++;
        if (part == BENCH_N_PARTS) {
            fprintf(stderr, "foresay bench: --only has no part \"%.*s\"; there are prefill, decode, verify, context and blocks\n",
                    (int)len, at);
            return false;
        }
        s->wants[part] = true;
        if (at[len] == 0) return true;
        at += len + 1;
    }
}

static bool parse_lists(struct bench *b) {
    struct bench_settings *s = &b->settings;
    enum { MOST_TOKENS = 1 << 20 };
    return parse_parts(s) && (!s->wants[BENCH_PREFILL] || parse_series("prompt", s->prompts, MOST_TOKENS, &b->result.prefill)) &&
           (!s->wants[BENCH_DECODE] || parse_series("batch", s->batches, BENCH_MAX_BATCH, &b->result.decode)) &&
           (!s->wants[BENCH_VERIFY] || parse_series("rows", s->rows, BENCH_MAX_ROWS, &b->result.verify)) &&
           (!s->wants[BENCH_CONTEXT] || parse_series("context", s->contexts, MOST_TOKENS, &b->result.context));
}

static int largest(const struct bench_series *series) {
    int n = 0;
    for (int i = 0; i < series->n; i++) n = series->at[i] > n ? series->at[i] : n;
    return n;
}

/* --- sizes --- */

/* Lengths that the model cannot hold are left out of the defaults, and refused when they were asked for. */
static int fit_series(struct bench *b, const struct option_set *set, const char *option, int room, struct bench_series *series) {
    int n = 0;
    for (int i = 0; i < series->n; i++) {
        if (series->at[i] <= room) {
            series->at[n++] = series->at[i];
        } else if (options_seen(set, option)) {
            snprintf(b->error.text, sizeof b->error.text,
                     "--%s has %d, but with this model and --ctx there is room for %d tokens", option, series->at[i], room);
            return ENGINE_ERR_ARGUMENT;
        }
    }
    series->n = n;
    return ENGINE_OK;
}

static int fit_lists(struct bench *b, const struct option_set *set) {
    const struct bench_settings *s = &b->settings;
    const int limit = b->engine->limit, margin = 2, most_rows = largest(&b->result.verify);
    int rc = fit_series(b, set, "prompt", limit - margin, &b->result.prefill);
    if (rc == ENGINE_OK) rc = fit_series(b, set, "context", limit - margin, &b->result.context);
    if (rc != ENGINE_OK || s->depth + most_rows + bench_decode_tokens(b, largest(&b->result.decode)) <= limit) return rc;
    snprintf(b->error.text, sizeof b->error.text, "--depth %d and --generate %d do not fit this model's context of %d tokens",
             s->depth, s->n_generate, limit);
    return ENGINE_ERR_ARGUMENT;
}

/* --- the run --- */

static int measure(struct bench *b) {
    const bool *wants = b->settings.wants;
    int rc = bench_find_words(b);
    if (rc == ENGINE_OK && wants[BENCH_PREFILL]) rc = bench_prefill(b);
    if (rc == ENGINE_OK && wants[BENCH_DECODE]) rc = bench_decode(b);
    if (rc == ENGINE_OK && wants[BENCH_VERIFY]) rc = bench_verify(b);
    if (rc == ENGINE_OK && wants[BENCH_CONTEXT]) rc = bench_context(b);
    if (rc == ENGINE_OK && wants[BENCH_BLOCKS]) rc = bench_block_use(b);
    bench_progress_end();
    return rc;
}

static int read_cost(struct bench *b) {
    struct model_shape shape;
    struct gguf *gguf;
    int rc = gguf_open(&gguf, b->settings.model, &b->error);
    if (rc != ENGINE_OK) return rc;
    rc = model_read_shape(&shape, gguf, &b->error);
    if (rc == ENGINE_OK) b->result.cost = model_cost(gguf, &shape);
    gguf_close(gguf);
    return rc;
}

static int open_engine(struct bench *b, struct engine **out) {
    const struct bench_settings *s = &b->settings;
    int n_seqs = largest(&b->result.decode), n_logits = largest(&b->result.verify);
    struct engine_config config = engine_config_default();
    config.model_path = s->model;
    config.isa = s->isa;
    config.kv_type = s->kv_type;
    config.activations = s->activations;
    config.n_threads = s->threads;
    config.drafter = s->drafter;
    config.draft_files = s->draft_files;
    config.verify = s->verify;
    config.max_seqs = n_logits > n_seqs ? n_logits : n_seqs;
    if (config.max_seqs < BENCH_BLOCK_SEQS) config.max_seqs = BENCH_BLOCK_SEQS;
    config.step_tokens = s->step_tokens > 2 * config.max_seqs ? s->step_tokens : 2 * config.max_seqs;
    config.draft_max = s->draft_max;
    config.draft_width = s->draft_width;
    config.prefix_cache = s->speculative; /* else every run computes its prompt */
    int rc = engine_open_beside(out, &config, b->engine, &b->error);
    if (rc == ENGINE_OK) engine_events_per_token(*out);
    return rc;
}

static int run(struct bench *b, const struct option_set *set) {
    const struct bench_settings *s = &b->settings;
    int rc = read_cost(b);
    bench_progress("loading %s", b->settings.model);
    if (rc == ENGINE_OK) rc = open_engine(b, &b->engine);
    if (rc == ENGINE_OK && s->speculative) rc = open_engine(b, &b->rival);
    if (rc == ENGINE_OK) rc = fit_lists(b, set);
    if (rc == ENGINE_OK) rc = s->speculative ? bench_speculative(b) : measure(b);
    if (rc == ENGINE_OK && !s->speculative) bench_report(b);
    engine_close(b->rival);
    engine_close(b->engine);
    if (rc != ENGINE_OK) return fail(b->error.text);
    return fflush(stdout) == 0 ? 0 : fail("cannot write the output");
}

int tool_bench(int argc, char **argv) {
    struct bench b = {.settings = {.parts = "prefill,decode,verify,context,blocks",
                                   .prompts = "128,512,2048",
                                   .batches = "1,2,4,8,16",
                                   .rows = "1,2,4,8,16",
                                   .contexts = "128,512,2048,8000",
                                   .drafter_name = "none",
                                   .verify_name = "match",
                                   .depth = 128,
                                   .n_generate = 64,
                                   .n_runs = 3,
                                   .draft_max = engine_config_default().draft_max,
                                   .draft_width = engine_config_default().draft_width,
                                   .step_tokens = engine_config_default().step_tokens}};
    struct bench_settings *s = &b.settings;
    struct option_row rows[] = {
        {"model", OPTION_STRING, &s->model, "FILE", "GGUF file", 0, 0, false},
        {"threads", OPTION_INT, &s->threads, "N", "compute threads, 0 = all that are granted", 0, 1024, false},
        {"only", OPTION_STRING, &s->parts, "LIST", "parts to run: prefill,decode,verify,context,blocks", 0, 0, false},
        {"prompt", OPTION_STRING, &s->prompts, "LIST", "prefill: tokens of a prompt", 0, 0, false},
        {"batch", OPTION_STRING, &s->batches, "LIST", "decode: sequences at once", 0, 0, false},
        {"rows", OPTION_STRING, &s->rows, "LIST", "verify: rows of one sequence in a step", 0, 0, false},
        {"context", OPTION_STRING, &s->contexts, "LIST", "context: tokens before a decode step", 0, 0, false},
        {"depth", OPTION_INT, &s->depth, "N", "decode, verify: tokens before them", 2, 1 << 20, false},
        {"generate", OPTION_INT, &s->n_generate, "N", "decode: steps that are measured", 2, 1 << 20, false},
        {"runs", OPTION_INT, &s->n_runs, "N", "runs behind each median of prefill, decode and --speculative", 1, BENCH_MAX_RUNS,
         false},
        {"step-tokens", OPTION_INT, &s->step_tokens, "N", "rows of one step of the engine", 1, 1 << 16, false},
        {"kv-type", OPTION_STRING, &s->kv_type, "TYPE", "keys and values as auto, f16, int8 or int4", 0, 0, false},
        {"activations", OPTION_STRING, &s->activations, "TYPE", "inputs of products as auto, int8, mixed or int16", 0, 0, false},
        {"isa", OPTION_STRING, &s->isa, "NAME", "auto, scalar, avx2, avxvnni, avx512 or amx", 0, 0, false},
        {"drafter", OPTION_STRING, &s->drafter_name, "NAME", "who guesses ahead: " ENGINE_DRAFTER_FORMS, 0, 0, false},
        {"verify", OPTION_STRING, &s->verify_name, "NAME", "how guesses are checked: " ENGINE_VERIFY_FORMS " (lossy)", 0, 0,
         false},
        {"speculative", OPTION_FLAG, &s->speculative, NULL, "what the drafter gains, by classes of prompts, instead", 0, 0,
         false},
        {"draft-max", OPTION_INT, &s->draft_max, "N", "tokens guessed in a step at most", 1, 63, false},
        {"draft-width", OPTION_INT, &s->draft_width, "N", "guesses for the same place; 1 = chains, not trees", 1, 63, false},
        {"json", OPTION_FLAG, &s->json, NULL, "JSON instead of a table", 0, 0, false},
    };
    struct option_set set = {
        .command = "bench",
        .usage = "--model FILE [--only decode --batch 1,16] [--json]",
        .about = "Measures a model on this machine: prefill and decode through the whole engine (sampling included),\n"
                 "steps that verify several rows, decode behind long contexts, use of KV blocks; and what share of the\n"
                 "memory's speed and of the processor's int8 products they reach.",
        .rows = rows,
        .n_rows = sizeof rows / sizeof *rows};
    int rc = options_parse(&set, argc, argv, NULL);
    if (rc) return rc == 1 ? 0 : rc;
    if (!s->model) {
        fprintf(stderr, "foresay bench: --model is needed (foresay bench --help)\n");
        return 2;
    }
    if (s->speculative && !options_seen(&set, "batch")) s->batches = "1,4,16";
    if (s->speculative && !options_seen(&set, "generate")) s->n_generate = 256;
    if (s->speculative && !options_seen(&set, "drafter")) s->drafter_name = "auto";
    if (!parse_lists(&b)) return 2;
    if (!engine_drafter_parse(s->drafter_name, &s->drafter, &s->draft_files)) {
        fprintf(stderr, "foresay bench: --drafter is " ENGINE_DRAFTER_FORMS ", not '%s'\n", s->drafter_name);
        return 2;
    }
    if (!engine_verify_parse(s->verify_name, &s->verify)) {
        fprintf(stderr, "foresay bench: --verify is " ENGINE_VERIFY_FORMS ", not '%s'\n", s->verify_name);
        return 2;
    }
    log_set_level(LOG_WARN);
    return run(&b, &set);
}
