/* wire_out.c - see wire_out.h. */
#include "gateway/wire_out.h"

#include "gateway/timers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- pieces --- */

void put_text(struct buffer *out, const char *text) { buffer_append(out, text, strlen(text)); }

void put_escaped(struct buffer *out, const char *text, size_t len) {
    size_t done = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        buffer_append(out, text + done, i - done);
        done = i + 1;
        char code[8] = {'\\', (char)c, 0};
        switch (c) {
        case '"':
        case '\\':
            break;
        case '\n':
            code[1] = 'n';
            break;
        case '\t':
            code[1] = 't';
            break;
        case '\r':
            code[1] = 'r';
            break;
        default:
            snprintf(code, sizeof code, "\\u%04x", c);
        }
        put_text(out, code);
    }
    buffer_append(out, text + done, len - done);
}

void put_string(struct buffer *out, const char *text, size_t len) {
    put_text(out, "\"");
    put_escaped(out, text, len);
    put_text(out, "\"");
}

void put_cstring(struct buffer *out, const char *text) {
    if (text)
        put_string(out, text, strlen(text));
    else
        put_text(out, "null");
}

void put_integer(struct buffer *out, int64_t number) {
    char digits[24];
    snprintf(digits, sizeof digits, "%lld", (long long)number);
    put_text(out, digits);
}

void put_real(struct buffer *out, double number) {
    char digits[48];
    if (!isfinite(number) || fabs(number) > 1e15) number = 0;
    snprintf(digits, sizeof digits, "%.2f", number);
    put_text(out, digits);
}

/* ,"name":"text" */
static void put_member(struct buffer *out, const char *name, const char *text) {
    put_text(out, ",\"");
    put_text(out, name);
    put_text(out, "\":");
    put_cstring(out, text);
}
static void put_member_id(struct buffer *out, const char *name, const struct store_id *id) {
    put_member(out, name, id->text[0] ? id->text : NULL);
}
static void put_member_integer(struct buffer *out, const char *name, int64_t number) {
    put_text(out, ",\"");
    put_text(out, name);
    put_text(out, "\":");
    put_integer(out, number);
}
static void put_member_real(struct buffer *out, const char *name, double number) {
    put_text(out, ",\"");
    put_text(out, name);
    put_text(out, "\":");
    put_real(out, number);
}

/* --- answers --- */

void wire_welcome(struct buffer *out, const struct wire_welcome *w) {
    put_text(out, "{\"t\":\"welcome\",\"v\":1");
    put_member(out, "sid", w->sid);
    put_text(out, ",\"user\":{\"name\":");
    put_cstring(out, w->user_name);
    put_text(out, w->admin ? ",\"admin\":true" : ",\"admin\":false");
    put_text(out, w->learns ? ",\"learn\":true}" : ",\"learn\":false}");
    put_text(out, ",\"model\":{\"name\":");
    put_cstring(out, w->model_name);
    put_member_integer(out, "ctx", w->ctx_len);
    put_member(out, "quant", w->quant);
    put_text(out, "},\"server\":{\"version\":");
    put_cstring(out, w->version);
    put_member(out, "node", w->node);
    put_text(out, w->has_traces ? "},\"trace\":true" : "},\"trace\":false");
    put_member_integer(out, "hb_ms", PROTOCOL_HEARTBEAT_MS);
    put_member_integer(out, "max_frame", PROTOCOL_MAX_FRAME);
    put_member_integer(out, "now", clock_wall_ms());
    put_text(out, "}");
}

static void begin_ok(struct buffer *out, const char *id) {
    put_text(out, "{\"t\":\"ok\"");
    put_member(out, "id", id);
}

void wire_ok(struct buffer *out, const char *id) {
    begin_ok(out, id);
    put_text(out, "}");
}

void wire_ok_turn(struct buffer *out, const char *id, const struct store_id *conv, const struct store_id *message,
                  const struct store_id *answer, const struct store_id *generation) {
    begin_ok(out, id);
    put_member_id(out, "conv", conv);
    if (message && message->text[0]) put_member_id(out, "msg", message);
    put_member_id(out, "ans", answer);
    put_member_id(out, "g", generation);
    put_text(out, "}");
}

/* The members of a JSON object that we wrote ourselves, as further members: ,"a":1,"b":2 */
static void put_meta_members(struct buffer *out, const char *meta) {
    size_t len = strlen(meta);
    if (len <= 2 || meta[0] != '{' || meta[len - 1] != '}') return;
    put_text(out, ",");
    buffer_append(out, meta + 1, len - 2);
}

static void put_message(struct buffer *out, const struct store_message *m) {
    bool running = m->state == MESSAGE_RUNNING;
    put_text(out, "{\"id\":");
    put_cstring(out, m->id.text);
    put_member_id(out, "parent", &m->parent);
    put_member(out, "role", m->role == MESSAGE_USER ? "user" : "assistant");
    put_text(out, ",\"text\":");
    put_string(out, m->text, running && m->base_len < m->text_len ? m->base_len : m->text_len);
    put_member_integer(out, "ts", m->created_ms);
    put_member(out, "st", message_state_name(m->state));
    if (m->generation.text[0]) put_member_id(out, "g", &m->generation);
    if (!running) put_meta_members(out, m->meta);
    put_text(out, "}");
}

static void put_conversation(struct buffer *out, const struct store_conversation *c) {
    put_text(out, "{\"id\":");
    put_cstring(out, c->id.text);
    put_member(out, "title", c->title);
    put_member_integer(out, "ts", c->changed_ms);
    put_member_id(out, "live", &c->live);
    put_text(out, "}");
}

void wire_ok_hist(struct buffer *out, const char *id, const struct store_op *op) {
    begin_ok(out, id);
    put_member_id(out, "conv", &op->conv);
    put_member(out, "title", op->title ? op->title : "");
    put_text(out, ",\"msgs\":[");
    for (int i = 0; i < op->n_messages; i++) {
        if (i > 0) put_text(out, ",");
        put_message(out, &op->messages[i]);
    }
    put_text(out, op->more ? "],\"more\":true}" : "],\"more\":false}");
}

void wire_ok_convs(struct buffer *out, const char *id, const struct store_op *op) {
    begin_ok(out, id);
    put_text(out, ",\"convs\":[");
    for (int i = 0; i < op->n_convs; i++) {
        if (i > 0) put_text(out, ",");
        put_conversation(out, &op->convs[i]);
    }
    put_text(out, op->more ? "],\"more\":true}" : "],\"more\":false}");
}

/* The parts of an excerpt: plain and hit by turns, plain first. */
static void put_excerpt(struct buffer *out, const char *text, size_t len) {
    put_text(out, ",\"text\":[\"");
    for (size_t i = 0; i < len; i++) {
        if (text[i] == SEARCH_HIT || text[i] == SEARCH_PLAIN)
            put_text(out, "\",\"");
        else
            put_escaped(out, &text[i], 1);
    }
    put_text(out, "\"]");
}

void wire_ok_search(struct buffer *out, const char *id, const struct store_op *op) {
    begin_ok(out, id);
    put_text(out, ",\"hits\":[");
    for (int i = 0; i < op->n_messages; i++) {
        const struct store_message *m = &op->messages[i];
        put_text(out, i > 0 ? ",{\"conv\":" : "{\"conv\":");
        put_cstring(out, m->conv.text);
        put_member(out, "title", op->convs[i].title);
        put_member_id(out, "id", &m->id);
        put_member(out, "role", m->role == MESSAGE_USER ? "user" : "assistant");
        put_member_integer(out, "ts", m->created_ms);
        put_excerpt(out, m->text, m->text_len);
        put_text(out, "}");
    }
    put_text(out, op->more ? "],\"more\":true" : "],\"more\":false");
    put_text(out, op->indexing ? ",\"indexing\":true}" : ",\"indexing\":false}");
}

void wire_err(struct buffer *out, const char *id, const struct store_id *generation, int code, const char *message,
              int retry_ms) {
    put_text(out, "{\"t\":\"err\"");
    if (id && id[0]) put_member(out, "id", id);
    if (generation && generation->text[0]) put_member_id(out, "g", generation);
    put_member_integer(out, "code", code);
    put_member(out, "msg", message);
    if (retry_ms > 0) put_member_integer(out, "retry_ms", retry_ms);
    put_text(out, "}");
}

/* --- notices --- */

void wire_msg(struct buffer *out, const struct store_message *message) {
    put_text(out, "{\"t\":\"msg\"");
    put_member_id(out, "conv", &message->conv);
    put_text(out, ",\"m\":");
    put_message(out, message);
    put_text(out, "}");
}

void wire_archive_chat(struct buffer *out, const struct store_conversation *c) {
    put_text(out, "{\"title\":");
    put_cstring(out, c->title);
    put_member_integer(out, "ts", c->changed_ms);
    put_text(out, ",\"messages\":[");
}

void wire_archive_message(struct buffer *out, const struct store_message *m) {
    bool running = m->state == MESSAGE_RUNNING; /* in the file it ends where it was last saved */
    put_text(out, "{\"id\":");
    put_cstring(out, m->id.text);
    put_member_id(out, "parent", &m->parent);
    put_member(out, "role", m->role == MESSAGE_USER ? "user" : "assistant");
    put_text(out, ",\"text\":");
    put_string(out, m->text, m->text_len);
    put_member_integer(out, "ts", m->created_ms);
    put_member(out, "st", message_state_name(running ? MESSAGE_INTERRUPTED : m->state));
    if (!running) put_meta_members(out, m->meta);
    put_text(out, "}");
}

void wire_conv(struct buffer *out, const struct store_conversation *conv) {
    put_text(out, "{\"t\":\"conv\",\"c\":");
    put_conversation(out, conv);
    put_text(out, "}");
}

void wire_conv_deleted(struct buffer *out, const struct store_id *conv) {
    put_text(out, "{\"t\":\"conv\"");
    put_member_id(out, "conv", conv);
    put_text(out, ",\"deleted\":true}");
}

void wire_learn(struct buffer *out, bool on) {
    put_text(out, on ? "{\"t\":\"learn\",\"on\":true}" : "{\"t\":\"learn\",\"on\":false}");
}

void wire_imported(struct buffer *out) { put_text(out, "{\"t\":\"imported\"}"); }

void wire_ping(struct buffer *out, const char *type, int64_t n) {
    put_text(out, "{\"t\":");
    put_cstring(out, type);
    put_member_integer(out, "n", n);
    put_text(out, "}");
}

void wire_drain(struct buffer *out, int after_ms) {
    put_text(out, "{\"t\":\"drain\"");
    put_member_integer(out, "after_ms", after_ms);
    put_text(out, "}");
}

/* --- events --- */

void put_accepted_at(struct buffer *out, const struct engine_usage *u) {
    int n = ENGINE_DRAFT_DEPTHS;
    while (n > 0 && u->accepted_at[n - 1] == 0) n--;
    put_text(out, "[");
    for (int i = 0; i < n; i++) {
        if (i > 0) put_text(out, ",");
        put_integer(out, u->accepted_at[i]);
    }
    put_text(out, "]");
}

static void put_result(struct buffer *out, const struct stream_result *r) { /* "usage":{...}, and ,"err":{...} */
    const struct engine_usage *u = &r->usage;
    double seconds = (double)u->decode_ms / 1000;
    put_text(out, "\"usage\":{\"in\":");
    put_integer(out, u->prompt_tokens);
    put_member_integer(out, "cached", u->cached_tokens);
    put_member_integer(out, "out", u->output_tokens);
    put_member_real(out, "queue_ms", (double)u->queue_ms);
    put_member_real(out, "prefill_ms", (double)u->prefill_ms);
    put_member_real(out, "ttft_ms", (double)u->ttft_ms);
    put_member_real(out, "tps", u->output_tokens > 1 && seconds > 0 ? (u->output_tokens - 1) / seconds : 0);
    put_member_integer(out, "rounds", u->draft_rounds);
    put_member_integer(out, "drafted", u->drafted_tokens);
    put_member_integer(out, "accepted", u->accepted_tokens);
    put_member_integer(out, "own", u->own_tokens);
    put_text(out, ",\"accepted_at\":");
    put_accepted_at(out, u);
    put_member(out, "drafter", engine_drafter_name(u->drafter));
    put_member(out, "verify", engine_verify_name(u->verify));
    put_member_integer(out, "model_rounds", u->model_rounds);
    put_member(out, "draft_off", engine_draft_off_name(u->draft_off));
    if (u->dropped_traces > 0) put_member_integer(out, "traces_lost", u->dropped_traces);
    put_member_integer(out, "seed", (int64_t)r->seed);
    put_text(out, "}");
    if (r->code == 0) return;
    put_text(out, ",\"err\":{\"code\":");
    put_integer(out, r->code);
    put_member(out, "msg", r->message);
    put_text(out, "}");
}

void wire_meta(struct buffer *out, const struct stream_result *result) {
    put_text(out, "{");
    put_result(out, result);
    put_member(out, "why", stream_why_name(result->why));
    put_text(out, "}");
}

static void put_done(struct buffer *out, const struct stream *stream) {
    char crc[9];
    snprintf(crc, sizeof crc, "%08x", stream->crc);
    put_member(out, "why", stream_why_name(stream->result.why));
    put_text(out, ",");
    put_result(out, &stream->result);
    put_member_integer(out, "len", (int64_t)stream->text_len);
    put_member(out, "crc", crc);
}

void wire_slice(struct buffer *out, const struct wire_stream *ids, const struct stream *stream,
                const struct stream_slice *slice) {
    static const char *const types[] = {"start", "state", "state", "d", "trace", "done"};
    put_text(out, "{\"t\":");
    put_cstring(out, types[slice->kind]);
    put_member_id(out, "g", &ids->generation);
    put_member_integer(out, "s", (int64_t)slice->seq);
    switch (slice->kind) {
    case STREAM_START:
        put_member_id(out, "conv", &ids->conv);
        put_member_id(out, "msg", &ids->message);
        put_member_id(out, "parent", &ids->parent);
        put_member_integer(out, "base", (int64_t)stream->base_len);
        put_member_integer(out, "ts", ids->begun_ms);
        break;
    case STREAM_PREFILL:
        put_member(out, "st", "prefill");
        put_member_integer(out, "done", slice->a);
        put_member_integer(out, "total", slice->b);
        break;
    case STREAM_TRIMMED:
        put_member(out, "st", "trimmed");
        put_member_integer(out, "dropped", slice->a);
        break;
    case STREAM_TEXT:
        put_member_integer(out, "n", (int64_t)slice->n);
        put_text(out, ",\"x\":");
        put_string(out, slice->text, slice->len);
        put_member_integer(out, "tok", slice->tokens);
        if (slice->accepted > 0) put_member_integer(out, "acc", slice->accepted);
        break;
    case STREAM_TRACE:
        put_text(out, ",");
        buffer_append(out, slice->text, slice->len);
        break;
    case STREAM_DONE:
        put_done(out, stream);
        break;
    }
    put_text(out, "}");
}

void wire_snap(struct buffer *out, const struct store_id *generation, uint64_t upto, const char *text, size_t len,
               const char *state, const char *why) {
    put_text(out, "{\"t\":\"snap\"");
    put_member_id(out, "g", generation);
    put_member_integer(out, "upto", (int64_t)upto);
    put_text(out, ",\"x\":");
    put_string(out, text, len);
    put_member(out, "st", state);
    if (why) put_member(out, "why", why);
    put_text(out, "}");
}
