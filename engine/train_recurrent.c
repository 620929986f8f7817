/* train_recurrent.c - the recurrent head unrolled over the steps of a draft, forward and backward. See train.h for the scheme,
 * head.h for the network.
 *
 * Rows know nothing of each other, so those before the first label that counts, a prompt's, are left out, and examples may be
 * mixed. In a text step j has rows for the positions 0 .. n - 2 - j: its token stands at t + 1 + j, its label at the same row. */
#include <string.h>

#include "engine/train.h"

/* The example from its first row on that learns something. */
static struct example without_prompt(const struct trainer *t, const struct example *example) {
    struct example e = *example;
    size_t h = (size_t)t->shape.n_embd, skip = 0;
    if (e.is_mixed) return e;
    while (skip + 2 < (size_t)e.n && !(e.weight[skip + 1] > 0)) skip++;
    e.n -= (int)skip;
    e.input += skip * h;
    e.embeddings += skip * h;
    e.target += skip * (size_t)t->shape.n_vocab;
    e.weight += skip;
    if (e.next) e.next += skip;
    return e;
}

static const float *state_of(const struct trainer *t, const struct example *example, int step) {
    return step == 0 ? example->input : t->steps[step - 1].out;
}

static const float *tokens_of(const struct trainer *t, const struct example *example, int step) {
    return example->embeddings + example_first(example, step) * (size_t)t->shape.n_embd;
}

static void step_forward(struct trainer *t, const struct example *example, int step) {
    struct train_step *own = &t->steps[step];
    int n = example_rows(example, step), h = t->shape.n_embd;
    train_norm(t, RECURRENT_TOKEN_NORM, tokens_of(t, example, step), n, own->wide, 2 * h);
    train_norm(t, RECURRENT_STATE_NORM, state_of(t, example, step), n, own->wide + h, 2 * h);
    train_forward(t, RECURRENT_GATE, own->wide, n, own->gate, false);
    train_forward(t, RECURRENT_UP, own->wide, n, own->up, false);
    train_glu(t, own, n);
    train_forward(t, RECURRENT_SKIP, own->wide, n, own->out, false);
    train_forward(t, RECURRENT_DOWN, own->product, n, own->out, true);
}

/* own->d_out: the gradient of the step's output, from the loss and from the step behind it. */
static void step_backward(struct trainer *t, const struct example *example, int step) {
    struct train_step *own = &t->steps[step];
    int n = example_rows(example, step), h = t->shape.n_embd;
    train_gradient(t, RECURRENT_DOWN, own->d_out, own->product, n);
    train_backward(t, RECURRENT_DOWN, own->d_out, n, t->d_product, false);
    train_glu_backward(t, own, n);
    train_gradient(t, RECURRENT_GATE, t->d_gate, own->wide, n);
    train_gradient(t, RECURRENT_UP, t->d_up, own->wide, n);
    train_gradient(t, RECURRENT_SKIP, own->d_out, own->wide, n);
    train_backward(t, RECURRENT_SKIP, own->d_out, n, t->d_wide, false);
    train_backward(t, RECURRENT_GATE, t->d_gate, n, t->d_wide, true);
    train_backward(t, RECURRENT_UP, t->d_up, n, t->d_wide, true);
    train_norm_backward(t, RECURRENT_TOKEN_NORM, tokens_of(t, example, step), t->d_wide, 2 * h, n, NULL);
    train_norm_backward(t, RECURRENT_STATE_NORM, state_of(t, example, step), t->d_wide + h, 2 * h, n,
                        step > 0 ? t->steps[step - 1].d_out : NULL);
}

void train_recurrent(struct trainer *t, const struct example *example, struct trainer_score *score) {
    const struct example own = without_prompt(t, example);
    int n_steps = score ? HEAD_DEPTHS : t->n_steps;
    while (n_steps > 0 && example_rows(&own, n_steps - 1) < 1) n_steps--;
    for (int step = 0; step < n_steps; step++) {
        step_forward(t, &own, step);
        train_output(t, &own, step, t->steps[step].out, example_rows(&own, step), t->steps[step].d_out, score);
    }
    for (int step = n_steps - 1; step >= 0 && !score; step--) step_backward(t, &own, step);
}
