/* normalize.c - see normalize.h. Only stretches that may change are given to utf8proc: nothing below U+0300 does by itself, and
 * nothing composes with an ASCII character that follows it, so a stretch goes from the character before the first one from U+0300
 * on to the next ASCII character. */
#include "engine/normalize.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/utf8.h"

enum { FIRST_UNSTABLE = 0x300, MOST_MARKS = 1000 };

/* The start of the first stretch from `at` on; len if there is none. */
static size_t find_stretch(const char *text, size_t len, size_t at) {
    size_t before = at;
    while (at < len) {
        int n = utf8_scan(text + at, len - at);
        if (n > 0 && utf8_code_point(text + at, n) >= FIRST_UNSTABLE) return before;
        before = n > 0 ? at : at + 1; /* no character composes across bytes that are none */
        at += n > 0 ? (size_t)n : 1;
    }
    return len;
}

/* Where the stretch that begins at start ends; *is_sane is false if it is to be left alone. */
static size_t end_stretch(const char *text, size_t len, size_t start, bool *is_sane) {
    size_t at = start;
    int n_marks = 0;
    *is_sane = true;
    while (at < len) {
        int n = utf8_scan(text + at, len - at);
        if (n <= 0 || (n == 1 && at > start)) break;
        uint32_t c = utf8_code_point(text + at, n);
        n_marks = utf8proc_get_property((utf8proc_int32_t)c)->combining_class ? n_marks + 1 : 0;
        if (n_marks > MOST_MARKS) *is_sane = false;
        at += (size_t)n;
    }
    return at;
}

struct output {
    char *data;
    size_t len, capacity;
};

static bool add(struct output *out, const void *data, size_t len) {
    if (len > out->capacity - out->len) {
        size_t capacity = (out->len + len) * 2;
        char *larger = realloc(out->data, capacity);
        if (!larger) return false;
        out->data = larger;
        out->capacity = capacity;
    }
    if (len) memcpy(out->data + out->len, data, len);
    out->len += len;
    return true;
}

static bool add_composed(struct output *out, const char *text, size_t len, bool *changed) {
    utf8proc_uint8_t *composed;
    utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)len, &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n == UTF8PROC_ERROR_NOMEM) return false;
    if (n < 0) return add(out, text, len); /* text that utf8proc does not like is left alone */
    *changed = *changed || (size_t)n != len || memcmp(composed, text, len) != 0;
    bool fits = add(out, composed, (size_t)n);
    free(composed);
    return fits;
}

bool normalize_nfc(const char *text, size_t len, char **out, size_t *out_len) {
    struct output output = {0};
    size_t done = 0, start = find_stretch(text, len, 0);
    bool changed = false, fits = true;
    *out = NULL;
    while (fits && start < len) {
        bool is_sane;
        size_t end = end_stretch(text, len, start, &is_sane);
        fits = add(&output, text + done, start - done);
        if (fits && is_sane) fits = add_composed(&output, text + start, end - start, &changed);
        if (fits && !is_sane) fits = add(&output, text + start, end - start);
        done = end;
        start = find_stretch(text, len, end);
    }
    fits = fits && add(&output, text + done, len - done);
    if (fits && changed) {
        *out = output.data;
        *out_len = output.len;
    } else {
        free(output.data);
    }
    return fits;
}
