/* head_guess.h - from a row of a head's logits to guesses. Engine thread. */
#ifndef FORESAY_HEAD_GUESS_H
#define FORESAY_HEAD_GUESS_H

#include "engine/head.h"
#include "speculative/speculative.h"

enum { HEAD_MOST_WIDTH = 4, /* guesses behind one node */ HEAD_MOST_DEPTH = 8 };

struct head_guess {
    int32_t token;
    float p;
};

/* A guess that may become a node. */
struct head_candidate {
    int parent, odds_class;
    int32_t token;
    float odds, chance;
};

/* As many as the context allows. */
static inline int head_guess_width(const struct draft_context *context) {
    return context->max_width < 1 ? 1 : context->max_width < HEAD_MOST_WIDTH ? context->max_width : HEAD_MOST_WIDTH;
}

/* Guesses for what follows a node that stands `depth` tokens behind the text, likeliest first: from a row of head->logits.
 * out: [width]; p 0 where there is none. sums: scratch, [sampler_weights_room(the head's tokens)] */
void head_guess_behind(const struct head *head, const struct draft_context *context, int depth, int row, int width, float *sums,
                       struct head_guess *out);

/* The guess behind a node of this chance. False: it is too weak to be one. */
bool head_guess_weigh(const struct draft_context *context, int parent, float chance, const struct head_guess *guess,
                      struct head_candidate *out);

#endif
