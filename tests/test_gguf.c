/* test_gguf.c - protects against broken and hostile model files: each is refused with a sentence, none is read past its end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/gguf.h"
#include "tests/gguf_writer.h"

enum { N_KEYS = 13, TYPE_F32 = 0, TYPE_Q4_1 = 3, TYPE_Q8_K = 15 };

/* A file with a key of every kind and two tensors. */
static void write_good(struct gguf_writer *w, uint32_t version) {
    const uint64_t matrix[] = {64, 3}, vector[] = {5};
    const double pi = 3.25;
    const float e = 2.5f;
    writer_begin(w, version, 2, N_KEYS);
    writer_key_u32(w, "general.alignment", 64);
    writer_key_string(w, "general.name", "tiny");
    writer_key_bool(w, "yes", true);
    writer_key(w, "small", GGUF_I8);
    writer_u8(w, 0xFE);
    writer_key(w, "short", GGUF_U16);
    writer_put(w, &(uint16_t){65535}, 2);
    writer_key(w, "long", GGUF_U64);
    writer_u64(w, UINT64_C(1) << 40);
    writer_key(w, "huge", GGUF_U64);
    writer_u64(w, UINT64_MAX);
    writer_key(w, "float", GGUF_F32);
    writer_put(w, &e, sizeof e);
    writer_key(w, "double", GGUF_F64);
    writer_put(w, &pi, sizeof pi);
    writer_key_array(w, "ints", GGUF_I32, 3);
    for (int i = 0; i < 3; i++) writer_u32(w, (uint32_t)-i);
    writer_key_array(w, "floats", GGUF_F32, 1);
    writer_put(w, &e, sizeof e);
    writer_key_array(w, "words", GGUF_STRING, 3);
    writer_string(w, "one");
    writer_string(w, "");
    writer_string(w, "three");
    writer_key_array(w, "none", GGUF_STRING, 0);
    writer_tensor(w, "matrix", TYPE_Q4_1, 2, matrix, 0);
    writer_tensor(w, "vector", TYPE_F32, 1, vector, 128);
    writer_align(w, 64);
    writer_zeros(w, 128 + 20);
}

static struct gguf *open_good(void) {
    struct gguf_writer w = {0};
    struct gguf *gguf;
    struct engine_error error;
    write_good(&w, 3);
    assert_int_equal(writer_open(&w, &gguf, &error), ENGINE_OK);
    writer_free(&w);
    return gguf;
}

/* Every kind of value answers with what was written; numbers of other widths too, within range; anything else is a mismatch. */
static void values_answer_by_kind(void **state) {
    (void)state;
    struct gguf *g = open_good();
    uint32_t u = 7;
    uint64_t big;
    float f;
    bool b = false;
    struct gguf_string s;
    assert_int_equal(gguf_get_u32(g, "general.alignment", &u), GGUF_FOUND);
    assert_int_equal(u, 64);
    assert_int_equal(gguf_get_u32(g, "short", &u), GGUF_FOUND);
    assert_int_equal(u, 65535);
    assert_int_equal(gguf_get_u32(g, "absent", &u), GGUF_ABSENT);
    assert_int_equal(gguf_get_u32(g, "small", &u), GGUF_MISMATCH); /* -2 */
    assert_int_equal(gguf_get_u32(g, "long", &u), GGUF_MISMATCH);
    assert_int_equal(gguf_get_u32(g, "words", &u), GGUF_MISMATCH);
    assert_int_equal(gguf_get_u32(g, "general.name", &u), GGUF_MISMATCH);
    assert_int_equal(u, 65535);
    assert_int_equal(gguf_get_u64(g, "long", &big), GGUF_FOUND);
    assert_true(big == UINT64_C(1) << 40);
    assert_int_equal(gguf_get_u64(g, "huge", &big), GGUF_MISMATCH);
    assert_int_equal(gguf_get_f32(g, "double", &f), GGUF_FOUND);
    assert_true(f == 3.25f);
    assert_int_equal(gguf_get_f32(g, "short", &f), GGUF_MISMATCH);
    assert_int_equal(gguf_get_bool(g, "yes", &b), GGUF_FOUND);
    assert_true(b);
    assert_int_equal(gguf_get_bool(g, "short", &b), GGUF_MISMATCH);
    assert_int_equal(gguf_get_string(g, "general.name", &s), GGUF_FOUND);
    assert_int_equal(s.len, 4);
    assert_memory_equal(s.data, "tiny", 4);
    assert_int_equal(gguf_get_string(g, "yes", &s), GGUF_MISMATCH);
    assert_int_equal(gguf_n_keys(g), N_KEYS);
    gguf_close(g);
}

static void arrays_are_walked(void **state) {
    (void)state;
    struct gguf *g = open_good();
    struct gguf_array a;
    size_t cursor = 0;
    assert_int_equal(gguf_get_array(g, "ints", &a), GGUF_FOUND);
    assert_int_equal(a.n, 3);
    assert_int_equal(gguf_array_i64(&a, 2), -2);
    assert_int_equal(gguf_get_array(g, "floats", &a), GGUF_FOUND);
    assert_true(gguf_array_f64(&a, 0) == 2.5);
    assert_int_equal(gguf_get_array(g, "words", &a), GGUF_FOUND);
    assert_int_equal(gguf_array_next(&a, &cursor).len, 3);
    assert_int_equal(gguf_array_next(&a, &cursor).len, 0);
    struct gguf_string last = gguf_array_next(&a, &cursor);
    assert_int_equal(last.len, 5);
    assert_memory_equal(last.data, "three", 5);
    assert_int_equal(gguf_get_array(g, "none", &a), GGUF_FOUND);
    assert_int_equal(a.n, 0);
    assert_int_equal(gguf_get_array(g, "yes", &a), GGUF_MISMATCH);
    gguf_close(g);
}

/* What a model needs comes with its limits; the sentence names key or tensor. */
static void requirements_name_what_is_wrong(void **state) {
    (void)state;
    struct gguf *g = open_good();
    struct engine_error error;
    const struct gguf_tensor *tensor;
    enum dtype type;
    uint32_t u = 9;
    float f = 0;
    assert_int_equal(gguf_require_u32(g, "short", 1, 65535, &u, &error), ENGINE_OK);
    assert_int_equal(u, 65535);
    assert_int_equal(gguf_require_u32(g, "short", 1, 100, &u, &error), ENGINE_ERR_MODEL);
    assert_non_null(strstr(error.text, "short is 65535"));
    assert_int_equal(gguf_require_u32(g, "absent", 1, 100, &u, &error), ENGINE_ERR_MODEL);
    assert_non_null(strstr(error.text, "absent"));
    assert_int_equal(gguf_accept_u32(g, "absent", 1, 100, &u, &error), ENGINE_OK);
    assert_int_equal(u, 65535);
    assert_int_equal(gguf_require_f32(g, "float", 0, 3, &f, &error), ENGINE_OK);
    assert_int_equal(gguf_require_f32(g, "words", 0, 3, &f, &error), ENGINE_ERR_MODEL);
    assert_non_null(strstr(error.text, "array"));
    assert_int_equal(gguf_require_tensor(g, "matrix", 3, 64, &tensor, &type, &error), ENGINE_OK);
    assert_int_equal(type, DTYPE_Q4_1);
    assert_int_equal(tensor->bytes, 3 * 2 * 20);
    assert_int_equal((uintptr_t)tensor->data % 64, 0);
    assert_int_equal(gguf_require_tensor(g, "matrix", 64, 3, &tensor, &type, &error), ENGINE_ERR_MODEL);
    assert_non_null(strstr(error.text, "matrix"));
    assert_int_equal(gguf_require_tensor(g, "lost", 1, 1, &tensor, &type, &error), ENGINE_ERR_MODEL);
    assert_non_null(strstr(error.text, "lost"));
    assert_int_equal(gguf_require_tensor(g, "vector", 1, 5, &tensor, &type, &error), ENGINE_OK);
    gguf_release_pages(g, tensor);
    assert_int_equal(*(const uint8_t *)tensor->data, 0); /* released pages can be read again */
    gguf_close(g);
}

/* A type without a kernel parses, so that the file can be inspected, and is named when the model asks for it. */
static void types_without_a_kernel_are_named(void **state) {
    (void)state;
    struct gguf_writer w = {0};
    struct gguf *g;
    struct engine_error error;
    const struct gguf_tensor *tensor;
    enum dtype type;
    writer_begin(&w, 3, 1, 0);
    writer_tensor(&w, "blk.0.attn_q.weight", TYPE_Q8_K, 1, (uint64_t[]){512}, 0);
    writer_align(&w, 32);
    writer_zeros(&w, 2 * 292);
    assert_int_equal(writer_open(&w, &g, &error), ENGINE_OK);
    assert_string_equal(gguf_type_name(gguf_tensor_at(g, 0)->type), "Q8_K");
    assert_int_equal(gguf_require_tensor(g, "blk.0.attn_q.weight", 1, 512, &tensor, &type, &error), ENGINE_ERR_MODEL);
    assert_non_null(strstr(error.text, "has type Q8_K,"));
    assert_non_null(strstr(error.text, "Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, F16, BF16 or F32"));
    assert_non_null(strstr(error.text, "blk.0.attn_q.weight"));
    gguf_close(g);
    writer_free(&w);
}

/* --- hostile files --- */

static void bad_magic(struct gguf_writer *w) { memcpy(w->bytes, "PK\x03\x04", 4); }
static void bad_version(struct gguf_writer *w) { w->bytes[4] = 1; }
static void big_endian(struct gguf_writer *w) { memcpy(w->bytes + 4, "\0\0\0\3", 4); }
static void many_tensors(struct gguf_writer *w) { memset(w->bytes + 8, 0xFF, 8); }
static void many_keys(struct gguf_writer *w) { memset(w->bytes + 16, 0xFF, 8); }
static void long_key(struct gguf_writer *w) { memset(w->bytes + 24, 0xFF, 8); }

static void restart(struct gguf_writer *w, uint64_t n_tensors, uint64_t n_keys) {
    w->n = 0;
    writer_begin(w, 3, n_tensors, n_keys);
}
static void key_twice(struct gguf_writer *w) {
    restart(w, 0, 2);
    writer_key_u32(w, "a", 1);
    writer_key_u32(w, "a", 1);
}
static void key_empty(struct gguf_writer *w) {
    restart(w, 0, 1);
    writer_key_u32(w, "", 1);
    writer_zeros(w, 8);
}
static void kind_unknown(struct gguf_writer *w) {
    restart(w, 0, 1);
    writer_key(w, "a\x1b[31m", 13);
    writer_zeros(w, 64);
}
static void array_of_arrays(struct gguf_writer *w) {
    restart(w, 0, 1);
    writer_key_array(w, "a", GGUF_ARRAY, 1);
    writer_zeros(w, 64);
}
static void array_too_long(struct gguf_writer *w) {
    restart(w, 0, 1);
    writer_key_array(w, "a", GGUF_U64, UINT64_MAX / 8 + 2); /* times 8 wraps around to 8 */
    writer_zeros(w, 64);
}
static void strings_too_many(struct gguf_writer *w) {
    restart(w, 0, 1);
    writer_key_array(w, "a", GGUF_STRING, UINT64_MAX);
    writer_zeros(w, 64);
}
static void alignment(struct gguf_writer *w, uint32_t value) {
    restart(w, 0, 1);
    writer_key_u32(w, "general.alignment", value);
}
static void alignment_zero(struct gguf_writer *w) { alignment(w, 0); }
static void alignment_odd(struct gguf_writer *w) { alignment(w, 48); }
static void alignment_huge(struct gguf_writer *w) { alignment(w, 1u << 31); }
static void alignment_string(struct gguf_writer *w) {
    restart(w, 0, 1);
    writer_key_string(w, "general.alignment", "32");
}
static void tensor(struct gguf_writer *w, uint32_t type, uint32_t n_dims, const uint64_t *dims, uint64_t offset) {
    restart(w, 1, 0);
    writer_tensor(w, "t", type, n_dims, dims, offset);
    writer_align(w, 32);
    writer_zeros(w, 256);
}
static void type_unknown(struct gguf_writer *w) { tensor(w, 999, 1, (uint64_t[]){32}, 0); }
static void type_given_up(struct gguf_writer *w) { tensor(w, 4, 1, (uint64_t[]){32}, 0); }
static void no_dimensions(struct gguf_writer *w) { tensor(w, 0, 0, NULL, 0); }
static void five_dimensions(struct gguf_writer *w) { tensor(w, 0, 5, (uint64_t[]){1, 1, 1, 1, 1}, 0); }
static void many_dimensions(struct gguf_writer *w) {
    tensor(w, 0, 1, (uint64_t[]){1}, 0);
    memset(w->bytes + 24 + 9, 0xFF, 4);
}
static void dimension_zero(struct gguf_writer *w) { tensor(w, 0, 2, (uint64_t[]){32, 0}, 0); }
static void dimension_negative(struct gguf_writer *w) { tensor(w, 0, 1, (uint64_t[]){UINT64_MAX}, 0); }
static void dimensions_overflow(struct gguf_writer *w) { tensor(w, 0, 2, (uint64_t[]){UINT64_C(1) << 33, UINT64_C(1) << 33}, 0); }
static void bytes_overflow(struct gguf_writer *w) { tensor(w, 28, 1, (uint64_t[]){UINT64_C(1) << 61}, 0); }
static void half_a_block(struct gguf_writer *w) { tensor(w, TYPE_Q4_1, 1, (uint64_t[]){48}, 0); }
static void offset_odd(struct gguf_writer *w) { tensor(w, 0, 1, (uint64_t[]){1}, 8); }
static void offset_far(struct gguf_writer *w) { tensor(w, 0, 1, (uint64_t[]){1}, 1 << 20); }
static void offset_wraps(struct gguf_writer *w) { tensor(w, 0, 1, (uint64_t[]){1}, UINT64_MAX - 31); }
static void ends_late(struct gguf_writer *w) { tensor(w, 0, 1, (uint64_t[]){65}, 0); }
static void tensor_twice(struct gguf_writer *w) {
    restart(w, 2, 0);
    writer_tensor(w, "t", 0, 1, (uint64_t[]){1}, 0);
    writer_tensor(w, "t", 0, 1, (uint64_t[]){1}, 32);
    writer_align(w, 32);
    writer_zeros(w, 64);
}
static void tensor_name_long(struct gguf_writer *w) {
    char name[80];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    restart(w, 1, 0);
    writer_tensor(w, name, 0, 1, (uint64_t[]){1}, 0);
    writer_zeros(w, 128);
}
static void tensor_name_escape(struct gguf_writer *w) {
    restart(w, 1, 0);
    writer_tensor(w, "\x1b[2J", 0, 1, (uint64_t[]){1}, 0);
    writer_zeros(w, 128);
}

static const struct {
    const char *name;
    void (*spoil)(struct gguf_writer *w);
    const char *expected; /* part of the sentence */
} hostile[] = {
    {"magic", bad_magic, "is not a GGUF file: it begins with \"PK??"},
    {"version", bad_version, "version 1; this program reads versions 2 and 3"},
    {"big endian", big_endian, "big-endian"},
    {"tensor count", many_tensors, "tensors in"},
    {"key count", many_keys, "metadata keys in"},
    {"key length", long_key, "metadata key 1 of 13"},
    {"key twice", key_twice, "a is there twice"},
    {"key empty", key_empty, "no proper name"},
    {"unknown kind", kind_unknown, "a?[31m has a value of unknown kind 13"},
    {"nested array", array_of_arrays, "array of arrays"},
    {"array length", array_too_long, "metadata key 1 of 1"},
    {"string count", strings_too_many, "metadata key 1 of 1"},
    {"alignment 0", alignment_zero, "general.alignment"},
    {"alignment 48", alignment_odd, "general.alignment"},
    {"alignment 2^31", alignment_huge, "general.alignment"},
    {"alignment text", alignment_string, "general.alignment"},
    {"type unknown", type_unknown, "tensor t has type number 999"},
    {"type given up", type_given_up, "type number 4"},
    {"no dimension", no_dimensions, "0 dimensions"},
    {"five dimensions", five_dimensions, "5 dimensions"},
    {"2^32-1 dimensions", many_dimensions, "4294967295 dimensions"},
    {"dimension 0", dimension_zero, "tensor t cannot be"},
    {"dimension -1", dimension_negative, "tensor t cannot be"},
    {"elements overflow", dimensions_overflow, "tensor t cannot be"},
    {"bytes overflow", bytes_overflow, "tensor t cannot be"},
    {"half a block", half_a_block, "tensor t cannot be"},
    {"offset odd", offset_odd, "not a multiple of 32"},
    {"offset far", offset_far, "is cut off: tensor t ends at byte"},
    {"offset wraps", offset_wraps, "is damaged: tensor t stands at offset"},
    {"data short", ends_late, "is cut off: tensor t ends at byte"},
    {"tensor twice", tensor_twice, "tensor t is there twice"},
    {"name too long", tensor_name_long, "no proper name"},
    {"name with escapes", tensor_name_escape, "(\"?[2J\")"},
};

static void hostile_files_are_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        struct gguf_writer w = {0};
        struct gguf *g;
        struct engine_error error = {""};
        write_good(&w, 3);
        hostile[i].spoil(&w);
        int rc = writer_open(&w, &g, &error);
        if (rc != ENGINE_ERR_MODEL || g || !strstr(error.text, hostile[i].expected)) {
            fail_msg("%s: status %d, \"%s\" lacks \"%s\"", hostile[i].name, rc, error.text, hostile[i].expected);
        }
        writer_free(&w);
    }
}

/* A file that ends anywhere before its end is refused; one that is complete is not. */
static void every_cut_is_noticed(void **state) {
    (void)state;
    struct gguf_writer w = {0};
    struct gguf *g;
    struct engine_error error;
    write_good(&w, 2);
    size_t whole = w.n;
    for (w.n = 0; w.n < whole; w.n++) {
        if (writer_open(&w, &g, &error) == ENGINE_OK) fail_msg("cut at byte %zu of %zu was not noticed", w.n, whole);
        assert_null(g);
    }
    assert_int_equal(writer_open(&w, &g, &error), ENGINE_OK);
    gguf_close(g);
    writer_free(&w);
}

/* Each byte set to something else: refused or read, but never past the end (the sanitizers watch). Seed 1. */
static void changed_bytes_do_no_harm(void **state) {
    (void)state;
    struct gguf_writer w = {0};
    struct engine_error error;
    uint32_t random = 1;
    write_good(&w, 3);
    for (size_t i = 0; i < w.n - 128; i++) {
        struct gguf *g;
        uint8_t before = w.bytes[i];
        random = random * 1664525 + 1013904223;
        w.bytes[i] = (uint8_t)(random >> 24);
        if (writer_open(&w, &g, &error) == ENGINE_OK) {
            for (size_t t = 0; t < gguf_n_tensors(g); t++) {
                const struct gguf_tensor *one = gguf_tensor_at(g, t);
                volatile uint8_t sum = 0;
                for (size_t k = 0; k < one->bytes; k++) sum = (uint8_t)(sum + ((const uint8_t *)one->data)[k]);
            }
            gguf_close(g);
        }
        w.bytes[i] = before;
    }
    writer_free(&w);
}

/* What is no file at all is said plainly. */
static void paths_that_are_no_files(void **state) {
    (void)state;
    struct gguf *g;
    struct engine_error error;
    assert_int_equal(gguf_open(&g, "no/such/model.gguf", &error), ENGINE_ERR_IO);
    assert_non_null(strstr(error.text, "No such file"));
    assert_int_equal(gguf_open(&g, "/", &error), ENGINE_ERR_IO);
    assert_non_null(strstr(error.text, "folder"));
    assert_int_equal(gguf_open(&g, "/dev/null", &error), ENGINE_ERR_IO);
    gguf_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_answer_by_kind),           cmocka_unit_test(arrays_are_walked),
        cmocka_unit_test(requirements_name_what_is_wrong), cmocka_unit_test(types_without_a_kernel_are_named),
        cmocka_unit_test(hostile_files_are_refused),       cmocka_unit_test(every_cut_is_noticed),
        cmocka_unit_test(changed_bytes_do_no_harm),        cmocka_unit_test(paths_that_are_no_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
