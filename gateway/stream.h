/* stream.h - the event log of one generation, and those who read it.
 *
 *  (1) The log is append-only. Events are numbered 1, 2, 3 ... without gaps; the last one is DONE and nothing follows it.
 *  (2) The text is one run of bytes: what the answer continues (the base), then what the TEXT events added, in order.
 *  (3) A reader is {stream, number of the next event it wants}. It holds no copies, so a slow reader costs the same as a
 *      quick one; what it missed comes as one larger slice.
 *  (4) A log has a bound. When there are more than STREAM_MAX_EVENTS the older half of the event records is forgotten (the
 *      text stays); a reader that wanted one of those is told STREAM_GAP and gets the whole text instead, never a partial
 *      replay.
 *  (5) Traces are told in their place among the text while there is room for them; what has none was never in the log.
 * The log knows nothing of transports: the WebSocket (connection.c) and the OpenAI streams (openai.c) are two kinds of readers.
 * Service thread only. */
#ifndef FORESAY_STREAM_H
#define FORESAY_STREAM_H

#include "engine/engine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    STREAM_MAX_TEXT = 3 * 1024 * 1024, /* bytes of one answer; with what is below this keeps a log under 6 MiB */
    STREAM_MAX_EVENTS = 64 * 1024,     /* 16 bytes each */
    STREAM_MAX_TRACES = 1024 * 1024,   /* bytes of them */
    STREAM_SLICE = 16 * 1024,          /* bytes of text in one slice */
};

enum stream_kind {
    STREAM_START,
    STREAM_PREFILL, /* a of b prompt tokens are computed */
    STREAM_TRIMMED, /* a oldest messages were left out */
    STREAM_TEXT,    /* text, `tokens` tokens, `accepted` of them guessed right */
    STREAM_TRACE,   /* text: a round's trace, as it is to be sent */
    STREAM_DONE,
};

enum stream_why { WHY_STOP, WHY_LENGTH, WHY_CONTEXT, WHY_CANCEL, WHY_ERROR, WHY_INTERRUPTED };
const char *stream_why_name(enum stream_why why);

/* How it ended: the content of the DONE event. */
struct stream_result {
    enum stream_why why;
    struct engine_usage usage;
    uint64_t seed;
    int code; /* enum protocol_code; 0 = no trouble */
    char message[256];
};

struct stream_event;
struct stream_reader;
struct stream {
    size_t base_len;
    char *text;
    size_t text_len, text_capacity;
    uint32_t crc; /* CRC-32C of text */
    char *traces;
    size_t traces_len, traces_capacity;
    uint64_t first_seq; /* number of the oldest event that is kept */
    struct stream_event *events;
    size_t n_events, events_capacity;
    bool finished;
    struct stream_result result; /* once finished */
    struct stream_reader *readers;
};

/* Starts with a START event. NULL: out of memory or the base is longer than STREAM_MAX_TEXT. */
struct stream *stream_new(const char *base, size_t base_len);
void stream_free(struct stream *stream);           /* no reader may be attached; accepts NULL */
uint64_t stream_head(const struct stream *stream); /* number of the last event */
size_t stream_bytes(const struct stream *stream);

/* Append and tell the readers. False: the bound is reached or memory is out; nothing was added. */
bool stream_add_text(struct stream *stream, const char *text, size_t len, int tokens, int accepted);
bool stream_add_trace(struct stream *stream, const char *trace, size_t len);
bool stream_add_state(struct stream *stream, enum stream_kind kind, int a, int b);
/* Always succeeds: the place for DONE is kept from the start. */
void stream_finish(struct stream *stream, const struct stream_result *result);

struct stream_reader {
    struct stream *stream; /* NULL = detached */
    uint64_t next;
    void (*ready)(struct stream_reader *reader); /* there is something to read; must not detach other readers */
    struct stream_reader *next_reader, **link;
};
void stream_attach(struct stream *stream, struct stream_reader *reader, uint64_t from);
void stream_detach(struct stream_reader *reader); /* no harm when detached */

struct stream_slice {
    enum stream_kind kind;
    uint64_t seq;     /* of the first event it covers */
    uint64_t n;       /* events covered */
    const char *text; /* TEXT, TRACE: valid until the stream changes */
    size_t len;
    int tokens, accepted;
    int a, b;
};
enum stream_read_result { STREAM_NOTHING, STREAM_SLICE_READ, STREAM_GAP };
/* The next event, neighbouring TEXT events merged up to STREAM_SLICE bytes; the reader moves on. With STREAM_GAP it does not
 * move. */
enum stream_read_result stream_read(struct stream_reader *reader, struct stream_slice *slice);
/* After STREAM_GAP: go to the end. What stands in stream->text now covers everything up to the returned number; DONE is still to
 * come. */
uint64_t stream_skip(struct stream_reader *reader);

/* CRC-32C (Castagnoli) of more bytes; begin with 0. */
uint32_t crc32c(uint32_t crc, const char *bytes, size_t n);

#endif
