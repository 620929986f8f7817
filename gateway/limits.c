/* limits.c - see limits.h. */
#include "gateway/limits.h"

#include <assert.h>
#include <stdlib.h>

int rate_limit_take(struct rate_limit *limit, int per_s, int burst, int64_t now_ms) {
    int64_t full = (int64_t)burst * 1000;
    int64_t millis = limit->begun ? limit->millis + (now_ms - limit->at_ms) * per_s : full;
    if (millis > full) millis = full;
    limit->begun = true;
    limit->at_ms = now_ms;
    limit->millis = (int32_t)millis;
    if (millis < 1000) return (int)((1000 - millis + per_s - 1) / per_s);
    limit->millis -= 1000;
    return 0;
}

struct user_count {
    int64_t user;
    int held[USER_RESOURCES];
    struct user_count *next;
};

static struct user_count **find(struct user_counts *counts, int64_t user) {
    struct user_count **at = &counts->buckets[(uint64_t)user % 256];
    while (*at && (*at)->user != user) at = &(*at)->next;
    return at;
}

bool user_counts_take(struct user_counts *counts, int64_t user, enum user_resource resource, int limit) {
    struct user_count **at = find(counts, user);
    if (!*at) {
        *at = calloc(1, sizeof **at);
        if (!*at) return false;
        (*at)->user = user;
    }
    if ((*at)->held[resource] >= limit) return false; /* limits are positive, so this entry holds something */
    (*at)->held[resource]++;
    return true;
}

void user_counts_give(struct user_counts *counts, int64_t user, enum user_resource resource) {
    struct user_count **at = find(counts, user), *entry = *at;
    assert(entry && entry->held[resource] > 0);
    entry->held[resource]--;
    for (int i = 0; i < USER_RESOURCES; i++) {
        if (entry->held[i]) return;
    }
    *at = entry->next;
    free(entry);
}

void user_counts_free(struct user_counts *counts) {
    for (int i = 0; i < 256; i++) {
        while (counts->buckets[i]) {
            struct user_count *next = counts->buckets[i]->next;
            free(counts->buckets[i]);
            counts->buckets[i] = next;
        }
    }
}
