/* train_mix.c - rows of many texts, mixed. See train_mix.h. */
#include "engine/train_mix.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/philox.h"

enum { MIX_LIKELY = 32 /* tokens of a label that are kept */ };

struct mix_label {
    int32_t token; /* the head's number */
    float p;       /* 0: there are no more */
};

int train_mix_open(struct train_mix *mix, const struct model *model, int n_steps, int n_vocab, int max_text,
                   struct engine_error *error) {
    const size_t h = (size_t)model->shape.n_embd, batch = MIX_BATCH, of_steps = batch * (size_t)n_steps;
    assert(max_text <= MIX_ROWS);
    *mix = (struct train_mix){.model = model, .n_steps = n_steps, .n_vocab = n_vocab, .max_text = max_text};
    mix->states = calloc(MIX_ROWS * h, sizeof *mix->states);
    mix->tokens = calloc(MIX_ROWS, sizeof *mix->tokens);
    mix->starts = calloc(MIX_ROWS, sizeof *mix->starts);
    mix->ends = calloc(MIX_ROWS, sizeof *mix->ends);
    mix->weight = calloc(MIX_ROWS, sizeof *mix->weight);
    mix->labels = calloc((size_t)MIX_ROWS * MIX_LIKELY, sizeof *mix->labels);
    mix->input = calloc(batch * h, sizeof *mix->input);
    mix->embeddings = calloc(of_steps * h, sizeof *mix->embeddings);
    mix->target = calloc(of_steps * (size_t)n_vocab, sizeof *mix->target);
    mix->batch_weight = calloc(of_steps, sizeof *mix->batch_weight);
    mix->batch_tokens = calloc(of_steps, sizeof *mix->batch_tokens);
    if (mix->states && mix->tokens && mix->starts && mix->ends && mix->weight && mix->labels && mix->input && mix->embeddings &&
        mix->target && mix->batch_weight && mix->batch_tokens)
        return ENGINE_OK;
    snprintf(error->text, sizeof error->text, "no memory for examples");
    return ENGINE_ERR_MEMORY;
}

void train_mix_close(struct train_mix *mix) {
    free(mix->states);
    free(mix->tokens);
    free(mix->starts);
    free(mix->ends);
    free(mix->weight);
    free(mix->labels);
    free(mix->input);
    free(mix->embeddings);
    free(mix->target);
    free(mix->batch_weight);
    free(mix->batch_tokens);
    *mix = (struct train_mix){0};
}

/* --- texts come in --- */

bool train_mix_has_room(const struct train_mix *mix) { return mix->n_rows + mix->max_text <= MIX_ROWS; }

/* The likeliest tokens of a label, their probabilities summing to 1. */
static void keep_label(const float *target, int n_vocab, struct mix_label *out) {
    int n = 0;
    float sum = 0;
    for (int i = 0; i < n_vocab; i++) {
        if (n == MIX_LIKELY && !(target[i] > out[n - 1].p)) continue;
        int place = n < MIX_LIKELY ? n++ : n - 1;
        for (; place > 0 && target[i] > out[place - 1].p; place--) out[place] = out[place - 1];
        out[place] = (struct mix_label){i, target[i]};
    }
    for (int i = 0; i < n; i++) sum += out[i].p;
    for (int i = 0; i < n; i++) out[i].p /= sum;
    for (int i = n; i < MIX_LIKELY; i++) out[i] = (struct mix_label){0, 0};
}

/* A draft from row i of the text on has labels that count. */
static bool teaches(const struct train_mix *mix, const struct example *e, int i) {
    for (int row = i + 1; row < e->n && row <= i + mix->n_steps; row++) {
        if (e->weight[row] > 0) return true;
    }
    return false;
}

void train_mix_add(struct train_mix *mix, const struct example *e, const int32_t *tokens) {
    const size_t h = (size_t)mix->model->shape.n_embd, first = (size_t)mix->n_rows;
    assert(!e->is_mixed && train_mix_has_room(mix) && e->n <= mix->max_text);
    memcpy(mix->states + first * h, e->input, (size_t)e->n * h * sizeof *mix->states);
    memcpy(mix->tokens + first, tokens, (size_t)e->n * sizeof *tokens);
    memcpy(mix->weight + first, e->weight, (size_t)e->n * sizeof *e->weight);
    mix->n_rows += e->n;
    for (int i = 0; i < e->n; i++) {
        int row = (int)first + i;
        mix->ends[row] = mix->n_rows;
        if (e->weight[i] > 0)
            keep_label(e->target + (size_t)i * (size_t)mix->n_vocab, mix->n_vocab, mix->labels + (size_t)row * MIX_LIKELY);
        if (teaches(mix, e, i)) mix->starts[mix->n_starts++] = row;
    }
}

void train_mix_shuffle(struct train_mix *mix, uint64_t key) {
    for (int i = mix->n_starts - 1; i > 0; i--) {
        const struct philox_block block = philox(key, (struct philox_block){{(uint32_t)i, 0, 0, 12}});
        int other = (int)(block.word[0] % (uint32_t)(i + 1)), kept = mix->starts[i];
        mix->starts[i] = mix->starts[other];
        mix->starts[other] = kept;
    }
}

void train_mix_clear(struct train_mix *mix) { mix->n_rows = mix->n_starts = 0; }

/* --- batches go out --- */

int train_mix_batches(const struct train_mix *mix) { return (mix->n_starts + MIX_BATCH - 1) / MIX_BATCH; }

/* Token and label of one step of a draft from `start` on; behind the text's end there is nothing to learn. */
static void fill_step(struct train_mix *mix, int start, int step, int at) {
    float *target = mix->target + (size_t)at * (size_t)mix->n_vocab;
    const int row = start + 1 + step;
    const bool is_text = row < mix->ends[start];
    memset(target, 0, (size_t)mix->n_vocab * sizeof *target);
    mix->batch_tokens[at] = is_text ? mix->tokens[row] : 0;
    mix->batch_weight[at] = is_text ? mix->weight[row] : 0;
    if (!(mix->batch_weight[at] > 0)) return;
    const struct mix_label *label = mix->labels + (size_t)row * MIX_LIKELY;
    for (int i = 0; i < MIX_LIKELY && label[i].p > 0; i++) target[label[i].token] = label[i].p;
}

struct example train_mix_batch(struct train_mix *mix, int i) {
    const struct model *m = mix->model;
    const int h = m->shape.n_embd, n_batches = train_mix_batches(mix);
    const int first = (int)((int64_t)mix->n_starts * i / n_batches),
              n = (int)((int64_t)mix->n_starts * (i + 1) / n_batches) - first;
    for (int k = 0; k < n; k++) {
        const int start = mix->starts[first + k];
        memcpy(mix->input + (size_t)k * (size_t)h, mix->states + (size_t)start * (size_t)h, (size_t)h * sizeof *mix->input);
        for (int step = 0; step < mix->n_steps; step++) fill_step(mix, start, step, step * n + k);
    }
    m->backend.ops->embed(m->backend.self, m->embedding, mix->batch_tokens, n * mix->n_steps, m->embedding_scale, mix->embeddings,
                          h);
    return (struct example){.n = n,
                            .is_mixed = true,
                            .input = mix->input,
                            .embeddings = mix->embeddings,
                            .target = mix->target,
                            .weight = mix->batch_weight};
}
