/* tokenizer.h - text to token ids and back: byte-level BPE as in GPT-2, SmolLM2, Llama 3 and Qwen2, SentencePiece BPE as in
 * Llama 2, Mistral, Phi-3 and Gemma, and SentencePiece unigram as in T5.
 *
 *  (1) tokenizer_encode never yields a control token: "<|im_start|>" in a text is twelve characters like any others. Control
 *      tokens come from tokenizer_find and are appended as ids by whoever builds a prompt (chat_template.c).
 *  (2) The pieces of the ids that tokenizer_encode yields, put together, are the bytes that went in, whatever bytes those
 *      were; bytes that are not UTF-8 stand for themselves. Only bytes that the vocabulary lacks are left out (SmolLM2: 21 that
 *      hardly occur, such as U+0004 and 0xFF), as transformers does. Exceptions: for Qwen text is composed (NFC) first. In
 *      SentencePiece U+2581 comes back as a space, characters without a token and without byte tokens become one unknown token,
 *      and where tokenizer_prefixes_space says so each text gets a space in front; unigram tokenizers also replace characters and
 *      merge spaces as their file says, and bytes that are not UTF-8 become U+FFFD.
 *  (3) A tokenizer does not change after tokenizer_open: any number of threads may use it at once. */
#ifndef FORESAY_TOKENIZER_H
#define FORESAY_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/gguf.h"

/* A growing list of token ids. Zero-initialise, set limit, free with token_list_free. */
struct token_list {
    int32_t *ids;
    size_t n, capacity;
    size_t limit; /* appending more is ENGINE_ERR_TOO_LONG; 0 = no limit */
};
int token_list_push(struct token_list *list, int32_t id);
int token_list_append(struct token_list *list, const int32_t *ids, size_t n);
void token_list_free(struct token_list *list);

struct tokenizer;

/* Copies what it needs: gguf may be closed afterwards. On failure *out is NULL and error says why (ENGINE_ERR_MODEL or _MEMORY).
 */
int tokenizer_open(struct tokenizer **out, const struct gguf *gguf, struct engine_error *error);
/* Accepts NULL. */
void tokenizer_close(struct tokenizer *tokenizer);

/* Appends the tokens of text to list. ENGINE_OK, ENGINE_ERR_TOO_LONG when they do not fit the list's limit, or ENGINE_ERR_MEMORY;
 * after a failure the list is as before. Memory: about 12 bytes for each byte of the longest word. */
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t len, struct token_list *list);
/* The same for a plain prompt: BOS comes first if this model wants it. */
int tokenizer_encode_prompt(const struct tokenizer *tokenizer, const char *text, size_t len, struct token_list *list);

int tokenizer_vocab_size(const struct tokenizer *tokenizer);
const char *tokenizer_kind(const struct tokenizer *tokenizer);     /* "byte-level BPE" */
const char *tokenizer_pre_name(const struct tokenizer *tokenizer); /* "smollm"; NULL where words are not cut by a pattern */
/* A text, and what follows an added token in it, is tokenized as if a space stood before it (Llama 2, Phi-3). The text of tokens
 * that begin a text is then one space longer than the text; see detokenizer_begin_text. */
bool tokenizer_prefixes_space(const struct tokenizer *tokenizer);

/* The bytes of a token as they appear in text: any bytes, perhaps part of a character. Empty (len 0) for control and unused
 * tokens and for ids outside the vocabulary. Lives as long as the tokenizer. */
const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, size_t *len);
/* Its name in the vocabulary; empty for ids outside it. */
const char *tokenizer_name(const struct tokenizer *tokenizer, int32_t id, size_t *len);
/* The longest control token whose name begins text (len >= 1), -1 if there is none; *name_len is its length. */
int32_t tokenizer_match_control(const struct tokenizer *tokenizer, const char *text, size_t len, size_t *name_len);
/* The id of a token by its name in the vocabulary ("<|im_end|>"), -1 if there is none. */
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *name);
bool tokenizer_is_control(const struct tokenizer *tokenizer, int32_t id);

/* -1 where the model has none. */
int32_t tokenizer_bos(const struct tokenizer *tokenizer);
int32_t tokenizer_eos(const struct tokenizer *tokenizer);
bool tokenizer_adds_bos(const struct tokenizer *tokenizer); /* a plain text is evaluated with BOS before it */
/* Tokens that end an answer: EOS, EOT and what the families use for them (<|im_end|>, <|endoftext|>, <|eot_id|> ...). */
bool tokenizer_is_eog(const struct tokenizer *tokenizer, int32_t id);

#endif
