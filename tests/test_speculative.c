/* test_speculative.c - trees and walks, the suffix drafter against a brute-force search, odds, and a controller that never
 * loses in simulation. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "speculative/speculative.h"
#include "speculative/suffix.h"

static uint64_t rng = 2024;

static uint32_t draw(uint32_t n) {
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33) % n;
}

static double draw_unit(void) { return draw(1 << 30) / (double)(1 << 30); }

/* --- trees --- */

static void assert_valid(const struct token_tree *tree) {
    assert_true(tree->n_nodes >= 1 && tree->n_nodes <= TREE_MAX_NODES);
    for (int i = 0; i < tree->n_nodes; i++) {
        uint64_t above = 0;
        for (int j = i; j >= 0; j = tree->parent[j]) {
            above |= (uint64_t)1 << j;
            assert_true(tree->parent[j] < j);
        }
        assert_true(tree->ancestors[i] == above);
        assert_int_equal(tree->depth[i] + 1, __builtin_popcountll(above));
        if (i > 0) assert_true(tree->chance[i] <= tree->chance[tree->parent[i]]);
        for (int j = 1; j < i; j++) assert_false(tree->parent[i] == tree->parent[j] && tree->tokens[i] == tree->tokens[j]);
    }
}

/* Protects: parents before children, ancestor sets, one child a token, and the bound. */
static void trees_keep_their_shape(void **state) {
    (void)state;
    struct token_tree tree;
    tree_init(&tree, 7);
    int a = tree_add(&tree, 0, 10, 0, .5f), b = tree_add(&tree, a, 11, 0, .5f), c = tree_add(&tree, 0, 12, 0, .25f);
    assert_true(a == 1 && b == 2 && c == 3);
    assert_int_equal(tree_add(&tree, 0, 10, 0, .5f), a);
    assert_int_equal(tree_child(&tree, 0, 12), c);
    assert_int_equal(tree_child(&tree, a, 12), -1);
    assert_true(tree.chance[b] == .25f && tree.ancestors[b] == 7 && tree.ancestors[c] == 9);
    for (int i = 0; i < 500; i++) {
        int n = tree.n_nodes, parent = (int)draw((uint32_t)n), node = tree_add(&tree, parent, (int32_t)draw(3), 0, .9f);
        if (node < 0) assert_int_equal(n, TREE_MAX_NODES);
    }
    assert_int_equal(tree.n_nodes, TREE_MAX_NODES);
    assert_valid(&tree);
}

/* Protects: a walk ends exactly where the drawn text leaves the computed part of the tree. */
static bool same_node(const struct token_tree *a, int i, const struct token_tree *b, int j) {
    for (; i >= 0 && j >= 0; i = a->parent[i], j = b->parent[j]) {
        if (a->tokens[i] != b->tokens[j] || a->depth[i] != b->depth[j] || a->chance[i] != b->chance[j]) return false;
    }
    return i == j;
}

/* Sorted, the first n nodes hold the same paths; each stands right behind its parent or behind an elder brother's family. */
static void sorting_keeps_paths(void **state) {
    (void)state;
    for (int round = 0; round < 500; round++) {
        struct token_tree tree, sorted;
        tree_init(&tree, 0);
        int most = 1 + (int)draw(TREE_MAX_NODES);
        while (tree.n_nodes < most) tree_push(&tree, (int)draw((uint32_t)tree.n_nodes), tree.n_nodes, 0, 0.9f);
        int n = 1 + (int)draw((uint32_t)tree.n_nodes);
        sorted = tree;
        tree_sort_depth_first(&sorted, n);
        for (int i = 0; i < tree.n_nodes; i++) {
            int at = 0;
            while (sorted.tokens[at] != tree.tokens[i]) at++;
            assert_true(same_node(&tree, i, &sorted, at));
            assert_int_equal(i < n, at < n);
            assert_true(at == 0 || sorted.ancestors[at] == (sorted.ancestors[sorted.parent[at]] | (uint64_t)1 << at));
            if (at > 0 && at < n) assert_true(sorted.ancestors[at - 1] >> sorted.parent[at] & 1);
        }
    }
}

static void walks_accept_what_was_drawn(void **state) {
    (void)state;
    for (int round = 0; round < 2000; round++) {
        struct token_tree tree;
        struct tree_walk walk;
        int32_t drawn[TREE_MAX_NODES];
        tree_init(&tree, 0);
        int most = 1 + (int)draw(TREE_MAX_NODES);
        for (int i = 1; i < most; i++) tree_add(&tree, (int)draw((uint32_t)tree.n_nodes), (int32_t)draw(3), 0, 1);
        int n_nodes = 1 + (int)draw((uint32_t)tree.n_nodes), n_accepted = 0, longest = 0;
        for (int i = 0; i < TREE_MAX_NODES; i++) drawn[i] = (int32_t)draw(3);
        walk_begin(&walk, &tree, n_nodes);
        while (walk_step(&walk, drawn[n_accepted])) n_accepted++;
        for (int node = 0; node < n_nodes; node++) { /* the deepest node whose whole path was drawn */
            int j = node;
            while (j > 0 && tree.tokens[j] == drawn[tree.depth[j] - 1]) j = tree.parent[j];
            if (j == 0 && tree.depth[node] > longest) longest = tree.depth[node];
        }
        assert_int_equal(n_accepted, longest);
        assert_int_equal(tree.depth[walk.node], longest);
    }
}

/* Chances fall from node to node. */
static void grow_at_random(struct token_tree *tree) {
    tree_init(tree, 0);
    for (int n = (int)draw(20); n > 0; n--) {
        int parent = (int)draw((uint32_t)tree->n_nodes);
        float last = tree->chance[tree->n_nodes - 1], odds = (float)draw_unit() * last / tree->chance[parent];
        if (odds < 1) tree_add(tree, parent, (int32_t)draw(4), (int)draw(ODDS_CLASSES), odds);
    }
}

static bool has_path(const struct token_tree *tree, const struct token_tree *of, int node) {
    int32_t path[TREE_MAX_NODES];
    int depth = of->depth[node], at = 0;
    for (int i = node; i > 0; i = of->parent[i]) path[of->depth[i] - 1] = of->tokens[i];
    for (int i = 0; i < depth && at >= 0; i++) at = tree_child(tree, at, path[i]);
    return at >= 0;
}

/* Protects: a merged tree is one: valid, chances falling, those of siblings adding up to no more than their parent's; it has
 * all nodes of both while there is room, and no others; the likeliest is in it. */
static void trees_merge(void **state) {
    (void)state;
    for (int round = 0; round < 5000; round++) {
        struct token_tree a, b, all, few;
        grow_at_random(&a);
        grow_at_random(&b);
        int most = (int)draw(12);
        tree_merge(&all, &a, &b, TREE_MAX_NODES - 1);
        tree_merge(&few, &a, &b, most);
        assert_valid(&all);
        assert_valid(&few);
        assert_true(few.n_nodes - 1 <= most && few.n_nodes <= all.n_nodes);
        for (int i = 1; i < all.n_nodes; i++) {
            float sum = 0;
            for (int k = 1; k < all.n_nodes; k++) sum += all.parent[k] == all.parent[i] ? all.chance[k] : 0;
            assert_true(sum <= all.chance[all.parent[i]] * 1.0001f && all.chance[i] <= all.chance[i - 1] * 1.0001f);
            assert_true(has_path(&a, &all, i) || has_path(&b, &all, i));
            if (i < few.n_nodes) assert_true(few.tokens[i] == all.tokens[i] && few.parent[i] == all.parent[i]);
        }
        const struct token_tree *better = b.n_nodes > 1 && (a.n_nodes == 1 || b.chance[1] > a.chance[1]) ? &b : &a;
        if (better->n_nodes > 1 && most > 0) assert_true(few.tokens[1] == better->tokens[1] && few.parent[1] == 0);
        tree_merge(&all, &a, &a, TREE_MAX_NODES - 1);
        for (int i = 1; i < a.n_nodes && round % 2; i++) assert_true(!has_path(&all, &a, i) || all.n_nodes <= a.n_nodes);
    }
}

/* --- suffix drafter --- */

/* The place to draft from by looking at all of them: the longest match of at least 2, the newest of equals. -1 = none. */
static int oracle_place(const int32_t *tokens, int n, int *length) {
    int best = -1;
    *length = 1;
    for (int end = 0; end < n - 1; end++) {
        int match = 0;
        while (match <= end && match < SUFFIX_MAX_MATCH && tokens[end - match] == tokens[n - 1 - match]) match++;
        if (match >= *length && match >= 2) best = end, *length = match;
    }
    return best;
}

static double even_noise(const void *self, int position, int32_t token) {
    (void)self, (void)position, (void)token;
    return 0.4;
}

static void propose(struct drafter *drafter, const int32_t *tokens, int n, int width, int max_nodes, struct token_tree *tree) {
    static struct draft_odds own, all;
    odds_init_prior(&all);
    const struct draft_context context = {.tokens = tokens,
                                          .n_tokens = n,
                                          .own = &own,
                                          .all = &all,
                                          .max_nodes = max_nodes,
                                          .max_width = width,
                                          .sources = DRAFT_FROM_ALL};
    tree_init(tree, tokens[n - 1]);
    drafter->ops->propose(drafter->self, 1, &context, tree);
    assert_valid(tree);
    assert_true(tree->n_nodes - 1 <= max_nodes);
    for (int i = 1; i < tree->n_nodes; i++) assert_true(tree->chance[i] <= tree->chance[i - 1]);
}

/* Protects: the longest, newest match is found, and what followed it is drafted, beyond the end of the text too. */
static void suffixes_are_found(void **state) {
    (void)state;
    struct drafter drafter;
    struct token_tree tree;
    int32_t tokens[64 + 16];
    int n_found = 0;
    assert_int_equal(lookup_drafter_open(&drafter, 3, 64, NULL), 0);
    for (int round = 0; round < 3000; round++) {
        uint32_t alphabet = 2 + draw(12);
        drafter.ops->begin(drafter.self, 1);
        for (int n = 1; n <= 64; n++) {
            int length;
            tokens[n - 1] = (int32_t)draw(alphabet);
            if (draw(2)) continue; /* what was not asked for is filed later */
            int end = oracle_place(tokens, n, &length);
            propose(&drafter, tokens, n, 1, 16, &tree);
            assert_true(end >= 0 ? tree.n_nodes == 17 : tree.n_nodes == 1 || (tree.n_nodes == 2 && tree.odds_class[1] == 12));
            n_found += end >= 0;
            for (int i = 1; end >= 0 && i < tree.n_nodes; i++) {
                tokens[n - 1 + i] = tokens[end + i]; /* the continuation; overlapping, it runs on in itself */
                assert_int_equal(tree.tokens[i], tokens[n - 1 + i]);
                assert_int_equal(tree.parent[i], i - 1);
            }
        }
    }
    assert_true(n_found > 10000);
    drafter.ops->close(drafter.self);
}

/* Protects: in a tree the first branch is the chain, and every branch follows a real place. */
static void competing_places_become_branches(void **state) {
    (void)state;
    struct drafter drafter;
    struct token_tree tree, chain;
    int32_t tokens[64];
    int n_branched = 0;
    assert_int_equal(lookup_drafter_open(&drafter, 2, 64, NULL), 0);
    for (int round = 0; round < 3000; round++) {
        drafter.ops->begin(drafter.self, 1);
        int n = 3 + (int)draw(60);
        for (int i = 0; i < n; i++) tokens[i] = (int32_t)draw(4);
        propose(&drafter, tokens, n, 1, 12, &chain);
        propose(&drafter, tokens, n, SUFFIX_MAX_PLACES, 12, &tree);
        int children = 0;
        for (int i = 1; i < tree.n_nodes; i++) {
            if (tree.parent[i] != 0 || tree.odds_class[i] >= 12) continue; /* followers of one token */
            children++;
            bool follows = false;
            for (int end = 1; end < n - 1; end++) {
                follows = follows ||
                          (tokens[end] == tokens[n - 1] && tokens[end - 1] == tokens[n - 2] && tokens[end + 1] == tree.tokens[i]);
            }
            assert_true(follows);
        }
        assert_true(children <= SUFFIX_MAX_PLACES && (children > 0) == (chain.n_nodes > 1 && chain.odds_class[1] < 12));
        if (children > 0) assert_true(tree_child(&tree, 0, chain.tokens[1]) > 0);
        n_branched += children > 1;
    }
    assert_true(n_branched > 100);
    drafter.ops->close(drafter.self);
}

/* Protects: an index knows which tokens were filed, forgets them when it is reset, and files in pieces as at once. */
static void tokens_are_noted(void **state) {
    (void)state;
    enum { MOST = 600, N_VOCAB = 8 * 1024 };
    static int32_t memory[8 * MOST], text[MOST];
    struct suffix_index index;
    assert_true(suffix_index_words(MOST) <= sizeof memory / sizeof *memory);
    suffix_index_init(&index, memory, MOST);
    for (int i = 0; i < MOST; i++) text[i] = (int32_t)draw(N_VOCAB);
    for (int n = 0; n <= MOST; n += 50) {
        suffix_file(&index, text, n);
        for (int32_t token = 0; token < N_VOCAB; token++) {
            bool is_there = false;
            for (int i = 0; i < n && !is_there; i++) is_there = text[i] == token;
            assert_int_equal(suffix_has(&index, token), is_there);
        }
    }
    suffix_index_reset(&index);
    for (int32_t token = 0; token < N_VOCAB; token++) assert_false(suffix_has(&index, token));
}

/* Protects: what followed the last token alone is guessed, too, the latest first, but nothing twice. */
static void followers_are_guessed(void **state) {
    (void)state;
    struct drafter drafter;
    struct token_tree tree;
    const int32_t once[] = {5, 6, 7, 5}, often[] = {5, 6, 5, 7, 8, 5, 6, 9, 5}, pair[] = {1, 5, 6, 4, 1, 5};
    assert_int_equal(lookup_drafter_open(&drafter, 2, 64, NULL), 0);
    drafter.ops->begin(drafter.self, 1);
    propose(&drafter, once, 4, 4, 8, &tree);
    assert_true(tree.n_nodes == 2 && tree.tokens[1] == 6 && tree.odds_class[1] == 12);
    drafter.ops->begin(drafter.self, 1);
    propose(&drafter, often, 9, 4, 8, &tree);
    assert_true(tree.n_nodes == 3 && tree.tokens[1] == 6 && tree.odds_class[1] == 12);
    assert_true(tree.tokens[2] == 7 && tree.odds_class[2] == 13 && tree.parent[2] == 0);
    drafter.ops->begin(drafter.self, 1);
    propose(&drafter, pair, 6, 4, 1, &tree);
    assert_true(tree.n_nodes == 2 && tree.tokens[1] == 6 && tree.odds_class[1] < 11);
    drafter.ops->close(drafter.self);
}

/* Protects: what hints say of a guess counts, what they alone know is guessed, too, and with the noise of the draw known such
 * guesses have odds of their own. */
static void hints_are_heeded(void **state) {
    (void)state;
    struct drafter drafter;
    static struct draft_odds own, all;
    struct token_tree tree;
    const int32_t text[] = {5, 6, 7, 1, 5, 6, 8, 2, 5, 6}; /* 8 follows the newer place, 7 the older one */
    const struct draft_hints hints[] = {{2, {8, 3}, {.7f, .3f}}, {2, {7, 3}, {.7f, .2f}}, {1, {3}, {.95f}}};
    static const int32_t first[] = {8, 7, 3};
    assert_int_equal(lookup_drafter_open(&drafter, 2, 64, NULL), 0);
    odds_init_prior(&all);
    for (int i = 0; i < 6; i++) {
        const struct draft_noise noise = {i < 3 ? NULL : even_noise, NULL};
        struct draft_context context = {.tokens = text,
                                        .n_tokens = 10,
                                        .own = &own,
                                        .all = &all,
                                        .max_nodes = 24,
                                        .max_width = 4,
                                        .sources = DRAFT_FROM_ALL,
                                        .hints = &hints[i % 3],
                                        .noise = noise};
        drafter.ops->begin(drafter.self, 1);
        tree_init(&tree, 6);
        drafter.ops->propose(drafter.self, 1, &context, &tree);
        assert_valid(&tree);
        assert_int_equal(tree.tokens[1], first[i % 3]);
        for (int k = 1; k < tree.n_nodes; k++) {
            int kind = odds_kind(tree.odds_class[k]);
            if (tree.parent[k] > 0) assert_true(kind < HINT_CLASS);
            if (tree.parent[k] == 0)
                assert_true(tree.tokens[k] == 3 ? kind >= HINT_CLASS && kind < HINT_TEXT_CLASS : kind >= HINT_TEXT_CLASS);
            if (tree.parent[k] == 0) assert_int_equal(tree.odds_class[k] >= ODDS_KINDS, i >= 3);
        }
        assert_true(tree_child(&tree, 0, 3) > 0 && tree_child(&tree, 0, 7) > 0 && tree_child(&tree, 0, 8) > 0);
    }
    drafter.ops->close(drafter.self);
}

/* Protects: another sequence's text never comes out of a slot, nor the text of the slot's last owner. */
static void slots_are_private(void **state) {
    (void)state;
    struct drafter drafter;
    struct token_tree tree;
    const int32_t secret[] = {1, 2, 3, 4, 1, 2}, asked[] = {9, 8, 1, 2};
    assert_int_equal(lookup_drafter_open(&drafter, 2, 64, NULL), 0);
    drafter.ops->begin(drafter.self, 1);
    propose(&drafter, secret, 6, 1, 4, &tree);
    assert_int_equal(tree.n_nodes, 5);
    drafter.ops->begin(drafter.self, 1);
    propose(&drafter, asked, 4, 1, 4, &tree);
    assert_int_equal(tree.n_nodes, 1);
    drafter.ops->close(drafter.self);
}

/* --- odds --- */

/* Protects: estimates go to the true frequencies, also when nothing of the tree was computed. */
static void odds_are_learned(void **state) {
    (void)state;
    struct draft_odds own = {0}, all;
    odds_init_prior(&all);
    for (int i = 0; i < 3000; i++) {
        struct token_tree tree;
        int32_t drawn[2] = {draw_unit() < .9 ? 1 : 0, draw_unit() < .2 ? 2 : 0};
        tree_init(&tree, 0);
        tree_add(&tree, tree_add(&tree, 0, 1, 3, 1), 2, 4, 1);
        odds_learn(&own, &all, &tree, drawn, 1 + (int)draw(2));
    }
    assert_true(all.right[3] / all.tried[3] > .85f && all.right[3] / all.tried[3] < .95f);
    assert_true(all.right[4] / all.tried[4] > .12f && all.right[4] / all.tried[4] < .28f);
    assert_true(odds_estimate(&own, &all, 3) > odds_estimate(&own, &all, 4) + .3f);
    assert_true(odds_estimate(&own, &all, 5) == odds_estimate(&(struct draft_odds){0}, &all, 5)); /* never tried */
}

/* --- controller --- */

/* A machine: the first row costs 1 ms, each further one slope; tiles: rows cost in groups of that many. */
struct machine {
    double slope;
    int tile;
    double noise; /* relative; one step in 50 takes three times as long */
};

static double true_ms(const struct machine *m, int n_rows) {
    int n = (n_rows + m->tile - 1) / m->tile * m->tile;
    return 1 + m->slope * (n - m->tile);
}

struct result {
    double ms, plain_ms;
    int n_tokens, n_drafted, n_asked;
    double gain, first_gain, last_gain; /* of simulate_asking */
};

/* n_seqs sequences decode n_steps steps; two in three places have a guess of 8 tokens, each right with this chance. */
static struct result simulate(const struct machine *m, double accept, int n_seqs, int n_steps) {
    static struct controller c;
    struct draft_odds own[16] = {0}, all;
    struct token_tree trees[16];
    struct result r = {0};
    controller_init(&c, 0);
    odds_init_prior(&all);
    for (int step = 0; step < n_steps; step++) {
        const struct token_tree *list[16];
        int kept[16], n_rows = n_seqs;
        for (int s = 0; s < n_seqs; s++) {
            list[s] = &trees[s];
            tree_init(&trees[s], 0);
            int n_guess = draw(3) ? 8 : 0;
            for (int i = 0; i < n_guess; i++) tree_add(&trees[s], i, 1, 4, odds_estimate(&own[s], &all, 4));
        }
        n_rows += controller_plan(&c, list, n_seqs, n_seqs, 48, kept);
        int n_before = r.n_tokens;
        r.n_drafted += n_rows - n_seqs;
        for (int s = 0; s < n_seqs; s++) {
            int32_t drawn[9];
            struct tree_walk walk;
            int n = 0;
            assert_true(kept[s] >= 0 && kept[s] < trees[s].n_nodes);
            walk_begin(&walk, &trees[s], kept[s] + 1);
            do drawn[n++] = draw_unit() < accept;
            while (walk_step(&walk, drawn[n - 1]));
            odds_learn(&own[s], &all, &trees[s], drawn, n);
            r.n_tokens += n;
        }
        double ms = true_ms(m, n_rows) * (1 + m->noise * (draw_unit() - .5)), measured = draw(50) ? ms : 3 * ms;
        controller_learn(&c, &(struct step_outcome){n_rows, n_rows - n_seqs, r.n_tokens - n_before, measured, 0});
        r.ms += ms;
    }
    r.plain_ms = true_ms(m, n_seqs) * r.n_tokens / n_seqs;
    return r;
}

/* Protects: never slower than plain decoding, but for finding that out under noise; fast where it is easy. */
static void the_controller_never_loses(void **state) {
    (void)state;
    static const double slopes[] = {.02, .06, .15, .4, .8, 1}, accepts[] = {0, .1, .3, .5, .7, .9, .97};
    for (int s = 0; s < 6; s++) {
        for (int a = 0; a < 7; a++) {
            for (int n_seqs = 1; n_seqs <= 16; n_seqs *= 4) {
                for (int tile = 1; tile <= 4; tile += 3) {
                    const struct machine m = {slopes[s], tile, .3};
                    struct result r = simulate(&m, accepts[a], n_seqs, 4000);
                    double gain = r.plain_ms / r.ms;
                    if (n_seqs == 1 && tile == 1)
                        printf("slope %.2f, accept %.2f: %.2fx, %.2f drafted a step\n", slopes[s], accepts[a], gain,
                               r.n_drafted / 4000.0);
                    assert_true(gain > .98);
                }
            }
        }
    }
    const struct machine easy = {.02, 1, .3}, linear = {1, 1, .3};
    struct result fast = simulate(&easy, .9, 1, 4000), off = simulate(&linear, .3, 1, 4000);
    assert_true(fast.plain_ms / fast.ms > 2);
    assert_true(off.n_drafted < 100);
}

/* --- a drafter that computes --- */

enum { TEXT_LENGTH = 200, PROMPT_LENGTH = 60 };

/* How good the guesses are: of the free drafter, and of the one that computes, whose passes take `cost` of a step of the
 * target. Half of the latter's guesses are sure: right with that chance; the others with less. */
struct guessers {
    double free, sure, unsure, cost;
    bool is_hint; /* it is judged by what asking it has come to */
};

struct text {
    struct draft_odds own;
    struct token_tree free, asked;
    int at, n_missing;
};

static void guess(const struct guessers *g, struct text *t, const struct draft_odds *all) {
    int n_guess = draw(3) ? 0 : 8;
    tree_init(&t->free, t->at);
    tree_init(&t->asked, t->at);
    for (int i = 0; i < n_guess; i++)
        tree_add(&t->free, i, draw_unit() < g->free ? t->at + i + 1 : -1, 4, odds_estimate(&t->own, all, 4));
}

/* The chain of a text that asks. Returns the rows of its first pass; true in *draws when it has caught up. */
static int ask(const struct guessers *g, struct text *t, const struct draft_odds *all, float least_chance, bool *draws) {
    int n_rows = t->n_missing < 64 ? t->n_missing : 64;
    t->n_missing -= n_rows;
    *draws = t->n_missing == 0;
    tree_init(&t->asked, t->at);
    for (int i = 0; *draws && i < 16 && t->asked.chance[i] >= least_chance; i++) {
        int class = draw(2) ? 30 : 25;
        bool is_right = draw_unit() < (class == 30 ? g->sure : g->unsure);
        tree_add(&t->asked, i, is_right ? t->at + i + 1 : -1, class, odds_estimate(&t->own, all, class));
    }
    t->n_missing++;
    return n_rows;
}

/* Everyone asks together: passes until the longest chain is drawn. Returns what they take. */
static double ask_all(struct controller *c, const struct machine *m, const struct guessers *g, struct text *texts,
                      const struct draft_offer *offers, int n, const struct draft_odds *all, float least_chance) {
    double ms = 0;
    int n_rows = 0;
    for (int i = 0; i < n; i++) {
        bool draws;
        if (offers[i].asks) n_rows += ask(g, &texts[i], all, least_chance, &draws);
    }
    for (int depth = 1; n_rows > 0; depth++) {
        double pass_ms = g->cost * true_ms(m, n_rows) * (1 + m->noise * (draw_unit() - .5));
        if (!g->is_hint) cost_learn(&c->passes, n_rows, pass_ms);
        ms += pass_ms;
        n_rows = 0;
        for (int i = 0; i < n; i++) n_rows += offers[i].asks && texts[i].asked.n_nodes > depth + 1;
    }
    return ms;
}

/* One step of all texts. */
static void step_asking(struct controller *c, const struct machine *m, const struct guessers *g, struct text *texts, int n,
                        struct draft_odds *all, struct result *r) {
    struct draft_offer offers[16];
    const struct token_tree *list[16];
    float least_chance = 0;
    int kept[16], n_tokens = 0;
    for (int i = 0; i < n; i++) {
        struct text *t = &texts[i];
        guess(g, t, all);
        offers[i] = (struct draft_offer){&t->free, &t->asked,    g->is_hint,          odds_estimate_from(&t->own, all, 24),
                                         16,       t->n_missing, TEXT_LENGTH - t->at, false};
    }
    int n_asks = controller_ask(c, offers, n, n, 48, &least_chance);
    r->n_asked += n_asks;
    double asked_ms = ask_all(c, m, g, texts, offers, n, all, least_chance);
    if (g->is_hint && n_asks > 0) cost_learn(&c->passes, n_asks, asked_ms); /* all that it takes counts as one pass */
    for (int i = 0; g->is_hint && i < n; i++) {
        if (offers[i].asks) controller_hinted(c, &texts[i].free, &texts[i].asked);
    }
    for (int i = 0; i < n; i++) list[i] = offers[i].asks && texts[i].asked.n_nodes > 1 ? &texts[i].asked : &texts[i].free;
    int n_drafted = controller_plan(c, list, n, n, 48, kept);
    for (int i = 0; i < n; i++) {
        struct text *t = &texts[i];
        int32_t drawn[TREE_MAX_NODES];
        struct tree_walk walk;
        int n_drawn = 0;
        walk_begin(&walk, list[i], kept[i] + 1);
        do drawn[n_drawn] = t->at + n_drawn + 1, n_drawn++;
        while (walk_step(&walk, drawn[n_drawn - 1]));
        odds_learn(&t->own, all, &t->free, drawn, n_drawn);
        if (offers[i].asks) odds_learn(&t->own, all, &t->asked, drawn, n_drawn);
        t->n_missing += offers[i].asks ? 0 : n_drawn;
        t->at += n_drawn;
        n_tokens += n_drawn;
        if (t->at >= TEXT_LENGTH) *t = (struct text){.n_missing = PROMPT_LENGTH};
    }
    double ms = true_ms(m, n + n_drafted) * (1 + m->noise * (draw_unit() - .5)), measured = draw(50) ? ms : 3 * ms;
    controller_learn(c, &(struct step_outcome){n + n_drafted, n_drafted, n_tokens, measured, asked_ms});
    r->ms += ms + asked_ms;
    r->n_tokens += n_tokens;
    r->n_drafted += n_drafted;
    r->plain_ms += true_ms(m, n) * n_tokens / n;
}

/* The guesses are g for the first half of the steps, later for the second. */
static struct result simulate_asking(const struct machine *m, const struct guessers *g, const struct guessers *later, int n_seqs,
                                     int n_steps) {
    static struct controller c;
    static struct text texts[16];
    struct draft_odds all;
    struct result r = {0}, half = {0};
    controller_init(&c, g->cost);
    odds_init_prior(&all);
    for (int i = 0; i < n_seqs; i++) texts[i] = (struct text){.n_missing = PROMPT_LENGTH};
    for (int step = 0; step < n_steps; step++) {
        bool is_late = 2 * step >= n_steps;
        step_asking(&c, m, is_late ? later : g, texts, n_seqs, &all, is_late ? &half : &r);
    }
    half.first_gain = r.plain_ms / r.ms;
    half.gain = (half.plain_ms + r.plain_ms) / (half.ms + r.ms);
    half.last_gain = half.plain_ms / half.ms;
    half.n_asked += r.n_asked;
    return half;
}

/* Protects: whatever a drafter that computes costs and is worth, it never makes a machine slower; good and cheap, it is used. */
static void asking_never_loses(void **state) {
    (void)state;
    static const double slopes[] = {.03, .15, 1}, costs[] = {.02, .1, .3, 1};
    static const struct guessers kinds[] = {
        {.1, 0, 0, 0, false}, {.1, .5, .2, 0, false}, {.1, .95, .4, 0, false}, {.9, .95, .4, 0, false}, {.9, .4, .1, 0, false},
        {.1, 0, 0, 0, true},  {.1, .5, .2, 0, true},  {.1, .95, .4, 0, true},  {.9, .95, .4, 0, true},  {.9, .4, .1, 0, true}};
    for (int s = 0; s < 3; s++) {
        for (int k = 0; k < 4; k++) {
            for (int a = 0; a < 10; a++) {
                for (int n_seqs = 1; n_seqs <= 8; n_seqs *= 8) {
                    const struct machine m = {slopes[s], 1, .3};
                    struct guessers g = kinds[a];
                    g.cost = costs[k];
                    struct result r = simulate_asking(&m, &g, &g, n_seqs, 4000);
                    if (n_seqs == 1 || r.gain <= .98)
                        printf("slope %.2f, pass %.2f, accept %.2f, %.2f/%.2f%s: %.2fx, asked %d times\n", slopes[s], g.cost,
                               g.free, g.sure, g.unsure, g.is_hint ? ", hints" : "", r.gain, r.n_asked);
                    assert_true(r.gain > .98);
                }
            }
        }
    }
}

/* Protects: a drafter that starts to be worth its time is found, one that stops is dropped. */
static void good_drafters_are_found_again(void **state) {
    (void)state;
    const struct machine m = {.03, 1, .3};
    for (int is_hint = 0; is_hint < 2; is_hint++) {
        const struct guessers bad = {.1, 0, 0, .1, is_hint}, good = {.1, .98, .6, .1, is_hint};
        struct result up = simulate_asking(&m, &bad, &good, 1, 8000), down = simulate_asking(&m, &good, &bad, 1, 8000);
        printf("bad, then good: %.2fx, then %.2fx; good, then bad: %.2fx, then %.2fx\n", up.first_gain, up.last_gain,
               down.first_gain, down.last_gain);
        assert_true(up.first_gain > .98 && up.last_gain > 1.3);
        assert_true(down.first_gain > 1.5 && down.last_gain > .97);
    }
}

/* Protects: a machine that becomes busy and calm again, or whose cost of rows falls, is noticed. */
static void the_controller_finds_back(void **state) {
    (void)state;
    static struct controller c;
    struct draft_odds own = {0}, all;
    controller_init(&c, 0);
    odds_init_prior(&all);
    int n_late = 0;
    for (int step = 0; step < 3000; step++) {
        struct token_tree tree;
        const struct token_tree *list = &tree;
        const struct machine m = {step < 1000 ? 1.2 : .05, 1, .1};
        const int32_t drawn[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
        int kept;
        tree_init(&tree, 0);
        for (int i = 0; i < 8; i++) tree_add(&tree, i, 1, 4, odds_estimate(&own, &all, 4) * .99f);
        int n = controller_plan(&c, &list, 1, 1, 48, &kept);
        odds_learn(&own, &all, &tree, drawn, n + 1);
        controller_learn(&c, &(struct step_outcome){1 + n, n, n + 1, true_ms(&m, 1 + n), 0});
        if (step >= 2000) n_late += n > 0;
    }
    assert_true(n_late > 900);
}

/* Protects: what was not measured is drawn from its neighbours, never below the smaller one. */
static void costs_are_interpolated(void **state) {
    (void)state;
    static struct controller c;
    controller_init(&c, 0);
    assert_true(cost_ms(&c.steps, 3) == 0);
    controller_learn(&c, &(struct step_outcome){2, 0, 2, 10, 0});
    assert_true(cost_ms(&c.steps, 1) == 10 && cost_ms(&c.steps, 4) > 10);
    controller_learn(&c, &(struct step_outcome){6, 0, 6, 30, 0});
    assert_true(cost_ms(&c.steps, 4) == 20 && cost_ms(&c.steps, 8) == 40);
    controller_learn(&c, &(struct step_outcome){8, 0, 8, 5, 0});
    assert_true(cost_ms(&c.steps, 7) == 30);
    for (int i = 0; i < 100; i++) controller_learn(&c, &(struct step_outcome){6, 0, 6, 12, 0});
    assert_true(fabs(cost_ms(&c.steps, 6) - 12) < 0.01);
    controller_learn(&c, &(struct step_outcome){COST_MAX_ROWS + 1, 0, COST_MAX_ROWS + 1, 5, 0});
    controller_learn(&c, &(struct step_outcome){0, 0, 0, 5, 0});
}

/* Protects: where the machine got slower or faster while only one size was measured, no other one looks like a bargain, or dear;
 * what that size takes now is known, and for good. */
static void costs_keep_pace(void **state) {
    (void)state;
    for (int faster = 0; faster < 2; faster++) {
        struct cost_table t = {0};
        const double pace = faster ? 1 / 1.2 : 1.2;
        for (int i = 0; i < COST_SAMPLES; i++) {
            cost_learn(&t, 16, 10);
            cost_learn(&t, 20, 13);
        }
        for (int i = 0; i < 24; i++) cost_learn(&t, 16, 10 * pace);
        assert_true(fabs(cost_ms(&t, 16) / (10 * pace) - 1) < 0.03);
        assert_true(fabs(cost_ms(&t, 20) / cost_ms(&t, 16) / 1.3 - 1) < 0.07); /* it would be 17 to 20 % */
        for (int i = 0; i < 1000; i++) cost_learn(&t, 16, i % 100 == 0 ? 30 * pace : 10 * pace);
        assert_true(fabs(cost_ms(&t, 16) / (10 * pace) - 1) < 0.03 && t.pace > 0.9 && t.pace < 1.1);
    }
}

/* Steps of so many in which sixteen sequences verify a guess each that is said to be nearly sure. */
static int steps_with_drafts(struct controller *c, int n_steps, int n_right) {
    enum { N = 16 };
    static struct token_tree trees[N];
    const struct token_tree *list[N];
    int n_drafted = 0, kept[N];
    for (int step = 0; step < n_steps; step++) {
        for (int i = 0; i < N; i++) {
            tree_init(&trees[i], 0);
            tree_add(&trees[i], 0, 1, 4, .97f);
            list[i] = &trees[i];
        }
        int n = controller_plan(c, list, N, N, 48, kept);
        const int n_tokens = N + n * n_right / N;
        controller_learn(c, &(struct step_outcome){N + n, n, n_tokens, N + .6 * n, 0});
        n_drafted += n > 0;
    }
    return n_drafted;
}

/* Protects: guesses that come true less often than they promise are given up long before what they may lose is lost, and tried
 * again later. */
static void promises_are_weighed(void **state) {
    (void)state;
    static struct controller c;
    controller_init(&c, 0);
    assert_in_range(steps_with_drafts(&c, 200, 9), 1, 60);
    assert_in_range(steps_with_drafts(&c, 1000, 9), 1, 100);
    assert_in_range(steps_with_drafts(&c, 1000, 16), 500, 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(promises_are_weighed),
        cmocka_unit_test(trees_keep_their_shape),
        cmocka_unit_test(sorting_keeps_paths),
        cmocka_unit_test(walks_accept_what_was_drawn),
        cmocka_unit_test(suffixes_are_found),
        cmocka_unit_test(competing_places_become_branches),
        cmocka_unit_test(tokens_are_noted),
        cmocka_unit_test(followers_are_guessed),
        cmocka_unit_test(hints_are_heeded),
        cmocka_unit_test(slots_are_private),
        cmocka_unit_test(odds_are_learned),
        cmocka_unit_test(costs_are_interpolated),
        cmocka_unit_test(costs_keep_pace),
        cmocka_unit_test(the_controller_never_loses),
        cmocka_unit_test(the_controller_finds_back),
        cmocka_unit_test(asking_never_loses),
        cmocka_unit_test(trees_merge),
        cmocka_unit_test(good_drafters_are_found_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
