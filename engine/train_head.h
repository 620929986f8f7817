/* train_head.h - what `foresay train-draft` hands on to the training of heads. */
#ifndef FORESAY_TRAIN_HEAD_H
#define FORESAY_TRAIN_HEAD_H

#include "engine/head.h"

struct train_head_settings {
    enum head_kind kind;
    const char *model, *out, *text, *isa; /* text NULL = OUT.text */
    float hours, rate, save_minutes;
    int max_tokens, n_vocab, epochs, threads, steps; /* steps: of a draft that are learned, by Medusa all it has */
    bool resume;
};

/* The exit status of the command. */
int train_head(const struct train_head_settings *settings);

#endif
