/* kernels_attention.h - rope_kv and attention: the plain C reference against softmax attention in double, and every subject against
 * the reference: ragged batches against rows alone, and a prompt in one piece against the same prompt cut into chunks. Included by
 * check_kernels.c only. */
#ifndef FORESAY_KERNELS_ATTENTION_H
#define FORESAY_KERNELS_ATTENTION_H

#include "tests/kernels_fixture.h"

/* --- cases --- */

enum { MAX_SEQS = 9, MAX_BLOCKS = 160, KV_LAYERS = 2, KV_LAYER = 1, MAX_POS = 512, MOST_DIMS = 256 };

struct kv_shape {
    int n_heads, n_kv_heads, head_dim, rope_dim;
    enum rope_kind kind;
};

static const struct kv_shape kv_shapes[] = {
    {9, 3, 64, 64, ROPE_INTERLEAVED}, {4, 4, 16, 16, ROPE_HALVES},   {8, 1, 32, 16, ROPE_HALVES},
    {4, 2, 20, 10, ROPE_INTERLEAVED}, {8, 2, 128, 128, ROPE_HALVES}, {3, 1, 96, 96, ROPE_INTERLEAVED},
};
enum { N_KV_SHAPES = sizeof kv_shapes / sizeof *kv_shapes };

/* Head sizes that models have, grouped (3 or 2 heads share keys) or all heads on one. */
static const struct kv_shape head_shapes[] = {
    {6, 2, 64, 64, ROPE_INTERLEAVED}, {3, 1, 80, 40, ROPE_HALVES},   {4, 1, 96, 96, ROPE_HALVES},
    {4, 2, 128, 128, ROPE_HALVES},    {4, 1, 256, 256, ROPE_HALVES},
};
enum { N_HEAD_SHAPES = sizeof head_shapes / sizeof *head_shapes };

static const int windows[] = {0, 1, 7, 16, 64, 65, 200};
enum { N_WINDOWS = sizeof windows / sizeof *windows };

/* A batch of ragged sequences over one shuffled pool. */
struct kv_case {
    struct kv_shape shape;
    struct attention_spec spec;
    int n_seqs, n_rows;
    struct kernels_seq seqs[MAX_SEQS];
    int32_t blocks[MAX_BLOCKS];
    float *q, *k, *v; /* [n_rows, heads * head_dim] */
    float *cos_sin;
};

static int q_width(const struct kv_case *c) { return c->shape.n_heads * c->shape.head_dim; }
static int kv_width(const struct kv_case *c) { return c->shape.n_kv_heads * c->shape.head_dim; }

/* Sequences of (first_pos, n_rows) pairs. */
static void make_kv_case(struct kv_case *c, const struct kv_shape *shape, const int (*runs)[2], int n_seqs) {
    memset(c, 0, sizeof *c);
    c->shape = *shape;
    c->spec.scale = 0.125f;
    c->n_seqs = n_seqs;
    int n_blocks = 0;
    for (int i = 0; i < MAX_BLOCKS; i++) c->blocks[i] = i;
    for (int i = MAX_BLOCKS - 1; i > 0; i--) {
        const int other = random_below(i + 1), kept = c->blocks[i];
        c->blocks[i] = c->blocks[other];
        c->blocks[other] = kept;
    }
    for (int s = 0; s < n_seqs; s++) {
        c->seqs[s] = (struct kernels_seq){
            .first_row = c->n_rows, .n_rows = runs[s][1], .first_pos = runs[s][0], .blocks = c->blocks + n_blocks};
        c->n_rows += runs[s][1];
        n_blocks += (runs[s][0] + runs[s][1] + KV_BLOCK - 1) / KV_BLOCK;
        assert(runs[s][0] + runs[s][1] <= MAX_POS && n_blocks <= MAX_BLOCKS);
    }
    c->q = take(sizeof(float) * (size_t)(c->n_rows * q_width(c)));
    c->k = take(sizeof(float) * (size_t)(c->n_rows * kv_width(c)));
    c->v = take(sizeof(float) * (size_t)(c->n_rows * kv_width(c)));
    fill_floats(c->q, c->n_rows * q_width(c), 3.0f);
    fill_floats(c->k, c->n_rows * kv_width(c), 3.0f);
    fill_floats(c->v, c->n_rows * kv_width(c), 1.0f);
    c->v[0] = 1e-6f; /* a subnormal half */
    c->cos_sin = take(sizeof(float) * (size_t)(MAX_POS * shape->rope_dim));
    for (int p = 0; p < MAX_POS; p++)
        for (int i = 0; i < shape->rope_dim / 2; i++) {
            const double angle = p * pow(10000.0, -2.0 * i / shape->rope_dim);
            c->cos_sin[p * shape->rope_dim + 2 * i] = (float)cos(angle);
            c->cos_sin[p * shape->rope_dim + 2 * i + 1] = (float)sin(angle);
        }
}

static void free_kv_case(struct kv_case *c) {
    free(c->q);
    free(c->k);
    free(c->v);
    free(c->cos_sin);
}

/* All pages are NaN, except for the positions before each run: those hold random halves, the same for each backend. */
static struct kv_pool new_pool(const struct backend *b, const struct kv_case *c) {
    struct kv_pool pool;
    const struct kv_shape *shape = &c->shape;
    const int rc = kv_pool_alloc(b, MAX_BLOCKS, KV_LAYERS, shape->n_kv_heads, shape->head_dim, &pool);
    assert(rc == KERNELS_OK && pool.block_bytes == kv_block_bytes(KV_LAYERS, shape->n_kv_heads, shape->head_dim));
    memset(pool.data, 0xff, pool.block_bytes * MAX_BLOCKS);
    const uint64_t kept = random_state;
    const size_t page = (size_t)KV_BLOCK * (size_t)shape->head_dim; /* halves */
    for (int s = 0; s < c->n_seqs; s++)
        for (int pos = 0; pos < c->seqs[s].first_pos; pos++) {
            uint16_t *block = (uint16_t *)(void *)(pool.data + (size_t)c->seqs[s].blocks[pos / KV_BLOCK] * pool.block_bytes);
            for (int head = 0; head < shape->n_kv_heads; head++) {
                uint16_t *k = block + (size_t)(KV_LAYER * 2 * shape->n_kv_heads + head) * page;
                uint16_t *v = k + (size_t)shape->n_kv_heads * page;
                for (int d = 0; d < shape->head_dim; d++) {
                    k[d * KV_BLOCK + pos % KV_BLOCK] = float_to_half(random_float());
                    v[pos % KV_BLOCK * shape->head_dim + d] = float_to_half(random_float());
                }
            }
        }
    random_state = kept;
    return pool;
}

static struct qkv_view view_of(const struct kv_case *c, float *q) {
    return (struct qkv_view){.q = q,
                             .k = c->k,
                             .v = c->v,
                             .q_stride = q_width(c),
                             .k_stride = kv_width(c),
                             .v_stride = kv_width(c),
                             .n_heads = c->shape.n_heads};
}

/* rope_kv, then attention, all sequences in one call. q is rotated in place. */
static void run_kv(const struct backend *b, const struct kv_case *c, float *q, struct kv_pool *pool, float *out) {
    const struct qkv_view qkv = view_of(c, q);
    const struct rope_spec rope = {.cos_sin = c->cos_sin, .kind = c->shape.kind, .rope_dim = c->shape.rope_dim};
    b->ops->rope_kv(b->self, &qkv, &rope, c->seqs, c->n_seqs, pool, KV_LAYER);
    b->ops->attention(b->self, &qkv, &c->spec, c->seqs, c->n_seqs, pool, KV_LAYER, out, q_width(c));
}

/* The same, at most `chunk` rows a call, in the order of the batch. */
static void run_kv_chunks(const struct backend *b, const struct kv_case *c, float *q, struct kv_pool *pool, float *out,
                          int chunk) {
    for (int s = 0; s < c->n_seqs; s++)
        for (int i = 0; i < c->seqs[s].n_rows; i += chunk) {
            struct kv_case part = *c;
            part.n_seqs = 1;
            part.seqs[0] = c->seqs[s];
            part.seqs[0].first_row += i;
            part.seqs[0].first_pos += i;
            part.seqs[0].n_rows = c->seqs[s].n_rows - i < chunk ? c->seqs[s].n_rows - i : chunk;
            run_kv(b, &part, q, pool, out);
        }
}

/* --- the reference against double --- */

static double half_in_pool(const struct kv_pool *pool, const struct kernels_seq *seq, int pos, int head, int d, bool value) {
    const size_t page = (size_t)(KV_BLOCK * pool->head_dim);
    const uint16_t *at = (const uint16_t *)(const void *)(pool->data + (size_t)seq->blocks[pos / KV_BLOCK] * pool->block_bytes);
    at += (size_t)((KV_LAYER * 2 + value) * pool->n_kv_heads + head) * page;
    const int slot = pos % KV_BLOCK;
    return (double)half_to_float(value ? at[slot * pool->head_dim + d] : at[d * KV_BLOCK + slot]);
}

/* Softmax attention of one head of one row of the first sequence, in double, over the pool's pages. */
static void naive_attention(const struct kv_case *c, const struct kv_pool *pool, const float *q, int row, int head, double *out) {
    const struct kernels_seq *seq = &c->seqs[0];
    const int kv_head = head / (c->shape.n_heads / c->shape.n_kv_heads), dims = c->shape.head_dim;
    const int end = seq->first_pos + row + 1, begin = c->spec.window > 0 && end > c->spec.window ? end - c->spec.window : 0;
    const double cap = (double)c->spec.soft_cap;
    double p[MAX_POS], most = -INFINITY, total = 0;
    for (int t = begin; t < end; t++) {
        p[t] = 0;
        for (int d = 0; d < dims; d++)
            p[t] += (double)q[row * q_width(c) + head * dims + d] * half_in_pool(pool, seq, t, kv_head, d, false);
        p[t] *= 0.125;
        if (cap > 0) p[t] = cap * tanh(p[t] / cap);
        most = fmax(most, p[t]);
    }
    for (int t = begin; t < end; t++) total += p[t] = exp(p[t] - most);
    for (int d = 0; d < dims; d++) {
        out[d] = 0;
        for (int t = begin; t < end; t++) out[d] += p[t] / total * half_in_pool(pool, seq, t, kv_head, d, true);
    }
}

/* The first head of the first row. */
static void expect_rotated(const struct kv_case *c, const float *q) {
    const int half = c->shape.rope_dim / 2, pos = c->seqs[0].first_pos;
    for (int j = 0; j < half; j++) {
        const int a = c->shape.kind == ROPE_HALVES ? j : 2 * j, b = c->shape.kind == ROPE_HALVES ? j + half : 2 * j + 1;
        const double angle = pos * pow(10000.0, -2.0 * j / c->shape.rope_dim);
        const float *cs = c->cos_sin + pos * c->shape.rope_dim + 2 * j; /* and exactly in this order of roundings */
        expect(same_float(q[a], fmaf(-c->q[b], cs[1], c->q[a] * cs[0])) &&
                   same_float(q[b], fmaf(c->q[b], cs[0], c->q[a] * cs[1])),
               "roundings of rotated dimension %d", a);
        expect(near(q[a], c->q[a] * cos(angle) - c->q[b] * sin(angle), 1e-5), "rotated dimension %d", a);
        expect(near(q[b], c->q[b] * cos(angle) + c->q[a] * sin(angle), 1e-5), "rotated dimension %d", b);
    }
}

static void check_against_double(const struct kv_case *c) {
    const size_t bytes = sizeof(float) * (size_t)(c->n_rows * q_width(c));
    float *q = take(bytes), *out = take(bytes);
    memcpy(q, c->q, bytes);
    struct kv_pool pool = new_pool(&reference, c);
    run_kv(&reference, c, q, &pool, out);
    expect_rotated(c, q);
    for (int row = 0; row < c->n_rows; row++)
        for (int head = 0; head < c->shape.n_heads; head++) {
            double expected[MOST_DIMS];
            naive_attention(c, &pool, q, row, head, expected);
            for (int d = 0; d < c->shape.head_dim; d++) {
                const float got = out[row * q_width(c) + head * c->shape.head_dim + d];
                expect(near(got, expected[d], 1e-5), "window %d, cap %g: row %d head %d dim %d: %g, not %g", c->spec.window,
                       (double)c->spec.soft_cap, row, head, d, (double)got, expected[d]);
            }
        }
    kv_pool_free(&reference, &pool);
    free(q);
    free(out);
}

static void check_reference_attention(void) {
    begin_op("reference: rope, attention");
    static const int runs[2][1][2] = {{{70, 3}}, {{0, 20}}};
    struct kv_case c;
    for (int i = 0; i < N_KV_SHAPES; i++) {
        make_kv_case(&c, &kv_shapes[i], runs[0], 1);
        check_against_double(&c);
        free_kv_case(&c);
    }
    end_op();
    begin_op("reference: windows, caps");
    for (int i = 0; i < N_HEAD_SHAPES * N_WINDOWS * 2; i++) {
        static const int late[1][2] = {{190, 13}}; /* the window of 200 begins to move in it */
        make_kv_case(&c, &head_shapes[i % N_HEAD_SHAPES], i % 2 ? runs[1] : late, 1);
        c.spec.window = windows[i / N_HEAD_SHAPES % N_WINDOWS];
        c.spec.soft_cap = i >= N_HEAD_SHAPES * N_WINDOWS ? 1.5f : 0; /* scores reach some tens: it bends them all */
        check_against_double(&c);
        free_kv_case(&c);
    }
    end_op();
}

/* --- every subject against the reference --- */

/* Each subject computes the case at once, and in chunks if n_chunks > 0; expected is row by row. */
static void check_kv_case(const struct kv_case *c, const int *chunks, int n_chunks) {
    const int cells = c->n_rows * q_width(c);
    const size_t bytes = sizeof(float) * (size_t)cells;
    float *expected_q = take(bytes), *expected = take(bytes), *q = take(bytes), *out = take(bytes);
    struct kv_pool expected_pool = new_pool(&reference, c);
    memcpy(expected_q, c->q, bytes);
    run_kv_chunks(&reference, c, expected_q, &expected_pool, expected, 1);
    for (int s = 0; s < n_subjects * (1 + n_chunks); s++) {
        const struct subject *subject = &subjects[s % n_subjects];
        const struct backend *b = &subject->backend;
        const int chunk = s < n_subjects ? c->n_rows : chunks[s / n_subjects - 1];
        struct kv_pool pool = new_pool(b, c);
        memcpy(q, c->q, bytes);
        memset(out, 0xff, bytes);
        if (s < n_subjects)
            run_kv(b, c, q, &pool, out);
        else
            run_kv_chunks(b, c, q, &pool, out, chunk);
        char what[128];
        snprintf(what, sizeof what, "%d/%d heads of %d, window %d, cap %g, %d rows in %d sequences from %d by %d",
                 c->shape.n_heads, c->shape.n_kv_heads, c->shape.head_dim, c->spec.window, (double)c->spec.soft_cap, c->n_rows,
                 c->n_seqs, c->seqs[0].first_pos, chunk);
        expect_floats(expected_q, q, cells, subject->name, "rotated queries");
        expect(memcmp(expected_pool.data, pool.data, pool.block_bytes * MAX_BLOCKS) == 0, "%s: the KV pool differs, %s",
               subject->name, what);
        expect_floats(expected, out, cells, subject->name, what);
        kv_pool_free(b, &pool);
    }
    kv_pool_free(&reference, &expected_pool);
    free(expected_q);
    free(expected);
    free(q);
    free(out);
}

/* Contexts around the edges of pages and chunks, decode and short runs together. */
static const int ragged[MAX_SEQS][2] = {{0, 1}, {14, 1}, {15, 1}, {16, 1}, {62, 3}, {63, 1}, {64, 1}, {199, 1}, {57, 9}};

static void check_ragged_and_lone(void) {
    struct kv_case c;
    begin_op("rope_kv, attention: ragged");
    for (int i = 0; i < N_KV_SHAPES; i++) {
        make_kv_case(&c, &kv_shapes[i], ragged, MAX_SEQS);
        check_kv_case(&c, NULL, 0);
        free_kv_case(&c);
    }
    end_op();
    begin_op("rope_kv, attention: one");
    static const int lone[][2] = {{0, 1}, {200, 1}, {0, 80}, {100, 70}, {60, 8}};
    for (int i = 0; i < 5; i++) {
        make_kv_case(&c, &kv_shapes[i % 2], lone + i, 1);
        if (i == 4) c.v[3 * kv_width(&c)] = INFINITY, c.k[5 * kv_width(&c)] = NAN; /* rows before them must stay finite */
        check_kv_case(&c, NULL, 0);
        free_kv_case(&c);
    }
    end_op();
}

/* Every window and head size with and without a soft cap, on a ragged batch; every window on a prompt in chunks. */
static void check_windows(void) {
    struct kv_case c;
    begin_op("attention: windows, caps");
    for (int i = 0; i < N_HEAD_SHAPES * N_WINDOWS * 2; i++) {
        make_kv_case(&c, &head_shapes[i % N_HEAD_SHAPES], ragged, MAX_SEQS);
        c.spec.window = windows[i / N_HEAD_SHAPES % N_WINDOWS];
        c.spec.soft_cap = i >= N_HEAD_SHAPES * N_WINDOWS ? 1.5f : 0;
        check_kv_case(&c, NULL, 0);
        free_kv_case(&c);
    }
    end_op();
    begin_op("attention: prompts in chunks");
    static const int prompt[1][2] = {{0, 141}}, chunks[] = {7, 16, 64, 100};
    for (int i = 0; i < N_WINDOWS; i++) {
        make_kv_case(&c, &head_shapes[i % N_HEAD_SHAPES], prompt, 1);
        c.spec.window = windows[i] / 2; /* 0, 3, 8, 32, 32, 100: all move within the prompt */
        c.spec.soft_cap = i % 2 ? 1.5f : 0;
        check_kv_case(&c, chunks, 4);
        free_kv_case(&c);
    }
    end_op();
}

static void check_attention(void) {
    check_reference_attention();
    check_ragged_and_lone();
    check_windows();
}

#endif
