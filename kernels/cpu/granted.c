/* granted.c - how many processors this process may really use.
 *
 * The smaller of the affinity mask and the cgroup's quota: a container that is granted two of 64 processors must not start 64
 * threads that spin against each other. A quota of 1.5 counts as 1, since threads beyond the quota are stopped in the middle
 * of an operation. The quota of a group also binds its children, so every group up to the root is looked at. Read once, at
 * start. */
#define _GNU_SOURCE
#include "kernels/cpu/pool.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int affinity_cpus(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    return CPU_COUNT(&set);
}

/* First line of a small file; false if there is none. */
static int read_line(const char *path, char *line, size_t size) {
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    const int ok = fgets(line, (int)size, file) != NULL;
    fclose(file);
    return ok;
}

static int cpus_of_quota(long long quota, long long period) {
    if (quota <= 0 || period <= 0) return INT_MAX;
    const long long cpus = quota / period;
    return cpus < 1 ? 1 : cpus > INT_MAX ? INT_MAX : (int)cpus;
}

/* cgroup v2: "max 100000" or "150000 100000". */
static int quota_v2(const char *folder) {
    char path[PATH_MAX + 64], line[64], *end;
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (!read_line(path, line, sizeof line)) return INT_MAX;
    const long long quota = strtoll(line, &end, 10);
    if (end == line) return INT_MAX;
    return cpus_of_quota(quota, strtoll(end, NULL, 10));
}

static int quota_v1(const char *folder) {
    char path[PATH_MAX + 64], quota[64], period[64];
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!read_line(path, quota, sizeof quota)) return INT_MAX;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (!read_line(path, period, sizeof period)) return INT_MAX;
    return cpus_of_quota(strtoll(quota, NULL, 10), strtoll(period, NULL, 10));
}

/* The least quota from group up to the root of its hierarchy. */
static int quota_upwards(const char *root, char *group, int (*quota_of)(const char *folder)) {
    int least = INT_MAX;
    for (;;) {
        char folder[PATH_MAX];
        if (snprintf(folder, sizeof folder, "%s%s", root, group) < (int)sizeof folder) {
            const int cpus = quota_of(folder);
            if (cpus < least) least = cpus;
        }
        char *slash = strrchr(group, '/');
        if (!slash) return least;
        *slash = '\0';
    }
}

/* True if list ("cpu,cpuacct") names the controller. */
static int names_controller(const char *list, const char *name) {
    const size_t length = strlen(name);
    for (const char *at = list; at; at = strchr(at, ','), at = at ? at + 1 : NULL)
        if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0')) return 1;
    return 0;
}

static int cgroup_cpus(void) {
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file) return INT_MAX;
    int least = INT_MAX;
    char line[PATH_MAX];
    while (fgets(line, sizeof line, file)) { /* "0::/group" or "4:cpu,cpuacct:/group" */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *controllers++ = '\0';
        *group++ = '\0';
        int cpus = INT_MAX;
        if (*controllers == '\0')
            cpus = quota_upwards("/sys/fs/cgroup", group, quota_v2);
        else if (names_controller(controllers, "cpu"))
            cpus = quota_upwards("/sys/fs/cgroup/cpu", group, quota_v1);
        if (cpus < least) least = cpus;
    }
    fclose(file);
    return least;
}

int pool_granted_cpus(void) {
    const int affinity = affinity_cpus(), quota = cgroup_cpus();
    const int least = affinity < quota ? affinity : quota;
    return least < 1 ? 1 : least;
}
