/* logprobs.h - the log-probabilities of an answer's tokens, kept beside its text, and as JSON in OpenAI's two shapes.
 *
 *  (1) They are the model's own: before temperature, penalties, bias and cuts (engine.h).
 *  (2) Tokens stand in the order of the text. The bytes of all of them begin with the text's; they are more where the end cut
 *      off a character or a token. Tokens that a stop string swallowed are not among them.
 *  (3) A token that is not whole characters is written "bytes:\xe2\x9c" where JSON wants text; `bytes` has the bytes themselves,
 *      null for control tokens, which add nothing to the text.
 * The list is as long as the answer has tokens, so its bound is the context. Service thread only. */
#ifndef FORESAY_LOGPROBS_H
#define FORESAY_LOGPROBS_H

#include "engine/engine.h"
#include "gateway/outbox.h"

struct logprob_token;
/* Zero-initialised is empty. */
struct logprob_list {
    struct logprob_token *tokens;
    int n, capacity;
    size_t n_bytes;          /* of the tokens' text */
    size_t counted, n_chars; /* characters in the first `counted` bytes of the answer's text */
};
void logprobs_free(struct logprob_list *list);

/* The event's text has been added to text. False: out of memory. */
bool logprobs_add(struct logprob_list *list, const struct engine *engine, const struct engine_event *event, const char *text,
                  size_t text_len);
/* The end of the tokens from `first` on whose text begins in the first text_len bytes of the answer. */
int logprobs_upto(const struct logprob_list *list, int first, size_t text_len);

/* Tokens first .. end - 1 as a value: {"content":[...],"refusal":null} */
void put_chat_logprobs(struct buffer *out, const struct engine *engine, const struct logprob_list *list, int first, int end);
/* {"tokens":[...],"token_logprobs":[...],"top_logprobs":[{...}],"text_offset":[...]}; offsets count characters */
void put_completion_logprobs(struct buffer *out, const struct engine *engine, const struct logprob_list *list, int first,
                             int end);
/* [226,156], or null for a token that has no text. */
void put_token_bytes(struct buffer *out, const struct engine_token_text *text);

#endif
