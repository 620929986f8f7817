/* longpoll.c - see longpoll.h. */
#include "gateway/longpoll.h"

#include "gateway/core.h"
#include "gateway/http_connection.h"
#include "gateway/server.h"
#include "gateway/wire_out.h"

static void put_messages(struct buffer *out, const struct http_connection *h) {
    for (int i = 0; i < h->n_kept; i++) {
        size_t len;
        const char *message = http_connection_message(h, h->last - (uint64_t)(h->n_kept - 1 - i), &len);
        if (i > 0) put_text(out, ",");
        buffer_append(out, message, len);
    }
}

/* code 0: the connection goes on. */
static void answer(struct http_connection *h, int code, const char *reason) {
    struct exchange *e = http_connection_detach(h);
    struct buffer body = {0};
    put_text(&body, "{\"next\":");
    put_integer(&body, (int64_t)h->last);
    put_text(&body, ",\"msgs\":[");
    put_messages(&body, h);
    put_text(&body, "]");
    if (code) {
        put_text(&body, ",\"close\":{\"code\":");
        put_integer(&body, code);
        put_text(&body, ",\"reason\":");
        put_cstring(&body, reason);
        put_text(&body, "}");
    }
    put_text(&body, "}");
    if (body.failed)
        http_answer_error(e, 503, "Out of memory.");
    else
        http_answer(e, 200, "application/json", NULL, body.data, body.len);
    buffer_free(&body);
}

static void answer_or_wait(struct http_connection *h) {
    const struct connection *c = h->connection;
    while (http_connection_has_room(h) && http_connection_take(h)) {
    }
    bool over = c->state == CONNECTION_CLOSING && h->n_kept == 0;
    if (over || h->n_kept > 0 || clock_ms() >= h->wait_until_ms) {
        answer(h, over ? c->close_code : 0, c->close_reason);
        return;
    }
    timer_set(&c->gateway->timers, &h->timer, h->wait_until_ms);
    server_watch(h->reader->socket);
}

static void on_timer(struct timer *timer) { answer_or_wait(container_of(timer, struct http_connection, timer)); }

static void ready(struct http_connection *h) { timer_set(&h->connection->gateway->timers, &h->timer, clock_ms()); }

static const struct http_reader longpoll = {.ready = ready, .end = answer};

void longpoll_get(struct exchange *e) {
    struct http_connection *h = http_connection_find(e);
    uint64_t after = 0, wait_s = 0;
    if (!h) return;
    if (!http_argument_number(e, "after", UINT64_MAX, &after)) {
        http_answer_error(e, 400, "after must be the number `next` of the last answer, 0 at first.");
    } else if (!http_argument_number(e, "wait", PROTOCOL_MAX_WAIT_S, &wait_s)) {
        http_answer_error(e, 400, "wait must be a whole number of seconds from 0 to 60.");
    } else if (http_connection_attach(h, e, &longpoll, after)) {
        timer_init(&h->timer, on_timer);
        h->wait_until_ms = clock_ms() + (int64_t)wait_s * 1000;
        answer_or_wait(h);
    }
}
