/* test_load.c - weights repacked by several threads are what the file holds, and take the memory that was announced; what a token
 * costs; the probes of the machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model.h"
#include "kernels/cpu/cpu.h"
#include "tiny_model.h"

enum { N_COLS = 1024, N_ROWS = 16 * 220 + 5 }; /* several runs of row groups for every type, and a last group that is not full */

static uint8_t *random_bytes(size_t n) {
    uint8_t *bytes = malloc(n);
    uint64_t state = 7;
    assert_non_null(bytes);
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (uint8_t)(state >> 56);
    }
    return bytes;
}

static bool is_kernel(const struct backend *backend, enum dtype type) {
    const struct cpu *cpu = backend->self;
    return cpu->kernels->matmul[type] != NULL && dtype_row_bytes(type, N_COLS) > 0;
}

/* Rows read back one by one are the file's rows; NaNs in random scales compare by their bits. */
static void check_rows(const struct backend *backend, enum dtype type, const uint8_t *src, const struct weight *weight) {
    static float got[N_COLS], want[N_COLS];
    for (int32_t row = 0; row < N_ROWS; row++) {
        backend->ops->embed(backend->self, weight, &row, 1, 1.0f, got, N_COLS);
        dtype_row_to_float(type, src + (size_t)row * dtype_row_bytes(type, N_COLS), want, N_COLS);
        assert_memory_equal(got, want, sizeof got);
    }
}

static void test_rows_survive_parallel_repacking(void **state) {
    (void)state;
    for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
        struct backend backend;
        struct backend_config config = {.n_threads = n_threads};
        assert_int_equal(backend_open_cpu(&backend, &config, NULL, 0), KERNELS_OK);
        for (int type = 0; type < DTYPE_COUNT; type++) {
            if (!is_kernel(&backend, (enum dtype)type)) continue;
            uint8_t *src = random_bytes((size_t)N_ROWS * dtype_row_bytes((enum dtype)type, N_COLS));
            struct weight *weight = NULL;
            assert_int_equal(backend.ops->weight_load(backend.self, src, (enum dtype)type, N_ROWS, N_COLS, &weight), KERNELS_OK);
            check_rows(&backend, (enum dtype)type, src, weight);
            assert_int_equal(backend_weight_bytes((enum dtype)type, N_ROWS, N_COLS),
                             (size_t)weight->n_groups * weight->group_bytes);
            backend.ops->weight_free(backend.self, weight);
            free(src);
        }
        backend.ops->close(backend.self);
    }
}

/* Protects: matrices of a pair lie group beside group, each with its own rows; one is freed without the other. */
static void test_pairs_lie_group_beside_group(void **state) {
    (void)state;
    struct backend backend;
    struct backend_config config = {.n_threads = 2};
    assert_int_equal(backend_open_cpu(&backend, &config, NULL, 0), KERNELS_OK);
    const enum dtype types[2] = {DTYPE_Q4_1, DTYPE_Q8_0};
    const void *src[2];
    struct weight *pair[2];
    for (int i = 0; i < 2; i++) src[i] = random_bytes((size_t)N_ROWS * dtype_row_bytes(types[i], N_COLS));
    assert_int_equal(backend.ops->weight_load_pair(backend.self, src, types, N_ROWS, N_COLS, pair), KERNELS_OK);
    assert_ptr_equal(pair[1]->data, pair[0]->data + pair[0]->group_bytes);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pair[i]->group_stride, pair[0]->group_bytes + pair[1]->group_bytes);
        check_rows(&backend, types[i], src[i], pair[i]);
    }
    backend.ops->weight_free(backend.self, pair[0]);
    check_rows(&backend, types[1], src[1], pair[1]);
    backend.ops->weight_free(backend.self, pair[1]);
    for (int i = 0; i < 2; i++) free((void *)(uintptr_t)src[i]);
    backend.ops->close(backend.self);
}

static void test_unknown_types_take_nothing(void **state) {
    (void)state;
    assert_int_equal(backend_weight_bytes(DTYPE_COUNT, 16, 32), 0);
    assert_int_equal(backend_weight_bytes(DTYPE_Q4_0, 16, 33), 0);
}

static struct model_cost cost_of(const struct tiny_model *tiny) {
    static const char path[] = "build/tests/load_tiny.gguf";
    struct engine_error error;
    struct model_shape shape;
    struct gguf *gguf;
    tiny_model_write(path, tiny);
    assert_int_equal(gguf_open(&gguf, path, &error), ENGINE_OK);
    assert_int_equal(model_read_shape(&shape, gguf, &error), ENGINE_OK);
    const struct model_cost cost = model_cost(gguf, &shape);
    gguf_close(gguf);
    return cost;
}

/* Protects: a tied head counts once, an untied one without the embedding, of experts only those that a token uses. */
static void test_a_token_costs_what_it_reads(void **state) {
    (void)state;
    struct tiny_model tiny = tiny_model_default();
    tiny.matrix_type = tiny.embedding_type = DTYPE_F32;
    const double attention = 64 * 64 * 2 + 64 * 32 * 2, ffn = 3 * 64 * 96, head = TINY_VOCAB * 64, padded_head = 304 * 64;
    struct model_cost cost = cost_of(&tiny);
    assert_true(cost.layer_ops == 2 * 2 * (attention + ffn) && cost.head_ops == 2 * head);
    assert_true((double)cost.bytes == 4 * (2 * (attention + ffn) + padded_head));
    tiny.untied = true;
    const struct model_cost untied = cost_of(&tiny);
    assert_true(untied.bytes == cost.bytes && untied.head_ops == cost.head_ops);
    tiny.untied = false;
    tiny.architecture = "qwen3moe";
    tiny.n_experts = 8;
    tiny.n_experts_used = 2;
    cost = cost_of(&tiny);
    assert_true(cost.layer_ops == 2 * 2 * (attention + 64 * 8 + 2 * ffn));
}

/* Protects: probes give a number where there is something to measure, and none where there is not. */
static void test_probes(void **state) {
    (void)state;
    static const char *const isas[] = {"auto", "scalar"};
    for (int i = 0; i < 2; i++) {
        struct backend backend;
        struct weight *weight = NULL;
        struct backend_config config = {.n_threads = 2, .isa = isas[i]};
        assert_int_equal(backend_open_cpu(&backend, &config, NULL, 0), KERNELS_OK);
        const bool is_scalar = strcmp(backend_cpu_isa(&backend), "scalar") == 0;
        assert_true(backend_cpu_read_speed(&backend) == 0); /* no weights */
        uint8_t *src = random_bytes((size_t)N_ROWS * dtype_row_bytes(DTYPE_Q4_0, N_COLS));
        assert_int_equal(backend.ops->weight_load(backend.self, src, DTYPE_Q4_0, N_ROWS, N_COLS, &weight), KERNELS_OK);
        assert_true(is_scalar == (backend_cpu_read_speed(&backend) == 0));
        assert_true(is_scalar == (backend_cpu_int8_speed(&backend) == 0));
        backend.ops->weight_free(backend.self, weight);
        backend.ops->close(backend.self);
        free(src);
    }
}

/* Protects: whichever way a large matrix is fetched, and whichever is found to be the faster, a product is the same. */
static void test_tuning_changes_no_result(void **state) {
    (void)state;
    enum { ROWS = 8192, COLS = 2048 };
    struct backend backend;
    struct backend_config config = {.n_threads = 2};
    struct weight *weight = NULL;
    struct activation in;
    assert_int_equal(backend_open_cpu(&backend, &config, NULL, 0), KERNELS_OK);
    uint8_t *src = random_bytes((size_t)ROWS * dtype_row_bytes(DTYPE_Q8_0, COLS));
    assert_int_equal(backend.ops->weight_load(backend.self, src, DTYPE_Q8_0, ROWS, COLS, &weight), KERNELS_OK);
    assert_int_equal(activation_alloc(&backend, 1, COLS, false, true, &in), KERNELS_OK);
    float *out = malloc(2 * ROWS * sizeof *out), x[COLS];
    for (int i = 0; i < COLS; i++) x[i] = (float)(i % 37) - 18.0f;
    backend.ops->quantize(backend.self, x, COLS, 1, &in);
    for (int i = 0; i < 3; i++) {
        const struct matmul_job job = {.weight = weight, .out = out + (i > 0) * ROWS, .out_stride = ROWS};
        if (i < 2)
            weight->comes_unasked = i > 0;
        else
            backend_cpu_tune(&backend, weight);
        backend.ops->matmul(backend.self, &job, 1, &in, 1);
        if (i > 0) assert_memory_equal(out, out + ROWS, ROWS * sizeof *out);
    }
    free(out);
    free(src);
    activation_free(&backend, &in);
    backend.ops->weight_free(backend.self, weight);
    backend.ops->close(backend.self);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows_survive_parallel_repacking),
                                       cmocka_unit_test(test_pairs_lie_group_beside_group),
                                       cmocka_unit_test(test_unknown_types_take_nothing),
                                       cmocka_unit_test(test_a_token_costs_what_it_reads),
                                       cmocka_unit_test(test_probes),
                                       cmocka_unit_test(test_tuning_changes_no_result)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
