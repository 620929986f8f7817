/* charsmap.c - see charsmap.h. A unit of the double array is 32 bits: the label of the byte that led here (bits 0 to 7), whether
 * a rule ends here (bit 8), and where its children are: bits 10 to 30, shifted by 8 if bit 9 is set. The child of byte b is at
 * position ^ offset ^ b; the unit at position ^ offset holds the rule's value, where its replacement begins. */
#include "engine/charsmap.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf_internal.h"

enum { HEADER = 4 /* bytes: the size of the array in bytes */ };

static uint32_t read_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

int charsmap_open(struct charsmap *map, const struct gguf *gguf, struct engine_error *error) {
    static const char key[] = "tokenizer.ggml.precompiled_charsmap";
    struct gguf_array blob;
    enum gguf_answer answer = gguf_get_array(gguf, key, &blob);
    if (answer == GGUF_ABSENT || (answer == GGUF_FOUND && blob.n == 0)) return ENGINE_OK;
    if (answer == GGUF_MISMATCH || (blob.kind != GGUF_U8 && blob.kind != GGUF_I8)) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s: metadata key %s is not an array of bytes", gguf_path(gguf), key);
    }
    size_t size = blob.n > HEADER ? read_u32(blob.data) : 0;
    if (size == 0 || size % 4 != 0 || size >= blob.n - HEADER || blob.data[blob.n - 1] != '\0') {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s: metadata key %s is damaged: its sizes do not fit together",
                         gguf_path(gguf), key);
    }
    map->units = malloc(blob.n - HEADER);
    if (!map->units) return gguf_fail(error, ENGINE_ERR_MEMORY, "not enough memory for the tokenizer");
    memcpy(map->units, blob.data + HEADER, blob.n - HEADER);
    map->n_units = size / 4;
    map->replacements = (const char *)map->units + size;
    map->n_replacements = blob.n - HEADER - size;
    return ENGINE_OK;
}

void charsmap_close(struct charsmap *map) {
    free(map->units);
    *map = (struct charsmap){0};
}

/* The unit at a position; the array may point anywhere. */
static bool read_unit(const struct charsmap *map, uint32_t at, uint32_t *unit) {
    if (at >= map->n_units) return false;
    *unit = read_u32(map->units + (size_t)at * 4);
    return true;
}

static uint32_t offset_of(uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); }

size_t charsmap_match(const struct charsmap *map, const char *text, size_t len, const char **by, size_t *by_len) {
    uint32_t at = 0, unit, leaf;
    size_t matched = 0;
    if (!read_unit(map, 0, &unit)) return 0;
    if (len > CHARSMAP_MAX_RULE) len = CHARSMAP_MAX_RULE;
    at ^= offset_of(unit);
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = (uint8_t)text[i];
        at ^= byte;
        if (!read_unit(map, at, &unit) || (unit & 0x800000FFu) != byte) break;
        at ^= offset_of(unit);
        if (!(unit >> 8 & 1) || !read_unit(map, at, &leaf)) continue;
        size_t start = leaf & 0x7FFFFFFFu;
        if (start >= map->n_replacements) continue;
        size_t room = map->n_replacements - start, most = CHARSMAP_MAX_REPLACEMENT + 1;
        const char *end = memchr(map->replacements + start, '\0', room < most ? room : most);
        if (!end) continue;
        matched = i + 1;
        *by = map->replacements + start;
        *by_len = (size_t)(end - *by);
    }
    return matched;
}
