/* connection.c - see connection.h. */
#include "gateway/connection.h"

#include "engine/log.h"
#include "gateway/chat.h"
#include "gateway/learning.h"
#include "gateway/turn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- writing --- */

static void want_write(struct connection *c) {
    if (c->waiting_since_ms == 0) c->waiting_since_ms = clock_ms();
    c->transport->write_soon(c);
}

void connection_close(struct connection *c, int code, const char *reason) {
    if (c->state == CONNECTION_CLOSING) return;
    bool is_paused = c->state == CONNECTION_LOOKUP;
    c->state = CONNECTION_CLOSING;
    if (is_paused) c->transport->pause(c, false); /* the answer to the close frame must be read */
    c->close_code = code;
    snprintf(c->close_reason, sizeof c->close_reason, "%s", reason);
    timer_set(&c->gateway->timers, &c->timer, clock_ms() + (c->absent && c->gateway->draining ? 0 : CONNECTION_FAREWELL_MS));
    want_write(c);
}

void connection_send(struct connection *c) {
    const struct buffer *message = &c->gateway->scratch;
    if (c->state == CONNECTION_CLOSING) return;
    if (message->failed)
        connection_close(c, 1011, "out of memory");
    else if (!outbox_put(&c->outbox, message->data, message->len))
        connection_close(c, 4408, "too slow");
    else
        want_write(c);
}

static struct buffer *scratch(struct connection *c) {
    buffer_clear(&c->gateway->scratch);
    return &c->gateway->scratch;
}

void connection_err(struct connection *c, const char *id, int code, const char *message, int retry_ms) {
    wire_err(scratch(c), id, NULL, code, message, retry_ms);
    connection_send(c);
}

/* --- subscriptions --- */

static void make_ready(struct subscription *s) {
    struct connection *c = s->connection;
    if (s->queued) return;
    timer_cancel(&c->gateway->timers, &s->timer);
    s->queued = true;
    s->next_ready = NULL;
    if (c->ready_last)
        c->ready_last->next_ready = s;
    else
        c->ready_first = s;
    c->ready_last = s;
    want_write(c);
}

static void on_coalesced(struct timer *timer) { make_ready(container_of(timer, struct subscription, timer)); }

static void on_stream_ready(struct stream_reader *reader) {
    struct subscription *s = container_of(reader, struct subscription, reader);
    if (s->queued) return;
    int64_t due = s->sent_ms + CONNECTION_COALESCE_MS;
    if (reader->stream->finished || clock_ms() >= due)
        make_ready(s);
    else if (!s->timer.set)
        timer_set(&s->connection->gateway->timers, &s->timer, due);
}

static void unqueue(struct subscription *s) {
    struct connection *c = s->connection;
    struct subscription **at = &c->ready_first, *before = NULL;
    if (!s->queued) return;
    for (; *at != s; at = &(*at)->next_ready) before = *at;
    *at = s->next_ready;
    if (c->ready_last == s) c->ready_last = before;
    s->queued = false;
}

static void drop_subscription(struct subscription *s) {
    struct connection *c = s->connection;
    unqueue(s);
    timer_cancel(&c->gateway->timers, &s->timer);
    stream_detach(&s->reader);
    *(s->prev ? &s->prev->next : &c->subscriptions) = s->next;
    if (s->next) s->next->prev = s->prev;
    c->n_subscriptions--;
    free(s);
}

static struct subscription *find_subscription(const struct connection *c, const struct store_id *generation) {
    struct subscription *s = c->subscriptions;
    while (s && strcmp(s->generation->ids.generation.text, generation->text) != 0) s = s->next;
    return s;
}

bool connection_is_subscribed(const struct connection *c, const struct generation *generation) {
    return find_subscription(c, &generation->ids.generation) != NULL;
}

void connection_unsubscribe(struct connection *c, const struct store_id *generation) {
    struct subscription *s = find_subscription(c, generation);
    if (s) drop_subscription(s);
}

bool connection_subscribe(struct connection *c, struct generation *generation, uint64_t from) {
    connection_unsubscribe(c, &generation->ids.generation);
    if (c->n_subscriptions >= LIMIT_SUBSCRIPTIONS) return false;
    struct subscription *s = calloc(1, sizeof *s);
    if (!s) return false;
    s->connection = c;
    s->generation = generation;
    s->reader.ready = on_stream_ready;
    timer_init(&s->timer, on_coalesced);
    s->next = c->subscriptions;
    if (s->next) s->next->prev = s;
    c->subscriptions = s;
    c->n_subscriptions++;
    stream_attach(generation->stream, &s->reader, from);
    if (from <= stream_head(generation->stream)) make_ready(s);
    return true;
}

static const char *live_state(const struct generation *g) {
    static const char *const states[] = {"done", "length", "length", "stopped", "error", "interrupted"};
    return g->phase == TURN_ENDED ? states[g->result.why] : "running";
}

/* One frame of one subscription into gateway->scratch; false when it had nothing. */
static bool read_subscription(struct subscription *s) {
    struct generation *g = s->generation;
    struct buffer *out = scratch(s->connection);
    struct stream_slice slice;
    switch (stream_read(&s->reader, &slice)) {
    case STREAM_NOTHING:
        return false;
    case STREAM_GAP: {
        uint64_t upto = stream_skip(&s->reader);
        const char *why = g->phase == TURN_ENDED ? stream_why_name(g->result.why) : NULL;
        wire_snap(out, &g->ids.generation, upto, g->stream->text, g->stream->text_len, live_state(g), why);
        break;
    }
    case STREAM_SLICE_READ:
        if (slice.kind == STREAM_TEXT) s->sent_ms = clock_ms();
        wire_slice(out, &g->ids, g->stream, &slice);
        if (slice.kind != STREAM_DONE) break;
        drop_subscription(s);
        return true;
    }
    if (s->reader.next <= stream_head(g->stream)) make_ready(s); /* to the end of the queue: others take their turn */
    return true;
}

bool connection_next(struct connection *c, struct outbox_piece *piece) {
    c->piece_sent_from_outbox = outbox_peek(&c->outbox, piece);
    if (c->piece_sent_from_outbox) return true;
    if (c->state == CONNECTION_CLOSING) return false;
    while (c->ready_first) {
        struct subscription *s = c->ready_first;
        unqueue(s);
        if (!read_subscription(s)) continue;
        struct buffer *frame = &c->gateway->scratch;
        if (frame->failed) {
            connection_close(c, 1011, "out of memory");
            return false;
        }
        *piece = (struct outbox_piece){.data = frame->data, .len = frame->len, .first = true, .last = true};
        return true;
    }
    return false;
}

bool connection_has_more(const struct connection *c) {
    return c->outbox.first || (c->ready_first && c->state != CONNECTION_CLOSING) || c->close_code;
}

void connection_sent(struct connection *c, const struct outbox_piece *piece) {
    if (c->piece_sent_from_outbox) outbox_advance(&c->outbox, piece->len);
    c->waiting_since_ms = 0;
    if (connection_has_more(c)) want_write(c);
}

void connection_idle(struct connection *c) {
    c->waiting_since_ms = 0;
    if (c->state != CONNECTION_CLOSING || c->farewell_due) return;
    c->farewell_due = true; /* the last byte is out; the close frame goes from the timer, outside of the socket's callback */
    timer_set(&c->gateway->timers, &c->timer, clock_ms());
}

/* --- who it is --- */

static void link_user(struct connection *c) {
    struct connection **bucket = &c->gateway->connections.by_user[(uint64_t)c->user.id % GATEWAY_BUCKETS];
    c->next = *bucket;
    if (c->next) c->next->prev = c;
    *bucket = c;
    c->counted = true;
}

static void unlink_user(struct connection *c) {
    struct connection **bucket = &c->gateway->connections.by_user[(uint64_t)c->user.id % GATEWAY_BUCKETS];
    *(c->prev ? &c->prev->next : bucket) = c->next;
    if (c->next) c->next->prev = c->prev;
    user_counts_give(&c->gateway->counts, c->user.id, USER_CONNECTIONS);
}

static void admit(struct connection *c, const struct store_op *op) {
    int64_t user = op->found_user.id;
    if (op->status != STORE_OK) {
        connection_close(c, 1013, "the sessions could not be read");
    } else if (user == 0) {
        connection_close(c, 4401, "sign in again");
    } else if (!user_counts_take(&c->gateway->counts, user, USER_CONNECTIONS, LIMIT_USER_CONNECTIONS)) {
        connection_close(c, 1013, "too many connections of this user");
    } else {
        c->user = op->found_user;
        link_user(c);
        c->state = CONNECTION_GREETING;
        c->transport->pause(c, false);
    }
}

static void on_session(struct store_op *op) {
    struct connection *c = op->context; /* NULL: it closed meanwhile */
    if (c) {
        c->lookup = NULL;
        bool ended = op->status == STORE_OK && op->found_user.id != c->user.id;
        if (c->state == CONNECTION_LOOKUP)
            admit(c, op);
        else if (c->state == CONNECTION_OPEN && ended)
            connection_close(c, 4401, "sign in again");
    }
    store_op_free(op);
}

/* At the beginning, and with each sign of life: a session expires, and `foresay user key` and `remove` end it. */
static bool look_up_session(struct connection *c) {
    struct store_op *op = store_op_new(STORE_SESSION_GET);
    if (!op) return false;
    memcpy(op->token_hash, c->token_hash, sizeof op->token_hash);
    op->context = c;
    op->done = on_session;
    c->lookup = op;
    if (gateway_post(c->gateway, op)) return true;
    c->lookup = NULL;
    store_op_free(op);
    return false;
}

/* --- time --- */

static void beat(struct connection *c, int64_t now) {
    if (c->transport->notices_absence) {
        if (!c->lookup) look_up_session(c);
    } else if (c->ping_n != c->pong_n) {
        connection_close(c, 4413, "no pong");
        return;
    }
    wire_ping(scratch(c), "ping", ++c->ping_n);
    connection_send(c);
    c->ping_due_ms = now + PROTOCOL_HEARTBEAT_MS;
}

static void on_timer(struct timer *timer) {
    struct connection *c = container_of(timer, struct connection, timer);
    int64_t now = clock_ms();
    bool stalled = c->waiting_since_ms > 0 && now - c->waiting_since_ms >= c->transport->stall_ms;
    if (c->state == CONNECTION_CLOSING) {
        c->transport->end(c); /* c may be gone */
        return;
    }
    if (stalled || c->state != CONNECTION_OPEN) {
        if (stalled) log_info("gateway", "connection %.8s takes nothing and is closed", c->sid);
        connection_close(c, stalled ? 4408 : 4413, stalled ? "too slow" : "no hello");
        return;
    }
    if (now >= c->ping_due_ms) beat(c, now);
    if (c->state == CONNECTION_CLOSING) return;
    int64_t due = c->ping_due_ms, stall = c->waiting_since_ms + c->transport->stall_ms;
    timer_set(&c->gateway->timers, timer, c->waiting_since_ms > 0 && stall < due ? stall : due);
}

/* --- coming and going --- */

struct connection *connection_open(struct gateway *gateway, const struct transport *transport, void *socket,
                                   const unsigned char token_hash[AUTH_HASH_LEN]) {
    struct store_id sid;
    if (gateway->draining || gateway->connections.n >= LIMIT_CONNECTIONS) return NULL;
    struct connection *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->gateway = gateway;
    c->transport = transport;
    c->socket = socket;
    memcpy(c->token_hash, token_hash, AUTH_HASH_LEN);
    store_id_new(&sid);
    memcpy(c->sid, sid.text, sizeof c->sid);
    timer_init(&c->timer, on_timer);
    if (!look_up_session(c)) {
        free(c);
        return NULL;
    }
    gateway->connections.n++;
    transport->pause(c, true); /* nothing is read before it is known who speaks */
    timer_set(&gateway->timers, &c->timer, clock_ms() + CONNECTION_HELLO_MS);
    return c;
}

void connection_closed(struct connection *c) {
    if (c->lookup) c->lookup->context = NULL;
    chat_forget(c);
    while (c->subscriptions) drop_subscription(c->subscriptions);
    timer_cancel(&c->gateway->timers, &c->timer);
    if (c->counted) unlink_user(c);
    c->gateway->connections.n--;
    outbox_clear(&c->outbox);
    buffer_free(&c->incoming);
    free(c);
}

/* --- reading --- */

static void greet(struct connection *c, const struct request *request) {
    const struct gateway *gateway = c->gateway;
    const struct wire_welcome welcome = {
        .has_traces = turns_show_guesses(gateway),
        .sid = c->sid,
        .user_name = c->user.name,
        .admin = c->user.admin,
        .learns = c->user.learns,
        .model_name = gateway->engine ? gateway->model.model_name : "",
        .quant = gateway->engine ? gateway->model.quantization : "",
        .ctx_len = gateway->model.ctx_len,
        .version = FORESAY_VERSION,
        .node = gateway->node,
    };
    c->state = CONNECTION_OPEN;
    c->ping_due_ms = clock_ms() + PROTOCOL_HEARTBEAT_MS;
    timer_set(&c->gateway->timers, &c->timer, c->ping_due_ms);
    learning_greet(c->gateway, c->user.id, c->user.learns);
    wire_welcome(scratch(c), &welcome);
    connection_send(c);
    for (int i = 0; i < request->n_resume; i++) chat_resume(c, &request->resume[i]);
}

static void dispatch(struct connection *c, struct request *request) {
    if (c->state == CONNECTION_GREETING) {
        if (request->type == REQUEST_HELLO)
            greet(c, request);
        else
            connection_close(c, 4500, "the first message must be hello");
        return;
    }
    switch (request->type) {
    case REQUEST_HELLO:
        connection_err(c, NULL, CODE_CONFLICT, "hello was said already.", 0);
        break;
    case REQUEST_PING:
        wire_ping(scratch(c), "pong", request->n);
        connection_send(c);
        if (!c->lookup) look_up_session(c);
        break;
    case REQUEST_PONG:
        if (request->n == c->ping_n && c->pong_n != c->ping_n && !c->lookup) look_up_session(c);
        c->pong_n = request->n;
        break;
    default:
        chat_request(c, request);
    }
}

/* False: this message is one too many and gets an err; a client that goes on all the same is closed. */
static bool within_rate(struct connection *c) {
    int retry_ms = rate_limit_take(&c->rate, LIMIT_MESSAGES_PER_S, LIMIT_MESSAGES_BURST, clock_ms());
    if (retry_ms == 0) {
        c->refused_in_a_row = 0;
        return true;
    }
    if (++c->refused_in_a_row > LIMIT_FLOOD) connection_close(c, 4429, "too many messages");
    return false;
}

static void receive_message(struct connection *c) {
    struct request request;
    struct wire_error error;
    bool allowed = within_rate(c);
    if (c->state == CONNECTION_CLOSING) return;
    if (!wire_parse(c->incoming.data ? c->incoming.data : "", c->incoming.len, &request, &error)) {
        connection_err(c, error.id, error.code, error.message, 0);
        return;
    }
    if (allowed || request.type == REQUEST_PONG) {
        dispatch(c, &request);
    } else {
        int retry_ms = 1000 / LIMIT_MESSAGES_PER_S;
        connection_err(c, request.id, CODE_RATE_LIMITED, "Too many messages; slow down.", retry_ms);
    }
    wire_request_free(&request);
}

void connection_receive(struct connection *c, const char *bytes, size_t n, bool final) {
    if (c->state == CONNECTION_CLOSING) return;
    if (c->state == CONNECTION_LOOKUP) { /* sent together with the upgrade, before it is known who speaks */
        connection_close(c, 4500, "wait for the connection");
        return;
    }
    if (c->incoming.len + n > PROTOCOL_MAX_FRAME) {
        connection_err(c, NULL, CODE_TOO_BIG, "A message may have at most 256 KiB.", 0);
        connection_close(c, 1009, "message too big");
        return;
    }
    buffer_append(&c->incoming, bytes, n);
    if (!final) return;
    if (c->incoming.failed)
        connection_close(c, 1011, "out of memory");
    else
        receive_message(c);
    if (c->incoming.capacity > 16 * 1024) buffer_free(&c->incoming); /* an idle connection stays small */
    buffer_clear(&c->incoming);
}

/* --- all sockets of a user --- */

void connections_send(struct gateway *gateway, int64_t user, const struct connection *except) {
    for (struct connection *c = gateway->connections.by_user[(uint64_t)user % GATEWAY_BUCKETS]; c; c = c->next) {
        if (c->user.id == user && c != except && c->state == CONNECTION_OPEN) connection_send(c);
    }
}

void connections_set_learns(struct gateway *gateway, int64_t user, bool learns) {
    for (struct connection *c = gateway->connections.by_user[(uint64_t)user % GATEWAY_BUCKETS]; c; c = c->next) {
        if (c->user.id == user) c->user.learns = learns;
    }
}

void connections_send_all(struct gateway *gateway) {
    for (int i = 0; i < GATEWAY_BUCKETS; i++) {
        for (struct connection *c = gateway->connections.by_user[i]; c; c = c->next) {
            if (c->state == CONNECTION_OPEN) connection_send(c);
        }
    }
}

bool connections_quiet(const struct gateway *gateway) {
    for (int i = 0; i < GATEWAY_BUCKETS; i++) {
        for (const struct connection *c = gateway->connections.by_user[i]; c; c = c->next) {
            if (connection_has_more(c) && !c->absent) return false;
        }
    }
    return true;
}

void connections_close_all(struct gateway *gateway, int code, const char *reason) {
    for (int i = 0; i < GATEWAY_BUCKETS; i++) {
        for (struct connection *c = gateway->connections.by_user[i]; c; c = c->next) connection_close(c, code, reason);
    }
}

void connections_close_session(struct gateway *gateway, const unsigned char token_hash[AUTH_HASH_LEN]) {
    for (int i = 0; i < GATEWAY_BUCKETS; i++) {
        for (struct connection *c = gateway->connections.by_user[i]; c; c = c->next) {
            if (auth_hash_equal(c->token_hash, token_hash)) connection_close(c, 4401, "signed out");
        }
    }
}
