/* logprobs.c - see logprobs.h. */
#include "gateway/logprobs.h"

#include "gateway/wire_out.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct logprob_token {
    uint32_t text_len;    /* of the answer once this token's text has begun */
    uint32_t text_offset; /* characters before its text */
    int n_top;
    struct engine_logprob own, top[ENGINE_MAX_TOP_LOGPROBS];
};

void logprobs_free(struct logprob_list *list) {
    free(list->tokens);
    *list = (struct logprob_list){0};
}

static bool reserve(struct logprob_list *list) {
    if (list->n < list->capacity) return true;
    int wanted = list->capacity ? 2 * list->capacity : 64;
    struct logprob_token *grown = realloc(list->tokens, (size_t)wanted * sizeof *grown);
    if (!grown) return false;
    list->tokens = grown;
    list->capacity = wanted;
    return true;
}

bool logprobs_add(struct logprob_list *list, const struct engine *engine, const struct engine_event *event, const char *text,
                  size_t text_len) {
    if (event->n_logprobs == 0) return true;
    if (!reserve(list)) return false;
    for (; list->counted < list->n_bytes && list->counted < text_len; list->counted++)
        list->n_chars += ((unsigned char)text[list->counted] & 0xC0) != 0x80;
    struct logprob_token *token = &list->tokens[list->n++];
    token->text_len = (uint32_t)text_len;
    token->text_offset = (uint32_t)list->n_chars;
    token->n_top = event->n_logprobs - 1;
    token->own = event->logprobs[0];
    memcpy(token->top, event->logprobs + 1, (size_t)token->n_top * sizeof *token->top);
    const struct engine_token_text own = engine_token_text(engine, event->token);
    if (!own.is_control) list->n_bytes += own.len;
    return true;
}

int logprobs_upto(const struct logprob_list *list, int first, size_t text_len) {
    while (first < list->n && list->tokens[first].text_len <= text_len) first++;
    return first;
}

/* --- JSON --- */

/* JSON has no infinity: what cannot come is -9999, as in OpenAI's own answers. */
static void put_logprob(struct buffer *out, float logprob) {
    char digits[32];
    snprintf(digits, sizeof digits, "%.9g", logprob > -9999.0f ? (double)logprob : -9999.0);
    put_text(out, digits);
}

static void put_token(struct buffer *out, const struct engine_token_text *text) {
    static const char digits[] = "0123456789abcdef";
    if (text->is_utf8) {
        put_string(out, text->bytes, text->len);
        return;
    }
    put_text(out, "\"bytes:");
    for (size_t i = 0; i < text->len; i++) {
        unsigned char byte = (unsigned char)text->bytes[i];
        const char hex[] = {'\\', '\\', 'x', digits[byte >> 4], digits[byte & 15]};
        buffer_append(out, hex, sizeof hex);
    }
    put_text(out, "\"");
}

void put_token_bytes(struct buffer *out, const struct engine_token_text *text) {
    if (text->is_control) {
        put_text(out, "null");
        return;
    }
    for (size_t i = 0; i < text->len; i++) {
        put_text(out, i > 0 ? "," : "[");
        put_integer(out, (unsigned char)text->bytes[i]);
    }
    put_text(out, "]");
}

/* "token":...,"logprob":...,"bytes":[...] */
static void put_members(struct buffer *out, const struct engine *engine, const struct engine_logprob *of) {
    const struct engine_token_text text = engine_token_text(engine, of->token);
    put_text(out, "\"token\":");
    put_token(out, &text);
    put_text(out, ",\"logprob\":");
    put_logprob(out, of->logprob);
    put_text(out, ",\"bytes\":");
    put_token_bytes(out, &text);
}

void put_chat_logprobs(struct buffer *out, const struct engine *engine, const struct logprob_list *list, int first, int end) {
    put_text(out, "{\"content\":[");
    for (int i = first; i < end; i++) {
        const struct logprob_token *t = &list->tokens[i];
        put_text(out, i > first ? ",{" : "{");
        put_members(out, engine, &t->own);
        put_text(out, ",\"top_logprobs\":[");
        for (int j = 0; j < t->n_top; j++) {
            put_text(out, j > 0 ? ",{" : "{");
            put_members(out, engine, &t->top[j]);
            put_text(out, "}");
        }
        put_text(out, "]}");
    }
    put_text(out, "],\"refusal\":null}");
}

/* Two tokens may have the same text; a name stands in an object once, for the likelier. */
static bool is_named(const struct engine *engine, const struct logprob_token *t, int j) {
    const struct engine_token_text text = engine_token_text(engine, t->top[j].token);
    for (int i = 0; i < j; i++) {
        const struct engine_token_text other = engine_token_text(engine, t->top[i].token);
        if (text.len == other.len && memcmp(text.bytes, other.bytes, text.len) == 0) return true;
    }
    return false;
}

static void put_top_object(struct buffer *out, const struct engine *engine, const struct logprob_token *t) {
    put_text(out, "{");
    for (int j = 0; j < t->n_top; j++) {
        if (is_named(engine, t, j)) continue;
        const struct engine_token_text text = engine_token_text(engine, t->top[j].token);
        if (j > 0) put_text(out, ",");
        put_token(out, &text);
        put_text(out, ":");
        put_logprob(out, t->top[j].logprob);
    }
    put_text(out, "}");
}

void put_completion_logprobs(struct buffer *out, const struct engine *engine, const struct logprob_list *list, int first,
                             int end) {
    static const char *const names[] = {"{\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[", "],\"text_offset\":["};
    for (int part = 0; part < 4; part++) {
        put_text(out, names[part]);
        for (int i = first; i < end; i++) {
            const struct logprob_token *t = &list->tokens[i];
            if (i > first) put_text(out, ",");
            const struct engine_token_text text = engine_token_text(engine, t->own.token);
            if (part == 0) put_token(out, &text);
            if (part == 1) put_logprob(out, t->own.logprob);
            if (part == 2) put_top_object(out, engine, t);
            if (part == 3) put_integer(out, t->text_offset);
        }
    }
    put_text(out, "]}");
}
