/* attention.c - attention over the KV blocks cut into pieces for the threads.
 *
 * A query vector is one head of one row. All vectors of a call stand in one line: sequence by sequence, in it KV head by KV
 * head, in it row by row, in it the query heads that share the KV head. Neighbours thus read the same keys and values, and an
 * inner call takes up to ATTENTION_TILE of them, over one span of positions. The work is shared out in one of two ways:
 *  (1) The line is cut into slices of about equal cost; a cut may fall anywhere, also between heads of one KV head, so that a
 *      single sequence with three KV heads keeps two threads busy.
 *  (2) Where few sequences decode behind long contexts, each span of each KV head is a piece: its parts wait in memory, and are
 *      joined when all are there (Flash-Decoding, but with fixed spans).
 *  (3) A piece is a chunk of the thread pool. Spans are the same both ways and joined in ascending order, so a vector's result
 *      does not depend on the piece it falls into.
 *  (4) A node of a tree whose ancestors lie in other slots than a text's would sees copies of the last blocks, in which they lie
 *      as if they were the text. So the sums are those of plain decoding, in the same order. */
#include <string.h>

#include "kernels/cpu/cpu.h"

enum {
    SLICES_PER_THREAD = 32, /* for prefill, whose costs within a sequence are uneven */
    ROW_OVERHEAD = 16,      /* fixed cost of a vector, in positions */
    SERIAL_COST = 256,      /* vectors * positions below which a fork costs more than it saves */
    SPLIT_SPANS = 3,        /* of some sequence, from which on spans are shared out, */
    SPLIT_GROUPS = 4,       /* unless there are so many KV heads of sequences per thread anyway */
    SERIAL_JOINS = 16384,   /* floats that the caller joins by itself */
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
    struct activation *to; /* NULL, or int8 is all that is wanted, and heads are whole blocks */
    int64_t cost;          /* of the line */
    int n_slices;
    int n_joins; /* pieces in which parts are joined */
};

static int64_t seq_vectors(const struct attention_call *call, const struct kernels_seq *seq) {
    return (int64_t)seq->n_rows * call->qkv->n_heads;
}

/* In units of one vector and one position; the same for each vector of a sequence. */
static int64_t vector_cost(const struct attention_call *call, const struct kernels_seq *seq) {
    const int64_t seen = (int64_t)seq->first_pos + seq->n_rows / 2, window = call->spec->window;
    return (window > 0 && window < seen ? window : seen) + ROW_OVERHEAD;
}

static int row_pos(const struct kernels_seq *seq, int row) { return seq->first_pos + (seq->depth ? seq->depth[row] : row); }

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

/* --- tiles --- */

enum { PART_FLOATS = PART_HEAD + MAX_HEAD_DIM };

/* Where the parts of one span go: of the KV head's first vector, and how far apart. */
struct parts {
    int span;
    float *first;
    size_t stride;
};

static bool tile_sees(const struct attention_tile *tile, int span) {
    for (int i = 0; i < tile->n; i++)
        if (attention_sees(tile->spec, tile->pos[i], span)) return true;
    return false;
}

static int first_span(const struct attention_spec *spec, int pos) {
    return attention_first_seen(spec, pos) / ATTENTION_SPAN * ATTENTION_SPAN;
}

/* Where the result of a vector goes. */
struct place {
    int batch_row, head;
};

/* Vectors i, i + 1 .. that are all heads head .. of several rows, or of one: how many heads, and rows. */
static int same_heads(const struct place *places, int n, int *n_rows) {
    int heads = 1;
    while (heads < n && places[heads].batch_row == places->batch_row) heads++;
    for (int i = heads; i < n; i++)
        if (places[i].batch_row != places[i - heads].batch_row + 1 || places[i].head != places[i - heads].head)
            n = i / heads * heads;
    *n_rows = n / heads;
    return heads;
}

/* Sums over all spans of n vectors to their places. */
static void end_vectors(const struct attention_call *call, const float *const *sums, const struct place *places, int n) {
    const struct cpu_kernels *kernels = call->cpu->kernels;
    const struct kv_shape *shape = &call->kv->shape;
    const int head_dim = shape->head_dim, head_blocks = head_dim / QUANT_BLOCK;
    float results[ATTENTION_TILE * MAX_HEAD_DIM];
    for (int i = 0; i < n; i++) {
        const size_t at = (size_t)places[i].batch_row * (size_t)call->out_stride + (size_t)(places[i].head * head_dim);
        kernels->attention_end(sums[i], shape->type, head_dim, call->to ? results + i * head_dim : call->out + at);
    }
    for (int i = 0, n_rows; call->to && i < n;) {
        const int heads = same_heads(places + i, n - i, &n_rows);
        kernels->quantize_tile(results + i * head_dim, n_rows, heads * head_blocks, call->to, places[i].batch_row,
                               places[i].head * head_blocks);
        i += heads * n_rows;
    }
}

/* All spans, one after the other. */
static void run_whole(const struct attention_call *call, struct attention_tile *tile, const struct place *places) {
    const struct cpu_kernels *kernels = call->cpu->kernels;
    float sums[ATTENTION_TILE][PART_FLOATS], part[ATTENTION_TILE][PART_FLOATS];
    bool has_sum[ATTENTION_TILE] = {false};
    const int last = tile->pos[tile->n - 1];
    for (tile->span = first_span(tile->spec, tile->pos[0]); tile->span <= last; tile->span += ATTENTION_SPAN) {
        for (int i = 0; i < tile->n; i++) tile->part[i] = has_sum[i] ? part[i] : sums[i];
        kernels->attention(tile);
        for (int i = 0; i < tile->n; i++) {
            if (!attention_sees(tile->spec, tile->pos[i], tile->span)) continue;
            if (has_sum[i]) kernels->attention_join(sums[i], part[i], tile->head_dim);
            has_sum[i] = true;
        }
    }
    const float *ends[ATTENTION_TILE];
    for (int i = 0; i < tile->n; i++) ends[i] = sums[i];
    end_vectors(call, ends, places, tile->n);
}

/* The first pages that a sequence's rows see of a KV head, as many as make a chunk; how many. */
static int first_pages(const struct attention_call *call, const struct kernels_seq *seq, int kv_head,
                       struct kv_pages pages[ATTENTION_CHUNK / KV_BLOCK]) {
    const int begin = attention_first_seen(call->spec, seq->first_pos) / ATTENTION_CHUNK * (ATTENTION_CHUNK / KV_BLOCK);
    const int n_blocks = (seq->first_pos + seq->n_rows - 1) / KV_BLOCK + 1;
    int n = 0;
    for (; n < ATTENTION_CHUNK / KV_BLOCK && begin + n < n_blocks; n++)
        pages[n] = kv_pages(call->kv, seq->blocks[begin + n], call->layer, kv_head);
    return n;
}

/* What the processor cannot know: where the pages of the next head, or of the next sequence, begin. */
static void find_next_pages(const struct attention_call *call, const struct kernels_seq *seq, int kv_head,
                            struct attention_tile *tile) {
    const bool last_head = kv_head + 1 == call->kv->shape.n_kv_heads;
    if (last_head && ++seq == call->seqs + call->n_seqs) return;
    first_pages(call, seq, last_head ? 0 : kv_head + 1, tile->next);
}

/* Of the head with which a thread begins. Keys first, as they are read. */
static void fetch_first_pages(const struct attention_call *call, const struct kernels_seq *seq, int kv_head) {
    const struct page_sizes sizes = kv_page_sizes(&call->kv->shape);
    struct kv_pages pages[ATTENTION_CHUNK / KV_BLOCK];
    const int n = first_pages(call, seq, kv_head, pages);
    for (int i = 0; i < n; i++) {
        fetch(pages[i].k, sizes.k);
        fetch(pages[i].k_scales, sizes.k_scales);
    }
    for (int i = 0; i < n; i++) {
        fetch(pages[i].v, sizes.v);
        fetch(pages[i].v_scales, sizes.v_scales);
    }
}

/* A query of the next tile: another thread may have made it, and then it is far away. */
static void fetch_query(const struct attention_call *call, const struct kernels_seq *seq, int kv_head, int vector, int end) {
    const struct qkv_view *qkv = call->qkv;
    const int group = qkv->n_heads / call->kv->shape.n_kv_heads, head_dim = call->kv->shape.head_dim;
    if (vector >= end) return;
    const float *q = qkv->q + (size_t)(seq->first_row + vector / group) * (size_t)qkv->q_stride +
                     (size_t)((kv_head * group + vector % group) * head_dim);
    fetch(q, (size_t)head_dim * sizeof *q);
}

/* Vectors first..end of a sequence's part of the line, all of one KV head; parts: NULL = to their results. */
static void run_head(const struct attention_call *call, const struct kernels_seq *seq, int kv_head, int first, int end,
                     const struct parts *parts) {
    const struct qkv_view *qkv = call->qkv;
    const struct kv_shape *shape = &call->kv->shape;
    const int group = qkv->n_heads / shape->n_kv_heads, head_dim = shape->head_dim;
    struct attention_tile tile = {.head_dim = head_dim, .type = shape->type, .spec = call->spec, .blocks = seq->blocks};
    struct place places[ATTENTION_TILE];
    struct tail tail;
    tile.block_bytes = call->kv->block_bytes;
    tile.pages = kv_pages(call->kv, 0, call->layer, kv_head);
    for (int i = first; i < end; i++) {
        const int row = i / group, head = kv_head * group + i % group;
        const size_t batch_row = (size_t)(seq->first_row + row), at = (size_t)head * (size_t)head_dim;
        tile.q[tile.n] = qkv->q + batch_row * (size_t)qkv->q_stride + at;
        fetch_query(call, seq, kv_head, i + ATTENTION_TILE, end);
        if (parts) tile.part[tile.n] = parts->first + (size_t)i * parts->stride;
        places[tile.n] = (struct place){seq->first_row + row, head};
        tile.pos[tile.n++] = row_pos(seq, row);
        const int next = (i + 1) / group;
        const bool goes_on = i + 1 < end && (next == row || (is_straight(seq, row) && is_straight(seq, next)));
        if (!parts && call->to && (tile.n == 1 || batch_row != (size_t)places[tile.n - 2].batch_row))
            fetch_activation_for_write(call->to, (int)batch_row, 1, head * head_dim / QUANT_BLOCK,
                                       group * head_dim / QUANT_BLOCK);
        if (tile.n < ATTENTION_TILE && goes_on) continue;
        tile.n_pooled = INT_MAX;
        if (i + 1 == end && !parts) find_next_pages(call, seq, kv_head, &tile);
        if (!is_straight(seq, row) && (!parts || parts->span + ATTENTION_SPAN > seq->first_pos / KV_BLOCK * KV_BLOCK))
            fill_tail(call, seq, row, kv_head, &tail, &tile);
        if (!parts) {
            run_whole(call, &tile, places);
        } else if (tile_sees(&tile, parts->span)) {
            tile.span = parts->span;
            call->cpu->kernels->attention(&tile);
        }
        tile.n = 0;
    }
}

/* --- the line --- */

static void run_seq(const struct attention_call *call, const struct kernels_seq *seq, int64_t first, int64_t end) {
    const int64_t per_head = seq_vectors(call, seq) / call->kv->shape.n_kv_heads;
    while (first < end) {
        const int64_t head = first / per_head, head_end = (head + 1) * per_head, stop = end < head_end ? end : head_end;
        run_head(call, seq, (int)head, (int)(first - head * per_head), (int)(stop - head * per_head), NULL);
        first = stop;
    }
}

/* The vector at which a cut at `cost` from the sequence's start falls, rounded down; the end beyond it. */
static int64_t cut_at(const struct attention_call *call, const struct kernels_seq *seq, int64_t cost) {
    const int64_t vectors = seq_vectors(call, seq), index = cost <= 0 ? 0 : cost / vector_cost(call, seq);
    return index < vectors ? index : vectors;
}

/* A thread begins with vector `first` of the sequence: what it will read first is not in its caches. */
static void begin_line(const struct attention_call *call, const struct kernels_seq *seq, int64_t first) {
    const int64_t per_head = seq_vectors(call, seq) / call->kv->shape.n_kv_heads;
    const int head = (int)(first / per_head), vector = (int)(first % per_head);
    for (int i = 0; i < ATTENTION_TILE; i++) fetch_query(call, seq, head, vector + i, (int)per_head);
    fetch_first_pages(call, seq, head);
}

static void run_slice(const void *arg, int slice) {
    const struct attention_call *call = arg;
    int64_t from = call->cost * slice / call->n_slices, to = call->cost * (slice + 1) / call->n_slices;
    for (int s = 0; s < call->n_seqs && to > 0; s++) {
        const struct kernels_seq *seq = &call->seqs[s];
        const int64_t first = cut_at(call, seq, from), end = cut_at(call, seq, to);
        if (from >= 0 && first < end) begin_line(call, seq, first);
        run_seq(call, seq, first, end);
        const int64_t cost = seq_vectors(call, seq) * vector_cost(call, seq);
        from -= cost;
        to -= cost;
    }
}

/* --- spans --- */

/* The spans that rows of a sequence see, and where its parts lie: [vectors, n_spans, PART_HEAD + head_dim]. */
struct span_range {
    int first, n;
    float *parts;
};

static int last_pos(const struct kernels_seq *seq) {
    int last = seq->first_pos;
    for (int row = 0; row < seq->n_rows; row++) {
        const int pos = row_pos(seq, row);
        last = pos > last ? pos : last;
    }
    return last;
}

static size_t part_floats(const struct attention_call *call) { return PART_HEAD + (size_t)call->kv->shape.head_dim; }

static struct span_range spans_of(const struct attention_call *call, const struct kernels_seq *seq, float *parts) {
    const int first = first_span(call->spec, seq->first_pos);
    return (struct span_range){first, (last_pos(seq) - first) / ATTENTION_SPAN + 1, parts};
}

static float *behind(const struct attention_call *call, const struct kernels_seq *seq, const struct span_range *range) {
    return range->parts + (size_t)seq_vectors(call, seq) * (size_t)range->n * part_floats(call);
}

/* Piece `piece`: one span of one KV head of a sequence. The heads of the first span come first. */
static void run_span(const void *arg, int piece) {
    const struct attention_call *call = arg;
    const int n_kv_heads = call->kv->shape.n_kv_heads, group = call->qkv->n_heads / n_kv_heads;
    const struct kernels_seq *seq = call->seqs;
    struct span_range range = spans_of(call, seq, call->cpu->parts);
    while (piece >= range.n * n_kv_heads) {
        piece -= range.n * n_kv_heads;
        float *parts = behind(call, seq++, &range);
        range = spans_of(call, seq, parts);
    }
    const int kv_head = piece % n_kv_heads, index = piece / n_kv_heads, per_head = seq->n_rows * group;
    struct parts to = {range.first + index * ATTENTION_SPAN, range.parts, (size_t)range.n * part_floats(call)};
    to.first += (size_t)(kv_head * per_head) * to.stride + (size_t)index * part_floats(call);
    run_head(call, seq, kv_head, 0, per_head, &to);
}

/* Vector `vector` of a sequence's part of the line. */
static void join_spans(const struct attention_call *call, const struct kernels_seq *seq, const struct span_range *range,
                       int vector) {
    const struct kv_shape *shape = &call->kv->shape;
    const int group = call->qkv->n_heads / shape->n_kv_heads, per_head = seq->n_rows * group;
    const int row = vector % per_head / group, head = vector / per_head * group + vector % group;
    const int pos = row_pos(seq, row);
    const struct place place = {seq->first_row + row, head};
    float *part = range->parts + (size_t)(vector * range->n) * part_floats(call), *sum = NULL;
    for (int i = 0; i < range->n; i++, part += part_floats(call)) {
        if (!attention_sees(call->spec, pos, range->first + i * ATTENTION_SPAN)) continue;
        if (sum)
            call->cpu->kernels->attention_join(sum, part, shape->head_dim);
        else
            sum = part;
    }
    end_vectors(call, &(const float *){sum}, &place, 1);
}

static void run_joins(const void *arg, int piece) {
    const struct attention_call *call = arg;
    float *parts = call->cpu->parts;
    for (int s = 0, i = 0; s < call->n_seqs; s++) {
        const struct kernels_seq *seq = &call->seqs[s];
        const struct span_range range = spans_of(call, seq, parts);
        for (int vector = 0; vector < seq_vectors(call, seq); vector++, i++)
            if (i % call->n_joins == piece) join_spans(call, seq, &range, vector);
        parts = behind(call, seq, &range);
    }
}

/* False when it would not pay, or the parts do not fit. */
static bool run_spans(struct attention_call *call) {
    const int n_kv_heads = call->kv->shape.n_kv_heads, n_threads = pool_threads(call->cpu->pool);
    if (n_threads == 1 || call->n_seqs * n_kv_heads >= SPLIT_GROUPS * n_threads) return false;
    size_t n_floats = 0;
    int n_pieces = 0, most = 0;
    for (int s = 0; s < call->n_seqs; s++) {
        const struct span_range range = spans_of(call, &call->seqs[s], call->cpu->parts);
        n_pieces += range.n * n_kv_heads;
        n_floats += (size_t)seq_vectors(call, &call->seqs[s]) * (size_t)range.n * part_floats(call);
        most = range.n > most ? range.n : most;
    }
    if (most < SPLIT_SPANS || n_floats > ATTENTION_PARTS || n_pieces > POOL_MAX_CHUNKS) return false;
    call->n_joins = n_floats < SERIAL_JOINS ? 1 : n_threads;
    pool_run(call->cpu->pool, n_pieces, run_span, call);
    pool_run(call->cpu->pool, call->n_joins, run_joins, call);
    return true;
}

static void attend(struct attention_call *call) {
    bool decode = true;
    for (int s = 0; s < call->n_seqs; s++) {
        call->cost += seq_vectors(call, &call->seqs[s]) * vector_cost(call, &call->seqs[s]);
        decode = decode && call->seqs[s].n_rows <= KV_BLOCK;
    }
    if (decode && run_spans(call)) return;
    const int n_threads = pool_threads(call->cpu->pool);
    call->n_slices = call->cost < SERIAL_COST ? 1 : decode ? n_threads : n_threads * SLICES_PER_THREAD;
    pool_run(call->cpu->pool, call->n_slices, run_slice, call);
}

void cpu_attention(void *self, const struct qkv_view *qkv, const struct attention_spec *spec, const struct kernels_seq *seqs,
                   int n_seqs, const struct kv_pool *kv, int layer, float *out, int out_stride, struct activation *to) {
    struct attention_call call = {
        .cpu = self, .qkv = qkv, .spec = spec, .seqs = seqs, .n_seqs = n_seqs, .kv = kv, .layer = layer};
    const bool at_once = to && !to->f && kv->shape.head_dim % QUANT_BLOCK == 0;
    call.out = out;
    call.out_stride = out_stride;
    if (at_once) call.to = to;
    attend(&call);
    if (!to || at_once) return;
    int n_rows = 0;
    for (int s = 0; s < n_seqs; s++) {
        const int end = seqs[s].first_row + seqs[s].n_rows;
        n_rows = end > n_rows ? end : n_rows;
    }
    cpu_quantize(self, out, out_stride, n_rows, to);
}
