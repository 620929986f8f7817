/* model_shape.c - from the metadata of a GGUF file to the shape of a model: the table of families, and every key checked before
 * it is used, so that a wrong file gets a sentence. */
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "engine/model.h"

enum {
    MAX_WIDTH = 1 << 18, /* of embedding and feed-forward: far above any real model, small enough for int products */
    MAX_VOCAB = 1 << 22,
    MAX_HEADS = 1024,
    MAX_HEAD_DIM = 256, /* what the attention kernels keep in scratch */
    EVERY_LAYER = INT_MAX,
};

/* Files of the llama converter have their q and k permuted for pairs side by side; all others turn halves. */
static const struct model_family families[] = {
    {.architecture = "llama", .rope = ROPE_INTERLEAVED, .moe = MOE_IF_COUNTED, .window_period = EVERY_LAYER},
    {.architecture = "smollm3", .rope = ROPE_INTERLEAVED, .rope_free_period = 4},
    {.architecture = "qwen2", .rope = ROPE_HALVES},
    {.architecture = "qwen3", .rope = ROPE_HALVES, .qk_norm = true},
    {.architecture = "qwen3moe", .rope = ROPE_HALVES, .qk_norm = true, .moe = MOE_ALWAYS},
    {.architecture = "gemma", .rope = ROPE_HALVES, .glu = GLU_GELU, .scaled_embedding = true},
    {.architecture = "gemma2",
     .rope = ROPE_HALVES,
     .glu = GLU_GELU,
     .scaled_embedding = true,
     .post_norms = true,
     .window_period = 2,
     .attn_soft_cap = 50,
     .logit_soft_cap = 30,
     .head_scale_layers = 46},
    {.architecture = "gemma3",
     .rope = ROPE_HALVES,
     .glu = GLU_GELU,
     .scaled_embedding = true,
     .post_norms = true,
     .qk_norm = true,
     .window_period = 6,
     .local_rope_base = 10000,
     .head_scale_layers = 62},
    {.architecture = "phi3", .rope = ROPE_HALVES, .fused = true, .window_period = EVERY_LAYER},
};
enum { N_FAMILIES = sizeof families / sizeof families[0] };

int model_refuse(struct engine_error *error, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    return ENGINE_ERR_MODEL;
}

/* "llama.block_count" */
static const char *key_of(const struct model_shape *shape, const char *name, char *key, size_t size) {
    snprintf(key, size, "%s.%s", shape->family->architecture, name);
    return key;
}

static int read_family(struct model_shape *shape, const struct gguf *gguf, struct engine_error *error) {
    struct gguf_string name;
    if (gguf_get_string(gguf, "general.architecture", &name) != GGUF_FOUND)
        return model_refuse(error, "%s: the file does not say its architecture (general.architecture)", gguf_path(gguf));
    char supported[256] = "";
    for (int i = 0; i < N_FAMILIES; i++) {
        const char *known = families[i].architecture;
        if (name.len == strlen(known) && memcmp(name.data, known, name.len) == 0) {
            shape->family = &families[i];
            return ENGINE_OK;
        }
        size_t used = strlen(supported);
        snprintf(supported + used, sizeof supported - used, "%s%s", i ? ", " : "", known);
    }
    return model_refuse(error, "%s: architecture '%.*s' is not supported; supported: %s", gguf_path(gguf),
                        (int)(name.len < 64 ? name.len : 64), name.data, supported);
}

/* A required (or, with *value preset, optional) positive integer of the family. */
static int read_int(const struct model_shape *shape, const struct gguf *gguf, const char *name, int max, bool required,
                    int *value, struct engine_error *error) {
    char key[128];
    uint32_t number = (uint32_t)*value;
    key_of(shape, name, key, sizeof key);
    int rc = required ? gguf_require_u32(gguf, key, 1, (uint32_t)max, &number, error)
                      : gguf_accept_u32(gguf, key, 1, (uint32_t)max, &number, error);
    if (rc == ENGINE_OK) *value = (int)number;
    return rc;
}

/* The experts of a mixture; the width of one goes to n_ffn. */
static int read_experts(struct model_shape *s, const struct gguf *gguf, struct engine_error *error) {
    char key[128];
    int rc;
    uint32_t n_experts = 0;
    bool always = s->family->moe == MOE_ALWAYS;
    if ((rc = gguf_accept_u32(gguf, key_of(s, "expert_count", key, sizeof key), 0, UINT32_MAX, &n_experts, error))) return rc;
    if (n_experts > 0 && s->family->moe == MOE_NEVER)
        return model_refuse(error, "%s: mixture of experts (%u experts) is not supported for the %s architecture",
                            gguf_path(gguf), n_experts, s->family->architecture);
    if (always || n_experts > 0) {
        if ((rc = read_int(s, gguf, "expert_count", MAX_EXPERTS, true, &s->n_experts, error)) ||
            (rc = read_int(s, gguf, "expert_used_count", MAX_EXPERTS, true, &s->n_experts_used, error)))
            return rc;
        if (s->n_experts_used > s->n_experts)
            return model_refuse(error, "%s: %d of %d experts cannot be used at once", gguf_path(gguf), s->n_experts_used,
                                s->n_experts);
        s->normalize_shares = true;
        if (gguf_get_bool(gguf, key_of(s, "expert_weights_norm", key, sizeof key), &s->normalize_shares) == GGUF_MISMATCH)
            return model_refuse(error, "%s: %s is not true or false", gguf_path(gguf), key);
    }
    if ((rc = read_int(s, gguf, "feed_forward_length", MAX_WIDTH, !always, &s->n_ffn, error))) return rc;
    return s->n_experts ? read_int(s, gguf, "expert_feed_forward_length", MAX_WIDTH, always, &s->n_ffn, error) : ENGINE_OK;
}

static int read_widths(struct model_shape *s, const struct gguf *gguf, struct engine_error *error) {
    int rc;
    if ((rc = read_int(s, gguf, "block_count", MODEL_MAX_LAYERS, true, &s->n_layers, error)) ||
        (rc = read_int(s, gguf, "context_length", INT32_MAX, true, &s->ctx_train, error)) ||
        (rc = read_int(s, gguf, "embedding_length", MAX_WIDTH, true, &s->n_embd, error)) || (rc = read_experts(s, gguf, error)) ||
        (rc = read_int(s, gguf, "attention.head_count", MAX_HEADS, true, &s->n_heads, error)))
        return rc;
    s->n_kv_heads = s->n_heads;
    if ((rc = read_int(s, gguf, "attention.head_count_kv", MAX_HEADS, false, &s->n_kv_heads, error))) return rc;
    if (s->n_heads % s->n_kv_heads != 0)
        return model_refuse(error, "%s: %d attention heads cannot share %d key/value heads evenly", gguf_path(gguf), s->n_heads,
                            s->n_kv_heads);
    s->head_dim = s->n_embd / s->n_heads;
    int value_dim = 0;
    if ((rc = read_int(s, gguf, "attention.key_length", MAX_WIDTH, false, &s->head_dim, error))) return rc;
    value_dim = s->head_dim;
    if ((rc = read_int(s, gguf, "attention.value_length", MAX_WIDTH, false, &value_dim, error))) return rc;
    if (value_dim != s->head_dim)
        return model_refuse(error, "%s: keys of %d and values of %d dimensions a head are not supported; they must be equal",
                            gguf_path(gguf), s->head_dim, value_dim);
    if (s->head_dim % 16 != 0 || s->head_dim > MAX_HEAD_DIM)
        return model_refuse(error, "%s: heads of %d dimensions are not supported; a multiple of 16 up to %d is", gguf_path(gguf),
                            s->head_dim, MAX_HEAD_DIM);
    if (s->n_embd % QUANT_BLOCK != 0 || s->n_ffn % QUANT_BLOCK != 0)
        return model_refuse(error, "%s: embedding length %d and feed-forward length %d must be multiples of %d", gguf_path(gguf),
                            s->n_embd, s->n_ffn, QUANT_BLOCK);
    return ENGINE_OK;
}

static bool is_word(struct gguf_string string, const char *word) {
    return string.len == strlen(word) && memcmp(string.data, word, string.len) == 0;
}

/* Factors by pair of dimensions; absent leaves NULL. */
static int read_rope_factors(const struct model_shape *s, const struct gguf *gguf, const char *name,
                             const struct gguf_tensor **out, struct engine_error *error) {
    enum dtype type;
    if (!gguf_find_tensor(gguf, name)) return ENGINE_OK;
    int rc = gguf_require_tensor(gguf, name, 1, s->rope_dim / 2, out, &type, error);
    if (rc != ENGINE_OK) return rc;
    if (type != DTYPE_F32) return model_refuse(error, "%s: %s must be F32", gguf_path(gguf), name);
    for (int i = 0; i < s->rope_dim / 2; i++) {
        float factor;
        memcpy(&factor, (const char *)(*out)->data + 4 * (size_t)i, sizeof factor);
        if (!(factor > 0))
            return model_refuse(error, "%s: %s has the factor %g; factors are above 0", gguf_path(gguf), name, (double)factor);
    }
    return ENGINE_OK;
}

/* How the table of angles is stretched: by all pairs alike, by pairs (YaRN), by factors in tensors (Llama 3, LongRoPE). */
static int read_rope_scaling(struct model_shape *s, const struct gguf *gguf, struct engine_error *error) {
    char key[128];
    int rc;
    struct model_rope *rope = &s->rope;
    float factor = 1, magnitude = 1, fast = 32, slow = 1;
    struct gguf_string scaling = {"none", 4};
    if (gguf_get_string(gguf, key_of(s, "rope.scaling.type", key, sizeof key), &scaling) == GGUF_MISMATCH)
        return model_refuse(error, "%s: %s is not a string", gguf_path(gguf), key);
    bool is_yarn = is_word(scaling, "yarn"), is_linear = is_word(scaling, "linear"), is_long = is_word(scaling, "longrope");
    if (!is_yarn && !is_linear && !is_long && !is_word(scaling, "none"))
        return model_refuse(error, "%s: position scaling '%.*s' is not supported; supported: none, linear, yarn, longrope",
                            gguf_path(gguf), (int)(scaling.len < 64 ? scaling.len : 64), scaling.data);
    key_of(s, "rope.scaling.factor", key, sizeof key);
    if ((is_linear || is_yarn) && (rc = gguf_require_f32(gguf, key, 1, 1e6f, &factor, error))) return rc;
    if ((rc = gguf_accept_f32(gguf, key_of(s, "rope.scaling.attn_factor", key, sizeof key), 1e-3f, 1e3f, &magnitude, error)) ||
        (rc = gguf_accept_f32(gguf, key_of(s, "rope.scaling.yarn_beta_fast", key, sizeof key), 1e-3f, 1e6f, &fast, error)) ||
        (rc = gguf_accept_f32(gguf, key_of(s, "rope.scaling.yarn_beta_slow", key, sizeof key), 1e-3f, 1e6f, &slow, error)) ||
        (rc = read_int(s, gguf, "rope.scaling.original_context_length", INT32_MAX, is_yarn, &rope->ctx_original, error)) ||
        (rc = read_rope_factors(s, gguf, "rope_freqs.weight", &rope->factors, error)) ||
        (rc = read_rope_factors(s, gguf, "rope_factors_short.weight", &rope->factors, error)) ||
        (rc = read_rope_factors(s, gguf, "rope_factors_long.weight", &rope->long_factors, error)))
        return rc;
    if ((is_long || rope->long_factors) && !(rope->factors && rope->long_factors && rope->ctx_original))
        return model_refuse(
            error, "%s: LongRoPE needs the tensors rope_factors_short.weight and rope_factors_long.weight and the key %s",
            gguf_path(gguf), key_of(s, "rope.scaling.original_context_length", key, sizeof key));
    rope->scale = is_linear ? 1.0 / (double)factor : 1;
    rope->magnitude = (double)magnitude * (is_yarn ? 0.1 * log((double)factor) + 1 : 1);
    rope->yarn_factor = is_yarn ? (double)factor : 0;
    rope->yarn_fast = (double)fast;
    rope->yarn_slow = (double)slow;
    return ENGINE_OK;
}

static int read_rope(struct model_shape *s, const struct gguf *gguf, struct engine_error *error) {
    char key[128];
    int rc;
    float base = 10000, local_base = s->family->local_rope_base;
    s->rope_dim = s->head_dim;
    if ((rc = read_int(s, gguf, "rope.dimension_count", MAX_WIDTH, false, &s->rope_dim, error))) return rc;
    if (s->rope_dim > s->head_dim || s->rope_dim % 2 != 0)
        return model_refuse(error, "%s: %d rotated dimensions do not suit heads of %d", gguf_path(gguf), s->rope_dim,
                            s->head_dim);
    if ((rc = gguf_accept_f32(gguf, key_of(s, "rope.freq_base", key, sizeof key), 1, 1e12f, &base, error))) return rc;
    s->rope.base = (double)base;
    if ((rc = read_rope_scaling(s, gguf, error))) return rc;
    if (s->rope.yarn_factor > 0 && base <= 1)
        return model_refuse(error, "%s: YaRN needs a RoPE base above 1, not %g", gguf_path(gguf), (double)base);
    if (local_base <= 0) return ENGINE_OK;
    if ((rc = gguf_accept_f32(gguf, key_of(s, "rope.freq_base_swa", key, sizeof key), 1, 1e12f, &local_base, error))) return rc;
    s->local_rope = (struct model_rope){.base = (double)local_base, .scale = 1, .magnitude = 1};
    return ENGINE_OK;
}

/* Which layers see a window: by the family's period, another period in the file, or a list in the file. */
static int read_windows(struct model_shape *s, const struct gguf *gguf, struct engine_error *error) {
    char key[128];
    int rc, period = s->family->window_period;
    uint32_t window = 0;
    if (period == 0) return ENGINE_OK;
    key_of(s, "attention.sliding_window", key, sizeof key);
    rc = period == EVERY_LAYER ? gguf_accept_u32(gguf, key, 0, INT32_MAX, &window, error)
                               : gguf_require_u32(gguf, key, 1, INT32_MAX, &window, error);
    if (rc != ENGINE_OK) return rc;
    s->window = (int)window;
    struct gguf_array list;
    bool is_list = gguf_get_array(gguf, key_of(s, "attention.sliding_window_pattern", key, sizeof key), &list) == GGUF_FOUND;
    if (is_list && (list.kind != GGUF_BOOL || list.n != (size_t)s->n_layers))
        return model_refuse(error, "%s: %s must be a list of true and false for each of the %d layers", gguf_path(gguf), key,
                            s->n_layers);
    if (!is_list && (rc = read_int(s, gguf, "attention.sliding_window_pattern", INT32_MAX, false, &period, error))) return rc;
    for (int i = 0; i < s->n_layers; i++) s->is_local[i] = is_list ? list.data[i] != 0 : (i + 1) % period != 0;
    return ENGINE_OK;
}

static int read_scales(struct model_shape *s, const struct gguf *gguf, struct engine_error *error) {
    char key[128];
    const struct model_family *f = s->family;
    int rc, dim = f->head_scale_layers == s->n_layers ? s->n_embd / s->n_heads : s->head_dim;
    s->attn_scale = 1.0f / sqrtf((float)dim);
    s->attn_soft_cap = f->attn_soft_cap;
    s->logit_soft_cap = f->logit_soft_cap;
    if ((rc = gguf_accept_f32(gguf, key_of(s, "attention.scale", key, sizeof key), 1e-6f, 1e6f, &s->attn_scale, error)) ||
        (rc = gguf_accept_f32(gguf, key_of(s, "attn_logit_softcapping", key, sizeof key), 0, 1e6f, &s->attn_soft_cap, error)) ||
        (rc = gguf_accept_f32(gguf, key_of(s, "final_logit_softcapping", key, sizeof key), 0, 1e6f, &s->logit_soft_cap, error)))
        return rc;
    return gguf_require_f32(gguf, key_of(s, "attention.layer_norm_rms_epsilon", key, sizeof key), 1e-12f, 1, &s->norm_eps, error);
}

static int read_vocab(struct model_shape *s, const struct gguf *gguf, struct engine_error *error) {
    const struct gguf_tensor *embedding = gguf_find_tensor(gguf, "token_embd.weight");
    if (!embedding) return model_refuse(error, "%s: the tensor token_embd.weight is missing", gguf_path(gguf));
    if (embedding->n_dims != 2 || embedding->dims[1] < 1 || embedding->dims[1] > MAX_VOCAB)
        return model_refuse(error, "%s: token_embd.weight is not a matrix of 1 to %d rows", gguf_path(gguf), MAX_VOCAB);
    s->vocab_size = (int)embedding->dims[1];
    s->has_head = gguf_find_tensor(gguf, "output.weight") != NULL;
    return ENGINE_OK;
}

/* Sums for people: parameters, bytes, the type that most parameters have. */
static void count_parameters(struct model_shape *s, const struct gguf *gguf) {
    enum { N_TYPES = 64 };
    uint64_t of_type[N_TYPES] = {0};
    for (size_t i = 0; i < gguf_n_tensors(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        uint64_t n = 1;
        for (int d = 0; d < tensor->n_dims; d++) n *= (uint64_t)tensor->dims[d];
        s->n_parameters += n;
        s->weight_bytes += tensor->bytes;
        if (tensor->type < N_TYPES) of_type[tensor->type] += n;
    }
    for (uint32_t type = 0; type < N_TYPES; type++) {
        if (of_type[type] > of_type[s->main_type]) s->main_type = type;
        enum dtype dtype;
        if (of_type[type] == 0 || !gguf_type_to_dtype(type, &dtype)) continue;
        s->has_two_bits |= dtype == DTYPE_Q2_K;
        s->has_three_bits |= dtype == DTYPE_Q3_K;
    }
}

int model_read_shape(struct model_shape *shape, const struct gguf *gguf, struct engine_error *error) {
    int rc;
    memset(shape, 0, sizeof *shape);
    if ((rc = read_family(shape, gguf, error)) || (rc = read_widths(shape, gguf, error)) ||
        (rc = read_rope(shape, gguf, error)) || (rc = read_windows(shape, gguf, error)) ||
        (rc = read_scales(shape, gguf, error)) || (rc = read_vocab(shape, gguf, error)))
        return rc;
    count_parameters(shape, gguf);
    return ENGINE_OK;
}

int model_feature_layers(const struct model_shape *s, int layers[MODEL_FEATURES], struct engine_error *error) {
    const int wanted[MODEL_FEATURES] = {2, s->n_layers / 2, s->n_layers - 3};
    if (s->n_layers < 2) {
        snprintf(error->text, sizeof error->text,
                 "drafting heads read between the layers of a model, and this one has one layer");
        return ENGINE_ERR_ARGUMENT;
    }
    for (int i = 0; i < MODEL_FEATURES; i++) {
        int most = s->n_layers - 1, layer = wanted[i] < most ? wanted[i] : most;
        layers[i] = layer > 1 ? layer : 1;
    }
    return ENGINE_OK;
}

int model_kv_shape(const struct model_shape *shape, const char *kv_type, struct kv_shape *out, struct engine_error *error) {
    struct kv_shape kv = {.n_layers = shape->n_layers, .n_kv_heads = shape->n_kv_heads, .head_dim = shape->head_dim};
    int rc = ENGINE_ERR_ARGUMENT;
    if (!kv_type || strcmp(kv_type, "auto") == 0)
        kv_type = kv_type_name(kv.head_dim % kv_type_unit(KV_INT8) == 0 ? KV_INT8 : KV_F16);
    if (!kv_type_parse(kv_type, &kv.type)) {
        snprintf(error->text, sizeof error->text, "--kv-type is \"%.40s\"; there are auto, f16, int8 and int4", kv_type);
    } else if (kv.head_dim % kv_type_unit(kv.type) != 0) {
        snprintf(error->text, sizeof error->text,
                 "--kv-type %s needs heads of a multiple of %d dimensions, and this model's have %d: use %s", kv_type,
                 kv_type_unit(kv.type), kv.head_dim, kv.head_dim % kv_type_unit(KV_INT8) == 0 ? "int8 or f16" : "f16");
    } else {
        *out = kv;
        rc = ENGINE_OK;
    }
    return rc;
}

const char *model_rests_name(enum model_rests rests) {
    static const char *const names[] = {[MODEL_RESTS_NONE] = "int8", [MODEL_RESTS_DOWN] = "mixed", [MODEL_RESTS_ALL] = "int16"};
    return names[rests];
}

int model_activations(const struct model_shape *shape, const char *name, enum model_rests *rests, struct engine_error *error) {
    if (!name || strcmp(name, "auto") == 0) {
        *rests = shape->has_two_bits ? MODEL_RESTS_ALL : shape->has_three_bits ? MODEL_RESTS_DOWN : MODEL_RESTS_NONE;
        return ENGINE_OK;
    }
    for (*rests = MODEL_RESTS_NONE; *rests <= MODEL_RESTS_ALL; (*rests)++)
        if (strcmp(name, model_rests_name(*rests)) == 0) return ENGINE_OK;
    snprintf(error->text, sizeof error->text, "--activations is \"%.40s\"; there are auto, int8, mixed and int16", name);
    return ENGINE_ERR_ARGUMENT;
}
