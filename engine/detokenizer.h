/* detokenizer.h - token ids to text as they come: whole UTF-8 characters, stop strings held back and cut off.
 *
 * Use:
 *     detokenizer_init(&d, tokenizer, stops, n_stops);
 *     for each token:  detokenizer_push(&d, token);
 *                      while ((n = detokenizer_take(&d, text, sizeof text)) > 0) send(text, n);
 *                      if (d.stopped) break;
 *     at the end:      detokenizer_finish(&d);
 *                      while ((n = detokenizer_take(&d, text, sizeof text)) > 0) send(text, n);
 *
 *  (1) What comes out is valid UTF-8, cut between characters. Bytes that cannot become a character are U+FFFD, one for each
 *      maximal part as the Unicode standard advises. A character that the end of the generation cuts off gives nothing.
 *  (2) Held back are the beginning of an unfinished character and the longest end of the text that is a true beginning of a
 *      stop string, nothing else. detokenizer_finish gives the latter out.
 *  (3) The stop string that is complete first ends the text (of two that end at the same place, the longer one); neither it
 *      nor anything after it comes out. So the text depends on the bytes alone, not on how they are cut into tokens.
 *  (4) No allocation: the state has a fixed size and points to nothing of the caller's but the tokenizer.
 * One thread at a time for each detokenizer. */
#ifndef FORESAY_DETOKENIZER_H
#define FORESAY_DETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/tokenizer.h"

struct detokenizer_stop {
    uint8_t len, matched; /* bytes; how many of them end the text so far */
    char text[ENGINE_MAX_STOP_LEN];
    uint8_t fallback[ENGINE_MAX_STOP_LEN]; /* fallback[i]: longest true prefix that ends text[0 .. i] */
};

struct detokenizer {
    bool stopped; /* known after each push: a stop string is complete. The text before it is still to be taken; further tokens
                     are ignored */
    size_t n_out; /* bytes of the tokens that have come out as text, and a dropped space: it tells whose text that was */
    /* private */
    bool skips_space; /* the next byte is dropped if it is a space */
    bool ended;       /* the stop string has been reached in taking: no more text */
    const struct tokenizer *tokenizer;
    const char *piece; /* bytes of the pushed token that are not read yet */
    size_t piece_len;
    uint8_t part[4]; /* the beginning of an unfinished character */
    int n_part;
    char held[ENGINE_MAX_STOP_LEN + 4];            /* text that is read; the first n_ready bytes may go out */
    bool stands_for_byte[ENGINE_MAX_STOP_LEN + 4]; /* of a token: U+FFFD may have more bytes than what it stands for */
    int n_held, n_ready;
    int n_stops;
    struct detokenizer_stop stops[ENGINE_MAX_STOP];
};

/* ENGINE_ERR_ARGUMENT if there are more than ENGINE_MAX_STOP stop strings or one is empty, longer than ENGINE_MAX_STOP_LEN or not
 * UTF-8. The strings are copied. */
int detokenizer_init(struct detokenizer *d, const struct tokenizer *tokenizer, const char *const *stops, int n_stops);
/* The tokens begin a text: where the tokenizer put a space before it, the text that comes out lacks that space. Call it before
 * the first push; without it every space is kept, as for an answer that goes on within a text. */
void detokenizer_begin_text(struct detokenizer *d);
/* The token before it must have been taken to the end (detokenizer_take returned 0). Control tokens and ids outside the
 * vocabulary have no text. */
void detokenizer_push(struct detokenizer *d, int32_t token);
/* Up to size bytes (at least 4) of text, cut between characters; 0 when there is none until the next push. */
size_t detokenizer_take(struct detokenizer *d, char *out, size_t size);
/* No more tokens: what a stop string held back becomes ready. */
void detokenizer_finish(struct detokenizer *d);

#endif
