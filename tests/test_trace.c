/* test_trace.c - what the engine tells of how a text came (trace.c), on a tiny random model with drafters that know the answer,
 * half of it, or hide it in a bush. engine_fixture.h compares every token with what its round had said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/log.h"
#include "tests/drafters.h"
#include "tests/engine_fixture.h"
#include "tests/tiny_model.h"

enum { RIGHT = 0, WRONG = 1, MIXED = 2, BUSH = 3, LENGTH = 120 };

static char path[64];
static struct test_drafter test;
static struct outcome plain; /* the answer without any drafter */

static struct engine_request question(bool trace) {
    struct engine_request request = prompt_request("in the end", LENGTH, 0.9f, 5);
    request.ignore_eos = true;
    request.trace = trace;
    return request;
}

/* which: of test_drafters; -1 = none. */
static struct engine *open_with(int which, bool each_token) {
    struct engine_config config = engine_config_default();
    struct engine *engine;
    struct engine_error error;
    config.model_path = path;
    config.n_threads = 1;
    config.max_seqs = 2;
    config.ctx_len = 256;
    config.drafter = which < 0 ? ENGINE_DRAFTER_NONE : ENGINE_DRAFTER_SUFFIX;
    assert_int_equal(engine_open(&engine, &config, &error), ENGINE_OK);
    if (each_token) engine_events_per_token(engine);
    if (which < 0) return engine;
    test = (struct test_drafter){.n_answers = 1, .n_vocab = tokenizer_vocab_size(engine->tokenizer), .rng = 99};
    test.answers[0] = (struct known_answer){plain.ids, plain.end.usage.prompt_tokens, plain.n_ids};
    engine_set_drafter(engine, &(struct drafter){&test_drafters[which], &test});
    return engine;
}

static void check_sums(const struct outcome *o, bool trace) {
    const struct engine_usage *usage = &o->end.usage;
    assert_string_equal(o->text, plain.text);
    assert_int_equal(usage->output_tokens, LENGTH);
    assert_int_equal(o->n_right, usage->accepted_tokens);
    assert_int_equal(o->n_traces + usage->dropped_traces, trace ? usage->draft_rounds : 0);
}

/* Protects: each token came as its round says, all counts agree, and the text is that of no drafter and no trace. An event never
 * goes over the beginning of a round that is told (engine_fixture.h). */
static void every_round_is_told(void **state) {
    (void)state;
    for (int i = 0; i < 16; i++) {
        int which = i / 4;
        bool trace = i & 1, each_token = i & 2;
        struct engine *engine = open_with(which, each_token);
        struct engine_request request = question(trace);
        struct outcome o = fixture_run(engine, &request);
        check_sums(&o, trace);
        assert_true(o.end.usage.draft_rounds > 5);
        assert_true(which == WRONG ? o.n_right == 0 : o.n_right > 20);
        assert_true(nothing_left(engine));
        outcome_free(&o);
        engine_close(engine);
    }
}

static void wait_until_finished(struct engine *engine, uint64_t n) {
    struct engine_stats stats;
    do {
        usleep(1000);
        engine_stats(engine, &stats);
    } while (stats.finished < n);
}

/* Protects: who looks only when all is over gets the whole text, the rounds that were kept, and the number of the others. */
static void a_slow_consumer_loses_rounds_alone(void **state) {
    (void)state;
    struct engine *engine = open_with(WRONG, true);
    struct engine_request request = question(true);
    struct engine_error error;
    struct outcome o = {0};
    assert_int_equal(engine_submit(engine, &request, &o.id, &error), ENGINE_OK);
    wait_until_finished(engine, 1);
    fixture_finish(engine, &o, 1);
    check_sums(&o, true);
    assert_int_equal(o.n_traces, 64);
    assert_true(o.end.usage.dropped_traces > 40);
    assert_int_equal(o.trace.round, 64); /* the oldest stay */
    outcome_free(&o);
    engine_close(engine);
}

/* Protects: log-probabilities and stop strings get on with traces; rounds behind the end of the text are not told. */
static void traces_stop_where_the_text_does(void **state) {
    (void)state;
    char stop[5] = "";
    const char *stops[] = {stop};
    size_t at = plain.len / 2;
    while ((plain.text[at] & 0xc0) == 0x80) at++;
    memcpy(stop, plain.text + at, 1);
    for (int n = 1; n < 4 && (plain.text[at + (size_t)n] & 0xc0) == 0x80; n++) stop[n] = plain.text[at + (size_t)n];
    struct engine *engine = open_with(MIXED, false);
    struct engine_request request = question(true);
    request.stop = stops;
    request.n_stop = 1;
    request.logprobs = true;
    struct outcome o = fixture_run(engine, &request);
    assert_memory_equal(o.text, plain.text, o.len);
    assert_int_equal(o.end.finish, ENGINE_FINISH_STOP);
    assert_true(o.trace.first < o.end.usage.output_tokens);
    outcome_free(&o);
    engine_close(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_round_is_told),
        cmocka_unit_test(a_slow_consumer_loses_rounds_alone),
        cmocka_unit_test(traces_stop_where_the_text_does),
    };
    struct tiny_model tiny = tiny_model_default();
    log_set_level(LOG_ERROR);
    snprintf(path, sizeof path, "/tmp/foresay_test_trace_%d.gguf", getpid());
    if (!tiny_model_write(path, &tiny)) return 1;
    struct engine *engine = open_with(-1, true);
    struct engine_request request = question(false);
    plain = fixture_run(engine, &request);
    engine_close(engine);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    outcome_free(&plain);
    unlink(path);
    return rc;
}
