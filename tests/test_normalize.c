/* test_normalize.c - protects composed text (NFC): letters and marks, Hangul, the order of marks, bytes that are no text, and
 * that no text takes quadratic time. The oracle test compares whole scripts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/normalize.h"

static void assert_composed(const char *text, const char *expected) {
    char *out;
    size_t len = strlen(text), out_len;
    assert_true(normalize_nfc(text, len, &out, &out_len));
    if (strcmp(text, expected) == 0) {
        assert_null(out); /* nothing to do, nothing allocated */
        return;
    }
    assert_non_null(out);
    assert_int_equal(out_len, strlen(expected));
    assert_memory_equal(out, expected, out_len);
    free(out);
}

static void text_is_composed(void **state) {
    (void)state;
    assert_composed("", "");
    assert_composed("caf\u00e9 \u4f60\u597d \U0001F600", "caf\u00e9 \u4f60\u597d \U0001F600");
    assert_composed("cafe\u0301.", "caf\u00e9.");
    assert_composed("\u0301e\u0301", "\u0301\u00e9");
    assert_composed("x\u1100\u1161\u11a8y", "x\uac01y");
    assert_composed("q\u0307\u0323", "q\u0323\u0307"); /* marks in their order */
    assert_composed("a\u0301b\u0301c e\u0301", "\u00e1b\u0301c \u00e9");
    assert_composed("\u212b", "\u00c5");
}

static void other_bytes_stay(void **state) {
    (void)state;
    assert_composed("\xFF"
                    "e\xCC\x81\xCC"
                    "e\xCC\x81\xF0\x9F",
                    "\xFF\u00e9\xCC\u00e9\xF0\x9F");
    assert_composed("e\xFF\xCC\x81", "e\xFF\xCC\x81"); /* a mark does not reach across */
}

/* A million marks in the worst order on one letter are left alone: ordering them would not end. What follows is composed. */
static void endless_marks(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    static const char end[] = " e\u0301";
    char *text = malloc(2 * N + sizeof end), *out;
    size_t out_len;
    assert_non_null(text);
    for (int i = 0; i < N; i++) memcpy(text + 2 * i, i % 2 ? "\u0323" : "\u0301", 2);
    memcpy(text + 2 * N, end, sizeof end);
    assert_true(normalize_nfc(text, 2 * N + sizeof end - 1, &out, &out_len));
    assert_non_null(out);
    assert_int_equal(out_len, 2 * N + 3);
    assert_memory_equal(out, text, 2 * N);
    assert_memory_equal(out + 2 * N, " \u00e9", 3);
    free(out);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_composed),
        cmocka_unit_test(other_bytes_stay),
        cmocka_unit_test(endless_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
