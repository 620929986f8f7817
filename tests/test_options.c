/* test_options.c - protects the command line: one table for variables and flags, every slip answered with a hint, help that lists
 * all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/options.h"

static struct values {
    const char *model;
    int ctx, max_seqs, n;
    float temperature;
    uint64_t seed;
    size_t kv_mem;
    bool quiet;
} v;

static struct option_row rows[] = {
    {"model", OPTION_STRING, &v.model, "FILE", "the model file", 0, 0, false},
    {"ctx", OPTION_INT, &v.ctx, "N", "tokens", 16, 1000000, false},
    {"max-seqs", OPTION_INT, &v.max_seqs, "N", "sequences", 0, 0, false},
    {"n", OPTION_INT, &v.n, "N", "how many", 1, 9, false},
    {"temperature", OPTION_FLOAT, &v.temperature, "T", "heat", 0, 5, false},
    {"seed", OPTION_U64, &v.seed, "N", "noise", 0, 0, false},
    {"kv-mem", OPTION_SIZE, &v.kv_mem, "SIZE", "memory", 0, 0, false},
    {"quiet", OPTION_FLAG, &v.quiet, NULL, "say less", 0, 0, false},
};
static struct option_set set = {"try", "[--model FILE]", "A command for tests.", rows, sizeof rows / sizeof *rows};

static char printed[8192]; /* what the last parse wrote to stdout and stderr */

static int reset(void **state) {
    (void)state;
    static const char *const variables[] = {"MODEL", "CTX", "MAX_SEQS", "N", "TEMPERATURE", "SEED", "KV_MEM", "QUIET"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        char name[64];
        snprintf(name, sizeof name, "FORESAY_%s", variables[i]);
        unsetenv(name);
    }
    v = (struct values){.ctx = 4096, .temperature = 0.5f};
    for (int i = 0; i < set.n_rows; i++) rows[i].seen = false;
    return 0;
}

enum { MAX_WORDS = 8 };

/* Runs the parser on words (ends with NULL) with both outputs going to a file. The words left over are in argv[1 ..]. */
static int parse(const char *const *words, char *argv[MAX_WORDS + 2], int *n_positional) {
    static char copies[MAX_WORDS][256];
    int argc = 1, saved[2], rc;
    FILE *file = tmpfile();
    assert_non_null(file);
    argv[0] = "try";
    for (; argc <= MAX_WORDS && words[argc - 1]; argc++) {
        snprintf(copies[argc - 1], sizeof copies[0], "%s", words[argc - 1]);
        argv[argc] = copies[argc - 1];
    }
    argv[argc] = NULL;
    fflush(stdout);
    for (int i = 0; i < 2; i++) {
        saved[i] = dup(i + 1);
        dup2(fileno(file), i + 1);
    }
    rc = options_parse(&set, argc, argv, n_positional);
    fflush(stdout);
    for (int i = 0; i < 2; i++) {
        dup2(saved[i], i + 1);
        close(saved[i]);
    }
    rewind(file);
    printed[fread(printed, 1, sizeof printed - 1, file)] = '\0';
    fclose(file);
    return rc;
}

#define WORDS(...)                                                                                                               \
    (const char *const[]) { __VA_ARGS__, NULL }

static void both_ways_of_writing_values(void **state) {
    (void)state;
    char *argv[MAX_WORDS + 2];
    assert_int_equal(parse(WORDS("--model", "a b", "--ctx=512", "-n", "3", "--quiet", "--temperature", "1.25"), argv, NULL), 0);
    assert_string_equal(v.model, "a b");
    assert_int_equal(v.ctx, 512);
    assert_int_equal(v.n, 3);
    assert_true(v.quiet);
    assert_true(v.temperature == 1.25f);
    assert_true(rows[1].seen);
    assert_false(rows[2].seen);
    assert_int_equal(parse(WORDS("--seed=18446744073709551615", "--max-seqs", "-2", "--quiet=false", "--model="), argv, NULL), 0);
    assert_true(v.seed == UINT64_MAX);
    assert_int_equal(v.max_seqs, -2);
    assert_false(v.quiet);
    assert_string_equal(v.model, "");
}

static void sizes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t bytes;
    } good[] = {{"512M", (size_t)512 << 20}, {"4G", (size_t)4 << 30},   {"1.5G", (size_t)3 << 29}, {"123456", 123456},
                {"64k", 64 << 10},           {"2GiB", (size_t)2 << 30}, {"1T", (size_t)1 << 40},   {"0", 0}};
    static const char *const bad[] = {"", "G", "-1", "1X", "1GG", "1e30", "nan", "12 M"};
    char *argv[MAX_WORDS + 2];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(parse(WORDS("--kv-mem", good[i].text), argv, NULL), 0);
        assert_int_equal(v.kv_mem, good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(parse(WORDS("--kv-mem", bad[i]), argv, NULL), 2);
        assert_non_null(strstr(printed, "512M"));
    }
}

/* A flag wins over its variable; both go through the same row. */
static void variables_then_flags(void **state) {
    (void)state;
    char *argv[MAX_WORDS + 2];
    setenv("FORESAY_CTX", "64", 1);
    setenv("FORESAY_MAX_SEQS", "7", 1);
    setenv("FORESAY_KV_MEM", "1M", 1);
    setenv("FORESAY_QUIET", "true", 1);
    setenv("FORESAY_N", "2", 1); /* one-letter flags have no variable */
    assert_int_equal(parse(WORDS("--ctx", "128"), argv, NULL), 0);
    assert_int_equal(v.ctx, 128);
    assert_int_equal(v.max_seqs, 7);
    assert_int_equal(v.kv_mem, 1 << 20);
    assert_true(v.quiet);
    assert_int_equal(v.n, 0);
    setenv("FORESAY_CTX", "many", 1);
    assert_int_equal(parse(WORDS("--ctx", "128"), argv, NULL), 2);
    assert_non_null(strstr(printed, "FORESAY_CTX"));
}

/* Every slip: exit 2 and a line that says what to do. */
static void slips_get_hints(void **state) {
    (void)state;
    static const struct {
        const char *words[3];
        const char *expected;
    } slips[] = {
        {{"--modle", "x"}, "did you mean --model?"},
        {{"--max-seq", "1"}, "did you mean --max-seqs?"},
        {{"--temp", "1"}, "did you mean --temperature?"},
        {{"-ctx", "100"}, "did you mean --ctx?"},
        {{"--zebra"}, "unknown option --zebra (foresay try --help lists them)"},
        {{"--model"}, "--model needs a value"},
        {{"--model", "--quiet"}, "--model needs a value"},
        {{"--ctx", "15"}, "needs a whole number from 16 to 1000000, not '15'"},
        {{"--ctx", "1000001"}, "from 16 to 1000000"},
        {{"--ctx", "12.5"}, "whole number"},
        {{"--ctx", "100x"}, "not '100x'"},
        {{"--ctx="}, "whole number"},
        {{"--max-seqs", "99999999999"}, "whole number"},
        {{"--temperature", "5.5"}, "needs a number from 0 to 5, not '5.5'"},
        {{"--temperature", "nan"}, "needs a number"},
        {{"--seed", "-1"}, "0 or more"},
        {{"--seed", "18446744073709551616"}, "whole number"},
        {{"--quiet=maybe"}, "true or false"},
        {{"word"}, "word"},
    };
    char *argv[MAX_WORDS + 2];
    for (size_t i = 0; i < sizeof slips / sizeof *slips; i++) {
        int rc = parse(slips[i].words, argv, NULL);
        if (rc != 2 || !strstr(printed, slips[i].expected) || strncmp(printed, "foresay try: ", 13) != 0) {
            fail_msg("%s: status %d, \"%s\" lacks \"%s\"", slips[i].words[0], rc, printed, slips[i].expected);
        }
    }
}

/* Words without dashes are kept in order; "-" is a word, and after "--" everything is. */
static void words_are_collected(void **state) {
    (void)state;
    char *argv[MAX_WORDS + 2];
    int n = 0;
    assert_int_equal(parse(WORDS("one", "--ctx", "64", "-", "two", "--", "--quiet"), argv, &n), 0);
    assert_int_equal(n, 4);
    assert_string_equal(argv[1], "one");
    assert_string_equal(argv[2], "-");
    assert_string_equal(argv[3], "two");
    assert_string_equal(argv[4], "--quiet");
    assert_false(v.quiet);
}

/* Help names every option with its default, and is no error. */
static void help_lists_everything(void **state) {
    (void)state;
    static const char *const asked[] = {"--help", "-h"};
    static const char *const expected[] = {"usage: foresay try [--model FILE]",
                                           "A command for tests.",
                                           "--model FILE",
                                           "--max-seqs N",
                                           "  -n N",
                                           "(default 4096)",
                                           "(default 0.5)",
                                           "--quiet",
                                           "say less",
                                           "FORESAY_"};
    char *argv[MAX_WORDS + 2];
    for (size_t a = 0; a < 2; a++) {
        assert_int_equal(parse(WORDS("--quiet", asked[a], "--zebra"), argv, NULL), 1);
        for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
            if (!strstr(printed, expected[i])) fail_msg("help lacks \"%s\":\n%s", expected[i], printed);
        }
    }
}

/* One row set from a config file's text, and hints for other lists of words. */
static void set_by_name_and_closest(void **state) {
    (void)state;
    static const char *const names[] = {"serve", "bench", "inspect"};
    assert_int_equal(options_set(&set, "ctx", "99", "foresay.json"), 0);
    assert_int_equal(v.ctx, 99);
    assert_string_equal(options_closest("serv", names, 3), "serve");
    assert_string_equal(options_closest("insepct", names, 3), "inspect");
    assert_null(options_closest("xyzzy", names, 3));
    assert_null(options_closest("", names, 3));
    assert_null(options_closest("serve", names, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(both_ways_of_writing_values, reset), cmocka_unit_test_setup(sizes, reset),
        cmocka_unit_test_setup(variables_then_flags, reset),        cmocka_unit_test_setup(slips_get_hints, reset),
        cmocka_unit_test_setup(words_are_collected, reset),         cmocka_unit_test_setup(help_lists_everything, reset),
        cmocka_unit_test_setup(set_by_name_and_closest, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
