/* pretokenizer.h - cuts text into the pieces inside which BPE merges: words, numbers, punctuation, white space.
 *
 * The only place that uses PCRE2. A pretokenizer does not change after it was opened: any thread may scan with it, each with its
 * own struct pretokenizer_scan. */
#ifndef FORESAY_PRETOKENIZER_H
#define FORESAY_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/engine.h"

struct pretokenizer;

/* name is the value of tokenizer.ggml.pre. ENGINE_ERR_MODEL for one we do not know: error lists those we do. */
int pretokenizer_open(struct pretokenizer **out, const char *name, size_t len, struct engine_error *error);
/* Accepts NULL. */
void pretokenizer_close(struct pretokenizer *pretokenizer);

/* The family's name, as in "smollm"; static. */
const char *pretokenizer_name(const struct pretokenizer *pretokenizer);
/* A piece that is a token as a whole stands for itself, without merging (Llama 3). */
bool pretokenizer_ignores_merges(const struct pretokenizer *pretokenizer);
/* Models of this family expect BOS before a text unless their file says otherwise. */
bool pretokenizer_adds_bos(const struct pretokenizer *pretokenizer);
/* Text is brought into Unicode's composed form first (Qwen). */
bool pretokenizer_composes(const struct pretokenizer *pretokenizer);

enum { PRETOKENIZER_MAX_STEPS = 6 };
struct pretokenizer_level { /* one of several rules: the piece that it cuts, how far, and its next match there */
    size_t start, end, at, match_start, match_end;
};

struct pretokenizer_scan {
    const struct pretokenizer *pretokenizer;
    void *match; /* scratch of PCRE2 */
    const char *text;
    size_t len, at;
    size_t run_end; /* text[at .. run_end) is valid UTF-8 */
    struct pretokenizer_level levels[PRETOKENIZER_MAX_STEPS];
};

/* Allocates the scratch; false without memory. The scan may be used for many texts. */
bool pretokenizer_scan_init(struct pretokenizer_scan *scan, const struct pretokenizer *pretokenizer);
void pretokenizer_scan_free(struct pretokenizer_scan *scan);
/* Points the scan to a text. */
void pretokenizer_scan_set(struct pretokenizer_scan *scan, const char *text, size_t len);
/* The next piece: 1, or 0 at the end of the text, or -1 when PCRE2 ran out of memory. Pieces follow each other without gaps and
 * are never empty; a run of bytes that are not UTF-8 is a piece of its own. */
int pretokenizer_scan_next(struct pretokenizer_scan *scan, const char **piece, size_t *len);

#endif
