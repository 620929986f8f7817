/* past.c - earlier texts of one author, one behind the other, in memory of a fixed size.
 *
 * Everything is filed as it is added, so looking something up changes nothing. Full, it loses the older half at once: moving and
 * filing the rest costs a fraction of a millisecond, once in max_tokens / 2 tokens. */
#include "speculative/past.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

uint64_t past_bytes(int max_tokens) {
    return sizeof(struct past_text) + ((uint64_t)max_tokens + suffix_index_words(max_tokens)) * sizeof(int32_t);
}

struct past_text *past_open(int max_tokens) {
    assert(max_tokens >= 4);
    struct past_text *past = malloc(past_bytes(max_tokens));
    if (!past) return NULL;
    *past = (struct past_text){.tokens = (int32_t *)(past + 1), .max_tokens = max_tokens};
    suffix_index_init(&past->index, past->tokens + max_tokens, max_tokens);
    return past;
}

void past_close(struct past_text *past) {
    if (past) free(past->store_image);
    free(past);
}

static void drop_older_half(struct past_text *past) {
    int keep = past->max_tokens / 2;
    if (keep > past->n) keep = past->n;
    memmove(past->tokens, past->tokens + past->n - keep, (size_t)keep * sizeof *past->tokens);
    past->n = keep;
    suffix_index_reset(&past->index);
}

void past_add(struct past_text *past, const int32_t *tokens, int n) {
    int most = past->max_tokens / 2 - 1; /* and what divides it from the next */
    if (n <= 0) return;
    if (n > most) tokens += n - most, n = most;
    if (past->n + n + 1 > past->max_tokens) drop_older_half(past);
    memcpy(past->tokens + past->n, tokens, (size_t)n * sizeof *tokens);
    past->n += n;
    past->tokens[past->n++] = -1;
    suffix_file(&past->index, past->tokens, past->n);
}

int past_tokens(const struct past_text *past) { return past->n; }

void past_read(const struct past_text *past, int32_t *out) { memcpy(out, past->tokens, (size_t)past->n * sizeof *out); }

void past_set_store(struct past_text *past, void *image, uint64_t size) {
    free(past->store_image);
    past->store_image = image;
    const char *trouble = image ? ngram_open(&past->store, image, size, 0, 0, 0) : NULL;
    assert(!trouble); /* it was just made */
    if (!image || trouble) past->store = (struct ngram_store){0};
}

bool past_has_store(const struct past_text *past) { return past->store.header != NULL; }
