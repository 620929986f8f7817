/* chat.c - see chat.h. First what all requests share, then turns, then streams, then history. */
#include "gateway/chat.h"

#include "engine/log.h"
#include "gateway/learning.h"
#include "gateway/turn.h"
#include "gateway/wire_out.h"

#include <stdlib.h>
#include <string.h>

/* --- a request under way --- */

/* Lives from the request until the store's answer. connection is NULL once the socket is gone. */
struct pending {
    struct gateway *gateway;
    struct connection *connection;
    struct pending *next, **link;
    int64_t user;
    enum request_type type;
    char id[PROTOCOL_MAX_ID + 1];
    struct gen_params gen;
    struct store_id generation; /* sub, and a repeated turn: which stream */
    uint64_t from;
};

static struct buffer *scratch(struct gateway *gateway) {
    buffer_clear(&gateway->scratch);
    return &gateway->scratch;
}

static void pending_free(struct pending *p) {
    if (p->connection) {
        *p->link = p->next;
        if (p->next) p->next->link = p->link;
        p->connection->n_pending--;
    }
    gen_params_free(&p->gen);
    free(p);
}

void chat_forget(struct connection *c) {
    for (struct pending *p = c->pending, *next; p; p = next) {
        next = p->next;
        p->connection = NULL;
    }
    c->pending = NULL;
    c->n_pending = 0;
}

static struct pending *pending_new(struct connection *c, struct request *request) {
    struct pending *p = c->n_pending < LIMIT_PENDING ? calloc(1, sizeof *p) : NULL;
    if (!p) return NULL;
    p->gateway = c->gateway;
    p->connection = c;
    p->user = c->user.id;
    p->type = request->type;
    memcpy(p->id, request->id, sizeof p->id);
    p->gen = request->gen;
    request->gen = (struct gen_params){0};
    p->generation = request->generation;
    p->from = request->from;
    p->next = c->pending;
    p->link = &c->pending;
    if (p->next) p->next->link = &p->next;
    c->pending = p;
    c->n_pending++;
    return p;
}

static void post(struct connection *c, struct request *request, struct store_op *op, void (*done)(struct store_op *op)) {
    struct pending *p = op ? pending_new(c, request) : NULL;
    if (p) {
        op->user = c->user.id;
        op->context = p;
        op->done = done;
        if (gateway_post(c->gateway, op)) return;
        pending_free(p);
    }
    store_op_free(op);
    connection_err(c, request->id, CODE_BUSY, "The server is overloaded; try again in a moment.", 1000);
}

static void answer_err(struct pending *p, int code, const char *message) {
    if (!p->connection) return;
    wire_err(scratch(p->gateway), p->id, p->type == REQUEST_SUB ? &p->generation : NULL, code, message, 0);
    connection_send(p->connection);
}

static void answer_ok(struct pending *p) {
    if (!p->connection) return;
    wire_ok(scratch(p->gateway), p->id);
    connection_send(p->connection);
}

static void answer_store_trouble(struct pending *p, const struct store_op *op) {
    int code = op->status == STORE_NOT_FOUND ? CODE_NOT_FOUND : op->status == STORE_CONFLICT ? CODE_CONFLICT : CODE_STORE_DOWN;
    const char *message = op->error[0]             ? op->error
                          : code == CODE_NOT_FOUND ? "There is no such thing."
                                                   : "It could not be saved.";
    answer_err(p, code, message);
}

static void tell_conversation(struct gateway *gateway, int64_t user, const struct store_op *op) {
    if (op->n_convs == 0) return;
    wire_conv(scratch(gateway), &op->convs[0]);
    connections_send(gateway, user, NULL);
}

/* --- turns: send, regen, cont --- */

static void tell_message(struct gateway *gateway, int64_t user, const struct store_message *message) {
    wire_msg(scratch(gateway), message);
    connections_send(gateway, user, NULL);
}

static void tell_turn(const struct pending *p, const struct store_op *op, const struct generation *g) {
    static char empty[] = "", no_meta[] = "{}";
    struct store_message message = {.conv = op->conv, .created_ms = op->time_ms, .meta = no_meta, .text = empty};
    if (p->type == REQUEST_SEND) {
        message.id = op->message;
        message.parent = op->parent;
        message.role = MESSAGE_USER;
        message.state = MESSAGE_DONE;
        message.text = op->text;
        message.text_len = op->text_len;
        tell_message(p->gateway, p->user, &message);
    }
    message.id = g->ids.message;
    message.parent = g->ids.parent;
    message.generation = g->ids.generation;
    message.role = MESSAGE_ASSISTANT;
    message.state = MESSAGE_RUNNING;
    message.text = g->stream->base_len ? g->stream->text : empty;
    message.text_len = message.base_len = g->stream->base_len;
    tell_message(p->gateway, p->user, &message);
    tell_conversation(p->gateway, p->user, op);
}

static void on_ended(struct generation *g, const struct store_op *saved) {
    if (saved) tell_conversation(g->gateway, g->user, saved);
}

static void free_only(struct store_op *op) { store_op_free(op); }

/* The messages are stored but no generation can run for them: the answer must not stay "running". */
static void mark_failed(const struct pending *p, const struct wire_stream *ids, const struct store_op *begun,
                        const struct wire_error *error) {
    struct store_op *op = store_op_new(STORE_FINISH);
    struct stream_result result = {.why = WHY_ERROR, .code = error->code};
    struct buffer meta = {0};
    if (!op) return; /* found running at the next start, and marked interrupted then */
    memcpy(result.message, error->message, sizeof error->message);
    wire_meta(&meta, &result);
    buffer_append(&meta, "", 1);
    op->user = p->user;
    op->message = ids->message;
    op->generation = ids->generation;
    op->state = MESSAGE_ERROR;
    op->done = free_only;
    bool is_cont = p->type == REQUEST_CONT;
    bool set = !meta.failed && store_op_set_meta(op, meta.data) &&
               store_op_set_text(op, is_cont && begun->text ? begun->text : "", is_cont ? begun->text_len : 0);
    if (!set || !gateway_post(p->gateway, op)) store_op_free(op);
    buffer_free(&meta);
}

static void answer_turn(struct pending *p, const struct wire_stream *ids) {
    if (!p->connection) return;
    const struct store_id *question = p->type == REQUEST_CONT ? NULL : &ids->parent;
    wire_ok_turn(scratch(p->gateway), p->id, &ids->conv, question, &ids->message, &ids->generation);
    connection_send(p->connection);
}

static void start_turn(struct pending *p, struct store_op *op) {
    bool is_cont = p->type == REQUEST_CONT;
    struct wire_stream ids = {op->generation, op->conv, op->answer, op->parent, op->time_ms};
    struct wire_error error = {0};
    if (p->type == REQUEST_SEND) ids.parent = op->message;
    struct generation *g =
        turn_new(p->gateway, p->user, &ids, true, is_cont ? op->text : NULL, is_cont ? op->text_len : 0, &p->gen, &error);
    if (!g) {
        mark_failed(p, &ids, op, &error);
        answer_err(p, error.code, error.message);
        return;
    }
    g->ended = on_ended;
    answer_turn(p, &ids);
    tell_turn(p, op, g);
    if (p->connection && !connection_subscribe(p->connection, g, 1)) {
        wire_err(scratch(p->gateway), NULL, &ids.generation, CODE_TOO_MANY, "Too many streams are open on this connection.", 0);
        connection_send(p->connection);
    }
    turn_begin(g, is_cont ? &ids.message : &ids.parent, is_cont);
}

static void fetch_ended(struct pending *p, const struct store_id *message, const struct store_id *generation);

/* This cid was used before: the same answer, and its stream again unless this socket reads it already. */
static void repeat_turn(struct pending *p, const struct store_op *op) {
    struct generation *g = turn_find(p->gateway, &op->generation, p->user);
    if (!g) {
        p->from = 0;
        fetch_ended(p, &op->answer, &op->generation);
        return;
    }
    answer_turn(p, &g->ids);
    if (p->connection && !connection_is_subscribed(p->connection, g)) connection_subscribe(p->connection, g, 1);
    pending_free(p);
}

static void on_begun(struct store_op *op) {
    struct pending *p = op->context;
    if (op->status == STORE_DUPLICATE) {
        repeat_turn(p, op);
    } else {
        if (op->status == STORE_OK)
            start_turn(p, op);
        else
            answer_store_trouble(p, op);
        pending_free(p);
    }
    store_op_free(op);
}

static void begin(struct connection *c, struct request *request) {
    static const enum store_kind kinds[] = {
        [REQUEST_SEND] = STORE_BEGIN_TURN, [REQUEST_REGEN] = STORE_BEGIN_REGEN, [REQUEST_CONT] = STORE_BEGIN_CONT};
    struct wire_error error = {0};
    if (!turn_may_begin(c->gateway, c->user.id, &error)) {
        connection_err(c, request->id, error.code, error.message, 1000);
        return;
    }
    struct store_op *op = store_op_new(kinds[request->type]);
    if (op) {
        memcpy(op->cid, request->cid, sizeof op->cid);
        op->conv = request->conv;
        op->parent = request->parent;
        op->as_root = request->as_root;
        op->message = request->message;
        store_id_new(&op->generation);
        if (request->type != REQUEST_CONT) store_id_new(&op->answer);
        if (request->type == REQUEST_SEND && !store_op_set_text(op, request->text, request->text_len)) {
            store_op_free(op);
            op = NULL;
        }
    }
    post(c, request, op, on_begun);
}

/* --- streams: cancel, sub, unsub --- */

/* A generation that is no longer in memory: the whole text as it is in the store, instead of events. */
static void on_ended_message(struct store_op *op) {
    struct pending *p = op->context;
    bool repeated = p->type != REQUEST_SUB;
    if (op->status != STORE_OK || op->n_messages == 0) {
        if (repeated && op->status == STORE_NOT_FOUND)
            answer_err(p, CODE_GONE, "The conversation was deleted.");
        else
            answer_store_trouble(p, op);
    } else if (p->connection) {
        const struct store_message *m = &op->messages[0];
        enum message_state state = m->state == MESSAGE_RUNNING ? MESSAGE_INTERRUPTED : m->state; /* nobody runs it */
        struct wire_stream ids = {p->generation, m->conv, m->id, m->parent, m->created_ms};
        if (repeated)
            answer_turn(p, &ids);
        else if (p->id[0])
            answer_ok(p);
        wire_snap(scratch(p->gateway), &p->generation, p->from > 0 ? p->from - 1 : 0, m->text, m->text_len,
                  message_state_name(state), NULL);
        connection_send(p->connection);
    }
    pending_free(p);
    store_op_free(op);
}

static void fetch_ended(struct pending *p, const struct store_id *message, const struct store_id *generation) {
    struct store_op *op = store_op_new(STORE_MESSAGE_GET);
    p->generation = *generation;
    if (op) {
        op->user = p->user;
        if (message)
            op->message = *message;
        else
            op->generation = *generation;
        op->context = p;
        op->done = on_ended_message;
        if (gateway_post(p->gateway, op)) return;
        store_op_free(op);
    }
    answer_err(p, CODE_BUSY, "The server is overloaded; try again in a moment.");
    pending_free(p);
}

/* request->id is empty for a resume in hello. */
static void subscribe(struct connection *c, struct request *request) {
    struct generation *g = turn_find(c->gateway, &request->generation, c->user.id);
    struct buffer *out = NULL;
    if (!g) {
        struct pending *p = pending_new(c, request);
        if (p)
            fetch_ended(p, NULL, &request->generation);
        else
            connection_err(c, request->id, CODE_BUSY, "Too many requests are waiting; try again in a moment.", 1000);
        return;
    }
    uint64_t end = stream_head(g->stream) + 1;
    if (request->from > end) {
        out = scratch(c->gateway);
        wire_err(out, request->id, &request->generation, CODE_BAD_FIELD, "from lies beyond the end of the stream.", 0);
    } else if (!connection_is_subscribed(c, g) && c->n_subscriptions >= LIMIT_SUBSCRIPTIONS) {
        out = scratch(c->gateway);
        wire_err(out, request->id, &request->generation, CODE_TOO_MANY, "Too many streams are open on this connection.", 0);
    } else if (request->id[0]) {
        out = scratch(c->gateway);
        wire_ok(out, request->id);
        connection_send(c);
        out = NULL;
    }
    if (out)
        connection_send(c);
    else if (!connection_subscribe(c, g, request->from))
        connection_close(c, 1011, "out of memory");
}

void chat_resume(struct connection *c, const struct request_resume *resume) {
    struct request request = {.type = REQUEST_SUB, .generation = resume->generation, .from = resume->from};
    subscribe(c, &request);
}

static void unsubscribe(struct connection *c, struct request *request) {
    connection_unsubscribe(c, &request->generation);
    wire_ok(scratch(c->gateway), request->id);
    connection_send(c);
}

/* A cancel of what just ended is no error: the person wanted it to be over. */
static void cancel(struct connection *c, struct request *request) {
    struct generation *g = turn_find(c->gateway, &request->generation, c->user.id);
    if (!g) {
        connection_err(c, request->id, CODE_NOT_FOUND, "No such answer is being written.", 0);
        return;
    }
    turn_cancel(g);
    wire_ok(scratch(c->gateway), request->id);
    connection_send(c);
}

/* --- history and settings: hist, convs, search, rename, delete, learn --- */

static void on_page(struct store_op *op) {
    struct pending *p = op->context;
    if (op->status != STORE_OK) {
        answer_store_trouble(p, op);
    } else if (p->connection) {
        struct buffer *out = scratch(p->gateway);
        if (p->type == REQUEST_HIST)
            wire_ok_hist(out, p->id, op);
        else if (p->type == REQUEST_SEARCH)
            wire_ok_search(out, p->id, op);
        else
            wire_ok_convs(out, p->id, op);
        connection_send(p->connection);
        if (out->capacity > 256 * 1024) buffer_free(out); /* a large page; the next message is small again */
    }
    pending_free(p);
    store_op_free(op);
}

static void page(struct connection *c, struct request *request) {
    bool is_hist = request->type == REQUEST_HIST;
    struct store_op *op = store_op_new(is_hist ? STORE_HIST : STORE_CONVS);
    if (op) {
        op->conv = is_hist ? request->conv : request->before;
        if (is_hist) op->message = request->before;
        op->limit = request->limit;
    }
    post(c, request, op, on_page);
}

static void search(struct connection *c, struct request *request) {
    struct store_op *op = store_op_new(STORE_SEARCH);
    if (op) {
        op->message = request->before;
        op->limit = request->limit;
        if (!store_op_set_text(op, request->text, request->text_len)) {
            store_op_free(op);
            op = NULL;
        }
    }
    post(c, request, op, on_page);
}

static void on_deleted(const struct pending *p, const struct store_op *op) {
    turns_cancel_conversation(p->gateway, &op->conv, p->user);
    learning_forget(p->gateway, p->user);
    wire_conv_deleted(scratch(p->gateway), &op->conv);
    connections_send(p->gateway, p->user, NULL);
}

static void on_learn(const struct pending *p, const struct store_op *op) {
    learning_set(p->gateway, p->user, op->learns);
    connections_set_learns(p->gateway, p->user, op->learns);
    wire_learn(scratch(p->gateway), op->learns);
    connections_send(p->gateway, p->user, NULL);
}

static void on_changed(struct store_op *op) {
    struct pending *p = op->context;
    if (op->status != STORE_OK) {
        answer_store_trouble(p, op);
    } else {
        answer_ok(p);
        if (p->type == REQUEST_RENAME)
            tell_conversation(p->gateway, p->user, op);
        else
            (p->type == REQUEST_LEARN ? on_learn : on_deleted)(p, op);
    }
    pending_free(p);
    store_op_free(op);
}

static void change(struct connection *c, struct request *request) {
    static const enum store_kind kinds[] = {
        [REQUEST_RENAME] = STORE_RENAME, [REQUEST_DELETE] = STORE_DELETE, [REQUEST_LEARN] = STORE_LEARN};
    struct store_op *op = store_op_new(kinds[request->type]);
    if (op) {
        op->conv = request->conv;
        op->learns = request->learns;
        if (request->title && !store_op_set_title(op, request->title)) {
            store_op_free(op);
            op = NULL;
        }
    }
    post(c, request, op, on_changed);
}

void chat_request(struct connection *c, struct request *request) {
    switch (request->type) {
    case REQUEST_SEND:
    case REQUEST_REGEN:
    case REQUEST_CONT:
        begin(c, request);
        break;
    case REQUEST_CANCEL:
        cancel(c, request);
        break;
    case REQUEST_SUB:
        subscribe(c, request);
        break;
    case REQUEST_UNSUB:
        unsubscribe(c, request);
        break;
    case REQUEST_HIST:
    case REQUEST_CONVS:
        page(c, request);
        break;
    case REQUEST_SEARCH:
        search(c, request);
        break;
    case REQUEST_RENAME:
    case REQUEST_DELETE:
    case REQUEST_LEARN:
        change(c, request);
        break;
    case REQUEST_HELLO:
    case REQUEST_PING:
    case REQUEST_PONG:
        break; /* connection.c */
    }
}
