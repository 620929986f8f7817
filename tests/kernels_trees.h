/* kernels_trees.h - token trees in rope_kv and attention: every node of a tree must give, bit by bit, what the same node gives at
 * the end of its path computed as plain text by the reference; and kv_move must leave the pool as if the path had been the text.
 * Included by check_kernels.c only. */
#ifndef FORESAY_KERNELS_TREES_H
#define FORESAY_KERNELS_TREES_H

#include "tests/kernels_attention.h"

struct tree_case {
    struct kv_case kv; /* one sequence, whose rows are the nodes */
    int8_t depth[TREE_MAX_ROWS];
    uint64_t ancestors[TREE_MAX_ROWS];
};

/* Every third node continues the one before it, so that there are long paths. */
static void make_tree_case(struct tree_case *t, const struct head_shape *shape, enum kv_type type, int first_pos, int n) {
    const int run[1][2] = {{first_pos, n}};
    make_kv_case(&t->kv, shape, run, 1);
    t->kv.type = type;
    t->ancestors[0] = 1;
    t->depth[0] = 0;
    for (int i = 1; i < n; i++) {
        const int parent = random_below(3) == 0 ? random_below(i) : i - 1;
        t->depth[i] = (int8_t)(t->depth[parent] + 1);
        t->ancestors[i] = t->ancestors[parent] | (uint64_t)1 << i;
    }
    t->kv.seqs[0].depth = t->depth;
    t->kv.seqs[0].ancestors = t->ancestors;
}

/* The node's path as a text of its own; returns its length. */
static int make_path_case(const struct tree_case *t, int node, struct kv_case *path, int8_t *nodes) {
    *path = t->kv;
    path->n_rows = 0;
    path->q = take(sizeof(float) * (size_t)(t->kv.n_rows * q_width(&t->kv)));
    path->k = take(sizeof(float) * (size_t)(t->kv.n_rows * kv_width(&t->kv)));
    path->v = take(sizeof(float) * (size_t)(t->kv.n_rows * kv_width(&t->kv)));
    for (int i = 0; i <= node; i++) {
        if (!(t->ancestors[node] >> i & 1)) continue;
        const int q = q_width(path), kv = kv_width(path), to = path->n_rows++;
        nodes[to] = (int8_t)i;
        memcpy(path->q + to * q, t->kv.q + i * q, sizeof(float) * (size_t)q);
        memcpy(path->k + to * kv, t->kv.k + i * kv, sizeof(float) * (size_t)kv);
        memcpy(path->v + to * kv, t->kv.v + i * kv, sizeof(float) * (size_t)kv);
    }
    path->seqs[0] =
        (struct kernels_seq){.n_rows = path->n_rows, .first_pos = t->kv.seqs[0].first_pos, .blocks = t->kv.seqs[0].blocks};
    return path->n_rows;
}

/* Keys and values of the path's positions. */
static bool same_text(const struct kv_case *path, const struct kv_pool *a, const struct kv_pool *b) {
    for (int pos = 0; pos < path->seqs[0].first_pos + path->n_rows; pos++)
        for (int head = 0; head < path->shape.n_kv_heads; head++)
            for (int d = 0; d < path->shape.head_dim; d++)
                for (int value = 0; value < 2; value++) {
                    const double x = pool_value(a, &path->seqs[0], pos, head, d, value, NULL);
                    const double y = pool_value(b, &path->seqs[0], pos, head, d, value, NULL);
                    if (memcmp(&x, &y, sizeof x) != 0) return false;
                }
    return true;
}

static void check_node(const struct tree_case *t, int node, const float *out, struct kv_pool *pool,
                       const struct subject *subject) {
    struct kv_case path;
    int8_t nodes[TREE_MAX_ROWS];
    const int n = make_path_case(t, node, &path, nodes), width = q_width(&path);
    float *expected = take(sizeof(float) * (size_t)(n * width));
    struct kv_pool expected_pool = new_pool(&reference, &path);
    run_kv(&reference, &path, path.q, &expected_pool, expected);
    char what[128];
    snprintf(what, sizeof what, "%s, node %d at depth %d from %d, window %d", kv_type_name(path.type), node, n - 1,
             path.seqs[0].first_pos, path.spec.window);
    expect_floats(expected + (n - 1) * width, out + node * width, width, subject->name, what);
    if (pool) {
        subject->backend.ops->kv_move(subject->backend.self, pool, path.seqs[0].blocks, path.seqs[0].first_pos, nodes, n);
        expect(same_text(&path, &expected_pool, pool), "%s: kv_move, %s", subject->name, what);
    }
    kv_pool_free(&reference, &expected_pool);
    free(expected);
    free(path.q);
    free(path.k);
    free(path.v);
}

static void check_tree(const struct tree_case *t) {
    const size_t bytes = sizeof(float) * (size_t)(t->kv.n_rows * q_width(&t->kv));
    float *q = take(bytes), *out = take(bytes);
    const int accepted = random_below(t->kv.n_rows);
    for (int s = 0; s < n_subjects; s++) {
        const struct backend *b = &subjects[s].backend;
        struct kv_pool pool = new_pool(b, &t->kv);
        memcpy(q, t->kv.q, bytes);
        memset(out, 0xff, bytes);
        run_kv(b, &t->kv, q, &pool, out);
        for (int i = 0; i < t->kv.n_rows; i++)
            if (i != accepted) check_node(t, i, out, NULL, &subjects[s]);
        check_node(t, accepted, out, &pool, &subjects[s]);
        kv_pool_free(b, &pool);
    }
    free(q);
    free(out);
}

static void check_trees(void) {
    static const int first[] = {0, 13, 31, 60, 200, 1110}, nodes[] = {2, 5, 17, 64};
    begin_op("rope_kv, attention: trees");
    for (int i = 0; i < 24; i++) {
        const enum kv_type type = (enum kv_type)(i % KV_TYPE_COUNT);
        const struct head_shape *shape = type == KV_F16 ? &kv_shapes[i % N_KV_SHAPES] : &quantized_shapes[i % 5];
        struct tree_case t;
        make_tree_case(&t, shape, type, first[i % 6], i % 6 == 5 ? 9 : nodes[i % 4]);
        t.kv.spec.window = i % 7 == 3 ? 20 : 0;
        check_tree(&t);
        free_kv_case(&t.kv);
    }
    end_op();
}

#endif
