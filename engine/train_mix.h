/* train_mix.h - rows of many texts, mixed: what heads learn from that look at one position alone.
 *
 *     train_mix_open(&mix, ...);
 *     while (train_mix_has_room(&mix)) train_mix_add(&mix, &example, tokens);     some hundred texts
 *     train_mix_shuffle(&mix, key);
 *     for (i < train_mix_batches(&mix)) trainer_learn(&trainer, train_mix_batch(&mix, i));
 *     train_mix_clear(&mix);
 *
 * Neighbouring rows of a text say nearly the same, so a step of AdamW from two texts goes mostly astray: with rows of more than a
 * hundred in each step a recurrent head of SmolLM2-135M has 43 % of its guesses right after 0.26 million rows, with two texts in
 * each 26 %. Main thread. */
#ifndef FORESAY_TRAIN_MIX_H
#define FORESAY_TRAIN_MIX_H

#include "engine/train.h"

enum {
    MIX_BATCH = 1024,  /* rows of a step of AdamW */
    MIX_ROWS = 1 << 15 /* of all texts */
};

struct mix_label;
struct train_mix {
    const struct model *model;
    int n_steps, n_vocab, max_text, n_rows, n_starts;
    float *states;            /* [MIX_ROWS, n_embd] */
    int32_t *tokens, *starts; /* [MIX_ROWS]; the rows that drafts start from */
    int32_t *ends;            /* [MIX_ROWS]: the row behind the text's last */
    float *weight;
    struct mix_label *labels;           /* [MIX_ROWS][MIX_LIKELY] */
    float *input, *embeddings, *target; /* of a batch */
    float *batch_weight;
    int32_t *batch_tokens;
};

/* n_steps: of a draft; max_text: rows of the longest text. */
int train_mix_open(struct train_mix *out, const struct model *model, int n_steps, int n_vocab, int max_text,
                   struct engine_error *error);
void train_mix_close(struct train_mix *mix); /* accepts what train_mix_open left after a failure */

/* For one more text, however long. */
bool train_mix_has_room(const struct train_mix *mix);
/* tokens: [example->n], the text. Of each label the likeliest tokens are kept. */
void train_mix_add(struct train_mix *mix, const struct example *example, const int32_t *tokens);
void train_mix_shuffle(struct train_mix *mix, uint64_t key);
int train_mix_batches(const struct train_mix *mix);
/* The i-th part of the rows, at most MIX_BATCH. Lies in the mix until the next one. */
struct example train_mix_batch(struct train_mix *mix, int i);
void train_mix_clear(struct train_mix *mix);

#endif
