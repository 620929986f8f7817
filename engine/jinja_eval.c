/* jinja_eval.c - runs the tree of a template. Scopes follow Jinja: a loop, a macro and a `with` open one, an `if` does not; `set`
 * writes to the innermost, so what a loop sets is gone after each turn (namespaces are for that). Every node costs a step, every
 * call a level. */
#include "engine/jinja_eval.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/jinja.h"

struct jinja_template {
    struct jinja_context context; /* arena of the tree */
    struct jinja_node *body;
};

enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };

static struct jinja_value eval(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node);
static enum flow run(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node, struct jinja_buffer *out);

/* --- scopes --- */

static struct jinja_scope *scope_new(struct jinja_context *c, struct jinja_scope *outer) {
    struct jinja_scope *scope = jinja_alloc(c, sizeof *scope);
    scope->outer = outer;
    scope->names = jinja_dict_new(c, JINJA_DICT);
    return scope;
}

static void scope_set(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_string *name,
                      struct jinja_value value) {
    jinja_dict_set(c, scope->names, (struct jinja_value){.type = JINJA_STRING, .string = name}, value);
}

static struct jinja_value scope_get(struct jinja_context *c, const struct jinja_scope *scope, const struct jinja_string *name) {
    struct jinja_value value, key = {.type = JINJA_STRING, .string = name};
    for (; scope; scope = scope->outer) {
        if (jinja_dict_get(c, scope->names, key, &value)) return value;
    }
    if (jinja_global(c, name, &value)) return value;
    return jinja_undefined(c, name->text, name->len);
}

static void assign(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *target,
                   struct jinja_value value) {
    if (target->kind == NODE_NAME) {
        scope_set(c, scope, target->name, value);
    } else if (target->kind == NODE_ATTRIBUTE) {
        struct jinja_value object = eval(c, scope, target->a);
        if (object.type != JINJA_NAMESPACE) jinja_fail(c, "cannot assign attribute on non-namespace object");
        jinja_dict_set(c, object, (struct jinja_value){.type = JINJA_STRING, .string = target->name}, value);
    } else {
        struct jinja_value items = jinja_iterate(c, value);
        if (items.list->n != target->n) {
            jinja_fail(c, "cannot unpack %zu values into %zu names", items.list->n, target->n);
        }
        for (size_t i = 0; i < target->n; i++) assign(c, scope, target->list[i], items.list->items[i]);
    }
}

/* --- calls --- */

/* The name of what is called or applied, for messages. */
static const char *callee_name(const struct jinja_node *node) {
    return node->name ? node->name->text : node->a && node->a->name ? node->a->name->text : "it";
}

/* Evaluates the arguments of a call, a filter or a test; `first`, if given, becomes args[0]. */
static void eval_arguments(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node,
                           const struct jinja_value *first, struct jinja_call *call) {
    *call = (struct jinja_call){.name = callee_name(node)};
    call->args = jinja_alloc(c, (node->n + 1) * sizeof *call->args);
    call->keywords = jinja_alloc(c, (node->n + 1) * sizeof *call->keywords);
    call->keyword_values = jinja_alloc(c, (node->n + 1) * sizeof *call->keyword_values);
    if (first) call->args[call->n_args++] = *first;
    for (size_t i = 0; i < node->n; i++) {
        const struct jinja_node *argument = node->list[i];
        if (argument->kind == NODE_KEYWORD) {
            call->keywords[call->n_keywords] = argument->name;
            call->keyword_values[call->n_keywords++] = eval(c, scope, argument->a);
        } else {
            call->args[call->n_args++] = eval(c, scope, argument);
        }
    }
}

static struct jinja_value call_macro(struct jinja_context *c, const struct jinja_macro *macro, struct jinja_call *call) {
    struct jinja_scope *scope = scope_new(c, macro->scope);
    const struct jinja_node *node = macro->node;
    struct jinja_value varargs = jinja_list_new(c, JINJA_TUPLE), kwargs = jinja_dict_new(c, JINJA_DICT), value;
    for (size_t i = 0; i < node->n; i++) {
        const struct jinja_node *parameter = node->list[i];
        if (jinja_argument(call, i, parameter->name->text, &value))
            scope_set(c, scope, parameter->name, value);
        else if (parameter->a)
            scope_set(c, scope, parameter->name, eval(c, scope, parameter->a));
        else
            scope_set(c, scope, parameter->name, jinja_undefined(c, parameter->name->text, parameter->name->len));
    }
    for (size_t i = node->n; i < call->n_args; i++) jinja_list_add(c, varargs, call->args[i]);
    for (size_t k = 0; k < call->n_keywords; k++) {
        bool known = strcmp(call->keywords[k]->text, "caller") == 0;
        for (size_t i = 0; i < node->n && !known; i++) known = strcmp(node->list[i]->name->text, call->keywords[k]->text) == 0;
        struct jinja_value key = {.type = JINJA_STRING, .string = call->keywords[k]};
        if (!known)
            jinja_dict_set(c, kwargs, key, call->keyword_values[k]);
        else if (strcmp(call->keywords[k]->text, "caller") == 0)
            scope_set(c, scope, call->keywords[k], call->keyword_values[k]);
    }
    scope_set(c, scope, jinja_cstring(c, "varargs").string, varargs);
    scope_set(c, scope, jinja_cstring(c, "kwargs").string, kwargs);
    struct jinja_buffer out = {0};
    jinja_enter(c);
    run(c, scope, node->b, &out);
    c->depth--;
    return jinja_buffer_value(c, &out);
}

static void run_loop(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node,
                     struct jinja_value iterable, int depth0, struct jinja_buffer *out);

struct jinja_value jinja_call_value(struct jinja_context *c, struct jinja_value callee, struct jinja_call *call) {
    jinja_spend(c, 1);
    switch (callee.type) {
    case JINJA_MACRO:
        return call_macro(c, callee.macro, call);
    case JINJA_FUNCTION:
        call->self = callee.bound->self;
        call->name = callee.bound->function->name;
        jinja_spend(c, jinja_work(callee.bound->self));
        return callee.bound->function->call(c, call);
    case JINJA_LOOP: { /* loop(children) inside `for ... recursive` */
        if (!callee.loop->node) jinja_fail(c, "the loop is not recursive, so it cannot be called");
        jinja_check_arguments(c, call, 1, 1);
        struct jinja_buffer out = {0};
        jinja_enter(c);
        run_loop(c, callee.loop->scope, callee.loop->node, call->args[0], callee.loop->depth0 + 1, &out);
        c->depth--;
        return jinja_buffer_value(c, &out);
    }
    case JINJA_UNDEFINED:
        jinja_fail_undefined(c, callee);
    default:
        jinja_fail(c, "'%s' object is not callable", jinja_type_name(callee.type));
    }
}

/* --- expressions --- */

static struct jinja_value eval_items(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node,
                                     enum jinja_type type) {
    struct jinja_value list = jinja_list_new(c, type);
    for (size_t i = 0; i < node->n; i++) jinja_list_add(c, list, eval(c, scope, node->list[i]));
    return list;
}

static struct jinja_value eval_dict(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node) {
    struct jinja_value dict = jinja_dict_new(c, JINJA_DICT);
    for (size_t i = 0; i + 1 < node->n; i += 2) {
        struct jinja_value key = eval(c, scope, node->list[i]);
        jinja_dict_set(c, dict, key, eval(c, scope, node->list[i + 1]));
    }
    return dict;
}

static struct jinja_value eval_compare(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node) {
    struct jinja_value left = eval(c, scope, node->a);
    for (size_t i = 0; i < node->n; i++) {
        struct jinja_value right = eval(c, scope, node->list[i]->a);
        if (!jinja_compare_op(c, node->list[i]->op, left, right)) return jinja_bool(false);
        left = right;
    }
    return jinja_bool(true);
}

static struct jinja_value eval_sign(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node) {
    struct jinja_value value = eval(c, scope, node->a);
    if (value.type == JINJA_UNDEFINED) jinja_fail_undefined(c, value);
    if (!jinja_is_number(value))
        jinja_fail(c, "bad operand type for unary %c: '%s'", node->kind == NODE_NEGATE ? '-' : '+', jinja_type_name(value.type));
    if (value.type == JINJA_FLOAT) return node->kind == NODE_NEGATE ? jinja_float(-value.number) : value;
    return jinja_binary(c, node->kind == NODE_NEGATE ? OP_SUB : OP_ADD, jinja_int(0), jinja_int(jinja_as_int(value)));
}

static struct jinja_value eval_slice(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node) {
    struct jinja_value parts[3], value = eval(c, scope, node->a);
    for (int i = 0; i < 3; i++) parts[i] = node->extra[i] ? eval(c, scope, node->extra[i]) : jinja_none();
    return jinja_slice(c, value, parts);
}

static struct jinja_value eval_filter(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node,
                                      struct jinja_value value) {
    struct jinja_call call;
    eval_arguments(c, scope, node, &value, &call);
    c->line = node->line;
    return jinja_apply_filter(c, &call);
}

static struct jinja_value eval_node(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node) {
    struct jinja_call call;
    struct jinja_value value;
    switch (node->kind) {
    case NODE_CONST:
        return node->value;
    case NODE_NAME:
        return scope_get(c, scope, node->name);
    case NODE_LIST:
        return eval_items(c, scope, node, JINJA_LIST);
    case NODE_TUPLE:
        return eval_items(c, scope, node, JINJA_TUPLE);
    case NODE_DICT:
        return eval_dict(c, scope, node);
    case NODE_ATTRIBUTE:
        return jinja_attribute(c, eval(c, scope, node->a), node->name->text, node->name->len);
    case NODE_ITEM:
        value = eval(c, scope, node->a);
        return jinja_item(c, value, eval(c, scope, node->b));
    case NODE_SLICE:
        return eval_slice(c, scope, node);
    case NODE_CALL:
        value = eval(c, scope, node->a);
        eval_arguments(c, scope, node, NULL, &call);
        c->line = node->line;
        return jinja_call_value(c, value, &call);
    case NODE_FILTER:
        return eval_filter(c, scope, node, eval(c, scope, node->a));
    case NODE_TEST:
        value = eval(c, scope, node->a);
        eval_arguments(c, scope, node, &value, &call);
        c->line = node->line;
        return jinja_bool(jinja_apply_test(c, &call) != node->flag);
    case NODE_NOT:
        return jinja_bool(!jinja_truth(eval(c, scope, node->a)));
    case NODE_NEGATE:
    case NODE_POSITIVE:
        return eval_sign(c, scope, node);
    case NODE_AND:
        value = eval(c, scope, node->a);
        return jinja_truth(value) ? eval(c, scope, node->b) : value;
    case NODE_OR:
        value = eval(c, scope, node->a);
        return jinja_truth(value) ? value : eval(c, scope, node->b);
    case NODE_BINARY:
        value = eval(c, scope, node->a);
        return jinja_binary(c, node->op, value, eval(c, scope, node->b));
    case NODE_COMPARE:
        return eval_compare(c, scope, node);
    case NODE_TERNARY:
        if (jinja_truth(eval(c, scope, node->a))) return eval(c, scope, node->b);
        return node->c ? eval(c, scope, node->c) : jinja_undefined(c, "the inline if-expression without else", 37);
    default:
        jinja_fail(c, "a statement stands where an expression was expected");
    }
}

static struct jinja_value eval(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node) {
    jinja_spend(c, 1);
    jinja_enter(c);
    c->line = node->line;
    struct jinja_value value = eval_node(c, scope, node);
    c->depth--;
    return value;
}

/* --- statements --- */

/* The items of a loop that pass its filter. */
static struct jinja_value loop_items(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node,
                                     struct jinja_value iterable) {
    struct jinja_value all = jinja_iterate(c, iterable);
    if (!node->extra[0]) return all;
    struct jinja_value kept = jinja_list_new(c, JINJA_LIST);
    for (size_t i = 0; i < all.list->n; i++) {
        struct jinja_scope *inner = scope_new(c, scope);
        assign(c, inner, node->a, all.list->items[i]);
        if (jinja_truth(eval(c, inner, node->extra[0]))) jinja_list_add(c, kept, all.list->items[i]);
    }
    return kept;
}

static void run_loop(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node,
                     struct jinja_value iterable, int depth0, struct jinja_buffer *out) {
    struct jinja_value items = loop_items(c, scope, node, iterable);
    struct jinja_loop *loop = jinja_alloc(c, sizeof *loop);
    *loop = (struct jinja_loop){.items = items.list, .depth0 = depth0, .node = node->flag ? node : NULL, .scope = scope};
    const struct jinja_string *name = jinja_cstring(c, "loop").string;
    for (; loop->index0 < items.list->n; loop->index0++) {
        jinja_spend(c, 1);
        struct jinja_scope *inner = scope_new(c, scope);
        scope_set(c, inner, name, (struct jinja_value){.type = JINJA_LOOP, .loop = loop});
        assign(c, inner, node->a, items.list->items[loop->index0]);
        if (run(c, inner, node->c, out) == FLOW_BREAK) break;
    }
    if (items.list->n == 0 && node->extra[1]) run(c, scope_new(c, scope), node->extra[1], out);
}

static struct jinja_value run_filters(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node,
                                      struct jinja_value value) {
    for (size_t i = 0; i < node->n; i++) value = eval_filter(c, scope, node->list[i], value);
    return value;
}

static struct jinja_value run_captured(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *body) {
    struct jinja_buffer buffer = {0};
    run(c, scope_new(c, scope), body, &buffer);
    return jinja_buffer_value(c, &buffer);
}

const char *jinja_macro_name(const struct jinja_macro *macro) { return macro->name->text; }

static struct jinja_value macro_value(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node,
                                      const struct jinja_string *name) {
    struct jinja_macro *macro = jinja_alloc(c, sizeof *macro);
    *macro = (struct jinja_macro){.node = node, .scope = scope, .name = name};
    return (struct jinja_value){.type = JINJA_MACRO, .macro = macro};
}

static void run_call_block(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node,
                           struct jinja_buffer *out) {
    struct jinja_call call;
    struct jinja_value callee = eval(c, scope, node->a->a);
    eval_arguments(c, scope, node->a, NULL, &call);
    const struct jinja_string *name = jinja_cstring(c, "caller").string;
    call.keywords[call.n_keywords] = name;
    call.keyword_values[call.n_keywords++] = macro_value(c, scope, node, name);
    jinja_buffer_str(c, out, jinja_call_value(c, callee, &call));
}

static void run_with(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node,
                     struct jinja_buffer *out) {
    struct jinja_scope *inner = scope_new(c, scope);
    for (size_t i = 0; i < node->n; i++) assign(c, inner, node->list[i]->a, eval(c, scope, node->list[i]->b));
    run(c, inner, node->b, out);
}

static enum flow run_body(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node,
                          struct jinja_buffer *out) {
    for (size_t i = 0; i < node->n; i++) {
        enum flow flow = run(c, scope, node->list[i], out);
        if (flow != FLOW_ON) return flow;
    }
    return FLOW_ON;
}

static enum flow run_statement(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node,
                               struct jinja_buffer *out) {
    struct jinja_value value;
    switch (node->kind) {
    case NODE_TEXT:
        jinja_buffer_add(c, out, node->value.string->text, node->value.string->len);
        break;
    case NODE_OUTPUT:
        jinja_buffer_str(c, out, eval(c, scope, node->a));
        break;
    case NODE_BODY:
        return run_body(c, scope, node, out);
    case NODE_IF:
        if (jinja_truth(eval(c, scope, node->a))) return run(c, scope, node->b, out);
        return node->c ? run(c, scope, node->c, out) : FLOW_ON;
    case NODE_FOR:
        run_loop(c, scope, node, eval(c, scope, node->b), 0, out);
        break;
    case NODE_SET:
        assign(c, scope, node->a, eval(c, scope, node->b));
        break;
    case NODE_SET_BLOCK:
        value = run_captured(c, scope, node->b);
        assign(c, scope, node->a, run_filters(c, scope, node, value));
        break;
    case NODE_MACRO:
        scope_set(c, scope, node->name, macro_value(c, scope, node, node->name));
        break;
    case NODE_CALL_BLOCK:
        run_call_block(c, scope, node, out);
        break;
    case NODE_FILTER_BLOCK:
        value = run_captured(c, scope, node->b);
        jinja_buffer_str(c, out, run_filters(c, scope, node, value));
        break;
    case NODE_WITH:
        run_with(c, scope, node, out);
        break;
    case NODE_BREAK:
        return FLOW_BREAK;
    case NODE_CONTINUE:
        return FLOW_CONTINUE;
    default:
        jinja_fail(c, "an expression stands where a statement was expected");
    }
    return FLOW_ON;
}

static enum flow run(struct jinja_context *c, struct jinja_scope *scope, const struct jinja_node *node,
                     struct jinja_buffer *out) {
    jinja_spend(c, 1);
    jinja_enter(c);
    c->line = node->line;
    enum flow flow = run_statement(c, scope, node, out);
    c->depth--;
    return flow;
}

/* --- public --- */

static void context_start(struct jinja_context *c, const struct jinja_limits *limits) {
    *c = (struct jinja_context){.max_bytes = 64u << 20, .max_steps = 20 * 1000 * 1000, .line = 1};
    if (limits && limits->max_bytes) c->max_bytes = limits->max_bytes;
    if (limits && limits->max_steps) c->max_steps = limits->max_steps;
    c->now_s = limits && limits->now_s ? limits->now_s : (int64_t)time(NULL);
}

struct jinja_context *jinja_context_new(const struct jinja_limits *limits) {
    struct jinja_context *c = malloc(sizeof *c);
    if (c) context_start(c, limits);
    return c;
}

void jinja_context_free(struct jinja_context *c) {
    if (!c) return;
    jinja_free_all(c);
    free(c);
}

struct jinja_template *jinja_compile(const char *text, size_t len, char *error, size_t error_size) {
    struct jinja_template *volatile t = malloc(sizeof *t); /* read after longjmp */
    if (!t) {
        snprintf(error, error_size, "out of memory");
        return NULL;
    }
    context_start(&t->context, NULL);
    t->context.error = error;
    t->context.error_size = error_size;
    if (setjmp(t->context.fail)) {
        jinja_template_free(t);
        return NULL;
    }
    t->body = jinja_parse(&t->context, text, len);
    return t;
}

void jinja_template_free(struct jinja_template *t) {
    if (!t) return;
    jinja_free_all(&t->context);
    free(t);
}

int jinja_render(const struct jinja_template *t, struct jinja_context *c,
                 void (*build)(struct jinja_context *c, struct jinja_value variables, void *arg), void *arg,
                 struct jinja_buffer *out, char *error, size_t error_size) {
    c->error = error;
    c->error_size = error_size;
    if (setjmp(c->fail)) return -1;
    *out = (struct jinja_buffer){0};
    struct jinja_scope *scope = scope_new(c, NULL);
    build(c, scope->names, arg);
    jinja_buffer_add(c, out, "", 0);
    run(c, scope, t->body, out);
    return 0;
}
