/* tree.c - token trees, the walk of the target's draws through one, and what is learned from it. */
#include <assert.h>
#include <string.h>

#include "speculative/speculative.h"

void tree_init(struct token_tree *tree, int32_t root) {
    tree->n_nodes = 1;
    tree->tokens[0] = root;
    tree->parent[0] = -1;
    tree->depth[0] = 0;
    tree->odds_class[0] = 0;
    tree->chance[0] = 1;
    tree->ancestors[0] = 1;
}

int tree_child(const struct token_tree *tree, int node, int32_t token) {
    for (int i = node + 1; i < tree->n_nodes; i++) {
        if (tree->parent[i] == node && tree->tokens[i] == token) return i;
    }
    return -1;
}

int tree_push(struct token_tree *tree, int parent, int32_t token, int odds_class, float odds) {
    assert(parent >= 0 && parent < tree->n_nodes && odds_class >= 0 && odds_class < ODDS_CLASSES);
    int node;
    if (tree->n_nodes == TREE_MAX_NODES) return -1;
    node = tree->n_nodes++;
    tree->tokens[node] = token;
    tree->parent[node] = (int8_t)parent;
    tree->depth[node] = (int8_t)(tree->depth[parent] + 1);
    tree->odds_class[node] = (uint8_t)odds_class;
    tree->chance[node] = tree->chance[parent] * odds;
    tree->ancestors[node] = tree->ancestors[parent] | (uint64_t)1 << node;
    return node;
}

int tree_add(struct token_tree *tree, int parent, int32_t token, int odds_class, float odds) {
    int node = tree_child(tree, parent, token);
    return node >= 0 ? node : tree_push(tree, parent, token, odds_class, odds);
}

static void copy_node(struct token_tree *to, int i, const struct token_tree *from, int j, int parent) {
    to->tokens[i] = from->tokens[j];
    to->depth[i] = from->depth[j];
    to->odds_class[i] = from->odds_class[j];
    to->chance[i] = from->chance[j];
    to->parent[i] = (int8_t)parent;
    to->ancestors[i] = parent < 0 ? 1 : to->ancestors[parent] | (uint64_t)1 << i;
}

void tree_sort_depth_first(struct token_tree *tree, int n) {
    const struct token_tree old = *tree;
    int8_t place[TREE_MAX_NODES], stack[TREE_MAX_NODES];
    int n_stack = 0, n_placed = 0;
    stack[n_stack++] = 0;
    while (n_stack > 0) {
        int node = stack[--n_stack];
        for (int i = n - 1; i > node; i--) {
            if (old.parent[i] == node) stack[n_stack++] = (int8_t)i;
        }
        place[node] = (int8_t)n_placed;
        copy_node(tree, n_placed++, &old, node, node == 0 ? -1 : place[old.parent[node]]);
    }
    for (int i = n; i < old.n_nodes; i++) {
        place[i] = (int8_t)i;
        copy_node(tree, i, &old, i, place[old.parent[i]]);
    }
}

/* What of a node's chance its children leave over. */
static float chance_left(const struct token_tree *tree, int node) {
    float left = tree->chance[node];
    for (int i = node + 1; i < tree->n_nodes; i++) left -= tree->parent[i] == node ? tree->chance[i] : 0;
    return left;
}

/* Adds node i of another tree, whose parent has this place. Returns its place, or -1. */
static int adopt(struct token_tree *tree, const struct token_tree *from, int i, int parent) {
    int known = parent < 0 ? -1 : tree_child(tree, parent, from->tokens[i]);
    if (parent < 0 || known > 0) return known;
    float chance = from->chance[i], left = chance_left(tree, parent), last = tree->chance[tree->n_nodes - 1];
    if (chance > left) chance = left;
    if (chance > last) chance = last;
    if (chance <= 0) return -1;
    return tree_push(tree, parent, from->tokens[i], from->odds_class[i], chance / tree->chance[parent]);
}

void tree_merge(struct token_tree *out, const struct token_tree *a, const struct token_tree *b, int most) {
    const struct token_tree *from[2] = {a, b};
    int place[2][TREE_MAX_NODES] = {{0}, {0}}, next[2] = {1, 1};
    tree_init(out, a->tokens[0]);
    while (out->n_nodes <= most && (next[0] < a->n_nodes || next[1] < b->n_nodes)) {
        int which = next[0] == a->n_nodes || (next[1] < b->n_nodes && b->chance[next[1]] > a->chance[next[0]]);
        int i = next[which]++;
        place[which][i] = adopt(out, from[which], i, place[which][from[which]->parent[i]]);
    }
}

bool walk_step(struct tree_walk *walk, int32_t token) {
    int child = tree_child(walk->tree, walk->node, token);
    if (child < 0 || child >= walk->n_nodes) return false;
    walk->node = child;
    return true;
}

/* --- odds --- */

static const float OWN_DECAY = 0.97f;   /* a sequence remembers about 33 guesses of a class */
static const float ALL_DECAY = 0.9995f; /* all together about 2000 */
static const float PRIOR_WEIGHT = 12;   /* guesses that the assumption is worth */

void odds_init_prior(struct draft_odds *all) {
    /* The lookup drafter's classes as found on answers that its store was not made of, half of them at temperature 0.8; two of
     * draws; then the draft model's, then those of earlier texts; any other class starts at one half. */
    static const float prior[ODDS_CLASSES] = {.45f, .52f, .64f, .69f, .77f, .82f, .87f, .91f, .93f, .94f, .98f, .13f, .5f,
                                              .5f,  .2f,  .7f,  .04f, .07f, .12f, .18f, .23f, .38f, .50f, .77f, .2f,  .25f,
                                              .3f,  .4f,  .5f,  .6f,  .75f, .92f, .05f, .18f, .22f, .33f, .37f, .58f, .64f,
                                              .78f, .9f,  .03f, .06f, .1f,  .18f, .24f, .4f,  .55f, .7f};
    for (size_t i = 0; i < ODDS_CLASSES; i++) {
        all->tried[i] = PRIOR_WEIGHT;
        all->right[i] = PRIOR_WEIGHT * prior[i];
    }
}

float odds_estimate(const struct draft_odds *own, const struct draft_odds *all, int odds_class) {
    float assumed = all->right[odds_class] / all->tried[odds_class];
    return (own->right[odds_class] + PRIOR_WEIGHT * assumed) / (own->tried[odds_class] + PRIOR_WEIGHT);
}

void odds_sum(const struct draft_odds *odds, int first, float *tried, float *right) {
    *tried = *right = 0;
    for (int i = first; i < first + 8; i++) *tried += odds->tried[i], *right += odds->right[i];
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
