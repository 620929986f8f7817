/* tokenizer.c - puts the parts together: added tokens are found in the text, what lies between is cut into words (byte-level
 * BPE: by pretokenizer.c, SentencePiece: by spm.c) and each word merged over the tokens of vocabulary.c. Unigram tokenizers do
 * all of this on their own (unigram.c). See tokenizer.h.
 *
 * Added tokens of the kind "user defined" (<tool_call> of Qwen2, runs of spaces of some others) are found in any text, leftmost
 * and longest first, as in the `tokenizers` library. Tokens of the kind "control" are not, and neither are "user defined" ones
 * that look like control tokens (<|...|>): some files mark those wrongly, and a user's text must not be able to end a turn. */
#define _GNU_SOURCE /* memmem, qsort_r */
#include "engine/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "engine/bpe.h"
#include "engine/gguf_internal.h"
#include "engine/normalize.h"
#include "engine/pretokenizer.h"
#include "engine/spm.h"
#include "engine/unigram.h"
#include "engine/utf8.h"
#include "engine/vocabulary.h"
#include "engine/word_cache.h"

enum {
    MAX_EOG = 16,
    MOST_COMPOSED = 4,     /* composing a text makes it less than this many times shorter */
    MAX_CONTROL_LEN = 255, /* longer names are no control tokens in texts of templates */
    MIN_LIST_CAPACITY = 256,
    MIN_CACHED_TEXT = 1024, /* bytes; in shorter texts few words come again */
};

static const char space_character[] = "\xE2\x96\x81"; /* U+2581 */

enum kind { KIND_BYTE_LEVEL, KIND_SPM, KIND_UNIGRAM };
static const struct {
    const char *model, *words; /* in tokenizer.ggml.model, and for people */
} kinds[] = {{"gpt2", "byte-level BPE"}, {"llama", "SentencePiece BPE"}, {"t5", "SentencePiece unigram"}};

struct tokenizer {
    enum kind kind;
    struct vocabulary vocabulary;
    struct bpe bpe;                    /* KIND_BYTE_LEVEL */
    struct pretokenizer *pretokenizer; /* KIND_BYTE_LEVEL */
    struct spm spm;                    /* KIND_SPM */
    struct unigram unigram;            /* KIND_UNIGRAM */
    int32_t *added;                    /* [n_added], user defined tokens by first byte, longer ones first */
    int32_t n_added;
    int32_t added_start[257];                        /* added[added_start[b] .. added_start[b + 1]) begin with byte b */
    uint32_t control_lens[MAX_CONTROL_LEN / 32 + 1]; /* bit n: some control token's name is n bytes long */
    bool control_first[256];                         /* and begins with this byte */
    int32_t bos, eos;
    int32_t eog[MAX_EOG];
    int n_eog;
    bool adds_bos, prefixes_space;
};

/* --- lists --- */

int token_list_append(struct token_list *list, const int32_t *ids, size_t n) {
    if (list->limit && n > list->limit - list->n) return ENGINE_ERR_TOO_LONG;
    if (n > list->capacity - list->n) {
        size_t capacity = list->capacity ? list->capacity * 2 : MIN_LIST_CAPACITY;
        while (capacity - list->n < n) capacity *= 2;
        int32_t *larger = realloc(list->ids, capacity * sizeof *larger);
        if (!larger) return ENGINE_ERR_MEMORY;
        list->ids = larger;
        list->capacity = capacity;
    }
    if (n) memcpy(list->ids + list->n, ids, n * sizeof *ids);
    list->n += n;
    return ENGINE_OK;
}

int token_list_push(struct token_list *list, int32_t id) { return token_list_append(list, &id, 1); }

void token_list_free(struct token_list *list) {
    free(list->ids);
    list->ids = NULL;
    list->n = list->capacity = 0;
}

/* --- open: added tokens --- */

static int compare_added(const struct vocabulary *v, int32_t a, int32_t b) {
    const struct vocabulary_token *x = &v->tokens[a], *y = &v->tokens[b];
    int first_x = (uint8_t)v->pieces[x->piece], first_y = (uint8_t)v->pieces[y->piece];
    if (first_x != first_y) return first_x - first_y;
    return (x->piece_len < y->piece_len) - (x->piece_len > y->piece_len);
}

static int compare_added_entries(const void *a, const void *b, void *context) {
    const struct vocabulary *v = context;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    int order = compare_added(v, x, y);
    return order ? order : (x > y) - (x < y);
}

static bool collect_added(struct tokenizer *t) {
    struct vocabulary *v = &t->vocabulary;
    for (int32_t id = 0; id < v->n; id++) t->n_added += v->tokens[id].kind == TOKEN_USER_DEFINED && v->tokens[id].piece_len > 0;
    if (t->n_added == 0) return true;
    t->added = malloc((size_t)t->n_added * sizeof *t->added);
    if (!t->added) return false;
    int32_t n = 0;
    for (int32_t id = 0; id < v->n; id++) {
        if (v->tokens[id].kind == TOKEN_USER_DEFINED && v->tokens[id].piece_len > 0) t->added[n++] = id;
    }
    qsort_r(t->added, (size_t)n, sizeof *t->added, compare_added_entries, v);
    for (int32_t i = 0; i < n; i++) t->added_start[1 + (uint8_t)v->pieces[v->tokens[t->added[i]].piece]] = i + 1;
    for (int byte = 1; byte <= 256; byte++) {
        if (t->added_start[byte] == 0) t->added_start[byte] = t->added_start[byte - 1];
    }
    return true;
}

/* --- open: special tokens --- */

/* Names of one character are left out: they are no names but text. */
static void collect_control(struct tokenizer *t) {
    const struct vocabulary *v = &t->vocabulary;
    for (int32_t id = 0; id < v->n; id++) {
        const char *name = v->names + v->tokens[id].name;
        uint32_t len = v->tokens[id].name_len;
        if (v->tokens[id].kind != TOKEN_CONTROL || len > MAX_CONTROL_LEN || len < 2 || utf8_scan(name, len) == (int)len) continue;
        t->control_lens[len / 32] |= 1u << len % 32;
        t->control_first[(uint8_t)*name] = true;
    }
}

/* Names that end an answer in the families we know. */
static const char *const eog_names[] = {
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|EOT|>",
    "<end_of_turn>",
    "<|eot|>",
    "<|END_OF_TURN_TOKEN|>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
};

/* The id at `key`, or -1 if the file has none. */
static int read_special(const struct tokenizer *t, const struct gguf *gguf, const char *key, int32_t *out,
                        struct engine_error *error) {
    uint32_t id = 0;
    enum gguf_answer answer = gguf_get_u32(gguf, key, &id);
    *out = -1;
    if (answer == GGUF_ABSENT || (answer == GGUF_FOUND && id == UINT32_MAX)) return ENGINE_OK; /* some files write -1 for none */
    if (answer == GGUF_MISMATCH || id >= (uint32_t)t->vocabulary.n) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s: metadata key %s is no token of its vocabulary of %d", gguf_path(gguf), key,
                         t->vocabulary.n);
    }
    *out = (int32_t)id;
    return ENGINE_OK;
}

static void add_eog(struct tokenizer *t, int32_t id) {
    if (id < 0 || t->n_eog == MAX_EOG || tokenizer_is_eog(t, id)) return;
    t->eog[t->n_eog++] = id;
}

static int read_flag(const struct gguf *gguf, const char *key, bool *out, struct engine_error *error) {
    if (gguf_get_bool(gguf, key, out) != GGUF_MISMATCH) return ENGINE_OK;
    return gguf_fail(error, ENGINE_ERR_MODEL, "%s: metadata key %s is not true or false", gguf_path(gguf), key);
}

static int read_flags(struct tokenizer *t, const struct gguf *gguf, struct engine_error *error) {
    t->adds_bos = t->kind == KIND_SPM || (t->pretokenizer && pretokenizer_adds_bos(t->pretokenizer));
    t->prefixes_space = t->kind != KIND_BYTE_LEVEL;
    int rc = read_flag(gguf, "tokenizer.ggml.add_bos_token", &t->adds_bos, error);
    if (rc == ENGINE_OK && t->prefixes_space) rc = read_flag(gguf, "tokenizer.ggml.add_space_prefix", &t->prefixes_space, error);
    t->adds_bos = t->adds_bos && t->bos >= 0;
    return rc;
}

static int read_specials(struct tokenizer *t, const struct gguf *gguf, struct engine_error *error) {
    static const char *const end_keys[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    int rc = read_special(t, gguf, "tokenizer.ggml.bos_token_id", &t->bos, error);
    if (rc == ENGINE_OK) rc = read_special(t, gguf, "tokenizer.ggml.eos_token_id", &t->eos, error);
    if (rc != ENGINE_OK) return rc;
    add_eog(t, t->eos);
    for (size_t i = 0; i < sizeof end_keys / sizeof *end_keys; i++) {
        int32_t id;
        rc = read_special(t, gguf, end_keys[i], &id, error);
        if (rc != ENGINE_OK) return rc;
        add_eog(t, id);
    }
    for (size_t i = 0; i < sizeof eog_names / sizeof *eog_names; i++) {
        int32_t id = tokenizer_find(t, eog_names[i]);
        if (id >= 0 && tokenizer_is_control(t, id)) add_eog(t, id);
    }
    return read_flags(t, gguf, error);
}

/* --- open --- */

static int read_kind(struct tokenizer *t, const struct gguf *gguf, struct engine_error *error) {
    struct gguf_string model;
    char shown[48];
    if (gguf_get_string(gguf, "tokenizer.ggml.model", &model) != GGUF_FOUND) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s holds no tokenizer (metadata key tokenizer.ggml.model is missing)",
                         gguf_path(gguf));
    }
    for (int kind = KIND_BYTE_LEVEL; kind <= KIND_UNIGRAM; kind++) {
        t->kind = (enum kind)kind;
        if (model.len == strlen(kinds[kind].model) && memcmp(model.data, kinds[kind].model, model.len) == 0) return ENGINE_OK;
    }
    return gguf_fail(error, ENGINE_ERR_MODEL,
                     "%s has a tokenizer of kind \"%s\"; supported are byte-level BPE (\"gpt2\"), SentencePiece BPE (\"llama\") "
                     "and SentencePiece unigram (\"t5\")",
                     gguf_path(gguf), gguf_printable(shown, sizeof shown, model.data, model.len));
}

static int open_byte_level(struct tokenizer *t, const struct gguf *gguf, struct engine_error *error) {
    struct gguf_string pre = {"default", 7};
    gguf_get_string(gguf, "tokenizer.ggml.pre", &pre);
    int rc = pretokenizer_open(&t->pretokenizer, pre.data, pre.len, error);
    if (rc == ENGINE_OK) rc = vocabulary_open(&t->vocabulary, gguf, VOCABULARY_BYTE_LEVEL, error);
    return rc == ENGINE_OK ? bpe_open(&t->bpe, &t->vocabulary, gguf, error) : rc;
}

static int open_sentencepiece(struct tokenizer *t, const struct gguf *gguf, struct engine_error *error) {
    int rc = vocabulary_open(&t->vocabulary, gguf, VOCABULARY_SENTENCEPIECE, error);
    if (rc != ENGINE_OK) return rc;
    return t->kind == KIND_SPM ? spm_open(&t->spm, &t->vocabulary, gguf, error)
                               : unigram_open(&t->unigram, &t->vocabulary, gguf, error);
}

int tokenizer_open(struct tokenizer **out, const struct gguf *gguf, struct engine_error *error) {
    *out = NULL;
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) return gguf_fail(error, ENGINE_ERR_MEMORY, "not enough memory for the tokenizer");
    int rc = read_kind(t, gguf, error);
    if (rc == ENGINE_OK) rc = t->kind == KIND_BYTE_LEVEL ? open_byte_level(t, gguf, error) : open_sentencepiece(t, gguf, error);
    if (rc == ENGINE_OK && !collect_added(t)) {
        rc = gguf_fail(error, ENGINE_ERR_MEMORY, "not enough memory for the tokenizer");
    }
    if (rc == ENGINE_OK) rc = read_specials(t, gguf, error);
    if (rc == ENGINE_OK) collect_control(t);
    if (rc != ENGINE_OK) {
        tokenizer_close(t);
        return rc;
    }
    *out = t;
    return ENGINE_OK;
}

void tokenizer_close(struct tokenizer *tokenizer) {
    if (!tokenizer) return;
    free(tokenizer->added);
    bpe_close(&tokenizer->bpe);
    spm_close(&tokenizer->spm);
    unigram_close(&tokenizer->unigram);
    vocabulary_close(&tokenizer->vocabulary);
    pretokenizer_close(tokenizer->pretokenizer);
    free(tokenizer);
}

/* --- encode --- */

struct encoder {
    const struct tokenizer *tokenizer;
    struct pretokenizer_scan scan;
    struct bpe_scratch scratch;
    struct word_cache cache;
    struct token_list *list;
};

/* Bytes for which the vocabulary has no token are left out before merging, as the `tokenizers` library does. The tokens are left
 * in the scratch; returns their number, -1 without memory. */
static long merge_piece(struct encoder *e, const char *piece, size_t len) {
    const struct tokenizer *t = e->tokenizer;
    if (!bpe_scratch_reserve(&e->scratch, len)) return -1;
    if (pretokenizer_ignores_merges(t->pretokenizer)) {
        e->scratch.ids[0] = vocabulary_find_piece(&t->vocabulary, piece, len);
        if (e->scratch.ids[0] >= 0) return 1;
    }
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int32_t id = t->vocabulary.byte_ids[(uint8_t)piece[i]];
        if (id >= 0) e->scratch.ids[n++] = id;
    }
    return bpe_merge_symbols(&t->bpe, &e->scratch, n);
}

/* A piece of byte-level BPE, or with prefix or without a word of SentencePiece. */
static int encode_piece(struct encoder *e, bool prefix, const char *piece, size_t len) {
    const struct tokenizer *t = e->tokenizer;
    uint64_t key[4];
    struct word_slot *slot = prefix ? NULL : word_cache_slot(&e->cache, piece, len, key);
    if (slot && word_cache_holds(slot, key)) return token_list_append(e->list, slot->ids, (size_t)slot->n);
    long kept =
        t->kind == KIND_SPM ? spm_merge(&t->spm, &t->vocabulary, &e->scratch, prefix, piece, len) : merge_piece(e, piece, len);
    if (kept < 0) return ENGINE_ERR_MEMORY;
    word_cache_put(slot, key, e->scratch.ids, (size_t)kept);
    return token_list_append(e->list, e->scratch.ids, (size_t)kept);
}

static int encode_pieces(struct encoder *e, const char *text, size_t len) {
    const char *piece;
    size_t piece_len;
    int more, rc = ENGINE_OK;
    pretokenizer_scan_set(&e->scan, text, len);
    while (rc == ENGINE_OK && (more = pretokenizer_scan_next(&e->scan, &piece, &piece_len)) != 0) {
        rc = more < 0 ? ENGINE_ERR_MEMORY : encode_piece(e, false, piece, piece_len);
    }
    return rc;
}

/* The same after the text has been composed, for families that want that. */
static int encode_composed(struct encoder *e, const char *text, size_t len) {
    char *composed;
    size_t composed_len;
    if (!normalize_nfc(text, len, &composed, &composed_len)) return ENGINE_ERR_MEMORY;
    int rc = composed ? encode_pieces(e, composed, composed_len) : encode_pieces(e, text, len);
    free(composed);
    return rc;
}

static int encode_words(struct encoder *e, const char *text, size_t len) {
    const struct tokenizer *t = e->tokenizer;
    bool prefix = t->prefixes_space;
    for (size_t at = 0, n; at < len; at += n) {
        /* A space in front of a text that begins with one belongs to the same word. */
        n = spm_word(&t->spm, text + at, len - at);
        int rc = encode_piece(e, prefix, text + at, n);
        if (rc != ENGINE_OK) return rc;
        prefix = false;
    }
    return ENGINE_OK;
}

/* Text without added tokens. */
static int encode_plain(struct encoder *e, const char *text, size_t len) {
    const struct tokenizer *t = e->tokenizer;
    if (t->kind == KIND_SPM) return encode_words(e, text, len);
    return pretokenizer_composes(t->pretokenizer) ? encode_composed(e, text, len) : encode_pieces(e, text, len);
}

/* The longest added token at the start of text, -1 if there is none. */
static int32_t match_added(const struct tokenizer *t, const char *text, size_t len) {
    int byte = (uint8_t)*text;
    for (int32_t i = t->added_start[byte]; i < t->added_start[byte + 1]; i++) {
        const struct vocabulary_token *token = &t->vocabulary.tokens[t->added[i]];
        if (token->piece_len <= len && memcmp(t->vocabulary.pieces + token->piece, text, token->piece_len) == 0)
            return t->added[i];
    }
    return -1;
}

static int encode_text(struct encoder *e, const char *text, size_t len) {
    const struct tokenizer *t = e->tokenizer;
    if (t->n_added == 0) return encode_plain(e, text, len);
    size_t start = 0, at = 0;
    int rc = ENGINE_OK;
    while (rc == ENGINE_OK && at < len) {
        int32_t id = match_added(t, text + at, len - at);
        if (id < 0) {
            at++;
            continue;
        }
        rc = encode_plain(e, text + start, at - start);
        if (rc == ENGINE_OK) rc = token_list_push(e->list, id);
        at += t->vocabulary.tokens[id].piece_len;
        start = at;
    }
    return rc == ENGINE_OK ? encode_plain(e, text + start, len - start) : rc;
}

/* SentencePiece reads "\u2581" as a space, also where it looks for added tokens. A copy of the text with spaces. */
static char *with_spaces(const char *text, size_t *len) {
    char *copy = malloc(*len);
    size_t n = 0;
    for (size_t at = 0; copy && at < *len; n++) {
        bool is_space = *len - at >= 3 && memcmp(text + at, space_character, 3) == 0;
        copy[n] = is_space ? ' ' : text[at];
        at += is_space ? 3 : 1;
    }
    *len = n;
    return copy;
}

static int encode_any(struct encoder *e, const char *text, size_t len) {
    const struct tokenizer *t = e->tokenizer;
    if (t->kind == KIND_UNIGRAM) return unigram_encode(&t->unigram, &t->vocabulary, t->prefixes_space, text, len, e->list);
    if (t->kind != KIND_SPM || !memmem(text, len, space_character, 3)) return encode_text(e, text, len);
    char *copy = with_spaces(text, &len);
    int rc = copy ? encode_text(e, copy, len) : ENGINE_ERR_MEMORY;
    free(copy);
    return rc;
}

/* A text that no tokenization can make fit is refused before any work is done on it. */
static bool cannot_fit(const struct tokenizer *t, size_t len, const struct token_list *list) {
    size_t most = t->vocabulary.longest_piece + 1;
    if (!list->limit || t->kind == KIND_UNIGRAM || (t->kind == KIND_SPM && t->spm.unknown_is_used)) {
        return false; /* an unknown token stands for any text, and a unigram tokenizer may drop some */
    }
    if (t->kind == KIND_SPM) most *= sizeof space_character - 1;
    if (t->pretokenizer && pretokenizer_composes(t->pretokenizer)) most *= MOST_COMPOSED;
    return len / most > list->limit - list->n;
}

int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t len, struct token_list *list) {
    size_t n_before = list->n;
    if (cannot_fit(tokenizer, len, list)) return ENGINE_ERR_TOO_LONG;
    struct encoder e = {.tokenizer = tokenizer, .list = list};
    if (tokenizer->pretokenizer && !pretokenizer_scan_init(&e.scan, tokenizer->pretokenizer)) return ENGINE_ERR_MEMORY;
    if (len >= MIN_CACHED_TEXT && tokenizer->kind != KIND_UNIGRAM) word_cache_open(&e.cache);
    int rc = encode_any(&e, text, len);
    if (rc != ENGINE_OK) list->n = n_before;
    word_cache_free(&e.cache);
    bpe_scratch_free(&e.scratch);
    if (tokenizer->pretokenizer) pretokenizer_scan_free(&e.scan);
    return rc;
}

int tokenizer_encode_prompt(const struct tokenizer *tokenizer, const char *text, size_t len, struct token_list *list) {
    size_t n_before = list->n;
    int rc = tokenizer->adds_bos ? token_list_push(list, tokenizer->bos) : ENGINE_OK;
    if (rc == ENGINE_OK) rc = tokenizer_encode(tokenizer, text, len, list);
    if (rc != ENGINE_OK) list->n = n_before;
    return rc;
}

/* --- facts --- */

int tokenizer_vocab_size(const struct tokenizer *tokenizer) { return tokenizer->vocabulary.n; }
const char *tokenizer_kind(const struct tokenizer *tokenizer) { return kinds[tokenizer->kind].words; }
const char *tokenizer_pre_name(const struct tokenizer *tokenizer) {
    return tokenizer->pretokenizer ? pretokenizer_name(tokenizer->pretokenizer) : NULL;
}
bool tokenizer_prefixes_space(const struct tokenizer *tokenizer) { return tokenizer->prefixes_space; }

const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, size_t *len) {
    const struct vocabulary *v = &tokenizer->vocabulary;
    *len = 0;
    if (id < 0 || id >= v->n) return "";
    *len = v->tokens[id].piece_len;
    return v->pieces + v->tokens[id].piece;
}

const char *tokenizer_name(const struct tokenizer *tokenizer, int32_t id, size_t *len) {
    const struct vocabulary *v = &tokenizer->vocabulary;
    *len = 0;
    if (id < 0 || id >= v->n) return "";
    *len = v->tokens[id].name_len;
    return v->names + v->tokens[id].name;
}

int32_t tokenizer_match_control(const struct tokenizer *tokenizer, const char *text, size_t len, size_t *name_len) {
    if (!tokenizer->control_first[(uint8_t)*text]) return -1;
    for (size_t n = len < MAX_CONTROL_LEN ? len : MAX_CONTROL_LEN; n >= 2; n--) {
        if (!(tokenizer->control_lens[n / 32] >> n % 32 & 1)) continue;
        int32_t id = vocabulary_find(&tokenizer->vocabulary, text, n);
        if (!tokenizer_is_control(tokenizer, id)) continue;
        *name_len = n;
        return id;
    }
    return -1;
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *name) {
    return vocabulary_find(&tokenizer->vocabulary, name, strlen(name));
}

bool tokenizer_is_control(const struct tokenizer *tokenizer, int32_t id) {
    const struct vocabulary *v = &tokenizer->vocabulary;
    return id >= 0 && id < v->n && v->tokens[id].kind == TOKEN_CONTROL;
}

int32_t tokenizer_bos(const struct tokenizer *tokenizer) { return tokenizer->bos; }
int32_t tokenizer_eos(const struct tokenizer *tokenizer) { return tokenizer->eos; }
bool tokenizer_adds_bos(const struct tokenizer *tokenizer) { return tokenizer->adds_bos; }

bool tokenizer_is_eog(const struct tokenizer *tokenizer, int32_t id) {
    for (int i = 0; i < tokenizer->n_eog; i++) {
        if (tokenizer->eog[i] == id) return true;
    }
    return false;
}
