/* jinja_parse.c - see jinja_parse.h. Recursive descent with Jinja's own levels of binding, from `x if y else z` down to postfix.
 * Depth is limited, so a hostile template ends in a sentence and not in a stack overflow. */
#include "engine/jinja_parse.h"

#include <string.h>

#include "engine/jinja_lex.h"

enum { MAX_NESTING = 150 };

struct parser {
    struct jinja_context *c;
    struct jinja_lexer lexer;
    struct jinja_token token; /* the one to be read next */
    int n_loops;              /* loops around this place: break and continue need one */
};

static struct jinja_node *parse_expression(struct parser *p);
static struct jinja_node *parse_body(struct parser *p, const char *const *ends);

/* --- tokens --- */

static void advance(struct parser *p) { p->token = jinja_lex_next(&p->lexer); }

static bool token_is(const struct jinja_token *token, enum jinja_token_kind kind, const char *text) {
    return token->kind == kind && token->len == strlen(text) && memcmp(token->text, text, token->len) == 0;
}
static bool at_name(const struct parser *p, const char *name) { return token_is(&p->token, TOKEN_NAME, name); }
static bool at_operator(const struct parser *p, const char *op) { return token_is(&p->token, TOKEN_OPERATOR, op); }

static bool take_name(struct parser *p, const char *name) {
    if (!at_name(p, name)) return false;
    advance(p);
    return true;
}
static bool take_operator(struct parser *p, const char *op) {
    if (!at_operator(p, op)) return false;
    advance(p);
    return true;
}

static _Noreturn void unexpected(struct parser *p, const char *wanted) {
    p->c->line = p->token.line;
    switch (p->token.kind) {
    case TOKEN_END:
        jinja_fail(p->c, "the template ends here, but %s was expected", wanted);
    case TOKEN_TEXT:
    case TOKEN_OUTPUT_BEGIN:
    case TOKEN_BLOCK_BEGIN:
        jinja_fail(p->c, "text stands where %s was expected", wanted);
    case TOKEN_OUTPUT_END:
    case TOKEN_BLOCK_END:
        jinja_fail(p->c, "the tag ends where %s was expected", wanted);
    default:
        jinja_fail(p->c, "'%.*s' stands where %s was expected", (int)(p->token.len < 40 ? p->token.len : 40), p->token.text,
                   wanted);
    }
}

static void expect_operator(struct parser *p, const char *op) {
    char wanted[8] = {'\'', op[0], '\''};
    if (!take_operator(p, op)) unexpected(p, wanted);
}

static void expect_block_end(struct parser *p) {
    if (p->token.kind != TOKEN_BLOCK_END) unexpected(p, "'%}'");
    advance(p);
}

static const struct jinja_string *expect_identifier(struct parser *p) {
    if (p->token.kind != TOKEN_NAME) unexpected(p, "a name");
    const struct jinja_string *name = jinja_string(p->c, p->token.text, p->token.len).string;
    advance(p);
    return name;
}

/* --- nodes --- */

static struct jinja_node *node_new(struct parser *p, enum jinja_node_kind kind) {
    struct jinja_node *node = jinja_alloc(p->c, sizeof *node);
    node->kind = kind;
    node->line = p->token.line;
    return node;
}

static void node_add(struct parser *p, struct jinja_node *node, struct jinja_node *child) {
    if (node->n == node->capacity) {
        node->capacity = node->capacity ? node->capacity * 2 : 4;
        struct jinja_node **list = jinja_alloc(p->c, node->capacity * sizeof *list);
        if (node->n) memcpy(list, node->list, node->n * sizeof *list);
        node->list = list;
    }
    node->list[node->n++] = child;
}

static struct jinja_node *node_const(struct parser *p, struct jinja_value value) {
    struct jinja_node *node = node_new(p, NODE_CONST);
    node->value = value;
    return node;
}

static struct jinja_node *node_binary(struct parser *p, enum jinja_node_kind kind, enum jinja_op op, struct jinja_node *a,
                                      struct jinja_node *b) {
    struct jinja_node *node = node_new(p, kind);
    node->op = op;
    node->a = a;
    node->b = b;
    return node;
}

static void enter(struct parser *p) {
    if (++p->c->depth > MAX_NESTING) jinja_fail(p->c, "the template is nested too deeply");
}
static void leave(struct parser *p) { p->c->depth--; }

/* --- expressions, from the inside out --- */

static void parse_arguments(struct parser *p, struct jinja_node *node) {
    expect_operator(p, "(");
    while (!at_operator(p, ")")) {
        struct jinja_node *argument = parse_expression(p);
        if (at_operator(p, "=") && argument->kind == NODE_NAME) {
            advance(p);
            struct jinja_node *keyword = node_new(p, NODE_KEYWORD);
            keyword->name = argument->name;
            keyword->a = parse_expression(p);
            argument = keyword;
        }
        node_add(p, node, argument);
        if (!take_operator(p, ",")) break;
    }
    expect_operator(p, ")");
}

static struct jinja_node *parse_slice_part(struct parser *p) {
    return at_operator(p, ":") || at_operator(p, "]") ? NULL : parse_expression(p);
}

static struct jinja_node *parse_subscript(struct parser *p, struct jinja_node *value) {
    struct jinja_node *start = parse_slice_part(p);
    struct jinja_node *node;
    if (at_operator(p, ":")) {
        node = node_new(p, NODE_SLICE);
        node->extra[0] = start;
        for (int i = 1; i < 3 && take_operator(p, ":"); i++) node->extra[i] = parse_slice_part(p);
    } else {
        node = node_new(p, NODE_ITEM);
        if (!start) unexpected(p, "a subscript");
        node->b = start;
    }
    node->a = value;
    expect_operator(p, "]");
    return node;
}

static struct jinja_node *parse_postfix(struct parser *p, struct jinja_node *value) {
    for (;;) {
        struct jinja_node *node;
        if (take_operator(p, ".")) {
            if (p->token.kind == TOKEN_NUMBER && p->token.value.type == JINJA_INT) {
                node = node_new(p, NODE_ITEM);
                node->b = node_const(p, p->token.value);
                advance(p);
            } else {
                node = node_new(p, NODE_ATTRIBUTE);
                node->name = expect_identifier(p);
            }
            node->a = value;
        } else if (take_operator(p, "[")) {
            node = parse_subscript(p, value);
        } else if (at_operator(p, "(")) {
            node = node_new(p, NODE_CALL);
            node->a = value;
            parse_arguments(p, node);
        } else {
            return value;
        }
        value = node;
    }
}

/* ( ... ): a grouped expression, or a tuple when there is a comma. */
static struct jinja_node *parse_group(struct parser *p) {
    struct jinja_node *tuple = node_new(p, NODE_TUPLE);
    if (take_operator(p, ")")) return tuple;
    struct jinja_node *first = parse_expression(p);
    if (!at_operator(p, ",")) {
        expect_operator(p, ")");
        return first;
    }
    node_add(p, tuple, first);
    while (take_operator(p, ",") && !at_operator(p, ")")) node_add(p, tuple, parse_expression(p));
    expect_operator(p, ")");
    return tuple;
}

static struct jinja_node *parse_list(struct parser *p) {
    struct jinja_node *list = node_new(p, NODE_LIST);
    while (!at_operator(p, "]")) {
        node_add(p, list, parse_expression(p));
        if (!take_operator(p, ",")) break;
    }
    expect_operator(p, "]");
    return list;
}

static struct jinja_node *parse_dict(struct parser *p) {
    struct jinja_node *dict = node_new(p, NODE_DICT);
    while (!at_operator(p, "}")) {
        node_add(p, dict, parse_expression(p));
        expect_operator(p, ":");
        node_add(p, dict, parse_expression(p));
        if (!take_operator(p, ",")) break;
    }
    expect_operator(p, "}");
    return dict;
}

static struct jinja_node *parse_string(struct parser *p) {
    struct jinja_buffer buffer = {0};
    struct jinja_node *node = node_new(p, NODE_CONST);
    for (; p->token.kind == TOKEN_STRING; advance(p)) {
        jinja_buffer_add(p->c, &buffer, p->token.value.string->text, p->token.value.string->len);
    }
    node->value = jinja_buffer_value(p->c, &buffer);
    return node;
}

static struct jinja_node *parse_name(struct parser *p) {
    static const char *const words[] = {"true", "True", "false", "False", "none", "None"};
    struct jinja_node *node = node_new(p, NODE_NAME);
    for (int i = 0; i < 6; i++) {
        if (!take_name(p, words[i])) continue;
        node->kind = NODE_CONST;
        node->value = i < 4 ? jinja_bool(i < 2) : jinja_none();
        return node;
    }
    node->name = expect_identifier(p);
    return node;
}

static struct jinja_node *parse_primary(struct parser *p) {
    struct jinja_node *node;
    switch (p->token.kind) {
    case TOKEN_NAME:
        return parse_name(p);
    case TOKEN_STRING:
        return parse_string(p);
    case TOKEN_NUMBER:
        node = node_const(p, p->token.value);
        advance(p);
        return node;
    default:
        if (take_operator(p, "(")) return parse_group(p);
        if (take_operator(p, "[")) return parse_list(p);
        if (take_operator(p, "{")) return parse_dict(p);
        unexpected(p, "an expression");
    }
}

static struct jinja_node *parse_filter(struct parser *p, struct jinja_node *value) {
    struct jinja_node *node = node_new(p, NODE_FILTER);
    node->a = value;
    node->name = expect_identifier(p);
    if (at_operator(p, "(")) parse_arguments(p, node);
    return node;
}

/* Whether the token can begin the one argument that a test may take without parentheses: `x is divisibleby 3`. */
static bool at_test_argument(const struct parser *p) {
    static const char *const not_arguments[] = {"else", "or", "and", "is", "if", "in", "not"};
    for (size_t i = 0; i < sizeof not_arguments / sizeof *not_arguments; i++) {
        if (at_name(p, not_arguments[i])) return false;
    }
    return p->token.kind == TOKEN_NAME || p->token.kind == TOKEN_STRING || p->token.kind == TOKEN_NUMBER || at_operator(p, "[") ||
           at_operator(p, "{");
}

static struct jinja_node *parse_test(struct parser *p, struct jinja_node *value) {
    struct jinja_node *node = node_new(p, NODE_TEST);
    node->flag = take_name(p, "not");
    node->a = value;
    node->name = expect_identifier(p);
    if (at_operator(p, "("))
        parse_arguments(p, node);
    else if (at_test_argument(p))
        node_add(p, node, parse_postfix(p, parse_primary(p)));
    return node;
}

static struct jinja_node *parse_filters(struct parser *p, struct jinja_node *node) {
    for (;;) {
        if (take_operator(p, "|"))
            node = parse_filter(p, node);
        else if (take_name(p, "is"))
            node = parse_test(p, node);
        else if (at_operator(p, "("))
            node = parse_postfix(p, node);
        else
            return node;
    }
}

static struct jinja_node *parse_unary(struct parser *p, bool with_filters) {
    enter(p);
    struct jinja_node *node;
    if (at_operator(p, "-") || at_operator(p, "+")) {
        node = node_new(p, at_operator(p, "-") ? NODE_NEGATE : NODE_POSITIVE);
        advance(p);
        node->a = parse_unary(p, false);
    } else {
        node = parse_primary(p);
    }
    node = parse_postfix(p, node);
    if (with_filters) node = parse_filters(p, node);
    leave(p);
    return node;
}

static struct jinja_node *parse_power(struct parser *p) {
    struct jinja_node *node = parse_unary(p, true);
    while (take_operator(p, "**")) node = node_binary(p, NODE_BINARY, OP_POW, node, parse_unary(p, true));
    return node;
}

struct binary_level {
    const char *text;
    enum jinja_op op;
};

static bool take_binary(struct parser *p, const struct binary_level *level, size_t n, enum jinja_op *op) {
    for (size_t i = 0; i < n; i++) {
        if (!take_operator(p, level[i].text)) continue;
        *op = level[i].op;
        return true;
    }
    return false;
}

static struct jinja_node *parse_product(struct parser *p) {
    static const struct binary_level level[] = {{"*", OP_MUL}, {"//", OP_FLOOR_DIV}, {"/", OP_DIV}, {"%", OP_MOD}};
    struct jinja_node *node = parse_power(p);
    enum jinja_op op;
    while (take_binary(p, level, 4, &op)) node = node_binary(p, NODE_BINARY, op, node, parse_power(p));
    return node;
}

static struct jinja_node *parse_concat(struct parser *p) {
    struct jinja_node *node = parse_product(p);
    while (take_operator(p, "~")) node = node_binary(p, NODE_BINARY, OP_CONCAT, node, parse_product(p));
    return node;
}

static struct jinja_node *parse_sum(struct parser *p) {
    static const struct binary_level level[] = {{"+", OP_ADD}, {"-", OP_SUB}};
    struct jinja_node *node = parse_concat(p);
    enum jinja_op op;
    while (take_binary(p, level, 2, &op)) node = node_binary(p, NODE_BINARY, op, node, parse_concat(p));
    return node;
}

static bool take_comparison(struct parser *p, enum jinja_op *op) {
    static const struct binary_level level[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<=", OP_LE},
                                                {">=", OP_GE}, {"<", OP_LT},  {">", OP_GT}};
    if (take_binary(p, level, 6, op)) return true;
    if (take_name(p, "in")) {
        *op = OP_IN;
        return true;
    }
    if (at_name(p, "not")) { /* at this level it can only be the begin of "not in" */
        advance(p);
        if (!take_name(p, "in")) unexpected(p, "'in'");
        *op = OP_NOT_IN;
        return true;
    }
    return false;
}

static struct jinja_node *parse_compare(struct parser *p) {
    struct jinja_node *node = parse_sum(p);
    struct jinja_node *compare = NULL;
    enum jinja_op op;
    while (take_comparison(p, &op)) {
        if (!compare) {
            compare = node_new(p, NODE_COMPARE);
            compare->a = node;
        }
        struct jinja_node *operand = node_binary(p, NODE_COMPARE, op, parse_sum(p), NULL);
        node_add(p, compare, operand);
    }
    return compare ? compare : node;
}

static struct jinja_node *parse_not(struct parser *p) {
    if (!at_name(p, "not")) return parse_compare(p);
    enter(p);
    struct jinja_node *node = node_new(p, NODE_NOT);
    advance(p);
    node->a = parse_not(p);
    leave(p);
    return node;
}

static struct jinja_node *parse_and(struct parser *p) {
    struct jinja_node *node = parse_not(p);
    while (take_name(p, "and")) node = node_binary(p, NODE_AND, 0, node, parse_not(p));
    return node;
}

static struct jinja_node *parse_or(struct parser *p) {
    struct jinja_node *node = parse_and(p);
    while (take_name(p, "or")) node = node_binary(p, NODE_OR, 0, node, parse_and(p));
    return node;
}

static struct jinja_node *parse_expression(struct parser *p) {
    enter(p);
    struct jinja_node *node = parse_or(p);
    while (take_name(p, "if")) {
        struct jinja_node *ternary = node_new(p, NODE_TERNARY);
        ternary->b = node;
        ternary->a = parse_or(p);
        ternary->c = take_name(p, "else") ? parse_expression(p) : NULL;
        node = ternary;
    }
    leave(p);
    return node;
}

/* An expression, or a tuple without parentheses: {{ a, b }}, set x = a, b, for x in a, b. */
static struct jinja_node *parse_tuple(struct parser *p, bool with_condition) {
    struct jinja_node *first = with_condition ? parse_expression(p) : parse_or(p);
    if (!at_operator(p, ",")) return first;
    struct jinja_node *tuple = node_new(p, NODE_TUPLE);
    node_add(p, tuple, first);
    while (take_operator(p, ",")) {
        if (p->token.kind == TOKEN_BLOCK_END || p->token.kind == TOKEN_OUTPUT_END || at_operator(p, "=")) break;
        node_add(p, tuple, with_condition ? parse_expression(p) : parse_or(p));
    }
    return tuple;
}

/* --- statements --- */

/* a | a, b | (a, b) | ns.attribute */
static struct jinja_node *parse_target(struct parser *p) {
    struct jinja_node *tuple = NULL, *node;
    bool group = take_operator(p, "(");
    do {
        if (tuple && p->token.kind != TOKEN_NAME) break;
        node = node_new(p, NODE_NAME);
        node->name = expect_identifier(p);
        if (at_operator(p, ".")) {
            advance(p);
            struct jinja_node *attribute = node_new(p, NODE_ATTRIBUTE);
            attribute->a = node;
            attribute->name = expect_identifier(p);
            node = attribute;
        }
        if (at_operator(p, ",") && !tuple) tuple = node_new(p, NODE_TUPLE);
        if (tuple) node_add(p, tuple, node);
    } while (take_operator(p, ","));
    if (group) expect_operator(p, ")");
    return tuple ? tuple : node;
}

static struct jinja_node *parse_if(struct parser *p) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const last[] = {"endif", NULL};
    struct jinja_node *node = node_new(p, NODE_IF);
    node->a = parse_tuple(p, false);
    while (at_name(p, "if")) unexpected(p, "'%}'");
    expect_block_end(p);
    node->b = parse_body(p, ends);
    if (take_name(p, "elif")) {
        enter(p);
        node->c = parse_if(p);
        leave(p);
        return node;
    }
    if (take_name(p, "else")) {
        expect_block_end(p);
        node->c = parse_body(p, last);
    }
    advance(p);
    expect_block_end(p);
    return node;
}

static struct jinja_node *parse_for(struct parser *p) {
    static const char *const ends[] = {"else", "endfor", NULL};
    static const char *const last[] = {"endfor", NULL};
    struct jinja_node *node = node_new(p, NODE_FOR);
    node->a = parse_target(p);
    if (!take_name(p, "in")) unexpected(p, "'in'");
    node->b = parse_tuple(p, false);
    if (take_name(p, "if")) node->extra[0] = parse_expression(p);
    node->flag = take_name(p, "recursive");
    expect_block_end(p);
    p->n_loops++;
    node->c = parse_body(p, ends);
    p->n_loops--;
    if (take_name(p, "else")) {
        expect_block_end(p);
        node->extra[1] = parse_body(p, last);
    }
    advance(p);
    expect_block_end(p);
    return node;
}

static struct jinja_node *parse_end(struct parser *p, struct jinja_node *node, const char *end) {
    const char *const ends[] = {end, NULL};
    expect_block_end(p);
    node->b = parse_body(p, ends);
    advance(p);
    expect_block_end(p);
    return node;
}

static struct jinja_node *parse_set(struct parser *p) {
    struct jinja_node *node = node_new(p, NODE_SET);
    node->a = parse_target(p);
    if (take_operator(p, "=")) {
        node->b = parse_tuple(p, true);
        expect_block_end(p);
        return node;
    }
    node->kind = NODE_SET_BLOCK;
    while (take_operator(p, "|")) node_add(p, node, parse_filter(p, NULL));
    return parse_end(p, node, "endset");
}

/* Parameters of a macro: names, then names with defaults. */
static void parse_parameters(struct parser *p, struct jinja_node *node) {
    expect_operator(p, "(");
    while (!at_operator(p, ")")) {
        struct jinja_node *parameter = node_new(p, NODE_NAME);
        parameter->name = expect_identifier(p);
        if (take_operator(p, "="))
            parameter->a = parse_expression(p);
        else if (node->n && node->list[node->n - 1]->a)
            jinja_fail(p->c, "non-default argument follows default argument");
        node_add(p, node, parameter);
        if (!take_operator(p, ",")) break;
    }
    expect_operator(p, ")");
}

static struct jinja_node *parse_macro(struct parser *p) {
    struct jinja_node *node = node_new(p, NODE_MACRO);
    node->name = expect_identifier(p);
    parse_parameters(p, node);
    int n_loops = p->n_loops;
    p->n_loops = 0;
    parse_end(p, node, "endmacro");
    p->n_loops = n_loops;
    return node;
}

static struct jinja_node *parse_call_block(struct parser *p) {
    struct jinja_node *node = node_new(p, NODE_CALL_BLOCK);
    if (at_operator(p, "(")) parse_parameters(p, node);
    node->a = parse_expression(p);
    if (node->a->kind != NODE_CALL) unexpected(p, "a call");
    return parse_end(p, node, "endcall");
}

static struct jinja_node *parse_filter_block(struct parser *p) {
    struct jinja_node *node = node_new(p, NODE_FILTER_BLOCK);
    do node_add(p, node, parse_filter(p, NULL));
    while (take_operator(p, "|"));
    return parse_end(p, node, "endfilter");
}

static struct jinja_node *parse_with(struct parser *p) {
    struct jinja_node *node = node_new(p, NODE_WITH);
    while (p->token.kind != TOKEN_BLOCK_END) {
        struct jinja_node *set = node_new(p, NODE_SET);
        set->a = parse_target(p);
        expect_operator(p, "=");
        set->b = parse_expression(p);
        node_add(p, node, set);
        if (!take_operator(p, ",")) break;
    }
    return parse_end(p, node, "endwith");
}

static struct jinja_node *parse_loop_control(struct parser *p, enum jinja_node_kind kind) {
    struct jinja_node *node = node_new(p, kind);
    if (p->n_loops == 0) jinja_fail(p->c, "'%s' outside of a loop", kind == NODE_BREAK ? "break" : "continue");
    expect_block_end(p);
    return node;
}

/* The statement behind {%. */
static struct jinja_node *parse_statement(struct parser *p) {
    p->c->line = p->token.line;
    if (take_name(p, "if")) return parse_if(p);
    if (take_name(p, "for")) return parse_for(p);
    if (take_name(p, "set")) return parse_set(p);
    if (take_name(p, "macro")) return parse_macro(p);
    if (take_name(p, "call")) return parse_call_block(p);
    if (take_name(p, "filter")) return parse_filter_block(p);
    if (take_name(p, "with")) return parse_with(p);
    if (take_name(p, "break")) return parse_loop_control(p, NODE_BREAK);
    if (take_name(p, "continue")) return parse_loop_control(p, NODE_CONTINUE);
    /* Marks the assistant's own words for training; for a prompt it is a plain scope. */
    if (take_name(p, "generation")) return parse_end(p, node_new(p, NODE_WITH), "endgeneration");
    if (p->token.kind == TOKEN_NAME) jinja_fail(p->c, "the tag '%.*s' is not known here", (int)p->token.len, p->token.text);
    unexpected(p, "the name of a tag");
}

static bool at_end_tag(const struct parser *p, const char *const *ends) {
    for (; ends && *ends; ends++) {
        if (at_name(p, *ends)) return true;
    }
    return false;
}

/* Statements up to one of the end tags, whose name is then the next token; up to the end of the template when ends is NULL. */
static struct jinja_node *parse_body(struct parser *p, const char *const *ends) {
    enter(p);
    struct jinja_node *body = node_new(p, NODE_BODY), *node;
    for (;;) {
        switch (p->token.kind) {
        case TOKEN_END:
            if (ends) {
                char wanted[64] = "{% ";
                for (; ends[1]; ends++) {
                }
                strncat(wanted, *ends, 40);
                strncat(wanted, " %}", 4);
                unexpected(p, wanted);
            }
            leave(p);
            return body;
        case TOKEN_TEXT:
            node = node_new(p, NODE_TEXT);
            node->value = jinja_string(p->c, p->token.text, p->token.len);
            advance(p);
            break;
        case TOKEN_OUTPUT_BEGIN:
            node = node_new(p, NODE_OUTPUT);
            advance(p);
            node->a = parse_tuple(p, true);
            if (p->token.kind != TOKEN_OUTPUT_END) unexpected(p, "'}}'");
            advance(p);
            break;
        default: /* TOKEN_BLOCK_BEGIN: nothing else stands outside of tags */
            advance(p);
            if (at_end_tag(p, ends)) {
                leave(p);
                return body;
            }
            node = parse_statement(p);
        }
        node_add(p, body, node);
    }
}

struct jinja_node *jinja_parse(struct jinja_context *c, const char *text, size_t len) {
    struct parser *p = jinja_alloc(c, sizeof *p);
    p->c = c;
    jinja_lex_init(&p->lexer, c, text, len);
    advance(p);
    return parse_body(p, NULL);
}
