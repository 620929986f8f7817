/* gguf_writer.h - makes small GGUF files for tests: also broken ones, since the bytes lie open until they are saved.
 *
 *     struct gguf_writer w = {0};
 *     writer_begin(&w, 3, n_tensors, n_keys);
 *     writer_key_u32(&w, "general.alignment", 32); ...
 *     writer_tensor(&w, "a", 0, 1, dims, offset);  ...
 *     writer_align(&w, 32); writer_zeros(&w, n);
 *     writer_save(&w, path); writer_free(&w); */
#ifndef FORESAY_GGUF_WRITER_H
#define FORESAY_GGUF_WRITER_H

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/gguf.h"

struct gguf_writer {
    uint8_t *bytes;
    size_t n, capacity;
};

static inline void writer_put(struct gguf_writer *w, const void *data, size_t n) {
    if (w->n + n > w->capacity) {
        w->capacity = (w->n + n) * 2;
        w->bytes = realloc(w->bytes, w->capacity);
        assert(w->bytes);
    }
    if (n) memcpy(w->bytes + w->n, data, n);
    w->n += n;
}

static inline void writer_u8(struct gguf_writer *w, uint8_t value) { writer_put(w, &value, sizeof value); }
static inline void writer_u32(struct gguf_writer *w, uint32_t value) { writer_put(w, &value, sizeof value); }
static inline void writer_u64(struct gguf_writer *w, uint64_t value) { writer_put(w, &value, sizeof value); }
static inline void writer_bytes(struct gguf_writer *w, const char *data, size_t n) {
    writer_u64(w, n);
    writer_put(w, data, n);
}
static inline void writer_string(struct gguf_writer *w, const char *text) { writer_bytes(w, text, strlen(text)); }

static inline void writer_begin(struct gguf_writer *w, uint32_t version, uint64_t n_tensors, uint64_t n_keys) {
    writer_put(w, "GGUF", 4);
    writer_u32(w, version);
    writer_u64(w, n_tensors);
    writer_u64(w, n_keys);
}

static inline void writer_key(struct gguf_writer *w, const char *key, uint32_t kind) {
    writer_string(w, key);
    writer_u32(w, kind);
}
static inline void writer_key_u32(struct gguf_writer *w, const char *key, uint32_t value) {
    writer_key(w, key, GGUF_U32);
    writer_u32(w, value);
}
static inline void writer_key_bool(struct gguf_writer *w, const char *key, bool value) {
    writer_key(w, key, GGUF_BOOL);
    writer_u8(w, value);
}
static inline void writer_key_string(struct gguf_writer *w, const char *key, const char *value) {
    writer_key(w, key, GGUF_STRING);
    writer_string(w, value);
}
/* The elements follow. */
static inline void writer_key_array(struct gguf_writer *w, const char *key, uint32_t kind, uint64_t n) {
    writer_key(w, key, GGUF_ARRAY);
    writer_u32(w, kind);
    writer_u64(w, n);
}

static inline void writer_tensor(struct gguf_writer *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                                 uint64_t offset) {
    writer_string(w, name);
    writer_u32(w, n_dims);
    for (uint32_t d = 0; d < n_dims; d++) writer_u64(w, dims[d]);
    writer_u32(w, type);
    writer_u64(w, offset);
}

static inline void writer_zeros(struct gguf_writer *w, size_t n) {
    while (n-- > 0) writer_u8(w, 0);
}
static inline void writer_align(struct gguf_writer *w, size_t alignment) {
    while (w->n % alignment) writer_u8(w, 0);
}

static inline void writer_save(const struct gguf_writer *w, const char *path) {
    FILE *file = fopen(path, "wb");
    assert(file);
    size_t written = fwrite(w->bytes, 1, w->n, file);
    assert(written == w->n);
    int closed = fclose(file);
    assert(closed == 0);
    (void)written;
    (void)closed;
}
static inline void writer_free(struct gguf_writer *w) {
    free(w->bytes);
    *w = (struct gguf_writer){0};
}

/* Saves to a new file under the folder for temporary files, opens it, and unlinks it. The mapping keeps it alive. */
static inline int writer_open(const struct gguf_writer *w, struct gguf **out, struct engine_error *error) {
    const char *folder = getenv("TMPDIR");
    char path[256];
    snprintf(path, sizeof path, "%s/foresay_gguf_XXXXXX", folder ? folder : "/tmp");
    int fd = mkstemp(path);
    assert(fd >= 0);
    close(fd);
    writer_save(w, path);
    int rc = gguf_open(out, path, error);
    unlink(path);
    return rc;
}

#endif
