/* attention.c - attention over the KV blocks cut into pieces for the threads.
 *
 * A query vector is one head of one row. All vectors of a call stand in one line: sequence by sequence, in it KV head by KV
 * head, in it row by row, in it the query heads that share the KV head. Neighbours thus read the same keys and values, and an
 * inner call takes up to ATTENTION_TILE of them.
 *  (1) The line is cut into slices of about equal cost; a cut may fall anywhere, also between heads of one KV head, so that a
 *      single sequence with three KV heads keeps two threads busy.
 *  (2) A slice is a chunk of the thread pool. A vector's result does not depend on the slice it falls into.
 *  (3) A node of a tree whose ancestors lie in other slots than a text's would sees copies of the last blocks, in which they lie
 *      as if they were the text. So the sums are those of plain decoding, in the same order. */
#include <string.h>

#include "kernels/cpu/cpu.h"

enum {
    SLICES_PER_THREAD = 8, /* for prefill, whose costs within a sequence are uneven */
    ROW_OVERHEAD = 16,     /* fixed cost of a vector, in positions */
    SERIAL_COST = 256,     /* vectors * positions below which a fork costs more than it saves */
};

struct attention_call {
    const struct cpu *cpu;
    const struct qkv_view *qkv;
    const struct attention_spec *spec;
    const struct kernels_seq *seqs;
    int n_seqs;
    const struct kv_pool *kv;
    int layer;
    float *out;
    int out_stride;
    int64_t cost; /* of the line */
    int n_slices;
};

static int64_t seq_vectors(const struct attention_call *call, const struct kernels_seq *seq) {
    return (int64_t)seq->n_rows * call->qkv->n_heads;
}

/* In units of one vector and one position; the same for each vector of a sequence. */
static int64_t vector_cost(const struct attention_call *call, const struct kernels_seq *seq) {
    const int64_t seen = (int64_t)seq->first_pos + seq->n_rows / 2, window = call->spec->window;
    return (window > 0 && window < seen ? window : seen) + ROW_OVERHEAD;
}

/* --- nodes of trees --- */

enum {
    TAIL_BLOCKS = (KV_BLOCK - 1 + TREE_MAX_ROWS + KV_BLOCK - 1) / KV_BLOCK,
    TAIL_BYTES = KV_BLOCK * MAX_HEAD_DIM * 4 + LINE, /* both pages as half floats; other types need less, their scales too */
};

struct tail {
    _Alignas(LINE) uint8_t blocks[TAIL_BLOCKS][TAIL_BYTES];
};

/* Its ancestors stand as a text's tokens would: node d at depth d. */
static bool is_straight(const struct kernels_seq *seq, int row) {
    return !seq->depth || seq->ancestors[row] == UINT64_MAX >> (TREE_MAX_ROWS - 1 - row);
}

static struct kv_pages tail_pages(struct tail *tail, const struct kv_shape *shape, int i) {
    const struct page_sizes sizes = kv_page_sizes(shape);
    uint8_t *k = tail->blocks[i], *v = k + sizes.k, *k_scales = v + sizes.v;
    return (struct kv_pages){k, v, k_scales, k_scales + sizes.k_scales};
}

static void copy_pages(const struct kv_shape *shape, const struct kv_pages *from, const struct kv_pages *to) {
    const struct page_sizes sizes = kv_page_sizes(shape);
    memcpy(to->k, from->k, sizes.k);
    memcpy(to->v, from->v, sizes.v);
    memcpy(to->k_scales, from->k_scales, sizes.k_scales);
    memcpy(to->v_scales, from->v_scales, sizes.v_scales);
}

/* What the node sees from its tree's first block on. */
static void fill_tail(const struct attention_call *call, const struct kernels_seq *seq, int row, int kv_head, struct tail *tail,
                      struct attention_tile *tile) {
    const struct kv_shape *shape = &call->kv->shape;
    int pos = seq->first_pos;
    tile->n_pooled = pos / KV_BLOCK;
    tile->tail = tail_pages(tail, shape, 0);
    tile->tail_bytes = TAIL_BYTES;
    const struct kv_pages first = kv_pages(call->kv, seq->blocks[tile->n_pooled], call->layer, kv_head);
    copy_pages(shape, &first, &tile->tail);
    for (uint64_t left = seq->ancestors[row]; left; left &= left - 1, pos++) {
        const int from = seq->first_pos + __builtin_ctzll(left), i = pos / KV_BLOCK - tile->n_pooled;
        if (i == 0 && from == pos) continue; /* came with the block */
        const struct kv_pages source = kv_pages(call->kv, seq->blocks[from / KV_BLOCK], call->layer, kv_head);
        const struct kv_pages target = tail_pages(tail, shape, i);
        kv_copy_token(shape, &source, from % KV_BLOCK, &target, pos % KV_BLOCK);
    }
}

/* --- the line --- */

/* Vectors first..end of a sequence's part of the line, all of one KV head. */
static void run_head(const struct attention_call *call, const struct kernels_seq *seq, int kv_head, int first, int end) {
    const struct qkv_view *qkv = call->qkv;
    const struct kv_shape *shape = &call->kv->shape;
    const int group = qkv->n_heads / shape->n_kv_heads, head_dim = shape->head_dim;
    struct attention_tile tile = {.head_dim = head_dim, .type = shape->type, .spec = call->spec, .blocks = seq->blocks};
    struct tail tail;
    tile.block_bytes = call->kv->block_bytes;
    tile.pages = kv_pages(call->kv, 0, call->layer, kv_head);
    for (int i = first; i < end; i++) {
        const int row = i / group, head = kv_head * group + i % group;
        const size_t batch_row = (size_t)(seq->first_row + row), at = (size_t)head * (size_t)head_dim;
        tile.q[tile.n] = qkv->q + batch_row * (size_t)qkv->q_stride + at;
        tile.out[tile.n] = call->out + batch_row * (size_t)call->out_stride + at;
        tile.pos[tile.n++] = seq->first_pos + (seq->depth ? seq->depth[row] : row);
        const int next = (i + 1) / group;
        const bool goes_on = i + 1 < end && (next == row || (is_straight(seq, row) && is_straight(seq, next)));
        if (tile.n < ATTENTION_TILE && goes_on) continue;
        tile.n_pooled = INT_MAX;
        if (!is_straight(seq, row)) fill_tail(call, seq, row, kv_head, &tail, &tile);
        call->cpu->kernels->attention(&tile);
        tile.n = 0;
    }
}

static void run_seq(const struct attention_call *call, const struct kernels_seq *seq, int64_t first, int64_t end) {
    const int64_t per_head = seq_vectors(call, seq) / call->kv->shape.n_kv_heads;
    while (first < end) {
        const int64_t head = first / per_head, head_end = (head + 1) * per_head, stop = end < head_end ? end : head_end;
        run_head(call, seq, (int)head, (int)(first - head * per_head), (int)(stop - head * per_head));
        first = stop;
    }
}

/* The vector at which a cut at `cost` from the sequence's start falls, rounded down; the end beyond it. */
static int64_t cut_at(const struct attention_call *call, const struct kernels_seq *seq, int64_t cost) {
    const int64_t vectors = seq_vectors(call, seq), index = cost <= 0 ? 0 : cost / vector_cost(call, seq);
    return index < vectors ? index : vectors;
}

static void run_slice(const void *arg, int slice) {
    const struct attention_call *call = arg;
    int64_t from = call->cost * slice / call->n_slices, to = call->cost * (slice + 1) / call->n_slices;
    for (int s = 0; s < call->n_seqs && to > 0; s++) {
        const struct kernels_seq *seq = &call->seqs[s];
        run_seq(call, seq, cut_at(call, seq, from), cut_at(call, seq, to));
        const int64_t cost = seq_vectors(call, seq) * vector_cost(call, seq);
        from -= cost;
        to -= cost;
    }
}

void cpu_attention(void *self, const struct qkv_view *qkv, const struct attention_spec *spec, const struct kernels_seq *seqs,
                   int n_seqs, const struct kv_pool *kv, int layer, float *out, int out_stride) {
    struct attention_call call = {
        .cpu = self, .qkv = qkv, .spec = spec, .seqs = seqs, .n_seqs = n_seqs, .kv = kv, .layer = layer};
    call.out = out;
    call.out_stride = out_stride;
    bool decode = true;
    for (int s = 0; s < n_seqs; s++) {
        call.cost += seq_vectors(&call, &seqs[s]) * vector_cost(&call, &seqs[s]);
        decode = decode && seqs[s].n_rows <= KV_BLOCK;
    }
    const int n_threads = pool_threads(call.cpu->pool);
    call.n_slices = call.cost < SERIAL_COST ? 1 : decode ? n_threads : n_threads * SLICES_PER_THREAD;
    pool_run(call.cpu->pool, call.n_slices, run_slice, &call);
}
