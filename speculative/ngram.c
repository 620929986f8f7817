/* ngram.c - the n-gram store: opening an image, looking a context up. What it holds and how it lies is in speculative.h.
 *
 * A key is 32 bits of the context's hash, so now and then a context finds another one's records: a wrong guess, no harm.
 * Nothing in an image is trusted: sizes, order and tokens are checked when it is opened. */
#include <string.h>

#include "speculative/ngram.h"
#include "speculative/speculative.h"

uint32_t ngram_key(const int32_t *context, int n) {
    uint64_t hash = 0x9E3779B97F4A7C15u * (uint64_t)n;
    for (int i = 0; i < n; i++) {
        hash = (hash ^ (uint32_t)context[i]) * 0xBF58476D1CE4E5B9u;
        hash ^= hash >> 29;
    }
    return (uint32_t)(hash * 0x94D049BB133111EBu >> 32);
}

uint32_t ngram_checksum(const struct ngram_record *records, uint64_t n) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (uint64_t i = 0; i < n; i++) hash = (hash ^ ((uint64_t)records[i].key << 32 | records[i].next)) * 0x100000001B3u;
    return (uint32_t)(hash >> 32 ^ hash);
}

static const char *check_records(const struct ngram_store *store) {
    const struct ngram_header *h = store->header;
    uint64_t n = 0;
    for (int order = 0; order < NGRAM_ORDERS; order++) {
        const struct ngram_record *r = store->records[order];
        n += h->n_records[order];
        for (uint32_t i = 0; i < h->n_records[order]; i++) {
            if (NGRAM_TOKEN(r[i]) >= h->n_vocab) return "is damaged: it names a token that its vocabulary does not have";
            if (i > 0 && r[i].key < r[i - 1].key) return "is damaged: its records are out of order";
        }
    }
    return ngram_checksum(store->records[0], n) == h->checksum ? NULL : "is damaged: its checksum does not fit";
}

const char *ngram_open(struct ngram_store *out, const void *image, uint64_t size, uint32_t n_vocab, uint64_t vocab_digest,
                       uint64_t target_digest) {
    const struct ngram_header *h = image;
    const struct ngram_record *at = (const struct ngram_record *)(h + 1);
    uint64_t n = 0;
    if (size < sizeof *h || memcmp(h->magic, "fsngram1", sizeof h->magic) != 0) return "is not an n-gram store";
    *out = (struct ngram_store){.header = h};
    for (int order = 0; order < NGRAM_ORDERS; order++) {
        out->records[order] = at + n;
        n += h->n_records[order];
    }
    if (n != (size - sizeof *h) / sizeof *at || (size - sizeof *h) % sizeof *at) return "is cut off, or longer than it says";
    if ((n_vocab && h->n_vocab != n_vocab) || (vocab_digest && h->vocab_digest != vocab_digest))
        return "was made for a model with another vocabulary: its tokens mean something else here";
    if (target_digest && h->target_digest != target_digest)
        return "was made from the text of another model: make one for this model with foresay train-draft";
    return check_records(out);
}

/* The first record with this key or a larger one. Keys are hashes, so it lies about key / 2^32 of the way: from there in steps
 * that double, until it is between two of them. */
static uint32_t lower_bound(const struct ngram_record *records, uint32_t n, uint32_t key) {
    uint32_t at = (uint32_t)((uint64_t)key * n >> 32), low = at, high = at;
    if (at < n && records[at].key < key) {
        for (uint32_t step = 64; high < n && records[high].key < key; step *= 2) {
            low = high + 1;
            high = n - high > step ? high + step : n;
        }
    } else {
        for (uint32_t step = 64; low > 0 && records[low - 1].key >= key; step *= 2) {
            high = low - 1;
            low = low > step ? low - step : 0;
        }
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (records[middle].key < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int ngram_find(const struct ngram_store *store, const int32_t *tokens, int n, struct ngram_guess *out) {
    for (int order = n < NGRAM_ORDERS ? n : NGRAM_ORDERS; order > 0; order--) {
        uint32_t key = ngram_key(tokens + n - order, order), n_records = store->header->n_records[order - 1];
        const struct ngram_record *records = store->records[order - 1];
        uint32_t first = lower_bound(records, n_records, key);
        int found = 0;
        while (found < NGRAM_NEXT && first + (uint32_t)found < n_records && records[first + (uint32_t)found].key == key) {
            const struct ngram_record *r = &records[first + (uint32_t)found];
            out[found++] = (struct ngram_guess){(int32_t)NGRAM_TOKEN(*r), (float)(r->next >> 24) / 255};
        }
        if (found > 0) return found;
    }
    return 0;
}
