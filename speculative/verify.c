/* verify.c - modes that weigh the target's distribution against the drafter's: see speculative.h.
 *
 * All rest on one step. A token x was drawn from q and should have come from p: accept it with min(1, p(x) / q(x)); otherwise
 * go on with the residual max(0, p - q), made to sum to 1. Tests follow every path of the dice and compare whole
 * distributions. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "speculative/speculative.h"

static double *row(double *rows, const struct verify_problem *problem, int node) {
    return rows + (size_t)node * (size_t)problem->n_vocab;
}

static const double *const_row(const double *rows, const struct verify_problem *problem, int node) {
    return rows + (size_t)node * (size_t)problem->n_vocab;
}

static double sum_of(const double *x, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    return sum;
}

static void normalize(double *x, int n) {
    double sum = sum_of(x, n);
    for (int i = 0; i < n && sum > 0; i++) x[i] /= sum;
}

/* p becomes the residual of weight * p over q. Returns its sum before it was made 1; where nothing is left (p and q are the
 * same) p stays: then no draw is rejected but by rounding. */
static double take_residual(double *p, const double *q, double weight, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += fmax(0, weight * p[i] - q[i]);
    if (sum <= 0) return 0;
    for (int i = 0; i < n; i++) p[i] = fmax(0, weight * p[i] - q[i]) / sum;
    return sum;
}

static void remove_token(double *q, int32_t token, int n) {
    q[token] = 0;
    normalize(q, n);
}

/* The next child of a node behind `after`, or -1. */
static int next_child(const struct token_tree *tree, int node, int after) {
    for (int i = after + 1; i < tree->n_nodes; i++) {
        if (tree->parent[i] == node) return i;
    }
    return -1;
}

static double ratio(const double *p, const double *q, int32_t token) {
    assert(q[token] > 0); /* or it could not have been drawn */
    return fmin(1, p[token] / q[token]);
}

/* --- from the root --- */

int verify_multi_step(const struct verify_problem *problem, bool no_repeats, const struct verify_dice *dice, int32_t *out) {
    const struct token_tree *tree = problem->tree;
    int n_vocab = problem->n_vocab, n_out = 0, node = 0;
    double *p = problem->scratch, *q = problem->scratch + n_vocab;
    for (;;) {
        memcpy(p, const_row(problem->target, problem, node), (size_t)n_vocab * sizeof *p);
        memcpy(q, const_row(problem->draft, problem, node), (size_t)n_vocab * sizeof *q);
        int child = next_child(tree, node, node);
        for (; child >= 0; child = next_child(tree, node, child)) {
            int32_t token = tree->tokens[child];
            if (dice->accept(dice->self, ratio(p, q, token))) break;
            take_residual(p, q, 1, n_vocab);
            if (no_repeats) remove_token(q, token, n_vocab);
        }
        if (child < 0) break;
        out[n_out++] = tree->tokens[child];
        node = child;
    }
    out[n_out++] = dice->pick(dice->self, p, n_vocab);
    return n_out;
}

/* --- from the leaves --- */

/* A path in the tree and what is left of the distributions along it. weight[v]: how well the path to v is paid for, 1 at the
 * root. */
struct traversal {
    const struct verify_problem *problem;
    double *p, *q; /* [n_nodes, n_vocab] */
    double weight[TREE_MAX_NODES];
    uint64_t removed;
};

/* The first leaf below a node among what is not removed. */
static int descend(struct traversal *t, int node) {
    const struct token_tree *tree = t->problem->tree;
    for (;;) {
        int child = next_child(tree, node, node);
        while (child >= 0 && t->removed >> child & 1) child = next_child(tree, node, child);
        if (child < 0) return node;
        int32_t token = tree->tokens[child];
        const double *p = row(t->p, t->problem, node), *q = row(t->q, t->problem, node);
        assert(q[token] > 0);
        t->weight[child] = fmin(1, t->weight[node] * p[token] / q[token]);
        node = child;
    }
}

static int reject(struct traversal *t, int leaf) {
    int node = t->problem->tree->parent[leaf], n_vocab = t->problem->n_vocab;
    double *p = row(t->p, t->problem, node), *q = row(t->q, t->problem, node);
    double left = take_residual(p, q, t->weight[node], n_vocab);
    t->weight[node] = left > 0 ? left / (left + (1 - t->weight[node])) : t->weight[node] < 1 ? 0 : 1;
    remove_token(q, t->problem->tree->tokens[leaf], n_vocab);
    t->removed |= (uint64_t)1 << leaf;
    return descend(t, node);
}

static int put_path(const struct token_tree *tree, int node, int32_t *out) {
    int n = tree->depth[node];
    for (int i = n; i > 0; i--, node = tree->parent[node]) out[i - 1] = tree->tokens[node];
    return n;
}

int verify_traversal(const struct verify_problem *problem, const struct verify_dice *dice, int32_t *out) {
    size_t n = (size_t)problem->tree->n_nodes * (size_t)problem->n_vocab;
    struct traversal t = {.problem = problem, .p = problem->scratch, .q = problem->scratch + n, .weight = {1}};
    memcpy(t.p, problem->target, n * sizeof *t.p);
    memcpy(t.q, problem->draft, n * sizeof *t.q);
    int node = descend(&t, 0);
    while (node > 0 && !dice->accept(dice->self, t.weight[node])) node = reject(&t, node);
    int n_out = put_path(problem->tree, node, out);
    out[n_out++] = dice->pick(dice->self, row(t.p, problem, node), problem->n_vocab);
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

static bool is_typical(const double *p, int n, int32_t token, double epsilon, double delta) {
    double entropy = 0;
    for (int i = 0; i < n; i++) entropy -= p[i] > 0 ? p[i] * log(p[i]) : 0;
    return p[token] > fmin(epsilon, delta * exp(-entropy));
}

int verify_typical(const struct verify_problem *problem, double epsilon, double delta, int32_t *out) {
    const struct token_tree *tree = problem->tree;
    uint64_t accepted = 1;
    int best = 0, n_vocab = problem->n_vocab;
    for (int i = 1; i < tree->n_nodes; i++) {
        int parent = tree->parent[i];
        const double *p = const_row(problem->target, problem, parent);
        bool is_good =
            parent == 0 ? tree->tokens[i] == likeliest(p, n_vocab) : is_typical(p, n_vocab, tree->tokens[i], epsilon, delta);
        if (!(accepted >> parent & 1) || !is_good) continue;
        accepted |= (uint64_t)1 << i;
        if (tree->depth[i] > tree->depth[best]) best = i;
    }
    int n_out = put_path(tree, best, out);
    out[n_out++] = likeliest(const_row(problem->target, problem, best), n_vocab);
    return n_out;
}
