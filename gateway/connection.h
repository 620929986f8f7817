/* connection.h - one client's connection, whatever carries it: who it is, what it says, what it is owed.
 *
 *  (1) LOOKUP (session being looked up, nothing is read) -> GREETING (hello awaited) -> OPEN -> CLOSING (what is queued goes
 *      out, then the close frame; nothing more is read or queued).
 *  (2) Answers and notices wait in the outbox. Token events are read from the logs when the socket can take them, in turn
 *      over the subscriptions that have some; so an answer never waits behind tokens, and one stream does not starve another.
 *  (3) A subscription sends its first text at once, then at most one frame every CONNECTION_COALESCE_MS.
 *  (4) Every request is answered by chat.c through connection_send; one that completes after the connection closed is answered
 *      to nobody.
 *  (5) What carries it is a struct transport: a WebSocket (server.c) or plain HTTP (http_connection.c). "The socket" below is
 *      either.
 * Service thread only. */
#ifndef FORESAY_CONNECTION_H
#define FORESAY_CONNECTION_H

#include "gateway/core.h"
#include "gateway/stream.h"

struct connection;
struct pending;

enum {
    CONNECTION_COALESCE_MS = 20,  /* 50 frames a second read as smooth; each costs a wake-up on a phone */
    CONNECTION_HELLO_MS = 10000,  /* for a client that opens and says nothing */
    CONNECTION_FAREWELL_MS = 5000 /* for the close frame to get out */
};

struct transport {
    bool notices_absence;                                      /* it knows when nobody is there; else a ping must be answered */
    int stall_ms;                                              /* a socket that takes nothing for so long is closed with 4408 */
    void (*write_soon)(struct connection *connection);         /* asks for the moment when it can take bytes: connection_next */
    void (*pause)(struct connection *connection, bool paused); /* stop or go on reading */
    /* Tells close_code if farewell_due, and closes; from a timer. connection_closed follows soon, perhaps at once. */
    void (*end)(struct connection *connection);
};

enum connection_state { CONNECTION_LOOKUP, CONNECTION_GREETING, CONNECTION_OPEN, CONNECTION_CLOSING };

struct subscription {
    struct connection *connection;
    struct generation *generation;
    struct stream_reader reader;
    struct timer timer;               /* runs while coalescing */
    int64_t sent_ms;                  /* when text last went out; 0 = never */
    bool queued;                      /* in the connection's ready queue */
    struct subscription *next, *prev; /* of this connection */
    struct subscription *next_ready;
};

struct connection {
    struct gateway *gateway;
    const struct transport *transport;
    void *socket; /* the transport's */
    enum connection_state state;
    struct store_user user; /* id 0 until the session is known */
    unsigned char token_hash[AUTH_HASH_LEN];
    char sid[STORE_ID_LEN + 1];
    struct store_op *lookup; /* of the session, while it is under way */
    bool counted;            /* in user_counts and in connections.by_user */

    struct buffer incoming; /* fragments of the message being received */
    struct rate_limit rate;
    int refused_in_a_row;

    struct outbox outbox;
    bool piece_sent_from_outbox; /* what connection_next gave last */
    struct subscription *subscriptions, *ready_first, *ready_last;
    int n_subscriptions;
    struct pending *pending; /* requests being worked on (chat.c) */
    int n_pending;

    struct timer timer;       /* hello, heartbeat, stall, farewell */
    int64_t waiting_since_ms; /* the socket was asked to take bytes and has not yet; 0 = not waiting */
    int64_t ping_due_ms, ping_n, pong_n;

    int close_code;
    char close_reason[100];
    bool farewell_due;              /* everything is out but the close frame */
    bool absent;                    /* nobody is there to take anything now: the end does not wait for it */
    struct connection *next, *prev; /* same bucket of connections.by_user */
};

/* --- called by the transport --- */
/* NULL: refused, close at once. */
struct connection *connection_open(struct gateway *gateway, const struct transport *transport, void *socket,
                                   const unsigned char token_hash[AUTH_HASH_LEN]);
void connection_receive(struct connection *connection, const char *bytes, size_t n, bool final);
/* The next bytes for the socket; false when there is nothing now. After they are written: connection_sent. */
bool connection_next(struct connection *connection, struct outbox_piece *piece);
void connection_sent(struct connection *connection, const struct outbox_piece *piece);
/* The socket can take bytes and there are none. */
void connection_idle(struct connection *connection);
bool connection_has_more(const struct connection *connection);
void connection_closed(struct connection *connection); /* frees it */

/* --- called by chat.c and gateway.c --- */
/* Queues the message that was built in gateway->scratch. */
void connection_send(struct connection *connection);
void connection_err(struct connection *connection, const char *id, int code, const char *message, int retry_ms);
/* Sends what is queued, then closes. The first reason given stays. */
void connection_close(struct connection *connection, int code, const char *reason);
/* False: the limit of subscriptions is reached or memory is out. Already subscribed: moves to `from`. */
bool connection_subscribe(struct connection *connection, struct generation *generation, uint64_t from);
bool connection_is_subscribed(const struct connection *connection, const struct generation *generation);
void connection_unsubscribe(struct connection *connection, const struct store_id *generation);

/* The message in gateway->scratch to every open socket of a user but one (may be NULL). */
void connections_send(struct gateway *gateway, int64_t user, const struct connection *except);
/* The user's setting has changed: as the sockets that are open or opening know it. */
void connections_set_learns(struct gateway *gateway, int64_t user, bool learns);
void connections_send_all(struct gateway *gateway);
/* Is everything that was ready to go out given to the sockets? */
bool connections_quiet(const struct gateway *gateway);
void connections_close_all(struct gateway *gateway, int code, const char *reason);
void connections_close_session(struct gateway *gateway, const unsigned char token_hash[AUTH_HASH_LEN]);

#endif
