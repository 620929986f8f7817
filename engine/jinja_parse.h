/* jinja_parse.h - a chat template as a tree.
 *
 * One kind of node for all: what a, b, c, list, name and value mean stands beside each kind. Nodes live in the arena of the
 * template. */
#ifndef FORESAY_JINJA_PARSE_H
#define FORESAY_JINJA_PARSE_H

#include "engine/jinja_value.h"

enum jinja_node_kind {
    /* statements */
    NODE_TEXT,         /* value: literal output */
    NODE_OUTPUT,       /* a: expression */
    NODE_BODY,         /* list: statements */
    NODE_IF,           /* a: condition, b: then, c: else or NULL */
    NODE_FOR,          /* a: target, b: iterable, c: body; extra[0]: filter, extra[1]: else; flag: recursive */
    NODE_SET,          /* a: target, b: expression */
    NODE_SET_BLOCK,    /* a: target, b: body, list: filters */
    NODE_MACRO,        /* name, list: parameters (NODE_NAME, a: default or NULL), b: body */
    NODE_CALL_BLOCK,   /* a: call expression, list: parameters, b: body */
    NODE_FILTER_BLOCK, /* list: filters, b: body */
    NODE_WITH,         /* list: NODE_SETs, b: body */
    NODE_BREAK,
    NODE_CONTINUE,
    /* expressions */
    NODE_CONST,     /* value */
    NODE_NAME,      /* name */
    NODE_LIST,      /* list */
    NODE_TUPLE,     /* list */
    NODE_DICT,      /* list: key, value, key, value ... */
    NODE_ATTRIBUTE, /* a, name */
    NODE_ITEM,      /* a, b: subscript */
    NODE_SLICE,     /* a, extra: start, stop, step, each or NULL */
    NODE_CALL,      /* a, list: arguments (NODE_KEYWORD last) */
    NODE_KEYWORD,   /* name, a */
    NODE_FILTER,    /* a (NULL in a filter chain without its value), name, list: arguments */
    NODE_TEST,      /* a, name, list: arguments; flag: negated */
    NODE_NOT,       /* a */
    NODE_NEGATE,    /* a */
    NODE_POSITIVE,  /* a */
    NODE_AND,       /* a, b */
    NODE_OR,
    NODE_BINARY,  /* a, b, op */
    NODE_COMPARE, /* a, list: operands (op each) */
    NODE_TERNARY, /* a: condition, b: then, c: else or NULL */
};

enum jinja_op {
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOOR_DIV,
    OP_MOD,
    OP_POW,
    OP_CONCAT,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOT_IN,
};

struct jinja_node {
    enum jinja_node_kind kind;
    enum jinja_op op;
    int line;
    bool flag;
    struct jinja_node *a, *b, *c, *extra[3];
    struct jinja_node **list;
    size_t n, capacity;
    const struct jinja_string *name;
    struct jinja_value value;
};

/* Parses text with trim_blocks and lstrip_blocks on, as transformers does. Errors end by jinja_fail(c). The tree is a NODE_BODY.
 */
struct jinja_node *jinja_parse(struct jinja_context *c, const char *text, size_t len);

#endif
