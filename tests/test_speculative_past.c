/* test_speculative_past.c - an author's earlier texts: found as a brute-force search finds them, bounded, and nobody else's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "speculative/speculative.h"

enum { MAX_TOKENS = 4096 };

static uint64_t rng = 99;

static uint32_t draw(uint32_t n) {
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33) % n;
}

/* A drafter of one slot, asked with and without the texts. */
static void propose(const struct past_text *past, int sources, int width, const int32_t *tokens, int n, struct token_tree *tree) {
    struct drafter drafter;
    struct draft_odds own = {0}, all;
    assert_int_equal(lookup_drafter_open(&drafter, 1, MAX_TOKENS, NULL), 0);
    odds_init_prior(&all);
    const struct draft_context context = {.tokens = tokens,
                                          .n_tokens = n,
                                          .own = &own,
                                          .all = &all,
                                          .max_nodes = 12,
                                          .max_width = width,
                                          .sources = sources,
                                          .past = past};
    tree_init(tree, tokens[n - 1]);
    drafter.ops->begin(drafter.self, 0);
    drafter.ops->propose(drafter.self, 0, &context, tree);
    drafter.ops->close(drafter.self);
}

/* The place in a text that a chain follows: the longest match of at least 2, the newest of equals, if something follows. */
static int oracle_place(const int32_t *text, int n_text, const int32_t *asked, int n_asked) {
    int best = -1, longest = 2;
    for (int end = 0; end + 1 < n_text; end++) {
        int match = 0;
        while (match <= end && match < n_asked && match < SUFFIX_MAX_MATCH && text[end - match] == asked[n_asked - 1 - match])
            match++;
        if (match >= longest && text[end + 1] >= 0) best = end, longest = match;
    }
    return best;
}

/* Protects: what followed the longest match in any of the texts is drafted, as far as that text goes and not into the next. */
static void earlier_texts_are_found(void **state) {
    (void)state;
    int n_found = 0, n_cut = 0;
    for (int round = 0; round < 2000; round++) {
        struct past_text *past = past_open(MAX_TOKENS);
        struct token_tree tree;
        int32_t all[400], asked[12];
        int n_all = 0, n_asked = 2 + (int)draw(10);
        uint32_t alphabet = 3 + draw(9);
        for (int k = 0; k < 5; k++) {
            int32_t text[60];
            int n = 1 + (int)draw(59);
            for (int i = 0; i < n; i++) text[i] = all[n_all++] = (int32_t)draw(alphabet);
            all[n_all++] = -1;
            past_add(past, text, n);
        }
        assert_int_equal(past_tokens(past), n_all);
        for (int i = 0; i < n_asked; i++) asked[i] = (int32_t)draw(alphabet);
        propose(past, DRAFT_FROM_PAST, 1, asked, n_asked, &tree);
        int end = oracle_place(all, n_all, asked, n_asked);
        assert_int_equal(tree.n_nodes > 1, end >= 0);
        for (int i = 1; i < tree.n_nodes; i++) {
            assert_int_equal(tree.tokens[i], all[end + i]);
            assert_true(tree.tokens[i] >= 0 && tree.odds_class[i] >= PAST_CLASS);
        }
        if (end >= 0 && tree.n_nodes < 13) assert_int_equal(all[end + tree.n_nodes], -1), n_cut++;
        n_found += end >= 0;
        past_close(past);
    }
    assert_true(n_found > 500 && n_cut > 50);
}

/* Protects: guesses of both places grow into one tree; without the source, or the texts, nothing of them is in it. */
static void sources_are_kept_apart(void **state) {
    (void)state;
    const int32_t said[] = {5, 6, 70, 71, 72}, here[] = {5, 6, 80, 81, 5, 6};
    struct past_text *past = past_open(64);
    struct token_tree tree;
    past_add(past, said, 5);
    propose(past, DRAFT_FROM_ALL, 4, here, 6, &tree);
    assert_true(tree_child(&tree, 0, 70) > 0 && tree_child(&tree, 0, 80) > 0);
    assert_true(tree.odds_class[tree_child(&tree, 0, 70)] >= PAST_CLASS);
    assert_true(tree.odds_class[tree_child(&tree, 0, 80)] < PAST_CLASS);
    propose(past, DRAFT_FROM_SUFFIX | DRAFT_FROM_STORE, 4, here, 6, &tree);
    assert_true(tree_child(&tree, 0, 70) < 0 && tree_child(&tree, 0, 80) > 0);
    propose(NULL, DRAFT_FROM_ALL, 4, here, 6, &tree);
    assert_true(tree_child(&tree, 0, 70) < 0 && tree_child(&tree, 0, 80) > 0);
    past_close(past);
}

/* Protects: the bound, whatever is added; the latest max_tokens / 2 tokens can always be found, the dropped ones never. */
static void old_texts_leave(void **state) {
    (void)state;
    enum { MOST = 256 };
    struct past_text *past = past_open(MOST);
    struct token_tree tree;
    int32_t text[3 * MOST], next = 0;
    for (int round = 0; round < 300; round++) {
        int n = 1 + (int)draw(round % 10 == 0 ? 3 * MOST : 40), seen = n < MOST / 2 - 1 ? n : MOST / 2 - 1;
        for (int i = 0; i < n; i++) text[i] = i < n - seen ? 1 << 20 : next++; /* what stays: no token twice */
        past_add(past, text, n);
        assert_true(past_tokens(past) <= MOST && past_tokens(past) >= seen + 1);
        if (seen < 3) continue;
        const int32_t newest[] = {next - 3, next - 2}, ancient[] = {next - 2 * MOST, next - 2 * MOST + 1};
        propose(past, DRAFT_FROM_PAST, 1, newest, 2, &tree);
        assert_int_equal(tree.n_nodes, 2);
        assert_int_equal(tree.tokens[1], next - 1);
        if (ancient[0] < 0) continue;
        propose(past, DRAFT_FROM_PAST, 1, ancient, 2, &tree);
        assert_int_equal(tree.n_nodes, 1);
    }
    past_add(past, text, 0);
    past_close(past);
    past_close(NULL);
}

/* Protects: a replay draws every token once, whatever pieces it is played in; right guesses save rounds, only they do. */
static void replays_count_rounds(void **state) {
    (void)state;
    struct drafter drafter;
    struct replay whole, pieces, alone;
    struct past_text *past = past_open(1024);
    int32_t said[200], other[200];
    for (int i = 0; i < 200; i++) said[i] = i, other[i] = 1000 + i;
    past_add(past, said, 200);
    assert_int_equal(lookup_drafter_open(&drafter, 1, 200, NULL), 0);
    replay_init(&whole, &drafter, past);
    replay_init(&pieces, &drafter, past);
    replay_init(&alone, &drafter, NULL);
    for (int k = 0; k < 2; k++) {
        const int32_t *text = k ? other : said;
        replay_begin_text(&whole, text, 1, 200);
        assert_false(replay_play(&whole, 1000));
        replay_begin_text(&alone, text, 1, 200);
        assert_false(replay_play(&alone, 1000));
        replay_begin_text(&pieces, text, 1, 200);
        while (replay_play(&pieces, 1)) assert_true(pieces.at < 200);
    }
    const struct replay_sums *w = &whole.sums, *a = &alone.sums;
    assert_true(w->n_tokens == 2 * 199 && a->n_tokens == 2 * 199 && a->n_steps == 2 * 199);
    assert_memory_equal(&pieces.sums, w, sizeof *w);
    assert_true(w->n_steps >= 199 + 199 / TREE_MAX_NODES && w->n_steps < 199 + 60);
    drafter.ops->close(drafter.self);
    past_close(past);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(earlier_texts_are_found),
        cmocka_unit_test(sources_are_kept_apart),
        cmocka_unit_test(old_texts_leave),
        cmocka_unit_test(replays_count_rounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
