/* rows.c - operations on one row at a time (embed, rmsnorm, quantize, rope_kv) and so on, cut into rows for the threads.
 *
 * A row costs well below a microsecond, so a few of them run on the caller: waking nobody is cheaper than sharing. */
#include "kernels/cpu/cpu.h"

#include <string.h>

enum {
    PARALLEL_CELLS = 4 * 1024, /* rows * columns from which a fork pays */
    CHUNKS_PER_THREAD = 4,
    FEW_ROWS = 4 * KV_BLOCK, /* that RoPE may share out by heads */
};

typedef void row_function(const void *call, int row);

struct row_call {
    row_function *function;
    const void *call;
    int n, n_chunks;
};

static void run_rows(const void *arg, int chunk) {
    const struct row_call *rows = arg;
    const int64_t n = rows->n;
    const int end = (int)(n * (chunk + 1) / rows->n_chunks);
    for (int row = (int)(n * chunk / rows->n_chunks); row < end; row++) rows->function(rows->call, row);
}

static void for_each_row(const struct cpu *cpu, int n, int n_cols, row_function *function, const void *call) {
    struct row_call rows = {.function = function, .call = call, .n = n, .n_chunks = 1};
    const int many = pool_threads(cpu->pool) * CHUNKS_PER_THREAD;
    if ((int64_t)n * n_cols >= PARALLEL_CELLS) rows.n_chunks = n < many ? n : many;
    pool_run(cpu->pool, rows.n_chunks, run_rows, &rows);
}

/* --- embed --- */

struct embed_call {
    const struct weight *weight;
    const int32_t *tokens;
    float scale;
    float *x;
    int x_stride;
};

static void embed_row(const void *arg, int row) {
    const struct embed_call *call = arg;
    float *x = call->x + (size_t)row * (size_t)call->x_stride;
    weight_row_to_float(call->weight, call->tokens[row], x);
    for (int i = 0; call->scale != 1.0f && i < call->weight->n_cols; i++) x[i] *= call->scale;
}

void cpu_embed(void *self, const struct weight *weight, const int32_t *tokens, int n, float scale, float *x, int x_stride) {
    const struct embed_call call = {.weight = weight, .tokens = tokens, .scale = scale, .x = x, .x_stride = x_stride};
    for_each_row(self, n, weight->n_cols, embed_row, &call);
}

/* --- rmsnorm, quantize --- */

struct norm_call {
    const struct cpu_kernels *kernels;
    const float *x;
    int x_stride;
    const int32_t *rows;
    const float *gamma;
    float eps;
    int n;
    const struct activation *out;
};

static const float *normed_row(const struct norm_call *call, int row) {
    return call->x + (size_t)(call->rows ? call->rows[row] : row) * (size_t)call->x_stride;
}

static void norm_row(const void *arg, int row) {
    const struct norm_call *call = arg;
    const struct activation_row out = activation_row_at(call->out, row);
    const float *x = normed_row(call, row);
    if (row + 1 < call->n) {
        fetch(normed_row(call, row + 1), (size_t)call->out->n_cols * sizeof *x);
        if (call->out->q) fetch_activation_for_write(call->out, row + 1, 1, 0, call->out->n_cols / QUANT_BLOCK);
    }
    if (call->gamma)
        call->kernels->rmsnorm_row(x, call->gamma, call->eps, call->out->n_cols, &out);
    else
        call->kernels->quantize_row(x, call->out->n_cols, &out);
    if (!call->out->rest) return;
    const struct activation_row rest = activation_row_at(call->out->rest, row);
    call->kernels->rest_row(&out, call->out->n_cols, &rest);
}

void cpu_rmsnorm(void *self, const float *x, int x_stride, const int32_t *rows, const float *gamma, float eps, int n,
                 struct activation *out) {
    const struct cpu *cpu = self;
    const struct norm_call call = {
        .kernels = cpu->kernels, .x = x, .x_stride = x_stride, .rows = rows, .gamma = gamma, .eps = eps, .n = n, .out = out};
    for_each_row(cpu, n, out->n_cols, norm_row, &call);
}

void cpu_quantize(void *self, const float *x, int x_stride, int n, struct activation *out) {
    const struct cpu *cpu = self;
    const struct norm_call call = {.kernels = cpu->kernels, .x = x, .x_stride = x_stride, .n = n, .out = out};
    for_each_row(cpu, n, out->n_cols, norm_row, &call);
}

/* --- rmsnorm_add, soft_cap --- */

struct inplace_call {
    const struct cpu_kernels *kernels;
    const float *y, *gamma; /* soft_cap has neither */
    int y_stride;
    float number; /* eps or cap */
    int n_cols;
    float *x;
    int x_stride;
};

static void norm_add_row(const void *arg, int row) {
    const struct inplace_call *call = arg;
    call->kernels->rmsnorm_add_row(call->y + (size_t)row * (size_t)call->y_stride, call->gamma, call->number, call->n_cols,
                                   call->x + (size_t)row * (size_t)call->x_stride);
}

void cpu_rmsnorm_add(void *self, const float *y, int y_stride, const float *gamma, float eps, int n_cols, int n, float *x,
                     int x_stride) {
    const struct cpu *cpu = self;
    const struct inplace_call call = {cpu->kernels, y, gamma, y_stride, eps, n_cols, x, x_stride};
    for_each_row(cpu, n, n_cols, norm_add_row, &call);
}

static void cap_row(const void *arg, int row) {
    const struct inplace_call *call = arg;
    call->kernels->soft_cap_row(call->x + (size_t)row * (size_t)call->x_stride, call->n_cols, call->number);
}

void cpu_soft_cap(void *self, float *x, int x_stride, int n_cols, float cap, int n) {
    const struct cpu *cpu = self;
    const struct inplace_call call = {.kernels = cpu->kernels, .number = cap, .n_cols = n_cols, .x = x, .x_stride = x_stride};
    for_each_row(cpu, n, n_cols, cap_row, &call);
}

/* --- mixture of experts: route, gather, combine --- */

struct expert_call {
    const struct cpu_kernels *kernels;
    const struct route_spec *spec;
    const float *y; /* logits, or outputs of experts */
    int y_stride, n_used, n_cols;
    int32_t *chosen; /* written by route */
    float *out_share;
    const int32_t *place; /* read by combine; the rows of gather */
    const float *share;
    float *x;
    int x_stride;
    const struct activation *in, *out;
};

static void route_one(const void *arg, int row) {
    const struct expert_call *call = arg;
    const size_t at = (size_t)row * (size_t)call->spec->n_used;
    call->kernels->route_row(call->y + (size_t)row * (size_t)call->y_stride, call->spec, call->chosen + at, call->out_share + at);
}

void cpu_route(void *self, const float *logits, int stride, const struct route_spec *spec, int n, int32_t *chosen, float *share) {
    const struct cpu *cpu = self;
    const struct expert_call call = {
        .kernels = cpu->kernels, .spec = spec, .y = logits, .y_stride = stride, .chosen = chosen, .out_share = share};
    for_each_row(cpu, n, spec->n_experts, route_one, &call);
}

/* Without the floats. */
static void copy_codes(const struct activation *in, int in_row, const struct activation *out, int out_row) {
    const struct activation_row from = activation_row_at(in, in_row), to = activation_row_at(out, out_row);
    const size_t n = (size_t)in->n_cols, n_blocks = n / QUANT_BLOCK;
    memcpy(to.q, from.q, n);
    memcpy(to.d, from.d, n_blocks * sizeof *to.d);
    memcpy(to.ds, from.ds, n_blocks * sizeof *to.ds);
    memcpy(to.sum, from.sum, n_blocks * sizeof *to.sum);
    memcpy(to.sum16, from.sum16, 2 * n_blocks * sizeof *to.sum16);
}

static void gather_one(const void *arg, int row) {
    const struct expert_call *call = arg;
    const struct activation *in = call->in, *out = call->out;
    const int from = call->place[row];
    if (out->f) memcpy(activation_row_at(out, row).f, activation_row_at(in, from).f, (size_t)in->n_cols * sizeof *out->f);
    if (out->q) copy_codes(in, from, out, row);
    if (out->rest) copy_codes(in->rest, from, out->rest, row);
}

void cpu_gather(void *self, const struct activation *in, const int32_t *rows, int n, struct activation *out) {
    const struct expert_call call = {.place = rows, .in = in, .out = out};
    for_each_row(self, n, in->n_cols, gather_one, &call);
}

static void combine_one(const void *arg, int row) {
    const struct expert_call *call = arg;
    const size_t at = (size_t)row * (size_t)call->n_used;
    call->kernels->combine_row(call->y, call->y_stride, call->place + at, call->share + at, call->n_used, call->n_cols,
                               call->x + (size_t)row * (size_t)call->x_stride);
}

void cpu_combine(void *self, const float *y, int y_stride, const int32_t *place, const float *share, int n_used, int n_cols,
                 int n, float *x, int x_stride) {
    const struct cpu *cpu = self;
    const struct expert_call call = {.kernels = cpu->kernels,
                                     .y = y,
                                     .y_stride = y_stride,
                                     .n_used = n_used,
                                     .n_cols = n_cols,
                                     .place = place,
                                     .share = share,
                                     .x = x,
                                     .x_stride = x_stride};
    for_each_row(cpu, n, n_cols * n_used, combine_one, &call);
}

/* --- rope_kv ---
 *
 * Rows of many sequences or of a long prompt are shared out by rows, so that a sequence mostly stays with a thread, as it does in
 * attention. A few rows of fewer sequences than threads are shared out by heads: all lines of a page hold several tokens, and two
 * threads that write them in turns would send each other every one of them. */

struct rope_call {
    const struct cpu_kernels *kernels;
    const struct qkv_view *qkv;
    struct rope_row rope;
    const float *cos_sin; /* [positions, rope_dim / 2, 2] */
    const struct kernels_seq *seqs;
    int n_seqs;
    const struct kv_pool *kv;
    int layer;
};

/* A key lies across all lines of its page, values of four positions in one piece. Fetched by the writes, one by one, these lines
 * would take longer than everything else here. */
static void fetch_slot(const struct rope_call *call, const int32_t *blocks, int slot_pos, bool is_first) {
    const struct page_sizes sizes = kv_page_sizes(&call->kv->shape);
    const int slot = slot_pos % KV_BLOCK;
    if (!is_first && slot % 4 != 0) return;
    for (int h = 0; h < call->kv->shape.n_kv_heads; h++) {
        const struct kv_pages to = kv_pages(call->kv, blocks[slot_pos / KV_BLOCK], call->layer, h);
        if (is_first || slot == 0) fetch_for_write(to.k, sizes.k);
        fetch_for_write(to.v + (size_t)(slot / 4) * (sizes.v / 4), sizes.v / 4);
        fetch_for_write(to.k_scales, sizes.k_scales);
        fetch_for_write(to.v_scales, sizes.v_scales);
    }
}

static void fetch_heads(const struct rope_call *call, int batch_row) {
    const struct qkv_view *qkv = call->qkv;
    const size_t row = (size_t)batch_row, head = (size_t)call->kv->shape.head_dim * sizeof(float),
                 kv_bytes = (size_t)call->kv->shape.n_kv_heads * head;
    fetch_for_write(qkv->q + row * (size_t)qkv->q_stride, (size_t)qkv->n_heads * head);
    fetch(qkv->k + row * (size_t)qkv->k_stride, kv_bytes);
    fetch(qkv->v + row * (size_t)qkv->v_stride, kv_bytes);
}

/* Row i of a sequence: how it turns. */
static struct rope_row turn_of(const struct rope_call *call, const struct kernels_seq *seq, int i) {
    const int pos = seq->first_pos + (seq->depth ? seq->depth[i] : i);
    struct rope_row rope = call->rope;
    rope.cos_sin = call->cos_sin ? call->cos_sin + (size_t)pos * (size_t)rope.rope_dim : NULL;
    return rope;
}

static void rope_queries(const struct rope_call *call, const struct kernels_seq *seq, int i, int first, int n_heads) {
    const struct rope_row rope = turn_of(call, seq, i);
    const int head_dim = call->kv->shape.head_dim;
    float *q = call->qkv->q + (size_t)(seq->first_row + i) * (size_t)call->qkv->q_stride;
    for (int h = first; h < first + n_heads; h++) call->kernels->rope_query(q + h * head_dim, &rope);
}

static void rope_head(const struct rope_call *call, const struct kernels_seq *seq, int i, int head) {
    const struct qkv_view *qkv = call->qkv;
    const struct kv_shape *shape = &call->kv->shape;
    const struct rope_row rope = turn_of(call, seq, i);
    const int slot_pos = seq->first_pos + i;
    const size_t row = (size_t)(seq->first_row + i), at = (size_t)(head * shape->head_dim);
    const struct kv_slot to = {shape->type, kv_pages(call->kv, seq->blocks[slot_pos / KV_BLOCK], call->layer, head),
                               slot_pos % KV_BLOCK};
    call->kernels->rope_key_value(qkv->k + row * (size_t)qkv->k_stride + at, qkv->v + row * (size_t)qkv->v_stride + at, &rope,
                                  &to);
}

/* The index-th row of all sequences in order. */
static void rope_row_at(const void *arg, int index) {
    const struct rope_call *call = arg;
    const struct kernels_seq *seq = call->seqs;
    while (index >= seq->n_rows) index -= (seq++)->n_rows;
    fetch_slot(call, seq->blocks, seq->first_pos + index, index == 0);
    if (index + 1 < seq->n_rows) fetch_heads(call, seq->first_row + index + 1);
    rope_queries(call, seq, index, 0, call->qkv->n_heads);
    for (int h = 0; h < call->kv->shape.n_kv_heads; h++) rope_head(call, seq, index, h);
}

/* All rows of the queries of one KV head; from n_kv_heads on of its key and value. In the order in which the product before has
 * made them, so most are where they were made. */
static void rope_part(const void *arg, int part) {
    const struct rope_call *call = arg;
    const int n_kv = call->kv->shape.n_kv_heads, group = call->qkv->n_heads / n_kv;
    for (const struct kernels_seq *seq = call->seqs; seq < call->seqs + call->n_seqs; seq++)
        for (int i = 0; i < seq->n_rows; i++) {
            if (part < n_kv)
                rope_queries(call, seq, i, part * group, group);
            else
                rope_head(call, seq, i, part - n_kv);
        }
}

void cpu_rope_kv(void *self, const struct qkv_view *qkv, const struct rope_spec *rope, const struct kernels_seq *seqs, int n_seqs,
                 struct kv_pool *kv, int layer) {
    const struct cpu *cpu = self;
    const struct rope_call call = {.kernels = cpu->kernels,
                                   .qkv = qkv,
                                   .rope = {.kind = rope->kind,
                                            .rope_dim = rope->rope_dim,
                                            .head_dim = kv->shape.head_dim,
                                            .q_norm = rope->q_norm,
                                            .k_norm = rope->k_norm,
                                            .norm_eps = rope->norm_eps},
                                   .cos_sin = rope->cos_sin,
                                   .seqs = seqs,
                                   .n_seqs = n_seqs,
                                   .kv = kv,
                                   .layer = layer};
    int n = 0;
    for (int i = 0; i < n_seqs; i++) n += seqs[i].n_rows;
    const int n_cells = (qkv->n_heads + 2 * kv->shape.n_kv_heads) * kv->shape.head_dim;
    const bool by_heads = n <= FEW_ROWS && n_seqs < pool_threads(cpu->pool) && n * n_cells >= PARALLEL_CELLS;
    if (by_heads)
        pool_run(cpu->pool, 2 * kv->shape.n_kv_heads, rope_part, &call);
    else
        for_each_row(cpu, n, n_cells, rope_row_at, &call);
}
