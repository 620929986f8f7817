/* fuzz_tokenizer.c - any bytes through every pre-tokenizer and back through the detokenizer: nothing is lost, nothing is special,
 * what comes out is UTF-8, and stop strings cut where they should. */
#define _GNU_SOURCE /* memmem */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/detokenizer.h"
#include "engine/normalize.h"
#include "tests/small_spm.h"
#include "tests/small_vocabulary.h"

enum { N_BYTE_LEVEL = 11, N_TOKENIZERS = N_BYTE_LEVEL + 3 };
static struct tokenizer *tokenizers[N_TOKENIZERS];

/* With and without a space in front, and one without byte tokens. A piece with a space inside, equal scores. */
static void open_spm(void) {
    static const char *const pieces[] = {
        "\u2581", "a", "b", "t", "h", "e", "th", "the", "\u2581the", "aa", "aaa", "\u2581\u2581", "a\u2581b", "\u4f60"};
    static const float scores[] = {-9, -9, -9, -9, -9, -9, -1, -2, -3, -1, -1, -4, -5, -9};
    static const char *const added[] = {"<tool>", "   ", "<to", "\u4f60\u597d", NULL};
    for (int i = 0; i < 3; i++) {
        tokenizers[N_BYTE_LEVEL + i] = small_spm_open(&(struct small_spm){
            .pieces = pieces, .scores = scores, .n = 14, .has_bytes = i<2, .no_prefix = i> 0, .added = i == 1 ? added : NULL});
        if (!tokenizers[N_BYTE_LEVEL + i]) abort();
    }
}

static void open_all(void) {
    static const char *const pres[N_BYTE_LEVEL] = {"smollm", "gpt-2",  "llama-bpe",    "qwen2",          "qwen2",      "qwen35",
                                                   "gpt-4o", "tekken", "deepseek-llm", "deepseek-coder", "deepseek-v3"};
    static const char *const merges[] = {"a a", "t h", "th e", "aa aa", "\u0120 a", "\u0120 \u0120", "\u0120\u0120 \u0120\u0120",
                                         NULL};
    static const char *const added[] = {"<tool>", "   ", "<to", "\u4f60\u597d", NULL};
    for (int i = 0; i < N_BYTE_LEVEL; i++) {
        tokenizers[i] =
            small_open(&(struct small_vocabulary){.pre = pres[i], .merges = merges, .added = i == 4 ? added : NULL, .eos = 2});
        if (!tokenizers[i]) abort();
    }
    open_spm();
}

/* The text as SentencePiece sees it: "\u2581" is a space, and one may stand in front. */
static char *spaced(const struct tokenizer *t, const char *text, size_t *len) {
    char *copy = malloc(*len + 1);
    size_t n = 0;
    if (!copy) abort();
    if (tokenizer_prefixes_space(t) && *len > 0) copy[n++] = ' ';
    for (size_t at = 0; at < *len;) {
        bool is_space = *len - at >= 3 && memcmp(text + at, "\u2581", 3) == 0;
        copy[n++] = is_space ? ' ' : text[at];
        at += is_space ? 3 : 1;
    }
    *len = n;
    return copy;
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
    char *whole = malloc(3 * len + 16), *cut = malloc(3 * len + 16), stop[ENGINE_MAX_STOP_LEN + 1];
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
    if (t == tokenizers[N_TOKENIZERS - 1]) { /* unknown tokens lose what they stand for */
        for (size_t i = 0; i < list.n; i++) {
            if (tokenizer_is_control(t, list.ids[i])) abort();
        }
    } else if (tokenizer_pre_name(t) && strncmp(tokenizer_pre_name(t), "qwen", 4) == 0) {
        char *composed;
        size_t composed_len;
        if (!normalize_nfc(text, len, &composed, &composed_len)) abort();
        if (t != tokenizers[4]) check_bytes(t, &list, composed ? composed : text, composed ? composed_len : len);
        free(composed);
    } else if (tokenizer_pre_name(t)) {
        check_bytes(t, &list, text, len);
    } else {
        size_t spaced_len = len;
        char *copy = spaced(t, text, &spaced_len);
        check_bytes(t, &list, copy, spaced_len);
        free(copy);
    }
    check_stop(t, &list, len, data[1]);
    token_list_free(&list);
    return 0;
}
