/* check_dequantize.c - rows of weights in a GGUF file's layout to floats, for comparison with other readers (tests/oracle).
 *
 *     check_dequantize TYPE N_COLS <rows >floats
 *
 * Rows pass through the repacked form and out again as an embedding look-up does it, and must come out as dtype_row_to_float
 * gives them; exit status 1 if not, 2 for bad usage. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

enum { MAX_BYTES = 1 << 24 };

static bool find_type(const char *name, enum dtype *type) {
    for (int t = 0; t < DTYPE_COUNT; t++) {
        if (strcmp(name, dtype_name((enum dtype)t)) != 0) continue;
        *type = (enum dtype)t;
        return true;
    }
    return false;
}

/* Row by row to stdout; the number of rows whose look-up differs. */
static int write_rows(enum dtype type, const uint8_t *src, int n_rows, int n_cols) {
    struct backend b;
    struct weight *weight;
    int n_different = 0;
    const size_t row_bytes = dtype_row_bytes(type, n_cols), float_bytes = (size_t)n_cols * sizeof(float);
    float *direct = malloc(float_bytes), *looked_up = malloc(float_bytes);
    if (!direct || !looked_up || backend_open_cpu(&b, &(struct backend_config){.n_threads = 1}, NULL, 0) != KERNELS_OK ||
        b.ops->weight_load(b.self, src, type, n_rows, n_cols, &weight) != KERNELS_OK)
        return n_rows;
    for (int32_t row = 0; row < n_rows; row++) {
        dtype_row_to_float(type, src + (size_t)row * row_bytes, direct, n_cols);
        b.ops->embed(b.self, weight, &row, 1, 1, looked_up, n_cols);
        n_different += memcmp(direct, looked_up, float_bytes) != 0;
        fwrite(direct, 1, float_bytes, stdout);
    }
    b.ops->weight_free(b.self, weight);
    b.ops->close(b.self);
    free(direct);
    free(looked_up);
    return n_different;
}

int main(int argc, char **argv) {
    enum dtype type;
    const int n_cols = argc == 3 ? (int)strtol(argv[2], NULL, 10) : 0;
    if (argc != 3 || !find_type(argv[1], &type) || dtype_row_bytes(type, n_cols) == 0) {
        fprintf(stderr, "usage: check_dequantize TYPE N_COLS <rows >floats\n");
        return 2;
    }
    uint8_t *src = malloc(MAX_BYTES);
    const size_t n = src ? fread(src, 1, MAX_BYTES, stdin) : 0;
    const int n_different = write_rows(type, src, (int)(n / dtype_row_bytes(type, n_cols)), n_cols);
    if (n_different) fprintf(stderr, "check_dequantize: %d rows differ after repacking\n", n_different);
    free(src);
    return n_different != 0;
}
