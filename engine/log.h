/* log.h - one line a message on stderr, with time, level and module. Any thread.
 *
 * A message is a sentence with the values in it. Trouble is logged once, at its source. */
#ifndef FORESAY_LOG_H
#define FORESAY_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Messages above this level are dropped. Set once, before the threads start; the default is LOG_INFO. */
void log_set_level(enum log_level level);
/* "error", "warn", "info", "debug" to a level; -1 when it is none of them. */
int log_level_parse(const char *name);

/* "loading: 37 %" of something long, at level info: one line that moves on a terminal, a line every tenth elsewhere. Progress is
 * one thread's at a time; call log_progress_end when it is over or has failed. */
void log_progress(const char *module, const char *what, int percent);
void log_progress_end(void);

void log_message(enum log_level level, const char *module, const char *format, ...) __attribute__((format(printf, 3, 4)));

#define log_error(module, ...) log_message(LOG_ERROR, module, __VA_ARGS__)
#define log_warn(module, ...)  log_message(LOG_WARN, module, __VA_ARGS__)
#define log_info(module, ...)  log_message(LOG_INFO, module, __VA_ARGS__)
#define log_debug(module, ...) log_message(LOG_DEBUG, module, __VA_ARGS__)

#endif
