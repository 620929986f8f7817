/* gguf_values.c - the questions one can ask an open GGUF file. Nothing here can run past the file: gguf.c has checked it. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "engine/gguf_internal.h"

const char *gguf_path(const struct gguf *gguf) { return gguf->path; }
size_t gguf_file_bytes(const struct gguf *gguf) { return gguf->map_bytes; }
uint32_t gguf_version(const struct gguf *gguf) { return gguf->version; }

/* --- metadata --- */

const struct gguf_value *gguf_find_value(const struct gguf *gguf, const char *key, size_t len) {
    struct gguf_string wanted = {key, len};
    size_t low = 0, high = gguf->n_values;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct gguf_value *value = &gguf->values[gguf->values_sorted[middle]];
        int order = gguf_compare_strings(value->key, wanted);
        if (order == 0) return value;
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

/* An integer of any kind. Unsigned 64-bit values above INT64_MAX are not in range for anything we read. */
static bool read_integer(enum gguf_kind kind, const uint8_t *data, int64_t *out) {
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } v;
    memcpy(&v, data, gguf_kind_bytes(kind));
    switch (kind) {
    case GGUF_U8:
        *out = v.u8;
        return true;
    case GGUF_I8:
        *out = v.i8;
        return true;
    case GGUF_U16:
        *out = v.u16;
        return true;
    case GGUF_I16:
        *out = v.i16;
        return true;
    case GGUF_U32:
        *out = v.u32;
        return true;
    case GGUF_I32:
        *out = v.i32;
        return true;
    case GGUF_U64:
        *out = (int64_t)v.u64;
        return v.u64 <= INT64_MAX;
    case GGUF_I64:
        *out = v.i64;
        return true;
    default:
        return false;
    }
}

static bool read_float(enum gguf_kind kind, const uint8_t *data, double *out) {
    float f;
    if (kind == GGUF_F32) {
        memcpy(&f, data, sizeof f);
        *out = (double)f;
        return true;
    }
    if (kind != GGUF_F64) return false;
    memcpy(out, data, sizeof *out);
    return true;
}

static bool is_scalar(const struct gguf_value *value) { return value->kind != GGUF_STRING && value->kind != GGUF_ARRAY; }

static enum gguf_answer get_integer(const struct gguf *gguf, const char *key, int64_t *out) {
    const struct gguf_value *value = gguf_find_value(gguf, key, strlen(key));
    if (!value) return GGUF_ABSENT;
    return is_scalar(value) && read_integer(value->kind, value->data, out) ? GGUF_FOUND : GGUF_MISMATCH;
}

enum gguf_answer gguf_get_u32(const struct gguf *gguf, const char *key, uint32_t *out) {
    int64_t value;
    enum gguf_answer answer = get_integer(gguf, key, &value);
    if (answer == GGUF_FOUND && (value < 0 || value > UINT32_MAX)) answer = GGUF_MISMATCH;
    if (answer == GGUF_FOUND) *out = (uint32_t)value;
    return answer;
}

enum gguf_answer gguf_get_u64(const struct gguf *gguf, const char *key, uint64_t *out) {
    int64_t value;
    enum gguf_answer answer = get_integer(gguf, key, &value);
    if (answer == GGUF_FOUND && value < 0) answer = GGUF_MISMATCH;
    if (answer == GGUF_FOUND) *out = (uint64_t)value;
    return answer;
}

enum gguf_answer gguf_get_f32(const struct gguf *gguf, const char *key, float *out) {
    const struct gguf_value *value = gguf_find_value(gguf, key, strlen(key));
    double number;
    if (!value) return GGUF_ABSENT;
    if (!is_scalar(value) || !read_float(value->kind, value->data, &number)) return GGUF_MISMATCH;
    *out = (float)number;
    return GGUF_FOUND;
}

enum gguf_answer gguf_get_bool(const struct gguf *gguf, const char *key, bool *out) {
    const struct gguf_value *value = gguf_find_value(gguf, key, strlen(key));
    if (!value) return GGUF_ABSENT;
    if (value->kind != GGUF_BOOL || *value->data > 1) return GGUF_MISMATCH;
    *out = *value->data == 1;
    return GGUF_FOUND;
}

enum gguf_answer gguf_get_string(const struct gguf *gguf, const char *key, struct gguf_string *out) {
    const struct gguf_value *value = gguf_find_value(gguf, key, strlen(key));
    if (!value) return GGUF_ABSENT;
    if (value->kind != GGUF_STRING) return GGUF_MISMATCH;
    *out = (struct gguf_string){(const char *)value->data, value->n};
    return GGUF_FOUND;
}

enum gguf_answer gguf_get_array(const struct gguf *gguf, const char *key, struct gguf_array *out) {
    const struct gguf_value *value = gguf_find_value(gguf, key, strlen(key));
    if (!value) return GGUF_ABSENT;
    if (value->kind != GGUF_ARRAY) return GGUF_MISMATCH;
    *out = (struct gguf_array){value->item, value->n, value->data};
    return GGUF_FOUND;
}

/* --- metadata that a model needs --- */

/* Turns what is not a number within its limits into a sentence; an absent key is left to the caller. */
static int check_number(const struct gguf *gguf, const char *key, const char *noun, enum gguf_answer answer, double value,
                        double min, double max, struct engine_error *error) {
    if (answer == GGUF_MISMATCH) {
        enum gguf_kind kind = gguf_find_value(gguf, key, strlen(key))->kind;
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s: metadata key %s should be %s, but is a %s or out of range", gguf->path,
                         key, noun, gguf_kind_name(kind));
    }
    if (answer == GGUF_FOUND && !(value >= min && value <= max)) { /* so that a NaN is refused too */
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s: metadata key %s is %g; this program can use %g to %g", gguf->path, key,
                         value, min, max);
    }
    return ENGINE_OK;
}

static int absent(const struct gguf *gguf, const char *key, struct engine_error *error) {
    return gguf_fail(error, ENGINE_ERR_MODEL, "%s lacks the metadata key %s, which this kind of model needs", gguf->path, key);
}

int gguf_accept_u32(const struct gguf *gguf, const char *key, uint32_t min, uint32_t max, uint32_t *out,
                    struct engine_error *error) {
    uint32_t value = 0;
    enum gguf_answer answer = gguf_get_u32(gguf, key, &value);
    int rc = check_number(gguf, key, "a whole number", answer, value, min, max, error);
    if (rc == ENGINE_OK && answer == GGUF_FOUND) *out = value;
    return rc;
}

int gguf_require_u32(const struct gguf *gguf, const char *key, uint32_t min, uint32_t max, uint32_t *out,
                     struct engine_error *error) {
    if (!gguf_find_value(gguf, key, strlen(key))) return absent(gguf, key, error);
    return gguf_accept_u32(gguf, key, min, max, out, error);
}

int gguf_accept_f32(const struct gguf *gguf, const char *key, float min, float max, float *out, struct engine_error *error) {
    float value = 0;
    enum gguf_answer answer = gguf_get_f32(gguf, key, &value);
    int rc = check_number(gguf, key, "a number", answer, (double)value, (double)min, (double)max, error);
    if (rc == ENGINE_OK && answer == GGUF_FOUND) *out = value;
    return rc;
}

int gguf_require_f32(const struct gguf *gguf, const char *key, float min, float max, float *out, struct engine_error *error) {
    if (!gguf_find_value(gguf, key, strlen(key))) return absent(gguf, key, error);
    return gguf_accept_f32(gguf, key, min, max, out, error);
}

/* --- arrays --- */

int64_t gguf_array_i64(const struct gguf_array *array, size_t i) {
    int64_t value = 0;
    assert(i < array->n);
    return read_integer(array->kind, array->data + i * gguf_kind_bytes(array->kind), &value) ? value : 0;
}

double gguf_array_f64(const struct gguf_array *array, size_t i) {
    double value = NAN;
    assert(i < array->n);
    read_float(array->kind, array->data + i * gguf_kind_bytes(array->kind), &value);
    return value;
}

struct gguf_string gguf_array_next(const struct gguf_array *array, size_t *cursor) {
    uint64_t len;
    assert(array->kind == GGUF_STRING);
    memcpy(&len, array->data + *cursor, sizeof len);
    struct gguf_string string = {(const char *)array->data + *cursor + sizeof len, (size_t)len};
    *cursor += sizeof len + (size_t)len;
    return string;
}

size_t gguf_n_keys(const struct gguf *gguf) { return gguf->n_values; }

struct gguf_string gguf_key(const struct gguf *gguf, size_t i, enum gguf_kind *kind) {
    assert(i < gguf->n_values);
    if (kind) *kind = gguf->values[i].kind;
    return gguf->values[i].key;
}

/* --- tensors --- */

size_t gguf_n_tensors(const struct gguf *gguf) { return gguf->n_tensors; }

const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t i) {
    assert(i < gguf->n_tensors);
    return &gguf->tensors[i];
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name) {
    size_t low = 0, high = gguf->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct gguf_tensor *tensor = &gguf->tensors[gguf->tensors_sorted[middle]];
        int order = strcmp(tensor->name, name);
        if (order == 0) return tensor;
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

int gguf_require_tensor(const struct gguf *gguf, const char *name, int64_t n_rows, int64_t n_cols, const struct gguf_tensor **out,
                        enum dtype *type, struct engine_error *error) {
    const struct gguf_tensor *tensor = gguf_find_tensor(gguf, name);
    if (!tensor) return gguf_fail(error, ENGINE_ERR_MODEL, "%s lacks the tensor %s", gguf->path, name);
    const int64_t *dims = tensor->dims;
    if (dims[0] != n_cols || dims[1] != n_rows || dims[2] != 1 || dims[3] != 1) {
        return gguf_fail(error, ENGINE_ERR_MODEL,
                         "%s: tensor %s is %lld x %lld x %lld x %lld, but the model's metadata ask for %lld rows of %lld",
                         gguf->path, name, (long long)dims[0], (long long)dims[1], (long long)dims[2], (long long)dims[3],
                         (long long)n_rows, (long long)n_cols);
    }
    if (!gguf_type_to_dtype(tensor->type, type)) {
        char known[128];
        return gguf_fail(error, ENGINE_ERR_MODEL,
                         "%s: tensor %s has type %s, which this program cannot compute with; use a file whose tensors are %s",
                         gguf->path, name, gguf_type_name(tensor->type), gguf_computable_types(known, sizeof known));
    }
    *out = tensor;
    return ENGINE_OK;
}
