/* http_connection.c - see http_connection.h. First what is kept, then readers, then the transport, then POST and DELETE. */
#include "gateway/http_connection.h"

#include "gateway/core.h"
#include "gateway/wire_in.h"
#include "gateway/wire_out.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- what is kept --- */

bool http_connection_has_room(const struct http_connection *h) {
    return h->n_kept < HTTP_KEPT_MESSAGES && h->kept.len < HTTP_KEPT_BYTES;
}

void http_connection_forget(struct http_connection *h, int n) {
    size_t bytes = 0;
    if (n == 0) return;
    for (int i = 0; i < n; i++) bytes += h->kept_size[i];
    h->n_kept -= n;
    h->kept.len -= bytes;
    memmove(h->kept.data, h->kept.data + bytes, h->kept.len);
    memmove(h->kept_size, h->kept_size + n, (size_t)h->n_kept * sizeof *h->kept_size);
    if (h->kept.len == 0 && h->kept.capacity > 2 * HTTP_KEPT_BYTES) buffer_free(&h->kept); /* a page of history was in it */
}

bool http_connection_take(struct http_connection *h) {
    struct connection *c = h->connection;
    struct outbox_piece piece;
    size_t begin = h->kept.len;
    assert(h->n_kept < HTTP_KEPT_MESSAGES);
    do {
        if (!connection_next(c, &piece)) {
            /* Its end is told when everything else was. */
            if (c->state != CONNECTION_CLOSING || h->told == h->last) connection_idle(c);
            return false;
        }
        buffer_append(&h->kept, piece.data, piece.len);
        connection_sent(c, &piece);
    } while (!piece.last);
    if (h->kept.failed) {
        connection_close(c, 1011, "out of memory");
        return false;
    }
    h->kept_size[h->n_kept++] = h->kept.len - begin;
    h->last++;
    return true;
}

const char *http_connection_message(const struct http_connection *h, uint64_t number, size_t *len) {
    uint64_t first = h->last - (uint64_t)h->n_kept + 1;
    size_t begin = 0;
    assert(number >= first && number <= h->last);
    int at = (int)(number - first);
    for (int i = 0; i < at; i++) begin += h->kept_size[i];
    *len = h->kept_size[at];
    return h->kept.data + begin;
}

/* --- readers --- */

struct exchange *http_connection_detach(struct http_connection *h) {
    struct exchange *e = h->reader;
    timer_cancel(&h->connection->gateway->timers, &h->timer);
    h->reader = NULL;
    h->connection->absent = true;
    e->gone = NULL;
    return e;
}

static void on_reader_gone(struct exchange *e) { http_connection_detach(e->work); }

bool http_connection_attach(struct http_connection *h, struct exchange *e, const struct http_reader *kind, uint64_t after) {
    uint64_t forgotten = h->last - (uint64_t)h->n_kept;
    if (after > h->last) {
        http_answer_error(e, 400, "after names a message that was not sent yet.");
        return false;
    }
    if (after < forgotten) {
        http_answer_error(e, 410, "The messages behind after are not kept any more; begin anew with hello and resume.");
        return false;
    }
    if (h->reader) h->kind->end(h, 0, NULL);
    http_connection_forget(h, (int)(after - forgotten));
    h->told = after;
    h->reader = e;
    h->kind = kind;
    h->connection->absent = false;
    e->work = h;
    e->gone = on_reader_gone;
    return true;
}

/* Without a word to a session that is not good: its cookie is not known to the store before a connection asks. */
static bool session_of(struct exchange *e, unsigned char hash[AUTH_HASH_LEN]) {
    char token[AUTH_TOKEN_SIZE];
    if (auth_cookie_find(e->cookie, token) && auth_hash_session(token, hash)) return true;
    http_answer_error(e, 401, "You are not signed in.");
    return false;
}

struct http_connection *http_connection_find(struct exchange *e) {
    unsigned char hash[AUTH_HASH_LEN];
    char id[STORE_ID_LEN + 1];
    if (e->method == HTTP_HEAD) {
        http_answer_error(e, 405, "This address does not answer that method.");
        return NULL;
    }
    if (!session_of(e, hash)) return NULL;
    if (!http_argument(e, "connection", id, sizeof id) || strlen(id) != STORE_ID_LEN) {
        http_answer_error(e, 400, "connection must be the id that the POST with hello was answered with.");
        return NULL;
    }
    for (struct http_connection *h = e->gateway->http_connections.first; h; h = h->next) {
        bool is_it = strcmp(h->connection->sid, id) == 0 && auth_hash_equal(h->connection->token_hash, hash);
        if (is_it && !h->opening) return h;
    }
    http_answer_error(e, 410, "This connection is over; begin anew with hello.");
    return NULL;
}

/* --- the end --- */

static void end(struct http_connection *h, int code, const char *reason) {
    struct connection *c = h->connection;
    struct gateway *gateway = c->gateway;
    if (h->reader) h->kind->end(h, code, reason);
    assert(!h->opening && !h->reader);
    timer_cancel(&gateway->timers, &h->timer);
    *h->link = h->next;
    if (h->next) h->next->link = h->link;
    gateway->http_connections.n--;
    connection_closed(c);
    buffer_free(&h->kept);
    free(h);
}

void http_connections_end(struct gateway *gateway) {
    while (gateway->http_connections.first) end(gateway->http_connections.first, 1012, "restart");
}

/* --- the transport --- */

static struct exchange *take_opening(struct http_connection *h) {
    struct exchange *e = h->opening;
    h->opening = NULL;
    e->gone = NULL;
    return e;
}

/* Nobody knows its id: it need not stay for the close to be told. */
static void refuse_opening(struct http_connection *h) {
    struct connection *c = h->connection;
    char sentence[160];
    snprintf(sentence, sizeof sentence, "The connection was refused: %s.", c->close_reason);
    if (c->close_code == 4401)
        http_answer_error(take_opening(h), 401, "You are not signed in.");
    else
        http_answer_error(take_opening(h), 503, sentence);
    timer_set(&c->gateway->timers, &c->timer, clock_ms());
}

static void write_soon(struct connection *c) {
    struct http_connection *h = c->socket;
    if (h->opening && c->state == CONNECTION_CLOSING) refuse_opening(h);
    if (h->reader) h->kind->ready(h);
}

static void answer_opening(struct http_connection *h) {
    char body[64];
    int n = snprintf(body, sizeof body, "{\"connection\":\"%s\"}", h->connection->sid);
    http_answer(take_opening(h), 200, "application/json", NULL, body, (size_t)n);
}

/* It is known who speaks: the hello that waited is read. */
static void pause_reading(struct connection *c, bool paused) {
    struct http_connection *h = c->socket;
    if (paused || c->state != CONNECTION_GREETING) return;
    connection_receive(c, h->opening->body.data, h->opening->body.len, true);
    if (h->opening) answer_opening(h);
}

static void end_connection(struct connection *c) { end(c->socket, c->close_code, c->close_reason); }

static const struct transport http_transport = {
    .notices_absence = true,
    .stall_ms = HTTP_CONNECTION_ABSENT_MS,
    .write_soon = write_soon,
    .pause = pause_reading,
    .end = end_connection,
};

/* --- POST and DELETE --- */

static void on_opening_gone(struct exchange *e) {
    struct http_connection *h = e->work;
    take_opening(h);
    end(h, 1001, "gone");
}

static bool is_hello(struct exchange *e) {
    struct request request;
    struct wire_error error;
    if (!wire_parse(e->body.data ? e->body.data : "", e->body.len, &request, &error)) {
        http_answer_error(e, 400, error.message);
        return false;
    }
    bool is = request.type == REQUEST_HELLO;
    wire_request_free(&request);
    if (!is) http_answer_error(e, 400, "The first message must be hello; later ones name their connection in the address.");
    return is;
}

static void open_connection(struct exchange *e) {
    unsigned char hash[AUTH_HASH_LEN];
    if (!session_of(e, hash) || !is_hello(e)) return;
    struct gateway *gateway = e->gateway;
    struct http_connection *h = gateway->http_connections.n < LIMIT_HTTP_CONNECTIONS ? calloc(1, sizeof *h) : NULL;
    if (h) h->connection = connection_open(gateway, &http_transport, h, hash);
    if (!h || !h->connection) {
        free(h);
        http_answer_error(e, 503, "The server takes no more connections now; try again in a moment.");
        return;
    }
    h->connection->absent = true;
    h->next = gateway->http_connections.first;
    h->link = &gateway->http_connections.first;
    if (h->next) h->next->link = &h->next;
    gateway->http_connections.first = h;
    gateway->http_connections.n++;
    h->opening = e;
    e->work = h;
    e->gone = on_opening_gone;
}

static void receive_lines(struct connection *c, const char *text, size_t len) {
    while (len > 0) {
        const char *line_end = memchr(text, '\n', len);
        size_t n = line_end ? (size_t)(line_end - text) : len, step = line_end ? n + 1 : n;
        if (n > 0) connection_receive(c, text, n, true);
        text += step;
        len -= step;
    }
}

void http_connection_command(struct exchange *e) {
    char id[2];
    uint64_t n = 0;
    if (!http_from_own_page(e)) return;
    if (http_argument(e, "connection", id, sizeof id) && !id[0]) {
        open_connection(e);
        return;
    }
    struct http_connection *h = http_connection_find(e);
    if (!h) return;
    if (!http_argument_number(e, "n", UINT64_MAX, &n) || n == 0) {
        http_answer_error(e, 400, "n must be the number of this POST on its connection, from 1 on.");
    } else if (n > h->n_posts + 1) {
        http_answer_error(e, 409, "A POST with a smaller n has not come yet.");
    } else {
        if (n == h->n_posts + 1) {
            h->n_posts = n;
            receive_lines(h->connection, e->body.data, e->body.len);
        }
        http_answer(e, 204, NULL, NULL, "", 0);
    }
}

void http_connection_leave(struct exchange *e) {
    struct http_connection *h = http_from_own_page(e) ? http_connection_find(e) : NULL;
    if (!h) return;
    end(h, 1000, "bye");
    http_answer(e, 204, NULL, NULL, "", 0);
}
