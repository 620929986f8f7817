/* piece_trie.h - which tokens begin a text: their names as a trie over bytes. Private to the tokenizer. */
#ifndef FORESAY_PIECE_TRIE_H
#define FORESAY_PIECE_TRIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/vocabulary.h"

/* Nodes lie in order of depth, so that the children of node i are first_child[i] .. first_child[i + 1]. Immutable when built. */
struct piece_trie {
    uint32_t *first_child; /* [n_nodes + 1] */
    int32_t *ids;          /* [n_nodes], the token that ends here, -1 for none */
    uint8_t *labels;       /* [n_nodes], the byte that leads here */
    uint32_t n_nodes;      /* 0: no tokens */
};

enum { PIECE_TRIE_ROOT = 0 };

/* Of n tokens with different names; sorts ids. False without memory. Zero-initialise first. */
bool piece_trie_build(struct piece_trie *trie, const struct vocabulary *v, int32_t *ids, size_t n);
void piece_trie_free(struct piece_trie *trie);

/* The child of a node, PIECE_TRIE_ROOT if there is none. */
static inline uint32_t piece_trie_step(const struct piece_trie *trie, uint32_t node, char byte) {
    uint32_t first = trie->first_child[node], n = trie->first_child[node + 1] - first;
    if (n == 0) return PIECE_TRIE_ROOT;
    const uint8_t *found = memchr(trie->labels + first, (uint8_t)byte, n);
    return found ? (uint32_t)(found - trie->labels) : PIECE_TRIE_ROOT;
}

#endif
