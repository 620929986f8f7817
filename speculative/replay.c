/* replay.c - what a drafter would have been worth for texts that are known: its guesses played against them, round by round, with
 * no model. Odds are learned on the way as they are in earnest, from the same assumptions for everybody. */
#include "speculative/speculative.h"

static const float LEAST_CHANCE = 0.15f; /* of nodes that are taken to pay: about what a row more costs on a processor */

void replay_init(struct replay *replay, const struct drafter *drafter, const struct past_text *past) {
    *replay = (struct replay){.drafter = drafter, .past = past};
    odds_init_prior(&replay->all);
}

void replay_begin_text(struct replay *replay, const int32_t *tokens, int n) {
    replay->tokens = tokens;
    replay->n = n;
    replay->at = n > 0;
    replay->own = (struct draft_odds){0};
    replay->drafter->ops->begin(replay->drafter->self, 0);
}

static int paying_nodes(const struct token_tree *tree) {
    int n = 1;
    while (n < tree->n_nodes && tree->chance[n] >= LEAST_CHANCE) n++;
    return n;
}

static void play_round(struct replay *r) {
    const struct draft_context context = {.tokens = r->tokens,
                                          .n_tokens = r->at,
                                          .own = &r->own,
                                          .all = &r->all,
                                          .max_nodes = REPLAY_NODES,
                                          .max_width = SUFFIX_MAX_PLACES,
                                          .sources = DRAFT_FROM_ALL,
                                          .past = r->past};
    struct token_tree tree;
    struct tree_walk walk;
    int first = r->at;
    tree_init(&tree, r->tokens[first - 1]);
    r->drafter->ops->propose(r->drafter->self, 0, &context, &tree);
    walk_begin(&walk, &tree, paying_nodes(&tree));
    while (walk_step(&walk, r->tokens[r->at++]) && r->at < r->n) {
    }
    odds_learn(&r->own, &r->all, &tree, r->tokens + first, r->at - first);
    r->n_rounds++;
    r->n_tokens += (uint64_t)(r->at - first);
}

bool replay_play(struct replay *r, int most) {
    for (; r->at < r->n && most > 0; most--) play_round(r);
    return r->at < r->n;
}
