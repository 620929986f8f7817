/* memory.c - see memory.h. Linux: /proc/meminfo, control groups version 2 and 1. */
#include "engine/memory.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number in a one-line file; UINT64_MAX when the file is missing or says "max". */
static uint64_t number_in(const char *folder, const char *name) {
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    if (!file) return UINT64_MAX;
    unsigned long long value;
    int n = fscanf(file, "%llu", &value);
    fclose(file);
    return n == 1 ? value : UINT64_MAX;
}

/* The number after `key` in a file of lines "key number"; `otherwise` when it is not there. */
static uint64_t number_after(const char *path, const char *key, uint64_t otherwise) {
    FILE *file = fopen(path, "re");
    if (!file) return otherwise;
    char line[256];
    size_t len = strlen(key);
    uint64_t value = otherwise;
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, key, len) == 0 && (line[len] == ' ' || line[len] == ':')) {
            value = strtoull(line + len + 1, NULL, 10);
            break;
        }
    }
    fclose(file);
    return value;
}

/* What one control group leaves. File pages that nobody uses count as used there, but are given up under pressure. */
static uint64_t left_in_group(const char *folder, const char *limit_name, const char *usage_name) {
    uint64_t limit = number_in(folder, limit_name), used = number_in(folder, usage_name);
    if (limit == UINT64_MAX || used == UINT64_MAX) return UINT64_MAX;
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    uint64_t idle_files = number_after(path, "inactive_file", 0);
    used -= idle_files < used ? idle_files : used;
    return limit > used ? limit - used : 0;
}

/* The path of this process's group in the unified hierarchy; "" when there is none. */
static void read_group_path(char *path, size_t size) {
    path[0] = 0;
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file) return;
    char line[PATH_MAX];
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, "0::", 3) != 0) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(path, size, "%s", line + 3);
        break;
    }
    fclose(file);
}

/* A limit may stand at any level above the process. */
static uint64_t left_in_groups(void) {
    char group[PATH_MAX], folder[PATH_MAX + 32];
    uint64_t left = UINT64_MAX;
    read_group_path(group, sizeof group);
    for (;;) {
        snprintf(folder, sizeof folder, "/sys/fs/cgroup%s", strcmp(group, "/") == 0 ? "" : group);
        uint64_t here = left_in_group(folder, "memory.max", "memory.current");
        if (here < left) left = here;
        char *slash = strrchr(group, '/');
        if (!slash) break;
        *slash = 0;
    }
    uint64_t version1 = left_in_group("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes");
    return version1 < left ? version1 : left;
}

uint64_t memory_available(void) {
    uint64_t kib = number_after("/proc/meminfo", "MemAvailable", UINT64_MAX);
    uint64_t system = kib == UINT64_MAX ? UINT64_MAX : kib * 1024;
    uint64_t groups = left_in_groups();
    return groups < system ? groups : system;
}

uint64_t memory_peak(void) { return number_after("/proc/self/status", "VmHWM", 0) * 1024; }

const char *memory_format(uint64_t bytes, char *text, size_t size) {
    double mib = (double)bytes / (1 << 20);
    if (mib < 1024)
        snprintf(text, size, "%.1f MiB", mib);
    else
        snprintf(text, size, "%.1f GiB", mib / 1024);
    return text;
}
