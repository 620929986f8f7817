/* tool_bench.c - `foresay bench`: prefill and decode speed of a model on this machine.
 *
 * Everything goes through the engine as a chat would, sampling (greedy) and scheduling included. Prefill: a prompt of --prompt
 * tokens, from its first step to its first token. Decode: for each batch size so many sequences at once, --generate tokens each;
 * the sum of their rates between their first and last tokens. Every number is the median of --runs runs after one warm-up. Main
 * thread. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "engine/engine.h"
#include "engine/log.h"
#include "engine/memory.h"
#include "engine/options.h"
#include "engine/tools.h"

enum { MAX_BATCHES = 32, MAX_BATCH = 1024, MAX_RUNS = 101, DECODE_PROMPT = 16 };

struct settings {
    const char *model, *batches, *isa, *kv_type;
    int threads, n_prompt, n_generate, n_runs, step_tokens;
    bool json;
    int batch[MAX_BATCHES], n_batches, largest;
};

struct result {
    double prefill, decode[MAX_BATCHES]; /* tok/s */
};

static int fail(const char *text) {
    fprintf(stderr, "foresay bench: %s\n", text);
    return 1;
}

/* "1,2,4" */
static bool parse_batches(struct settings *s) {
    const char *at = s->batches;
    for (;;) {
        char *end;
        long n = strtol(at, &end, 10);
        if (end == at || n < 1 || n > MAX_BATCH || s->n_batches == MAX_BATCHES) return false;
        s->batch[s->n_batches++] = (int)n;
        if (n > s->largest) s->largest = (int)n;
        if (*end == 0) return true;
        if (*end != ',') return false;
        at = end + 1;
    }
}

static int compare_doubles(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* About n tokens of text: byte-level vocabularies have " the" as one token. */
static char *make_prompt(int n, int variant) {
    static const char word[] = " the";
    char *text = malloc((size_t)n * (sizeof word - 1) + 32);
    if (!text) return NULL;
    size_t len = (size_t)snprintf(text, 32, "%c", 'A' + variant % 26);
    for (int i = 1; i < n; i++, len += sizeof word - 1) memcpy(text + len, word, sizeof word - 1);
    text[len] = 0;
    return text;
}

static int submit(struct engine *engine, int n_prompt, int n_generate, int variant, struct engine_error *error) {
    char *prompt = make_prompt(n_prompt, variant);
    uint64_t id;
    if (!prompt) {
        snprintf(error->text, sizeof error->text, "no memory");
        return ENGINE_ERR_MEMORY;
    }
    struct engine_request request = {.prompt = prompt,
                                     .prompt_len = strlen(prompt),
                                     .max_tokens = n_generate,
                                     .sampling = engine_sampling_default(),
                                     .ignore_eos = true};
    request.sampling.temperature = 0;
    int rc = engine_submit(engine, &request, &id, error);
    free(prompt);
    return rc;
}

/* n requests side by side. *prefill is the last one's rate, *decode the sum of all. */
static int run_once(struct engine *engine, int n, int n_prompt, int n_generate, double *prefill, double *decode,
                    struct engine_error *error) {
    struct engine_event event;
    *prefill = *decode = 0;
    for (int i = 0; i < n; i++) {
        int rc = submit(engine, n_prompt, n_generate, i, error);
        if (rc != ENGINE_OK) return rc;
    }
    while (n > 0) {
        if (engine_poll(engine, &event, 1) == 0) {
            engine_wait(engine, 1000);
            continue;
        }
        if (event.kind != ENGINE_EVENT_DONE) continue;
        n--;
        const struct engine_usage *usage = &event.usage;
        if (event.finish == ENGINE_FINISH_ERROR) {
            snprintf(error->text, sizeof error->text, "%s", event.message);
            return event.status;
        }
        *prefill = usage->prompt_tokens * 1e3 / (double)usage->prefill_ms;
        if (usage->output_tokens > 1) *decode += (usage->output_tokens - 1) * 1e3 / (double)usage->decode_ms;
    }
    return ENGINE_OK;
}

static int measure(struct engine *engine, const struct settings *s, struct result *result, struct engine_error *error) {
    double prefill[MAX_RUNS], decode[MAX_RUNS], unused;
    int rc = run_once(engine, 1, s->n_prompt < 64 ? s->n_prompt : 64, 8, &unused, &unused, error);
    for (int run = 0; run < s->n_runs && rc == ENGINE_OK; run++)
        rc = run_once(engine, 1, s->n_prompt, 1, &prefill[run], &unused, error);
    if (rc != ENGINE_OK) return rc;
    result->prefill = median(prefill, s->n_runs);
    for (int b = 0; b < s->n_batches; b++) {
        for (int run = 0; run < s->n_runs && rc == ENGINE_OK; run++)
            rc = run_once(engine, s->batch[b], DECODE_PROMPT, s->n_generate, &unused, &decode[run], error);
        if (rc != ENGINE_OK) return rc;
        result->decode[b] = median(decode, s->n_runs);
    }
    return ENGINE_OK;
}

static void report(const struct engine *engine, const struct settings *s, const struct result *result) {
    struct engine_info info;
    struct rusage usage;
    char memory[32];
    engine_info(engine, &info);
    getrusage(RUSAGE_SELF, &usage);
    uint64_t peak = (uint64_t)usage.ru_maxrss * 1024;
    if (s->json) {
        printf("{\"isa\": \"%s\", \"threads\": %d, \"prefill_tok_s\": %.2f, \"decode\": [", info.isa, info.n_threads,
               result->prefill);
        for (int b = 0; b < s->n_batches; b++)
            printf("%s{\"batch\": %d, \"tok_s\": %.2f}", b ? ", " : "", s->batch[b], result->decode[b]);
        printf("], \"peak_memory_bytes\": %llu}\n", (unsigned long long)peak);
        return;
    }
    printf("%s, %s, %.1f M parameters, %s, %d threads, median of %d runs\n\n", info.model_name, info.quantization,
           (double)info.n_parameters / 1e6, info.isa, info.n_threads, s->n_runs);
    printf("prefill %5d tokens  %10.1f tok/s\n", s->n_prompt, result->prefill);
    for (int b = 0; b < s->n_batches; b++)
        printf("decode  batch %4d    %10.1f tok/s  %8.1f each\n", s->batch[b], result->decode[b],
               result->decode[b] / s->batch[b]);
    printf("\npeak memory %s\n", memory_format(peak, memory, sizeof memory));
}

static int bench(const struct settings *s) {
    struct engine *engine;
    struct engine_error error;
    struct result result = {0};
    struct engine_config config = engine_config_default();
    config.model_path = s->model;
    config.isa = s->isa;
    config.kv_type = s->kv_type;
    config.n_threads = s->threads;
    config.max_seqs = s->largest;
    config.step_tokens = s->step_tokens > s->largest ? s->step_tokens : s->largest;
    config.prefix_cache = false; /* every run computes its prompt */
    if (engine_open(&engine, &config, &error) != ENGINE_OK) return fail(error.text);
    int rc = measure(engine, s, &result, &error);
    if (rc == ENGINE_OK) report(engine, s, &result);
    engine_close(engine);
    if (rc != ENGINE_OK) return fail(error.text);
    return fflush(stdout) == 0 ? 0 : fail("cannot write the output");
}

int tool_bench(int argc, char **argv) {
    struct settings s = {.batches = "1,2,4,8,16",
                         .n_prompt = 512,
                         .n_generate = 128,
                         .n_runs = 3,
                         .step_tokens = engine_config_default().step_tokens};
    struct option_row rows[] = {
        {"model", OPTION_STRING, &s.model, "FILE", "GGUF file", 0, 0, false},
        {"threads", OPTION_INT, &s.threads, "N", "compute threads, 0 = all that are granted", 0, 1024, false},
        {"prompt", OPTION_INT, &s.n_prompt, "N", "tokens of the prefill", 2, 1 << 20, false},
        {"generate", OPTION_INT, &s.n_generate, "N", "tokens each sequence decodes", 2, 1 << 20, false},
        {"batch", OPTION_STRING, &s.batches, "LIST", "sequences at once", 0, 0, false},
        {"runs", OPTION_INT, &s.n_runs, "N", "runs behind each median", 1, MAX_RUNS, false},
        {"step-tokens", OPTION_INT, &s.step_tokens, "N", "rows of one step", 1, 1 << 16, false},
        {"kv-type", OPTION_STRING, &s.kv_type, "TYPE", "keys and values as f16, int8 or int4", 0, 0, false},
        {"isa", OPTION_STRING, &s.isa, "NAME", "auto, scalar, avx2, avxvnni, avx512 or amx", 0, 0, false},
        {"json", OPTION_FLAG, &s.json, NULL, "one JSON object instead of a table", 0, 0, false},
    };
    struct option_set set = {.command = "bench",
                             .usage = "--model FILE [--batch 1,2,4,8,16] [--json]",
                             .about = "Measures prefill and decode speed through the whole engine, sampling included.",
                             .rows = rows,
                             .n_rows = sizeof rows / sizeof *rows};
    int rc = options_parse(&set, argc, argv, NULL);
    if (rc) return rc == 1 ? 0 : rc;
    if (!s.model || !parse_batches(&s)) {
        fprintf(stderr, "foresay bench: --model is needed, --batch is a list such as 1,2,4 (foresay bench --help)\n");
        return 2;
    }
    log_set_level(LOG_WARN);
    return bench(&s);
}
