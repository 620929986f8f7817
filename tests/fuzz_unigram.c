/* fuzz_unigram.c - a unigram tokenizer whose charsmap, scores and text are any bytes: no step outside the map, and what comes out
 * are tokens of text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/small_spm.h"

enum { N_PIECES = 12, HEADER = 4, FLAGS = 1 };

static const char *const pieces[N_PIECES] = {
    "\u2581", "a", "b", "ab", "aa", "\u2581a", "b\u2581", "\u2581\u2581", "\u4f60", "\u4f60\u597d", "\uFFFD", "\xE4"};
static const char *const added[] = {"<tool>", "a b", "\u2581b", NULL};

/* flags, one byte a score, the length of the charsmap in units, then the charsmap and the text. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < FLAGS + N_PIECES + 1) return 0;
    float scores[N_PIECES];
    uint8_t flags = data[0];
    for (int i = 0; i < N_PIECES; i++) scores[i] = -(float)(int8_t)data[FLAGS + i] / 8;
    size_t n_units = data[FLAGS + N_PIECES];
    data += FLAGS + N_PIECES + 1;
    size -= FLAGS + N_PIECES + 1;
    size_t n_map = n_units * 4 + 64 < size ? n_units * 4 + 64 : size;
    uint8_t *map = malloc(HEADER + n_map + 1);
    if (!map) abort();
    uint32_t trie_bytes = (uint32_t)(n_units * 4);
    memcpy(map, &trie_bytes, HEADER);
    memcpy(map + HEADER, data, n_map);
    map[HEADER + n_map] = '\0';
    struct small_spm v = {.model = "t5",
                          .pieces = pieces,
                          .scores = scores,
                          .n = N_PIECES,
                          .has_bytes = flags & 1,
                          .no_prefix = flags & 2,
                          .merges_spaces = flags & 4,
                          .added = flags & 8 ? added : NULL,
                          .charsmap = flags & 16 ? map : NULL,
                          .n_charsmap = HEADER + n_map + 1};
    struct gguf *gguf = small_spm_gguf(&v);
    struct tokenizer *t;
    struct engine_error error;
    if (!gguf) abort();
    if (tokenizer_open(&t, gguf, &error) == ENGINE_OK) {
        struct token_list list = {.limit = flags & 32 ? 50 : 0};
        int rc = tokenizer_encode(t, (const char *)data + n_map, size - n_map, &list);
        if (rc != ENGINE_OK && (rc != ENGINE_ERR_TOO_LONG || list.n != 0)) abort();
        for (size_t i = 0; i < list.n; i++) {
            if (list.ids[i] < 0 || tokenizer_is_control(t, list.ids[i])) abort();
        }
        token_list_free(&list);
        tokenizer_close(t);
    }
    gguf_close(gguf);
    free(map);
    return 0;
}
