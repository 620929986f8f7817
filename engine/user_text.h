/* user_text.h - the users' own earlier texts, by user, for the lookup drafter: whoever allows it finds what he was told before.
 *
 *  (1) A text is one user's alone: it is found by his key and by nothing else.
 *  (2) Bounded: at most max_users, of each the latest tokens; the one that was not used for longest leaves. A place is allocated
 *      when a user's first text comes, never in a step.
 *  (3) After user_texts_forget nothing of the user is left here, nor comes back from a text that was being tokenized.
 *  (4) In idle time a store of n-grams is made of each user's texts and tried on the latest of them (user_tune.h). It is his as
 *      the texts are: kept beside them, gone with them. It also goes when in earnest its guesses come true half as often as in
 *      the trial.
 *  (5) One lock guards all of it. The tokenizer thread holds it while a text is filed, the engine thread while one sequence is
 *      asked for a guess; both are fractions of a millisecond. Any thread, but where it says otherwise. */
#ifndef FORESAY_USER_TEXT_H
#define FORESAY_USER_TEXT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/tokenizer.h"
#include "engine/user_tune.h"
#include "speculative/speculative.h"

struct user_text {
    uint64_t key, used; /* used: when, in steps of the clock below */
    struct past_text *past;
    uint64_t n_added, n_tried; /* tokens in all; of these when a store was last tried */
    float hits;                /* of the store's guesses in the trial */
    float tried, right;        /* of its guesses in earnest, of late */
};

/* A text on its way. */
struct user_feed {
    struct user_feed *next;
    uint64_t key;
    bool is_void; /* its user was forgotten meanwhile */
    size_t len;
    char text[];
};

struct user_texts {
    pthread_mutex_t lock;
    int max_users, max_tokens; /* constant */
    struct user_text *users;   /* [max_users], n_users of them taken */
    int n_users;
    uint64_t clock;
    struct user_feed *first, *last, *now; /* those that wait, in order; the one being tokenized */
    size_t waiting_bytes;
    struct user_tune *tune; /* the text thread's; whose it is, and whether he was forgotten meanwhile: */
    uint64_t tune_key;
    bool tune_is_void;
    const struct ngram_store *common; /* of all users; NULL = none. Constant, as the next one */
    int n_vocab;
};

uint64_t user_texts_bytes(int max_users, int max_tokens); /* when all places are taken */
/* ENGINE_OK or ENGINE_ERR_MEMORY. max_users 0: nobody's text is kept. */
int user_texts_init(struct user_texts *texts, int max_users, int max_tokens);
void user_texts_free(struct user_texts *texts);

/* A copy waits to be tokenized. ENGINE_OK, ENGINE_ERR_BUSY (too much waits) or ENGINE_ERR_MEMORY. */
int user_texts_post(struct user_texts *texts, uint64_t key, const char *text, size_t len);
/* The tokenizer thread: takes one text that waits. False: none did. */
bool user_texts_work(struct user_texts *texts, const struct tokenizer *tokenizer);
bool user_texts_know(struct user_texts *texts, uint64_t key);
void user_texts_forget(struct user_texts *texts, uint64_t key);
/* Is there a user whose texts have grown enough to try a store? */
bool user_texts_want_tuning(struct user_texts *texts);
/* The tokenizer thread, when nobody needs it: some milliseconds of such a trial. */
void user_texts_tune(struct user_texts *texts);
/* So many guesses of the user's store were tried in an answer, so many right. */
void user_texts_score(struct user_texts *texts, uint64_t key, float tried, float right);
/* For tests: has he a store? */
bool user_texts_has_store(struct user_texts *texts, uint64_t key);
/* For tests: tokens of a user that can be found, once none of his texts waits; until then -1. */
int user_texts_tokens(struct user_texts *texts, uint64_t key);

/* The user's texts, with the lock held until user_texts_release; NULL, and no lock, when there are none. */
struct past_text *user_texts_hold(struct user_texts *texts, uint64_t key);
void user_texts_release(struct user_texts *texts);

#endif
