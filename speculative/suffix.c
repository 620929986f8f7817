/* suffix.c - text repeats itself: where did it end like this before, and which tokens did it have?
 *
 * An index of pairs: position p is filed under the hash of tokens (p - 1, p), newest first, each entry linked to the one
 * before it of the same hash. To search, the latest MAX_VISITS places of the last pair are compared with the end of the text,
 * backwards. Against a suffix automaton this finds the same match except behind MAX_VISITS newer places of the same pair, at a
 * seventh of the memory, and it sees several competing places. */
#include "speculative/suffix.h"

#include <assert.h>
#include <string.h>

#include "speculative/speculative.h"

enum {
    MIN_MATCH = 2, /* one word alone says little */
    MAX_VISITS = 64,
};

static uint32_t table_size(int max_tokens) {
    uint32_t size = 256;
    while (size < (uint32_t)max_tokens && size < 1u << 30) size *= 2;
    return size;
}

/* 8 bits for each place in the table: some for each token of most vocabularies. */
static uint32_t seen_words(uint32_t table) { return table / 4; }

uint64_t suffix_index_words(int max_tokens) {
    uint32_t table = table_size(max_tokens);
    return (uint64_t)table + (uint64_t)max_tokens + seen_words(table);
}

void suffix_index_init(struct suffix_index *index, int32_t *memory, int max_tokens) {
    uint32_t size = table_size(max_tokens);
    *index = (struct suffix_index){.newest = memory,
                                   .previous = memory + size,
                                   .seen = (uint32_t *)(memory + size + max_tokens),
                                   .mask = size - 1,
                                   .max_tokens = max_tokens};
    suffix_index_reset(index);
}

void suffix_index_reset(struct suffix_index *index) {
    memset(index->newest, 0, ((size_t)index->mask + 1) * sizeof *index->newest);
    memset(index->seen, 0, seen_words(index->mask + 1) * sizeof *index->seen);
    index->n = 1;
}

static uint32_t bucket_of(const struct suffix_index *index, const int32_t *tokens, int end) {
    uint64_t pair = (uint64_t)(uint32_t)tokens[end - 1] << 32 | (uint32_t)tokens[end];
    return (uint32_t)(pair * 0x9E3779B97F4A7C15u >> 32) & index->mask;
}

static uint32_t bit_of(const struct suffix_index *index, int32_t token) { return (uint32_t)token & (8 * (index->mask + 1) - 1); }

bool suffix_has(const struct suffix_index *index, int32_t token) {
    uint32_t bit = bit_of(index, token);
    return index->seen[bit / 32] >> bit % 32 & 1;
}

static void mark(struct suffix_index *index, int32_t token) {
    uint32_t bit = bit_of(index, token);
    index->seen[bit / 32] |= (uint32_t)1 << bit % 32;
}

void suffix_file(struct suffix_index *index, const int32_t *tokens, int n_tokens) {
    assert(n_tokens <= index->max_tokens);
    if (index->n == 1 && n_tokens > 0) mark(index, tokens[0]);
    for (; index->n < n_tokens; index->n++) {
        uint32_t bucket = bucket_of(index, tokens, index->n);
        mark(index, tokens[index->n]);
        index->previous[index->n] = index->newest[bucket];
        index->newest[bucket] = index->n + 1;
    }
}

static int match_length(const int32_t *text, int end, const int32_t *asked, int n_asked) {
    int length = 0, most = end + 1 < SUFFIX_MAX_MATCH ? end + 1 : SUFFIX_MAX_MATCH;
    if (n_asked < most) most = n_asked;
    while (length < most && text[end - length] == asked[n_asked - 1 - length]) length++;
    return length;
}

/* Keeps the places sorted: longest first, of equals the newer. A place whose next token another one has already is of no use. */
static int insert_place(struct suffix_place *places, int n, int most, const int32_t *tokens, struct suffix_place place) {
    int at = n;
    while (at > 0 && places[at - 1].length < place.length) at--;
    for (int i = 0; i < at; i++) {
        if (tokens[places[i].end + 1] == tokens[place.end + 1]) return n;
    }
    if (at == most) return n;
    int last = at; /* the place that falls out: the same continuation with a shorter match, or the end of the list */
    while (last < n && tokens[places[last].end + 1] != tokens[place.end + 1]) last++;
    if (last == n && n == most) last--;
    if (last == n) n++;
    memmove(places + at + 1, places + at, (size_t)(last - at) * sizeof *places);
    places[at] = place;
    return n;
}

int suffix_find_in(const struct suffix_index *index, const int32_t *text, int n_text, const int32_t *asked, int n_asked,
                   struct suffix_place *places, int most) {
    if (n_asked < MIN_MATCH) return 0;
    int n = 0, entry = index->newest[bucket_of(index, asked, n_asked - 1)];
    for (int visit = 0; entry > 0 && visit < MAX_VISITS; visit++) {
        struct suffix_place place = {.end = entry - 1};
        entry = index->previous[place.end];
        place.length = match_length(text, place.end, asked, n_asked);
        if (place.length < MIN_MATCH || place.end + 1 >= n_text || text[place.end + 1] < 0) continue;
        n = insert_place(places, n, most, text, place);
        if (most == 1 && place.length == SUFFIX_MAX_MATCH) break;
    }
    return n;
}

int suffix_find(struct suffix_index *index, const int32_t *tokens, int n_tokens, struct suffix_place *places, int most) {
    if (n_tokens < MIN_MATCH + 1 || n_tokens > index->max_tokens) return 0;
    suffix_file(index, tokens, n_tokens - 1); /* the last pair is what is searched for */
    return suffix_find_in(index, tokens, n_tokens, tokens, n_tokens, places, most);
}
