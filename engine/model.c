/* model.c - the forward pass. The only place where the network is wired.
 *
 * A batch is ragged: decode rows and prefill chunks of many sequences one after the other, no padding. Every operation treats a
 * row by itself (kernels.h), so what a row gives does not depend on its neighbours. */
#include "engine/model.h"

#include <assert.h>
#include <string.h>

/* to: NULL, or where the result goes instead of attn. */
static void attention_block(struct model *m, struct kv_pool *kv, const struct model_batch *batch, int layer,
                            struct activation *to) {
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
    struct matmul_job jobs[3] = {{.weight = l->q, .out = m->q, .out_stride = m->q_stride, .bias = l->q_bias},
                                 {.weight = l->k, .out = m->k, .out_stride = m->kv_stride, .bias = l->k_bias},
                                 {.weight = l->v, .out = m->v, .out_stride = m->kv_stride, .bias = l->v_bias}};
    const struct attention_spec spec = {.scale = s->attn_scale, .soft_cap = s->attn_soft_cap, .window = l->window};
    const struct rope_spec rope = {.cos_sin = l->cos_sin,
                                   .kind = s->family->rope,
                                   .rope_dim = s->rope_dim,
                                   .q_norm = l->q_norm,
                                   .k_norm = l->k_norm,
                                   .norm_eps = s->norm_eps};
    ops->rmsnorm(self, m->x, m->x_stride, NULL, l->attn_norm, s->norm_eps, batch->n_rows, &m->norm_act);
    ops->matmul(self, jobs, 3, &m->norm_act, batch->n_rows);
    ops->rope_kv(self, &qkv, &rope, batch->seqs, batch->n_seqs, kv, layer);
    ops->attention(self, &qkv, &spec, batch->seqs, batch->n_seqs, kv, layer, m->attn, s->n_heads * s->head_dim, to);
}

/* x += norm(W in); without a norm x += W in, in one pass. */
static void add_branch(struct model *m, const struct weight *weight, const float *bias, const float *norm,
                       const struct activation *in, int n_rows) {
    const struct backend_ops *ops = m->backend.ops;
    struct matmul_job job = {.weight = weight, .out = m->x, .out_stride = m->x_stride, .add = true, .bias = bias};
    if (norm) {
        job.out = m->branch;
        job.add = false;
    }
    ops->matmul(m->backend.self, &job, 1, in, n_rows);
    if (norm)
        ops->rmsnorm_add(m->backend.self, m->branch, m->x_stride, norm, m->shape.norm_eps, m->shape.n_embd, n_rows, m->x,
                         m->x_stride);
}

/* Lists the rows of each expert, one expert after the other: expert e has expert_rows[first[e] .. first[e + 1]), and place says
 * where in that list each choice of a row stands. */
static void sort_by_expert(struct model *m, int n_rows, int first[MAX_EXPERTS + 1]) {
    int used = m->shape.n_experts_used, n_experts = m->shape.n_experts, next[MAX_EXPERTS], at = 0;
    memset(next, 0, (size_t)n_experts * sizeof *next);
    for (int i = 0; i < n_rows * used; i++) next[m->chosen[i]]++;
    for (int e = 0; e < n_experts; e++) {
        int n = next[e];
        first[e] = next[e] = at;
        at += n;
    }
    first[n_experts] = at;
    for (int i = 0; i < n_rows * used; i++) {
        m->place[i] = next[m->chosen[i]]++;
        m->expert_rows[m->place[i]] = i / used;
    }
}

/* x += sum of the chosen experts' outputs. Each expert computes its rows together; a row adds them in the order of its own
 * choice. */
static void experts_block(struct model *m, int n_rows, const struct model_layer *l) {
    const struct model_shape *s = &m->shape;
    const struct backend_ops *ops = m->backend.ops;
    void *self = m->backend.self;
    int first[MAX_EXPERTS + 1];
    const struct route_spec spec = {.n_experts = s->n_experts, .n_used = s->n_experts_used, .normalize = s->normalize_shares};
    struct matmul_job router = {.weight = l->router, .out = m->router_logits, .out_stride = m->router_stride};
    ops->matmul(self, &router, 1, &m->norm_act, n_rows);
    ops->route(self, m->router_logits, m->router_stride, &spec, n_rows, m->chosen, m->share);
    sort_by_expert(m, n_rows, first);
    for (int e = 0; e < s->n_experts; e++) {
        int n = first[e + 1] - first[e];
        if (n == 0) continue;
        struct matmul_job down = {.weight = l->experts[e].down, .out_stride = m->x_stride};
        down.out = m->branch + (size_t)first[e] * (size_t)m->x_stride;
        ops->gather(self, &m->norm_act, m->expert_rows + first[e], n, &m->expert_act);
        ops->matmul_glu(self, s->family->glu, l->experts[e].gate, l->experts[e].up, &m->expert_act, n, m->ffn, m->ffn_stride,
                        &m->ffn_act);
        ops->matmul(self, &down, 1, &m->ffn_act, n);
    }
    ops->combine(self, m->branch, m->x_stride, m->place, m->share, s->n_experts_used, s->n_embd, n_rows, m->x, m->x_stride);
}

/* x += o(attention); x += down(glu(norm(x))) */
static void output_and_ffn_block(struct model *m, int n_rows, int layer) {
    const struct model_layer *l = &m->layers[layer];
    const struct model_shape *s = &m->shape;
    const struct backend_ops *ops = m->backend.ops;
    void *self = m->backend.self;
    add_branch(m, l->o, l->o_bias, l->attn_post_norm, &m->attn_act, n_rows);
    ops->rmsnorm(self, m->x, m->x_stride, NULL, l->ffn_norm, s->norm_eps, n_rows, &m->norm_act);
    if (l->router) {
        experts_block(m, n_rows, l);
        return;
    }
    ops->matmul_glu(self, s->family->glu, l->gate, l->up, &m->norm_act, n_rows, m->ffn, m->ffn_stride, &m->ffn_act);
    add_branch(m, l->down, NULL, l->ffn_post_norm, &m->ffn_act, n_rows);
}

/* After the last attention only the rows whose logits are wanted matter: moves them to the front, then makes attn_act of them.
 * Rows ascend, so none is overwritten before it has moved. */
static void keep_logit_rows(struct model *m, const struct model_batch *batch) {
    size_t n_attn = (size_t)(m->shape.n_heads * m->shape.head_dim), n_x = (size_t)m->x_stride;
    for (int i = 0; i < batch->n_logits; i++) {
        size_t row = (size_t)batch->logit_rows[i];
        if (row == (size_t)i) continue;
        memcpy(m->x + (size_t)i * n_x, m->x + row * n_x, n_x * sizeof *m->x);
        memcpy(m->attn + (size_t)i * n_attn, m->attn + row * n_attn, n_attn * sizeof *m->attn);
    }
    m->backend.ops->quantize(m->backend.self, m->attn, (int)n_attn, batch->n_logits, &m->attn_act);
}

/* Copies the residual stream where it enters a layer that a drafting head reads. */
static void keep_features(struct model *m, int layer, int n_rows) {
    const size_t n = (size_t)m->shape.n_embd;
    for (size_t f = 0; f < MODEL_FEATURES; f++) {
        if (m->limits.feature_layers[f] != layer) continue;
        for (size_t row = 0; row < (size_t)n_rows; row++)
            memcpy(m->features + (row * MODEL_FEATURES + f) * n, m->x + row * (size_t)m->x_stride, n * sizeof *m->x);
    }
}

void model_forward(struct model *m, struct kv_pool *kv, const struct model_batch *batch) {
    const struct backend_ops *ops = m->backend.ops;
    void *self = m->backend.self;
    int last = m->shape.n_layers - 1;
    assert(batch->n_rows > 0 && batch->n_rows <= m->limits.max_rows && batch->n_logits <= m->limits.max_logits);
    ops->embed(self, m->embedding, batch->tokens, batch->n_rows, m->embedding_scale, m->x, m->x_stride);
    for (int layer = 0; layer < last; layer++) {
        if (layer > 0) keep_features(m, layer, batch->n_rows);
        attention_block(m, kv, batch, layer, &m->attn_act);
        output_and_ffn_block(m, batch->n_rows, layer);
    }
    if (last > 0) keep_features(m, last, batch->n_rows);
    const bool all_wanted = batch->n_logits == batch->n_rows;
    attention_block(m, kv, batch, last, all_wanted ? &m->attn_act : NULL);
    if (batch->n_logits == 0) return; /* the keys and values were all that was wanted */
    if (!all_wanted) keep_logit_rows(m, batch);
    output_and_ffn_block(m, batch->n_logits, last);
    struct matmul_job head = {.weight = m->head, .out = m->logits, .out_stride = m->logits_stride, .maxima = model_maxima(m, 0)};
    ops->rmsnorm(self, m->x, m->x_stride, NULL, m->output_norm, m->shape.norm_eps, batch->n_logits, &m->norm_act);
    ops->matmul(self, &head, 1, &m->norm_act, batch->n_logits);
    if (m->shape.logit_soft_cap > 0)
        ops->soft_cap(self, m->logits, m->logits_stride, m->shape.vocab_size, m->shape.logit_soft_cap, batch->n_logits);
}
