/* piece_trie.c - see piece_trie.h. The names are sorted; a node is a range of them that begin alike, and its children are the
 * parts of that range by the next byte. */
#define _GNU_SOURCE /* qsort_r */
#include "engine/piece_trie.h"

#include <stdlib.h>

struct range {
    uint32_t low, high, depth;
};

static int compare_names(const void *a, const void *b, void *context) {
    const struct vocabulary *v = context;
    const struct vocabulary_token *x = &v->tokens[*(const int32_t *)a], *y = &v->tokens[*(const int32_t *)b];
    uint32_t len = x->name_len < y->name_len ? x->name_len : y->name_len;
    int order = memcmp(v->names + x->name, v->names + y->name, len);
    return order ? order : (x->name_len > y->name_len) - (x->name_len < y->name_len);
}

static uint8_t byte_at(const struct vocabulary *v, int32_t id, uint32_t depth) {
    return (uint8_t)v->names[v->tokens[id].name + depth];
}

/* Lays down a node's token and its children, whose ranges are remembered behind it. */
static void expand(struct piece_trie *trie, const struct vocabulary *v, const int32_t *ids, struct range *ranges, uint32_t node) {
    struct range r = ranges[node];
    trie->first_child[node] = trie->n_nodes;
    trie->ids[node] = -1;
    if (r.low < r.high && v->tokens[ids[r.low]].name_len == r.depth) trie->ids[node] = ids[r.low++];
    while (r.low < r.high) {
        uint8_t byte = byte_at(v, ids[r.low], r.depth);
        uint32_t end = r.low + 1;
        while (end < r.high && byte_at(v, ids[end], r.depth) == byte) end++;
        trie->labels[trie->n_nodes] = byte;
        ranges[trie->n_nodes++] = (struct range){r.low, end, r.depth + 1};
        r.low = end;
    }
}

bool piece_trie_build(struct piece_trie *trie, const struct vocabulary *v, int32_t *ids, size_t n) {
    size_t most = 2; /* the root, and one place behind the last */
    if (n == 0) return true;
    for (size_t i = 0; i < n; i++) most += v->tokens[ids[i]].name_len; /* below 2^31, see vocabulary.c */
    struct range *ranges = malloc(most * sizeof *ranges);
    trie->first_child = malloc(most * sizeof *trie->first_child);
    trie->ids = malloc(most * sizeof *trie->ids);
    trie->labels = malloc(most);
    bool fits = ranges && trie->first_child && trie->ids && trie->labels;
    if (fits) {
        qsort_r(ids, n, sizeof *ids, compare_names, (void *)(uintptr_t)v);
        ranges[0] = (struct range){0, (uint32_t)n, 0};
        trie->labels[0] = 0;
        trie->n_nodes = 1;
        for (uint32_t node = 0; node < trie->n_nodes; node++) expand(trie, v, ids, ranges, node);
        trie->first_child[trie->n_nodes] = trie->n_nodes;
    }
    free(ranges);
    return fits;
}

void piece_trie_free(struct piece_trie *trie) {
    free(trie->first_child);
    free(trie->ids);
    free(trie->labels);
    *trie = (struct piece_trie){0};
}
