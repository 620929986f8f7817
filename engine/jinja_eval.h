/* jinja_eval.h - what the evaluator and the built-in names share. */
#ifndef FORESAY_JINJA_EVAL_H
#define FORESAY_JINJA_EVAL_H

#include "engine/jinja_parse.h"

/* Names of one scope; lookups go outwards. */
struct jinja_scope {
    struct jinja_scope *outer;
    struct jinja_value names; /* dict */
};

struct jinja_macro {
    const struct jinja_node *node; /* NODE_MACRO or NODE_CALL_BLOCK: parameters and body */
    struct jinja_scope *scope;     /* where it was defined */
    const struct jinja_string *name;
};

struct jinja_loop {
    const struct jinja_list *items;
    size_t index0;
    int depth0;
    bool has_last_changed;
    struct jinja_value last_changed;
    const struct jinja_node *node; /* of a recursive loop */
    struct jinja_scope *scope;     /* around the loop */
};

struct jinja_value jinja_call_value(struct jinja_context *c, struct jinja_value callee, struct jinja_call *call);
struct jinja_value jinja_attribute(struct jinja_context *c, struct jinja_value value, const char *name, size_t len);
struct jinja_value jinja_item(struct jinja_context *c, struct jinja_value value, struct jinja_value key);
/* start, stop, step: undefined where the template has none. */
struct jinja_value jinja_slice(struct jinja_context *c, struct jinja_value value, const struct jinja_value parts[3]);
struct jinja_value jinja_binary(struct jinja_context *c, enum jinja_op op, struct jinja_value a, struct jinja_value b);
bool jinja_compare_op(struct jinja_context *c, enum jinja_op op, struct jinja_value a, struct jinja_value b);
_Noreturn void jinja_fail_undefined(struct jinja_context *c, struct jinja_value value);

/* & < > " ' as HTML entities; the result is safe. A safe string is returned as it is. */
struct jinja_value jinja_escape(struct jinja_context *c, struct jinja_value text);
struct jinja_value jinja_mark_safe(struct jinja_context *c, struct jinja_value text);

/* By name; the last has no name. */
extern const struct jinja_function jinja_value_filters[], jinja_list_filters[];

/* jinja_builtins.c. apply: by name; fails when the name is unknown. */
struct jinja_value jinja_apply_filter(struct jinja_context *c, struct jinja_call *call);
bool jinja_apply_test(struct jinja_context *c, struct jinja_call *call);
bool jinja_global(struct jinja_context *c, const struct jinja_string *name, struct jinja_value *out);
/* A method of str, dict, list or loop, bound to value. */
bool jinja_method(struct jinja_context *c, struct jinja_value value, const char *name, size_t len, struct jinja_value *out);

/* Arguments by position or name. Missing: false. Too many or unknown ones are checked by jinja_no_more. */
bool jinja_argument(const struct jinja_call *call, size_t position, const char *name, struct jinja_value *out);
void jinja_check_arguments(struct jinja_context *c, const struct jinja_call *call, size_t least, size_t most);
bool jinja_flag_argument(const struct jinja_call *call, size_t position, const char *name, bool otherwise);
int64_t jinja_int_argument(struct jinja_context *c, const struct jinja_call *call, size_t position, const char *name,
                           int64_t otherwise);
/* v, or an error when it is no string. */
struct jinja_value jinja_need_string(struct jinja_context *c, const struct jinja_call *call, struct jinja_value v);

#endif
