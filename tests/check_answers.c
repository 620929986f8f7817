/* check_answers.c - long answers to many prompts, greedy: with guesses and without, byte for byte the same.
 *
 *     check_answers MODEL.gguf [PROMPTS [TOKENS]]      240 and 256 if they are not given
 *
 * check_equality tries every way to run on few prompts; this tries a real model's own drafters on many: the 80 prompts of `bench
 * --speculative` under three system messages. The reference is written without guesses, 16 answers at once. Then `auto`, one by
 * one and 16 at once, and drafters that guess wherever they can: chains from the text, trees from text and store. Long: some
 * 400,000 tokens, and each line is said when its way is through. Ends with 1 if one byte differs. */
#include <stdio.h>

#include "engine/bench_prompts.h"
#include "engine/log.h"
#include "tests/engine_fixture.h"

enum { N_PROMPTS = BENCH_PROMPT_CLASSES * BENCH_PROMPTS, N_SYSTEM = 3, MAX_ANSWERS = N_PROMPTS * N_SYSTEM };

struct way {
    const char *name;
    enum engine_drafter drafter;
    int at_once, width;
};

static const char *const systems[N_SYSTEM] = {
    "You are a helpful assistant.",
    "You answer in the words of a patient teacher, with one example for each thing that you claim.",
    "You are a ship's cook who has seen the world. You are brief, and you never forget the question.",
};

static const char *model_path;
static struct outcome reference[MAX_ANSWERS];
static int n_answers = MAX_ANSWERS, n_tokens = 256;

static struct engine *open_way(const struct way *way) {
    struct engine_config config = engine_config_default();
    struct engine_error error;
    struct engine *engine;
    config.model_path = model_path;
    config.drafter = way->drafter;
    config.max_seqs = way->at_once;
    config.max_waiting = MAX_ANSWERS;
    config.ctx_len = 1024;
    config.draft_width = way->width;
    if (engine_open(&engine, &config, &error) != ENGINE_OK) {
        fprintf(stderr, "check_answers: %s\n", error.text);
        exit(2);
    }
    return engine;
}

/* Prompt i; neighbours are of different classes and systems. */
static void ask(struct engine *engine, int i, struct outcome *out) {
    const char *system = systems[i % N_SYSTEM];
    const char *prompt = bench_prompt_classes[i % BENCH_PROMPT_CLASSES].prompts[i / BENCH_PROMPT_CLASSES % BENCH_PROMPTS];
    const struct engine_message messages[] = {{ENGINE_ROLE_SYSTEM, system, strlen(system)},
                                              {ENGINE_ROLE_USER, prompt, strlen(prompt)}};
    struct engine_request request = {
        .messages = messages, .n_messages = 2, .max_tokens = n_tokens, .sampling = engine_sampling_default()};
    struct engine_error error;
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    if (engine_submit(engine, &request, &out->id, &error) == ENGINE_OK) return;
    fprintf(stderr, "check_answers: %s\n", error.text);
    exit(2);
}

static int answer_all(struct engine *engine, struct outcome *out) {
    int n = 0;
    for (int i = 0; i < n_answers; i++) ask(engine, i, &out[i]);
    fixture_finish(engine, out, n_answers);
    for (int i = 0; i < n_answers; i++) n += out[i].end.usage.output_tokens;
    return n;
}

/* The number of answers that differ. */
static int compare(const char *way, const struct outcome *got) {
    int n = 0;
    for (int i = 0; i < n_answers; i++) {
        const struct outcome *want = &reference[i];
        if (got[i].len == want->len && memcmp(got[i].text, want->text, want->len) == 0) continue;
        if (n++ == 0) printf("%s: prompt %d\n  want: %.200s\n  got:  %.200s\n", way, i, want->text, got[i].text);
    }
    return n;
}

static int run(const struct way *way) {
    struct outcome got[MAX_ANSWERS] = {{0}};
    struct engine_stats stats;
    double start_ms = now_ms();
    struct engine *engine = open_way(way);
    int n = answer_all(engine, got), n_different = compare(way->name, got);
    engine_stats(engine, &stats);
    if (!nothing_left(engine)) n_different++;
    engine_close(engine);
    for (int i = 0; i < n_answers; i++) outcome_free(&got[i]);
    printf("%-40s %s: %d answers, %d tokens, %llu of %llu guesses right, %.0f s\n", way->name, n_different ? "DIFFERS" : "equal",
           n_answers, n, (unsigned long long)stats.accepted_tokens, (unsigned long long)stats.drafted_tokens,
           (now_ms() - start_ms) / 1e3);
    fflush(stdout);
    return n_different + (stats.accepted_tokens == 0);
}

static int number(const char *text, int most) {
    long n = strtol(text, NULL, 10);
    return n < 1 || n > most ? most : (int)n;
}

int main(int argc, char **argv) {
    static const struct way plain = {"no guesses, 16 at once", ENGINE_DRAFTER_NONE, 16, 1};
    static const struct way ways[] = {
        {"auto, 16 at once", ENGINE_DRAFTER_AUTO, 16, 4},
        {"text alone, chains, 16 at once", ENGINE_DRAFTER_SUFFIX, 16, 1},
        {"text and store, trees, 5 at once", ENGINE_DRAFTER_MERGE, 5, 4},
        {"text and store, trees, 16 at once", ENGINE_DRAFTER_MERGE, 16, 4},
        {"auto, one by one", ENGINE_DRAFTER_AUTO, 1, 4},
    };
    int n_failed = 0;
    log_set_level(LOG_ERROR);
    if (argc < 2) return fprintf(stderr, "usage: check_answers MODEL.gguf [PROMPTS [TOKENS]]\n"), 2;
    model_path = argv[1];
    if (argc > 2) n_answers = number(argv[2], MAX_ANSWERS);
    if (argc > 3) n_tokens = number(argv[3], 512);
    double start_ms = now_ms();
    struct engine *engine = open_way(&plain);
    int n = answer_all(engine, reference);
    engine_close(engine);
    printf("%-40s reference: %d answers, %d tokens, %.0f s\n", plain.name, n_answers, n, (now_ms() - start_ms) / 1e3);
    fflush(stdout);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) n_failed += run(&ways[i]);
    for (int i = 0; i < n_answers; i++) outcome_free(&reference[i]);
    return n_failed > 0;
}
