/* tree.c - token trees, and the walk of the target's draws through one. */
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
    tree->odds_class[node] = (uint16_t)odds_class;
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
