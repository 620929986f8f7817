/* gateway.h - the server: sockets, sign-in, conversations, streams. One service thread runs all of it but the store's threads.
 *
 * main.c opens the engine, then runs the gateway until SIGTERM or SIGINT, then closes both in reverse. */
#ifndef FORESAY_GATEWAY_H
#define FORESAY_GATEWAY_H

#include "engine/engine.h"
#include "gateway/links.h"

#define FORESAY_VERSION "0.1.0"

struct gateway_config {
    const char *host; /* address to bind; 127.0.0.1 unless the operator says otherwise */
    int port;         /* 0 = any free one, reported in the log and in the printed URL */
    const char *data_dir;
    const char *public_origin; /* NULL, or the origin browsers use when a proxy stands in front: "https://chat.example" */
    int pace_ms;               /* new text goes out at multiples of this alone; 0 = as it comes */
};

struct gateway;

/* wake for engine_config: gives the engine something to call before the gateway exists. Any thread, never blocks. */
void gateway_wake(void *gateway);

/* Binds the port and opens the store; prints nothing. On failure *out is NULL and error holds a sentence (port in use, folder not
 * writable, database newer than the binary, event-loop plugin missing). The engine is attached later so that a taken port is
 * known before a model loads. */
int gateway_open(struct gateway **out, const struct gateway_config *config, char *error, size_t error_size);
void gateway_attach_engine(struct gateway *gateway, struct engine *engine);
/* The links to open (links.h), all with the same fresh one-time code, which signs the administrator in. Returns their number. */
int gateway_sign_in_links(struct gateway *gateway, char links[LINKS_MAX][LINK_SIZE]);
/* Serves until gateway_stop or a signal; then tells the clients, ends streams, flushes. Returns 0 after a clean end. */
int gateway_run(struct gateway *gateway);
void gateway_stop(struct gateway *gateway);  /* any thread or signal handler */
void gateway_close(struct gateway *gateway); /* accepts NULL */

#endif
