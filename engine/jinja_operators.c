/* jinja_operators.c - attributes, items, slices and operators of values, as Python has them. Nothing here knows of scopes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/jinja_eval.h"

/* --- access --- */

void jinja_fail_undefined(struct jinja_context *c, struct jinja_value value) {
    jinja_fail(c, "'%.*s' is undefined", (int)(value.string->len < 100 ? value.string->len : 100), value.string->text);
}

static struct jinja_value missing(struct jinja_context *c, struct jinja_value value, const char *name, size_t len) {
    char text[200];
    int n = snprintf(text, sizeof text, "%s object' has no attribute '%.*s", jinja_type_name(value.type),
                     (int)(len < 80 ? len : 80), name);
    return jinja_undefined(c, text, (size_t)n);
}

static bool loop_attribute(struct jinja_context *c, struct jinja_loop *loop, const char *name, size_t len,
                           struct jinja_value *out) {
    int64_t n = (int64_t)loop->items->n, i = (int64_t)loop->index0;
    const struct {
        const char *name;
        struct jinja_value value;
    } facts[] = {
        {"index", jinja_int(i + 1)},
        {"index0", jinja_int(i)},
        {"revindex", jinja_int(n - i)},
        {"revindex0", jinja_int(n - i - 1)},
        {"first", jinja_bool(i == 0)},
        {"last", jinja_bool(i == n - 1)},
        {"length", jinja_int(n)},
        {"depth", jinja_int(loop->depth0 + 1)},
        {"depth0", jinja_int(loop->depth0)},
    };
    for (size_t k = 0; k < sizeof facts / sizeof *facts; k++) {
        if (strlen(facts[k].name) == len && memcmp(facts[k].name, name, len) == 0) {
            *out = facts[k].value;
            return true;
        }
    }
    bool previous = len == 8 && memcmp(name, "previtem", 8) == 0, next = len == 8 && memcmp(name, "nextitem", 8) == 0;
    if (!previous && !next) return false;
    int64_t at = previous ? i - 1 : i + 1;
    *out = at >= 0 && at < n ? loop->items->items[at] : jinja_undefined(c, name, len);
    return true;
}

struct jinja_value jinja_attribute(struct jinja_context *c, struct jinja_value value, const char *name, size_t len) {
    struct jinja_value out;
    if (value.type == JINJA_UNDEFINED) jinja_fail_undefined(c, value);
    if (value.type == JINJA_LOOP && loop_attribute(c, value.loop, name, len, &out)) return out;
    for (size_t i = 0; value.type == JINJA_TUPLE && value.list->fields && i < value.list->n; i++) {
        if (strlen(value.list->fields[i]) == len && memcmp(value.list->fields[i], name, len) == 0) return value.list->items[i];
    }
    if (value.type != JINJA_NAMESPACE && jinja_method(c, value, name, len, &out)) return out;
    if (value.type == JINJA_DICT || value.type == JINJA_NAMESPACE) {
        jinja_spend(c, jinja_work(value));
        if (jinja_dict_get(c, value, jinja_string(c, name, len), &out)) return out;
    }
    return missing(c, value, name, len);
}

static bool list_index(struct jinja_value key, size_t n, size_t *out) {
    int64_t i = jinja_as_int(key);
    if (i < 0) i += (int64_t)n;
    if (i < 0 || i >= (int64_t)n) return false;
    *out = (size_t)i;
    return true;
}

struct jinja_value jinja_item(struct jinja_context *c, struct jinja_value value, struct jinja_value key) {
    struct jinja_value out;
    size_t i;
    bool integer = key.type == JINJA_INT || key.type == JINJA_BOOL;
    if (!jinja_is_list(value)) jinja_spend(c, jinja_work(value));
    if (value.type == JINJA_UNDEFINED) jinja_fail_undefined(c, value);
    if (value.type == JINJA_DICT && jinja_dict_get(c, value, key, &out)) return out;
    if (jinja_is_list(value) && integer) {
        if (list_index(key, value.list->n, &i)) return value.list->items[i];
    } else if (value.type == JINJA_STRING && integer) {
        if (list_index(key, jinja_length(c, value), &i)) {
            size_t at = jinja_utf8_offset(value.string->text, value.string->len, i);
            return jinja_string(c, value.string->text + at,
                                jinja_utf8_next(value.string->text + at, value.string->len - at, NULL));
        }
    } else if (key.type == JINJA_STRING) {
        /* Like Python's environment.getitem: a missing item may be an attribute. */
        if (value.type == JINJA_DICT) {
            if (jinja_method(c, value, key.string->text, key.string->len, &out)) return out;
            return missing(c, value, key.string->text, key.string->len);
        }
        return jinja_attribute(c, value, key.string->text, key.string->len);
    }
    struct jinja_value text = jinja_to_string(c, key);
    return missing(c, value, text.string->text, text.string->len);
}

/* Bounds of a Python slice over n items. */
static void slice_bounds(struct jinja_value start, struct jinja_value stop, int64_t step_size, int64_t n, int64_t *from,
                         int64_t *to) {
    int64_t low = step_size > 0 ? 0 : -1, high = step_size > 0 ? n : n - 1;
    int64_t bounds[2] = {step_size > 0 ? low : high, step_size > 0 ? high : low};
    struct jinja_value given[2] = {start, stop};
    for (int i = 0; i < 2; i++) {
        if (given[i].type == JINJA_NONE) continue;
        int64_t at = jinja_as_int(given[i]);
        if (at < 0) at = at + n < low ? low : at + n;
        bounds[i] = at > high ? high : at;
    }
    *from = bounds[0];
    *to = bounds[1];
}

struct jinja_value jinja_slice(struct jinja_context *c, struct jinja_value value, const struct jinja_value parts[3]) {
    for (int i = 0; i < 3; i++) {
        if (parts[i].type != JINJA_NONE && parts[i].type != JINJA_INT && parts[i].type != JINJA_BOOL) {
            jinja_fail(c, "slice indices must be integers or none, not %s", jinja_type_name(parts[i].type));
        }
    }
    if (value.type == JINJA_UNDEFINED) jinja_fail_undefined(c, value);
    if (value.type != JINJA_STRING && !jinja_is_list(value)) jinja_fail(c, "'%s' cannot be sliced", jinja_type_name(value.type));
    int64_t step_size = parts[2].type == JINJA_NONE ? 1 : jinja_as_int(parts[2]), from, to;
    if (step_size == 0) jinja_fail(c, "slice step cannot be zero");
    slice_bounds(parts[0], parts[1], step_size, (int64_t)jinja_length(c, value), &from, &to);
    struct jinja_value items = jinja_iterate(c, value),
                       list = jinja_list_new(c, value.type == JINJA_TUPLE ? JINJA_TUPLE : JINJA_LIST);
    for (int64_t i = from; step_size > 0 ? i < to : i > to; i += step_size) {
        jinja_spend(c, 1);
        jinja_list_add(c, list, items.list->items[i]);
    }
    if (value.type != JINJA_STRING) return list;
    struct jinja_buffer buffer = {0};
    for (size_t i = 0; i < list.list->n; i++) jinja_buffer_str(c, &buffer, list.list->items[i]);
    return jinja_buffer_value(c, &buffer);
}

/* --- operators --- */

static _Noreturn void fail_operands(struct jinja_context *c, enum jinja_op op, struct jinja_value a, struct jinja_value b) {
    static const char *const words[] = {"+", "-", "*", "/", "//", "%", "**"};
    if (a.type == JINJA_UNDEFINED) jinja_fail_undefined(c, a);
    if (b.type == JINJA_UNDEFINED) jinja_fail_undefined(c, b);
    jinja_fail(c, "unsupported operand type(s) for %s: '%s' and '%s'", words[op], jinja_type_name(a.type),
               jinja_type_name(b.type));
}

static struct jinja_value repeat(struct jinja_context *c, struct jinja_value value, int64_t times) {
    if (value.type == JINJA_STRING) {
        struct jinja_buffer buffer = {0};
        for (int64_t i = 0; i < times && value.string->len; i++)
            jinja_buffer_add(c, &buffer, value.string->text, value.string->len);
        return jinja_buffer_value(c, &buffer);
    }
    struct jinja_value list = jinja_list_new(c, value.type);
    for (int64_t i = 0; i < times && value.list->n; i++) {
        for (size_t j = 0; j < value.list->n; j++) jinja_list_add(c, list, value.list->items[j]);
    }
    return list;
}

static struct jinja_value join_values(struct jinja_context *c, struct jinja_value a, struct jinja_value b) {
    if (a.type == JINJA_STRING) {
        struct jinja_buffer buffer = {0};
        bool safe = a.string->safe || b.string->safe;
        if (safe) a = jinja_escape(c, a);
        if (safe) b = jinja_escape(c, b);
        jinja_buffer_add(c, &buffer, a.string->text, a.string->len);
        jinja_buffer_add(c, &buffer, b.string->text, b.string->len);
        struct jinja_value sum = jinja_buffer_value(c, &buffer);
        return safe ? jinja_mark_safe(c, sum) : sum;
    }
    struct jinja_value list = jinja_list_new(c, a.type);
    for (size_t i = 0; i < a.list->n; i++) jinja_list_add(c, list, a.list->items[i]);
    for (size_t i = 0; i < b.list->n; i++) jinja_list_add(c, list, b.list->items[i]);
    return list;
}

static struct jinja_value integer_op(struct jinja_context *c, enum jinja_op op, int64_t a, int64_t b) {
    int64_t result = 0;
    bool overflow = false;
    if ((op == OP_FLOOR_DIV || op == OP_MOD) && b == 0) jinja_fail(c, "integer division or modulo by zero");
    if (op == OP_ADD) overflow = __builtin_add_overflow(a, b, &result);
    if (op == OP_SUB) overflow = __builtin_sub_overflow(a, b, &result);
    if (op == OP_MUL) overflow = __builtin_mul_overflow(a, b, &result);
    if (op == OP_FLOOR_DIV || op == OP_MOD) {
        if (b == -1) {
            overflow = op == OP_FLOOR_DIV && __builtin_sub_overflow((int64_t)0, a, &result);
        } else {
            int64_t quotient = a / b, rest = a % b;
            if (rest != 0 && (rest < 0) != (b < 0)) {
                quotient--;
                rest += b;
            }
            result = op == OP_MOD ? rest : quotient;
        }
    }
    if (op == OP_POW) {
        if (b < 0) return jinja_float(pow((double)a, (double)b));
        for (result = 1; b > 0 && !overflow; b--) {
            jinja_spend(c, 1);
            overflow = __builtin_mul_overflow(result, a, &result);
        }
    }
    if (overflow) jinja_fail(c, "a number is too large");
    return jinja_int(result);
}

static struct jinja_value float_op(struct jinja_context *c, enum jinja_op op, double a, double b) {
    if ((op == OP_DIV || op == OP_FLOOR_DIV || op == OP_MOD) && b == 0) jinja_fail(c, "division by zero");
    switch (op) {
    case OP_ADD:
        return jinja_float(a + b);
    case OP_SUB:
        return jinja_float(a - b);
    case OP_MUL:
        return jinja_float(a * b);
    case OP_DIV:
        return jinja_float(a / b);
    case OP_FLOOR_DIV:
        return jinja_float(floor(a / b));
    case OP_POW:
        return jinja_float(pow(a, b));
    default: {
        double rest = fmod(a, b);
        return jinja_float(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
    }
    }
}

/* "%s and %d" % values: the conversions that templates use. */
static struct jinja_value format_string(struct jinja_context *c, struct jinja_value format, struct jinja_value arguments) {
    struct jinja_buffer buffer = {0};
    size_t used = 0;
    const struct jinja_string *f = format.string;
    for (size_t i = 0; i < f->len; i++) {
        if (f->text[i] != '%' || i + 1 >= f->len) {
            jinja_buffer_add(c, &buffer, f->text + i, 1);
            continue;
        }
        if (f->text[i + 1] == '%') {
            jinja_buffer_add(c, &buffer, "%", 1);
            i++;
            continue;
        }
        char spec[24] = "%", text[400];
        size_t n = 1;
        for (i++; i < f->len && strchr("0123456789.-+ #", f->text[i]) && n < 12; i++) spec[n++] = f->text[i];
        struct jinja_value v = arguments;
        if (arguments.type == JINJA_TUPLE) {
            if (used >= arguments.list->n) jinja_fail(c, "not enough arguments for format string");
            v = arguments.list->items[used];
        }
        used++;
        char kind = i < f->len ? f->text[i] : 0;
        if (kind == 's' || kind == 'r') {
            struct jinja_buffer piece = {0};
            if (kind == 's')
                jinja_buffer_str(c, &piece, v);
            else
                jinja_buffer_repr(c, &piece, v);
            int64_t pad = strtol(spec + 1, NULL, 10), shown = (int64_t)jinja_utf8_count(piece.data ? piece.data : "", piece.len);
            for (int64_t k = shown; k < pad; k++) jinja_buffer_add(c, &buffer, " ", 1);
            jinja_buffer_add(c, &buffer, piece.data ? piece.data : "", piece.len);
            for (int64_t k = shown; k < -pad; k++) jinja_buffer_add(c, &buffer, " ", 1);
        } else if (kind && strchr("dixX", kind) && jinja_is_number(v)) {
            snprintf(spec + n, sizeof spec - n, "ll%c", kind == 'i' ? 'd' : kind);
            long long value = v.type == JINJA_FLOAT ? (long long)v.number : (long long)jinja_as_int(v);
            int len = snprintf(text, sizeof text, spec, value);
            jinja_buffer_add(c, &buffer, text, len < 0 ? 0 : (size_t)len < sizeof text ? (size_t)len : sizeof text - 1);
        } else if (kind && strchr("feEgG", kind) && jinja_is_number(v)) {
            snprintf(spec + n, sizeof spec - n, "%c", kind);
            int len = snprintf(text, sizeof text, spec, jinja_as_double(v));
            jinja_buffer_add(c, &buffer, text, len < 0 ? 0 : (size_t)len < sizeof text ? (size_t)len : sizeof text - 1);
        } else {
            jinja_fail(c, "the format '%s%c' does not suit a value of type %s", spec, kind ? kind : '?', jinja_type_name(v.type));
        }
    }
    if (arguments.type == JINJA_TUPLE ? used < arguments.list->n : used == 0) {
        jinja_fail(c, "not all arguments converted during string formatting");
    }
    return jinja_buffer_value(c, &buffer);
}

struct jinja_value jinja_binary(struct jinja_context *c, enum jinja_op op, struct jinja_value a, struct jinja_value b) {
    if (op == OP_CONCAT) {
        struct jinja_buffer buffer = {0};
        jinja_buffer_str(c, &buffer, a);
        jinja_buffer_str(c, &buffer, b);
        return jinja_buffer_value(c, &buffer);
    }
    if (jinja_is_number(a) && jinja_is_number(b)) {
        bool real = a.type == JINJA_FLOAT || b.type == JINJA_FLOAT || op == OP_DIV;
        return real ? float_op(c, op, jinja_as_double(a), jinja_as_double(b))
                    : integer_op(c, op, jinja_as_int(a), jinja_as_int(b));
    }
    bool sequence_a = a.type == JINJA_STRING || jinja_is_list(a), sequence_b = b.type == JINJA_STRING || jinja_is_list(b);
    if (op == OP_ADD && sequence_a && a.type == b.type) return join_values(c, a, b);
    if (op == OP_MUL && sequence_a && (b.type == JINJA_INT || b.type == JINJA_BOOL)) return repeat(c, a, jinja_as_int(b));
    if (op == OP_MUL && sequence_b && (a.type == JINJA_INT || a.type == JINJA_BOOL)) return repeat(c, b, jinja_as_int(a));
    if (op == OP_MOD && a.type == JINJA_STRING) return format_string(c, a, b);
    fail_operands(c, op, a, b);
}

bool jinja_compare_op(struct jinja_context *c, enum jinja_op op, struct jinja_value a, struct jinja_value b) {
    switch (op) {
    case OP_EQ:
        return jinja_equal(c, a, b);
    case OP_NE:
        return !jinja_equal(c, a, b);
    case OP_IN:
        return jinja_contains(c, b, a);
    case OP_NOT_IN:
        return !jinja_contains(c, b, a);
    case OP_LT:
        return jinja_compare(c, a, b) < 0;
    case OP_LE:
        return jinja_compare(c, a, b) <= 0;
    case OP_GT:
        return jinja_compare(c, a, b) > 0;
    default:
        return jinja_compare(c, a, b) >= 0;
    }
}
