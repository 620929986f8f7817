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

/* --- against a definition --- */

enum { MAX_RULES = 60, MAX_SYMBOL = 7, MAX_WORD = 160 };

/* Random merges over the letters a, b, c; each makes a new symbol of two that were there before. */
struct rules {
    char left[MAX_RULES][MAX_SYMBOL + 1], right[MAX_RULES][MAX_SYMBOL + 1];
    char lines[MAX_RULES][2 * MAX_SYMBOL + 2];
    const char *pointers[MAX_RULES + 1];
    int n;
};

static uint32_t next_random(uint32_t *random) {
    *random = *random * 1664525 + 1013904223;
    return *random >> 16;
}

static bool rules_make(const struct rules *r, const char *symbol) {
    char joined[2 * MAX_SYMBOL + 2];
    for (int i = 0; i < r->n; i++) {
        snprintf(joined, sizeof joined, "%s%s", r->left[i], r->right[i]);
        if (strcmp(joined, symbol) == 0) return true;
    }
    return false;
}

static void pick_symbol(const struct rules *r, uint32_t *random, char out[MAX_SYMBOL + 1]) {
    uint32_t i = next_random(random) % (uint32_t)(3 + r->n);
    if (i < 3) {
        snprintf(out, MAX_SYMBOL + 1, "%c", "abc"[i]);
    } else {
        snprintf(out, MAX_SYMBOL + 1, "%s%s", r->left[i - 3], r->right[i - 3]);
    }
}

static void make_rules(struct rules *r, uint32_t *random) {
    memset(r, 0, sizeof *r);
    for (int attempt = 0; attempt < 1000 && r->n < MAX_RULES; attempt++) {
        char left[MAX_SYMBOL + 1], right[MAX_SYMBOL + 1], line[2 * MAX_SYMBOL + 2];
        pick_symbol(r, random, left);
        pick_symbol(r, random, right);
        snprintf(line, sizeof line, "%s%s", left, right);
        if (strlen(line) > MAX_SYMBOL || rules_make(r, line)) continue;
        memcpy(r->left[r->n], left, sizeof left);
        memcpy(r->right[r->n], right, sizeof right);
        snprintf(r->lines[r->n], sizeof r->lines[0], "%s %s", left, right);
        r->pointers[r->n] = r->lines[r->n];
        r->n++;
    }
}

/* Merges the best pair, looks at everything again, and so on. Symbol lengths in, symbol lengths out. */
static size_t merge_by_definition(const struct rules *r, const char *word, uint8_t *lens, size_t n) {
    for (;;) {
        int best_rule = r->n;
        size_t best = 0, at = 0;
        for (size_t i = 0; i + 1 < n; at += lens[i++]) {
            for (int k = 0; k < best_rule; k++) {
                if (strlen(r->left[k]) != lens[i] || strlen(r->right[k]) != lens[i + 1]) continue;
                if (memcmp(word + at, r->left[k], lens[i]) != 0 || memcmp(word + at + lens[i], r->right[k], lens[i + 1]) != 0)
                    continue;
                best_rule = k;
                best = i;
            }
        }
        if (best_rule == r->n) return n;
        lens[best] = (uint8_t)(lens[best] + lens[best + 1]);
        memmove(&lens[best + 1], &lens[best + 2], n - best - 2);
        n--;
    }
}

/* Words of any length merge by the definition, the short ones and the long ones that go through the heap. Seed 5. */
static void words_merge_by_definition(void **state) {
    (void)state;
    uint32_t random = 5;
    for (int round = 0; round < 12; round++) {
        static struct rules r;
        make_rules(&r, &random);
        struct tokenizer *t = small_open(&(struct small_vocabulary){.pre = "smollm", .merges = r.pointers, .eos = SMALL_IM_END});
        assert_non_null(t);
        for (size_t len = 1; len <= MAX_WORD; len += 1 + len / 16) {
            char word[MAX_WORD];
            uint8_t lens[MAX_WORD];
            struct token_list list = {0};
            for (size_t i = 0; i < len; i++) {
                word[i] = "aabc"[next_random(&random) % 4];
                lens[i] = 1;
            }
            size_t n = merge_by_definition(&r, word, lens, len);
            assert_int_equal(tokenizer_encode(t, word, len, &list), ENGINE_OK);
            assert_int_equal(list.n, n);
            for (size_t i = 0; i < n; i++) {
                size_t piece_len;
                tokenizer_piece(t, list.ids[i], &piece_len);
                assert_int_equal(piece_len, lens[i]);
            }
            token_list_free(&list);
        }
        tokenizer_close(t);
    }
}

static const char *const families[] = {"smollm", "gpt-2",  "llama-bpe",    "qwen2",          "qwen35",     "stablelm2",
                                       "gpt-4o", "tekken", "deepseek-llm", "deepseek-coder", "deepseek-v3"};
enum { N_FAMILIES = sizeof families / sizeof *families };

static void encode_repeated(const struct tokenizer *t, const char *unit, size_t len, size_t n_end, char *text) {
    struct token_list list = {0};
    size_t unit_len = strlen(unit), n_bytes = 0;
    for (size_t i = 0; i < len; i++) text[i] = unit[i % unit_len];
    memcpy(text + len, "\xE4\xB8\xAD", n_end); /* whatever looks ahead is disappointed */
    assert_int_equal(tokenizer_encode(t, text, len + n_end, &list), ENGINE_OK);
    for (size_t i = 0; i < list.n; i++) {
        size_t n;
        tokenizer_piece(t, list.ids[i], &n);
        n_bytes += n;
    }
    assert_int_equal(n_bytes, len + n_end);
    token_list_free(&list);
}

/* A quarter of a megabyte without a word's end takes no quadratic time in any family, ten megabytes do not in one: with that,
 * this test would not end. */
static void one_endless_word(void **state) {
    (void)state;
    enum { LEN = 1 << 18, TEN_MB = 10 << 20 };
    static const char *const units[] = {"a", "A", " ", "'", ".", "1", "\n", "\t ", " \r", "\u4e2d", "aB", "\u0301"};
    char *text = malloc(TEN_MB + 3);
    assert_non_null(text);
    for (size_t f = 0; f < N_FAMILIES; f++) {
        struct small_vocabulary v = plain;
        v.pre = families[f];
        struct tokenizer *t = small_open(&v);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) encode_repeated(t, units[u], LEN, 3, text);
        if (f == 0) encode_repeated(t, "a", TEN_MB, 0, text);
        tokenizer_close(t);
    }
    free(text);
}

/* Words of a long text, which are remembered, get the tokens that they get alone. Each line begins and ends a piece in all
 * families. */
static void long_texts_are_cut_like_short_ones(void **state) {
    (void)state;
    enum { N_LINES = 4000, MAX_LINE = 40 };
    char *text = malloc(N_LINES * MAX_LINE);
    assert_non_null(text);
    for (size_t f = 0; f < N_FAMILIES; f++) {
        struct small_vocabulary v = plain;
        struct token_list all = {0}, one = {0};
        v.pre = families[f];
        struct tokenizer *t = small_open(&v);
        size_t len = 0;
        uint32_t random = 11;
        for (int i = 0; i < N_LINES; i++) {
            size_t start = len, n = 2 + (random >> 8) % (MAX_LINE - 2);
            for (size_t k = 0; k < n; k++) {
                random = random * 1664525 + 1013904223;
                text[len++] = k == 0 ? 'x' : k + 1 == n ? '\n' : "aathe  AB1'.xyz-"[random >> 28];
            }
            assert_int_equal(tokenizer_encode(t, text + start, n, &one), ENGINE_OK);
        }
        assert_int_equal(tokenizer_encode(t, text, len, &all), ENGINE_OK);
        assert_int_equal(all.n, one.n);
        assert_memory_equal(all.ids, one.ids, all.n * sizeof *all.ids);
        token_list_free(&all);
        token_list_free(&one);
        tokenizer_close(t);
    }
    free(text);
}

/* Pieces of the tokens, put together, are the bytes that went in, also when those are no text at all. Seed 9. */
static void any_bytes_come_back(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FAMILIES; f++) {
        if (strncmp(families[f], "qwen", 4) == 0) continue; /* these compose first */
        struct small_vocabulary v = plain;
        v.pre = families[f];
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
    assert_int_equal(tokenizer_encode(t, "x1yz", 4, &list), ENGINE_ERR_TOO_LONG);
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
    v.pre = "klingon\x1b";
    refuse(&v, NULL, "pre-tokenizer \"klingon?\" is not supported; supported are smollm, gpt-2, llama-bpe, dbrx, qwen2");
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
        cmocka_unit_test(words_merge_by_definition),
        cmocka_unit_test(one_endless_word),
        cmocka_unit_test(long_texts_are_cut_like_short_ones),
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
