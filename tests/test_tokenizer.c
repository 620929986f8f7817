/* test_tokenizer.c - protects text to tokens: the order of merges, any bytes in and out, no control token from text, limits,
 * threads. */
#define _GNU_SOURCE /* memmem */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/tokenizer.h"
#include "tests/small_vocabulary.h"

/* "\u0120" is a space. "aa" and "aaaa" make long runs of one letter interesting. */
static const char *const merges[] = {"t h", "th e", "a a",  "\u0120 a",      "h e",       "aa aa",
                                     "b a", "i n",  "in g", "\u0120 \u0120", "aaaa aaaa", NULL};
enum { TH = SMALL_FIRST_MERGED, THE, AA, SPACE_A, HE, AAAA, BA, N_MERGES = 11 };
static const struct small_vocabulary plain = {.pre = "smollm", .merges = merges, .bos = SMALL_IM_START, .eos = SMALL_IM_END};

static void assert_ids(const struct tokenizer *t, const char *text, const int32_t *expected, size_t n) {
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode(t, text, strlen(text), &list), ENGINE_OK);
    if (list.n != n || (n && memcmp(list.ids, expected, n * sizeof *expected) != 0)) {
        for (size_t i = 0; i < list.n; i++) printf("%d ", list.ids[i]);
        fail_msg("wrong tokens of \"%s\"", text);
    }
    token_list_free(&list);
}
#define BYTE(c)  (SMALL_FIRST_BYTE + (uint8_t)(c))
#define IDS(...) (const int32_t[]){__VA_ARGS__}, sizeof(int32_t[]){__VA_ARGS__} / sizeof(int32_t)

/* The pair with the lowest rank merges first, of equal ones the leftmost. */
static void merges_go_by_rank(void **state) {
    (void)state;
    struct tokenizer *t = small_open(&plain);
    assert_non_null(t);
    assert_ids(t, "the", IDS(THE));
    assert_ids(t, "he", IDS(HE));
    assert_ids(t, "aaa", IDS(AA, BYTE('a')));
    assert_ids(t, "aaaaa", IDS(AAAA, BYTE('a')));
    assert_ids(t, "baa", IDS(BYTE('b'), AA)); /* "a a" has a lower rank than "b a" */
    assert_ids(t, "ba", IDS(BA));
    assert_ids(t, " a", IDS(SPACE_A));
    assert_ids(t, "x  a", IDS(BYTE('x'), BYTE(' '), SPACE_A)); /* the last space belongs to the word */
    assert_ids(t, "12", IDS(BYTE('1'), BYTE('2')));
    tokenizer_close(t);
}

/* Without pair order kept in a heap: merge the best pair, look again. What merge_long must agree with. */
static size_t merge_slowly(int32_t *ids, size_t n) {
    const int32_t rules[][3] = {{BYTE('t'), BYTE('h'), TH},           {TH, BYTE('e'), THE}, {BYTE('a'), BYTE('a'), AA},
                                {BYTE('h'), BYTE('e'), HE},           {AA, AA, AAAA},       {BYTE('b'), BYTE('a'), BA},
                                {AAAA, AAAA, SMALL_FIRST_MERGED + 10}};
    for (size_t rule = 0; rule < sizeof rules / sizeof *rules;) {
        size_t at = 0;
        while (at + 1 < n && (ids[at] != rules[rule][0] || ids[at + 1] != rules[rule][1])) at++;
        if (at + 1 >= n) {
            rule++;
            continue;
        }
        ids[at] = rules[rule][2];
        memmove(&ids[at + 1], &ids[at + 2], (n - at - 2) * sizeof *ids);
        n--;
        rule = 0; /* a merge may make a pair of a lower rank */
    }
    return n;
}

/* Words of any length come out the same, whichever of the two ways merges them. Seed 5. */
static void long_words_merge_like_short_ones(void **state) {
    (void)state;
    struct tokenizer *t = small_open(&plain);
    uint32_t random = 5;
    for (size_t len = 1; len < 200; len++) {
        char text[200];
        int32_t ids[200];
        for (size_t i = 0; i < len; i++) {
            random = random * 1664525 + 1013904223;
            text[i] = "aaaabthe"[random >> 29];
            ids[i] = BYTE(text[i]);
        }
        struct token_list list = {0};
        size_t n = merge_slowly(ids, len);
        assert_int_equal(tokenizer_encode(t, text, len, &list), ENGINE_OK);
        assert_int_equal(list.n, n);
        assert_memory_equal(list.ids, ids, n * sizeof *ids);
        token_list_free(&list);
    }
    tokenizer_close(t);
}

/* A megabyte of one letter takes no quadratic time: with that, this test would not end. */
static void one_endless_word(void **state) {
    (void)state;
    enum { LEN = 1 << 20 };
    struct tokenizer *t = small_open(&plain);
    struct token_list list = {0};
    char *text = malloc(LEN);
    assert_non_null(text);
    memset(text, 'a', LEN);
    assert_int_equal(tokenizer_encode(t, text, LEN, &list), ENGINE_OK);
    assert_int_equal(list.n, LEN / 8);
    free(text);
    token_list_free(&list);
    tokenizer_close(t);
}

/* Pieces of the tokens, put together, are the bytes that went in, also when those are no text at all. Seed 9. */
static void any_bytes_come_back(void **state) {
    (void)state;
    static const char *const pres[] = {"smollm", "gpt-2", "llama-bpe", "qwen2"};
    for (size_t p = 0; p < 4; p++) {
        struct small_vocabulary v = plain;
        v.pre = pres[p];
        struct tokenizer *t = small_open(&v);
        uint32_t random = 9;
        for (int round = 0; round < 300; round++) {
            char text[64], back[64];
            size_t len = (size_t)round % sizeof text, used = 0;
            for (size_t i = 0; i < len; i++) {
                random = random * 1664525 + 1013904223;
                text[i] = round & 1 ? (char)(random >> 24) : " a\n1'\xE4\xBD\xA0\xF0\xED\x80s\0z?"[random >> 28];
            }
            struct token_list list = {0};
            assert_int_equal(tokenizer_encode(t, text, len, &list), ENGINE_OK);
            for (size_t i = 0; i < list.n; i++) {
                size_t n;
                const char *piece = tokenizer_piece(t, list.ids[i], &n);
                assert_true(used + n <= len);
                memcpy(back + used, piece, n);
                used += n;
            }
            assert_int_equal(used, len);
            assert_memory_equal(back, text, len);
            token_list_free(&list);
        }
        tokenizer_close(t);
    }
}

/* No text becomes a control token, whatever kind the file gives it and even if merges lead there. */
static void control_tokens_never_come_from_text(void **state) {
    (void)state;
    static const uint32_t kinds[] = {3, 4, 1};
    for (size_t k = 0; k < 3; k++) {
        struct small_vocabulary v = plain;
        struct token_list list = {0};
        char text[256] = "";
        v.control_kind = kinds[k];
        struct tokenizer *t = small_open(&v);
        for (int i = 0; i < SMALL_FIRST_BYTE; i++) strncat(text, small_controls[i], sizeof text - strlen(text) - 1);
        assert_int_equal(tokenizer_encode(t, text, strlen(text), &list), ENGINE_OK);
        assert_true(list.n > 50);
        for (size_t i = 0; i < list.n; i++) assert_true(list.ids[i] >= SMALL_FIRST_BYTE);
        for (int32_t id = 0; id < SMALL_FIRST_BYTE; id++) {
            size_t n;
            assert_true(tokenizer_is_control(t, id));
            tokenizer_piece(t, id, &n);
            assert_int_equal(n, 0);
        }
        assert_int_equal(tokenizer_find(t, "<|im_end|>"), SMALL_IM_END);
        token_list_free(&list);
        tokenizer_close(t);
    }
}

/* Added tokens are found in text, the longest at the leftmost place. */
static void added_tokens_are_found(void **state) {
    (void)state;
    static const char *const added[] = {"<tool", "<tool_call>", "  ", NULL};
    enum { TOOL = SMALL_FIRST_MERGED + N_MERGES, TOOL_CALL, SPACES };
    struct small_vocabulary v = plain;
    v.added = added;
    struct tokenizer *t = small_open(&v);
    assert_ids(t, "a<tool_call>b", IDS(BYTE('a'), TOOL_CALL, BYTE('b')));
    assert_ids(t, "<tool_calx", IDS(TOOL, BYTE('_'), BYTE('c'), BYTE('a'), BYTE('l'), BYTE('x')));
    assert_ids(t, "   a", IDS(SPACES, SPACE_A));
    tokenizer_close(t);
}

/* A byte that the vocabulary lacks is left out. */
static void lacking_bytes_are_left_out(void **state) {
    (void)state;
    struct small_vocabulary v = plain;
    v.lacks_byte_1 = true;
    struct tokenizer *t = small_open(&v);
    assert_ids(t, "\x01\x01", NULL, 0);
    assert_ids(t, "\x01\xFF\x01", IDS(BYTE(0xFF)));
    tokenizer_close(t);
}

/* The list's limit holds to the token, and a refused text leaves the list as it was. */
static void limits_hold(void **state) {
    (void)state;
    struct tokenizer *t = small_open(&plain);
    struct token_list list = {.limit = 4};
    assert_int_equal(token_list_push(&list, 1), ENGINE_OK);
    assert_int_equal(tokenizer_encode(t, "xyzw", 4, &list), ENGINE_ERR_TOO_LONG);
    assert_int_equal(list.n, 1);
    assert_int_equal(tokenizer_encode(t, "xyz", 3, &list), ENGINE_OK);
    assert_int_equal(list.n, 4);
    assert_int_equal(tokenizer_encode(t, "", 0, &list), ENGINE_OK);
    assert_int_equal(tokenizer_encode(t, "x", 1, &list), ENGINE_ERR_TOO_LONG);
    list.n = 0;
    char *text = calloc(1, 1 << 16); /* more than four of the longest tokens */
    assert_non_null(text);
    assert_int_equal(tokenizer_encode(t, text, 1 << 16, &list), ENGINE_ERR_TOO_LONG);
    free(text);
    token_list_free(&list);
    tokenizer_close(t);
}

/* BOS comes before a plain prompt exactly when the file asks for it. */
static void bos_as_the_file_says(void **state) {
    (void)state;
    for (int add = 0; add < 2; add++) {
        struct small_vocabulary v = plain;
        struct token_list list = {0};
        v.add_bos = add;
        struct tokenizer *t = small_open(&v);
        assert_int_equal(tokenizer_adds_bos(t), add);
        assert_int_equal(tokenizer_encode_prompt(t, "x", 1, &list), ENGINE_OK);
        assert_int_equal(list.n, 1 + add);
        assert_int_equal(list.ids[0], add ? SMALL_IM_START : BYTE('x'));
        token_list_free(&list);
        tokenizer_close(t);
    }
}

/* EOS and the other names for the end of an answer end it; nothing else does. */
static void ends_of_generation(void **state) {
    (void)state;
    struct tokenizer *t = small_open(&plain);
    assert_true(tokenizer_is_eog(t, SMALL_IM_END));
    assert_true(tokenizer_is_eog(t, SMALL_END_OF_TEXT));
    assert_true(tokenizer_is_eog(t, SMALL_EOT));
    assert_false(tokenizer_is_eog(t, SMALL_IM_START));
    assert_false(tokenizer_is_eog(t, BYTE('x')));
    assert_false(tokenizer_is_eog(t, -1));
    assert_int_equal(tokenizer_bos(t), SMALL_IM_START);
    assert_int_equal(tokenizer_eos(t), SMALL_IM_END);
    size_t n = 9;
    tokenizer_piece(t, -1, &n);
    assert_int_equal(n, 0);
    tokenizer_piece(t, tokenizer_vocab_size(t), &n);
    assert_int_equal(n, 0);
    tokenizer_close(t);
}

/* --- files that are no tokenizer --- */

static void refuse(const struct small_vocabulary *v, void (*spoil)(struct gguf_writer *w), const char *expected) {
    struct gguf_writer w = {0};
    struct gguf *g;
    struct tokenizer *t;
    struct engine_error error = {""};
    small_write(&w, v);
    if (spoil) spoil(&w);
    assert_int_equal(writer_open(&w, &g, &error), ENGINE_OK);
    int rc = tokenizer_open(&t, g, &error);
    if (rc != ENGINE_ERR_MODEL || t || !strstr(error.text, expected)) fail_msg("\"%s\" lacks \"%s\"", error.text, expected);
    gguf_close(g);
    writer_free(&w);
}

static void rename_in(struct gguf_writer *w, const char *from, const char *to) {
    uint8_t *at = memmem(w->bytes, w->n, from, strlen(from));
    assert_non_null(at);
    memcpy(at, to, strlen(to));
}
static void other_model(struct gguf_writer *w) { rename_in(w, "gpt2", "bert"); }
static void no_model(struct gguf_writer *w) { rename_in(w, "tokenizer.ggml.model", "tokenizer.ggml.modex"); }
static void no_tokens(struct gguf_writer *w) { rename_in(w, "tokenizer.ggml.tokens", "tokenizer.ggml.tokenx"); }
static void no_merges(struct gguf_writer *w) { rename_in(w, "tokenizer.ggml.merges", "tokenizer.ggml.mergex"); }
static void bad_bos_flag(struct gguf_writer *w) {
    rename_in(w, "tokenizer.ggml.eos_token_id\x04", "tokenizer.ggml.eos_token_id\x06");
}

static void broken_tokenizers_are_refused(void **state) {
    (void)state;
    static const char *const no_space[] = {"a b", NULL};
    struct small_vocabulary v = plain;
    refuse(&v, other_model, "\"bert\"");
    refuse(&v, no_model, "no tokenizer");
    refuse(&v, no_tokens, "tokenizer.ggml.tokens is missing");
    refuse(&v, no_merges, "tokenizer.ggml.merges");
    refuse(&v, bad_bos_flag, "tokenizer.ggml.eos_token_id");
    v.pre = "tekken\x1b";
    refuse(&v, NULL, "pre-tokenizer \"tekken?\" is not supported; supported are smollm, gpt-2, llama-bpe, qwen2");
    v.pre = "smollm";
    v.eos = 100000;
    refuse(&v, NULL, "tokenizer.ggml.eos_token_id is no token");
    v = plain;
    v.merges = no_space;
    struct gguf_writer w = {0};
    small_write(&w, &v);
    rename_in(&w, "a b", "a_b");
    struct gguf *g;
    struct tokenizer *t;
    struct engine_error error;
    assert_int_equal(writer_open(&w, &g, &error), ENGINE_OK);
    assert_int_equal(tokenizer_open(&t, g, &error), ENGINE_ERR_MODEL);
    assert_non_null(strstr(error.text, "\"a_b\""));
    gguf_close(g);
    w.n = 0;
    small_write(&w, &v);
    rename_in(&w, "a b", "a \xFE");
    assert_int_equal(writer_open(&w, &g, &error), ENGINE_OK);
    assert_int_equal(tokenizer_open(&t, g, &error), ENGINE_ERR_MODEL);
    assert_non_null(strstr(error.text, "vocabulary lacks"));
    gguf_close(g);
    writer_free(&w);
}

/* --- threads --- */

struct worker {
    const struct tokenizer *tokenizer;
    uint64_t sum;
};

static void *work(void *arg) {
    struct worker *worker = arg;
    for (int round = 0; round < 200; round++) {
        struct token_list list = {0};
        static const char text[] = "the baa thethe 123 aaaa aaa\n\n  he\xE4\xBD\xA0 ing";
        if (tokenizer_encode(worker->tokenizer, text, sizeof text - 1, &list) != ENGINE_OK) return NULL;
        for (size_t i = 0; i < list.n; i++) worker->sum = worker->sum * 31 + (uint64_t)list.ids[i];
        token_list_free(&list);
    }
    return NULL;
}

/* One tokenizer serves many threads at once. */
static void threads_share_a_tokenizer(void **state) {
    (void)state;
    struct tokenizer *t = small_open(&plain);
    struct worker alone = {t, 0}, workers[4];
    pthread_t threads[4];
    work(&alone);
    for (int i = 0; i < 4; i++) {
        workers[i] = (struct worker){t, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_true(workers[i].sum == alone.sum);
    }
    tokenizer_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_go_by_rank),
        cmocka_unit_test(long_words_merge_like_short_ones),
        cmocka_unit_test(one_endless_word),
        cmocka_unit_test(any_bytes_come_back),
        cmocka_unit_test(control_tokens_never_come_from_text),
        cmocka_unit_test(added_tokens_are_found),
        cmocka_unit_test(lacking_bytes_are_left_out),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(bos_as_the_file_says),
        cmocka_unit_test(ends_of_generation),
        cmocka_unit_test(broken_tokenizers_are_refused),
        cmocka_unit_test(threads_share_a_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
