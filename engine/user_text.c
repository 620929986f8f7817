/* user_text.c - see user_text.h. */
#include "engine/user_text.h"

#include <stdlib.h>
#include <string.h>

#include "engine/log.h"

enum {
    MAX_WAITING_BYTES = 16 << 20, /* some dozens of users coming back at once */
    TRY_EVERY = 8,                /* a store, whenever one in so many of max_tokens is new */
    SURE_AFTER = 200,             /* guesses */
};
static const float SCORE_DECAY = 0.9f; /* an answer: some ten of them are remembered */

/* --- places; lock held --- */

static struct user_text *find(struct user_texts *t, uint64_t key) {
    for (int i = 0; i < t->n_users; i++) {
        if (t->users[i].key == key) return &t->users[i];
    }
    return NULL;
}

static void drop(struct user_texts *t, struct user_text *user) {
    past_close(user->past);
    *user = t->users[--t->n_users];
}

static struct user_text *longest_unused(struct user_texts *t) {
    struct user_text *oldest = t->users;
    for (int i = 1; i < t->n_users; i++) {
        if (t->users[i].used < oldest->used) oldest = &t->users[i];
    }
    return oldest;
}

/* The user's place, made if he has none. NULL: memory is refused. */
static struct user_text *place_of(struct user_texts *t, uint64_t key) {
    struct user_text *user = find(t, key);
    if (user) return user;
    if (t->n_users == t->max_users) drop(t, longest_unused(t));
    user = &t->users[t->n_users];
    *user = (struct user_text){.key = key, .past = past_open(t->max_tokens)};
    if (!user->past) return NULL;
    t->n_users++;
    return user;
}

/* --- open, close --- */

uint64_t user_texts_bytes(int max_users, int max_tokens) {
    if (max_users == 0) return 0;
    return (uint64_t)max_users * (sizeof(struct user_text) + past_bytes(max_tokens) + USER_STORE_BYTES) +
           user_tune_bytes(max_tokens);
}

int user_texts_init(struct user_texts *t, int max_users, int max_tokens) {
    *t = (struct user_texts){.max_users = max_users, .max_tokens = max_tokens};
    pthread_mutex_init(&t->lock, NULL);
    t->users = calloc((size_t)max_users + 1, sizeof *t->users);
    return t->users ? ENGINE_OK : ENGINE_ERR_MEMORY;
}

void user_texts_free(struct user_texts *t) {
    if (!t->users) return; /* was never open */
    for (struct user_feed *feed = t->first, *next; feed; feed = next) {
        next = feed->next;
        free(feed);
    }
    while (t->n_users > 0) drop(t, t->users);
    user_tune_close(t->tune);
    free(t->users);
    pthread_mutex_destroy(&t->lock);
}

/* --- texts on their way --- */

static size_t bytes_of(const struct user_feed *feed) { return sizeof *feed + feed->len; }

int user_texts_post(struct user_texts *t, uint64_t key, const char *text, size_t len) {
    struct user_feed *feed = len < MAX_WAITING_BYTES ? malloc(sizeof *feed + len) : NULL;
    if (!feed) return len < MAX_WAITING_BYTES ? ENGINE_ERR_MEMORY : ENGINE_ERR_BUSY;
    *feed = (struct user_feed){.key = key, .len = len};
    memcpy(feed->text, text, len);
    pthread_mutex_lock(&t->lock);
    bool has_room = t->waiting_bytes + bytes_of(feed) <= MAX_WAITING_BYTES;
    if (has_room) {
        t->waiting_bytes += bytes_of(feed);
        *(t->last ? &t->last->next : &t->first) = feed;
        t->last = feed;
    }
    pthread_mutex_unlock(&t->lock);
    if (!has_room) free(feed);
    return has_room ? ENGINE_OK : ENGINE_ERR_BUSY;
}

static struct user_feed *take(struct user_texts *t) {
    pthread_mutex_lock(&t->lock);
    struct user_feed *feed = t->now = t->first;
    if (feed) {
        t->first = feed->next;
        if (!t->first) t->last = NULL;
        t->waiting_bytes -= bytes_of(feed);
    }
    pthread_mutex_unlock(&t->lock);
    return feed;
}

bool user_texts_work(struct user_texts *t, const struct tokenizer *tokenizer) {
    struct user_feed *feed = take(t);
    struct token_list list = {0};
    if (!feed) return false;
    bool has_tokens = tokenizer_encode(tokenizer, feed->text, feed->len, &list) == ENGINE_OK && list.n > 0;
    pthread_mutex_lock(&t->lock);
    struct user_text *user = has_tokens && !feed->is_void ? place_of(t, feed->key) : NULL;
    if (user) {
        size_t most = (size_t)t->max_tokens, skip = list.n > most ? list.n - most : 0;
        past_add(user->past, list.ids + skip, (int)(list.n - skip));
        user->used = ++t->clock;
        user->n_added += list.n - skip;
    }
    t->now = NULL;
    pthread_mutex_unlock(&t->lock);
    token_list_free(&list);
    free(feed);
    return true;
}

/* Lock held. */
static bool has_feed(const struct user_texts *t, uint64_t key) {
    if (t->now && !t->now->is_void && t->now->key == key) return true;
    for (const struct user_feed *feed = t->first; feed; feed = feed->next) {
        if (feed->key == key) return true;
    }
    return false;
}

bool user_texts_know(struct user_texts *t, uint64_t key) {
    pthread_mutex_lock(&t->lock);
    bool knows = find(t, key) || has_feed(t, key);
    pthread_mutex_unlock(&t->lock);
    return knows;
}

int user_texts_tokens(struct user_texts *t, uint64_t key) {
    pthread_mutex_lock(&t->lock);
    const struct user_text *user = find(t, key);
    int n = has_feed(t, key) ? -1 : user ? past_tokens(user->past) : 0;
    pthread_mutex_unlock(&t->lock);
    return n;
}

void user_texts_forget(struct user_texts *t, uint64_t key) {
    pthread_mutex_lock(&t->lock);
    struct user_text *user = find(t, key);
    if (user) drop(t, user);
    if (t->now && t->now->key == key) t->now->is_void = true;
    if (t->tune_key == key) t->tune_is_void = true;
    t->last = NULL;
    for (struct user_feed **at = &t->first; *at;) {
        struct user_feed *feed = *at;
        if (feed->key != key) {
            t->last = feed;
            at = &feed->next;
            continue;
        }
        *at = feed->next;
        t->waiting_bytes -= bytes_of(feed);
        free(feed);
    }
    pthread_mutex_unlock(&t->lock);
}

/* --- for a guess --- */

struct past_text *user_texts_hold(struct user_texts *t, uint64_t key) {
    if (key == 0 || t->max_users == 0) return NULL;
    pthread_mutex_lock(&t->lock);
    struct user_text *user = find(t, key);
    if (user) {
        user->used = ++t->clock;
        return user->past;
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

void user_texts_release(struct user_texts *t) { pthread_mutex_unlock(&t->lock); }

/* --- the store of a user's own n-grams --- */

/* Lock held. The user whose texts have grown most since the last trial, NULL = nobody's have grown enough. */
static struct user_text *next_to_try(struct user_texts *t) {
    struct user_text *best = NULL;
    uint64_t most = (uint64_t)(t->max_tokens / TRY_EVERY);
    for (int i = 0; i < t->n_users; i++) {
        uint64_t n_new = t->users[i].n_added - t->users[i].n_tried;
        if (n_new >= most) most = n_new, best = &t->users[i];
    }
    return best;
}

bool user_texts_want_tuning(struct user_texts *t) {
    pthread_mutex_lock(&t->lock);
    bool wants = t->tune || next_to_try(t);
    pthread_mutex_unlock(&t->lock);
    return wants;
}

/* Lock held. */
static void begin_trial(struct user_texts *t) {
    struct user_text *user = next_to_try(t);
    if (!user) return;
    user->n_tried = user->n_added;
    t->tune = user_tune_open(user->past, t->common, t->n_vocab);
    t->tune_key = user->key;
    t->tune_is_void = false;
}

/* Lock held. The user may have left meanwhile. */
static void end_trial(struct user_texts *t, const struct user_tune_result *result) {
    struct user_text *user = t->tune_is_void ? NULL : find(t, t->tune_key);
    if (!user) {
        free(result->image);
        return;
    }
    past_set_store(user->past, result->image, result->size);
    user->hits = result->hits;
    user->tried = user->right = 0;
}

void user_texts_tune(struct user_texts *t) {
    pthread_mutex_lock(&t->lock);
    if (!t->tune) begin_trial(t);
    struct user_tune *tune = t->tune;
    bool goes_on = tune && !t->tune_is_void;
    pthread_mutex_unlock(&t->lock);
    if (!tune || (goes_on && user_tune_step(tune))) return;
    struct user_tune_result result = {0};
    if (goes_on) result = user_tune_take(tune);
    if (goes_on)
        log_debug("engine", "a user's own n-grams: %.3f tokens a step without them, %.3f with them: %s", (double)result.without,
                  (double)result.with, result.image ? "used" : "not used");
    pthread_mutex_lock(&t->lock);
    end_trial(t, &result);
    t->tune = NULL;
    t->tune_key = 0;
    pthread_mutex_unlock(&t->lock);
    user_tune_close(tune);
}

void user_texts_score(struct user_texts *t, uint64_t key, float tried, float right) {
    pthread_mutex_lock(&t->lock);
    struct user_text *user = find(t, key);
    if (user && past_has_store(user->past)) {
        user->tried = user->tried * SCORE_DECAY + tried;
        user->right = user->right * SCORE_DECAY + right;
        if (user->tried >= SURE_AFTER && user->right < user->tried * user->hits / 2) past_set_store(user->past, NULL, 0);
    }
    pthread_mutex_unlock(&t->lock);
}

bool user_texts_has_store(struct user_texts *t, uint64_t key) {
    pthread_mutex_lock(&t->lock);
    const struct user_text *user = find(t, key);
    bool has = user && past_has_store(user->past);
    pthread_mutex_unlock(&t->lock);
    return has;
}
