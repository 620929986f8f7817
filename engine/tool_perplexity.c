/* tool_perplexity.c - `foresay perplexity`: how well a model predicts a text.
 *
 * The text is cut into windows of ctx tokens. Each window is a context of its own; its first half only warms it up, every token
 * of the second half but the first is scored: with ctx = 512, positions 256 .. 510 predict tokens 257 .. 511. Models that begin
 * texts with BOS get it in place of each window's first token. These are the windows of llama.cpp's perplexity tool, so the
 * numbers compare. PPL = exp(mean of -log p); the error is one standard error of that mean, carried through exp. Main thread. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/internal.h"
#include "engine/log.h"
#include "engine/options.h"
#include "engine/tools.h"

enum { CHUNK = 256 /* rows of one pass */ };

struct settings {
    const char *model, *file, *isa, *kv_type, *activations;
    int ctx, threads, max_windows;
};

struct bench_model {
    struct backend backend;
    struct model *model;
    struct tokenizer *tokenizer;
    struct kv_pool pool;
    int32_t *blocks; /* 0 .. n - 1: one sequence owns the pool */
};

struct score {
    double nll, nll_squared; /* sums */
    long count;
};

static int fail(const char *text) {
    fprintf(stderr, "foresay perplexity: %s\n", text);
    return 1;
}

/* --- input --- */

static char *read_file(const char *path, size_t *len) {
    FILE *file = fopen(path, "rbe");
    char *text = NULL;
    if (!file) return NULL;
    long size = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    if (size >= 0 && fseek(file, 0, SEEK_SET) == 0) text = malloc((size_t)size + 1);
    if (text && fread(text, 1, (size_t)size, file) != (size_t)size) {
        free(text);
        text = NULL;
    }
    *len = (size_t)(size > 0 ? size : 0);
    fclose(file);
    return text;
}

static void close_model(struct bench_model *m) {
    if (m->pool.data) kv_pool_free(&m->backend, &m->pool);
    model_close(m->model);
    if (m->backend.ops) m->backend.ops->close(m->backend.self);
    tokenizer_close(m->tokenizer);
    free(m->blocks);
}

static int open_model(struct bench_model *m, const struct gguf *gguf, const struct settings *settings,
                      struct engine_error *error) {
    struct backend_config config = {.isa = settings->isa, .n_threads = settings->threads};
    struct model_shape shape;
    struct kv_shape kv_shape;
    struct model_limits limits = {.max_rows = CHUNK, .max_logits = CHUNK, .ctx_len = settings->ctx};
    int rc, n_blocks = kv_blocks_for(settings->ctx);
    if ((rc = model_read_shape(&shape, gguf, error)) || (rc = model_kv_shape(&shape, settings->kv_type, &kv_shape, error)) ||
        (rc = model_activations(&shape, settings->activations, &limits.rests, error)) ||
        (rc = tokenizer_open(&m->tokenizer, gguf, error)))
        return rc;
    if (settings->ctx > shape.ctx_train) {
        snprintf(error->text, sizeof error->text, "--ctx is %d, but this model was trained for %d tokens", settings->ctx,
                 shape.ctx_train);
        return ENGINE_ERR_ARGUMENT;
    }
    if (backend_open_cpu(&m->backend, &config, error->text, sizeof error->text) != KERNELS_OK) return ENGINE_ERR_ARGUMENT;
    rc = model_open(&m->model, gguf, &shape, &m->backend, &limits, error);
    log_progress_end();
    if (rc != ENGINE_OK) return rc;
    m->blocks = malloc((size_t)n_blocks * sizeof *m->blocks);
    if (!m->blocks || kv_pool_alloc(&m->backend, n_blocks, &kv_shape, &m->pool) != KERNELS_OK) {
        snprintf(error->text, sizeof error->text, "no memory for %d tokens of context; lower --ctx", settings->ctx);
        return ENGINE_ERR_MEMORY;
    }
    for (int32_t i = 0; i < n_blocks; i++) m->blocks[i] = i;
    return ENGINE_OK;
}

/* --- scoring --- */

static double minus_log_p(const float *logits, int n, int32_t token) {
    float max = logits[0];
    double sum = 0;
    for (int i = 1; i < n; i++) max = logits[i] > max ? logits[i] : max;
    for (int i = 0; i < n; i++) sum += (double)sampler_exp(logits[i] - max);
    return log(sum) - ((double)logits[token] - (double)max);
}

/* Rows from `first` on are scored; the last one has nothing to predict. */
static void score_window(struct bench_model *m, const int32_t *tokens, int n, struct score *score) {
    int32_t rows[CHUNK];
    int first_scored = n / 2, vocab_size = m->model->shape.vocab_size;
    for (int first = 0; first < n; first += CHUNK) {
        int n_rows = first + CHUNK <= n ? CHUNK : n - first, n_logits = 0;
        for (int row = 0; row < n_rows; row++) {
            if (first + row >= first_scored && first + row < n - 1) rows[n_logits++] = row;
        }
        struct kernels_seq seq = {.first_row = 0, .n_rows = n_rows, .first_pos = first, .blocks = m->blocks};
        struct model_batch batch = {
            .tokens = tokens + first, .n_rows = n_rows, .seqs = &seq, .n_seqs = 1, .logit_rows = rows, .n_logits = n_logits};
        model_forward(m->model, &m->pool, &batch);
        for (int i = 0; i < n_logits; i++) {
            double value = minus_log_p(model_logits(m->model, i), vocab_size, tokens[first + rows[i] + 1]);
            score->nll += value;
            score->nll_squared += value * value;
            score->count++;
        }
    }
}

/* Estimate and standard error. */
static void estimate(const struct score *score, double *ppl, double *error) {
    double mean = score->nll / (double)score->count;
    double variance = score->nll_squared / (double)score->count - mean * mean;
    *ppl = exp(mean);
    *error = variance > 0 && score->count > 1 ? sqrt(variance / (double)(score->count - 1)) * *ppl : 0;
}

static int score_text(struct bench_model *m, const struct settings *settings, struct token_list *list) {
    struct score score = {0};
    double ppl = 0, error = 0, start_ms = now_ms();
    bool is_terminal = isatty(STDERR_FILENO);
    int n_windows = (int)(list->n / (size_t)settings->ctx);
    if (list->n < 2 * (size_t)settings->ctx) {
        char text[160];
        snprintf(text, sizeof text, "the text has %zu tokens; two windows of --ctx %d need %d", list->n, settings->ctx,
                 2 * settings->ctx);
        return fail(text);
    }
    if (settings->max_windows > 0 && settings->max_windows < n_windows) n_windows = settings->max_windows;
    for (int i = 0; i < n_windows; i++) {
        int32_t *tokens = list->ids + (size_t)i * (size_t)settings->ctx;
        if (tokenizer_adds_bos(m->tokenizer)) tokens[0] = tokenizer_bos(m->tokenizer);
        score_window(m, tokens, settings->ctx, &score);
        if (!isfinite(score.nll)) return fail("the model produced a value that is not finite");
        estimate(&score, &ppl, &error);
        fprintf(stderr, "window %d of %d: PPL %.4f, %.0f tok/s%c", i + 1, n_windows, ppl,
                (i + 1.0) * settings->ctx * 1e3 / (now_ms() - start_ms), is_terminal ? '\r' : '\n');
    }
    if (is_terminal) fprintf(stderr, "\n");
    printf("%d windows of %d tokens, %ld tokens scored\n", n_windows, settings->ctx, score.count);
    printf("PPL = %.4f +/- %.4f\n", ppl, error);
    return fflush(stdout) == 0 ? 0 : fail("cannot write the output");
}

static int measure(const struct settings *settings) {
    struct bench_model m = {0};
    struct token_list list = {0};
    struct engine_error error = {"the text could not be tokenized"};
    struct gguf *gguf = NULL;
    size_t len = 0;
    int rc = 1;
    char *text = read_file(settings->file, &len);
    if (!text) {
        snprintf(error.text, sizeof error.text, "cannot read %s", settings->file);
        return fail(error.text);
    }
    if (gguf_open(&gguf, settings->model, &error) != ENGINE_OK || open_model(&m, gguf, settings, &error) != ENGINE_OK ||
        tokenizer_encode_prompt(m.tokenizer, text, len, &list) != ENGINE_OK)
        fail(error.text);
    else
        rc = score_text(&m, settings, &list);
    token_list_free(&list);
    close_model(&m);
    gguf_close(gguf);
    free(text);
    return rc;
}

int tool_perplexity(int argc, char **argv) {
    struct settings s = {.ctx = 512};
    struct option_row rows[] = {
        {"model", OPTION_STRING, &s.model, "FILE", "GGUF file", 0, 0, false},
        {"file", OPTION_STRING, &s.file, "TEXT", "file with the text", 0, 0, false},
        {"ctx", OPTION_INT, &s.ctx, "N", "tokens of a window", 4, 1 << 24, false},
        {"windows", OPTION_INT, &s.max_windows, "N", "stop after N windows, 0 = all", 0, 1 << 24, false},
        {"threads", OPTION_INT, &s.threads, "N", "compute threads, 0 = all that are granted", 0, 1024, false},
        {"kv-type", OPTION_STRING, &s.kv_type, "TYPE", "keys and values as auto, f16, int8 or int4", 0, 0, false},
        {"activations", OPTION_STRING, &s.activations, "TYPE", "inputs of products as auto, int8, mixed or int16", 0, 0, false},
        {"isa", OPTION_STRING, &s.isa, "NAME", "auto, scalar, avx2, avxvnni, avx512 or amx", 0, 0, false},
    };
    struct option_set set = {.command = "perplexity",
                             .usage = "--model FILE --file TEXT [--ctx 512]",
                             .about =
                                 "Measures how well a model predicts a text, in the windows of llama.cpp's perplexity tool:\n"
                                 "each window of --ctx tokens stands alone and is scored in its second half.",
                             .rows = rows,
                             .n_rows = sizeof rows / sizeof *rows};
    int rc = options_parse(&set, argc, argv, NULL);
    if (rc) return rc == 1 ? 0 : rc;
    if (!s.model || !s.file) {
        fprintf(stderr, "foresay perplexity: --model and --file are needed (foresay perplexity --help)\n");
        return 2;
    }
    log_set_level(LOG_WARN);
    return measure(&s);
}
