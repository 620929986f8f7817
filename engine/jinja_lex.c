/* jinja_lex.c - see jinja_lex.h. White space follows trim_blocks and lstrip_blocks: a newline right after a block tag goes, and
 * so do blanks between the start of a line and a block tag; a minus in a tag strips all white space on its side, a plus keeps it.
 */
#include "engine/jinja_lex.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

void jinja_lex_init(struct jinja_lexer *lexer, struct jinja_context *c, const char *text, size_t len) {
    /* Jinja drops one newline at the very end (keep_trailing_newline is off) and reads \r\n and \r as \n; templates have neither
     * in practice but for the last. */
    if (len > 0 && text[len - 1] == '\n') len--;
    *lexer = (struct jinja_lexer){.context = c, .text = text, .len = len, .line = 1};
}

static bool is_space(char ch) { return ch == ' ' || (ch >= '\t' && ch <= '\r'); }

static bool starts_with(const struct jinja_lexer *lexer, size_t at, const char *word) {
    size_t n = strlen(word);
    return lexer->len - at >= n && memcmp(lexer->text + at, word, n) == 0;
}

static void count_lines(struct jinja_lexer *lexer, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) lexer->line += lexer->text[i] == '\n';
}

/* First "{{", "{%" or "{#" at or after `at`, or the end of the text. */
static size_t find_tag(const struct jinja_lexer *lexer, size_t at) {
    for (; at + 1 < lexer->len; at++) {
        if (lexer->text[at] == '{' && strchr("{%#", lexer->text[at + 1])) return at;
    }
    return lexer->len;
}

/* End of the text before the tag at `tag`, after what its minus or lstrip_blocks takes away. */
static size_t strip_before(const struct jinja_lexer *lexer, size_t from, size_t tag) {
    if (tag >= lexer->len) return tag;
    char mark = tag + 2 < lexer->len ? lexer->text[tag + 2] : 0;
    size_t end = tag;
    if (mark == '-') {
        while (end > from && is_space(lexer->text[end - 1])) end--;
        return end;
    }
    if (mark == '+' || lexer->text[tag + 1] == '{') return tag;
    while (end > from && is_space(lexer->text[end - 1]) && lexer->text[end - 1] != '\n') end--;
    bool line_start = end > 0 ? lexer->text[end - 1] == '\n' : true;
    return line_start ? end : tag;
}

/* White space after a tag, as the tag's end asked. */
static void skip_after_tag(struct jinja_lexer *lexer) {
    size_t from = lexer->at;
    if (lexer->trim_next) {
        while (lexer->at < lexer->len && is_space(lexer->text[lexer->at])) lexer->at++;
    } else if (lexer->newline_next && lexer->at < lexer->len && lexer->text[lexer->at] == '\n') {
        lexer->at++;
    }
    lexer->trim_next = lexer->newline_next = false;
    count_lines(lexer, from, lexer->at);
}

/* A comment, whole; the lexer stands behind it with its trim marks set. */
static void skip_comment(struct jinja_lexer *lexer) {
    size_t at = lexer->at + 2;
    while (at < lexer->len && !starts_with(lexer, at, "#}")) at++;
    if (at >= lexer->len) jinja_fail(lexer->context, "this comment has no end: '#}' is missing");
    lexer->trim_next = lexer->text[at - 1] == '-';
    lexer->newline_next = lexer->text[at - 1] != '+';
    count_lines(lexer, lexer->at, at + 2);
    lexer->at = at + 2;
}

/* {% raw %} ... {% endraw %}: its text as it stands. Returns false when the block at lexer->at is another one. */
static bool take_raw(struct jinja_lexer *lexer, struct jinja_token *token) {
    size_t at = lexer->at + 2;
    if (at < lexer->len && strchr("-+", lexer->text[at])) at++;
    while (at < lexer->len && is_space(lexer->text[at])) at++;
    if (!starts_with(lexer, at, "raw")) return false;
    at += 3;
    while (at < lexer->len && is_space(lexer->text[at])) at++;
    bool trim = at < lexer->len && lexer->text[at] == '-';
    if (trim) at++;
    if (!starts_with(lexer, at, "%}")) return false;
    size_t from = at + 2;
    if (!trim && from < lexer->len && lexer->text[from] == '\n') from++;
    while (trim && from < lexer->len && is_space(lexer->text[from])) from++;
    for (size_t tag = find_tag(lexer, from); tag < lexer->len; tag = find_tag(lexer, tag + 1)) {
        at = tag + 2;
        if (lexer->text[tag + 1] != '%') continue;
        if (at < lexer->len && strchr("-+", lexer->text[at])) at++;
        while (at < lexer->len && is_space(lexer->text[at])) at++;
        if (!starts_with(lexer, at, "endraw")) continue;
        at += 6;
        while (at < lexer->len && is_space(lexer->text[at])) at++;
        bool trim_end = at < lexer->len && lexer->text[at] == '-';
        if (trim_end) at++;
        if (!starts_with(lexer, at, "%}")) continue;
        *token = (struct jinja_token){.kind = TOKEN_TEXT, .line = lexer->line, .text = lexer->text + from};
        token->len = strip_before(lexer, from, tag) - from;
        count_lines(lexer, lexer->at, at + 2);
        lexer->at = at + 2;
        lexer->trim_next = trim_end;
        lexer->newline_next = true;
        return true;
    }
    jinja_fail(lexer->context, "'raw' has no 'endraw'");
}

/* The next thing outside of tags: text, or the begin of a tag. */
static struct jinja_token next_outside(struct jinja_lexer *lexer) {
    for (;;) {
        skip_after_tag(lexer);
        size_t from = lexer->at, tag = find_tag(lexer, from);
        struct jinja_token token = {.kind = TOKEN_TEXT, .line = lexer->line, .text = lexer->text + from};
        token.len = strip_before(lexer, from, tag) - from;
        count_lines(lexer, from, tag);
        lexer->at = tag;
        if (token.len > 0) return token;
        if (tag >= lexer->len) return (struct jinja_token){.kind = TOKEN_END, .line = lexer->line};
        lexer->context->line = lexer->line;
        if (lexer->text[tag + 1] == '#') {
            skip_comment(lexer);
            continue;
        }
        lexer->in_block = lexer->text[tag + 1] == '%';
        if (lexer->in_block && take_raw(lexer, &token)) return token;
        lexer->at += 2;
        if (lexer->at < lexer->len && strchr("-+", lexer->text[lexer->at])) lexer->at++;
        lexer->inside = true;
        lexer->nesting = 0;
        return (struct jinja_token){.kind = lexer->in_block ? TOKEN_BLOCK_BEGIN : TOKEN_OUTPUT_BEGIN, .line = lexer->line};
    }
}

static size_t encode_utf8(uint32_t code, char *out) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | code);
    return n;
}

/* One escape behind a backslash at text[*at]; *at moves behind it. */
static size_t take_escape(const struct jinja_lexer *lexer, size_t *at, char *out) {
    static const char from[] = "abfnrtv0\\'\"", to[] = "\a\b\f\n\r\t\v\0\\'\"";
    char ch = lexer->text[*at];
    size_t digits = ch == 'x' ? 2 : ch == 'u' ? 4 : ch == 'U' ? 8 : 0;
    if (digits && *at + digits < lexer->len) {
        char hex[9] = {0}, *end;
        memcpy(hex, lexer->text + *at + 1, digits);
        unsigned long code = strtoul(hex, &end, 16);
        if (end == hex + digits && code < 0x110000) {
            *at += 1 + digits;
            return encode_utf8((uint32_t)code, out);
        }
    }
    (*at)++;
    const char *known = ch ? strchr(from, ch) : NULL;
    if (ch == '\n') return 0;
    if (!known) {
        out[0] = '\\';
        out[1] = ch;
        return 2;
    }
    out[0] = to[known - from];
    return 1;
}

static struct jinja_token take_string(struct jinja_lexer *lexer) {
    struct jinja_context *c = lexer->context;
    char quote = lexer->text[lexer->at];
    struct jinja_token token = {.kind = TOKEN_STRING, .line = lexer->line, .text = lexer->text + lexer->at};
    struct jinja_buffer buffer = {0};
    size_t at = lexer->at + 1;
    while (at < lexer->len && lexer->text[at] != quote) {
        char out[8];
        if (lexer->text[at] == '\\' && at + 1 < lexer->len) {
            at++;
            size_t n = take_escape(lexer, &at, out);
            jinja_buffer_add(c, &buffer, out, n);
        } else {
            lexer->line += lexer->text[at] == '\n';
            jinja_buffer_add(c, &buffer, lexer->text + at++, 1);
        }
    }
    if (at >= lexer->len) jinja_fail(c, "a string has no end: %c is missing", quote);
    lexer->at = at + 1;
    token.value = jinja_buffer_value(c, &buffer);
    return token;
}

static struct jinja_token take_number(struct jinja_lexer *lexer) {
    struct jinja_token token = {.kind = TOKEN_NUMBER, .line = lexer->line, .text = lexer->text + lexer->at};
    char digits[64];
    size_t n = 0, at = lexer->at;
    bool real = false;
    for (; at < lexer->len && n < sizeof digits - 1; at++) {
        char ch = lexer->text[at];
        bool exponent =
            (ch == 'e' || ch == 'E') && at + 1 < lexer->len &&
            (isdigit((unsigned char)lexer->text[at + 1]) ||
             (strchr("+-", lexer->text[at + 1]) && at + 2 < lexer->len && isdigit((unsigned char)lexer->text[at + 2])));
        bool point = ch == '.' && !real && at + 1 < lexer->len && isdigit((unsigned char)lexer->text[at + 1]);
        bool sign = (ch == '+' || ch == '-') && n > 0 && (digits[n - 1] == 'e' || digits[n - 1] == 'E');
        if (ch == '_') continue;
        if (!isdigit((unsigned char)ch) && !exponent && !point && !sign) break;
        real = real || exponent || point;
        digits[n++] = ch;
    }
    digits[n] = '\0';
    token.value = real ? jinja_float(strtod(digits, NULL)) : jinja_int(strtoll(digits, NULL, 10));
    token.len = at - lexer->at;
    lexer->at = at;
    return token;
}

/* The end of a tag at lexer->at, with its marks; false when there is none. */
static bool take_tag_end(struct jinja_lexer *lexer, struct jinja_token *token) {
    const char *end = lexer->in_block ? "%}" : "}}";
    size_t mark = strchr("-+", lexer->text[lexer->at]) && lexer->text[lexer->at] ? 1 : 0;
    if (!starts_with(lexer, lexer->at + mark, end)) return false;
    if (!mark && !lexer->in_block && lexer->nesting > 0) return false;
    char ch = lexer->text[lexer->at];
    lexer->trim_next = mark && ch == '-';
    lexer->newline_next = lexer->in_block && !(mark && ch == '+');
    lexer->at += mark + 2;
    lexer->inside = false;
    *token = (struct jinja_token){.kind = lexer->in_block ? TOKEN_BLOCK_END : TOKEN_OUTPUT_END, .line = lexer->line};
    return true;
}

static struct jinja_token take_operator(struct jinja_lexer *lexer) {
    static const char *const pairs[] = {"//", "**", "==", "!=", "<=", ">="};
    struct jinja_token token = {.kind = TOKEN_OPERATOR, .line = lexer->line, .text = lexer->text + lexer->at, .len = 1};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        if (starts_with(lexer, lexer->at, pairs[i])) token.len = 2;
    }
    if (token.len == 1 && !strchr("+-*/%~=<>()[]{},.:|", token.text[0])) {
        jinja_fail(lexer->context, "unexpected character '%c'", token.text[0]);
    }
    if (strchr("([{", token.text[0])) lexer->nesting++;
    if (strchr(")]}", token.text[0])) lexer->nesting--;
    lexer->at += token.len;
    return token;
}

struct jinja_token jinja_lex_next(struct jinja_lexer *lexer) {
    if (!lexer->inside) return next_outside(lexer);
    while (lexer->at < lexer->len && is_space(lexer->text[lexer->at])) lexer->line += lexer->text[lexer->at++] == '\n';
    lexer->context->line = lexer->line;
    if (lexer->at >= lexer->len) jinja_fail(lexer->context, "a tag has no end: '%s' is missing", lexer->in_block ? "%}" : "}}");
    struct jinja_token token;
    if (take_tag_end(lexer, &token)) return token;
    unsigned char ch = (unsigned char)lexer->text[lexer->at];
    if (ch == '"' || ch == '\'') return take_string(lexer);
    if (isdigit(ch)) return take_number(lexer);
    if (isalpha(ch) || ch == '_') {
        size_t from = lexer->at;
        while (lexer->at < lexer->len && (isalnum((unsigned char)lexer->text[lexer->at]) || lexer->text[lexer->at] == '_'))
            lexer->at++;
        return (struct jinja_token){.kind = TOKEN_NAME, .line = lexer->line, .text = lexer->text + from, .len = lexer->at - from};
    }
    return take_operator(lexer);
}
