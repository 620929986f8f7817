/* check_equality.c - the first promise of DESIGN, on a real model: text is a function of model, prompt, sampling parameters and
 * seed, and of nothing else.
 *
 *     check_equality [--kv-type f16|int8|int4] [--activations int8|mixed|int16] [MODEL.gguf | --windows | --experts]
 *
 * Without a model a tiny random one with weights of every type is written, or one with sliding windows, or one with experts.
 *
 * A set of prompts, temperatures (0, 0.8, 1.2) and seeds runs alone, one after the other; that is the reference. Then the same
 * requests run in other ways: in batches that they join at random moments while others are cancelled, with two threads, with
 * steps of 16 and 512 rows, from the prefix cache, through preemptions, on each instruction set, with every drafter (the
 * reference has none, the model itself may be one), also drafters that know the answer, say the opposite or talk nonsense. Ids
 * and text must be equal to the last one. After each way every block must be back. What a drafter that is always wrong shows of
 * the engine it shows with a small model too, so a model given by name runs with the engine's own drafters and one that is right
 * half the time. FORESAY_TEST_LONG=1 runs more and longer requests, and every drafter. */
#include <stdio.h>
#include <unistd.h>

#include "engine/log.h"
#include "engine/train_head.h"
#include "engine/train_text.h"
#include "tests/drafters.h"
#include "tests/engine_fixture.h"
#include "tests/tiny_model.h"

enum { MAX_CASES = 128, N_NOISE = 6 };

struct test_case {
    struct engine_request request;
    struct engine_message messages[3];
    char stop_text[16];
    const char *stop;
    struct engine_bias bias;
};

static struct test_case cases[MAX_CASES];
static struct outcome reference[MAX_CASES];
static int n_cases, n_failures;
static const char *model_path, *kv_type, *activations;
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
    c->request.trace = seed % 2 == 0; /* engine_fixture.h compares the tokens with it */
    if (temperature > 1) c->request.sampling.top_p = 1;
    if (seed % 3 == 1) c->request.sampling.repeat_penalty = 1.1f;
    if (seed % 3 == 2) c->request.sampling.top_k = 40;
    if (seed % 4 == 1) c->request.sampling.frequency_penalty = 0.7f;
    if (seed % 4 == 2) c->request.sampling.presence_penalty = 0.5f;
    if (seed % 5 == 1) {
        c->bias = (struct engine_bias){.token = 40, .bias = 3};
        c->request.sampling.bias = &c->bias;
        c->request.sampling.n_bias = 1;
    }
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

/* The same request once more, with a stop string that its text has in the middle. */
static void add_stop_case(int which) {
    const struct outcome *o = &reference[which];
    size_t at = o->len / 2, len = 0;
    while (at < o->len && (o->text[at] & 0xc0) == 0x80) at++;
    while (at + len < o->len && (len < 3 || (o->text[at + len] & 0xc0) == 0x80)) len++;
    if (len < 3 || n_cases == MAX_CASES) return;
    struct test_case *c = &cases[n_cases];
    *c = cases[which];
    if (c->request.n_messages > 0) c->request.messages = c->messages;
    if (c->request.sampling.n_bias > 0) c->request.sampling.bias = &c->bias;
    memcpy(c->stop_text, o->text + at, len);
    c->stop = c->stop_text;
    c->request.stop = &c->stop;
    c->request.n_stop = 1;
    n_cases++;
}

/* --- engines --- */

static struct engine_config base_config(void) {
    struct engine_config config = engine_config_default();
    config.model_path = model_path;
    config.kv_type = kv_type;
    config.activations = activations;
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
    if (n == want->n_ids && max_tokens == 0)
        same = same && got->end.finish == want->end.finish && got->end.usage.output_tokens == want->end.usage.output_tokens;
    if (same) return;
    n_failures++;
    int at = 0;
    while (at < n && at < got->n_ids && got->ids[at] == want->ids[at]) at++;
    printf("  case %d differs at token %d of %d (got %d tokens)\n    want: %.100s\n    got:  %.100s\n", which, at, n, got->n_ids,
           want->text ? want->text : "", got->text ? got->text : "");
}

/* Cases first, first + step, ... The requests join while others run: after a random number of events each, at most
 * max_pause. Some more are cancelled on the way. Those with longer prompts than max_prompt stay out. */
struct run {
    const char *way;
    int first, step, max_tokens, max_pause, max_prompt;
    bool with_cancels;
};

static int choose_cases(const struct run *run, int *chosen) {
    int n = 0;
    for (int i = run->first; i < n_cases; i += run->step) {
        if (run->max_prompt == 0 || reference[i].end.usage.prompt_tokens <= run->max_prompt) chosen[n++] = i;
    }
    return n;
}

static void run_together(struct engine *engine, const struct run *run) {
    const char *way = run->way;
    int max_tokens = run->max_tokens;
    bool with_cancels = run->with_cancels;
    struct outcome got[MAX_CASES + N_NOISE] = {{0}};
    int chosen[MAX_CASES], n_chosen = choose_cases(run, chosen);
    int next = 0, n_noise = 0, pause = 0;
    double start_ms = now_ms();
    while (next < n_chosen || !all_done(got, MAX_CASES + N_NOISE)) {
        struct engine_error error;
        if (next < n_chosen && pause <= 0) {
            struct engine_request request = cases[chosen[next]].request;
            if (max_tokens > 0) request.max_tokens = max_tokens;
            if (engine_submit(engine, &request, &got[chosen[next]].id, &error) != ENGINE_OK) {
                printf("%s: %s\n", way, error.text);
                exit(1);
            }
            next++;
            pause = (int)draw((uint32_t)run->max_pause + 1);
        }
        if (with_cancels && n_noise < N_NOISE && draw(8) == 0) {
            struct engine_request request = prompt_request(texts[draw(3)], 200, 1, draw(1000));
            int rc = engine_submit(engine, &request, &got[MAX_CASES + n_noise++].id, &error);
            assert(rc == ENGINE_OK);
        }
        if (n_noise > 0 && draw(6) == 0) engine_cancel(engine, got[MAX_CASES + (int)draw((uint32_t)n_noise)].id);
        if (next >= n_chosen) {
            for (int i = 0; i < n_noise; i++) engine_cancel(engine, got[MAX_CASES + i].id);
        }
        int n_events = fixture_poll(engine, got, MAX_CASES + N_NOISE, 1 + (int)draw(8));
        pause -= n_events;
        if (n_events == 0 && (pause > 0 || next >= n_chosen)) {
            if (pause > 0 && all_done(got, MAX_CASES + N_NOISE))
                pause = 0; /* nothing runs: nothing to wait for */
            else
                engine_wait(engine, 100);
        }
    }
    int failed_before = n_failures;
    for (int i = 0; i < n_chosen; i++) compare(chosen[i], &got[chosen[i]], max_tokens);
    if (!nothing_left(engine)) {
        printf("  blocks or requests are left over\n");
        n_failures++;
    }
    struct engine_stats stats;
    engine_stats(engine, &stats);
    printf("%-50s %s  %5.1f s, %llu preemptions, %llu cancelled, %llu tokens from the cache\n", way,
           n_failures == failed_before ? "equal" : "DIFFERS", (now_ms() - start_ms) / 1e3, (unsigned long long)stats.preemptions,
           (unsigned long long)stats.cancelled, (unsigned long long)stats.cached_tokens);
    fflush(stdout);
    for (int i = 0; i < MAX_CASES + N_NOISE; i++) outcome_free(&got[i]);
}

static void run_alone(void) {
    struct engine_config config = base_config();
    config.drafter = ENGINE_DRAFTER_NONE;
    struct engine *engine = open_engine(&config);
    double start_ms = now_ms();
    int n_tokens = 0, n_first = n_cases;
    for (int i = 0; i < n_cases; i++) {
        reference[i] = fixture_run(engine, &cases[i].request);
        n_tokens += reference[i].n_ids;
        if (i < n_first && i % 3 == 0) add_stop_case(i);
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

/* The engine's own drafters; others are indices of test_drafters. Heads are trained on the reference, of a tiny model alone. */
enum {
    NO_DRAFTER = -11,
    OWN_EAGLE,
    OWN_MEDUSA,
    OWN_RECURRENT,
    OWN_HINTS,
    OWN_BLOCKWISE,
    OWN_ALL,
    OWN_MODEL,
    OTHER_MODEL,
    OWN_MERGE,
    OWN_SUFFIX,
    RIGHT = 0,
    MIXED = 2
};

static char head_paths[HEAD_KINDS][64], text_path[64];
static char store_path[64], other_path[64]; /* the latter a tiny model with the same vocabulary; empty = none */

/* An n-gram store of half of the reference. */
static void write_store(void) {
    struct engine_config config = base_config();
    struct engine *engine = open_engine(&config);
    uint64_t vocab, target, size = 0;
    int32_t *text = malloc(1 << 20);
    int n = 0;
    for (int i = 0; i < n_cases; i += 2) {
        memcpy(text + n, reference[i].ids, (size_t)reference[i].n_ids * sizeof *text);
        n += reference[i].n_ids;
        text[n++] = -1;
    }
    draft_digests(engine->tokenizer, engine->model, &vocab, &target);
    void *image =
        ngram_build(text, (uint64_t)n, (uint32_t)tokenizer_vocab_size(engine->tokenizer), vocab, target, 1 << 20, &size);
    snprintf(store_path, sizeof store_path, "/tmp/foresay_check_equality_%d.ngram", getpid());
    FILE *file = fopen(store_path, "wb");
    if (!file || fwrite(image, 1, size, file) != size || fclose(file) != 0) n_failures++;
    free(image);
    free(text);
    engine_close(engine);
}

static void write_prompt(FILE *file, const struct engine *engine, const struct engine_request *request) {
    struct token_list list = {0};
    struct engine_error error;
    const struct chat_prompt chat = {.messages = request->messages, .n_messages = request->n_messages};
    int rc = request->n_messages > 0 ? chat_template_render(engine->chat_template, &chat, &list, NULL, &error)
                                     : tokenizer_encode_prompt(engine->tokenizer, request->prompt, request->prompt_len, &list);
    if (rc != ENGINE_OK) exit(1);
    for (size_t i = 0; i < list.n; i++) list.ids[i] = text_of_prompt(list.ids[i]);
    fwrite(list.ids, sizeof *list.ids, list.n, file);
    token_list_free(&list);
}

/* The reference as the text of train-draft, twice, for there must be 40 answers. */
static void write_text(void) {
    struct engine_config config = base_config();
    struct engine *engine = open_engine(&config);
    struct text_head head = {.magic = "fstext 1"};
    const int32_t end = TEXT_END;
    draft_digests(engine->tokenizer, engine->model, &head.vocab_digest, &head.target_digest);
    snprintf(text_path, sizeof text_path, "/tmp/foresay_check_equality_%d.text", getpid());
    FILE *file = fopen(text_path, "wb");
    if (!file) exit(1);
    fwrite(&head, sizeof head, 1, file);
    for (int i = 0; i < 2 * n_cases; i++) {
        write_prompt(file, engine, &cases[i % n_cases].request);
        fwrite(reference[i % n_cases].ids, sizeof end, (size_t)reference[i % n_cases].n_ids, file);
        fwrite(&end, sizeof end, 1, file);
    }
    engine_close(engine);
    if (fclose(file) != 0) exit(1);
}

static void train_heads(void) {
    write_text();
    for (int kind = 0; kind < HEAD_KINDS; kind++) {
        char state[256];
        snprintf(head_paths[kind], sizeof head_paths[kind], "/tmp/foresay_check_equality_%d.head%d", getpid(), kind);
        const struct train_head_settings settings = {.kind = (enum head_kind)kind,
                                                     .model = model_path,
                                                     .out = head_paths[kind],
                                                     .text = text_path,
                                                     .hours = 1,
                                                     .rate = 3e-3f,
                                                     .save_minutes = 60,
                                                     .n_vocab = 160,
                                                     .epochs = kind == HEAD_EAGLE ? 5 : 20, /* mixed, they make fewer steps */
                                                     .steps = TRAIN_STEPS,
                                                     .threads = 2};
        if (train_head(&settings) != 0) exit(1);
        snprintf(state, sizeof state, "%s.state", head_paths[kind]);
        unlink(state);
    }
}

static const char *drafter_name(int which) {
    static const char *const own[] = {
        [OWN_EAGLE - NO_DRAFTER] = "eagle",
        [OWN_MEDUSA - NO_DRAFTER] = "medusa",
        [OWN_RECURRENT - NO_DRAFTER] = "recurrent",
        [OWN_HINTS - NO_DRAFTER] = "suffix + hints",
        [OWN_BLOCKWISE - NO_DRAFTER] = "blockwise",
        [OWN_ALL - NO_DRAFTER] = "suffix + ngram + model",
        [OWN_MODEL - NO_DRAFTER] = "model (the same)",
        [OTHER_MODEL - NO_DRAFTER] = "model (another)",
        [OWN_MERGE - NO_DRAFTER] = "suffix + ngram",
        [OWN_SUFFIX - NO_DRAFTER] = "suffix",
    };
    return which < 0 ? own[which - NO_DRAFTER] : test_drafters[which].name;
}

/* A drafter of tests/drafters.h that knows the reference, or one of the engine's own. All draft whatever it costs. */
static struct engine *open_drafting(struct engine_config *config, struct test_drafter *test, int which) {
    static char both[160];
    const char *other = other_path[0] ? other_path : model_path;
    config->drafter = ENGINE_DRAFTER_SUFFIX;
    if (which == OWN_MERGE || which == OWN_ALL) {
        snprintf(both, sizeof both, "%s%s%s", store_path, which == OWN_ALL ? "," : "", which == OWN_ALL ? other : "");
        config->drafter = ENGINE_DRAFTER_MERGE;
        config->draft_files = both;
    } else if (which == OWN_MODEL || which == OTHER_MODEL) {
        config->drafter = ENGINE_DRAFTER_MODEL;
        config->draft_files = which == OWN_MODEL ? model_path : other;
    } else if (which == OWN_EAGLE) {
        config->drafter = ENGINE_DRAFTER_EAGLE;
        config->draft_files = head_paths[HEAD_EAGLE];
    } else if (which == OWN_RECURRENT || which == OWN_HINTS) {
        config->drafter = which == OWN_HINTS ? ENGINE_DRAFTER_MERGE : ENGINE_DRAFTER_RECURRENT;
        config->draft_files = head_paths[HEAD_RECURRENT];
    } else if (which == OWN_MEDUSA || which == OWN_BLOCKWISE) {
        config->drafter = which == OWN_MEDUSA ? ENGINE_DRAFTER_MEDUSA : ENGINE_DRAFTER_BLOCKWISE;
        config->draft_files = head_paths[HEAD_MEDUSA];
    }
    struct engine *engine = open_engine(config);
    if (which < 0) return engine;
    *test = (struct test_drafter){.n_answers = n_cases, .n_vocab = tokenizer_vocab_size(engine->tokenizer), .rng = 99};
    while (test->eog < test->n_vocab - 1 && !tokenizer_is_eog(engine->tokenizer, test->eog)) test->eog++;
    for (int i = 0; i < n_cases; i++)
        test->answers[i] = (struct known_answer){reference[i].ids, reference[i].end.usage.prompt_tokens, reference[i].n_ids};
    engine_set_drafter(engine, &(struct drafter){&test_drafters[which], test});
    return engine;
}

static void run_drafter(int which) {
    struct engine_config config = base_config();
    struct test_drafter test;
    struct engine_stats stats;
    char way[80];
    const char *name = drafter_name(which);
    config.prefix_cache = true;
    struct engine *engine = open_drafting(&config, &test, which);
    snprintf(way, sizeof way, "drafter %s, cache filled", name);
    run_together(engine, &(struct run){.way = way, .step = 1, .max_pause = 11, .with_cancels = true});
    snprintf(way, sizeof way, "drafter %s, cache hit, one by one", name);
    run_together(engine, &(struct run){.way = way, .step = 1, .max_pause = 200});
    engine_stats(engine, &stats);
    engine_close(engine);
    printf("  %llu of %llu drafted tokens were right, in %llu rounds\n", (unsigned long long)stats.accepted_tokens,
           (unsigned long long)stats.drafted_tokens, (unsigned long long)stats.draft_rounds);
    bool is_known = (which < 0 && which != OTHER_MODEL) || strcmp(name, "right") == 0 || strcmp(name, "mixed") == 0;
    if (which == OWN_MODEL && stats.accepted_tokens < stats.drafted_tokens) {
        printf("  the model itself was not always right\n");
        n_failures++;
    }
    if (which <= OWN_BLOCKWISE && 4 * stats.accepted_tokens < stats.draft_rounds) {
        printf("  the head has forgotten what it was trained on\n");
        n_failures++;
    }
    if (stats.drafted_tokens > 0 && (!is_known || stats.accepted_tokens > 0)) return;
    printf("  no draft was computed or none was right: this way has shown nothing\n");
    n_failures++;
}

/* KV memory for little more than the longest sequence, and only short prompts, which are admitted side by side and grow. */
enum { PREEMPTED_PROMPT = 64 };

static void run_preempted(bool prefix_cache, int which) {
    struct engine_config config = base_config();
    struct test_drafter test;
    struct engine_stats stats;
    struct engine *engine = open_engine(&config);
    size_t block_bytes = engine->pool.block_bytes;
    engine_close(engine);
    char way[80];
    struct run run = {.way = way, .step = 1, .with_cancels = true, .max_prompt = PREEMPTED_PROMPT};
    int longest = 0, chosen[MAX_CASES], n_chosen = choose_cases(&run, chosen);
    for (int i = 0; i < n_chosen; i++) {
        int n = reference[chosen[i]].end.usage.prompt_tokens + reference[chosen[i]].n_ids;
        if (n > longest) longest = n;
    }
    config.prefix_cache = prefix_cache;
    config.kv_bytes = (size_t)(kv_blocks_for(longest) + 2) * block_bytes;
    config.ctx_len = kv_blocks_for(longest) * KV_BLOCK;
    engine = which == NO_DRAFTER ? open_engine(&config) : open_drafting(&config, &test, which);
    snprintf(way, sizeof way, "preemption, prefix cache %s%s%s", prefix_cache ? "on" : "off",
             which == NO_DRAFTER ? "" : ", drafter ", which == NO_DRAFTER ? "" : drafter_name(which));
    engine_gather(engine, n_chosen); /* a fast model would finish requests before the next ones arrive */
    run_together(engine, &run);
    engine_stats(engine, &stats);
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
        printf("%-50s skipped: %s\n", isa, error.text);
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
    struct tiny_model other = tiny_model_default();
    other.seed = 99;
    snprintf(other_path, sizeof other_path, "/tmp/foresay_check_equality_%d_other.gguf", getpid());
    snprintf(tiny_path, size, "/tmp/foresay_check_equality_%d.gguf", getpid());
    model_path = tiny_path;
    return tiny_model_write(tiny_path, &tiny) && tiny_model_write(other_path, &other);
}

int main(int argc, char **argv) {
    char tiny_path[64] = "";
    bool is_long = getenv("FORESAY_TEST_LONG") != NULL;
    log_set_level(LOG_ERROR);
    for (; argc > 2 && strncmp(argv[1], "--", 2) == 0; argc -= 2, argv += 2) {
        if (strcmp(argv[1], "--kv-type") == 0) kv_type = argv[2];
        if (strcmp(argv[1], "--activations") == 0) activations = argv[2];
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
    printf("%s, auto = %s, keys and values %s, activations %s, seed %llu\n", info.model_name, info.isa,
           kv_type ? kv_type : "auto", activations ? activations : "auto", (unsigned long long)rng);
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
    run_preempted(false, NO_DRAFTER);
    run_preempted(true, NO_DRAFTER);
    write_store();
    assert(strcmp(test_drafters[RIGHT].name, "right") == 0 && strcmp(test_drafters[MIXED].name, "mixed") == 0);
    if (tiny_path[0]) train_heads();
    for (int which = OWN_EAGLE; which < N_TEST_DRAFTERS; which++) {
        if (which <= OWN_BLOCKWISE && !tiny_path[0]) continue;
        if ((which == OTHER_MODEL || which == OWN_ALL) && !other_path[0]) continue; /* it would be the same once more */
        if (tiny_path[0] || is_long || which < 0 || which == MIXED) run_drafter(which);
    }
    run_preempted(false, RIGHT);
    run_preempted(true, MIXED);
    if (tiny_path[0]) run_preempted(true, OWN_EAGLE);
    if (tiny_path[0]) run_preempted(true, OWN_HINTS);
    if (other_path[0]) {
        run_preempted(false, OWN_MODEL);
        run_preempted(true, OWN_ALL);
    }
    run_isa("amx", 1, 0);
    run_isa("avx512", 1, 0);
    run_isa("avxvnni", 1, 0);
    run_isa("avx2", 1, 0);
    if (tiny_path[0])
        run_isa("scalar", 5, 0); /* of each kind and temperature some; what a row may differ by is check_rows' subject */
    else
        run_isa("scalar", 7, 6); /* a chat, a short text, another chat; one temperature each */

    for (int i = 0; i < n_cases; i++) outcome_free(&reference[i]);
    if (tiny_path[0]) unlink(tiny_path);
    if (other_path[0]) unlink(other_path);
    unlink(store_path);
    for (int kind = 0; tiny_path[0] && kind < HEAD_KINDS; kind++) unlink(head_paths[kind]);
    if (tiny_path[0]) unlink(text_path);
    printf(n_failures ? "check_equality: %d differences\n" : "check_equality: all equal\n", n_failures);
    return n_failures > 0;
}
