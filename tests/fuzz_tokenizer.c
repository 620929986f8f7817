/* fuzz_tokenizer.c - any bytes through every pre-tokenizer and back through the detokenizer: nothing is lost, nothing is special,
 * what comes out is UTF-8, and stop strings cut where they should. */
#define _GNU_SOURCE /* memmem */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/detokenizer.h"
#include "tests/small_vocabulary.h"

enum { N_TOKENIZERS = 5 };
static struct tokenizer *tokenizers[N_TOKENIZERS];

static void open_all(void) {
    static const char *const pres[N_TOKENIZERS] = {"smollm", "gpt-2", "llama-bpe", "qwen2", "qwen2"};
    static const char *const merges[] = {"a a", "t h", "th e", "aa aa", "\u0120 a", "\u0120 \u0120", "\u0120\u0120 \u0120\u0120",
                                         NULL};
    static const char *const added[] = {"<tool>", "   ", "<to", "\u4f60\u597d", NULL};
    for (int i = 0; i < N_TOKENIZERS; i++) {
        tokenizers[i] =
            small_open(&(struct small_vocabulary){.pre = pres[i], .merges = merges, .added = i == 4 ? added : NULL, .eos = 2});
        if (!tokenizers[i]) abort();
    }
}

static void check_bytes(const struct tokenizer *t, const struct token_list *list, const char *text, size_t len) {
    size_t at = 0;
    for (size_t i = 0; i < list->n; i++) {
        size_t n;
        const char *piece = tokenizer_piece(t, list->ids[i], &n);
        if (tokenizer_is_control(t, list->ids[i])) abort();
        if (n > len - at || memcmp(piece, text + at, n) != 0) abort();
        at += n;
    }
    if (at != len) abort();
}

/* The text without a stop string first, then with one taken from it: the same up to the first place where that stands. */
static size_t detokenize(const struct tokenizer *t, const struct token_list *list, const char *stop, char *out) {
    struct detokenizer d;
    size_t used = 0, n;
    if (detokenizer_init(&d, t, &stop, stop ? 1 : 0) != ENGINE_OK) abort();
    for (size_t i = 0; i < list->n; i++) {
        detokenizer_push(&d, list->ids[i]);
        while ((n = detokenizer_take(&d, out + used, 7)) > 0) used += n;
    }
    detokenizer_finish(&d);
    while ((n = detokenizer_take(&d, out + used, 7)) > 0) used += n;
    if (!utf8_valid(out, used)) abort();
    return used;
}

static void check_stop(const struct tokenizer *t, const struct token_list *list, size_t len, uint8_t where) {
    char *whole = malloc(3 * len + 8), *cut = malloc(3 * len + 8), stop[ENGINE_MAX_STOP_LEN + 1];
    if (!whole || !cut) abort();
    size_t n = detokenize(t, list, NULL, whole), start = n ? where % n : 0, stop_len = 1 + where % 7;
    while (start > 0 && ((uint8_t)whole[start] & 0xC0) == 0x80) start--;
    if (stop_len > n - start) stop_len = n - start;
    while (start + stop_len < n && ((uint8_t)whole[start + stop_len] & 0xC0) == 0x80) stop_len++;
    memcpy(stop, whole + start, stop_len);
    stop[stop_len] = '\0';
    if (stop_len > 0 && strlen(stop) == stop_len) {
        const char *found = memmem(whole, n, stop, stop_len);
        size_t n_cut = detokenize(t, list, stop, cut);
        if (!found || n_cut != (size_t)(found - whole) || memcmp(whole, cut, n_cut) != 0) abort();
    }
    free(whole);
    free(cut);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!tokenizers[0]) open_all();
    if (size < 2) return 0;
    const struct tokenizer *t = tokenizers[data[0] % N_TOKENIZERS];
    const char *text = (const char *)data + 2;
    size_t len = size - 2;
    struct token_list list = {0};
    if (tokenizer_encode(t, text, len, &list) != ENGINE_OK) abort();
    check_bytes(t, &list, text, len);
    check_stop(t, &list, len, data[1]);
    token_list_free(&list);
    return 0;
}
