/* word_cache.h - the tokens of words that a text has shown before: most words of a long text come again and again. Private to the
 * tokenizer.
 *
 * One slot a hash, the last word in it stays. Words of more bytes or tokens than a slot holds are never there. */
#ifndef FORESAY_WORD_CACHE_H
#define FORESAY_WORD_CACHE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { WORD_CACHE_BYTES = 31, WORD_CACHE_IDS = 7, WORD_CACHE_SLOT_BITS = 13 };

struct word_slot {   /* of 64 bytes */
    uint64_t key[4]; /* the word, zeros, and in the last byte its length; a free slot is all zeros */
    int32_t n, ids[WORD_CACHE_IDS];
};

/* One for each thread at a time; zero-initialise. Without slots (word_cache_open not called, or no memory) nothing is found. */
struct word_cache {
    struct word_slot *slots;
};

static inline void word_cache_open(struct word_cache *cache) {
    cache->slots = calloc(1u << WORD_CACHE_SLOT_BITS, sizeof *cache->slots);
}
static inline void word_cache_free(struct word_cache *cache) {
    free(cache->slots);
    cache->slots = NULL;
}

/* The slot where the word stands or belongs, its key in key[4]; NULL for words that are not kept. */
static inline struct word_slot *word_cache_slot(const struct word_cache *cache, const char *word, size_t len, uint64_t key[4]) {
    if (!cache->slots || len > WORD_CACHE_BYTES) return NULL;
    memset(key, 0, 32);
    memcpy(key, word, len);
    key[3] |= (uint64_t)len << 56;
    uint64_t hash = (key[0] ^ key[1] * 0x9E3779B97F4A7C15u ^ key[2] * 0xC2B2AE3D27D4EB4Fu ^ key[3]) * 0x9FB21C651E98DF25u;
    hash = (hash ^ hash >> 32) * 0x9FB21C651E98DF25u;
    return &cache->slots[hash >> (64 - WORD_CACHE_SLOT_BITS)];
}

static inline bool word_cache_holds(const struct word_slot *slot, const uint64_t key[4]) {
    return memcmp(slot->key, key, 32) == 0;
}

static inline void word_cache_put(struct word_slot *slot, const uint64_t key[4], const int32_t *ids, size_t n) {
    if (!slot || n > WORD_CACHE_IDS) return;
    memcpy(slot->key, key, 32);
    slot->n = (int32_t)n;
    if (n) memcpy(slot->ids, ids, n * sizeof *ids);
}

#endif
