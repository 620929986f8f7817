/* store_op.c - an operation as a value: made, given its strings, freed; ids, titles, names. No SQL, any thread. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "gateway/store_sql.h"

void store_id_new(struct store_id *out) {
    static const char digits[] = "0123456789abcdef";
    unsigned char random[STORE_ID_LEN / 2];
    ssize_t got =
        getrandom(random, sizeof random, 0); /* up to 256 bytes come whole and uninterrupted once the kernel is seeded */
    assert(got == (ssize_t)sizeof random);
    for (size_t i = 0; i < sizeof random; i++) {
        out->text[2 * i] = digits[random[i] >> 4];
        out->text[2 * i + 1] = digits[random[i] & 15];
    }
    out->text[STORE_ID_LEN] = '\0';
}

bool store_id_parse(struct store_id *out, const char *text) {
    if (!text) return false;
    for (int i = 0; i < STORE_ID_LEN; i++) {
        char c = text[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
    }
    if (text[STORE_ID_LEN] != '\0') return false;
    memcpy(out->text, text, STORE_ID_LEN + 1);
    return true;
}

const char *message_state_name(enum message_state state) {
    static const char *const names[] = {"done", "running", "stopped", "interrupted", "error", "length"};
    return names[state];
}

struct store_op *store_op_new(enum store_kind kind) {
    struct store_op *op = calloc(1, sizeof *op);
    if (op) op->kind = kind;
    return op;
}

/* A terminated copy in *slot, what stood there before freed. */
static bool set_string(char **slot, const char *text, size_t len) {
    char *copy = malloc(len + 1);
    if (!copy) return false;
    if (len > 0) memcpy(copy, text, len);
    copy[len] = '\0';
    free(*slot);
    *slot = copy;
    return true;
}

bool store_op_set_text(struct store_op *op, const char *text, size_t len) {
    if (!set_string(&op->text, text, len)) return false;
    op->text_len = len;
    return true;
}
bool store_op_set_title(struct store_op *op, const char *title) { return set_string(&op->title, title, strlen(title)); }
bool store_op_set_meta(struct store_op *op, const char *json) { return set_string(&op->meta, json, strlen(json)); }

void store_op_free(struct store_op *op) {
    if (!op) return;
    for (int i = 0; i < op->n_messages; i++) {
        free(op->messages[i].text);
        free(op->messages[i].meta);
    }
    for (int i = 0; i < op->n_convs; i++) free(op->convs[i].title);
    free(op->messages);
    free(op->convs);
    free(op->text);
    free(op->title);
    free(op->meta);
    free(op);
}

/* Bytes of the UTF-8 character at text, 0 when it is none (or stands for a surrogate, is too long, too large). */
static size_t utf8_length(const char *text, size_t len) {
    const unsigned char *p = (const unsigned char *)text;
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xC0 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : p[0] < 0xF8 ? 4 : 0;
    if (n == 1) return 1;
    if (n == 0 || n > len) return 0;
    uint32_t code = p[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80) return 0;
        code = code << 6 | (p[i] & 0x3F);
    }
    return code < smallest[n] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ? 0 : n;
}

static bool is_blank(char c) { return (unsigned char)c <= ' ' || c == 0x7F; }

bool store_name_valid(const char *name) {
    size_t len = strlen(name);
    if (len == 0 || len >= sizeof((struct store_user *)0)->name || name[0] == ' ' || name[len - 1] == ' ') return false;
    for (size_t i = 0, n; i < len; i += n) {
        n = utf8_length(name + i, len - i);
        if (n == 0 || (name[i] != ' ' && is_blank(name[i]))) return false;
    }
    return true;
}

/* The first line with something in it, blanks run together; a longer one is cut at the last word that fits, or between characters
 * when one word fills the whole width, and ends with an ellipsis. */
char *store_title_from(const char *text, size_t len) {
    enum { WIDTH = 60, MAX_BYTES = WIDTH * 4 + 8 };
    static const char ellipsis[] = "\xE2\x80\xA6";
    char title[MAX_BYTES];
    size_t used = 0, word_end = 0, room_end = 0; /* bytes: so far; before the last blank; as far as an ellipsis still fits */
    int width = 0;
    bool blank = false;
    size_t i = 0;
    while (i < len && is_blank(text[i])) i++;
    for (size_t n; width <= WIDTH && i < len && text[i] != '\n' && text[i] != '\r'; i += n > 0 ? n : 1) {
        n = utf8_length(text + i, len - i);
        if (n == 0) continue;
        if (is_blank(text[i])) {
            blank = used > 0;
            continue;
        }
        if (blank) {
            if (width < WIDTH) word_end = used;
            title[used++] = ' ';
            width++;
            blank = false;
        }
        memcpy(title + used, text + i, n);
        used += n;
        if (++width < WIDTH) room_end = used;
    }
    if (width > WIDTH) {
        used = word_end > 0 ? word_end : room_end;
        memcpy(title + used, ellipsis, sizeof ellipsis - 1);
        used += sizeof ellipsis - 1;
    }
    return used > 0 ? strndup(title, used) : strdup("New conversation");
}
