/* chat_jinja.h - a conversation to token ids by the Jinja template that the model carries. Private to chat_template.c.
 *
 * (1) Control tokens in the rendered text become ids, but only those that the template wrote: where a message spells out the
 *     name of one, a private character (a Unicode noncharacter, taken out of messages beforehand) breaks it before rendering and
 *     goes away after. A template that deletes something from the middle of a message could undo that; none is known.
 * (2) BOS comes first if the model wants it, once, whether the template writes it or not.
 * (3) The clock of strftime_now stands still, so that an answer does not depend on the day.
 * (4) Memory and steps of a render are limited (jinja.h). Immutable after chat_jinja_open: any thread. */
#ifndef FORESAY_CHAT_JINJA_H
#define FORESAY_CHAT_JINJA_H

#include "engine/chat_template.h"

struct chat_jinja;

/* NULL without memory, or when the template does not compile or a small conversation does not render: trouble says why. Keeps a
 * pointer to tokenizer; gguf may be closed. */
struct chat_jinja *chat_jinja_open(const struct gguf *gguf, const struct tokenizer *tokenizer, struct gguf_string text,
                                   char *trouble, size_t trouble_size);
/* Accepts NULL. */
void chat_jinja_close(struct chat_jinja *jinja);

/* As chat_template_render; the first n_system messages are never left out. ENGINE_ERR_ARGUMENT also when the template refuses the
 * conversation. error is written unless the answer is ENGINE_ERR_TOO_LONG or ENGINE_ERR_MEMORY. */
int chat_jinja_render(const struct chat_jinja *jinja, const struct chat_prompt *prompt, int n_system, struct token_list *list,
                      int *n_dropped, struct engine_error *error);

#endif
