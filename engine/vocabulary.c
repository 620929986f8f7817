/* vocabulary.c - see vocabulary.h. All names lie in one block of memory, all pieces in another. */
#include "engine/vocabulary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf_internal.h"
#include "engine/utf8.h"

enum {
    MAX_TOKENS = 1 << 24,       /* the largest vocabularies have a quarter of a million */
    MAX_NAME_BYTES = 512 << 20, /* all names together; offsets are 32 bits */
    BYTE_CHARS_END = 0x144,     /* byte-level characters lie below */
};

/* --- byte-level characters --- */

/* Bytes that print stand for themselves, the others follow from U+0100 on in their order. */
static bool is_own_character(int byte) { return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD); }

static void fill_byte_tables(uint32_t to_character[256], int16_t to_byte[BYTE_CHARS_END]) {
    uint32_t next = 0x100;
    for (int c = 0; c < BYTE_CHARS_END; c++) to_byte[c] = -1;
    for (int byte = 0; byte < 256; byte++) {
        to_character[byte] = is_own_character(byte) ? (uint32_t)byte : next++;
        to_byte[to_character[byte]] = (int16_t)byte;
    }
}

/* Writes the bytes that a name stands for (never more than the name has) and returns their number. Names with other characters
 * are added tokens and stand for themselves. */
static uint32_t name_to_piece(const char *name, uint32_t len, const int16_t to_byte[BYTE_CHARS_END], char *out) {
    uint32_t n = 0;
    for (uint32_t at = 0; at < len;) {
        int size = utf8_scan(name + at, len - at);
        uint32_t c = size > 0 ? utf8_code_point(name + at, size) : BYTE_CHARS_END;
        if (c >= BYTE_CHARS_END || to_byte[c] < 0) {
            memcpy(out, name, len);
            return len;
        }
        out[n++] = (char)to_byte[c];
        at += (uint32_t)size;
    }
    return n;
}

/* --- SentencePiece names --- */

static int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

/* The byte of a name like "<0x0A>", -1 for all others. */
static int byte_of_name(const char *name, uint32_t len) {
    if (len != 6 || memcmp(name, "<0x", 3) != 0 || name[5] != '>') return -1;
    int high = hex_digit(name[3]), low = hex_digit(name[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* Copies a name with "\u2581" as space; returns the number of bytes. */
static uint32_t name_to_text(const char *name, uint32_t len, char *out) {
    uint32_t n = 0;
    for (uint32_t at = 0; at < len; at++) {
        if (len - at >= 3 && memcmp(name + at, "\xE2\x96\x81", 3) == 0) {
            out[n++] = ' ';
            at += 2;
        } else {
            out[n++] = name[at];
        }
    }
    return n;
}

/* --- lookup by name --- */

static uint32_t hash_name(const char *name, size_t len) {
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < len; i++) hash = (hash ^ (uint8_t)name[i]) * 16777619u;
    return hash ^ hash >> 15;
}

static uint32_t *find_slot(const struct vocabulary *v, const char *name, size_t len) {
    uint32_t at = hash_name(name, len) & (v->n_slots - 1);
    while (v->slots[at]) {
        const struct vocabulary_token *token = &v->tokens[v->slots[at] - 1];
        if (token->name_len == len && memcmp(v->names + token->name, name, len) == 0) break;
        at = (at + 1) & (v->n_slots - 1);
    }
    return &v->slots[at];
}

int32_t vocabulary_find(const struct vocabulary *v, const char *name, size_t len) {
    return (int32_t)*find_slot(v, name, len) - 1;
}

int32_t vocabulary_unknown(const struct vocabulary *v, const struct gguf *gguf) {
    uint32_t given;
    if (gguf_get_u32(gguf, "tokenizer.ggml.unknown_token_id", &given) == GGUF_FOUND && given < (uint32_t)v->n)
        return (int32_t)given;
    for (int32_t id = 0; id < v->n; id++) {
        if (v->tokens[id].kind == TOKEN_UNKNOWN) return id;
    }
    return -1;
}

int32_t vocabulary_find_piece(const struct vocabulary *v, const char *bytes, size_t len) {
    char name[256];
    size_t n = 0;
    if (len > v->longest_piece) return -1;
    for (size_t i = 0; i < len; i++) {
        int32_t id = v->byte_ids[(uint8_t)bytes[i]];
        if (id < 0 || n + v->tokens[id].name_len > sizeof name) return -1;
        memcpy(name + n, v->names + v->tokens[id].name, v->tokens[id].name_len);
        n += v->tokens[id].name_len;
    }
    int32_t id = vocabulary_find(v, name, n);
    return id >= 0 && vocabulary_is_text(v, id) ? id : -1;
}

static bool build_slots(struct vocabulary *v) {
    v->n_slots = 16;
    while (v->n_slots < 2 * (uint32_t)v->n) v->n_slots *= 2;
    v->slots = calloc(v->n_slots, sizeof *v->slots);
    if (!v->slots) return false;
    for (int32_t id = 0; id < v->n; id++) { /* of two tokens of one name the later one counts, as in a Python dict */
        const struct vocabulary_token *token = &v->tokens[id];
        *find_slot(v, v->names + token->name, token->name_len) = (uint32_t)id + 1;
    }
    return true;
}

/* --- open --- */

static int bad_array(const struct gguf *gguf, const char *key, const char *problem, struct engine_error *error) {
    return gguf_fail(error, ENGINE_ERR_MODEL, "%s: metadata key %s %s; the file holds no usable tokenizer", gguf_path(gguf), key,
                     problem);
}

/* Kinds are optional: without them all tokens are normal ones. */
static int read_kinds(struct vocabulary *v, const struct gguf *gguf, struct engine_error *error) {
    static const char key[] = "tokenizer.ggml.token_type";
    struct gguf_array kinds;
    enum gguf_answer answer = gguf_get_array(gguf, key, &kinds);
    for (int32_t id = 0; id < v->n; id++) v->tokens[id].kind = TOKEN_NORMAL;
    if (answer == GGUF_ABSENT) return ENGINE_OK;
    if (answer == GGUF_MISMATCH || kinds.kind == GGUF_STRING || kinds.kind == GGUF_F32 || kinds.kind == GGUF_F64) {
        return bad_array(gguf, key, "is not an array of whole numbers", error);
    }
    if (kinds.n != (size_t)v->n) return bad_array(gguf, key, "has another length than tokenizer.ggml.tokens", error);
    for (int32_t id = 0; id < v->n; id++) {
        int64_t kind = gguf_array_i64(&kinds, (size_t)id);
        if (kind < TOKEN_NORMAL || kind > TOKEN_BYTE)
            return bad_array(gguf, key, "holds a value that is no kind of token", error);
        v->tokens[id].kind = (uint8_t)kind;
    }
    return ENGINE_OK;
}

static bool is_name(const struct vocabulary *v, int32_t id, const char *name) {
    const struct vocabulary_token *token = &v->tokens[id];
    return token->name_len == strlen(name) && memcmp(v->names + token->name, name, token->name_len) == 0;
}

/* <|...|>, also with the wide bars of DeepSeek. */
static bool looks_like_control(const char *name, uint32_t len) {
    static const char open[] = "<\xEF\xBD\x9C", close[] = "\xEF\xBD\x9C>";
    if (len > 4 && memcmp(name, "<|", 2) == 0 && memcmp(name + len - 2, "|>", 2) == 0) return true;
    return len > 8 && memcmp(name, open, 4) == 0 && memcmp(name + len - 4, close, 4) == 0;
}

/* Some files mark control tokens as added or even as normal ones. Text must never become one of those, so kinds are put right:
 * added tokens that look like <|...|>, and whatever starts or ends a turn or a text. */
static void correct_kinds(struct vocabulary *v, const struct gguf *gguf) {
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    static const char *const names[] = {"<|im_start|>",      "<|im_end|>",    "<|endoftext|>",  "<|begin_of_text|>",
                                        "<|end_of_text|>",   "<|eot_id|>",    "<|eom_id|>",     "<|start_header_id|>",
                                        "<|end_header_id|>", "<|user|>",      "<|assistant|>",  "<|system|>",
                                        "<|end|>",           "<end_of_turn>", "<start_of_turn>"};
    for (int32_t id = 0; id < v->n; id++) {
        struct vocabulary_token *token = &v->tokens[id];
        const char *name = v->names + token->name;
        uint32_t len = token->name_len;
        if (token->kind == TOKEN_USER_DEFINED && looks_like_control(name, len)) token->kind = TOKEN_CONTROL;
        if (len < 5 || name[0] != '<' || name[len - 1] != '>') continue;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            if (is_name(v, id, names[i])) token->kind = TOKEN_CONTROL;
        }
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        uint32_t id;
        if (gguf_get_u32(gguf, keys[i], &id) == GGUF_FOUND && id < (uint32_t)v->n) v->tokens[id].kind = TOKEN_CONTROL;
    }
}

/* Allocates for all names and copies them; pieces need no more room than names. */
static int read_names(struct vocabulary *v, const struct gguf *gguf, struct engine_error *error) {
    static const char key[] = "tokenizer.ggml.tokens";
    struct gguf_array names;
    enum gguf_answer answer = gguf_get_array(gguf, key, &names);
    if (answer == GGUF_ABSENT) return bad_array(gguf, key, "is missing", error);
    if (answer == GGUF_MISMATCH || names.kind != GGUF_STRING) return bad_array(gguf, key, "is not an array of strings", error);
    if (names.n == 0 || names.n > MAX_TOKENS) return bad_array(gguf, key, "has an impossible length", error);
    size_t total = 0, cursor = 0;
    for (size_t i = 0; i < names.n; i++) {
        total += gguf_array_next(&names, &cursor).len; /* cannot overflow: all lie in the file */
    }
    if (total > MAX_NAME_BYTES) return bad_array(gguf, key, "is too large", error);
    v->n = (int32_t)names.n;
    v->tokens = calloc(names.n, sizeof *v->tokens);
    v->names = malloc(total + 1);
    v->pieces = malloc(total + 1);
    if (!v->tokens || !v->names || !v->pieces) return gguf_fail(error, ENGINE_ERR_MEMORY, "not enough memory for the vocabulary");
    uint32_t used = 0;
    cursor = 0;
    for (size_t i = 0; i < names.n; i++) {
        struct gguf_string name = gguf_array_next(&names, &cursor);
        memcpy(v->names + used, name.data, name.len);
        v->tokens[i].name = used;
        v->tokens[i].name_len = (uint32_t)name.len;
        used += (uint32_t)name.len;
    }
    return ENGINE_OK;
}

static void build_byte_level_pieces(struct vocabulary *v) {
    uint32_t to_character[256], used = 0;
    int16_t to_byte[BYTE_CHARS_END];
    fill_byte_tables(to_character, to_byte);
    for (int32_t id = 0; id < v->n; id++) {
        struct vocabulary_token *token = &v->tokens[id];
        token->piece = used;
        if (token->kind == TOKEN_USER_DEFINED) { /* added tokens are written as they are */
            memcpy(v->pieces + used, v->names + token->name, token->name_len);
            token->piece_len = token->name_len;
        } else if (vocabulary_is_text(v, id)) {
            token->piece_len = name_to_piece(v->names + token->name, token->name_len, to_byte, v->pieces + used);
        }
        used += token->piece_len;
    }
    for (int byte = 0; byte < 256; byte++) {
        char name[4];
        int len = utf8_write(to_character[byte], name);
        int32_t id = vocabulary_find(v, name, (size_t)len);
        v->byte_ids[byte] = id >= 0 && vocabulary_is_text(v, id) ? id : -1;
    }
}

static void build_sentencepiece_pieces(struct vocabulary *v) {
    uint32_t used = 0;
    for (int byte = 0; byte < 256; byte++) v->byte_ids[byte] = -1;
    for (int32_t id = 0; id < v->n; id++) {
        struct vocabulary_token *token = &v->tokens[id];
        const char *name = v->names + token->name;
        int byte = token->kind == TOKEN_BYTE ? byte_of_name(name, token->name_len) : -1;
        token->piece = used;
        if (byte >= 0) {
            v->byte_ids[byte] = id;
            v->pieces[used] = (char)byte;
            token->piece_len = 1;
        } else if (vocabulary_is_text(v, id)) {
            token->piece_len = name_to_text(name, token->name_len, v->pieces + used);
        }
        used += token->piece_len;
    }
}

int vocabulary_open(struct vocabulary *v, const struct gguf *gguf, enum vocabulary_style style, struct engine_error *error) {
    int rc = read_names(v, gguf, error);
    if (rc == ENGINE_OK) rc = read_kinds(v, gguf, error);
    if (rc != ENGINE_OK) return rc;
    correct_kinds(v, gguf);
    if (!build_slots(v)) return gguf_fail(error, ENGINE_ERR_MEMORY, "not enough memory for the vocabulary");
    if (style == VOCABULARY_SENTENCEPIECE) {
        build_sentencepiece_pieces(v);
    } else {
        build_byte_level_pieces(v);
    }
    for (int32_t id = 0; id < v->n; id++) {
        if (v->tokens[id].piece_len > v->longest_piece) v->longest_piece = v->tokens[id].piece_len;
    }
    return ENGINE_OK;
}

void vocabulary_close(struct vocabulary *v) {
    free(v->tokens);
    free(v->names);
    free(v->pieces);
    free(v->slots);
    *v = (struct vocabulary){0};
}
