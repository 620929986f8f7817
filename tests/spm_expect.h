/* spm_expect.h - what a SentencePiece vocabulary makes of a text, as an assertion: EXPECT(vocabulary, "text", ids ...). The
 * including test names its pieces in an enum of P_... and has included cmocka. */
#ifndef FORESAY_SPM_EXPECT_H
#define FORESAY_SPM_EXPECT_H

#include "tests/small_spm.h"

static inline void assert_text(const struct small_spm *v, const char *text, size_t len, const int32_t *expected, size_t n) {
    struct tokenizer *t = small_spm_open(v);
    struct token_list list = {0};
    assert_non_null(t);
    assert_int_equal(tokenizer_encode(t, text, len, &list), ENGINE_OK);
    for (size_t i = 0; i < list.n && list.n != n; i++) printf("%d ", list.ids[i]);
    assert_int_equal(list.n, n);
    for (size_t i = 0; i < n; i++) assert_int_equal(list.ids[i], expected[i]);
    token_list_free(&list);
    tokenizer_close(t);
}
#define P(piece) (SPM_FIRST_BYTE + 256 + P_##piece)
#define Q(piece) (SPM_FIRST_BYTE + P_##piece) /* without bytes */
#define BYTE(b)  (SPM_FIRST_BYTE + (b))
#define EXPECT(vocabulary, text, ...)                                                                                            \
    assert_text(vocabulary, text, sizeof(text) - 1, (const int32_t[]){__VA_ARGS__},                                              \
                sizeof(int32_t[]){__VA_ARGS__} / sizeof(int32_t))

#endif
