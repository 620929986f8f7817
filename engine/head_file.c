/* head_file.c - a drafting head's file: reading its facts, and writing it. See head.h. Any thread. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/head.h"

static const char *const architectures[HEAD_KINDS] = {
    [HEAD_EAGLE] = "eagle3", [HEAD_MEDUSA] = "medusa", [HEAD_RECURRENT] = "recurrent_drafter"};

/* --- reading --- */

static int read_int(const struct gguf *gguf, enum head_kind kind, const char *name, int max, int *out,
                    struct engine_error *error) {
    char key[96];
    uint32_t value;
    snprintf(key, sizeof key, "%s.%s", architectures[kind], name);
    int rc = gguf_require_u32(gguf, key, 1, (uint32_t)max, &value, error);
    if (rc == ENGINE_OK) *out = (int)value;
    return rc;
}

static int read_kind(struct head_shape *s, const struct gguf *gguf, struct engine_error *error) {
    struct gguf_string name = {"", 0};
    if (gguf_get_string(gguf, "general.architecture", &name) != GGUF_FOUND)
        return model_refuse(error, "%s: the key general.architecture is missing", gguf_path(gguf));
    for (int kind = 0; kind < HEAD_KINDS; kind++) {
        s->kind = (enum head_kind)kind;
        if (name.len == strlen(architectures[kind]) && memcmp(name.data, architectures[kind], name.len) == 0) return ENGINE_OK;
    }
    return model_refuse(error,
                        "%s has the architecture %.*s and is no drafting head (eagle3, medusa and recurrent_drafter are); "
                        "foresay train-draft makes one",
                        gguf_path(gguf), (int)(name.len < 40 ? name.len : 40), name.data);
}

bool head_is_one(const struct gguf *gguf) {
    struct head_shape shape;
    struct engine_error unimportant;
    return read_kind(&shape, gguf, &unimportant) == ENGINE_OK;
}

static int read_layers(struct head_shape *s, const struct gguf *gguf, const struct model_shape *target,
                       struct engine_error *error) {
    struct gguf_array list;
    bool is_list = gguf_get_array(gguf, "eagle3.target_layers", &list) == GGUF_FOUND && list.n == MODEL_FEATURES &&
                   list.kind != GGUF_STRING && list.kind != GGUF_F32 && list.kind != GGUF_F64;
    if (!is_list) return model_refuse(error, "%s: eagle3.target_layers is not a list of three layers", gguf_path(gguf));
    for (size_t i = 0; i < MODEL_FEATURES; i++) {
        int64_t layer = gguf_array_i64(&list, i);
        if (layer < 1 || layer >= target->n_layers)
            return model_refuse(error, "%s reads layer %lld of a model of %d layers: it was made for another model",
                                gguf_path(gguf), (long long)layer, target->n_layers);
        s->layers[i] = (int)layer;
    }
    return ENGINE_OK;
}

static int read_eagle(struct head_shape *s, const struct gguf *gguf, const struct model_shape *target,
                      struct engine_error *error) {
    enum { MOST = 1 << 20, MOST_HEAD_DIM = 512 };
    int rc;
    if ((rc = read_int(gguf, HEAD_EAGLE, "attention.head_count", MOST, &s->n_heads, error)) ||
        (rc = read_int(gguf, HEAD_EAGLE, "attention.head_count_kv", s->n_heads, &s->n_kv_heads, error)) ||
        (rc = read_int(gguf, HEAD_EAGLE, "attention.key_length", MOST_HEAD_DIM, &s->head_dim, error)) ||
        (rc = read_int(gguf, HEAD_EAGLE, "feed_forward_length", MOST, &s->n_ffn, error)) ||
        (rc = gguf_require_f32(gguf, "eagle3.attention.layer_norm_rms_epsilon", 1e-12f, 1, &s->norm_eps, error)) ||
        (rc = gguf_require_f32(gguf, "eagle3.rope.freq_base", 1, 1e12f, &s->rope_base, error)))
        return rc;
    if (s->n_heads % s->n_kv_heads != 0 || s->head_dim % 16 != 0 || s->n_ffn % QUANT_BLOCK != 0 ||
        s->n_heads * s->head_dim % QUANT_BLOCK != 0)
        return model_refuse(error, "%s: %d heads of %d dimensions over %d and a feed-forward of %d cannot be computed",
                            gguf_path(gguf), s->n_heads, s->head_dim, s->n_kv_heads, s->n_ffn);
    bool differs = false;
    static const char *const flags[] = {"eagle3.norm_before_residual", "eagle3.norm_before_fc"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (gguf_get_bool(gguf, flags[i], &differs) == GGUF_MISMATCH || differs)
            return model_refuse(error, "%s: %s is not supported", gguf_path(gguf), flags[i]);
    }
    return read_layers(s, gguf, target, error);
}

static int read_recurrent(struct head_shape *s, const struct gguf *gguf, struct engine_error *error) {
    int rc = read_int(gguf, HEAD_RECURRENT, "feed_forward_length", 1 << 20, &s->n_ffn, error);
    if (rc != ENGINE_OK ||
        (rc = gguf_require_f32(gguf, "recurrent_drafter.attention.layer_norm_rms_epsilon", 1e-12f, 1, &s->norm_eps, error)))
        return rc;
    if (s->n_ffn % QUANT_BLOCK == 0) return ENGINE_OK;
    return model_refuse(error, "%s: a feed-forward of %d cannot be computed", gguf_path(gguf), s->n_ffn);
}

int head_read_shape(struct head_shape *out, const struct gguf *gguf, const struct model_shape *target,
                    struct engine_error *error) {
    struct head_shape *s = out;
    *s = (struct head_shape){.norm_eps = target->norm_eps};
    int rc = read_kind(s, gguf, error);
    if (rc != ENGINE_OK || (rc = read_int(gguf, s->kind, "embedding_length", 1 << 20, &s->n_embd, error))) return rc;
    if (s->n_embd != target->n_embd)
        return model_refuse(error, "%s was made for states of %d floats, and this model's have %d: it belongs to another model",
                            gguf_path(gguf), s->n_embd, target->n_embd);
    if (s->kind == HEAD_EAGLE)
        rc = read_eagle(s, gguf, target, error);
    else if (s->kind == HEAD_MEDUSA)
        rc = read_int(gguf, HEAD_MEDUSA, "head_count", HEAD_MOST_AHEAD, &s->n_ahead, error);
    else
        rc = read_recurrent(s, gguf, error);
    if (rc != ENGINE_OK) return rc;
    const struct gguf_tensor *output = gguf_find_tensor(gguf, "output.weight");
    if (!output || output->n_dims != 2 || output->dims[1] < 1 || output->dims[1] > target->vocab_size)
        return model_refuse(error, "%s: output.weight is missing or has not 1 to %d rows", gguf_path(gguf), target->vocab_size);
    s->n_vocab = (int)output->dims[1];
    return ENGINE_OK;
}

/* As 16 hexadecimal digits: not every reader of GGUF knows whole numbers beyond 63 bits. */
static const char *digest_text(uint64_t digest, char text[17]) {
    snprintf(text, 17, "%016llx", (unsigned long long)digest);
    return text;
}

static bool has_digest(const struct gguf *gguf, const char *key, uint64_t digest) {
    struct gguf_string found;
    char wanted[17];
    return gguf_get_string(gguf, key, &found) == GGUF_FOUND && found.len == 16 &&
           memcmp(found.data, digest_text(digest, wanted), 16) == 0;
}

int head_check_digests(const struct gguf *gguf, uint64_t vocab_digest, uint64_t target_digest, struct engine_error *error) {
    struct gguf_string found;
    if (gguf_get_string(gguf, "draft.vocab_digest", &found) != GGUF_FOUND ||
        gguf_get_string(gguf, "draft.target_digest", &found) != GGUF_FOUND)
        return model_refuse(error, "%s does not say which model it drafts for (draft.vocab_digest, draft.target_digest)",
                            gguf_path(gguf));
    if (!has_digest(gguf, "draft.vocab_digest", vocab_digest))
        return model_refuse(error, "%s belongs to another vocabulary", gguf_path(gguf));
    if (!has_digest(gguf, "draft.target_digest", target_digest))
        return model_refuse(error, "%s belongs to another model of the same vocabulary", gguf_path(gguf));
    return ENGINE_OK;
}

enum { GGML_F32 = 0, GGML_Q4_1 = 3, GGML_Q8_0 = 8, GGML_I64 = 27, GGML_BF16 = 30 };

int head_read_vocab(const struct gguf *gguf, const struct head_shape *shape, int target_vocab, int32_t *out,
                    struct engine_error *error) {
    const struct gguf_tensor *tensor = gguf_find_tensor(gguf, "d2t");
    if (!tensor || tensor->type != GGML_I64 || tensor->n_dims != 1 || tensor->dims[0] != shape->n_vocab)
        return model_refuse(error, "%s: the tensor d2t is not a list of %d tokens as I64", gguf_path(gguf), shape->n_vocab);
    for (int i = 0; i < shape->n_vocab; i++) {
        int64_t id;
        memcpy(&id, (const char *)tensor->data + (size_t)i * sizeof id, sizeof id);
        if (id < 0 || id >= target_vocab)
            return model_refuse(error, "%s: d2t names token %lld, which the model does not have", gguf_path(gguf), (long long)id);
        out[i] = (int32_t)id;
    }
    return ENGINE_OK;
}

/* --- writing --- */

enum { ALIGNMENT = 32 };

struct writer {
    FILE *file;
    uint64_t n_keys;
    const char *prefix;
};

static void put(struct writer *w, const void *data, size_t n) { fwrite(data, 1, n, w->file); }
static void put_u32(struct writer *w, uint32_t value) { put(w, &value, sizeof value); }
static void put_u64(struct writer *w, uint64_t value) { put(w, &value, sizeof value); }
static void put_string(struct writer *w, const char *text) {
    put_u64(w, strlen(text));
    put(w, text, strlen(text));
}

/* A name that begins with a dot gets the architecture in front. */
static void put_key(struct writer *w, const char *name, enum gguf_kind kind) {
    char key[96];
    snprintf(key, sizeof key, "%s%s", name[0] == '.' ? w->prefix : "", name);
    w->n_keys++;
    put_string(w, key);
    put_u32(w, kind);
}
static void put_key_u32(struct writer *w, const char *name, int value) {
    put_key(w, name, GGUF_U32);
    put_u32(w, (uint32_t)value);
}
static void put_key_u64(struct writer *w, const char *name, uint64_t value) {
    put_key(w, name, GGUF_U64);
    put_u64(w, value);
}
static void put_key_f32(struct writer *w, const char *name, float value) {
    put_key(w, name, GGUF_F32);
    put(w, &value, sizeof value);
}
static void put_key_string(struct writer *w, const char *name, const char *value) {
    put_key(w, name, GGUF_STRING);
    put_string(w, value);
}
static void put_key_false(struct writer *w, const char *name) {
    put_key(w, name, GGUF_BOOL);
    put(w, "", 1);
}
static void put_key_list(struct writer *w, const char *name, enum gguf_kind kind, size_t n) {
    put_key(w, name, GGUF_ARRAY);
    put_u32(w, kind);
    put_u64(w, n);
}

static void put_shape(struct writer *w, const struct head_shape *s) {
    put_key_u32(w, ".embedding_length", s->n_embd);
    if (s->kind == HEAD_MEDUSA) {
        put_key_u32(w, ".head_count", s->n_ahead);
        return;
    }
    put_key_u32(w, ".feed_forward_length", s->n_ffn);
    put_key_f32(w, ".attention.layer_norm_rms_epsilon", s->norm_eps);
    if (s->kind == HEAD_RECURRENT) return;
    put_key_u32(w, ".block_count", 1);
    put_key_u32(w, ".target_hidden_size", s->n_embd);
    put_key_u32(w, ".attention.head_count", s->n_heads);
    put_key_u32(w, ".attention.head_count_kv", s->n_kv_heads);
    put_key_u32(w, ".attention.key_length", s->head_dim);
    put_key_u32(w, ".attention.value_length", s->head_dim);
    put_key_u32(w, ".rope.dimension_count", s->head_dim);
    put_key_f32(w, ".rope.freq_base", s->rope_base);
    put_key_list(w, ".target_layers", GGUF_U32, MODEL_FEATURES);
    for (int i = 0; i < MODEL_FEATURES; i++) put_u32(w, (uint32_t)s->layers[i]);
    put_key_false(w, ".norm_before_residual");
    put_key_false(w, ".norm_before_fc");
}

static void put_facts(struct writer *w, const struct head_facts *facts) {
    char digest[17];
    put_key_u32(w, ".vocab_size", facts->target_vocab);
    put_key_u32(w, ".context_length", facts->target_ctx);
    put_key_string(w, "tokenizer.ggml.model", "no_vocab");
    put_key_string(w, "draft.vocab_digest", digest_text(facts->vocab_digest, digest));
    put_key_string(w, "draft.target_digest", digest_text(facts->target_digest, digest));
    put_key_u64(w, "draft.tokens_trained", facts->tokens_trained);
    put_key_list(w, "draft.accuracy", GGUF_F32, HEAD_DEPTHS);
    put(w, facts->accuracy, sizeof facts->accuracy);
    if (facts->lineage) put_key_string(w, "draft.lineage", facts->lineage);
}

/* fc reads states as they are, of which a few dimensions are a hundred times as large as the others: 8 bits would lose the
 * rest. */
static enum dtype type_of(enum head_kind kind, const struct head_tensor *t) {
    if (t->n_rows == 1) return DTYPE_F32;
    if (kind == HEAD_RECURRENT) return DTYPE_Q4_1; /* read over and over in a round: half the bytes, and as many right guesses */
    return strcmp(t->name, "fc.weight") == 0 ? DTYPE_BF16 : DTYPE_Q8_0;
}
static uint32_t ggml_type_of(enum dtype type) {
    return type == DTYPE_F32 ? GGML_F32 : type == DTYPE_BF16 ? GGML_BF16 : type == DTYPE_Q4_1 ? GGML_Q4_1 : GGML_Q8_0;
}
static uint64_t aligned(uint64_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* Name, dimensions, type, place: of every tensor and of d2t. */
static void put_table(struct writer *w, const struct head_shape *s) {
    uint64_t at = 0;
    for (int i = 0; i < head_n_tensors(s); i++) {
        const struct head_tensor t = head_tensor_at(s, i);
        put_string(w, t.name);
        put_u32(w, t.n_rows == 1 ? 1 : 2);
        put_u64(w, (uint64_t)t.n_cols);
        if (t.n_rows > 1) put_u64(w, (uint64_t)t.n_rows);
        enum dtype type = type_of(s->kind, &t);
        put_u32(w, ggml_type_of(type));
        put_u64(w, at);
        at = aligned(at + (size_t)t.n_rows * dtype_row_bytes(type, t.n_cols));
    }
    put_string(w, "d2t");
    put_u32(w, 1);
    put_u64(w, (uint64_t)s->n_vocab);
    put_u32(w, GGML_I64);
    put_u64(w, at);
}

static void put_padding(struct writer *w) {
    while (ftell(w->file) % ALIGNMENT != 0 && !ferror(w->file)) fputc(0, w->file);
}

static void put_q8_0(struct writer *w, const float *x) {
    struct block_q8_0 block = {0};
    float most = 0;
    for (int i = 0; i < QUANT_BLOCK; i++) most = fmaxf(most, fabsf(x[i]));
    block.d = float_to_half(most / 127);
    float d = half_to_float(block.d);
    for (int i = 0; i < QUANT_BLOCK && d > 0; i++) block.qs[i] = (int8_t)fmaxf(-127, fminf(127, roundf(x[i] / d)));
    put(w, &block, sizeof block);
}

static void put_q4_1(struct writer *w, const float *x) {
    struct block_q4_1 block = {0};
    float least = x[0], most = x[0];
    for (int i = 1; i < QUANT_BLOCK; i++) least = fminf(least, x[i]), most = fmaxf(most, x[i]);
    block.d = float_to_half((most - least) / 15);
    block.m = float_to_half(least);
    float d = half_to_float(block.d), m = half_to_float(block.m);
    for (int i = 0; i < QUANT_BLOCK && d > 0; i++) {
        int q = (int)fmaxf(0, fminf(15, roundf((x[i] - m) / d)));
        block.qs[i % (QUANT_BLOCK / 2)] |= (uint8_t)(i < QUANT_BLOCK / 2 ? q : q << 4);
    }
    put(w, &block, sizeof block);
}

static void put_bf16(struct writer *w, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint16_t high = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* to the nearest, ties to even */
    put(w, &high, sizeof high);
}

static void put_data(struct writer *w, const struct head_shape *s, const float *weights, const int32_t *vocab) {
    for (int i = 0; i < head_n_tensors(s); i++) {
        const struct head_tensor t = head_tensor_at(s, i);
        size_t n = (size_t)t.n_rows * (size_t)t.n_cols;
        put_padding(w);
        enum dtype type = type_of(s->kind, &t);
        if (type == DTYPE_F32) put(w, weights, n * sizeof *weights);
        for (size_t k = 0; type == DTYPE_Q8_0 && k < n; k += QUANT_BLOCK) put_q8_0(w, weights + k);
        for (size_t k = 0; type == DTYPE_Q4_1 && k < n; k += QUANT_BLOCK) put_q4_1(w, weights + k);
        for (size_t k = 0; type == DTYPE_BF16 && k < n; k++) put_bf16(w, weights[k]);
        weights += n;
    }
    put_padding(w);
    for (int i = 0; i < s->n_vocab; i++) put_u64(w, (uint64_t)vocab[i]);
    put_padding(w);
}

int head_write(const char *path, const struct head_shape *shape, const float *weights, const int32_t *vocab,
               const struct head_facts *facts, struct engine_error *error) {
    char part[4096];
    snprintf(part, sizeof part, "%s.part", path);
    struct writer w = {.file = fopen(part, "wb"), .prefix = architectures[shape->kind]};
    if (!w.file) return model_refuse(error, "%s: %s", part, strerror(errno));
    put(&w, "GGUF", 4);
    put_u32(&w, 3);
    put_u64(&w, (uint64_t)head_n_tensors(shape) + 1);
    put_u64(&w, 0); /* keys, set below */
    put_key_string(&w, "general.architecture", w.prefix);
    put_shape(&w, shape);
    put_facts(&w, facts);
    put_table(&w, shape);
    put_data(&w, shape, weights, vocab);
    fseek(w.file, 16, SEEK_SET);
    put_u64(&w, w.n_keys);
    bool is_whole = !ferror(w.file) && fflush(w.file) == 0 && fsync(fileno(w.file)) == 0;
    if (fclose(w.file) != 0 || !is_whole || rename(part, path) != 0) return model_refuse(error, "%s: %s", path, strerror(errno));
    return ENGINE_OK;
}
