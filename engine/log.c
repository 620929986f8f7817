/* log.c - see log.h. A message is formatted into one buffer and written with one call, so lines of threads never mix. */
#include "engine/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_int level_max = LOG_INFO;
static const char *const level_names[] = {"error", "warn", "info", "debug"};

void log_set_level(enum log_level level) { atomic_store(&level_max, (int)level); }

int log_level_parse(const char *name) {
    for (int i = 0; i < 4; i++) {
        if (strcmp(name, level_names[i]) == 0) return i;
    }
    return -1;
}

static const char CLEAR_LINE[] = "\r\033[K";

/* Progress: the open line on the terminal, and the tenth that was told last. */
static atomic_bool line_is_open;
static int told_percent = -1;

static void put(const char *line, size_t used) {
    ssize_t written = write(STDERR_FILENO, line, used);
    (void)written; /* nobody is left to tell */
}

/* "10:26:47.768 info  engine   "; returns its length. */
static size_t put_head(char *line, size_t size, enum log_level level, const char *module) {
    struct timespec now;
    struct tm local;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &local);
    size_t used = strftime(line, size, "%H:%M:%S", &local);
    return used +
           (size_t)snprintf(line + used, size - used, ".%03ld %-5s %-8s ", now.tv_nsec / 1000000, level_names[level], module);
}

void log_message(enum log_level level, const char *module, const char *format, ...) {
    if ((int)level > atomic_load(&level_max)) return;
    char line[1024];
    size_t start = 0;
    if (atomic_exchange(&line_is_open, false)) {
        start = sizeof CLEAR_LINE - 1;
        memcpy(line, CLEAR_LINE, start);
    }
    size_t used = start + put_head(line + start, sizeof line - start, level, module);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line + used, sizeof line - used - 1, format, args);
    va_end(args);
    if (n > 0) used += (size_t)n;
    if (used > sizeof line - 2) used = sizeof line - 2;
    line[used++] = '\n';
    put(line, used);
}

void log_progress(const char *module, const char *what, int percent) {
    if (LOG_INFO > atomic_load(&level_max) || percent <= told_percent) return;
    if (!isatty(STDERR_FILENO)) {
        if (percent / 10 == told_percent / 10 && told_percent >= 0) return;
        log_message(LOG_INFO, module, "%s: %d %%", what, percent);
    } else {
        char line[256];
        memcpy(line, CLEAR_LINE, sizeof CLEAR_LINE);
        size_t used = sizeof CLEAR_LINE - 1;
        used += put_head(line + used, sizeof line - used, LOG_INFO, module);
        int n = snprintf(line + used, sizeof line - used, "%.100s: %d %%", what, percent);
        put(line, used + (size_t)n);
        atomic_store(&line_is_open, true);
    }
    told_percent = percent;
}

void log_progress_end(void) {
    told_percent = -1;
    if (atomic_exchange(&line_is_open, false)) put(CLEAR_LINE, sizeof CLEAR_LINE - 1);
}
