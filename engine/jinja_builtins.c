/* jinja_builtins.c - the filters, tests and functions that a template finds by name. The methods of values are in
 * jinja_methods.c.
 *
 * Each follows jinja2's own of that name; what chat templates have no use for (urlize, random, lipsum ...) is left out and named
 * in the error. */
#define _GNU_SOURCE /* memmem, memrchr */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/jinja_eval.h"

enum { MAX_RANGE = 1000000 };

/* --- arguments --- */

bool jinja_argument(const struct jinja_call *call, size_t position, const char *name, struct jinja_value *out) {
    if (position < call->n_args) {
        *out = call->args[position];
        return true;
    }
    for (size_t i = 0; i < call->n_keywords; i++) {
        if (strcmp(call->keywords[i]->text, name) == 0) {
            *out = call->keyword_values[i];
            return true;
        }
    }
    return false;
}

void jinja_check_arguments(struct jinja_context *c, const struct jinja_call *call, size_t least, size_t most) {
    size_t n = call->n_args + call->n_keywords;
    if (n < least || n > most) jinja_fail(c, "%s() takes %zu to %zu arguments, not %zu", call->name, least, most, n);
}

static struct jinja_value need_string(struct jinja_context *c, const struct jinja_call *call, struct jinja_value v) {
    if (v.type == JINJA_UNDEFINED) jinja_fail(c, "'%s' is undefined", v.string->text);
    if (v.type != JINJA_STRING) jinja_fail(c, "%s needs a string, not %s", call->name, jinja_type_name(v.type));
    return v;
}

static bool flag_argument(const struct jinja_call *call, size_t position, const char *name, bool otherwise) {
    struct jinja_value v;
    return jinja_argument(call, position, name, &v) ? jinja_truth(v) : otherwise;
}

static int64_t int_argument(struct jinja_context *c, const struct jinja_call *call, size_t position, const char *name,
                            int64_t otherwise) {
    struct jinja_value v;
    if (!jinja_argument(call, position, name, &v)) return otherwise;
    if (v.type != JINJA_INT && v.type != JINJA_BOOL)
        jinja_fail(c, "%s: '%s' must be an integer, not %s", call->name, name, jinja_type_name(v.type));
    return jinja_as_int(v);
}

/* A method of the filtered value, called with the other arguments of the filter: `x | upper` is str(x).upper(). */
static struct jinja_value by_method(struct jinja_context *c, struct jinja_call *call, const char *name) {
    struct jinja_value method, self = jinja_to_string(c, call->args[0]);
    if (!jinja_method(c, self, name, strlen(name), &method)) jinja_fail(c, "str has no method %s", name);
    struct jinja_call inner = *call;
    inner.args++;
    inner.n_args--;
    return jinja_call_value(c, method, &inner);
}

static struct jinja_value filter_upper(struct jinja_context *c, struct jinja_call *call) { return by_method(c, call, "upper"); }
static struct jinja_value filter_lower(struct jinja_context *c, struct jinja_call *call) { return by_method(c, call, "lower"); }
static struct jinja_value filter_capitalize(struct jinja_context *c, struct jinja_call *call) {
    return by_method(c, call, "capitalize");
}
static struct jinja_value filter_title(struct jinja_context *c, struct jinja_call *call) { return by_method(c, call, "title"); }
static struct jinja_value filter_trim(struct jinja_context *c, struct jinja_call *call) { return by_method(c, call, "strip"); }
static struct jinja_value filter_replace(struct jinja_context *c, struct jinja_call *call) {
    return by_method(c, call, "replace");
}

/* --- filters: one value --- */

static struct jinja_value filter_string(struct jinja_context *c, struct jinja_call *call) {
    return jinja_to_string(c, call->args[0]);
}
static struct jinja_value filter_length(struct jinja_context *c, struct jinja_call *call) {
    return jinja_int((int64_t)jinja_length(c, call->args[0]));
}

static struct jinja_value filter_default(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value otherwise;
    if (!jinja_argument(call, 1, "default_value", &otherwise)) otherwise = jinja_cstring(c, "");
    bool replace =
        call->args[0].type == JINJA_UNDEFINED || (flag_argument(call, 2, "boolean", false) && !jinja_truth(call->args[0]));
    return replace ? otherwise : call->args[0];
}

static struct jinja_value filter_abs(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value v = call->args[0];
    if (!jinja_is_number(v)) jinja_fail(c, "abs needs a number, not %s", jinja_type_name(v.type));
    if (v.type == JINJA_FLOAT) return jinja_float(fabs(v.number));
    return jinja_as_int(v) < 0 ? jinja_binary(c, OP_SUB, jinja_int(0), v) : jinja_int(jinja_as_int(v));
}

static struct jinja_value filter_int(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value v = call->args[0], otherwise;
    if (!jinja_argument(call, 1, "default", &otherwise)) otherwise = jinja_int(0);
    if (v.type == JINJA_FLOAT) return isfinite(v.number) && fabs(v.number) < 9e18 ? jinja_int((int64_t)v.number) : otherwise;
    if (jinja_is_number(v)) return jinja_int(jinja_as_int(v));
    if (v.type != JINJA_STRING) return otherwise;
    int64_t base = int_argument(c, call, 2, "base", 10);
    if (base < 2 || base > 36) jinja_fail(c, "int: base must be 2 to 36");
    char *end;
    long long value = strtoll(v.string->text, &end, (int)base);
    while (*end == ' ' || *end == '\n' || *end == '\t') end++;
    if (end != v.string->text && !*end) return jinja_int(value);
    double real = strtod(v.string->text, &end);
    return end != v.string->text && !*end && isfinite(real) && fabs(real) < 9e18 ? jinja_int((int64_t)real) : otherwise;
}

static struct jinja_value filter_float(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value v = call->args[0], otherwise;
    (void)c;
    if (!jinja_argument(call, 1, "default", &otherwise)) otherwise = jinja_float(0);
    if (jinja_is_number(v)) return jinja_float(jinja_as_double(v));
    if (v.type != JINJA_STRING || !v.string->len) return otherwise;
    char *end;
    double value = strtod(v.string->text, &end);
    return *end ? otherwise : jinja_float(value);
}

static struct jinja_value filter_round(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value v = call->args[0], method;
    if (!jinja_is_number(v)) jinja_fail(c, "round needs a number, not %s", jinja_type_name(v.type));
    double scale = pow(10, (double)int_argument(c, call, 1, "precision", 0)), x = jinja_as_double(v);
    const char *how = jinja_argument(call, 2, "method", &method) ? need_string(c, call, method).string->text : "common";
    if (strcmp(how, "ceil") == 0) return jinja_float(ceil(x * scale) / scale);
    if (strcmp(how, "floor") == 0) return jinja_float(floor(x * scale) / scale);
    if (strcmp(how, "common") != 0) jinja_fail(c, "round: the method must be common, ceil or floor");
    if (v.type != JINJA_FLOAT) return jinja_int(jinja_as_int(v));
    char text[400];
    int64_t precision = int_argument(c, call, 1, "precision", 0);
    if (precision < 0 || precision > 300) return jinja_float(rint(x * scale) / scale);
    snprintf(text, sizeof text, "%.*f", (int)precision, x); /* rounds the exact decimal value, half to even, as Python does */
    return jinja_float(strtod(text, NULL));
}

static struct jinja_value filter_tojson(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_json_style style = {.indent = -1};
    struct jinja_value v, parts;
    if (jinja_argument(call, 1, "ensure_ascii", &v)) style.ascii = jinja_truth(v);
    if (jinja_argument(call, 2, "indent", &v) && v.type == JINJA_INT)
        style.indent = v.integer < 0 ? 0 : v.integer > 64 ? 64 : (int)v.integer;
    if (jinja_argument(call, 3, "separators", &parts) && jinja_is_list(parts) && parts.list->n == 2) {
        style.item_separator = need_string(c, call, parts.list->items[0]).string->text;
        style.key_separator = need_string(c, call, parts.list->items[1]).string->text;
    }
    if (jinja_argument(call, 4, "sort_keys", &v)) style.sort_keys = jinja_truth(v);
    struct jinja_buffer buffer = {0};
    jinja_buffer_json(c, &buffer, call->args[0], &style);
    return jinja_buffer_value(c, &buffer);
}

struct jinja_value jinja_mark_safe(struct jinja_context *c, struct jinja_value text) {
    struct jinja_string *copy = jinja_alloc(c, sizeof *copy + text.string->len + 1);
    memcpy(copy, text.string, sizeof *copy + text.string->len);
    copy->safe = true;
    return (struct jinja_value){.type = JINJA_STRING, .string = copy};
}

struct jinja_value jinja_escape(struct jinja_context *c, struct jinja_value text) {
    static const char from[] = "&<>\"'";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    if (text.string->safe) return text;
    struct jinja_buffer buffer = {0};
    for (size_t i = 0; i < text.string->len; i++) {
        const char *at = text.string->text[i] ? strchr(from, text.string->text[i]) : NULL;
        if (at)
            jinja_buffer_add(c, &buffer, to[at - from], strlen(to[at - from]));
        else
            jinja_buffer_add(c, &buffer, text.string->text + i, 1);
    }
    return jinja_mark_safe(c, jinja_buffer_value(c, &buffer));
}

static struct jinja_value filter_escape(struct jinja_context *c, struct jinja_call *call) {
    return jinja_escape(c, jinja_to_string(c, call->args[0]));
}

static struct jinja_value filter_safe(struct jinja_context *c, struct jinja_call *call) {
    return jinja_mark_safe(c, jinja_to_string(c, call->args[0]));
}

/* Lines behind the first (or all, with `first`) get the indent; empty ones only with `blank`. */
static struct jinja_value filter_indent(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value text = need_string(c, call, call->args[0]), width, indent;
    bool first = flag_argument(call, 2, "first", false), blank = flag_argument(call, 3, "blank", false);
    if (!jinja_argument(call, 1, "width", &width)) width = jinja_int(4);
    indent = width.type == JINJA_STRING ? width : jinja_binary(c, OP_MUL, jinja_cstring(c, " "), width);
    struct jinja_buffer buffer = {0};
    const char *s = text.string->text, *end = s + text.string->len;
    for (bool is_first = true; s <= end; is_first = false) {
        const char *newline = memchr(s, '\n', (size_t)(end - s)), *stop = newline ? newline : end;
        if ((is_first ? first : stop > s || blank)) jinja_buffer_add(c, &buffer, indent.string->text, indent.string->len);
        jinja_buffer_add(c, &buffer, s, (size_t)(stop - s));
        if (newline) jinja_buffer_add(c, &buffer, "\n", 1);
        s = stop + 1;
    }
    return jinja_buffer_value(c, &buffer);
}

static struct jinja_value filter_center(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value text = jinja_to_string(c, call->args[0]);
    int64_t width = int_argument(c, call, 1, "width", 80), len = (int64_t)jinja_length(c, text),
            pad = width > len ? width - len : 0;
    int64_t left = pad / 2 + (pad & width & 1);
    struct jinja_value space = jinja_cstring(c, " "), out = jinja_binary(c, OP_MUL, space, jinja_int(left));
    return jinja_binary(c, OP_ADD, jinja_binary(c, OP_ADD, out, text), jinja_binary(c, OP_MUL, space, jinja_int(pad - left)));
}

static struct jinja_value filter_truncate(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value text = need_string(c, call, call->args[0]), end;
    int64_t length = int_argument(c, call, 1, "length", 255), leeway = int_argument(c, call, 4, "leeway", 5);
    if (!jinja_argument(call, 3, "end", &end)) end = jinja_cstring(c, "...");
    int64_t end_length = (int64_t)jinja_length(c, need_string(c, call, end));
    if (length < end_length) jinja_fail(c, "truncate: length must be at least %lld", (long long)end_length);
    if ((int64_t)jinja_length(c, text) <= length + leeway) return text;
    size_t keep = jinja_utf8_offset(text.string->text, text.string->len, (size_t)(length - end_length));
    if (!flag_argument(call, 2, "killwords", false)) {
        const char *space = memrchr(text.string->text, ' ', keep);
        if (space) keep = (size_t)(space - text.string->text);
    }
    struct jinja_buffer buffer = {0};
    jinja_buffer_add(c, &buffer, text.string->text, keep);
    jinja_buffer_add(c, &buffer, end.string->text, end.string->len);
    return jinja_buffer_value(c, &buffer);
}

static struct jinja_value filter_format(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value tuple = jinja_list_new(c, JINJA_TUPLE);
    for (size_t i = 1; i < call->n_args; i++) jinja_list_add(c, tuple, call->args[i]);
    return jinja_binary(c, OP_MOD, jinja_to_string(c, call->args[0]), tuple);
}

static struct jinja_value filter_wordcount(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value text = jinja_to_string(c, call->args[0]);
    int64_t n = 0;
    bool in_word = false;
    for (size_t i = 0; i < text.string->len; i++) {
        unsigned char ch = (unsigned char)text.string->text[i];
        bool word = ch >= 0x80 || (ch >= '0' && ch <= '9') || ((ch | 32) >= 'a' && (ch | 32) <= 'z') || ch == '_';
        n += word && !in_word;
        in_word = word;
    }
    return jinja_int(n);
}

static struct jinja_value filter_urlencode(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value text = jinja_to_string(c, call->args[0]);
    struct jinja_buffer buffer = {0};
    for (size_t i = 0; i < text.string->len; i++) {
        unsigned char ch = (unsigned char)text.string->text[i];
        char out[4];
        bool plain = (ch >= '0' && ch <= '9') || ((ch | 32) >= 'a' && (ch | 32) <= 'z') || (ch && strchr("_.-~/", ch));
        int n = snprintf(out, sizeof out, plain ? "%c" : "%%%02X", ch);
        jinja_buffer_add(c, &buffer, out, (size_t)n);
    }
    return jinja_buffer_value(c, &buffer);
}

/* --- filters: lists --- */

static struct jinja_value filter_list(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]), list = jinja_list_new(c, JINJA_LIST);
    for (size_t i = 0; i < items.list->n; i++) jinja_list_add(c, list, items.list->items[i]);
    return list;
}

static struct jinja_value filter_first(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]);
    return items.list->n ? items.list->items[0] : jinja_undefined(c, "the first item of an empty sequence", 35);
}

static struct jinja_value filter_last(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]);
    return items.list->n ? items.list->items[items.list->n - 1] : jinja_undefined(c, "the last item of an empty sequence", 34);
}

static struct jinja_value filter_reverse(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]), list = jinja_list_new(c, JINJA_LIST);
    for (size_t i = items.list->n; i-- > 0;) jinja_list_add(c, list, items.list->items[i]);
    if (call->args[0].type != JINJA_STRING) return list;
    struct jinja_buffer buffer = {0};
    for (size_t i = 0; i < list.list->n; i++) jinja_buffer_str(c, &buffer, list.list->items[i]);
    return jinja_buffer_value(c, &buffer);
}

/* What `attribute=` of sort, map, join and others names: "a.b.0". */
static struct jinja_value by_path(struct jinja_context *c, struct jinja_value v, struct jinja_value path) {
    if (path.type == JINJA_INT) return jinja_item(c, v, path);
    const char *s = path.string->text;
    while (*s) {
        const char *dot = strchr(s, '.');
        size_t len = dot ? (size_t)(dot - s) : strlen(s);
        char *end;
        long index = strtol(s, &end, 10);
        v = jinja_item(c, v, end == s + len && len ? jinja_int(index) : jinja_string(c, s, len));
        s += len + (dot ? 1 : 0);
    }
    return v;
}

static bool path_argument(struct jinja_context *c, const struct jinja_call *call, size_t position, struct jinja_value *path) {
    if (!jinja_argument(call, position, "attribute", path) || path->type == JINJA_NONE) return false;
    if (path->type != JINJA_INT) need_string(c, call, *path);
    return true;
}

static struct jinja_value filter_join(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]), between, path;
    bool has_path = path_argument(c, call, 2, &path);
    if (!jinja_argument(call, 1, "d", &between)) between = jinja_cstring(c, "");
    struct jinja_buffer buffer = {0};
    for (size_t i = 0; i < items.list->n; i++) {
        if (i) jinja_buffer_str(c, &buffer, between);
        jinja_buffer_str(c, &buffer, has_path ? by_path(c, items.list->items[i], path) : items.list->items[i]);
    }
    return jinja_buffer_value(c, &buffer);
}

/* Strings compare without case unless asked: what sort, unique, min, max and dictsort look at. */
static struct jinja_value sort_key(struct jinja_context *c, struct jinja_value v, const struct jinja_value *path,
                                   bool case_sensitive) {
    if (path) v = by_path(c, v, *path);
    if (case_sensitive || v.type != JINJA_STRING) return v;
    struct jinja_call call = {.name = "lower", .args = &v, .n_args = 1};
    return filter_lower(c, &call);
}

struct sortable {
    struct jinja_value key, item;
};

static bool comes_before(struct jinja_context *c, const struct sortable *a, const struct sortable *b, bool reverse) {
    jinja_spend(c, 1);
    int order = jinja_compare(c, a->key, b->key);
    return reverse ? order > 0 : order < 0;
}

/* Merges from[low .. middle) and from[middle .. high), both sorted, into to; of equal ones the left comes first. */
static void merge(struct jinja_context *c, const struct sortable *from, size_t low, size_t middle, size_t high, bool reverse,
                  struct sortable *to) {
    for (size_t left = low, right = middle, at = low; at < high; at++) {
        bool take_right = left == middle || (right < high && comes_before(c, &from[right], &from[left], reverse));
        to[at] = from[take_right ? right++ : left++];
    }
}

/* Stable, also in reverse, as Python's. */
static struct jinja_value sorted(struct jinja_context *c, struct jinja_value items, const struct jinja_value *path,
                                 bool case_sensitive, bool reverse) {
    size_t n = items.list->n;
    struct jinja_value list = jinja_list_new(c, JINJA_LIST);
    struct sortable *from = jinja_alloc(c, (n + 1) * sizeof *from), *to = jinja_alloc(c, (n + 1) * sizeof *to);
    for (size_t i = 0; i < n; i++) {
        from[i] = (struct sortable){sort_key(c, items.list->items[i], path, case_sensitive), items.list->items[i]};
    }
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t low = 0; low < n; low += 2 * width) {
            size_t middle = low + width < n ? low + width : n, high = middle + width < n ? middle + width : n;
            merge(c, from, low, middle, high, reverse, to);
        }
        struct sortable *swap = from;
        from = to;
        to = swap;
    }
    for (size_t i = 0; i < n; i++) jinja_list_add(c, list, from[i].item);
    return list;
}

static struct jinja_value filter_sort(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value path;
    bool has_path = path_argument(c, call, 3, &path);
    return sorted(c, jinja_iterate(c, call->args[0]), has_path ? &path : NULL, flag_argument(call, 2, "case_sensitive", false),
                  flag_argument(call, 1, "reverse", false));
}

static struct jinja_value filter_dictsort(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value d = call->args[0], pairs = jinja_list_new(c, JINJA_LIST), by;
    if (d.type != JINJA_DICT) jinja_fail(c, "dictsort needs a dict, not %s", jinja_type_name(d.type));
    for (size_t i = 0; i < d.dict->n; i++) {
        struct jinja_value pair = jinja_list_new(c, JINJA_TUPLE);
        jinja_list_add(c, pair, d.dict->keys[i]);
        jinja_list_add(c, pair, d.dict->values[i]);
        jinja_list_add(c, pairs, pair);
    }
    bool by_value = jinja_argument(call, 2, "by", &by) && by.type == JINJA_STRING && strcmp(by.string->text, "value") == 0;
    struct jinja_value path = jinja_int(by_value);
    return sorted(c, pairs, &path, flag_argument(call, 1, "case_sensitive", false), flag_argument(call, 3, "reverse", false));
}

static struct jinja_value filter_unique(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]), seen = jinja_list_new(c, JINJA_LIST),
                       list = jinja_list_new(c, JINJA_LIST), path;
    bool has_path = path_argument(c, call, 2, &path), case_sensitive = flag_argument(call, 1, "case_sensitive", false);
    for (size_t i = 0; i < items.list->n; i++) {
        struct jinja_value key = sort_key(c, items.list->items[i], has_path ? &path : NULL, case_sensitive);
        if (jinja_contains(c, seen, key)) continue;
        jinja_list_add(c, seen, key);
        jinja_list_add(c, list, items.list->items[i]);
    }
    return list;
}

/* Pairs of a value of the attribute and the items that have it, in the order of those values. */
static struct jinja_value filter_groupby(struct jinja_context *c, struct jinja_call *call) {
    static const char *const fields[] = {"grouper", "list"};
    struct jinja_value path, key, last_key = jinja_none(), groups = jinja_list_new(c, JINJA_LIST), group = groups;
    if (!path_argument(c, call, 1, &path)) jinja_fail(c, "groupby needs the name of an attribute");
    bool case_sensitive = flag_argument(call, 3, "case_sensitive", false);
    struct jinja_value items = sorted(c, jinja_iterate(c, call->args[0]), &path, case_sensitive, false);
    for (size_t i = 0; i < items.list->n; i++) {
        struct jinja_value item = items.list->items[i];
        key = sort_key(c, item, &path, case_sensitive);
        if (i == 0 || !jinja_equal(c, key, last_key)) {
            struct jinja_value pair = jinja_list_new(c, JINJA_TUPLE);
            group = jinja_list_new(c, JINJA_LIST);
            jinja_list_add(c, pair, by_path(c, item, path));
            jinja_list_add(c, pair, group);
            pair.list->fields = fields;
            jinja_list_add(c, groups, pair);
            last_key = key;
        }
        jinja_list_add(c, group, item);
    }
    return groups;
}

static struct jinja_value extreme(struct jinja_context *c, struct jinja_call *call, int wanted) {
    struct jinja_value items = jinja_iterate(c, call->args[0]), path, best, best_key;
    bool has_path = path_argument(c, call, 2, &path), case_sensitive = flag_argument(call, 1, "case_sensitive", false);
    if (items.list->n == 0) return jinja_undefined(c, "the extreme of an empty sequence", 32);
    for (size_t i = 0; i < items.list->n; i++) {
        struct jinja_value key = sort_key(c, items.list->items[i], has_path ? &path : NULL, case_sensitive);
        if (i > 0 && jinja_compare(c, key, best_key) != wanted) continue;
        best_key = key;
        best = items.list->items[i];
    }
    return best;
}
static struct jinja_value filter_min(struct jinja_context *c, struct jinja_call *call) { return extreme(c, call, -1); }
static struct jinja_value filter_max(struct jinja_context *c, struct jinja_call *call) { return extreme(c, call, 1); }

static struct jinja_value filter_sum(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]), path, total;
    bool has_path = path_argument(c, call, 1, &path);
    if (!jinja_argument(call, 2, "start", &total)) total = jinja_int(0);
    for (size_t i = 0; i < items.list->n; i++) {
        total = jinja_binary(c, OP_ADD, total, has_path ? by_path(c, items.list->items[i], path) : items.list->items[i]);
    }
    return total;
}

static struct jinja_value filter_items(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value method;
    if (call->args[0].type == JINJA_UNDEFINED) return jinja_list_new(c, JINJA_LIST);
    if (call->args[0].type != JINJA_DICT) jinja_fail(c, "Can only get item pairs from a mapping.");
    jinja_method(c, call->args[0], "items", 5, &method);
    struct jinja_call inner = {.name = "items"};
    return jinja_call_value(c, method, &inner);
}

static struct jinja_value filter_batch(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]), out = jinja_list_new(c, JINJA_LIST), row = {0}, fill;
    int64_t n = int_argument(c, call, 1, "linecount", 0);
    if (n <= 0) jinja_fail(c, "batch needs a count of 1 or more");
    for (size_t i = 0; i < items.list->n; i++) {
        if (i % (size_t)n == 0) jinja_list_add(c, out, row = jinja_list_new(c, JINJA_LIST));
        jinja_list_add(c, row, items.list->items[i]);
    }
    while (out.list->n && jinja_argument(call, 2, "fill_with", &fill) && row.list->n < (size_t)n) jinja_list_add(c, row, fill);
    return out;
}

/* map and select take anything false, none included, for an empty sequence. */
static struct jinja_value items_if_any(struct jinja_context *c, const struct jinja_call *call) {
    return jinja_truth(call->args[0]) ? jinja_iterate(c, call->args[0]) : jinja_list_new(c, JINJA_LIST);
}

/* map('upper'), map(attribute='x', default=y) */
static struct jinja_value filter_map(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = items_if_any(c, call), out = jinja_list_new(c, JINJA_LIST), path, otherwise;
    bool has_path = call->n_args < 2 && path_argument(c, call, 1, &path),
         has_default = jinja_argument(call, 9, "default", &otherwise);
    if (!has_path && call->n_args < 2) jinja_fail(c, "map requires a filter argument");
    for (size_t i = 0; i < items.list->n; i++) {
        struct jinja_value v = items.list->items[i];
        if (has_path) {
            v = by_path(c, v, path);
            if (v.type == JINJA_UNDEFINED && has_default) v = otherwise;
        } else {
            struct jinja_call inner = *call;
            inner.name = need_string(c, call, call->args[1]).string->text;
            inner.args = jinja_alloc(c, call->n_args * sizeof *inner.args);
            memcpy(inner.args, call->args + 1, (call->n_args - 1) * sizeof *inner.args);
            inner.args[0] = v;
            inner.n_args--;
            v = jinja_apply_filter(c, &inner);
        }
        jinja_list_add(c, out, v);
    }
    return out;
}

/* select, reject, selectattr, rejectattr: keep what a test (or plain truth) says. */
static struct jinja_value choose(struct jinja_context *c, struct jinja_call *call, bool wanted, bool by_attribute) {
    struct jinja_value items = items_if_any(c, call), out = jinja_list_new(c, JINJA_LIST);
    size_t test_at = by_attribute ? 2 : 1;
    if (by_attribute && call->n_args < 2) jinja_fail(c, "%s needs the name of an attribute", call->name);
    for (size_t i = 0; i < items.list->n; i++) {
        struct jinja_value v = items.list->items[i];
        if (by_attribute) v = by_path(c, v, call->args[1]);
        bool chosen = jinja_truth(v);
        if (call->n_args > test_at) {
            struct jinja_call inner = *call;
            inner.name = need_string(c, call, call->args[test_at]).string->text;
            inner.args = jinja_alloc(c, call->n_args * sizeof *inner.args);
            inner.n_args = call->n_args - test_at;
            memcpy(inner.args, call->args + test_at, inner.n_args * sizeof *inner.args);
            inner.args[0] = v;
            chosen = jinja_apply_test(c, &inner);
        }
        if (chosen == wanted) jinja_list_add(c, out, items.list->items[i]);
    }
    return out;
}
static struct jinja_value filter_select(struct jinja_context *c, struct jinja_call *call) { return choose(c, call, true, false); }
static struct jinja_value filter_reject(struct jinja_context *c, struct jinja_call *call) {
    return choose(c, call, false, false);
}
static struct jinja_value filter_selectattr(struct jinja_context *c, struct jinja_call *call) {
    return choose(c, call, true, true);
}
static struct jinja_value filter_rejectattr(struct jinja_context *c, struct jinja_call *call) {
    return choose(c, call, false, true);
}

static struct jinja_value filter_attr(struct jinja_context *c, struct jinja_call *call) {
    jinja_check_arguments(c, call, 2, 2);
    struct jinja_value name = need_string(c, call, call->args[1]), out;
    if (jinja_method(c, call->args[0], name.string->text, name.string->len, &out)) return out;
    return jinja_undefined(c, name.string->text, name.string->len);
}

static const struct jinja_function filters[] = {
    {"abs", filter_abs},
    {"attr", filter_attr},
    {"batch", filter_batch},
    {"capitalize", filter_capitalize},
    {"center", filter_center},
    {"count", filter_length},
    {"d", filter_default},
    {"default", filter_default},
    {"dictsort", filter_dictsort},
    {"e", filter_escape},
    {"escape", filter_escape},
    {"first", filter_first},
    {"float", filter_float},
    {"format", filter_format},
    {"groupby", filter_groupby},
    {"indent", filter_indent},
    {"int", filter_int},
    {"items", filter_items},
    {"join", filter_join},
    {"last", filter_last},
    {"length", filter_length},
    {"list", filter_list},
    {"lower", filter_lower},
    {"map", filter_map},
    {"max", filter_max},
    {"min", filter_min},
    {"reject", filter_reject},
    {"rejectattr", filter_rejectattr},
    {"replace", filter_replace},
    {"reverse", filter_reverse},
    {"round", filter_round},
    {"safe", filter_safe},
    {"select", filter_select},
    {"selectattr", filter_selectattr},
    {"sort", filter_sort},
    {"string", filter_string},
    {"sum", filter_sum},
    {"title", filter_title},
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"truncate", filter_truncate},
    {"unique", filter_unique},
    {"upper", filter_upper},
    {"urlencode", filter_urlencode},
    {"wordcount", filter_wordcount},
};

static const struct jinja_function *find_filter(const char *name) {
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
        if (strcmp(filters[i].name, name) == 0) return &filters[i];
    }
    return NULL;
}

struct jinja_value jinja_apply_filter(struct jinja_context *c, struct jinja_call *call) {
    const struct jinja_function *filter = find_filter(call->name);
    if (!filter) jinja_fail(c, "No filter named '%s'.", call->name);
    jinja_spend(c, jinja_work(call->args[0]));
    return filter->call(c, call);
}

/* --- tests --- */

static bool is_integer(struct jinja_value v) { return v.type == JINJA_INT; }

static bool test_type(const char *name, struct jinja_value v, bool *known) {
    *known = true;
    if (strcmp(name, "defined") == 0) return v.type != JINJA_UNDEFINED;
    if (strcmp(name, "undefined") == 0) return v.type == JINJA_UNDEFINED;
    if (strcmp(name, "none") == 0) return v.type == JINJA_NONE;
    if (strcmp(name, "boolean") == 0) return v.type == JINJA_BOOL;
    if (strcmp(name, "true") == 0) return v.type == JINJA_BOOL && v.boolean;
    if (strcmp(name, "false") == 0) return v.type == JINJA_BOOL && !v.boolean;
    if (strcmp(name, "integer") == 0) return is_integer(v);
    if (strcmp(name, "float") == 0) return v.type == JINJA_FLOAT;
    if (strcmp(name, "number") == 0) return jinja_is_number(v);
    if (strcmp(name, "string") == 0) return v.type == JINJA_STRING;
    if (strcmp(name, "mapping") == 0) return v.type == JINJA_DICT;
    if (strcmp(name, "callable") == 0)
        return v.type == JINJA_MACRO || v.type == JINJA_FUNCTION || (v.type == JINJA_LOOP && v.loop->node);
    bool sequence = v.type == JINJA_STRING || jinja_is_list(v) || v.type == JINJA_DICT || v.type == JINJA_UNDEFINED;
    if (strcmp(name, "sequence") == 0 || strcmp(name, "iterable") == 0)
        return sequence || (v.type == JINJA_LOOP && name[0] == 'i');
    if (strcmp(name, "escaped") == 0) return false;
    *known = false;
    return false;
}

static bool test_case(struct jinja_context *c, struct jinja_call *call, const char *method) {
    struct jinja_value out, text = jinja_to_string(c, call->args[0]);
    struct jinja_call inner = {.name = call->name};
    jinja_method(c, text, method, strlen(method), &out);
    return jinja_truth(jinja_call_value(c, out, &inner));
}

static bool test_number(struct jinja_context *c, const struct jinja_call *call, int64_t divisor, int64_t rest) {
    return jinja_equal(c, jinja_binary(c, OP_MOD, call->args[0], jinja_int(divisor)), jinja_int(rest));
}

struct comparison {
    const char *names[3];
    enum jinja_op op;
};

static bool test_comparison(struct jinja_context *c, const struct jinja_call *call, bool *known) {
    static const struct comparison comparisons[] = {{{"eq", "equalto", "=="}, OP_EQ},    {{"ne", "!=", "ne"}, OP_NE},
                                                    {{"lt", "lessthan", "<"}, OP_LT},    {{"le", "<=", "le"}, OP_LE},
                                                    {{"gt", "greaterthan", ">"}, OP_GT}, {{"ge", ">=", "ge"}, OP_GE},
                                                    {{"in", "in", "in"}, OP_IN}};
    for (size_t i = 0; i < sizeof comparisons / sizeof *comparisons; i++) {
        for (int k = 0; k < 3; k++) {
            if (strcmp(comparisons[i].names[k], call->name) != 0) continue;
            jinja_check_arguments(c, call, 2, 2);
            *known = true;
            struct jinja_value a = call->args[0], b = call->args[1];
            switch (comparisons[i].op) {
            case OP_EQ:
                return jinja_equal(c, a, b);
            case OP_NE:
                return !jinja_equal(c, a, b);
            case OP_LT:
                return jinja_compare(c, a, b) < 0;
            case OP_LE:
                return jinja_compare(c, a, b) <= 0;
            case OP_GT:
                return jinja_compare(c, a, b) > 0;
            case OP_GE:
                return jinja_compare(c, a, b) >= 0;
            default:
                return jinja_contains(c, b, a);
            }
        }
    }
    *known = false;
    return false;
}

bool jinja_apply_test(struct jinja_context *c, struct jinja_call *call) {
    bool known;
    bool result = test_type(call->name, call->args[0], &known);
    if (known) return result;
    result = test_comparison(c, call, &known);
    if (known) return result;
    if (strcmp(call->name, "odd") == 0) return test_number(c, call, 2, 1);
    if (strcmp(call->name, "even") == 0) return test_number(c, call, 2, 0);
    if (strcmp(call->name, "lower") == 0) return test_case(c, call, "islower");
    if (strcmp(call->name, "upper") == 0) return test_case(c, call, "isupper");
    if (strcmp(call->name, "filter") == 0) return call->args[0].type == JINJA_STRING && find_filter(call->args[0].string->text);
    if (strcmp(call->name, "divisibleby") == 0) {
        jinja_check_arguments(c, call, 2, 2);
        return jinja_equal(c, jinja_binary(c, OP_MOD, call->args[0], call->args[1]), jinja_int(0));
    }
    if (strcmp(call->name, "sameas") == 0) {
        jinja_check_arguments(c, call, 2, 2);
        return call->args[0].type == call->args[1].type && jinja_equal(c, call->args[0], call->args[1]);
    }
    jinja_fail(c, "No test named '%s'.", call->name);
}

/* --- functions --- */

static struct jinja_value function_range(struct jinja_context *c, struct jinja_call *call) {
    jinja_check_arguments(c, call, 1, 3);
    int64_t first = int_argument(c, call, 0, "start", 0), stop = int_argument(c, call, 1, "stop", 0),
            stride = int_argument(c, call, 2, "step", 1);
    if (call->n_args == 1) {
        stop = first;
        first = 0;
    }
    if (stride == 0) jinja_fail(c, "range() arg 3 must not be zero");
    struct jinja_value list = jinja_list_new(c, JINJA_LIST);
    for (int64_t i = first; stride > 0 ? i < stop : i > stop; i += stride) {
        if (list.list->n >= MAX_RANGE) jinja_fail(c, "range is larger than %d items", MAX_RANGE);
        jinja_list_add(c, list, jinja_int(i));
    }
    return list;
}

static struct jinja_value keywords_into(struct jinja_context *c, const struct jinja_call *call, enum jinja_type type) {
    struct jinja_value dict = jinja_dict_new(c, type);
    if (call->n_args == 1 && call->args[0].type == JINJA_DICT) {
        const struct jinja_dict *d = call->args[0].dict;
        for (size_t i = 0; i < d->n; i++) jinja_dict_set(c, dict, d->keys[i], d->values[i]);
    } else if (call->n_args == 1 && jinja_is_list(call->args[0])) {
        for (size_t i = 0; i < call->args[0].list->n; i++) {
            struct jinja_value pair = jinja_iterate(c, call->args[0].list->items[i]);
            if (pair.list->n != 2) jinja_fail(c, "%s() needs pairs", call->name);
            jinja_dict_set(c, dict, pair.list->items[0], pair.list->items[1]);
        }
    } else if (call->n_args > 0) {
        jinja_fail(c, "%s() takes a dict, pairs or keywords", call->name);
    }
    for (size_t i = 0; i < call->n_keywords; i++) {
        jinja_dict_set(c, dict, (struct jinja_value){.type = JINJA_STRING, .string = call->keywords[i]}, call->keyword_values[i]);
    }
    return dict;
}
static struct jinja_value function_dict(struct jinja_context *c, struct jinja_call *call) {
    return keywords_into(c, call, JINJA_DICT);
}
static struct jinja_value function_namespace(struct jinja_context *c, struct jinja_call *call) {
    return keywords_into(c, call, JINJA_NAMESPACE);
}

static struct jinja_value function_raise(struct jinja_context *c, struct jinja_call *call) {
    jinja_check_arguments(c, call, 1, 1);
    jinja_fail(c, "%s", jinja_to_string(c, call->args[0]).string->text);
}

static struct jinja_value function_strftime(struct jinja_context *c, struct jinja_call *call) {
    jinja_check_arguments(c, call, 1, 1);
    struct jinja_value format = need_string(c, call, call->args[0]);
    if (!format.string->len) return format;
    char text[512];
    time_t now = (time_t)c->now_s;
    struct tm local;
    localtime_r(&now, &local);
    size_t n = strftime(text, sizeof text, format.string->text, &local);
    if (!n) jinja_fail(c, "strftime_now: the format gives too long a text");
    return jinja_string(c, text, n);
}

/* joiner(): empty the first time it is called, the separator ever after. Its state is a namespace, the one kind of value that
 * changes. */
static struct jinja_value joiner_call(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value used, separator;
    jinja_dict_find(call->self, "sep", &separator);
    bool again = jinja_dict_find(call->self, "used", &used);
    jinja_dict_set(c, call->self, jinja_cstring(c, "used"), jinja_bool(true));
    return again ? separator : jinja_cstring(c, "");
}
static struct jinja_value function_joiner(struct jinja_context *c, struct jinja_call *call) {
    static const struct jinja_function joiner = {"joiner", joiner_call};
    struct jinja_value separator, state = jinja_dict_new(c, JINJA_NAMESPACE);
    if (!jinja_argument(call, 0, "sep", &separator)) separator = jinja_cstring(c, ", ");
    jinja_dict_set(c, state, jinja_cstring(c, "sep"), separator);
    return jinja_function_value(c, &joiner, state);
}

bool jinja_global(struct jinja_context *c, const struct jinja_string *name, struct jinja_value *out) {
    static const struct jinja_function functions[] = {
        {"range", function_range},           {"dict", function_dict},
        {"namespace", function_namespace},   {"raise_exception", function_raise},
        {"strftime_now", function_strftime}, {"joiner", function_joiner},
    };
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        if (strcmp(functions[i].name, name->text) != 0) continue;
        *out = jinja_function_value(c, &functions[i], jinja_none());
        return true;
    }
    return false;
}
