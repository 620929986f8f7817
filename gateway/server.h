/* server.h - the sockets. The only door to libwebsockets and libuv; everything else in gateway/ is plain C on this side of it.
 *
 * server.c turns callbacks into calls of connection.h (WebSockets), http.h (requests) and gateway.c (wake-ups, signals).
 * Service thread only, except server_wake and server_stop. */
#ifndef FORESAY_SERVER_H
#define FORESAY_SERVER_H

#include <stdbool.h>
#include <stddef.h>

struct gateway;
struct server;
struct lws; /* a socket: only handed through */

/* Binds. On failure *out is NULL and error holds a sentence. */
int server_open(struct server **out, struct gateway *gateway, const char *host, int port, char *error, size_t error_size);
int server_port(const struct server *server);
void server_run(struct server *server); /* until server_end; calls gateway_on_wake, gateway_on_stop */
void server_end(struct server *server); /* server_run returns */
/* All of them: nothing comes from them any more. server_wake stays harmless until server_close. */
void server_close_sockets(struct server *server);
void server_close(struct server *server); /* accepts NULL */

void server_wake(struct server *server); /* any thread: gateway_on_wake soon, once for many calls */
void server_stop(struct server *server); /* any thread or signal handler: gateway_on_stop soon */

/* --- one socket --- */
void server_write_soon(struct lws *socket); /* asks for the moment when it can take bytes */
void server_kill(struct lws *socket);       /* closes without a farewell, soon; the close is reported as any other */
/* The answer to this GET takes long: notices a client who leaves meanwhile, and ends the time limit. */
void server_watch(struct lws *socket);

#endif
