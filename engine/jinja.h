/* jinja.h - renders the chat template that a model carries, byte for byte as Python's jinja2 does in the set-up of
 * `transformers`: sandboxed and immutable, trim_blocks and lstrip_blocks on, loop controls, `generation` blocks, raise_exception,
 * strftime_now, and a tojson that escapes nothing for HTML.
 *
 *     struct jinja_template *t = jinja_compile(text, len, error, sizeof error);
 *     struct jinja_context *c = jinja_context_new(&limits);      values of one render live in here
 *     struct jinja_value variables = jinja_dict_new(c, JINJA_DICT); ... jinja_dict_set ...
 *     int rc = jinja_render(t, c, variables, &text, error, sizeof error);
 *     jinja_context_free(c);
 *
 * A template is foreign code: memory, steps and depth of a render are limited, and every trouble is a sentence with its line. A
 * compiled template is constant and may be rendered by several threads at once. */
#ifndef FORESAY_JINJA_H
#define FORESAY_JINJA_H

#include "engine/jinja_value.h"

struct jinja_template;

/* NULL on an error: "line 3: 'endif' ..." */
struct jinja_template *jinja_compile(const char *text, size_t len, char *error, size_t error_size);
void jinja_template_free(struct jinja_template *t); /* accepts NULL */

struct jinja_limits {
    size_t max_bytes;   /* memory of one render; 0 = 64 MiB */
    uint64_t max_steps; /* nodes evaluated; 0 = 20 million, about a second */
    int64_t now_s;      /* what strftime_now sees, seconds since 1970; 0 = the clock */
};
struct jinja_context *jinja_context_new(const struct jinja_limits *limits); /* NULL: out of memory */
void jinja_context_free(struct jinja_context *c);                           /* accepts NULL */

/* Values are built between jinja_context_new and jinja_render. Building can run out of the memory limit, so it happens inside
 * `build`, which jinja_render calls first; variables is a dict. out->data lives as long as the context. Returns 0, or -1 with a
 * sentence in error. */
int jinja_render(const struct jinja_template *t, struct jinja_context *c,
                 void (*build)(struct jinja_context *c, struct jinja_value variables, void *arg), void *arg,
                 struct jinja_buffer *out, char *error, size_t error_size);

#endif
