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

/* One of the answers that are asked for. They are generations of their own; that they share a prompt is the engine's business. */
struct choice {
    struct call *call;
    int index;
    struct generation *generation; /* NULL: it never began */
    struct stream_reader reader;   /* streams only */
    bool role_sent, is_told;       /* is_told: its last chunk is sent */
    int n_logprobs_sent;
};

struct call {
    struct exchange *exchange;
    enum openai_kind kind;
    int64_t created_s;
    bool stream, include_usage, begun, logprobs;
    int n_choices, n_ended, n_told;
    int first; /* the choice that is read first, in turn */
    struct choice choices[];
};

/* The call is over, one way or another. The exchange may be gone afterwards. */
static void call_end(struct call *call) {
    struct exchange *e = call->exchange;
    for (int i = 0; i < call->n_choices; i++) {
        struct choice *choice = &call->choices[i];
        if (!choice->generation) continue;
        stream_detach(&choice->reader);
        choice->generation->ended = NULL;
        turn_forget(choice->generation);
    }
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
    put_text(out, call->choices[0].generation->ids.generation.text);
    put_text(out, "\",\"object\":");
    put_cstring(out, object);
    put_text(out, ",\"created\":");
    put_integer(out, call->created_s);
    put_text(out, ",\"model\":");
    put_cstring(out, call->exchange->gateway->model.model_name);
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

/* Of all choices: their prompt counts once. */
static struct engine_usage sum_usage(const struct call *call) {
    struct engine_usage sum = call->choices[0].generation->result.usage;
    for (int i = 1; i < call->n_choices; i++) {
        const struct engine_usage *usage = &call->choices[i].generation->result.usage;
        sum.output_tokens += usage->output_tokens;
        sum.drafted_tokens += usage->drafted_tokens;
        sum.accepted_tokens += usage->accepted_tokens;
        sum.draft_rounds += usage->draft_rounds;
        sum.model_rounds += usage->model_rounds;
        for (int depth = 0; depth < ENGINE_DRAFT_DEPTHS; depth++) sum.accepted_at[depth] += usage->accepted_at[depth];
    }
    return sum;
}

/* ,"logprobs":... of the tokens that begin in the first text_len bytes and are not sent yet. */
static void put_logprobs(struct buffer *out, struct choice *choice, size_t text_len) {
    const struct logprob_list *list = &choice->generation->logprobs;
    const struct engine *engine = choice->generation->gateway->engine;
    const struct call *call = choice->call;
    int first = choice->n_logprobs_sent, end = logprobs_upto(list, first, text_len);
    put_text(out, ",\"logprobs\":");
    if (!call->logprobs || (call->stream && first == end))
        put_text(out, "null");
    else if (call->kind == OPENAI_COMPLETION)
        put_completion_logprobs(out, engine, list, first, end);
    else
        put_chat_logprobs(out, engine, list, first, end);
    choice->n_logprobs_sent = end;
}

static void put_index(struct buffer *out, const struct choice *choice) {
    put_text(out, "{\"index\":");
    put_integer(out, choice->index);
    put_text(out, ",");
}

/* --- the plain answer --- */

static void put_choice(struct buffer *out, struct choice *choice) {
    const struct stream *stream = choice->generation->stream;
    bool is_chat = choice->call->kind == OPENAI_CHAT;
    put_index(out, choice);
    put_text(out, is_chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    put_string(out, stream->text ? stream->text : "", stream->text_len);
    if (is_chat) put_text(out, ",\"refusal\":null}");
    put_logprobs(out, choice, stream->text_len);
    put_text(out, ",\"finish_reason\":");
    put_cstring(out, finish_reason(choice->generation));
    put_text(out, "}");
}

static void answer_whole(struct call *call) {
    const struct engine_usage usage = sum_usage(call);
    struct buffer body = {0};
    put_opening(&body, call);
    put_text(&body, ",\"choices\":[");
    for (int i = 0; i < call->n_choices; i++) {
        if (i) put_text(&body, ",");
        put_choice(&body, &call->choices[i]);
    }
    put_text(&body, "]");
    put_usage(&body, &usage);
    put_text(&body, "}");
    if (body.failed)
        openai_error(call->exchange, 500, "server_error", NULL, NULL, "Out of memory.");
    else
        http_answer(call->exchange, 200, "application/json", NULL, body.data, body.len);
    buffer_free(&body);
}

/* --- the stream --- */

/* "delta":{...} or "text":"..."; text NULL: the last chunk's. */
static void put_delta(struct buffer *out, const struct choice *choice, const char *text, size_t len) {
    bool is_chat = choice->call->kind == OPENAI_CHAT;
    put_text(out, is_chat ? "\"delta\":{" : "\"text\":");
    if (is_chat && !choice->role_sent)
        put_text(out, text ? "\"role\":\"assistant\"," : "\"role\":\"assistant\",\"content\":\"\"");
    if (is_chat && text) put_text(out, "\"content\":");
    if (text || !is_chat) put_string(out, text ? text : "", len);
    if (is_chat) put_text(out, "}");
}

/* upto: bytes of the answer that are sent with it. text NULL: the last chunk, with the reason. */
static void put_chunk(struct buffer *out, struct choice *choice, const char *text, size_t len, size_t upto) {
    put_text(out, "data: ");
    put_opening(out, choice->call);
    put_text(out, ",\"choices\":[");
    put_index(out, choice);
    put_delta(out, choice, text, len);
    put_logprobs(out, choice, upto);
    put_text(out, ",\"finish_reason\":");
    put_cstring(out, text ? NULL : finish_reason(choice->generation));
    put_text(out, choice->call->include_usage ? "}],\"usage\":null}\n\n" : "}]}\n\n");
    choice->role_sent = true;
}

static void put_error_event(struct buffer *out, const char *type, const char *code, const char *message) {
    put_text(out, "data: ");
    put_error(out, type, NULL, code, message);
    put_text(out, "\n\n");
}

static void put_last_chunks(struct buffer *out, struct choice *choice) {
    const struct generation *g = choice->generation;
    if (choice->n_logprobs_sent < g->logprobs.n) put_chunk(out, choice, "", 0, g->stream->text_len);
    put_chunk(out, choice, NULL, 0, g->stream->text_len);
    choice->is_told = true;
    choice->call->n_told++;
}

static void put_end(struct buffer *out, struct call *call) {
    if (call->include_usage) {
        const struct engine_usage usage = sum_usage(call);
        put_text(out, "data: ");
        put_opening(out, call);
        put_text(out, ",\"choices\":[]");
        put_usage(out, &usage);
        put_text(out, "}\n\n");
    }
    put_text(out, "data: [DONE]\n\n");
}

/* What is new of a choice. False: an error was sent, there is nothing more to say. */
static bool pull_choice(struct choice *choice, struct buffer *out) {
    struct stream_slice slice;
    enum stream_read_result result;
    while (!choice->is_told && out->len < STREAM_SLICE && (result = stream_read(&choice->reader, &slice)) != STREAM_NOTHING) {
        if (result == STREAM_GAP) { /* 64 k events behind: the records are gone, and there is no way to tell a delta client */
            put_error_event(out, "server_error", "too_slow", "The stream was read too slowly.");
            return false;
        }
        if (slice.kind == STREAM_TEXT)
            put_chunk(out, choice, slice.text, slice.len, (size_t)(slice.text - choice->reader.stream->text) + slice.len);
        if (slice.kind != STREAM_DONE) continue;
        int code;
        const char *message = failure(choice->generation, &code);
        if (message) {
            int i = trouble_index(code);
            put_error_event(out, troubles[i].type, troubles[i].word, message);
            return false;
        }
        put_last_chunks(out, choice);
    }
    return true;
}

static bool pull(struct exchange *e, struct buffer *out) {
    struct call *call = e->work;
    bool goes_on = true;
    for (int i = 0; i < call->n_choices && goes_on; i++)
        goes_on = pull_choice(&call->choices[(call->first + i) % call->n_choices], out);
    call->first = (call->first + 1) % call->n_choices;
    if (goes_on && call->n_told < call->n_choices) return false;
    if (goes_on) put_end(out, call);
    call_end(call);
    return true;
}

static void begin_stream(struct call *call) {
    call->begun = true;
    call->exchange->pull = pull;
    http_stream_begin(call->exchange, "text/event-stream; charset=utf-8");
}

/* The head waits for the first text, so that a prompt that does not fit is still an HTTP error. */
static void on_stream_ready(struct stream_reader *reader) {
    struct call *call = container_of(reader, struct choice, reader)->call;
    if (call->begun)
        http_stream_ready(call->exchange);
    else if (reader->stream->text_len > 0)
        begin_stream(call);
}

static void on_ended(struct generation *g, const struct store_op *saved) {
    struct call *call = ((struct choice *)g->owner)->call;
    int code;
    const char *message = failure(g, &code);
    (void)saved;
    call->n_ended++;
    if (call->begun) return; /* pull comes to the end by itself */
    if (!message && call->stream) {
        begin_stream(call);
        return;
    }
    if (!message && call->n_ended < call->n_choices) return;
    if (message)
        answer_trouble(call->exchange, code, message);
    else
        answer_whole(call);
    call_end(call);
}

/* --- from the request to the generations --- */

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

/* Choice i has the seed of the request plus i, so its text is the one that this seed gives alone. */
static bool begin_choice(struct call *call, int64_t user, int i, const struct openai_request *request, struct wire_error *error) {
    struct choice *choice = &call->choices[i];
    struct wire_stream ids = {.begun_ms = clock_wall_ms()};
    struct gen_params params;
    *error = (struct wire_error){.code = CODE_INTERNAL, .message = "Out of memory."};
    if (!gen_params_copy(&params, &request->gen)) return false;
    params.sampling.seed += (uint64_t)i;
    store_id_new(&ids.generation);
    struct generation *g = turn_new(call->exchange->gateway, user, &ids, false, NULL, 0, &params, error);
    gen_params_free(&params); /* empty if they were taken over */
    if (!g) return false;
    *choice = (struct choice){.call = call, .index = i, .generation = g, .reader.ready = on_stream_ready};
    if (!submit(g, call->kind, request, error)) {
        turn_fail(g);
        return false;
    }
    g->ended = on_ended;
    g->owner = choice;
    if (call->stream) stream_attach(g->stream, &choice->reader, 1);
    return true;
}

static void start(struct exchange *e, int64_t user, enum openai_kind kind, const struct openai_request *request) {
    struct wire_error error;
    size_t n = (size_t)request->n_choices;
    struct call *call = calloc(1, sizeof *call + n * sizeof *call->choices);
    if (!call) {
        answer_trouble(e, CODE_INTERNAL, "Out of memory.");
        return;
    }
    *call = (struct call){.exchange = e, .kind = kind, .created_s = clock_wall_ms() / 1000, .n_choices = request->n_choices};
    call->logprobs = request->gen.logprobs;
    call->stream = request->stream;
    call->include_usage = request->include_usage;
    e->work = call;
    e->gone = on_gone;
    exchange_hold(e);
    for (int i = 0; i < call->n_choices; i++) {
        if (begin_choice(call, user, i, request, &error)) continue;
        answer_trouble(e, error.code, error.message);
        call_end(call);
        return;
    }
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
