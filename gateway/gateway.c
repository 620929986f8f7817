/* gateway.c - see gateway.h: opens the parts, hands wake-ups on, and ends in order.
 *
 * The end: clients are told (drain), running answers are cut and saved as interrupted, then the sockets close with 1012. What
 * does not come to rest in DRAIN_MS is ended with the text it has. A second signal does not wait. */
#include "gateway/gateway.h"

#include "engine/log.h"
#include "gateway/connection.h"
#include "gateway/core.h"
#include "gateway/http_connection.h"
#include "gateway/server.h"
#include "gateway/turn.h"
#include "gateway/wire_out.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    DRAIN_MS = 5000,       /* for the engine's next step and the last commits; a service manager waits longer */
    DRAIN_CLOSE_MS = 1000, /* for the close frames */
    DRAIN_TICK_MS = 20,
    RECONNECT_MS = 1000, /* what clients are told to wait */
};

bool gateway_post(struct gateway *gateway, struct store_op *op) { return !gateway->closing && store_post(gateway->store, op); }

void gateway_wake(void *arg) {
    struct gateway *gateway = arg;
    if (gateway && gateway->server) server_wake(gateway->server);
}

void gateway_on_wake(struct gateway *gateway) {
    store_poll(gateway->store);
    turns_poll_engine(gateway);
}

/* --- the end --- */

static void finish_draining(struct gateway *gateway) {
    turns_give_up(gateway);
    connections_close_all(gateway, 1012, "restart");
    gateway->drain_until_ms = clock_ms() + DRAIN_CLOSE_MS;
    gateway->farewell = true;
}

static void on_drain_timer(struct timer *timer) {
    struct gateway *gateway = container_of(timer, struct gateway, drain_timer);
    bool late = clock_ms() >= gateway->drain_until_ms;
    if (!gateway->farewell && (late || (gateway->turns.n_running == 0 && connections_quiet(gateway)))) {
        if (late) log_info("gateway", "not everything came to rest in %d s; ending it as it is", DRAIN_MS / 1000);
        finish_draining(gateway);
    } else if (gateway->farewell && (late || (gateway->connections.n == 0 && gateway->n_exchanges == 0))) {
        server_end(gateway->server);
        return;
    }
    timer_set(&gateway->timers, timer, clock_ms() + DRAIN_TICK_MS);
}

void gateway_on_stop(struct gateway *gateway) {
    if (gateway->draining) {
        log_info("gateway", "asked twice: not waiting for the clients");
        turns_give_up(gateway);
        server_end(gateway->server);
        return;
    }
    gateway->draining = true;
    log_info("gateway", "ending %d running answers and %d connections", gateway->turns.n_running, gateway->connections.n);
    buffer_clear(&gateway->scratch);
    wire_drain(&gateway->scratch, RECONNECT_MS);
    connections_send_all(gateway);
    turns_interrupt_all(gateway);
    gateway->drain_until_ms = clock_ms() + DRAIN_MS;
    timer_set(&gateway->timers, &gateway->drain_timer, clock_ms() + DRAIN_TICK_MS);
}

/* --- open, run, close --- */

static bool copy_config(struct gateway *gateway, const struct gateway_config *config) {
    gateway->config = (struct gateway_config){
        .host = strdup(config->host), .port = config->port, .data_dir = strdup(config->data_dir), .pace_ms = config->pace_ms};
    if (config->public_origin) gateway->config.public_origin = strdup(config->public_origin);
    return gateway->config.host && gateway->config.data_dir && (!config->public_origin || gateway->config.public_origin);
}

static void on_store_wake(void *arg) { gateway_wake(arg); }

static bool open_store(struct gateway *gateway, char *error, size_t error_size) {
    const struct store_config config = {.data_dir = gateway->config.data_dir, .wake = on_store_wake, .wake_arg = gateway};
    struct store_error trouble = {{0}};
    int n_interrupted = 0;
    gateway->store = store_open(&config, &n_interrupted, &trouble);
    if (gateway->store && store_admin_ensure(gateway->store, &gateway->admin, &trouble) == STORE_OK) {
        if (n_interrupted > 0)
            log_info("gateway", "%d answers were cut off when the server last ended; they can be continued", n_interrupted);
        return true;
    }
    snprintf(error, error_size, "%s", trouble.text);
    return false;
}

int gateway_open(struct gateway **out, const struct gateway_config *config, char *error, size_t error_size) {
    struct gateway *gateway = calloc(1, sizeof *gateway);
    *out = NULL;
    if (!gateway || !auth_init() || !copy_config(gateway, config) ||
        getrandom(gateway->salt_key, sizeof gateway->salt_key, 0) != (ssize_t)sizeof gateway->salt_key) {
        snprintf(error, error_size, "Out of memory, or this system gives no random numbers.");
        gateway_close(gateway);
        return -1;
    }
    struct store_id node;
    store_id_new(&node);
    snprintf(gateway->node, sizeof gateway->node, "%.16s", node.text);
    gateway->begun_ms = clock_ms();
    gateway->begun_wall_ms = clock_wall_ms();
    timer_init(&gateway->drain_timer, on_drain_timer);
    timer_init(&gateway->pace_timer, turns_on_pace);
    if (server_open(&gateway->server, gateway, config->host, config->port, error, error_size) != 0 ||
        !open_store(gateway, error, error_size)) {
        gateway_close(gateway);
        return -1;
    }
    *out = gateway;
    return 0;
}

void gateway_attach_engine(struct gateway *gateway, struct engine *engine) {
    gateway->engine = engine;
    engine_info(engine, &gateway->model);
    gateway_wake(gateway);
}

int gateway_sign_in_links(struct gateway *gateway, char links[LINKS_MAX][LINK_SIZE]) {
    const struct gateway_config *config = &gateway->config;
    char code[AUTH_CODE_SIZE];
    auth_code_new(&gateway->codes, clock_wall_ms(), code);
    return sign_in_links(config->host, server_port(gateway->server), config->public_origin, code, links);
}

int gateway_run(struct gateway *gateway) {
    server_run(gateway->server);
    log_info("gateway", "served for %lld s", (long long)((clock_ms() - gateway->begun_ms) / 1000));
    return 0;
}

void gateway_stop(struct gateway *gateway) { server_stop(gateway->server); }

void gateway_close(struct gateway *gateway) {
    if (!gateway) return;
    gateway->engine = NULL; /* closed before us; what is left to cancel is over */
    gateway->draining = true;
    if (gateway->server) server_close_sockets(gateway->server);
    http_connections_end(gateway);
    gateway->closing = true;
    store_close(gateway->store); /* completes what is queued: needs the generations */
    turns_free(gateway);
    server_close(gateway->server);
    user_counts_free(&gateway->counts);
    buffer_free(&gateway->scratch);
    free((char *)gateway->config.host);
    free((char *)gateway->config.data_dir);
    free((char *)gateway->config.public_origin);
    free(gateway);
}
