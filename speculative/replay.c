/* replay.c - what the lookup drafter would have gained on answers that are there already: see speculative.h.
 *
 * Whether a guess comes true depends on the text alone, so rounds can be played again without the model: propose, walk the tree
 * with the tokens that followed, learn. Odds are learned on the way as they are when serving. */
#include <stdlib.h>
#include <string.h>

#include "speculative/speculative.h"

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

static void play(const struct drafter *drafter, const struct told *told, struct draft_odds *all, struct draft_context context,
                 struct replay_sums *sums) {
    struct draft_odds own = {0};
    struct token_tree tree;
    struct tree_walk walk;
    context.tokens = told->tokens;
    context.own = &own;
    context.all = all;
    drafter->ops->begin(drafter->self, 0);
    for (int at = told->n_prompt > 0 ? told->n_prompt : 1, n_drawn; at < told->n; at += n_drawn) {
        context.n_tokens = at;
        tree_init(&tree, told->tokens[at - 1]);
        drafter->ops->propose(drafter->self, 0, &context, &tree);
        walk_begin(&walk, &tree, tree.n_nodes);
        for (n_drawn = 1; at + n_drawn < told->n && walk_step(&walk, told->tokens[at + n_drawn - 1]);) n_drawn++;
        odds_learn(&own, all, &tree, told->tokens + at, n_drawn);
        sums->n_tokens += (uint64_t)n_drawn;
        sums->n_drafted += (uint64_t)(tree.n_nodes - 1);
        sums->n_steps++;
    }
}

int speculative_replay(const int32_t *text, uint64_t n_text, const struct ngram_store *store, int max_nodes, int max_width,
                       struct replay_sums *out) {
    const struct draft_context context = {.max_nodes = max_nodes, .max_width = max_width, .sources = DRAFT_FROM_ALL};
    struct drafter drafter;
    struct draft_odds all;
    int32_t *memory = malloc((size_t)(n_text + 1) * sizeof *memory);
    uint64_t longest = 0;
    for (uint64_t i = 0, begin = 0; i < n_text; i++) {
        if (i + 1 - begin > longest) longest = i + 1 - begin;
        if (text[i] < 0 && text[i] > PROMPT_FIRST) begin = i + 1;
    }
    memset(out, 0, sizeof *out);
    if (!memory || lookup_drafter_open(&drafter, 1, (int)longest + 1, store) != 0) {
        free(memory);
        return -1;
    }
    odds_init_prior(&all);
    for (uint64_t at = 0; at < n_text;) {
        const struct told told = next_answer(text, n_text, &at, memory);
        play(&drafter, &told, &all, context, out);
    }
    drafter.ops->close(drafter.self);
    free(memory);
    return 0;
}
