/* model.c - the forward pass. The only place where the network is wired.
 *
 * A batch is ragged: decode rows and prefill chunks of many sequences one after the other, no padding. Every operation treats a
 * row by itself (kernels.h), so what a row gives does not depend on its neighbours. */
#include "engine/model.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static void attention_block(struct model *m, struct kv_pool *kv, const struct model_batch *batch, int layer) {
    const struct model_layer *l = &m->layers[layer];
    const struct model_shape *s = &m->shape;
    const struct backend_ops *ops = m->backend.ops;
    void *self = m->backend.self;
    struct qkv_view qkv = {.q = m->q,
                           .k = m->k,
                           .v = m->v,
                           .q_stride = m->q_stride,
                           .k_stride = m->kv_stride,
                           .v_stride = m->kv_stride,
                           .n_heads = s->n_heads};
    struct matmul_job jobs[3] = {{.weight = l->q, .out = m->q, .out_stride = m->q_stride},
                                 {.weight = l->k, .out = m->k, .out_stride = m->kv_stride},
                                 {.weight = l->v, .out = m->v, .out_stride = m->kv_stride}};
    const struct attention_spec spec = {.scale = 1.0f / sqrtf((float)s->head_dim)};
    const struct rope_spec rope = {.cos_sin = m->cos_sin, .kind = s->family->rope, .rope_dim = s->rope_dim};
    ops->rmsnorm(self, m->x, m->x_stride, NULL, l->attn_norm, s->norm_eps, batch->n_rows, &m->norm_act);
    ops->matmul(self, jobs, 3, &m->norm_act, batch->n_rows);
    ops->rope_kv(self, &qkv, &rope, batch->seqs, batch->n_seqs, kv, layer);
    ops->attention(self, &qkv, &spec, batch->seqs, batch->n_seqs, kv, layer, m->attn, s->n_heads * s->head_dim);
}

/* x += o(attention); x += down(swiglu(norm(x))) */
static void output_and_ffn_block(struct model *m, int n_rows, int layer) {
    const struct model_layer *l = &m->layers[layer];
    const struct model_shape *s = &m->shape;
    const struct backend_ops *ops = m->backend.ops;
    void *self = m->backend.self;
    struct matmul_job o = {.weight = l->o, .out = m->x, .out_stride = m->x_stride, .add = true};
    struct matmul_job down = {.weight = l->down, .out = m->x, .out_stride = m->x_stride, .add = true};
    ops->quantize(self, m->attn, s->n_heads * s->head_dim, n_rows, &m->attn_act);
    ops->matmul(self, &o, 1, &m->attn_act, n_rows);
    ops->rmsnorm(self, m->x, m->x_stride, NULL, l->ffn_norm, s->norm_eps, n_rows, &m->norm_act);
    ops->matmul_swiglu(self, l->gate, l->up, &m->norm_act, n_rows, m->ffn, m->ffn_stride);
    ops->quantize(self, m->ffn, m->ffn_stride, n_rows, &m->ffn_act);
    ops->matmul(self, &down, 1, &m->ffn_act, n_rows);
}

/* After the last attention only the rows whose logits are wanted matter: moves them to the front. Rows ascend, so none is
 * overwritten before it has moved. */
static void keep_logit_rows(struct model *m, const struct model_batch *batch) {
    size_t n_attn = (size_t)(m->shape.n_heads * m->shape.head_dim), n_x = (size_t)m->x_stride;
    for (int i = 0; i < batch->n_logits; i++) {
        size_t row = (size_t)batch->logit_rows[i];
        if (row == (size_t)i) continue;
        memcpy(m->x + (size_t)i * n_x, m->x + row * n_x, n_x * sizeof *m->x);
        memcpy(m->attn + (size_t)i * n_attn, m->attn + row * n_attn, n_attn * sizeof *m->attn);
    }
}

void model_forward(struct model *m, struct kv_pool *kv, const struct model_batch *batch) {
    const struct backend_ops *ops = m->backend.ops;
    void *self = m->backend.self;
    int last = m->shape.n_layers - 1;
    assert(batch->n_rows > 0 && batch->n_rows <= m->limits.max_rows && batch->n_logits <= m->limits.max_logits);
    ops->embed(self, m->embedding, batch->tokens, batch->n_rows, m->x, m->x_stride);
    for (int layer = 0; layer < last; layer++) {
        attention_block(m, kv, batch, layer);
        output_and_ffn_block(m, batch->n_rows, layer);
    }
    attention_block(m, kv, batch, last);
    if (batch->n_logits == 0) return; /* the keys and values were all that was wanted */
    keep_logit_rows(m, batch);
    output_and_ffn_block(m, batch->n_logits, last);
    struct matmul_job head = {.weight = m->head, .out = m->logits, .out_stride = m->logits_stride};
    ops->rmsnorm(self, m->x, m->x_stride, NULL, m->output_norm, m->shape.norm_eps, batch->n_logits, &m->norm_act);
    ops->matmul(self, &head, 1, &m->norm_act, batch->n_logits);
}
