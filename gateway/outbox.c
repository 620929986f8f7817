/* outbox.c - see outbox.h. */
#include "gateway/outbox.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void buffer_clear(struct buffer *buffer) {
    buffer->len = 0;
    buffer->failed = false;
}

void buffer_free(struct buffer *buffer) {
    if (buffer->data) free(buffer->data - OUTBOX_HEADROOM);
    *buffer = (struct buffer){0};
}

bool buffer_reserve(struct buffer *buffer, size_t more) {
    if (buffer->failed) return false;
    if (buffer->capacity - buffer->len >= more) return true;
    size_t wanted = buffer->capacity ? buffer->capacity * 2 : 1024;
    while (wanted < buffer->len + more) wanted *= 2;
    char *grown = realloc(buffer->data ? buffer->data - OUTBOX_HEADROOM : NULL, wanted + OUTBOX_HEADROOM);
    if (!grown) {
        buffer->failed = true;
        return false;
    }
    buffer->data = grown + OUTBOX_HEADROOM;
    buffer->capacity = wanted;
    return true;
}

void buffer_append(struct buffer *buffer, const char *bytes, size_t n) {
    if (n == 0 || !buffer_reserve(buffer, n)) return;
    memcpy(buffer->data + buffer->len, bytes, n);
    buffer->len += n;
}

struct outbox_message {
    struct outbox_message *next;
    size_t len;
    char bytes[]; /* OUTBOX_HEADROOM, then len */
};

bool outbox_put(struct outbox *outbox, const char *bytes, size_t n) {
    if (outbox->first && n > OUTBOX_MAX_BYTES - (outbox->bytes < OUTBOX_MAX_BYTES ? outbox->bytes : OUTBOX_MAX_BYTES))
        return false;
    struct outbox_message *message = malloc(sizeof *message + OUTBOX_HEADROOM + n);
    if (!message) return false;
    message->next = NULL;
    message->len = n;
    memcpy(message->bytes + OUTBOX_HEADROOM, bytes, n);
    if (outbox->last)
        outbox->last->next = message;
    else
        outbox->first = message;
    outbox->last = message;
    outbox->bytes += n;
    return true;
}

bool outbox_peek(const struct outbox *outbox, struct outbox_piece *piece) {
    struct outbox_message *message = outbox->first;
    if (!message) return false;
    size_t left = message->len - outbox->sent;
    piece->data = message->bytes + OUTBOX_HEADROOM + outbox->sent;
    piece->len = left < OUTBOX_PIECE ? left : OUTBOX_PIECE;
    piece->first = outbox->sent == 0;
    piece->last = piece->len == left;
    return true;
}

void outbox_advance(struct outbox *outbox, size_t n) {
    struct outbox_message *message = outbox->first;
    assert(message && outbox->sent + n <= message->len);
    outbox->sent += n;
    outbox->bytes -= n;
    if (outbox->sent < message->len) return;
    outbox->first = message->next;
    if (!outbox->first) outbox->last = NULL;
    outbox->sent = 0;
    free(message);
}

void outbox_clear(struct outbox *outbox) {
    while (outbox->first) {
        struct outbox_message *next = outbox->first->next;
        free(outbox->first);
        outbox->first = next;
    }
    *outbox = (struct outbox){0};
}
