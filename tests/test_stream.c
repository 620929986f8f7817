/* test_stream.c - the event log: every reader sees every event once, in order, whatever it does meanwhile; bounds hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/stream.h"

struct follower {
    struct stream_reader reader;
    int told;
    uint64_t last;
    char *text;
    size_t len;
    int tokens;
    bool done;
};

static void on_ready(struct stream_reader *reader) { ((struct follower *)(void *)reader)->told++; }

static void follow(struct follower *f, struct stream *stream, uint64_t from) {
    *f = (struct follower){.reader.ready = on_ready, .last = from - 1, .text = calloc(1, STREAM_MAX_TEXT + 1)};
    assert_non_null(f->text);
    stream_attach(stream, &f->reader, from);
}

static void unfollow(struct follower *f) {
    stream_detach(&f->reader);
    free(f->text);
}

/* One slice, by the client's rule. False: nothing to read. */
static bool take(struct follower *f) {
    struct stream_slice slice;
    switch (stream_read(&f->reader, &slice)) {
    case STREAM_NOTHING:
        return false;
    case STREAM_GAP:
        f->len = f->reader.stream->text_len;
        memcpy(f->text, f->reader.stream->text, f->len);
        f->last = stream_skip(&f->reader);
        return true;
    case STREAM_SLICE_READ:
        break;
    }
    assert_int_equal(slice.seq, f->last + 1);
    f->last += slice.n;
    if (slice.kind == STREAM_TEXT) {
        memcpy(f->text + f->len, slice.text, slice.len);
        f->len += slice.len;
        f->tokens += slice.tokens;
    }
    f->done = slice.kind == STREAM_DONE;
    return true;
}

/* The check value of CRC-32C, and that pieces give what the whole gives. */
static void test_crc(void **state) {
    (void)state;
    assert_int_equal(crc32c(0, "123456789", 9), 0xE3069283u);
    assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xE3069283u);
    assert_int_equal(crc32c(0, "", 0), 0);
}

/* Readers that come, read and go at random all end with the same text, and were told whenever something came. */
static void test_random_readers(void **state) {
    (void)state;
    enum { READERS = 8, EVENTS = 4000 };
    unsigned seed = 20261123;
    print_message("seed %u\n", seed);
    struct stream *stream = stream_new("base ", 5);
    struct follower f[READERS];
    char expected[EVENTS * 8 + 8] = "base ";
    size_t expected_len = 5;
    for (int i = 0; i < READERS; i++) {
        follow(&f[i], stream, 1);
        memcpy(f[i].text, "base ", f[i].len = 5);
    }
    for (int i = 0; i < EVENTS; i++) {
        char word[8];
        int n = snprintf(word, sizeof word, "%d ", i), before[READERS];
        for (int r = 0; r < READERS; r++) before[r] = f[r].told;
        if (i % 97 == 0) {
            assert_true(stream_add_state(stream, STREAM_PREFILL, i, EVENTS));
        } else {
            assert_true(stream_add_text(stream, word, (size_t)n, 1, 0));
            memcpy(expected + expected_len, word, (size_t)n);
            expected_len += (size_t)n;
        }
        for (int r = 0; r < READERS; r++) {
            if (f[r].reader.stream) assert_int_equal(f[r].told, before[r] + 1);
            switch (rand_r(&seed) % 6) {
            case 0:
                while (f[r].reader.stream && take(&f[r])) {
                }
                break;
            case 1:
                if (f[r].reader.stream) take(&f[r]);
                break;
            case 2:
                stream_detach(&f[r].reader);
                break;
            default:
                if (!f[r].reader.stream) stream_attach(stream, &f[r].reader, f[r].last + 1);
            }
        }
    }
    const struct stream_result result = {.why = WHY_STOP};
    stream_finish(stream, &result);
    assert_true(stream->finished);
    for (int r = 0; r < READERS; r++) {
        if (!f[r].reader.stream) stream_attach(stream, &f[r].reader, f[r].last + 1);
        while (take(&f[r])) {
        }
        assert_true(f[r].done);
        assert_int_equal(f[r].last, stream_head(stream));
        assert_int_equal(f[r].len, expected_len);
        assert_memory_equal(f[r].text, expected, expected_len);
        assert_int_equal(crc32c(0, f[r].text, f[r].len), stream->crc);
        unfollow(&f[r]);
    }
    stream_free(stream);
}

/* Neighbouring text comes as one slice of at most STREAM_SLICE bytes; other events come alone. */
static void test_slices_merge(void **state) {
    (void)state;
    struct stream *stream = stream_new(NULL, 0);
    struct follower f;
    struct stream_slice slice;
    char bytes[200];
    memset(bytes, 'x', sizeof bytes);
    for (int i = 0; i < 100; i++) assert_true(stream_add_text(stream, bytes, sizeof bytes, 2, 0));
    assert_true(stream_add_state(stream, STREAM_TRIMMED, 3, 0));
    assert_true(stream_add_text(stream, "end", 3, 1, 0));
    follow(&f, stream, 1);
    assert_int_equal(stream_read(&f.reader, &slice), STREAM_SLICE_READ);
    assert_int_equal(slice.kind, STREAM_START);
    assert_int_equal(stream_read(&f.reader, &slice), STREAM_SLICE_READ);
    assert_true(slice.len <= STREAM_SLICE && slice.len > STREAM_SLICE - sizeof bytes);
    assert_int_equal(slice.n, slice.len / sizeof bytes);
    assert_int_equal(slice.tokens, 2 * slice.n);
    uint64_t first = slice.n;
    assert_int_equal(stream_read(&f.reader, &slice), STREAM_SLICE_READ);
    assert_int_equal(slice.n + first, 100);
    assert_int_equal(stream_read(&f.reader, &slice), STREAM_SLICE_READ);
    assert_int_equal(slice.kind, STREAM_TRIMMED);
    assert_int_equal(slice.a, 3);
    assert_int_equal(stream_read(&f.reader, &slice), STREAM_SLICE_READ);
    assert_memory_equal(slice.text, "end", 3);
    assert_int_equal(stream_read(&f.reader, &slice), STREAM_NOTHING);
    unfollow(&f);
    stream_free(stream);
}

/* Past the bound of records the oldest are forgotten: who wants them gets the whole text and then the rest, never a part. */
static void test_forgotten_records_become_a_snapshot(void **state) {
    (void)state;
    struct stream *stream = stream_new(NULL, 0);
    struct follower early, late;
    follow(&early, stream, 1);
    for (int i = 0; i < STREAM_MAX_EVENTS + 10; i++) assert_true(stream_add_text(stream, "ab", 2, 1, 0));
    assert_true(stream_bytes(stream) <= 4 * 1024 * 1024);
    assert_true(stream->first_seq > 1);
    struct stream_slice slice;
    assert_int_equal(stream_read(&early.reader, &slice), STREAM_GAP);
    assert_int_equal(stream_read(&early.reader, &slice), STREAM_GAP); /* it does not move by itself */
    assert_true(take(&early));
    assert_int_equal(early.len, stream->text_len);
    follow(&late, stream, stream->first_seq);
    assert_int_equal(stream_read(&late.reader, &slice), STREAM_SLICE_READ);
    assert_int_equal(slice.seq, stream->first_seq);
    assert_true(stream_add_text(stream, "tail", 4, 1, 0));
    const struct stream_result result = {.why = WHY_STOP};
    stream_finish(stream, &result);
    while (take(&early)) {
    }
    assert_true(early.done);
    assert_int_equal(crc32c(0, early.text, early.len), stream->crc);
    unfollow(&early);
    unfollow(&late);
    stream_free(stream);
}

/* After the end a snapshot still leaves DONE to come. */
static void test_skip_keeps_done(void **state) {
    (void)state;
    struct stream *stream = stream_new(NULL, 0);
    struct follower f;
    const struct stream_result result = {.why = WHY_ERROR};
    assert_true(stream_add_text(stream, "x", 1, 1, 0));
    stream_finish(stream, &result);
    follow(&f, stream, 1);
    assert_int_equal(stream_skip(&f.reader), 2);
    f.last = 2;
    assert_true(take(&f));
    assert_true(f.done);
    unfollow(&f);
    stream_free(stream);
}

/* The text has a bound, too: what does not fit is refused whole, and DONE still finds its place. */
static void test_text_bound(void **state) {
    (void)state;
    static char block[64 * 1024];
    memset(block, 'y', sizeof block);
    struct stream *stream = stream_new(NULL, 0);
    const struct stream_result result = {.why = WHY_LENGTH};
    int n = 0;
    while (stream_add_text(stream, block, sizeof block, 1, 0)) n++;
    assert_int_equal(n, STREAM_MAX_TEXT / sizeof block);
    uint64_t head = stream_head(stream);
    assert_false(stream_add_text(stream, block, sizeof block, 1, 0));
    assert_int_equal(stream_head(stream), head);
    stream_finish(stream, &result);
    stream_free(stream);
    static char too_long[STREAM_MAX_TEXT + 1];
    assert_null(stream_new(too_long, sizeof too_long));
}

/* Traces stand in their place, keep neighbouring text apart, and end before they cost more than their bound; text goes on. */
static void test_traces(void **state) {
    (void)state;
    static char block[1000];
    struct stream *stream = stream_new(NULL, 0);
    struct stream_reader reader = {.ready = NULL};
    struct stream_slice slice;
    memset(block, 't', sizeof block);
    assert_true(stream_add_text(stream, "a", 1, 1, 0));
    assert_true(stream_add_trace(stream, "first", 5));
    assert_true(stream_add_text(stream, "bc", 2, 2, 1));
    assert_true(stream_add_text(stream, "def", 3, 3, 2));
    int n = 0;
    while (stream_add_trace(stream, block, sizeof block)) n++;
    assert_int_equal(n, (STREAM_MAX_TRACES - 5) / sizeof block);
    assert_true(stream_bytes(stream) < STREAM_MAX_TRACES + 100 * 1000);
    assert_true(stream_add_text(stream, "g", 1, 1, 0));
    stream_attach(stream, &reader, 2);
    static const struct stream_slice expected[] = {
        {.kind = STREAM_TEXT, .seq = 2, .n = 1, .text = "a", .len = 1, .tokens = 1},
        {.kind = STREAM_TRACE, .seq = 3, .n = 1, .text = "first", .len = 5},
        {.kind = STREAM_TEXT, .seq = 4, .n = 2, .text = "bcdef", .len = 5, .tokens = 5, .accepted = 3},
        {.kind = STREAM_TRACE, .seq = 6, .n = 1, .text = block, .len = sizeof block},
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const struct stream_slice *e = &expected[i];
        assert_int_equal(stream_read(&reader, &slice), STREAM_SLICE_READ);
        assert_int_equal(slice.kind, e->kind);
        assert_int_equal(slice.seq, e->seq);
        assert_int_equal(slice.n, e->n);
        assert_int_equal(slice.len, e->len);
        assert_memory_equal(slice.text, e->text, e->len);
        assert_int_equal(slice.tokens, e->tokens);
        assert_int_equal(slice.accepted, e->accepted);
    }
    stream_detach(&reader);
    stream_free(stream);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc),
        cmocka_unit_test(test_random_readers),
        cmocka_unit_test(test_slices_merge),
        cmocka_unit_test(test_forgotten_records_become_a_snapshot),
        cmocka_unit_test(test_skip_keeps_done),
        cmocka_unit_test(test_text_bound),
        cmocka_unit_test(test_traces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
