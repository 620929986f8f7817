/* verify.c - modes that weigh the target's distribution against the drafter's: see speculative.h.
 *
 * All rest on one step. A token x was drawn from q and should have come from p: accept it with min(1, p(x) / q(x)); otherwise
 * go on with the residual max(0, p - q), made to sum to 1. For a token that was chosen, q(x) is 1: it is accepted with p(x), and
 * the residual is p without it. Tests follow every path of the dice and compare whole distributions.
 *
 * What is drawn or chosen concerns few tokens: p is known by its values for these and by one factor for all others. Only the last
 * token of a round needs the whole row. Whoever comes back to a node takes away again what its rejected children took. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "speculative/speculative.h"

enum { FEW = TREE_MAX_NODES };
_Static_assert((int)FEW >= (int)DRAWN_MOST, "tokens of a node: children that were chosen, or what they were drawn from");

/* p and q behind a node, less what its rejected children took. */
struct rows {
    const struct verify_problem *problem;
    const struct drawn_row *drawn;
    int node, n;
    int32_t tokens[FEW]; /* that children are drawn from, or chosen: */
    double p[FEW], q[FEW];
    double rest, scale; /* of all other tokens: the sum of their p; p by what the target gave them */
};

static int place_of(const struct rows *rows, int32_t token) {
    int i = 0;
    while (i < rows->n && rows->tokens[i] != token) i++;
    return i;
}

static int next_child(const struct token_tree *tree, int node, int after);

static void load_rows(struct rows *rows, const struct verify_problem *problem, int node) {
    const struct token_tree *tree = problem->tree;
    const struct drawn_row *drawn = problem->drawn[node];
    *rows = (struct rows){.problem = problem, .drawn = drawn, .node = node, .n = drawn ? drawn->n : 0, .rest = 1, .scale = 1};
    for (int i = 0; i < rows->n; i++) rows->tokens[i] = drawn->tokens[i], rows->q[i] = drawn->p[i];
    for (int i = next_child(tree, node, node); i >= 0; i = next_child(tree, node, i)) {
        if (place_of(rows, tree->tokens[i]) < rows->n) continue;
        assert(!drawn); /* it was not drawn from this */
        rows->tokens[rows->n++] = tree->tokens[i];
    }
    problem->chances(problem->self, node, rows->tokens, rows->n, rows->p);
    for (int i = 0; i < rows->n; i++) rows->rest -= rows->p[i];
    if (rows->rest < 1e-12) rows->rest = 0; /* rounding */
}

static double p_of(const struct rows *rows, int32_t token) { return rows->p[place_of(rows, token)]; }

/* How likely the drafter was to come up with this child. */
static double q_of(const struct rows *rows, int32_t token) {
    if (!rows->drawn) return 1;
    double q = rows->q[place_of(rows, token)];
    assert(q > 0); /* or it could not have been drawn */
    return q;
}

/* p becomes the residual of weight * p over the child's q. Returns its sum before it was made 1; where nothing is left (p and q
 * are the same) p stays: then no draw is rejected but by rounding. */
static double take_residual(struct rows *rows, int32_t token, double weight) {
    double left = weight * rows->rest, next[FEW];
    for (int i = 0; i < rows->n; i++) {
        double q = rows->drawn ? rows->q[i] : rows->tokens[i] == token ? 1 : 0;
        next[i] = fmax(0, weight * rows->p[i] - q);
        left += next[i];
    }
    if (left <= 0) return 0;
    for (int i = 0; i < rows->n; i++) rows->p[i] = next[i] / left;
    rows->rest *= weight / left;
    rows->scale *= weight / left;
    return left;
}

/* The next child is drawn from what is left. */
static void remove_token(struct rows *rows, int32_t token) {
    double sum = 0;
    if (!rows->drawn) return;
    rows->q[place_of(rows, token)] = 0;
    for (int i = 0; i < rows->n; i++) sum += rows->q[i];
    for (int i = 0; i < rows->n && sum > 0; i++) rows->q[i] /= sum;
}

static int32_t pick_from(const struct rows *rows, const struct verify_dice *dice) {
    const struct verify_problem *problem = rows->problem;
    double *p = problem->scratch;
    problem->row(problem->self, rows->node, p);
    for (int i = 0; i < problem->n_vocab; i++) p[i] *= rows->scale;
    for (int i = 0; i < rows->n; i++) p[rows->tokens[i]] = rows->p[i];
    return dice->pick(dice->self, p, problem->n_vocab);
}

/* The next child of a node behind `after`, or -1. */
static int next_child(const struct token_tree *tree, int node, int after) {
    for (int i = after + 1; i < tree->n_nodes; i++) {
        if (tree->parent[i] == node) return i;
    }
    return -1;
}

/* --- from the root --- */

int verify_multi_step(const struct verify_problem *problem, bool no_repeats, const struct verify_dice *dice, int32_t *out) {
    const struct token_tree *tree = problem->tree;
    struct rows rows;
    int n_out = 0, node = 0;
    for (;;) {
        load_rows(&rows, problem, node);
        int child = next_child(tree, node, node);
        for (; child >= 0; child = next_child(tree, node, child)) {
            int32_t token = tree->tokens[child];
            if (dice->accept(dice->self, fmin(1, p_of(&rows, token) / q_of(&rows, token)))) break;
            take_residual(&rows, token, 1);
            if (no_repeats) remove_token(&rows, token);
        }
        if (child < 0) break;
        out[n_out++] = tree->tokens[child];
        node = child;
    }
    out[n_out++] = pick_from(&rows, dice);
    return n_out;
}

/* --- from the leaves --- */

/* A path in the tree. weight[v]: how well the path to v is paid for, 1 at the root. */
struct traversal {
    const struct token_tree *tree;
    struct rows rows;
    int loaded; /* the node that the rows belong to */
    double weight[TREE_MAX_NODES];
    double spent[TREE_MAX_NODES]; /* the parent's weight when this node was rejected */
    uint64_t rejected;
};

/* The child's share of its parent's rows goes away. Returns what is left of p. */
static double take_child(struct traversal *t, int child) {
    double left = take_residual(&t->rows, t->tree->tokens[child], t->spent[child]);
    remove_token(&t->rows, t->tree->tokens[child]);
    return left;
}

static void load(struct traversal *t, int node) {
    if (t->loaded == node) return;
    load_rows(&t->rows, t->rows.problem, node);
    t->loaded = node;
    for (int i = next_child(t->tree, node, node); i >= 0; i = next_child(t->tree, node, i)) {
        if (t->rejected >> i & 1) take_child(t, i);
    }
}

/* The first leaf below a node among what is not rejected. */
static int descend(struct traversal *t, int node) {
    for (;;) {
        int child = next_child(t->tree, node, node);
        while (child >= 0 && t->rejected >> child & 1) child = next_child(t->tree, node, child);
        if (child < 0) return node;
        int32_t token = t->tree->tokens[child];
        load(t, node);
        t->weight[child] = fmin(1, t->weight[node] * p_of(&t->rows, token) / q_of(&t->rows, token));
        node = child;
    }
}

static int reject(struct traversal *t, int leaf) {
    int node = t->tree->parent[leaf];
    load(t, node);
    t->spent[leaf] = t->weight[node];
    double left = take_child(t, leaf);
    t->weight[node] = left > 0 ? left / (left + (1 - t->weight[node])) : t->weight[node] < 1 ? 0 : 1;
    t->rejected |= (uint64_t)1 << leaf;
    return descend(t, node);
}

static int put_path(const struct token_tree *tree, int node, int32_t *out) {
    int n = tree->depth[node];
    for (int i = n; i > 0; i--, node = tree->parent[node]) out[i - 1] = tree->tokens[node];
    return n;
}

int verify_traversal(const struct verify_problem *problem, const struct verify_dice *dice, int32_t *out) {
    struct traversal t = {.tree = problem->tree, .rows.problem = problem, .loaded = -1, .weight = {1}};
    int node = descend(&t, 0);
    while (node > 0 && !dice->accept(dice->self, t.weight[node])) node = reject(&t, node);
    load(&t, node);
    int n_out = put_path(problem->tree, node, out);
    out[n_out++] = pick_from(&t.rows, dice);
    return n_out;
}

/* --- lossy --- */

static int32_t likeliest(const double *p, int n) {
    int best = 0;
    for (int i = 1; i < n; i++) {
        if (p[i] > p[best]) best = i;
    }
    return best;
}

/* What a token's probability must exceed. */
static double typical_border(const double *p, int n, double epsilon, double delta) {
    double entropy = 0;
    for (int i = 0; i < n; i++) entropy -= p[i] > 0 ? p[i] * log(p[i]) : 0;
    return fmin(epsilon, delta * exp(-entropy));
}

int verify_typical(const struct verify_problem *problem, double epsilon, double delta, int32_t *out) {
    const struct token_tree *tree = problem->tree;
    double *p = problem->scratch;
    uint64_t accepted = 1;
    int best = 0, n_vocab = problem->n_vocab;
    for (int node = 0; node < tree->n_nodes; node++) {
        int child = next_child(tree, node, node);
        if (!(accepted >> node & 1) || child < 0) continue;
        problem->row(problem->self, node, p);
        int32_t first = likeliest(p, n_vocab);
        double border = typical_border(p, n_vocab, epsilon, delta);
        for (; child >= 0; child = next_child(tree, node, child)) {
            int32_t token = tree->tokens[child];
            bool is_good = node == 0 ? token == first : p[token] > border;
            if (!is_good || tree_child(tree, node, token) != child) continue; /* a twin is no other path */
            accepted |= (uint64_t)1 << child;
            if (tree->depth[child] > tree->depth[best]) best = child;
        }
    }
    problem->row(problem->self, best, p);
    int n_out = put_path(tree, best, out);
    out[n_out++] = likeliest(p, n_vocab);
    return n_out;
}
