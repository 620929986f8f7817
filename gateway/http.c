/* http.c - see http.h. Answers first, then the routes: page, sign-in, session, health; openai.c has its own. */
#include "gateway/http.h"

#include "engine/log.h"
#include "gateway/archive.h"
#include "gateway/assets.h"
#include "gateway/connection.h"
#include "gateway/core.h"
#include "gateway/http_connection.h"
#include "gateway/longpoll.h"
#include "gateway/openai.h"
#include "gateway/server.h"
#include "gateway/sse.h"
#include "gateway/wire_in.h"
#include "gateway/wire_out.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* --- answers --- */

static const char *reason_of(int status) {
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {
        {200, "OK"},
        {204, "No Content"},
        {303, "See Other"},
        {304, "Not Modified"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {413, "Content Too Large"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {503, "Service Unavailable"},
    };
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        if (reasons[i].status == status) return reasons[i].reason;
    }
    return "Status";
}

/* Headers of every answer. nosniff and no-referrer cost nothing and close old holes; the CSP of pages is added by serve_asset. */
static void put_head(struct exchange *e, int status, const char *type, const char *headers) {
    char line[100];
    buffer_clear(&e->head);
    snprintf(line, sizeof line, "HTTP/1.1 %d %s\r\n", status, reason_of(status));
    put_text(&e->head, line);
    if (type) {
        put_text(&e->head, "content-type: ");
        put_text(&e->head, type);
        put_text(&e->head, "\r\n");
    }
    if (headers) put_text(&e->head, headers);
    put_text(&e->head,
             "x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\ncross-origin-opener-policy: same-origin\r\n");
    if (!headers || !strstr(headers, "cache-control:")) put_text(&e->head, "cache-control: no-store\r\n");
    if (e->close_after) put_text(&e->head, "connection: close\r\n");
}

static void answer(struct exchange *e, int status, const char *type, const char *headers, const char *content, size_t len) {
    assert(e->state < EXCHANGE_ANSWERING);
    bool has_body = status != 204 && status != 304;
    put_head(e, status, type, headers);
    if (has_body) {
        put_text(&e->head, "content-length: ");
        put_integer(&e->head, (int64_t)len);
        put_text(&e->head, "\r\n");
    }
    put_text(&e->head, "\r\n");
    e->content = content;
    e->content_len = has_body && e->method != HTTP_HEAD ? len : 0;
    e->state = EXCHANGE_ANSWERING;
    if (e->head.failed)
        server_kill(e->socket);
    else
        server_write_soon(e->socket);
}

void http_answer_static(struct exchange *e, int status, const char *type, const char *headers, const char *content, size_t len) {
    if (e->socket) answer(e, status, type, headers, content, len);
}

void http_answer(struct exchange *e, int status, const char *type, const char *headers, const char *content, size_t len) {
    if (!e->socket) return;
    buffer_clear(&e->owned);
    buffer_append(&e->owned, content, len);
    if (e->owned.failed)
        server_kill(e->socket);
    else
        answer(e, status, type, headers, e->owned.data, len);
}

void http_answer_error(struct exchange *e, int status, const char *message) {
    struct buffer body = {0};
    put_text(&body, "{\"error\":");
    put_cstring(&body, message);
    put_text(&body, "}");
    http_answer(e, status, "application/json", NULL, body.data ? body.data : "", body.len);
    buffer_free(&body);
}

static void begin_stream(struct exchange *e, const char *type, const char *headers) {
    if (!e->socket) return;
    e->close_after = true; /* no length is known: the end of the connection is the end of the content */
    put_head(e, 200, type, headers);
    put_text(&e->head, "\r\n");
    e->state = EXCHANGE_STREAMING;
    if (e->head.failed)
        server_kill(e->socket);
    else
        server_write_soon(e->socket);
}

void http_stream_begin(struct exchange *e, const char *type) {
    begin_stream(e, type, "cache-control: no-cache, no-transform\r\nx-accel-buffering: no\r\n");
}

void http_download_begin(struct exchange *e, const char *type, const char *headers) { begin_stream(e, type, headers); }

void http_stream_ready(struct exchange *e) {
    if (e->socket) server_write_soon(e->socket);
}

void exchange_hold(struct exchange *e) { e->holds++; }
void exchange_release(struct exchange *e) {
    e->holds--;
    exchange_settle(e);
}

/* --- the question --- */

bool http_argument(const struct exchange *e, const char *name, char *out, size_t size) {
    size_t name_len = strlen(name), n;
    out[0] = 0;
    for (const char *at = e->query; *at; at += n + (at[n] == '&')) {
        n = strcspn(at, "&");
        if (strncmp(at, name, name_len) != 0 || at[name_len] != '=') continue;
        if (n - name_len - 1 >= size) return false;
        memcpy(out, at + name_len + 1, n - name_len - 1);
        out[n - name_len - 1] = 0;
        return true;
    }
    return true;
}

bool http_number(const char *text, uint64_t max, uint64_t *out) {
    uint64_t number = 0;
    if (!text[0]) return false;
    for (; *text; text++) {
        uint64_t digit = (uint64_t)(*text - '0');
        if (*text < '0' || *text > '9' || digit > max || number > (max - digit) / 10) return false;
        number = number * 10 + digit;
    }
    *out = number;
    return true;
}

bool http_argument_number(const struct exchange *e, const char *name, uint64_t max, uint64_t *out) {
    char text[24];
    return http_argument(e, name, text, sizeof text) && (!text[0] || http_number(text, max, out));
}

bool http_from_own_page(struct exchange *e) {
    if (auth_origin_allowed(e->origin, e->host, e->gateway->config.public_origin)) return true;
    http_answer_error(e, 403, "This request comes from another site.");
    return false;
}

/* --- the page --- */

/* What the page may do: run its own scripts and styles, talk to this host, nothing else. No markup from strings (Trusted Types).
 * connect-src also names the host for ws: and wss:, which older Safari does not count as 'self'. */
static void put_page_policy(struct buffer *out, const char *host) {
    bool plain_host =
        host[0] && strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:[]") == strlen(host);
    put_text(out, "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
                  "font-src 'self'; connect-src 'self'");
    if (plain_host) {
        put_text(out, " ws://");
        put_text(out, host);
        put_text(out, " wss://");
        put_text(out, host);
    }
    put_text(out, "; worker-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
                  "require-trusted-types-for 'script'; trusted-types app\r\n");
}

/* Does an Accept-Encoding header name gzip, and not to forbid it (q=0)? */
static bool takes_gzip(const char *header) {
    for (const char *at = header; *at; at += strcspn(at, ","), at += *at == ',') {
        at += strspn(at, " \t");
        size_t len = strcspn(at, " \t;,");
        if (len != 4 || strncasecmp(at, "gzip", 4) != 0) continue;
        const char *weight = at + len + strspn(at + len, " \t;");
        return strncasecmp(weight, "q=0", 3) != 0 || strspn(weight + 3, ".0") < strcspn(weight + 3, " \t,");
    }
    return false;
}

static void serve_asset(struct exchange *e, const struct web_asset *asset) {
    struct buffer headers = {0};
    bool small = asset->gzip && takes_gzip(e->accept_encoding);
    const char *etag = small ? asset->gzip_etag : asset->etag;
    put_text(&headers, "etag: ");
    put_text(&headers, etag);
    put_text(&headers,
             asset->immutable ? "\r\ncache-control: public, max-age=31536000, immutable\r\n" : "\r\ncache-control: no-cache\r\n");
    if (asset->gzip) put_text(&headers, "vary: accept-encoding\r\n");
    if (small) put_text(&headers, "content-encoding: gzip\r\n");
    if (strncmp(asset->type, "text/html", 9) == 0) put_page_policy(&headers, e->host);
    buffer_append(&headers, "", 1);
    if (headers.failed) {
        server_kill(e->socket);
    } else if (e->if_none_match[0] && strstr(e->if_none_match, etag)) {
        http_answer_static(e, 304, NULL, headers.data, NULL, 0);
    } else {
        const unsigned char *data = small ? asset->gzip : asset->data;
        http_answer_static(e, 200, asset->type, headers.data, (const char *)data, small ? asset->gzip_size : asset->size);
    }
    buffer_free(&headers);
}

static const struct web_asset *find_asset(const char *path) {
    for (const struct web_asset *asset = web_assets; asset->path; asset++) {
        if (strcmp(asset->path, path) == 0) return asset;
    }
    return NULL;
}

/* --- sign-in by code --- */

/* A session being stored for an exchange; the cookie is set once it is on disk. */
struct sign_in {
    struct auth_token token;
    bool by_code; /* answer by going to the page, not by 204 */
};

static void on_signed_in(struct store_op *op) {
    struct exchange *e = op->context;
    struct sign_in *s = e->work;
    char headers[AUTH_COOKIE_SIZE + 64], cookie[AUTH_COOKIE_SIZE];
    if (op->status != STORE_OK) {
        http_answer_error(e, 503, op->error[0] ? op->error : "The session could not be saved.");
    } else {
        auth_cookie_set(cookie, s->token.text, auth_secure(e->gateway->config.public_origin));
        snprintf(headers, sizeof headers, "set-cookie: %s\r\n%s", cookie, s->by_code ? "location: /\r\n" : "");
        http_answer(e, s->by_code ? 303 : 204, NULL, headers, "", 0);
    }
    auth_token_wipe(&s->token);
    free(s);
    store_op_free(op);
    exchange_release(e);
}

static bool post_op(struct exchange *e, struct store_op *op, void (*done)(struct store_op *op)) {
    if (op) {
        op->context = e;
        op->done = done;
        exchange_hold(e);
        if (gateway_post(e->gateway, op)) return true;
        e->holds--; /* not released: the caller answers */
    }
    store_op_free(op);
    http_answer_error(e, 503, "The server is overloaded; try again in a moment.");
    return false;
}

static void sign_in(struct exchange *e, int64_t user, bool by_code) {
    struct store_op *op = store_op_new(STORE_SESSION_ADD);
    struct sign_in *s = calloc(1, sizeof *s);
    if (!op || !s) {
        store_op_free(op);
        free(s);
        http_answer_error(e, 503, "Out of memory.");
        return;
    }
    auth_session_new(&s->token);
    s->by_code = by_code;
    e->work = s;
    op->user = user;
    memcpy(op->token_hash, s->token.hash, sizeof op->token_hash);
    op->expires_ms = clock_wall_ms() + AUTH_SESSION_MS;
    if (!post_op(e, op, on_signed_in)) free(s);
}

static void get_sign_in(struct exchange *e) {
    const char *code = strncmp(e->query, "code=", 5) == 0 ? e->query + 5 : "";
    if (e->method == HTTP_HEAD) { /* a link preview must not use the code up */
        http_answer(e, 204, NULL, NULL, "", 0);
        return;
    }
    switch (auth_code_take(&e->gateway->codes, code, clock_wall_ms())) {
    case AUTH_CODE_OK:
        sign_in(e, e->gateway->admin.id, true);
        break;
    case AUTH_CODE_WRONG: /* the page says what to do; whoever is signed in already just sees the chats */
        http_answer(e, 303, NULL, "location: /?code=expired\r\n", "", 0);
        break;
    case AUTH_CODE_LIMITED:
        http_answer_error(e, 429, "Too many wrong codes came in. Wait a minute, then open the link again.");
        break;
    }
}

/* --- session --- */

/* Looks the user of the cookie up, then calls done with the exchange as context; answers 401 itself when there is no cookie. */
static bool find_session(struct exchange *e, enum store_kind kind, void (*done)(struct store_op *op)) {
    char token[AUTH_TOKEN_SIZE];
    unsigned char hash[AUTH_HASH_LEN];
    if (!auth_cookie_find(e->cookie, token) || !auth_hash_session(token, hash)) {
        http_answer_error(e, 401, "You are not signed in.");
        return false;
    }
    struct store_op *op = store_op_new(kind);
    if (op) memcpy(op->token_hash, hash, sizeof op->token_hash);
    return post_op(e, op, done);
}

static void on_session_found(struct store_op *op) {
    struct exchange *e = op->context;
    struct buffer body = {0};
    if (op->status != STORE_OK) {
        http_answer_error(e, 503, op->error);
    } else if (op->found_user.id == 0) {
        http_answer_error(e, 401, "You are not signed in.");
    } else {
        put_text(&body, "{\"user\":{\"name\":");
        put_cstring(&body, op->found_user.name);
        put_text(&body, op->found_user.admin ? ",\"admin\":true}}" : ",\"admin\":false}}");
        http_answer(e, 200, "application/json", NULL, body.data ? body.data : "", body.len);
        buffer_free(&body);
    }
    store_op_free(op);
    exchange_release(e);
}

static void get_session(struct exchange *e) { find_session(e, STORE_SESSION_GET, on_session_found); }

static void on_key_found(struct store_op *op) {
    struct exchange *e = op->context;
    if (op->status != STORE_OK)
        http_answer_error(e, 503, op->error);
    else if (op->found_user.id == 0)
        http_answer_error(e, 401, "This key is not known.");
    else if (e->socket)
        sign_in(e, op->found_user.id, false);
    store_op_free(op);
    exchange_release(e);
}

/* A foreign page must not sign a visitor in as somebody else; tools send no Origin. */
static void post_session(struct exchange *e) {
    char key[128];
    unsigned char hash[AUTH_HASH_LEN];
    if (e->origin[0] && !http_from_own_page(e)) return;
    if (!wire_parse_key(e->body.data ? e->body.data : "", e->body.len, key, sizeof key)) {
        http_answer_error(e, 400, "The body must be {\"key\": \"fsk_...\"}.");
    } else if (!auth_hash_key(key, hash)) {
        http_answer_error(e, 401, "This is not a key; keys begin with fsk_.");
    } else {
        struct store_op *op = store_op_new(STORE_KEY_GET);
        if (op) memcpy(op->token_hash, hash, sizeof op->token_hash);
        post_op(e, op, on_key_found);
    }
}

static void on_signed_out(struct store_op *op) {
    struct exchange *e = op->context;
    char headers[AUTH_COOKIE_SIZE + 32], cookie[AUTH_COOKIE_SIZE];
    if (op->status == STORE_OK) {
        connections_close_session(e->gateway, op->token_hash);
        auth_cookie_clear(cookie, auth_secure(e->gateway->config.public_origin));
        snprintf(headers, sizeof headers, "set-cookie: %s\r\n", cookie);
        http_answer(e, 204, NULL, headers, "", 0);
    } else {
        http_answer_error(e, 503, op->error);
    }
    store_op_free(op);
    exchange_release(e);
}

static void delete_session(struct exchange *e) {
    if (http_from_own_page(e)) find_session(e, STORE_SESSION_DROP, on_signed_out);
}

/* --- health --- */

static void get_health(struct exchange *e) {
    const struct gateway *gateway = e->gateway;
    struct engine_stats stats = {0};
    struct buffer body = {0};
    if (gateway->engine) engine_stats(gateway->engine, &stats);
    put_text(&body, gateway->draining ? "{\"status\":\"draining\""
                    : gateway->engine ? "{\"status\":\"ok\""
                                      : "{\"status\":\"loading\"");
    put_text(&body, ",\"version\":\"" FORESAY_VERSION "\",\"model\":");
    put_cstring(&body, gateway->engine ? gateway->model.model_name : NULL);
    put_text(&body, ",\"uptime_s\":");
    put_integer(&body, (clock_ms() - gateway->begun_ms) / 1000);
    put_text(&body, ",\"connections\":");
    put_integer(&body, gateway->connections.n);
    put_text(&body, ",\"running\":");
    put_integer(&body, stats.n_running);
    put_text(&body, ",\"waiting\":");
    put_integer(&body, stats.n_waiting);
    put_text(&body, "}\n");
    http_answer(e, gateway->draining ? 503 : 200, "application/json", NULL, body.data ? body.data : "", body.len);
    buffer_free(&body);
}

/* --- routes --- */

static const struct route {
    enum http_method method;
    const char *path;
    size_t body_limit; /* 0: takes no body */
    void (*handle)(struct exchange *e);
    bool (*begin)(struct exchange *e); /* before the body is read; false: refused. NULL: nothing to do */
} routes[] = {
    {HTTP_GET, "/health", 0, get_health, NULL},
    {HTTP_GET, "/sign-in", 0, get_sign_in, NULL},
    {HTTP_GET, "/api/session", 0, get_session, NULL},
    {HTTP_POST, "/api/session", LIMIT_SMALL_BODY, post_session, NULL},
    {HTTP_DELETE, "/api/session", 0, delete_session, NULL},
    {HTTP_POST, "/api/cmd", LIMIT_COMMANDS_BODY, http_connection_command, NULL},
    {HTTP_DELETE, "/api/cmd", 0, http_connection_leave, NULL},
    {HTTP_GET, "/api/poll", 0, longpoll_get, NULL},
    {HTTP_GET, "/api/events", 0, sse_get, NULL},
    {HTTP_GET, "/api/export", 0, archive_export, NULL},
    {HTTP_POST, "/api/import", LIMIT_IMPORT_BODY, archive_import, archive_import_begin},
    {HTTP_GET, "/v1/models", 0, openai_models, NULL},
    {HTTP_GET, OPENAI_MODEL_PATH, 0, openai_models, NULL},
    {HTTP_POST, "/v1/chat/completions", LIMIT_BODY, openai_chat, NULL},
    {HTTP_POST, "/v1/completions", LIMIT_BODY, openai_completion, NULL},
};

static bool is_openai(const struct exchange *e) { return strncmp(e->path, "/v1/", 4) == 0; }

static void refuse(struct exchange *e, int status, const char *message) {
    if (is_openai(e))
        openai_error(e, status, "invalid_request_error", NULL, NULL, message);
    else
        http_answer_error(e, status, message);
}

/* A route that ends with a slash takes one name more. */
static bool route_fits(const char *route, const char *path) {
    size_t len = strlen(route);
    return strcmp(route, path) == 0 || (route[len - 1] == '/' && strncmp(route, path, len) == 0 && path[len] != '\0');
}

/* The route of the request; NULL: refused. HEAD is answered as GET, without the content. */
static const struct route *find_route(struct exchange *e) {
    enum http_method method = e->method == HTTP_HEAD ? HTTP_GET : e->method;
    bool path_known = false;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (!route_fits(routes[i].path, e->path)) continue;
        path_known = true;
        if (routes[i].method == method) return &routes[i];
    }
    if (e->content_length > 0) e->close_after = true; /* its body is not waited for */
    if (path_known)
        refuse(e, 405, "This address does not answer that method.");
    else
        refuse(e, 404, "There is nothing at this address.");
    return NULL;
}

/* A body that is too large is read and dropped up to a bound, so that the client gets to read the refusal. */
static void refuse_body(struct exchange *e) {
    e->close_after = true;
    if (e->content_length > LIMIT_DRAIN_BODY) refuse(e, 413, "The body is too large.");
}

void http_begin(struct exchange *e) {
    bool wants_body = e->method == HTTP_POST;
    if (e->content_length == -2 || (wants_body && e->content_length == -1)) {
        e->close_after = true;
        refuse(e, 411, "A request with a body needs a plain Content-Length.");
        return;
    }
    const struct web_asset *asset = e->method == HTTP_GET || e->method == HTTP_HEAD ? find_asset(e->path) : NULL;
    if (asset) {
        serve_asset(e, asset);
        return;
    }
    const struct route *route = find_route(e);
    if (!route) return;
    e->body_limit = route->body_limit;
    bool is_large = e->content_length > (int64_t)e->body_limit;
    if (!is_large && route->begin && !route->begin(e)) return;
    if (wants_body && e->content_length > 0) {
        if (is_large) refuse_body(e);
        return; /* http_body goes on */
    }
    if (e->content_length > 0) e->close_after = true; /* a body where none belongs is not read */
    e->state = EXCHANGE_WORKING;
    route->handle(e);
}

void http_body(struct exchange *e) {
    if (e->content_length > (int64_t)e->body_limit || e->body.failed) {
        if (e->gone) e->gone(e); /* what was begun for it */
        e->gone = NULL;
        refuse(e, e->body.failed ? 503 : 413, e->body.failed ? "Out of memory." : "The body is too large.");
        return;
    }
    const struct route *route = find_route(e);
    e->state = EXCHANGE_WORKING;
    route->handle(e);
}
