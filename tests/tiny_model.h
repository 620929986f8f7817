/* tiny_model.h - writes a GGUF file with a random but deterministic model of the llama architecture or another: a real file,
 * small enough to make in a millisecond, so that tests of the engine and the gateway need no download and run under the
 * sanitizers.
 *
 *     struct tiny_model tiny = tiny_model_default();
 *     tiny_model_write("build/tests/tiny.gguf", &tiny);
 *
 * Vocabulary: <|endoftext|> 0, <|im_start|> 1, <|im_end|> 2 (control), the 256 bytes, 41 merges. Template: ChatML. The text it
 * produces is noise; what counts is that the same file and request give the same noise. Header only: link kernels.a and libm. */
#ifndef FORESAY_TINY_MODEL_H
#define FORESAY_TINY_MODEL_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

struct tiny_model {
    uint64_t seed;
    int n_layers, n_embd, n_heads, n_kv_heads, n_ffn, ctx;
    enum dtype matrix_type, embedding_type;
    bool every_type;           /* matrices take all types in turn instead, those whose blocks suit their columns */
    bool untied;               /* a head of its own */
    bool break_head;           /* a NaN in the last row of the head: every logits row has one */
    bool rope_factors;         /* with a rope_freqs.weight tensor */
    float linear_scaling;      /* > 0: position scaling by this factor */
    float yarn;                /* > 0: YaRN with this factor, from TINY_CTX_ORIGINAL tokens */
    bool long_rope;            /* with rope_factors_short.weight and _long.weight, from TINY_CTX_ORIGINAL tokens */
    int rope_dim;              /* > 0: dimensions of a head that turn */
    const char *architecture;  /* "llama" by default; see tiny_traits */
    const char *tensors_of;    /* another architecture whose tensors stand in the file; NULL = its own */
    int window, window_period; /* keys of sliding windows, where window > 0 */
    float soft_cap;            /* > 0: of scores and of logits */
    int n_experts, n_experts_used;
    uint32_t foreign_type; /* > 0: ggml's number that attention's and experts' gate matrices claim as their type */
};

enum { TINY_VOCAB = 300, TINY_MERGES = 41, TINY_CTX_ORIGINAL = 64 };

static inline struct tiny_model tiny_model_default(void) {
    return (struct tiny_model){.seed = 1,
                               .n_layers = 2,
                               .n_embd = 64,
                               .n_heads = 4,
                               .n_kv_heads = 2,
                               .n_ffn = 96,
                               .ctx = 512,
                               .matrix_type = DTYPE_Q4_1,
                               .embedding_type = DTYPE_Q8_0,
                               .architecture = "llama"};
}

/* Windows on two layers of three, soft caps, norms everywhere, two tables of angles. */
static inline struct tiny_model tiny_model_gemma(void) {
    struct tiny_model t = tiny_model_default();
    t.architecture = "gemma3";
    t.n_layers = 4;
    t.window = 20;
    t.window_period = 3;
    t.soft_cap = 8;
    return t;
}

/* A mixture of experts. */
static inline struct tiny_model tiny_model_experts(void) {
    struct tiny_model t = tiny_model_default();
    t.architecture = "qwen3moe";
    t.n_experts = 7;
    t.n_experts_used = 3;
    return t;
}

static inline struct tiny_model tiny_model_biased(void) {
    struct tiny_model t = tiny_model_default();
    t.architecture = "qwen2";
    return t;
}

static const char *const tiny_merges[TINY_MERGES] = {
    "t h",  "i n",   "e r", "a n",  "o n", "r e",   "o u",  "Ġ t", "Ġ a",  "Ġ s", "Ġ w",  "Ġ o",  "e n", "i s",
    "i t",  "o r",   "a t", "Ġ th", "e s", "Ġth e", "in g", "Ġ b", "Ġ c",  "Ġ f", "an d", "Ġ m",  "Ġ p", "l l",
    "Ġ in", "Ġ and", "e d", "Ġ h",  "Ġ d", "Ġt o",  "Ġo f", "y o", "yo u", "Ġ n", "H e",  "He l", "l o",
};

struct tiny_writer {
    FILE *file;
    uint64_t rng;
    uint64_t n_tensors, n_keys, data_bytes;
    uint32_t foreign_type;
};

/* --- values --- */

static inline void tiny_put(struct tiny_writer *w, const void *data, size_t n) { fwrite(data, 1, n, w->file); }
static inline void tiny_u32(struct tiny_writer *w, uint32_t value) { tiny_put(w, &value, sizeof value); }
static inline void tiny_u64(struct tiny_writer *w, uint64_t value) { tiny_put(w, &value, sizeof value); }
static inline void tiny_string(struct tiny_writer *w, const char *text) {
    tiny_u64(w, strlen(text));
    tiny_put(w, text, strlen(text));
}

static inline void tiny_key_u32(struct tiny_writer *w, const char *key, uint32_t value) {
    w->n_keys++;
    tiny_string(w, key);
    tiny_u32(w, 4);
    tiny_u32(w, value);
}

static inline void tiny_key_f32(struct tiny_writer *w, const char *key, float value) {
    w->n_keys++;
    tiny_string(w, key);
    tiny_u32(w, 6);
    tiny_put(w, &value, sizeof value);
}

static inline void tiny_key_string(struct tiny_writer *w, const char *key, const char *value) {
    w->n_keys++;
    tiny_string(w, key);
    tiny_u32(w, 8);
    tiny_string(w, value);
}

static inline void tiny_key_array(struct tiny_writer *w, const char *key, uint32_t kind, uint64_t n) {
    w->n_keys++;
    tiny_string(w, key);
    tiny_u32(w, 9);
    tiny_u32(w, kind);
    tiny_u64(w, n);
}

/* --- vocabulary --- */

/* The printable stand-in of a byte in GPT-2 vocabularies, as UTF-8. */
static inline void tiny_byte_token(int byte, char *out) {
    int code = byte, shifted = 0;
    for (int b = 0; b <= byte; b++) {
        bool plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte) code = plain ? byte : 256 + shifted;
        shifted += !plain;
    }
    if (code < 128) {
        out[0] = (char)code;
        out[1] = 0;
    } else {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 63));
        out[2] = 0;
    }
}

static inline void tiny_write_vocabulary(struct tiny_writer *w) {
    tiny_key_string(w, "tokenizer.ggml.model", "gpt2");
    tiny_key_string(w, "tokenizer.ggml.pre", "smollm");
    tiny_key_array(w, "tokenizer.ggml.tokens", 8, TINY_VOCAB);
    tiny_string(w, "<|endoftext|>");
    tiny_string(w, "<|im_start|>");
    tiny_string(w, "<|im_end|>");
    for (int byte = 0; byte < 256; byte++) {
        char token[4];
        tiny_byte_token(byte, token);
        tiny_string(w, token);
    }
    for (int i = 0; i < TINY_MERGES; i++) {
        char token[32];
        const char *space = strchr(tiny_merges[i], ' ');
        snprintf(token, sizeof token, "%.*s%s", (int)(space - tiny_merges[i]), tiny_merges[i], space + 1);
        tiny_string(w, token);
    }
    tiny_key_array(w, "tokenizer.ggml.token_type", 5, TINY_VOCAB);
    for (int i = 0; i < TINY_VOCAB; i++) tiny_u32(w, i < 3 ? 3 : 1); /* control, normal */
    tiny_key_array(w, "tokenizer.ggml.merges", 8, TINY_MERGES);
    for (int i = 0; i < TINY_MERGES; i++) tiny_string(w, tiny_merges[i]);
    tiny_key_u32(w, "tokenizer.ggml.bos_token_id", 1);
    tiny_key_u32(w, "tokenizer.ggml.eos_token_id", 2);
    tiny_key_string(
        w, "tokenizer.chat_template",
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
}

/* --- tensors --- */

static inline double tiny_uniform(struct tiny_writer *w) {
    w->rng = w->rng * 6364136223846793005u + 1442695040888963407u;
    return ((double)(w->rng >> 11) + 0.5) * 0x1p-53;
}

static inline float tiny_normal(struct tiny_writer *w) {
    return (float)(sqrt(-2 * log(tiny_uniform(w))) * cos(6.283185307179586 * tiny_uniform(w)));
}

/* One block of 32 weights with standard deviation sigma, in the file's layout; returns its bytes. */
static inline size_t tiny_block(struct tiny_writer *w, enum dtype type, float sigma, uint8_t *out) {
    float x[QUANT_BLOCK];
    for (int i = 0; i < QUANT_BLOCK; i++) x[i] = tiny_normal(w) * sigma;
    if (type == DTYPE_F32) {
        memcpy(out, x, sizeof x);
        return sizeof x;
    }
    if (type == DTYPE_F16 || type == DTYPE_BF16) {
        for (int i = 0; i < QUANT_BLOCK; i++) {
            uint32_t bits;
            memcpy(&bits, &x[i], 4);
            uint16_t half = type == DTYPE_F16 ? float_to_half(x[i]) : (uint16_t)(bits >> 16);
            memcpy(out + 2 * i, &half, 2);
        }
        return 2 * QUANT_BLOCK;
    }
    float step = sigma / (type == DTYPE_Q8_0 ? 40 : 4);
    struct block_q8_0 b8 = {.d = float_to_half(step)};
    struct block_q4_0 b4 = {.d = float_to_half(step)};
    struct block_q4_1 b41 = {.d = float_to_half(step), .m = float_to_half(-7.5f * step)};
    for (int i = 0; i < QUANT_BLOCK; i++) {
        float steps = x[i] / step;
        float limit = type == DTYPE_Q8_0 ? 127 : 7;
        int q = (int)lrintf(steps > limit ? limit : steps < -limit ? -limit : steps);
        b8.qs[i] = (int8_t)q;
        uint8_t nibble = (uint8_t)(q + 8);
        b4.qs[i % 16] = (uint8_t)(b4.qs[i % 16] | nibble << (i < 16 ? 0 : 4));
        b41.qs[i % 16] = b4.qs[i % 16];
    }
    if (type == DTYPE_Q8_0)
        memcpy(out, &b8, sizeof b8);
    else if (type == DTYPE_Q4_0)
        memcpy(out, &b4, sizeof b4);
    else
        memcpy(out, &b41, sizeof b41);
    return type == DTYPE_Q8_0 ? sizeof b8 : type == DTYPE_Q4_0 ? sizeof b4 : sizeof b41;
}

/* Types that are filled with random bits: any are valid, and d makes their standard deviation sigma. */
struct tiny_random_type {
    enum dtype type;
    uint32_t ggml_type;
    int d_at;       /* where d lies in the block, from its end if negative */
    float d_sigmas; /* sigma / d */
    float m;        /* the second half float is m * d */
};

static inline const struct tiny_random_type *tiny_find_random(enum dtype type) {
    static const struct tiny_random_type list[] = {
        {DTYPE_Q5_0, 6, 0, 9.2f, 0},   {DTYPE_Q5_1, 7, 0, 9.2f, -15.5f}, {DTYPE_Q2_K, 10, -4, 13.9f, 1.5f},
        {DTYPE_Q3_K, 11, -2, 43, 0},   {DTYPE_Q4_K, 12, 0, 255, 7.5f},   {DTYPE_Q5_K, 13, 0, 521, 15.5f},
        {DTYPE_Q6_K, 14, -2, 1365, 0}, {DTYPE_IQ4_NL, 20, 0, 70, 0},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (list[i].type == type) return &list[i];
    return NULL;
}

static inline size_t tiny_random_block(struct tiny_writer *w, const struct tiny_random_type *t, float sigma, uint8_t *out) {
    const size_t bytes = dtype_row_bytes(t->type, dtype_block_cols(t->type));
    for (size_t i = 0; i < bytes; i++) out[i] = (uint8_t)(tiny_uniform(w) * 256);
    const uint16_t halves[2] = {float_to_half(sigma / t->d_sigmas), float_to_half(t->m * sigma / t->d_sigmas)};
    uint8_t *at = out + t->d_at + (t->d_at < 0 ? (long)bytes : 0);
    memcpy(at, halves, t->m != 0 ? 4 : 2);
    return bytes;
}

static inline uint32_t tiny_ggml_type(enum dtype type) {
    if (tiny_find_random(type)) return tiny_find_random(type)->ggml_type;
    switch (type) {
    case DTYPE_F16:
        return 1;
    case DTYPE_Q4_0:
        return 2;
    case DTYPE_Q4_1:
        return 3;
    case DTYPE_Q8_0:
        return 8;
    case DTYPE_BF16:
        return 30;
    default:
        return 0;
    }
}

/* A matrix, or depth of them as one tensor, or (n_rows == 1) a vector. First pass (describe): the tensor's entry in the header.
 * Second pass: its data. */
static inline void tiny_tensor(struct tiny_writer *w, bool describe, const char *name, int depth, int n_rows, int n_cols,
                               enum dtype type, float sigma) {
    size_t bytes = dtype_row_bytes(type, n_cols) * (size_t)n_rows * (size_t)depth, padded = (bytes + 31) / 32 * 32;
    if (describe) {
        tiny_string(w, name);
        tiny_u32(w, n_rows == 1 ? 1 : depth == 1 ? 2 : 3);
        tiny_u64(w, (uint64_t)n_cols);
        if (n_rows != 1) tiny_u64(w, (uint64_t)n_rows);
        if (depth != 1) tiny_u64(w, (uint64_t)depth);
        bool is_foreign = w->foreign_type > 0 && (strstr(name, "attn_output") || strstr(name, "gate_exps"));
        tiny_u32(w, is_foreign ? w->foreign_type : tiny_ggml_type(type));
        tiny_u64(w, w->data_bytes);
        w->data_bytes += padded;
        w->n_tensors++;
        return;
    }
    if (n_rows == 1) { /* norms lie around 1 */
        for (int i = 0; i < n_cols; i++) {
            float value = 1 + sigma * tiny_normal(w);
            tiny_put(w, &value, sizeof value);
        }
    } else {
        const struct tiny_random_type *random = tiny_find_random(type);
        const int cols = random ? dtype_block_cols(type) : QUANT_BLOCK;
        for (int64_t i = 0; i < (int64_t)depth * n_rows * n_cols / cols; i++) {
            uint8_t block[8 * QUANT_BLOCK];
            tiny_put(w, block, random ? tiny_random_block(w, random, sigma, block) : tiny_block(w, type, sigma, block));
        }
    }
    const uint8_t zeros[32] = {0};
    tiny_put(w, zeros, padded - bytes);
}

/* What the tensors of an architecture are. */
struct tiny_traits {
    bool qk_norm, post_norms, bias, fused;
};

static inline struct tiny_traits tiny_traits(const char *architecture) {
    bool gemma3 = strcmp(architecture, "gemma3") == 0;
    return (struct tiny_traits){.qk_norm = gemma3 || strncmp(architecture, "qwen3", 5) == 0,
                                .post_norms = gemma3 || strcmp(architecture, "gemma2") == 0,
                                .bias = strcmp(architecture, "qwen2") == 0,
                                .fused = strcmp(architecture, "phi3") == 0};
}

/* The next type in turn whose blocks suit n_cols. */
static inline enum dtype tiny_next_type(int *turn, int n_cols) {
    while (n_cols % dtype_block_cols((enum dtype)(*turn % DTYPE_COUNT)) != 0) ++*turn;
    return (enum dtype)((*turn)++ % DTYPE_COUNT);
}

static inline void tiny_tensors(struct tiny_writer *w, bool describe, const struct tiny_model *t) {
    int d = t->n_embd, head_dim = d / t->n_heads, kv = t->n_kv_heads * head_dim;
    float in = 1 / sqrtf((float)d), ffn = 1 / sqrtf((float)t->n_ffn);
    char name[64];
    int turn = 0;
    const struct tiny_traits has = tiny_traits(t->tensors_of ? t->tensors_of : t->architecture);
    bool moe = t->n_experts > 0;
    tiny_tensor(w, describe, "token_embd.weight", 1, TINY_VOCAB, d, t->embedding_type, 0.35f);
    for (int i = 0; i < t->n_layers; i++) {
        const struct {
            const char *name;
            bool present;
            int depth, n_rows, n_cols;
            float sigma;
        } parts[] = {
            {"attn_norm.weight", true, 1, 1, d, 0.1f},
            {"attn_q.weight", !has.fused, 1, d, d, 2 * in},
            {"attn_k.weight", !has.fused, 1, kv, d, 2 * in},
            {"attn_v.weight", !has.fused, 1, kv, d, in},
            {"attn_qkv.weight", has.fused, 1, d + 2 * kv, d, 2 * in},
            {"attn_output.weight", true, 1, d, d, in},
            {"ffn_norm.weight", true, 1, 1, d, 0.1f},
            {"ffn_gate.weight", !moe && !has.fused, 1, t->n_ffn, d, in},
            {"ffn_up.weight", !moe, 1, has.fused ? 2 * t->n_ffn : t->n_ffn, d, in},
            {"ffn_down.weight", !moe, 1, d, t->n_ffn, ffn},
            {"ffn_gate_inp.weight", moe, 1, t->n_experts, d, in},
            {"ffn_gate_exps.weight", moe, t->n_experts, t->n_ffn, d, in},
            {"ffn_up_exps.weight", moe, t->n_experts, t->n_ffn, d, in},
            {"ffn_down_exps.weight", moe, t->n_experts, d, t->n_ffn, ffn},
            {"attn_q_norm.weight", has.qk_norm, 1, 1, head_dim, 0.1f},
            {"attn_k_norm.weight", has.qk_norm, 1, 1, head_dim, 0.1f},
            {"post_attention_norm.weight", has.post_norms, 1, 1, d, 0.1f},
            {"post_ffw_norm.weight", has.post_norms, 1, 1, d, 0.1f},
            {"attn_q.bias", has.bias, 1, 1, d, 0.5f},
            {"attn_k.bias", has.bias, 1, 1, kv, 0.5f},
            {"attn_v.bias", has.bias, 1, 1, kv, 0.5f},
        };
        for (size_t k = 0; k < sizeof parts / sizeof parts[0]; k++) {
            if (!parts[k].present) continue;
            snprintf(name, sizeof name, "blk.%d.%s", i, parts[k].name);
            enum dtype type = parts[k].n_rows == 1 ? DTYPE_F32 : t->matrix_type;
            if (t->every_type && type != DTYPE_F32) type = tiny_next_type(&turn, parts[k].n_cols);
            tiny_tensor(w, describe, name, parts[k].depth, parts[k].n_rows, parts[k].n_cols, type, parts[k].sigma);
        }
    }
    tiny_tensor(w, describe, "output_norm.weight", 1, 1, d, DTYPE_F32, 0.1f);
    if (t->rope_factors) tiny_tensor(w, describe, "rope_freqs.weight", 1, 1, head_dim / 2, DTYPE_F32, 0.2f);
    if (t->long_rope) {
        tiny_tensor(w, describe, "rope_factors_short.weight", 1, 1, (t->rope_dim ? t->rope_dim : head_dim) / 2, DTYPE_F32, 0.1f);
        tiny_tensor(w, describe, "rope_factors_long.weight", 1, 1, (t->rope_dim ? t->rope_dim : head_dim) / 2, DTYPE_F32, 0.2f);
    }
    if (t->untied || t->break_head) tiny_tensor(w, describe, "output.weight", 1, TINY_VOCAB, d, DTYPE_F32, 0.35f);
}

/* --- the file --- */

/* Keys of the architecture: its name and a dot come first. */
static inline void tiny_shape_u32(struct tiny_writer *w, const struct tiny_model *t, const char *name, int value) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", t->architecture, name);
    tiny_key_u32(w, key, (uint32_t)value);
}
static inline void tiny_shape_f32(struct tiny_writer *w, const struct tiny_model *t, const char *name, float value) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", t->architecture, name);
    tiny_key_f32(w, key, value);
}

static inline void tiny_write_keys(struct tiny_writer *w, const struct tiny_model *t) {
    char key[96];
    tiny_key_string(w, "general.architecture", t->architecture);
    tiny_key_string(w, "general.name", "Tiny");
    tiny_shape_u32(w, t, "block_count", t->n_layers);
    tiny_shape_u32(w, t, "context_length", t->ctx);
    tiny_shape_u32(w, t, "embedding_length", t->n_embd);
    tiny_shape_u32(w, t, "feed_forward_length", t->n_ffn);
    tiny_shape_u32(w, t, "attention.head_count", t->n_heads);
    tiny_shape_u32(w, t, "attention.head_count_kv", t->n_kv_heads);
    tiny_shape_f32(w, t, "attention.layer_norm_rms_epsilon", 1e-5f);
    tiny_shape_f32(w, t, "rope.freq_base", 10000);
    if (t->linear_scaling > 0 || t->yarn > 0) {
        snprintf(key, sizeof key, "%s.rope.scaling.type", t->architecture);
        tiny_key_string(w, key, t->yarn > 0 ? "yarn" : "linear");
        tiny_shape_f32(w, t, "rope.scaling.factor", t->yarn > 0 ? t->yarn : t->linear_scaling);
    }
    if (t->yarn > 0 || t->long_rope) tiny_shape_u32(w, t, "rope.scaling.original_context_length", TINY_CTX_ORIGINAL);
    if (t->rope_dim > 0) tiny_shape_u32(w, t, "rope.dimension_count", t->rope_dim);
    if (t->window > 0) tiny_shape_u32(w, t, "attention.sliding_window", t->window);
    if (t->window_period != 0) tiny_shape_u32(w, t, "attention.sliding_window_pattern", t->window_period);
    if (t->soft_cap > 0) {
        tiny_shape_f32(w, t, "attn_logit_softcapping", t->soft_cap);
        tiny_shape_f32(w, t, "final_logit_softcapping", t->soft_cap);
    }
    if (t->n_experts > 0) {
        tiny_shape_u32(w, t, "expert_count", t->n_experts);
        tiny_shape_u32(w, t, "expert_used_count", t->n_experts_used);
        tiny_shape_u32(w, t, "expert_feed_forward_length", t->n_ffn);
    }
    tiny_write_vocabulary(w);
}

static inline bool tiny_model_write(const char *path, const struct tiny_model *t) {
    struct tiny_writer w = {
        .file = fopen(path, "wb"), .rng = t->seed * 2862933555777941757u + 3037000493u, .foreign_type = t->foreign_type};
    if (!w.file) return false;
    const uint64_t no_count[2] = {0, 0};
    tiny_put(&w, "GGUF", 4);
    tiny_u32(&w, 3);
    tiny_put(&w, no_count, sizeof no_count);
    tiny_write_keys(&w, t);
    tiny_tensors(&w, true, t);
    while (ftell(w.file) % 32 != 0) fputc(0, w.file);
    tiny_tensors(&w, false, t);
    if (t->break_head) { /* output.weight is last, F32 */
        float bad = NAN;
        fseek(w.file, -(long)sizeof bad * t->n_embd, SEEK_END);
        tiny_put(&w, &bad, sizeof bad);
    }
    fseek(w.file, 8, SEEK_SET);
    tiny_u64(&w, w.n_tensors);
    tiny_u64(&w, w.n_keys);
    bool written = !ferror(w.file);
    return fclose(w.file) == 0 && written;
}

#endif
