/* chat_template.h - a conversation to token ids in the model's own chat format.
 *
 * A family of formats (ChatML, Llama 3) is one row of a table in chat_template.c; the row is chosen by what the template in the
 * model file says and by the special tokens that the vocabulary has, and only if it gives the tokens of the template itself for a
 * few conversations. All other templates are run as they are (chat_jinja.h). Special tokens are appended as ids, all else goes
 * through tokenizer_encode, so no message can forge the end of a turn. The ids equal those of transformers' apply_chat_template
 * (but BOS also comes first where the file asks for it before every text and the template forgets it).
 *
 * In a family's format special tokens stand between the messages, so the tokens of a conversation are those of its parts one
 * after the other: leaving out a turn leaves the tokens of the others as they are, and a longer conversation begins with the
 * tokens of the shorter one. Immutable after chat_template_open: any thread. */
#ifndef FORESAY_CHAT_TEMPLATE_H
#define FORESAY_CHAT_TEMPLATE_H

#include <stdbool.h>

#include "engine/engine.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"

struct chat_template;

/* Keeps a pointer to tokenizer, which must outlive it; gguf may be closed. Succeeds also when the format is unknown, see
 * chat_template_trouble; fails for want of memory only. */
int chat_template_open(struct chat_template **out, const struct gguf *gguf, const struct tokenizer *tokenizer,
                       struct engine_error *error);
/* Accepts NULL. */
void chat_template_close(struct chat_template *template);

/* NULL when this model can chat, else a sentence that says why not. */
const char *chat_template_trouble(const struct chat_template *template);
/* "ChatML", "Llama 3", "the model's own template", or "unknown". */
const char *chat_template_name(const struct chat_template *template);

struct chat_prompt {
    const struct engine_message *messages;
    int n_messages;
    bool continue_last; /* the last message is the assistant's and its turn stays open; else an assistant turn is opened */
    bool drop_oldest;   /* leave out the oldest turns until the rest fits; leading system messages and the last turn stay */
};

/* Appends the prompt to list; its limit is how many tokens may come. *n_dropped (may be NULL) is the number of messages left out.
 * ENGINE_ERR_TOO_LONG: it does not fit (with drop_oldest: not even the last turn); ENGINE_ERR_ARGUMENT: no messages, or
 * continue_last after a message that is not the assistant's, or the model cannot chat or its template refuses the conversation.
 * error has the sentence; list is as before. */
int chat_template_render(const struct chat_template *template, const struct chat_prompt *prompt, struct token_list *list,
                         int *n_dropped, struct engine_error *error);

#endif
