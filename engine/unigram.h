/* unigram.h - SentencePiece unigram: of all ways to cut a text into tokens the one with the highest sum of scores. Private to the
 * tokenizer.
 *
 * (1) The text is normalized first: characters are replaced as the model's charsmap says, bytes that are not UTF-8 become U+FFFD,
 *     spaces become "\u2581", one is put in front, and runs of them are merged where the model says so.
 * (2) Sums are floats, added from the start of the text on, and of equal sums the one found first counts: SentencePiece's own
 *     arithmetic, so that ties fall the same way.
 * (3) A character that no token covers becomes its byte tokens, or where the vocabulary lacks them an unknown token, one for a
 *     run.
 * (4) Added tokens are left as they are by (1), and win over all others in (2). */
#ifndef FORESAY_UNIGRAM_H
#define FORESAY_UNIGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/charsmap.h"
#include "engine/piece_trie.h"
#include "engine/tokenizer.h"

enum { UNIGRAM_MAX_PIECE = 512 /* bytes; longer tokens are refused, so that time stays linear */ };

/* Immutable after unigram_open. */
struct unigram {
    struct charsmap charsmap;
    struct piece_trie pieces, added; /* all tokens that text may become; those that are left as they are */
    float *scores;                   /* [v->n] */
    float unknown_score;
    uint32_t glued[8];  /* bit b: some token has a space behind a character that ends in byte b */
    int32_t unknown;    /* -1: characters without a token are left out */
    bool falls_back;    /* to byte tokens */
    bool merges_spaces; /* and drops those at both ends */
};

/* Zero-initialise first; unigram_close also takes a half-built one. */
int unigram_open(struct unigram *unigram, const struct vocabulary *v, const struct gguf *gguf, struct engine_error *error);
void unigram_close(struct unigram *unigram);

/* Appends the tokens of text; prefix: as if a space stood before it. ENGINE_OK, _TOO_LONG or _MEMORY; the list may have grown
 * all the same. Memory: about 16 bytes for each byte of the longest word. */
int unigram_encode(const struct unigram *unigram, const struct vocabulary *v, bool prefix, const char *text, size_t len,
                   struct token_list *list);

#endif
