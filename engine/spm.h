/* spm.h - SentencePiece BPE: characters to tokens, merged by the scores of the tokens. Private to the tokenizer.
 *
 * (1) Two neighbours merge if together they are a normal token; the highest score first, of equal ones the leftmost.
 * (2) A symbol in the course of merging is a token's id, or vocabulary size + code point for a character that is no token, or
 *     vocabulary size + 0x110000 + byte for a byte that is no part of a character.
 * (3) What is left of the latter becomes byte tokens; where the vocabulary lacks them, a run of it is one unknown token.
 * (4) A text is cut into words wherever no token reaches across, which two bytes decide: no token has the one behind the other.
 *     So words are merged one by one, and the result is that of merging the whole text. */
#ifndef FORESAY_SPM_H
#define FORESAY_SPM_H

#include <stdint.h>

#include "engine/bpe.h"
#include "engine/engine.h"
#include "engine/gguf.h"
#include "engine/vocabulary.h"

/* Immutable after spm_open. */
struct spm {
    struct bpe bpe;
    int32_t *characters;     /* [0x10000], the symbol of each character of the BMP; of the space, that of "\u2581" */
    uint32_t inside[256][8]; /* bit c of [b]: some token has byte c behind byte b; the space is one byte here */
    int32_t unknown;         /* -1: characters without a token are left out */
    bool unknown_is_used;    /* some byte has no token */
};

/* Zero-initialise first; spm_close also takes a half-built one. */
int spm_open(struct spm *spm, const struct vocabulary *v, const struct gguf *gguf, struct engine_error *error);
void spm_close(struct spm *spm);

/* The length of the first word of a text that is not empty. */
size_t spm_word(const struct spm *spm, const char *text, size_t len);
/* Merges a word, of which space is the character "\u2581"; prefix: as if a space stood before it. The tokens are left in
 * scratch->ids; returns their number, or -1 without memory. */
long spm_merge(const struct spm *spm, const struct vocabulary *v, struct bpe_scratch *scratch, bool prefix, const char *word,
               size_t len);

#endif
