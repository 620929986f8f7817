/* head_forward.c - what a drafting head computes, in the backend's operations. Engine thread only. */
#include <assert.h>
#include <math.h>

#include "engine/head.h"

void head_begin(struct head *h, const float *features, int n) {
    const struct backend_ops *ops = h->backend.ops;
    struct matmul_job fc = {.weight = h->weights[EAGLE_FC], .out = h->state, .out_stride = h->state_stride};
    ops->quantize(h->backend.self, features, MODEL_FEATURES * h->shape.n_embd, n, &h->features_act);
    ops->matmul(h->backend.self, &fc, 1, &h->features_act, n);
}

static void norm_into(float *y, const float *x, const float *gamma, int n, float eps) {
    enum { LANES = 16 }; /* n is a multiple */
    float lanes[LANES] = {0}, sum = 0;
    for (int i = 0; i < n; i += LANES) {
        for (int k = 0; k < LANES; k++) lanes[k] += x[i + k] * x[i + k];
    }
    for (int k = 0; k < LANES; k++) sum += lanes[k];
    float scale = 1 / sqrtf(sum / (float)n + eps);
    for (int i = 0; i < n; i++) y[i] = x[i] * scale * gamma[i];
}

/* [norm(embedding) ; norm(state)] of each row. */
static void widen(struct head *h, const float *token_norm, const float *state_norm, const int32_t *tokens, int n) {
    const struct model *m = h->model;
    const int width = h->shape.n_embd;
    const float eps = h->shape.norm_eps;
    h->backend.ops->embed(h->backend.self, m->embedding, tokens, n, m->embedding_scale, h->token, h->state_stride);
    for (int i = 0; i < n; i++) {
        float *wide = h->wide + (size_t)i * 2 * (size_t)width;
        size_t at = (size_t)i * (size_t)h->state_stride;
        norm_into(wide, h->token + at, token_norm, width, eps);
        norm_into(wide + width, h->state + at, state_norm, width, eps);
    }
    h->backend.ops->quantize(h->backend.self, h->wide, 2 * width, n, &h->wide_act);
}

static void attend(struct head *h, const struct kernels_seq *seq) {
    const struct backend_ops *ops = h->backend.ops;
    void *self = h->backend.self;
    const struct head_shape *s = &h->shape;
    struct qkv_view qkv = {h->q, h->k, h->v, h->q_stride, h->kv_stride, h->kv_stride, s->n_heads};
    struct matmul_job jobs[3] = {{.weight = h->weights[EAGLE_Q], .out = h->q, .out_stride = h->q_stride},
                                 {.weight = h->weights[EAGLE_K], .out = h->k, .out_stride = h->kv_stride},
                                 {.weight = h->weights[EAGLE_V], .out = h->v, .out_stride = h->kv_stride}};
    const struct rope_spec rope = {.cos_sin = h->cos_sin, .kind = ROPE_INTERLEAVED, .rope_dim = s->head_dim};
    const struct attention_spec spec = {.scale = 1 / sqrtf((float)s->head_dim), .window = HEAD_MEMORY};
    ops->matmul(self, jobs, 3, &h->wide_act, seq->n_rows);
    ops->rope_kv(self, &qkv, &rope, seq, 1, &h->kv, 0);
    ops->attention(self, &qkv, &spec, seq, 1, &h->kv, 0, h->attn, s->n_heads * s->head_dim, &h->attn_act);
}

void head_layer(struct head *h, int slot, int first_pos, const int32_t *tokens, int n) {
    const struct backend_ops *ops = h->backend.ops;
    void *self = h->backend.self;
    const struct kernels_seq seq = {.n_rows = n, .first_pos = first_pos, .blocks = h->blocks + (size_t)slot * (size_t)h->n_table};
    assert(n >= 1 && n <= HEAD_MOST_ROWS && first_pos + n <= h->n_table * KV_BLOCK);
    struct matmul_job o = {.weight = h->weights[EAGLE_O], .out = h->state, .out_stride = h->state_stride, .add = true};
    struct matmul_job down = {.weight = h->weights[EAGLE_DOWN], .out = h->state, .out_stride = h->state_stride, .add = true};
    widen(h, h->norms[EAGLE_TOKEN_NORM], h->norms[EAGLE_STATE_NORM], tokens, n);
    attend(h, &seq);
    ops->matmul(self, &o, 1, &h->attn_act, n);
    ops->rmsnorm(self, h->state, h->state_stride, NULL, h->norms[EAGLE_FFN_NORM], h->shape.norm_eps, n, &h->state_act);
    ops->matmul_glu(self, GLU_SILU, h->weights[EAGLE_GATE], h->weights[EAGLE_UP], &h->state_act, n, h->ffn, h->ffn_stride,
                    &h->ffn_act);
    ops->matmul(self, &down, 1, &h->ffn_act, n);
}

/* What is in state_act goes through the output matrix. */
static void output(struct head *h, int n) {
    struct matmul_job job = {
        .weight = h->weights[head_output_at(&h->shape)], .out = h->logits, .out_stride = h->logits_stride, .maxima = h->maxima};
    h->backend.ops->matmul(h->backend.self, &job, 1, &h->state_act, n);
}

static void normed_output(struct head *h, const float *state, int n) {
    const float *gamma = h->norms[head_output_norm_at(&h->shape)];
    h->backend.ops->rmsnorm(h->backend.self, state, h->state_stride, NULL, gamma, h->shape.norm_eps, n, &h->state_act);
    output(h, n);
}

void head_logits(struct head *h, const float *state) { normed_output(h, state, 1); }

void head_recur(struct head *h, const int32_t *tokens, int n) {
    const struct backend_ops *ops = h->backend.ops;
    void *self = h->backend.self;
    struct matmul_job skip = {.weight = h->weights[RECURRENT_SKIP], .out = h->state, .out_stride = h->state_stride};
    struct matmul_job down = {.weight = h->weights[RECURRENT_DOWN], .out = h->state, .out_stride = h->state_stride, .add = true};
    assert(n >= 1 && n <= HEAD_BATCH);
    widen(h, h->norms[RECURRENT_TOKEN_NORM], h->norms[RECURRENT_STATE_NORM], tokens, n);
    ops->matmul_glu(self, GLU_SILU, h->weights[RECURRENT_GATE], h->weights[RECURRENT_UP], &h->wide_act, n, h->ffn, h->ffn_stride,
                    &h->ffn_act);
    ops->matmul(self, &skip, 1, &h->wide_act, n);
    ops->matmul(self, &down, 1, &h->ffn_act, n);
    normed_output(h, h->state, n);
}

void head_ahead(struct head *h, const float *state) {
    const struct backend_ops *ops = h->backend.ops;
    void *self = h->backend.self;
    const struct head_shape *s = &h->shape;
    const size_t stride = (size_t)h->state_stride;
    norm_into(h->token, state, h->norms[s->n_ahead + MEDUSA_NORM], s->n_embd, s->norm_eps);
    ops->quantize(self, h->token, h->state_stride, 1, &h->state_act);
    for (int k = 0; k < s->n_ahead; k++) {
        struct matmul_job block = {.weight = h->weights[k], .out = h->state + (size_t)k * stride, .out_stride = h->state_stride};
        ops->matmul(self, &block, 1, &h->state_act, 1);
    }
    for (int k = 0; k < s->n_ahead; k++) {
        float *x = h->state + (size_t)k * stride;
        for (int i = 0; i < s->n_embd; i++) x[i] = h->token[i] + x[i] / (1 + expf(-x[i]));
    }
    ops->quantize(self, h->state, h->state_stride, s->n_ahead, &h->state_act);
    output(h, s->n_ahead);
}
