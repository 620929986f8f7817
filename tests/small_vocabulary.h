/* small_vocabulary.h - a vocabulary for tests of the text side: control tokens, all 256 bytes, some merges, added tokens, and a
 * chat template, as a GGUF file without weights.
 *
 * Ids: SMALL_END_OF_TEXT .. the control tokens, then SMALL_FIRST_BYTE + byte for each byte, then SMALL_FIRST_MERGED + i for merge
 * i, then the added tokens. */
#ifndef FORESAY_SMALL_VOCABULARY_H
#define FORESAY_SMALL_VOCABULARY_H

#include <string.h>

#include "engine/tokenizer.h"
#include "engine/utf8.h"
#include "tests/gguf_writer.h"

enum small_ids {
    SMALL_END_OF_TEXT,
    SMALL_IM_START,
    SMALL_IM_END,
    SMALL_BEGIN_OF_TEXT,
    SMALL_START_HEADER,
    SMALL_END_HEADER,
    SMALL_EOT,
    SMALL_FIRST_BYTE,
    SMALL_FIRST_MERGED = SMALL_FIRST_BYTE + 256,
};

static const char *const small_controls[SMALL_FIRST_BYTE] = {
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};

struct small_vocabulary {
    const char *pre;                          /* NULL: no such key */
    const char *const *merges, *const *added; /* end with NULL; may be NULL */
    const char *chat_template;                /* NULL: no such key */
    uint32_t bos, eos;
    bool add_bos, lacks_byte_1;
    uint32_t control_kind; /* 0: as it should be */
};

/* The character that stands for a byte in names. */
static inline int small_byte_name(int byte, char out[5]) {
    uint32_t c = 0x100;
    for (int b = 0; b < 256; b++) {
        bool own = (b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD);
        if (b == byte) {
            int n = utf8_write(own ? (uint32_t)b : c, out);
            out[n] = '\0';
            return n;
        }
        c += !own;
    }
    return 0;
}

static inline void small_write(struct gguf_writer *w, const struct small_vocabulary *v) {
    uint64_t n_merges = 0, n_added = 0;
    while (v->merges && v->merges[n_merges]) n_merges++;
    while (v->added && v->added[n_added]) n_added++;
    uint64_t n = SMALL_FIRST_MERGED + n_merges + n_added;
    writer_begin(w, 3, 0, (uint64_t)(7 + (v->pre != NULL) + (v->chat_template != NULL)));
    writer_key_string(w, "tokenizer.ggml.model", "gpt2");
    if (v->pre) writer_key_string(w, "tokenizer.ggml.pre", v->pre);
    if (v->chat_template) writer_key_string(w, "tokenizer.chat_template", v->chat_template);
    writer_key_u32(w, "tokenizer.ggml.bos_token_id", v->bos);
    writer_key_u32(w, "tokenizer.ggml.eos_token_id", v->eos);
    writer_key_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos);
    writer_key_array(w, "tokenizer.ggml.tokens", GGUF_STRING, n);
    for (int i = 0; i < SMALL_FIRST_BYTE; i++) writer_string(w, small_controls[i]);
    for (int byte = 0; byte < 256; byte++) {
        char name[5];
        small_byte_name(byte, name);
        writer_string(w, byte == 1 && v->lacks_byte_1 ? "unused" : name);
    }
    for (uint64_t i = 0; i < n_merges; i++) { /* "a b" makes "ab" */
        const char *space = strchr(v->merges[i] + 1, ' ');
        writer_u64(w, strlen(v->merges[i]) - 1);
        writer_put(w, v->merges[i], (size_t)(space - v->merges[i]));
        writer_put(w, space + 1, strlen(space + 1));
    }
    for (uint64_t i = 0; i < n_added; i++) writer_string(w, v->added[i]);
    writer_key_array(w, "tokenizer.ggml.token_type", GGUF_I32, n);
    for (uint64_t i = 0; i < n; i++) {
        uint32_t control = v->control_kind ? v->control_kind : 3;
        writer_u32(w, i < SMALL_FIRST_BYTE ? control : i < SMALL_FIRST_MERGED + n_merges ? 1 : 4);
    }
    writer_key_array(w, "tokenizer.ggml.merges", GGUF_STRING, n_merges);
    for (uint64_t i = 0; i < n_merges; i++) writer_string(w, v->merges[i]);
}

static inline struct gguf *small_open_gguf(const struct small_vocabulary *v) {
    struct gguf_writer w = {0};
    struct gguf *gguf = NULL;
    struct engine_error error;
    small_write(&w, v);
    int rc = writer_open(&w, &gguf, &error);
    if (rc != ENGINE_OK) fprintf(stderr, "%s\n", error.text);
    writer_free(&w);
    return gguf;
}

static inline struct tokenizer *small_open(const struct small_vocabulary *v) {
    struct tokenizer *tokenizer = NULL;
    struct engine_error error;
    struct gguf *gguf = small_open_gguf(v);
    if (gguf && tokenizer_open(&tokenizer, gguf, &error) != ENGINE_OK) fprintf(stderr, "%s\n", error.text);
    gguf_close(gguf);
    return tokenizer;
}

#endif
