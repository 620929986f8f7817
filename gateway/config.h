/* config.h - the settings of `foresay serve`, from four sources: built-in values, the config file, FORESAY_* variables, flags.
 * The later ones win. Main thread, at start. */
#ifndef FORESAY_CONFIG_H
#define FORESAY_CONFIG_H

#include <stddef.h>

#include "engine/engine.h"
#include "engine/log.h"
#include "gateway/auth.h"

struct serve_config {
    const char *config; /* the file's path, or NULL */
    const char *model, *host, *data, *isa, *kv_type, *activations;
    enum engine_drafter drafter;
    enum engine_verify verify;
    const char *draft_files;   /* or NULL */
    const char *public_origin; /* NULL, or normalised */
    int port, threads, ctx, max_seqs, step_tokens, draft_max, draft_width, user_texts, pace_ms;
    size_t kv_mem;
    enum log_level log_level;

    /* What the strings above may point into, besides argv and the environment. */
    char default_data[4096], origin[AUTH_ORIGIN_SIZE];
    void *file; /* the config file's tree */
};

/* Returns 0 to go on, 1 when --help was printed (exit 0), 2 after a sentence on stderr (exit 2). Free it in every case. */
int serve_config_load(struct serve_config *config, int argc, char **argv);
void serve_config_free(struct serve_config *config);
/* The effective settings, to the log. */
void serve_config_log(const struct serve_config *config);

/* $XDG_DATA_HOME/foresay or ~/.local/share/foresay. False: there is no home folder, or the path does not fit. */
bool config_default_data(char *out, size_t size);

#endif
