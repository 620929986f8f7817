/* train.c - a trainer's memory, first weights, and AdamW. See train.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/philox.h"
#include "engine/train.h"

/* --- memory --- */

/* Gives out pieces of one block; counts only while memory is NULL. */
struct carver {
    char *memory;
    size_t used;
};

static void *carve(struct carver *c, size_t n) {
    void *piece = c->memory ? c->memory + c->used : NULL;
    c->used += (n * sizeof(float) + 63) / 64 * 64;
    return piece;
}

static void carve_step(struct trainer *t, struct train_step *s, struct carver *c) {
    const struct head_shape *shape = &t->shape;
    size_t rows = (size_t)t->max_rows, h = rows * (size_t)shape->n_embd;
    s->mid = carve(c, h);
    s->out = carve(c, h);
    s->d_out = carve(c, h);
    if (shape->kind == HEAD_MEDUSA) return;
    size_t ffn = rows * (size_t)shape->n_ffn;
    s->wide = carve(c, 2 * h);
    s->gate = carve(c, ffn);
    s->up = carve(c, ffn);
    s->product = carve(c, ffn);
    if (shape->kind != HEAD_EAGLE) return;
    size_t q = rows * (size_t)(shape->n_heads * shape->head_dim), kv = rows * (size_t)(shape->n_kv_heads * shape->head_dim);
    s->q = carve(c, q);
    s->k = carve(c, kv);
    s->v = carve(c, kv);
    s->attn = carve(c, q);
    s->normed = carve(c, h);
    s->d_k = carve(c, kv);
    s->d_v = carve(c, kv);
    s->probs = carve(c, (size_t)shape->n_heads * rows * (size_t)t->probs_stride);
}

static size_t largest_scratch(const struct trainer *t) {
    size_t most = gemm_scratch_floats(t->max_rows, t->max_rows, t->max_rows);
    for (int i = 0; i < head_n_tensors(&t->shape); i++) {
        const struct head_tensor w = head_tensor_at(&t->shape, i);
        const size_t needs[] = {gemm_scratch_floats(t->max_rows, w.n_rows, w.n_cols),
                                gemm_scratch_floats(t->max_rows, w.n_cols, w.n_rows),
                                gemm_scratch_floats(w.n_rows, w.n_cols, t->max_rows)};
        for (int k = 0; k < 3; k++) most = needs[k] > most ? needs[k] : most;
    }
    return most;
}

static void carve_all(struct trainer *t, struct carver *c) {
    const struct head_shape *s = &t->shape;
    size_t rows = (size_t)t->max_rows, h = rows * (size_t)s->n_embd, q = rows * (size_t)(s->n_heads * s->head_dim);
    float **weights[] = {&t->weights, &t->gradients, &t->moment1, &t->moment2};
    for (size_t i = 0; i < 4; i++) *weights[i] = carve(c, t->n_weights);
    int n_steps = s->kind == HEAD_MEDUSA ? 1 : TRAIN_MOST_STEPS;
    for (int i = 0; i < n_steps; i++) carve_step(t, &t->steps[i], c);
    float **of_state[] = {&t->state, &t->normed, &t->d_normed, &t->d_state};
    for (size_t i = 0; i < 4; i++) *of_state[i] = carve(c, h);
    t->logits = carve(c, rows * (size_t)s->n_vocab);
    t->scratch = carve(c, largest_scratch(t));
    t->d_wide = carve(c, 2 * h);
    t->d_q = carve(c, q);
    t->d_attn = carve(c, q);
    float **of_ffn[] = {&t->d_gate, &t->d_up, &t->d_product};
    for (size_t i = 0; i < 3; i++) *of_ffn[i] = carve(c, rows * (size_t)s->n_ffn);
    t->d_probs = carve(c, rows * (size_t)t->probs_stride);
    t->cos_sin = carve(c, (rows + TRAIN_MOST_STEPS) * (size_t)s->head_dim);
    t->losses = carve(c, 2 * rows);
    t->best = carve(c, rows);
    t->alive = carve(c, rows);
}

int trainer_open(struct trainer *out, const struct head_shape *shape, const struct backend *backend, int max_rows,
                 struct engine_error *error) {
    struct trainer *t = out;
    struct carver c = {0};
    *t = (struct trainer){.shape = *shape,
                          .backend = *backend,
                          .max_rows = max_rows,
                          .n_steps = TRAIN_STEPS,
                          .probs_stride = max_rows + TRAIN_MOST_STEPS + 1};
    for (int i = 0; i < head_n_tensors(shape); i++) {
        const struct head_tensor w = head_tensor_at(shape, i);
        t->offset[i] = t->n_weights;
        t->n_weights += (size_t)w.n_rows * (size_t)w.n_cols;
    }
    carve_all(t, &c);
    t->memory = c.memory = calloc(1, c.used);
    if (!t->memory) {
        snprintf(error->text, sizeof error->text, "no memory for training (%zu MiB)", c.used >> 20);
        return ENGINE_ERR_MEMORY;
    }
    c.used = 0;
    carve_all(t, &c);
    const struct model_rope rope = {.base = (double)shape->rope_base, .scale = 1, .magnitude = 1};
    if (shape->kind == HEAD_EAGLE) model_fill_rope(&rope, shape->head_dim, max_rows + TRAIN_MOST_STEPS, t->cos_sin);
    return ENGINE_OK;
}

void trainer_close(struct trainer *t) {
    free(t->memory);
    *t = (struct trainer){0};
}

/* --- the first weights --- */

/* About normal, of standard deviation 1: a sum of uniform numbers. */
static float draw_normal(uint64_t seed, uint64_t i) {
    const struct philox_block block = philox(seed, (struct philox_block){{(uint32_t)i, (uint32_t)(i >> 32), 7, 7}});
    float sum = 0;
    for (int k = 0; k < 4; k++) sum += (float)(block.word[k] >> 8) * 0x1p-24f - 0.5f;
    return sum * 1.7320508f;
}

/* What adds to the residual stream begins small. */
static float spread_of(const struct head_shape *s, int i, int n_cols) {
    bool adds = s->kind == HEAD_EAGLE ? i == EAGLE_O || i == EAGLE_DOWN : s->kind == HEAD_MEDUSA || i == RECURRENT_DOWN;
    return (adds ? 0.2f : 0.7f) / sqrtf((float)n_cols);
}

void trainer_init_weights(struct trainer *t, uint64_t seed) {
    for (int i = 0; i < head_n_tensors(&t->shape); i++) {
        const struct head_tensor w = head_tensor_at(&t->shape, i);
        float *weights = trainer_weight(t, i), spread = spread_of(&t->shape, i, w.n_cols);
        size_t n = (size_t)w.n_rows * (size_t)w.n_cols;
        for (size_t k = 0; k < n; k++) weights[k] = w.n_rows == 1 ? 1 : spread * draw_normal(seed, t->offset[i] + k);
    }
}

/* --- learning --- */

static void (*const learn_of[HEAD_KINDS])(struct trainer *, const struct example *, struct trainer_score *) = {
    [HEAD_EAGLE] = train_eagle, [HEAD_MEDUSA] = train_medusa, [HEAD_RECURRENT] = train_recurrent};

void trainer_learn(struct trainer *t, const struct example *example) { learn_of[t->shape.kind](t, example, NULL); }

void trainer_score(struct trainer *t, const struct example *example, struct trainer_score *score) {
    learn_of[t->shape.kind](t, example, score);
}

enum { ADAM_CHUNK = 1 << 16 };

struct adam_call {
    struct trainer *t;
    const struct adam_rate *rate;
    float scale, correct1, correct2;
};

static void adam_chunk(const void *arg, int chunk) {
    const struct adam_call *call = arg;
    const struct adam_rate *r = call->rate;
    struct trainer *t = call->t;
    size_t end = ((size_t)chunk + 1) * ADAM_CHUNK;
    if (end > t->n_weights) end = t->n_weights;
    for (size_t i = (size_t)chunk * ADAM_CHUNK; i < end; i++) {
        float g = t->gradients[i] * call->scale;
        float m = t->moment1[i] = r->beta1 * t->moment1[i] + (1 - r->beta1) * g;
        float v = t->moment2[i] = r->beta2 * t->moment2[i] + (1 - r->beta2) * g * g;
        float step = m * call->correct1 / (sqrtf(v * call->correct2) + r->epsilon);
        t->weights[i] -= r->rate * (step + r->decay * t->weights[i]);
        t->gradients[i] = 0;
    }
}

void trainer_step(struct trainer *t, const struct adam_rate *rate) {
    double sum = 0;
    for (size_t i = 0; i < t->n_weights; i++) sum += (double)(t->gradients[i] * t->gradients[i]);
    if (!(t->loss_weight > 0) || !isfinite(sum)) {
        memset(t->gradients, 0, t->n_weights * sizeof *t->gradients);
        t->loss = t->loss_weight = 0;
        return;
    }
    double scale = 1 / t->loss_weight, length = sqrt(sum) * scale;
    if (length > (double)rate->most_norm) scale *= (double)rate->most_norm / length;
    t->n_updates++;
    struct adam_call call = {.t = t, .rate = rate, .scale = (float)scale};
    call.correct1 = (float)(1 / (1 - pow((double)rate->beta1, (double)t->n_updates)));
    call.correct2 = (float)(1 / (1 - pow((double)rate->beta2, (double)t->n_updates)));
    int n_chunks = (int)((t->n_weights + ADAM_CHUNK - 1) / ADAM_CHUNK);
    t->backend.ops->parallel(t->backend.self, n_chunks, adam_chunk, &call);
    t->loss = t->loss_weight = 0;
}
