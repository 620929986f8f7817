/* test_engine.c - the engine as its users see it (engine.h), on a tiny random model: order of events, limits, stops, cancels,
 * errors, shutdown. That the text does not depend on what runs beside it is check_equality.c's subject. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/log.h"
#include "tests/engine_fixture.h"
#include "tests/tiny_model.h"

static char path[64];

static struct engine_config small_config(void) {
    struct engine_config config = engine_config_default();
    config.model_path = path;
    config.n_threads = 1;
    config.max_seqs = 4;
    config.max_waiting = 12;
    config.step_tokens = 32;
    config.ctx_len = 256;
    return config;
}

static struct engine *open_with(struct engine_config config) {
    struct engine *engine = NULL;
    struct engine_error error = {""};
    int rc = engine_open(&engine, &config, &error);
    if (rc != ENGINE_OK) print_message("%s\n", error.text);
    assert_int_equal(rc, ENGINE_OK);
    return engine;
}

static void close_clean(struct engine *engine) {
    assert_true(nothing_left(engine));
    engine_close(engine);
}

static struct engine_request endless(const char *prompt, int max_tokens) {
    struct engine_request request = prompt_request(prompt, max_tokens, 0.9f, 5);
    request.ignore_eos = true;
    return request;
}

/* --- one request --- */

/* Protects: STARTED, TEXT ..., DONE; counts and times in usage. */
static void a_request_runs_from_started_to_done(void **state) {
    (void)state;
    struct engine *engine = open_with(small_config());
    struct engine_request request = endless("Hello the world", 40);
    struct outcome o = fixture_run(engine, &request);
    assert_true(o.started && o.done);
    assert_int_equal(o.end.finish, ENGINE_FINISH_LENGTH);
    assert_int_equal(o.end.usage.output_tokens, 40);
    assert_true(o.end.usage.prompt_tokens > 2 && o.end.usage.prompt_tokens <= 15);
    assert_true(o.end.usage.ttft_ms > 0 && o.end.usage.ttft_ms >= o.end.usage.queue_ms && o.end.usage.decode_ms > 0);
    assert_true(o.len > 0);
    struct engine_stats stats;
    engine_stats(engine, &stats);
    assert_int_equal(stats.finished, 1);
    assert_int_equal(stats.output_tokens, 40);
    outcome_free(&o);
    close_clean(engine);
}

/* Protects: the count of tokens held fits the blocks that hold them, at every moment; the bench's figure of waste rests on it. */
static void blocks_hold_the_tokens_that_are_counted(void **state) {
    (void)state;
    struct engine_config config = small_config();
    config.prefix_cache = false;
    struct engine *engine = open_with(config);
    struct engine_request requests[] = {endless("the", 90), endless("Hello the world in the end", 150)};
    struct engine_error error;
    struct engine_stats stats;
    struct engine_event event;
    uint64_t id;
    int n_left = 0, n_seen = 0;
    while (n_left > 0 || n_seen < 20) { /* on a busy machine all may be over before this thread looks */
        for (; n_left < 2 && n_seen < 20; n_left++)
            assert_int_equal(engine_submit(engine, &requests[n_left], &id, &error), ENGINE_OK);
        engine_wait(engine, 1000);
        engine_stats(engine, &stats);
        int slots = stats.blocks_used * KV_BLOCK, room = stats.n_running * KV_BLOCK;
        assert_true(stats.kv_tokens <= slots && slots - stats.kv_tokens <= room);
        n_seen += stats.kv_tokens > 0;
        while (engine_poll(engine, &event, 1) > 0) n_left -= event.kind == ENGINE_EVENT_DONE;
    }
    close_clean(engine);
}

/* Protects: text does not depend on how often and in what portions the consumer polls. */
static void portions_do_not_matter(void **state) {
    (void)state;
    struct engine *engine = open_with(small_config());
    struct engine_request request = endless("in the end", 100);
    struct outcome slow = {0}, one = {0}, eager = fixture_run(engine, &request);
    struct engine_error error;
    assert_int_equal(engine_submit(engine, &request, &slow.id, &error), ENGINE_OK);
    struct engine_stats stats;
    do { /* the answer is finished before anyone looks */
        usleep(1000);
        engine_stats(engine, &stats);
    } while (stats.finished < 2);
    fixture_finish(engine, &slow, 1);
    assert_true(slow.n_events < eager.n_events || slow.n_events <= 6);
    assert_int_equal(engine_submit(engine, &request, &one.id, &error), ENGINE_OK);
    while (!one.done) {
        if (fixture_poll(engine, &one, 1, 1) == 0) engine_wait(engine, 1000);
    }
    assert_string_equal(slow.text, eager.text);
    assert_string_equal(one.text, eager.text);
    assert_int_equal(slow.end.usage.output_tokens, 100);
    outcome_free(&slow);
    outcome_free(&one);
    outcome_free(&eager);
    close_clean(engine);
}

/* Protects: with events per token every id comes out, and the text is the same. */
static void events_per_token_carry_every_id(void **state) {
    (void)state;
    struct engine_request request = endless("the", 60);
    struct engine *engine = open_with(small_config());
    struct outcome merged = fixture_run(engine, &request);
    close_clean(engine);
    engine = open_with(small_config());
    engine_events_per_token(engine);
    struct outcome each = fixture_run(engine, &request);
    assert_int_equal(each.n_ids, 60);
    assert_string_equal(each.text, merged.text);
    outcome_free(&merged);
    outcome_free(&each);
    close_clean(engine);
}

/* Protects: an end token ends the answer and is not part of it; ignore_eos goes on. */
static void end_tokens_stop_unless_ignored(void **state) {
    (void)state;
    struct engine *engine = open_with(small_config());
    struct engine_bias bias = {2, 100}; /* <|im_end|> at once */
    struct engine_request request = prompt_request("the", 10, 0, 1);
    request.sampling.bias = &bias;
    request.sampling.n_bias = 1;
    struct outcome o = fixture_run(engine, &request);
    assert_int_equal(o.end.finish, ENGINE_FINISH_STOP);
    assert_int_equal(o.end.usage.output_tokens, 0);
    assert_int_equal(o.len, 0);
    outcome_free(&o);
    request.ignore_eos = true;
    o = fixture_run(engine, &request);
    assert_int_equal(o.end.finish, ENGINE_FINISH_LENGTH);
    assert_int_equal(o.end.usage.output_tokens, 10);
    outcome_free(&o);
    close_clean(engine);
}

/* Protects: text ends before the stop string, tokens after it are neither shown nor counted, the engine stops working on it. */
static void stop_strings_end_the_text(void **state) {
    (void)state;
    struct engine *engine = open_with(small_config());
    /* Printable output: every token but the ASCII letters is pushed away. */
    struct engine_bias bias[200];
    struct engine_request request = endless("He", 200);
    int n_bias = 0;
    for (int32_t t = 3; t < 259 && n_bias < 200; t++) {
        if (t < 3 + 'a' || t > 3 + 'z') bias[n_bias++] = (struct engine_bias){t, -100};
    }
    request.sampling.bias = bias;
    request.sampling.n_bias = n_bias;
    struct outcome whole = fixture_run(engine, &request);
    assert_true(whole.len > 60);
    char stop[4] = {0};
    memcpy(stop, whole.text + 40, 3); /* three bytes out of the middle, perhaps found earlier */
    const char *stops[2] = {"\x01never", stop};
    request.stop = stops;
    request.n_stop = 2;
    struct outcome cut = fixture_run(engine, &request);
    size_t at = (size_t)(strstr(whole.text, stop) - whole.text);
    assert_int_equal(cut.end.finish, ENGINE_FINISH_STOP);
    assert_int_equal(cut.len, at);
    if (at > 0) assert_memory_equal(cut.text, whole.text, at);
    assert_true(cut.end.usage.output_tokens > 0 && cut.end.usage.output_tokens < 200);
    outcome_free(&whole);
    outcome_free(&cut);
    close_clean(engine);
}

/* Bytes of the outcome's tokens; owned by the caller. */
static char *token_bytes(const struct engine *engine, const struct outcome *o, size_t *len, size_t *last) {
    char *bytes = malloc((size_t)o->n_ids * 32 + 1);
    *len = *last = 0;
    for (int i = 0; i < o->n_ids; i++) {
        const struct engine_token_text text = engine_token_text(engine, o->ids[i]);
        *last = text.is_control ? 0 : text.len;
        memcpy(bytes + *len, text.bytes, *last);
        *len += *last;
    }
    return bytes;
}

/* Protects: with log-probabilities the text is the same, every token is there once and in order, also those that are parts of
 * characters or no characters at all. */
static void logprobs_have_every_token(void **state) {
    (void)state;
    struct engine *engine = open_with(small_config());
    for (int n_top = 0; n_top <= ENGINE_MAX_TOP_LOGPROBS; n_top += 10) {
        struct engine_request request = endless("Hello the world", 150);
        request.sampling.seed = 11 + (uint64_t)n_top;
        struct outcome plain = fixture_run(engine, &request);
        request.logprobs = true;
        request.n_top_logprobs = n_top;
        struct outcome o = fixture_run(engine, &request);
        assert_int_equal(o.len, plain.len);
        assert_memory_equal(o.text, plain.text, o.len);
        assert_int_equal(o.end.finish, plain.end.finish);
        assert_int_equal(o.n_ids, 150);
        assert_int_equal(o.stride, 1 + n_top);
        for (int i = 0; i < o.n_ids; i++) {
            const struct engine_logprob *of = &o.logprobs[i * o.stride];
            assert_true(of[0].logprob <= 0);
            for (int j = 1; j <= n_top; j++) {
                assert_true(j == 1 || of[j].logprob <= of[j - 1].logprob);
                if (of[j].token == of[0].token) assert_true(of[j].logprob == of[0].logprob);
            }
        }
        outcome_free(&plain);
        outcome_free(&o);
    }
    close_clean(engine);
}

/* Protects: log-probabilities are bit-equal whatever runs beside, with any number of threads. */
static void logprobs_do_not_depend_on_the_batch(void **state) {
    (void)state;
    enum { N = 4 };
    static struct engine_logprob want[N][60 * 4];
    for (int together = 0; together < 2; together++) {
        struct engine_config config = small_config();
        config.n_threads = 1 + 2 * together;
        config.step_tokens = together ? 7 : 32;
        struct engine *engine = open_with(config);
        struct outcome o[N] = {{0}};
        for (int i = 0; i < N; i++) {
            struct engine_error error;
            struct engine_request request = endless(i % 2 ? "He" : "the world and its words", 60);
            request.sampling.repeat_penalty = 1.2f;
            request.sampling.seed = (uint64_t)i;
            request.logprobs = true;
            request.n_top_logprobs = 3;
            assert_int_equal(engine_submit(engine, &request, &o[i].id, &error), ENGINE_OK);
            if (!together) fixture_finish(engine, &o[i], 1);
        }
        fixture_finish(engine, o, N);
        for (int i = 0; i < N; i++) {
            assert_int_equal(o[i].n_ids, 60);
            if (!together) memcpy(want[i], o[i].logprobs, sizeof want[i]);
            assert_memory_equal(o[i].logprobs, want[i], sizeof want[i]);
            outcome_free(&o[i]);
        }
        close_clean(engine);
    }
}

/* Protects: tokens that a stop string swallows whole are not reported, all others are: their bytes begin with the text, and it
 * needs every one of them. */
static void stop_strings_take_their_logprobs_along(void **state) {
    (void)state;
    struct engine *engine = open_with(small_config());
    int n_swallowed = 0, n_compared = 0;
    for (int n = 0; n < 60; n++) {
        struct engine_request request = endless("He", 100);
        struct engine_bias no_nul = {3, -100};
        request.sampling.seed = (uint64_t)n;
        request.sampling.bias = &no_nul;
        request.sampling.n_bias = 1;
        struct outcome whole = fixture_run(engine, &request);
        size_t from = whole.len / 3, to, len, last; /* a stop string of whole characters out of the text */
        while ((whole.text[from] & 0xC0) == 0x80) from++;
        for (to = from + 1 + (size_t)n % 7; (whole.text[to] & 0xC0) == 0x80; to++) {
        }
        char stop[16] = {0};
        memcpy(stop, whole.text + from, to - from);
        const char *stops[2] = {"\x01never", stop};
        request.stop = stops;
        request.n_stop = 2;
        request.logprobs = true;
        struct outcome cut = fixture_run(engine, &request);
        char *bytes = token_bytes(engine, &cut, &len, &last);
        assert_int_equal(cut.end.finish, ENGINE_FINISH_STOP);
        assert_true(cut.n_ids <= cut.end.usage.output_tokens);
        n_swallowed += cut.end.usage.output_tokens - cut.n_ids;
        if (cut.len == 0) assert_int_equal(cut.n_ids, 0);
        if (cut.len > 0 && !strstr(cut.text, "\xEF\xBF\xBD")) { /* else the text has other bytes than the tokens */
            assert_true(len >= cut.len && len - last < cut.len);
            assert_memory_equal(bytes, cut.text, cut.len);
            n_compared++;
        }
        free(bytes);
        outcome_free(&whole);
        outcome_free(&cut);
    }
    print_message("%d tokens swallowed, %d texts compared\n", n_swallowed, n_compared);
    assert_true(n_swallowed > 40);
    close_clean(engine);
}

/* Protects: the context is a limit with its own name; without max_tokens the answer fills it. */
static void a_full_context_ends_the_answer(void **state) {
    (void)state;
    struct engine *engine = open_with(small_config());
    struct engine_request request = endless("the end", 0);
    struct outcome o = fixture_run(engine, &request);
    assert_int_equal(o.end.finish, ENGINE_FINISH_CONTEXT);
    assert_int_equal(o.end.usage.prompt_tokens + o.end.usage.output_tokens, 256);
    outcome_free(&o);
    close_clean(engine);
}

/* Protects: progress of prompts that take several steps, rising, below the whole. */
static void long_prompts_report_progress(void **state) {
    (void)state;
    char text[400];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    struct engine *engine = open_with(small_config());
    struct engine_request request = endless(text, 2);
    request.prompt_len = 200;
    struct outcome o = {0};
    struct engine_error error;
    int last = 0;
    assert_int_equal(engine_submit(engine, &request, &o.id, &error), ENGINE_OK);
    while (!o.done) {
        struct engine_event event;
        if (engine_poll(engine, &event, 1) == 0) {
            engine_wait(engine, 1000);
            continue;
        }
        if (event.kind == ENGINE_EVENT_PREFILL) {
            assert_true(event.n_tokens > last && event.n_tokens < event.usage.prompt_tokens);
            last = event.n_tokens;
        }
        outcome_add(&o, &event);
    }
    assert_int_equal(o.end.finish, ENGINE_FINISH_LENGTH);
    assert_int_equal(o.end.usage.prompt_tokens, 200);
    outcome_free(&o);
    close_clean(engine);
}

/* --- chats --- */

static struct engine_message message(enum engine_role role, const char *text) {
    return (struct engine_message){role, text, strlen(text)};
}

/* Protects: chats are rendered, continued, and lose their oldest turns only when asked to. */
static void chats_are_rendered_and_cut(void **state) {
    (void)state;
    struct engine *engine = open_with(small_config());
    char long_text[120];
    memset(long_text, 'y', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    struct engine_message messages[6] = {message(ENGINE_ROLE_SYSTEM, "be"), message(ENGINE_ROLE_USER, long_text),
                                         message(ENGINE_ROLE_ASSISTANT, long_text), message(ENGINE_ROLE_USER, "the end"),
                                         message(ENGINE_ROLE_ASSISTANT, "He")};
    struct engine_request request = {
        .messages = messages, .n_messages = 4, .max_tokens = 8, .sampling = engine_sampling_default()};
    request.ignore_eos = true;
    struct outcome o = fixture_run(engine, &request);
    assert_int_equal(o.end.finish, ENGINE_FINISH_ERROR);
    assert_int_equal(o.end.status, ENGINE_ERR_TOO_LONG);
    assert_non_null(strstr(o.end.message, "256"));
    outcome_free(&o);
    request.drop_oldest = true;
    o = fixture_run(engine, &request);
    assert_int_equal(o.end.finish, ENGINE_FINISH_LENGTH);
    assert_int_equal(o.end.usage.dropped_messages, 2);
    int n_prompt = o.end.usage.prompt_tokens;
    outcome_free(&o);
    request.n_messages = 5;
    request.continue_last = true;
    o = fixture_run(engine, &request);
    assert_int_equal(o.end.finish, ENGINE_FINISH_LENGTH);
    assert_int_equal(o.end.usage.prompt_tokens, n_prompt + 1); /* "He" is one token of this vocabulary */
    outcome_free(&o);
    request.continue_last = true;
    request.n_messages = 4; /* the last one is the user's */
    o = fixture_run(engine, &request);
    assert_int_equal(o.end.status, ENGINE_ERR_ARGUMENT);
    outcome_free(&o);
    close_clean(engine);
}

/* Protects: the second turn of a chat finds the first in the cache; another user's does not. */
static void a_second_turn_is_cached_for_its_user_only(void **state) {
    (void)state;
    struct engine *engine = open_with(small_config());
    struct engine_message messages[1] = {
        message(ENGINE_ROLE_USER, "the quick brown fox jumps over the lazy dog, again and again")};
    struct engine_request request = {
        .messages = messages, .n_messages = 1, .max_tokens = 4, .sampling = engine_sampling_default(), .cache_salt = 1};
    struct outcome first = fixture_run(engine, &request), second = fixture_run(engine, &request);
    request.cache_salt = 2;
    struct outcome other = fixture_run(engine, &request);
    assert_int_equal(first.end.usage.cached_tokens, 0);
    assert_true(second.end.usage.cached_tokens >= 32);
    assert_int_equal(other.end.usage.cached_tokens, 0);
    assert_string_equal(first.text, second.text);
    assert_string_equal(first.text, other.text);
    outcome_free(&first);
    outcome_free(&second);
    outcome_free(&other);
    close_clean(engine);
}

/* --- limits and refusals --- */

/* Protects: every argument out of range is refused at once, with a sentence. */
static void bad_requests_are_refused_at_once(void **state) {
    (void)state;
    struct engine *engine = open_with(small_config());
    struct engine_request bad[7];
    const char *empty_stop[1] = {""}, *bad_stop[1] = {"\xff"};
    for (int i = 0; i < 7; i++) bad[i] = endless("the", 5);
    bad[0].sampling.temperature = -1;
    bad[1].max_tokens = -1;
    bad[2].prompt = NULL;
    bad[3].stop = empty_stop, bad[3].n_stop = 1;
    bad[4].stop = bad_stop, bad[4].n_stop = 1;
    bad[5].n_stop = 99, bad[5].stop = empty_stop;
    bad[6].n_messages = -1;
    for (int i = 0; i < 7; i++) {
        struct engine_error why = {""};
        uint64_t unused = 77;
        assert_int_equal(engine_submit(engine, &bad[i], &unused, &why), ENGINE_ERR_ARGUMENT);
        assert_true(strlen(why.text) > 10);
    }
    struct engine_message nobody = {(enum engine_role)7, "x", 1};
    struct engine_request huge = endless("", 5), chat = endless("", 5);
    struct engine_error error;
    uint64_t id;
    huge.prompt_len = (size_t)1 << 40; /* refused before a byte is read */
    assert_int_equal(engine_submit(engine, &huge, &id, &error), ENGINE_ERR_TOO_LONG);
    chat.messages = &nobody, chat.n_messages = 1;
    assert_int_equal(engine_submit(engine, &chat, &id, &error), ENGINE_ERR_ARGUMENT);
    chat.n_messages = INT32_MAX;
    assert_int_equal(engine_submit(engine, &chat, &id, &error), ENGINE_ERR_TOO_LONG);
    struct engine_request empty = endless("", 5);
    struct outcome o = fixture_run(engine, &empty);
    assert_int_equal(o.end.status, ENGINE_ERR_ARGUMENT);
    outcome_free(&o);
    close_clean(engine);
}

/* Protects: what can never fit is refused with the flag to raise; the largest prompt that fits is answered. */
static void prompts_that_cannot_fit_are_refused(void **state) {
    (void)state;
    char text[300];
    memset(text, 'z', sizeof text - 1);
    text[sizeof text - 1] = 0;
    struct engine_config config = small_config();
    struct engine *engine = open_with(config);
    struct engine_request request = endless(text, 5);
    request.prompt_len = 256;
    struct outcome o = fixture_run(engine, &request);
    assert_int_equal(o.end.status, ENGINE_ERR_TOO_LONG);
    assert_non_null(strstr(o.end.message, "--ctx"));
    outcome_free(&o);
    request.prompt_len = 255;
    o = fixture_run(engine, &request);
    assert_int_equal(o.end.finish, ENGINE_FINISH_CONTEXT);
    assert_int_equal(o.end.usage.output_tokens, 1);
    outcome_free(&o);
    config.kv_bytes = 4 * engine->pool.block_bytes;
    close_clean(engine);
    engine = open_with(config);
    request.prompt_len = 64;
    o = fixture_run(engine, &request);
    assert_int_equal(o.end.status, ENGINE_ERR_TOO_LONG);
    assert_non_null(strstr(o.end.message, "--kv-mem"));
    outcome_free(&o);
    request.prompt_len = 63;
    o = fixture_run(engine, &request);
    assert_int_equal(o.end.finish, ENGINE_FINISH_CONTEXT);
    outcome_free(&o);
    close_clean(engine);
}

/* Protects: the queue is bounded, refusals are ENGINE_ERR_BUSY, and nothing that was accepted is lost. */
static void a_full_queue_is_busy(void **state) {
    (void)state;
    struct engine *engine = open_with(small_config());
    struct outcome outcomes[40] = {{0}};
    struct engine_request request = endless("the", 30);
    int accepted = 0, refused = 0;
    for (int i = 0; i < 40; i++) { /* nothing is polled, so accepted ones stay in the books */
        struct engine_error error;
        int rc = engine_submit(engine, &request, &outcomes[i].id, &error);
        if (rc == ENGINE_OK)
            accepted++;
        else {
            assert_int_equal(rc, ENGINE_ERR_BUSY);
            outcomes[i].id = 0;
            refused++;
        }
    }
    assert_int_equal(accepted, 4 + 12);
    assert_int_equal(refused, 24);
    fixture_finish(engine, outcomes, 40);
    for (int i = 0; i < 40; i++) {
        if (outcomes[i].id) assert_string_equal(outcomes[i].text, outcomes[0].text);
        if (i > 0) outcome_free(&outcomes[i]);
    }
    outcome_free(&outcomes[0]);
    close_clean(engine);
}

/* Protects: a value that is not finite fails its request and leaves the engine in order. */
static void a_broken_model_fails_the_request_only(void **state) {
    (void)state;
    struct tiny_model broken = tiny_model_default();
    broken.break_head = true;
    char good[sizeof path];
    memcpy(good, path, sizeof path);
    snprintf(path, sizeof path, "/tmp/foresay_test_engine_%d_nan.gguf", getpid());
    assert_true(tiny_model_write(path, &broken));
    struct engine *engine = open_with(small_config());
    struct engine_request request = endless("the", 5);
    for (int i = 0; i < 3; i++) {
        struct outcome o = fixture_run(engine, &request);
        assert_int_equal(o.end.finish, ENGINE_FINISH_ERROR);
        assert_int_equal(o.end.status, ENGINE_ERR_NUMERIC);
        assert_true(strlen(o.end.message) > 10);
        outcome_free(&o);
    }
    close_clean(engine);
    unlink(path);
    memcpy(path, good, sizeof path);
}

static void refused_to_open(struct engine_config config, int status, const char *word) {
    struct engine *engine = (struct engine *)1;
    struct engine_error error = {""};
    assert_int_equal(engine_open(&engine, &config, &error), status);
    assert_null(engine);
    if (!strstr(error.text, word)) print_message("'%s' is not in: %s\n", word, error.text);
    assert_non_null(strstr(error.text, word));
}

/* Protects: what cannot run says why, before anything large is allocated. */
static void bad_configurations_are_refused(void **state) {
    (void)state;
    struct engine_config c = small_config();
    c.kv_bytes = (size_t)1 << 60;
    refused_to_open(c, ENGINE_ERR_MEMORY, "--kv-mem");
    c = small_config(), c.kv_bytes = 100;
    refused_to_open(c, ENGINE_ERR_ARGUMENT, "--kv-mem");
    c = small_config(), c.ctx_len = 100000;
    refused_to_open(c, ENGINE_ERR_ARGUMENT, "trained for 512");
    c = small_config(), c.ctx_len = 3;
    refused_to_open(c, ENGINE_ERR_ARGUMENT, "--ctx");
    c = small_config(), c.step_tokens = 2;
    refused_to_open(c, ENGINE_ERR_ARGUMENT, "--step-tokens");
    c = small_config(), c.max_seqs = 0;
    refused_to_open(c, ENGINE_ERR_ARGUMENT, "--max-seqs");
    c = small_config(), c.kv_type = "int3";
    refused_to_open(c, ENGINE_ERR_ARGUMENT, "int3");
    c = small_config(), c.kv_type = "int4"; /* heads of 16 */
    refused_to_open(c, ENGINE_ERR_ARGUMENT, "this model's have 16: use int8 or f16");
    c = small_config(), c.activations = "int9";
    refused_to_open(c, ENGINE_ERR_ARGUMENT, "int9");
    c = small_config(), c.isa = "sse9";
    refused_to_open(c, ENGINE_ERR_ARGUMENT, "sse9");
    c = small_config(), c.model_path = "/nonexistent/model.gguf";
    refused_to_open(c, ENGINE_ERR_IO, "/nonexistent/model.gguf");
    c = small_config(), c.model_path = NULL;
    refused_to_open(c, ENGINE_ERR_ARGUMENT, "--model");
    struct tiny_model foreign = tiny_model_default();
    char foreign_path[sizeof path + 8];
    snprintf(foreign_path, sizeof foreign_path, "%s.foreign", path);
    foreign.architecture = "mamba";
    assert_true(tiny_model_write(foreign_path, &foreign));
    c = small_config(), c.model_path = foreign_path;
    refused_to_open(c, ENGINE_ERR_MODEL, "architecture 'mamba' is not supported; supported: llama");
    unlink(foreign_path);
}

/* --- cancels and shutdown --- */

static uint64_t rng = 31337;

static uint32_t draw(uint32_t n) {
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33) % n;
}

/* Protects: a cancel at any moment (queued, tokenizing, between chunks, decoding, finished) gives one DONE and all blocks back.
 */
static void cancels_at_any_moment_return_everything(void **state) {
    (void)state;
    struct engine_config config = small_config();
    char text[250];
    memset(text, 'w', sizeof text - 1);
    text[sizeof text - 1] = 0;
    config.ctx_len = 512;
    struct engine *engine = open_with(config);
    int n_rounds = getenv("FORESAY_TEST_LONG") ? 400 : 40, n_cancelled = 0;
    for (int round = 0; round < n_rounds; round++) {
        struct outcome outcomes[8] = {{0}};
        for (int i = 0; i < 8; i++) {
            struct engine_request request = endless(text, 1 + (int)draw(100));
            struct engine_error error;
            request.prompt_len = 1 + draw(240);
            request.cache_salt = draw(2);
            assert_int_equal(engine_submit(engine, &request, &outcomes[i].id, &error), ENGINE_OK);
        }
        for (int n_cancels = (int)draw(12); n_cancels > 0; n_cancels--) {
            for (int n_polls = (int)draw(6); n_polls > 0; n_polls--) {
                if (fixture_poll(engine, outcomes, 8, 1 + (int)draw(4)) == 0) engine_wait(engine, 1);
            }
            engine_cancel(engine, outcomes[draw(8)].id);
            engine_cancel(engine, draw(1000000)); /* mostly unknown */
        }
        fixture_finish(engine, outcomes, 8);
        assert_true(nothing_left(engine));
        for (int i = 0; i < 8; i++) {
            n_cancelled += outcomes[i].end.finish == ENGINE_FINISH_CANCELLED;
            outcome_free(&outcomes[i]);
        }
    }
    printf("seed 31337: %d rounds, %d cancelled\n", n_rounds, n_cancelled);
    assert_true(n_cancelled > n_rounds / 2);
    close_clean(engine);
}

/* Protects: closing with requests everywhere on their way neither hangs nor leaks (the sanitizers watch). */
static void closing_with_requests_in_flight_is_clean(void **state) {
    (void)state;
    for (int round = 0; round < 8; round++) {
        struct engine *engine = open_with(small_config());
        struct engine_event event;
        struct engine_error error;
        uint64_t id;
        struct engine_request request = endless("the other", 0);
        for (int i = 0; i < 2 * round; i++) assert_int_equal(engine_submit(engine, &request, &id, &error), ENGINE_OK);
        for (int i = 0; i < 3 * round; i++) {
            if (engine_poll(engine, &event, 1) == 0) engine_wait(engine, 10);
        }
        engine_close(engine);
    }
    engine_close(NULL);
}

/* --- waking --- */

static atomic_int n_wakes;

static void count_wake(void *arg) {
    (void)arg;
    atomic_fetch_add(&n_wakes, 1);
}

/* Protects: a consumer that sleeps until wake, then polls until nothing is left, misses nothing. */
static void wake_comes_whenever_events_appear(void **state) {
    (void)state;
    struct engine_config config = small_config();
    config.wake = count_wake;
    struct engine *engine = open_with(config);
    struct outcome outcomes[6] = {{0}};
    struct engine_error error;
    int seen = 0, n_sleeps = 0;
    atomic_store(&n_wakes, 0);
    for (int i = 0; i < 6; i++) {
        struct engine_request request = endless("He", 20 + i);
        assert_int_equal(engine_submit(engine, &request, &outcomes[i].id, &error), ENGINE_OK);
    }
    while (!all_done(outcomes, 6)) {
        while (atomic_load(&n_wakes) == seen) usleep(100); /* only a wake brings us on */
        seen = atomic_load(&n_wakes);
        n_sleeps++;
        while (fixture_poll(engine, outcomes, 6, 7) > 0) {
        }
    }
    assert_true(n_sleeps <= atomic_load(&n_wakes));
    int n_before = atomic_load(&n_wakes);
    assert_int_equal(fixture_poll(engine, outcomes, 6, 7), 0);
    assert_int_equal(atomic_load(&n_wakes), n_before); /* silence while idle */
    for (int i = 0; i < 6; i++) outcome_free(&outcomes[i]);
    close_clean(engine);
}

/* Protects: an answer that runs on wakes nobody for each token; what cannot wait (begun, the first token, the end) does so. */
static void tokens_wake_now_and_then(void **state) {
    (void)state;
    enum { TOKENS = 240, URGENT = 3 };
    struct engine_config config = small_config();
    config.wake = count_wake;
    config.drafter = ENGINE_DRAFTER_NONE; /* a step of many rows would tell what there is first */
    struct engine *engine = open_with(config);
    engine_delay_news(engine, 1e9);
    struct engine_request request = endless("He", TOKENS);
    struct engine_error error;
    struct outcome outcome = {0};
    atomic_store(&n_wakes, 0);
    assert_int_equal(engine_submit(engine, &request, &outcome.id, &error), ENGINE_OK);
    for (int seen = 0; !outcome.done;) {
        while (atomic_load(&n_wakes) == seen) sched_yield();
        seen = atomic_load(&n_wakes);
        while (fixture_poll(engine, &outcome, 1, 7) > 0) {
        }
    }
    assert_int_equal(outcome.end.usage.output_tokens, TOKENS);
    assert_in_range(atomic_load(&n_wakes), 1, URGENT);
    outcome_free(&outcome);
    close_clean(engine);
}

/* Protects: an engine that is held takes no step, and goes on where it was; two engines with one model's weights write by turns
 * what each writes alone. */
static void held_engines_take_turns(void **state) {
    (void)state;
    enum { TOKENS = 64 };
    struct engine *engines[2] = {open_with(small_config())};
    struct engine_config config = small_config();
    struct engine_error error;
    struct outcome outcomes[2] = {0};
    const struct engine_request request = endless("He", TOKENS);
    int seen[2] = {0}, n_turns = 0;
    assert_int_equal(engine_open_beside(&engines[1], &config, engines[0], &error), ENGINE_OK);
    for (int i = 0; i < 2; i++) {
        engine_hold(engines[i]);
        assert_int_equal(engine_submit(engines[i], &request, &outcomes[i].id, &error), ENGINE_OK);
    }
    for (int i = 0; !outcomes[0].done || !outcomes[1].done; i = 1 - i, n_turns++) {
        assert_int_equal(fixture_poll(engines[i], &outcomes[i], 1, 7), 0); /* it stood still */
        engine_let_go(engines[i]);
        engine_wait(engines[i], outcomes[i].done ? 0 : 1000);
        engine_hold(engines[i]);
        while (fixture_poll(engines[i], &outcomes[i], 1, 7) > 0) seen[i]++;
    }
    assert_true(n_turns >= 2 && seen[0] > 0 && seen[1] > 0);
    assert_int_equal(outcomes[0].end.usage.output_tokens, TOKENS);
    assert_string_equal(outcomes[0].text, outcomes[1].text);
    for (int i = 1; i >= 0; i--) {
        outcome_free(&outcomes[i]);
        engine_let_go(engines[i]);
        close_clean(engines[i]);
    }
}

/* Protects: the facts of the file. */
static void info_names_the_model(void **state) {
    (void)state;
    struct engine *engine = open_with(small_config());
    struct engine_info info;
    engine_info(engine, &info);
    assert_non_null(strstr(info.model_name, "foresay_test_engine"));
    assert_null(strstr(info.model_name, ".gguf"));
    assert_string_equal(info.architecture, "llama");
    assert_string_equal(info.quantization, "Q4_1");
    assert_int_equal(info.vocab_size, TINY_VOCAB);
    assert_int_equal(info.ctx_len, 256);
    assert_true(info.can_chat && info.n_parameters > 50000 && info.weight_bytes > 10000 && info.kv_bytes > 0);
    close_clean(engine);
}

/* Protects: the memory for keys and values that is planned, allocated and told is that of their type. */
static void quantized_keys_and_values_take_less_memory(void **state) {
    (void)state;
    struct engine_info f16, int8;
    struct engine_config c = small_config();
    c.kv_type = "f16";
    struct engine *engine = open_with(c);
    engine_info(engine, &f16);
    close_clean(engine);
    c.kv_type = NULL; /* these heads suit int8 */
    engine = open_with(c);
    engine_info(engine, &int8);
    assert_int_equal(engine->pool.shape.type, KV_INT8);
    assert_int_equal(int8.kv_bytes, (uint64_t)engine->pool.n_blocks * engine->pool.block_bytes);
    assert_int_equal(int8.kv_bytes * 16, f16.kv_bytes * 9); /* heads of 16: a scale of 2 bytes beside 16 codes */
    close_clean(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_runs_from_started_to_done),
        cmocka_unit_test(blocks_hold_the_tokens_that_are_counted),
        cmocka_unit_test(portions_do_not_matter),
        cmocka_unit_test(events_per_token_carry_every_id),
        cmocka_unit_test(end_tokens_stop_unless_ignored),
        cmocka_unit_test(stop_strings_end_the_text),
        cmocka_unit_test(logprobs_have_every_token),
        cmocka_unit_test(logprobs_do_not_depend_on_the_batch),
        cmocka_unit_test(stop_strings_take_their_logprobs_along),
        cmocka_unit_test(a_full_context_ends_the_answer),
        cmocka_unit_test(long_prompts_report_progress),
        cmocka_unit_test(chats_are_rendered_and_cut),
        cmocka_unit_test(a_second_turn_is_cached_for_its_user_only),
        cmocka_unit_test(bad_requests_are_refused_at_once),
        cmocka_unit_test(prompts_that_cannot_fit_are_refused),
        cmocka_unit_test(a_full_queue_is_busy),
        cmocka_unit_test(a_broken_model_fails_the_request_only),
        cmocka_unit_test(bad_configurations_are_refused),
        cmocka_unit_test(cancels_at_any_moment_return_everything),
        cmocka_unit_test(closing_with_requests_in_flight_is_clean),
        cmocka_unit_test(wake_comes_whenever_events_appear),
        cmocka_unit_test(tokens_wake_now_and_then),
        cmocka_unit_test(held_engines_take_turns),
        cmocka_unit_test(info_names_the_model),
        cmocka_unit_test(quantized_keys_and_values_take_less_memory),
    };
    struct tiny_model tiny = tiny_model_default();
    log_set_level(LOG_ERROR);
    snprintf(path, sizeof path, "/tmp/foresay_test_engine_%d.gguf", getpid());
    if (!tiny_model_write(path, &tiny)) return 1;
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return rc;
}
