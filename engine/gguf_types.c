/* gguf_types.c - the element types of ggml: names, block sizes, and which of them kernels.h computes with.
 *
 * All types are known, also those without a kernel, so that `foresay inspect` can describe any file. */
#include <assert.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/gguf_internal.h"

struct type_row {
    const char *name; /* NULL: a number that ggml never used or has given up */
    uint32_t n_elements, n_bytes;
};

static const struct type_row types[] = {
    [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},         [2] = {"Q4_0", 32, 18},      [3] = {"Q4_1", 32, 20},
    [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},      [8] = {"Q8_0", 32, 34},      [9] = {"Q8_1", 32, 36},
    [10] = {"Q2_K", 256, 84},    [11] = {"Q3_K", 256, 110},   [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},   [15] = {"Q8_K", 256, 292},   [16] = {"IQ2_XXS", 256, 66}, [17] = {"IQ2_XS", 256, 74},
    [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},   [20] = {"IQ4_NL", 32, 18},   [21] = {"IQ3_S", 256, 110},
    [22] = {"IQ2_S", 256, 82},   [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},         [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},        [28] = {"F64", 1, 8},        [29] = {"IQ1_M", 256, 56},
    [30] = {"BF16", 1, 2},       [34] = {"TQ1_0", 256, 54},   [35] = {"TQ2_0", 256, 66},   [39] = {"MXFP4", 32, 17},
    [40] = {"NVFP4", 64, 36},    [41] = {"Q1_0", 128, 18},
};

static const struct type_row *find_type(uint32_t type) {
    return type < sizeof types / sizeof *types && types[type].name ? &types[type] : NULL;
}

bool gguf_type_block(uint32_t type, uint32_t *n_elements, uint32_t *n_bytes) {
    const struct type_row *row = find_type(type);
    if (!row) return false;
    *n_elements = row->n_elements;
    *n_bytes = row->n_bytes;
    return true;
}

const char *gguf_type_name(uint32_t type) {
    const struct type_row *row = find_type(type);
    return row ? row->name : "unknown";
}

/* The types that kernels.h computes with, in the order in which a sentence names them. */
static const struct {
    uint8_t type, dtype;
} computable[] = {{2, DTYPE_Q4_0},    {3, DTYPE_Q4_1},  {6, DTYPE_Q5_0},  {7, DTYPE_Q5_1},  {8, DTYPE_Q8_0},
                  {10, DTYPE_Q2_K},   {11, DTYPE_Q3_K}, {12, DTYPE_Q4_K}, {13, DTYPE_Q5_K}, {14, DTYPE_Q6_K},
                  {20, DTYPE_IQ4_NL}, {1, DTYPE_F16},   {30, DTYPE_BF16}, {0, DTYPE_F32}};
enum { N_COMPUTABLE = sizeof computable / sizeof *computable };
_Static_assert(N_COMPUTABLE == (int)DTYPE_COUNT, "each dtype has a number in files");

bool gguf_type_to_dtype(uint32_t type, enum dtype *out) {
    for (size_t i = 0; i < N_COMPUTABLE; i++) {
        if (computable[i].type != type) continue;
        *out = (enum dtype)computable[i].dtype;
        return true;
    }
    return false;
}

const char *gguf_computable_types(char *out, size_t out_size) {
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0; i < N_COMPUTABLE && n < out_size; i++) {
        const char *between = i == 0 ? "" : i + 1 < N_COMPUTABLE ? ", " : " or ";
        n += (size_t)snprintf(out + n, out_size - n, "%s%s", between, types[computable[i].type].name);
    }
    return out;
}

size_t gguf_kind_bytes(enum gguf_kind kind) {
    static const uint8_t sizes[GGUF_KIND_COUNT] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_BOOL] = 1, [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4,
        [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_U64] = 8,  [GGUF_I64] = 8, [GGUF_F64] = 8};
    assert(kind < GGUF_KIND_COUNT);
    return sizes[kind];
}

const char *gguf_kind_name(enum gguf_kind kind) {
    static const char *const names[GGUF_KIND_COUNT] = {
        [GGUF_U8] = "u8",   [GGUF_I8] = "i8",         [GGUF_BOOL] = "bool",   [GGUF_U16] = "u16", [GGUF_I16] = "i16",
        [GGUF_U32] = "u32", [GGUF_I32] = "i32",       [GGUF_F32] = "f32",     [GGUF_U64] = "u64", [GGUF_I64] = "i64",
        [GGUF_F64] = "f64", [GGUF_STRING] = "string", [GGUF_ARRAY] = "array",
    };
    assert(kind < GGUF_KIND_COUNT);
    return names[kind];
}

const char *gguf_printable(char *out, size_t out_size, const void *data, size_t len) {
    const unsigned char *bytes = data;
    size_t n = len < out_size - 1 ? len : out_size - 1;
    for (size_t i = 0; i < n; i++) out[i] = bytes[i] < 0x7F && isprint(bytes[i]) ? (char)bytes[i] : '?';
    out[n] = '\0';
    if (n < len && n > 3) memcpy(out + n - 3, "...", 3);
    return out;
}

int gguf_fail(struct engine_error *error, int status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    return status;
}
