/* user_command.c - see user_command.h. Keys go to stdout, once; everything for people to stderr. What a running server knows by
 * heart of a user it forgets at his next request, or when his page next gives a sign of life. */
#include "gateway/user_command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/options.h"
#include "gateway/auth.h"
#include "gateway/config.h"
#include "gateway/store.h"

struct user_request {
    const char *name, *data;
    bool admin, yes;
};

static int fail(const char *sentence) {
    fprintf(stderr, "foresay: %s\n", sentence);
    return 1;
}

static int fail_with(enum store_status status, const struct user_request *r, const struct store_error *error) {
    if (status == STORE_NOT_FOUND)
        fprintf(stderr, "foresay: there is no user %s in %s; `foresay user list` shows who is there\n", r->name, r->data);
    else
        return fail(error->text);
    return 1;
}

static void print_key(const struct auth_token *key) {
    printf("%s\n", key->text);
    fflush(stdout);
}

static int run_add(struct store *store, const struct user_request *r) {
    struct auth_token key;
    struct store_user user;
    struct store_error error = {""};
    auth_key_new(&key);
    enum store_status status = store_user_add(store, r->name, r->admin, key.hash, &user, &error);
    if (status == STORE_CONFLICT)
        snprintf(error.text, sizeof error.text, "there is a user %s already; choose another name", r->name);
    if (status == STORE_OK) {
        print_key(&key);
        fprintf(stderr,
                "\n%s %s was added. Above is the API key; it is shown only this once.\n"
                "  In the browser: open the server's address and sign in with the key.\n"
                "  In programs:    Authorization: Bearer KEY, for the OpenAI API under /v1.\n",
                r->admin ? "Administrator" : "User", user.name);
    }
    auth_token_wipe(&key);
    return status == STORE_OK ? 0 : fail(error.text);
}

static int run_key(struct store *store, const struct user_request *r) {
    struct auth_token key;
    struct store_user user;
    struct store_error error = {""};
    auth_key_new(&key);
    enum store_status status = store_user_key(store, r->name, key.hash, &user, &error);
    if (status == STORE_OK) {
        print_key(&key);
        fprintf(stderr, "\nAbove is the new API key of %s; it is shown only this once. The old key and all sign-ins ended.\n",
                user.name);
    }
    auth_token_wipe(&key);
    return status == STORE_OK ? 0 : fail_with(status, r, &error);
}

static int run_remove(struct store *store, const struct user_request *r) {
    struct store_user user;
    struct store_error error = {""};
    if (!r->yes) {
        fprintf(stderr, "foresay user remove: deletes %s with all conversations, for good; say so with --yes\n", r->name);
        return 2;
    }
    enum store_status status = store_user_remove(store, r->name, &user, &error);
    if (status != STORE_OK) return fail_with(status, r, &error);
    fprintf(stderr, "User %s was removed, with all conversations, keys and sign-ins.\n", user.name);
    return 0;
}

static int run_list(struct store *store, const struct user_request *r) {
    struct store_error error = {""};
    char *text = store_user_list(store, &error);
    if (!text) return fail(error.text);
    if (text[0])
        fputs(text, stdout);
    else
        fprintf(stderr, "There is no user in %s yet.\n", r->data);
    free(text);
    return 0;
}

/* --- the table --- */

static const struct action {
    const char *name, *usage, *about;
    bool takes_name;
    int (*run)(struct store *store, const struct user_request *r);
} actions[] = {
    {"add", "NAME [--admin] [--data DIR]", "Adds a user and prints an API key, once. A running server knows the user at once.",
     true, run_add},
    {"list", "[--data DIR]", "Lists the users, a line each.", false, run_list},
    {"key", "NAME [--data DIR]",
     "Prints a new API key for a user who has none, lost it or let it out. The old key and all sign-ins of the user end.", true,
     run_key},
    {"remove", "NAME --yes [--data DIR]", "Deletes a user with all conversations, for good.", true, run_remove},
};
enum { N_ACTIONS = sizeof actions / sizeof *actions };

/* Every action knows --data; the first option of its own, if any, is the last row. */
static int parse(const struct action *action, int argc, char **argv, struct user_request *r) {
    char command[32];
    int n_names = 0;
    struct option_row rows[] = {
        {"data", OPTION_STRING, &r->data, "DIR", "the server's data folder", 0, 0, false},
        {"admin", OPTION_FLAG, &r->admin, NULL, "with the rights of an administrator", 0, 0, false},
    };
    if (action->run == run_remove) rows[1] = (struct option_row){"yes", OPTION_FLAG, &r->yes, NULL, "do it", 0, 0, false};
    snprintf(command, sizeof command, "user %s", action->name);
    struct option_set set = {command, action->usage, action->about, rows, 1};
    int rc = options_parse_environment(&set); /* FORESAY_DATA; no variable makes an administrator or deletes anybody */
    set.n_rows = action->run == run_add || action->run == run_remove ? 2 : 1;
    if (rc == 0) rc = options_parse_flags(&set, argc, argv, &n_names);
    if (rc) return rc;
    r->name = argv[1];
    if (n_names == (action->takes_name ? 1 : 0)) return 0;
    fprintf(stderr, "foresay %s: %s (foresay %s --help)\n", command, action->takes_name ? "needs one name" : "takes no name",
            command);
    return 2;
}

static int run_action(const struct action *action, int argc, char **argv) {
    char default_data[4096];
    struct user_request r = {.data = config_default_data(default_data, sizeof default_data) ? default_data : NULL};
    struct store_error error = {""};
    int rc = parse(action, argc, argv, &r);
    if (rc) return rc == 1 ? 0 : rc;
    if (!r.data) return fail("there is no home folder: name the server's data folder with --data");
    struct store_config settings = {.data_dir = r.data, .guest = true};
    struct store *store = store_open(&settings, NULL, &error);
    if (!store) return fail(error.text);
    rc = action->run(store, &r);
    store_close(store);
    return rc;
}

int user_command(int argc, char **argv) {
    const char *word = argc >= 2 ? argv[1] : "";
    bool help = strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
    for (int i = 0; i < N_ACTIONS; i++) {
        if (strcmp(word, actions[i].name) == 0) return run_action(&actions[i], argc - 1, argv + 1);
    }
    if (argc >= 2 && !help) fprintf(stderr, "foresay user: unknown command '%s'\n", word);
    FILE *out = help ? stdout : stderr;
    for (int i = 0; i < N_ACTIONS; i++)
        fprintf(out, "%s foresay user %s %s\n", i ? "      " : "usage:", actions[i].name, actions[i].usage);
    return help ? 0 : 2;
}
