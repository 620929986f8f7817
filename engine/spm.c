/* spm.c - see spm.h. The table of merges is made from the tokens: each place where a token falls into two symbols is a pair that
 * merges into it. Ranks are scores turned around so that a smaller number is a higher score; equal scores share a rank. */
#include "engine/spm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf_internal.h"
#include "engine/utf8.h"

enum {
    N_BMP = 0x10000,
    END_OF_CODE_POINTS = 0x110000,
    SPACE_CHARACTER = 0x2581,
    SPACE_BYTES = 3, /* of that character in UTF-8 */
    MIN_PAIRS = 4096,
};

/* --- symbols --- */

/* The id of a token that merging may use or make, -1 for all others. */
static int32_t find_normal(const struct vocabulary *v, const char *name, size_t len) {
    int32_t id = vocabulary_find(v, name, len);
    return id >= 0 && v->tokens[id].kind == TOKEN_NORMAL ? id : -1;
}

static int32_t find_character(const struct vocabulary *v, uint32_t c) {
    char name[4];
    int32_t id = find_normal(v, name, (size_t)utf8_write(c, name));
    return id >= 0 ? id : v->n + (int32_t)c;
}

/* Half of a token: a token, or a single character. */
static int32_t find_symbol(const struct vocabulary *v, const char *name, size_t len) {
    int32_t id = find_normal(v, name, len);
    if (id >= 0) return id;
    int n = utf8_scan(name, len);
    return n > 0 && (size_t)n == len ? v->n + (int32_t)utf8_code_point(name, n) : -1;
}

/* --- open --- */

/* Bits of a float, in such an order that higher scores have smaller numbers. */
static uint32_t rank_of(float score) {
    uint32_t bits;
    if (isnan(score)) score = -INFINITY;
    score += 0.0f; /* the two zeros are one score */
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

struct pairs {
    struct bpe_merge *items;
    size_t n, capacity;
};

static bool add_pair(struct pairs *pairs, int32_t left, int32_t right, uint32_t rank, int32_t merged) {
    if (pairs->n == pairs->capacity) {
        size_t capacity = pairs->capacity ? pairs->capacity * 2 : MIN_PAIRS;
        struct bpe_merge *larger = realloc(pairs->items, capacity * sizeof *larger);
        if (!larger) return false;
        pairs->items = larger;
        pairs->capacity = capacity;
    }
    pairs->items[pairs->n++] = (struct bpe_merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank, merged};
    return true;
}

/* Notes which bytes follow each other inside the token. */
static void note_inside(struct spm *spm, const struct vocabulary *v, int32_t id) {
    const uint8_t *piece = (const uint8_t *)v->pieces + v->tokens[id].piece;
    for (uint32_t i = 1; i < v->tokens[id].piece_len; i++) spm->inside[piece[i - 1]][piece[i] / 32] |= 1u << piece[i] % 32;
}

/* All pairs that make the token. */
static bool add_token(const struct vocabulary *v, int32_t id, uint32_t rank, struct pairs *pairs) {
    const char *name = v->names + v->tokens[id].name;
    size_t len = v->tokens[id].name_len;
    for (size_t at = 0; at < len;) {
        int n = utf8_scan(name + at, len - at);
        if (n <= 0) return true; /* text never holds this token */
        if (at > 0) {
            int32_t left = find_symbol(v, name, at);
            int32_t right = left < 0 ? -1 : find_symbol(v, name + at, len - at);
            if (right >= 0 && !add_pair(pairs, left, right, rank, id)) return false;
        }
        at += (size_t)n;
    }
    return true;
}

static bool fill_characters(struct spm *spm, const struct vocabulary *v) {
    spm->characters = malloc(N_BMP * sizeof *spm->characters);
    if (!spm->characters) return false;
    for (uint32_t c = 0; c < N_BMP; c++) spm->characters[c] = v->n + (int32_t)c;
    for (int32_t id = 0; id < v->n; id++) {
        const char *name = v->names + v->tokens[id].name;
        uint32_t len = v->tokens[id].name_len;
        if (len == 0 || len > 3 || utf8_scan(name, len) != (int)len) continue;
        uint32_t c = utf8_code_point(name, (int)len);
        spm->characters[c] = find_character(v, c);
    }
    spm->characters[' '] = spm->characters[SPACE_CHARACTER];
    return true;
}

static int read_merges(struct spm *spm, const struct vocabulary *v, const struct gguf_array *scores, struct engine_error *error) {
    struct pairs pairs = {0};
    bool fits = fill_characters(spm, v);
    for (int32_t id = 0; fits && id < v->n; id++) {
        const struct vocabulary_token *token = &v->tokens[id];
        if (find_normal(v, v->names + token->name, token->name_len) != id) continue; /* also of two tokens of one name */
        note_inside(spm, v, id);
        fits = add_token(v, id, rank_of((float)gguf_array_f64(scores, (size_t)id)), &pairs);
    }
    fits = fits && bpe_reserve(&spm->bpe, pairs.n);
    for (size_t i = 0; fits && i < pairs.n; i++) bpe_add(&spm->bpe, &pairs.items[i]);
    free(pairs.items);
    return fits ? ENGINE_OK : gguf_fail(error, ENGINE_ERR_MEMORY, "not enough memory for the tokenizer");
}

int spm_open(struct spm *spm, const struct vocabulary *v, const struct gguf *gguf, struct engine_error *error) {
    struct gguf_array scores;
    enum gguf_answer answer = gguf_get_array(gguf, "tokenizer.ggml.scores", &scores);
    if (answer != GGUF_FOUND || (scores.kind != GGUF_F32 && scores.kind != GGUF_F64)) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s: metadata key tokenizer.ggml.scores is missing or no array of floats",
                         gguf_path(gguf));
    }
    if (scores.n != (size_t)v->n) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s: tokenizer.ggml.scores has another length than tokenizer.ggml.tokens",
                         gguf_path(gguf));
    }
    spm->unknown = vocabulary_unknown(v, gguf);
    for (int byte = 0; byte < 256; byte++) spm->unknown_is_used |= v->byte_ids[byte] < 0;
    return read_merges(spm, v, &scores, error);
}

void spm_close(struct spm *spm) {
    bpe_close(&spm->bpe);
    free(spm->characters);
    *spm = (struct spm){0};
}

/* --- words --- */

/* Where unknown tokens are used words are cut before spaces only: one unknown token stands for a run of characters. */
size_t spm_word(const struct spm *spm, const char *text, size_t len) {
    const uint8_t *bytes = (const uint8_t *)text;
    for (size_t at = 1; at < len; at++) {
        uint8_t c = bytes[at];
        bool begins = spm->unknown_is_used ? c == ' ' && bytes[at - 1] != ' ' : (c & 0xC0) != 0x80; /* a character */
        if (begins && !(spm->inside[bytes[at - 1]][c / 32] >> c % 32 & 1)) return at;
    }
    return len;
}

static size_t split_symbols(const struct spm *spm, const struct vocabulary *v, const char *word, size_t len, int32_t *ids) {
    size_t n = 0;
    for (size_t at = 0; at < len;) {
        int size = utf8_scan(word + at, len - at);
        if (size <= 0) {
            ids[n++] = v->n + END_OF_CODE_POINTS + (uint8_t)word[at++];
            continue;
        }
        uint32_t c = utf8_code_point(word + at, size);
        ids[n++] = c < N_BMP ? spm->characters[c] : find_character(v, c);
        at += (size_t)size;
    }
    return n;
}

/* The bytes of a symbol that is no token. */
static int symbol_bytes(const struct vocabulary *v, int32_t symbol, char out[4]) {
    int32_t c = symbol - v->n;
    if (c < END_OF_CODE_POINTS) return utf8_write((uint32_t)c, out);
    out[0] = (char)(c - END_OF_CODE_POINTS);
    return 1;
}

/* Replaces what is no token by byte tokens, from the end on so that each symbol finds room behind it: `room` is at least the
 * number of bytes. Returns where the result begins. */
static size_t fall_back(const struct spm *spm, const struct vocabulary *v, int32_t *ids, size_t n, size_t room) {
    size_t out = room;
    bool after_unknown = false;
    while (n-- > 0) {
        if (ids[n] < v->n) {
            ids[--out] = ids[n];
            after_unknown = false;
            continue;
        }
        char bytes[4];
        int size = symbol_bytes(v, ids[n], bytes);
        bool known = true;
        for (int i = 0; i < size; i++) known = known && v->byte_ids[(uint8_t)bytes[i]] >= 0;
        if (known) {
            while (size-- > 0) ids[--out] = v->byte_ids[(uint8_t)bytes[size]];
        } else if (!after_unknown && spm->unknown >= 0) {
            ids[--out] = spm->unknown;
        }
        after_unknown = !known;
    }
    return out;
}

long spm_merge(const struct spm *spm, const struct vocabulary *v, struct bpe_scratch *scratch, bool prefix, const char *word,
               size_t len) {
    size_t room = len + (prefix ? SPACE_BYTES : 0);
    for (size_t at = 0; at < len; at++) room += word[at] == ' ' ? SPACE_BYTES - 1 : 0;
    if (!bpe_scratch_reserve(scratch, room)) return -1;
    if (prefix) scratch->ids[0] = spm->characters[' '];
    size_t n = split_symbols(spm, v, word, len, scratch->ids + prefix) + prefix;
    long kept = bpe_merge_symbols(&spm->bpe, scratch, n);
    bool clean = true;
    for (long i = 0; i < kept; i++) clean = clean && scratch->ids[i] < v->n;
    if (clean) return kept; /* also -1 */
    size_t start = fall_back(spm, v, scratch->ids, (size_t)kept, room);
    memmove(scratch->ids, scratch->ids + start, (room - start) * sizeof *scratch->ids);
    return (long)(room - start);
}
