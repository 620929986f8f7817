/* head_load.c - opens a drafting head for inference: weights in the backend's layout, a ring of KV blocks for each sequence.
 *
 * A head looks back HEAD_MEMORY positions, so a slot has blocks for those and the rows of one call; its block table names them
 * over and over, up to the longest text. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/head.h"

enum { RING_BLOCKS = (HEAD_MEMORY + 2 * HEAD_MOST_ROWS) / KV_BLOCK };

static int no_memory(struct engine_error *error) {
    snprintf(error->text, sizeof error->text, "no memory for the drafting head");
    return ENGINE_ERR_MEMORY;
}

static int load_tensor(struct head *h, const struct gguf *gguf, int i, struct engine_error *error) {
    const struct head_tensor t = head_tensor_at(&h->shape, i);
    const struct gguf_tensor *tensor;
    enum dtype type;
    int rc = gguf_require_tensor(gguf, t.name, t.n_rows, t.n_cols, &tensor, &type, error);
    if (rc != ENGINE_OK) return rc;
    if (t.n_rows == 1) {
        h->norms[i] = calloc((size_t)row_group_pad(t.n_cols), sizeof(float));
        if (!h->norms[i]) return no_memory(error);
        dtype_row_to_float(type, tensor->data, h->norms[i], t.n_cols);
        return ENGINE_OK;
    }
    int status = h->backend.ops->weight_load(h->backend.self, tensor->data, type, t.n_rows, t.n_cols, &h->weights[i]);
    if (status == KERNELS_ERR_MEMORY) return no_memory(error);
    if (status == KERNELS_OK) return ENGINE_OK;
    snprintf(error->text, sizeof error->text, "%s: tensor %s: no kernel for type %s with %d rows of %d", gguf_path(gguf), t.name,
             dtype_name(type), t.n_rows, t.n_cols);
    return ENGINE_ERR_MODEL;
}

/* Every buffer of floats: where its pointer goes and its size. */
struct buffer {
    size_t offset, n;
};
enum { N_BUFFERS = 10 };

static void list_buffers(const struct head_shape *s, struct buffer *list) {
    size_t state = (size_t)row_group_pad(s->n_embd), q = (size_t)row_group_pad(s->n_heads * s->head_dim);
    size_t kv = (size_t)row_group_pad(s->n_kv_heads * s->head_dim), ffn = (size_t)row_group_pad(s->n_ffn);
    size_t n_logits = s->kind == HEAD_EAGLE ? 1 : s->kind == HEAD_RECURRENT ? HEAD_BATCH : (size_t)s->n_ahead;
    size_t rows = HEAD_MOST_ROWS, is_eagle = s->kind == HEAD_EAGLE, is_wide = s->kind != HEAD_MEDUSA;
    const struct buffer all[N_BUFFERS] = {{offsetof(struct head, state), rows * state},
                                          {offsetof(struct head, token), rows * state},
                                          {offsetof(struct head, wide), rows * 2 * (size_t)s->n_embd * is_wide},
                                          {offsetof(struct head, q), rows * q * is_eagle},
                                          {offsetof(struct head, k), rows * kv * is_eagle},
                                          {offsetof(struct head, v), rows * kv * is_eagle},
                                          {offsetof(struct head, attn), rows * q * is_eagle},
                                          {offsetof(struct head, ffn), rows * ffn * is_wide},
                                          {offsetof(struct head, logits), n_logits * (size_t)row_group_pad(s->n_vocab)},
                                          {offsetof(struct head, maxima), n_logits * (size_t)row_blocks(s->n_vocab)}};
    for (int i = 0; i < N_BUFFERS; i++) list[i] = all[i];
}

static float **buffer_at(struct head *h, const struct buffer *buffer) { return (float **)(void *)((char *)h + buffer->offset); }

static int open_buffers(struct head *h, struct engine_error *error) {
    const struct head_shape *s = &h->shape;
    struct buffer list[N_BUFFERS];
    list_buffers(s, list);
    for (int i = 0; i < N_BUFFERS; i++) {
        if (!(*buffer_at(h, &list[i]) = calloc(list[i].n + 1, sizeof(float)))) return no_memory(error);
    }
    const struct {
        bool is_needed;
        int n_cols;
        struct activation *out;
    } inputs[] = {{true, s->n_embd, &h->state_act},
                  {s->kind != HEAD_MEDUSA, 2 * s->n_embd, &h->wide_act},
                  {s->kind != HEAD_MEDUSA, s->n_ffn, &h->ffn_act},
                  {s->kind == HEAD_EAGLE, MODEL_FEATURES * s->n_embd, &h->features_act},
                  {s->kind == HEAD_EAGLE, s->n_heads * s->head_dim, &h->attn_act}};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
        if (inputs[i].is_needed &&
            activation_alloc(&h->backend, HEAD_MOST_ROWS, inputs[i].n_cols, true, true, inputs[i].out) != KERNELS_OK)
            return no_memory(error);
    }
    h->state_stride = row_group_pad(s->n_embd);
    h->q_stride = row_group_pad(s->n_heads * s->head_dim);
    h->kv_stride = row_group_pad(s->n_kv_heads * s->head_dim);
    h->ffn_stride = row_group_pad(s->n_ffn);
    h->logits_stride = row_group_pad(s->n_vocab);
    return ENGINE_OK;
}

static struct kv_shape kv_shape_of(const struct head_shape *s) {
    return (struct kv_shape){.type = KV_F16, .n_layers = 1, .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim};
}

static int table_length(int ctx_len) { return (ctx_len + HEAD_MOST_ROWS) / KV_BLOCK + 1; }

static int open_memory(struct head *h, struct engine_error *error) {
    const struct head_shape *s = &h->shape;
    const struct kv_shape kv = kv_shape_of(s);
    int n_positions = table_length(h->model->limits.ctx_len) * KV_BLOCK;
    h->n_table = table_length(h->model->limits.ctx_len);
    h->blocks = calloc((size_t)h->n_slots * (size_t)h->n_table, sizeof *h->blocks);
    h->cos_sin = calloc((size_t)n_positions * (size_t)s->head_dim, sizeof *h->cos_sin);
    int status = h->blocks && h->cos_sin ? kv_pool_alloc(&h->backend, h->n_slots * RING_BLOCKS, &kv, &h->kv) : KERNELS_ERR_MEMORY;
    if (status == KERNELS_ERR_MEMORY) return no_memory(error);
    if (status != KERNELS_OK) {
        snprintf(error->text, sizeof error->text, "the drafting head's attention heads of %d dimensions are not supported",
                 s->head_dim);
        return ENGINE_ERR_MODEL;
    }
    for (int slot = 0; slot < h->n_slots; slot++) {
        for (int i = 0; i < h->n_table; i++) h->blocks[slot * h->n_table + i] = slot * RING_BLOCKS + i % RING_BLOCKS;
    }
    const struct model_rope rope = {.base = (double)s->rope_base, .scale = 1, .magnitude = 1};
    model_fill_rope(&rope, s->head_dim, n_positions, h->cos_sin);
    return ENGINE_OK;
}

int head_open(struct head **out, const struct gguf *gguf, const struct head_shape *shape, const struct model *model, int n_slots,
              struct engine_error *error) {
    *out = NULL;
    struct head *h = calloc(1, sizeof *h);
    if (!h) return no_memory(error);
    *h = (struct head){.shape = *shape, .backend = model->backend, .model = model, .n_slots = n_slots};
    h->vocab = calloc((size_t)shape->n_vocab, sizeof *h->vocab);
    int rc = h->vocab ? head_read_vocab(gguf, shape, model->shape.vocab_size, h->vocab, error) : no_memory(error);
    for (int i = 0; i < head_n_tensors(shape) && rc == ENGINE_OK; i++) rc = load_tensor(h, gguf, i, error);
    if (rc == ENGINE_OK) rc = open_buffers(h, error);
    if (rc == ENGINE_OK && shape->kind == HEAD_EAGLE) rc = open_memory(h, error);
    if (rc == ENGINE_OK)
        *out = h;
    else
        head_close(h);
    return rc;
}

void head_close(struct head *h) {
    if (!h) return;
    struct buffer list[N_BUFFERS];
    list_buffers(&h->shape, list);
    for (int i = 0; i < N_BUFFERS; i++) free(*buffer_at(h, &list[i]));
    struct activation *inputs[] = {&h->features_act, &h->wide_act, &h->attn_act, &h->state_act, &h->ffn_act};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) activation_free(&h->backend, inputs[i]);
    for (int i = 0; i < HEAD_MOST_TENSORS; i++) {
        h->backend.ops->weight_free(h->backend.self, h->weights[i]);
        free(h->norms[i]);
    }
    if (h->kv.data) kv_pool_free(&h->backend, &h->kv);
    free(h->vocab);
    free(h->blocks);
    free(h->cos_sin);
    free(h);
}

uint64_t head_bytes(const struct gguf *gguf, const struct head_shape *shape, int n_slots, int ctx_len) {
    struct buffer list[N_BUFFERS];
    const struct kv_shape kv = kv_shape_of(shape);
    uint64_t n = 0, slots = (uint64_t)n_slots, table = (uint64_t)table_length(ctx_len);
    uint64_t widths = (uint64_t)(shape->n_embd * (3 + MODEL_FEATURES) + shape->n_heads * shape->head_dim + shape->n_ffn);
    list_buffers(shape, list);
    for (int i = 0; i < N_BUFFERS; i++) n += list[i].n * sizeof(float);
    n += widths * HEAD_MOST_ROWS * 6 + (uint64_t)shape->n_vocab * sizeof(int32_t) + model_weight_memory(gguf);
    if (shape->kind != HEAD_EAGLE) return n;
    return n + slots * (RING_BLOCKS * kv_block_bytes(&kv) + table * sizeof(int32_t)) +
           table * KV_BLOCK * (uint64_t)shape->head_dim * sizeof(float);
}
