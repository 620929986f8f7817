/* test_user_text.c - users' own earlier texts: what a user was told makes his next answer come faster and never another one; it
 * reaches nobody else, is bounded, and is gone once forgotten. On a tiny random model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/log.h"
#include "tests/engine_fixture.h"
#include "tests/tiny_model.h"

enum { ANN = 11, BOB = 12 };

static char path[64];

static struct engine *open_with(enum engine_drafter drafter, int user_texts, int user_text_tokens) {
    struct engine_config config = engine_config_default();
    struct engine *engine = NULL;
    struct engine_error error = {""};
    config.model_path = path;
    config.n_threads = 1;
    config.max_seqs = 4;
    config.step_tokens = 32;
    config.ctx_len = 512;
    config.drafter = drafter;
    config.user_texts = user_texts;
    config.user_text_tokens = user_text_tokens;
    config.user_tune_idle_ms = 0;
    if (engine_open(&engine, &config, &error) != ENGINE_OK) print_message("%s\n", error.text);
    assert_non_null(engine);
    engine_events_per_token(engine);
    return engine;
}

/* Tokens of the user that can be found, once all of his texts are filed. */
static int settled(struct engine *engine, uint64_t key) {
    int n;
    while ((n = user_texts_tokens(&engine->user_texts, key)) < 0) usleep(500);
    return n;
}

static void feed(struct engine *engine, uint64_t key, const char *text) {
    assert_int_equal(engine_user_text(engine, key, text, strlen(text)), ENGINE_OK);
    assert_true(engine_knows_user(engine, key));
    assert_true(settled(engine, key) > 0);
}

static struct engine_request ask(uint64_t key, uint64_t seed) {
    struct engine_request request = prompt_request("in the end", 150, 0.9f, seed);
    request.ignore_eos = true;
    request.user_key = key;
    return request;
}

/* A store of these answers, whatever a trial would say of it. */
static void give_store(struct engine *engine, uint64_t key, const struct outcome *answers, int n) {
    int32_t text[2000];
    uint64_t n_text = 0, size;
    for (int i = 0; i < n; i++) {
        memcpy(text + n_text, answers[i].ids, (size_t)answers[i].n_ids * sizeof *text);
        n_text += (uint64_t)answers[i].n_ids;
        text[n_text++] = -1;
    }
    void *image = ngram_build(text, n_text, TINY_VOCAB, 0, 0, 1 << 16, &size);
    struct past_text *past = user_texts_hold(&engine->user_texts, key);
    assert_true(image && past);
    past_set_store(past, image, size);
    user_texts_release(&engine->user_texts);
}

static void assert_same(const struct outcome *a, const struct outcome *b) {
    assert_int_equal(a->n_ids, b->n_ids);
    assert_memory_equal(a->ids, b->ids, (size_t)a->n_ids * sizeof *a->ids);
    assert_string_equal(a->text, b->text);
}

/* Protects: the text with guesses from own earlier texts is the text without; they are made for their user alone, also while
 * others run beside him; usage counts them. */
static void own_texts_are_guessed_from_and_change_nothing(void **state) {
    struct engine *plain = open_with(ENGINE_DRAFTER_NONE, 4, 4096), *engine = open_with(ENGINE_DRAFTER_SUFFIX, 4, 4096);
    struct outcome reference[6], together[12] = {{0}};
    for (uint64_t i = 0; i < 6; i++) {
        struct engine_request request = ask(0, 100 + i);
        reference[i] = fixture_run(plain, &request);
        assert_int_equal(reference[i].end.usage.own_tokens, 0);
        if (i % 2 == 0) feed(engine, ANN, reference[i].text);
    }
    feed(engine, BOB, "the quick brown fox");
    if (*state) give_store(engine, ANN, reference, 6);
    int n_own = 0;
    for (int i = 0; i < 12; i++) { /* each answer for Ann and for somebody else, in one batch */
        struct engine_request request = ask(i < 6 ? ANN : i < 9 ? BOB : 0, 100 + (uint64_t)i % 6);
        struct engine_error error;
        assert_int_equal(engine_submit(engine, &request, &together[i].id, &error), ENGINE_OK);
    }
    fixture_finish(engine, together, 12);
    for (int i = 0; i < 12; i++) {
        const struct engine_usage *usage = &together[i].end.usage;
        assert_same(&together[i], &reference[i % 6]);
        assert_true(usage->own_tokens <= usage->accepted_tokens);
        if (i < 6) n_own += usage->own_tokens;
        if (i >= 6) assert_int_equal(usage->own_tokens, 0);
        outcome_free(&together[i]);
    }
    assert_true(n_own > (*state ? 100 : 20)); /* the model babbles, and half of it is new */
    struct engine_request typical = ask(ANN, 100);
    typical.verify = ENGINE_VERIFY_TYPICAL; /* there guesses may change the text */
    struct outcome lossy = fixture_run(engine, &typical);
    assert_int_equal(lossy.end.usage.own_tokens, 0);
    outcome_free(&lossy);
    engine_forget_user(engine, ANN);
    for (int i = 0; i < 6; i++) {
        struct engine_request request = ask(ANN, 100 + (uint64_t)i);
        struct outcome o = fixture_run(engine, &request);
        assert_int_equal(o.end.usage.own_tokens, 0);
        assert_same(&o, &reference[i]);
        outcome_free(&o);
        outcome_free(&reference[i]);
    }
    engine_close(plain);
    engine_close(engine);
}

/* Protects: texts that come and go while answers are guessed from them (the sanitizers watch); nothing of them is left. */
static void texts_may_go_at_any_moment(void **state) {
    (void)state;
    struct engine *engine = open_with(ENGINE_DRAFTER_SUFFIX, 2, 256);
    struct engine_request request = ask(ANN, 100);
    struct outcome first = fixture_run(engine, &request);
    for (int round = 0; round < 10; round++) {
        struct outcome o = {0};
        struct engine_error error;
        assert_int_equal(engine_submit(engine, &request, &o.id, &error), ENGINE_OK);
        while (!o.done) {
            for (uint64_t key = ANN; key < ANN + 4; key++) engine_user_text(engine, key, first.text, first.len);
            if (round % 2) engine_forget_user(engine, ANN);
            if (fixture_poll(engine, &o, 1, 8) == 0) engine_wait(engine, 5);
        }
        assert_same(&o, &first);
        outcome_free(&o);
        for (int i = 0; i < 20; i++) {
            engine_user_text(engine, ANN, first.text, first.len);
            engine_forget_user(engine, ANN);
            assert_false(engine_knows_user(engine, ANN));
        }
        for (uint64_t key = ANN; key < ANN + 4; key++) settled(engine, key);
        assert_int_equal(settled(engine, ANN), 0);
    }
    outcome_free(&first);
    engine_close(engine); /* with texts in it */
}

/* Protects: as many users as there are places, the one not seen for longest leaves; of each so many tokens. */
static void users_and_tokens_are_bounded(void **state) {
    (void)state;
    struct engine *engine = open_with(ENGINE_DRAFTER_AUTO, 2, 64);
    char text[2000];
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + i * i % 23);
    text[sizeof text - 1] = 0;
    feed(engine, ANN, text);
    int most = settled(engine, ANN);
    assert_true(most >= 32 && most <= 64);
    feed(engine, BOB, "the");
    feed(engine, ANN, "the end"); /* Ann was seen later than Bob */
    feed(engine, 13, "the");
    assert_true(engine_knows_user(engine, ANN) && !engine_knows_user(engine, BOB) && engine_knows_user(engine, 13));
    struct engine_request request = ask(ANN, 1);
    struct outcome o = fixture_run(engine, &request); /* asking counts, too */
    outcome_free(&o);
    feed(engine, BOB, "the");
    assert_true(engine_knows_user(engine, ANN) && engine_knows_user(engine, BOB) && !engine_knows_user(engine, 13));
    assert_true(settled(engine, ANN) <= 64);
    engine_close(engine);
}

/* Protects: what cannot be kept is said so; what waits is bounded, and a forgotten user's share of it is room again. */
static void what_cannot_be_kept_is_refused(void **state) {
    (void)state;
    struct engine_info info;
    struct engine *engine = open_with(ENGINE_DRAFTER_NONE, 4, 4096);
    engine_info(engine, &info);
    assert_true(!info.can_learn && engine_user_text(engine, ANN, "the", 3) == ENGINE_ERR_ARGUMENT);
    assert_false(engine_knows_user(engine, ANN));
    engine_close(engine);
    engine = open_with(ENGINE_DRAFTER_AUTO, 0, 4096);
    engine_info(engine, &info);
    assert_true(!info.can_learn && engine_user_text(engine, ANN, "the", 3) == ENGINE_ERR_ARGUMENT);
    engine_forget_user(engine, ANN);
    engine_close(engine);
    engine = open_with(ENGINE_DRAFTER_AUTO, 1, 4096);
    assert_int_equal(engine_user_text(engine, 0, "the", 3), ENGINE_ERR_ARGUMENT);
    engine_close(engine);
    struct user_texts texts;
    char *text = calloc(1 << 20, 1);
    int n = 0;
    assert_int_equal(user_texts_init(&texts, 2, 64), ENGINE_OK); /* no tokenizer thread takes anything out */
    while (n < 100 && user_texts_post(&texts, n % 2 ? ANN : BOB, text, 1 << 20) == ENGINE_OK) n++;
    assert_true(n > 4 && n < 20);
    assert_int_equal(user_texts_post(&texts, ANN, text, (size_t)1 << 40), ENGINE_ERR_BUSY); /* before a byte is read */
    user_texts_forget(&texts, BOB);
    assert_true(user_texts_know(&texts, ANN) && !user_texts_know(&texts, BOB));
    assert_int_equal(user_texts_post(&texts, BOB, text, 1 << 20), ENGINE_OK);
    user_texts_free(&texts);
    free(text);
}

/* --- stores of users' own n-grams --- */

static uint64_t rng = 7;

static uint32_t draw(uint32_t n) {
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33) % n;
}

/* Texts in which a letter follows from the two before it, most of the time: what counting finds better than the latest match. */
static void feed_texts(struct engine *engine, uint64_t key, int n_texts, bool has_rule) {
    char text[200];
    for (int k = 0; k < n_texts; k++) {
        for (unsigned i = 0; i < sizeof text; i++) {
            unsigned last = i > 0 ? (unsigned)text[i - 1] : 0, before = i > 1 ? (unsigned)text[i - 2] : 0;
            text[i] = (char)('A' + (has_rule && draw(10) < 6 ? (last * 7 + before * 5 + 3) % 12 : draw(12)));
        }
        assert_int_equal(engine_user_text(engine, key, text, sizeof text), ENGINE_OK);
    }
}

static void await_trials(struct engine *engine, uint64_t key) {
    settled(engine, key);
    while (user_texts_want_tuning(&engine->user_texts)) usleep(500);
}

/* Protects: a store is made where it helps on texts that it has not seen, and nowhere else; it changes no text; it goes when its
 * guesses stop coming true, and with its user. */
static void a_store_is_kept_as_long_as_it_gains(void **state) {
    (void)state;
    struct engine *engine = open_with(ENGINE_DRAFTER_SUFFIX, 4, 8192);
    struct user_texts *texts = &engine->user_texts;
    struct engine_request nobodys = ask(0, 100), anns = ask(ANN, 100);
    feed_texts(engine, ANN, 30, true);
    feed_texts(engine, BOB, 30, false);
    await_trials(engine, ANN);
    await_trials(engine, BOB);
    assert_true(user_texts_has_store(texts, ANN) && !user_texts_has_store(texts, BOB));
    struct outcome without = fixture_run(engine, &nobodys), with = fixture_run(engine, &anns);
    assert_same(&with, &without);
    outcome_free(&without);
    outcome_free(&with);
    user_texts_score(texts, ANN, 150, 0); /* too few to tell */
    assert_true(user_texts_has_store(texts, ANN));
    user_texts_score(texts, ANN, 300, 290);
    assert_true(user_texts_has_store(texts, ANN));
    user_texts_score(texts, BOB, 300, 0);
    for (int i = 0; i < 30; i++) user_texts_score(texts, ANN, 100, 1);
    assert_true(!user_texts_has_store(texts, ANN) && engine_knows_user(engine, ANN)); /* the texts themselves stay */
    feed_texts(engine, ANN, 20, true);
    await_trials(engine, ANN);
    assert_true(user_texts_has_store(texts, ANN));
    engine_forget_user(engine, ANN);
    assert_false(user_texts_has_store(texts, ANN));
    engine_close(engine);
}

/* Protects: whoever is forgotten in the middle of a trial gets nothing of it; closing in the middle is clean. */
static void trials_end_with_their_user(void **state) {
    (void)state;
    struct engine *engine = open_with(ENGINE_DRAFTER_AUTO, 4, 8192);
    for (int round = 0; round < 30; round++) {
        feed_texts(engine, ANN, 30, true);
        settled(engine, ANN);
        for (uint32_t n = draw(40); n > 0; n--) usleep(100);
        engine_forget_user(engine, ANN);
        assert_false(engine_knows_user(engine, ANN));
        await_trials(engine, ANN);
        assert_false(user_texts_has_store(&engine->user_texts, ANN) || engine_knows_user(engine, ANN));
    }
    feed_texts(engine, ANN, 30, true);
    settled(engine, ANN);
    engine_close(engine);
}

/* Protects: nothing is tried while a request is there. */
static void trials_wait_until_nobody_is_there(void **state) {
    (void)state;
    struct engine *engine = open_with(ENGINE_DRAFTER_AUTO, 4, 8192);
    struct engine_request request = ask(ANN, 1);
    struct outcome o = {0};
    struct engine_error error;
    assert_int_equal(engine_submit(engine, &request, &o.id, &error), ENGINE_OK);
    feed_texts(engine, ANN, 30, true);
    settled(engine, ANN);
    usleep(20000);
    assert_true(user_texts_want_tuning(&engine->user_texts) && !user_texts_has_store(&engine->user_texts, ANN));
    fixture_finish(engine, &o, 1);
    await_trials(engine, ANN);
    assert_true(user_texts_has_store(&engine->user_texts, ANN));
    outcome_free(&o);
    engine_close(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_texts_are_guessed_from_and_change_nothing),
        cmocka_unit_test_prestate(own_texts_are_guessed_from_and_change_nothing, path), /* with a store of them, too */
        cmocka_unit_test(texts_may_go_at_any_moment),
        cmocka_unit_test(users_and_tokens_are_bounded),
        cmocka_unit_test(what_cannot_be_kept_is_refused),
        cmocka_unit_test(a_store_is_kept_as_long_as_it_gains),
        cmocka_unit_test(trials_end_with_their_user),
        cmocka_unit_test(trials_wait_until_nobody_is_there),
    };
    struct tiny_model tiny = tiny_model_default();
    log_set_level(LOG_ERROR);
    snprintf(path, sizeof path, "/tmp/foresay_test_user_text_%d.gguf", getpid());
    if (!tiny_model_write(path, &tiny)) return 1;
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return rc;
}
