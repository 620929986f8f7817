/* http_connection.h - a connection of a client that no WebSocket reaches: what it says comes by POST, what it is owed goes out to
 * one reader, a long poll (longpoll.c) or an event stream (sse.c). Everything between is connection.c, as for a WebSocket.
 *
 *  (1) POST /api/cmd with hello makes one, once the sign-in is known to be good. Its id (welcome's sid) is told to nobody else
 *      and works only with the same sign-in.
 *  (2) Each further POST has a number, 1, 2, ...: one that was done is answered again and not done again, so a client repeats
 *      a POST whose answer got lost.
 *  (3) A message that is taken from the connection for a reader gets the next number and is kept until the client says that it
 *      has it. What a long poll was given is always kept, so a lost answer loses nothing. An event stream goes on when the room
 *      is full: the oldest are forgotten, and a client that asks for one of these begins anew with hello and `resume`.
 *  (4) A new reader ends the one before. Without one nothing is taken: texts wait in their logs, and the outbox has its bound.
 *      After HTTP_CONNECTION_ABSENT_MS in which something waited (the heartbeat does) the connection is closed.
 * Service thread only. */
#ifndef FORESAY_HTTP_CONNECTION_H
#define FORESAY_HTTP_CONNECTION_H

#include "gateway/connection.h"
#include "gateway/http.h"

enum {
    HTTP_CONNECTION_ABSENT_MS = 60000, /* a client that polls now and then, a laptop that changes networks */
    HTTP_KEPT_MESSAGES = 256,
    HTTP_KEPT_BYTES = 64 * 1024, /* and what one message has beyond it */
};

struct http_connection;

/* What a kind of reader does. Both may be called from anywhere, so `ready` only takes note. */
struct http_reader {
    void (*ready)(struct http_connection *connection); /* there may be something to take */
    /* The last answer to a reader that is attached. code 0: another reader has come; else how the connection ended. */
    void (*end)(struct http_connection *connection, int code, const char *reason);
};

struct http_connection {
    struct connection *connection;
    struct http_connection *next, **link; /* of the gateway's */
    struct exchange *opening;             /* the POST with hello, until it is known whose it is */
    uint64_t n_posts;

    struct buffer kept; /* messages, one behind the other */
    size_t kept_size[HTTP_KEPT_MESSAGES];
    int n_kept;
    uint64_t last; /* number of the newest message that was taken; the oldest kept one has last - n_kept + 1 */
    uint64_t told; /* the reader has, or was given, those up to this one */

    struct exchange *reader; /* NULL: nobody */
    const struct http_reader *kind;
    struct timer timer; /* the reader's */
    int64_t wait_until_ms;
};

/* --- routes --- */
void http_connection_command(struct exchange *exchange); /* POST /api/cmd */
void http_connection_leave(struct exchange *exchange);   /* DELETE /api/cmd */

/* --- for the readers --- */
/* The connection that the request names. NULL: there is none for this client, and it was told so. */
struct http_connection *http_connection_find(struct exchange *exchange);
/* Makes the exchange its reader, whose client has the messages up to `after`. False: that cannot be, and it was told so. */
bool http_connection_attach(struct http_connection *connection, struct exchange *exchange, const struct http_reader *kind,
                            uint64_t after);
struct exchange *http_connection_detach(struct http_connection *connection); /* the reader, which is none any more */
bool http_connection_has_room(const struct http_connection *connection);
void http_connection_forget(struct http_connection *connection, int n); /* the n oldest that are kept */
/* Takes one message more; false: there is none now. Needs a free place in kept_size. */
bool http_connection_take(struct http_connection *connection);
/* A message that is kept. */
const char *http_connection_message(const struct http_connection *connection, uint64_t number, size_t *len);

void http_connections_end(struct gateway *gateway); /* all of them; their sockets are gone */

#endif
