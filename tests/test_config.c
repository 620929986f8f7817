/* test_config.c - protects the settings of `foresay serve`: which source wins, and that a wrong setting is named instead of
 * ignored. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/config.h"

enum { MAX_ARGS = 8 };

static char said[4000]; /* what the latest load printed on stderr */

static void read_all(FILE *file, char *out, size_t size) {
    rewind(file);
    size_t n = fread(out, 1, size - 1, file);
    out[n] = '\0';
    fclose(file);
}

/* serve_config_load with these words behind "serve"; its stderr goes to `said`. */
static int load(struct serve_config *config, const char *const *words) {
    char *argv[MAX_ARGS + 2] = {(char *)"serve"};
    int argc = 1;
    while (words[argc - 1]) {
        argv[argc] = (char *)words[argc - 1];
        argc++;
    }
    FILE *file = tmpfile();
    assert_non_null(file);
    int before = dup(STDERR_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    int rc = serve_config_load(config, argc, argv);
    fflush(stderr);
    dup2(before, STDERR_FILENO);
    close(before);
    read_all(file, said, sizeof said);
    return rc;
}

static char file_path[] = "/tmp/foresay-config-XXXXXX";

static void write_file(const char *text) {
    FILE *file = fopen(file_path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int set_up(void **state) {
    (void)state;
    static const char *const variables[] = {"MODEL",    "HOST",   "PORT",          "DATA",     "CONFIG",
                                            "MAX_SEQS", "KV_MEM", "PUBLIC_ORIGIN", "LOG_LEVEL"};
    char name[40];
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        snprintf(name, sizeof name, "FORESAY_%s", variables[i]);
        unsetenv(name);
    }
    setenv("HOME", "/home/somebody", 1);
    unsetenv("XDG_DATA_HOME");
    int fd = mkstemp(memcpy(file_path, "/tmp/foresay-config-XXXXXX", sizeof file_path));
    return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state) {
    (void)state;
    return unlink(file_path);
}

static void defaults_stand(void **state) {
    (void)state;
    struct serve_config c;
    assert_int_equal(load(&c, (const char *const[]){"--model", "a.gguf", NULL}), 0);
    assert_string_equal(c.host, "127.0.0.1");
    assert_int_equal(c.port, 8080);
    assert_string_equal(c.data, "/home/somebody/.local/share/foresay");
    assert_int_equal(c.log_level, LOG_INFO);
    assert_null(c.public_origin);
    serve_config_free(&c);
    setenv("XDG_DATA_HOME", "/xdg", 1);
    assert_int_equal(load(&c, (const char *const[]){"--model", "a.gguf", NULL}), 0);
    assert_string_equal(c.data, "/xdg/foresay");
    serve_config_free(&c);
}

/* Each of four settings is given by one source more than the one before; the latest source has it. */
static void later_sources_win(void **state) {
    (void)state;
    struct serve_config c;
    write_file("{\"model\": \"file.gguf\", \"host\": \"file\", \"port\": 1, \"max-seqs\": 2, \"kv-mem\": \"1G\", "
               "\"kv-type\": \"int8\"}");
    setenv("FORESAY_HOST", "environment", 1);
    setenv("FORESAY_PORT", "11", 1);
    setenv("FORESAY_DATA", "/environment", 1);
    const char *const words[] = {"--config", file_path, "--port", "111", "--data=/flag", NULL};
    assert_int_equal(load(&c, words), 0);
    assert_string_equal(c.model, "file.gguf");
    assert_string_equal(c.host, "environment");
    assert_int_equal(c.port, 111);
    assert_string_equal(c.data, "/flag");
    assert_int_equal(c.max_seqs, 2);
    assert_int_equal(c.kv_mem, 1u << 30);
    assert_string_equal(c.kv_type, "int8");
    serve_config_free(&c);
    setenv("FORESAY_CONFIG", file_path, 1);
    assert_int_equal(load(&c, (const char *const[]){NULL}), 0);
    assert_string_equal(c.model, "file.gguf");
    assert_int_equal(c.port, 11);
    serve_config_free(&c);
}

/* A JSON number may stand for a text setting and the other way round; both live as long as the settings. */
static void file_values_become_text(void **state) {
    (void)state;
    struct serve_config c;
    write_file("{\"model\": 12, \"port\": \"81\", \"kv-mem\": 1048576, \"log-level\": \"debug\", \"public-origin\": "
               "\"HTTPS://Chat.example:443/\"}");
    assert_int_equal(load(&c, (const char *const[]){"--config", file_path, NULL}), 0);
    assert_string_equal(c.model, "12");
    assert_int_equal(c.port, 81);
    assert_int_equal(c.kv_mem, 1 << 20);
    assert_int_equal(c.log_level, LOG_DEBUG);
    assert_string_equal(c.public_origin, "https://chat.example");
    serve_config_free(&c);
}

static void wrong_files_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *part;
    } rows[] = {
        {"{\"prot\": 1}", "did you mean port?"},
        {"{\"max_seqs\": 1}", "did you mean max-seqs?"},
        {"{\"port\": 70000}", "needs a whole number from 0 to 65535"},
        {"{\"port\": 1.5}", "needs a whole number"},
        {"{\"port\": null}", "port needs a string, a number, true or false"},
        {"{\"port\": [1]}", "port needs a string, a number, true or false"},
        {"{\"port\": 1, \"port\": 2}", ":1: duplicate object key"},
        {"{\"port\": 1", ":1: "},
        {"[1]", "a config file is one JSON object"},
        {"{\"config\": \"other\"}", "does not name another one"},
        {"", ":1: "},
    };
    struct serve_config c;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        write_file(rows[i].text);
        assert_int_equal(load(&c, (const char *const[]){"--model", "m", "--config", file_path, NULL}), 2);
        if (!strstr(said, rows[i].part)) print_error("\"%s\" is not in: %s", rows[i].part, said);
        assert_non_null(strstr(said, rows[i].part));
        assert_non_null(strstr(said, file_path));
        serve_config_free(&c);
    }
    assert_int_equal(load(&c, (const char *const[]){"--config", "/nowhere/x.json", NULL}), 2);
    assert_non_null(strstr(said, "the config file cannot be read"));
    assert_non_null(strstr(said, "/nowhere/x.json"));
    serve_config_free(&c);
}

static void wrong_settings_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *words[4], *part;
    } rows[] = {
        {{NULL}, "give a GGUF file with --model"},
        {{"--model", ""}, "give a GGUF file with --model"},
        {{"--model", "m", "--port=65536"}, "needs a whole number from 0 to 65535"},
        {{"--model", "m", "--prot=1"}, "did you mean --port?"},
        {{"--model", "m", "extra"}, "extra"},
        {{"--model", "m", "--host="}, "--host is empty"},
        {{"--model", "m", "--log-level=loud"}, "error, warn, info or debug, not 'loud'"},
        {{"--model", "m", "--public-origin=chat.example"}, "such as https://chat.example, not 'chat.example'"},
        {{"--model", "m", "--kv-mem=lots"}, "needs a size"},
        {{"--model", "m", "--drafter=crystal"}, "recurrent:FILE, merge or merge:FILES, not 'crystal'"},
        {{"--model", "m", "--verify=blindly"}, "traversal or typical, not 'blindly'"},
        {{"--model", "m", "--draft-max=0"}, "needs a whole number from 1 to 63"},
        {{"--model", "m", "--max-seqs=0"}, "needs a whole number from 1"},
    };
    struct serve_config c;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *words[5] = {rows[i].words[0], rows[i].words[1], rows[i].words[2], NULL};
        assert_int_equal(load(&c, words), 2);
        if (!strstr(said, rows[i].part)) print_error("\"%s\" is not in: %s", rows[i].part, said);
        assert_non_null(strstr(said, rows[i].part));
        assert_non_null(strstr(said, "foresay serve: "));
        serve_config_free(&c);
    }
    setenv("FORESAY_PORT", "many", 1);
    assert_int_equal(load(&c, (const char *const[]){"--model", "m", NULL}), 2);
    assert_non_null(strstr(said, "FORESAY_PORT"));
    serve_config_free(&c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(defaults_stand),          TEST(later_sources_win),          TEST(file_values_become_text),
        TEST(wrong_files_are_refused), TEST(wrong_settings_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
