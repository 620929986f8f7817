/* train_eagle.c - the EAGLE head unrolled over the steps of a draft, forward and backward. See train.h for the scheme, head.h for
 * the network.
 *
 * Step j has rows for the positions 0 .. n - 2 - j: its token stands at t + 1 + j, its label at the same row. */
#include <math.h>
#include <string.h>

#include "engine/train.h"

/* --- rotation --- */

struct turn_call {
    float *x;
    const float *cos_sin;
    int n_heads, head_dim, first; /* row i stands at position first + i */
    float sign;                   /* -1 turns back */
};

static void turn_row(const void *arg, int row) {
    const struct turn_call *call = arg;
    int half = call->head_dim / 2;
    const float *angles = call->cos_sin + (size_t)(call->first + row) * (size_t)call->head_dim;
    float *head = call->x + (size_t)row * (size_t)(call->n_heads * call->head_dim);
    for (int h = 0; h < call->n_heads; h++, head += call->head_dim) {
        for (int i = 0; i < half; i++) {
            float a = head[2 * i], b = head[2 * i + 1], c = angles[2 * i], s = call->sign * angles[2 * i + 1];
            head[2 * i] = a * c - b * s;
            head[2 * i + 1] = a * s + b * c;
        }
    }
}

static void turn(struct trainer *t, float *x, int n_heads, int step, int n, float sign) {
    const struct turn_call call = {x, t->cos_sin, n_heads, t->shape.head_dim, step, sign};
    train_for_rows(t, n, turn_row, &call);
}

/* --- attention --- */

struct attention_call {
    struct trainer *t;
    int step, head, n;
    const float *d_attn;
    float *d_q;
};

static float dot(const float *a, const float *b, int n) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}
static void add_scaled(float *y, const float *x, float scale, int n) {
    for (int i = 0; i < n; i++) y[i] += scale * x[i];
}

static float *probs_of(const struct trainer *t, int step, int head) {
    return t->steps[step].probs + (size_t)head * (size_t)t->max_rows * (size_t)t->probs_stride;
}
static size_t query_at(const struct trainer *t, int row, int head) {
    return ((size_t)row * (size_t)t->shape.n_heads + (size_t)head) * (size_t)t->shape.head_dim;
}
static size_t key_at(const struct trainer *t, int row, int head) {
    size_t kv_head = (size_t)(head / (t->shape.n_heads / t->shape.n_kv_heads));
    return ((size_t)row * (size_t)t->shape.n_kv_heads + kv_head) * (size_t)t->shape.head_dim;
}

/* The products with the keys of step 0 are there; those with the keys of later steps come behind the row's own. Then softmax. */
static void softmax_row(const void *arg, int row) {
    const struct attention_call *call = arg;
    struct trainer *t = call->t;
    const int dim = t->shape.head_dim;
    const float scale = 1 / sqrtf((float)dim), *q = t->steps[call->step].q + query_at(t, row, call->head);
    float *probs = probs_of(t, call->step, call->head) + (size_t)row * (size_t)t->probs_stride, *later = probs + t->max_rows;
    float best = -INFINITY, sum = 0;
    for (int i = 1; i <= call->step; i++) later[i] = dot(q, t->steps[i].k + key_at(t, row, call->head), dim);
    for (int i = 0; i <= row; i++) best = fmaxf(best, probs[i] *= scale);
    for (int i = 1; i <= call->step; i++) best = fmaxf(best, later[i] *= scale);
    for (int i = 0; i <= row; i++) sum += probs[i] = expf(probs[i] - best);
    for (int i = 1; i <= call->step; i++) sum += later[i] = expf(later[i] - best);
    for (int i = 0; i <= row; i++) probs[i] /= sum;
    for (int i = row + 1; i < call->n; i++) probs[i] = 0;
    for (int i = 1; i <= call->step; i++) later[i] /= sum;
}

static void add_later_values(const void *arg, int row) {
    const struct attention_call *call = arg;
    struct trainer *t = call->t;
    const float *later = probs_of(t, call->step, call->head) + (size_t)row * (size_t)t->probs_stride + t->max_rows;
    float *out = t->steps[call->step].attn + query_at(t, row, call->head);
    for (int i = 1; i <= call->step; i++)
        add_scaled(out, t->steps[i].v + key_at(t, row, call->head), later[i], t->shape.head_dim);
}

/* c (+)= a b with one of the factors, or c, a head's columns among all. */
static void multiply(struct trainer *t, struct gemm_job job) {
    job.scratch = t->scratch;
    t->backend.ops->gemm(t->backend.self, &job);
}

static void attention(struct trainer *t, int step, int n) {
    const size_t q_row = query_at(t, 1, 0), k_row = key_at(t, 1, 0), p_row = (size_t)t->probs_stride;
    const struct train_step *s = &t->steps[step], *first = &t->steps[0];
    const int dim = t->shape.head_dim;
    for (int head = 0; head < t->shape.n_heads; head++) {
        const struct attention_call call = {.t = t, .step = step, .head = head, .n = n};
        const float *q = s->q + query_at(t, 0, head), *k = first->k + key_at(t, 0, head), *v = first->v + key_at(t, 0, head);
        float *probs = probs_of(t, step, head);
        multiply(t, (struct gemm_job){n, n, dim, q, k, q_row, 1, 1, k_row, probs, p_row, false, NULL});
        train_for_rows(t, n, softmax_row, &call);
        multiply(t,
                 (struct gemm_job){n, dim, n, probs, v, p_row, 1, k_row, 1, s->attn + query_at(t, 0, head), q_row, false, NULL});
        if (step > 0) train_for_rows(t, n, add_later_values, &call);
    }
}

/* d_probs has d_attn times the values of step 0; becomes the gradient of the products. The later steps' keys, values and the
 * query get their part. */
static void softmax_row_backward(const void *arg, int row) {
    const struct attention_call *call = arg;
    struct trainer *t = call->t;
    const int dim = t->shape.head_dim;
    const size_t at_q = query_at(t, row, call->head), at_k = key_at(t, row, call->head);
    const float scale = 1 / sqrtf((float)dim), *q = t->steps[call->step].q + at_q, *d_attn = call->d_attn + at_q;
    const float *probs = probs_of(t, call->step, call->head) + (size_t)row * (size_t)t->probs_stride,
                *later = probs + t->max_rows;
    float *d_probs = t->d_probs + (size_t)row * (size_t)t->probs_stride, d_later[TRAIN_MOST_STEPS], sum = 0;
    for (int i = 0; i <= row; i++) sum += probs[i] * d_probs[i];
    for (int i = 1; i <= call->step; i++) {
        d_later[i] = dot(d_attn, t->steps[i].v + at_k, dim);
        sum += later[i] * d_later[i];
        add_scaled(t->steps[i].d_v + at_k, d_attn, later[i], dim);
    }
    for (int i = 0; i <= row; i++) d_probs[i] = probs[i] * (d_probs[i] - sum) * scale;
    for (int i = row + 1; i < call->n; i++) d_probs[i] = 0;
    for (int i = 1; i <= call->step; i++) {
        float d_score = later[i] * (d_later[i] - sum) * scale;
        add_scaled(call->d_q + at_q, t->steps[i].k + at_k, d_score, dim);
        add_scaled(t->steps[i].d_k + at_k, q, d_score, dim);
    }
}

static void attention_backward(struct trainer *t, int step, int n) {
    const size_t q_row = query_at(t, 1, 0), k_row = key_at(t, 1, 0), p_row = (size_t)t->probs_stride;
    const struct train_step *s = &t->steps[step], *first = &t->steps[0];
    const int dim = t->shape.head_dim;
    memset(t->d_q, 0, (size_t)n * q_row * sizeof *t->d_q);
    for (int head = 0; head < t->shape.n_heads; head++) {
        const struct attention_call call = {.t = t, .step = step, .head = head, .n = n, .d_attn = t->d_attn, .d_q = t->d_q};
        const size_t at_q = query_at(t, 0, head), at_k = key_at(t, 0, head);
        const float *d_attn = t->d_attn + at_q, *probs = probs_of(t, step, head);
        multiply(t, (struct gemm_job){n, n, dim, d_attn, first->v + at_k, q_row, 1, 1, k_row, t->d_probs, p_row, false, NULL});
        train_for_rows(t, n, softmax_row_backward, &call);
        multiply(t,
                 (struct gemm_job){n, dim, n, t->d_probs, first->k + at_k, p_row, 1, k_row, 1, t->d_q + at_q, q_row, true, NULL});
        multiply(t,
                 (struct gemm_job){n, dim, n, t->d_probs, s->q + at_q, 1, p_row, q_row, 1, first->d_k + at_k, k_row, true, NULL});
        multiply(t, (struct gemm_job){n, dim, n, probs, d_attn, 1, p_row, q_row, 1, first->d_v + at_k, k_row, true, NULL});
    }
}

/* --- a step --- */

static const float *state_of(const struct trainer *t, int step) { return step == 0 ? t->state : t->steps[step - 1].out; }

static void step_forward(struct trainer *t, const struct example *example, int step) {
    const struct head_shape *s = &t->shape;
    struct train_step *own = &t->steps[step];
    int n = example_rows(example, step), h = s->n_embd;
    size_t bytes = (size_t)n * (size_t)h * sizeof(float);
    train_norm(t, EAGLE_TOKEN_NORM, example->embeddings + (size_t)(1 + step) * (size_t)h, n, own->wide, 2 * h);
    train_norm(t, EAGLE_STATE_NORM, state_of(t, step), n, own->wide + h, 2 * h);
    train_forward(t, EAGLE_Q, own->wide, n, own->q, false);
    train_forward(t, EAGLE_K, own->wide, n, own->k, false);
    train_forward(t, EAGLE_V, own->wide, n, own->v, false);
    turn(t, own->q, s->n_heads, step, n, 1);
    turn(t, own->k, s->n_kv_heads, step, n, 1);
    attention(t, step, n);
    memcpy(own->mid, state_of(t, step), bytes);
    train_forward(t, EAGLE_O, own->attn, n, own->mid, true);
    train_norm(t, EAGLE_FFN_NORM, own->mid, n, own->normed, h);
    train_forward(t, EAGLE_GATE, own->normed, n, own->gate, false);
    train_forward(t, EAGLE_UP, own->normed, n, own->up, false);
    train_glu(t, own, n);
    memcpy(own->out, own->mid, bytes);
    train_forward(t, EAGLE_DOWN, own->product, n, own->out, true);
}

/* own->d_out becomes the gradient of own->mid. */
static void ffn_backward(struct trainer *t, struct train_step *own, int n) {
    train_gradient(t, EAGLE_DOWN, own->d_out, own->product, n);
    train_backward(t, EAGLE_DOWN, own->d_out, n, t->d_product, false);
    train_glu_backward(t, own, n);
    train_gradient(t, EAGLE_GATE, t->d_gate, own->normed, n);
    train_gradient(t, EAGLE_UP, t->d_up, own->normed, n);
    train_backward(t, EAGLE_GATE, t->d_gate, n, t->d_normed, false);
    train_backward(t, EAGLE_UP, t->d_up, n, t->d_normed, true);
    train_norm_backward(t, EAGLE_FFN_NORM, own->mid, t->d_normed, t->shape.n_embd, n, own->d_out);
}

/* own->d_out, the gradient of mid = state + o(attention), becomes that of the step's state. */
static void mix_backward(struct trainer *t, const struct example *example, int step, int n) {
    const struct head_shape *s = &t->shape;
    struct train_step *own = &t->steps[step];
    int h = s->n_embd;
    train_gradient(t, EAGLE_O, own->d_out, own->attn, n);
    train_backward(t, EAGLE_O, own->d_out, n, t->d_attn, false);
    attention_backward(t, step, n);
    turn(t, t->d_q, s->n_heads, step, n, -1);
    turn(t, own->d_k, s->n_kv_heads, step, n, -1);
    train_gradient(t, EAGLE_Q, t->d_q, own->wide, n);
    train_gradient(t, EAGLE_K, own->d_k, own->wide, n);
    train_gradient(t, EAGLE_V, own->d_v, own->wide, n);
    train_backward(t, EAGLE_Q, t->d_q, n, t->d_wide, false);
    train_backward(t, EAGLE_K, own->d_k, n, t->d_wide, true);
    train_backward(t, EAGLE_V, own->d_v, n, t->d_wide, true);
    train_norm_backward(t, EAGLE_TOKEN_NORM, example->embeddings + (size_t)(1 + step) * (size_t)h, t->d_wide, 2 * h, n, NULL);
    train_norm_backward(t, EAGLE_STATE_NORM, state_of(t, step), t->d_wide + h, 2 * h, n, own->d_out);
}

static void step_backward(struct trainer *t, const struct example *example, int step) {
    struct train_step *own = &t->steps[step];
    int n = example_rows(example, step);
    ffn_backward(t, own, n);
    mix_backward(t, example, step, n);
    if (step == 0) {
        train_gradient(t, EAGLE_FC, own->d_out, example->input, n);
        return;
    }
    float *before = t->steps[step - 1].d_out;
    for (size_t i = 0; i < (size_t)n * (size_t)t->shape.n_embd; i++) before[i] += own->d_out[i];
}

void train_eagle(struct trainer *t, const struct example *example, struct trainer_score *score) {
    int n_steps = score ? HEAD_DEPTHS : t->n_steps;
    size_t n_kv = (size_t)example->n * key_at(t, 1, 0);
    while (n_steps > 0 && example_rows(example, n_steps - 1) < 1) n_steps--;
    if (n_steps == 0) return;
    train_forward(t, EAGLE_FC, example->input, example->n, t->state, false);
    for (int step = 0; step < n_steps; step++) {
        struct train_step *own = &t->steps[step];
        memset(own->d_k, 0, n_kv * sizeof *own->d_k);
        memset(own->d_v, 0, n_kv * sizeof *own->d_v);
        step_forward(t, example, step);
        train_output(t, example, step, own->out, example_rows(example, step), own->d_out, score);
    }
    for (int step = n_steps - 1; step >= 0 && !score; step--) step_backward(t, example, step);
}
