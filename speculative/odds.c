/* odds.c - how often guesses of a kind come true, learned from every draw; see speculative.h.
 *
 * Where the noise of the draw is known, luckier tokens are drawn more often than their probability says, unluckier ones less:
 * guesses of a kind fall into four classes by it. How much that tells depends on how well the drafter knows the probabilities
 * and on the temperature, so it is learned like all else. Draws without noise have classes of their own: greedy texts are
 * easier to guess. */
#include <math.h>
#include <stddef.h>

#include "speculative/speculative.h"

static const float OWN_DECAY = 0.97f;   /* a sequence remembers about 33 guesses of a class */
static const float ALL_DECAY = 0.9995f; /* all together about 2000 */
static const float PRIOR_WEIGHT = 12;   /* guesses that the assumption is worth */

/* A quarter or so of all tokens' noise lies between two of them; luck 1 is the best. */
static const double luck_borders[ODDS_LUCKS - 2] = {.15, .5, 1.3};
/* What a guess's odds are multiplied by, at first. */
static const float luck_odds[ODDS_LUCKS] = {1, 2.3f, 1.3f, .85f, .55f};

static float logit(float p) { return logf(p / (1 - p)); }

/* What a guess is worth of which only a hint knows, or which it stands beside: by the guess's own odds and the strength of the
 * hint, in eight steps each. Greedy texts, and draws whose noise is known. As found on 400 answers to prompts that were kept out
 * of store and head. */
static float prior_of_hint(int kind, bool is_drawn) {
    static const float middle[] = {.03f, .09f, .16f, .27f, .42f, .57f, .72f, .9f};
    static const float alone[2][8] = {{.03f, .055f, .095f, .2f, .3f, .44f, .58f, .65f},
                                      {.02f, .045f, .08f, .115f, .17f, .24f, .29f, .42f}};
    static const float weights[2][2][3] = {{{.79f, .52f, 1.12f}, {.45f, .75f, .7f}}, {{.64f, .64f, 1.45f}, {.32f, .7f, .25f}}};
    if (kind < HINT_TEXT_CLASS) return alone[is_drawn][kind - HINT_CLASS];
    const float *w = weights[is_drawn][kind >= HINT_STORE_CLASS];
    const int own = (kind - HINT_TEXT_CLASS) / 8 % 8, hint = (kind - HINT_TEXT_CLASS) % 8;
    return 1 / (1 + expf(-(w[0] * logit(middle[own]) + w[1] * logit(middle[hint]) + w[2])));
}

void odds_init_prior(struct draft_odds *all) {
    /* The lookup drafter's classes as found on answers that its store was not made of, half of them at temperature 0.8; two of
     * draws; then the store's, the draft model's, the store's for tokens seen, those of earlier texts; any other class starts at
     * one half. */
    static const float prior[HINT_CLASS] = {
        .41f, .51f, .64f, .67f, .73f, .78f, .81f, .86f, .89f, .91f, .99f, .1f,  .12f, .05f, .2f,  .7f,       /* text, draws */
        .03f, .04f, .08f, .14f, .22f, .32f, .44f, .75f, .2f,  .25f, .3f,  .4f,  .5f,  .6f,  .75f, .92f,      /* store, model */
        .08f, .11f, .18f, .26f, .34f, .5f,  .63f, .91f, .05f, .18f, .22f, .33f, .37f, .58f, .64f, .78f, .9f, /* seen, past */
        .03f, .06f, .1f,  .18f, .24f, .4f,  .55f, .7f};
    for (int i = 0; i < ODDS_CLASSES; i++) {
        const int luck = i / ODDS_KINDS, kind = odds_kind(i);
        const bool is_hint = kind >= HINT_CLASS;
        float weight = luck && !is_hint ? PRIOR_WEIGHT / 4 : PRIOR_WEIGHT,
              p = is_hint ? prior_of_hint(kind, luck > 0) : prior[kind];
        float odds = p / (1 - p) * (is_hint ? 1 : luck_odds[luck]);
        all->tried[i] = weight;
        all->right[i] = weight * odds / (1 + odds);
    }
}

float odds_estimate(const struct draft_odds *own, const struct draft_odds *all, int odds_class) {
    float assumed = all->right[odds_class] / all->tried[odds_class];
    return (own->right[odds_class] + PRIOR_WEIGHT * assumed) / (own->tried[odds_class] + PRIOR_WEIGHT);
}

void odds_sum(const struct draft_odds *odds, int first, float *tried, float *right) {
    *tried = *right = 0;
    for (int luck = 0; luck < ODDS_LUCKS; luck++, first += ODDS_KINDS) {
        for (int i = first; i < first + 8; i++) *tried += odds->tried[i], *right += odds->right[i];
    }
}

float odds_estimate_from(const struct draft_odds *own, const struct draft_odds *all, int first) {
    float tried, right, all_tried, all_right;
    odds_sum(own, first, &tried, &right);
    odds_sum(all, first, &all_tried, &all_right);
    return (right + PRIOR_WEIGHT * all_right / all_tried) / (tried + PRIOR_WEIGHT);
}

int odds_class_of(int first, float p) {
    static const float borders[] = {.06f, .12f, .2f, .35f, .5f, .65f, .8f};
    for (size_t i = 0; i < sizeof borders / sizeof *borders; i++) first += p >= borders[i];
    return first;
}

int odds_class_of_draw(const struct draft_noise *noise, int position, int32_t token, int kind) {
    if (!noise->of) return kind;
    double arrival = noise->of(noise->self, position, token);
    int luck = 1;
    while (luck < ODDS_LUCKS - 1 && arrival >= luck_borders[luck - 1]) luck++;
    return luck * ODDS_KINDS + kind;
}

static void score(struct draft_odds *odds, int odds_class, bool is_right, float decay) {
    odds->tried[odds_class] = odds->tried[odds_class] * decay + 1;
    odds->right[odds_class] = odds->right[odds_class] * decay + (is_right ? 1.0f : 0.0f);
}

void odds_learn(struct draft_odds *own, struct draft_odds *all, const struct token_tree *tree, const int32_t *drawn, int n) {
    uint64_t reached = 1;
    for (int i = 1; i < tree->n_nodes; i++) {
        int depth = tree->depth[i];
        if (!(reached >> tree->parent[i] & 1) || depth > n) continue;
        bool is_right = tree->tokens[i] == drawn[depth - 1];
        if (is_right) reached |= (uint64_t)1 << i;
        score(own, tree->odds_class[i], is_right, OWN_DECAY);
        score(all, tree->odds_class[i], is_right, ALL_DECAY);
    }
}
