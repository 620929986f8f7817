/* user_tune.c - see user_tune.h. */
#include "engine/user_tune.h"

#include <stdlib.h>
#include <string.h>

enum {
    HELD_OUT = 10,      /* one token in so many is not learned but tested on */
    NODES = 16,         /* of a draft, as in earnest */
    ROUNDS_A_STEP = 64, /* some tens of microseconds each */
};
static const float LEAST_GAIN = 1.01f;
static const float LEAST_CHANCE = 0.15f; /* of a node that is taken to pay: about what a row more costs on a processor */

enum phase { BUILD, FILE_TEXTS, PLAY_WITHOUT, PLAY_WITH, OVER };

struct user_tune {
    enum phase phase;
    int32_t *tokens; /* [n], -1 behind each text; from n_learned on held out */
    int n, n_learned, at;
    struct ngram_builder *builder;
    struct past_text *past; /* of what is learned; with the store from PLAY_WITH on */
    struct drafter drafter;
    struct replay without, with;
};

uint64_t user_tune_bytes(int max_tokens) {
    return sizeof(struct user_tune) + (uint64_t)max_tokens * sizeof(int32_t) + past_bytes(max_tokens) +
           ngram_builder_bytes((uint64_t)max_tokens, USER_STORE_BYTES) + lookup_drafter_bytes(1, max_tokens) +
           2 * USER_STORE_BYTES;
}

/* Where the held-out part begins: with a text. */
static int end_of_learned(const int32_t *tokens, int n) {
    int end = n - n / HELD_OUT;
    while (end > 0 && tokens[end - 1] >= 0) end--;
    return end;
}

struct user_tune *user_tune_open(const struct past_text *past, const struct ngram_store *common, int n_vocab) {
    struct user_tune *t = calloc(1, sizeof *t);
    int n = past_tokens(past);
    if (!t) return NULL;
    t->tokens = malloc((size_t)n * sizeof *t->tokens + 1);
    if (t->tokens) past_read(past, t->tokens);
    t->n = n;
    t->n_learned = t->at = t->tokens ? end_of_learned(t->tokens, n) : 0;
    if (t->n_learned > 0) {
        t->builder = ngram_builder_open(t->tokens, (uint64_t)t->n_learned, (uint32_t)n_vocab, 0, 0, USER_STORE_BYTES);
        t->past = past_open(2 * n); /* nothing of it may leave before it is tried */
    }
    if (t->builder && t->past && lookup_drafter_open(&t->drafter, 1, n, common) == 0) return t;
    user_tune_close(t);
    return NULL;
}

void user_tune_close(struct user_tune *t) {
    if (!t) return;
    if (t->drafter.ops) t->drafter.ops->close(t->drafter.self);
    ngram_builder_close(t->builder);
    past_close(t->past);
    free(t->tokens);
    free(t);
}

static int text_length(const struct user_tune *t, int at) {
    int n = 0;
    while (at + n < t->n && t->tokens[at + n] >= 0) n++;
    return n;
}

/* --- one step of each phase; the phase after it --- */

static enum phase build(struct user_tune *t) { return ngram_builder_step(t->builder) ? BUILD : FILE_TEXTS; }

static enum phase file_texts(struct user_tune *t) {
    for (int at = 0, n; at < t->n_learned; at += n + 1) past_add(t->past, t->tokens + at, n = text_length(t, at));
    replay_init(&t->without, &t->drafter, t->past);
    t->without.max_nodes = NODES;
    t->without.least_chance = LEAST_CHANCE;
    t->with = t->without;
    return PLAY_WITHOUT;
}

static enum phase play(struct user_tune *t, struct replay *replay) {
    if (replay_play(replay, ROUNDS_A_STEP)) return t->phase;
    if (t->at < t->n) {
        int n = text_length(t, t->at);
        replay_begin_text(replay, t->tokens + t->at, 1, n);
        t->at += n + 1;
        return t->phase;
    }
    t->at = t->n_learned;
    return t->phase + 1;
}

static enum phase play_without(struct user_tune *t) {
    enum phase next = play(t, &t->without);
    if (next == PLAY_WITHOUT) return next;
    uint64_t size;
    void *image = ngram_builder_finish(t->builder, &size);
    if (image) past_set_store(t->past, image, size);
    return image ? PLAY_WITH : OVER;
}

bool user_tune_step(struct user_tune *t) {
    switch (t->phase) {
    case BUILD:
        t->phase = build(t);
        break;
    case FILE_TEXTS:
        t->phase = file_texts(t);
        break;
    case PLAY_WITHOUT:
        t->phase = play_without(t);
        break;
    case PLAY_WITH:
        t->phase = play(t, &t->with);
        break;
    case OVER:
        break;
    }
    return t->phase != OVER;
}

/* --- what came of it --- */

static float tokens_a_step(const struct replay *r) {
    return r->sums.n_steps ? (float)r->sums.n_tokens / (float)r->sums.n_steps : 0;
}

static float hits_of(const struct draft_odds *odds) {
    float tried, right;
    odds_sum(odds, PAST_STORE_CLASS, &tried, &right);
    return right / tried;
}

struct user_tune_result user_tune_take(struct user_tune *t) {
    struct user_tune_result result = {
        .without = tokens_a_step(&t->without), .with = tokens_a_step(&t->with), .hits = hits_of(&t->with.all)};
    if (result.with >= result.without * LEAST_GAIN && result.without > 0)
        result.image = ngram_builder_finish(t->builder, &result.size);
    return result;
}
