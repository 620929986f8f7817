/* charsmap.h - SentencePiece's table of character replacements (compatibility forms, white space, what is left out), as a model
 * file carries it: a trie over UTF-8 bytes as a double array, then the replacements. Private to the tokenizer.
 *
 * The bytes are foreign: every step through them is checked, and a text costs at most CHARSMAP_MAX_RULE steps a byte. */
#ifndef FORESAY_CHARSMAP_H
#define FORESAY_CHARSMAP_H

#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/gguf.h"

enum {
    CHARSMAP_MAX_RULE = 128,        /* bytes that one rule replaces; longer ones are not looked for */
    CHARSMAP_MAX_REPLACEMENT = 256, /* bytes that it puts there; a rule with more is none */
};

/* Immutable after charsmap_open. Without a map n_units is 0 and nothing matches. */
struct charsmap {
    uint8_t *units; /* [n_units] of 4 bytes each, little-endian; owned, the replacements follow */
    size_t n_units;
    const char *replacements; /* [n_replacements], each ends with NUL, and so does the last */
    size_t n_replacements;
};

/* Copies the map of the file, if it has one. Zero-initialise first; charsmap_close also takes a half-built one. */
int charsmap_open(struct charsmap *map, const struct gguf *gguf, struct engine_error *error);
void charsmap_close(struct charsmap *map);

/* The longest rule for the start of text: how many of its bytes it replaces (0: there is none), and by what. */
size_t charsmap_match(const struct charsmap *map, const char *text, size_t len, const char **by, size_t *by_len);

#endif
