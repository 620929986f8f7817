/* model.h - the network: its shape, its weights in the backend's layout, one forward pass.
 *
 *     model_read_shape(&shape, gguf, &error);        metadata only: sizes are known before anything is allocated
 *     model_open(&model, gguf, &shape, &backend, &limits, &error);
 *     model_forward(model, &pool, &batch);           logits of the wanted rows: model_logits(model, i)
 *
 * A family of models is a row of a table of differences in model_load.c; the network itself is wired once, in model.c, in terms
 * of the backend's operations. All buffers are sized by model_open. Engine thread only. */
#ifndef FORESAY_MODEL_H
#define FORESAY_MODEL_H

#include <stdint.h>

#include "engine/engine.h"
#include "engine/gguf.h"
#include "kernels/kernels.h"

/* What a family does differently. */
struct model_family {
    const char *architecture; /* general.architecture; prefix of the metadata keys */
    enum rope_kind rope;
};

struct model_shape {
    const struct model_family *family;
    int n_layers, n_embd, n_ffn, n_heads, n_kv_heads, head_dim, rope_dim, vocab_size;
    int ctx_train; /* tokens the model was trained for */
    float norm_eps;
    double rope_base, rope_scale;           /* angle = position * rope_scale * rope_base^(-2i / rope_dim) */
    const struct gguf_tensor *rope_factors; /* divide the frequencies; NULL = all 1 */
    bool has_head;                          /* false: the embedding matrix is the head too */
    uint64_t n_parameters, weight_bytes;
    uint32_t main_type; /* ggml's number of the type that most parameters have */
};

struct model_limits {
    int max_rows;   /* tokens of one forward pass */
    int max_logits; /* rows of one forward pass whose logits are wanted */
    int ctx_len;    /* positions */
};

struct model_layer {
    float *attn_norm, *ffn_norm; /* [n_embd] */
    struct weight *q, *k, *v, *o, *gate, *up, *down;
};

struct model {
    struct model_shape shape;
    struct model_limits limits;
    struct backend backend;
    struct weight *embedding, *head; /* head == embedding when they are tied */
    float *output_norm;
    float *norms; /* all norms together, owned */
    struct model_layer *layers;
    float *cos_sin; /* [ctx_len, rope_dim / 2, 2] */

    /* Buffers of a pass, max_rows rows each. */
    int x_stride, q_stride, kv_stride, ffn_stride, logits_stride;
    float *x;                                      /* residual stream [x_stride] */
    float *q, *k, *v;                              /* [q_stride], [kv_stride] */
    float *attn, *ffn;                             /* [n_heads * head_dim], [ffn_stride] */
    float *logits;                                 /* [max_logits, logits_stride] */
    struct activation norm_act, attn_act, ffn_act; /* inputs of the matmuls */
};

struct model_batch {
    const int32_t *tokens; /* [n_rows] */
    int n_rows;
    const struct kernels_seq *seqs; /* their runs cover the rows in order */
    int n_seqs;
    const int32_t *logit_rows; /* [n_logits], ascending */
    int n_logits;
};

int model_read_shape(struct model_shape *shape, const struct gguf *gguf, struct engine_error *error);
/* Bytes that model_open allocates besides the weights. */
uint64_t model_buffer_bytes(const struct model_shape *shape, const struct model_limits *limits);

/* backend must outlive the model; gguf may be closed afterwards. On failure *out is NULL. */
int model_open(struct model **out, const struct gguf *gguf, const struct model_shape *shape, const struct backend *backend,
               const struct model_limits *limits, struct engine_error *error);
/* Accepts NULL and half-built models. */
void model_close(struct model *model);

/* Computes all rows, writes their keys and values into kv, leaves the logits of the wanted rows in order. */
void model_forward(struct model *model, struct kv_pool *kv, const struct model_batch *batch);
/* Logits of the i-th wanted row: vocab_size floats, until the next pass; the caller may change them. */
static inline float *model_logits(const struct model *model, int i) {
    return model->logits + (size_t)i * (size_t)model->logits_stride;
}

#endif
