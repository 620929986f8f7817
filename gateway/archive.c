/* archive.c - see archive.h. Who is asking, then files going out, then files coming in. */
#include "gateway/archive.h"

#include "gateway/archive_in.h"
#include "gateway/connection.h"
#include "gateway/core.h"
#include "gateway/server.h"
#include "gateway/wire_out.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- who is asking --- */

/* False: the store is overloaded, or there is no memory. Takes op, which may be NULL. */
static bool try_post(struct exchange *e, struct store_op *op, void (*done)(struct store_op *op)) {
    if (op) {
        op->context = e;
        op->done = done;
        exchange_hold(e);
        if (gateway_post(e->gateway, op)) return true;
        e->holds--; /* not released: the caller goes on with it */
    }
    store_op_free(op);
    return false;
}

/* False: answered. */
static bool post(struct exchange *e, struct store_op *op, void (*done)(struct store_op *op)) {
    bool is_posted = try_post(e, op, done);
    if (!is_posted) http_answer_error(e, 503, "The server is overloaded; try again in a moment.");
    return is_posted;
}

/* An Authorization header counts more than a cookie: whoever sends one means it. */
static bool find_user(struct exchange *e, void (*done)(struct store_op *op)) {
    char token[AUTH_TOKEN_SIZE];
    unsigned char hash[AUTH_HASH_LEN];
    const char *key = auth_bearer(e->authorization);
    bool known = key ? auth_hash_key(key, hash) : auth_cookie_find(e->cookie, token) && auth_hash_session(token, hash);
    if (!known) {
        http_answer_error(e, 401,
                          key ? "This is not an API key of this server; they begin with fsk_." : "You are not signed in.");
        return false;
    }
    struct store_op *op = store_op_new(key ? STORE_KEY_GET : STORE_SESSION_GET);
    if (op) memcpy(op->token_hash, hash, sizeof op->token_hash);
    return post(e, op, done);
}

/* The user of a finished find_user; 0: answered. */
static int64_t user_of(struct exchange *e, const struct store_op *op) {
    if (op->status != STORE_OK)
        http_answer_error(e, 503, op->error);
    else if (op->found_user.id == 0)
        http_answer_error(e, 401, "You are not signed in.");
    return op->status == STORE_OK ? op->found_user.id : 0;
}

static void answer_trouble(struct exchange *e, const struct store_op *op) {
    http_answer_error(e, op->status == STORE_NOT_FOUND ? 404 : op->status == STORE_CONFLICT ? 400 : 503, op->error);
}

/* --- out --- */

/* A file being sent. Lives until its last byte is with the socket, or the socket is gone and nothing is under way. */
struct download {
    int64_t user;
    struct store_id chat, leaf; /* empty: all; the newest */
    bool markdown, begun, waiting, over;
    int64_t after_chat, after_message; /* of the store: where the next part begins */
    int n_chats;
    struct buffer ready;
    size_t sent; /* of ready */
};

static void download_free(struct exchange *e) {
    struct download *d = e->work;
    e->work = NULL;
    buffer_free(&d->ready);
    free(d);
}

static void on_gone(struct exchange *e) {
    struct download *d = e->work;
    if (d && !d->waiting) download_free(e);
}

/* The id that an argument names; false when it is none. Absent: empty. */
static bool take_id(const struct exchange *e, const char *name, struct store_id *out) {
    char text[STORE_ID_LEN + 1];
    return http_argument(e, name, text, sizeof text) && (!text[0] || store_id_parse(out, text));
}

/* filename* for browsers of today, in which every character of a title but slashes is right. */
static void put_file_name(struct buffer *out, const char *title, const char *ending) {
    put_text(out, "content-disposition: attachment; filename=\"chat.");
    put_text(out, ending);
    put_text(out, "\"; filename*=UTF-8''");
    for (const unsigned char *p = (const unsigned char *)title; *p; p++) {
        char code[4] = {(char)*p, 0};
        if (*p < 0x20 || *p == '/' || *p == '\\' || (*p == '.' && p == (const unsigned char *)title))
            code[0] = '_';
        else if (!isalnum(*p) && *p != '-' && *p != '.')
            snprintf(code, sizeof code, "%%%02X", *p);
        put_text(out, code);
    }
    put_text(out, ".");
    put_text(out, ending);
    put_text(out, "\r\n");
}

static bool pull(struct exchange *e, struct buffer *out);

static void begin_json(struct exchange *e, const char *title) {
    struct download *d = e->work;
    struct buffer headers = {0};
    put_file_name(&headers, title, "json");
    buffer_append(&headers, "", 1);
    d->begun = true;
    e->pull = pull;
    if (headers.failed)
        server_kill(e->socket);
    else
        http_download_begin(e, "application/json", headers.data);
    buffer_free(&headers);
}

static void put_part(struct download *d, struct store_op *op) {
    struct buffer *out = &d->ready;
    bool goes_on = d->after_message > 0;
    buffer_clear(out);
    d->sent = 0;
    if (!d->begun) {
        put_text(out, "{\"format\":\"" ARCHIVE_FORMAT "\",\"version\":1,\"ts\":");
        put_integer(out, clock_wall_ms());
        put_text(out, ",\"chats\":[");
    }
    if (op->n_convs > 0 && !goes_on) {
        put_text(out, d->n_chats++ > 0 ? ",\n" : "\n");
        wire_archive_chat(out, &op->convs[0]);
    }
    for (int i = 0; i < op->n_messages; i++) {
        put_text(out, i > 0 || goes_on ? ",\n" : "\n");
        wire_archive_message(out, &op->messages[i]);
    }
    if ((op->n_convs > 0 || goes_on) && !op->more) put_text(out, "]}");
    d->over = d->chat.text[0] ? !op->more : !goes_on && op->n_convs == 0;
    if (d->over) put_text(out, "]}\n");
    d->after_chat = op->after_chat;
    d->after_message = op->after_message;
}

static void on_part(struct store_op *op) {
    struct exchange *e = op->context;
    struct download *d = e->work;
    d->waiting = false;
    if (!e->socket) {
        download_free(e);
    } else if (op->status != STORE_OK) {
        if (d->begun) {
            server_kill(e->socket); /* the file ends where JSON does not */
        } else {
            answer_trouble(e, op);
            download_free(e);
        }
    } else {
        bool begun = d->begun;
        put_part(d, op);
        if (d->ready.failed)
            server_kill(e->socket);
        else if (begun)
            http_stream_ready(e);
        else
            begin_json(e, d->chat.text[0] && op->n_convs > 0 ? op->convs[0].title : "Foresay chats");
    }
    store_op_free(op);
    exchange_release(e);
}

static bool ask_part(struct exchange *e) {
    struct download *d = e->work;
    struct store_op *op = store_op_new(STORE_EXPORT);
    if (op) {
        op->user = d->user;
        op->conv = d->chat;
        op->after_chat = d->after_chat;
        op->after_message = d->after_message;
        op->limit = STORE_MAX_PAGE;
    }
    return d->waiting = try_post(e, op, on_part);
}

static bool pull(struct exchange *e, struct buffer *out) {
    struct download *d = e->work;
    size_t left = d->ready.len - d->sent, n = left < OUTBOX_PIECE ? left : OUTBOX_PIECE;
    if (d->waiting) return false;
    buffer_append(out, d->ready.data + d->sent, n);
    d->sent += n;
    if (n < left) return false;
    if (d->over) {
        download_free(e);
        return true;
    }
    if (!ask_part(e)) server_kill(e->socket);
    return false;
}

static void on_path(struct store_op *op) {
    struct exchange *e = op->context;
    struct download *d = e->work;
    struct buffer text = {0}, headers = {0};
    if (op->status == STORE_OK && strcmp(op->conv.text, d->chat.text) != 0) {
        http_answer_error(e, 404, "The leaf is not in this chat.");
    } else if (op->status != STORE_OK) {
        answer_trouble(e, op);
    } else {
        put_file_name(&headers, op->title, "md");
        buffer_append(&headers, "", 1);
        put_text(&text, "# ");
        put_text(&text, op->title);
        put_text(&text, op->more ? "\n\n*The oldest messages are left out.*\n" : "\n");
        for (int i = 0; i < op->n_messages; i++) {
            put_text(&text, op->messages[i].role == MESSAGE_USER ? "\n## You\n\n" : "\n## Answer\n\n");
            buffer_append(&text, op->messages[i].text, op->messages[i].text_len);
            put_text(&text, "\n");
        }
        if (text.failed || headers.failed)
            http_answer_error(e, 503, "Out of memory.");
        else
            http_answer(e, 200, "text/markdown; charset=utf-8", headers.data, text.data, text.len);
    }
    buffer_free(&text);
    buffer_free(&headers);
    download_free(e);
    store_op_free(op);
    exchange_release(e);
}

/* The chat's title and newest message; then the way from its leaf to the root. */
static void on_newest(struct store_op *op) {
    struct exchange *e = op->context;
    struct download *d = e->work;
    if (op->status != STORE_OK) {
        answer_trouble(e, op);
        download_free(e);
    } else {
        struct store_op *path = store_op_new(STORE_PATH);
        if (path) {
            path->user = d->user;
            path->message = d->leaf;
            if (!d->leaf.text[0] && op->n_messages > 0) path->message = op->messages[0].id;
            if (!store_op_set_title(path, op->title)) store_op_free(path), path = NULL;
        }
        if (!post(e, path, on_path)) download_free(e);
    }
    store_op_free(op);
    exchange_release(e);
}

static void begin_download(struct exchange *e) {
    struct download *d = e->work;
    d->waiting = true; /* gone leaves it alone until the store has answered */
    if (!d->markdown) {
        if (ask_part(e)) return;
        http_answer_error(e, 503, "The server is overloaded; try again in a moment.");
    } else {
        struct store_op *op = store_op_new(STORE_HIST);
        if (op) {
            op->user = d->user;
            op->conv = d->chat;
            op->limit = 1;
        }
        if (post(e, op, on_newest)) return;
    }
    download_free(e);
}

static void on_downloader(struct store_op *op) {
    struct exchange *e = op->context;
    struct download *d = e->work;
    d->user = user_of(e, op);
    d->waiting = false;
    if (d->user == 0 || !e->socket)
        download_free(e);
    else
        begin_download(e);
    store_op_free(op);
    exchange_release(e);
}

void archive_export(struct exchange *e) {
    struct download *d = calloc(1, sizeof *d);
    char form[16];
    if (!d) {
        http_answer_error(e, 503, "Out of memory.");
        return;
    }
    e->work = d;
    e->gone = on_gone;
    d->markdown = http_argument(e, "as", form, sizeof form) && strcmp(form, "markdown") == 0;
    d->waiting = true;
    if (!take_id(e, "chat", &d->chat) || !take_id(e, "leaf", &d->leaf) || (d->markdown && !d->chat.text[0])) {
        http_answer_error(e, 400, "chat and leaf are ids of 32 hex digits; Markdown needs a chat.");
    } else if (e->method == HTTP_HEAD) {
        http_answer(e, 200, d->markdown ? "text/markdown; charset=utf-8" : "application/json", NULL, "", 0);
    } else if (find_user(e, on_downloader)) {
        return;
    }
    download_free(e);
}

/* --- in --- */

/* A file being taken in. Lives until the store is through with it, or the socket is gone before. */
struct upload {
    int64_t user;
    bool waiting, whole; /* for the store; the body is in */
    struct archive_reader reader;
    struct store_import import;
};

static void upload_free(struct exchange *e) {
    struct upload *u = e->work;
    e->work = NULL;
    e->gateway->importing = false;
    archive_reader_end(&u->reader);
    buffer_free(&e->body);
    free(u);
}

static void on_uploader_gone(struct exchange *e) {
    struct upload *u = e->work;
    if (u && !u->waiting) upload_free(e);
}

static void rewind_chats(void *arg) { archive_reader_rewind(arg); }

static void on_imported(struct store_op *op) {
    struct exchange *e = op->context;
    struct upload *u = e->work;
    struct buffer body = {0};
    if (op->status == STORE_CONFLICT) {
        http_answer_error(e, 400, u->reader.error);
    } else if (op->status != STORE_OK) {
        answer_trouble(e, op);
    } else {
        put_text(&body, "{\"chats\":");
        put_integer(&body, u->reader.n_chats);
        put_text(&body, ",\"messages\":");
        put_integer(&body, u->reader.n_messages);
        put_text(&body, "}\n");
        http_answer(e, 200, "application/json", NULL, body.data ? body.data : "", body.len);
        buffer_free(&body);
        buffer_clear(&e->gateway->scratch);
        wire_imported(&e->gateway->scratch);
        connections_send(e->gateway, u->user, NULL);
    }
    upload_free(e);
    store_op_free(op);
    exchange_release(e);
}

static void begin_import(struct exchange *e) {
    struct upload *u = e->work;
    struct store_op *op = store_op_new(STORE_IMPORT);
    archive_reader_begin(&u->reader, e->body.data ? e->body.data : "", e->body.len);
    u->import = (struct store_import){.arg = &u->reader, .rewind = rewind_chats, .next = archive_next};
    if (op) {
        op->user = u->user;
        op->import = &u->import;
    }
    u->waiting = true;
    if (!post(e, op, on_imported)) upload_free(e);
}

static void on_uploader(struct store_op *op) {
    struct exchange *e = op->context;
    struct upload *u = e->work;
    u->waiting = false;
    if (e->state < EXCHANGE_WORKING) e->close_after = true; /* a refusal does not wait for the body */
    u->user = user_of(e, op);
    if (u->user == 0 || !e->socket) {
        upload_free(e);
    } else {
        e->close_after = false;
        if (u->whole) begin_import(e);
    }
    store_op_free(op);
    exchange_release(e);
}

bool archive_import_begin(struct exchange *e) {
    const struct gateway *gateway = e->gateway;
    struct upload *u = gateway->importing ? NULL : calloc(1, sizeof *u);
    bool ours = auth_bearer(e->authorization) || auth_origin_allowed(e->origin, e->host, gateway->config.public_origin);
    e->close_after = e->content_length > 0; /* for refusals: the body is not waited for */
    if (!ours) {
        http_answer_error(e, 403, "This request comes from another site.");
    } else if (!u) {
        http_answer_error(e, 503, "Another import is under way; try again in a moment.");
    } else {
        e->work = u;
        e->gone = on_uploader_gone;
        e->gateway->importing = true;
        u->waiting = true;
        if (find_user(e, on_uploader)) {
            e->close_after = false;
            return true;
        }
        upload_free(e);
        return false;
    }
    free(u);
    return false;
}

void archive_import(struct exchange *e) {
    struct upload *u = e->work;
    u->whole = true;
    if (!u->waiting) begin_import(e);
}
