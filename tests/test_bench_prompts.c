/* test_bench_prompts.c - the prompts of `foresay bench --speculative` are the ones that were frozen, and the trainer asks none of
 * them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/bench_prompts.h"
#include "engine/train_prompts.h"

static void they_are_frozen(void **state) {
    (void)state;
    uint64_t digest = 0xcbf29ce484222325u; /* FNV-1a */
    for (int c = 0; c < BENCH_PROMPT_CLASSES; c++)
        for (int i = 0; i < BENCH_PROMPTS; i++)
            for (const char *at = bench_prompt_classes[c].prompts[i]; *at; at++)
                digest = (digest ^ (uint8_t)*at) * 0x100000001b3u;
    assert_true(digest == 0xbf15aa59b26005afu);
}

/* The length of the RUN words from text on, 0 if fewer stand before its end or its topic. */
static size_t run_of_words(const char *text) {
    enum { RUN = 5 };
    size_t len = 0;
    for (int n = 0; n < RUN; n++) {
        len += strspn(text + len, " ");
        size_t word = strcspn(text + len, " %");
        if (word == 0 || text[len + word] == '%') return 0;
        len += word;
    }
    return len;
}

/* No five words of a template stand in a prompt. */
static void the_trainer_asks_others(void **state) {
    (void)state;
    char words[256];
    for (size_t t = 0; t < sizeof train_templates / sizeof *train_templates; t++)
        for (const char *at = train_templates[t]; *at; at += strcspn(at, " "), at += *at == ' ') {
            size_t len = run_of_words(at);
            if (len == 0 || len >= sizeof words) continue;
            memcpy(words, at, len);
            words[len] = 0;
            for (int c = 0; c < BENCH_PROMPT_CLASSES; c++)
                for (int i = 0; i < BENCH_PROMPTS; i++)
                    if (strstr(bench_prompt_classes[c].prompts[i], words))
                        fail_msg("\"%s\" is in \"%.60s\"", words, bench_prompt_classes[c].prompts[i]);
        }
    assert_non_null(train_topics[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(they_are_frozen), cmocka_unit_test(the_trainer_asks_others)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
