/* options.h - settings of a command: a table that is filled from FORESAY_* variables, a config file and flags, in this order.
 *
 * Each row names a flag ("ctx" is --ctx and FORESAY_CTX), where its value goes and one line of help. The same row serves all
 * three sources, so they cannot differ. Strings point into argv, the environment or the config file's tree: the owner of those
 * keeps them alive. Main thread, at start. */
#ifndef FORESAY_OPTIONS_H
#define FORESAY_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

enum option_kind {
    OPTION_STRING, /* const char * */
    OPTION_INT,    /* int, with min and max */
    OPTION_FLOAT,  /* float, with min and max */
    OPTION_U64,    /* uint64_t */
    OPTION_SIZE,   /* size_t bytes: 512M, 4G, 123456 */
    OPTION_FLAG,   /* bool; takes no value */
};

struct option_row {
    const char *name; /* without dashes; one letter means -n as well as --n */
    enum option_kind kind;
    void *value;
    const char *argument; /* what --help shows after the flag, NULL for OPTION_FLAG */
    const char *help;
    double min, max; /* OPTION_INT and OPTION_FLOAT; both 0 = no limit */
    bool seen;       /* set by the parser: some source gave a value */
};

struct option_set {
    const char *command; /* "serve" */
    const char *usage;   /* what follows "foresay serve" in the usage line */
    const char *about;   /* a paragraph for --help */
    struct option_row *rows;
    int n_rows;
};

/* Reads the environment, then argv[1..]. Positional arguments (no dash) are moved to argv[1..] and counted in *n_positional; pass
 * NULL when the command takes none. Returns 0 to go on, 1 when --help was printed (exit 0), 2 after an error that was printed
 * (exit 2). */
int options_parse(struct option_set *set, int argc, char **argv, int *n_positional);

/* The two sources by themselves, for commands with a config file between them. Same results as above. */
int options_parse_environment(struct option_set *set);
int options_parse_flags(struct option_set *set, int argc, char **argv, int *n_positional);

/* Sets one row by name from text, as a config file does; `source` is named in the error. 0 or 2. */
int options_set(struct option_set *set, const char *name, const char *text, const char *source);

/* Some source gave this option a value. */
bool options_seen(const struct option_set *set, const char *name);

/* The closest of n names, or NULL when none is close: for "did you mean" hints. */
const char *options_closest(const char *word, const char *const *names, int n);

#endif
