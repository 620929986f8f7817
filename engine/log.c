/* log.c - see log.h. A message is formatted into one buffer and written with one call, so lines of threads never mix. */
#include "engine/log.h"

#include <stdarg.h>
#include <stdatomic.h>
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

void log_message(enum log_level level, const char *module, const char *format, ...) {
    if ((int)level > atomic_load(&level_max)) return;
    char line[1024];
    struct timespec now;
    struct tm local;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &local);
    size_t used = strftime(line, sizeof line, "%H:%M:%S", &local);
    used +=
        (size_t)snprintf(line + used, sizeof line - used, ".%03ld %-5s %-8s ", now.tv_nsec / 1000000, level_names[level], module);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line + used, sizeof line - used - 1, format, args);
    va_end(args);
    if (n > 0) used += (size_t)n;
    if (used > sizeof line - 2) used = sizeof line - 2;
    line[used++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, used);
    (void)written; /* nobody is left to tell */
}
