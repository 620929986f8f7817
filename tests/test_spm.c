/* test_spm.c - protects SentencePiece text: merges by score against the definition, byte fallback, unknown tokens, the space in
 * front of a text and its way back, no control token from text. The oracle test compares real vocabularies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/detokenizer.h"
#include "engine/utf8.h"
#include "tests/spm_expect.h"

#define S "\u2581"

static const char *const pieces[] = {S,    "a",  "b",    "h",     "e",       "l",   "o",  "\u00e9",
                                     "he", "ll", "hell", "hello", S "hello", S "a", "ab", "aa"};
static const float scores[] = {-1, -2, -3, -4, -5, -6, -7, -8, -9, -10, -11, -12, -13, -14, -15, -15};
enum {
    P_SPACE,
    P_A,
    P_B,
    P_H,
    P_E,
    P_L,
    P_O,
    P_E_ACUTE,
    P_HE,
    P_LL,
    P_HELL,
    P_HELLO,
    P_SPACE_HELLO,
    P_SPACE_A,
    P_AB,
    P_AA,
    N_PIECES
};
static const struct small_spm plain = {.pieces = pieces, .scores = scores, .n = N_PIECES, .has_bytes = true, .no_prefix = true};

/* The highest score first, of equal ones the leftmost; spaces are characters like others. */
static void merges_go_by_score(void **state) {
    (void)state;
    EXPECT(&plain, "hello", P(HELLO));
    EXPECT(&plain, " hello", P(SPACE_HELLO));
    EXPECT(&plain, "a hello a", P(A), P(SPACE_HELLO), P(SPACE_A));
    EXPECT(&plain, "aab", P(AA), P(B)); /* "aa" and "ab" have one score */
    EXPECT(&plain, "  a", P(SPACE), P(SPACE_A));
    EXPECT(&plain, S "a", P(SPACE_A)); /* the character that stands for a space is one */
}

/* What has no token becomes its bytes, or one unknown token for the whole run. */
static void characters_without_a_token(void **state) {
    (void)state;
    struct small_spm v = plain;
    EXPECT(&v, "a\u4f60b", P(A), BYTE(0xE4), BYTE(0xBD), BYTE(0xA0), P(B));
    EXPECT(&v, "\U0001F600", BYTE(0xF0), BYTE(0x9F), BYTE(0x98), BYTE(0x80));
    EXPECT(&v, "\xFF\xC3\xA9\xC3", BYTE(0xFF), P(E_ACUTE), BYTE(0xC3));
    EXPECT(&v, "\0\n", BYTE(0), BYTE('\n'));
    v.has_bytes = false;
    EXPECT(&v,
           "a\u4f60\u597d\xFF"
           "b\n",
           Q(A), SPM_UNKNOWN, Q(B), SPM_UNKNOWN);
}

/* A text begins as if after a space, and so does what follows an added token. An empty text stays empty. */
static void the_space_in_front(void **state) {
    (void)state;
    static const char *const added[] = {"<tool>", S S, NULL};
    enum { TOOL = SPM_FIRST_BYTE + 256 + N_PIECES, TWO_SPACES };
    struct small_spm v = plain;
    v.added = added;
    v.no_prefix = false;
    EXPECT(&v, "hello", P(SPACE_HELLO));
    EXPECT(&v, " hello", P(SPACE), P(SPACE_HELLO));
    EXPECT(&v, "b<tool>hello<tool>", P(SPACE), P(B), TOOL, P(SPACE_HELLO), TOOL);
    v.no_prefix = true;
    EXPECT(&v, "b<tool>hello", P(B), TOOL, P(HELLO));
    EXPECT(&v, "a   a", P(A), TWO_SPACES, P(SPACE_A));
    EXPECT(&v, "a" S " " S "a", P(A), TWO_SPACES, P(SPACE_A));
    struct tokenizer *t = small_spm_open(&plain);
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode(t, "", 0, &list), ENGINE_OK);
    assert_int_equal(list.n, 0);
    tokenizer_close(t);
}

/* --- against the definition --- */

enum { N_LETTERS = 4, N_RANDOM = 40, MAX_WORD = 120 };
static const char *const letters[N_LETTERS] = {S, "x", "\u00e9", "z"}; /* "z" is no token of its own */

static uint32_t next_random(uint32_t *random) {
    *random = *random * 1664525 + 1013904223;
    return *random >> 16;
}

struct random_pieces {
    char text[N_RANDOM][24];
    const char *pointers[N_RANDOM];
    float scores[N_RANDOM];
};

/* Of two pieces of one name the later one counts. */
static int find_piece(const struct random_pieces *r, const char *text, size_t len) {
    for (int i = N_RANDOM - 1; i >= 0; i--) {
        if (strlen(r->text[i]) == len && memcmp(r->text[i], text, len) == 0) return i;
    }
    return -1;
}

static void make_pieces(struct random_pieces *r, uint32_t *random) {
    memset(r, 0, sizeof *r);
    for (int i = 0; i < N_RANDOM; i++) {
        r->text[i][0] = '\0';
        int n = i < N_LETTERS - 1 ? 1 : 2 + (int)(next_random(random) % 4);
        for (int k = 0; k < n; k++) {
            const char *letter = letters[i < N_LETTERS - 1 ? i : (int)(next_random(random) % N_LETTERS)];
            strncat(r->text[i], letter, sizeof r->text[i] - strlen(r->text[i]) - 1);
        }
        r->pointers[i] = r->text[i];
        r->scores[i] =
            ((float)(next_random(random) % 16) - 8) * (i % 2 ? -1.0f : 1.0f); /* many are equal, some zero or minus zero */
    }
}

/* Looks at the whole text again after each merge. `starts` holds where the n symbols begin, and the end. */
static size_t merge_by_definition(const struct random_pieces *r, const char *text, size_t *starts, size_t n) {
    for (;;) {
        int best_piece = -1;
        size_t best = 0;
        for (size_t i = 0; i + 2 <= n; i++) {
            int piece = find_piece(r, text + starts[i], starts[i + 2] - starts[i]);
            if (piece < 0 || (best_piece >= 0 && r->scores[piece] <= r->scores[best_piece])) continue;
            best_piece = piece;
            best = i;
        }
        if (best_piece < 0) return n;
        memmove(&starts[best + 1], &starts[best + 2], (n - best - 1) * sizeof *starts);
        n--;
    }
}

static void check_definition(const struct tokenizer *t, const struct random_pieces *r, uint32_t *random, size_t n_letters) {
    char text[MAX_WORD * 4];
    size_t starts[MAX_WORD + 1], len = 0, at = 0;
    struct token_list list = {0};
    for (size_t i = 0; i < n_letters; i++) {
        const char *letter = letters[next_random(random) % N_LETTERS];
        starts[i] = len;
        memcpy(text + len, letter, strlen(letter));
        len += strlen(letter);
    }
    starts[n_letters] = len;
    size_t n = merge_by_definition(r, text, starts, n_letters);
    assert_int_equal(tokenizer_encode(t, text, len, &list), ENGINE_OK);
    for (size_t i = 0; i < n; i++) {
        int piece = find_piece(r, text + starts[i], starts[i + 1] - starts[i]);
        assert_true(at < list.n);
        assert_int_equal(list.ids[at++], piece >= 0 ? SPM_FIRST_BYTE + 256 + piece : BYTE('z'));
    }
    assert_int_equal(at, list.n);
    token_list_free(&list);
}

/* Texts of any length merge by the definition, wherever they are cut into words; pieces with spaces inside, equal scores. */
static void texts_merge_by_definition(void **state) {
    (void)state;
    uint32_t random = 3;
    for (int round = 0; round < 60; round++) {
        struct random_pieces r;
        make_pieces(&r, &random);
        struct tokenizer *t = small_spm_open(
            &(struct small_spm){.pieces = r.pointers, .scores = r.scores, .n = N_RANDOM, .has_bytes = true, .no_prefix = true});
        assert_non_null(t);
        for (size_t len = 1; len <= MAX_WORD; len += 1 + len / 8) check_definition(t, &r, &random, len);
        tokenizer_close(t);
    }
}

/* Megabytes without a word's end: with quadratic time this test would not end. */
static void one_endless_word(void **state) {
    (void)state;
    enum { LEN = 3 << 20 };
    static const char *const words[] = {"a", "hello", "  ", "\xFF"};
    char *text = malloc(LEN);
    struct tokenizer *t = small_spm_open(&plain);
    assert_non_null(text);
    for (size_t w = 0; w < sizeof words / sizeof *words; w++) {
        struct token_list list = {0};
        for (size_t i = 0; i < LEN; i++) text[i] = words[w][i % strlen(words[w])];
        assert_int_equal(tokenizer_encode(t, text, LEN, &list), ENGINE_OK);
        assert_true(list.n >= LEN / 5);
        token_list_free(&list);
    }
    free(text);
    tokenizer_close(t);
}

/* Control tokens, byte tokens and the unknown token are plain text when a text spells them out. */
static void special_tokens_are_text(void **state) {
    (void)state;
    static const char text[] = "<|turn|><s></s><unk><0x41>";
    static const char *const whole[] = {"<", "s", ">", "<s", "<s>", "t", "<|", "<|turn|>"};
    static const float whole_scores[8] = {0};
    struct small_spm v = plain;
    v.pieces = whole;
    v.scores = whole_scores;
    v.n = 7;
    struct tokenizer *t = small_spm_open(&v);
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode(t, text, sizeof text - 1, &list), ENGINE_OK);
    for (size_t i = 0; i < list.n; i++) assert_true(list.ids[i] >= SPM_FIRST_BYTE);
    assert_true(tokenizer_is_control(t, SPM_TURN));
    assert_int_equal(tokenizer_find(t, "<|turn|>"), SPM_TURN);
    token_list_free(&list);
    tokenizer_close(t);
}

/* --- and back --- */

static size_t decode(const struct tokenizer *t, const struct token_list *list, bool begins, char *out, size_t size) {
    struct detokenizer d;
    size_t used = 0, n;
    assert_int_equal(detokenizer_init(&d, t, NULL, 0), ENGINE_OK);
    if (begins) detokenizer_begin_text(&d);
    for (size_t i = 0; i < list->n; i++) {
        detokenizer_push(&d, list->ids[i]);
        while ((n = detokenizer_take(&d, out + used, size - used)) > 0) used += n;
    }
    detokenizer_finish(&d);
    return used;
}

/* Bytes become characters again, and the space in front of a text goes away exactly once, and only where a text begins. */
static void text_comes_back(void **state) {
    (void)state;
    static const char *const texts[] = {"hello a", " hello", "   ", "\u4f60\U0001F600 x\n", "", "a\x01 "};
    for (int prefix = 0; prefix < 2; prefix++) {
        struct small_spm v = plain;
        v.no_prefix = !prefix;
        struct tokenizer *t = small_spm_open(&v);
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
            char out[64], spaced[64];
            struct token_list list = {0};
            size_t len = strlen(texts[i]);
            assert_int_equal(tokenizer_encode(t, texts[i], len, &list), ENGINE_OK);
            assert_int_equal(decode(t, &list, true, out, sizeof out), len);
            assert_memory_equal(out, texts[i], len);
            snprintf(spaced, sizeof spaced, "%s%s", prefix && len ? " " : "", texts[i]);
            assert_int_equal(decode(t, &list, false, out, sizeof out), strlen(spaced));
            assert_memory_equal(out, spaced, strlen(spaced));
            token_list_free(&list);
        }
        tokenizer_close(t);
    }
}

/* BOS stands before a plain prompt unless the file says otherwise. */
static void bos_comes_first(void **state) {
    (void)state;
    struct tokenizer *t = small_spm_open(&plain);
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode_prompt(t, "hello", 5, &list), ENGINE_OK);
    assert_int_equal(list.n, 2);
    assert_int_equal(list.ids[0], SPM_BOS);
    assert_true(tokenizer_is_eog(t, SPM_EOS));
    token_list_free(&list);
    tokenizer_close(t);
}

static void files_without_scores_are_refused(void **state) {
    (void)state;
    struct small_spm v = plain;
    struct engine_error error;
    struct tokenizer *t;
    v.no_scores = true;
    struct gguf *g = small_spm_gguf(&v);
    assert_int_equal(tokenizer_open(&t, g, &error), ENGINE_ERR_MODEL);
    assert_non_null(strstr(error.text, "tokenizer.ggml.scores"));
    gguf_close(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_go_by_score),
        cmocka_unit_test(characters_without_a_token),
        cmocka_unit_test(the_space_in_front),
        cmocka_unit_test(texts_merge_by_definition),
        cmocka_unit_test(one_endless_word),
        cmocka_unit_test(special_tokens_are_text),
        cmocka_unit_test(text_comes_back),
        cmocka_unit_test(bos_comes_first),
        cmocka_unit_test(files_without_scores_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
