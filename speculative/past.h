/* past.h - what past.c and lookup.c share: an author's earlier texts as they lie in memory. */
#ifndef FORESAY_PAST_H
#define FORESAY_PAST_H

#include "speculative/speculative.h"
#include "speculative/suffix.h"

/* One allocation, this first. */
struct past_text {
    struct suffix_index index;
    int32_t *tokens; /* [max_tokens], -1 behind each text */
    int n, max_tokens;
    struct ngram_store store; /* header NULL = none */
    void *store_image;
};

#endif
