/* limits.h - how much one connection, one user and everybody together may ask for. Every limit is here, with its reason.
 *
 * Service thread only. */
#ifndef FORESAY_LIMITS_H
#define FORESAY_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    LIMIT_MESSAGES_PER_S = 20,            /* client messages: fast typing and clicking stays far below */
    LIMIT_MESSAGES_BURST = 40,            /* opening a page: hello, convs, hist and a few subs at once */
    LIMIT_FLOOD = 200,                    /* refused messages in a row before the connection is closed with 4429 */
    LIMIT_SUBSCRIPTIONS = 64,             /* streams read by one connection */
    LIMIT_PENDING = 64,                   /* unanswered requests of one connection */
    LIMIT_CONNECTIONS = 4096,             /* in all: about 10 kB each when idle */
    LIMIT_HTTP_CONNECTIONS = 512,         /* of these without a WebSocket: one HTTP request each that waits */
    LIMIT_USER_CONNECTIONS = 64,          /* tabs and devices of one person */
    LIMIT_EXCHANGES = 1024,               /* HTTP requests being answered at once */
    LIMIT_GENERATIONS = 256,              /* running in all, the engine's own queue included */
    LIMIT_USER_GENERATIONS = 32,          /* running for one user: scripts run many in parallel */
    LIMIT_BODY = 2 * 1024 * 1024,         /* bytes of a POST /v1/[chat/]completions: far above any context */
    LIMIT_IMPORT_BODY = 64 * 1024 * 1024, /* bytes of a file of chats, one at a time: ten thousand chats and more */
    LIMIT_COMMANDS_BODY = 512 * 1024,     /* bytes of a POST /api/cmd: a message of the longest kind, and small ones */
    LIMIT_SMALL_BODY = 4096,              /* bytes of other bodies */
    LIMIT_DRAIN_BODY = 16 * 1024 * 1024,  /* a refused body up to this is read and dropped so that the refusal can be read */
};

/* A token bucket in thousandths of a message. Zero-initialised, the first limit_take fills it. */
struct rate_limit {
    int64_t at_ms;
    int32_t millis;
    bool begun;
};
/* Takes one of `burst` that refill at per_s; 0 when there was one, else the milliseconds until there is. */
int rate_limit_take(struct rate_limit *limit, int per_s, int burst, int64_t now_ms);

/* What each user holds right now. Entries exist only while something is held, so the table is bounded by what it counts. */
enum user_resource { USER_CONNECTIONS, USER_GENERATIONS, USER_RESOURCES };
struct user_count;
struct user_counts {
    struct user_count *buckets[256];
};
/* False when the user holds `limit` already or memory is out. */
bool user_counts_take(struct user_counts *counts, int64_t user, enum user_resource resource, int limit);
void user_counts_give(struct user_counts *counts, int64_t user, enum user_resource resource);
void user_counts_free(struct user_counts *counts);

#endif
