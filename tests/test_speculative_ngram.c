/* test_speculative_ngram.c - the n-gram store: what it learns from text, what it refuses, and the trees that grow from it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "speculative/speculative.h"

enum { VOCAB = 12, N_TEXT = 60000 };

static uint64_t rng = 11;

static uint32_t draw(uint32_t n) {
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33) % n;
}

/* A language: the next token is mostly a function of the last two, sometimes of the last one, sometimes anything. */
static int32_t next_token(const int32_t *text, int n) {
    uint32_t last = n > 0 ? (uint32_t)text[n - 1] : 0, before = n > 1 ? (uint32_t)text[n - 2] : 0;
    uint32_t dice = draw(10);
    if (dice < 6) return (int32_t)((last * 7 + before * 5 + 3) % VOCAB);
    return (int32_t)(dice < 8 ? (last * 5 + 1) % VOCAB : draw(VOCAB));
}

static int32_t text[N_TEXT];

static void write_text(void) {
    for (int n = 0, start = 0; n < N_TEXT; n++) {
        text[n] = n > 0 && draw(200) == 0 ? -1 : next_token(text + start, n - start);
        if (text[n] < 0) start = n + 1;
    }
}

static void *build(uint64_t n_text, uint64_t max_bytes, uint64_t *size, struct ngram_store *store) {
    void *image = ngram_build(text, n_text, VOCAB, 5, 6, max_bytes, size);
    assert_non_null(image);
    assert_null(ngram_open(store, image, *size, VOCAB, 5, 6));
    return image;
}

/* Protects: one token of context by counting: (n + nothing) / (s + 8), likeliest first. */
static void single_contexts_are_counted(void **state) {
    (void)state;
    struct ngram_store store;
    struct ngram_guess guesses[NGRAM_NEXT];
    uint64_t size;
    write_text();
    void *image = build(N_TEXT, 1 << 24, &size, &store);
    for (int32_t context = 0; context < VOCAB; context++) {
        int count[VOCAB] = {0}, total = 0;
        for (int i = 1; i < N_TEXT; i++) {
            if (text[i - 1] != context || text[i] < 0) continue;
            count[text[i]]++;
            total++;
        }
        int n = ngram_find(&store, &context, 1, guesses);
        assert_true(n > 0 && n <= NGRAM_NEXT);
        for (int i = 0; i < n; i++) {
            assert_true(fabs((double)guesses[i].probability - count[guesses[i].token] / (total + 8.0)) < 1.01 / 255);
            for (int t = 0; t < VOCAB && i == 0; t++) assert_true(count[t] <= count[guesses[0].token]);
        }
    }
    free(image);
}

/* Protects: on text that was not seen, a guess of probability p comes true about that often, and contexts help. */
static void probabilities_are_true(void **state) {
    (void)state;
    struct ngram_store store;
    struct ngram_guess guesses[NGRAM_NEXT];
    uint64_t size;
    int tried[5] = {0}, right[5] = {0}, first_right = 0;
    int32_t fresh[20000];
    write_text();
    void *image = build(N_TEXT, 1 << 24, &size, &store);
    for (int i = 0; i < 20000; i++) {
        fresh[i] = next_token(fresh, i);
        int n = i > 4 ? ngram_find(&store, fresh, i, guesses) : 0;
        for (int g = 0; g < n; g++) {
            int bin = (int)(guesses[g].probability * 4.99f);
            tried[bin]++;
            right[bin] += guesses[g].token == fresh[i];
        }
        first_right += n > 0 && guesses[0].token == fresh[i];
    }
    for (int bin = 0; bin < 5; bin++) {
        if (tried[bin] < 500) continue;
        double frequency = (double)right[bin] / tried[bin];
        assert_true(frequency > bin / 5.0 - .1 && frequency < bin / 5.0 + .3);
    }
    assert_true(first_right > 20000 * .55); /* .6 and a little by chance is what the language allows */
    free(image);
}

/* Protects: the size asked for is kept by leaving out what was seen least. */
static void stores_fit_their_size(void **state) {
    (void)state;
    struct ngram_store store;
    uint64_t size, all;
    write_text();
    free(build(N_TEXT, 1 << 24, &all, &store));
    for (uint64_t most = all; most > 2000; most /= 2) {
        void *image = build(N_TEXT, most, &size, &store);
        assert_true(size <= most);
        assert_true(store.header->n_records[0] > 0);
        free(image);
    }
    free(build(0, 1 << 20, &size, &store)); /* no text, no records */
    assert_int_equal(size, sizeof(struct ngram_header));
}

/* Protects: a store for another model, a damaged or cut one are told apart and refused. */
static void wrong_images_are_refused(void **state) {
    (void)state;
    struct ngram_store store;
    uint64_t size;
    write_text();
    char *image = build(3000, 1 << 20, &size, &store);
    assert_non_null(strstr(ngram_open(&store, image, size, VOCAB, 4, 6), "another vocabulary"));
    assert_non_null(strstr(ngram_open(&store, image, size, VOCAB + 1, 5, 6), "another vocabulary"));
    assert_non_null(strstr(ngram_open(&store, image, size, VOCAB, 5, 7), "another model"));
    assert_non_null(strstr(ngram_open(&store, image, size - 8, VOCAB, 5, 6), "cut off"));
    assert_non_null(strstr(ngram_open(&store, image, size - 1, VOCAB, 5, 6), "cut off"));
    assert_non_null(ngram_open(&store, image, 10, VOCAB, 5, 6));
    assert_non_null(ngram_open(&store, image, 0, VOCAB, 5, 6));
    for (uint64_t at = 0; at < size; at++) {
        if (at >= offsetof(struct ngram_header, n_text) && at < offsetof(struct ngram_header, n_vocab)) continue; /* a remark */
        image[at] ^= 0x41;
        assert_non_null(ngram_open(&store, image, size, VOCAB, 5, 6));
        image[at] ^= 0x41;
    }
    free(image);
}

/* The store's guess with the best odds: tokens that the text has are likelier than it says. */
static int32_t best_guess(const struct draft_odds *own, const struct draft_odds *all, const int32_t *known, int n_known,
                          const struct ngram_guess *guesses, int n) {
    float best = -1;
    int32_t token = -1;
    for (int i = 0; i < n; i++) {
        bool is_seen = false;
        for (int k = 0; k < n_known - 1; k++) is_seen |= known[k] == guesses[i].token;
        int class = odds_class_of(is_seen ? SEEN_STORE_CLASS : DRAFT_STORE_CLASS, guesses[i].probability);
        float odds = odds_estimate(own, all, class);
        if (odds > best) best = odds, token = guesses[i].token;
    }
    return token;
}

/* Protects: a chain follows the store's likeliest tokens; a tree holds the likeliest nodes; suffix matches and store grow into
 * one. */
static void trees_grow_from_both_sources(void **state) {
    (void)state;
    static struct draft_odds own, all;
    struct ngram_store store;
    struct drafter drafters[3];
    static const int sources[] = {DRAFT_FROM_STORE, DRAFT_FROM_SUFFIX, DRAFT_FROM_ALL};
    struct ngram_guess guesses[NGRAM_NEXT];
    uint64_t size;
    int n_from_both = 0;
    write_text();
    odds_init_prior(&all);
    void *image = build(N_TEXT, 1 << 24, &size, &store);
    for (int i = 0; i < 3; i++) assert_int_equal(lookup_drafter_open(&drafters[i], 1, 128, &store), 0);
    for (int round = 0; round < 300; round++) {
        struct token_tree chain, trees[3];
        int32_t known[128];
        int n = 5 + (int)draw(100);
        for (int i = 0; i < n; i++) known[i] = next_token(known, i);
        struct draft_context context = {known, n, &own, &all, .max_nodes = 10, .max_width = 1, .sources = DRAFT_FROM_STORE};
        tree_init(&chain, known[n - 1]);
        drafters[0].ops->begin(drafters[0].self, 0);
        drafters[0].ops->propose(drafters[0].self, 0, &context, &chain);
        for (int i = 1; i < chain.n_nodes; i++) {
            int32_t path[128 + 16];
            memcpy(path, known, (size_t)n * sizeof *path);
            memcpy(path + n, chain.tokens + 1, (size_t)(i - 1) * sizeof *path);
            assert_int_equal(chain.parent[i], i - 1);
            int n_guesses = ngram_find(&store, path, n + i - 1, guesses);
            assert_true(n_guesses > 0);
            assert_int_equal(chain.tokens[i], best_guess(&own, &all, known, n, guesses, n_guesses));
        }
        context.max_width = TREE_MAX_NODES;
        for (int k = 0; k < 3; k++) {
            context.sources = sources[k];
            drafters[k].ops->begin(drafters[k].self, 0);
            tree_init(&trees[k], known[n - 1]);
            drafters[k].ops->propose(drafters[k].self, 0, &context, &trees[k]);
            for (int i = 1; i < trees[k].n_nodes; i++) assert_true(trees[k].chance[i] <= trees[k].chance[i - 1] + 1e-6f);
        }
        double sum[3] = {0};
        for (int k = 0; k < 3; k++) {
            for (int i = 1; i < trees[k].n_nodes; i++) sum[k] += (double)trees[k].chance[i];
        }
        assert_true(sum[2] >= sum[0] - 1e-3 && sum[2] >= sum[1] - 1e-3);
        n_from_both += sum[2] > sum[0] + .01 && sum[2] > sum[1] + .01;
    }
    assert_true(n_from_both > 30);
    for (int i = 0; i < 3; i++) drafters[i].ops->close(drafters[i].self);
    free(image);
}

/* Protects: rounds played again count every token of every answer once, prompts are known but not counted, and a text whose
 * continuation is certain is taken in full trees. */
static void replays_count_whole_answers(void **state) {
    (void)state;
    enum { PERIOD = 9, N = 300, N_PROMPT = 5 };
    int32_t again[3 * (N_PROMPT + N + 1)];
    struct replay_sums sums, wide;
    int n = 0;
    for (int answer = 0; answer < 3; answer++) {
        for (int i = 0; i < N_PROMPT; i++) again[n++] = -2 - i;
        for (int i = 0; i < N; i++) again[n++] = (N_PROMPT + i) % PERIOD;
        again[n++] = -1;
    }
    assert_int_equal(speculative_replay(again, (uint64_t)n, NULL, 3, 1, &sums), 0);
    assert_int_equal(sums.n_tokens, 3 * N);
    /* One period is new in each answer; then three guesses of three are right. */
    assert_true(sums.n_steps >= 3 * (N - PERIOD) / 4 && sums.n_steps <= 3 * ((N - PERIOD) / 4 + PERIOD + 3));
    assert_true(sums.n_drafted <= 3 * sums.n_steps);
    /* Where chance has a part, trees are right more often than chains of the same size. */
    struct ngram_store store;
    uint64_t size;
    write_text();
    void *image = build(N_TEXT / 2, 1 << 24, &size, &store);
    assert_int_equal(speculative_replay(text + N_TEXT / 2, N_TEXT / 2, &store, 3, 1, &sums), 0);
    assert_int_equal(speculative_replay(text + N_TEXT / 2, N_TEXT / 2, &store, 3, 4, &wide), 0);
    assert_int_equal(sums.n_tokens, wide.n_tokens);
    assert_true(wide.n_steps < sums.n_steps);
    free(image);
}

/* --- known noise --- */

static double hashed_arrival(const void *self, int position, int32_t token) {
    (void)self;
    uint64_t x = ((uint64_t)position << 20 | (uint64_t)token) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 32) * 0xBF58476D1CE4E5B9u;
    return -log(((double)(x >> 12) + .5) * 0x1p-52);
}

/* One of four tokens, by a race of the arrivals over their probabilities. */
static int32_t race(int position) {
    static const double p[] = {.4, .3, .2, .1};
    int32_t first = 0;
    for (int32_t token = 1; token < 4; token++) {
        if (hashed_arrival(NULL, position, token) / p[token] < hashed_arrival(NULL, position, first) / p[first]) first = token;
    }
    return first;
}

/* Tokens a step where one is guessed. */
static double tokens_a_step(struct drafter *drafter, const int32_t *tokens, int n, struct draft_noise noise) {
    struct draft_odds own = {0}, all;
    struct token_tree tree;
    int n_steps = 0;
    odds_init_prior(&all);
    for (int at = n / 2; at < n; n_steps++) {
        const struct draft_context context = {.tokens = tokens,
                                              .n_tokens = at,
                                              .own = &own,
                                              .all = &all,
                                              .max_nodes = 1,
                                              .max_width = 4,
                                              .sources = DRAFT_FROM_STORE,
                                              .noise = noise};
        tree_init(&tree, tokens[at - 1]);
        drafter->ops->propose(drafter->self, 0, &context, &tree);
        int n_drawn = tree.n_nodes > 1 && tree.tokens[1] == tokens[at] ? 2 : 1;
        odds_learn(&own, &all, &tree, tokens + at, n_drawn);
        at += n_drawn;
    }
    return n / 2 / (double)n_steps;
}

/* Protects: whoever knows the noise guesses better than whoever knows the probabilities alone, but not without them. */
static void known_noise_helps(void **state) {
    (void)state;
    enum { N = 40000 };
    static int32_t drawn[N];
    struct ngram_store store;
    struct drafter drafter;
    uint64_t size;
    for (int i = 0; i < N; i++) drawn[i] = race(i);
    void *image = ngram_build(drawn, N / 2, VOCAB, 5, 6, 1 << 20, &size);
    assert_null(ngram_open(&store, image, size, VOCAB, 5, 6));
    assert_int_equal(lookup_drafter_open(&drafter, 1, N, &store), 0);
    double plain = tokens_a_step(&drafter, drawn, N, (struct draft_noise){0});
    double coupled = tokens_a_step(&drafter, drawn, N, (struct draft_noise){.of = hashed_arrival});
    assert_true(plain > 1.35 && plain < 1.45); /* the likeliest of four */
    assert_true(coupled > 1.5);
    drafter.ops->close(drafter.self);
    free(image);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_contexts_are_counted),
        cmocka_unit_test(probabilities_are_true),
        cmocka_unit_test(stores_fit_their_size),
        cmocka_unit_test(wrong_images_are_refused),
        cmocka_unit_test(trees_grow_from_both_sources),
        cmocka_unit_test(replays_count_whole_answers),
        cmocka_unit_test(known_noise_helps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
