/* check_equality.c - the first promise of DESIGN, on a real model: text is a function of model, prompt, sampling parameters and
 * seed, and of nothing else.
 *
 *     check_equality [--kv-type f16|int8|int4] [MODEL.gguf | --windows | --experts]
 *
 * Without a model a tiny random one with weights of every type is written, or one with sliding windows, or one with experts.
 *
 * A set of prompts, temperatures (0, 0.8, 1.2) and seeds runs alone, one after the other; that is the reference. Then the same
 * requests run in other ways: in batches that they join at random moments while others are cancelled, with two threads, with
 * steps of 16 and 512 rows, from the prefix cache, through preemptions, on each instruction set. Ids and text must be equal to
 * the last one. After each way every block must be back. FORESAY_TEST_LONG=1 runs more and longer requests. */
#include <stdio.h>
#include <unistd.h>

#include "engine/log.h"
#include "tests/engine_fixture.h"
#include "tests/tiny_model.h"

enum { MAX_CASES = 128, N_NOISE = 6 };

struct test_case {
    struct engine_request request;
    struct engine_message messages[3];
};

static struct test_case cases[MAX_CASES];
static struct outcome reference[MAX_CASES];
static int n_cases, n_failures;
static const char *model_path, *kv_type;
static uint64_t rng = 4711;
static bool can_chat;

static uint32_t draw(uint32_t n) {
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33) % n;
}

/* --- requests --- */

static const char *const questions[] = {
    "What is the capital of France?",
    "Write a short story about a lighthouse keeper who finds a letter in a bottle.",
    "Explain why the sky is blue, step by step, for a child of ten. Begin with what light is made of, go on with what happens to "
    "it in "
    "the air, and end with a question that the child can think about. Use short sentences. Do not use formulas. If there is a "
    "word that a "
    "child may not know, say what it means. Then give one experiment for the kitchen table with a glass of water, a spoon of "
    "milk and a "
    "torch, and tell what will be seen from the side and what from the end.",
};
static const char *const texts[] = {
    "Once upon a time",
    "def fibonacci(n):\n    ",
    "The history of the steam engine begins long before the railways. In the first century a Greek engineer described a hollow "
    "sphere "
    "that turned when steam left it through two bent pipes. For sixteen hundred years it stayed a toy. Then mines became deeper, "
    "water came in, "
    "and somebody had to lift it out. The first machines that did so were slow, hungry and dangerous, and they changed the world "
    "because",
};

static void add_case(bool chat, int which, float temperature, uint64_t seed, int n_tokens) {
    struct test_case *c = &cases[n_cases++];
    c->request = prompt_request(texts[which], n_tokens, temperature, seed);
    c->request.ignore_eos = !chat && which < 2;
    if (temperature > 1) c->request.sampling.top_p = 1;
    if (seed % 3 == 1) c->request.sampling.repeat_penalty = 1.1f;
    if (seed % 3 == 2) c->request.sampling.top_k = 40;
    if (!chat || !can_chat) return;
    c->messages[0] = (struct engine_message){ENGINE_ROLE_SYSTEM, "You answer briefly.", 19};
    c->messages[1] = (struct engine_message){ENGINE_ROLE_USER, questions[which], strlen(questions[which])};
    c->request.messages = c->messages;
    c->request.n_messages = 2;
}

static void make_cases(bool is_long) {
    static const float temperatures[] = {0, 0.8f, 1.2f};
    int n_seeds = is_long ? 4 : 1, n_tokens = is_long ? 96 : 32;
    for (int seed = 0; seed < n_seeds; seed++) {
        for (int t = 0; t < 3; t++) {
            for (int which = 0; which < 3; which++) {
                add_case(true, which, temperatures[t], (uint64_t)(seed * 100 + t * 10 + which), n_tokens);
                /* Short prompts with long answers: they are admitted side by side and grow into each other. */
                add_case(false, which, temperatures[t], (uint64_t)(seed * 100 + t * 10 + which + 5),
                         which < 2 ? 3 * n_tokens : n_tokens);
            }
        }
    }
}

/* --- engines --- */

static struct engine_config base_config(void) {
    struct engine_config config = engine_config_default();
    config.model_path = model_path;
    config.kv_type = kv_type;
    config.n_threads = 1;
    config.ctx_len = 512;
    config.prefix_cache = false;
    return config;
}

static struct engine *open_engine(const struct engine_config *config) {
    struct engine *engine;
    struct engine_error error;
    if (engine_open(&engine, config, &error) != ENGINE_OK) {
        fprintf(stderr, "check_equality: %s\n", error.text);
        exit(1);
    }
    engine_events_per_token(engine);
    return engine;
}

/* --- ways to run --- */

/* A run may be cut to its first max_tokens: then only those are compared. */
static void compare(int which, const struct outcome *got, int max_tokens) {
    const struct outcome *want = &reference[which];
    int n = want->n_ids;
    if (max_tokens > 0 && n > max_tokens) n = max_tokens;
    bool same = got->n_ids == n && memcmp(got->ids, want->ids, (size_t)n * sizeof *got->ids) == 0;
    if (n == want->n_ids) same = same && got->len == want->len && memcmp(got->text, want->text, got->len) == 0;
    if (n == want->n_ids && max_tokens == 0) same = same && got->end.finish == want->end.finish;
    if (same) return;
    n_failures++;
    int at = 0;
    while (at < n && at < got->n_ids && got->ids[at] == want->ids[at]) at++;
    printf("  case %d differs at token %d of %d (got %d tokens)\n    want: %.100s\n    got:  %.100s\n", which, at, n, got->n_ids,
           want->text ? want->text : "", got->text ? got->text : "");
}

/* Cases first, first + step, ... The requests join while others run: after a random number of events each, at most
 * max_pause. Some more are cancelled on the way. */
struct run {
    const char *way;
    int first, step, max_tokens, max_pause;
    bool with_cancels;
};

static void run_together(struct engine *engine, const struct run *run) {
    const char *way = run->way;
    int first = run->first, step = run->step, max_tokens = run->max_tokens;
    bool with_cancels = run->with_cancels;
    struct outcome got[MAX_CASES + N_NOISE] = {{0}};
    int next = first, n_noise = 0, pause = 0;
    double start_ms = now_ms();
    while (next < n_cases || !all_done(got, MAX_CASES + N_NOISE)) {
        struct engine_error error;
        if (next < n_cases && pause <= 0) {
            struct engine_request request = cases[next].request;
            if (max_tokens > 0) request.max_tokens = max_tokens;
            if (engine_submit(engine, &request, &got[next].id, &error) != ENGINE_OK) {
                printf("%s: %s\n", way, error.text);
                exit(1);
            }
            next += step;
            pause = (int)draw((uint32_t)run->max_pause + 1);
        }
        if (with_cancels && n_noise < N_NOISE && draw(8) == 0) {
            struct engine_request request = prompt_request(texts[draw(3)], 200, 1, draw(1000));
            int rc = engine_submit(engine, &request, &got[MAX_CASES + n_noise++].id, &error);
            assert(rc == ENGINE_OK);
        }
        if (n_noise > 0 && draw(6) == 0) engine_cancel(engine, got[MAX_CASES + (int)draw((uint32_t)n_noise)].id);
        if (next >= n_cases) {
            for (int i = 0; i < n_noise; i++) engine_cancel(engine, got[MAX_CASES + i].id);
        }
        int n_events = fixture_poll(engine, got, MAX_CASES + N_NOISE, 1 + (int)draw(8));
        pause -= n_events;
        if (n_events == 0 && (pause > 0 || next >= n_cases)) {
            if (pause > 0 && all_done(got, MAX_CASES + N_NOISE))
                pause = 0; /* nothing runs: nothing to wait for */
            else
                engine_wait(engine, 100);
        }
    }
    int failed_before = n_failures;
    for (int i = first; i < n_cases; i += step) compare(i, &got[i], max_tokens);
    if (!nothing_left(engine)) {
        printf("  blocks or requests are left over\n");
        n_failures++;
    }
    struct engine_stats stats;
    engine_stats(engine, &stats);
    printf("%-42s %s  %5.1f s, %llu preemptions, %llu cancelled, %llu tokens from the cache\n", way,
           n_failures == failed_before ? "equal" : "DIFFERS", (now_ms() - start_ms) / 1e3, (unsigned long long)stats.preemptions,
           (unsigned long long)stats.cancelled, (unsigned long long)stats.cached_tokens);
    fflush(stdout);
    for (int i = 0; i < MAX_CASES + N_NOISE; i++) outcome_free(&got[i]);
}

static void run_alone(void) {
    struct engine_config config = base_config();
    struct engine *engine = open_engine(&config);
    double start_ms = now_ms();
    int n_tokens = 0;
    for (int i = 0; i < n_cases; i++) {
        reference[i] = fixture_run(engine, &cases[i].request);
        n_tokens += reference[i].n_ids;
    }
    if (!nothing_left(engine)) n_failures++;
    printf("reference: %d requests alone, one thread, %d tokens, %.1f s\n", n_cases, n_tokens, (now_ms() - start_ms) / 1e3);
    engine_close(engine);
}

static void run_config(const char *way, const struct engine_config *config, bool with_cancels) {
    struct engine *engine = open_engine(config);
    run_together(engine, &(struct run){.way = way, .step = 1, .max_pause = 11, .with_cancels = with_cancels});
    engine_close(engine);
}

/* Twice in one engine: the second time the prompts come from the cache. */
static void run_cached(void) {
    struct engine_config config = base_config();
    struct engine_stats before, after;
    config.prefix_cache = true;
    struct engine *engine = open_engine(&config);
    run_together(engine,
                 &(struct run){.way = "prefix cache, filled on the way", .step = 1, .max_pause = 11, .with_cancels = true});
    engine_stats(engine, &before);
    run_together(engine, &(struct run){.way = "prefix cache, hit", .step = 1, .max_pause = 11});
    engine_stats(engine, &after);
    engine_close(engine);
    if (after.cached_tokens > before.cached_tokens) return;
    printf("  no prompt was found in the cache\n");
    n_failures++;
}

/* KV memory for little more than the longest sequence. */
static void run_preempted(bool prefix_cache) {
    struct engine_config config = base_config();
    struct engine_stats stats;
    struct engine *engine = open_engine(&config);
    size_t block_bytes = engine->pool.block_bytes;
    engine_close(engine);
    int longest = 0;
    for (int i = 0; i < n_cases; i++) {
        int n = reference[i].end.usage.prompt_tokens + reference[i].n_ids;
        if (n > longest) longest = n;
    }
    config.prefix_cache = prefix_cache;
    config.kv_bytes = (size_t)(kv_blocks_for(longest) + 2) * block_bytes;
    config.ctx_len = kv_blocks_for(longest) * KV_BLOCK;
    engine = open_engine(&config);
    struct run run = {
        .way = prefix_cache ? "preemption, prefix cache on" : "preemption, prefix cache off", .step = 1, .with_cancels = true};
    int n_rounds = 0;
    do { /* a fast model may finish requests before the next ones arrive: then once more */
        run_together(engine, &run);
        engine_stats(engine, &stats);
    } while (stats.preemptions == 0 && ++n_rounds < 50);
    engine_close(engine);
    if (stats.preemptions > 0) return;
    printf("  nothing was preempted\n");
    n_failures++;
}

/* The plain C version is slow: fewer requests, fewer tokens. */
static void run_isa(const char *isa, int step, int max_tokens) {
    struct engine_config config = base_config();
    struct engine *engine;
    struct engine_error error;
    char way[64];
    config.isa = isa;
    config.n_threads = 2;
    if (engine_open(&engine, &config, &error) != ENGINE_OK) {
        printf("%-42s skipped: %s\n", isa, error.text);
        return;
    }
    engine_events_per_token(engine);
    snprintf(way, sizeof way, "%s, batch of %d", isa, config.max_seqs);
    run_together(engine, &(struct run){.way = way, .step = step, .max_tokens = max_tokens, .max_pause = 11});
    engine_close(engine);
}

static bool find_model(int argc, char **argv, char *tiny_path, size_t size) {
    struct tiny_model tiny = tiny_model_default();
    tiny.every_type = true;
    tiny.n_embd = tiny.n_ffn = 256;
    tiny.n_layers = 4; /* 4 * 7 matrices: each type twice */
    tiny.embedding_type = DTYPE_Q6_K;
    if (argc > 1 && strcmp(argv[1], "--windows") == 0) {
        tiny = tiny_model_gemma();
    } else if (argc > 1 && strcmp(argv[1], "--experts") == 0) {
        tiny = tiny_model_experts();
    } else if (argc > 1) {
        model_path = argv[1];
        return true;
    }
    snprintf(tiny_path, size, "/tmp/foresay_check_equality_%d.gguf", getpid());
    model_path = tiny_path;
    return tiny_model_write(tiny_path, &tiny);
}

int main(int argc, char **argv) {
    char tiny_path[64] = "";
    bool is_long = getenv("FORESAY_TEST_LONG") != NULL;
    log_set_level(LOG_ERROR);
    if (argc > 2 && strcmp(argv[1], "--kv-type") == 0) {
        kv_type = argv[2];
        argc -= 2;
        argv += 2;
    }
    if (!find_model(argc, argv, tiny_path, sizeof tiny_path)) {
        fprintf(stderr, "check_equality: cannot write %s\n", tiny_path);
        return 1;
    }
    struct engine_config config = base_config();
    struct engine *engine = open_engine(&config);
    struct engine_info info;
    engine_info(engine, &info);
    can_chat = info.can_chat;
    printf("%s, auto = %s, keys and values %s, seed %llu\n", info.model_name, info.isa, kv_type ? kv_type : "f16",
           (unsigned long long)rng);
    engine_close(engine);

    make_cases(is_long);
    run_alone();
    run_config("batch of 16, joined at random, cancels", &config, true);
    config.n_threads = 2;
    run_config("two threads, batch of 16", &config, true);
    config.step_tokens = 16;
    run_config("steps of 16 rows", &config, true);
    config.step_tokens = 512;
    run_config("steps of 512 rows", &config, true);
    run_cached();
    run_preempted(false);
    run_preempted(true);
    run_isa("amx", 1, 0);
    run_isa("avx512", 1, 0);
    run_isa("avxvnni", 1, 0);
    run_isa("avx2", 1, 0);
    if (tiny_path[0])
        run_isa("scalar", 1, 0);
    else
        run_isa("scalar", 7, 6); /* a chat, a short text, another chat; one temperature each */

    for (int i = 0; i < n_cases; i++) outcome_free(&reference[i]);
    if (tiny_path[0]) unlink(tiny_path);
    printf(n_failures ? "check_equality: %d differences\n" : "check_equality: all equal\n", n_failures);
    return n_failures > 0;
}
