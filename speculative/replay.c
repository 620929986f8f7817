/* replay.c - what the lookup drafter would have gained on answers that are there already: see speculative.h.
 *
 * Whether a guess comes true depends on the text alone, so rounds can be played again without the model: propose, walk the tree
 * with the tokens that followed, learn. Odds are learned on the way as they are when serving. */
#include <limits.h>
#include <stdlib.h>

#include "speculative/speculative.h"

/* --- one text, round by round --- */

void replay_init(struct replay *replay, const struct drafter *drafter, const struct past_text *past) {
    *replay = (struct replay){.drafter = drafter, .past = past, .max_nodes = TREE_MAX_NODES - 1, .max_width = SUFFIX_MAX_PLACES};
    odds_init_prior(&replay->all);
}

void replay_begin_text(struct replay *r, const int32_t *tokens, int n_known, int n) {
    r->tokens = tokens;
    r->n = n;
    r->at = n_known > 0 || n == 0 ? n_known : 1;
    r->own = (struct draft_odds){0};
    r->drafter->ops->begin(r->drafter->self, 0);
}

/* The nodes that are taken to pay. */
static int verified_nodes(const struct replay *r, const struct token_tree *tree) {
    int n = 1;
    while (n < tree->n_nodes && tree->chance[n] >= r->least_chance) n++;
    return n;
}

static void play_round(struct replay *r) {
    const struct draft_context context = {.tokens = r->tokens,
                                          .n_tokens = r->at,
                                          .own = &r->own,
                                          .all = &r->all,
                                          .max_nodes = r->max_nodes,
                                          .max_width = r->max_width,
                                          .sources = DRAFT_FROM_ALL,
                                          .past = r->past};
    struct token_tree tree;
    struct tree_walk walk;
    int n_nodes, n_drawn = 1;
    tree_init(&tree, r->tokens[r->at - 1]);
    r->drafter->ops->propose(r->drafter->self, 0, &context, &tree);
    walk_begin(&walk, &tree, n_nodes = verified_nodes(r, &tree));
    while (r->at + n_drawn < r->n && walk_step(&walk, r->tokens[r->at + n_drawn - 1])) n_drawn++;
    odds_learn(&r->own, &r->all, &tree, r->tokens + r->at, n_drawn);
    r->at += n_drawn;
    r->sums.n_tokens += (uint64_t)n_drawn;
    r->sums.n_drafted += (uint64_t)(n_nodes - 1);
    r->sums.n_steps++;
}

bool replay_play(struct replay *r, int most) {
    for (; r->at < r->n && most > 0; most--) play_round(r);
    return r->at < r->n;
}

/* --- many answers --- */

enum { PROMPT_FIRST = -2 }; /* token t of a prompt stands as PROMPT_FIRST - t */

/* One answer behind its prompt. */
struct told {
    int32_t *tokens;
    int n_prompt, n;
};

/* The answer that begins at *at, and *at behind its end. */
static struct told next_answer(const int32_t *text, uint64_t n, uint64_t *at, int32_t *memory) {
    struct told told = {.tokens = memory};
    for (; *at < n && text[*at] <= PROMPT_FIRST; ++*at) memory[told.n++] = PROMPT_FIRST - text[*at];
    told.n_prompt = told.n;
    for (; *at < n && text[*at] >= 0; ++*at) memory[told.n++] = text[*at];
    ++*at; /* what ended it */
    return told;
}

int speculative_replay(const int32_t *text, uint64_t n_text, const struct ngram_store *store, int max_nodes, int max_width,
                       struct replay_sums *out) {
    struct drafter drafter;
    struct replay replay;
    int32_t *memory = malloc((size_t)(n_text + 1) * sizeof *memory);
    uint64_t longest = 0;
    for (uint64_t i = 0, begin = 0; i < n_text; i++) {
        if (i + 1 - begin > longest) longest = i + 1 - begin;
        if (text[i] < 0 && text[i] > PROMPT_FIRST) begin = i + 1;
    }
    if (!memory || lookup_drafter_open(&drafter, 1, (int)longest + 1, store) != 0) {
        free(memory);
        return -1;
    }
    replay_init(&replay, &drafter, NULL);
    replay.max_nodes = max_nodes;
    replay.max_width = max_width;
    for (uint64_t at = 0; at < n_text;) {
        const struct told told = next_answer(text, n_text, &at, memory);
        replay_begin_text(&replay, told.tokens, told.n_prompt, told.n);
        replay_play(&replay, INT_MAX);
    }
    *out = replay.sums;
    drafter.ops->close(drafter.self);
    free(memory);
    return 0;
}
