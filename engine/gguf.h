/* gguf.h - a GGUF file (version 2 or 3, little endian), mapped read-only: typed metadata and tensors by name.
 *
 *  (1) Everything in the file is checked by gguf_open: counts, lengths, types, dimensions, offsets and alignment. What the
 *      functions below return lies inside the file; callers need no further check of that kind.
 *  (2) Strings, arrays and tensor data point into the mapping and live until gguf_close. Strings are not terminated: print
 *      them with %.*s.
 *  (3) Memory besides the mapping is bounded by GGUF_MAX_KEYS and GGUF_MAX_TENSORS.
 * A file must not be shortened while it is open (the system then ends the process): replace model files by rename.
 * Nothing changes after gguf_open, so any thread may ask. */
#ifndef FORESAY_GGUF_H
#define FORESAY_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "kernels/kernels.h"

enum {
    GGUF_MAX_KEYS = 1 << 16,    /* real files have dozens */
    GGUF_MAX_TENSORS = 1 << 16, /* the largest real ones have a few thousand */
    GGUF_MAX_DIMS = 4,
    GGUF_NAME_SIZE = 65, /* the format limits a tensor name to 64 bytes */
};

/* Types of metadata values, numbered as in the file. */
enum gguf_kind {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_KIND_COUNT,
};

struct gguf_string {
    const char *data;
    size_t len;
};

/* Elements of one kind, never arrays themselves. */
struct gguf_array {
    enum gguf_kind kind;
    size_t n;
    const uint8_t *data; /* unaligned; read it with the functions below */
};

struct gguf_tensor {
    char name[GGUF_NAME_SIZE];
    uint32_t type;               /* ggml's number, see gguf_type_name */
    int n_dims;                  /* 1 .. 4 */
    int64_t dims[GGUF_MAX_DIMS]; /* dims[0] is contiguous (columns); unused ones are 1 */
    const void *data;            /* in the mapping, aligned as the file says (at least 8) */
    size_t bytes;
};

struct gguf;

/* On failure *out is NULL, error says what is wrong with the file and what to do. */
int gguf_open(struct gguf **out, const char *path, struct engine_error *error);
/* The same for a file's contents that lie in memory already, which must outlive it; name stands for the path. */
int gguf_open_image(struct gguf **out, const char *name, const void *image, size_t size, struct engine_error *error);
/* Accepts NULL. */
void gguf_close(struct gguf *gguf);

const char *gguf_path(const struct gguf *gguf);
size_t gguf_file_bytes(const struct gguf *gguf);
uint32_t gguf_version(const struct gguf *gguf);

/* --- metadata --- */

enum gguf_answer { GGUF_ABSENT, GGUF_FOUND, GGUF_MISMATCH /* there, but of another kind or out of the result's range */ };

/* Integers of any width answer for each other, floats of both widths too. *out is written only with GGUF_FOUND. */
enum gguf_answer gguf_get_u32(const struct gguf *gguf, const char *key, uint32_t *out);
enum gguf_answer gguf_get_u64(const struct gguf *gguf, const char *key, uint64_t *out);
enum gguf_answer gguf_get_f32(const struct gguf *gguf, const char *key, float *out);
enum gguf_answer gguf_get_bool(const struct gguf *gguf, const char *key, bool *out);
enum gguf_answer gguf_get_string(const struct gguf *gguf, const char *key, struct gguf_string *out);
enum gguf_answer gguf_get_array(const struct gguf *gguf, const char *key, struct gguf_array *out);

/* For what a model needs: ENGINE_ERR_MODEL with a sentence when the key is absent, of another kind or out of range. */
int gguf_require_u32(const struct gguf *gguf, const char *key, uint32_t min, uint32_t max, uint32_t *out,
                     struct engine_error *error);
int gguf_require_f32(const struct gguf *gguf, const char *key, float min, float max, float *out, struct engine_error *error);
/* The same for what has a default: an absent key leaves *out as it is. */
int gguf_accept_u32(const struct gguf *gguf, const char *key, uint32_t min, uint32_t max, uint32_t *out,
                    struct engine_error *error);
int gguf_accept_f32(const struct gguf *gguf, const char *key, float min, float max, float *out, struct engine_error *error);

/* Element i of an array of integers or floats; i < n. */
int64_t gguf_array_i64(const struct gguf_array *array, size_t i);
double gguf_array_f64(const struct gguf_array *array, size_t i);
/* Walks an array of strings: start with *cursor = 0, call at most n times. */
struct gguf_string gguf_array_next(const struct gguf_array *array, size_t *cursor);

size_t gguf_n_keys(const struct gguf *gguf);
struct gguf_string gguf_key(const struct gguf *gguf, size_t i, enum gguf_kind *kind);

/* --- tensors --- */

size_t gguf_n_tensors(const struct gguf *gguf);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t i);
/* NULL if there is none of this name. */
const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name);
/* A tensor of exactly n_rows x n_cols (n_rows == 1: a vector) in a type that kernels.h knows; *type is that type.
 * ENGINE_ERR_MODEL with a sentence naming tensor, shape or type otherwise. */
int gguf_require_tensor(const struct gguf *gguf, const char *name, int64_t n_rows, int64_t n_cols, const struct gguf_tensor **out,
                        enum dtype *type, struct engine_error *error);

/* "Q4_K". Numbers that ggml does not have are refused by gguf_open. Static storage. */
const char *gguf_type_name(uint32_t type);
/* False when kernels.h has no such type. */
bool gguf_type_to_dtype(uint32_t type, enum dtype *out);

/* The data are about to be read: lets the system fetch them ahead, in large pieces. */
void gguf_want_pages(const struct gguf *gguf, const struct gguf_tensor *tensor);
/* The data were repacked and will hardly be read again: lets the system take the pages back. Reading them later still works. */
void gguf_release_pages(const struct gguf *gguf, const struct gguf_tensor *tensor);

#endif
