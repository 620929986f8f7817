/* core.h - what a running gateway is made of. The parts find each other here; gateway.c makes and ends it.
 *
 * Service thread only, except where a member says otherwise. */
#ifndef FORESAY_CORE_H
#define FORESAY_CORE_H

#include "engine/engine.h"
#include "gateway/auth.h"
#include "gateway/gateway.h"
#include "gateway/limits.h"
#include "gateway/outbox.h"
#include "gateway/store.h"
#include "gateway/timers.h"

struct generation;
struct connection;
struct http_connection;
struct learning_load;

enum { GATEWAY_BUCKETS = 512 };

/* The generations that are in memory: those that run, and those that ended lately (turn.h). */
struct turns {
    struct generation *by_id[GATEWAY_BUCKETS], *by_engine[GATEWAY_BUCKETS];
    struct generation *oldest_ended, *newest_ended;
    int n_running;
    size_t ended_bytes;
};

/* All of them, found by user (connection.h), and those without a WebSocket (http_connection.h). */
struct connections {
    struct connection *by_user[GATEWAY_BUCKETS];
    int n;
};
struct http_connections {
    struct http_connection *first;
    int n;
};

/* What is under way for learning.c. */
struct learning {
    struct learning_load *loads;
    uint32_t numbers[GATEWAY_BUCKETS];
};

struct gateway {
    struct gateway_config config; /* strings are owned */
    struct server *server;
    struct store *store;
    struct engine *engine; /* NULL until attached */
    struct engine_info model;
    struct store_user admin;
    struct auth_codes codes;
    struct timers timers;
    struct user_counts counts;
    struct turns turns;
    struct connections connections;
    struct http_connections http_connections;
    struct learning learning;
    int n_exchanges;
    struct buffer scratch; /* the message being built; valid until the next one */
    char node[17];         /* names this process on the wire */
    uint64_t salt_key[2];  /* makes cache salts and keys of user ids */
    int64_t begun_ms, begun_wall_ms;
    bool importing; /* a file of chats is coming in */
    bool draining;  /* no new work is taken */
    bool closing;   /* the store takes nothing any more */
    bool farewell;  /* the last part of draining: sockets are closing */
    struct timer drain_timer;
    struct timer pace_timer; /* the next look at the engine's events, where they are paced */
    int64_t next_look_ms;
    int64_t drain_until_ms;
};

/* store_post, refused once the store is closing. False: op stays the caller's. */
bool gateway_post(struct gateway *gateway, struct store_op *op);
/* --- called by server.c --- */
void gateway_on_wake(struct gateway *gateway); /* completions of the store, events of the engine */
void gateway_on_stop(struct gateway *gateway); /* SIGTERM, SIGINT or gateway_stop; a second time: at once */

#endif
