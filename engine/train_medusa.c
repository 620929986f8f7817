/* train_medusa.c - Medusa's blocks, forward and backward: block k reads the norm of the target's last state at t and guesses the
 * token at t + 2 + k. See train.h. */
#include <math.h>
#include <string.h>

#include "engine/train.h"

struct block_call {
    const float *x, *gate;
    float *out; /* backward: d_out */
    float *d_gate;
    int n_cols;
};

static void block_row(const void *arg, int row) {
    const struct block_call *call = arg;
    size_t first = (size_t)row * (size_t)call->n_cols;
    for (size_t i = first; i < first + (size_t)call->n_cols; i++)
        call->out[i] = call->x[i] + call->gate[i] / (1 + expf(-call->gate[i]));
}

static void block_row_backward(const void *arg, int row) {
    const struct block_call *call = arg;
    size_t first = (size_t)row * (size_t)call->n_cols;
    for (size_t i = first; i < first + (size_t)call->n_cols; i++) {
        float gate = call->gate[i], sigmoid = 1 / (1 + expf(-gate));
        call->d_gate[i] = call->out[i] * sigmoid * (1 + gate * (1 - sigmoid));
    }
}

/* Block k's gradients; d_state gathers what reaches the norm. */
static void one_block(struct trainer *t, const struct example *example, int k, struct trainer_score *score) {
    int h = t->shape.n_embd, n = example_rows(example, k);
    struct train_step *own = &t->steps[0];
    struct block_call call = {.x = t->state, .gate = own->mid, .out = own->out, .d_gate = t->d_normed, .n_cols = h};
    if (n < 1) return;
    train_forward(t, k, t->state, n, own->mid, false);
    train_for_rows(t, n, block_row, &call);
    train_output(t, example, k, own->out, n, own->d_out, score);
    if (score) return;
    call.out = own->d_out;
    train_for_rows(t, n, block_row_backward, &call);
    train_gradient(t, k, t->d_normed, t->state, n);
    train_backward(t, k, t->d_normed, n, t->d_state, true);
    for (size_t i = 0; i < (size_t)n * (size_t)h; i++) t->d_state[i] += own->d_out[i];
}

void train_medusa(struct trainer *t, const struct example *example, struct trainer_score *score) {
    const struct head_shape *s = &t->shape;
    int norm = s->n_ahead + MEDUSA_NORM, n_blocks = s->n_ahead < HEAD_DEPTHS ? s->n_ahead : HEAD_DEPTHS;
    train_norm(t, norm, example->input, example->n, t->state, s->n_embd);
    memset(t->d_state, 0, (size_t)example->n * (size_t)s->n_embd * sizeof *t->d_state);
    for (int k = 0; k < n_blocks; k++) one_block(t, example, k, score);
    if (!score) train_norm_backward(t, norm, example->input, t->d_state, s->n_embd, example->n, NULL);
}
