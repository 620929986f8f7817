/* test_head.c - drafting heads on a tiny model: training that is killed and resumed, files that do not fit, what the engine
 * says. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <math.h>

#include <cmocka.h>

#include "engine/internal.h"
#include "engine/log.h"
#include "engine/tools.h"
#include "engine/train_head.h"
#include "engine/train_mix.h"
#include "engine/train_text.h"
#include "tests/tiny_model.h"

static char folder[64] = "/tmp/foresay_head_XXXXXX";
static char model_path[96], text_path[96];

static const char *in_folder(const char *name, char path[128]) {
    snprintf(path, 128, "%s/%s", folder, name);
    return path;
}

/* A text that no model would write: what counts is that it is always the same. */
static void write_text(void) {
    struct engine_config config = engine_config_default();
    struct engine *engine;
    struct engine_error error;
    struct text_head head = {.magic = "fstext 1"};
    config.model_path = model_path;
    assert_int_equal(engine_open(&engine, &config, &error), ENGINE_OK);
    draft_digests(engine->tokenizer, engine->model, &head.vocab_digest, &head.target_digest);
    engine_close(engine);
    FILE *file = fopen(text_path, "wb");
    assert_non_null(file);
    fwrite(&head, sizeof head, 1, file);
    for (int answer = 0; answer < 60; answer++) {
        for (int i = 0; i < 5; i++) fwrite(&(int32_t){text_of_prompt(answer + i)}, sizeof(int32_t), 1, file);
        for (int i = 0; i < 20 + answer % 7; i++) fwrite(&(int32_t){(answer + i * i) % 90}, sizeof(int32_t), 1, file);
        fwrite(&(int32_t){TEXT_END}, sizeof(int32_t), 1, file);
    }
    assert_int_equal(fclose(file), 0);
}

static int set_up(void **state) {
    const struct tiny_model tiny = tiny_model_default();
    (void)state;
    log_set_level(LOG_ERROR);
    if (!mkdtemp(folder)) return -1;
    snprintf(model_path, sizeof model_path, "%s/tiny.gguf", folder);
    snprintf(text_path, sizeof text_path, "%s/text", folder);
    if (!tiny_model_write(model_path, &tiny)) return -1;
    write_text();
    return 0;
}

static int tear_down(void **state) {
    static const char *const names[] = {"whole",      "whole.state",     "killed",         "killed.state",
                                        "medusa",     "medusa.state",    "recurrent",      "recurrent.state",
                                        "both.ngram", "both.ngram.text", "both.head.gguf", "both.head.gguf.state",
                                        "cut",        "other.gguf",      "text",           "tiny.gguf",
                                        "whole2",     "whole2.state",    "killed2",        "killed2.state"};
    char path[128];
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unlink(in_folder(names[i], path));
    return rmdir(folder);
}

static struct train_head_settings settings_for(enum head_kind kind, const char *out) {
    return (struct train_head_settings){.kind = kind,
                                        .model = model_path,
                                        .out = out,
                                        .text = text_path,
                                        .hours = 1,
                                        .rate = 1e-3f,
                                        .save_minutes = 60,
                                        .n_vocab = 96,
                                        .epochs = 2,
                                        .steps = TRAIN_STEPS,
                                        .threads = 1};
}

static char *read_all(const char *path, size_t *n) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *bytes = malloc(1 << 22);
    *n = fread(bytes, 1, 1 << 22, file);
    fclose(file);
    return bytes;
}

/* In a process of its own that is killed once a checkpoint lies there; it writes one after every step. */
static void train_and_kill(struct train_head_settings settings) {
    const char *out = settings.out;
    char state[160];
    settings.save_minutes = 0;
    snprintf(state, sizeof state, "%s.state", out);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(3);
        _exit(train_head(&settings));
    }
    while (access(state, R_OK) != 0 && waitpid(child, NULL, WNOHANG) == 0) usleep(1000);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_not_equal(access(out, R_OK), 0); /* it had not come to its end */
}

static void resume(struct train_head_settings settings, const char *whole, const char *killed) {
    size_t n_whole, n_killed;
    settings.out = whole;
    assert_int_equal(train_head(&settings), 0);
    settings.out = killed;
    train_and_kill(settings);
    settings.threads = 2;
    assert_int_not_equal(train_head(&settings), 0); /* a state is there, and nobody said --resume */
    settings.resume = true;
    assert_int_equal(train_head(&settings), 0);
    char *a = read_all(whole, &n_whole), *b = read_all(killed, &n_killed);
    assert_int_equal(n_whole, n_killed);
    assert_memory_equal(a, b, n_whole);
    free(a);
    free(b);
}

static void test_resumed_training_ends_with_the_same_weights(void **state) {
    char whole[128], killed[128];
    (void)state;
    struct train_head_settings settings = settings_for(HEAD_EAGLE, NULL);
    resume(settings, in_folder("whole", whole), in_folder("killed", killed));
    settings.kind = HEAD_RECURRENT;
    settings.epochs = 50; /* a checkpoint comes after each */
    resume(settings, in_folder("whole2", whole), in_folder("killed2", killed));
}

static int open_with(const char *model, enum engine_drafter drafter, const char *head, char *text, size_t size) {
    struct engine_config config = engine_config_default();
    struct engine *engine;
    struct engine_error error = {""};
    config.model_path = model;
    config.drafter = drafter;
    config.draft_files = head;
    int rc = engine_open(&engine, &config, &error);
    if (rc == ENGINE_OK) engine_close(engine);
    snprintf(text, size, "%s", error.text);
    return rc;
}

static void expect_refusal(const char *model, enum engine_drafter drafter, const char *head, const char *words) {
    char text[512];
    assert_int_not_equal(open_with(model, drafter, head, text, sizeof text), ENGINE_OK);
    if (!strstr(text, words)) fail_msg("\"%s\" does not say \"%s\"", text, words);
}

static void test_heads_that_do_not_fit_are_refused(void **state) {
    char whole[128], medusa[128], recurrent[128], other[128], text[512];
    struct tiny_model tiny = tiny_model_default();
    (void)state;
    in_folder("whole", whole);
    struct train_head_settings settings = settings_for(HEAD_MEDUSA, in_folder("medusa", medusa));
    assert_int_equal(train_head(&settings), 0);
    settings = settings_for(HEAD_RECURRENT, in_folder("recurrent", recurrent));
    assert_int_equal(train_head(&settings), 0);
    assert_int_equal(open_with(model_path, ENGINE_DRAFTER_RECURRENT, recurrent, text, sizeof text), ENGINE_OK);
    expect_refusal(model_path, ENGINE_DRAFTER_RECURRENT, NULL, "--drafter recurrent:FILE");
    expect_refusal(model_path, ENGINE_DRAFTER_BLOCKWISE, recurrent, "--drafter recurrent:FILE");
    assert_int_equal(open_with(model_path, ENGINE_DRAFTER_EAGLE, whole, text, sizeof text), ENGINE_OK);
    assert_int_equal(open_with(model_path, ENGINE_DRAFTER_BLOCKWISE, medusa, text, sizeof text), ENGINE_OK);
    expect_refusal(model_path, ENGINE_DRAFTER_EAGLE, NULL, "--drafter eagle:FILE");
    expect_refusal(model_path, ENGINE_DRAFTER_EAGLE, medusa, "--drafter medusa:FILE");
    expect_refusal(model_path, ENGINE_DRAFTER_MEDUSA, whole, "--drafter eagle:FILE");
    expect_refusal(model_path, ENGINE_DRAFTER_EAGLE, model_path, "trained for the model");
    expect_refusal(model_path, ENGINE_DRAFTER_EAGLE, text_path, "is not a GGUF file: --drafter eagle needs one");
    tiny.seed = 2;
    assert_true(tiny_model_write(in_folder("other.gguf", other), &tiny));
    expect_refusal(other, ENGINE_DRAFTER_EAGLE, whole, "belongs to another model of the same vocabulary");
    tiny.n_embd = tiny.n_ffn = 128;
    assert_true(tiny_model_write(other, &tiny));
    expect_refusal(other, ENGINE_DRAFTER_EAGLE, whole, "it belongs to another model");
    expect_refusal(other, ENGINE_DRAFTER_MEDUSA, medusa, "it belongs to another model");
    expect_refusal(other, ENGINE_DRAFTER_AUTO, recurrent, "it belongs to another model");
}

/* Cut anywhere, the file is refused; nothing crashes. */
static void test_cut_files_are_refused(void **state) {
    char whole[128], cut[128], text[512];
    size_t n;
    (void)state;
    char *bytes = read_all(in_folder("whole", whole), &n);
    in_folder("cut", cut);
    for (size_t i = 0; i < 24; i++) {
        size_t length = i < 12 ? n * i / 12 : n - (i - 11) * 40;
        FILE *file = fopen(cut, "wb");
        assert_true(file && fwrite(bytes, 1, length, file) == length && fclose(file) == 0);
        assert_int_not_equal(open_with(model_path, ENGINE_DRAFTER_EAGLE, cut, text, sizeof text), ENGINE_OK);
        assert_true(strlen(text) > 10);
    }
    free(bytes);
}

/* Tensors and keys renamed or changed in place, as a careless converter would. */
static void test_inconsistent_files_are_refused(void **state) {
    static const struct {
        const char *from, *to, *words;
    } changes[] = {{"fc.weight", "fc.weighs", "fc.weight"},
                   {"blk.0.attn_norm_2.weight", "blk.0.attn_norm_3.weight", "attn_norm_2"},
                   {"d2t", "t2d", "d2t"},
                   {"eagle3.target_layers", "eagle3.target_lawyer", "target_layers"},
                   {"eagle3.attention.head_count_kv", "eagle3.attention.head_count_vk", "head_count_kv"},
                   {"draft.vocab_digest", "draft.vocab_digits", "does not say which model"}};
    char whole[128], cut[128];
    size_t n;
    (void)state;
    char *bytes = read_all(in_folder("whole", whole), &n);
    in_folder("cut", cut);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        size_t length = strlen(changes[i].from);
        char *at = memmem(bytes, n, changes[i].from, length), kept[64];
        assert_non_null(at);
        memcpy(kept, at, length);
        memcpy(at, changes[i].to, length);
        FILE *file = fopen(cut, "wb");
        assert_true(file && fwrite(bytes, 1, n, file) == n && fclose(file) == 0);
        memcpy(at, kept, length);
        expect_refusal(model_path, ENGINE_DRAFTER_EAGLE, cut, changes[i].words);
    }
    free(bytes);
}

/* Store and head in one go, and the engine takes both. */
static void test_all_kinds_are_made_together(void **state) {
    char out[128], files[300], text[512];
    (void)state;
    in_folder("both", out);
    const char *const arguments[] = {"train-draft", "--model",   model_path, "--out",   out,  "--kind",
                                     "all",         "--tokens",  "18000",    "--vocab", "96", "--epochs",
                                     "1",           "--threads", "1",        "--batch", "8"};
    const int n = sizeof arguments / sizeof *arguments;
    char *argv[sizeof arguments / sizeof *arguments + 1] = {NULL};
    for (int i = 0; i < n; i++) argv[i] = strdup(arguments[i]);
    assert_int_equal(tool_train_draft(n, argv), 0);
    for (int i = 0; i < n; i++) free(argv[i]);
    snprintf(files, sizeof files, "%s.ngram,%s.head.gguf", out, out);
    assert_int_equal(open_with(model_path, ENGINE_DRAFTER_MERGE, files, text, sizeof text), ENGINE_OK);
}

static void test_engines_without_a_head_say_so(void **state) {
    struct engine_config config = engine_config_default();
    struct engine *engine;
    struct engine_error error = {""};
    uint64_t id;
    (void)state;
    config.model_path = model_path;
    assert_int_equal(engine_open(&engine, &config, &error), ENGINE_OK);
    const struct engine_request request = {
        .prompt = "a", .prompt_len = 1, .max_tokens = 1, .sampling = engine_sampling_default(), .drafter = ENGINE_DRAFTER_EAGLE};
    assert_int_equal(engine_submit(engine, &request, &id, &error), ENGINE_ERR_ARGUMENT);
    assert_non_null(strstr(error.text, "no drafting head"));
    engine_close(engine);
    /* Another kind of head is none, either. */
    char recurrent[128];
    config.draft_files = in_folder("recurrent", recurrent);
    assert_int_equal(engine_open(&engine, &config, &error), ENGINE_OK);
    assert_int_equal(engine_submit(engine, &request, &id, &error), ENGINE_ERR_ARGUMENT);
    engine_close(engine);
}

/* --- mixed rows --- */

enum { MIXED = 40, MIXED_VOCAB = 96 };

static uint64_t rng = 7;
static float draw(void) {
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (float)(rng >> 40) * 0x1p-24f;
}

static struct example draw_example(const struct model *model, int32_t tokens[MIXED]) {
    const int h = model->shape.n_embd;
    float *input = calloc((size_t)(MIXED * h), sizeof *input), *embeddings = calloc((size_t)(MIXED * h), sizeof *embeddings);
    float *target = calloc(MIXED * MIXED_VOCAB, sizeof *target), *weight = calloc(MIXED, sizeof *weight);
    assert_true(input && embeddings && target && weight);
    for (int i = 0; i < MIXED * h; i++) input[i] = draw() - 0.5f;
    for (int row = 0; row < MIXED; row++) {
        tokens[row] = (int32_t)(draw() * 90);
        weight[row] = row == 20 ? 0 : 0.5f + draw();
        for (int i = 0; i < 8; i++) target[row * MIXED_VOCAB + 11 * i + row % 11] = 0.125f; /* fewer than a mix keeps */
    }
    model->backend.ops->embed(model->backend.self, model->embedding, tokens, MIXED, model->embedding_scale, embeddings, h);
    return (struct example){.n = MIXED, .input = input, .embeddings = embeddings, .target = target, .weight = weight};
}

/* Protects: rows that are dealt out anew have the same loss and the same gradients together as their text. */
static void test_mixed_rows_teach_what_the_text_does(void **state) {
    static const enum head_kind kinds[] = {HEAD_RECURRENT, HEAD_MEDUSA};
    struct engine_config config = engine_config_default();
    struct engine *engine;
    struct engine_error error = {""};
    (void)state;
    config.model_path = model_path;
    assert_int_equal(engine_open(&engine, &config, &error), ENGINE_OK);
    const struct model *model = engine->model;
    for (int k = 0; k < 2; k++) {
        struct trainer text, mixed;
        struct train_mix mix;
        struct head_shape shape;
        int32_t tokens[MIXED];
        assert_int_equal(head_default_shape(&shape, kinds[k], &model->shape, MIXED_VOCAB, &error), ENGINE_OK);
        assert_int_equal(trainer_open(&text, &shape, &model->backend, MIXED, &error), ENGINE_OK);
        assert_int_equal(trainer_open(&mixed, &shape, &model->backend, MIX_BATCH, &error), ENGINE_OK);
        const int n_steps = kinds[k] == HEAD_MEDUSA ? shape.n_ahead : TRAIN_STEPS;
        assert_int_equal(train_mix_open(&mix, model, n_steps, MIXED_VOCAB, 64, &error), ENGINE_OK);
        trainer_init_weights(&text, 1);
        trainer_init_weights(&mixed, 1);
        const struct example example = draw_example(model, tokens);
        trainer_learn(&text, &example);
        train_mix_add(&mix, &example, tokens);
        train_mix_shuffle(&mix, 5);
        assert_int_equal(train_mix_batches(&mix), 1);
        const struct example batch = train_mix_batch(&mix, 0);
        assert_true(memcmp(batch.input, example.input, 8 * sizeof(float)) != 0); /* it is shuffled */
        trainer_learn(&mixed, &batch);
        assert_true(fabs(text.loss - mixed.loss) < 1e-5 * text.loss && fabs(text.loss_weight - mixed.loss_weight) < 1e-4);
        double most = 0, wrong = 0;
        for (size_t i = 0; i < text.n_weights; i++) {
            most = fmax(most, fabs((double)text.gradients[i]));
            wrong = fmax(wrong, fabs((double)(text.gradients[i] - mixed.gradients[i])));
        }
        assert_true(most > 0 && wrong < 1e-5 * most);
        train_mix_close(&mix);
        trainer_close(&text);
        trainer_close(&mixed);
        free((void *)example.input), free((void *)example.embeddings), free((void *)example.target), free((void *)example.weight);
    }
    engine_close(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resumed_training_ends_with_the_same_weights),
        cmocka_unit_test(test_mixed_rows_teach_what_the_text_does),
        cmocka_unit_test(test_heads_that_do_not_fit_are_refused),
        cmocka_unit_test(test_cut_files_are_refused),
        cmocka_unit_test(test_inconsistent_files_are_refused),
        cmocka_unit_test(test_engines_without_a_head_say_so),
        cmocka_unit_test(test_all_kinds_are_made_together),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
