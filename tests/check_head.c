/* check_head.c - drafting heads for comparison with torch (tests/oracle/test_heads.py).
 *
 *     check_head gradients KIND      eagle, medusa or recurrent; a small random head and text: loss and gradients of every tensor
 *     check_head serve KIND          a random head on a tiny model, written and read: what it guesses, by the serving path
 *     check_head serve eagle FOLDER  the same; FOLDER/model.gguf and FOLDER/head.gguf stay, for tests/check_peer_head.py
 *
 * On standard output, array after array: a line "name rows cols", then floats. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unistd.h>

#include "engine/train.h"
#include "tests/tiny_model.h"

enum { N_TEXT = 21, VOCAB = 47 };

static uint64_t rng = 12345;
static float draw(void) {
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (float)(rng >> 40) * 0x1p-23f - 1;
}
static float *drawn(size_t n, float scale) {
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; x && i < n; i++) x[i] = scale * draw();
    if (!x) exit(2);
    return x;
}

static void put(const char *name, const float *x, int n_rows, int n_cols) {
    printf("%s %d %d\n", name, n_rows, n_cols);
    fwrite(x, sizeof *x, (size_t)n_rows * (size_t)n_cols, stdout);
}

/* --- gradients --- */

static struct example make_example(const struct head_shape *shape) {
    int width = shape->kind == HEAD_EAGLE ? MODEL_FEATURES * shape->n_embd : shape->n_embd;
    float *target = drawn((size_t)N_TEXT * VOCAB, 1), *weight = drawn(N_TEXT, 1);
    for (int i = 0; i < N_TEXT; i++) {
        float sum = 0;
        for (int k = 0; k < VOCAB; k++) sum += target[i * VOCAB + k] *= target[i * VOCAB + k];
        for (int k = 0; k < VOCAB; k++) target[i * VOCAB + k] /= sum;
        weight[i] = i % 5 == 3 ? 0 : 1;
    }
    struct example example = {.n = N_TEXT,
                              .input = drawn((size_t)(N_TEXT * width), 3),
                              .embeddings = drawn((size_t)(N_TEXT * shape->n_embd), 0.3f),
                              .target = target,
                              .weight = weight};
    put("input", example.input, N_TEXT, width);
    put("embeddings", example.embeddings, N_TEXT, shape->n_embd);
    put("target", target, N_TEXT, VOCAB);
    put("weight", weight, 1, N_TEXT);
    return example;
}

static int gradients(enum head_kind kind, const struct backend *backend) {
    struct head_shape shape = {.kind = kind,
                               .n_embd = 32,
                               .n_heads = 4,
                               .n_kv_heads = 2,
                               .head_dim = 16,
                               .n_ffn = 48,
                               .n_vocab = VOCAB,
                               .n_ahead = 3,
                               .norm_eps = 1e-5f,
                               .rope_base = 10000};
    struct trainer t;
    struct engine_error error;
    char name[GGUF_NAME_SIZE + 8];
    if (trainer_open(&t, &shape, backend, N_TEXT + 3, &error) != ENGINE_OK) return 2;
    trainer_init_weights(&t, 1);
    for (size_t i = 0; i < t.n_weights; i++) t.weights[i] += 0.1f * draw(); /* norms, too, differ from 1 */
    struct example example = make_example(&shape);
    trainer_learn(&t, &example);
    float loss = (float)t.loss;
    put("loss", &loss, 1, 1);
    for (int i = 0; i < head_n_tensors(&shape); i++) {
        const struct head_tensor w = head_tensor_at(&shape, i);
        put(w.name, trainer_weight(&t, i), w.n_rows, w.n_cols);
        snprintf(name, sizeof name, "d:%s", w.name);
        put(name, trainer_gradient(&t, i), w.n_rows, w.n_cols);
    }
    trainer_close(&t);
    free((void *)example.input), free((void *)example.embeddings), free((void *)example.target), free((void *)example.weight);
    return 0;
}

/* --- serving --- */

enum { N_KNOWN = 200, N_DRAFTED = 3, CTX = 256 };

struct served {
    struct gguf *gguf, *file;
    struct model_shape shape;
    struct model *model;
    struct head_shape head_shape;
    struct head *head;
};

static int open_served(struct served *s, enum head_kind kind, const struct backend *backend, const char *folder,
                       struct engine_error *error) {
    const struct model_limits limits = {.max_rows = 64, .max_logits = 1, .ctx_len = CTX};
    struct tiny_model tiny = tiny_model_default();
    struct head_facts facts = {
        .vocab_digest = 1, .target_digest = 2, .target_vocab = TINY_VOCAB, .target_ctx = CTX, .lineage = "random"};
    struct trainer t;
    int32_t vocab[TINY_VOCAB];
    char model_path[256], path[256];
    int rc;
    tiny.n_layers = 4;
    snprintf(model_path, sizeof model_path, "%s/model.gguf", folder);
    snprintf(path, sizeof path, "%s/head.gguf", folder);
    if (!tiny_model_write(model_path, &tiny) || (rc = gguf_open(&s->gguf, model_path, error)) ||
        (rc = model_read_shape(&s->shape, s->gguf, error)) ||
        (rc = model_open(&s->model, s->gguf, &s->shape, backend, &limits, error)) ||
        (rc = head_default_shape(&s->head_shape, kind, &s->shape, 90, error)) ||
        (rc = trainer_open(&t, &s->head_shape, backend, 16, error)))
        return 2;
    trainer_init_weights(&t, 3);
    for (size_t i = 0; i < t.n_weights; i++) t.weights[i] += 0.05f * draw();
    for (int i = 0; i < s->head_shape.n_vocab; i++) vocab[i] = 3 * i + 1;
    rc = head_write(path, &s->head_shape, t.weights, vocab, &facts, error);
    trainer_close(&t);
    if (rc != ENGINE_OK || (rc = gguf_open(&s->file, path, error)) ||
        (rc = head_read_shape(&s->head_shape, s->file, &s->shape, error)) || (rc = head_check_digests(s->file, 1, 2, error)) ||
        (rc = head_open(&s->head, s->file, &s->head_shape, s->model, 2, error)))
        return 2;
    return s->head->vocab[2] == 7 ? 0 : 2;
}

static void put_weights(const struct served *s) {
    for (int i = 0; i < head_n_tensors(&s->head_shape); i++) {
        const struct head_tensor t = head_tensor_at(&s->head_shape, i);
        const struct gguf_tensor *tensor = gguf_find_tensor(s->file, t.name);
        enum dtype type = DTYPE_F32;
        gguf_type_to_dtype(tensor->type, &type);
        float *rows = malloc((size_t)(t.n_rows * t.n_cols) * sizeof *rows);
        for (int r = 0; r < t.n_rows; r++)
            dtype_row_to_float(type, (const char *)tensor->data + (size_t)r * dtype_row_bytes(type, t.n_cols),
                               rows + r * t.n_cols, t.n_cols);
        put(t.name, rows, t.n_rows, t.n_cols);
        free(rows);
    }
}

/* Text in calls of 64 rows, then drafted tokens one by one on the head's own output, one call again with two. Each row's output
 * and the logits of the last ones. */
static void serve_eagle(struct served *s) {
    struct head *h = s->head;
    int n_embd = s->head_shape.n_embd, n = N_KNOWN + N_DRAFTED;
    float *features = drawn((size_t)(N_KNOWN * MODEL_FEATURES * n_embd), 3), *out = drawn((size_t)(n * n_embd), 0);
    float *logits = drawn((size_t)(N_DRAFTED * s->head_shape.n_vocab), 0), embeddings[(N_KNOWN + N_DRAFTED) * 64];
    float numbers[N_KNOWN + N_DRAFTED];
    int32_t tokens[N_KNOWN + N_DRAFTED];
    for (int i = 0; i < n; i++) numbers[i] = (float)(tokens[i] = (int32_t)((draw() + 1) * (TINY_VOCAB / 2 - 1)));
    s->model->backend.ops->embed(s->model->backend.self, s->model->embedding, tokens, n, 1, embeddings, n_embd);
    for (int first = 0; first < N_KNOWN; first += HEAD_MOST_ROWS) {
        int rows = N_KNOWN - first < HEAD_MOST_ROWS ? N_KNOWN - first : HEAD_MOST_ROWS;
        head_begin(h, features + (size_t)(first * MODEL_FEATURES * n_embd), rows);
        head_layer(h, 1, first, tokens + first, rows);
        for (int i = 0; i < rows; i++)
            memcpy(out + (size_t)((first + i) * n_embd), h->state + i * h->state_stride, (size_t)n_embd * sizeof *out);
        memcpy(h->state, h->state + (size_t)(rows - 1) * (size_t)h->state_stride, (size_t)n_embd * sizeof *out);
    }
    for (int i = 0; i < N_DRAFTED; i++) {
        head_layer(h, 1, N_KNOWN + i, tokens + N_KNOWN + i, 1);
        memcpy(out + (size_t)((N_KNOWN + i) * n_embd), h->state, (size_t)n_embd * sizeof *out);
        head_logits(h, h->state);
        memcpy(logits + i * s->head_shape.n_vocab, h->logits, (size_t)s->head_shape.n_vocab * sizeof *logits);
    }
    put("tokens", numbers, 1, n);
    put("features", features, N_KNOWN, MODEL_FEATURES * n_embd);
    put("embeddings", embeddings, n, n_embd);
    put("out", out, n, n_embd);
    put("logits", logits, N_DRAFTED, s->head_shape.n_vocab);
    free(features), free(out), free(logits);
}

static void serve_medusa(struct served *s) {
    float *state = drawn((size_t)s->head_shape.n_embd, 4);
    head_ahead(s->head, state);
    put("state", state, 1, s->head_shape.n_embd);
    for (int k = 0; k < s->head_shape.n_ahead; k++) {
        char name[24];
        snprintf(name, sizeof name, "logits%d", k);
        put(name, s->head->logits + k * s->head->logits_stride, 1, s->head_shape.n_vocab);
    }
    free(state);
}

/* Two rounds of rows on states of their own, the second on what the first left. */
static void serve_recurrent(struct served *s) {
    struct head *h = s->head;
    int n_embd = s->head_shape.n_embd, n = HEAD_BATCH;
    float *state = drawn((size_t)(n * n_embd), 4), embeddings[2 * HEAD_BATCH * 64];
    int32_t tokens[2 * HEAD_BATCH];
    for (int i = 0; i < 2 * n; i++) tokens[i] = (int32_t)((draw() + 1) * (TINY_VOCAB / 2 - 1));
    s->model->backend.ops->embed(s->model->backend.self, s->model->embedding, tokens, 2 * n, 1, embeddings, n_embd);
    put("state", state, n, n_embd);
    put("embeddings", embeddings, 2 * n, n_embd);
    for (int i = 0; i < n; i++) memcpy(h->state + i * h->state_stride, state + i * n_embd, (size_t)n_embd * sizeof *state);
    for (int round = 0; round < 2; round++) {
        char name[24];
        head_recur(h, tokens + round * n, n);
        for (int i = 0; i < n; i++) {
            snprintf(name, sizeof name, "out%d", round * n + i);
            put(name, h->state + i * h->state_stride, 1, n_embd);
            snprintf(name, sizeof name, "logits%d", round * n + i);
            put(name, h->logits + i * h->logits_stride, 1, s->head_shape.n_vocab);
        }
    }
    free(state);
}

static int serve(enum head_kind kind, const struct backend *backend, const char *folder) {
    struct served s = {0};
    struct engine_error error = {""};
    int rc = open_served(&s, kind, backend, folder, &error);
    if (rc == 0) {
        put_weights(&s);
        (kind == HEAD_EAGLE ? serve_eagle : kind == HEAD_MEDUSA ? serve_medusa : serve_recurrent)(&s);
    } else {
        fprintf(stderr, "check_head: %s\n", error.text);
    }
    head_close(s.head);
    model_close(s.model);
    gguf_close(s.file);
    gguf_close(s.gguf);
    return rc;
}

/* In a folder of its own that goes again. */
static int serve_only(enum head_kind kind, const struct backend *backend) {
    char folder[] = "/tmp/foresay_check_head_XXXXXX", path[64];
    if (!mkdtemp(folder)) return 2;
    int rc = serve(kind, backend, folder);
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/head.gguf", folder);
    unlink(path);
    rmdir(folder);
    return rc;
}

int main(int argc, char **argv) {
    struct backend backend;
    char reason[160];
    if (backend_open_cpu(&backend, &(struct backend_config){.n_threads = 2}, reason, sizeof reason) != KERNELS_OK) return 2;
    int rc = 2;
    enum head_kind kind = HEAD_EAGLE;
    if (argc > 2 && strcmp(argv[2], "medusa") == 0) kind = HEAD_MEDUSA;
    if (argc > 2 && strcmp(argv[2], "recurrent") == 0) kind = HEAD_RECURRENT;
    if (argc == 3 && strcmp(argv[1], "gradients") == 0)
        rc = gradients(kind, &backend);
    else if (argc == 3 && strcmp(argv[1], "serve") == 0)
        rc = serve_only(kind, &backend);
    else if (argc == 4 && strcmp(argv[1], "serve") == 0)
        rc = serve(kind, &backend, argv[3]);
    else
        fprintf(stderr, "usage: check_head gradients|serve eagle|medusa|recurrent [FOLDER]\n");
    backend.ops->close(backend.self);
    return rc;
}
