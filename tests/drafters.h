/* drafters.h - drafters for tests: some know the answer, some know it and say something else, some know nothing.
 *
 * They find the text that a sequence will become among known answers: one that continues all tokens drawn so far. Whatever they
 * propose must not change a token. */
#ifndef FORESAY_DRAFTERS_H
#define FORESAY_DRAFTERS_H

#include <limits.h>
#include <stdbool.h>
#include <string.h>

#include "speculative/speculative.h"

enum { DRAFTERS_MAX_ANSWERS = 160 };

struct known_answer {
    const int32_t *ids;
    int n_prompt, n_ids;
};

struct test_drafter {
    struct known_answer answers[DRAFTERS_MAX_ANSWERS];
    int n_answers, n_vocab;
    int32_t eog;
    uint64_t rng;
    int n_known; /* proposals for which an answer was found */
};

static inline uint32_t drafter_draw(struct test_drafter *d, uint32_t n) {
    d->rng = d->rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(d->rng >> 33) % n;
}

/* The next n tokens as far as they are known. */
static inline int drafter_future(struct test_drafter *d, const struct draft_context *context, int32_t *next, int n) {
    for (int i = 0; i < d->n_answers; i++) {
        const struct known_answer *a = &d->answers[i];
        int n_drawn = context->n_tokens - a->n_prompt;
        if (n_drawn < 1 || n_drawn >= a->n_ids) continue;
        if (memcmp(context->tokens + a->n_prompt, a->ids, (size_t)n_drawn * sizeof *a->ids) != 0) continue;
        int n_next = a->n_ids - n_drawn < n ? a->n_ids - n_drawn : n;
        memcpy(next, a->ids + n_drawn, (size_t)n_next * sizeof *next);
        d->n_known++;
        return n_next;
    }
    return 0;
}

static inline void drafter_add(struct token_tree *tree, const struct draft_context *context, int32_t token) {
    if (tree->n_nodes - 1 < context->max_nodes) tree_add(tree, tree->n_nodes - 1, token, 12, 0.9f);
}

static inline void propose_right(void *self, int slot, const struct draft_context *context, struct token_tree *tree) {
    int32_t next[8];
    (void)slot;
    int n = drafter_future(self, context, next, 8);
    for (int i = 0; i < n; i++) drafter_add(tree, context, next[i]);
}

static inline void propose_wrong(void *self, int slot, const struct draft_context *context, struct token_tree *tree) {
    struct test_drafter *d = self;
    int32_t next[8];
    (void)slot;
    int n = drafter_future(d, context, next, 8);
    for (int i = 0; i < n; i++) drafter_add(tree, context, (next[i] + 1) % d->n_vocab);
}

/* Right up to somewhere, then wrong, then right again. */
static inline void propose_mixed(void *self, int slot, const struct draft_context *context, struct token_tree *tree) {
    struct test_drafter *d = self;
    int32_t next[12];
    (void)slot;
    int n = drafter_future(d, context, next, 12), wrong = (int)drafter_draw(d, 9);
    for (int i = 0; i < n; i++) drafter_add(tree, context, i == wrong ? (next[i] + 1) % d->n_vocab : next[i]);
}

static inline void propose_random(void *self, int slot, const struct draft_context *context, struct token_tree *tree) {
    struct test_drafter *d = self;
    (void)slot;
    for (int n = (int)drafter_draw(d, 10); n > 0; n--) drafter_add(tree, context, (int32_t)drafter_draw(d, (uint32_t)d->n_vocab));
}

/* Bushes in which the right path is there, but seldom comes first; its nodes stand anywhere among wrong ones. Some wrong nodes
 * grow on, some carry a token twice. */
static inline void propose_bush(void *self, int slot, const struct draft_context *context, struct token_tree *tree) {
    struct test_drafter *d = self;
    int32_t next[12];
    (void)slot;
    int n = drafter_future(d, context, next, 12), at = 0, done = 0;
    while (done < n && tree->n_nodes - 1 < context->max_nodes) {
        if (drafter_draw(d, 3) == 0) {
            at = tree_push(tree, at, next[done++], 12, 0.999f);
        } else {
            int parent = (int)drafter_draw(d, (uint32_t)tree->n_nodes);
            int32_t token = drafter_draw(d, 4) == 0 ? next[done] : (int32_t)drafter_draw(d, (uint32_t)d->n_vocab);
            tree_push(tree, parent, token, 12, 0.99f);
        }
    }
}

/* Tokens that do not exist, at the front or behind right ones; sometimes two children. */
static inline void propose_illegal(void *self, int slot, const struct draft_context *context, struct token_tree *tree) {
    struct test_drafter *d = self;
    const int32_t illegal[] = {-1, d->n_vocab, INT32_MAX, INT32_MIN};
    int32_t next[4];
    (void)slot;
    int n = drafter_future(d, context, next, (int)drafter_draw(d, 5));
    for (int i = 0; i < n; i++) drafter_add(tree, context, next[i]);
    if (drafter_draw(d, 4) == 0 && tree->n_nodes - 1 < context->max_nodes) tree_add(tree, 0, 1, 12, 0.1f);
    drafter_add(tree, context, illegal[drafter_draw(d, 4)]);
    drafter_add(tree, context, 1);
}

static inline void propose_eog(void *self, int slot, const struct draft_context *context, struct token_tree *tree) {
    struct test_drafter *d = self;
    int32_t next[4];
    (void)slot;
    int n = drafter_future(d, context, next, (int)drafter_draw(d, 5));
    for (int i = 0; i < n; i++) drafter_add(tree, context, next[i]);
    for (int i = 0; i < 6; i++) drafter_add(tree, context, d->eog);
}

static inline void drafter_no_begin(void *self, int slot) { (void)self, (void)slot; }
static inline void drafter_no_close(void *self) { (void)self; }

static const struct drafter_ops test_drafters[] = {
    {.name = "right", .begin = drafter_no_begin, .propose = propose_right, .close = drafter_no_close},
    {.name = "wrong", .begin = drafter_no_begin, .propose = propose_wrong, .close = drafter_no_close},
    {.name = "mixed", .begin = drafter_no_begin, .propose = propose_mixed, .close = drafter_no_close},
    {.name = "bush", .begin = drafter_no_begin, .propose = propose_bush, .close = drafter_no_close},
    {.name = "random", .begin = drafter_no_begin, .propose = propose_random, .close = drafter_no_close},
    {.name = "illegal", .begin = drafter_no_begin, .propose = propose_illegal, .close = drafter_no_close},
    {.name = "end spam", .begin = drafter_no_begin, .propose = propose_eog, .close = drafter_no_close},
};
enum { N_TEST_DRAFTERS = sizeof test_drafters / sizeof *test_drafters };

#endif
