/* fuzz_ngram.c - n-gram stores from hell: whatever opens is looked up everywhere. */
#include <stdlib.h>
#include <string.h>

#include "speculative/speculative.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const int32_t text[] = {1, 2, 3, 1, 2, 3, 4, -1, 1, 2, 3, 1, 2, 4};
    struct ngram_store store;
    struct ngram_guess guesses[NGRAM_NEXT];
    uint64_t n;
    char *image = ngram_build(text, sizeof text / sizeof *text, 5, 1, 2, 1 << 16, &n);
    if (!image) return 0;
    for (size_t i = 0; i + 3 <= size; i += 3) image[((size_t)data[i] << 8 | data[i + 1]) % n] = (char)data[i + 2];
    uint64_t shown = size % 4 == 3 && size > 8 ? n - size % n : n;
    if (!ngram_open(&store, image, shown, 0, 0, 0)) {
        for (int length = 1; length <= 7; length++) ngram_find(&store, text, length, guesses);
    }
    free(image);
    return 0;
}
