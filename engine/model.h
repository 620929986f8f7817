/* model.h - the network: its shape, its weights in the backend's layout, one forward pass.
 *
 *     model_read_shape(&shape, gguf, &error);        metadata only: sizes are known before anything is allocated
 *     model_open(&model, gguf, &shape, &backend, &limits, &error);
 *     model_forward(model, &pool, &batch);           logits of the wanted rows: model_logits(model, i)
 *
 * A family of models is a row of a table of differences in model_shape.c; the network itself is wired once, in model.c, in terms
 * of the backend's operations. All buffers are sized by model_open. Engine thread only. */
#ifndef FORESAY_MODEL_H
#define FORESAY_MODEL_H

#include <stdint.h>

#include "engine/engine.h"
#include "engine/gguf.h"
#include "kernels/kernels.h"

enum { MODEL_MAX_LAYERS = 1024, MODEL_FEATURES = 3 };

enum moe_use { MOE_NEVER, MOE_IF_COUNTED, MOE_ALWAYS };

/* What a family does differently. */
struct model_family {
    const char *architecture; /* general.architecture; prefix of the metadata keys */
    enum rope_kind rope;
    enum glu_kind glu;
    enum moe_use moe;
    bool qk_norm;                        /* the heads of q and k are normalised */
    bool post_norms;                     /* what attention and feed-forward give is normalised before it is added */
    bool scaled_embedding;               /* embeddings times sqrt(n_embd) */
    bool fused;                          /* q, k, v lie in one tensor, gate and up in another */
    int rope_free_period;                /* layers i with (i + 1) % this == 0 do not turn q and k; 0 = all do */
    int window_period;                   /* layers i with (i + 1) % this != 0 see a window; 0 = none does */
    float local_rope_base;               /* RoPE base of the window layers; 0 = as the others */
    float attn_soft_cap, logit_soft_cap; /* where the file does not say; 0 = none */
    int head_scale_layers;               /* models of so many layers scale scores by (n_embd / n_heads)^-1/2, not head_dim^-1/2 */
};

/* The angles of a table: position * scale * base^(-2i / rope_dim) / factors[i], the slow ones stretched by YaRN. */
struct model_rope {
    double base, scale;
    double yarn_factor, yarn_fast, yarn_slow;         /* yarn_factor 0 = no YaRN; turns in ctx_original that bound the ramp */
    double magnitude;                                 /* of cosine and sine */
    int ctx_original;                                 /* context before it was stretched; 0 = it was not */
    const struct gguf_tensor *factors, *long_factors; /* NULL = all 1; long_factors where ctx_len exceeds ctx_original */
};

struct model_shape {
    const struct model_family *family;
    int n_layers, n_embd, n_ffn, n_heads, n_kv_heads, head_dim, rope_dim, vocab_size;
    int n_experts, n_experts_used; /* 0: one feed-forward; else n_ffn is an expert's width */
    bool normalize_shares;
    int ctx_train; /* tokens the model was trained for */
    float norm_eps;
    float attn_scale, attn_soft_cap, logit_soft_cap;
    int window; /* of the layers with is_local */
    bool is_local[MODEL_MAX_LAYERS];
    struct model_rope rope, local_rope; /* local_rope.base 0 = one table serves all layers */
    bool has_head;                      /* false: the embedding matrix is the head too */
    uint64_t n_parameters, weight_bytes;
    uint32_t main_type;  /* ggml's number of the type that most parameters have */
    bool has_two_bits;   /* some of them are Q2_K */
    bool has_three_bits; /* or Q3_K */
};

/* Which inputs of products with quantised weights keep what int8 leaves of them (struct activation). */
enum model_rests { MODEL_RESTS_NONE, MODEL_RESTS_DOWN, MODEL_RESTS_ALL };

struct model_limits {
    int max_rows;           /* tokens of one forward pass */
    int max_logits;         /* rows of one forward pass whose logits are wanted */
    int ctx_len;            /* positions */
    enum model_rests rests; /* see model_activations */
    /* What drafting heads read: the residual stream as it enters these layers, 1 .. n_layers - 1. All 0 = nobody reads it. */
    int feature_layers[MODEL_FEATURES];
};

struct model_layer {
    float *attn_norm, *ffn_norm;              /* [n_embd] */
    float *attn_post_norm, *ffn_post_norm;    /* [n_embd] or NULL */
    float *q_norm, *k_norm;                   /* [head_dim] or NULL */
    float *q_bias, *k_bias, *v_bias, *o_bias; /* as wide as the output row, or NULL */
    struct weight *q, *k, *v, *o, *gate, *up, *down;
    struct weight *router;        /* NULL: one feed-forward */
    struct model_expert *experts; /* [n_experts], owned */
    const float *cos_sin;         /* NULL: q and k do not turn */
    int window;                   /* 0 = none */
};

struct model_expert {
    struct weight *gate, *up, *down;
};

struct model {
    struct model_shape shape;
    struct model_limits limits;
    struct backend backend;
    struct weight *embedding, *head; /* head == embedding when they are tied */
    float embedding_scale;
    float *output_norm;
    float *norms; /* all norms and biases together, owned */
    struct model_layer *layers;
    float *cos_sin, *local_cos_sin; /* [ctx_len, rope_dim / 2, 2] */

    /* Buffers of a pass, max_rows rows each. */
    int x_stride, q_stride, kv_stride, ffn_stride, logits_stride, router_stride;
    float *x;                                      /* residual stream [x_stride] */
    float *q, *k, *v;                              /* [q_stride], [kv_stride] */
    float *attn, *ffn;                             /* [n_heads * head_dim], [ffn_stride] */
    float *branch;                                 /* [x_stride]: before a norm; with experts n_experts_used of them */
    float *logits;                                 /* [max_logits, logits_stride] */
    float *maxima;                                 /* [max_logits, row_blocks(vocab_size)], see matmul_job */
    float *features;                               /* [MODEL_FEATURES * n_embd], one layer after the other */
    struct activation norm_act, attn_act, ffn_act; /* inputs of the matmuls */
    float *router_logits, *share;                  /* [router_stride], [n_experts_used] */
    int32_t *chosen, *place, *expert_rows;         /* [n_experts_used] */
    struct activation expert_act;                  /* the rows of one expert */
};

struct model_batch {
    const int32_t *tokens; /* [n_rows] */
    int n_rows;
    const struct kernels_seq *seqs; /* their runs cover the rows in order */
    int n_seqs;
    const int32_t *logit_rows; /* [n_logits], ascending */
    int n_logits;
};

/* Fills in error; returns ENGINE_ERR_MODEL. */
int model_refuse(struct engine_error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

int model_read_shape(struct model_shape *shape, const struct gguf *gguf, struct engine_error *error);
/* ENGINE_OK if the file has every tensor that this shape needs, of the right dimensions and a type that can be computed with, and
 * no other. Reads no weights. */
int model_check(const struct gguf *gguf, const struct model_shape *shape, struct engine_error *error);
/* Bytes of the weights in the backend's layout; tensors of unknown types count as they lie in the file. */
uint64_t model_weight_memory(const struct gguf *gguf);
/* What a decode step of one sequence reads and computes; attention is not counted. */
struct model_cost {
    uint64_t bytes;             /* of repacked weights; of experts the share that a token uses */
    double layer_ops, head_ops; /* operations on a row: a product and its addition are two */
};
struct model_cost model_cost(const struct gguf *gguf, const struct model_shape *shape);
/* Bytes that model_open allocates besides the weights. */
uint64_t model_buffer_bytes(const struct model_shape *shape, const struct model_limits *limits);

/* What kernels.h needs to know of the cache, for a type by name (NULL or "auto": int8, where heads suit it, else f16). Fails if
 * there is no such type or it does not suit the heads of the model. */
int model_kv_shape(const struct model_shape *shape, const char *kv_type, struct kv_shape *out, struct engine_error *error);

/* How exactly inputs of products with quantised weights are kept, by name: "int8"; "int16", int8 and a rest; or "mixed", a rest
 * for the input of the down projection alone. NULL or "auto": the coarser the weights, the more an error of their inputs costs.
 * With weights of 2 bits int8 costs 1 to 3 % of perplexity, so they have int16 (one row is bound by memory and takes little
 * longer); with 3 bits it is a little beyond half a percent, so they are mixed. Fails if there is no such name. */
int model_activations(const struct model_shape *shape, const char *name, enum model_rests *rests, struct engine_error *error);
const char *model_rests_name(enum model_rests rests); /* as above; static */

/* backend must outlive the model; gguf may be closed afterwards. On failure *out is NULL. */
int model_open(struct model **out, const struct gguf *gguf, const struct model_shape *shape, const struct backend *backend,
               const struct model_limits *limits, struct engine_error *error);
/* Accepts NULL and half-built models. */
void model_close(struct model *model);

/* model_rope.c: fills cos_sin [ctx_len, rope_dim / 2, 2]. */
void model_fill_rope(const struct model_rope *rope, int rope_dim, int ctx_len, float *cos_sin);

/* The layers that EAGLE-3 reads: one low, one in the middle, one high. Fails with a sentence for models of one layer. */
int model_feature_layers(const struct model_shape *shape, int layers[MODEL_FEATURES], struct engine_error *error);

/* Computes all rows, writes their keys and values into kv, leaves the logits of the wanted rows in order. */
void model_forward(struct model *model, struct kv_pool *kv, const struct model_batch *batch);
/* Logits of the i-th wanted row: vocab_size floats, until the next pass; the caller may change them. */
static inline float *model_logits(const struct model *model, int i) {
    return model->logits + (size_t)i * (size_t)model->logits_stride;
}
/* The largest of each ROW_BLOCK of them, as matmul_job has them; NULL for models that change logits after their product. */
static inline float *model_maxima(const struct model *model, int i) {
    if (model->shape.logit_soft_cap > 0) return NULL;
    return model->maxima + (size_t)i * (size_t)row_blocks(model->shape.vocab_size);
}
/* Features of the batch's row, until the next pass; NULL if the limits name no layers. */
static inline const float *model_features(const struct model *model, int row) {
    if (model->limits.feature_layers[0] == 0) return NULL;
    return model->features + (size_t)row * MODEL_FEATURES * (size_t)model->shape.n_embd;
}
/* The residual stream behind the last layer, of the i-th wanted row. */
static inline const float *model_state(const struct model *model, int i) {
    return model->x + (size_t)i * (size_t)model->x_stride;
}

#endif
