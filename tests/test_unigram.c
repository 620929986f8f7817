/* test_unigram.c - protects SentencePiece unigram text: the best sum of scores against the definition, ties, unknown characters,
 * what normalization does to spaces and bytes, replacements from a charsmap, damaged files. The oracle test compares whole
 * models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/detokenizer.h"
#include "tests/spm_expect.h"

#define S "\u2581"

static const char *const pieces[] = {S, "a", "b", "ab", "ba", "aa", S "a", "b" S "b", "\uFFFD"};
static const float scores[] = {-1, -2, -2, -3, -3.5f, -3, -2.5f, -3, -5};
enum { P_SPACE, P_A, P_B, P_AB, P_BA, P_AA, P_SPACE_A, P_B_SPACE_B, P_REPLACEMENT, N_PIECES };
static const struct small_spm plain = {
    .model = "t5", .pieces = pieces, .scores = scores, .n = N_PIECES, .has_bytes = true, .no_prefix = true};

/* The highest sum counts, not the longest token; of equal sums the one whose last token is longest. */
static void the_best_sum_wins(void **state) {
    (void)state;
    EXPECT(&plain, "abab", P(AB), P(AB));
    EXPECT(&plain, "aab", P(A), P(AB)); /* -5 both ways: "aa" "b" has the shorter end */
    EXPECT(&plain, "a a", P(A), P(SPACE_A));
    EXPECT(&plain, "ab ba", P(A), P(B_SPACE_B), P(A)); /* a token with a space inside: -7, without it -7.5 */
}

static void characters_without_a_token(void **state) {
    (void)state;
    struct small_spm v = plain;
    EXPECT(&v, "a\u4f60b", P(A), BYTE(0xE4), BYTE(0xBD), BYTE(0xA0), P(B));
    EXPECT(&v, "a\xFFz", P(A), P(REPLACEMENT), BYTE('z'));
    v.has_bytes = false;
    EXPECT(&v, "a\u4f60\u597d b\n", Q(A), SPM_UNKNOWN, Q(SPACE), Q(B), SPM_UNKNOWN);
    EXPECT(&v, "zz" S "z", SPM_UNKNOWN, Q(SPACE), SPM_UNKNOWN);
}

static void spaces_are_put_in_front_and_merged(void **state) {
    (void)state;
    struct small_spm v = plain;
    v.no_prefix = false;
    EXPECT(&v, "a", P(SPACE_A));
    EXPECT(&v, "  a ", P(SPACE), P(SPACE), P(SPACE_A), P(SPACE));
    v.merges_spaces = true;
    EXPECT(&v, "  a   a  ", P(SPACE_A), P(SPACE_A));
    EXPECT(&v, " a" S "  ", P(SPACE_A)); /* "\u2581" at the end counts as a space too */
    v.no_prefix = true;
    EXPECT(&v, " a ", P(A));
    struct tokenizer *t = small_spm_open(&v);
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode(t, "    ", 4, &list), ENGINE_OK);
    assert_int_equal(tokenizer_encode(t, "", 0, &list), ENGINE_OK);
    assert_int_equal(list.n, 0);
    tokenizer_close(t);
}

/* Added tokens are found in the text as it was written. */
static void added_tokens_win(void **state) {
    (void)state;
    static const char *const added[] = {"<tool>", "abab", "<to", NULL};
    struct small_spm v = plain;
    enum { TOOL = SPM_FIRST_BYTE + 256 + N_PIECES, ABAB, TO };
    v.added = added;
    EXPECT(&v, "a<tool>ababa<tox", P(A), TOOL, ABAB, P(A), TO, BYTE('x'));
}

/* --- against the definition --- */

enum { MOST_LETTERS = 14 };
static const char *const letters[] = {S, "a", "b", "z"};

static double score_of(const char *text, size_t len) {
    double best = -1e30;
    for (int i = 0; i < N_PIECES; i++) {
        if (strlen(pieces[i]) == len && memcmp(pieces[i], text, len) == 0) best = (double)scores[i];
    }
    return best < -1e29 && len == 1 && *text == 'z' ? -5.0 - 10.0 : best; /* the lowest score, less the penalty */
}

/* The best sum of all ways to cut text[at ..]. */
static double best_sum(const char *text, size_t at, size_t len) {
    double best = at == len ? 0 : -1e30;
    for (size_t end = at + 1; end <= len; end++) {
        double score = score_of(text + at, end - at);
        if (score < -1e29) continue;
        double sum = score + best_sum(text, end, len);
        if (sum > best) best = sum;
    }
    return best;
}

/* All texts of up to a few letters: the tokens spell the text, and no other way has a better sum. */
static void no_way_is_better(void **state) {
    (void)state;
    struct tokenizer *t = small_spm_open(&plain);
    uint32_t random = 5;
    for (int round = 0; round < 4000; round++) {
        char text[MOST_LETTERS * 3 + 1] = "", back[MOST_LETTERS * 3 + 1] = "";
        struct token_list list = {0};
        double sum = 0;
        for (int i = 0; i < 1 + round % MOST_LETTERS; i++) {
            random = random * 1664525 + 1013904223;
            strncat(text, letters[random >> 16 & 3], 4);
        }
        assert_int_equal(tokenizer_encode(t, text, strlen(text), &list), ENGINE_OK);
        for (size_t i = 0; i < list.n; i++) {
            size_t len;
            const char *name = list.ids[i] == BYTE('z') ? "z" : tokenizer_name(t, list.ids[i], &len);
            strncat(back, name, list.ids[i] == BYTE('z') ? 1 : len);
            sum += score_of(name, list.ids[i] == BYTE('z') ? 1 : len);
        }
        assert_string_equal(back, text);
        assert_true(sum == best_sum(text, 0, strlen(text)));
        token_list_free(&list);
    }
    tokenizer_close(t);
}

/* Megabytes without a word's end, also where a token reaches across words, and one unknown character after another. */
static void one_endless_word(void **state) {
    (void)state;
    enum { LEN = 4 << 20 };
    static const char *const words[] = {"a", "b b", "  ", "\xFF", "z"};
    char *text = malloc(LEN);
    struct tokenizer *t = small_spm_open(&plain);
    assert_non_null(text);
    for (size_t w = 0; w < sizeof words / sizeof *words; w++) {
        struct token_list list = {0};
        for (size_t i = 0; i < LEN; i++) text[i] = words[w][i % strlen(words[w])];
        assert_int_equal(tokenizer_encode(t, text, LEN, &list), ENGINE_OK);
        assert_true(list.n >= LEN / 3);
        token_list_free(&list);
        list.limit = 100;
        assert_int_equal(tokenizer_encode(t, text, LEN, &list), ENGINE_ERR_TOO_LONG);
        assert_int_equal(list.n, 0);
        token_list_free(&list);
    }
    free(text);
    tokenizer_close(t);
}

/* --- charsmap --- */

/* A double array by hand. Each rule replaces one byte: unit 0 is the root with its children at 256 ^ byte, and the value of the
 * child of byte b lies at 512 ^ b (b below 256, with offset 768 ^ 2 b so that positions do not meet). */
enum { N_UNITS = 1024 };

struct map {
    uint8_t bytes[4 + N_UNITS * 4 + 64];
    size_t len;
};

static void put_unit(struct map *map, uint32_t at, uint32_t unit) {
    for (int i = 0; i < 4; i++) map->bytes[4 + at * 4 + (uint32_t)i] = (uint8_t)(unit >> 8 * i);
}

static void map_begin(struct map *map) {
    *map = (struct map){.len = 4 + N_UNITS * 4};
    map->bytes[0] = (uint8_t)(N_UNITS * 4 & 255);
    map->bytes[1] = (uint8_t)(N_UNITS * 4 >> 8);
    put_unit(map, 0, 256u << 10);
}

static void map_add(struct map *map, uint8_t byte, const char *by) {
    uint32_t child = 256u ^ byte, value = 512u ^ byte;
    put_unit(map, child, (child ^ value) << 10 | 1u << 8 | byte);
    put_unit(map, value, 0x80000000u | (uint32_t)(map->len - 4 - N_UNITS * 4));
    memcpy(map->bytes + map->len, by, strlen(by) + 1);
    map->len += strlen(by) + 1;
}

static void replacements_come_from_the_file(void **state) {
    (void)state;
    struct map map;
    struct small_spm v = plain;
    map_begin(&map);
    map_add(&map, 'A', "ab");
    map_add(&map, '\t', " ");
    map_add(&map, 'x', "");
    map_add(&map, 0xFF, "a  a");
    v.charsmap = map.bytes;
    v.n_charsmap = map.len;
    EXPECT(&v, "AxbxA", P(AB), P(B), P(AB));
    EXPECT(&v, "a\ta", P(A), P(SPACE_A));
    EXPECT(&v, "\xFF", P(A), P(SPACE), P(SPACE_A));
    v.merges_spaces = true;
    EXPECT(&v, "\t x\ta\tx\t", P(A)); /* what becomes nothing does not end a run of spaces */
}

static void assert_refused(const struct small_spm *v, const char *word) {
    struct engine_error error = {0};
    struct tokenizer *t;
    struct gguf *g = small_spm_gguf(v);
    assert_int_equal(tokenizer_open(&t, g, &error), ENGINE_ERR_MODEL);
    if (!strstr(error.text, word)) printf("%s\n", error.text);
    assert_non_null(strstr(error.text, word));
    gguf_close(g);
}

static void damaged_files_are_refused(void **state) {
    (void)state;
    struct map map;
    struct small_spm v = plain;
    map_begin(&map);
    map_add(&map, 'A', "ab");
    v.charsmap = map.bytes;
    v.n_charsmap = map.len - 1; /* the last replacement has no end */
    assert_refused(&v, "precompiled_charsmap is damaged");
    v.n_charsmap = 4 + N_UNITS * 4; /* no replacements */
    assert_refused(&v, "precompiled_charsmap is damaged");
    v.n_charsmap = 3;
    assert_refused(&v, "precompiled_charsmap is damaged");
    v = plain;
    v.no_scores = true;
    assert_refused(&v, "tokenizer.ggml.scores");
    static char giant[600];
    memset(giant, 'a', sizeof giant - 1);
    const char *const long_pieces[] = {"a", giant};
    v = plain;
    v.pieces = long_pieces;
    v.n = 2;
    assert_refused(&v, "599 bytes long");
    float odd_scores[] = {-1, 0};
    odd_scores[1] /= odd_scores[1];
    const char *const two[] = {"a", "b"};
    v.pieces = two;
    v.scores = odd_scores;
    assert_refused(&v, "no finite number");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_sum_wins),
        cmocka_unit_test(characters_without_a_token),
        cmocka_unit_test(spaces_are_put_in_front_and_merged),
        cmocka_unit_test(added_tokens_win),
        cmocka_unit_test(no_way_is_better),
        cmocka_unit_test(one_endless_word),
        cmocka_unit_test(replacements_come_from_the_file),
        cmocka_unit_test(damaged_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
