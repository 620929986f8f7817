/* suffix.c - the drafter that costs nothing: text repeats itself, so what followed these words before may follow them again.
 *
 * For each slot an index of pairs: position p is filed under the hash of tokens (p - 1, p), newest first, each entry linked to
 * the one before it of the same hash. To propose, the latest MAX_VISITS places of the last pair are compared with the end of
 * the text, backwards; the longest match wins, the newest of equals. What followed it is the draft. Where it runs into the end
 * of the text it goes on in the draft itself, so a loop of period 3 can be drafted 16 tokens ahead.
 *
 * A guess is the better, the longer the text has matched: a node's class is the length of the match that ends before it, drafted
 * tokens included. Against a suffix automaton this finds the same match except behind MAX_VISITS newer places of the same
 * pair, at a seventh of the memory, and it sees several competing places. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "speculative/speculative.h"

enum {
    MIN_MATCH = 2, /* one word alone says little */
    MAX_MATCH = SUFFIX_MAX_MATCH,
    MAX_VISITS = 64,
    MAX_PLACES = SUFFIX_MAX_PLACES,
    SECOND_PLACE_CLASS = 11, /* the first node of any but the best place */
};

struct pair_index {
    int32_t *newest;   /* [mask + 1], by hash: position + 1, 0 = none */
    int32_t *previous; /* [max_tokens], the next older position + 1 of the same hash */
    int n;             /* positions 1 .. n - 1 are filed */
};

struct suffix_drafter {
    int n_slots, max_tokens;
    uint32_t mask;
    struct pair_index *slots;
    int32_t *memory;
};

/* A place that ends like the text. */
struct place {
    int end;    /* position of its last token */
    int length; /* of the match */
};

static uint32_t table_size(int max_tokens) {
    uint32_t size = 256;
    while (size < (uint32_t)max_tokens && size < 1u << 30) size *= 2;
    return size;
}

uint64_t suffix_drafter_bytes(int n_slots, int max_tokens) {
    uint64_t per_slot = ((uint64_t)table_size(max_tokens) + (uint64_t)max_tokens) * sizeof(int32_t);
    return (uint64_t)n_slots * (per_slot + sizeof(struct pair_index));
}

static uint32_t bucket_of(const struct suffix_drafter *d, const int32_t *tokens, int end) {
    uint64_t pair = (uint64_t)(uint32_t)tokens[end - 1] << 32 | (uint32_t)tokens[end];
    return (uint32_t)(pair * 0x9E3779B97F4A7C15u >> 32) & d->mask;
}

static int class_of_length(int length) {
    static const uint8_t classes[] = {0, 0, 0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 8, 8, 8, 8, 9, 9, 9, 9, 9, 9, 9, 9};
    return length < (int)sizeof classes ? classes[length] : 10;
}

/* --- the index --- */

static void file_tokens(const struct suffix_drafter *d, struct pair_index *index, const int32_t *tokens, int n_tokens) {
    assert(n_tokens <= d->max_tokens);
    for (; index->n < n_tokens; index->n++) {
        uint32_t bucket = bucket_of(d, tokens, index->n);
        index->previous[index->n] = index->newest[bucket];
        index->newest[bucket] = index->n + 1;
    }
}

static int match_length(const int32_t *tokens, int n_tokens, int end) {
    int length = 0, most = end + 1 < MAX_MATCH ? end + 1 : MAX_MATCH;
    while (length < most && tokens[end - length] == tokens[n_tokens - 1 - length]) length++;
    return length;
}

/* Keeps the places sorted: longest first, of equals the newer. A place whose next token another one has already is of no use. */
static int insert_place(struct place *places, int n, int most, const int32_t *tokens, struct place place) {
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

/* The best places, at most `most`. The last pair itself is not filed yet. */
static int find_places(const struct suffix_drafter *d, const struct pair_index *index, const int32_t *tokens, int n_tokens,
                       struct place *places, int most) {
    int n = 0, entry = index->newest[bucket_of(d, tokens, n_tokens - 1)];
    for (int visit = 0; entry > 0 && visit < MAX_VISITS; visit++) {
        struct place place = {.end = entry - 1};
        entry = index->previous[place.end];
        place.length = match_length(tokens, n_tokens, place.end);
        if (place.length < MIN_MATCH) continue;
        n = insert_place(places, n, most, tokens, place);
        if (most == 1 && place.length == MAX_MATCH) break;
    }
    return n;
}

/* --- the tree --- */

/* A place that is being followed: its next token would hang on `node`. */
struct branch {
    struct place place;
    int n, node; /* tokens followed so far */
    int32_t path[TREE_MAX_NODES];
};

static int32_t branch_token(const struct branch *b, const int32_t *tokens, int n_tokens) {
    int at = b->place.end + 1 + b->n;
    return at < n_tokens ? tokens[at] : b->path[at - n_tokens];
}

static int branch_class(const struct branch *b, int rank) {
    return rank > 0 && b->n == 0 ? SECOND_PLACE_CLASS : class_of_length(b->place.length + b->n);
}

/* Best first: each time the branch whose next node is the likeliest grows by it. */
static void grow(const struct draft_context *context, struct branch *branches, int n, struct token_tree *tree) {
    while (tree->n_nodes <= context->max_nodes) {
        int best = -1;
        float best_chance = 0;
        for (int i = 0; i < n; i++) {
            float odds = odds_estimate(context->own, context->all, branch_class(&branches[i], i));
            float chance = tree->chance[branches[i].node] * odds;
            if (chance > best_chance) best = i, best_chance = chance;
        }
        if (best < 0) return;
        struct branch *b = &branches[best];
        int class = branch_class(b, best);
        int32_t token = branch_token(b, context->tokens, context->n_tokens);
        b->path[b->n++] = token;
        b->node = tree_add(tree, b->node, token, class, odds_estimate(context->own, context->all, class));
        assert(b->node > 0);
    }
}

static void propose(void *self, int slot, const struct draft_context *context, struct token_tree *tree) {
    const struct suffix_drafter *d = self;
    struct pair_index *index = &d->slots[slot];
    struct place places[MAX_PLACES];
    struct branch branches[MAX_PLACES];
    int n_tokens = context->n_tokens, width = context->max_width < MAX_PLACES ? context->max_width : MAX_PLACES;
    if (n_tokens < MIN_MATCH + 1 || n_tokens > d->max_tokens) return;
    file_tokens(d, index, context->tokens, n_tokens - 1);
    int n = find_places(d, index, context->tokens, n_tokens, places, width);
    for (int i = 0; i < n; i++) {
        branches[i].place = places[i];
        branches[i].n = branches[i].node = 0;
    }
    grow(context, branches, n, tree);
}

/* --- open, close --- */

static void begin(void *self, int slot) {
    const struct suffix_drafter *d = self;
    struct pair_index *index = &d->slots[slot];
    memset(index->newest, 0, ((size_t)d->mask + 1) * sizeof *index->newest);
    index->n = 1;
}

static void close_drafter(void *self) {
    struct suffix_drafter *d = self;
    if (!d) return;
    free(d->slots);
    free(d->memory);
    free(d);
}

static const struct drafter_ops suffix_ops = {.name = "suffix", .begin = begin, .propose = propose, .close = close_drafter};

int suffix_drafter_open(struct drafter *out, int n_slots, int max_tokens) {
    struct suffix_drafter *d = calloc(1, sizeof *d);
    if (!d) return -1;
    *d = (struct suffix_drafter){.n_slots = n_slots, .max_tokens = max_tokens, .mask = table_size(max_tokens) - 1};
    size_t per_slot = (size_t)table_size(max_tokens) + (size_t)max_tokens;
    d->slots = calloc((size_t)n_slots, sizeof *d->slots);
    d->memory = calloc((size_t)n_slots * per_slot, sizeof *d->memory);
    if (!d->slots || !d->memory) {
        close_drafter(d);
        return -1;
    }
    for (int i = 0; i < n_slots; i++) {
        d->slots[i].newest = d->memory + (size_t)i * per_slot;
        d->slots[i].previous = d->slots[i].newest + d->mask + 1;
        d->slots[i].n = 1;
    }
    *out = (struct drafter){&suffix_ops, d};
    return 0;
}
