/* requests.c - from engine_submit to the engine thread: checks, copies, the tokenizer thread; cancels; users' own texts. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/internal.h"

enum {
    PROMPT_MAX_BYTES = 16 << 20, /* of one request: far more than a context holds, small enough to copy */
    PROMPT_MAX_MESSAGES = 1 << 16,
    TUNE_LOOK_MS = 500, /* while answers run: whether they are over */
};

double now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

void queue_push(struct request_queue *queue, struct request *r) {
    r->queue_next = NULL;
    if (queue->tail)
        queue->tail->queue_next = r;
    else
        queue->head = r;
    queue->tail = r;
}

struct request *queue_pop(struct request_queue *queue) {
    struct request *r = queue->head;
    if (!r) return NULL;
    queue->head = r->queue_next;
    if (!queue->head) queue->tail = NULL;
    r->queue_next = NULL;
    return r;
}

static void queue_remove(struct request_queue *queue, struct request *r) {
    struct request *before = NULL;
    for (struct request *x = queue->head; x != r; x = x->queue_next) before = x;
    if (before)
        before->queue_next = r->queue_next;
    else
        queue->head = r->queue_next;
    if (queue->tail == r) queue->tail = before;
    r->queue_next = NULL;
}

/* --- submit --- */

static int refuse(struct engine_error *error, int status, const char *text) {
    snprintf(error->text, sizeof error->text, "%s", text);
    return status;
}

static int check_ids(const struct engine *e, const struct engine_request *q, size_t *n_bytes, struct engine_error *error) {
    *n_bytes = 0;
    for (int i = 0; i < q->n_ids; i++) {
        if (q->ids[i] >= 0 && q->ids[i] < tokenizer_vocab_size(e->tokenizer)) continue;
        snprintf(error->text, sizeof error->text, "token %d of the prompt is %d; the vocabulary has 0 .. %d", i, q->ids[i],
                 tokenizer_vocab_size(e->tokenizer) - 1);
        return ENGINE_ERR_ARGUMENT;
    }
    if (q->n_ids < e->limit) return ENGINE_OK;
    snprintf(error->text, sizeof error->text, "the prompt has %d tokens; at most %d fit, with one for the answer", q->n_ids,
             e->limit - 1);
    return ENGINE_ERR_TOO_LONG;
}

static int check_text(const struct engine *e, const struct engine_request *q, size_t *n_bytes, struct engine_error *error) {
    *n_bytes = q->prompt_len;
    if (q->n_messages == 0 && q->n_ids > 0) return check_ids(e, q, n_bytes, error);
    if (q->n_messages < 0 || (q->n_messages > 0 && !q->messages) || (q->n_messages == 0 && !q->prompt))
        return refuse(error, ENGINE_ERR_ARGUMENT, "a request needs messages or a prompt");
    if (q->n_messages > 0) {
        const char *trouble = chat_template_trouble(e->chat_template);
        if (trouble) return refuse(error, ENGINE_ERR_ARGUMENT, trouble);
        *n_bytes = 0;
    }
    if (q->n_messages > PROMPT_MAX_MESSAGES) {
        snprintf(error->text, sizeof error->text, "the chat has more than %d messages", PROMPT_MAX_MESSAGES);
        return ENGINE_ERR_TOO_LONG;
    }
    for (int i = 0; i < q->n_messages && *n_bytes <= PROMPT_MAX_BYTES; i++) {
        if (q->messages[i].role > ENGINE_ROLE_ASSISTANT)
            return refuse(error, ENGINE_ERR_ARGUMENT, "a message has an unknown role");
        size_t len = q->messages[i].len;
        *n_bytes += len <= PROMPT_MAX_BYTES ? len : PROMPT_MAX_BYTES + (size_t)1; /* no overflow */
    }
    if (*n_bytes <= PROMPT_MAX_BYTES) return ENGINE_OK;
    snprintf(error->text, sizeof error->text, "the text is larger than %d MiB", PROMPT_MAX_BYTES >> 20);
    return ENGINE_ERR_TOO_LONG;
}

/* There is a head, and it is of the kind that is asked for. */
static bool has_head_for(const struct engine *e, enum engine_drafter drafter) {
    enum head_kind kind = e->drafting.head_shape.kind;
    if (!e->drafting.head.ops) return false;
    return drafter == ENGINE_DRAFTER_EAGLE       ? kind == HEAD_EAGLE
           : drafter == ENGINE_DRAFTER_RECURRENT ? kind == HEAD_RECURRENT
                                                 : kind == HEAD_MEDUSA;
}

static int check_request(const struct engine *e, const struct engine_request *q, size_t *n_bytes, struct engine_error *error) {
    int rc = check_text(e, q, n_bytes, error);
    if (rc != ENGINE_OK) return rc;
    if (q->max_tokens < 0) return refuse(error, ENGINE_ERR_ARGUMENT, "max_tokens must be 0 (until the context is full) or more");
    if (q->drafter > ENGINE_DRAFTER_MERGE) return refuse(error, ENGINE_ERR_ARGUMENT, "the drafter is unknown");
    if (e->config.drafter == ENGINE_DRAFTER_NONE && q->drafter > ENGINE_DRAFTER_NONE)
        return refuse(error, ENGINE_ERR_ARGUMENT, "drafters are turned off here (--drafter none)");
    if (q->verify > ENGINE_VERIFY_TYPICAL) return refuse(error, ENGINE_ERR_ARGUMENT, "the way to verify is unknown");
    bool has_store = e->drafting.store.header != NULL, has_model = e->drafting.model != NULL;
    bool has_head = e->drafting.head.ops != NULL, wants_merge = q->drafter == ENGINE_DRAFTER_MERGE;
    if (q->drafter == ENGINE_DRAFTER_NGRAM && !has_store)
        return refuse(error, ENGINE_ERR_ARGUMENT, "this engine has no n-gram store (--drafter auto:FILE)");
    if (q->drafter == ENGINE_DRAFTER_MODEL && !has_model)
        return refuse(error, ENGINE_ERR_ARGUMENT, "this engine has no draft model (--drafter auto:FILE)");
    if (q->drafter >= ENGINE_DRAFTER_EAGLE && !wants_merge && !has_head_for(e, q->drafter))
        return refuse(error, ENGINE_ERR_ARGUMENT, "this engine has no drafting head of this kind (--drafter auto:FILE)");
    if (wants_merge && !has_store && !has_model && !has_head)
        return refuse(error, ENGINE_ERR_ARGUMENT, "this engine has no n-gram store, draft model or head (--drafter auto:FILE)");
    if (q->n_top_logprobs < 0 || q->n_top_logprobs > ENGINE_MAX_TOP_LOGPROBS) {
        snprintf(error->text, sizeof error->text, "n_top_logprobs is %d; it must be 0 .. %d", q->n_top_logprobs,
                 ENGINE_MAX_TOP_LOGPROBS);
        return ENGINE_ERR_ARGUMENT;
    }
    return sampling_check(&q->sampling, tokenizer_vocab_size(e->tokenizer), error);
}

/* One allocation holds the input: the struct, the messages, then all text. */
static struct request_input *copy_input(const struct engine_request *q, size_t n_bytes) {
    size_t n_messages = (size_t)q->n_messages, n_ids = n_messages == 0 && q->n_ids > 0 ? (size_t)q->n_ids : 0;
    struct request_input *in = malloc(sizeof *in + n_messages * sizeof *in->messages + n_ids * sizeof *q->ids + n_bytes + 1);
    if (!in) return NULL;
    *in = (struct request_input){.n_messages = q->n_messages,
                                 .continue_last = q->continue_last,
                                 .drop_oldest = q->drop_oldest,
                                 .prompt_len = q->prompt_len,
                                 .n_ids = (int)n_ids};
    in->messages = (struct engine_message *)(in + 1);
    int32_t *ids = (int32_t *)(in->messages + n_messages);
    if (n_ids > 0) memcpy(ids, q->ids, n_ids * sizeof *ids);
    in->ids = ids;
    char *text = (char *)(ids + n_ids);
    for (int i = 0; i < q->n_messages; i++) {
        in->messages[i] = q->messages[i];
        in->messages[i].text = text;
        if (q->messages[i].len > 0) memcpy(text, q->messages[i].text, q->messages[i].len);
        text += q->messages[i].len;
    }
    in->prompt = text;
    if (q->n_messages == 0 && n_ids == 0 && q->prompt_len > 0) memcpy(text, q->prompt, q->prompt_len);
    return in;
}

void request_free(struct request *r) {
    if (!r) return;
    free(r->input);
    free(r->bias);
    free(r->logprobs);
    free(r->is_guess);
    free(r->traces);
    free(r->seq.tokens);
    free(r->seq.table.blocks);
    free(r);
}

static struct request *request_new(const struct engine_request *q, size_t n_bytes) {
    struct request *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->input = copy_input(q, n_bytes);
    r->bias = malloc((size_t)(q->sampling.n_bias + 1) * sizeof *r->bias);
    if (!r->input || !r->bias) {
        request_free(r);
        return NULL;
    }
    r->sampling = q->sampling;
    if (q->sampling.n_bias > 0) memcpy(r->bias, q->sampling.bias, (size_t)q->sampling.n_bias * sizeof *r->bias);
    r->sampling.bias = r->bias;
    r->ignore_eos = q->ignore_eos;
    r->max_output = q->max_tokens;
    r->drafter = q->drafter;
    r->user_key = q->user_key;
    r->verify = q->verify;
    r->wants_logprobs = q->logprobs;
    r->n_top = q->n_top_logprobs;
    r->wants_trace = q->trace;
    r->seq.salt = q->cache_salt;
    r->submitted_ms = now_ms();
    return r;
}

/* Puts the request into the books, if there is room. After that it is not ours any more: the consumer may free it at any moment.
 */
static int enqueue(struct engine *e, struct request *r, uint64_t *id, struct engine_error *error) {
    int rc = ENGINE_OK, bound = e->config.max_seqs + e->config.max_waiting;
    pthread_mutex_lock(&e->lock);
    if (e->closing) {
        rc = refuse(error, ENGINE_ERR_CLOSED, "the engine is shutting down");
    } else if (e->n_live >= bound) {
        snprintf(error->text, sizeof error->text, "%d requests run or wait already (--max-seqs %d); try again later", bound,
                 e->config.max_seqs);
        rc = ENGINE_ERR_BUSY;
    } else {
        *id = r->id = ++e->n_ids;
        r->live_next = e->live;
        if (e->live) e->live->live_prev = r;
        e->live = r;
        e->n_live++;
        queue_push(&e->prompts_queue, r);
        e->stats.n_waiting++; /* until the next step counts anew */
        pthread_cond_signal(&e->prompts);
    }
    pthread_mutex_unlock(&e->lock);
    return rc;
}

int engine_submit(struct engine *e, const struct engine_request *request, uint64_t *id, struct engine_error *error) {
    size_t n_bytes;
    int rc = check_request(e, request, &n_bytes, error);
    if (rc != ENGINE_OK) return rc;
    struct request *r = request_new(request, n_bytes);
    if (!r) return refuse(error, ENGINE_ERR_MEMORY, "no memory for the request");
    rc = detokenizer_init(&r->detokenizer, e->tokenizer, request->stop, request->n_stop);
    if (rc != ENGINE_OK) {
        snprintf(error->text, sizeof error->text, "stop: at most %d strings of UTF-8, each 1 to %d bytes long", ENGINE_MAX_STOP,
                 ENGINE_MAX_STOP_LEN);
    } else {
        if (request->n_messages > 0 && !request->continue_last) detokenizer_begin_text(&r->detokenizer);
        if (r->drafter == ENGINE_DRAFTER_AUTO) r->drafter = e->config.drafter;
        if (r->verify == ENGINE_VERIFY_DEFAULT) r->verify = e->config.verify;
        rc = enqueue(e, r, id, error);
    }
    if (rc != ENGINE_OK) request_free(r);
    return rc;
}

/* --- cancel --- */

/* Lock held. Requests that wait for the tokenizer go straight to the engine thread, which finishes them. */
static void cancel_locked(struct engine *e, struct request *r) {
    if (r->cancelled || r->stage == REQUEST_FINISHED) return;
    r->cancelled = true;
    e->has_cancels = true;
    if (r->stage == REQUEST_QUEUED) {
        queue_remove(&e->prompts_queue, r);
        r->stage = REQUEST_INBOX;
        queue_push(&e->inbox, r);
    }
    pthread_cond_signal(&e->work);
}

void engine_cancel(struct engine *e, uint64_t id) {
    pthread_mutex_lock(&e->lock);
    struct request *r = e->live;
    while (r && r->id != id) r = r->live_next;
    if (r) cancel_locked(e, r);
    pthread_mutex_unlock(&e->lock);
}

void request_stop(struct engine *e, struct request *r) {
    pthread_mutex_lock(&e->lock);
    cancel_locked(e, r);
    pthread_mutex_unlock(&e->lock);
}

/* --- users' own texts --- */

int engine_user_text(struct engine *e, uint64_t user_key, const char *text, size_t len) {
    if (user_key == 0 || e->user_texts.max_users == 0) return ENGINE_ERR_ARGUMENT;
    int rc = user_texts_post(&e->user_texts, user_key, text, len);
    if (rc != ENGINE_OK) return rc;
    pthread_mutex_lock(&e->lock);
    e->has_user_texts = true;
    pthread_cond_signal(&e->prompts);
    pthread_mutex_unlock(&e->lock);
    return ENGINE_OK;
}

bool engine_knows_user(struct engine *e, uint64_t user_key) { return user_texts_know(&e->user_texts, user_key); }

void engine_forget_user(struct engine *e, uint64_t user_key) { user_texts_forget(&e->user_texts, user_key); }

/* --- tokenizer thread --- */

static void prompt_failed(struct request *r, int status, const char *text) {
    r->status = status;
    snprintf(r->message, sizeof r->message, "%.255s", text);
}

static void prompt_too_long(const struct engine *e, struct request *r) {
    bool by_memory = e->limit < e->config.ctx_len;
    char text[256];
    snprintf(text, sizeof text, "the prompt does not fit: %s hold %d tokens, one of which is for the answer; %s",
             by_memory ? "the KV memory can" : "the context can", e->limit,
             by_memory ? "raise --kv-mem" : "shorten it, drop old messages or raise --ctx");
    prompt_failed(r, ENGINE_ERR_TOO_LONG, text);
}

/* A chat leaves room for the answer when old turns may go: what was asked for, at most a quarter of the context. */
static int render_chat(const struct engine *e, struct request *r, struct token_list *list, struct engine_error *error) {
    const struct request_input *in = r->input;
    struct chat_prompt prompt = {.messages = in->messages,
                                 .n_messages = in->n_messages,
                                 .continue_last = in->continue_last,
                                 .drop_oldest = in->drop_oldest};
    size_t most = (size_t)e->limit - 1, room = (size_t)e->limit / 4;
    if (r->max_output > 0 && (size_t)r->max_output < room) room = (size_t)r->max_output;
    list->limit = in->drop_oldest && room > 1 ? (size_t)e->limit - room : most;
    int rc = chat_template_render(e->chat_template, &prompt, list, &r->dropped_messages, error);
    if (rc != ENGINE_ERR_TOO_LONG || list->limit == most) return rc;
    list->limit = most; /* not even the last turn leaves that much room: then less of it */
    return chat_template_render(e->chat_template, &prompt, list, &r->dropped_messages, error);
}

/* Buffers for the whole life of the sequence, so that nothing is allocated per token. */
static bool sequence_open(const struct engine *e, struct request *r, const struct token_list *list) {
    struct sequence *seq = &r->seq;
    int n_prompt = (int)list->n, most = e->limit;
    if (r->max_output > 0 && r->max_output < most - n_prompt) most = n_prompt + r->max_output;
    int n_blocks = kv_blocks_for(most);
    int32_t *blocks = malloc((size_t)n_blocks * sizeof *blocks);
    seq->tokens = malloc((size_t)most * sizeof *seq->tokens);
    if (r->wants_logprobs) {
        int vocab_size = tokenizer_vocab_size(e->tokenizer);
        if (r->n_top > vocab_size) r->n_top = vocab_size;
        r->logprobs = malloc((size_t)(most - n_prompt) * (size_t)(1 + r->n_top) * sizeof *r->logprobs);
    }
    if (!seq->tokens || !blocks || (r->wants_logprobs && !r->logprobs) || !trace_open(r, most - n_prompt)) {
        free(blocks);
        return false;
    }
    memcpy(seq->tokens, list->ids, list->n * sizeof *list->ids);
    seq->n_prompt = seq->n_tokens = n_prompt;
    seq->max_tokens = most;
    seq->owner = r;
    kv_table_init(&e->cache, &seq->table, blocks, n_blocks, seq->salt);
    return true;
}

static void tokenize(const struct engine *e, struct request *r) {
    struct token_list list = {.limit = (size_t)e->limit - 1};
    struct engine_error error = {.text = "the prompt could not be tokenized"};
    const struct request_input *in = r->input;
    int rc = in->n_messages > 0 ? render_chat(e, r, &list, &error)
             : in->n_ids > 0    ? token_list_append(&list, in->ids, (size_t)in->n_ids)
                                : tokenizer_encode_prompt(e->tokenizer, in->prompt, in->prompt_len, &list);
    if (rc == ENGINE_ERR_TOO_LONG)
        prompt_too_long(e, r);
    else if (rc == ENGINE_ERR_MEMORY)
        prompt_failed(r, rc, "no memory to tokenize the prompt");
    else if (rc != ENGINE_OK)
        prompt_failed(r, rc, error.text);
    else if (list.n == 0)
        prompt_failed(r, ENGINE_ERR_ARGUMENT, "the prompt is empty");
    else if (!sequence_open(e, r, &list))
        prompt_failed(r, ENGINE_ERR_MEMORY, "no memory for the request's tokens");
    token_list_free(&list);
    free(r->input);
    r->input = NULL;
}

/* Lock held. Milliseconds until users' stores may be worked on, as long as nobody comes; -1 = there is nothing to do. */
static double until_tuning(struct engine *e) {
    int idle_ms = e->config.user_tune_idle_ms;
    if (idle_ms < 0 || !user_texts_want_tuning(&e->user_texts)) return -1;
    double left = e->stats.stepped_ms + idle_ms - now_ms();
    return e->n_live > 0 ? TUNE_LOOK_MS : left > 0 ? left + 1 : 0;
}

/* Lock held. Waits for something to do, a moment at a time when the end of the wait is a matter of time. */
static void wait_for_work(struct engine *e, double ms) {
    struct timespec until;
    if (ms < 0) {
        pthread_cond_wait(&e->prompts, &e->lock);
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + (int64_t)(ms * 1e6);
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    pthread_cond_timedwait(&e->prompts, &e->lock, &until);
}

/* Lock held, but not meanwhile: a text that waits, else a piece of a trial. */
static void work_on_user_texts(struct engine *e) {
    bool has_texts = e->has_user_texts;
    e->has_user_texts = false;
    pthread_mutex_unlock(&e->lock);
    if (has_texts)
        has_texts = user_texts_work(&e->user_texts, e->tokenizer);
    else
        user_texts_tune(&e->user_texts);
    pthread_mutex_lock(&e->lock);
    e->has_user_texts = e->has_user_texts || has_texts;
}

/* Prompts first. */
void *tokenizer_thread_run(void *arg) {
    struct engine *e = arg;
    pthread_mutex_lock(&e->lock);
    for (;;) {
        double ms = 0;
        while (!e->closing && !e->prompts_queue.head && !e->has_user_texts && (ms = until_tuning(e)) != 0) wait_for_work(e, ms);
        if (e->closing) break;
        struct request *r = queue_pop(&e->prompts_queue);
        if (!r) {
            work_on_user_texts(e);
            continue;
        }
        r->stage = REQUEST_TOKENIZING;
        pthread_mutex_unlock(&e->lock);
        tokenize(e, r);
        pthread_mutex_lock(&e->lock);
        r->stage = REQUEST_INBOX;
        queue_push(&e->inbox, r);
        pthread_cond_signal(&e->work);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}
