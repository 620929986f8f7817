/* head.h - drafting heads: small networks on top of the target's own states that guess its next tokens.
 *
 * EAGLE (in the manner of EAGLE-3): one decoder layer. Position t of its memory pairs the token at t + 1 with a state of position
 * t: for text that the target has computed, fc of three of the target's layers; for drafted tokens the layer's own output. With
 * u = [norm(embedding of the token) ; norm(state)], twice as wide as the target:
 *     a = state + o(attention(q(u), k(u), v(u)));   out = a + down(silu(gate(norm(a))) * up(norm(a)))
 *     logits = output(norm(out)), over n_vocab of the target's tokens
 * Medusa: n_ahead blocks x + silu(W x) on the norm of the target's last state; block k guesses the token k + 2 places on. All
 * share one output matrix.
 *
 * Recurrent (as in Recurrent Drafter, Zhang et al. 2403.09919, and Hydra, Ankner et al. 2402.05109): what a draft has come to is
 * one state, at first the target's last state; every token of the draft makes a new one of it. With u as above:
 *     out = skip(u) + down(silu(gate(u)) * up(u));   logits = output(norm(out))
 * It needs no memory of the text, and a node's state depends on its parent's alone, so nodes of a tree are computed in one go.
 *
 * RoPE turns pairs (2i, 2i + 1), as llama.cpp does for this architecture.
 *
 * This file has what inference (head_forward.c) and training (train.h) share: shapes, and tensors by number. */
#ifndef FORESAY_HEAD_H
#define FORESAY_HEAD_H

#include "engine/model.h"

enum head_kind { HEAD_EAGLE, HEAD_MEDUSA, HEAD_RECURRENT, HEAD_KINDS };

enum { HEAD_MOST_AHEAD = 8, HEAD_MOST_TENSORS = 16, HEAD_DEPTHS = 4 /* of which accuracy is told */ };

struct head_shape {
    enum head_kind kind;
    int n_embd; /* of the target */
    int n_heads, n_kv_heads, head_dim, n_ffn;
    int n_vocab; /* tokens that can be guessed */
    int n_ahead; /* Medusa's blocks */
    int layers[MODEL_FEATURES];
    float norm_eps, rope_base;
};

/* EAGLE's tensors by number; Medusa has n_ahead blocks, then MEDUSA_NORM and MEDUSA_OUTPUT behind them. */
enum eagle_tensor {
    EAGLE_FC,
    EAGLE_TOKEN_NORM,
    EAGLE_STATE_NORM,
    EAGLE_Q,
    EAGLE_K,
    EAGLE_V,
    EAGLE_O,
    EAGLE_FFN_NORM,
    EAGLE_GATE,
    EAGLE_UP,
    EAGLE_DOWN,
    EAGLE_OUTPUT_NORM,
    EAGLE_OUTPUT,
    EAGLE_TENSORS
};
enum { MEDUSA_NORM, MEDUSA_OUTPUT };
enum recurrent_tensor {
    RECURRENT_TOKEN_NORM,
    RECURRENT_STATE_NORM,
    RECURRENT_GATE,
    RECURRENT_UP,
    RECURRENT_DOWN,
    RECURRENT_SKIP,
    RECURRENT_OUTPUT_NORM,
    RECURRENT_OUTPUT,
    RECURRENT_TENSORS
};

struct head_tensor {
    char name[GGUF_NAME_SIZE];
    int n_rows, n_cols; /* n_rows 1: a norm */
};

int head_n_tensors(const struct head_shape *shape);
struct head_tensor head_tensor_at(const struct head_shape *shape, int i);
/* The output matrix by number; the norm before it, -1 where it is not the output that is normalised. */
int head_output_at(const struct head_shape *shape);
int head_output_norm_at(const struct head_shape *shape);

/* A head as large as the target's own layers. */
int head_default_shape(struct head_shape *out, enum head_kind kind, const struct model_shape *target, int n_vocab,
                       struct engine_error *error);

/* --- the file ---
 *
 * A GGUF file with the names that llama.cpp uses for EAGLE-3, matrices as Q8_0 (fc as BF16), and what is ours under draft.*.
 * llama.cpp loads it: it counts layers from 0 and reads what enters them, as we do, and wants to know how many tokens the target
 * has; their texts it finds in the target. */

struct head_facts {
    uint64_t vocab_digest, target_digest; /* see draft_digests */
    int target_vocab, target_ctx;         /* for readers other than us */
    uint64_t tokens_trained;
    float accuracy[HEAD_DEPTHS]; /* share of right guesses at each depth, on text kept out, those before it being right */
    const char *lineage;         /* how it came to be, for people; NULL = unknown */
};

/* By its architecture alone. */
bool head_is_one(const struct gguf *gguf);
/* Refuses what is no head of this kind, or not one for this target: a sentence that says so. */
int head_read_shape(struct head_shape *out, const struct gguf *gguf, const struct model_shape *target,
                    struct engine_error *error);
int head_check_digests(const struct gguf *gguf, uint64_t vocab_digest, uint64_t target_digest, struct engine_error *error);
/* Tokens by number of the head's own: [n_vocab] of the target's. */
int head_read_vocab(const struct gguf *gguf, const struct head_shape *shape, int target_vocab, int32_t *out,
                    struct engine_error *error);

/* Writes to PATH.part, then renames. weights: tensor after tensor, as in head_tensor_at. */
int head_write(const char *path, const struct head_shape *shape, const float *weights, const int32_t *vocab,
               const struct head_facts *facts, struct engine_error *error);

/* --- inference --- */

enum {
    HEAD_MEMORY = 512,   /* positions that a head looks back */
    HEAD_MOST_ROWS = 64, /* of one call */
    HEAD_BATCH = 16,     /* rows that a recurrent head computes at once */
};

struct head {
    struct head_shape shape;
    struct backend backend;
    const struct model *model;
    struct weight *weights[HEAD_MOST_TENSORS]; /* NULL for norms */
    float *norms[HEAD_MOST_TENSORS];           /* NULL for matrices */
    int32_t *vocab;                            /* [n_vocab] tokens of the target */
    struct kv_pool kv;
    int32_t *blocks; /* [n_slots][blocks of ctx_len]: a ring of blocks over and over */
    int n_slots, n_table;
    float *cos_sin;
    /* Buffers of a call, HEAD_MOST_ROWS rows each. */
    int state_stride, q_stride, kv_stride, ffn_stride, logits_stride;
    float *state, *token, *wide, *q, *k, *v, *attn, *ffn;
    float *logits, *maxima; /* [n_ahead, HEAD_BATCH or 1]; maxima as in matmul_job */
    struct activation features_act, wide_act, attn_act, state_act, ffn_act;
};

/* model and backend must outlive the head. On failure *out is NULL. */
int head_open(struct head **out, const struct gguf *gguf, const struct head_shape *shape, const struct model *model, int n_slots,
              struct engine_error *error);
void head_close(struct head *head); /* accepts NULL */
/* Bytes that head_open allocates. */
uint64_t head_bytes(const struct gguf *gguf, const struct head_shape *shape, int n_slots, int ctx_len);

/* head->state row i = fc of features row i. */
void head_begin(struct head *head, const float *features, int n);
/* One layer on n rows of a slot that stand at positions first_pos .. of its memory: state row i becomes the layer's output for it
 * and tokens[i]. Positions may be computed again, and those behind are forgotten. */
void head_layer(struct head *head, int slot, int first_pos, const int32_t *tokens, int n);
/* The next three leave logits, [rows][logits_stride], in head->logits, and the largest of each ROW_BLOCK in head->maxima.
 * EAGLE: for one row of states. */
void head_logits(struct head *head, const float *state);
/* Medusa: of all n_ahead blocks, from the target's last state. */
void head_ahead(struct head *head, const float *state);
/* Recurrent: state row i becomes the state behind it and tokens[i], for n <= HEAD_BATCH rows. */
void head_recur(struct head *head, const int32_t *tokens, int n);

#endif
