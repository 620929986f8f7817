/* jinja_text.c - values as text: buffers, UTF-8, Python's str() and repr(), JSON. See jinja_value.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/jinja_value.h"

enum { MAX_DEPTH = 120 };

/* --- UTF-8 --- */

size_t jinja_utf8_next(const char *text, size_t len, uint32_t *code) {
    const unsigned char *s = (const unsigned char *)text;
    size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : s[0] >= 0xc0 ? 2 : 1;
    uint32_t value = n == 1 ? s[0] : s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if (i >= len || (s[i] & 0xc0) != 0x80) {
            n = 1;
            value = s[0];
            break;
        }
        value = value << 6 | (s[i] & 0x3f);
    }
    if (code) *code = value;
    return n;
}

size_t jinja_utf8_count(const char *text, size_t len) {
    size_t n = 0;
    for (size_t at = 0; at < len; n++) at += jinja_utf8_next(text + at, len - at, NULL);
    return n;
}

size_t jinja_utf8_offset(const char *text, size_t len, size_t n) {
    size_t at = 0;
    while (n-- > 0 && at < len) at += jinja_utf8_next(text + at, len - at, NULL);
    return at;
}

/* --- text --- */

void jinja_buffer_add(struct jinja_context *c, struct jinja_buffer *buffer, const char *text, size_t len) {
    if (buffer->len + len + 1 > buffer->capacity) {
        size_t capacity = buffer->capacity ? buffer->capacity : 64;
        while (capacity < buffer->len + len + 1) capacity *= 2;
        char *data = jinja_alloc(c, capacity);
        if (buffer->len) memcpy(data, buffer->data, buffer->len);
        buffer->data = data;
        buffer->capacity = capacity;
    }
    if (len) memcpy(buffer->data + buffer->len, text, len);
    buffer->len += len;
    buffer->data[buffer->len] = '\0';
}

static void add_cstring(struct jinja_context *c, struct jinja_buffer *buffer, const char *text) {
    jinja_buffer_add(c, buffer, text, strlen(text));
}

struct jinja_value jinja_buffer_value(struct jinja_context *c, const struct jinja_buffer *buffer) {
    return jinja_string(c, buffer->len ? buffer->data : "", buffer->len);
}

/* The shortest decimal that reads back as the same double, laid out as Python does. */
static void add_float(struct jinja_context *c, struct jinja_buffer *buffer, double value) {
    char text[40];
    if (isnan(value)) return add_cstring(c, buffer, "nan");
    if (isinf(value)) return add_cstring(c, buffer, value < 0 ? "-inf" : "inf");
    int precision = 1;
    do snprintf(text, sizeof text, "%.*e", precision - 1, value);
    while (strtod(text, NULL) != value && precision++ < 17);
    int exponent = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
    if (exponent >= -4 && exponent < 16) {
        int decimals = precision - 1 - exponent;
        snprintf(text, sizeof text, "%.*f", decimals > 1 ? decimals : 1, value);
    } else {
        snprintf(text, sizeof text, "%.*e", precision - 1, value);
    }
    add_cstring(c, buffer, text);
}

static void add_repr_string(struct jinja_context *c, struct jinja_buffer *buffer, const struct jinja_string *s) {
    char quote = memchr(s->text, '\'', s->len) && !memchr(s->text, '"', s->len) ? '"' : '\'';
    jinja_buffer_add(c, buffer, &quote, 1);
    for (size_t i = 0; i < s->len; i++) {
        char text[8];
        unsigned char ch = (unsigned char)s->text[i];
        if (ch == '\n')
            add_cstring(c, buffer, "\\n");
        else if (ch == '\r')
            add_cstring(c, buffer, "\\r");
        else if (ch == '\t')
            add_cstring(c, buffer, "\\t");
        else if (ch == '\\' || ch == (unsigned char)quote) {
            snprintf(text, sizeof text, "\\%c", ch);
            add_cstring(c, buffer, text);
        } else if (ch < 0x20 || ch == 0x7f) {
            snprintf(text, sizeof text, "\\x%02x", ch);
            add_cstring(c, buffer, text);
        } else {
            jinja_buffer_add(c, buffer, s->text + i, 1);
        }
    }
    jinja_buffer_add(c, buffer, &quote, 1);
}

static void add_repr_list(struct jinja_context *c, struct jinja_buffer *buffer, struct jinja_value v) {
    bool tuple = v.type == JINJA_TUPLE;
    add_cstring(c, buffer, tuple ? "(" : "[");
    for (size_t i = 0; i < v.list->n; i++) {
        if (i) add_cstring(c, buffer, ", ");
        jinja_buffer_repr(c, buffer, v.list->items[i]);
    }
    add_cstring(c, buffer, tuple ? v.list->n == 1 ? ",)" : ")" : "]");
}

static void add_repr_dict(struct jinja_context *c, struct jinja_buffer *buffer, const struct jinja_dict *d) {
    add_cstring(c, buffer, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i) add_cstring(c, buffer, ", ");
        jinja_buffer_repr(c, buffer, d->keys[i]);
        add_cstring(c, buffer, ": ");
        jinja_buffer_repr(c, buffer, d->values[i]);
    }
    add_cstring(c, buffer, "}");
}

void jinja_buffer_repr(struct jinja_context *c, struct jinja_buffer *buffer, struct jinja_value v) {
    char text[64];
    if (++c->depth > MAX_DEPTH) jinja_fail(c, "a value is nested too deeply");
    switch (v.type) {
    case JINJA_UNDEFINED:
        add_cstring(c, buffer, "Undefined");
        break;
    case JINJA_NONE:
        add_cstring(c, buffer, "None");
        break;
    case JINJA_BOOL:
        add_cstring(c, buffer, v.boolean ? "True" : "False");
        break;
    case JINJA_INT:
        snprintf(text, sizeof text, "%lld", (long long)v.integer);
        add_cstring(c, buffer, text);
        break;
    case JINJA_FLOAT:
        add_float(c, buffer, v.number);
        break;
    case JINJA_STRING:
        add_repr_string(c, buffer, v.string);
        break;
    case JINJA_LIST:
    case JINJA_TUPLE:
        add_repr_list(c, buffer, v);
        break;
    case JINJA_DICT:
        add_repr_dict(c, buffer, v.dict);
        break;
    case JINJA_NAMESPACE: {
        add_cstring(c, buffer, "<Namespace ");
        add_repr_dict(c, buffer, v.dict);
        add_cstring(c, buffer, ">");
        break;
    }
    case JINJA_MACRO:
        add_cstring(c, buffer, "<Macro '");
        add_cstring(c, buffer, jinja_macro_name(v.macro));
        add_cstring(c, buffer, "'>");
        break;
    case JINJA_LOOP:
    case JINJA_FUNCTION:
        snprintf(text, sizeof text, "<%s>", jinja_type_name(v.type));
        add_cstring(c, buffer, text);
        break;
    }
    c->depth--;
}

void jinja_buffer_str(struct jinja_context *c, struct jinja_buffer *buffer, struct jinja_value v) {
    if (v.type == JINJA_STRING)
        jinja_buffer_add(c, buffer, v.string->text, v.string->len);
    else if (v.type != JINJA_UNDEFINED)
        jinja_buffer_repr(c, buffer, v);
}

struct jinja_value jinja_to_string(struct jinja_context *c, struct jinja_value v) {
    if (v.type == JINJA_STRING) return v;
    struct jinja_buffer buffer = {0};
    jinja_buffer_str(c, &buffer, v);
    return jinja_buffer_value(c, &buffer);
}

/* --- JSON --- */

static void json_string(struct jinja_context *c, struct jinja_buffer *buffer, const struct jinja_string *s, bool ascii) {
    add_cstring(c, buffer, "\"");
    for (size_t i = 0; i < s->len;) {
        uint32_t code;
        char text[16];
        size_t n = jinja_utf8_next(s->text + i, s->len - i, &code);
        const char *escape = code == '"' ? "\\\"" : code == '\\' ? "\\\\" : code == '\n' ? "\\n" : code == '\r' ? "\\r" : NULL;
        if (!escape) escape = code == '\t' ? "\\t" : code == '\b' ? "\\b" : code == '\f' ? "\\f" : NULL;
        if (!escape && (code < 0x20 || (ascii && code > 0x7e))) {
            if (code > 0xffff) {
                snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xd800 + ((code - 0x10000) >> 10),
                         0xdc00 + ((code - 0x10000) & 0x3ff));
            } else {
                snprintf(text, sizeof text, "\\u%04x", code);
            }
            escape = text;
        }
        if (escape)
            add_cstring(c, buffer, escape);
        else
            jinja_buffer_add(c, buffer, s->text + i, n);
        i += n;
    }
    add_cstring(c, buffer, "\"");
}

static void json_newline(struct jinja_context *c, struct jinja_buffer *buffer, const struct jinja_json_style *style, int level) {
    if (style->indent < 0) return;
    add_cstring(c, buffer, "\n");
    for (int i = 0; i < style->indent * level; i++) add_cstring(c, buffer, " ");
}

static size_t *json_order(struct jinja_context *c, const struct jinja_dict *d, bool sorted) {
    size_t *order = jinja_alloc(c, (d->n + 1) * sizeof *order);
    for (size_t i = 0; i < d->n; i++) {
        size_t j = i;
        while (sorted && j > 0 && jinja_compare(c, d->keys[i], d->keys[order[j - 1]]) < 0) {
            order[j] = order[j - 1];
            j--;
        }
        order[j] = i;
    }
    return order;
}

static void json_value(struct jinja_context *c, struct jinja_buffer *b, struct jinja_value v,
                       const struct jinja_json_style *style, int level);

static void json_items(struct jinja_context *c, struct jinja_buffer *b, struct jinja_value v,
                       const struct jinja_json_style *style, int level) {
    bool dict = v.type == JINJA_DICT;
    size_t n = dict ? v.dict->n : v.list->n;
    size_t *order = dict ? json_order(c, v.dict, style->sort_keys) : NULL;
    add_cstring(c, b, dict ? "{" : "[");
    for (size_t i = 0; i < n; i++) {
        if (i) add_cstring(c, b, style->item_separator);
        json_newline(c, b, style, level + 1);
        if (dict) {
            json_string(c, b, jinja_to_string(c, v.dict->keys[order[i]]).string, style->ascii);
            add_cstring(c, b, style->key_separator);
        }
        json_value(c, b, dict ? v.dict->values[order[i]] : v.list->items[i], style, level + 1);
    }
    if (n) json_newline(c, b, style, level);
    add_cstring(c, b, dict ? "}" : "]");
}

static void json_value(struct jinja_context *c, struct jinja_buffer *b, struct jinja_value v,
                       const struct jinja_json_style *style, int level) {
    if (level > MAX_DEPTH) jinja_fail(c, "a value is nested too deeply for tojson");
    switch (v.type) {
    case JINJA_NONE:
        add_cstring(c, b, "null");
        break;
    case JINJA_BOOL:
        add_cstring(c, b, v.boolean ? "true" : "false");
        break;
    case JINJA_INT:
        jinja_buffer_repr(c, b, v);
        break;
    case JINJA_FLOAT:
        if (isnan(v.number))
            add_cstring(c, b, "NaN");
        else if (isinf(v.number))
            add_cstring(c, b, v.number < 0 ? "-Infinity" : "Infinity");
        else
            add_float(c, b, v.number);
        break;
    case JINJA_STRING:
        json_string(c, b, v.string, style->ascii);
        break;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_DICT:
        json_items(c, b, v, style, level);
        break;
    default:
        jinja_fail(c, "Object of type %s is not JSON serializable", jinja_type_name(v.type));
    }
}

void jinja_buffer_json(struct jinja_context *c, struct jinja_buffer *buffer, struct jinja_value v,
                       const struct jinja_json_style *style) {
    struct jinja_json_style filled = *style;
    if (!filled.item_separator) filled.item_separator = style->indent < 0 ? ", " : ",";
    if (!filled.key_separator) filled.key_separator = ": ";
    json_value(c, buffer, v, &filled, 0);
}
