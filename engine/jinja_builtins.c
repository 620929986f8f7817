/* jinja_builtins.c - the tests and functions that a template finds by name, their arguments, and the way to the filters
 * (jinja_filters.c, jinja_list_filters.c). The methods of values are in jinja_methods.c.
 *
 * Each follows jinja2's own of that name; what chat templates have no use for (urlize, random, lipsum ...) is left out and named
 * in the error. */
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

struct jinja_value jinja_need_string(struct jinja_context *c, const struct jinja_call *call, struct jinja_value v) {
    if (v.type == JINJA_UNDEFINED) jinja_fail(c, "'%s' is undefined", v.string->text);
    if (v.type != JINJA_STRING) jinja_fail(c, "%s needs a string, not %s", call->name, jinja_type_name(v.type));
    return v;
}

bool jinja_flag_argument(const struct jinja_call *call, size_t position, const char *name, bool otherwise) {
    struct jinja_value v;
    return jinja_argument(call, position, name, &v) ? jinja_truth(v) : otherwise;
}

int64_t jinja_int_argument(struct jinja_context *c, const struct jinja_call *call, size_t position, const char *name,
                           int64_t otherwise) {
    struct jinja_value v;
    if (!jinja_argument(call, position, name, &v)) return otherwise;
    if (v.type != JINJA_INT && v.type != JINJA_BOOL)
        jinja_fail(c, "%s: '%s' must be an integer, not %s", call->name, name, jinja_type_name(v.type));
    return jinja_as_int(v);
}

/* --- filters --- */

static const struct jinja_function *find_in(const struct jinja_function *filters, const char *name) {
    for (; filters->name; filters++) {
        if (strcmp(filters->name, name) == 0) return filters;
    }
    return NULL;
}

static const struct jinja_function *find_filter(const char *name) {
    const struct jinja_function *filter = find_in(jinja_value_filters, name);
    return filter ? filter : find_in(jinja_list_filters, name);
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
            return jinja_compare_op(c, comparisons[i].op, call->args[0], call->args[1]);
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
    int64_t first = jinja_int_argument(c, call, 0, "start", 0), stop = jinja_int_argument(c, call, 1, "stop", 0),
            stride = jinja_int_argument(c, call, 2, "step", 1);
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
    struct jinja_value format = jinja_need_string(c, call, call->args[0]);
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
