/* train.h - training of drafting heads: loss, gradients by hand, AdamW. Floats throughout; products go through the backend's
 * gemm.
 *
 *     trainer_open(&t, &shape, &backend, max_rows, error); trainer_init_weights(&t, ...);
 *     trainer_learn(&t, &example); ...     adds the example's gradients
 *     trainer_step(&t, &rate);             one step of AdamW, gradients are zero again
 *     trainer_score(&t, &example, &score)  how often the head is right, without learning
 *
 * Training-time test: the head is unrolled as it will run. Step j of a position takes its own output of step j - 1 for a state,
 * and attends to what steps 0 .. j of a draft would find in memory: keys of step 0 up to its position, then one key of each later
 * step. All sums have one order, so the same examples give the same weights, bit by bit, with any number of threads. Main
 * thread. */
#ifndef FORESAY_TRAIN_H
#define FORESAY_TRAIN_H

#include "engine/head.h"

enum { TRAIN_STEPS = 3 /* of a draft that are learned */, TRAIN_MOST_STEPS = HEAD_DEPTHS };

/* A text of n tokens. Row i stands for the token at i; its label is what the target says of the token at i + 1.
 *
 * Heads that look at one position alone also learn from mixed examples: n rows drawn from many texts. There each step has tokens
 * and labels of its own, one step's n behind the other's: embeddings, target and weight are [steps, n, ...]. */
struct example {
    int n;
    bool is_mixed;
    const float *input;      /* [n, 3 n_embd] features, or but for EAGLE [n, n_embd] last states */
    const float *embeddings; /* [n, n_embd], as the target reads them */
    const float *target;     /* [n, n_vocab]: the target's probabilities, summing to 1 over the head's tokens */
    const float *weight;     /* [n]: of the label; 0 = it teaches nothing */
    const int32_t *next;     /* [n]: the head's number of the token at i + 1; -1 = it has none, or does not count */
};

/* The rows of a step, and the row of its first token and label. */
static inline int example_rows(const struct example *e, int step) { return e->is_mixed ? e->n : e->n - 1 - step; }
static inline size_t example_first(const struct example *e, int step) { return (size_t)(e->is_mixed ? step * e->n : 1 + step); }

struct trainer_score {
    double tried[HEAD_DEPTHS], right[HEAD_DEPTHS]; /* guesses at each depth where those before were right */
};

/* One unrolled step; [rows, ...] each. */
struct train_step {
    float *wide, *q, *k, *v, *attn, *mid, *normed, *gate, *up, *product, *out;
    float *d_out, *d_k, *d_v; /* gradients that come from elsewhere */
    float *probs;             /* [n_heads][max_rows][probs_stride] */
};

struct trainer {
    struct head_shape shape;
    struct backend backend;
    int max_rows, n_steps, probs_stride;
    size_t n_weights, offset[HEAD_MOST_TENSORS];
    float *weights, *gradients, *moment1, *moment2; /* [n_weights] */
    int64_t n_updates;
    double loss, loss_weight; /* of the examples since the last update */
    struct train_step steps[TRAIN_MOST_STEPS];
    float *state;   /* step 0's, [rows, n_embd] */
    float *normed;  /* of the output, [rows, n_embd] */
    float *logits;  /* [rows, n_vocab], then their gradients */
    float *scratch; /* of gemm */
    float *d_wide, *d_q, *d_attn, *d_normed, *d_state, *d_gate, *d_up, *d_product, *d_probs;
    float *cos_sin; /* [max_rows + TRAIN_MOST_STEPS][head_dim / 2][2] */
    double *losses; /* [rows], as are the next two */
    int32_t *best;
    bool *alive;  /* [rows]: all guesses so far were right */
    char *memory; /* all of the above buffers */
};

struct adam_rate {
    float rate, beta1, beta2, epsilon, decay, most_norm; /* most_norm: gradients longer than this are shortened */
};

int trainer_open(struct trainer *out, const struct head_shape *shape, const struct backend *backend, int max_rows,
                 struct engine_error *error);
void trainer_close(struct trainer *trainer); /* accepts what trainer_open left after a failure */
static inline float *trainer_weight(struct trainer *t, int tensor) { return t->weights + t->offset[tensor]; }
static inline float *trainer_gradient(struct trainer *t, int tensor) { return t->gradients + t->offset[tensor]; }

/* Small random matrices; norms of 1. The caller sets what it knows better. */
void trainer_init_weights(struct trainer *t, uint64_t seed);
void trainer_learn(struct trainer *t, const struct example *example);
void trainer_score(struct trainer *t, const struct example *example, struct trainer_score *score);
void trainer_step(struct trainer *t, const struct adam_rate *rate);

/* --- train_ops.c: what the two kinds share --- */

typedef void train_rows(const void *arg, int row);
/* Rows 0 .. n - 1, shared out to the threads. */
void train_for_rows(struct trainer *t, int n, train_rows *function, const void *arg);

/* y (+)= x W^T, n rows; y += x W^T where add. */
void train_forward(struct trainer *t, int tensor, const float *x, int n, float *y, bool add);
/* d_x (+)= d_y W */
void train_backward(struct trainer *t, int tensor, const float *d_y, int n, float *d_x, bool add);
/* d_W += d_y^T x */
void train_gradient(struct trainer *t, int tensor, const float *d_y, const float *x, int n);

/* y = x / rms(x) * gamma; strides in floats. */
void train_norm(struct trainer *t, int tensor, const float *x, int n, float *y, int y_stride);
/* d_x += (NULL: is not wanted), and the gradient of gamma. */
void train_norm_backward(struct trainer *t, int tensor, const float *x, const float *d_y, int d_y_stride, int n, float *d_x);

/* step->product = silu(gate) * up; d_gate and d_up from d_product. */
void train_glu(struct trainer *t, const struct train_step *step, int n);
void train_glu_backward(struct trainer *t, const struct train_step *step, int n);

/* Step j of n rows has its output in out: loss and gradients, d_out = d(loss) / d(out), those of the output's norm and matrix;
 * or, with a score, only counts. */
void train_output(struct trainer *t, const struct example *example, int step, const float *out, int n, float *d_out,
                  struct trainer_score *score);

/* The kinds. Forward, then backward unless there is a score. */
void train_eagle(struct trainer *t, const struct example *example, struct trainer_score *score);
void train_medusa(struct trainer *t, const struct example *example, struct trainer_score *score);
void train_recurrent(struct trainer *t, const struct example *example, struct trainer_score *score);

#endif
