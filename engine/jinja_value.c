/* jinja_value.c - see jinja_value.h. Python's rules for truth, equality, order, str() and repr(), as far as templates can see
 * them. */
#define _GNU_SOURCE /* memmem */
#include "engine/jinja_value.h"

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
