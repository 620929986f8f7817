/* ngram_build.c - makes an n-gram store from text.
 *
 * One length of context after the other, shortest first: all places of the text sorted by the key of the context before them
 * and by their token, so that equal contexts stand together. A token x that followed n of s times gets
 *     P(x) = (n + c P'(x)) / (s + c)        P': what the next shorter context says, c smaller for longer contexts
 * (Witten-Bell-like). The NGRAM_NEXT likeliest are kept, if the context was seen often enough and says something that the
 * shorter one does not. How often is enough rises until the image fits. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "speculative/ngram.h"

static const float LEAST = 0.03f; /* less likely guesses are not worth a record */
static const float DIFFERENCE = 0.1f;
static const float BACK_OFF[NGRAM_ORDERS] = {8, 3, 1.5f, 1};

struct occurrence {
    uint32_t key;
    int32_t next;
    uint64_t at; /* of next in the text */
};

struct ngram_builder {
    const int32_t *text;
    uint64_t n_text;
    uint64_t least;            /* how often contexts were seen that stay */
    int order;                 /* the next to be added; past the last: done */
    struct occurrence *places; /* [n_text] */
    struct ngram_header header;
    struct ngram_record *records; /* [capacity] */
    uint64_t n, capacity;
    struct ngram_store store; /* what is finished, to look shorter contexts up */
};

static int by_key_and_token(const void *x, const void *y) {
    const struct occurrence *a = x, *b = y;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    if (a->next != b->next) return a->next < b->next ? -1 : 1;
    return a->at < b->at ? -1 : a->at > b->at;
}

static int by_probability(const void *x, const void *y) {
    const struct ngram_guess *a = x, *b = y;
    if (a->probability != b->probability) return a->probability > b->probability ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}

/* Sorts the places that have `order` tokens of the same text before them. */
static uint64_t sort_places(struct ngram_builder *b, int order) {
    uint64_t n = 0;
    int known = 0;
    for (uint64_t at = 0; at < b->n_text; at++) {
        if (b->text[at] < 0) {
            known = 0;
            continue;
        }
        if (known >= order) b->places[n++] = (struct occurrence){ngram_key(b->text + at - order, order), b->text[at], at};
        known++;
    }
    qsort(b->places, n, sizeof *b->places, by_key_and_token);
    return n;
}

/* The shorter context's probability of a token. */
static float shorter_says(const struct ngram_guess *shorter, int n, int32_t token) {
    for (int i = 0; i < n; i++) {
        if (shorter[i].token == token) return shorter[i].probability;
    }
    return 0;
}

static void offer(struct ngram_guess *best, int *n, int32_t token, float probability) {
    if (probability < LEAST) return;
    for (int i = 0; i < *n; i++) {
        if (best[i].token == token) return;
    }
    best[(*n)++] = (struct ngram_guess){token, probability};
    qsort(best, (size_t)*n, sizeof *best, by_probability);
    if (*n > NGRAM_NEXT) *n = NGRAM_NEXT;
}

static void put_records(struct ngram_builder *b, uint32_t key, const struct ngram_guess *best, int n) {
    for (int i = 0; i < n && b->n < b->capacity; i++) {
        uint32_t probability = (uint32_t)lrintf(best[i].probability * 255);
        b->records[b->n++] = (struct ngram_record){key, (uint32_t)best[i].token | probability << 24};
    }
}

/* One context: places[0 .. n). */
static void add_context(struct ngram_builder *b, const struct occurrence *places, uint64_t n, int order) {
    struct ngram_guess shorter[NGRAM_NEXT], best[NGRAM_NEXT + 1];
    float c = BACK_OFF[order - 1], all = (float)n + c;
    int n_shorter = 0, n_best = 0;
    if (order > 1) n_shorter = ngram_find(&b->store, b->text + places[0].at - (order - 1), order - 1, shorter);
    for (uint64_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && places[end].next == places[i].next;) end++;
        offer(best, &n_best, places[i].next, ((float)(end - i) + c * shorter_says(shorter, n_shorter, places[i].next)) / all);
    }
    for (int i = 0; i < n_shorter; i++) offer(best, &n_best, shorter[i].token, c * shorter[i].probability / all);
    if (n_best == 0) return;
    bool is_news =
        n_shorter == 0 || best[0].token != shorter[0].token || fabsf(best[0].probability - shorter[0].probability) > DIFFERENCE;
    if (is_news) put_records(b, places[0].key, best, n_best);
}

/* Seldom-seen contexts go first where they are longest. */
static uint64_t enough(int order, uint64_t least) { return order == 1 ? 2 : order == 2 && least > 2 ? 1 + least / 2 : least; }

static void add_order(struct ngram_builder *b, int order, uint64_t least) {
    uint64_t n = sort_places(b, order), first = b->n;
    for (uint64_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && b->places[end].key == b->places[i].key;) end++;
        if (end - i >= enough(order, least)) add_context(b, b->places + i, end - i, order);
    }
    b->header.n_records[order - 1] = (uint32_t)(b->n - first);
    b->store.header = &b->header;
    b->store.records[order - 1] = b->records + first;
}

static void begin(struct ngram_builder *b, uint64_t least) {
    b->n = 0;
    b->order = 1;
    b->least = least;
    memset(b->header.n_records, 0, sizeof b->header.n_records);
}

bool ngram_builder_step(struct ngram_builder *b) {
    bool is_done = b->order > NGRAM_ORDERS;
    if (is_done) return false;
    add_order(b, b->order++, b->least);
    bool fits = b->n < b->capacity;
    if (!fits && b->least <= b->n_text)
        begin(b, b->least + 1 + b->least / 3);
    else if (!fits)
        b->order = NGRAM_ORDERS + 1;
    return true;
}

void *ngram_builder_finish(struct ngram_builder *b, uint64_t *size) {
    *size = sizeof b->header + b->n * sizeof *b->records;
    char *image = malloc(*size);
    if (!image) return NULL;
    b->header.checksum = ngram_checksum(b->records, b->n);
    memcpy(image, &b->header, sizeof b->header);
    memcpy(image + sizeof b->header, b->records, b->n * sizeof *b->records);
    return image;
}

static uint64_t capacity_of(uint64_t max_bytes) {
    uint64_t header = sizeof(struct ngram_header);
    return max_bytes > header ? (max_bytes - header) / sizeof(struct ngram_record) + 1 : 1;
}

uint64_t ngram_builder_bytes(uint64_t n_text, uint64_t max_bytes) {
    return sizeof(struct ngram_builder) + (n_text + 1) * sizeof(struct occurrence) +
           capacity_of(max_bytes) * sizeof(struct ngram_record);
}

struct ngram_builder *ngram_builder_open(const int32_t *text, uint64_t n_text, uint32_t n_vocab, uint64_t vocab_digest,
                                         uint64_t target_digest, uint64_t max_bytes) {
    struct ngram_builder *b = calloc(1, sizeof *b);
    if (!b) return NULL;
    *b = (struct ngram_builder){.text = text, .n_text = n_text, .capacity = capacity_of(max_bytes)};
    b->header = (struct ngram_header){
        .magic = "fsngram1", .vocab_digest = vocab_digest, .target_digest = target_digest, .n_vocab = n_vocab};
    for (uint64_t i = 0; i < n_text; i++) b->header.n_text += text[i] >= 0;
    b->places = malloc((size_t)(n_text + 1) * sizeof *b->places);
    b->records = malloc((size_t)b->capacity * sizeof *b->records);
    begin(b, 2);
    if (b->places && b->records) return b;
    ngram_builder_close(b);
    return NULL;
}

void ngram_builder_close(struct ngram_builder *b) {
    if (!b) return;
    free(b->places);
    free(b->records);
    free(b);
}

void *ngram_build(const int32_t *text, uint64_t n_text, uint32_t n_vocab, uint64_t vocab_digest, uint64_t target_digest,
                  uint64_t max_bytes, uint64_t *size) {
    struct ngram_builder *b = ngram_builder_open(text, n_text, n_vocab, vocab_digest, target_digest, max_bytes);
    if (!b) return NULL;
    while (ngram_builder_step(b)) {
    }
    void *image = ngram_builder_finish(b, size);
    ngram_builder_close(b);
    return image;
}
