/* lookup.c - the drafter that costs nothing: what followed these words earlier in the text, in the author's earlier texts, and
 * what follows them in general.
 *
 * A tree grows best first. Candidates are the next token of each place that the suffix index found, and for each node what the
 * n-gram store says about the path that ends there. A place that is followed into the end of the text goes on in the draft
 * itself, so a loop of period 3 can be drafted 16 tokens ahead. What followed the last token alone comes last.
 *
 * How likely a guess is, is learned by class: for places the length of the match that ends before it, drafted tokens included;
 * for the store the probability that it names, in eight steps, and whether the text has the token already. Places in earlier
 * texts have classes of their own. Where there are hints for the token behind the text, a class is made of what is known of the
 * guess without them and of what they say. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "speculative/past.h"
#include "speculative/speculative.h"
#include "speculative/suffix.h"

enum {
    SECOND_PLACE_CLASS = 11, /* the first node of any but the best place */
    FOLLOWER_CLASS = 12,     /* what followed the last token alone, latest first; the next class: any but the first of them */
    MAX_FOLLOWERS = 3,
    FOLLOWED_TOKENS = 1024, /* of the text are searched for them */
    MAX_BRANCHES = 2 * SUFFIX_MAX_PLACES,
    MAX_CANDIDATES = MAX_BRANCHES + MAX_FOLLOWERS + DRAFT_HINTS + TREE_MAX_NODES * 2 * NGRAM_NEXT,
};

/* Stores are asked what follows nodes that are so much likelier than the least that may pay: each time costs a microsecond, and
 * what comes of it is weaker still. */
static const float LEAST_PARENT = 2.5f;

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
    const int32_t *text; /* [n_text], where the place is */
    int n_text;
    bool is_past, is_best; /* it is in an earlier text; the best place of its text */
    struct suffix_place place;
    int n; /* tokens followed so far */
    int32_t path[TREE_MAX_NODES];
};

struct growth {
    const struct draft_context *context;
    const struct ngram_store *store, *own_store; /* NULL = none */
    const struct suffix_index *own_index;        /* of the sequence's own text */
    struct token_tree *tree;
    struct branch branches[MAX_BRANCHES];
    struct candidate candidates[MAX_CANDIDATES];
    int n_branches, n_candidates;
};

static int class_of_length(int length) {
    static const uint8_t classes[] = {0, 0, 0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 8, 8, 8, 8, 9, 9, 9, 9, 9, 9, 9, 9};
    return length < (int)sizeof classes ? classes[length] : 10;
}

/* Behind PAST_CLASS itself, which is for the first node of any but the best place. */
static int past_class_of_length(int length) {
    static const uint8_t classes[] = {1, 1, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7, 7, 7};
    return PAST_CLASS + (length < (int)sizeof classes ? classes[length] : 8);
}

static int class_of_branch(const struct branch *b) {
    if (!b->is_best && b->n == 0) return b->is_past ? PAST_CLASS : SECOND_PLACE_CLASS;
    return (b->is_past ? past_class_of_length : class_of_length)(b->place.length + b->n);
}

static float hint_of(const struct draft_hints *hints, int32_t token) {
    for (int i = 0; i < hints->n; i++) {
        if (hints->tokens[i] == token) return hints->p[i];
    }
    return 0;
}

/* The hint has the luck of the draw in it, as have the odds. */
static int with_luck(const struct draft_context *context, int kind) { return kind + (context->noise.of ? ODDS_KINDS : 0); }

static int class_beside_hint(const struct draft_context *context, int32_t token, int kind, float odds) {
    int first = kind < DRAFT_STORE_CLASS ? HINT_TEXT_CLASS : HINT_STORE_CLASS, own = odds_class_of(0, odds);
    return with_luck(context, odds_class_of(first + 8 * own, hint_of(context->hints, token)));
}

static void add_candidate(struct growth *g, int parent, int32_t token, int kind, int branch) {
    assert(g->n_candidates < MAX_CANDIDATES);
    const struct draft_context *context = g->context;
    int odds_class = odds_class_of_draw(&context->noise, context->n_tokens + g->tree->depth[parent], token, kind);
    float odds = odds_estimate(context->own, context->all, odds_class);
    if (parent == 0 && context->hints && kind < PAST_CLASS) {
        odds_class = class_beside_hint(context, token, kind, odds);
        odds = odds_estimate(context->own, context->all, odds_class);
    }
    g->candidates[g->n_candidates++] = (struct candidate){parent, odds_class, token, odds, branch};
}

/* The end of the sequence's own text goes on in the draft; that of an earlier text is the end. */
static void follow(struct growth *g, int i, int node) {
    struct branch *b = &g->branches[i];
    int at = b->place.end + 1 + b->n, class = class_of_branch(b);
    int32_t token = at < b->n_text ? b->text[at] : b->is_past ? -1 : b->path[at - b->n_text];
    if (token < 0) return;
    b->path[b->n++] = token;
    add_candidate(g, node, token, class, i);
}

static void add_branches(struct growth *g, const int32_t *text, int n_text, bool is_past, const struct suffix_place *places,
                         int n) {
    for (int i = 0; i < n; i++) {
        struct branch *b = &g->branches[g->n_branches++];
        b->text = text, b->n_text = n_text;
        b->is_past = is_past, b->is_best = i == 0;
        b->place = places[i];
        b->n = 0;
        follow(g, g->n_branches - 1, 0);
    }
}

/* What a store says about the last tokens of the path to a node: tokens that the text has already come true up to three times as
 * often as others. */
static void add_guesses(struct growth *g, const struct ngram_store *store, int node, const int32_t *last, int n, int new_class,
                        int seen_class) {
    struct ngram_guess guesses[NGRAM_NEXT];
    int n_guesses = store ? ngram_find(store, last, n, guesses) : 0;
    for (int i = 0; i < n_guesses; i++) {
        int first_class = suffix_has(g->own_index, guesses[i].token) ? seen_class : new_class;
        add_candidate(g, node, guesses[i].token, odds_class_of(first_class, guesses[i].probability), -1);
    }
}

static void ask_stores(struct growth *g, int node) {
    int32_t last[NGRAM_ORDERS];
    int n = 0, n_tokens = g->context->n_tokens;
    if (!g->store && !g->own_store) return;
    for (int i = node; i > 0 && n < NGRAM_ORDERS; i = g->tree->parent[i]) last[NGRAM_ORDERS - ++n] = g->tree->tokens[i];
    for (int i = n_tokens - 1; i >= 0 && n < NGRAM_ORDERS; i--) last[NGRAM_ORDERS - ++n] = g->context->tokens[i];
    add_guesses(g, g->store, node, last + NGRAM_ORDERS - n, n, DRAFT_STORE_CLASS, SEEN_STORE_CLASS);
    add_guesses(g, g->own_store, node, last + NGRAM_ORDERS - n, n, PAST_STORE_CLASS, PAST_STORE_CLASS);
}

static bool is_candidate(const struct growth *g, int32_t token) {
    for (int i = 0; i < g->n_candidates; i++) {
        if (g->candidates[i].token == token) return true;
    }
    return false;
}

/* One word alone says little, but what followed it here is often what nobody else guesses. Only the root is worth it, and it
 * comes last. */
static void add_followers(struct growth *g) {
    const int32_t *tokens = g->context->tokens;
    const int last = g->context->n_tokens - 1, end = last > FOLLOWED_TOKENS ? last - FOLLOWED_TOKENS : 0;
    int n = 0;
    for (int i = last - 1; i >= end && n < MAX_FOLLOWERS; i--) {
        if (tokens[i] != tokens[last] || is_candidate(g, tokens[i + 1])) continue;
        add_candidate(g, 0, tokens[i + 1], FOLLOWER_CLASS + (n > 0), -1);
        n++;
    }
}

/* What only the hints know. */
static void add_hints(struct growth *g) {
    static const float least = 0.03f; /* below it never pays */
    const struct draft_context *context = g->context;
    for (int i = 0; i < context->hints->n; i++) {
        const int32_t token = context->hints->tokens[i];
        if (context->hints->p[i] < least || is_candidate(g, token)) continue;
        int odds_class = with_luck(context, odds_class_of(HINT_CLASS, context->hints->p[i]));
        float odds = odds_estimate(context->own, context->all, odds_class);
        g->candidates[g->n_candidates++] = (struct candidate){0, odds_class, token, odds, -1};
    }
}

/* Takes the likeliest candidate out. In a chain only what hangs on its end counts. False when there is none. */
static bool take_best(struct growth *g, struct candidate *out) {
    int best = -1;
    float best_chance = g->context->least_chance;
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
            if (chance[node] >= LEAST_PARENT * g->context->least_chance) ask_stores(g, node);
        }
        if (c.branch >= 0 && g->branches[c.branch].n < TREE_MAX_NODES) follow(g, c.branch, node);
    }
}

static void propose(void *self, int slot, const struct draft_context *context, struct token_tree *tree) {
    const struct lookup_drafter *d = self;
    struct suffix_place places[SUFFIX_MAX_PLACES];
    struct suffix_index *own = &d->slots[slot];
    struct growth g = {
        .context = context, .store = context->sources & DRAFT_FROM_STORE ? d->store : NULL, .own_index = own, .tree = tree};
    const struct past_text *past = context->sources & DRAFT_FROM_PAST ? context->past : NULL;
    const int32_t *tokens = context->tokens;
    int width = context->max_width < SUFFIX_MAX_PLACES ? context->max_width : SUFFIX_MAX_PLACES, n_tokens = context->n_tokens;
    if (context->sources & DRAFT_FROM_SUFFIX)
        add_branches(&g, tokens, n_tokens, false, places, suffix_find(own, tokens, n_tokens, places, width));
    if (past)
        add_branches(&g, past->tokens, past->n, true, places,
                     suffix_find_in(&past->index, past->tokens, past->n, tokens, n_tokens, places, width));
    if (past && past_has_store(past)) g.own_store = &past->store;
    if (n_tokens <= own->max_tokens) suffix_file(own, tokens, n_tokens - 1);
    ask_stores(&g, 0);
    if (context->sources & DRAFT_FROM_SUFFIX) add_followers(&g);
    if (context->hints) add_hints(&g);
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
