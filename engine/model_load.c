/* model_load.c - from a GGUF file to a model: shape, weights, tables, buffers.
 *
 * Every dimension is checked against the metadata before it is used, so that a wrong file gets a sentence. Weights are repacked
 * by the backend one by one; the file's pages are given back behind it, so that the model is not in memory twice. */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/log.h"
#include "engine/model.h"

enum {
    MAX_LAYERS = 1024,
    MAX_WIDTH = 1 << 18, /* of embedding and feed-forward: far above any real model, small enough for int products */
    MAX_VOCAB = 1 << 22,
    MAX_HEADS = 1024,
    MAX_HEAD_DIM = 256, /* what the attention kernels keep in scratch */
};

static const struct model_family families[] = {
    {.architecture = "llama", .rope = ROPE_INTERLEAVED},
};
enum { N_FAMILIES = sizeof families / sizeof families[0] };

/* --- shape --- */

static int fail(struct engine_error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int fail(struct engine_error *error, const char *format, ...) {
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
        return fail(error, "%s: the file does not say its architecture (general.architecture)", gguf_path(gguf));
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
    return fail(error, "%s: architecture '%.*s' is not supported; supported: %s", gguf_path(gguf),
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

static int read_widths(struct model_shape *s, const struct gguf *gguf, struct engine_error *error) {
    int rc;
    if ((rc = read_int(s, gguf, "block_count", MAX_LAYERS, true, &s->n_layers, error)) ||
        (rc = read_int(s, gguf, "context_length", INT32_MAX, true, &s->ctx_train, error)) ||
        (rc = read_int(s, gguf, "embedding_length", MAX_WIDTH, true, &s->n_embd, error)) ||
        (rc = read_int(s, gguf, "feed_forward_length", MAX_WIDTH, true, &s->n_ffn, error)) ||
        (rc = read_int(s, gguf, "attention.head_count", MAX_HEADS, true, &s->n_heads, error)))
        return rc;
    s->n_kv_heads = s->n_heads;
    if ((rc = read_int(s, gguf, "attention.head_count_kv", MAX_HEADS, false, &s->n_kv_heads, error))) return rc;
    if (s->n_heads % s->n_kv_heads != 0)
        return fail(error, "%s: %d attention heads cannot share %d key/value heads evenly", gguf_path(gguf), s->n_heads,
                    s->n_kv_heads);
    s->head_dim = s->n_embd / s->n_heads;
    int value_dim = 0;
    if ((rc = read_int(s, gguf, "attention.key_length", MAX_WIDTH, false, &s->head_dim, error))) return rc;
    value_dim = s->head_dim;
    if ((rc = read_int(s, gguf, "attention.value_length", MAX_WIDTH, false, &value_dim, error))) return rc;
    if (value_dim != s->head_dim)
        return fail(error, "%s: keys of %d and values of %d dimensions a head are not supported; they must be equal",
                    gguf_path(gguf), s->head_dim, value_dim);
    if (s->head_dim % 16 != 0 || s->head_dim > MAX_HEAD_DIM)
        return fail(error, "%s: heads of %d dimensions are not supported; a multiple of 16 up to %d is", gguf_path(gguf),
                    s->head_dim, MAX_HEAD_DIM);
    if (s->n_embd % QUANT_BLOCK != 0 || s->n_ffn % QUANT_BLOCK != 0)
        return fail(error, "%s: embedding length %d and feed-forward length %d must be multiples of %d", gguf_path(gguf),
                    s->n_embd, s->n_ffn, QUANT_BLOCK);
    return ENGINE_OK;
}

static int read_rope(struct model_shape *s, const struct gguf *gguf, struct engine_error *error) {
    char key[128];
    int rc;
    float base = 10000, factor = 1;
    s->rope_dim = s->head_dim;
    if ((rc = read_int(s, gguf, "rope.dimension_count", MAX_WIDTH, false, &s->rope_dim, error))) return rc;
    if (s->rope_dim > s->head_dim || s->rope_dim % 2 != 0)
        return fail(error, "%s: %d rotated dimensions do not suit heads of %d", gguf_path(gguf), s->rope_dim, s->head_dim);
    if ((rc = gguf_accept_f32(gguf, key_of(s, "rope.freq_base", key, sizeof key), 1, 1e12f, &base, error))) return rc;
    struct gguf_string scaling;
    enum gguf_answer answer = gguf_get_string(gguf, key_of(s, "rope.scaling.type", key, sizeof key), &scaling);
    if (answer == GGUF_MISMATCH) return fail(error, "%s: %s is not a string", gguf_path(gguf), key);
    bool is_linear = answer == GGUF_FOUND && scaling.len == 6 && memcmp(scaling.data, "linear", 6) == 0;
    bool is_none = answer == GGUF_ABSENT || (scaling.len == 4 && memcmp(scaling.data, "none", 4) == 0);
    if (!is_linear && !is_none)
        return fail(error, "%s: position scaling '%.*s' is not supported; supported: none, linear", gguf_path(gguf),
                    (int)(scaling.len < 64 ? scaling.len : 64), scaling.data);
    if (is_linear && (rc = gguf_require_f32(gguf, key_of(s, "rope.scaling.factor", key, sizeof key), 1, 1e6f, &factor, error)))
        return rc;
    s->rope_base = (double)base;
    s->rope_scale = 1.0 / (double)factor;
    return ENGINE_OK;
}

static int read_vocab(struct model_shape *s, const struct gguf *gguf, struct engine_error *error) {
    const struct gguf_tensor *embedding = gguf_find_tensor(gguf, "token_embd.weight");
    if (!embedding) return fail(error, "%s: the tensor token_embd.weight is missing", gguf_path(gguf));
    if (embedding->n_dims != 2 || embedding->dims[1] < 1 || embedding->dims[1] > MAX_VOCAB)
        return fail(error, "%s: token_embd.weight is not a matrix of 1 to %d rows", gguf_path(gguf), MAX_VOCAB);
    s->vocab_size = (int)embedding->dims[1];
    s->has_head = gguf_find_tensor(gguf, "output.weight") != NULL;
    if (!gguf_find_tensor(gguf, "rope_freqs.weight")) return ENGINE_OK;
    enum dtype type;
    int rc = gguf_require_tensor(gguf, "rope_freqs.weight", 1, s->rope_dim / 2, &s->rope_factors, &type, error);
    if (rc == ENGINE_OK && type != DTYPE_F32) return fail(error, "%s: rope_freqs.weight must be F32", gguf_path(gguf));
    return rc;
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
    }
}

int model_read_shape(struct model_shape *shape, const struct gguf *gguf, struct engine_error *error) {
    char key[128];
    int rc;
    memset(shape, 0, sizeof *shape);
    if ((rc = read_family(shape, gguf, error)) || (rc = read_widths(shape, gguf, error)) ||
        (rc = read_rope(shape, gguf, error)) || (rc = read_vocab(shape, gguf, error)))
        return rc;
    key_of(shape, "attention.layer_norm_rms_epsilon", key, sizeof key);
    if ((rc = gguf_require_f32(gguf, key, 1e-12f, 1, &shape->norm_eps, error))) return rc;
    key_of(shape, "expert_count", key, sizeof key);
    uint32_t n_experts = 0;
    if ((rc = gguf_accept_u32(gguf, key, 0, UINT32_MAX, &n_experts, error))) return rc;
    if (n_experts > 0) return fail(error, "%s: mixture of experts (%u experts) is not supported", gguf_path(gguf), n_experts);
    count_parameters(shape, gguf);
    return ENGINE_OK;
}

/* --- weights --- */

/* State of a load; counts the tensors used, so that ones left over are noticed. */
struct loader {
    struct model *model;
    const struct gguf *gguf;
    struct engine_error *error;
    float *next_norm;
    size_t n_used;
    uint64_t bytes_done;
    bool norm_float, norm_int8, attn_float, attn_int8, ffn_float, ffn_int8; /* forms that the matmuls' inputs need */
};

static int load_matrix(struct loader *ld, const char *name, int n_rows, int n_cols, bool *want_float, bool *want_int8,
                       struct weight **out) {
    struct model *m = ld->model;
    const struct gguf_tensor *tensor;
    enum dtype type;
    int rc = gguf_require_tensor(ld->gguf, name, n_rows, n_cols, &tensor, &type, ld->error);
    if (rc != ENGINE_OK) return rc;
    int status = m->backend.ops->weight_load(m->backend.self, tensor->data, type, n_rows, n_cols, out);
    if (status == KERNELS_ERR_MEMORY) {
        snprintf(ld->error->text, sizeof ld->error->text, "%s: no memory for tensor %s (%zu bytes)", gguf_path(ld->gguf), name,
                 tensor->bytes);
        return ENGINE_ERR_MEMORY;
    }
    if (status != KERNELS_OK)
        return fail(ld->error, "%s: tensor %s: no kernel for type %s with %d rows of %d", gguf_path(ld->gguf), name,
                    dtype_name(type), n_rows, n_cols);
    *(dtype_is_quantized(type) ? want_int8 : want_float) = true;
    gguf_release_pages(ld->gguf, tensor);
    ld->bytes_done += tensor->bytes;
    ld->n_used++;
    return ENGINE_OK;
}

static int load_norm(struct loader *ld, const char *name, float **out) {
    const struct gguf_tensor *tensor;
    enum dtype type;
    int n = ld->model->shape.n_embd;
    int rc = gguf_require_tensor(ld->gguf, name, 1, n, &tensor, &type, ld->error);
    if (rc != ENGINE_OK) return rc;
    dtype_row_to_float(type, tensor->data, ld->next_norm, n);
    *out = ld->next_norm;
    ld->next_norm += n;
    ld->n_used++;
    return ENGINE_OK;
}

static int load_layer(struct loader *ld, int layer) {
    const struct model_shape *s = &ld->model->shape;
    struct model_layer *l = &ld->model->layers[layer];
    int n_q = s->n_heads * s->head_dim, n_kv = s->n_kv_heads * s->head_dim;
    bool *nf = &ld->norm_float, *ni = &ld->norm_int8;
    const struct {
        const char *name;
        int n_rows, n_cols;
        bool *want_float, *want_int8;
        struct weight **out;
    } matrices[] = {
        {"attn_q", n_q, s->n_embd, nf, ni, &l->q},
        {"attn_k", n_kv, s->n_embd, nf, ni, &l->k},
        {"attn_v", n_kv, s->n_embd, nf, ni, &l->v},
        {"attn_output", s->n_embd, n_q, &ld->attn_float, &ld->attn_int8, &l->o},
        {"ffn_gate", s->n_ffn, s->n_embd, nf, ni, &l->gate},
        {"ffn_up", s->n_ffn, s->n_embd, nf, ni, &l->up},
        {"ffn_down", s->n_embd, s->n_ffn, &ld->ffn_float, &ld->ffn_int8, &l->down},
    };
    char name[GGUF_NAME_SIZE];
    int rc;
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", layer, matrices[i].name);
        rc = load_matrix(ld, name, matrices[i].n_rows, matrices[i].n_cols, matrices[i].want_float, matrices[i].want_int8,
                         matrices[i].out);
        if (rc != ENGINE_OK) return rc;
    }
    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", layer);
    if ((rc = load_norm(ld, name, &l->attn_norm))) return rc;
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", layer);
    return load_norm(ld, name, &l->ffn_norm);
}

static int load_weights(struct loader *ld) {
    struct model *m = ld->model;
    const struct model_shape *s = &m->shape;
    int rc;
    bool unused_form = false; /* the embedding alone is read row by row, as any type */
    bool *embedding_float = s->has_head ? &unused_form : &ld->norm_float,
         *embedding_int8 = s->has_head ? &unused_form : &ld->norm_int8;
    rc = load_matrix(ld, "token_embd.weight", s->vocab_size, s->n_embd, embedding_float, embedding_int8, &m->embedding);
    if (rc != ENGINE_OK) return rc;
    m->head = m->embedding;
    if (s->has_head) {
        m->head = NULL;
        rc = load_matrix(ld, "output.weight", s->vocab_size, s->n_embd, &ld->norm_float, &ld->norm_int8, &m->head);
        if (rc != ENGINE_OK) return rc;
    }
    if ((rc = load_norm(ld, "output_norm.weight", &m->output_norm))) return rc;
    int reported = 0;
    for (int layer = 0; layer < s->n_layers; layer++) {
        if ((rc = load_layer(ld, layer))) return rc;
        int percent = (int)(100 * ld->bytes_done / (s->weight_bytes + 1));
        if (s->weight_bytes > (1u << 30) &&
            percent >= reported + 10) { /* small models load in less time than a line takes to read */
            reported = percent / 10 * 10;
            log_info("model", "loading: %d %%", reported);
        }
    }
    if (s->rope_factors) ld->n_used++;
    return ENGINE_OK;
}

/* A tensor that the network does not use means that the file asks for something this network does not do (a bias, say). */
static int refuse_left_over(const struct loader *ld) {
    static const char *const known[] = {"token_embd.weight", "output.weight", "output_norm.weight", "rope_freqs.weight"};
    static const char *const in_layer[] = {"attn_q.weight",   "attn_k.weight",       "attn_v.weight",   "attn_output.weight",
                                           "ffn_gate.weight", "ffn_up.weight",       "ffn_down.weight", "attn_norm.weight",
                                           "ffn_norm.weight", "attn_rot_embd.weight"};
    if (ld->n_used == gguf_n_tensors(ld->gguf)) return ENGINE_OK;
    for (size_t i = 0; i < gguf_n_tensors(ld->gguf); i++) {
        const char *name = gguf_tensor_at(ld->gguf, i)->name;
        int layer, at = 0;
        bool is_layer = sscanf(name, "blk.%d.%n", &layer, &at) == 1 && at > 0 && layer >= 0 && layer < ld->model->shape.n_layers;
        const char *const *names = is_layer ? in_layer : known;
        size_t n_names = is_layer ? sizeof in_layer / sizeof *in_layer : sizeof known / sizeof *known, k = 0;
        while (k < n_names && strcmp(is_layer ? name + at : name, names[k]) != 0) k++;
        if (k < n_names) continue;
        return fail(ld->error, "%s: the tensor %s has no place in the %s architecture as this version knows it",
                    gguf_path(ld->gguf), name, ld->model->shape.family->architecture);
    }
    return ENGINE_OK;
}

/* --- tables and buffers --- */

static void fill_cos_sin(struct model *m) {
    int half = m->shape.rope_dim / 2;
    for (int i = 0; i < half; i++) {
        double frequency = m->shape.rope_scale * pow(m->shape.rope_base, -2.0 * i / m->shape.rope_dim);
        float factor = 1;
        if (m->shape.rope_factors) memcpy(&factor, (const char *)m->shape.rope_factors->data + 4 * (size_t)i, sizeof factor);
        frequency /= (double)factor;
        for (int pos = 0; pos < m->limits.ctx_len; pos++) {
            float *pair = m->cos_sin + 2 * ((size_t)pos * (size_t)half + (size_t)i);
            pair[0] = (float)cos(pos * frequency);
            pair[1] = (float)sin(pos * frequency);
        }
    }
}

/* Every plain buffer of the model: where the pointer goes and how many floats it has. model_buffer_bytes and model_close use the
 * same list. */
struct buffer {
    size_t offset; /* of the float * in struct model */
    size_t n;
};
enum { N_BUFFERS = 8 };

static void list_buffers(const struct model_shape *s, const struct model_limits *limits, struct buffer *list) {
    size_t rows = (size_t)limits->max_rows, n_q = (size_t)(s->n_heads * s->head_dim);
    size_t kv = (size_t)row_group_pad(s->n_kv_heads * s->head_dim);
    list[0] = (struct buffer){offsetof(struct model, cos_sin), (size_t)limits->ctx_len * (size_t)s->rope_dim};
    list[1] = (struct buffer){offsetof(struct model, x), rows * (size_t)row_group_pad(s->n_embd)};
    list[2] = (struct buffer){offsetof(struct model, q), rows * (size_t)row_group_pad((int)n_q)};
    list[3] = (struct buffer){offsetof(struct model, k), rows * kv};
    list[4] = (struct buffer){offsetof(struct model, v), rows * kv};
    list[5] = (struct buffer){offsetof(struct model, attn), rows * n_q};
    list[6] = (struct buffer){offsetof(struct model, ffn), rows * (size_t)row_group_pad(s->n_ffn)};
    list[7] = (struct buffer){offsetof(struct model, logits), (size_t)limits->max_logits * (size_t)row_group_pad(s->vocab_size)};
}

uint64_t model_buffer_bytes(const struct model_shape *shape, const struct model_limits *limits) {
    struct buffer list[N_BUFFERS];
    uint64_t n = 0, rows = (uint64_t)limits->max_rows;
    list_buffers(shape, limits, list);
    for (int i = 0; i < N_BUFFERS; i++) n += list[i].n * sizeof(float);
    uint64_t inputs = (uint64_t)shape->n_embd + (uint64_t)(shape->n_heads * shape->head_dim) + (uint64_t)shape->n_ffn;
    return n + rows * inputs * (sizeof(float) + 1 + 8 / QUANT_BLOCK + 1); /* floats, int8, scales and sums */
}

static int open_buffers(struct loader *ld) {
    struct model *m = ld->model;
    const struct model_shape *s = &m->shape;
    struct buffer list[N_BUFFERS];
    list_buffers(s, &m->limits, list);
    m->x_stride = row_group_pad(s->n_embd);
    m->q_stride = row_group_pad(s->n_heads * s->head_dim);
    m->kv_stride = row_group_pad(s->n_kv_heads * s->head_dim);
    m->ffn_stride = row_group_pad(s->n_ffn);
    m->logits_stride = row_group_pad(s->vocab_size);
    for (int i = 0; i < N_BUFFERS; i++) {
        float *memory = m->backend.ops->alloc(m->backend.self, list[i].n * sizeof(float));
        if (!memory) goto no_memory;
        memcpy((char *)m + list[i].offset, &memory, sizeof memory);
    }
    int rows = m->limits.max_rows;
    if (activation_alloc(&m->backend, rows, s->n_embd, ld->norm_float, ld->norm_int8, &m->norm_act) != KERNELS_OK ||
        activation_alloc(&m->backend, rows, s->n_heads * s->head_dim, ld->attn_float, ld->attn_int8, &m->attn_act) !=
            KERNELS_OK ||
        activation_alloc(&m->backend, rows, s->n_ffn, ld->ffn_float, ld->ffn_int8, &m->ffn_act) != KERNELS_OK)
        goto no_memory;
    fill_cos_sin(m);
    return ENGINE_OK;
no_memory:
    snprintf(ld->error->text, sizeof ld->error->text,
             "%s: no memory for the buffers of a step (%.0f MiB); lower --ctx or --max-seqs", gguf_path(ld->gguf),
             (double)model_buffer_bytes(s, &m->limits) / (1 << 20));
    return ENGINE_ERR_MEMORY;
}

int model_open(struct model **out, const struct gguf *gguf, const struct model_shape *shape, const struct backend *backend,
               const struct model_limits *limits, struct engine_error *error) {
    *out = NULL;
    int rc = ENGINE_ERR_MEMORY;
    struct model *m = calloc(1, sizeof *m);
    if (m) {
        m->shape = *shape;
        m->limits = *limits;
        m->backend = *backend;
        m->layers = calloc((size_t)shape->n_layers, sizeof *m->layers);
        m->norms = calloc((size_t)(2 * shape->n_layers + 1) * (size_t)shape->n_embd, sizeof *m->norms);
    }
    if (!m || !m->layers || !m->norms) {
        snprintf(error->text, sizeof error->text, "%s: no memory for the model's tables", gguf_path(gguf));
        model_close(m);
        return rc;
    }
    struct loader ld = {.model = m, .gguf = gguf, .error = error, .next_norm = m->norms};
    if ((rc = load_weights(&ld)) || (rc = refuse_left_over(&ld)) || (rc = open_buffers(&ld))) {
        model_close(m);
        return rc;
    }
    m->shape.rope_factors = NULL; /* pointed into the file, which may be closed now */
    *out = m;
    return ENGINE_OK;
}

static void close_layer(struct model *m, struct model_layer *l) {
    struct weight *all[] = {l->q, l->k, l->v, l->o, l->gate, l->up, l->down};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) m->backend.ops->weight_free(m->backend.self, all[i]);
}

void model_close(struct model *m) {
    if (!m) return;
    for (int i = 0; m->layers && i < m->shape.n_layers; i++) close_layer(m, &m->layers[i]);
    if (m->head != m->embedding) m->backend.ops->weight_free(m->backend.self, m->head);
    m->backend.ops->weight_free(m->backend.self, m->embedding);
    struct buffer list[N_BUFFERS];
    list_buffers(&m->shape, &m->limits, list);
    for (int i = 0; i < N_BUFFERS; i++) {
        float *memory;
        memcpy(&memory, (char *)m + list[i].offset, sizeof memory);
        if (memory) m->backend.ops->free(m->backend.self, memory, list[i].n * sizeof(float));
    }
    activation_free(&m->backend, &m->norm_act);
    activation_free(&m->backend, &m->attn_act);
    activation_free(&m->backend, &m->ffn_act);
    free(m->layers);
    free(m->norms);
    free(m);
}
