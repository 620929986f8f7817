/* outbox.h - the bytes on their way to one socket: a growable buffer to build a message in, and a bounded queue of messages.
 *
 *  (1) Every piece handed to the socket has OUTBOX_HEADROOM writable bytes before it: libwebsockets puts the frame header
 *      there.
 *  (2) A queue holds at most OUTBOX_MAX_BYTES; one that would grow beyond takes nothing more and says so, and the connection
 *      closes. A message alone in the queue is always taken: answers have limits of their own (a page of history, a snapshot).
 *  (3) Token events never wait here. They are read from the generation's log when the socket can take them (stream.h), so a
 *      slow reader costs nothing but its place in the log. The queue is for answers and notices.
 * Service thread only. */
#ifndef FORESAY_OUTBOX_H
#define FORESAY_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>

enum {
    OUTBOX_HEADROOM = 32,               /* at least LWS_PRE; server.c asserts it */
    OUTBOX_MAX_BYTES = 4 * 1024 * 1024, /* a few history pages; a client that leaves more unread is not reading */
    OUTBOX_PIECE = 16 * 1024,           /* what is given to the socket at once: longer messages go as fragments */
};

/* Growable bytes with headroom. Appending to a buffer that could not grow does nothing; `failed` tells. Zero-initialised is
 * empty. */
struct buffer {
    char *data; /* first byte of the content; OUTBOX_HEADROOM bytes before it are ours */
    size_t len, capacity;
    bool failed;
};
void buffer_clear(struct buffer *buffer);
void buffer_free(struct buffer *buffer);
bool buffer_reserve(struct buffer *buffer, size_t more);
void buffer_append(struct buffer *buffer, const char *bytes, size_t n);

struct outbox_message;
struct outbox {
    struct outbox_message *first, *last;
    size_t bytes; /* waiting, over all messages */
    size_t sent;  /* of the first message */
};
struct outbox_piece {
    char *data;
    size_t len;
    bool first, last; /* of its message */
};

/* False: the queue is full or memory is out; nothing was taken. */
bool outbox_put(struct outbox *outbox, const char *bytes, size_t n);
/* The next piece to send; false when the queue is empty. */
bool outbox_peek(const struct outbox *outbox, struct outbox_piece *piece);
void outbox_advance(struct outbox *outbox, size_t n); /* n = the peeked length */
void outbox_clear(struct outbox *outbox);

#endif
