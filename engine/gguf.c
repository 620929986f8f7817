/* gguf.c - opens a GGUF file and checks all of it before anyone else sees a byte. See gguf.h.
 *
 * Layout: "GGUF", u32 version, u64 tensor count, u64 key count; the keys with their values; the tensor directory; padding to the
 * alignment; the tensors' data. A reader walks over the mapping; each step asks for its bytes first (reader_take), so a length
 * from the file is never added to anything before it is known to fit. */
#define _GNU_SOURCE /* qsort_r */
#include "engine/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/gguf_internal.h"

enum {
    MIN_KEY_BYTES = 8 + 1 + 4 + 1,            /* length, one letter, kind, one byte of value */
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8, /* length, one letter, one dimension, type, offset */
    MAX_ALIGNMENT = 1 << 20,
    DEFAULT_ALIGNMENT = 32,
    SHOWN_SIZE = 72, /* of a name in a sentence */
};

/* --- reading --- */

struct reader {
    const uint8_t *data;
    size_t size, at;
};

/* The next n bytes, or NULL when the file ends before. */
static const uint8_t *reader_take(struct reader *reader, uint64_t n) {
    if (n > reader->size - reader->at) return NULL;
    const uint8_t *bytes = reader->data + reader->at;
    reader->at += (size_t)n;
    return bytes;
}

static bool reader_u32(struct reader *reader, uint32_t *out) {
    const uint8_t *bytes = reader_take(reader, sizeof *out);
    if (bytes) memcpy(out, bytes, sizeof *out);
    return bytes != NULL;
}

static bool reader_u64(struct reader *reader, uint64_t *out) {
    const uint8_t *bytes = reader_take(reader, sizeof *out);
    if (bytes) memcpy(out, bytes, sizeof *out);
    return bytes != NULL;
}

static bool reader_string(struct reader *reader, struct gguf_string *out) {
    uint64_t len;
    if (!reader_u64(reader, &len)) return false;
    out->data = (const char *)reader_take(reader, len);
    out->len = (size_t)len;
    return out->data != NULL;
}

static int cut_off(const struct gguf *gguf, const char *what, size_t i, uint64_t n, struct engine_error *error) {
    return gguf_fail(error, ENGINE_ERR_MODEL,
                     "%s is cut off or damaged: %s %zu of %llu does not end within the file's %zu bytes; download it again",
                     gguf->path, what, i + 1, (unsigned long long)n, gguf->map_bytes);
}

/* --- header --- */

/* What people feed to programs that want a GGUF file. */
static const char *foreign_kind(const uint8_t *head, size_t n) {
    static const struct {
        const char *magic, *kind;
    } kinds[] = {
        {"PK\x03\x04", "a zip archive (a PyTorch checkpoint or a wheel?)"},
        {"version https://git-lfs", "a git-lfs pointer, not the file itself"},
        {"<", "a web page"},
        {"lmgg", "an old ggml file"},
        {"tjgg", "an old ggml file"},
        {"\x1f\x8b", "a gzip archive"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t len = strlen(kinds[i].magic);
        if (n >= len && memcmp(head, kinds[i].magic, len) == 0) return kinds[i].kind;
    }
    if (n >= 9 && head[7] == 0 && head[8] == '{') return "a safetensors file; convert it to GGUF";
    return NULL;
}

static int read_header(struct gguf *gguf, struct reader *reader, uint64_t *n_values, uint64_t *n_tensors,
                       struct engine_error *error) {
    char shown[9];
    const uint8_t *magic = reader_take(reader, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0) {
        size_t n = gguf->map_bytes < 8 ? gguf->map_bytes : 8;
        const char *kind = foreign_kind(gguf->map, gguf->map_bytes);
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s is not a GGUF file: it begins with \"%s\"%s%s; give a model in GGUF format",
                         gguf->path, gguf_printable(shown, sizeof shown, gguf->map, n), kind ? ", like " : "", kind ? kind : "");
    }
    if (!reader_u32(reader, &gguf->version)) return cut_off(gguf, "header field", 0, 3, error);
    if (gguf->version != 0 && (gguf->version & 0xFFFF) == 0) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s is a big-endian GGUF file; convert it to little endian", gguf->path);
    }
    if (gguf->version != 2 && gguf->version != 3) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s is a GGUF file of version %u; this program reads versions 2 and 3",
                         gguf->path, gguf->version);
    }
    if (!reader_u64(reader, n_tensors)) return cut_off(gguf, "header field", 1, 3, error);
    if (!reader_u64(reader, n_values)) return cut_off(gguf, "header field", 2, 3, error);
    uint64_t left = reader->size - reader->at;
    if (*n_values > GGUF_MAX_KEYS || *n_values > left / MIN_KEY_BYTES) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s is cut off or damaged: it announces %llu metadata keys in %zu bytes",
                         gguf->path, (unsigned long long)*n_values, gguf->map_bytes);
    }
    if (*n_tensors > GGUF_MAX_TENSORS || *n_tensors > left / MIN_TENSOR_BYTES) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s is cut off or damaged: it announces %llu tensors in %zu bytes", gguf->path,
                         (unsigned long long)*n_tensors, gguf->map_bytes);
    }
    return ENGINE_OK;
}

/* --- metadata --- */

/* Walks over the elements of an array; strings one by one, so that gguf_array_next needs no checks. */
static bool read_array(struct reader *reader, struct gguf_value *value) {
    uint64_t n = value->n;
    if (value->item == GGUF_STRING) {
        struct gguf_string ignored;
        while (n-- > 0) {
            if (!reader_string(reader, &ignored)) return false;
        }
        return true;
    }
    uint64_t bytes;
    if (__builtin_mul_overflow(n, (uint64_t)gguf_kind_bytes(value->item), &bytes)) return false;
    return reader_take(reader, bytes) != NULL;
}

static int bad_kind(const struct gguf *gguf, const struct gguf_value *value, uint32_t kind, struct engine_error *error) {
    char shown[SHOWN_SIZE];
    gguf_printable(shown, sizeof shown, value->key.data, value->key.len);
    if (kind == GGUF_ARRAY) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s holds an array of arrays at %s, which no known model has", gguf->path,
                         shown);
    }
    return gguf_fail(error, ENGINE_ERR_MODEL, "%s is damaged: metadata key %s has a value of unknown kind %u", gguf->path, shown,
                     kind);
}

static int read_value(const struct gguf *gguf, struct reader *reader, size_t i, struct gguf_value *value,
                      struct engine_error *error) {
    uint32_t kind, item;
    uint64_t n;
    struct gguf_string string;
    if (!reader_string(reader, &value->key) || !reader_u32(reader, &kind)) goto short_file;
    if (value->key.len == 0 || memchr(value->key.data, 0, value->key.len)) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s is damaged: metadata key %zu has no proper name", gguf->path, i + 1);
    }
    if (kind >= GGUF_KIND_COUNT) return bad_kind(gguf, value, kind, error);
    value->kind = (enum gguf_kind)kind;
    switch (value->kind) {
    case GGUF_STRING:
        if (!reader_string(reader, &string)) goto short_file;
        value->data = (const uint8_t *)string.data;
        value->n = string.len;
        return ENGINE_OK;
    case GGUF_ARRAY:
        if (!reader_u32(reader, &item) || !reader_u64(reader, &n)) goto short_file;
        if (item >= GGUF_KIND_COUNT || item == GGUF_ARRAY) return bad_kind(gguf, value, item, error);
        value->item = (enum gguf_kind)item;
        value->n = (size_t)n;
        value->data = reader->data + reader->at;
        if (!read_array(reader, value)) goto short_file;
        return ENGINE_OK;
    default:
        value->data = reader_take(reader, gguf_kind_bytes(value->kind));
        if (!value->data) goto short_file;
        return ENGINE_OK;
    }
short_file:
    return cut_off(gguf, "metadata key", i, gguf->n_values, error);
}

int gguf_compare_strings(struct gguf_string a, struct gguf_string b) {
    int order = memcmp(a.data, b.data, a.len < b.len ? a.len : b.len);
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static int compare_keys(const void *a, const void *b, void *context) {
    const struct gguf *gguf = context;
    return gguf_compare_strings(gguf->values[*(const uint32_t *)a].key, gguf->values[*(const uint32_t *)b].key);
}

static int compare_tensors(const void *a, const void *b, void *context) {
    const struct gguf *gguf = context;
    return strcmp(gguf->tensors[*(const uint32_t *)a].name, gguf->tensors[*(const uint32_t *)b].name);
}

/* Sorts the indices 0 .. n-1; returns one of two equal ones, or n when all differ. */
static size_t sort_and_find_equal(uint32_t *indices, size_t n, int (*compare)(const void *, const void *, void *),
                                  struct gguf *gguf) {
    for (size_t i = 0; i < n; i++) indices[i] = (uint32_t)i;
    qsort_r(indices, n, sizeof *indices, compare, gguf);
    for (size_t i = 1; i < n; i++) {
        if (compare(&indices[i - 1], &indices[i], gguf) == 0) return indices[i];
    }
    return n;
}

static int read_values(struct gguf *gguf, struct reader *reader, struct engine_error *error) {
    char shown[SHOWN_SIZE];
    for (size_t i = 0; i < gguf->n_values; i++) {
        int rc = read_value(gguf, reader, i, &gguf->values[i], error);
        if (rc != ENGINE_OK) return rc;
    }
    size_t twice = sort_and_find_equal(gguf->values_sorted, gguf->n_values, compare_keys, gguf);
    if (twice < gguf->n_values) {
        const struct gguf_string *key = &gguf->values[twice].key;
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s is damaged: metadata key %s is there twice", gguf->path,
                         gguf_printable(shown, sizeof shown, key->data, key->len));
    }
    gguf->alignment = DEFAULT_ALIGNMENT;
    enum gguf_answer answer = gguf_get_u32(gguf, "general.alignment", &gguf->alignment);
    bool power_of_two = (gguf->alignment & (gguf->alignment - 1)) == 0;
    if (answer == GGUF_MISMATCH || gguf->alignment < 8 || gguf->alignment > MAX_ALIGNMENT || !power_of_two) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s is damaged: general.alignment must be a power of two from 8 to %d",
                         gguf->path, MAX_ALIGNMENT);
    }
    return ENGINE_OK;
}

/* --- tensors --- */

/* Bytes of the data; false if the shape is impossible or does not suit the type. */
static bool tensor_size(const struct gguf_tensor *tensor, uint32_t block_elements, uint32_t block_bytes, size_t *out) {
    uint64_t n = 1, bytes;
    for (int d = 0; d < tensor->n_dims; d++) {
        if (tensor->dims[d] <= 0 || __builtin_mul_overflow(n, (uint64_t)tensor->dims[d], &n)) return false;
    }
    if (tensor->dims[0] % block_elements != 0) return false;
    if (n > INT64_MAX || __builtin_mul_overflow(n / block_elements, (uint64_t)block_bytes, &bytes)) return false;
    *out = (size_t)bytes;
    return true;
}

/* One entry of the directory; *offset counts from the start of the data, which is not known yet. */
static int read_tensor(const struct gguf *gguf, struct reader *reader, size_t i, struct gguf_tensor *tensor, uint64_t *offset,
                       struct engine_error *error) {
    struct gguf_string name;
    uint32_t n_dims, block_elements, block_bytes;
    uint64_t dim;
    char shown[SHOWN_SIZE];
    if (!reader_string(reader, &name) || !reader_u32(reader, &n_dims)) goto short_file;
    gguf_printable(shown, sizeof shown, name.data, name.len);
    if (name.len == 0 || name.len >= GGUF_NAME_SIZE || memcmp(shown, name.data, name.len) != 0) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s is damaged: tensor %zu has no proper name (\"%s\")", gguf->path, i + 1,
                         shown);
    }
    memcpy(tensor->name, name.data, name.len);
    if (n_dims < 1 || n_dims > GGUF_MAX_DIMS) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s is damaged: tensor %s has %u dimensions (1 to %d are possible)", gguf->path,
                         shown, n_dims, GGUF_MAX_DIMS);
    }
    tensor->n_dims = (int)n_dims;
    for (uint32_t d = 0; d < GGUF_MAX_DIMS; d++) {
        dim = 1;
        if (d < n_dims && !reader_u64(reader, &dim)) goto short_file;
        tensor->dims[d] = (int64_t)dim;
    }
    if (!reader_u32(reader, &tensor->type) || !reader_u64(reader, offset)) goto short_file;
    if (!gguf_type_block(tensor->type, &block_elements, &block_bytes)) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s: tensor %s has type number %u, which this program does not know",
                         gguf->path, shown, tensor->type);
    }
    if (!tensor_size(tensor, block_elements, block_bytes, &tensor->bytes)) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s is damaged: tensor %s cannot be %lld x %lld x %lld x %lld elements of %s",
                         gguf->path, shown, (long long)tensor->dims[0], (long long)tensor->dims[1], (long long)tensor->dims[2],
                         (long long)tensor->dims[3], gguf_type_name(tensor->type));
    }
    return ENGINE_OK;
short_file:
    return cut_off(gguf, "tensor entry", i, gguf->n_tensors, error);
}

/* Sets the data pointer once the start of the data is known. */
static int place_tensor(const struct gguf *gguf, uint64_t data_start, uint64_t offset, struct gguf_tensor *tensor,
                        struct engine_error *error) {
    uint64_t start, end;
    if (offset % gguf->alignment != 0) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s is damaged: tensor %s stands at offset %llu, not a multiple of %u",
                         gguf->path, tensor->name, (unsigned long long)offset, gguf->alignment);
    }
    if (__builtin_add_overflow(data_start, offset, &start) || __builtin_add_overflow(start, (uint64_t)tensor->bytes, &end)) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s is damaged: tensor %s stands at offset %llu", gguf->path, tensor->name,
                         (unsigned long long)offset);
    }
    if (end > gguf->map_bytes) {
        return gguf_fail(error, ENGINE_ERR_MODEL,
                         "%s is cut off: tensor %s ends at byte %llu, the file has %zu; download it again", gguf->path,
                         tensor->name, (unsigned long long)end, gguf->map_bytes);
    }
    tensor->data = gguf->map + start;
    return ENGINE_OK;
}

static int read_tensors(struct gguf *gguf, struct reader *reader, uint64_t *offsets, struct engine_error *error) {
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        int rc = read_tensor(gguf, reader, i, &gguf->tensors[i], &offsets[i], error);
        if (rc != ENGINE_OK) return rc;
    }
    uint64_t data_start = ((uint64_t)reader->at + gguf->alignment - 1) / gguf->alignment * gguf->alignment;
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        int rc = place_tensor(gguf, data_start, offsets[i], &gguf->tensors[i], error);
        if (rc != ENGINE_OK) return rc;
    }
    size_t twice = sort_and_find_equal(gguf->tensors_sorted, gguf->n_tensors, compare_tensors, gguf);
    if (twice < gguf->n_tensors) {
        return gguf_fail(error, ENGINE_ERR_MODEL, "%s is damaged: tensor %s is there twice", gguf->path,
                         gguf->tensors[twice].name);
    }
    return ENGINE_OK;
}

/* --- open and close --- */

static int map_file(struct gguf *gguf, struct engine_error *error) {
    struct stat info;
    int rc = ENGINE_ERR_IO;
    int fd = open(gguf->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not block us; it is refused below */
    if (fd < 0) {
        return gguf_fail(error, rc, "cannot open the model file %s: %s", gguf->path, strerror(errno));
    }
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        gguf_fail(error, rc, "%s is not a file%s", gguf->path, S_ISDIR(info.st_mode) ? " but a folder; name the file in it" : "");
    } else if (info.st_size == 0) {
        rc = gguf_fail(error, ENGINE_ERR_MODEL, "%s is empty; download it again", gguf->path);
    } else {
        void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED) {
            gguf_fail(error, rc, "cannot map the model file %s: %s", gguf->path, strerror(errno));
        } else {
            gguf->map = map;
            gguf->map_bytes = (size_t)info.st_size;
            rc = ENGINE_OK;
        }
    }
    close(fd);
    return rc;
}

/* calloc that also answers for nothing. */
static void *allocate(size_t n, size_t size) { return calloc(n ? n : 1, size); }

static int parse(struct gguf *gguf, struct engine_error *error) {
    struct reader reader = {.data = gguf->map, .size = gguf->map_bytes};
    uint64_t n_values = 0, n_tensors = 0;
    int rc = read_header(gguf, &reader, &n_values, &n_tensors, error);
    if (rc != ENGINE_OK) return rc;
    gguf->n_values = (size_t)n_values;
    gguf->n_tensors = (size_t)n_tensors;
    gguf->values = allocate(gguf->n_values, sizeof *gguf->values);
    gguf->values_sorted = allocate(gguf->n_values, sizeof *gguf->values_sorted);
    gguf->tensors = allocate(gguf->n_tensors, sizeof *gguf->tensors);
    gguf->tensors_sorted = allocate(gguf->n_tensors, sizeof *gguf->tensors_sorted);
    uint64_t *offsets = allocate(gguf->n_tensors, sizeof *offsets);
    if (!gguf->values || !gguf->values_sorted || !gguf->tensors || !gguf->tensors_sorted || !offsets) {
        rc = gguf_fail(error, ENGINE_ERR_MEMORY, "not enough memory to read %s", gguf->path);
    } else {
        rc = read_values(gguf, &reader, error);
        if (rc == ENGINE_OK) rc = read_tensors(gguf, &reader, offsets, error);
    }
    free(offsets);
    return rc;
}

/* image NULL: the file is mapped. */
static int open_file_or_image(struct gguf **out, const char *path, const void *image, size_t size, struct engine_error *error) {
    *out = NULL;
    struct gguf *gguf = calloc(1, sizeof *gguf);
    if (gguf) gguf->path = strdup(path);
    int rc = gguf && gguf->path ? ENGINE_OK : gguf_fail(error, ENGINE_ERR_MEMORY, "not enough memory to open %s", path);
    if (rc == ENGINE_OK && image) gguf->map = image, gguf->map_bytes = size, gguf->is_image = true;
    if (rc == ENGINE_OK && !image) rc = map_file(gguf, error);
    if (rc == ENGINE_OK) rc = parse(gguf, error);
    if (rc != ENGINE_OK) {
        gguf_close(gguf);
        return rc;
    }
    *out = gguf;
    return ENGINE_OK;
}

int gguf_open(struct gguf **out, const char *path, struct engine_error *error) {
    return open_file_or_image(out, path, NULL, 0, error);
}

int gguf_open_image(struct gguf **out, const char *name, const void *image, size_t size, struct engine_error *error) {
    return open_file_or_image(out, name, image, size, error);
}

void gguf_close(struct gguf *gguf) {
    if (!gguf) return;
    if (gguf->map && !gguf->is_image) munmap((void *)(uintptr_t)gguf->map, gguf->map_bytes);
    free(gguf->tensors_sorted);
    free(gguf->tensors);
    free(gguf->values_sorted);
    free(gguf->values);
    free(gguf->path);
    free(gguf);
}

/* Neighbours on the edge pages are touched too: they are read again from the file. */
static void advise(const struct gguf_tensor *tensor, int advice) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)tensor->data / page * page, end = (uintptr_t)tensor->data + tensor->bytes;
    madvise((void *)start, end - start, advice); /* a hint: its failure changes nothing */
}

void gguf_want_pages(const struct gguf *gguf, const struct gguf_tensor *tensor) {
    (void)gguf;
    advise(tensor, MADV_WILLNEED);
}

void gguf_release_pages(const struct gguf *gguf, const struct gguf_tensor *tensor) {
    (void)gguf;
    advise(tensor, MADV_DONTNEED);
}
