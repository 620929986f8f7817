/* head_guess.c - the likeliest tokens of a head's logits; where the noise of the target's draw is known, those that will likely
 * win it. See head_guess.h. */
#include "engine/head_guess.h"

#include <math.h>
#include <string.h>

#include "engine/draft_model.h"
#include "engine/internal.h"
#include "engine/sampler_rows.h"

enum { MOST_LIKELY = 16 /* tokens that race */ };

static const float LEAST_CHANCE = 0.05f; /* of a node; below it never pays */

/* The n likeliest tokens of a row of logits with their probability. */
static void find_best(const struct head *h, int row, int n, float *sums, struct head_guess *out) {
    const struct sampler_rows *rows = sampler_rows_best();
    const int n_vocab = h->shape.n_vocab;
    const float *logits = h->logits + (size_t)row * (size_t)h->logits_stride;
    const float *maxima = h->maxima + (size_t)row * (size_t)row_blocks(n_vocab);
    float best[MOST_LIKELY] = {0}, sum = 0;
    int at[MOST_LIKELY], n_found = 0;
    for (int i = 0; i < n_vocab; i++) {
        if (i % ROW_BLOCK == 0 && n_found == n && !(maxima[i / ROW_BLOCK] > best[n - 1])) {
            i += ROW_BLOCK - 1;
            continue;
        }
        if (n_found == n && !(logits[i] > best[n - 1])) continue;
        int place = n_found < n ? n_found++ : n - 1;
        for (; place > 0 && logits[i] > best[place - 1]; place--) best[place] = best[place - 1], at[place] = at[place - 1];
        best[place] = logits[i];
        at[place] = i;
    }
    int n_sums = rows->weights(logits, n_vocab, best[0], 1, sums);
    for (int i = 0; i < n_sums; i++) sum += sums[i];
    for (int i = 0; i < n_found; i++) out[i] = (struct head_guess){h->vocab[at[i]], sampler_exp(best[i] - best[0]) / sum};
}

/* The target draws token i where q_i^(1/T) / arrival_i is largest, q being its own probabilities, of which the head's are a
 * blurred picture: the guesses that are likeliest to win that race come first, with the share of it that is theirs. */
static void race(const struct draft_context *context, int depth, struct head_guess *guesses, int n) {
    const struct request *r = context->request;
    double power[MOST_LIKELY], sum = 0;
    for (int i = 0; i < n; i++) {
        double arrival = context->noise.of(context->noise.self, context->n_tokens + depth, guesses[i].token);
        sum += power[i] = pow((double)guesses[i].p, 1 / (double)r->sampling.temperature) / arrival;
    }
    for (int i = 0; i < n; i++) {
        struct head_guess guess = {guesses[i].token, (float)(power[i] / sum)};
        int place = i;
        for (; place > 0 && guess.p > guesses[place - 1].p; place--) guesses[place] = guesses[place - 1];
        guesses[place] = guess;
    }
}

void head_guess_behind(const struct head *head, const struct draft_context *context, int depth, int row, int width, float *sums,
                       struct head_guess *out) {
    struct head_guess likely[MOST_LIKELY] = {0};
    int n = context->noise.of ? MOST_LIKELY : width;
    find_best(head, row, n, sums, likely);
    if (context->noise.of) race(context, depth, likely, n);
    memcpy(out, likely, (size_t)width * sizeof *out);
}

bool head_guess_weigh(const struct draft_context *context, int parent, float chance, const struct head_guess *guess,
                      struct head_candidate *out) {
    if (!(guess->p > 0)) return false;
    /* A share of a race has the noise in it already: of the classes by luck it takes the first. */
    int class = odds_class_of(DRAFT_MODEL_CLASS, guess->p) + (context->noise.of ? ODDS_KINDS : 0);
    float odds = odds_estimate(context->own, context->all, class);
    *out = (struct head_candidate){parent, class, guess->token, odds, chance * odds};
    return out->chance >= LEAST_CHANCE;
}
