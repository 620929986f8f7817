/* head_shape.c - the tensors of drafting heads by number, and the size of a new head. Any thread. */
#include <stdio.h>

#include "engine/head.h"

int head_n_tensors(const struct head_shape *s) { return head_output_at(s) + 1; }

int head_output_at(const struct head_shape *s) {
    return s->kind == HEAD_EAGLE ? EAGLE_OUTPUT : s->kind == HEAD_RECURRENT ? RECURRENT_OUTPUT : s->n_ahead + MEDUSA_OUTPUT;
}

int head_output_norm_at(const struct head_shape *s) { return s->kind == HEAD_MEDUSA ? -1 : head_output_at(s) - 1; }

static struct head_tensor named(const char *name, int n_rows, int n_cols) {
    struct head_tensor tensor = {.n_rows = n_rows, .n_cols = n_cols};
    snprintf(tensor.name, sizeof tensor.name, "%s", name);
    return tensor;
}

static struct head_tensor eagle_tensor(const struct head_shape *s, int i) {
    int h = s->n_embd, n_q = s->n_heads * s->head_dim, n_kv = s->n_kv_heads * s->head_dim;
    switch ((enum eagle_tensor)i) {
    case EAGLE_FC:
        return named("fc.weight", h, MODEL_FEATURES * h);
    case EAGLE_TOKEN_NORM:
        return named("blk.0.attn_norm.weight", 1, h);
    case EAGLE_STATE_NORM:
        return named("blk.0.attn_norm_2.weight", 1, h);
    case EAGLE_Q:
        return named("blk.0.attn_q.weight", n_q, 2 * h);
    case EAGLE_K:
        return named("blk.0.attn_k.weight", n_kv, 2 * h);
    case EAGLE_V:
        return named("blk.0.attn_v.weight", n_kv, 2 * h);
    case EAGLE_O:
        return named("blk.0.attn_output.weight", h, n_q);
    case EAGLE_FFN_NORM:
        return named("blk.0.ffn_norm.weight", 1, h);
    case EAGLE_GATE:
        return named("blk.0.ffn_gate.weight", s->n_ffn, h);
    case EAGLE_UP:
        return named("blk.0.ffn_up.weight", s->n_ffn, h);
    case EAGLE_DOWN:
        return named("blk.0.ffn_down.weight", h, s->n_ffn);
    case EAGLE_OUTPUT_NORM:
        return named("output_norm.weight", 1, h);
    default:
        return named("output.weight", s->n_vocab, h);
    }
}

static struct head_tensor recurrent_tensor(const struct head_shape *s, int i) {
    int h = s->n_embd;
    switch ((enum recurrent_tensor)i) {
    case RECURRENT_TOKEN_NORM:
        return named("token_norm.weight", 1, h);
    case RECURRENT_STATE_NORM:
        return named("state_norm.weight", 1, h);
    case RECURRENT_GATE:
        return named("ffn_gate.weight", s->n_ffn, 2 * h);
    case RECURRENT_UP:
        return named("ffn_up.weight", s->n_ffn, 2 * h);
    case RECURRENT_DOWN:
        return named("ffn_down.weight", h, s->n_ffn);
    case RECURRENT_SKIP:
        return named("skip.weight", h, 2 * h);
    case RECURRENT_OUTPUT_NORM:
        return named("output_norm.weight", 1, h);
    default:
        return named("output.weight", s->n_vocab, h);
    }
}

struct head_tensor head_tensor_at(const struct head_shape *s, int i) {
    if (s->kind == HEAD_EAGLE) return eagle_tensor(s, i);
    if (s->kind == HEAD_RECURRENT) return recurrent_tensor(s, i);
    if (i == s->n_ahead + MEDUSA_NORM) return named("output_norm.weight", 1, s->n_embd);
    if (i == s->n_ahead + MEDUSA_OUTPUT) return named("output.weight", s->n_vocab, s->n_embd);
    struct head_tensor tensor = {.n_rows = s->n_embd, .n_cols = s->n_embd};
    snprintf(tensor.name, sizeof tensor.name, "medusa.%d.weight", i);
    return tensor;
}

int head_default_shape(struct head_shape *out, enum head_kind kind, const struct model_shape *target, int n_vocab,
                       struct engine_error *error) {
    *out = (struct head_shape){.kind = kind,
                               .n_embd = target->n_embd,
                               .n_heads = target->n_heads,
                               .n_kv_heads = target->n_kv_heads,
                               .head_dim = target->head_dim,
                               .n_ffn = target->n_ffn,
                               .n_vocab = n_vocab < target->vocab_size ? n_vocab : target->vocab_size,
                               .n_ahead = HEAD_DEPTHS,
                               .norm_eps = target->norm_eps,
                               .rope_base = (float)target->rope.base};
    if (kind == HEAD_RECURRENT) out->n_ffn = (2 * target->n_embd / 3 + QUANT_BLOCK - 1) / QUANT_BLOCK * QUANT_BLOCK;
    return kind == HEAD_EAGLE ? model_feature_layers(target, out->layers, error) : ENGINE_OK;
}
