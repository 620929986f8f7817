/* train_text.h - the text that a model wrote for its drafters' training: the file OUT.text, and examples made of it.
 *
 * A head, then int32 numbers: for each answer the tokens of its prompt, each as text_of_prompt (older files have none), the
 * tokens of the answer as they are, TEXT_END. So whoever skips what is negative reads answers alone. */
#ifndef FORESAY_TRAIN_TEXT_H
#define FORESAY_TRAIN_TEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/chat_template.h"
#include "engine/train.h"

enum { TEXT_END = -1, TEXT_HELD_OUT = 20 };

struct text_head {
    char magic[8]; /* "fstext 1" */
    uint64_t vocab_digest, target_digest;
};

static inline int32_t text_of_prompt(int32_t token) { return -2 - token; }
/* One answer in twenty is not learned but tested on. */
static inline bool text_is_held_out(uint64_t answer) { return answer % TEXT_HELD_OUT == TEXT_HELD_OUT - 1; }

/* --- for heads --- */

struct train_text {
    int32_t *ids; /* after the head, whole answers only */
    size_t n;
    size_t *begins; /* [n_answers + 1] */
    int n_answers;
    uint64_t n_tokens; /* of the answers */
};

/* most: numbers to be read at most, 0 = all. */
int train_text_open(struct train_text *out, const char *path, const struct text_head *expected, size_t most,
                    struct engine_error *error);
void train_text_close(struct train_text *text);
/* The n_vocab tokens that are most frequent in the answers that are learned, control tokens first; ascending. */
int train_text_vocab(const struct train_text *text, const struct tokenizer *tokenizer, int n_vocab, int32_t *out,
                     struct engine_error *error);

/* Runs the target over answers and keeps what a head learns from. */
struct example_maker {
    struct model *model;
    struct kv_pool pool;
    int32_t *blocks; /* of one sequence */
    int max_rows, chunk;
    enum head_kind kind;
    int n_vocab;
    const int32_t *vocab;      /* [n_vocab] */
    int32_t *number;           /* [the target's vocabulary]: a token's number among them, or -1 */
    const float *scale;        /* [width of input]: inputs are times this; NULL = as they are */
    struct token_list opening; /* stands before answers that have no prompt */
    int32_t *tokens, *logit_rows, *next;
    float *input, *embeddings, *target, *weight;
};

int example_maker_open(struct example_maker *out, struct model *model, enum head_kind kind, const int32_t *vocab, int n_vocab,
                       int max_rows, int chunk, const struct chat_template *template, struct engine_error *error);
void example_maker_close(struct example_maker *maker);
/* out: 1 / the root mean square of each of n_cols inputs over answers first .. first + n - 1. Layers differ by orders of
 * magnitude, and so do dimensions; what learns wants them alike. */
int example_input_scale(struct example_maker *maker, const struct train_text *text, int first, int n, int n_cols, float *out);
/* The example lies in the maker until the next one. */
struct example example_make(struct example_maker *maker, const struct train_text *text, int answer);

#endif
