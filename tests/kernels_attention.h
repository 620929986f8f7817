/* kernels_attention.h - rope_kv and attention: the plain C reference against softmax attention in double, and every subject
 * against the reference: ragged batches against rows alone, and a prompt in one piece against the same prompt cut into chunks.
 * Included by check_kernels.c only. */
#ifndef FORESAY_KERNELS_ATTENTION_H
#define FORESAY_KERNELS_ATTENTION_H

#include "tests/kernels_fixture.h"

/* --- cases --- */

enum { MAX_SEQS = 9, MAX_BLOCKS = 224, KV_LAYERS = 2, KV_LAYER = 1, MAX_POS = 1600, MOST_DIMS = 256, MOST_WIDTH = 1024 };

struct head_shape {
    int n_heads, n_kv_heads, head_dim, rope_dim;
    enum rope_kind kind;
};

static const struct head_shape kv_shapes[] = {
    {9, 3, 64, 64, ROPE_INTERLEAVED}, {4, 4, 16, 16, ROPE_HALVES},   {8, 1, 32, 16, ROPE_HALVES},
    {4, 2, 20, 10, ROPE_INTERLEAVED}, {8, 2, 128, 128, ROPE_HALVES}, {3, 1, 96, 96, ROPE_INTERLEAVED},
};
enum { N_KV_SHAPES = sizeof kv_shapes / sizeof *kv_shapes };

/* Head sizes that models have, grouped (3 or 2 heads share keys) or all heads on one. */
static const struct head_shape head_shapes[] = {
    {6, 2, 64, 64, ROPE_INTERLEAVED}, {3, 1, 80, 40, ROPE_HALVES},   {4, 1, 96, 96, ROPE_HALVES},
    {4, 2, 128, 128, ROPE_HALVES},    {4, 1, 256, 256, ROPE_HALVES},
};
enum { N_HEAD_SHAPES = sizeof head_shapes / sizeof *head_shapes };

/* The sizes that every type of cache can hold, and 96 and 80, of which the largest powers of two are 32 and 16. */
static const struct head_shape quantized_shapes[] = {
    {9, 3, 64, 64, ROPE_INTERLEAVED}, {4, 1, 32, 32, ROPE_HALVES}, {3, 1, 96, 96, ROPE_HALVES}, {8, 2, 128, 128, ROPE_HALVES},
    {4, 1, 256, 256, ROPE_HALVES},    {3, 1, 80, 40, ROPE_HALVES}, {4, 2, 16, 16, ROPE_HALVES}, /* the last two not for KV_INT4 */
};
enum { N_QUANTIZED_SHAPES = sizeof quantized_shapes / sizeof *quantized_shapes };

static const int windows[] = {0, 1, 7, 16, 64, 65, 200};
enum { N_WINDOWS = sizeof windows / sizeof *windows };

/* A batch of ragged sequences over one shuffled pool. */
struct kv_case {
    struct head_shape shape;
    enum kv_type type;
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
static void make_kv_case(struct kv_case *c, const struct head_shape *shape, const int (*runs)[2], int n_seqs) {
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

/* All pages are NaN, except for the positions before each run: those hold random keys and values, the same for each backend, as
 * the reference writes them. */
static struct kv_pool new_pool(const struct backend *b, const struct kv_case *c) {
    struct kv_pool pool;
    const struct kv_shape shape = {c->type, KV_LAYERS, c->shape.n_kv_heads, c->shape.head_dim};
    const int rc = kv_pool_alloc(b, MAX_BLOCKS, &shape, &pool);
    assert(rc == KERNELS_OK && pool.block_bytes == kv_block_bytes(&shape) && pool.block_bytes % 64 == 0);
    memset(pool.data, 0xff, pool.block_bytes * MAX_BLOCKS);
    const uint64_t kept = random_state;
    for (int s = 0; s < c->n_seqs; s++)
        for (int pos = 0; pos < c->seqs[s].first_pos; pos++) {
            float k[MOST_WIDTH], v[MOST_WIDTH];
            fill_floats(k, kv_width(c), 1.0f);
            fill_floats(v, kv_width(c), 1.0f);
            const struct qkv_view one = {.k = k, .v = v};
            const struct kernels_seq seq = {.n_rows = 1, .first_pos = pos, .blocks = c->seqs[s].blocks};
            reference.ops->rope_kv(reference.self, &one, &(struct rope_spec){0}, &seq, 1, &pool, KV_LAYER);
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
    b->ops->attention(b->self, &qkv, &c->spec, c->seqs, c->n_seqs, pool, KV_LAYER, out, q_width(c), NULL);
}

/* Attention once more, its result at once in int8 (and where heads do not allow it, afterwards). q: rotated; out: scratch. */
static void expect_attention_int8(const struct subject *subject, const struct kv_case *c, float *q, const struct kv_pool *pool,
                                  const float *expected, float *out, const char *what) {
    const struct backend *b = &subject->backend;
    const struct qkv_view qkv = view_of(c, q);
    if (q_width(c) % QUANT_BLOCK != 0) return;
    struct activation to = new_int8(b, c->n_rows, q_width(c));
    b->ops->attention(b->self, &qkv, &c->spec, c->seqs, c->n_seqs, pool, KV_LAYER, out, q_width(c), &to);
    expect_int8(expected, q_width(c), c->n_rows, &to, subject->name, what);
    activation_free(b, &to);
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

/* What the pool says about dimension d of a key or value, by the layouts of kernels.h; of the quantised types before it is turned
 * back. *step, if given: the difference between neighbouring codes. */
static double pool_value(const struct kv_pool *pool, const struct kernels_seq *seq, int pos, int head, int d, bool value,
                         double *step) {
    const struct kv_shape *shape = &pool->shape;
    const int n = shape->head_dim, heads = shape->n_kv_heads, slot = pos % KV_BLOCK;
    const bool f16 = shape->type == KV_F16, nibbles = shape->type == KV_INT4;
    const int k_bytes = f16 ? 32 * n : 16 * n, v_bytes = nibbles ? 8 * n : k_bytes;
    const int k_scales = f16 ? 0 : 32, v_scales = nibbles ? 64 * (n / 32) : k_scales;
    const int layer_bytes = (heads * (k_bytes + v_bytes + k_scales + v_scales) + 63) / 64 * 64;
    const uint8_t *layer = pool->data + (size_t)seq->blocks[pos / KV_BLOCK] * pool->block_bytes + KV_LAYER * layer_bytes;
    const uint8_t *page = layer + (value ? heads * k_bytes + head * v_bytes : head * k_bytes);
    const uint8_t *scales = layer + heads * (k_bytes + v_bytes) + (value ? heads * k_scales + head * v_scales : head * k_scales);
    const uint16_t *halves = (const uint16_t *)(const void *)(f16 ? page : scales);
    if (f16) return (double)half_to_float(halves[value ? slot * n + d : d * KV_BLOCK + slot]);
    if (!nibbles || !value) {
        const double scale = (double)half_to_float(halves[slot]);
        if (step) *step = scale;
        return scale * (int8_t)page[value ? slot / 4 * 4 * n + 4 * d + slot % 4 : d / 4 * 64 + slot * 4 + d % 4];
    }
    const int both = page[slot * n / 2 + d / 32 * 16 + d % 16];
    const double scale = (double)half_to_float(halves[d / 32 * 32 + slot]);
    if (step) *step = scale;
    return scale * (d % 32 < 16 ? both & 15 : both >> 4) + (double)half_to_float(halves[d / 32 * 32 + 16 + slot]);
}

/* The quantised types: y = H x for runs of the largest power of two that divides n. */
static void naive_hadamard(const double *x, int n, double *y) {
    const int size = n & -n;
    for (int i = 0; i < n; i++) {
        y[i] = 0;
        for (int j = 0; j < size; j++)
            y[i] += (__builtin_parity((unsigned)(i % size & j)) ? -1 : 1) * x[i / size * size + j] / sqrt(size);
    }
}

/* The query as attention sees it: scaled, and of the quantised types turned and rounded to codes. Floats decide otherwise than
 * doubles what is nearest where that is a hair's breadth: lean, in codes. */
static void naive_query(const struct kv_case *c, const float *q, double lean, double *out) {
    const int n = c->shape.head_dim;
    double x[MOST_DIMS], most = 0;
    for (int d = 0; d < n; d++) out[d] = x[d] = (double)q[d] * 0.125;
    if (c->type == KV_F16) return;
    naive_hadamard(x, n, out);
    for (int d = 0; d < n; d++) most = fmax(most, fabs(out[d]));
    const double step = (double)half_to_float(float_to_half((float)(most / 127)));
    for (int d = 0; d < n; d++) out[d] = rint(out[d] / step + lean) * step;
}

/* Softmax attention of one head of one row of the first sequence, in double, over the pool's pages. */
static void naive_attention(const struct kv_case *c, const struct kv_pool *pool, const float *q, int row, int head, double lean,
                            double *out) {
    const struct kernels_seq *seq = &c->seqs[0];
    const int kv_head = head / (c->shape.n_heads / c->shape.n_kv_heads), dims = c->shape.head_dim;
    const int end = seq->first_pos + row + 1, begin = c->spec.window > 0 && end > c->spec.window ? end - c->spec.window : 0;
    const double cap = (double)c->spec.soft_cap;
    double p[MAX_POS], query[MOST_DIMS], sum[MOST_DIMS] = {0}, most = -INFINITY, total = 0;
    naive_query(c, q + row * q_width(c) + head * dims, lean, query);
    for (int t = begin; t < end; t++) {
        p[t] = 0;
        for (int d = 0; d < dims; d++) p[t] += query[d] * pool_value(pool, seq, t, kv_head, d, false, NULL);
        if (cap > 0) p[t] = cap * tanh(p[t] / cap);
        most = fmax(most, p[t]);
    }
    for (int t = begin; t < end; t++) total += p[t] = exp(p[t] - most);
    for (int d = 0; d < dims; d++)
        for (int t = begin; t < end; t++) sum[d] += p[t] / total * pool_value(pool, seq, t, kv_head, d, true, NULL);
    if (c->type == KV_INT4)
        naive_hadamard(sum, dims, out);
    else
        memcpy(out, sum, sizeof sum);
}

/* What rope_kv wrote for a row: within half a step of what went in. In the pool codes of KV_INT4 stand for turned values. */
static void expect_stored(const struct kv_case *c, const struct kv_pool *pool, int row) {
    const int n = c->shape.head_dim;
    for (int head = 0; c->type != KV_F16 && head < c->shape.n_kv_heads; head++) {
        double value[MOST_DIMS], turned[MOST_DIMS], step = 0;
        for (int d = 0; d < n; d++) value[d] = (double)c->v[row * kv_width(c) + head * n + d];
        if (c->type == KV_INT4)
            naive_hadamard(value, n, turned);
        else
            memcpy(turned, value, sizeof turned);
        for (int d = 0; d < n; d++) {
            const double got = pool_value(pool, &c->seqs[0], c->seqs[0].first_pos + row, head, d, true, &step);
            expect(fabs(got - turned[d]) <= 0.502 * step + 2e-3 * fabs(turned[d]), "%s value %d of row %d: %g, not %g",
                   kv_type_name(c->type), d, row, got, turned[d]);
        }
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

/* One head of one row; a leaning query may explain a quantised type's. */
static void expect_attended(const struct kv_case *c, const struct kv_pool *pool, const float *q, int row, int head,
                            const float *got) {
    static const double leans[] = {0, 2e-4, -2e-4};
    const double tolerance = c->type == KV_F16 ? 1e-5 : 1e-3;
    double expected[MOST_DIMS];
    int wrong = 0;
    for (int i = 0; i < 3; i++) {
        naive_attention(c, pool, q, row, head, leans[i], expected);
        for (wrong = 0; wrong < c->shape.head_dim && near(got[wrong], expected[wrong], tolerance);) wrong++;
        if (wrong == c->shape.head_dim || c->type == KV_F16) break;
    }
    expect(wrong == c->shape.head_dim, "%s, window %d, cap %g: row %d head %d dim %d: %g, not %g", kv_type_name(c->type),
           c->spec.window, (double)c->spec.soft_cap, row, head, wrong, (double)got[wrong % c->shape.head_dim],
           expected[wrong % c->shape.head_dim]);
}

static void check_against_double(const struct kv_case *c) {
    const size_t bytes = sizeof(float) * (size_t)(c->n_rows * q_width(c));
    float *q = take(bytes), *out = take(bytes);
    memcpy(q, c->q, bytes);
    struct kv_pool pool = new_pool(&reference, c);
    run_kv(&reference, c, q, &pool, out);
    expect_rotated(c, q);
    for (int row = 0; row < c->n_rows; row++) expect_stored(c, &pool, row);
    for (int row = 0; row < c->n_rows; row++)
        for (int head = 0; head < c->shape.n_heads; head++)
            expect_attended(c, &pool, q, row, head, out + row * q_width(c) + head * c->shape.head_dim);
    kv_pool_free(&reference, &pool);
    free(q);
    free(out);
}

/* Rows behind one, two and three spans of 512, whole and behind windows that begin inside a span. */
static const int far_windows[] = {0, 600, 1000};

static void check_reference_spans(void) {
    static const int runs[][1][2] = {{{508, 8}}, {{1022, 4}}, {{1540, 3}}};
    begin_op("reference: spans");
    for (int i = 0; i < 3 * KV_TYPE_COUNT; i++) {
        struct kv_case c;
        make_kv_case(&c, &quantized_shapes[i % 3], runs[i / 3], 1);
        c.type = (enum kv_type)(i % KV_TYPE_COUNT);
        c.spec.window = far_windows[(i + i / 3) % 3];
        check_against_double(&c);
        free_kv_case(&c);
    }
    end_op();
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
    begin_op("reference: int8, int4");
    for (int i = 0; i < 2 * N_QUANTIZED_SHAPES * 2; i++) {
        static const int far[1][2] = {{130, 11}};
        const enum kv_type type = i % 2 ? KV_INT8 : KV_INT4;
        const struct head_shape *shape = &quantized_shapes[i / 2 % N_QUANTIZED_SHAPES];
        if (shape->head_dim % kv_type_unit(type) != 0) continue;
        make_kv_case(&c, shape, i < 2 * N_QUANTIZED_SHAPES ? far : runs[1], 1);
        c.type = type;
        c.spec.window = i % 3 == 0 ? 65 : 0;
        c.spec.soft_cap = i % 5 == 0 ? 1.5f : 0;
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
        snprintf(what, sizeof what, "%s, %d/%d heads of %d, window %d, cap %g, %d rows in %d sequences from %d by %d",
                 kv_type_name(c->type), c->shape.n_heads, c->shape.n_kv_heads, c->shape.head_dim, c->spec.window,
                 (double)c->spec.soft_cap, c->n_rows, c->n_seqs, c->seqs[0].first_pos, chunk);
        expect_floats(expected_q, q, cells, subject->name, "rotated queries");
        expect(memcmp(expected_pool.data, pool.data, pool.block_bytes * MAX_BLOCKS) == 0, "%s: the KV pool differs, %s",
               subject->name, what);
        expect_floats(expected, out, cells, subject->name, what);
        if (s < n_subjects) expect_attention_int8(subject, c, q, &pool, expected, out, what);
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

static void check_quantized(enum kv_type type) {
    struct kv_case c;
    char name[32];
    snprintf(name, sizeof name, "rope_kv, attention: %s", kv_type_name(type));
    begin_op(name);
    for (int i = 0; i < 2 * N_QUANTIZED_SHAPES; i++) {
        const struct head_shape *shape = &quantized_shapes[i % N_QUANTIZED_SHAPES];
        if (shape->head_dim % kv_type_unit(type) != 0) continue;
        make_kv_case(&c, shape, ragged, MAX_SEQS);
        c.type = type;
        c.spec.window = i < N_QUANTIZED_SHAPES ? 0 : windows[i % N_WINDOWS];
        c.spec.soft_cap = i % 2 ? 1.5f : 0;
        check_kv_case(&c, NULL, 0);
        free_kv_case(&c);
    }
    static const int prompt[1][2] = {{0, 141}}, chunks[] = {7, 16, 64};
    for (int i = 0; i < 3; i++) {
        make_kv_case(&c, &quantized_shapes[2 * i], prompt, 1);
        c.type = type;
        c.spec.window = 30 * i;
        if (i == 1) c.v[70 * kv_width(&c)] = INFINITY, c.k[75 * kv_width(&c)] = NAN; /* rows before them must stay finite */
        if (i == 2) memset(c.k, 0, sizeof *c.k * (size_t)kv_width(&c)), c.v[kv_width(&c)] = 3e38f, c.k[2 * kv_width(&c)] = 1e-6f;
        check_kv_case(&c, chunks, 3);
        free_kv_case(&c);
    }
    end_op();
}

/* Steps behind long contexts, whose spans are shared out among threads, and prompts across the border of a span. */
static void check_spans(void) {
    static const int long_runs[][4][2] = {
        {{1100, 1}}, {{1530, 9}}, {{1023, 2}, {5, 1}}, {{20, 1}, {1536, 1}, {511, 3}}, {{1025, 1}, {1024, 1}, {700, 1}, {0, 3}}};
    static const int n_seqs[] = {1, 1, 2, 3, 4}, chunks[] = {7, 16}, prompt[1][2] = {{490, 40}};
    struct kv_case c;
    begin_op("attention: spans");
    for (int i = 0; i < 5 * KV_TYPE_COUNT; i++) {
        make_kv_case(&c, &quantized_shapes[i % 4], long_runs[i % 5], n_seqs[i % 5]);
        c.type = (enum kv_type)(i / 5);
        c.spec.window = far_windows[(i + i / 5) % 3];
        check_kv_case(&c, NULL, 0);
        free_kv_case(&c);
    }
    for (int i = 0; i < KV_TYPE_COUNT; i++) {
        make_kv_case(&c, &quantized_shapes[i], prompt, 1);
        c.type = (enum kv_type)i;
        c.spec.window = i == 1 ? 500 : 0;
        check_kv_case(&c, chunks, 2);
        free_kv_case(&c);
    }
    end_op();
}

static void check_attention(void) {
    check_reference_attention();
    check_reference_spans();
    check_spans();
    check_ragged_and_lone();
    check_windows();
    check_quantized(KV_INT8);
    check_quantized(KV_INT4);
}

#endif
