/* openai.c - see openai.h. A call: key -> user -> body -> generation -> answer. */
#include "gateway/openai.h"

#include "gateway/openai_in.h"
#include "gateway/server.h"
#include "gateway/turn.h"
#include "gateway/wire_out.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- errors --- */

static void put_error(struct buffer *out, const char *type, const char *param, const char *code, const char *message) {
    put_text(out, "{\"error\":{\"message\":");
    put_cstring(out, message);
    put_text(out, ",\"type\":");
    put_cstring(out, type);
    put_text(out, ",\"param\":");
    put_cstring(out, param);
    put_text(out, ",\"code\":");
    put_cstring(out, code);
    put_text(out, "}}");
}

void openai_error(struct exchange *e, int status, const char *type, const char *param, const char *code, const char *message) {
    struct buffer body = {0};
    put_error(&body, type, param, code, message);
    http_answer(e, status, "application/json", status == 429 || status == 503 ? "retry-after: 1\r\n" : NULL,
                body.data ? body.data : "", body.len);
    buffer_free(&body);
}

/* Our codes in OpenAI's words. */
static const struct {
    int code, status;
    const char *type, *word;
} troubles[] = {
    {CODE_BAD_FIELD, 400, "invalid_request_error", NULL},
    {CODE_CONTEXT_FULL, 400, "invalid_request_error", "context_length_exceeded"},
    {CODE_TOO_MANY, 429, "requests", "rate_limit_exceeded"},
    {CODE_BUSY, 503, "server_error", "server_busy"},
    {CODE_DRAINING, 503, "server_error", "server_shutting_down"},
    {CODE_ENGINE_DOWN, 503, "server_error", "engine_not_running"},
    {CODE_INTERNAL, 500, "server_error", NULL}, /* the last one is for all others */
};

static int trouble_index(int code) {
    int i = 0, last = (int)(sizeof troubles / sizeof *troubles) - 1;
    while (i < last && troubles[i].code != code) i++;
    return i;
}

static void answer_trouble(struct exchange *e, int code, const char *message) {
    int i = trouble_index(code);
    openai_error(e, troubles[i].status, troubles[i].type, NULL, troubles[i].word, message);
}

/* --- one call --- */

struct call {
    struct exchange *exchange;
    struct generation *generation;
    struct stream_reader reader; /* streams only */
    enum openai_kind kind;
    int64_t created_s;
    bool stream, include_usage, begun, role_sent, logprobs;
    int n_logprobs_sent;
};

/* The call is over, one way or another. The exchange may be gone afterwards. */
static void call_end(struct call *call) {
    struct exchange *e = call->exchange;
    stream_detach(&call->reader);
    call->generation->ended = NULL;
    turn_forget(call->generation);
    e->work = NULL;
    e->gone = NULL;
    free(call);
    exchange_release(e);
}

static void on_gone(struct exchange *e) { call_end(e->work); }

static const char *finish_reason(const struct generation *g) { return g->result.why == WHY_STOP ? "stop" : "length"; }

/* NULL when it ended well. */
static const char *failure(const struct generation *g, int *code) {
    *code = g->result.code ? g->result.code : CODE_INTERNAL;
    if (g->result.why == WHY_ERROR) return g->result.message;
    if (g->result.why != WHY_CANCEL && g->result.why != WHY_INTERRUPTED) return NULL;
    *code = CODE_DRAINING;
    return "The server is going down.";
}

/* {"id":...,"object":...,"created":...,"model":..., and what follows is the caller's */
static void put_opening(struct buffer *out, const struct call *call) {
    const char *object = call->kind == OPENAI_COMPLETION ? "text_completion"
                         : call->stream                  ? "chat.completion.chunk"
                                                         : "chat.completion";
    put_text(out, call->kind == OPENAI_COMPLETION ? "{\"id\":\"cmpl-" : "{\"id\":\"chatcmpl-");
    put_text(out, call->generation->ids.generation.text);
    put_text(out, "\",\"object\":");
    put_cstring(out, object);
    put_text(out, ",\"created\":");
    put_integer(out, call->created_s);
    put_text(out, ",\"model\":");
    put_cstring(out, call->generation->gateway->model.model_name);
    put_text(out, ",\"system_fingerprint\":null");
}

static void put_usage(struct buffer *out, const struct engine_usage *usage) {
    put_text(out, ",\"usage\":{\"prompt_tokens\":");
    put_integer(out, usage->prompt_tokens);
    put_text(out, ",\"completion_tokens\":");
    put_integer(out, usage->output_tokens);
    put_text(out, ",\"total_tokens\":");
    put_integer(out, usage->prompt_tokens + usage->output_tokens);
    put_text(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    put_integer(out, usage->cached_tokens);
    /* OpenAI's names for guesses that came true and that did not; only guesses of its own prediction count there, all count
     * here. */
    put_text(out, "},\"completion_tokens_details\":{\"accepted_prediction_tokens\":");
    put_integer(out, usage->accepted_tokens);
    put_text(out, ",\"rejected_prediction_tokens\":");
    put_integer(out, usage->drafted_tokens - usage->accepted_tokens);
    put_text(out, "},\"speculation\":{\"drafter\":"); /* not OpenAI's */
    put_cstring(out, engine_drafter_name(usage->drafter));
    put_text(out, ",\"verify\":");
    put_cstring(out, engine_verify_name(usage->verify));
    put_text(out, ",\"rounds\":");
    put_integer(out, usage->draft_rounds);
    put_text(out, ",\"model_rounds\":");
    put_integer(out, usage->model_rounds);
    put_text(out, ",\"accepted_at\":");
    put_accepted_at(out, usage);
    put_text(out, ",\"off\":");
    put_cstring(out, engine_draft_off_name(usage->draft_off));
    put_text(out, "}}");
}

/* ,"logprobs":... of the tokens that begin in the first text_len bytes and are not sent yet. */
static void put_logprobs(struct buffer *out, struct call *call, size_t text_len) {
    const struct logprob_list *list = &call->generation->logprobs;
    const struct engine *engine = call->generation->gateway->engine;
    int first = call->n_logprobs_sent, end = logprobs_upto(list, first, text_len);
    put_text(out, ",\"logprobs\":");
    if (!call->logprobs || (call->stream && first == end))
        put_text(out, "null");
    else if (call->kind == OPENAI_COMPLETION)
        put_completion_logprobs(out, engine, list, first, end);
    else
        put_chat_logprobs(out, engine, list, first, end);
    call->n_logprobs_sent = end;
}

/* --- the plain answer --- */

static void answer_whole(struct call *call) {
    const struct generation *g = call->generation;
    struct buffer body = {0};
    bool is_chat = call->kind == OPENAI_CHAT;
    put_opening(&body, call);
    put_text(&body, ",\"choices\":[{\"index\":0,");
    put_text(&body, is_chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    put_string(&body, g->stream->text ? g->stream->text : "", g->stream->text_len);
    if (is_chat) put_text(&body, ",\"refusal\":null}");
    put_logprobs(&body, call, g->stream->text_len);
    put_text(&body, ",\"finish_reason\":");
    put_cstring(&body, finish_reason(g));
    put_text(&body, "}]");
    put_usage(&body, &g->result.usage);
    put_text(&body, "}");
    if (body.failed)
        openai_error(call->exchange, 500, "server_error", NULL, NULL, "Out of memory.");
    else
        http_answer(call->exchange, 200, "application/json", NULL, body.data, body.len);
    buffer_free(&body);
}

/* --- the stream --- */

/* "delta":{...} or "text":"..."; text NULL: the last chunk's. */
static void put_delta(struct buffer *out, const struct call *call, const char *text, size_t len) {
    bool is_chat = call->kind == OPENAI_CHAT;
    put_text(out, is_chat ? "\"delta\":{" : "\"text\":");
    if (is_chat && !call->role_sent) put_text(out, text ? "\"role\":\"assistant\"," : "\"role\":\"assistant\",\"content\":\"\"");
    if (is_chat && text) put_text(out, "\"content\":");
    if (text || !is_chat) put_string(out, text ? text : "", len);
    if (is_chat) put_text(out, "}");
}

/* upto: bytes of the answer that are sent with it. text NULL: the last chunk, with the reason. */
static void put_chunk(struct buffer *out, struct call *call, const char *text, size_t len, size_t upto) {
    put_text(out, "data: ");
    put_opening(out, call);
    put_text(out, ",\"choices\":[{\"index\":0,");
    put_delta(out, call, text, len);
    put_logprobs(out, call, upto);
    put_text(out, ",\"finish_reason\":");
    put_cstring(out, text ? NULL : finish_reason(call->generation));
    put_text(out, call->include_usage ? "}],\"usage\":null}\n\n" : "}]}\n\n");
    call->role_sent = true;
}

static void put_end(struct buffer *out, struct call *call) {
    int code;
    const char *message = failure(call->generation, &code);
    if (message) {
        int i = trouble_index(code);
        put_text(out, "data: ");
        put_error(out, troubles[i].type, NULL, troubles[i].word, message);
        put_text(out, "\n\n");
        return;
    }
    const struct generation *g = call->generation;
    if (call->n_logprobs_sent < g->logprobs.n) put_chunk(out, call, "", 0, g->stream->text_len);
    put_chunk(out, call, NULL, 0, g->stream->text_len);
    if (call->include_usage) {
        put_text(out, "data: ");
        put_opening(out, call);
        put_text(out, ",\"choices\":[]");
        put_usage(out, &call->generation->result.usage);
        put_text(out, "}\n\n");
    }
    put_text(out, "data: [DONE]\n\n");
}

static bool pull(struct exchange *e, struct buffer *out) {
    struct call *call = e->work;
    struct stream_slice slice;
    enum stream_read_result result;
    while (out->len < STREAM_SLICE && (result = stream_read(&call->reader, &slice)) != STREAM_NOTHING) {
        if (result ==
            STREAM_GAP) { /* 64 k events behind, so far that the records are gone: there is no way to tell a delta client */
            put_text(out, "data: ");
            put_error(out, "server_error", NULL, "too_slow", "The stream was read too slowly.");
            put_text(out, "\n\n");
            call_end(call);
            return true;
        }
        if (slice.kind == STREAM_TEXT)
            put_chunk(out, call, slice.text, slice.len, (size_t)(slice.text - call->reader.stream->text) + slice.len);
        if (slice.kind != STREAM_DONE) continue;
        put_end(out, call);
        call_end(call);
        return true;
    }
    return false;
}

static void begin_stream(struct call *call) {
    call->begun = true;
    call->exchange->pull = pull;
    http_stream_begin(call->exchange, "text/event-stream; charset=utf-8");
}

/* The head waits for the first text, so that a prompt that does not fit is still an HTTP error. */
static void on_stream_ready(struct stream_reader *reader) {
    struct call *call = container_of(reader, struct call, reader);
    if (call->begun)
        http_stream_ready(call->exchange);
    else if (reader->stream->text_len > 0)
        begin_stream(call);
}

static void on_ended(struct generation *g, const struct store_op *saved) {
    struct call *call = g->owner;
    int code;
    const char *message = failure(g, &code);
    (void)saved;
    if (call->begun) return; /* pull comes to the end by itself */
    if (!message && call->stream) {
        begin_stream(call);
        return;
    }
    if (message)
        answer_trouble(call->exchange, code, message);
    else
        answer_whole(call);
    call_end(call);
}

/* --- from the request to the generation --- */

static bool model_exists(struct exchange *e, const char *name) {
    char message[200];
    if (!e->gateway->engine) {
        openai_error(e, 503, "server_error", NULL, "engine_not_running", "The model is not loaded yet.");
        return false;
    }
    if (!name) {
        openai_error(e, 400, "invalid_request_error", "model", NULL, "model is missing; GET /v1/models lists the names.");
        return false;
    }
    if (strcmp(name, e->gateway->model.model_name) == 0 || strcmp(name, "default") == 0) return true;
    snprintf(message, sizeof message,
             "The model \"%.60s\" does not exist; this server runs \"%.60s\" (\"default\" means it, too).", name,
             e->gateway->model.model_name);
    openai_error(e, 404, "invalid_request_error", "model", "model_not_found", message);
    return false;
}

static bool submit(struct generation *g, enum openai_kind kind, const struct openai_request *request, struct wire_error *error) {
    if (kind == OPENAI_COMPLETION) return turn_submit_prompt(g, request->prompt, request->prompt_len, error);
    return turn_submit(g, request->messages, request->n_messages, false, error);
}

static void start(struct exchange *e, int64_t user, enum openai_kind kind, struct openai_request *request) {
    struct wire_stream ids = {.begun_ms = clock_wall_ms()};
    struct wire_error error = {0};
    struct call *call = calloc(1, sizeof *call);
    store_id_new(&ids.generation);
    struct generation *g = call ? turn_new(e->gateway, user, &ids, false, NULL, 0, &request->gen, &error) : NULL;
    if (!g) {
        answer_trouble(e, error.code, call ? error.message : "Out of memory.");
        free(call);
        return;
    }
    *call = (struct call){.exchange = e, .generation = g, .kind = kind, .created_s = ids.begun_ms / 1000};
    call->logprobs = g->params.logprobs;
    call->stream = request->stream;
    call->include_usage = request->include_usage;
    call->reader.ready = on_stream_ready;
    e->work = call;
    e->gone = on_gone;
    exchange_hold(e);
    if (!submit(g, kind, request, &error)) {
        answer_trouble(e, error.code, error.message);
        turn_fail(g);
        call_end(call);
        return;
    }
    g->ended = on_ended;
    g->owner = call;
    if (call->stream) stream_attach(g->stream, &call->reader, 1);
}

static void put_model(struct buffer *out, const struct gateway *gateway) {
    put_text(out, "{\"id\":");
    put_cstring(out, gateway->model.model_name);
    put_text(out, ",\"object\":\"model\",\"created\":");
    put_integer(out, gateway->begun_wall_ms / 1000);
    put_text(out, ",\"owned_by\":\"foresay\"}");
}

/* All, or the one that the path names behind "/v1/models/". */
static void answer_models(struct exchange *e) {
    struct buffer body = {0};
    const char *name = strlen(e->path) > sizeof OPENAI_MODEL_PATH - 1 ? e->path + sizeof OPENAI_MODEL_PATH - 1 : NULL;
    if (name && !model_exists(e, name)) return;
    if (!name) put_text(&body, "{\"object\":\"list\",\"data\":[");
    if (e->gateway->engine) put_model(&body, e->gateway);
    if (!name) put_text(&body, "]}");
    http_answer(e, 200, "application/json", NULL, body.data ? body.data : "", body.len);
    buffer_free(&body);
}

static void on_key_found(struct store_op *op) {
    struct exchange *e = op->context;
    struct openai_request request;
    struct openai_refusal refusal;
    if (!e->socket) {
        /* nobody waits for an answer */
    } else if (op->status != STORE_OK) {
        openai_error(e, 503, "server_error", NULL, NULL, "The keys could not be read.");
    } else if (op->found_user.id == 0) {
        openai_error(e, 401, "invalid_request_error", NULL, "invalid_api_key", "This API key is not known.");
    } else if (e->method == HTTP_POST) {
        enum openai_kind kind = strcmp(e->path, "/v1/completions") == 0 ? OPENAI_COMPLETION : OPENAI_CHAT;
        if (!openai_parse(kind, e->body.data ? e->body.data : "", e->body.len, &request, &refusal)) {
            openai_error(e, 400, "invalid_request_error", refusal.param[0] ? refusal.param : NULL, NULL, refusal.message);
        } else {
            if (model_exists(e, request.model)) start(e, op->found_user.id, kind, &request);
            openai_request_free(&request);
        }
        buffer_free(&e->body);
    } else {
        answer_models(e);
    }
    store_op_free(op);
    exchange_release(e);
}

static void authorize(struct exchange *e) {
    const char *key = auth_bearer(e->authorization);
    unsigned char hash[AUTH_HASH_LEN];
    if (!key || !auth_hash_key(key, hash)) {
        openai_error(e, 401, "invalid_request_error", NULL, "invalid_api_key",
                     key ? "This is not an API key of this server; they begin with fsk_."
                         : "Send your API key: Authorization: Bearer fsk_...");
        return;
    }
    struct store_op *op = store_op_new(STORE_KEY_GET);
    if (op) {
        memcpy(op->token_hash, hash, sizeof op->token_hash);
        op->context = e;
        op->done = on_key_found;
        exchange_hold(e);
        if (gateway_post(e->gateway, op)) return;
        e->holds--;
        store_op_free(op);
    }
    openai_error(e, 503, "server_error", NULL, "server_busy", "The server is overloaded; try again in a moment.");
}

void openai_models(struct exchange *e) { authorize(e); }
void openai_chat(struct exchange *e) { authorize(e); }
void openai_completion(struct exchange *e) { authorize(e); }
