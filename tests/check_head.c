/* check_head.c - drafting heads for comparison with torch (tests/oracle/test_heads.py).
 *
 *     check_head gradients eagle|medusa       a small random head and text: loss and gradients of every tensor
 *     check_head logits HEAD.gguf MODEL.gguf  what the head guesses on random features, by the serving path
 *
 * On standard output, array after array: a line "name rows cols", then floats. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/train.h"

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

int main(int argc, char **argv) {
    struct backend backend;
    char reason[160];
    if (backend_open_cpu(&backend, &(struct backend_config){.n_threads = 2}, reason, sizeof reason) != KERNELS_OK) return 2;
    int rc = 2;
    if (argc == 3 && strcmp(argv[1], "gradients") == 0)
        rc = gradients(strcmp(argv[2], "medusa") == 0 ? HEAD_MEDUSA : HEAD_EAGLE, &backend);
    backend.ops->close(backend.self);
    return rc;
}
