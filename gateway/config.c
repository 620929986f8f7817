/* config.c - see config.h. One table of rows serves all sources, so a setting has one name, one check and one line of help
 * everywhere.
 *
 * A config file is a JSON object whose members are named like the flags: {"model": "/models/a.gguf", "max-seqs": 8, "kv-mem":
 * "2G"}. A member that is no setting, or stands there twice, is refused: a misspelt one would silently not count. */
#include "gateway/config.h"

#include <jansson.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"
#include "engine/options.h"

static const char data_help[] = "folder for users and conversations (default ~/.local/share/foresay)";
static const char about[] = "Answers in the browser and on an OpenAI-compatible API with the model of a GGUF file, and keeps "
                            "every conversation. Prints a link "
                            "that signs\nthe administrator in. Ends on Ctrl+C or SIGTERM; what was acknowledged is on disk by "
                            "then, and also after kill -9.";

bool config_default_data(char *out, size_t size) {
    const char *xdg = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int n;
    if (xdg && xdg[0] == '/') {
        n = snprintf(out, size, "%s/foresay", xdg);
    } else {
        const struct passwd *user = home && home[0] == '/' ? NULL : getpwuid(getuid());
        if (user) home = user->pw_dir;
        if (!home || home[0] != '/') return false;
        n = snprintf(out, size, "%s/.local/share/foresay", home);
    }
    return n > 0 && (size_t)n < size;
}

/* --- the config file --- */

static int complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int complain(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("foresay serve: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return 2;
}

/* A member as the text that a flag would have; numbers and switches become strings in the tree, which outlives their use. */
static const char *member_text(json_t *root, void *member) {
    char text[64];
    json_t *value = json_object_iter_value(member);
    if (json_is_string(value)) return json_string_value(value);
    if (json_is_integer(value)) {
        snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
    } else if (json_is_real(value)) {
        snprintf(text, sizeof text, "%.15g", json_real_value(value));
    } else if (json_is_boolean(value)) {
        snprintf(text, sizeof text, "%s", json_is_true(value) ? "true" : "false");
    } else {
        return NULL;
    }
    json_t *string = json_string(text);
    if (!string || json_object_iter_set_new(root, member, string) != 0) return NULL;
    return json_string_value(string);
}

static int apply_file(struct serve_config *config, struct option_set *set) {
    json_error_t error;
    json_t *root = json_load_file(config->config, JSON_REJECT_DUPLICATES, &error);
    config->file = root;
    if (!root && error.line <= 0) return complain("the config file cannot be read: %s", error.text);
    if (!root) return complain("%s:%d: %s", config->config, error.line, error.text);
    if (!json_is_object(root)) return complain("%s: a config file is one JSON object, such as {\"port\": 8080}", config->config);
    for (void *member = json_object_iter(root); member; member = json_object_iter_next(root, member)) {
        char source[400];
        const char *name = json_object_iter_key(member);
        if (strcmp(name, "config") == 0) return complain("%s: a config file does not name another one", config->config);
        const char *text = member_text(root, member);
        if (!text) return complain("%s: %s needs a string, a number, true or false", config->config, name);
        snprintf(source, sizeof source, "%s in %s", name, config->config);
        int rc = options_set(set, name, text, source);
        if (rc) return rc;
    }
    return 0;
}

/* --- the sources together --- */

/* Flags are read twice: first for --help and --config, then, after the file and the environment, to win over them. */
static int read_sources(struct serve_config *config, struct option_set *set, int argc, char **argv) {
    config->config = getenv("FORESAY_CONFIG");
    int rc = options_parse_flags(set, argc, argv, NULL);
    if (rc == 0 && config->config && config->config[0]) rc = apply_file(config, set);
    if (rc == 0) rc = options_parse_environment(set);
    if (rc == 0) rc = options_parse_flags(set, argc, argv, NULL);
    return rc;
}

/* What a row cannot check by itself. */
static int check(struct serve_config *config, const char *log_level, const char *drafter, const char *verify) {
    int level = log_level_parse(log_level);
    if (!engine_drafter_parse(drafter, &config->drafter, &config->draft_files))
        return complain("--drafter is " ENGINE_DRAFTER_FORMS ", not '%s'", drafter);
    if (!engine_verify_parse(verify, &config->verify)) return complain("--verify is " ENGINE_VERIFY_FORMS ", not '%s'", verify);
    if (level < 0) return complain("--log-level is error, warn, info or debug, not '%s'", log_level);
    config->log_level = (enum log_level)level;
    if (config->public_origin) {
        if (!auth_origin_normalize(config->public_origin, config->origin)) {
            return complain(
                "--public-origin is what browsers show before the first slash, such as https://chat.example, not '%s'",
                config->public_origin);
        }
        config->public_origin = config->origin;
    }
    if (!config->host[0]) return complain("--host is empty; 127.0.0.1 is this machine alone, 0.0.0.0 every network it is in");
    if (!config->data && !config_default_data(config->default_data, sizeof config->default_data)) {
        return complain("there is no home folder to keep conversations in: name a folder with --data");
    }
    if (!config->data) config->data = config->default_data;
    if (!config->model || !config->model[0]) {
        return complain("no model is named: give a GGUF file with --model. `make run` fetches a small one (98 MB) and serves it");
    }
    return 0;
}

int serve_config_load(struct serve_config *config, int argc, char **argv) {
    struct engine_config engine = engine_config_default();
    const char *log_level = "info", *drafter = "auto", *verify = "match";
    *config = (struct serve_config){.host = "127.0.0.1",
                                    .port = 8080,
                                    .max_seqs = engine.max_seqs,
                                    .step_tokens = engine.step_tokens,
                                    .draft_max = engine.draft_max,
                                    .draft_width = engine.draft_width,
                                    .user_texts = engine.user_texts};
    struct option_row rows[] = {
        {"model", OPTION_STRING, &config->model, "FILE", "the model, a GGUF file", 0, 0, false},
        {"host", OPTION_STRING, &config->host, "ADDRESS", "address to listen on; 0.0.0.0 is every network this machine is in", 0,
         0, false},
        {"port", OPTION_INT, &config->port, "N", "port to listen on; 0 takes any free one", 0, 65535, false},
        {"data", OPTION_STRING, &config->data, "DIR", data_help, 0, 0, false},
        {"public-origin", OPTION_STRING, &config->public_origin, "URL", "what browsers use when a proxy stands in front", 0, 0,
         false},
        {"threads", OPTION_INT, &config->threads, "N", "compute threads; 0 is all this process may use", 0, 1024, false},
        {"ctx", OPTION_INT, &config->ctx, "N", "tokens a conversation may hold; 0 is the model's own limit, at most 8192", 0,
         1 << 24, false},
        {"max-seqs", OPTION_INT, &config->max_seqs, "N", "answers computed at once; more wait", 1, 4096, false},
        {"kv-mem", OPTION_SIZE, &config->kv_mem, "SIZE", "memory for keys and values, such as 2G; 0 fits it to the above", 0, 0,
         false},
        {"kv-type", OPTION_STRING, &config->kv_type, "TYPE",
         "keys and values as f16, int8 (half the memory, faster) or int4 (a third, less exact); auto: int8 if heads allow", 0, 0,
         false},
        {"activations", OPTION_STRING, &config->activations, "TYPE",
         "inputs of products with quantised weights as int8, int16 (nearly exact; prompts and batches take twice as long) or "
         "mixed (int16 before the down projection alone); auto: int16 for models with weights of 2 bits, mixed with 3",
         0, 0, false},
        {"step-tokens", OPTION_INT, &config->step_tokens, "N", "tokens computed in one step, prompts included", 1, 1 << 20,
         false},
        {"isa", OPTION_STRING, &config->isa, "NAME", "instruction set: auto, scalar, avx2, avxvnni, avx512 or amx", 0, 0, false},
        {"drafter", OPTION_STRING, &drafter, "NAME",
         "who guesses tokens ahead: " ENGINE_DRAFTER_FORMS "; no answer changes by it", 0, 0, false},
        {"verify", OPTION_STRING, &verify, "NAME",
         "how guesses are checked: " ENGINE_VERIFY_FORMS "; all but match change the text for a seed, typical (lossy) also what "
         "texts are likely",
         0, 0, false},
        {"draft-max", OPTION_INT, &config->draft_max, "N", "tokens of an answer that may be guessed in one step", 1, 63, false},
        {"draft-width", OPTION_INT, &config->draft_width, "N", "guesses for the same place; 1 = chains, not trees", 1, 63, false},
        {"user-texts", OPTION_INT, &config->user_texts, "N",
         "users, of those who allow it, whose own earlier answers are kept at hand to guess from; 0 = nobody's", 0, 4096, false},
        {"pace-ms", OPTION_INT, &config->pace_ms, "N",
         "new text goes out every N ms, so that its timing tells nothing about it; 0 is at once", 0, 1000, false},
        {"log-level", OPTION_STRING, &log_level, "NAME", "error, warn, info or debug", 0, 0, false},
        {"config", OPTION_STRING, &config->config, "FILE", "these settings as JSON: {\"model\": \"a.gguf\", \"max-seqs\": 8}", 0,
         0, false},
    };
    struct option_set set = {"serve", "--model FILE [options]", about, rows, sizeof rows / sizeof *rows};
    int rc = read_sources(config, &set, argc, argv);
    return rc ? rc : check(config, log_level, drafter, verify);
}

void serve_config_free(struct serve_config *config) { json_decref(config->file); }

void serve_config_log(const struct serve_config *config) {
    char ctx[16] = "model's", threads[16] = "all", kv_mem[32] = "fitted";
    if (config->ctx) snprintf(ctx, sizeof ctx, "%d", config->ctx);
    if (config->threads) snprintf(threads, sizeof threads, "%d", config->threads);
    if (config->kv_mem) snprintf(kv_mem, sizeof kv_mem, "%zu MiB", config->kv_mem >> 20);
    log_info("serve", "settings: model %s, data %s, config %s", config->model, config->data,
             config->config ? config->config : "none");
    log_info("serve",
             "settings: host %s, port %d, public-origin %s, threads %s, ctx %s, max-seqs %d, kv-mem %s, kv-type %s, "
             "activations %s, step-tokens %d, isa %s, drafter %s, draft files %s, verify %s, draft-max %d, draft-width %d, "
             "user-texts %d, pace-ms %d",
             config->host, config->port, config->public_origin ? config->public_origin : "none", threads, ctx, config->max_seqs,
             kv_mem, config->kv_type ? config->kv_type : "auto", config->activations ? config->activations : "auto",
             config->step_tokens, config->isa ? config->isa : "auto", engine_drafter_name(config->drafter),
             config->draft_files ? config->draft_files : "none", engine_verify_name(config->verify), config->draft_max,
             config->draft_width, config->user_texts, config->pace_ms);
}
