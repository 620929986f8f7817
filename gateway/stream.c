/* stream.c - see stream.h. */
#include "gateway/stream.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* TEXT, TRACE: a = where its bytes begin, b = how many. */
struct stream_event {
    uint32_t a, b;
    uint16_t tokens, accepted;
    uint8_t kind;
};

const char *stream_why_name(enum stream_why why) {
    static const char *const names[] = {"stop", "length", "context", "cancel", "error", "interrupted"};
    return names[why];
}

static uint32_t crc_table[256];
static void crc_table_fill(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) c = (c >> 1) ^ (c & 1 ? 0x82F63B78u : 0);
        crc_table[i] = c;
    }
}

uint32_t crc32c(uint32_t crc, const char *bytes, size_t n) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, crc_table_fill);
    crc = ~crc;
    for (size_t i = 0; i < n; i++) crc = crc_table[(crc ^ (unsigned char)bytes[i]) & 255] ^ (crc >> 8);
    return ~crc;
}

static bool bytes_reserve(char **bytes, size_t *capacity, size_t len) {
    if (len <= *capacity) return true;
    size_t wanted = *capacity ? *capacity * 2 : 2048;
    while (wanted < len) wanted *= 2;
    char *grown = realloc(*bytes, wanted);
    if (!grown) return false;
    *bytes = grown;
    *capacity = wanted;
    return true;
}

static bool text_append(struct stream *stream, const char *text, size_t len) {
    if (len > STREAM_MAX_TEXT - stream->text_len) return false;
    if (!bytes_reserve(&stream->text, &stream->text_capacity, stream->text_len + len)) return false;
    memcpy(stream->text + stream->text_len, text, len);
    stream->text_len += len;
    stream->crc = crc32c(stream->crc, text, len);
    return true;
}

/* Room for one event and, beyond it, for DONE. */
static bool events_reserve(struct stream *stream) {
    if (stream->n_events + 2 <= stream->events_capacity) return true;
    if (stream->n_events + 2 > STREAM_MAX_EVENTS) {
        size_t forgotten = stream->n_events / 2;
        stream->n_events -= forgotten;
        stream->first_seq += forgotten;
        memmove(stream->events, stream->events + forgotten, stream->n_events * sizeof *stream->events);
        return true;
    }
    size_t wanted = stream->events_capacity ? stream->events_capacity * 2 : 64;
    struct stream_event *grown = realloc(stream->events, wanted * sizeof *grown);
    if (!grown) return false;
    stream->events = grown;
    stream->events_capacity = wanted;
    return true;
}

static void append(struct stream *stream, struct stream_event event) {
    assert(!stream->finished && stream->n_events < stream->events_capacity);
    stream->events[stream->n_events++] = event;
    stream->finished = event.kind == STREAM_DONE;
    for (struct stream_reader *r = stream->readers, *next; r; r = next) {
        next = r->next_reader;
        r->ready(r);
    }
}

struct stream *stream_new(const char *base, size_t base_len) {
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream) return NULL;
    stream->first_seq = 1;
    stream->base_len = base_len;
    if (!events_reserve(stream) || (base_len > 0 && !text_append(stream, base, base_len))) {
        stream_free(stream);
        return NULL;
    }
    append(stream, (struct stream_event){.kind = STREAM_START});
    return stream;
}

void stream_free(struct stream *stream) {
    if (!stream) return;
    assert(!stream->readers);
    free(stream->text);
    free(stream->traces);
    free(stream->events);
    free(stream);
}

uint64_t stream_head(const struct stream *stream) { return stream->first_seq + stream->n_events - 1; }

size_t stream_bytes(const struct stream *stream) {
    return sizeof *stream + stream->text_capacity + stream->traces_capacity + stream->events_capacity * sizeof *stream->events;
}

bool stream_add_text(struct stream *stream, const char *text, size_t len, int tokens, int accepted) {
    struct stream_event event = {.a = (uint32_t)stream->text_len, .b = (uint32_t)len, .kind = STREAM_TEXT};
    event.tokens = (uint16_t)tokens;
    event.accepted = (uint16_t)accepted;
    if (!events_reserve(stream) || !text_append(stream, text, len)) return false;
    append(stream, event);
    return true;
}

bool stream_add_trace(struct stream *stream, const char *trace, size_t len) {
    size_t begin = stream->traces_len;
    if (len > STREAM_MAX_TRACES - begin || !events_reserve(stream)) return false;
    if (!bytes_reserve(&stream->traces, &stream->traces_capacity, begin + len)) return false;
    memcpy(stream->traces + begin, trace, len);
    stream->traces_len += len;
    append(stream, (struct stream_event){.a = (uint32_t)begin, .b = (uint32_t)len, .kind = STREAM_TRACE});
    return true;
}

bool stream_add_state(struct stream *stream, enum stream_kind kind, int a, int b) {
    if (!events_reserve(stream)) return false;
    append(stream, (struct stream_event){.a = (uint32_t)a, .b = (uint32_t)b, .kind = (uint8_t)kind});
    return true;
}

void stream_finish(struct stream *stream, const struct stream_result *result) {
    stream->result = *result;
    append(stream, (struct stream_event){.kind = STREAM_DONE});
}

void stream_attach(struct stream *stream, struct stream_reader *reader, uint64_t from) {
    assert(from >= 1);
    reader->stream = stream;
    reader->next = from;
    reader->next_reader = stream->readers;
    reader->link = &stream->readers;
    if (reader->next_reader) reader->next_reader->link = &reader->next_reader;
    stream->readers = reader;
}

void stream_detach(struct stream_reader *reader) {
    if (!reader->stream) return;
    *reader->link = reader->next_reader;
    if (reader->next_reader) reader->next_reader->link = reader->link;
    reader->stream = NULL;
}

enum stream_read_result stream_read(struct stream_reader *reader, struct stream_slice *slice) {
    const struct stream *stream = reader->stream;
    if (reader->next < stream->first_seq) return STREAM_GAP;
    size_t i = (size_t)(reader->next - stream->first_seq);
    if (i >= stream->n_events) return STREAM_NOTHING;
    const struct stream_event *e = &stream->events[i];
    *slice =
        (struct stream_slice){.kind = (enum stream_kind)e->kind, .seq = reader->next, .n = 1, .a = (int)e->a, .b = (int)e->b};
    if (e->kind == STREAM_TRACE) {
        slice->text = stream->traces + e->a;
        slice->len = e->b;
    } else if (e->kind == STREAM_TEXT) {
        slice->text = stream->text + e->a;
        slice->len = e->b;
        slice->tokens = e->tokens;
        slice->accepted = e->accepted;
        for (i++, e++; i < stream->n_events && e->kind == STREAM_TEXT && slice->len + e->b <= STREAM_SLICE; i++, e++) {
            slice->len += e->b;
            slice->tokens += e->tokens;
            slice->accepted += e->accepted;
            slice->n++;
        }
    }
    reader->next += slice->n;
    return STREAM_SLICE_READ;
}

uint64_t stream_skip(struct stream_reader *reader) {
    uint64_t upto = stream_head(reader->stream) - (reader->stream->finished ? 1 : 0);
    reader->next = upto + 1;
    return upto;
}
