/* bpe.h - byte pair merges: one piece of text to tokens. Private to the tokenizer.
 *
 * The pair with the lowest rank merges first, of equal ones the leftmost, until no pair is left that may merge. Pairs may share a
 * rank (spm.h makes them so). Symbols are token ids or any other numbers that are not negative. */
#ifndef FORESAY_BPE_H
#define FORESAY_BPE_H

#include "engine/engine.h"
#include "engine/gguf.h"
#include "engine/vocabulary.h"

struct bpe_merge {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank;
    int32_t merged; /* -1: a free slot */
};

/* Immutable after bpe_open. */
struct bpe {
    struct bpe_merge *slots; /* [n_slots], open addressing by pair */
    uint32_t n_slots;
};

/* Zero-initialise first; bpe_close also takes a half-built one. */
int bpe_open(struct bpe *bpe, const struct vocabulary *v, const struct gguf *gguf, struct engine_error *error);
void bpe_close(struct bpe *bpe);
/* By hand: room for n merges, false without memory; then each of them. Of two for one pair the first counts. */
bool bpe_reserve(struct bpe *bpe, size_t n);
void bpe_add(struct bpe *bpe, const struct bpe_merge *merge);

/* A run of symbols in the course of merging, as a linked list in arrays. One for each thread at a time; zero-initialise. */
struct bpe_scratch {
    int32_t *ids;              /* [capacity] */
    uint32_t *next, *previous; /* [capacity] */
    size_t capacity;
    uint64_t *heap; /* [heap_capacity], rank << 32 | position of the left symbol; smallest first */
    size_t n_heap, heap_capacity;
};
void bpe_scratch_free(struct bpe_scratch *scratch);

/* Merges the n symbols in scratch->ids (room made by bpe_scratch_reserve) and leaves the result there; returns its length, or -1
 * without memory. Takes O(n log n) whatever the symbols are. */
bool bpe_scratch_reserve(struct bpe_scratch *scratch, size_t n);
long bpe_merge_symbols(const struct bpe *bpe, struct bpe_scratch *scratch, size_t n);

#endif
