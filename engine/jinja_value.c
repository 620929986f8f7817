/* jinja_value.c - see jinja_value.h. Python's rules for truth, equality, order, str() and repr(), as far as templates can see
 * them. */
#define _GNU_SOURCE /* memmem, memrchr */
#include "engine/jinja_value.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_BYTES = 32 * 1024, MAX_DEPTH = 120 };

void jinja_fail(struct jinja_context *c, const char *format, ...) {
    int used = snprintf(c->error, c->error_size, "line %d: ", c->line);
    if (used > 0 && (size_t)used < c->error_size) {
        va_list args;
        va_start(args, format);
        vsnprintf(c->error + used, c->error_size - (size_t)used, format, args);
        va_end(args);
    }
    longjmp(c->fail, 1);
}

void jinja_spend(struct jinja_context *c, size_t work) {
    c->steps += work;
    if (c->steps > c->max_steps)
        jinja_fail(c, "the template takes too long: more than %llu steps", (unsigned long long)c->max_steps);
}

size_t jinja_work(struct jinja_value v) {
    if (v.type == JINJA_STRING) return v.string->len / 64;
    if (jinja_is_list(v)) return v.list->n / 4;
    return v.type == JINJA_DICT || v.type == JINJA_NAMESPACE ? v.dict->n / 4 : 0;
}

void jinja_enter(struct jinja_context *c) {
    if (++c->depth > JINJA_MAX_DEPTH) jinja_fail(c, "the template recurses too deeply");
}

/* --- memory --- */

void *jinja_alloc(struct jinja_context *c, size_t bytes) {
    bytes = (bytes + 15) & ~(size_t)15;
    struct jinja_chunk *chunk = c->chunks;
    if (!chunk || chunk->size - chunk->used < bytes) {
        size_t size = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        if (c->bytes + size > c->max_bytes) jinja_fail(c, "the template needs more than %zu MiB of memory", c->max_bytes >> 20);
        chunk = calloc(1, sizeof *chunk + size);
        if (!chunk) jinja_fail(c, "out of memory");
        chunk->size = size;
        c->bytes += size;
        /* A large block goes behind the current chunk, which may still have room for small ones. */
        if (c->chunks && bytes >= CHUNK_BYTES) {
            chunk->next = c->chunks->next;
            c->chunks->next = chunk;
        } else {
            chunk->next = c->chunks;
            c->chunks = chunk;
        }
    }
    void *memory = chunk->data + chunk->used;
    chunk->used += bytes;
    return memory;
}

void jinja_free_all(struct jinja_context *c) {
    while (c->chunks) {
        struct jinja_chunk *next = c->chunks->next;
        free(c->chunks);
        c->chunks = next;
    }
    c->bytes = 0;
}

/* Doubles an array of the arena; the old one stays behind until the render ends. */
static void *grow(struct jinja_context *c, void *old, size_t n, size_t *capacity, size_t item_size) {
    if (n < *capacity) return old;
    *capacity = *capacity ? *capacity * 2 : 8;
    void *memory = jinja_alloc(c, *capacity * item_size);
    if (n) memcpy(memory, old, n * item_size);
    return memory;
}

/* --- constructors --- */

struct jinja_value jinja_none(void) {
    return (struct jinja_value){.type = JINJA_NONE};
}
struct jinja_value jinja_bool(bool value) {
    return (struct jinja_value){.type = JINJA_BOOL, .boolean = value};
}
struct jinja_value jinja_int(int64_t value) {
    return (struct jinja_value){.type = JINJA_INT, .integer = value};
}
struct jinja_value jinja_float(double value) {
    return (struct jinja_value){.type = JINJA_FLOAT, .number = value};
}

struct jinja_value jinja_string(struct jinja_context *c, const char *text, size_t len) {
    struct jinja_string *string = jinja_alloc(c, sizeof *string + len + 1);
    string->len = len;
    if (len) memcpy(string->text, text, len);
    return (struct jinja_value){.type = JINJA_STRING, .string = string};
}

struct jinja_value jinja_cstring(struct jinja_context *c, const char *text) {
    return jinja_string(c, text, strlen(text));
}

struct jinja_value jinja_undefined(struct jinja_context *c, const char *name, size_t len) {
    struct jinja_value v = jinja_string(c, name, len);
    v.type = JINJA_UNDEFINED;
    return v;
}

struct jinja_value jinja_list_new(struct jinja_context *c, enum jinja_type type) {
    return (struct jinja_value){.type = type, .list = jinja_alloc(c, sizeof(struct jinja_list))};
}

void jinja_list_add(struct jinja_context *c, struct jinja_value list, struct jinja_value item) {
    struct jinja_list *l = list.list;
    l->items = grow(c, l->items, l->n, &l->capacity, sizeof *l->items);
    l->items[l->n++] = item;
}

struct jinja_value jinja_dict_new(struct jinja_context *c, enum jinja_type type) {
    return (struct jinja_value){.type = type, .dict = jinja_alloc(c, sizeof(struct jinja_dict))};
}

/* Index of a key, or n. Templates' dicts are small (a message has a handful of keys), so a scan beats hashing. */
static size_t dict_index(struct jinja_context *c, const struct jinja_dict *d, struct jinja_value key) {
    size_t i = 0;
    while (i < d->n && !jinja_equal(c, d->keys[i], key)) i++;
    return i;
}

void jinja_dict_set(struct jinja_context *c, struct jinja_value dict, struct jinja_value key, struct jinja_value value) {
    jinja_spend(c, jinja_work(dict));
    struct jinja_dict *d = dict.dict;
    if (jinja_is_list(key) || key.type == JINJA_DICT) jinja_fail(c, "unhashable type: '%s'", jinja_type_name(key.type));
    size_t i = dict_index(c, d, key);
    if (i == d->n) {
        size_t capacity = d->capacity;
        d->keys = grow(c, d->keys, d->n, &capacity, sizeof *d->keys);
        d->values = grow(c, d->values, d->n, &d->capacity, sizeof *d->values);
        d->keys[d->n++] = key;
    }
    d->values[i] = value;
}

bool jinja_dict_get(struct jinja_context *c, struct jinja_value dict, struct jinja_value key, struct jinja_value *out) {
    size_t i = dict_index(c, dict.dict, key);
    if (i == dict.dict->n) return false;
    *out = dict.dict->values[i];
    return true;
}

bool jinja_dict_find(struct jinja_value dict, const char *name, struct jinja_value *out) {
    size_t len = strlen(name);
    for (size_t i = 0; i < dict.dict->n; i++) {
        struct jinja_value key = dict.dict->keys[i];
        if (key.type == JINJA_STRING && key.string->len == len && memcmp(key.string->text, name, len) == 0) {
            *out = dict.dict->values[i];
            return true;
        }
    }
    return false;
}

struct jinja_value jinja_function_value(struct jinja_context *c, const struct jinja_function *function, struct jinja_value self) {
    struct jinja_bound *bound = jinja_alloc(c, sizeof *bound);
    bound->function = function;
    bound->self = self;
    return (struct jinja_value){.type = JINJA_FUNCTION, .bound = bound};
}

/* --- truth, equality, order --- */

const char *jinja_type_name(enum jinja_type type) {
    static const char *const names[] = {"Undefined", "NoneType", "bool",      "int",         "float", "str",     "list",
                                        "tuple",     "dict",     "Namespace", "LoopContext", "Macro", "function"};
    return names[type];
}

double jinja_as_double(struct jinja_value v) {
    if (v.type == JINJA_FLOAT) return v.number;
    return (double)jinja_as_int(v);
}

int64_t jinja_as_int(struct jinja_value v) { return v.type == JINJA_BOOL ? v.boolean : v.integer; }

bool jinja_truth(struct jinja_value v) {
    switch (v.type) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return v.boolean;
    case JINJA_INT:
        return v.integer != 0;
    case JINJA_FLOAT:
        return v.number != 0;
    case JINJA_STRING:
        return v.string->len > 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
        return v.list->n > 0;
    case JINJA_DICT:
        return v.dict->n > 0;
    default:
        return true;
    }
}

static bool dicts_equal(struct jinja_context *c, const struct jinja_dict *a, const struct jinja_dict *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++) {
        size_t j = dict_index(c, b, a->keys[i]);
        if (j == b->n || !jinja_equal(c, a->values[i], b->values[j])) return false;
    }
    return true;
}

bool jinja_equal(struct jinja_context *c, struct jinja_value a, struct jinja_value b) {
    bool equal = true;
    jinja_spend(c, 1);
    if (jinja_is_number(a) && jinja_is_number(b)) {
        if (a.type == JINJA_FLOAT || b.type == JINJA_FLOAT) return jinja_as_double(a) == jinja_as_double(b);
        return jinja_as_int(a) == jinja_as_int(b);
    }
    if (a.type != b.type) return false;
    switch (a.type) {
    case JINJA_STRING:
        if (a.string->len != b.string->len) return false;
        jinja_spend(c, jinja_work(a));
        return memcmp(a.string->text, b.string->text, a.string->len) == 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
        if (a.list->n != b.list->n) return false;
        jinja_enter(c);
        for (size_t i = 0; equal && i < a.list->n; i++) equal = jinja_equal(c, a.list->items[i], b.list->items[i]);
        c->depth--;
        return equal;
    case JINJA_DICT:
        jinja_enter(c);
        equal = dicts_equal(c, a.dict, b.dict);
        c->depth--;
        return equal;
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return true;
    default:
        return a.dict == b.dict; /* the same object */
    }
}

static int sign(int64_t x) { return (x > 0) - (x < 0); }

int jinja_compare(struct jinja_context *c, struct jinja_value a, struct jinja_value b) {
    if (jinja_is_number(a) && jinja_is_number(b)) {
        if (a.type != JINJA_FLOAT && b.type != JINJA_FLOAT) {
            int64_t x = jinja_as_int(a), y = jinja_as_int(b);
            return (x > y) - (x < y);
        }
        double x = jinja_as_double(a), y = jinja_as_double(b);
        return (x > y) - (x < y);
    }
    if (a.type == JINJA_STRING && b.type == JINJA_STRING) {
        /* Bytes of UTF-8 order as code points do. */
        size_t n = a.string->len < b.string->len ? a.string->len : b.string->len;
        int order = memcmp(a.string->text, b.string->text, n);
        return order ? sign(order) : sign((int64_t)a.string->len - (int64_t)b.string->len);
    }
    if (jinja_is_list(a) && a.type == b.type) {
        for (size_t i = 0; i < a.list->n && i < b.list->n; i++) {
            if (jinja_equal(c, a.list->items[i], b.list->items[i])) continue;
            jinja_enter(c);
            int order = jinja_compare(c, a.list->items[i], b.list->items[i]);
            c->depth--;
            return order;
        }
        return sign((int64_t)a.list->n - (int64_t)b.list->n);
    }
    if (a.type == JINJA_UNDEFINED || b.type == JINJA_UNDEFINED) {
        jinja_fail(c, "'%s' is undefined", a.type == JINJA_UNDEFINED ? a.string->text : b.string->text);
    }
    jinja_fail(c, "'%s' and '%s' cannot be compared", jinja_type_name(a.type), jinja_type_name(b.type));
}

bool jinja_contains(struct jinja_context *c, struct jinja_value container, struct jinja_value item) {
    jinja_spend(c, jinja_work(container));
    switch (container.type) {
    case JINJA_STRING:
        if (item.type != JINJA_STRING)
            jinja_fail(c, "'in <string>' needs a string on its left, not %s", jinja_type_name(item.type));
        return memmem(container.string->text, container.string->len, item.string->text, item.string->len) != NULL;
    case JINJA_LIST:
    case JINJA_TUPLE:
        for (size_t i = 0; i < container.list->n; i++) {
            if (jinja_equal(c, container.list->items[i], item)) return true;
        }
        return false;
    case JINJA_DICT:
        return dict_index(c, container.dict, item) < container.dict->n;
    case JINJA_UNDEFINED:
        return false;
    default:
        jinja_fail(c, "'%s' is not something that 'in' can search", jinja_type_name(container.type));
    }
}

size_t jinja_length(struct jinja_context *c, struct jinja_value v) {
    switch (v.type) {
    case JINJA_STRING:
        return jinja_utf8_count(v.string->text, v.string->len);
    case JINJA_LIST:
    case JINJA_TUPLE:
        return v.list->n;
    case JINJA_DICT:
        return v.dict->n;
    case JINJA_UNDEFINED:
        return 0;
    default:
        jinja_fail(c, "'%s' has no length", jinja_type_name(v.type));
    }
}

struct jinja_value jinja_iterate(struct jinja_context *c, struct jinja_value v) {
    if (jinja_is_list(v)) return v;
    struct jinja_value list = jinja_list_new(c, JINJA_LIST);
    if (v.type == JINJA_DICT) {
        for (size_t i = 0; i < v.dict->n; i++) jinja_list_add(c, list, v.dict->keys[i]);
    } else if (v.type == JINJA_STRING) {
        for (size_t at = 0; at < v.string->len;) {
            size_t n = jinja_utf8_next(v.string->text + at, v.string->len - at, NULL);
            jinja_list_add(c, list, jinja_string(c, v.string->text + at, n));
            at += n;
        }
    } else if (v.type != JINJA_UNDEFINED) {
        jinja_fail(c, "'%s' object is not iterable", jinja_type_name(v.type));
    }
    return list;
}

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
