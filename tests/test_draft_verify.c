/* test_draft_verify.c - drafts that are verified by distribution, in the engine. At temperature 0 the text is plain decoding's;
 * at others the first tokens over thousands of seeds are distributed as plain decoding's are. Seeds are fixed, so a test that
 * passes once passes always. That the verifiers are exact is test_speculative_verify.c's subject; here they stand on the engine's
 * rows. */
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

enum { BUSH = 3 }; /* of test_drafters */

static char path[64], near_path[64], other_path[64]; /* the near one agrees with the model more often than not */

static struct engine *open_with(enum engine_drafter drafter, const char *files) {
    struct engine_config config = engine_config_default();
    struct engine *engine = NULL;
    struct engine_error error = {""};
    config.model_path = path;
    config.n_threads = 1;
    config.max_seqs = 4;
    config.ctx_len = 256;
    config.drafter = drafter;
    config.draft_files = files;
    int rc = engine_open(&engine, &config, &error);
    if (rc != ENGINE_OK) print_message("%s\n", error.text);
    assert_int_equal(rc, ENGINE_OK);
    engine_events_per_token(engine);
    return engine;
}

/* Every stage of the sampler changes rows, and changes them by what was drawn before. */
static struct engine_request request_of(uint64_t seed, int n_tokens, float temperature) {
    static const struct engine_bias bias = {.token = 65, .bias = 1};
    struct engine_request request = prompt_request("the and you of", n_tokens, temperature, seed);
    request.sampling.top_k = 5;
    request.sampling.top_p = 0.98f;
    request.sampling.min_p = 0.01f;
    request.sampling.repeat_penalty = 1.1f;
    request.sampling.frequency_penalty = 0.5f;
    request.sampling.penalty_last_n = 8;
    request.sampling.bias = &bias;
    request.sampling.n_bias = 1;
    return request;
}

/* Answers of plain decoding that the drafters of drafters.h know. */
static struct engine *open_knowing(struct test_drafter *d, int which, const struct outcome *answers, int n) {
    struct engine *engine = open_with(ENGINE_DRAFTER_SUFFIX, NULL);
    *d = (struct test_drafter){.n_answers = n, .n_vocab = tokenizer_vocab_size(engine->tokenizer), .rng = 3, .eog = 2};
    for (int i = 0; i < n; i++)
        d->answers[i] = (struct known_answer){answers[i].ids, answers[i].end.usage.prompt_tokens, answers[i].n_ids};
    engine_set_drafter(engine, &(struct drafter){&test_drafters[which], d});
    return engine;
}

static void expect_same(const struct outcome *got, const struct outcome *want) {
    assert_int_equal(got->n_ids, want->n_ids);
    assert_memory_equal(got->ids, want->ids, (size_t)want->n_ids * sizeof *want->ids);
    assert_string_equal(got->text, want->text);
    assert_int_equal(got->end.finish, want->end.finish);
    assert_int_equal(got->stride, want->stride);
    assert_memory_equal(got->logprobs, want->logprobs, (size_t)(want->n_ids * want->stride) * sizeof *want->logprobs);
}

/* Protects: at temperature 0 no way to verify changes a token, a log-probability or the end, be it an end token or the limit,
 * whatever was guessed: by models that are near, far and the same, by trees that know the answer, hide it, or have no idea. */
static void at_temperature_0_the_text_is_plain_decoding_s(void **state) {
    (void)state;
    const char *const files[] = {near_path, other_path, path};
    struct engine *plain = open_with(ENGINE_DRAFTER_NONE, NULL);
    for (int i = 0; i < 2 * (3 + N_TEST_DRAFTERS); i++) {
        struct test_drafter test;
        struct engine_request request = request_of(1, 90, 0);
        int which = i / 2;
        request.ignore_eos = i % 2;
        request.logprobs = true;
        request.n_top_logprobs = 2;
        struct outcome want = fixture_run(plain, &request);
        assert_int_equal(want.end.finish, i % 2 ? ENGINE_FINISH_LENGTH : ENGINE_FINISH_STOP);
        struct engine *engine =
            which < 3 ? open_with(ENGINE_DRAFTER_MODEL, files[which]) : open_knowing(&test, which - 3, &want, 1);
        for (enum engine_verify v = ENGINE_VERIFY_MATCH; v <= ENGINE_VERIFY_TYPICAL; v++) {
            request.verify = v;
            struct outcome o = fixture_run(engine, &request);
            expect_same(&o, &want);
            assert_int_equal(o.end.usage.verify, v);
            assert_true(o.end.usage.draft_rounds > 0);
            if (files[which % 3] == path && which < 3) assert_true(o.end.usage.accepted_tokens > want.n_ids / 2);
            outcome_free(&o);
        }
        assert_true(nothing_left(engine));
        engine_close(engine);
        outcome_free(&want);
    }
    engine_close(plain);
}

/* A text at some temperature; what plain decoding finds likeliest at each of its places, with which log-probability, is what was
 * told with it. */
static void expect_the_model_s_logprobs(struct engine *plain, const struct outcome *o) {
    int32_t ids[256];
    struct token_list list = {.limit = 256};
    struct engine_request request = request_of(0, 1, 0);
    assert_int_equal(tokenizer_encode_prompt(plain->tokenizer, request.prompt, request.prompt_len, &list), ENGINE_OK);
    memcpy(ids, list.ids, list.n * sizeof *ids);
    memcpy(ids + list.n, o->ids, (size_t)o->n_ids * sizeof *ids);
    request.prompt = NULL;
    request.ids = ids;
    request.logprobs = true;
    request.n_top_logprobs = 2;
    request.ignore_eos = true;
    for (int i = 0; i < o->n_ids; i++) {
        request.n_ids = (int)list.n + i;
        struct outcome want = fixture_run(plain, &request);
        assert_memory_equal(o->logprobs + i * o->stride + 1, want.logprobs + 1, 2 * sizeof *want.logprobs);
        outcome_free(&want);
    }
    token_list_free(&list);
}

/* Protects: behind accepted and rejected guesses the keys and values are those of the text; log-probabilities are the model's; a
 * stop string ends the text inside a draft; a fresh engine gives the same text again. */
static void rounds_leave_the_text_s_state_alone(void **state) {
    (void)state;
    static const char *const stop[] = {"never in this noise \x01"};
    struct engine *plain = open_with(ENGINE_DRAFTER_NONE, NULL);
    for (enum engine_verify v = ENGINE_VERIFY_TOKEN; v <= ENGINE_VERIFY_TYPICAL; v++) {
        struct outcome first = {0};
        for (int again = 0; again < 2; again++) {
            struct engine *engine = open_with(ENGINE_DRAFTER_MODEL, near_path);
            struct engine_request request = request_of(7, 60, 0.9f);
            request.verify = v;
            request.ignore_eos = request.logprobs = true;
            request.n_top_logprobs = 2;
            request.stop = stop;
            request.n_stop = 1;
            struct outcome o = fixture_run(engine, &request);
            assert_int_equal(o.n_ids, 60);
            assert_true(o.end.usage.accepted_tokens > 10 && o.end.usage.accepted_tokens < o.end.usage.drafted_tokens);
            if (again) {
                expect_same(&o, &first);
                size_t at = o.len / 2;
                while (at < o.len && (unsigned char)o.text[at] >= 0x80) at++; /* a character of one byte */
                const char part[2] = {o.text[at]}, *const parts[] = {part};
                assert_true(part[0]);
                request.stop = parts;
                request.logprobs = false;
                struct outcome stopped = fixture_run(engine, &request);
                assert_int_equal(stopped.end.finish, ENGINE_FINISH_STOP);
                assert_true(stopped.len <= at && memcmp(stopped.text, o.text, stopped.len) == 0);
                outcome_free(&stopped);
                outcome_free(&o);
            } else {
                expect_the_model_s_logprobs(plain, &o);
                first = o;
            }
            assert_true(nothing_left(engine));
            engine_close(engine);
        }
        outcome_free(&first);
    }
    engine_close(plain);
}

/* --- distributions --- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { N_SEEDS = 150 }; /* these builds look for other mistakes, and are slow */
#else
enum { N_SEEDS = 2000 };
#endif

enum { CLASSES = 5, CELLS = CLASSES * CLASSES * CLASSES, N_TOKENS = 6 };

/* How often which classes of tokens came at places 0 .. 2, and at 3 .. 5. */
struct counts {
    int cells[2][CELLS];
    int n_drafted, n_accepted;
};

/* One request after the other: beside others a request's drafts may be shorter, which would give another sample in each run. */
static void count(struct engine *engine, enum engine_verify verify, uint64_t first_seed, struct counts *counts) {
    *counts = (struct counts){0};
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        struct engine_request request = request_of(first_seed + seed, N_TOKENS + 2, 1.1f);
        request.verify = verify;
        request.ignore_eos = true;
        struct outcome o = fixture_run(engine, &request);
        assert_int_equal(o.n_ids, N_TOKENS + 2);
        for (int half = 0; half < 2; half++) {
            const int32_t *t = o.ids + 3 * half;
            counts->cells[half][(t[0] % CLASSES * CLASSES + t[1] % CLASSES) * CLASSES + t[2] % CLASSES]++;
        }
        counts->n_drafted += o.end.usage.drafted_tokens;
        counts->n_accepted += o.end.usage.accepted_tokens;
        outcome_free(&o);
    }
}

/* The two-sample chi-square statistic, less its mean and in its standard deviations: about normal. The larger one of the two. */
static double distance(const struct counts *a, const struct counts *b) {
    double worst = -INFINITY;
    for (int half = 0; half < 2; half++) {
        double sum = 0;
        int dof = -1;
        for (int i = 0; i < CELLS; i++) {
            double x = a->cells[half][i], y = b->cells[half][i];
            if (x + y == 0) continue;
            sum += (x - y) * (x - y) / (x + y);
            dof++;
        }
        worst = fmax(worst, (sum - dof) / sqrt(2.0 * dof));
    }
    return worst;
}

static const double FAR = 3.5; /* beyond it no two samples of one distribution are; seeds are fixed, so this is no gamble */

static void expect_near(struct engine *engine, enum engine_verify verify, const struct counts *plain) {
    static struct counts counts;
    count(engine, verify, 1000000, &counts);
    double far = distance(&counts, plain);
    print_message("%s: %.2f deviations, %d of %d guesses accepted\n", engine_verify_name(verify), far, counts.n_accepted,
                  counts.n_drafted);
    assert_true(counts.n_accepted > N_SEEDS / 2 && counts.n_accepted < counts.n_drafted * 9 / 10);
    if (verify == ENGINE_VERIFY_TYPICAL)
        assert_true(far > 2 * FAR); /* lossy, as it says; and so this test sees what is not exact */
    else
        assert_true(far < FAR);
}

/* Protects: guesses drawn by a draft model, and trees of chosen ones, leave the distribution as it is: penalties, bias and cuts
 * follow the path of each node, dice and guesses do not depend on each other, nor do rounds. */
static void first_tokens_are_distributed_as_plain_decoding_s(void **state) {
    (void)state;
    static struct counts plain;
    struct outcome known[DRAFTERS_MAX_ANSWERS];
    struct test_drafter test;
    struct engine *engine = open_with(ENGINE_DRAFTER_NONE, NULL);
    count(engine, ENGINE_VERIFY_MATCH, 0, &plain);
    for (int i = 0; i < DRAFTERS_MAX_ANSWERS; i++) {
        struct engine_request request = request_of(2000000 + (uint64_t)i, N_TOKENS + 2, 1.1f);
        known[i] = fixture_run(engine, &request);
    }
    engine_close(engine);
    engine = open_with(ENGINE_DRAFTER_MODEL, near_path);
    expect_near(engine, ENGINE_VERIFY_TOKEN, &plain);
    expect_near(engine, ENGINE_VERIFY_BLOCK, &plain);
    expect_near(engine, ENGINE_VERIFY_MULTI_STEP, &plain);
    expect_near(engine, ENGINE_VERIFY_TRAVERSAL, &plain);
    expect_near(engine, ENGINE_VERIFY_TYPICAL, &plain);
    engine_close(engine);
    engine = open_knowing(&test, BUSH, known, DRAFTERS_MAX_ANSWERS);
    expect_near(engine, ENGINE_VERIFY_MULTI_STEP, &plain);
    expect_near(engine, ENGINE_VERIFY_TRAVERSAL, &plain);
    engine_close(engine);
    for (int i = 0; i < DRAFTERS_MAX_ANSWERS; i++) outcome_free(&known[i]);
}

/* Protects: auto asks where it pays and counts what was accepted, and where it does not pay it rests. */
static void auto_weighs_what_pays(void **state) {
    (void)state;
    for (int pays = 0; pays < 2; pays++) {
        struct engine *engine = open_with(ENGINE_DRAFTER_AUTO, near_path);
        struct controller *c = &engine->drafting.controller;
        for (int i = 0; i < COST_SAMPLES; i++) { /* as if so; the engine's thread sleeps */
            for (int rows = 1; rows <= 20; rows++) cost_learn(&c->steps, rows, pays ? 100 + rows : rows);
            for (int rows = 1; rows <= 128; rows++) cost_learn(&c->passes, rows, pays ? 0.1 : 100);
        }
        struct engine_request request = request_of(7, 100, 0.9f);
        request.verify = ENGINE_VERIFY_BLOCK;
        request.ignore_eos = true;
        struct outcome o = fixture_run(engine, &request);
        const struct engine_usage *u = &o.end.usage;
        assert_int_equal(u->output_tokens, 100);
        assert_true(pays ? u->model_rounds > 2 && u->accepted_tokens > 4 : u->model_rounds < 20);
        outcome_free(&o);
        assert_true(nothing_left(engine));
        engine_close(engine);
    }
}

/* --- noise that drafters know --- */

struct listener {
    int n, n_silent;
    double sum, next_sum; /* of the arrivals of drawn tokens, and of the same tokens one place further on */
};

static void listen(void *self, int slot, const struct draft_context *context, struct token_tree *tree) {
    struct listener *l = self;
    const struct draft_noise *noise = &context->noise;
    (void)slot, (void)tree;
    l->n++;
    l->n_silent += !noise->of;
    if (!noise->of) return;
    l->sum += noise->of(noise->self, context->n_tokens - 1, context->tokens[context->n_tokens - 1]);
    l->next_sum += noise->of(noise->self, context->n_tokens, context->tokens[context->n_tokens - 1]);
}

/* Protects: the noise that a drafter is shown is that of the draws, place by place; who draws without, or verifies with other
 * noise, shows none. A tiny model knows little, so it is noise that decides what is drawn. */
static void drafters_know_the_noise_of_the_draws(void **state) {
    (void)state;
    static const struct drafter_ops ops = {.begin = drafter_no_begin, .propose = listen, .close = drafter_no_close};
    for (int i = 0; i < 3; i++) {
        struct listener listener = {0};
        struct engine *engine = open_with(ENGINE_DRAFTER_SUFFIX, NULL);
        struct engine_request request = prompt_request("the and you of", 100, i == 1 ? 0 : 1.2f, 9);
        engine_set_drafter(engine, &(struct drafter){&ops, &listener});
        request.ignore_eos = true;
        request.verify = i == 2 ? ENGINE_VERIFY_TOKEN : ENGINE_VERIFY_MATCH;
        struct outcome o = fixture_run(engine, &request);
        assert_true(listener.n > 90);
        assert_int_equal(listener.n_silent, i == 0 ? 0 : listener.n);
        if (i == 0) assert_true(1.5 * listener.sum < listener.next_sum);
        outcome_free(&o);
        engine_close(engine);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drafters_know_the_noise_of_the_draws),
        cmocka_unit_test(at_temperature_0_the_text_is_plain_decoding_s),
        cmocka_unit_test(rounds_leave_the_text_s_state_alone),
        cmocka_unit_test(auto_weighs_what_pays),
        cmocka_unit_test(first_tokens_are_distributed_as_plain_decoding_s),
    };
    struct tiny_model tiny = tiny_model_default(), near = tiny, other = tiny;
    log_set_level(LOG_ERROR);
    near.n_layers = 1;
    other.seed = 77;
    snprintf(path, sizeof path, "/tmp/foresay_test_verify_%d.gguf", getpid());
    snprintf(near_path, sizeof near_path, "/tmp/foresay_test_verify_%d_near.gguf", getpid());
    snprintf(other_path, sizeof other_path, "/tmp/foresay_test_verify_%d_other.gguf", getpid());
    if (!tiny_model_write(path, &tiny) || !tiny_model_write(near_path, &near) || !tiny_model_write(other_path, &other)) return 1;
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    unlink(near_path);
    unlink(other_path);
    return rc;
}
