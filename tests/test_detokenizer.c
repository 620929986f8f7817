/* test_detokenizer.c - protects tokens to text: whole characters, replaced garbage, stop strings across tokens, nothing held
 * longer than it must be, the same text however the bytes are cut into tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/detokenizer.h"
#include "tests/small_vocabulary.h"

/* Added tokens stand for several bytes: text is cut into tokens along them or byte by byte. */
static const char *const added[] = {"one STOP two", "STOPSTOP", "ab", "abc", "\u4f60\u597d", "xSTO", "P", NULL};
enum { ONE_STOP_TWO = SMALL_FIRST_MERGED, STOP_STOP, AB, ABC, NI_HAO, X_STO, P };

static struct tokenizer *tokenizer;

static int start(void **state) {
    (void)state;
    tokenizer = small_open(&(struct small_vocabulary){.pre = "smollm", .added = added, .bos = 1, .eos = 2});
    return tokenizer ? 0 : -1;
}
static int end(void **state) {
    (void)state;
    tokenizer_close(tokenizer);
    return 0;
}

struct output {
    char text[4096];
    size_t len;
};

static void take_all(struct detokenizer *d, size_t size, struct output *out) {
    size_t n;
    while ((n = detokenizer_take(d, out->text + out->len, size)) > 0) {
        assert_true(utf8_valid(out->text + out->len, n)); /* each part by itself */
        out->len += n;
        assert_true(out->len + size < sizeof out->text);
    }
    out->text[out->len] = '\0';
}

static void push_byte(struct detokenizer *d, char byte, struct output *out) {
    detokenizer_push(d, SMALL_FIRST_BYTE + (uint8_t)byte);
    take_all(d, 64, out);
}

static void push_bytes(struct detokenizer *d, const char *bytes, size_t n, struct output *out) {
    for (size_t i = 0; i < n; i++) push_byte(d, bytes[i], out);
}

static void init(struct detokenizer *d, const char *const *stops, int n) {
    assert_int_equal(detokenizer_init(d, tokenizer, stops, n), ENGINE_OK);
}

/* --- characters --- */

/* Garbage becomes U+FFFD once for each maximal part, as Python's "replace" does; a cut-off end gives nothing. */
static void bytes_become_characters(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *text;
    } rows[] = {
        {"plain", "plain"},
        {"h\xC3\xA9", "h\xC3\xA9"},
        {"\xF0\x9F\x98\x80!", "\xF0\x9F\x98\x80!"},
        {"\x80", "\uFFFD"},
        {"\xFF\xFE", "\uFFFD\uFFFD"},
        {"\xC3(", "\uFFFD("},
        {"\xE2\x82(", "\uFFFD("},
        {"\xF0\x9F\x98(", "\uFFFD("},
        {"\xC0\xAF", "\uFFFD\uFFFD"},
        {"\xE0\x80\x80", "\uFFFD\uFFFD\uFFFD"},
        {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
        {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
        {"\xE2\xE2\x82\xAC", "\uFFFD\u20AC"},
        {"\xF0\x9F\xF0\x9F\x98\x80", "\uFFFD\xF0\x9F\x98\x80"},
        {"cut \xE2\x82", "cut "},
        {"cut \xF0\x9F\x98", "cut "},
        {"cut \xC3", "cut "},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct detokenizer d;
        struct output out = {.len = 0};
        init(&d, NULL, 0);
        push_bytes(&d, rows[i].bytes, strlen(rows[i].bytes), &out);
        detokenizer_finish(&d);
        take_all(&d, 4, &out);
        assert_string_equal(out.text, rows[i].text);
    }
}

/* A character comes out with its last byte, not before and not later. */
static void characters_wait_for_their_last_byte(void **state) {
    (void)state;
    struct detokenizer d;
    struct output out = {.len = 0};
    static const char smile[] = "\xF0\x9F\x98\x80";
    init(&d, NULL, 0);
    for (int i = 0; i < 3; i++) push_byte(&d, smile[i], &out);
    assert_int_equal(out.len, 0);
    push_byte(&d, smile[3], &out);
    assert_string_equal(out.text, smile);
}

/* Control tokens and ids that no vocabulary has are silent, also inside a character. */
static void control_tokens_are_silent(void **state) {
    (void)state;
    struct detokenizer d;
    struct output out = {.len = 0};
    static const int32_t silent[] = {SMALL_IM_END, SMALL_END_OF_TEXT, -1, 100000};
    init(&d, NULL, 0);
    push_byte(&d, '\xC3', &out);
    for (size_t i = 0; i < 4; i++) {
        detokenizer_push(&d, silent[i]);
        take_all(&d, 8, &out);
    }
    push_byte(&d, '\xA9', &out);
    assert_string_equal(out.text, "\xC3\xA9");
}

/* A small buffer cuts between characters and loses nothing. */
static void small_buffers(void **state) {
    (void)state;
    struct detokenizer d;
    struct output out = {.len = 0};
    init(&d, NULL, 0);
    detokenizer_push(&d, NI_HAO);
    char part[5];
    assert_int_equal(detokenizer_take(&d, part, 5), 3);
    take_all(&d, 4, &out);
    assert_string_equal(out.text, "\u597d");
}

/* --- stop strings --- */

/* A stop string inside one token ends the text exactly there; the rest of the token is dropped. */
static void stop_inside_a_token(void **state) {
    (void)state;
    struct detokenizer d;
    struct output out = {.len = 0};
    init(&d, (const char *const[]){"STOP"}, 1);
    detokenizer_push(&d, ONE_STOP_TWO);
    assert_true(d.stopped); /* known before the text is taken */
    take_all(&d, 4, &out);
    assert_string_equal(out.text, "one ");
    detokenizer_push(&d, AB);
    take_all(&d, 64, &out);
    detokenizer_finish(&d);
    take_all(&d, 64, &out);
    assert_string_equal(out.text, "one ");
}

/* A stop string that several tokens make together is held back from its first character on and never seen. */
static void stop_across_tokens(void **state) {
    (void)state;
    struct detokenizer d;
    struct output out = {.len = 0};
    init(&d, (const char *const[]){"STOP"}, 1);
    detokenizer_push(&d, X_STO);
    take_all(&d, 64, &out);
    assert_string_equal(out.text, "x");
    assert_false(d.stopped);
    detokenizer_push(&d, P);
    assert_true(d.stopped);
    take_all(&d, 64, &out);
    assert_string_equal(out.text, "x");
}

/* What was held back comes out as soon as it cannot become a stop string, and at the end. */
static void held_text_comes_out(void **state) {
    (void)state;
    struct detokenizer d;
    struct output out = {.len = 0};
    init(&d, (const char *const[]){"STOP", "\u4f60\u597d!"}, 2);
    push_bytes(&d, "STO", 3, &out);
    assert_int_equal(out.len, 0);
    push_byte(&d, 'S', &out); /* "STO" cannot be the beginning any more, the new "S" can */
    assert_string_equal(out.text, "STO");
    push_byte(&d, '-', &out);
    assert_string_equal(out.text, "STOS-");
    detokenizer_push(&d, NI_HAO);
    take_all(&d, 64, &out);
    assert_string_equal(out.text, "STOS-");
    detokenizer_finish(&d);
    take_all(&d, 4, &out);
    assert_string_equal(out.text, "STOS-\u4f60\u597d");
    assert_false(d.stopped);
}

/* Of several stop strings the one that is complete first ends the text; of two that end together, the longer. */
static void the_first_stop_wins(void **state) {
    (void)state;
    static const struct {
        const char *stops[3];
        int n;
        const char *bytes, *text;
    } rows[] = {
        {{"abcd", "bc"}, 2, "xabcd", "xa"}, {{"bc", "abc"}, 2, "xabcd", "x"},
        {{"abc", "bc"}, 2, "xabcd", "x"},   {{"aab"}, 1, "aaab", "a"},
        {{"abab!"}, 1, "ababab!", "ab"},    {{"a"}, 1, "a", ""},
        {{"\n\n"}, 1, "one\n\ntwo", "one"}, {{"\xC3\xA9"}, 1, "\xC3\xA8\xC3\xA9", "\xC3\xA8"},
        {{"\uFFFD"}, 1, "a\xFFz", "a"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct detokenizer d;
        struct output out = {.len = 0};
        init(&d, rows[i].stops, rows[i].n);
        push_bytes(&d, rows[i].bytes, strlen(rows[i].bytes), &out);
        assert_true(d.stopped);
        detokenizer_finish(&d);
        take_all(&d, 64, &out);
        assert_string_equal(out.text, rows[i].text);
    }
}

/* --- against a definition --- */

/* The text of all bytes so far without an unfinished end, by looking at everything again. */
static size_t define_text(const char *bytes, size_t n, char *out) {
    size_t used = 0;
    for (size_t at = 0; at < n;) {
        int len = utf8_scan(bytes + at, n - at);
        if (len == 0) break;
        memcpy(out + used, len > 0 ? bytes + at : "\xEF\xBF\xBD", len > 0 ? (size_t)len : 3);
        used += len > 0 ? (size_t)len : 3;
        at += len > 0 ? (size_t)len : (size_t)-len;
    }
    return used;
}

/* Cuts at the first stop string to be complete, else, unless at the end, holds back the longest beginning of one. */
static size_t define_visible(const char *text, size_t n, const char *const *stops, int n_stops, bool at_end, bool *stopped) {
    *stopped = false;
    for (size_t finish = 1; finish <= n; finish++) {
        size_t longest = 0;
        for (int s = 0; s < n_stops; s++) {
            size_t len = strlen(stops[s]);
            if (len <= finish && len > longest && memcmp(text + finish - len, stops[s], len) == 0) longest = len;
        }
        *stopped = longest > 0;
        if (longest > 0) return finish - longest;
    }
    size_t held = 0;
    for (int s = 0; s < n_stops && !at_end; s++) {
        for (size_t len = 1; len < strlen(stops[s]) && len <= n; len++) {
            if (len > held && memcmp(text + n - len, stops[s], len) == 0) held = len;
        }
    }
    return n - held;
}

/* After every token exactly the text that the definition shows is out, for any bytes and any cutting into tokens. Seed 3. */
static void random_streams(void **state) {
    (void)state;
    static const char *const stops[] = {"abab", "b\u4f60b", "\u4f60\u4f61", "aaaaab", "\uFFFDa", "ab\n"};
    static const char *const units[] = {"a",    "b",    "a",        "b",  "\u4f60", "\u4f61", "\xE4",
                                        "\xBD", "\xA0", "\xF0\x9F", "\n", "ab",     "aba"};
    uint32_t random = 3;
    for (int round = 0; round < 3000; round++) {
        char bytes[512], text[2048];
        size_t n_bytes = 0;
        int n_stops = round % 7;
        struct detokenizer d;
        struct output out = {.len = 0};
        bool stopped = false;
        init(&d, stops, n_stops);
        for (int step = 0; step < 40 && !stopped; step++) {
            random = random * 1664525 + 1013904223;
            const char *unit = units[(random >> 16) % (sizeof units / sizeof *units)];
            memcpy(bytes + n_bytes, unit, strlen(unit));
            n_bytes += strlen(unit);
            if (strcmp(unit, "ab") == 0) {
                detokenizer_push(&d, AB);
                take_all(&d, 4 + random % 9, &out);
            } else {
                push_bytes(&d, unit, strlen(unit), &out);
            }
            size_t n = define_visible(text, define_text(bytes, n_bytes, text), stops, n_stops, false, &stopped);
            if (d.stopped != stopped || out.len != n || memcmp(out.text, text, n) != 0) {
                fail_msg("round %d step %d: \"%s\" instead of \"%.*s\"", round, step, out.text, (int)n, text);
            }
        }
        detokenizer_finish(&d);
        take_all(&d, 16, &out);
        size_t n = define_visible(text, define_text(bytes, n_bytes, text), stops, n_stops, true, &stopped);
        assert_int_equal(out.len, n);
        assert_memory_equal(out.text, text, n);
    }
}

/* --- arguments --- */

static void bad_stops_are_refused(void **state) {
    (void)state;
    char long_stop[ENGINE_MAX_STOP_LEN + 2];
    const char *many[ENGINE_MAX_STOP + 1];
    struct detokenizer d;
    struct output out = {.len = 0};
    memset(long_stop, 's', sizeof long_stop);
    long_stop[sizeof long_stop - 1] = '\0';
    for (int i = 0; i <= ENGINE_MAX_STOP; i++) many[i] = "x";
    assert_int_equal(detokenizer_init(&d, tokenizer, (const char *const[]){""}, 1), ENGINE_ERR_ARGUMENT);
    assert_int_equal(detokenizer_init(&d, tokenizer, (const char *const[]){long_stop}, 1), ENGINE_ERR_ARGUMENT);
    assert_int_equal(detokenizer_init(&d, tokenizer, (const char *const[]){"\xC3"}, 1), ENGINE_ERR_ARGUMENT);
    assert_int_equal(detokenizer_init(&d, tokenizer, many, ENGINE_MAX_STOP + 1), ENGINE_ERR_ARGUMENT);
    long_stop[ENGINE_MAX_STOP_LEN] = '\0'; /* the longest that is allowed works */
    init(&d, (const char *const[]){long_stop}, 1);
    push_byte(&d, 'x', &out);
    push_bytes(&d, long_stop, ENGINE_MAX_STOP_LEN, &out);
    assert_true(d.stopped);
    assert_string_equal(out.text, "x");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_become_characters),
        cmocka_unit_test(characters_wait_for_their_last_byte),
        cmocka_unit_test(control_tokens_are_silent),
        cmocka_unit_test(small_buffers),
        cmocka_unit_test(stop_inside_a_token),
        cmocka_unit_test(stop_across_tokens),
        cmocka_unit_test(held_text_comes_out),
        cmocka_unit_test(the_first_stop_wins),
        cmocka_unit_test(random_streams),
        cmocka_unit_test(bad_stops_are_refused),
    };
    return cmocka_run_group_tests(tests, start, end);
}
