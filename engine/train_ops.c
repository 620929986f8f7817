/* train_ops.c - the pieces that all heads are trained with: products, norms, the loss at the output. See train.h. */
#include <math.h>
#include <string.h>

#include "engine/train.h"

/* --- rows --- */

enum { ROW_TASKS = 16 };

struct row_tasks {
    train_rows *function;
    const void *arg;
    int n;
};

static void run_task(const void *arg, int i) {
    const struct row_tasks *tasks = arg;
    int end = (int)((int64_t)tasks->n * (i + 1) / ROW_TASKS);
    for (int row = (int)((int64_t)tasks->n * i / ROW_TASKS); row < end; row++) tasks->function(tasks->arg, row);
}

void train_for_rows(struct trainer *t, int n, train_rows *function, const void *arg) {
    const struct row_tasks tasks = {function, arg, n};
    t->backend.ops->parallel(t->backend.self, ROW_TASKS, run_task, &tasks);
}

/* --- products --- */

void train_forward(struct trainer *t, int tensor, const float *x, int n, float *y, bool add) {
    const struct head_tensor w = head_tensor_at(&t->shape, tensor);
    const struct gemm_job job = {.m = n,
                                 .n = w.n_rows,
                                 .k = w.n_cols,
                                 .a = x,
                                 .a_row = (size_t)w.n_cols,
                                 .a_col = 1,
                                 .b = trainer_weight(t, tensor),
                                 .b_row = 1,
                                 .b_col = (size_t)w.n_cols,
                                 .c = y,
                                 .c_row = (size_t)w.n_rows,
                                 .add = add,
                                 .scratch = t->scratch};
    t->backend.ops->gemm(t->backend.self, &job);
}

void train_backward(struct trainer *t, int tensor, const float *d_y, int n, float *d_x, bool add) {
    const struct head_tensor w = head_tensor_at(&t->shape, tensor);
    const struct gemm_job job = {.m = n,
                                 .n = w.n_cols,
                                 .k = w.n_rows,
                                 .a = d_y,
                                 .a_row = (size_t)w.n_rows,
                                 .a_col = 1,
                                 .b = trainer_weight(t, tensor),
                                 .b_row = (size_t)w.n_cols,
                                 .b_col = 1,
                                 .c = d_x,
                                 .c_row = (size_t)w.n_cols,
                                 .add = add,
                                 .scratch = t->scratch};
    t->backend.ops->gemm(t->backend.self, &job);
}

void train_gradient(struct trainer *t, int tensor, const float *d_y, const float *x, int n) {
    const struct head_tensor w = head_tensor_at(&t->shape, tensor);
    const struct gemm_job job = {.m = w.n_rows,
                                 .n = w.n_cols,
                                 .k = n,
                                 .a = d_y,
                                 .a_row = 1,
                                 .a_col = (size_t)w.n_rows,
                                 .b = x,
                                 .b_row = (size_t)w.n_cols,
                                 .b_col = 1,
                                 .c = trainer_gradient(t, tensor),
                                 .c_row = (size_t)w.n_cols,
                                 .add = true,
                                 .scratch = t->scratch};
    t->backend.ops->gemm(t->backend.self, &job);
}

/* --- norms --- */

struct norm_call {
    const float *x, *gamma, *d_y;
    float *y, *d_x;
    int n_cols, stride; /* of y and d_y */
    float eps;
};

static float inverse_rms(const float *x, int n, float eps) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    return 1 / sqrtf(sum / (float)n + eps);
}

static void norm_row(const void *arg, int row) {
    const struct norm_call *call = arg;
    const float *x = call->x + (size_t)row * (size_t)call->n_cols;
    float *y = call->y + (size_t)row * (size_t)call->stride, scale = inverse_rms(x, call->n_cols, call->eps);
    for (int i = 0; i < call->n_cols; i++) y[i] = x[i] * scale * call->gamma[i];
}

void train_norm(struct trainer *t, int tensor, const float *x, int n, float *y, int y_stride) {
    const struct norm_call call = {.x = x,
                                   .gamma = trainer_weight(t, tensor),
                                   .y = y,
                                   .n_cols = t->shape.n_embd,
                                   .stride = y_stride,
                                   .eps = t->shape.norm_eps};
    train_for_rows(t, n, norm_row, &call);
}

static void norm_row_backward(const void *arg, int row) {
    const struct norm_call *call = arg;
    const float *x = call->x + (size_t)row * (size_t)call->n_cols, *d_y = call->d_y + (size_t)row * (size_t)call->stride;
    float *d_x = call->d_x + (size_t)row * (size_t)call->n_cols, scale = inverse_rms(x, call->n_cols, call->eps), dot = 0;
    for (int i = 0; i < call->n_cols; i++) dot += d_y[i] * call->gamma[i] * x[i];
    dot *= scale * scale * scale / (float)call->n_cols;
    for (int i = 0; i < call->n_cols; i++) d_x[i] += d_y[i] * call->gamma[i] * scale - x[i] * dot;
}

void train_norm_backward(struct trainer *t, int tensor, const float *x, const float *d_y, int d_y_stride, int n, float *d_x) {
    const struct norm_call call = {.x = x,
                                   .gamma = trainer_weight(t, tensor),
                                   .d_y = d_y,
                                   .d_x = d_x,
                                   .n_cols = t->shape.n_embd,
                                   .stride = d_y_stride,
                                   .eps = t->shape.norm_eps};
    float *d_gamma = trainer_gradient(t, tensor);
    for (int row = 0; row < n; row++) {
        const float *from = x + (size_t)row * (size_t)call.n_cols, *d = d_y + (size_t)row * (size_t)d_y_stride;
        float scale = inverse_rms(from, call.n_cols, call.eps);
        for (int i = 0; i < call.n_cols; i++) d_gamma[i] += d[i] * from[i] * scale;
    }
    if (d_x) train_for_rows(t, n, norm_row_backward, &call);
}

/* --- gated units --- */

struct glu_call {
    struct trainer *t;
    const struct train_step *step;
};

static void glu_row(const void *arg, int row) {
    const struct glu_call *call = arg;
    size_t n = (size_t)call->t->shape.n_ffn, first = (size_t)row * n;
    for (size_t i = first; i < first + n; i++)
        call->step->product[i] = call->step->gate[i] / (1 + expf(-call->step->gate[i])) * call->step->up[i];
}

static void glu_row_backward(const void *arg, int row) {
    const struct glu_call *call = arg;
    size_t n = (size_t)call->t->shape.n_ffn, first = (size_t)row * n;
    for (size_t i = first; i < first + n; i++) {
        float gate = call->step->gate[i], sigmoid = 1 / (1 + expf(-gate)), d = call->t->d_product[i];
        call->t->d_up[i] = d * gate * sigmoid;
        call->t->d_gate[i] = d * call->step->up[i] * sigmoid * (1 + gate * (1 - sigmoid));
    }
}

void train_glu(struct trainer *t, const struct train_step *step, int n) {
    const struct glu_call call = {t, step};
    train_for_rows(t, n, glu_row, &call);
}

void train_glu_backward(struct trainer *t, const struct train_step *step, int n) {
    const struct glu_call call = {t, step};
    train_for_rows(t, n, glu_row_backward, &call);
}

/* --- the output --- */

struct loss_call {
    float *logits;
    const struct example *example;
    int n_vocab;
    size_t first; /* row i has the label of row first + i */
    float factor;
    double *losses; /* NULL: only the likeliest token is wanted */
    int32_t *best;
};

/* Cross entropy against the target's distribution; the logits become their gradient. */
static void loss_row(const void *arg, int row) {
    const struct loss_call *call = arg;
    size_t n = (size_t)call->n_vocab, label = call->first + (size_t)row;
    float *logits = call->logits + (size_t)row * n, best = logits[0], sum = 0;
    const float *target = call->example->target + label * n;
    double dot = 0;
    for (size_t i = 1; i < n; i++) best = logits[i] > best ? logits[i] : best;
    for (size_t i = 0; i < n; i++) dot += (double)(target[i] * (logits[i] - best));
    for (size_t i = 0; i < n; i++) sum += logits[i] = expf(logits[i] - best);
    float weight = call->factor * call->example->weight[label], scale = weight / sum;
    for (size_t i = 0; i < n; i++) logits[i] = logits[i] * scale - weight * target[i];
    call->losses[row] = (double)weight * (log((double)sum) - dot);
}

static void best_row(const void *arg, int row) {
    const struct loss_call *call = arg;
    const float *logits = call->logits + (size_t)row * (size_t)call->n_vocab;
    int32_t best = 0;
    for (int32_t i = 1; i < call->n_vocab; i++) best = logits[i] > logits[best] ? i : best;
    call->best[row] = best;
}

static void count_right(struct trainer *t, const struct loss_call *call, int step, int n, struct trainer_score *score) {
    for (int row = 0; row < n; row++) {
        size_t label = call->first + (size_t)row;
        if (step == 0) t->alive[row] = call->example->weight[label] > 0;
        score->tried[step] += t->alive[row];
        t->alive[row] = t->alive[row] && call->best[row] == call->example->next[label];
        score->right[step] += t->alive[row];
    }
}

void train_output(struct trainer *t, const struct example *example, int step, const float *out, int n, float *d_out,
                  struct trainer_score *score) {
    const struct head_shape *s = &t->shape;
    int norm = head_output_norm_at(s), output = head_output_at(s);
    struct loss_call call = {.logits = t->logits,
                             .example = example,
                             .n_vocab = s->n_vocab,
                             .first = example_first(example, step),
                             .factor = powf(0.8f, (float)step),
                             .losses = t->losses,
                             .best = t->best};
    const float *normed = norm >= 0 ? t->normed : out;
    if (norm >= 0) train_norm(t, norm, out, n, t->normed, s->n_embd);
    train_forward(t, output, normed, n, t->logits, false);
    train_for_rows(t, n, score ? best_row : loss_row, &call);
    if (score) {
        count_right(t, &call, step, n, score);
        return;
    }
    for (int row = 0; row < n; row++) t->loss += t->losses[row];
    for (int row = 0; row < n; row++) t->loss_weight += (double)(call.factor * example->weight[call.first + (size_t)row]);
    train_gradient(t, output, t->logits, normed, n);
    train_backward(t, output, t->logits, n, norm >= 0 ? t->d_normed : d_out, false);
    if (norm < 0) return;
    memset(d_out, 0, (size_t)n * (size_t)s->n_embd * sizeof *d_out);
    train_norm_backward(t, norm, out, t->d_normed, s->n_embd, n, d_out);
}
