/* test_outbox.c - what waits for a socket or for its time: the outbox's pieces and bound, timers, rate limits, counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/limits.h"
#include "gateway/outbox.h"
#include "gateway/timers.h"

/* A message longer than a piece goes out whole, in order, first and last piece marked, each with headroom to write to. */
static void test_pieces(void **state) {
    (void)state;
    enum { LEN = 3 * OUTBOX_PIECE + 77 };
    struct outbox outbox = {0};
    struct outbox_piece piece;
    char *message = malloc(LEN), *seen = malloc(LEN);
    for (int i = 0; i < LEN; i++) message[i] = (char)(i * 7);
    assert_true(outbox_put(&outbox, message, LEN));
    assert_true(outbox_put(&outbox, "next", 4));
    size_t at = 0;
    int n = 0;
    while (at < LEN) {
        assert_true(outbox_peek(&outbox, &piece));
        assert_int_equal(piece.first, n == 0);
        assert_int_equal(piece.last, at + piece.len == LEN);
        memcpy(seen + at, piece.data, piece.len);
        memset(piece.data - OUTBOX_HEADROOM, 0xEE, OUTBOX_HEADROOM); /* as the socket library does */
        at += piece.len;
        n++;
        outbox_advance(&outbox, piece.len);
    }
    assert_int_equal(n, 4);
    assert_memory_equal(message, seen, LEN);
    assert_true(outbox_peek(&outbox, &piece));
    assert_memory_equal(piece.data, "next", 4);
    assert_true(piece.first && piece.last);
    outbox_advance(&outbox, 4);
    assert_false(outbox_peek(&outbox, &piece));
    assert_int_equal(outbox.bytes, 0);
    free(message);
    free(seen);
}

/* The queue takes nothing beyond its bound, but a message alone always goes. */
static void test_bound(void **state) {
    (void)state;
    struct outbox outbox = {0};
    struct outbox_piece piece;
    char *large = calloc(1, OUTBOX_MAX_BYTES + 5);
    assert_true(outbox_put(&outbox, large, OUTBOX_MAX_BYTES + 5));
    assert_false(outbox_put(&outbox, "x", 1));
    while (outbox_peek(&outbox, &piece)) outbox_advance(&outbox, piece.len);
    int n = 0;
    while (outbox_put(&outbox, large, 64 * 1024)) n++;
    assert_int_equal(n, OUTBOX_MAX_BYTES / (64 * 1024));
    outbox_clear(&outbox);
    assert_true(outbox_put(&outbox, "x", 1));
    outbox_clear(&outbox);
    free(large);
}

static void test_buffer_grows(void **state) {
    (void)state;
    struct buffer buffer = {0};
    for (int i = 0; i < 10000; i++) buffer_append(&buffer, "0123456789", 10);
    assert_int_equal(buffer.len, 100000);
    assert_memory_equal(buffer.data + 99990, "0123456789", 10);
    memset(buffer.data - OUTBOX_HEADROOM, 1, OUTBOX_HEADROOM);
    buffer_clear(&buffer);
    assert_int_equal(buffer.len, 0);
    buffer_free(&buffer);
}

/* --- timers --- */

struct alarm {
    struct timer timer;
    int64_t due_ms; /* what the model expects; -1 = not set */
    int fired;
};
static int64_t last_fired_ms;

static void on_alarm(struct timer *timer) {
    struct alarm *alarm = container_of(timer, struct alarm, timer);
    assert_true(alarm->due_ms >= last_fired_ms);
    last_fired_ms = alarm->due_ms;
    alarm->due_ms = -1;
    alarm->fired++;
}

/* Thousands of sets, moves, cancels and runs against a plain list. */
static void test_timers_against_a_model(void **state) {
    (void)state;
    enum { N = 200 };
    unsigned seed = 4711;
    print_message("seed %u\n", seed);
    struct timers timers = {0};
    struct alarm alarms[N];
    int64_t now = 0;
    for (int i = 0; i < N; i++) {
        timer_init(&alarms[i].timer, on_alarm);
        alarms[i].due_ms = -1;
        alarms[i].fired = 0;
    }
    for (int round = 0; round < 50000; round++) {
        struct alarm *alarm = &alarms[rand_r(&seed) % N];
        switch (rand_r(&seed) % 4) {
        case 0:
        case 1:
            alarm->due_ms = now + rand_r(&seed) % 500;
            timer_set(&timers, &alarm->timer, alarm->due_ms);
            break;
        case 2:
            alarm->due_ms = -1;
            timer_cancel(&timers, &alarm->timer);
            break;
        default:
            now += rand_r(&seed) % 20;
            last_fired_ms = 0;
            timers_run(&timers, now);
        }
        int64_t first = -1;
        for (int i = 0; i < N; i++) {
            assert_int_equal(alarms[i].timer.set, alarms[i].due_ms >= 0);
            if (alarms[i].due_ms >= 0 && (first < 0 || alarms[i].due_ms < first)) first = alarms[i].due_ms;
        }
        assert_int_equal(timers_next_ms(&timers), first);
    }
    int fired = 0;
    for (int i = 0; i < N; i++) fired += alarms[i].fired;
    assert_true(fired > 1000);
}

/* --- limits --- */

static void test_rate_limit(void **state) {
    (void)state;
    struct rate_limit limit = {0};
    int64_t now = 1000000;
    for (int i = 0; i < 40; i++) assert_int_equal(rate_limit_take(&limit, 20, 40, now), 0);
    assert_int_equal(rate_limit_take(&limit, 20, 40, now), 50); /* one comes back each 50 ms */
    assert_int_equal(rate_limit_take(&limit, 20, 40, now + 49), 1);
    assert_int_equal(rate_limit_take(&limit, 20, 40, now + 50), 0);
    assert_true(rate_limit_take(&limit, 20, 40, now + 50) > 0);
    for (int i = 0; i < 40; i++) assert_int_equal(rate_limit_take(&limit, 20, 40, now + 3600000), 0);
    assert_true(rate_limit_take(&limit, 20, 40, now + 3600000) > 0);
}

static void test_user_counts(void **state) {
    (void)state;
    struct user_counts counts = {{0}};
    for (int64_t user = 1; user <= 600; user++) { /* more users than buckets */
        for (int i = 0; i < 3; i++) assert_true(user_counts_take(&counts, user, USER_GENERATIONS, 3));
        assert_false(user_counts_take(&counts, user, USER_GENERATIONS, 3));
        assert_true(user_counts_take(&counts, user, USER_CONNECTIONS, 1));
    }
    for (int64_t user = 1; user <= 600; user++) {
        user_counts_give(&counts, user, USER_GENERATIONS);
        assert_true(user_counts_take(&counts, user, USER_GENERATIONS, 3));
        for (int i = 0; i < 3; i++) user_counts_give(&counts, user, USER_GENERATIONS);
        user_counts_give(&counts, user, USER_CONNECTIONS);
    }
    for (int i = 0; i < 256; i++) assert_null(counts.buckets[i]); /* nothing is held, nothing is kept */
    user_counts_free(&counts);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),       cmocka_unit_test(test_bound),
        cmocka_unit_test(test_buffer_grows), cmocka_unit_test(test_timers_against_a_model),
        cmocka_unit_test(test_rate_limit),   cmocka_unit_test(test_user_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
