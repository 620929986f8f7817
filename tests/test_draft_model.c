/* test_draft_model.c - a draft model as users of the engine see it: what is refused, what is counted, long prompts, short
 * contexts, memory that comes back. That no text changes by it is check_equality.c's subject. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/draft_model.h"
#include "engine/log.h"
#include "tests/engine_fixture.h"
#include "tests/tiny_model.h"

static char path[64], other_path[64], scratch_path[64];

static struct engine_config config_with(enum engine_drafter drafter, const char *files) {
    struct engine_config config = engine_config_default();
    config.model_path = path;
    config.n_threads = 1;
    config.max_seqs = 4;
    config.max_waiting = 12;
    config.ctx_len = 512;
    config.drafter = drafter;
    config.draft_files = files;
    return config;
}

static struct engine *open_with(enum engine_drafter drafter, const char *files) {
    struct engine_config config = config_with(drafter, files);
    struct engine *engine = NULL;
    struct engine_error error = {""};
    int rc = engine_open(&engine, &config, &error);
    if (rc != ENGINE_OK) print_message("%s\n", error.text);
    assert_int_equal(rc, ENGINE_OK);
    return engine;
}

static struct engine_request endless(int n_prompt, int n_tokens) {
    static char text[512];
    memset(text, 'y', sizeof text - 1);
    struct engine_request request = prompt_request(text, n_tokens, 0.8f, 5);
    request.prompt_len = (size_t)n_prompt;
    request.ignore_eos = true;
    return request;
}

static int sum_of(const int *counts, int n) {
    int sum = 0;
    for (int i = 0; i < n; i++) sum += counts[i];
    return sum;
}

/* --- what is told --- */

/* Protects: the model as its own drafter is always right, and every count says so. */
static void counts_tell_of_rounds_and_depths(void **state) {
    (void)state;
    struct engine *engine = open_with(ENGINE_DRAFTER_MODEL, path);
    struct engine_request request = endless(20, 100);
    struct outcome o = fixture_run(engine, &request);
    const struct engine_usage *u = &o.end.usage;
    struct engine_stats stats;
    engine_stats(engine, &stats);
    assert_int_equal(u->drafter, ENGINE_DRAFTER_MODEL);
    assert_int_equal(u->accepted_tokens, u->drafted_tokens);
    assert_true(u->model_rounds == u->draft_rounds && u->draft_rounds > 0);
    assert_int_equal(u->output_tokens, 100);
    int n_by_rounds = u->accepted_tokens + u->draft_rounds; /* beside the first token, and perhaps a last one alone */
    assert_true(n_by_rounds == 98 || n_by_rounds == 99);
    assert_int_equal(sum_of(u->accepted_at, ENGINE_DRAFT_DEPTHS), u->accepted_tokens);
    for (int i = 1; i + 1 < ENGINE_DRAFT_DEPTHS; i++) assert_true(u->accepted_at[i] <= u->accepted_at[i - 1]);
    assert_int_equal(stats.model_rounds, u->model_rounds);
    assert_int_equal(stats.accepted_at[0], u->accepted_at[0]);
    assert_true(stats.asked_ms > 0);
    outcome_free(&o);
    request.drafter = ENGINE_DRAFTER_NONE;
    o = fixture_run(engine, &request);
    assert_int_equal(o.end.usage.draft_rounds, 0);
    assert_string_equal(engine_draft_off_name(o.end.usage.draft_off), "none");
    outcome_free(&o);
    request.drafter = ENGINE_DRAFTER_SUFFIX;
    request.prompt_len = 1;
    request.max_tokens = 3;
    o = fixture_run(engine, &request);
    assert_int_equal(o.end.usage.model_rounds, 0);
    outcome_free(&o);
    engine_close(engine);
}

/* Protects: text that the draft model has not seen is caught up in portions beside the steps; then it guesses. */
static void long_prompts_are_caught_up(void **state) {
    (void)state;
    struct engine *engine = open_with(ENGINE_DRAFTER_MODEL, path);
    struct engine_request request = endless(440, 60);
    struct outcome o = fixture_run(engine, &request);
    const struct engine_usage *u = &o.end.usage;
    assert_int_equal(u->accepted_tokens, u->drafted_tokens);
    assert_true(u->draft_rounds > 0 && u->draft_rounds + u->accepted_tokens < 60 - 2); /* the first steps had no guess */
    assert_string_equal(engine_draft_off_name(u->draft_off), "no guess");
    outcome_free(&o);
    request.cache_salt = 0; /* again: the prompt is in the draft model's cache, too */
    o = fixture_run(engine, &request);
    assert_true(o.end.usage.draft_rounds + o.end.usage.accepted_tokens >= 60 - 3);
    outcome_free(&o);
    engine_close(engine);
}

/* Protects: a draft model that was trained for a shorter context guesses up to there, and the text goes on without. */
static void short_contexts_end_the_drafts_only(void **state) {
    (void)state;
    struct tiny_model shorter = tiny_model_default();
    shorter.ctx = 96;
    assert_true(tiny_model_write(scratch_path, &shorter));
    struct engine *plain = open_with(ENGINE_DRAFTER_NONE, NULL), *engine = open_with(ENGINE_DRAFTER_MODEL, scratch_path);
    struct engine_request request = endless(20, 200);
    struct outcome want = fixture_run(plain, &request), o = fixture_run(engine, &request);
    assert_string_equal(o.text, want.text);
    assert_int_equal(o.end.usage.output_tokens, 200);
    assert_true(o.end.usage.accepted_tokens > 40 && o.end.usage.accepted_tokens < 96 - 20 + 1);
    outcome_free(&want);
    outcome_free(&o);
    engine_close(plain);
    engine_close(engine);
}

/* Protects: blocks of the draft model come back from sequences that ended or were cancelled: drafting goes on for ever. */
static void blocks_of_the_draft_model_come_back(void **state) {
    (void)state;
    struct engine *engine = open_with(ENGINE_DRAFTER_MODEL, path);
    for (int round = 0; round < 40; round++) {
        struct outcome o[6] = {{0}};
        struct engine_error error;
        for (int i = 0; i < 6; i++) {
            struct engine_request request = endless(300 + 10 * i, 40);
            request.cache_salt = (uint64_t)(round * 6 + i);
            assert_int_equal(engine_submit(engine, &request, &o[i].id, &error), ENGINE_OK);
        }
        engine_wait(engine, 1000);
        engine_cancel(engine, o[round % 6].id);
        fixture_finish(engine, o, 6);
        for (int i = 0; i < 6; i++) {
            if (i != round % 6) assert_true(o[i].end.usage.accepted_tokens > 0);
            outcome_free(&o[i]);
        }
    }
    assert_true(nothing_left(engine));
    engine_close(engine);
}

/* Protects: auto never asks a draft model as large as the target for long, and a request may ask for one drafter. */
static void requests_choose_among_what_there_is(void **state) {
    (void)state;
    struct engine *engine = open_with(ENGINE_DRAFTER_AUTO, other_path), *without = open_with(ENGINE_DRAFTER_AUTO, NULL);
    struct engine_request request = endless(20, 60);
    struct engine_error error;
    uint64_t id;
    static const enum engine_drafter all[] = {ENGINE_DRAFTER_AUTO, ENGINE_DRAFTER_SUFFIX, ENGINE_DRAFTER_MODEL,
                                              ENGINE_DRAFTER_MERGE};
    struct outcome want = fixture_run(without, &request);
    for (int i = 0; i < 4; i++) {
        request.drafter = all[i];
        struct outcome o = fixture_run(engine, &request);
        assert_string_equal(o.text, want.text);
        assert_int_equal(o.end.usage.drafter, all[i]);
        if (all[i] == ENGINE_DRAFTER_MODEL) assert_true(o.end.usage.model_rounds > 0);
        outcome_free(&o);
    }
    request.drafter = ENGINE_DRAFTER_NGRAM;
    assert_int_equal(engine_submit(engine, &request, &id, &error), ENGINE_ERR_ARGUMENT);
    assert_non_null(strstr(error.text, "no n-gram store"));
    request.drafter = ENGINE_DRAFTER_MODEL;
    assert_int_equal(engine_submit(without, &request, &id, &error), ENGINE_ERR_ARGUMENT);
    assert_non_null(strstr(error.text, "no draft model"));
    outcome_free(&want);
    engine_close(engine);
    engine_close(without);
}

/* Protects: auto asks when the measured times say that it pays, and its guesses are verified. */
static void auto_asks_what_pays(void **state) {
    (void)state;
    struct engine *engine = open_with(ENGINE_DRAFTER_AUTO, path), *plain = open_with(ENGINE_DRAFTER_NONE, NULL);
    struct engine_request request = endless(20, 100);
    struct controller *c = &engine->drafting.controller;
    for (int i = 0; i < COST_SAMPLES; i++) { /* as if the target were a hundred times as slow; the engine's thread sleeps */
        for (int rows = 1; rows <= 20; rows++) cost_learn(&c->steps, rows, 100 + rows);
        for (int rows = 1; rows <= 128; rows++) cost_learn(&c->passes, rows, 1);
    }
    struct outcome want = fixture_run(plain, &request), o = fixture_run(engine, &request);
    assert_string_equal(o.text, want.text);
    assert_true(o.end.usage.model_rounds > 2 && o.end.usage.accepted_tokens > 10);
    outcome_free(&want);
    outcome_free(&o);
    engine_close(engine);
    engine_close(plain);
}

/* Protects: sequences that draft together share the passes. */
static void sequences_share_passes(void **state) {
    (void)state;
    struct engine_config config = config_with(ENGINE_DRAFTER_MODEL, path);
    struct engine *engine = NULL;
    struct engine_error error;
    config.draft_max = 4;
    assert_int_equal(engine_open(&engine, &config, &error), ENGINE_OK);
    bool is_shared = false;
    for (int i_try = 0; i_try < 50 && !is_shared; i_try++) { /* on a busy machine one may be over before the next comes */
        struct outcome o[4] = {{0}};
        uint64_t n_before = engine->drafting.controller.passes.n_passes;
        int n_drafted = 0;
        for (int i = 0; i < 4; i++) {
            struct engine_request request = endless(20 + i, 200);
            assert_int_equal(engine_submit(engine, &request, &o[i].id, &error), ENGINE_OK);
        }
        fixture_finish(engine, o, 4);
        for (int i = 0; i < 4; i++) {
            n_drafted += o[i].end.usage.drafted_tokens;
            assert_int_equal(o[i].end.usage.accepted_tokens, o[i].end.usage.drafted_tokens);
            outcome_free(&o[i]);
        }
        is_shared = engine->drafting.controller.passes.n_passes - n_before < (uint64_t)n_drafted / 2;
    }
    assert_true(is_shared);
    engine_close(engine);
}

/* --- its own cache --- */

static uint64_t rng = 555;

static uint32_t draw(uint32_t n) {
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33) % n;
}

static void propose(struct draft_model *d, int slot, struct request *r, int max_nodes, struct token_tree *tree) {
    struct draft_odds own = {0}, all;
    odds_init_prior(&all);
    const struct draft_context context = {.tokens = r->seq.tokens,
                                          .n_tokens = r->seq.n_tokens,
                                          .own = &own,
                                          .all = &all,
                                          .max_nodes = max_nodes,
                                          .max_width = 1,
                                          .request = r};
    tree_init(tree, r->seq.tokens[r->seq.n_tokens - 1]);
    draft_model_ops.propose(d, slot, &context, tree);
}

/* Protects: whatever became of earlier guesses (all right, the first few, none; verified or not), the next ones are those of a
 * model that reads the text for the first time. The engine's thread sleeps meanwhile. */
static void guesses_do_not_depend_on_earlier_ones(void **state) {
    (void)state;
    struct engine_config config = config_with(ENGINE_DRAFTER_MODEL, other_path);
    config.prefix_cache = false;
    struct engine *engine = NULL;
    struct engine_error error;
    assert_int_equal(engine_open(&engine, &config, &error), ENGINE_OK);
    struct draft_model *d = engine->drafting.model;
    for (int round = 0; round < 12; round++) {
        static int32_t tokens[512];
        struct request r = {.sampling = engine_sampling_default(), .ignore_eos = true};
        r.sampling.temperature = round % 3 ? 0.9f : 0;
        r.sampling.repeat_penalty = 1.2f;
        r.sampling.seed = (uint64_t)round;
        r.seq = (struct sequence){.tokens = tokens, .n_prompt = 5, .n_tokens = 5};
        for (int i = 0; i < 5; i++) tokens[i] = 3 + (int32_t)draw(200);
        while (r.seq.n_tokens < 200) {
            struct token_tree tree, fresh;
            int most = 1 + (int)draw(9);
            propose(d, 0, &r, most, &tree);
            draft_model_ops.begin(d, 1);
            for (int i = 0; i < 2; i++) propose(d, 1, &r, most, &fresh); /* a long text takes two rounds */
            assert_int_equal(tree.n_nodes, most + 1);
            assert_int_equal(tree.n_nodes, fresh.n_nodes);
            for (int i = 1; i < tree.n_nodes; i++) {
                assert_int_equal(tree.tokens[i], fresh.tokens[i]);
                assert_int_equal(tree.odds_class[i], fresh.odds_class[i]);
            }
            int n_right = (int)draw((uint32_t)most + 1);
            for (int i = 1; i <= n_right; i++) tokens[r.seq.n_tokens++] = tree.tokens[i];
            for (int n = 1 + (int)draw(3) / 2 * 20; n > 0; n--) { /* the bonus; sometimes steps in which nobody asked */
                int32_t next = n_right < most ? tree.tokens[n_right + 1] : 7;
                tokens[r.seq.n_tokens++] = draw(2) ? next : (next + 1) % TINY_VOCAB;
            }
        }
        draft_model_ops.begin(d, 0);
    }
    engine_close(engine);
}

/* --- what is refused --- */

static void refused(struct engine_config config, int status, const char *word) {
    struct engine *engine = (struct engine *)1;
    struct engine_error error = {""};
    int rc = engine_open(&engine, &config, &error);
    if (rc != status || !strstr(error.text, word)) print_message("%d, and '%s' is not in: %s\n", rc, word, error.text);
    assert_int_equal(rc, status);
    assert_null(engine);
    assert_non_null(strstr(error.text, word));
}

/* The first n bytes of the model, with one byte changed. */
static void write_damaged(long n, const char *find, char with) {
    FILE *in = fopen(path, "rb"), *out = fopen(scratch_path, "wb");
    char *bytes = malloc((size_t)n);
    assert_true(in && out && bytes && fread(bytes, 1, (size_t)n, in) == (size_t)n);
    char *at = find ? memmem(bytes, (size_t)n, find, strlen(find)) : NULL;
    if (at) *at = with;
    assert_true(!find || at);
    assert_int_equal(fwrite(bytes, 1, (size_t)n, out), n);
    free(bytes);
    fclose(in);
    fclose(out);
}

static long size_of(const char *file_path) {
    FILE *file = fopen(file_path, "rb");
    fseek(file, 0, SEEK_END);
    long n = ftell(file);
    fclose(file);
    return n;
}

/* Protects: each bad file has its sentence. */
static void bad_files_are_refused(void **state) {
    (void)state;
    char two[160];
    refused(config_with(ENGINE_DRAFTER_MODEL, "/nonexistent/small.gguf"), ENGINE_ERR_IO, "/nonexistent/small.gguf");
    refused(config_with(ENGINE_DRAFTER_MODEL, NULL), ENGINE_ERR_ARGUMENT, "--drafter model:FILE");
    refused(config_with(ENGINE_DRAFTER_NGRAM, path), ENGINE_ERR_ARGUMENT, "--drafter ngram:FILE");
    refused(config_with(ENGINE_DRAFTER_MERGE, NULL), ENGINE_ERR_ARGUMENT, "--drafter merge:FILE");
    refused(config_with(ENGINE_DRAFTER_MODEL, "Makefile"), ENGINE_ERR_ARGUMENT, "Makefile is not a GGUF file");
    refused(config_with(ENGINE_DRAFTER_AUTO, "Makefile"), ENGINE_ERR_ARGUMENT, "Makefile");
    snprintf(two, sizeof two, "%s,%s", path, other_path);
    refused(config_with(ENGINE_DRAFTER_AUTO, two), ENGINE_ERR_ARGUMENT, "second draft model");
    write_damaged(size_of(path), "<|im_start|>", 'X'); /* a token of another name */
    refused(config_with(ENGINE_DRAFTER_MODEL, scratch_path), ENGINE_ERR_ARGUMENT, "another vocabulary than the model");
    write_damaged(size_of(path) / 2, NULL, 0);
    refused(config_with(ENGINE_DRAFTER_MODEL, scratch_path), ENGINE_ERR_MODEL, scratch_path);
    write_damaged(40, NULL, 0);
    refused(config_with(ENGINE_DRAFTER_AUTO, scratch_path), ENGINE_ERR_MODEL, scratch_path);
    struct engine_config config = config_with(ENGINE_DRAFTER_MODEL, path);
    config.draft_max = 0;
    refused(config, ENGINE_ERR_ARGUMENT, "--draft-max is 0");
    config.draft_max = 1 << 30;
    refused(config, ENGINE_ERR_ARGUMENT, "--draft-max");
}

/* Protects: the draft model's memory counts, and what does not fit is refused before it is allocated. */
static void memory_is_counted(void **state) {
    (void)state;
    struct tiny_model deep = tiny_model_default();
    deep.n_layers = 64;
    deep.n_embd = 256;
    deep.n_kv_heads = 4;
    deep.n_ffn = 32;
    assert_true(tiny_model_write(scratch_path, &deep));
    struct engine_config config = config_with(ENGINE_DRAFTER_NONE, NULL);
    config.max_seqs = config.step_tokens = 4096; /* 131,072 blocks: half a GiB here, 128 GiB there */
    config.kv_bytes = (size_t)4096 * 32 * 4096;
    struct engine *engine = NULL;
    struct engine_error error;
    config.drafter = ENGINE_DRAFTER_MODEL;
    config.draft_files = scratch_path;
    refused(config, ENGINE_ERR_MEMORY, "for the draft model");
    refused(config, ENGINE_ERR_MEMORY, "or choose a smaller draft model");
    config.max_seqs = 4, config.step_tokens = 64, config.kv_bytes = 0;
    assert_int_equal(engine_open(&engine, &config, &error), ENGINE_OK);
    engine_close(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_tell_of_rounds_and_depths),
        cmocka_unit_test(long_prompts_are_caught_up),
        cmocka_unit_test(short_contexts_end_the_drafts_only),
        cmocka_unit_test(blocks_of_the_draft_model_come_back),
        cmocka_unit_test(auto_asks_what_pays),
        cmocka_unit_test(sequences_share_passes),
        cmocka_unit_test(guesses_do_not_depend_on_earlier_ones),
        cmocka_unit_test(requests_choose_among_what_there_is),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(memory_is_counted),
    };
    struct tiny_model tiny = tiny_model_default(), other = tiny;
    other.seed = 77;
    log_set_level(LOG_ERROR);
    snprintf(path, sizeof path, "/tmp/foresay_test_draft_%d.gguf", getpid());
    snprintf(other_path, sizeof other_path, "/tmp/foresay_test_draft_%d_other.gguf", getpid());
    snprintf(scratch_path, sizeof scratch_path, "/tmp/foresay_test_draft_%d_scratch.gguf", getpid());
    if (!tiny_model_write(path, &tiny) || !tiny_model_write(other_path, &other)) return 1;
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    unlink(other_path);
    unlink(scratch_path);
    return rc;
}
