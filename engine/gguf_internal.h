/* gguf_internal.h - what gguf.c (reading), gguf_values.c (answering) and gguf_types.c (ggml's types) share. Not for others. */
#ifndef FORESAY_GGUF_INTERNAL_H
#define FORESAY_GGUF_INTERNAL_H

#include "engine/gguf.h"

struct gguf_value {
    struct gguf_string key;
    enum gguf_kind kind;
    size_t n;            /* GGUF_ARRAY: elements; GGUF_STRING: bytes */
    enum gguf_kind item; /* GGUF_ARRAY: their kind */
    const uint8_t *data; /* the scalar, the string's bytes or the array's first element */
};

struct gguf {
    char *path;
    const uint8_t *map;
    size_t map_bytes;
    bool is_image; /* somebody else's memory */
    uint32_t version, alignment;
    struct gguf_value *values; /* [n_values], in the order of the file */
    uint32_t *values_sorted;   /* [n_values], indices by key */
    size_t n_values;
    struct gguf_tensor *tensors; /* [n_tensors], in the order of the file */
    uint32_t *tensors_sorted;    /* [n_tensors], indices by name */
    size_t n_tensors;
};

/* Bytes of a scalar; 0 for strings and arrays. */
size_t gguf_kind_bytes(enum gguf_kind kind);
/* "u32". */
const char *gguf_kind_name(enum gguf_kind kind);
const struct gguf_value *gguf_find_value(const struct gguf *gguf, const char *key, size_t len);
int gguf_compare_strings(struct gguf_string a, struct gguf_string b);

/* Elements in a block of a ggml type and bytes of the block; false for numbers that ggml does not have. */
bool gguf_type_block(uint32_t type, uint32_t *n_elements, uint32_t *n_bytes);

/* "Q4_0, Q4_1 ... or F32": what gguf_type_to_dtype accepts. Returns out. */
const char *gguf_computable_types(char *out, size_t out_size);

/* Text from a file that may hold anything, made fit for a terminal and cut to out_size. Returns out. */
const char *gguf_printable(char *out, size_t out_size, const void *data, size_t len);

/* Writes the sentence and returns status. */
int gguf_fail(struct engine_error *error, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
