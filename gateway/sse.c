/* sse.c - see sse.h. */
#include "gateway/sse.h"

#include "gateway/core.h"
#include "gateway/http_connection.h"
#include "gateway/server.h"
#include "gateway/wire_out.h"

#include <stdio.h>
#include <string.h>

enum { RECONNECT_MS = 1000 }; /* what an EventSource waits after a broken stream */

/* Bytes of ours, ahead of the messages: they wait in the exchange's `owned`. */
static void put_owned(struct exchange *e, struct buffer *out) {
    buffer_append(out, e->owned.data, e->owned.len);
    buffer_clear(&e->owned);
}

static bool next_message(struct http_connection *h) {
    if (h->told < h->last) {
        h->told++;
        return true;
    }
    if (!http_connection_has_room(h)) http_connection_forget(h, (h->n_kept + 1) / 2);
    if (!http_connection_take(h)) return false;
    h->told++;
    return true;
}

static bool pull(struct exchange *e, struct buffer *out) {
    struct http_connection *h = e->work;
    put_owned(e, out);
    while (out->len < OUTBOX_PIECE && next_message(h)) {
        size_t len;
        const char *message = http_connection_message(h, h->told, &len);
        put_text(out, "id: ");
        put_integer(out, (int64_t)h->told);
        put_text(out, "\ndata: ");
        buffer_append(out, message, len);
        put_text(out, "\n\n");
    }
    return false;
}

static bool pull_end(struct exchange *e, struct buffer *out) {
    put_owned(e, out);
    return true;
}

static void ready(struct http_connection *h) { http_stream_ready(h->reader); }

static void end(struct http_connection *h, int code, const char *reason) {
    struct exchange *e = http_connection_detach(h);
    if (code) {
        put_text(&e->owned, "event: close\ndata: {\"code\":");
        put_integer(&e->owned, code);
        put_text(&e->owned, ",\"reason\":");
        put_cstring(&e->owned, reason);
        put_text(&e->owned, "}\n\n");
    }
    e->pull = pull_end;
    http_stream_ready(e);
}

static const struct http_reader sse = {.ready = ready, .end = end};

void sse_get(struct exchange *e) {
    struct http_connection *h = http_connection_find(e);
    char begin[64];
    uint64_t after = 0;
    if (!h) return;
    if (!http_argument_number(e, "after", UINT64_MAX, &after) ||
        (e->last_event_id[0] && !http_number(e->last_event_id, UINT64_MAX, &after))) {
        http_answer_error(e, 400, "after, or Last-Event-ID, must be the id of the last event that was received, 0 at first.");
    } else if (http_connection_attach(h, e, &sse, after)) {
        int n = snprintf(begin, sizeof begin, "retry: %d\nid: %llu\n\n", RECONNECT_MS, (unsigned long long)after);
        buffer_append(&e->owned, begin, (size_t)n);
        e->pull = pull;
        http_stream_begin(e, "text/event-stream");
        server_watch(e->socket);
    }
}
