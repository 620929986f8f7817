/* http.h - one HTTP request and its answer, and the routes.
 *
 *  (1) server.c makes an exchange when the head of a request is in, fills in the body, and sends what the exchange answers.
 *  (2) Headers are copied out of libwebsockets at once, into bounded fields; one that does not fit refuses the request
 *      (431).
 *  (3) An exchange may outlive its socket while work for it is under way (exchange_hold): then socket is NULL and answering
 *      does nothing.
 *  (4) Exactly one answer: http_answer*, or http_stream_begin and bytes pulled until the end.
 * Service thread only. */
#ifndef FORESAY_HTTP_H
#define FORESAY_HTTP_H

#include "gateway/outbox.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gateway;
struct lws;

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_DELETE, HTTP_OTHER };

enum exchange_state {
    EXCHANGE_READING,   /* the body is on its way */
    EXCHANGE_WORKING,   /* somebody is preparing the answer */
    EXCHANGE_ANSWERING, /* head and content are known */
    EXCHANGE_STREAMING, /* content is pulled as it comes */
    EXCHANGE_OVER,
};

struct exchange {
    struct gateway *gateway;
    struct lws *socket; /* NULL: the client is gone */
    enum exchange_state state;
    int holds;

    enum http_method method;
    char path[256], query[256], host[300], origin[300], cookie[2048], authorization[256], if_none_match[64], last_event_id[24];
    char accept_encoding[128]; /* empty when it is longer */
    struct buffer body;
    size_t body_limit;
    int64_t content_length;
    bool body_over;

    struct buffer head; /* status line and headers */
    bool head_sent, close_after;
    const char *content; /* in `owned` or static */
    size_t content_len, content_sent;
    struct buffer owned;

    /* A stream: pull appends what there is to out and returns true after the last byte. */
    bool (*pull)(struct exchange *exchange, struct buffer *out);
    /* Called once if the client goes away while the exchange is held. */
    void (*gone)(struct exchange *exchange);
    void *work; /* the handler's */
};

/* The head is in: decides the route, may answer at once. Afterwards the state is READING (a body is wanted), WORKING or
 * ANSWERING. */
void http_begin(struct exchange *exchange);
/* The body is in. */
void http_body(struct exchange *exchange);

/* The value of an argument of the query, empty when there is none. False: it does not fit. */
bool http_argument(const struct exchange *exchange, const char *name, char *out, size_t size);
/* The same for a whole number up to max; *out stays when there is none. False: it is none. */
bool http_argument_number(const struct exchange *exchange, const char *name, uint64_t max, uint64_t *out);
bool http_number(const char *text, uint64_t max, uint64_t *out);
/* Was it sent by a page of ours? False: it was refused. */
bool http_from_own_page(struct exchange *exchange);

/* Keeps the exchange alive for a completion to come, and lets go of it. */
void exchange_hold(struct exchange *exchange);
void exchange_release(struct exchange *exchange);

/* headers: further lines, each ended with \r\n, or NULL. content is copied (http_answer) or must be static. */
void http_answer(struct exchange *exchange, int status, const char *type, const char *headers, const char *content, size_t len);
void http_answer_static(struct exchange *exchange, int status, const char *type, const char *headers, const char *content,
                        size_t len);
void http_answer_error(struct exchange *exchange, int status, const char *sentence); /* {"error": sentence} */
void http_stream_begin(struct exchange *exchange, const char *type);
void http_download_begin(struct exchange *exchange, const char *type, const char *headers); /* a stream that is a file */
void http_stream_ready(struct exchange *exchange);                                          /* there is something to pull */

/* server.c implements: frees what no socket and no hold needs any more. */
void exchange_settle(struct exchange *exchange);

#endif
