/* jinja_filters.c - the filters of single values: text, numbers, JSON. See jinja_builtins.c. */
#define _GNU_SOURCE /* memrchr */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/jinja_eval.h"

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

/* --- values --- */

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
        call->args[0].type == JINJA_UNDEFINED || (jinja_flag_argument(call, 2, "boolean", false) && !jinja_truth(call->args[0]));
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
    int64_t base = jinja_int_argument(c, call, 2, "base", 10);
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
    double scale = pow(10, (double)jinja_int_argument(c, call, 1, "precision", 0)), x = jinja_as_double(v);
    const char *how = jinja_argument(call, 2, "method", &method) ? jinja_need_string(c, call, method).string->text : "common";
    if (strcmp(how, "ceil") == 0) return jinja_float(ceil(x * scale) / scale);
    if (strcmp(how, "floor") == 0) return jinja_float(floor(x * scale) / scale);
    if (strcmp(how, "common") != 0) jinja_fail(c, "round: the method must be common, ceil or floor");
    if (v.type != JINJA_FLOAT) return jinja_int(jinja_as_int(v));
    char text[400];
    int64_t precision = jinja_int_argument(c, call, 1, "precision", 0);
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
        style.item_separator = jinja_need_string(c, call, parts.list->items[0]).string->text;
        style.key_separator = jinja_need_string(c, call, parts.list->items[1]).string->text;
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
    struct jinja_value text = jinja_need_string(c, call, call->args[0]), width, indent;
    bool first = jinja_flag_argument(call, 2, "first", false), blank = jinja_flag_argument(call, 3, "blank", false);
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
    int64_t width = jinja_int_argument(c, call, 1, "width", 80), len = (int64_t)jinja_length(c, text),
            pad = width > len ? width - len : 0;
    int64_t left = pad / 2 + (pad & width & 1);
    struct jinja_value space = jinja_cstring(c, " "), out = jinja_binary(c, OP_MUL, space, jinja_int(left));
    return jinja_binary(c, OP_ADD, jinja_binary(c, OP_ADD, out, text), jinja_binary(c, OP_MUL, space, jinja_int(pad - left)));
}

static struct jinja_value filter_truncate(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value text = jinja_need_string(c, call, call->args[0]), end;
    int64_t length = jinja_int_argument(c, call, 1, "length", 255), leeway = jinja_int_argument(c, call, 4, "leeway", 5);
    if (!jinja_argument(call, 3, "end", &end)) end = jinja_cstring(c, "...");
    int64_t end_length = (int64_t)jinja_length(c, jinja_need_string(c, call, end));
    if (length < end_length) jinja_fail(c, "truncate: length must be at least %lld", (long long)end_length);
    if ((int64_t)jinja_length(c, text) <= length + leeway) return text;
    size_t keep = jinja_utf8_offset(text.string->text, text.string->len, (size_t)(length - end_length));
    if (!jinja_flag_argument(call, 2, "killwords", false)) {
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

static struct jinja_value filter_attr(struct jinja_context *c, struct jinja_call *call) {
    jinja_check_arguments(c, call, 2, 2);
    struct jinja_value name = jinja_need_string(c, call, call->args[1]), out;
    if (jinja_method(c, call->args[0], name.string->text, name.string->len, &out)) return out;
    return jinja_undefined(c, name.string->text, name.string->len);
}

const struct jinja_function jinja_value_filters[] = {
    {"abs", filter_abs},
    {"attr", filter_attr},
    {"capitalize", filter_capitalize},
    {"center", filter_center},
    {"count", filter_length},
    {"d", filter_default},
    {"default", filter_default},
    {"e", filter_escape},
    {"escape", filter_escape},
    {"float", filter_float},
    {"format", filter_format},
    {"indent", filter_indent},
    {"int", filter_int},
    {"length", filter_length},
    {"lower", filter_lower},
    {"replace", filter_replace},
    {"round", filter_round},
    {"safe", filter_safe},
    {"string", filter_string},
    {"title", filter_title},
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"truncate", filter_truncate},
    {"upper", filter_upper},
    {"urlencode", filter_urlencode},
    {"wordcount", filter_wordcount},
    {NULL, NULL},
};
