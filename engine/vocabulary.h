/* vocabulary.h - the tokens of a model: names as in the file, the bytes they stand for, their kinds. Private to the tokenizer.
 *
 * Byte-level BPE writes each of the 256 bytes as one printable character (space is "\u0120"), so that names are text.
 * SentencePiece writes text as it is, but space as "\u2581", and has tokens "<0x00>" .. "<0xFF>" for single bytes. A piece is a
 * name turned back into bytes. Immutable after vocabulary_open. */
#ifndef FORESAY_VOCABULARY_H
#define FORESAY_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/gguf.h"

enum token_kind { /* as in tokenizer.ggml.token_type */
                  TOKEN_NORMAL = 1,
                  TOKEN_UNKNOWN = 2,
                  TOKEN_CONTROL = 3,
                  TOKEN_USER_DEFINED = 4,
                  TOKEN_UNUSED = 5,
                  TOKEN_BYTE = 6,
};

enum vocabulary_style { VOCABULARY_BYTE_LEVEL, VOCABULARY_SENTENCEPIECE };

struct vocabulary_token {
    uint32_t name, piece; /* offsets into names and pieces */
    uint32_t name_len, piece_len;
    uint8_t kind;
};

struct vocabulary {
    struct vocabulary_token *tokens; /* [n] */
    int32_t n;
    char *names, *pieces;
    uint32_t *slots; /* [n_slots], open addressing by name: id + 1, 0 = free */
    uint32_t n_slots;
    int32_t byte_ids[256]; /* the token of a single byte, -1 where the model has none */
    size_t longest_piece;  /* bytes */
};

/* Zero-initialise first; vocabulary_close also takes a half-built one. */
int vocabulary_open(struct vocabulary *v, const struct gguf *gguf, enum vocabulary_style style, struct engine_error *error);
void vocabulary_close(struct vocabulary *v);

/* -1 if there is none. */
int32_t vocabulary_find(const struct vocabulary *v, const char *name, size_t len);
/* SentencePiece: the token for characters that the model has no other for, -1 if there is none. */
int32_t vocabulary_unknown(const struct vocabulary *v, const struct gguf *gguf);
/* Byte-level only: the token whose piece is exactly these bytes and that text may become; -1 if there is none. */
int32_t vocabulary_find_piece(const struct vocabulary *v, const char *bytes, size_t len);
/* False for control and unused tokens: these never come from text. */
static inline bool vocabulary_is_text(const struct vocabulary *v, int32_t id) {
    uint8_t kind = v->tokens[id].kind;
    return kind != TOKEN_CONTROL && kind != TOKEN_UNUSED && kind != TOKEN_UNKNOWN;
}

#endif
