/* small_spm.h - SentencePiece vocabularies for tests, as GGUF files without weights.
 *
 * Ids: SPM_UNKNOWN, SPM_BOS, SPM_EOS, SPM_TURN (the control token "<|turn|>"), then with has_bytes the 256 bytes from
 * SPM_FIRST_BYTE on, then the pieces, then the added tokens. */
#ifndef FORESAY_SMALL_SPM_H
#define FORESAY_SMALL_SPM_H

#include <stdio.h>
#include <string.h>

#include "engine/tokenizer.h"
#include "tests/gguf_writer.h"

enum spm_ids { SPM_UNKNOWN, SPM_BOS, SPM_EOS, SPM_TURN, SPM_FIRST_BYTE };

struct small_spm {
    const char *const *pieces; /* [n] */
    const float *scores;       /* [n] */
    int n;
    const char *const *added; /* ends with NULL; may be NULL */
    bool has_bytes, no_prefix, no_scores;
    const char *model;    /* NULL: "llama"; "t5" for unigram, which also reads the next three */
    const void *charsmap; /* [n_charsmap] bytes; NULL: no such key */
    size_t n_charsmap;
    bool merges_spaces;
    const char *chat_template; /* NULL: no such key */
};

static inline int spm_first_piece(const struct small_spm *v) { return SPM_FIRST_BYTE + (v->has_bytes ? 256 : 0); }

static inline void small_spm_write(struct gguf_writer *w, const struct small_spm *v) {
    static const char *const names[] = {"<unk>", "<s>", "</s>", "<|turn|>"};
    int n_added = 0, first = spm_first_piece(v);
    while (v->added && v->added[n_added]) n_added++;
    uint64_t n = (uint64_t)(first + v->n + n_added);
    writer_begin(w, 3, 0, (uint64_t)(8 + !v->no_scores + (v->chat_template != NULL) + (v->charsmap != NULL)));
    writer_key_string(w, "tokenizer.ggml.model", v->model ? v->model : "llama");
    if (v->chat_template) writer_key_string(w, "tokenizer.chat_template", v->chat_template);
    writer_key_u32(w, "tokenizer.ggml.bos_token_id", SPM_BOS);
    writer_key_u32(w, "tokenizer.ggml.eos_token_id", SPM_EOS);
    writer_key_u32(w, "tokenizer.ggml.unknown_token_id", SPM_UNKNOWN);
    writer_key_bool(w, "tokenizer.ggml.add_space_prefix", !v->no_prefix);
    writer_key_bool(w, "tokenizer.ggml.remove_extra_whitespaces", v->merges_spaces);
    if (v->charsmap) {
        writer_key_array(w, "tokenizer.ggml.precompiled_charsmap", GGUF_U8, v->n_charsmap);
        writer_put(w, v->charsmap, v->n_charsmap);
    }
    writer_key_array(w, "tokenizer.ggml.tokens", GGUF_STRING, n);
    for (int i = 0; i < SPM_FIRST_BYTE; i++) writer_string(w, names[i]);
    for (int byte = 0; v->has_bytes && byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)byte);
        writer_string(w, name);
    }
    for (int i = 0; i < v->n; i++) writer_string(w, v->pieces[i]);
    for (int i = 0; i < n_added; i++) writer_string(w, v->added[i]);
    writer_key_array(w, "tokenizer.ggml.token_type", GGUF_I32, n);
    for (int i = 0; i < (int)n; i++) {
        writer_u32(w, i == 0 ? 2 : i < SPM_FIRST_BYTE ? 3 : i < first ? 6 : i < first + v->n ? 1 : 4);
    }
    if (v->no_scores) return;
    writer_key_array(w, "tokenizer.ggml.scores", GGUF_F32, n);
    for (int i = 0; i < (int)n; i++) {
        float score = i >= first && i < first + v->n ? v->scores[i - first] : 0.0f;
        writer_put(w, &score, sizeof score);
    }
}

static inline struct gguf *small_spm_gguf(const struct small_spm *v) {
    struct gguf_writer w = {0};
    struct gguf *gguf = NULL;
    struct engine_error error;
    small_spm_write(&w, v);
    if (writer_open(&w, &gguf, &error) != ENGINE_OK) fprintf(stderr, "%s\n", error.text);
    writer_free(&w);
    return gguf;
}

static inline struct tokenizer *small_spm_open(const struct small_spm *v) {
    struct tokenizer *tokenizer = NULL;
    struct engine_error error;
    struct gguf *gguf = small_spm_gguf(v);
    if (gguf && tokenizer_open(&tokenizer, gguf, &error) != ENGINE_OK) fprintf(stderr, "%s\n", error.text);
    gguf_close(gguf);
    return tokenizer;
}

#endif
