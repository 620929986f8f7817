/* options.c - see options.h. The parser knows no command; everything it says comes from the rows. Main thread, at start. */
#include "engine/options.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_LEN = 64, HELP_COLUMNS = 110 };

/* --- numbers --- */

/* Prints what is wrong with one value; returns 2 so that callers can pass it on. */
static int complain(const struct option_set *set, const char *source, const char *problem, const char *text) {
    fprintf(stderr, "foresay %s: %s %s", set->command, source, problem);
    if (text) fprintf(stderr, ", not '%s'", text);
    fprintf(stderr, "\n");
    return 2;
}

static bool has_limits(const struct option_row *row) { return row->min != 0 || row->max != 0; }

static void describe_range(const struct option_row *row, bool whole, char *out, size_t size) {
    const char *noun = whole ? "a whole number" : "a number";
    if (!has_limits(row)) {
        snprintf(out, size, "needs %s", noun);
    } else if (whole) {
        snprintf(out, size, "needs %s from %.0f to %.0f", noun, row->min, row->max);
    } else {
        snprintf(out, size, "needs %s from %g to %g", noun, row->min, row->max);
    }
}

static int set_number(const struct option_set *set, const struct option_row *row, const char *text, const char *source) {
    char problem[96], *end = NULL;
    bool whole = row->kind == OPTION_INT;
    describe_range(row, whole, problem, sizeof problem);
    errno = 0;
    double value = whole ? (double)strtol(text, &end, 10) : strtod(text, &end);
    if (end == text || *end || errno || !isfinite(value)) return complain(set, source, problem, text);
    if (has_limits(row) && (value < row->min || value > row->max)) return complain(set, source, problem, text);
    if (whole) {
        if (value < INT32_MIN || value > INT32_MAX) return complain(set, source, problem, text);
        *(int *)row->value = (int)value;
    } else {
        *(float *)row->value = (float)value;
    }
    return 0;
}

static int set_u64(const struct option_set *set, const struct option_row *row, const char *text, const char *source) {
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end || errno) return complain(set, source, "needs a whole number, 0 or more", text);
    *(uint64_t *)row->value = value;
    return 0;
}

/* 512M, 1.5G, 4GiB, 123456: a number, then at most one binary unit. */
static int set_size(const struct option_set *set, const struct option_row *row, const char *text, const char *source) {
    static const char units[] = "KMGT";
    char *end = NULL;
    errno = 0;
    double value = isdigit((unsigned char)text[0]) ? strtod(text, &end) : -1;
    if (value >= 0 && !errno && isfinite(value)) {
        const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
        if (unit) {
            for (long i = 0; i <= unit - units; i++) value *= 1024;
            end++;
            if (*end == 'i') end++;
            if (toupper((unsigned char)*end) == 'B') end++;
        }
        if (!*end && value < 9e18) {
            *(size_t *)row->value = (size_t)value;
            return 0;
        }
    }
    return complain(set, source, "needs a size such as 512M, 1.5G or a number of bytes", text);
}

static int set_value(const struct option_set *set, struct option_row *row, const char *text, const char *source) {
    row->seen = true;
    switch (row->kind) {
    case OPTION_STRING:
        *(const char **)row->value = text;
        return 0;
    case OPTION_INT:
    case OPTION_FLOAT:
        return set_number(set, row, text, source);
    case OPTION_U64:
        return set_u64(set, row, text, source);
    case OPTION_SIZE:
        return set_size(set, row, text, source);
    case OPTION_FLAG:
        break;
    }
    if (strcmp(text, "1") == 0 || strcmp(text, "true") == 0 || strcmp(text, "yes") == 0) {
        *(bool *)row->value = true;
    } else if (strcmp(text, "0") == 0 || strcmp(text, "false") == 0 || strcmp(text, "no") == 0 || !*text) {
        *(bool *)row->value = false;
    } else {
        return complain(set, source, "is a switch: true or false", text);
    }
    return 0;
}

/* --- hints --- */

/* Levenshtein distance, for words shorter than NAME_MAX_LEN. */
static int edit_distance(const char *a, const char *b) {
    int row[NAME_MAX_LEN + 1];
    int n = (int)strlen(b);
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int substituted = diagonal + (a[i - 1] != b[j - 1]);
            int shifted = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = substituted < shifted ? substituted : shifted;
        }
    }
    return row[n];
}

const char *options_closest(const char *word, const char *const *names, int n) {
    const char *best = NULL;
    int best_distance = 3; /* two slips; more is another word */
    if (strlen(word) >= NAME_MAX_LEN) return NULL;
    for (int i = 0; i < n; i++) {
        if (strlen(names[i]) >= NAME_MAX_LEN) continue;
        int distance = edit_distance(word, names[i]);
        bool prefix = strlen(word) >= 3 && strncmp(word, names[i], strlen(word)) == 0;
        if (prefix && distance > 2) distance = 2;
        if (distance < best_distance && distance < (int)strlen(word)) {
            best_distance = distance;
            best = names[i];
        }
    }
    return best;
}

static int unknown_option(const struct option_set *set, const char *name, const char *source, const char *dashes) {
    const char *names[NAME_MAX_LEN];
    int n = 0;
    for (int i = 0; i < set->n_rows && n < NAME_MAX_LEN; i++) names[n++] = set->rows[i].name;
    const char *hint = options_closest(name, names, n);
    fprintf(stderr, "foresay %s: unknown option %s", set->command, source);
    if (hint) fprintf(stderr, "; did you mean %s%s?", dashes, hint);
    fprintf(stderr, " (foresay %s --help lists them)\n", set->command);
    return 2;
}

static struct option_row *find_row(const struct option_set *set, const char *name, size_t len) {
    for (int i = 0; i < set->n_rows; i++) {
        const char *candidate = set->rows[i].name;
        if (strlen(candidate) == len && memcmp(candidate, name, len) == 0) return &set->rows[i];
    }
    return NULL;
}

/* --- help --- */

bool options_seen(const struct option_set *set, const char *name) {
    const struct option_row *row = find_row(set, name, strlen(name));
    assert(row);
    return row->seen;
}

static void print_default(const struct option_row *row) {
    switch (row->kind) {
    case OPTION_STRING:
        if (*(const char **)row->value) printf(" (default %s)", *(const char **)row->value);
        break;
    case OPTION_INT:
        if (*(int *)row->value) printf(" (default %d)", *(int *)row->value);
        break;
    case OPTION_FLOAT:
        printf(" (default %g)", (double)*(float *)row->value);
        break;
    case OPTION_U64:
    case OPTION_SIZE:
    case OPTION_FLAG:
        break;
    }
}

/* In lines of HELP_COLUMNS, the next ones below the first. */
static void print_wrapped(const char *text, int indent) {
    int column = indent;
    while (*text) {
        int len = (int)strcspn(text, " ");
        if (column > indent && column + 1 + len > HELP_COLUMNS) {
            printf("\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            putchar(' ');
            column++;
        }
        printf("%.*s", len, text);
        column += len;
        text += len + (text[len] == ' ');
    }
}

static void print_help(const struct option_set *set) {
    int width = 6;
    for (int i = 0; i < set->n_rows; i++) {
        const struct option_row *row = &set->rows[i];
        int w = (int)strlen(row->name) + (row->argument ? (int)strlen(row->argument) + 1 : 0) + 2;
        if (w > width) width = w;
    }
    printf("usage: foresay %s %s\n\n%s\n\noptions:\n", set->command, set->usage, set->about);
    for (int i = 0; i < set->n_rows; i++) {
        const struct option_row *row = &set->rows[i];
        char left[128];
        snprintf(left, sizeof left, "%s%s%s%s", row->name[1] ? "--" : "-", row->name, row->argument ? " " : "",
                 row->argument ? row->argument : "");
        printf("  %-*s  ", width, left);
        print_wrapped(row->help, width + 4);
        print_default(row);
        printf("\n");
    }
    printf("  %-*s  this text\n\nOptions with a value are also variables: --kv-type X is FORESAY_KV_TYPE=X. Flags win.\n", width,
           "--help");
}

/* --- sources --- */

int options_set(struct option_set *set, const char *name, const char *text, const char *source) {
    struct option_row *row = find_row(set, name, strlen(name));
    if (!row) return unknown_option(set, name, source, "");
    return set_value(set, row, text, source);
}

int options_parse_environment(struct option_set *set) {
    for (int i = 0; i < set->n_rows; i++) {
        char variable[NAME_MAX_LEN + 16] = "FORESAY_";
        size_t used = strlen(variable);
        const char *name = set->rows[i].name;
        /* One-letter flags have no variable: FORESAY_N would say nothing. */
        if (!name[1]) continue;
        for (; *name && used < sizeof variable - 1; name++)
            variable[used++] = *name == '-' ? '_' : (char)toupper((unsigned char)*name);
        variable[used] = '\0';
        const char *text = getenv(variable);
        if (!text) continue;
        int rc = set_value(set, &set->rows[i], text, variable);
        if (rc) return rc;
    }
    return 0;
}

/* One flag at argv[*at], with its value; *at is left on the last argument used. */
static int parse_flag(struct option_set *set, int argc, char **argv, int *at) {
    const char *flag = argv[*at];
    const char *name = flag + (flag[1] == '-' ? 2 : 1);
    const char *equals = strchr(name, '=');
    size_t len = equals ? (size_t)(equals - name) : strlen(name);
    char shown[NAME_MAX_LEN];
    snprintf(shown, sizeof shown, "%.*s", (int)(equals ? equals - flag : (long)strlen(flag)), flag);
    if (!equals && (strcmp(name, "help") == 0 || strcmp(flag, "-h") == 0)) {
        print_help(set);
        return 1;
    }
    struct option_row *row = find_row(set, name, len);
    /* A word behind one dash is a slip for two, except one letter. */
    if (!row || (flag[1] != '-' && len > 1)) {
        char bare[NAME_MAX_LEN];
        snprintf(bare, sizeof bare, "%.*s", (int)(len < sizeof bare ? len : sizeof bare - 1), name);
        return unknown_option(set, bare, shown, len > 1 ? "--" : "-");
    }
    if (row->kind == OPTION_FLAG) return set_value(set, row, equals ? equals + 1 : "1", shown);
    if (equals) return set_value(set, row, equals + 1, shown);
    /* The next flag is not a value: --model --decode is a slip. One that begins with dashes can be given as --name=--value. */
    if (*at + 1 >= argc || strncmp(argv[*at + 1], "--", 2) == 0) return complain(set, shown, "needs a value", NULL);
    return set_value(set, row, argv[++*at], shown);
}

int options_parse_flags(struct option_set *set, int argc, char **argv, int *n_positional) {
    int kept = 0;
    bool only_words = false; /* after a bare "--" */
    for (int i = 1; i < argc; i++) {
        char *word = argv[i];
        if (!only_words && strcmp(word, "--") == 0) {
            only_words = true;
        } else if (!only_words && word[0] == '-' && word[1]) {
            int rc = parse_flag(set, argc, argv, &i);
            if (rc) return rc;
        } else if (n_positional) {
            argv[1 + kept++] = word;
        } else if (strstr(word, ".gguf") && find_row(set, "model", 5)) {
            return complain(set, word, "is not an option; for the model write --model in front of it", NULL);
        } else {
            return complain(set, word, "is not an option: this command takes none but those that begin with --", NULL);
        }
    }
    if (n_positional) *n_positional = kept;
    return 0;
}

int options_parse(struct option_set *set, int argc, char **argv, int *n_positional) {
    int rc = options_parse_environment(set);
    return rc ? rc : options_parse_flags(set, argc, argv, n_positional);
}
