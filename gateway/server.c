/* server.c - see server.h. libwebsockets 4.1 (HTTP/1.1 and WebSocket) on a libuv loop that we own.
 *
 *  (1) One thread runs the loop and everything in gateway/ but the store. server_wake and server_stop set a flag and call
 *      uv_async_send; no other thread calls libwebsockets or libuv.
 *  (2) The loop is ours ("foreign" to lws), so signals, timers and wake-ups are plain libuv, and lws installs no signal
 *      handlers.
 *  (3) lws copies of headers die with the callback: they are copied into the exchange or the session at once.
 *      CONFIRM_UPGRADE gets a pointer that may be dangling (an lws 4.1 bug with unknown upgrades): it is not read, and anything
 *      but "websocket" is hung up on.
 *  (4) One write for each WRITEABLE. Nothing is written from anywhere else.
 *  (5) While an answer to a POST is awaited, lws goes on reading and so notices a client who leaves. For a late answer to a GET
 *      lws 4.1 neither notices nor sleeps once the client has said or ended anything: there (server_watch) an epoll of our own
 *      looks, and the socket is closed at once. Bytes behind a body, or during a late answer to a GET, are a request sent before
 *      its turn: lws would call back for them without end, so that connection is closed.
 *  (6) Ending takes two calls of lws_context_destroy with the loop run in between: libuv closes handles asynchronously. */
#include "gateway/server.h"

#include <libwebsockets.h>
#include <uv.h>

#include "engine/log.h"
#include "gateway/connection.h"
#include "gateway/core.h"
#include "gateway/http.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static_assert(OUTBOX_HEADROOM >= LWS_PRE, "pieces need the room that lws writes frame headers into");

enum {
    RX_BUFFER = 16 * 1024,
    HTTP_STALL_S = 30, /* a client that takes nothing of its answer for so long is gone */
    WS_STALL_MS = 30000,
    KEEPALIVE_S = 30,
    WATCHED_SILENCE_MS = 30000, /* a client that acknowledges nothing of what TCP carries for so long is gone */
    WANTED_FILES = 8192,        /* LIMIT_CONNECTIONS, LIMIT_EXCHANGES, connections between requests, the database */
};

struct server {
    struct gateway *gateway;
    struct lws_context *context; /* lws sets it to NULL when the context is gone */
    struct lws_vhost *vhost;
    uv_loop_t loop;
    uv_async_t wake;
    uv_timer_t timer;
    uv_prepare_t before_poll;
    uv_signal_t on_term, on_int;
    uv_poll_t on_left;
    int watched; /* an epoll of the sockets whose clients may leave unnoticed (invariant 5) */
    atomic_bool woken, stop_wanted;
    int64_t timer_due_ms; /* what the loop's timer is set to; -1 = stopped */
    struct buffer chunk;  /* the piece of a body being sent */
};

/* What lws keeps for a socket: one of the two, or neither. */
struct session {
    struct connection *connection;
    struct exchange *exchange;
    bool is_watched;
    unsigned char token_hash[AUTH_HASH_LEN];
};

static struct server *server_of(struct lws *socket) { return lws_context_user(lws_get_context(socket)); }

/* --- one socket --- */

void server_write_soon(struct lws *socket) { lws_callback_on_writable(socket); }
void server_kill(struct lws *socket) { lws_set_timeout(socket, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC); }

void server_watch(struct lws *socket) {
    struct session *session = lws_wsi_user(socket);
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, .data.ptr = session->exchange};
    unsigned silence_ms = WATCHED_SILENCE_MS;
    int fd = lws_get_socket_fd(socket);
    if (session->is_watched) return;
    session->is_watched = epoll_ctl(server_of(socket)->watched, EPOLL_CTL_ADD, fd, &event) == 0;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &silence_ms, sizeof silence_ms);
    lws_set_timeout(socket, NO_PENDING_TIMEOUT, 0);
    if (!session->is_watched) server_kill(socket); /* out of memory: better none than one that spins */
}

static void unwatch(struct lws *socket, struct session *session) {
    if (session->is_watched) epoll_ctl(server_of(socket)->watched, EPOLL_CTL_DEL, lws_get_socket_fd(socket), NULL);
    session->is_watched = false;
}

/* Of the watched sockets' exchanges none goes away here: the close is reported later. */
static void on_left(uv_poll_t *handle, int status, int events) {
    const struct server *server = handle->data;
    struct epoll_event left[32];
    (void)status, (void)events;
    int n = epoll_wait(server->watched, left, sizeof left / sizeof *left, 0);
    for (int i = 0; i < n; i++) server_kill(((struct exchange *)left[i].data.ptr)->socket);
}

/* --- HTTP: the head of a request --- */

/* False when the header does not fit. Absent: empty. */
static bool copy_header(struct lws *socket, enum lws_token_indexes token, char *out, size_t size) {
    out[0] = 0;
    if (lws_hdr_total_length(socket, token) == 0) return true;
    return lws_hdr_copy(socket, out, (int)size, token) > 0;
}

static const struct {
    enum lws_token_indexes token;
    enum http_method method;
} methods[] = {
    {WSI_TOKEN_GET_URI, HTTP_GET},       {WSI_TOKEN_HEAD_URI, HTTP_HEAD}, {WSI_TOKEN_POST_URI, HTTP_POST},
    {WSI_TOKEN_DELETE_URI, HTTP_DELETE}, {WSI_TOKEN_PUT_URI, HTTP_OTHER}, {WSI_TOKEN_PATCH_URI, HTTP_OTHER},
    {WSI_TOKEN_OPTIONS_URI, HTTP_OTHER},
};

static bool copy_target(struct lws *socket, struct exchange *e) {
    e->method = HTTP_OTHER;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if (lws_hdr_total_length(socket, methods[i].token) == 0) continue;
        e->method = methods[i].method;
        if (!copy_header(socket, methods[i].token, e->path, sizeof e->path)) return false;
    }
    if (lws_hdr_total_length(socket, WSI_TOKEN_HTTP_URI_ARGS) == 0) return true;
    /* lws splits the query into its arguments; they are joined again. */
    size_t used = 0;
    for (int i = 0;; i++) {
        int n = lws_hdr_copy_fragment(socket, e->query + used, (int)(sizeof e->query - used - 1), WSI_TOKEN_HTTP_URI_ARGS, i);
        if (n == -1) break;
        if (n < 0) return false;
        used += (size_t)n;
        e->query[used++] = '&';
    }
    e->query[used > 0 ? used - 1 : 0] = 0;
    return true;
}

/* -1: absent; -2: not a length. Strict: "12x", "+1" and lists are how requests are smuggled past proxies. */
static int64_t content_length(struct lws *socket) {
    char text[24];
    if (lws_hdr_total_length(socket, WSI_TOKEN_HTTP_TRANSFER_ENCODING) > 0) return -2;
    if (lws_hdr_total_length(socket, WSI_TOKEN_HTTP_CONTENT_LENGTH) == 0) return -1;
    if (!copy_header(socket, WSI_TOKEN_HTTP_CONTENT_LENGTH, text, sizeof text)) return -2;
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 15 || text[digits] != 0) return -2;
    return strtoll(text, NULL, 10);
}

/* A header that lws has no number for. */
static bool copy_last_event_id(struct lws *socket, struct exchange *e) {
    static const char name[] = "last-event-id:";
    int name_len = (int)sizeof name - 1;
    if (lws_hdr_custom_length(socket, name, name_len) <= 0) return true;
    return lws_hdr_custom_copy(socket, e->last_event_id, sizeof e->last_event_id, name, name_len) > 0;
}

static int begin_exchange(struct lws *socket, struct session *session) {
    struct server *server = server_of(socket);
    struct exchange *e = server->gateway->n_exchanges < LIMIT_EXCHANGES ? calloc(1, sizeof *e) : NULL;
    if (!e || session->exchange) {
        free(e);
        return -1;
    }
    e->gateway = server->gateway;
    e->gateway->n_exchanges++;
    e->socket = socket;
    session->exchange = e;
    e->content_length = content_length(socket);
    bool fits = copy_target(socket, e) && copy_header(socket, WSI_TOKEN_HOST, e->host, sizeof e->host) &&
                copy_header(socket, WSI_TOKEN_ORIGIN, e->origin, sizeof e->origin) &&
                copy_header(socket, WSI_TOKEN_HTTP_COOKIE, e->cookie, sizeof e->cookie) &&
                copy_header(socket, WSI_TOKEN_HTTP_AUTHORIZATION, e->authorization, sizeof e->authorization) &&
                copy_header(socket, WSI_TOKEN_HTTP_IF_NONE_MATCH, e->if_none_match, sizeof e->if_none_match) &&
                copy_last_event_id(socket, e);
    if (!copy_header(socket, WSI_TOKEN_HTTP_ACCEPT_ENCODING, e->accept_encoding, sizeof e->accept_encoding))
        e->accept_encoding[0] = 0;
    if (!fits) {
        e->close_after = true;
        http_answer_error(e, 431, "A header of the request is too long.");
    } else {
        http_begin(e);
    }
    return 0;
}

/* --- HTTP: the end of an exchange --- */

void exchange_settle(struct exchange *e) {
    if (e->socket || e->holds > 0) return;
    e->gateway->n_exchanges--;
    buffer_free(&e->body);
    buffer_free(&e->head);
    buffer_free(&e->owned);
    free(e);
}

/* The socket has no more to do with the exchange: it closed, or the answer is out. */
static void detach_exchange(struct lws *socket, struct session *session) {
    struct exchange *e = session->exchange;
    if (!e) return;
    unwatch(socket, session);
    session->exchange = NULL;
    e->socket = NULL;
    exchange_hold(e); /* gone may let go of the last hold but ours */
    if (e->state != EXCHANGE_OVER && e->gone) e->gone(e);
    exchange_release(e);
}

static int finish_exchange(struct lws *socket, struct session *session) {
    struct exchange *e = session->exchange;
    bool close_after = e->close_after;
    e->state = EXCHANGE_OVER;
    detach_exchange(socket, session);
    return close_after || lws_http_transaction_completed(socket) ? -1 : 0;
}

/* --- HTTP: the answer --- */

static bool write_http(struct lws *socket, const char *bytes, size_t n, enum lws_write_protocol how) {
    struct buffer *chunk = &server_of(socket)->chunk;
    if (bytes) { /* NULL: it stands in chunk already */
        buffer_clear(chunk);
        buffer_append(chunk, bytes, n);
    }
    lws_set_timeout(socket, PENDING_TIMEOUT_HTTP_CONTENT, HTTP_STALL_S);
    return !chunk->failed && lws_write(socket, (unsigned char *)chunk->data, chunk->len, how) >= (int)chunk->len;
}

static int write_stream(struct lws *socket, struct session *session) {
    struct exchange *e = session->exchange;
    struct buffer *chunk = &server_of(socket)->chunk;
    buffer_clear(chunk);
    bool over = e->pull(e, chunk);
    if (chunk->failed) return -1;
    if (chunk->len > 0) {
        if (!write_http(socket, NULL, 0, LWS_WRITE_HTTP)) return -1;
        if (!over) lws_callback_on_writable(socket); /* to know that it went out */
    } else {
        lws_set_timeout(socket, NO_PENDING_TIMEOUT, 0);
    }
    return over ? finish_exchange(socket, session) : 0;
}

static int write_exchange(struct lws *socket, struct session *session) {
    struct exchange *e = session->exchange;
    if (!e || e->state < EXCHANGE_ANSWERING) return 0;
    if (!e->head_sent) {
        e->head_sent = true;
        if (!write_http(socket, e->head.data, e->head.len, LWS_WRITE_HTTP_HEADERS)) return -1;
        if (e->state == EXCHANGE_ANSWERING && e->content_len == 0) return finish_exchange(socket, session);
        lws_callback_on_writable(socket);
        return 0;
    }
    if (e->state == EXCHANGE_STREAMING) return write_stream(socket, session);
    size_t left = e->content_len - e->content_sent, n = left < OUTBOX_PIECE ? left : OUTBOX_PIECE;
    if (!write_http(socket, e->content + e->content_sent, n, LWS_WRITE_HTTP)) return -1;
    e->content_sent += n;
    if (n == left) return finish_exchange(socket, session);
    lws_callback_on_writable(socket);
    return 0;
}

/* --- HTTP: the way to a WebSocket --- */

static int refuse_upgrade(struct lws *socket, const char *status) {
    char head[200];
    int n =
        snprintf(head + LWS_PRE, sizeof head - LWS_PRE, "HTTP/1.1 %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", status);
    lws_write(socket, (unsigned char *)head + LWS_PRE, (size_t)n, LWS_WRITE_HTTP_HEADERS);
    return -1;
}

static bool session_cookie(struct lws *socket, unsigned char hash[AUTH_HASH_LEN]) {
    char cookie[2048], token[AUTH_TOKEN_SIZE];
    return copy_header(socket, WSI_TOKEN_HTTP_COOKIE, cookie, sizeof cookie) && auth_cookie_find(cookie, token) &&
           auth_hash_session(token, hash);
}

/* Invariant 3. 0 lets lws go on; a page learns the status of a refusal from its own requests, so the sentence is short. */
static int confirm_upgrade(struct lws *socket) {
    const struct gateway *gateway = server_of(socket)->gateway;
    char upgrade[16], path[64], origin[AUTH_ORIGIN_SIZE], host[AUTH_ORIGIN_SIZE], protocol[64];
    unsigned char hash[AUTH_HASH_LEN];
    if (!copy_header(socket, WSI_TOKEN_UPGRADE, upgrade, sizeof upgrade) || strcasecmp(upgrade, "websocket") != 0) return -1;
    if (!copy_header(socket, WSI_TOKEN_GET_URI, path, sizeof path) || strcmp(path, "/v1/ws") != 0) {
        return refuse_upgrade(socket, "404 Not Found");
    }
    if (!copy_header(socket, WSI_TOKEN_PROTOCOL, protocol, sizeof protocol) || !strstr(protocol, "chat.v1")) {
        return refuse_upgrade(socket, "400 Bad Request");
    }
    if (!copy_header(socket, WSI_TOKEN_ORIGIN, origin, sizeof origin) ||
        !copy_header(socket, WSI_TOKEN_HOST, host, sizeof host) ||
        !auth_origin_allowed(origin, host, gateway->config.public_origin)) {
        return refuse_upgrade(socket, "403 Forbidden");
    }
    if (!session_cookie(socket, hash)) return refuse_upgrade(socket, "401 Unauthorized");
    if (gateway->draining || gateway->connections.n >= LIMIT_CONNECTIONS)
        return refuse_upgrade(socket, "503 Service Unavailable");
    return 0;
}

/* Called again for bytes behind the body: invariant 5. */
static int end_body(struct exchange *e) {
    if (!e || e->body_over) return -1;
    e->body_over = true;
    if (e->state == EXCHANGE_READING) http_body(e);
    return 0;
}

static int on_http(struct lws *socket, enum lws_callback_reasons reason, void *user, void *in, size_t len) {
    struct session *session = user;
    switch (reason) {
    case LWS_CALLBACK_HTTP:
        return begin_exchange(socket, session);
    case LWS_CALLBACK_HTTP_BODY: {
        struct exchange *e = session->exchange;
        if (e && e->state == EXCHANGE_READING && e->body.len + len <= e->body_limit) buffer_append(&e->body, in, len);
        return 0;
    }
    case LWS_CALLBACK_HTTP_BODY_COMPLETION:
        return end_body(session->exchange);
    case LWS_CALLBACK_HTTP_WRITEABLE:
        return write_exchange(socket, session);
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
        return confirm_upgrade(socket);
    case LWS_CALLBACK_HTTP_DROP_PROTOCOL:
    case LWS_CALLBACK_CLOSED_HTTP:
        if (session) detach_exchange(socket, session);
        return 0;
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION: /* a WebSocket without our subprotocol */
    case LWS_CALLBACK_RAW_ADOPT:                  /* CONNECT */
    case LWS_CALLBACK_RAW_RX:
        return -1;
    default:
        return 0;
    }
}

/* --- WebSocket --- */

static void ws_write_soon(struct connection *c) { server_write_soon(c->socket); }
static void ws_pause(struct connection *c, bool paused) { lws_rx_flow_control(c->socket, !paused); }

/* Returning -1 from WRITEABLE would do, but Debian builds lws with a debugging aid that closes such a socket twice, and the
 * second close swallows the close frame. A synchronous "kill" by timeout takes the polite path once. */
static void ws_end(struct connection *c) {
    if (!c->farewell_due) {
        server_kill(c->socket);
        return;
    }
    lws_close_reason(c->socket, (enum lws_close_status)c->close_code, (unsigned char *)c->close_reason, strlen(c->close_reason));
    lws_set_timeout(c->socket, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_SYNC);
}

static const struct transport websocket = {
    .stall_ms = WS_STALL_MS, .write_soon = ws_write_soon, .pause = ws_pause, .end = ws_end};

static int write_connection(struct lws *socket, struct connection *c) {
    struct outbox_piece piece;
    if (!connection_next(c, &piece)) {
        connection_idle(c);
        return 0;
    }
    int how = lws_write_ws_flags(LWS_WRITE_TEXT, piece.first, piece.last);
    if (lws_write(socket, (unsigned char *)piece.data, piece.len, (enum lws_write_protocol)how) < 0) return -1;
    connection_sent(c, &piece);
    return 0;
}

static int on_chat(struct lws *socket, enum lws_callback_reasons reason, void *user, void *in, size_t len) {
    struct session *session = user;
    struct connection *c = session ? session->connection : NULL;
    switch (reason) {
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION:
        return session_cookie(socket, session->token_hash) ? 0 : -1;
    case LWS_CALLBACK_ESTABLISHED:
        session->connection = connection_open(server_of(socket)->gateway, &websocket, socket, session->token_hash);
        return session->connection ? 0 : -1;
    case LWS_CALLBACK_RECEIVE:
        if (lws_frame_is_binary(socket)) connection_close(c, 1003, "text only");
        connection_receive(c, in, len, lws_is_final_fragment(socket) && lws_remaining_packet_payload(socket) == 0);
        return 0;
    case LWS_CALLBACK_SERVER_WRITEABLE:
        return c ? write_connection(socket, c) : 0;
    case LWS_CALLBACK_CLOSED:
        if (!c) return 0;
        session->connection = NULL;
        connection_closed(c);
        return 0;
    default:
        return 0;
    }
}

/* lws takes the first as its HTTP handler; the order is what lws_create_vhost sees. */
static const struct lws_protocols protocols[] = {
    {.name = "http",
     .callback = on_http,
     .per_session_data_size = sizeof(struct session),
     .rx_buffer_size = RX_BUFFER,
     .tx_packet_size = OUTBOX_PIECE},
    {.name = "chat.v1",
     .callback = on_chat,
     .per_session_data_size = sizeof(struct session),
     .rx_buffer_size = RX_BUFFER,
     .tx_packet_size = 64 * 1024},
    {0},
};

/* --- the loop --- */

static void on_timer(uv_timer_t *timer) {
    struct server *server = timer->data;
    server->timer_due_ms = -1;
    timers_run(&server->gateway->timers, clock_ms());
}

/* Just before the loop sleeps: its timer is set to the first of ours. */
static void on_before_poll(uv_prepare_t *handle) {
    struct server *server = handle->data;
    int64_t due = timers_next_ms(&server->gateway->timers), now;
    if (due == server->timer_due_ms) return;
    server->timer_due_ms = due;
    if (due < 0) {
        uv_timer_stop(&server->timer);
        return;
    }
    uv_update_time(&server->loop);
    now = clock_ms();
    uv_timer_start(&server->timer, on_timer, due > now ? (uint64_t)(due - now) : 0, 0);
}

static void on_wake(uv_async_t *handle) {
    struct server *server = handle->data;
    atomic_store(&server->woken, false); /* before the work: what comes from now on wakes again */
    if (atomic_exchange(&server->stop_wanted, false)) gateway_on_stop(server->gateway);
    gateway_on_wake(server->gateway);
}

static void on_signal(uv_signal_t *handle, int number) {
    struct server *server = handle->data;
    log_info("server", "%s: going down", number == SIGINT ? "interrupted" : "asked to end");
    gateway_on_stop(server->gateway);
}

void server_wake(struct server *server) {
    if (!atomic_exchange(&server->woken, true)) uv_async_send(&server->wake);
}

void server_stop(struct server *server) {
    atomic_store(&server->stop_wanted, true);
    uv_async_send(&server->wake);
}

void server_run(struct server *server) {
    uv_signal_start(&server->on_term, on_signal, SIGTERM);
    uv_signal_start(&server->on_int, on_signal, SIGINT);
    server_wake(server); /* for what was left before the loop ran */
    uv_run(&server->loop, UV_RUN_DEFAULT);
}

void server_end(struct server *server) { uv_stop(&server->loop); }

/* --- open and close --- */

static void log_lws(int level, const char *line) {
    char text[300];
    snprintf(text, sizeof text, "%s", line);
    text[strcspn(text, "\n")] = 0;
    if (level == LLL_ERR)
        log_warn("lws", "%s", text); /* mostly about what a client did */
    else
        log_debug("lws", "%s", text);
}

static void sentence(char *error, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void sentence(char *error, size_t size, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(error, size, format, args);
    va_end(args);
}

/* The host as a numeric address, and whether we can listen there: lws itself would only say "no". */
static bool check_bind(const char *host, int port, char numeric[64], bool *is_v6, char *error, size_t size) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
    char service[8];
    int one = 1;
    snprintf(service, sizeof service, "%d", port);
    int rc = getaddrinfo(host, service, &hints, &found);
    if (rc != 0) {
        sentence(error, size, "The host %s is not known: %s.", host, gai_strerror(rc));
        return false;
    }
    getnameinfo(found->ai_addr, found->ai_addrlen, numeric, 64, NULL, 0, NI_NUMERICHOST);
    *is_v6 = found->ai_family == AF_INET6;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    bool good = fd >= 0 && bind(fd, found->ai_addr, found->ai_addrlen) == 0;
    int trouble = errno;
    if (fd >= 0) close(fd);
    freeaddrinfo(found);
    if (good) return true;
    if (trouble == EADDRINUSE) {
        sentence(error, size, "Port %d on %s is in use by another program; choose another one with --port.", port, host);
    } else if (trouble == EACCES) {
        sentence(error, size, "Port %d needs more rights than this user has; choose one above 1023 with --port.", port);
    } else if (trouble == EADDRNOTAVAIL) {
        sentence(error, size, "%s is not an address of this machine; choose another one with --host.", host);
    } else {
        sentence(error, size, "Cannot listen on %s, port %d: %s.", host, port, strerror(trouble));
    }
    return false;
}

static void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= WANTED_FILES) return;
    limit.rlim_cur = limit.rlim_max < WANTED_FILES ? limit.rlim_max : WANTED_FILES;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static bool open_lws(struct server *server, const char *host, int port, char *error, size_t size) {
    static const lws_retry_bo_t no_lws_pings = {0}; /* connection.c has its own heartbeat */
    char address[64];
    bool is_v6;
    void *loops[] = {&server->loop};
    if (!check_bind(host, port, address, &is_v6, error, size)) return false;
    struct lws_context_creation_info info = {
        .options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_EXPLICIT_VHOSTS | LWS_SERVER_OPTION_FAIL_UPON_UNABLE_TO_BIND |
                   (is_v6 ? 0 : LWS_SERVER_OPTION_DISABLE_IPV6),
        .foreign_loops = loops,
        .pcontext = &server->context,
        .user = server,
        .port = port,
        .iface = address,
        .vhost_name = "foresay",
        .protocols = protocols,
        .alpn = "http/1.1",
        .server_string = "foresay",
        .max_http_header_data = 8192,
        .keepalive_timeout = KEEPALIVE_S,
        .timeout_secs = HTTP_STALL_S,
        .retry_and_idle_policy = &no_lws_pings,
    };
    server->context = lws_create_context(&info);
    if (!server->context) {
        sentence(error, size, "libwebsockets has no libuv event loop: install the package libwebsockets-evlib-uv (make deps).");
        return false;
    }
    server->vhost = lws_create_vhost(server->context, &info);
    if (!server->vhost) sentence(error, size, "Cannot listen on %s, port %d.", host, port);
    return server->vhost != NULL;
}

static void open_loop(struct server *server) {
    uv_loop_init(&server->loop);
    uv_async_init(&server->loop, &server->wake, on_wake);
    uv_timer_init(&server->loop, &server->timer);
    uv_prepare_init(&server->loop, &server->before_poll);
    uv_signal_init(&server->loop, &server->on_term);
    uv_signal_init(&server->loop, &server->on_int);
    server->wake.data = server->timer.data = server->before_poll.data = server->on_term.data = server->on_int.data = server;
    uv_prepare_start(&server->before_poll, on_before_poll);
    uv_poll_init(&server->loop, &server->on_left, server->watched);
    server->on_left.data = server;
    uv_poll_start(&server->on_left, UV_READABLE, on_left);
}

int server_open(struct server **out, struct gateway *gateway, const char *host, int port, char *error, size_t error_size) {
    struct server *server = calloc(1, sizeof *server);
    *out = NULL;
    int watched = epoll_create1(EPOLL_CLOEXEC);
    if (!server || watched < 0) {
        sentence(error, error_size, "Out of memory or of file descriptors.");
        if (watched >= 0) close(watched);
        free(server);
        return -1;
    }
    signal(SIGPIPE, SIG_IGN); /* a closed pipe or socket is an error code, not an end */
    raise_file_limit();
    lws_set_log_level(LLL_ERR | LLL_WARN, log_lws);
    server->gateway = gateway;
    server->timer_due_ms = -1;
    server->watched = watched;
    open_loop(server);
    if (!open_lws(server, host, port, error, error_size)) {
        server_close(server);
        return -1;
    }
    *out = server;
    return 0;
}

int server_port(const struct server *server) { return lws_get_vhost_listen_port(server->vhost); }

static void run_closings(struct server *server) {
    for (int i = 0; i < 16; i++) uv_run(&server->loop, UV_RUN_NOWAIT);
}

void server_close_sockets(struct server *server) {
    if (!server->context) return;
    lws_context_destroy(server->context);
    run_closings(server);
    if (server->context) lws_context_destroy(server->context);
    run_closings(server);
    server->context = NULL;
}

void server_close(struct server *server) {
    if (!server) return;
    server_close_sockets(server);
    uv_handle_t *handles[] = {(uv_handle_t *)&server->wake,        (uv_handle_t *)&server->timer,
                              (uv_handle_t *)&server->before_poll, (uv_handle_t *)&server->on_term,
                              (uv_handle_t *)&server->on_int,      (uv_handle_t *)&server->on_left};
    for (size_t i = 0; i < sizeof handles / sizeof *handles; i++) uv_close(handles[i], NULL);
    uv_run(&server->loop, UV_RUN_DEFAULT);
    uv_loop_close(&server->loop);
    close(server->watched);
    buffer_free(&server->chunk);
    free(server);
}
