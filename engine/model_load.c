/* model_load.c - from a GGUF file to a model: weights, tables, buffers.
 *
 * Every tensor is checked against the shape before it is used, so that a wrong file gets a sentence. Weights are repacked by the
 * backend one by one; the file's pages are given back behind it, so that the model is not in memory twice. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/log.h"
#include "engine/model.h"

/* --- weights --- */

/* The forms that the readers of an activation need. */
struct forms {
    bool want_float, want_int8;
};

/* State of a load; marks the tensors used, so that ones left over are noticed. */
struct loader {
    struct model *model;
    const struct gguf *gguf;
    struct engine_error *error;
    float *next_norm;
    bool *used;      /* [n_tensors] */
    bool only_looks; /* model_check: nothing is read ahead */
    uint64_t bytes_done;
    struct forms norm, attn, ffn, expert;
};

/* Small models load in less time than a line takes to read. */
static void count_loaded(struct loader *ld, const struct gguf_tensor *tensor, size_t bytes) {
    const uint64_t worth_telling = 512u << 20, all = ld->model->shape.weight_bytes;
    ld->bytes_done += bytes;
    ld->used[tensor - gguf_tensor_at(ld->gguf, 0)] = true;
    if (all >= worth_telling && !ld->only_looks) log_progress("model", "loading", (int)(100 * ld->bytes_done / (all + 1)));
}

/* A matrix in the file: rows of a tensor from `first` on, over all its dimensions. */
struct source {
    const struct gguf_tensor *tensor;
    enum dtype type;
    int64_t first;
};

static int find_source(const struct loader *ld, const char *name, int n_rows, int n_cols, struct source *out) {
    out->first = 0;
    return gguf_require_tensor(ld->gguf, name, n_rows, n_cols, &out->tensor, &out->type, ld->error);
}

/* Of sources that could not be loaded. */
static int refuse_sources(const struct loader *ld, int status, const struct source *from, int n, int n_rows, int n_cols) {
    if (status == KERNELS_ERR_MEMORY) {
        snprintf(ld->error->text, sizeof ld->error->text, "%s: no memory for tensor %s (%zu bytes)", gguf_path(ld->gguf),
                 from->tensor->name, dtype_row_bytes(from->type, n_cols) * (size_t)n_rows * (size_t)n);
        return ENGINE_ERR_MEMORY;
    }
    if (n > 1 && backend_weight_bytes(from->type, n_rows, n_cols) > 0) from++;
    return model_refuse(ld->error, "%s: tensor %s: no kernel for type %s with %d rows of %d", gguf_path(ld->gguf),
                        from->tensor->name, dtype_name(from->type), n_rows, n_cols);
}

/* One matrix, or a pair that is multiplied together. With its last rows a tensor is done. */
static int load_sources(struct loader *ld, const struct source *from, int n, int n_rows, int n_cols, struct forms *forms,
                        struct weight **out) {
    const struct backend *b = &ld->model->backend;
    const void *rows[2];
    enum dtype types[2];
    for (int i = 0; i < n; i++) {
        types[i] = from[i].type;
        rows[i] = (const char *)from[i].tensor->data + (size_t)from[i].first * dtype_row_bytes(types[i], n_cols);
        if (from[i].first == 0 && !ld->only_looks) gguf_want_pages(ld->gguf, from[i].tensor);
    }
    int status = n == 2 ? b->ops->weight_load_pair(b->self, rows, types, n_rows, n_cols, out)
                        : b->ops->weight_load(b->self, rows[0], types[0], n_rows, n_cols, out);
    if (status != KERNELS_OK) return refuse_sources(ld, status, from, n, n_rows, n_cols);
    for (int i = 0; i < n; i++) {
        const int64_t *dims = from[i].tensor->dims;
        *(dtype_is_quantized(types[i]) ? &forms->want_int8 : &forms->want_float) = true;
        count_loaded(ld, from[i].tensor, dtype_row_bytes(types[i], n_cols) * (size_t)n_rows);
        if (from[i].first + n_rows == dims[1] * dims[2] * dims[3]) gguf_release_pages(ld->gguf, from[i].tensor);
    }
    return ENGINE_OK;
}

static int load_matrix(struct loader *ld, const char *name, int n_rows, int n_cols, struct forms *forms, struct weight **out) {
    struct source source;
    int rc = find_source(ld, name, n_rows, n_cols, &source);
    return rc == ENGINE_OK ? load_sources(ld, &source, 1, n_rows, n_cols, forms, out) : rc;
}

/* A vector of n floats; room is row_group_pad(n), zeros behind. */
static int load_vector(struct loader *ld, const char *name, int n, float **out) {
    const struct gguf_tensor *tensor;
    enum dtype type;
    int rc = gguf_require_tensor(ld->gguf, name, 1, n, &tensor, &type, ld->error);
    if (rc != ENGINE_OK) return rc;
    dtype_row_to_float(type, tensor->data, ld->next_norm, n);
    *out = ld->next_norm;
    ld->next_norm += row_group_pad(n);
    ld->used[tensor - gguf_tensor_at(ld->gguf, 0)] = true;
    return ENGINE_OK;
}

static const char *layer_name(int layer, const char *part, char name[GGUF_NAME_SIZE]) {
    snprintf(name, GGUF_NAME_SIZE, "blk.%d.%s", layer, part);
    return name;
}

static int load_attention(struct loader *ld, int layer) {
    const struct model_shape *s = &ld->model->shape;
    struct model_layer *l = &ld->model->layers[layer];
    int rc, n_q = s->n_heads * s->head_dim, n_kv = s->n_kv_heads * s->head_dim;
    char name[GGUF_NAME_SIZE];
    const int n_rows[] = {n_q, n_kv, n_kv};
    struct weight **const out[] = {&l->q, &l->k, &l->v};
    static const char *const names[] = {"attn_q.weight", "attn_k.weight", "attn_v.weight"};
    struct source source;
    if (s->family->fused) {
        layer_name(layer, "attn_qkv.weight", name);
        if ((rc = find_source(ld, name, n_q + 2 * n_kv, s->n_embd, &source))) return rc;
    }
    for (int i = 0; i < 3; i++) {
        if (!s->family->fused && (rc = find_source(ld, layer_name(layer, names[i], name), n_rows[i], s->n_embd, &source)))
            return rc;
        if ((rc = load_sources(ld, &source, 1, n_rows[i], s->n_embd, &ld->norm, out[i]))) return rc;
        source.first += n_rows[i];
    }
    return load_matrix(ld, layer_name(layer, "attn_output.weight", name), s->n_embd, n_q, &ld->attn, &l->o);
}

/* A matrix of expert e: in a tensor of three dimensions that has those of all, or (older files) a tensor of its own. */
static int find_expert(const struct loader *ld, int layer, const char *part, int e, int n_rows, int n_cols, struct source *out) {
    const int n_experts = ld->model->shape.n_experts;
    char name[GGUF_NAME_SIZE];
    snprintf(name, sizeof name, "blk.%d.%s_exps.weight", layer, part);
    const struct gguf_tensor *all = gguf_find_tensor(ld->gguf, name);
    if (!all) {
        snprintf(name, sizeof name, "blk.%d.%s.%d.weight", layer, part, e);
        return find_source(ld, name, n_rows, n_cols, out);
    }
    if (all->dims[0] != n_cols || all->dims[1] != n_rows || all->dims[2] != n_experts || all->dims[3] != 1)
        return model_refuse(ld->error,
                            "%s: tensor %s is %lld x %lld x %lld, but the model's metadata ask for %d experts of %d rows of %d",
                            gguf_path(ld->gguf), name, (long long)all->dims[0], (long long)all->dims[1], (long long)all->dims[2],
                            n_experts, n_rows, n_cols);
    if (!gguf_type_to_dtype(all->type, &out->type))
        return model_refuse(ld->error, "%s: tensor %s has type %s, which this program cannot compute with", gguf_path(ld->gguf),
                            name, gguf_type_name(all->type));
    out->tensor = all;
    out->first = (int64_t)e * n_rows;
    return ENGINE_OK;
}

static int load_expert(struct loader *ld, int layer, int e) {
    const struct model_shape *s = &ld->model->shape;
    struct model_expert *expert = &ld->model->layers[layer].experts[e];
    struct source gate_up[2], down;
    struct weight *pair[2];
    int rc;
    if ((rc = find_expert(ld, layer, "ffn_gate", e, s->n_ffn, s->n_embd, &gate_up[0])) ||
        (rc = find_expert(ld, layer, "ffn_up", e, s->n_ffn, s->n_embd, &gate_up[1])) ||
        (rc = find_expert(ld, layer, "ffn_down", e, s->n_embd, s->n_ffn, &down)) ||
        (rc = load_sources(ld, gate_up, 2, s->n_ffn, s->n_embd, &ld->expert, pair)))
        return rc;
    expert->gate = pair[0];
    expert->up = pair[1];
    return load_sources(ld, &down, 1, s->n_embd, s->n_ffn, &ld->ffn, &expert->down);
}

static int load_experts(struct loader *ld, int layer) {
    const struct model_shape *s = &ld->model->shape;
    struct model_layer *l = &ld->model->layers[layer];
    char name[GGUF_NAME_SIZE];
    int rc;
    l->experts = calloc((size_t)s->n_experts, sizeof *l->experts);
    if (!l->experts) {
        snprintf(ld->error->text, sizeof ld->error->text, "%s: no memory for the model's tables", gguf_path(ld->gguf));
        return ENGINE_ERR_MEMORY;
    }
    rc = load_matrix(ld, layer_name(layer, "ffn_gate_inp.weight", name), s->n_experts, s->n_embd, &ld->norm, &l->router);
    if (rc != ENGINE_OK) return rc;
    for (int e = 0; e < s->n_experts; e++)
        if ((rc = load_expert(ld, layer, e))) return rc;
    ld->norm.want_float |= ld->expert.want_float; /* the rows of an expert are copied from there */
    ld->norm.want_int8 |= ld->expert.want_int8;
    return ENGINE_OK;
}

static int load_ffn(struct loader *ld, int layer) {
    const struct model_shape *s = &ld->model->shape;
    struct model_layer *l = &ld->model->layers[layer];
    char name[GGUF_NAME_SIZE];
    int rc;
    struct source gate_up[2];
    struct weight *pair[2];
    if (s->n_experts > 0) return load_experts(ld, layer);
    if (s->family->fused) {
        if ((rc = find_source(ld, layer_name(layer, "ffn_up.weight", name), 2 * s->n_ffn, s->n_embd, &gate_up[0]))) return rc;
        gate_up[1] = gate_up[0];
        gate_up[1].first = s->n_ffn;
    } else if ((rc = find_source(ld, layer_name(layer, "ffn_gate.weight", name), s->n_ffn, s->n_embd, &gate_up[0])) ||
               (rc = find_source(ld, layer_name(layer, "ffn_up.weight", name), s->n_ffn, s->n_embd, &gate_up[1]))) {
        return rc;
    }
    if ((rc = load_sources(ld, gate_up, 2, s->n_ffn, s->n_embd, &ld->norm, pair))) return rc;
    l->gate = pair[0];
    l->up = pair[1];
    return load_matrix(ld, layer_name(layer, "ffn_down.weight", name), s->n_embd, s->n_ffn, &ld->ffn, &l->down);
}

/* Norms that the family has, and biases that the file has. */
static int load_vectors(struct loader *ld, int layer) {
    const struct model_shape *s = &ld->model->shape;
    const struct model_family *f = s->family;
    struct model_layer *l = &ld->model->layers[layer];
    int n_kv = s->n_kv_heads * s->head_dim;
    char name[GGUF_NAME_SIZE];
    const struct {
        const char *part;
        enum { ALWAYS, IF_THERE, NEVER } when;
        int n;
        float **out;
    } vectors[] = {
        {"attn_norm.weight", ALWAYS, s->n_embd, &l->attn_norm},
        {"ffn_norm.weight", ALWAYS, s->n_embd, &l->ffn_norm},
        {"post_attention_norm.weight", f->post_norms ? ALWAYS : NEVER, s->n_embd, &l->attn_post_norm},
        {"post_ffw_norm.weight", f->post_norms ? ALWAYS : NEVER, s->n_embd, &l->ffn_post_norm},
        {"attn_q_norm.weight", f->qk_norm ? ALWAYS : NEVER, s->head_dim, &l->q_norm},
        {"attn_k_norm.weight", f->qk_norm ? ALWAYS : NEVER, s->head_dim, &l->k_norm},
        {"attn_q.bias", IF_THERE, s->n_heads * s->head_dim, &l->q_bias},
        {"attn_k.bias", IF_THERE, n_kv, &l->k_bias},
        {"attn_v.bias", IF_THERE, n_kv, &l->v_bias},
        {"attn_output.bias", IF_THERE, s->n_embd, &l->o_bias},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        layer_name(layer, vectors[i].part, name);
        if (vectors[i].when == NEVER || (vectors[i].when == IF_THERE && !gguf_find_tensor(ld->gguf, name))) continue;
        int rc = load_vector(ld, name, vectors[i].n, vectors[i].out);
        if (rc != ENGINE_OK) return rc;
    }
    return ENGINE_OK;
}

/* Room for what load_vectors reads in all layers, and the last norm. */
static size_t n_vector_floats(const struct model_shape *s) {
    size_t embd = (size_t)row_group_pad(s->n_embd), head = (size_t)row_group_pad(s->head_dim);
    size_t qkv = head * (size_t)(s->n_heads + 2 * s->n_kv_heads);
    return (size_t)s->n_layers * (5 * embd + 2 * head + qkv) + embd;
}

static int load_layer(struct loader *ld, int layer) {
    const struct model_shape *s = &ld->model->shape;
    struct model *m = ld->model;
    struct model_layer *l = &m->layers[layer];
    int rc;
    if ((rc = load_attention(ld, layer)) || (rc = load_ffn(ld, layer)) || (rc = load_vectors(ld, layer))) return rc;
    l->window = s->is_local[layer] ? s->window : 0;
    return ENGINE_OK;
}

static int load_weights(struct loader *ld) {
    struct model *m = ld->model;
    const struct model_shape *s = &m->shape;
    int rc;
    struct forms unused = {0}; /* the embedding alone is read row by row, as any type */
    rc = load_matrix(ld, "token_embd.weight", s->vocab_size, s->n_embd, s->has_head ? &unused : &ld->norm, &m->embedding);
    if (rc != ENGINE_OK) return rc;
    m->head = m->embedding;
    if (s->has_head) {
        m->head = NULL;
        rc = load_matrix(ld, "output.weight", s->vocab_size, s->n_embd, &ld->norm, &m->head);
        if (rc != ENGINE_OK) return rc;
    }
    if ((rc = load_vector(ld, "output_norm.weight", s->n_embd, &m->output_norm))) return rc;
    for (int layer = 0; layer < s->n_layers; layer++) {
        if ((rc = load_layer(ld, layer))) return rc;
    }
    return ENGINE_OK;
}

/* A tensor that the network does not use means that the file asks for something this network does not do. The tables of angles
 * are known from the shape. */
static int refuse_left_over(const struct loader *ld) {
    static const char *const tables[] = {"rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"};
    for (size_t i = 0; i < gguf_n_tensors(ld->gguf); i++) {
        const char *name = gguf_tensor_at(ld->gguf, i)->name;
        bool known = ld->used[i] || strstr(name, ".attn_rot_embd.weight");
        for (size_t k = 0; k < sizeof tables / sizeof *tables; k++) known |= strcmp(name, tables[k]) == 0;
        if (known) continue;
        return model_refuse(ld->error, "%s: the tensor %s has no place in the %s architecture as this version knows it",
                            gguf_path(ld->gguf), name, ld->model->shape.family->architecture);
    }
    return ENGINE_OK;
}

/* --- tables and buffers --- */

static void fill_tables(struct model *m) {
    const struct model_shape *s = &m->shape;
    int period = s->family->rope_free_period;
    bool two = s->local_rope.base > 0;
    model_fill_rope(&s->rope, s->rope_dim, m->limits.ctx_len, m->cos_sin);
    if (two) model_fill_rope(&s->local_rope, s->rope_dim, m->limits.ctx_len, m->local_cos_sin);
    for (int i = 0; i < s->n_layers; i++) {
        m->layers[i].cos_sin = two && s->is_local[i] ? m->local_cos_sin : m->cos_sin;
        if (period > 0 && (i + 1) % period == 0) m->layers[i].cos_sin = NULL;
    }
}

/* Every plain buffer of the model: where the pointer goes and how many floats (or int32_t) it has. model_buffer_bytes and
 * model_close use the same list. */
struct buffer {
    size_t offset; /* of the pointer in struct model */
    size_t n;
};
enum { N_BUFFERS = 17 };

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
    size_t used = (size_t)s->n_experts_used, branches = used > 0 ? used : s->family->post_norms ? 1 : 0;
    list[8] = (struct buffer){offsetof(struct model, branch), rows * branches * (size_t)row_group_pad(s->n_embd)};
    list[9] = (struct buffer){offsetof(struct model, router_logits), rows * (size_t)row_group_pad(s->n_experts)};
    list[10] = (struct buffer){offsetof(struct model, share), rows * used};
    list[11] = (struct buffer){offsetof(struct model, chosen), rows * used};
    list[12] = (struct buffer){offsetof(struct model, place), rows * used};
    list[13] = (struct buffer){offsetof(struct model, expert_rows), rows * used};
    list[14] = (struct buffer){offsetof(struct model, local_cos_sin), s->local_rope.base > 0 ? list[0].n : 0};
    size_t n_features = limits->feature_layers[0] > 0 ? MODEL_FEATURES * (size_t)s->n_embd : 0;
    list[15] = (struct buffer){offsetof(struct model, features), rows * n_features};
    list[16] = (struct buffer){offsetof(struct model, maxima), (size_t)limits->max_logits * (size_t)row_blocks(s->vocab_size)};
}

uint64_t model_buffer_bytes(const struct model_shape *shape, const struct model_limits *limits) {
    struct buffer list[N_BUFFERS];
    uint64_t n = 0, rows = (uint64_t)limits->max_rows;
    list_buffers(shape, limits, list);
    for (int i = 0; i < N_BUFFERS; i++) n += list[i].n * sizeof(float);
    uint64_t down = (uint64_t)shape->n_ffn,
             others = (uint64_t)shape->n_embd * (shape->n_experts > 0 ? 2 : 1) + (uint64_t)(shape->n_heads * shape->head_dim);
    const uint64_t input = sizeof(float) + 1 + 8 / QUANT_BLOCK + 1; /* floats, int8, scales and sums */
    if (limits->rests == MODEL_RESTS_ALL) others *= 2;
    if (limits->rests != MODEL_RESTS_NONE) down *= 2;
    return n + rows * (down + others) * input;
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
    m->router_stride = row_group_pad(s->n_experts);
    m->embedding_scale = s->family->scaled_embedding ? sqrtf((float)s->n_embd) : 1;
    m->logits_stride = row_group_pad(s->vocab_size);
    for (int i = 0; i < N_BUFFERS; i++) {
        float *memory = m->backend.ops->alloc(m->backend.self, list[i].n * sizeof(float));
        if (!memory) goto no_memory;
        memcpy((char *)m + list[i].offset, &memory, sizeof memory);
    }
    const struct {
        struct forms forms;
        int n_cols;
        struct activation *out;
    } inputs[] = {{ld->norm, s->n_embd, &m->norm_act},
                  {ld->attn, s->n_heads * s->head_dim, &m->attn_act},
                  {ld->ffn, s->n_ffn, &m->ffn_act},
                  {ld->expert, s->n_embd, &m->expert_act}};
    for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++) {
        const struct forms *forms = &inputs[i].forms;
        const enum model_rests at_least = inputs[i].out == &m->ffn_act ? MODEL_RESTS_DOWN : MODEL_RESTS_ALL;
        const bool has_rest = m->limits.rests >= at_least && forms->want_int8;
        if (activation_alloc(&m->backend, m->limits.max_rows, inputs[i].n_cols, forms->want_float || has_rest, forms->want_int8,
                             inputs[i].out) != KERNELS_OK)
            goto no_memory;
        if (has_rest && activation_refine(&m->backend, inputs[i].out) != KERNELS_OK) goto no_memory;
    }
    fill_tables(m);
    return ENGINE_OK;
no_memory:
    snprintf(ld->error->text, sizeof ld->error->text,
             "%s: no memory for the buffers of a step (%.0f MiB); lower --ctx or --max-seqs", gguf_path(ld->gguf),
             (double)model_buffer_bytes(s, &m->limits) / (1 << 20));
    return ENGINE_ERR_MEMORY;
}

/* An empty model and its loader. On failure nothing is left. */
static int begin_load(struct loader *ld, const struct gguf *gguf, const struct model_shape *shape, const struct backend *backend,
                      const struct model_limits *limits, struct engine_error *error) {
    struct model *m = calloc(1, sizeof *m);
    bool *used = calloc(gguf_n_tensors(gguf), sizeof *used);
    if (m) {
        m->shape = *shape;
        m->limits = *limits;
        m->backend = *backend;
        m->layers = calloc((size_t)shape->n_layers, sizeof *m->layers);
        m->norms = calloc(n_vector_floats(shape), sizeof *m->norms);
    }
    if (m && m->layers && m->norms && used) {
        *ld = (struct loader){.model = m, .gguf = gguf, .error = error, .next_norm = m->norms, .used = used};
        return ENGINE_OK;
    }
    snprintf(error->text, sizeof error->text, "%s: no memory for the model's tables", gguf_path(gguf));
    free(used);
    model_close(m);
    return ENGINE_ERR_MEMORY;
}

int model_open(struct model **out, const struct gguf *gguf, const struct model_shape *shape, const struct backend *backend,
               const struct model_limits *limits, struct engine_error *error) {
    *out = NULL;
    struct loader ld;
    int rc = begin_load(&ld, gguf, shape, backend, limits, error);
    if (rc != ENGINE_OK) return rc;
    if ((rc = load_weights(&ld)) == ENGINE_OK && (rc = refuse_left_over(&ld)) == ENGINE_OK) rc = open_buffers(&ld);
    free(ld.used);
    if (rc != ENGINE_OK) {
        model_close(ld.model);
        return rc;
    }
    backend_cpu_tune(backend, ld.model->head);
    ld.model->shape.rope.factors = ld.model->shape.rope.long_factors = NULL; /* pointed into the file, which may be closed now */
    *out = ld.model;
    return ENGINE_OK;
}

/* --- looking without loading: a backend that takes weights and keeps nothing --- */

static int look_at_weight(void *self, const void *src, enum dtype type, int n_rows, int n_cols, struct weight **out) {
    (void)self, (void)src;
    *out = NULL;
    return backend_weight_bytes(type, n_rows, n_cols) > 0 ? KERNELS_OK : KERNELS_ERR_DTYPE;
}
static int look_at_pair(void *self, const void *const src[2], const enum dtype types[2], int n_rows, int n_cols,
                        struct weight *out[2]) {
    int rc = look_at_weight(self, src[0], types[0], n_rows, n_cols, &out[0]);
    return rc == KERNELS_OK ? look_at_weight(self, src[1], types[1], n_rows, n_cols, &out[1]) : rc;
}
static void forget_weight(void *self, struct weight *weight) { (void)self, (void)weight; }
static void forget_memory(void *self, void *memory, size_t bytes) { (void)self, (void)memory, (void)bytes; }

int model_check(const struct gguf *gguf, const struct model_shape *shape, struct engine_error *error) {
    static const struct backend_ops ops = {
        .weight_load = look_at_weight, .weight_load_pair = look_at_pair, .weight_free = forget_weight, .free = forget_memory};
    const struct backend looker = {.ops = &ops};
    const struct model_limits limits = {0};
    struct loader ld;
    int rc = begin_load(&ld, gguf, shape, &looker, &limits, error);
    if (rc != ENGINE_OK) return rc;
    ld.only_looks = true;
    if ((rc = load_weights(&ld)) == ENGINE_OK) rc = refuse_left_over(&ld);
    free(ld.used);
    model_close(ld.model);
    return rc;
}

static void close_layer(struct model *m, struct model_layer *l) {
    struct weight *all[] = {l->q, l->k, l->v, l->o, l->gate, l->up, l->down, l->router};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) m->backend.ops->weight_free(m->backend.self, all[i]);
    for (int e = 0; l->experts && e < m->shape.n_experts; e++) {
        m->backend.ops->weight_free(m->backend.self, l->experts[e].gate);
        m->backend.ops->weight_free(m->backend.self, l->experts[e].up);
        m->backend.ops->weight_free(m->backend.self, l->experts[e].down);
    }
    free(l->experts);
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
    activation_free(&m->backend, &m->expert_act);
    free(m->layers);
    free(m->norms);
    free(m);
}
