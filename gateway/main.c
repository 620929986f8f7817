/* main.c - the command `foresay`: `serve` lives here, `user` in user_command.c, the engine's tools in engine_tools[].
 *
 * Exit status: 0 fine; 1 it could not be done, with one sentence on stderr; 2 the command line is wrong. */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/log.h"
#include "engine/options.h"
#include "gateway/auth.h"
#include "gateway/config.h"
#include "gateway/gateway.h"
#include "gateway/user_command.h"

static int fail(const char *sentence) {
    fprintf(stderr, "foresay: %s\n", sentence);
    return 1;
}

/* --- foresay serve --- */

static bool is_local(const char *host) {
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 || strcmp(host, "localhost") == 0;
}

/* The one thing that a person must see; the log goes to stderr. */
static void print_welcome(struct gateway *gateway, struct engine *engine, const struct serve_config *config) {
    char links[LINKS_MAX][LINK_SIZE];
    struct engine_info info;
    engine_info(engine, &info);
    int n_links = gateway_sign_in_links(gateway, links);
    printf("\n  Foresay %s is ready, with %s (%s)\n\n      %s\n\n", FORESAY_VERSION, info.model_name, info.quantization,
           links[0]);
    if (n_links > 1) printf("  From another device in the network:\n\n");
    for (int i = 1; i < n_links; i++) printf("      %s\n%s", links[i], i + 1 == n_links ? "\n" : "");
    printf("  Open %s link to sign in as the administrator: it works once, within %d minutes.\n",
           n_links > 1 ? "one such" : "this", AUTH_CODE_MS / 60000);
    if (!is_local(config->host) && !auth_secure(config->public_origin))
        printf("  Nothing is encrypted on its way: in a network that others use, let a proxy with HTTPS stand in front.\n");
    printf("  Conversations are kept in %s. Ctrl+C stops the server.\n\n", config->data);
    fflush(stdout);
}

static void warn_of_setup(const struct serve_config *config, struct engine *engine) {
    struct engine_info info;
    engine_info(engine, &info);
    if (!is_local(config->host) && !auth_secure(config->public_origin)) {
        log_warn("serve",
                 "listening on %s without encryption: let a proxy with HTTPS stand in front, and name it with --public-origin",
                 config->host);
    }
    if (!info.can_chat)
        log_warn("serve", "no chat template is known for %s: it completes text, but cannot chat", info.model_name);
}

/* gateway_run has its own handlers. These are for the moment between the printed link and the running loop: who reads the link
 * may send the signal at once, and gets the same clean end. Before that, while the model loads, the signals end the process as
 * usual. */
static struct gateway *serving;
static void on_signal(int number) {
    (void)number;
    gateway_stop(serving);
}

static void catch_signals(struct gateway *gateway) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    serving = gateway;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

static int open_engine(struct engine **engine, const struct serve_config *config, struct gateway *gateway) {
    struct engine_error error;
    struct engine_config settings = engine_config_default();
    settings.model_path = config->model;
    settings.isa = config->isa;
    settings.kv_type = config->kv_type;
    settings.activations = config->activations;
    settings.n_threads = config->threads;
    settings.ctx_len = config->ctx;
    settings.max_seqs = config->max_seqs;
    settings.step_tokens = config->step_tokens;
    settings.kv_bytes = config->kv_mem;
    settings.drafter = config->drafter;
    settings.draft_files = config->draft_files;
    settings.verify = config->verify;
    settings.draft_max = config->draft_max;
    settings.draft_width = config->draft_width;
    settings.user_texts = config->user_texts;
    settings.wake = gateway_wake;
    settings.wake_arg = gateway;
    return engine_open(engine, &settings, &error) == ENGINE_OK ? 0 : fail(error.text);
}

/* The gateway comes first, so that a taken port or a bad data folder is known before a model loads. The engine goes first,
 * because it wakes the gateway as long as it lives. */
static int serve(const struct serve_config *config) {
    char error[512];
    struct gateway *gateway = NULL;
    struct engine *engine = NULL;
    struct gateway_config settings = {
        .host = config->host, .port = config->port, .data_dir = config->data, .public_origin = config->public_origin};
    settings.pace_ms = config->pace_ms;
    serve_config_log(config);
    if (gateway_open(&gateway, &settings, error, sizeof error) != 0) return fail(error);
    int status = open_engine(&engine, config, gateway);
    if (status == 0) {
        gateway_attach_engine(gateway, engine);
        warn_of_setup(config, engine);
        catch_signals(gateway);
        print_welcome(gateway, engine, config);
        status = gateway_run(gateway) == 0 ? 0 : 1;
    }
    engine_close(engine);
    gateway_close(gateway);
    return status;
}

static int command_serve(int argc, char **argv) {
    struct serve_config config;
    int rc = serve_config_load(&config, argc, argv);
    if (rc == 0) {
        log_set_level(config.log_level);
        rc = serve(&config);
    } else if (rc == 1) {
        rc = 0;
    }
    serve_config_free(&config);
    return rc;
}

/* --- the table --- */

static const struct engine_tool own_commands[] = {
    {"serve", "answer in the browser and on the OpenAI-compatible API", command_serve},
    {"user", "add, list or remove users, give a new key: foresay user add NAME", user_command},
    {NULL, NULL, NULL},
};

/* The command at place i of both lists, NULL behind the last. */
static const struct engine_tool *command_at(int i) {
    const int n_own = sizeof own_commands / sizeof *own_commands - 1;
    const struct engine_tool *command = i < n_own ? &own_commands[i] : &engine_tools[i - n_own];
    return command->name ? command : NULL;
}

static int print_help(void) {
    printf("Foresay %s: chat with a language model on your own machine.\n\nusage: foresay COMMAND [options]\n\n",
           FORESAY_VERSION);
    for (int i = 0; command_at(i); i++) printf("  %-12s %s\n", command_at(i)->name, command_at(i)->summary);
    printf("\n`foresay COMMAND --help` explains each. To begin: foresay serve --model FILE.gguf\n");
    return 0;
}

static int unknown_command(const char *word) {
    const char *names[32];
    int n = 0;
    for (; command_at(n) && n < 32; n++) names[n] = command_at(n)->name;
    const char *hint = options_closest(word, names, n);
    fprintf(stderr, "foresay: unknown command '%s'%s%s%s (foresay --help lists them)\n", word, hint ? "; did you mean " : "",
            hint ? hint : "", hint ? "?" : "");
    return 2;
}

/* All that was to be said must have gone out: a full disk or a closed pipe makes half an answer, which is none. */
static int with_output(int status) {
    char sentence[200];
    int trouble = fflush(stdout) == 0 ? 0 : errno;
    if (trouble == 0 && !ferror(stdout)) return status;
    snprintf(sentence, sizeof sentence, "the output could not be written whole%s%s.", trouble ? ": " : "",
             trouble ? strerror(trouble) : "");
    int failed = fail(sentence);
    return status ? status : failed;
}

static int run(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN); /* a reader that went away is an error of that write, not our end */
    if (!auth_init()) return fail("the system gives no random numbers.");
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)
        return print_help();
    if (strcmp(argv[1], "--version") == 0) {
        printf("foresay %s\n", FORESAY_VERSION);
        return 0;
    }
    for (int i = 0; command_at(i); i++) {
        if (strcmp(argv[1], command_at(i)->name) == 0) return command_at(i)->run(argc - 1, argv + 1);
    }
    return unknown_command(argv[1]);
}

int main(int argc, char **argv) { return with_output(run(argc, argv)); }
