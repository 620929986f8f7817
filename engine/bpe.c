/* bpe.c - see bpe.h. Short runs (nearly all words) are scanned again after each merge, which is quicker than keeping order; long
 * ones use a heap, so that a megabyte of one letter takes no longer than a megabyte of prose. */
#include "engine/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "engine/gguf_internal.h"

enum {
    SHORT_RUN = 48,       /* symbols; about where the two ways take the same time */
    MAX_MERGES = 1 << 24, /* the largest models have half a million */
    MIN_CAPACITY = 256,
};
#define NONE UINT32_MAX

/* --- the table of merges --- */

static uint32_t hash_pair(uint64_t pair) {
    pair = (pair ^ pair >> 30) * 0xBF58476D1CE4E5B9u; /* the finalizer of SplitMix64 */
    pair = (pair ^ pair >> 27) * 0x94D049BB133111EBu;
    return (uint32_t)(pair ^ pair >> 31);
}

static struct bpe_merge *find_merge(const struct bpe *bpe, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint32_t at = hash_pair(pair) & (bpe->n_slots - 1);
    while (bpe->slots[at].merged >= 0 && bpe->slots[at].pair != pair) at = (at + 1) & (bpe->n_slots - 1);
    return &bpe->slots[at];
}

bool bpe_reserve(struct bpe *bpe, size_t n) {
    if (n > MAX_MERGES) return false;
    bpe->n_slots = 16;
    while (bpe->n_slots < n + n / 3 + 1) bpe->n_slots *= 2;
    bpe->slots = malloc(bpe->n_slots * sizeof *bpe->slots);
    if (!bpe->slots) return false;
    for (uint32_t i = 0; i < bpe->n_slots; i++) bpe->slots[i].merged = -1;
    return true;
}

void bpe_add(struct bpe *bpe, const struct bpe_merge *merge) {
    struct bpe_merge *slot = find_merge(bpe, (int32_t)(merge->pair >> 32), (int32_t)(uint32_t)merge->pair);
    if (slot->merged < 0) *slot = *merge;
}

static int bad_merge(const struct gguf *gguf, size_t i, struct gguf_string line, const char *problem,
                     struct engine_error *error) {
    char shown[64];
    return gguf_fail(error, ENGINE_ERR_MODEL, "%s: merge %zu of the tokenizer (\"%s\") %s", gguf_path(gguf), i,
                     gguf_printable(shown, sizeof shown, line.data, line.len), problem);
}

/* "left right". A merge that would make a control token is left out: text never becomes one. */
static int add_merge(struct bpe *bpe, const struct vocabulary *v, const struct gguf *gguf, size_t rank, struct gguf_string line,
                     char *joined, struct engine_error *error) {
    /* Symbols have no space in them, but look from the second byte on in case one begins with it. */
    const char *space = line.len > 2 ? memchr(line.data + 1, ' ', line.len - 2) : NULL;
    if (!space) return bad_merge(gguf, rank, line, "is not two symbols with a space between", error);
    size_t left_len = (size_t)(space - line.data), right_len = line.len - left_len - 1;
    int32_t left = vocabulary_find(v, line.data, left_len), right = vocabulary_find(v, space + 1, right_len);
    memcpy(joined, line.data, left_len);
    memcpy(joined + left_len, space + 1, right_len);
    int32_t merged = vocabulary_find(v, joined, left_len + right_len);
    if (left < 0 || right < 0 || merged < 0) return bad_merge(gguf, rank, line, "names a token that the vocabulary lacks", error);
    if (!vocabulary_is_text(v, merged)) return ENGINE_OK;
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    bpe_add(bpe, &(struct bpe_merge){pair, (uint32_t)rank, merged});
    return ENGINE_OK;
}

int bpe_open(struct bpe *bpe, const struct vocabulary *v, const struct gguf *gguf, struct engine_error *error) {
    struct gguf_array merges;
    enum gguf_answer answer = gguf_get_array(gguf, "tokenizer.ggml.merges", &merges);
    if (answer != GGUF_FOUND || merges.kind != GGUF_STRING || merges.n > MAX_MERGES) {
        return gguf_fail(error, ENGINE_ERR_MODEL,
                         "%s: the vocabulary is byte-level but has no merges (tokenizer.ggml.merges is missing or no array of "
                         "strings); convert the model again, with them",
                         gguf_path(gguf));
    }
    size_t cursor = 0, longest = 0;
    for (size_t i = 0; i < merges.n; i++) {
        size_t len = gguf_array_next(&merges, &cursor).len;
        if (len > longest) longest = len;
    }
    char *joined = malloc(longest + 1);
    int rc = ENGINE_OK;
    if (!bpe_reserve(bpe, merges.n) || !joined) rc = gguf_fail(error, ENGINE_ERR_MEMORY, "not enough memory for the tokenizer");
    cursor = 0;
    for (size_t i = 0; rc == ENGINE_OK && i < merges.n; i++) {
        rc = add_merge(bpe, v, gguf, i, gguf_array_next(&merges, &cursor), joined, error);
    }
    free(joined);
    return rc;
}

void bpe_close(struct bpe *bpe) {
    free(bpe->slots);
    *bpe = (struct bpe){0};
}

/* --- scratch --- */

/* Makes *array hold at least n elements of `size` bytes; false without memory. */
static bool grow(void *array, size_t n, size_t size) {
    void **place = array;
    void *larger = n > SIZE_MAX / size ? NULL : realloc(*place, n * size);
    if (larger) *place = larger;
    return larger != NULL;
}

bool bpe_scratch_reserve(struct bpe_scratch *scratch, size_t n) {
    if (n <= scratch->capacity) return true;
    if (n >= NONE) return false; /* positions are 32 bits */
    size_t capacity = n < MIN_CAPACITY ? MIN_CAPACITY : n + n / 2;
    if (!grow(&scratch->ids, capacity, sizeof *scratch->ids) || !grow(&scratch->next, capacity, sizeof *scratch->next) ||
        !grow(&scratch->previous, capacity, sizeof *scratch->previous)) {
        return false;
    }
    scratch->capacity = capacity;
    return true;
}

void bpe_scratch_free(struct bpe_scratch *scratch) {
    free(scratch->ids);
    free(scratch->next);
    free(scratch->previous);
    free(scratch->heap);
    *scratch = (struct bpe_scratch){0};
}

/* --- short runs --- */

static size_t merge_short(const struct bpe *bpe, int32_t *ids, size_t n) {
    uint32_t ranks[SHORT_RUN]; /* of the pair that begins here, NONE if it does not merge */
    int32_t merged[SHORT_RUN];
    for (size_t i = 0; i + 1 < n; i++) {
        const struct bpe_merge *merge = find_merge(bpe, ids[i], ids[i + 1]);
        ranks[i] = merge->merged < 0 ? NONE : merge->rank;
        merged[i] = merge->merged;
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (ranks[i] < ranks[best]) best = i;
        }
        if (ranks[best] == NONE) break;
        ids[best] = merged[best];
        memmove(&ids[best + 1], &ids[best + 2], (n - best - 2) * sizeof *ids);
        n--;
        size_t later = n > best + 2 ? n - best - 2 : 0; /* pairs that only move */
        memmove(&ranks[best + 1], &ranks[best + 2], later * sizeof *ranks);
        memmove(&merged[best + 1], &merged[best + 2], later * sizeof *merged);
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const struct bpe_merge *merge = find_merge(bpe, ids[i], ids[i + 1]);
            ranks[i] = merge->merged < 0 ? NONE : merge->rank;
            merged[i] = merge->merged;
        }
    }
    return n;
}

/* --- long runs --- */

static bool heap_push(struct bpe_scratch *scratch, uint64_t entry) {
    if (scratch->n_heap == scratch->heap_capacity) {
        size_t capacity = scratch->heap_capacity ? scratch->heap_capacity * 2 : MIN_CAPACITY;
        if (!grow(&scratch->heap, capacity, sizeof *scratch->heap)) return false;
        scratch->heap_capacity = capacity;
    }
    uint64_t *heap = scratch->heap;
    size_t at = scratch->n_heap++;
    for (; at > 0 && heap[(at - 1) / 2] > entry; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = entry;
    return true;
}

static uint64_t heap_pop(struct bpe_scratch *scratch) {
    uint64_t *heap = scratch->heap;
    uint64_t top = heap[0], last = heap[--scratch->n_heap];
    size_t n = scratch->n_heap, at = 0;
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= last) break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

/* Puts the pair that begins at `at` on the heap if it merges. */
static bool push_pair(const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t at) {
    if (at == NONE || scratch->next[at] == NONE) return true;
    const struct bpe_merge *merge = find_merge(bpe, scratch->ids[at], scratch->ids[scratch->next[at]]);
    return merge->merged < 0 || heap_push(scratch, (uint64_t)merge->rank << 32 | at);
}

/* An entry may be out of date: its symbol was swallowed (id -1) or its neighbour changed. A pair has one rank, so the entry holds
 * if the pair that stands there now has the entry's rank. */
static bool merge_long(const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        scratch->previous[i] = i == 0 ? NONE : i - 1;
        scratch->next[i] = i + 1 == n ? NONE : i + 1;
    }
    scratch->n_heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!push_pair(bpe, scratch, i)) return false;
    }
    while (scratch->n_heap > 0) {
        uint64_t entry = heap_pop(scratch);
        uint32_t at = (uint32_t)entry, next = scratch->next[at];
        if (scratch->ids[at] < 0 || next == NONE) continue;
        const struct bpe_merge *merge = find_merge(bpe, scratch->ids[at], scratch->ids[next]);
        if (merge->merged < 0 || merge->rank != entry >> 32) continue;
        scratch->ids[at] = merge->merged;
        scratch->ids[next] = -1;
        scratch->next[at] = scratch->next[next];
        if (scratch->next[at] != NONE) scratch->previous[scratch->next[at]] = at;
        if (!push_pair(bpe, scratch, scratch->previous[at]) || !push_pair(bpe, scratch, at)) return false;
    }
    return true;
}

long bpe_merge_symbols(const struct bpe *bpe, struct bpe_scratch *scratch, size_t n) {
    if (n <= SHORT_RUN) return (long)merge_short(bpe, scratch->ids, n);
    if (!merge_long(bpe, scratch, (uint32_t)n)) return -1;
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (scratch->ids[i] >= 0) scratch->ids[kept++] = scratch->ids[i];
    }
    return (long)kept;
}
