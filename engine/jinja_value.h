/* jinja_value.h - the values that a chat template works with, and the memory they live in.
 *
 * Values are what Python's would be: none, bool, int (64 bit), float, str (UTF-8, counted in code points), list, tuple, dict (in
 * order of insertion), namespace, and callables. They are small structs passed by value; what they point to lives in the arena of
 * one render and goes away with it, so nothing here is freed by itself. (1) Lists, tuples, dicts and strings never change once a
 * template can see them; only namespaces and loop objects do. (2) The arena has a limit. Reaching it, like every error of a
 * template, ends the render by longjmp to jinja_render: there is one way out and nothing to clean up on the way but the arena.
 * One thread for each render; nothing is shared. */
#ifndef FORESAY_JINJA_VALUE_H
#define FORESAY_JINJA_VALUE_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum jinja_type {
    JINJA_UNDEFINED, /* string = the name that was looked up, for messages */
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_DICT,
    JINJA_NAMESPACE, /* dict */
    JINJA_LOOP,      /* loop */
    JINJA_MACRO,     /* macro */
    JINJA_FUNCTION,  /* function, perhaps bound to self */
};

struct jinja_value;
struct jinja_call;
struct jinja_context;
struct jinja_macro;
struct jinja_loop;

struct jinja_string {
    size_t len; /* bytes */
    bool safe;  /* came through `safe` or `escape`: adding a plain string to it escapes that one, as markupsafe does */
    char text[];
};

struct jinja_list {
    size_t n, capacity;
    struct jinja_value *items;
    const char *const *fields; /* [n] names of the items, as Python's named tuples have them; NULL: none */
};

struct jinja_dict {
    size_t n, capacity;
    struct jinja_value *keys, *values;
};

struct jinja_function {
    const char *name;
    struct jinja_value (*call)(struct jinja_context *c, struct jinja_call *call);
};

struct jinja_bound; /* a function with its self */

struct jinja_value {
    enum jinja_type type;
    union {
        bool boolean;
        int64_t integer;
        double number;
        const struct jinja_string *string;
        struct jinja_list *list;
        struct jinja_dict *dict;
        struct jinja_loop *loop;
        const struct jinja_macro *macro;
        const struct jinja_bound *bound;
    };
};

struct jinja_bound {
    const struct jinja_function *function;
    struct jinja_value self;
};

/* Arguments of one call, of a function, a filter (the filtered value is args[0]) or a test. */
struct jinja_call {
    const char *name; /* for messages */
    struct jinja_value self;
    struct jinja_value *args;
    size_t n_args;
    const struct jinja_string **keywords; /* [n_keywords] */
    struct jinja_value *keyword_values;
    size_t n_keywords;
};

struct jinja_chunk {
    struct jinja_chunk *next;
    size_t used, size;
    char data[];
};

/* Text in the making. */
struct jinja_buffer {
    char *data;
    size_t len, capacity;
};

/* What every step of a render needs: memory, limits, the way out. */
struct jinja_context {
    struct jinja_chunk *chunks;
    size_t bytes, max_bytes;
    uint64_t steps, max_steps;
    int depth;
    int line; /* of the template, for messages */
    int64_t now_s;
    jmp_buf fail;
    char *error; /* [error_size] */
    size_t error_size;
};

/* Counts work that one step of a template makes: characters looked at, items compared. Fails beyond the limit. */
void jinja_spend(struct jinja_context *c, size_t work);
/* One level deeper, in evaluating or in looking at nested values; c->depth-- on the way out. */
enum { JINJA_MAX_DEPTH = 200 };
void jinja_enter(struct jinja_context *c);
/* What looking at the whole of a value costs. */
size_t jinja_work(struct jinja_value v);
/* Ends the render: the message gets the current line in front. */
_Noreturn void jinja_fail(struct jinja_context *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

void *jinja_alloc(struct jinja_context *c, size_t bytes); /* zeroed */
void jinja_free_all(struct jinja_context *c);

/* --- constructors --- */
struct jinja_value jinja_none(void);
struct jinja_value jinja_bool(bool value);
struct jinja_value jinja_int(int64_t value);
struct jinja_value jinja_float(double value);
struct jinja_value jinja_undefined(struct jinja_context *c, const char *name, size_t len);
struct jinja_value jinja_string(struct jinja_context *c, const char *text, size_t len);
struct jinja_value jinja_cstring(struct jinja_context *c, const char *text);
struct jinja_value jinja_list_new(struct jinja_context *c, enum jinja_type type);
void jinja_list_add(struct jinja_context *c, struct jinja_value list, struct jinja_value item);
struct jinja_value jinja_dict_new(struct jinja_context *c, enum jinja_type type);
void jinja_dict_set(struct jinja_context *c, struct jinja_value dict, struct jinja_value key, struct jinja_value value);
bool jinja_dict_get(struct jinja_context *c, struct jinja_value dict, struct jinja_value key, struct jinja_value *out);
bool jinja_dict_find(struct jinja_value dict, const char *name, struct jinja_value *out);
struct jinja_value jinja_function_value(struct jinja_context *c, const struct jinja_function *function, struct jinja_value self);

/* --- what Python would do --- */
const char *jinja_type_name(enum jinja_type type); /* "str", "int", ... */
const char *jinja_macro_name(const struct jinja_macro *macro);
static inline bool jinja_is_list(struct jinja_value v) { return v.type == JINJA_LIST || v.type == JINJA_TUPLE; }
static inline bool jinja_is_number(struct jinja_value v) {
    return v.type == JINJA_INT || v.type == JINJA_FLOAT || v.type == JINJA_BOOL;
}
double jinja_as_double(struct jinja_value v); /* numbers only */
int64_t jinja_as_int(struct jinja_value v);   /* int and bool only */
bool jinja_truth(struct jinja_value v);
bool jinja_equal(struct jinja_context *c, struct jinja_value a, struct jinja_value b);
int jinja_compare(struct jinja_context *c, struct jinja_value a, struct jinja_value b); /* -1, 0, 1; fails on mixed types */
bool jinja_contains(struct jinja_context *c, struct jinja_value container, struct jinja_value item);
size_t jinja_length(struct jinja_context *c, struct jinja_value v);
struct jinja_value jinja_iterate(struct jinja_context *c, struct jinja_value v); /* a list: of items, keys or characters */

/* --- text --- */
void jinja_buffer_add(struct jinja_context *c, struct jinja_buffer *buffer, const char *text, size_t len);
void jinja_buffer_str(struct jinja_context *c, struct jinja_buffer *buffer, struct jinja_value v);  /* str(v) */
void jinja_buffer_repr(struct jinja_context *c, struct jinja_buffer *buffer, struct jinja_value v); /* repr(v) */
struct jinja_value jinja_buffer_value(struct jinja_context *c, const struct jinja_buffer *buffer);
struct jinja_value jinja_to_string(struct jinja_context *c, struct jinja_value v); /* str(v) as a value */
size_t jinja_utf8_count(const char *text, size_t len);
size_t jinja_utf8_offset(const char *text, size_t len, size_t n); /* byte offset of code point n, at most len */
size_t jinja_utf8_next(const char *text, size_t len,
                       uint32_t *code); /* bytes of the first code point; invalid bytes stand alone */

/* json.dumps(v, ensure_ascii=False) with optional indent (< 0 = none), separators (NULL = Python's) and sorted keys. */
struct jinja_json_style {
    int indent;
    const char *item_separator, *key_separator;
    bool sort_keys, ascii;
};
void jinja_buffer_json(struct jinja_context *c, struct jinja_buffer *buffer, struct jinja_value v,
                       const struct jinja_json_style *style);

#endif
