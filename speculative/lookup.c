/* lookup.c - the drafter that costs nothing: what followed these words earlier in the text, and what follows them in general.
 *
 * A tree grows best first. Candidates are the next token of each place that the suffix index found, and for each node what the
 * n-gram store says about the path that ends there. A place that is followed into the end of the text goes on in the draft
 * itself, so a loop of period 3 can be drafted 16 tokens ahead.
 *
 * How likely a guess is, is learned by class: for places the length of the match that ends before it, drafted tokens included;
 * for the store the probability that it names, in eight steps. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "speculative/speculative.h"
#include "speculative/suffix.h"

enum {
    SECOND_PLACE_CLASS = 11, /* the first node of any but the best place */
    MAX_CANDIDATES = SUFFIX_MAX_PLACES + TREE_MAX_NODES * NGRAM_NEXT,
};

struct lookup_drafter {
    int n_slots;
    const struct ngram_store *store;
    struct suffix_index *slots;
    int32_t *memory;
};

struct candidate {
    int parent, odds_class;
    int32_t token;
    float odds;
    int branch; /* the place that it comes from, -1 = the store */
};

/* A place that is being followed. */
struct branch {
    struct suffix_place place;
    int n; /* tokens followed so far */
    int32_t path[TREE_MAX_NODES];
};

struct growth {
    const struct draft_context *context;
    const struct ngram_store *store;
    struct token_tree *tree;
    struct branch branches[SUFFIX_MAX_PLACES];
    struct candidate candidates[MAX_CANDIDATES];
    int n_candidates;
};

static int class_of_length(int length) {
    static const uint8_t classes[] = {0, 0, 0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 8, 8, 8, 8, 9, 9, 9, 9, 9, 9, 9, 9};
    return length < (int)sizeof classes ? classes[length] : 10;
}

static void add_candidate(struct growth *g, int parent, int32_t token, int odds_class, int branch) {
    assert(g->n_candidates < MAX_CANDIDATES);
    float odds = odds_estimate(g->context->own, g->context->all, odds_class);
    g->candidates[g->n_candidates++] = (struct candidate){parent, odds_class, token, odds, branch};
}

static void follow(struct growth *g, int i, int node) {
    struct branch *b = &g->branches[i];
    int at = b->place.end + 1 + b->n, n_tokens = g->context->n_tokens;
    int class = i > 0 && b->n == 0 ? SECOND_PLACE_CLASS : class_of_length(b->place.length + b->n);
    int32_t token = at < n_tokens ? g->context->tokens[at] : b->path[at - n_tokens];
    b->path[b->n++] = token;
    add_candidate(g, node, token, class, i);
}

/* What the store says about the last tokens of the path to a node. */
static void ask_store(struct growth *g, int node) {
    struct ngram_guess guesses[NGRAM_NEXT];
    int32_t last[NGRAM_ORDERS];
    int n = 0, n_tokens = g->context->n_tokens;
    if (!g->store) return;
    for (int i = node; i > 0 && n < NGRAM_ORDERS; i = g->tree->parent[i]) last[NGRAM_ORDERS - ++n] = g->tree->tokens[i];
    for (int i = n_tokens - 1; i >= 0 && n < NGRAM_ORDERS; i--) last[NGRAM_ORDERS - ++n] = g->context->tokens[i];
    int n_guesses = ngram_find(g->store, last + NGRAM_ORDERS - n, n, guesses);
    for (int i = 0; i < n_guesses; i++)
        add_candidate(g, node, guesses[i].token, odds_class_of(DRAFT_STORE_CLASS, guesses[i].probability), -1);
}

/* Takes the likeliest candidate out. In a chain only what hangs on its end counts. False when there is none. */
static bool take_best(struct growth *g, struct candidate *out) {
    int best = -1;
    float best_chance = 0;
    for (int i = 0; i < g->n_candidates; i++) {
        const struct candidate *c = &g->candidates[i];
        if (g->context->max_width == 1 && c->parent != g->tree->n_nodes - 1) continue;
        float chance = g->tree->chance[c->parent] * c->odds;
        if (chance > best_chance) best = i, best_chance = chance;
    }
    if (best < 0) return false;
    *out = g->candidates[best];
    g->candidates[best] = g->candidates[--g->n_candidates];
    return true;
}

static void grow(struct growth *g) {
    struct candidate c;
    while (g->tree->n_nodes <= g->context->max_nodes && take_best(g, &c)) {
        int n_before = g->tree->n_nodes, node = tree_add(g->tree, c.parent, c.token, c.odds_class, c.odds);
        assert(node > 0);
        if (node == n_before) {
            float *chance = g->tree->chance;
            /* A weak candidate that meets a strong node may have opened the way to this one too late: chances must not rise. */
            if (chance[node] > chance[node - 1]) chance[node] = chance[node - 1];
            ask_store(g, node);
        }
        if (c.branch >= 0 && g->branches[c.branch].n < TREE_MAX_NODES) follow(g, c.branch, node);
    }
}

static void propose(void *self, int slot, const struct draft_context *context, struct token_tree *tree) {
    const struct lookup_drafter *d = self;
    struct suffix_place places[SUFFIX_MAX_PLACES];
    struct growth g = {
        .context = context, .store = context->sources & DRAFT_FROM_STORE ? d->store : NULL, .tree = tree, .n_candidates = 0};
    int width = context->max_width < SUFFIX_MAX_PLACES ? context->max_width : SUFFIX_MAX_PLACES, n = 0;
    if (context->sources & DRAFT_FROM_SUFFIX) n = suffix_find(&d->slots[slot], context->tokens, context->n_tokens, places, width);
    for (int i = 0; i < n; i++) {
        g.branches[i].place = places[i];
        g.branches[i].n = 0;
        follow(&g, i, 0);
    }
    ask_store(&g, 0);
    grow(&g);
}

/* --- open, close --- */

static void begin(void *self, int slot) {
    struct lookup_drafter *d = self;
    suffix_index_reset(&d->slots[slot]);
}

static void close_drafter(void *self) {
    struct lookup_drafter *d = self;
    if (!d) return;
    free(d->slots);
    free(d->memory);
    free(d);
}

static const struct drafter_ops lookup_ops = {.name = "lookup", .begin = begin, .propose = propose, .close = close_drafter};

uint64_t lookup_drafter_bytes(int n_slots, int max_tokens) {
    return (uint64_t)n_slots * (suffix_index_words(max_tokens) * sizeof(int32_t) + sizeof(struct suffix_index));
}

int lookup_drafter_open(struct drafter *out, int n_slots, int max_tokens, const struct ngram_store *store) {
    struct lookup_drafter *d = calloc(1, sizeof *d);
    size_t words = (size_t)suffix_index_words(max_tokens);
    if (!d) return -1;
    *d = (struct lookup_drafter){.n_slots = n_slots, .store = store};
    d->slots = calloc((size_t)n_slots, sizeof *d->slots);
    d->memory = calloc((size_t)n_slots * words, sizeof *d->memory);
    if (!d->slots || !d->memory) {
        close_drafter(d);
        return -1;
    }
    for (int i = 0; i < n_slots; i++) suffix_index_init(&d->slots[i], d->memory + (size_t)i * words, max_tokens);
    *out = (struct drafter){&lookup_ops, d};
    return 0;
}
