/* unigram.c - see unigram.h. The text is normalized into a buffer, and whenever a word begins across whose start no token
 * reaches, what stands before it is cut into tokens: the best way to that place is known, whatever follows. */
#include "engine/unigram.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf_internal.h"
#include "engine/utf8.h"

#define SPACE       "\xE2\x96\x81"
#define REPLACEMENT "\xEF\xBF\xBD"
enum { SPACE_BYTES = 3, MIN_CAPACITY = 256 };

/* As in SentencePiece (0.2.3): how much worse than the worst token a character without one is, what each byte of an added token
 * after the first is worth, and where sums are counted anew. */
static const float unknown_penalty = 10.0f, far_score = 100000.0f;
static const double added_bonus = 0.1;

/* --- open --- */

static int no_memory(struct engine_error *error) {
    return gguf_fail(error, ENGINE_ERR_MEMORY, "not enough memory for the tokenizer");
}

/* Scores are floats of foreign files: one that is no number would make all sums none. */
static int read_scores(struct unigram *u, const struct vocabulary *v, const struct gguf *gguf, struct engine_error *error) {
    static const char key[] = "tokenizer.ggml.scores";
    struct gguf_array scores;
    float lowest = FLT_MAX;
    enum gguf_answer answer = gguf_get_array(gguf, key, &scores);
    if (answer != GGUF_FOUND || (scores.kind != GGUF_F32 && scores.kind != GGUF_F64)) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s: metadata key %s is missing or no array of floats", gguf_path(gguf), key);
    }
    if (scores.n != (size_t)v->n) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s: %s has another length than tokenizer.ggml.tokens", gguf_path(gguf), key);
    }
    u->scores = malloc(scores.n * sizeof *u->scores);
    if (!u->scores) return no_memory(error);
    for (int32_t id = 0; id < v->n; id++) {
        float score = (float)gguf_array_f64(&scores, (size_t)id);
        if (!isfinite(score)) {
            return gguf_fail(error, ENGINE_ERR_MODEL, "%s: %s: the score of token %d is no finite number", gguf_path(gguf), key,
                             id);
        }
        u->scores[id] = score;
        if (v->tokens[id].kind == TOKEN_NORMAL && score < lowest) lowest = score;
        if (v->tokens[id].kind != TOKEN_USER_DEFINED || v->tokens[id].name_len == 0) continue;
        u->scores[id] = (float)(added_bonus * (double)(v->tokens[id].name_len - 1));
    }
    u->unknown_score = lowest - unknown_penalty;
    return ENGINE_OK;
}

/* Notes what stands before the spaces inside a token's name. */
static void note_glued(struct unigram *u, const char *name, size_t len) {
    for (size_t at = 1; at + SPACE_BYTES <= len; at++) {
        uint8_t before = (uint8_t)name[at - 1];
        if (memcmp(name + at, SPACE, SPACE_BYTES) == 0) u->glued[before / 32] |= 1u << before % 32;
    }
}

static int build_tries(struct unigram *u, const struct vocabulary *v, const struct gguf *gguf, struct engine_error *error) {
    int32_t *pieces = malloc((size_t)v->n * sizeof *pieces), *added = malloc((size_t)v->n * sizeof *added);
    size_t n_pieces = 0, n_added = 0;
    int rc = pieces && added ? ENGINE_OK : no_memory(error);
    for (int32_t id = 0; rc == ENGINE_OK && id < v->n; id++) {
        const struct vocabulary_token *token = &v->tokens[id];
        const char *name = v->names + token->name;
        if (token->kind != TOKEN_NORMAL && token->kind != TOKEN_USER_DEFINED) continue;
        if (token->name_len == 0 || vocabulary_find(v, name, token->name_len) != id) continue;
        if (token->name_len > UNIGRAM_MAX_PIECE) {
            rc = gguf_fail(error, ENGINE_ERR_MODEL, "%s: token %d is %u bytes long; a unigram tokenizer's may have %d at most",
                           gguf_path(gguf), id, token->name_len, UNIGRAM_MAX_PIECE);
        }
        note_glued(u, name, token->name_len);
        pieces[n_pieces++] = id;
        if (token->kind == TOKEN_USER_DEFINED) added[n_added++] = id;
    }
    if (rc == ENGINE_OK &&
        (!piece_trie_build(&u->pieces, v, pieces, n_pieces) || !piece_trie_build(&u->added, v, added, n_added)))
        rc = no_memory(error);
    free(pieces);
    free(added);
    return rc;
}

int unigram_open(struct unigram *u, const struct vocabulary *v, const struct gguf *gguf, struct engine_error *error) {
    static const char key[] = "tokenizer.ggml.remove_extra_whitespaces";
    int rc = charsmap_open(&u->charsmap, gguf, error);
    if (rc == ENGINE_OK) rc = read_scores(u, v, gguf, error);
    if (rc == ENGINE_OK) rc = build_tries(u, v, gguf, error);
    if (rc == ENGINE_OK && gguf_get_bool(gguf, key, &u->merges_spaces) == GGUF_MISMATCH) {
        rc = gguf_fail(error, ENGINE_ERR_MODEL, "%s: metadata key %s is not true or false", gguf_path(gguf), key);
    }
    u->unknown = vocabulary_unknown(v, gguf);
    u->falls_back = true;
    for (int byte = 0; byte < 256; byte++) u->falls_back = u->falls_back && v->byte_ids[byte] >= 0;
    return rc;
}

void unigram_close(struct unigram *u) {
    charsmap_close(&u->charsmap);
    piece_trie_free(&u->pieces);
    piece_trie_free(&u->added);
    free(u->scores);
    *u = (struct unigram){0};
}

/* --- the best way through a word --- */

struct best { /* of all ways that end at a place */
    float score;
    uint32_t start; /* of the last token */
    int32_t id;     /* that token, -1 for a character without one */
    bool reached;
};

struct run {
    const struct unigram *unigram;
    const struct vocabulary *vocabulary;
    struct token_list *list;
    char *word; /* [capacity] normalized text that is not cut yet */
    size_t len, capacity;
    struct best *best; /* [best_capacity] */
    size_t best_capacity;
    float score; /* of all that stands before the word */
    bool after_unknown;
};

static void offer(struct best *best, float score, size_t start, int32_t id) {
    if (!best->reached || score > best->score) *best = (struct best){score, (uint32_t)start, id, true};
}

/* What the first byte of a character says about its length; text here is UTF-8 unless the charsmap makes it something else. */
static size_t character_len(char first, size_t most) {
    uint8_t byte = (uint8_t)first;
    size_t len = byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
    return len < most ? len : most;
}

/* Far from the start of a text floats grow coarse: from time to time sums are counted anew from a place on, as SentencePiece
 * does. */
static void count_anew(struct run *run, size_t start) {
    float offset = run->best[start].score;
    if (offset >= -far_score && offset <= far_score) return;
    size_t end = run->len - start < UNIGRAM_MAX_PIECE ? run->len : start + UNIGRAM_MAX_PIECE;
    for (size_t at = start; at <= end; at++) {
        if (at == start || run->best[at].reached) run->best[at].score -= offset;
    }
}

/* Offers all tokens that begin at `start`; returns the length of the character there. */
static size_t offer_tokens(struct run *run, size_t start) {
    const struct unigram *u = run->unigram;
    size_t character = character_len(run->word[start], run->len - start);
    count_anew(run, start);
    float before = run->best[start].score;
    bool has_token = false;
    uint32_t node = PIECE_TRIE_ROOT;
    for (size_t at = start; u->pieces.n_nodes && at < run->len;) {
        node = piece_trie_step(&u->pieces, node, run->word[at++]);
        if (node == PIECE_TRIE_ROOT) break;
        int32_t id = u->pieces.ids[node];
        if (id < 0) continue;
        offer(&run->best[at], u->scores[id] + before, start, id);
        has_token = has_token || at == start + character;
    }
    if (!has_token) offer(&run->best[start + character], u->unknown_score + before, start, -1);
    return character;
}

static int push_unknown(struct run *run, const char *character, size_t len) {
    const struct vocabulary *v = run->vocabulary;
    int rc = ENGINE_OK;
    if (!run->unigram->falls_back) {
        return run->after_unknown || run->unigram->unknown < 0 ? ENGINE_OK : token_list_push(run->list, run->unigram->unknown);
    }
    for (size_t i = 0; rc == ENGINE_OK && i < len; i++) rc = token_list_push(run->list, v->byte_ids[(uint8_t)character[i]]);
    return rc;
}

/* Turns the chain of last tokens around, in place: from then on best[at].start is where the token that begins at `at` ends, and
 * best[at].id that token. */
static void turn_around(struct best *best, size_t end) {
    size_t at = end, next = end;
    int32_t next_id = -1;
    for (;;) {
        size_t before = best[at].start;
        int32_t id = best[at].id;
        best[at].start = (uint32_t)next;
        best[at].id = next_id;
        if (at == 0) return;
        next = at;
        next_id = id;
        at = before;
    }
}

static bool reserve_best(struct run *run) {
    size_t n = run->len + 1;
    if (n > UINT32_MAX) return false; /* places are 32 bits */
    if (n <= run->best_capacity) return true;
    size_t capacity = n < MIN_CAPACITY ? MIN_CAPACITY : n + n / 2;
    struct best *larger = realloc(run->best, capacity * sizeof *larger);
    if (!larger) return false;
    run->best = larger;
    run->best_capacity = capacity;
    return true;
}

/* Cuts the word and appends its tokens. */
static int cut_word(struct run *run) {
    int rc = ENGINE_OK;
    if (!reserve_best(run)) return ENGINE_ERR_MEMORY;
    memset(run->best, 0, (run->len + 1) * sizeof *run->best);
    run->best[0].score = run->score;
    for (size_t at = 0; at < run->len;) at += offer_tokens(run, at);
    run->score = run->best[run->len].score;
    turn_around(run->best, run->len);
    for (size_t at = 0; rc == ENGINE_OK && at < run->len; at = run->best[at].start) {
        int32_t id = run->best[at].id;
        rc = id >= 0 ? token_list_push(run->list, id) : push_unknown(run, run->word + at, run->best[at].start - at);
        run->after_unknown = id < 0;
    }
    run->len = 0;
    return rc;
}

/* --- normalization --- */

static int add(struct run *run, const char *bytes, size_t n) {
    if (n > run->capacity - run->len) {
        size_t capacity = (run->capacity + n) * 2 + MIN_CAPACITY;
        char *larger = realloc(run->word, capacity);
        if (!larger) return ENGINE_ERR_MEMORY;
        run->word = larger;
        run->capacity = capacity;
    }
    memcpy(run->word + run->len, bytes, n);
    run->len += n;
    return ENGINE_OK;
}

static bool ends_with_space(const struct run *run) {
    return run->len >= SPACE_BYTES && memcmp(run->word + run->len - SPACE_BYTES, SPACE, SPACE_BYTES) == 0;
}

/* A space begins a word unless some token reaches across its start. */
static int add_space(struct run *run) {
    int rc = ENGINE_OK;
    if (run->len > 0 && !ends_with_space(run)) {
        uint8_t before = (uint8_t)run->word[run->len - 1];
        if (!(run->unigram->glued[before / 32] >> before % 32 & 1)) rc = cut_word(run);
    }
    return rc == ENGINE_OK ? add(run, SPACE, SPACE_BYTES) : rc;
}

/* The longest added token that begins text, by its name in bytes; 0 if there is none. */
static size_t match_added(const struct unigram *u, const char *text, size_t len) {
    size_t longest = 0;
    uint32_t node = PIECE_TRIE_ROOT;
    for (size_t at = 0; u->added.n_nodes && at < len;) {
        node = piece_trie_step(&u->added, node, text[at++]);
        if (node == PIECE_TRIE_ROOT) break;
        if (u->added.ids[node] >= 0) longest = at;
    }
    return longest;
}

/* What the start of the text becomes; returns how many of its bytes that stands for. */
static size_t replace(const struct unigram *u, const char *text, size_t len, const char **by, size_t *by_len) {
    size_t n = match_added(u, text, len);
    *by = text;
    *by_len = n;
    if (n == 0) n = charsmap_match(&u->charsmap, text, len, by, by_len);
    if (n > 0) return n;
    int size = utf8_scan(text, len);
    if (size <= 0) *by = REPLACEMENT;
    *by_len = size > 0 ? (size_t)size : sizeof REPLACEMENT - 1;
    return size > 0 ? (size_t)size : 1;
}

/* How many bytes at the start of the text become nothing but single spaces. */
static size_t skip_spaces(const struct unigram *u, const char *text, size_t len) {
    const char *by;
    size_t at = 0, by_len, n;
    while (at < len && (n = replace(u, text + at, len - at, &by, &by_len)) > 0 && by_len == 1 && *by == ' ') at += n;
    return at;
}

static int add_text(struct run *run, const char *text, size_t len) {
    const struct unigram *u = run->unigram;
    bool after_space = u->merges_spaces;
    int rc = ENGINE_OK;
    for (size_t at = 0; rc == ENGINE_OK && at < len;) {
        const char *by;
        size_t n;
        at += replace(u, text + at, len - at, &by, &n);
        for (; after_space && n > 0 && *by == ' '; n--) by++;
        if (n > 0) after_space = u->merges_spaces && by[n - 1] == ' ';
        for (size_t i = 0, end; rc == ENGINE_OK && i < n; i = end) {
            for (end = i; end < n && by[end] != ' '; end++) {
            }
            rc = end == i ? add_space(run) : add(run, by + i, end - i);
            if (end == i) end++;
        }
    }
    return rc;
}

int unigram_encode(const struct unigram *u, const struct vocabulary *v, bool prefix, const char *text, size_t len,
                   struct token_list *list) {
    struct run run = {.unigram = u, .vocabulary = v, .list = list};
    size_t skipped = u->merges_spaces ? skip_spaces(u, text, len) : 0;
    int rc = ENGINE_OK;
    if (skipped == len) return ENGINE_OK;
    if (prefix) rc = add_space(&run);
    if (rc == ENGINE_OK) rc = add_text(&run, text + skipped, len - skipped);
    while (u->merges_spaces && ends_with_space(&run)) run.len -= SPACE_BYTES;
    if (rc == ENGINE_OK) rc = cut_word(&run);
    free(run.word);
    free(run.best);
    return rc;
}
