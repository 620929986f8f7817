/* jinja_lex.h - the words of a template. Text outside of {{ }}, {% %} and {# #} is one token; inside, Jinja's own lexical rules
 * hold. */
#ifndef FORESAY_JINJA_LEX_H
#define FORESAY_JINJA_LEX_H

#include "engine/jinja_value.h"

enum jinja_token_kind {
    TOKEN_END,
    TOKEN_TEXT,         /* literal output, white space already trimmed */
    TOKEN_OUTPUT_BEGIN, /* {{ */
    TOKEN_OUTPUT_END,
    TOKEN_BLOCK_BEGIN, /* {% */
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING,   /* value, escapes resolved */
    TOKEN_NUMBER,   /* value */
    TOKEN_OPERATOR, /* text: one of + - * / // ** % ~ = == != < <= > >= ( ) [ ] { } , . : | */
};

struct jinja_token {
    enum jinja_token_kind kind;
    int line;
    const char *text;
    size_t len;
    struct jinja_value value;
};

struct jinja_lexer {
    struct jinja_context *context;
    const char *text;
    size_t len, at;
    int line;
    bool inside;       /* between {{ or {% and its end */
    bool trim_next;    /* the tag that just ended had a minus: strip what follows */
    bool newline_next; /* trim_blocks: drop one newline after a block */
    bool in_block;     /* the tag we are inside of is a block, not an output */
    int nesting;       /* open ( [ {, so that }} inside a dict is not an end */
};

void jinja_lex_init(struct jinja_lexer *lexer, struct jinja_context *c, const char *text, size_t len);
struct jinja_token jinja_lex_next(struct jinja_lexer *lexer);

#endif
