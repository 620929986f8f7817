/* user_tune.h - learning while idle: an n-gram store made of one user's own texts, tried on the latest of them before it is used.
 *
 *  (1) The store is made of all texts but the latest tenth. On that tenth the lookup drafter is played without the store and with
 *      it; only if the tokens of a step grow by LEAST_GAIN does the user get it.
 *  (2) The work is cut into steps of some milliseconds, so that whoever comes need not wait for it.
 *  (3) A trial works on a copy; it is the text thread's alone. It is kept in memory and made anew after a restart. */
#ifndef FORESAY_USER_TUNE_H
#define FORESAY_USER_TUNE_H

#include <stdbool.h>
#include <stdint.h>

#include "speculative/speculative.h"

enum { USER_STORE_BYTES = 256 << 10 };

struct user_tune;

/* What a trial of so many tokens holds while it runs, with the store that comes of it. */
uint64_t user_tune_bytes(int max_tokens);
/* Copies the texts. common: the store that all users share, NULL = none; it must outlive the trial. NULL: there is nothing to try
 * it on, or no memory. */
struct user_tune *user_tune_open(const struct past_text *past, const struct ngram_store *common, int n_vocab);
bool user_tune_step(struct user_tune *tune);  /* false: it is over */
void user_tune_close(struct user_tune *tune); /* accepts NULL */

struct user_tune_result {
    void *image; /* malloc'ed; NULL: it is not worth having */
    uint64_t size;
    float without, with; /* tokens a step */
    float hits;          /* of the store's own guesses, how many came true */
};
struct user_tune_result user_tune_take(struct user_tune *tune);

#endif
