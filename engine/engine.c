/* engine.c - opening and closing: sizes, memory, threads; facts and counters. The life of a request is in requests.c, step.c and
 * events.c.
 *
 * How much memory: weights as repacked, buffers for one step, and the KV pool. Without kv_bytes the pool holds max_seqs
 * sequences of DEFAULT_SEQ_TOKENS tokens, but takes at most a quarter of the available memory, and at least one sequence of the
 * full context fits. All of it is added up and compared with what the system has before anything large is allocated. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/draft_model.h"
#include "engine/internal.h"
#include "engine/log.h"
#include "engine/memory.h"
#include "engine/utf8.h"

enum {
    DEFAULT_SEQ_TOKENS = 2048, /* a long chat */
    DEFAULT_CTX = 8192,
    MAX_SEQS = 4096,
    MAX_WAITING = 1 << 20,
    MAX_STEP_TOKENS = 1 << 16,
    MAX_USER_TEXTS = 4096,
    MIN_USER_TOKENS = 64,
    MAX_USER_TOKENS = 1 << 24,
    MIN_CTX = 2 * KV_BLOCK,
    NEWS_MS = 8, /* half of a picture on a screen */
};

struct engine_config engine_config_default(void) {
    return (struct engine_config){
        .max_seqs = 16,
        .max_waiting = 256,
        .verify = ENGINE_VERIFY_MATCH,
        .draft_max = 16,
        .draft_width = 4,
        .user_texts = 32,
        .user_text_tokens = 1 << 16,
        .user_tune_idle_ms = 10 * 1000,
        .step_tokens = 256, /* a step with a full chunk takes some tenths of a second on two cores: text of others still flows */
        .prefix_cache = true,
    };
}

static int fail(struct engine_error *error, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int fail(struct engine_error *error, int status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    return status;
}

/* --- sizes --- */

static int check_config(const struct engine_config *c, struct engine_error *error) {
    if (!c->model_path) return fail(error, ENGINE_ERR_ARGUMENT, "no model file is named (--model)");
    if (c->max_seqs < 1 || c->max_seqs > MAX_SEQS)
        return fail(error, ENGINE_ERR_ARGUMENT, "--max-seqs is %d; it must be 1 .. %d", c->max_seqs, MAX_SEQS);
    if (c->max_waiting < 0 || c->max_waiting > MAX_WAITING)
        return fail(error, ENGINE_ERR_ARGUMENT, "max_waiting is %d; it must be 0 .. %d", c->max_waiting, MAX_WAITING);
    if (c->step_tokens < c->max_seqs || c->step_tokens > MAX_STEP_TOKENS)
        return fail(error, ENGINE_ERR_ARGUMENT, "--step-tokens is %d; it must be at least --max-seqs (%d) and at most %d",
                    c->step_tokens, c->max_seqs, MAX_STEP_TOKENS);
    if (c->draft_max < 1 || c->draft_max > TREE_MAX_NODES - 1)
        return fail(error, ENGINE_ERR_ARGUMENT, "--draft-max is %d; it must be 1 .. %d (--drafter none turns drafts off)",
                    c->draft_max, TREE_MAX_NODES - 1);
    if (c->user_texts < 0 || c->user_texts > MAX_USER_TEXTS)
        return fail(error, ENGINE_ERR_ARGUMENT, "--user-texts is %d; it must be 0 (nobody's) .. %d", c->user_texts,
                    MAX_USER_TEXTS);
    if (c->user_text_tokens < MIN_USER_TOKENS || c->user_text_tokens > MAX_USER_TOKENS)
        return fail(error, ENGINE_ERR_ARGUMENT, "user_text_tokens is %d; it must be %d .. %d", c->user_text_tokens,
                    MIN_USER_TOKENS, MAX_USER_TOKENS);
    if (c->verify > ENGINE_VERIFY_TYPICAL) return fail(error, ENGINE_ERR_ARGUMENT, "--verify is " ENGINE_VERIFY_FORMS);
    if (c->n_threads < 0) return fail(error, ENGINE_ERR_ARGUMENT, "--threads is %d; it must be 0 (all) or more", c->n_threads);
    return ENGINE_OK;
}

int engine_default_ctx(int ctx_train) { return ctx_train < DEFAULT_CTX ? ctx_train : DEFAULT_CTX; }

static int choose_ctx(struct engine_config *c, const struct model_shape *shape, struct engine_error *error) {
    if (c->ctx_len == 0) c->ctx_len = engine_default_ctx(shape->ctx_train);
    if (c->ctx_len < MIN_CTX) return fail(error, ENGINE_ERR_ARGUMENT, "--ctx is %d; it must be at least %d", c->ctx_len, MIN_CTX);
    if (c->ctx_len <= shape->ctx_train) return ENGINE_OK;
    return fail(error, ENGINE_ERR_ARGUMENT, "--ctx is %d, but this model was trained for %d tokens", c->ctx_len,
                shape->ctx_train);
}

static uint64_t default_kv_bytes(const struct engine_config *c, uint64_t block_bytes, uint64_t available) {
    int seq_tokens = c->ctx_len < DEFAULT_SEQ_TOKENS ? c->ctx_len : DEFAULT_SEQ_TOKENS;
    uint64_t bytes = (uint64_t)c->max_seqs * (uint64_t)kv_blocks_for(seq_tokens) * block_bytes;
    uint64_t least = (uint64_t)kv_blocks_for(c->ctx_len) * block_bytes;
    if (bytes > available / 4) bytes = available / 4;
    return bytes > least ? bytes : least;
}

/* Chooses the number of blocks and refuses what the machine cannot hold. */
static int choose_memory(struct engine *e, const struct model_shape *shape, const struct kv_shape *kv_shape, uint64_t weights,
                         const struct model_limits *limits, int *n_blocks, struct engine_error *error) {
    struct engine_config *c = &e->config;
    uint64_t block_bytes = kv_block_bytes(kv_shape), available = memory_available();
    uint64_t kv = c->kv_bytes ? c->kv_bytes : default_kv_bytes(c, block_bytes, available);
    uint64_t n = kv / block_bytes;
    *n_blocks = n < INT32_MAX / KV_BLOCK ? (int)n : INT32_MAX / KV_BLOCK;
    uint64_t buffers = model_buffer_bytes(shape, limits) + draft_bytes(e);
    uint64_t draft = e->drafting.model ? draft_model_bytes(e->drafting.model, *n_blocks) : 0;
    uint64_t need = weights + buffers + kv + draft;
    char t[6][32], of_draft[400] = "";
    if (kv / block_bytes < MIN_CTX / KV_BLOCK)
        return fail(error, ENGINE_ERR_ARGUMENT, "--kv-mem of %s is too small: %d tokens of this model take %s",
                    memory_format(kv, t[0], sizeof t[0]), MIN_CTX,
                    memory_format(MIN_CTX / KV_BLOCK * block_bytes, t[1], sizeof t[1]));
    if (draft > 0)
        snprintf(of_draft, sizeof of_draft, ", %s for the draft model %.200s", memory_format(draft, t[5], sizeof t[5]),
                 draft_model_path(e->drafting.model));
    if (need < kv || need > available)
        return fail(error, ENGINE_ERR_MEMORY,
                    "%.200s needs %s: %s for weights, %s for keys and values, %s for buffers%s; %s are available. Lower %s%s.",
                    c->model_path, memory_format(need < kv ? kv : need, t[0], sizeof t[0]),
                    memory_format(weights, t[1], sizeof t[1]), memory_format(kv, t[2], sizeof t[2]),
                    memory_format(buffers, t[3], sizeof t[3]), of_draft, memory_format(available, t[4], sizeof t[4]),
                    c->kv_bytes ? "--kv-mem" : "--ctx or --max-seqs, or set --kv-mem",
                    draft > 0 ? ", or choose a smaller draft model" : "");
    return ENGINE_OK;
}

/* --- open --- */

static int open_backend(struct engine *e, struct engine_error *error) {
    struct backend_config config = {.isa = e->config.isa, .n_threads = e->config.n_threads};
    char reason[256] = "the compute backend could not be opened";
    int status = backend_open_cpu(&e->backend, &config, reason, sizeof reason);
    if (status == KERNELS_OK) return ENGINE_OK;
    return fail(error, status == KERNELS_ERR_MEMORY ? ENGINE_ERR_MEMORY : ENGINE_ERR_ARGUMENT, "%s", reason);
}

/* What people call the model: the file's name without its ending and quantization. general.name is often the title of a
 * training run ("Smollm2 135M 8k Lc100K Mix1 Ep2"), so it is not used. */
static char *display_name(const char *path) {
    const char *slash = strrchr(path, '/');
    char *name = strdup(slash ? slash + 1 : path);
    char *dot = name ? strrchr(name, '.') : NULL;
    if (dot && dot > name && strcasecmp(dot, ".gguf") == 0) *dot = '\0';
    char *mark = name ? strpbrk(name, ".-") : NULL;
    for (char *next = mark; next; next = strpbrk(next + 1, ".-")) mark = next; /* the last one */
    bool is_quantization =
        mark && (strncasecmp(mark + 1, "IQ", 2) == 0 || strchr("QqFfBb", mark[1])) && strpbrk(mark, "0123456789");
    if (is_quantization && mark > name && strlen(mark) <= 8) *mark = '\0';
    return name;
}

static int open_text(struct engine *e, const struct gguf *gguf, const struct model_shape *shape, struct engine_error *error) {
    int rc = tokenizer_open(&e->tokenizer, gguf, error);
    if (rc != ENGINE_OK) return rc;
    int vocab_size = tokenizer_vocab_size(e->tokenizer);
    if (vocab_size > shape->vocab_size)
        return fail(error, ENGINE_ERR_MODEL, "%s: the vocabulary has %d tokens, but the embedding matrix only %d rows",
                    gguf_path(gguf), vocab_size, shape->vocab_size);
    rc = chat_template_open(&e->chat_template, gguf, e->tokenizer, error);
    if (rc != ENGINE_OK) return rc;
    e->model_name = display_name(e->config.model_path);
    return e->model_name ? ENGINE_OK : fail(error, ENGINE_ERR_MEMORY, "no memory");
}

static int open_pool(struct engine *e, const struct model_shape *shape, const struct kv_shape *kv_shape, int n_blocks,
                     struct engine_error *error) {
    uint64_t identity = (shape->n_parameters * 31 + shape->weight_bytes) * KV_TYPE_COUNT + (uint64_t)kv_shape->type;
    int status = kv_pool_alloc(&e->backend, n_blocks, kv_shape, &e->pool);
    if (status != KERNELS_OK)
        return fail(error, ENGINE_ERR_MEMORY, "no memory for %d KV blocks (%.0f MiB); lower --kv-mem, --ctx or --max-seqs",
                    n_blocks, (double)n_blocks * (double)kv_block_bytes(kv_shape) / (1 << 20));
    e->limit = e->config.ctx_len;
    if (n_blocks < kv_blocks_for(e->limit)) {
        e->limit = n_blocks * KV_BLOCK;
        log_warn("engine", "the KV memory holds %d tokens, less than the context of %d (--kv-mem)", e->limit, e->config.ctx_len);
    }
    if (kv_cache_init(&e->cache, &e->backend, &e->pool, e->config.prefix_cache, identity) != 0 ||
        scheduler_init(&e->scheduler, &e->cache, e->config.step_tokens, e->config.max_seqs) != 0 ||
        sampler_init(&e->sampler, tokenizer_vocab_size(e->tokenizer)) != 0)
        return fail(error, ENGINE_ERR_MEMORY, "no memory for the engine's tables");
    e->sampler.backend = &e->backend;
    return ENGINE_OK;
}

static int open_step_buffers(struct engine *e, struct engine_error *error) {
    size_t n_seqs = (size_t)e->config.max_seqs, n_live = n_seqs + (size_t)e->config.max_waiting;
    e->row_tokens = calloc((size_t)e->config.step_tokens, sizeof *e->row_tokens);
    e->row_seqs = calloc(n_seqs, sizeof *e->row_seqs);
    e->row_owners = calloc(n_seqs, sizeof *e->row_owners);
    e->logit_rows = calloc(n_seqs + DRAFT_ROWS, sizeof *e->logit_rows);
    e->sampled = calloc(n_seqs, sizeof *e->sampled);
    e->draws = calloc(n_seqs, sizeof *e->draws);
    e->going = calloc(n_seqs, sizeof *e->going);
    e->ending = calloc(n_live, sizeof *e->ending);
    if (e->row_tokens && e->row_seqs && e->row_owners && e->logit_rows && e->sampled && e->draws && e->going && e->ending)
        return ENGINE_OK;
    return fail(error, ENGINE_ERR_MEMORY, "no memory for the engine's tables");
}

static int open_weights(struct engine *e, const struct gguf *gguf, const struct model_shape *shape,
                        const struct model_limits *limits, struct engine_error *error) {
    if (e->sibling) {
        e->backend = e->sibling->backend;
        e->model = e->sibling->model;
        return ENGINE_OK;
    }
    int rc = open_backend(e, error);
    if (rc != ENGINE_OK) return rc;
    rc = model_open(&e->model, gguf, shape, &e->backend, limits, error);
    log_progress_end();
    return rc;
}

static int open_model(struct engine *e, const struct gguf *gguf, struct engine_error *error) {
    struct model_shape shape;
    struct kv_shape kv_shape;
    int rc, n_blocks = 0;
    if ((rc = model_read_shape(&shape, gguf, error)) || (rc = choose_ctx(&e->config, &shape, error)) ||
        (rc = model_kv_shape(&shape, e->config.kv_type, &kv_shape, error)) || (rc = open_text(e, gguf, &shape, error)) ||
        (rc = draft_look(e, &shape, error)))
        return rc;
    struct model_limits limits = {
        .max_rows = e->config.step_tokens, .max_logits = e->config.max_seqs, .ctx_len = e->config.ctx_len};
    if (e->config.drafter != ENGINE_DRAFTER_NONE) limits.max_logits += DRAFT_ROWS;
    memcpy(limits.feature_layers, e->drafting.head_shape.layers, sizeof limits.feature_layers);
    if ((rc = model_activations(&shape, e->config.activations, &limits.rests, error)) ||
        (rc = choose_memory(e, &shape, &kv_shape, e->sibling ? 0 : model_weight_memory(gguf), &limits, &n_blocks, error)) ||
        (rc = open_weights(e, gguf, &shape, &limits, error)) || (rc = open_pool(e, &shape, &kv_shape, n_blocks, error)) ||
        (rc = draft_open(e, error)))
        return rc;
    int max_users = e->config.drafter == ENGINE_DRAFTER_NONE ? 0 : e->config.user_texts;
    if (user_texts_init(&e->user_texts, max_users, e->config.user_text_tokens) != ENGINE_OK)
        return fail(error, ENGINE_ERR_MEMORY, "no memory for the users' texts");
    e->user_texts.common = e->drafting.store.header ? &e->drafting.store : NULL;
    e->user_texts.n_vocab = tokenizer_vocab_size(e->tokenizer);
    return open_step_buffers(e, error);
}

static int open_threads(struct engine *e, struct engine_error *error) {
    e->has_engine_thread = pthread_create(&e->engine_thread, NULL, engine_thread_run, e) == 0;
    if (e->has_engine_thread) e->has_tokenizer_thread = pthread_create(&e->tokenizer_thread, NULL, tokenizer_thread_run, e) == 0;
    if (e->has_tokenizer_thread) return ENGINE_OK;
    return fail(error, ENGINE_ERR_MEMORY, "the system grants no more threads");
}

static void log_opened(const struct engine *e, double started_ms) {
    const struct model_shape *s = &e->model->shape;
    char weights[32], kv[32];
    log_info("engine", "%s: %s, %.1f M parameters, %s, %s of weights, loaded in %.1f s", e->model_name, s->family->architecture,
             (double)s->n_parameters / 1e6, gguf_type_name(s->main_type), memory_format(s->weight_bytes, weights, sizeof weights),
             (now_ms() - started_ms) / 1e3);
    log_info("engine",
             "%s, %d threads; context %d, %d sequences at once; KV memory %s = %d blocks of %d tokens as %s; activations %s",
             backend_cpu_isa(&e->backend), backend_cpu_threads(&e->backend), e->config.ctx_len, e->config.max_seqs,
             memory_format((uint64_t)e->pool.n_blocks * e->pool.block_bytes, kv, sizeof kv), e->pool.n_blocks, KV_BLOCK,
             kv_type_name(e->pool.shape.type), model_rests_name(e->model->limits.rests));
}

static void init_locks(struct engine *e) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* engine_wait must not care about a changed wall clock */
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->work, NULL);
    pthread_cond_init(&e->prompts, &attr);
    pthread_cond_init(&e->news, &attr);
    pthread_condattr_destroy(&attr);
}

int engine_open_beside(struct engine **out, const struct engine_config *config, struct engine *sibling,
                       struct engine_error *error) {
    double started_ms = now_ms();
    struct gguf *gguf = NULL;
    *out = NULL;
    int rc = check_config(config, error);
    if (rc != ENGINE_OK) return rc;
    struct engine *e = calloc(1, sizeof *e);
    if (!e) return fail(error, ENGINE_ERR_MEMORY, "no memory");
    e->config = *config;
    e->sibling = sibling;
    if (e->config.verify == ENGINE_VERIFY_DEFAULT) e->config.verify = ENGINE_VERIFY_MATCH;
    init_locks(e);
    if ((rc = gguf_open(&gguf, config->model_path, error)) || (rc = open_model(e, gguf, error))) goto done;
    e->news_ms = NEWS_MS;
    /* The caller's; not to be read from here on. */
    e->config.model_path = e->config.kv_type = e->config.activations = e->config.draft_files = NULL;
    e->stats.blocks_total = e->stats.blocks_free = e->cache.n_blocks;
    if ((rc = open_threads(e, error))) goto done;
    log_opened(e, started_ms);
done:
    gguf_close(gguf);
    if (rc != ENGINE_OK)
        engine_close(e);
    else
        *out = e;
    return rc;
}

int engine_open(struct engine **out, const struct engine_config *config, struct engine_error *error) {
    return engine_open_beside(out, config, NULL, error);
}

/* --- close --- */

static void stop_threads(struct engine *e) {
    pthread_mutex_lock(&e->lock);
    e->closing = true;
    pthread_cond_broadcast(&e->work);
    pthread_cond_broadcast(&e->prompts);
    pthread_mutex_unlock(&e->lock);
    if (e->has_tokenizer_thread) pthread_join(e->tokenizer_thread, NULL);
    if (e->has_engine_thread) pthread_join(e->engine_thread, NULL);
}

void engine_close(struct engine *e) {
    if (!e) return;
    stop_threads(e);
    for (struct request *r = e->live, *next; r; r = next) {
        next = r->live_next;
        request_free(r);
    }
    draft_close(&e->drafting);
    user_texts_free(&e->user_texts);
    sampler_free(&e->sampler);
    scheduler_free(&e->scheduler);
    kv_cache_free(&e->cache);
    if (e->pool.data) kv_pool_free(&e->backend, &e->pool);
    if (!e->sibling) {
        model_close(e->model);
        if (e->backend.ops) e->backend.ops->close(e->backend.self);
    }
    chat_template_close(e->chat_template);
    tokenizer_close(e->tokenizer);
    free(e->row_tokens);
    free(e->row_seqs);
    free(e->row_owners);
    free(e->logit_rows);
    free(e->sampled);
    free(e->draws);
    free(e->going);
    free(e->ending);
    free(e->model_name);
    pthread_cond_destroy(&e->work);
    pthread_cond_destroy(&e->prompts);
    pthread_cond_destroy(&e->news);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

/* --- facts --- */

struct engine_token_text engine_token_text(const struct engine *e, int32_t token) {
    struct engine_token_text text = {0};
    text.bytes = tokenizer_piece(e->tokenizer, token, &text.len);
    text.is_control = text.len == 0;
    if (text.is_control) text.bytes = tokenizer_name(e->tokenizer, token, &text.len);
    text.is_utf8 = utf8_valid(text.bytes, text.len);
    return text;
}

void engine_info(const struct engine *e, struct engine_info *out) {
    const struct model_shape *s = &e->model->shape;
    *out = (struct engine_info){
        .model_name = e->model_name,
        .architecture = s->family->architecture,
        .quantization = gguf_type_name(s->main_type),
        .isa = backend_cpu_isa(&e->backend),
        .n_threads = backend_cpu_threads(&e->backend),
        .ctx_len = e->limit,
        .vocab_size = tokenizer_vocab_size(e->tokenizer),
        .max_seqs = e->config.max_seqs,
        .n_parameters = s->n_parameters,
        .weight_bytes = s->weight_bytes,
        .kv_bytes = (uint64_t)e->pool.n_blocks * e->pool.block_bytes,
        .can_chat = chat_template_trouble(e->chat_template) == NULL,
        .can_learn = e->user_texts.max_users > 0,
    };
}

void engine_stats(struct engine *e, struct engine_stats *out) {
    pthread_mutex_lock(&e->lock);
    *out = e->stats;
    pthread_mutex_unlock(&e->lock);
}
