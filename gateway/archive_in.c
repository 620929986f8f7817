/* archive_in.c - see archive_in.h. The outer object is walked by hand, from chat to chat, so that only one of them is a tree in
 * memory at a time; jansson reads each value where it stands. */
#include "gateway/archive_in.h"

#include "gateway/wire_in.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_NUMBERS = 64,    /* members of usage, and of a list in it */
    MAX_NOTE_BYTES = 400 /* of a text in usage or err */
};

static const char not_ours[] = "This is not a file of exported chats: it must begin with {\"format\":\"" ARCHIVE_FORMAT "\"";

static bool fail(struct archive_reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool fail(struct archive_reader *r, const char *format, ...) {
    char what[160];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (r->message > 0)
        snprintf(r->error, sizeof r->error, "Chat %d, message %d: %s", r->n_chats + 1, r->message, what);
    else if (r->phase == ARCHIVE_IN_CHATS)
        snprintf(r->error, sizeof r->error, "Chat %d: %s", r->n_chats + 1, what);
    else
        snprintf(r->error, sizeof r->error, "%s", what);
    return false;
}

static void chat_free(struct archive_reader *r) {
    for (int i = 0; i < r->chat.n_messages; i++) free((char *)r->chat.messages[i].meta);
    free(r->chat.messages);
    json_decref(r->tree);
    r->chat = (struct store_chat){0};
    r->tree = NULL;
}

void archive_reader_begin(struct archive_reader *r, const char *text, size_t len) {
    *r = (struct archive_reader){.text = text, .len = len};
}
void archive_reader_end(struct archive_reader *r) { chat_free(r); }
void archive_reader_rewind(struct archive_reader *r) {
    const char *text = r->text;
    size_t len = r->len;
    chat_free(r);
    archive_reader_begin(r, text, len);
}

/* --- one message --- */

static bool is_name_of(const char *text, const char *const *names, size_t n, int *out) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(names[i], text) != 0) continue;
        *out = (int)i;
        return true;
    }
    return false;
}

static bool take_word(struct archive_reader *r, const json_t *m, const char *name, const char *const *names, size_t n, int *out) {
    const char *text = json_string_value(json_object_get(m, name));
    return (text && is_name_of(text, names, n, out)) || fail(r, "%s is not one of its words.", name);
}

static bool take_time(struct archive_reader *r, const json_t *of, int64_t *out) {
    const json_t *ts = json_object_get(of, "ts");
    if (!json_is_integer(ts) || json_integer_value(ts) < 0 || json_integer_value(ts) > ARCHIVE_MAX_TIME)
        return fail(r, "ts must be a time in milliseconds.");
    *out = json_integer_value(ts);
    return true;
}

static bool is_note(const json_t *value) {
    return json_is_number(value) || (json_is_string(value) && json_string_length(value) <= MAX_NOTE_BYTES);
}

static bool is_usage(const json_t *usage) {
    const char *name;
    json_t *value;
    if (!json_is_object(usage) || json_object_size(usage) > MAX_NUMBERS) return false;
    json_object_foreach((json_t *)usage, name, value) {
        bool good = strlen(name) <= MAX_NUMBERS && (is_note(value) || json_is_array(value));
        if (json_is_array(value)) good = good && json_array_size(value) <= MAX_NUMBERS;
        for (size_t i = 0; i < json_array_size(value); i++) good = good && json_is_number(json_array_get(value, i));
        if (!good) return false;
    }
    return true;
}

static bool is_failure(const json_t *err) {
    const json_t *msg = json_object_get(err, "msg");
    return json_object_size(err) == 2 && json_is_integer(json_object_get(err, "code")) && json_is_string(msg) && is_note(msg);
}

/* What the store keeps beside an answer, and nothing else: these members stand beside id and text on the wire. */
static bool take_meta(struct archive_reader *r, const json_t *m, struct store_chat_message *out) {
    json_t *usage = json_object_get(m, "usage"), *why = json_object_get(m, "why"), *err = json_object_get(m, "err");
    static const char *const reasons[] = {"stop", "length", "context", "cancel", "error", "interrupted"};
    int reason;
    if (usage && !is_usage(usage)) return fail(r, "usage must hold numbers and short texts.");
    if (why && !take_word(r, m, "why", reasons, sizeof reasons / sizeof *reasons, &reason)) return false;
    if (err && !is_failure(err)) return fail(r, "err must be {code, msg}.");
    if ((usage || why || err) && out->role == MESSAGE_USER) return fail(r, "usage, why and err belong to answers.");
    json_t *meta = json_object();
    if (usage) json_object_set(meta, "usage", usage);
    if (err) json_object_set(meta, "err", err);
    if (why) json_object_set(meta, "why", why);
    out->meta = json_dumps(meta, JSON_COMPACT);
    json_decref(meta);
    return out->meta || fail(r, "there is no memory left.");
}

/* The place of the parent among the messages before; -1: none. */
static bool take_parent(struct archive_reader *r, const json_t *m, const json_t *places, struct store_chat_message *out) {
    const json_t *parent = json_object_get(m, "parent");
    out->parent = -1;
    if (!parent || json_is_null(parent))
        return out->role == MESSAGE_USER || fail(r, "an answer needs the parent that it answers.");
    const json_t *place = json_is_string(parent) ? json_object_get(places, json_string_value(parent)) : NULL;
    if (!place) return fail(r, "parent must be the id of a message before it in the chat.");
    out->parent = (int)json_integer_value(place);
    if (r->chat.messages[out->parent].role == out->role) return fail(r, "questions and answers must take turns.");
    return true;
}

static bool take_id(struct archive_reader *r, const json_t *m, json_t *places, int place) {
    const json_t *id = json_object_get(m, "id");
    size_t len = json_string_length(id);
    if (!json_is_string(id) || len < 1 || len > 64) return fail(r, "id must be a text of 1 to 64 bytes.");
    if (json_object_get(places, json_string_value(id))) return fail(r, "its id was used before in the chat.");
    return json_object_set_new(places, json_string_value(id), json_integer(place)) == 0 || fail(r, "there is no memory left.");
}

static bool take_message(struct archive_reader *r, const json_t *m, json_t *places, struct store_chat_message *out) {
    static const char *const roles[] = {"user", "assistant"}, *const states[] = {"done",        "",      "stopped",
                                                                                 "interrupted", "error", "length"};
    int role, state;
    if (!json_is_object(m)) return fail(r, "a message must be an object.");
    if (!take_word(r, m, "role", roles, 2, &role) || !take_word(r, m, "st", states, sizeof states / sizeof *states, &state))
        return false;
    out->role = (enum message_role)role;
    out->state = (enum message_state)state;
    const json_t *text = json_object_get(m, "text");
    if (!json_is_string(text)) return fail(r, "text must be a text.");
    out->text = json_string_value(text);
    out->text_len = json_string_length(text);
    if (state == MESSAGE_RUNNING) return fail(r, "st is empty.");
    if (role == MESSAGE_USER && state != MESSAGE_DONE) return fail(r, "a question's st must be done.");
    return take_time(r, m, &out->created_ms) && take_parent(r, m, places, out) &&
           take_id(r, m, places, (int)(out - r->chat.messages)) && take_meta(r, m, out);
}

/* --- one chat --- */

static bool take_messages(struct archive_reader *r, const json_t *list) {
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n < 1 || n > ARCHIVE_MAX_MESSAGES)
        return fail(r, "messages must be a list of 1 to %d messages.", ARCHIVE_MAX_MESSAGES);
    json_t *places = json_object();
    r->chat.messages = calloc(n, sizeof *r->chat.messages);
    bool good = r->chat.messages && places;
    if (!good) fail(r, "there is no memory left.");
    for (size_t i = 0; i < n && good; i++) {
        r->message = (int)i + 1;
        r->chat.n_messages = (int)i + 1;
        good = take_message(r, json_array_get(list, i), places, &r->chat.messages[i]);
    }
    json_decref(places);
    if (good) r->message = 0;
    return good;
}

static bool take_chat(struct archive_reader *r) {
    const json_t *chat = r->tree, *title = json_object_get(chat, "title");
    if (!json_is_object(chat)) return fail(r, "a chat must be an object.");
    if (!json_is_string(title) || json_string_length(title) != strlen(json_string_value(title)) ||
        json_string_length(title) == 0 || wire_count_characters(json_string_value(title)) > WIRE_MAX_TITLE)
        return fail(r, "title must have 1 to %d characters.", WIRE_MAX_TITLE);
    r->chat.title = json_string_value(title);
    return take_time(r, chat, &r->chat.changed_ms) && take_messages(r, json_object_get(chat, "messages"));
}

/* --- the file --- */

static char look(struct archive_reader *r) {
    while (r->at < r->len && strchr(" \t\r\n", r->text[r->at]) && r->text[r->at]) r->at++;
    return r->at < r->len ? r->text[r->at] : '\0';
}

static bool skip(struct archive_reader *r, char c) {
    if (look(r) != c) return false;
    r->at++;
    return true;
}

/* The value that begins here; to free. */
static json_t *read_value(struct archive_reader *r) {
    json_error_t error;
    json_t *value = json_loadb(r->text + r->at, r->len - r->at,
                               JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK, &error);
    if (value)
        r->at += (size_t)error.position;
    else
        fail(r, "not JSON at byte %zu of the file: %.80s.", r->at + (size_t)error.position, error.text);
    return value;
}

/* A member of the outer object that is not the chats. */
static bool take_head(struct archive_reader *r, const char *name) {
    json_t *value = read_value(r);
    if (!value) return false;
    bool good = true;
    if (strcmp(name, "format") == 0) {
        r->has_format = json_is_string(value) && strcmp(json_string_value(value), ARCHIVE_FORMAT) == 0;
        if (!r->has_format) good = fail(r, "%s.", not_ours);
    } else if (strcmp(name, "version") == 0) {
        r->has_version = json_integer_value(value) == ARCHIVE_VERSION;
        if (!r->has_version) good = fail(r, "the file's version is not %d: a newer Foresay wrote it.", ARCHIVE_VERSION);
    }
    json_decref(value);
    return good;
}

/* Goes on in the outer object until the chats begin or the file is over. */
static bool read_head(struct archive_reader *r) {
    bool first = r->phase == ARCHIVE_BEFORE && r->at == 0;
    if (first && !skip(r, '{')) return fail(r, "%s.", not_ours);
    while (!(first && look(r) == '}')) {
        if (!first && !skip(r, ',')) break;
        first = false;
        json_t *name = look(r) == '"' ? read_value(r) : NULL;
        bool is_chats = name && strcmp(json_string_value(name), "chats") == 0;
        bool good = name && skip(r, ':');
        if (!good && !r->error[0]) fail(r, "%s.", not_ours);
        if (good && is_chats && (r->phase != ARCHIVE_BEFORE || !skip(r, '['))) good = fail(r, "chats must be one list.");
        if (good && !is_chats) good = take_head(r, json_string_value(name));
        json_decref(name);
        if (!good) return false;
        if (!is_chats) continue;
        r->phase = ARCHIVE_IN_CHATS;
        return true;
    }
    if (!skip(r, '}') || look(r) != '\0' || r->at != r->len)
        return fail(r, "the file ends too early, or goes on behind its end.");
    if (!r->has_format || !r->has_version || r->phase != ARCHIVE_AFTER) return fail(r, "%s.", not_ours);
    r->phase = ARCHIVE_OVER;
    return true;
}

enum store_next archive_next(void *reader, struct store_chat *out) {
    struct archive_reader *r = reader;
    chat_free(r);
    if (r->phase == ARCHIVE_BEFORE && !read_head(r)) return STORE_NEXT_BAD;
    if (r->phase == ARCHIVE_IN_CHATS && skip(r, ']')) {
        r->phase = ARCHIVE_AFTER;
        if (!read_head(r)) return STORE_NEXT_BAD;
    }
    if (r->phase == ARCHIVE_OVER) return STORE_NEXT_END;
    if (r->n_chats > 0 && !skip(r, ',')) return fail(r, "a comma or the list's end is missing before it."), STORE_NEXT_BAD;
    look(r);
    r->tree = read_value(r);
    if (!r->tree || !take_chat(r)) return STORE_NEXT_BAD;
    r->n_chats++;
    r->n_messages += r->chat.n_messages;
    *out = r->chat;
    return STORE_NEXT_CHAT;
}
