/* bench_speculative.c - `foresay bench --speculative`: what guessing ahead gains, class by class, against the same engine
 * without.
 *
 * Each prompt of bench_prompts.h is answered twice, once plainly and once with the drafter. Its prefix is in the cache before, so
 * that both compute the same. The two texts must be equal, or the run ends with an error. With batch N, N answers are written at
 * once, the prompts of the class in turn, each with a seed of its own, and where one ends the next begins, as a server has it.
 * What is measured is decoding: the tokens between the moment that N answers have begun and the first end after which there is
 * none to follow, on the wall clock.
 *
 * Both sides are written by turns of TURN_TOKENS, by two engines of which one stands still: what a neighbour does to the machine
 * changes within a second, and then meets both. Between runs the engines change sides, since their memory differs, too: an even
 * number of runs is fair. Two measures:
 * of few answers at a time, a run's tokens by its time, since a turn may gain much and the next one nothing; then the median of
 * the runs. Of ALIKE or more, where turns are alike and the gain is small, the median of the pairs of turns: on a shared machine
 * one step in a hundred takes three times as long, which a mean of a thousand steps still shows. Main thread. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bench.h"
#include "engine/bench_prompts.h"

enum { TURN_TOKENS = 32, TURN_STEPS = 8 /* at least, of plain ones: the first finds cold caches */, ALIKE = 16 };

struct side {
    double ms;
    int n_measured; /* tokens of those ms */
    int n_tokens, n_rounds, n_drafted, n_accepted;
    int accepted_at[ENGINE_DRAFT_DEPTHS], off[ENGINE_DRAFT_OFF_COUNT];
    uint64_t text; /* digest of the ids, answer by answer */
};

/* Of the pairs of turns that were measured: the drafted one's tokens per ms by the plain one's. */
struct gains {
    double *at;
    int n, room;
};

static bool note_gain(struct gains *gains, const double rates[2]) {
    if (!(rates[0] > 0 && rates[1] > 0)) return true;
    if (gains->n == gains->room) {
        const int room = gains->room > 0 ? 2 * gains->room : 1024;
        double *at = realloc(gains->at, (size_t)room * sizeof *at);
        if (!at) return false;
        gains->at = at;
        gains->room = room;
    }
    gains->at[gains->n++] = rates[1] / rates[0];
    return true;
}

/* One measurement: a class, at a temperature, n at once. */
struct trial {
    struct bench *bench;
    const struct bench_prompt_class *class;
    float temperature;
    int n;
    struct gains *gains;
};

static int fail(struct bench *bench, int status, const char *what, const char *class) {
    snprintf(bench->error.text, sizeof bench->error.text, "%s (class %s)", what, class);
    return status;
}

static void add_usage(struct side *side, const struct engine_usage *usage) {
    side->n_tokens += usage->output_tokens;
    side->n_rounds += usage->draft_rounds;
    side->n_drafted += usage->drafted_tokens;
    side->n_accepted += usage->accepted_tokens;
    for (int i = 0; i < ENGINE_DRAFT_DEPTHS; i++) side->accepted_at[i] += usage->accepted_at[i];
    side->off[usage->draft_off]++;
}

enum { WAVES = 3, MOST_ANSWERS = WAVES * BENCH_MAX_BATCH }; /* of a trial with several at once: so many times n */

/* Answers first_id .. first_id + n_total - 1, n of them at once. */
struct race {
    const struct trial *trial;
    struct engine *engine;
    int first_prompt, max_tokens, n_total;
    enum engine_drafter drafter;
    int n_submitted, n_ended, n_begun; /* n_begun: of the first n */
    uint64_t first_id, text[MOST_ANSWERS];
    bool has_begun[MOST_ANSWERS];
    int n_tokens, n_measured; /* all, and while n run */
    bool is_measuring;
    double since_ms, ms; /* measured since then, and before */
    struct side *side;
};

static int submit_next(struct race *race) {
    const struct trial *t = race->trial;
    const int i = race->n_submitted, prompt = race->first_prompt + i;
    const char *text = t->class->prompts[prompt % BENCH_PROMPTS];
    const struct engine_message message = {ENGINE_ROLE_USER, text, strlen(text)};
    struct engine_request request = {.messages = &message,
                                     .n_messages = 1,
                                     .max_tokens = race->max_tokens,
                                     .sampling = engine_sampling_default(),
                                     .drafter = race->drafter};
    uint64_t id;
    request.sampling.temperature = t->temperature;
    request.sampling.seed = (uint64_t)(prompt * 100 + i);
    int rc = engine_submit(race->engine, &request, &id, &t->bench->error);
    if (rc != ENGINE_OK) return rc;
    if (i == 0) race->first_id = id;
    race->text[i] = 0xcbf29ce484222325u;
    race->n_submitted++;
    return ENGINE_OK;
}

static void note_begin(struct race *race, int answer) {
    if (race->has_begun[answer]) return;
    race->has_begun[answer] = true;
    if (answer >= race->trial->n || ++race->n_begun < race->trial->n) return;
    race->is_measuring = true;
    race->since_ms = now_ms();
}

static void stop_clock(struct race *race) {
    if (race->is_measuring) race->ms += now_ms() - race->since_ms;
    race->is_measuring = false;
}

static int note_end(struct race *race) {
    race->n_ended++;
    if (race->n_submitted < race->n_total) return submit_next(race);
    stop_clock(race);
    return ENGINE_OK;
}

static int take_event(struct race *race, const struct engine_event *event) {
    const int answer = (int)(event->id - race->first_id);
    if (event->kind == ENGINE_EVENT_TEXT && event->n_tokens > 0) {
        race->text[answer] = (race->text[answer] ^ (uint32_t)event->token) * 0x100000001b3u;
        race->n_tokens += event->n_tokens;
        race->n_measured += race->is_measuring ? event->n_tokens : 0;
        note_begin(race, answer);
    }
    if (event->kind != ENGINE_EVENT_DONE) return ENGINE_OK;
    if (event->finish == ENGINE_FINISH_ERROR)
        return fail(race->trial->bench, event->status, event->message, race->trial->class->name);
    note_begin(race, answer);
    add_usage(race->side, &event->usage);
    return note_end(race);
}

static bool is_over(const struct race *race) { return race->n_ended == race->n_total; }

static int take_events(struct race *race) {
    struct engine_event event;
    int rc = ENGINE_OK;
    while (rc == ENGINE_OK && engine_poll(race->engine, &event, 1) > 0) rc = take_event(race, &event);
    return rc;
}

/* Until the race has given n_tokens, or is over. The tokens per ms of this turn; 0: it was not measured from start to end. */
static int take_turn(struct race *race, int n_tokens, double *rate) {
    const bool is_whole = race->is_measuring;
    const int n_before = race->n_measured;
    const double start = race->since_ms = now_ms();
    int rc = ENGINE_OK;
    while (rc == ENGINE_OK && race->n_submitted < race->trial->n) rc = submit_next(race);
    engine_let_go(race->engine);
    while (rc == ENGINE_OK && !is_over(race) && race->n_tokens < n_tokens) {
        engine_wait(race->engine, 1000);
        rc = take_events(race);
    }
    engine_hold(race->engine);
    if (rc == ENGINE_OK) rc = take_events(race);
    const double now = now_ms();
    if (race->is_measuring) race->ms += now - race->since_ms;
    *rate = is_whole && race->is_measuring ? (race->n_measured - n_before) / (now - start) : 0;
    return rc;
}

/* Both races side by side, by turns; run counts which begins. */
static int race_by_turns(struct race races[2], int run) {
    const struct trial *t = races[0].trial;
    const int n_tokens = t->n * TURN_STEPS > TURN_TOKENS ? t->n * TURN_STEPS : TURN_TOKENS;
    int rc = ENGINE_OK;
    for (int turn = 0; rc == ENGINE_OK && !(is_over(&races[0]) && is_over(&races[1])); turn++) {
        double rates[2] = {0};
        for (int i = 0; i < 2 && rc == ENGINE_OK; i++) {
            const int which = (turn + i + run) % 2;
            if (!is_over(&races[which])) rc = take_turn(&races[which], (turn + 1) * n_tokens, &rates[which]);
        }
        if (!note_gain(t->gains, rates)) return fail(t->bench, ENGINE_ERR_MEMORY, "no memory for the figures", t->class->name);
    }
    return rc;
}

static struct race start_race(const struct trial *t, struct engine *engine, int first_prompt, struct side *side) {
    const int n_total = t->n > 1 ? WAVES * t->n : 1;
    return (struct race){.trial = t,
                         .engine = engine,
                         .first_prompt = first_prompt,
                         .max_tokens = t->bench->settings.n_generate,
                         .n_total = n_total,
                         .drafter = ENGINE_DRAFTER_NONE,
                         .side = side};
}

static void end_race(const struct race *race) {
    struct side *side = race->side;
    side->ms += race->ms;
    side->n_measured += race->n_measured;
    for (int i = 0; i < race->n_total; i++) side->text = side->text * 31 + race->text[i];
}

/* Not measured: fills the cache with the prompts, and in the first run, of many answers of which few are measured, touches the
 * memory that they take. */
static int warm_up(const struct trial *t, struct engine *engine, int first, bool is_first_run) {
    struct side unused = {0};
    double rate;
    struct race prompts = start_race(t, engine, first, &unused), answers = prompts;
    prompts.max_tokens = 1;
    prompts.n_total = t->n;
    int rc = take_turn(&prompts, INT_MAX, &rate);
    if (rc == ENGINE_OK && is_first_run && t->n > 1) rc = take_turn(&answers, INT_MAX, &rate);
    return rc;
}

/* plain: [0], drafted: [1]. */
static int compare(const struct trial *t, int run, struct side sides[2]) {
    struct bench *b = t->bench;
    struct engine *engines[2] = {b->engine, b->rival};
    const int step = t->n < BENCH_PROMPTS ? t->n : BENCH_PROMPTS;
    for (int first = 0; first < BENCH_PROMPTS; first += step) {
        struct race races[2];
        int rc = ENGINE_OK;
        for (int i = 0; i < 2 && rc == ENGINE_OK; i++) {
            races[i] = start_race(t, engines[(i + run) % 2], first, &sides[i]);
            rc = warm_up(t, races[i].engine, first, run == 0);
        }
        races[1].drafter = b->settings.drafter;
        if (rc == ENGINE_OK) rc = race_by_turns(races, run);
        if (rc != ENGINE_OK) return rc;
        for (int i = 0; i < 2; i++) end_race(&races[i]);
        bool is_same = b->settings.verify == ENGINE_VERIFY_MATCH || t->temperature <= 0; /* or only the distribution */
        if (is_same && sides[0].text != sides[1].text)
            return fail(b, ENGINE_ERR_MODEL, "the text with a drafter differs from the text without", t->class->name);
    }
    return ENGINE_OK;
}

/* What all runs of a trial say. */
struct outcome {
    struct side drafted; /* the last run's counts */
    double rate[2];      /* medians, tokens per second */
    double speedup;
};

static int compare_often(const struct trial *t, struct outcome *out) {
    const int n_runs = t->bench->settings.n_runs;
    double rates[2][BENCH_MAX_RUNS], speedups[BENCH_MAX_RUNS];
    for (int run = 0; run < n_runs; run++) {
        struct side sides[2] = {0};
        int rc = compare(t, run, sides);
        if (rc != ENGINE_OK) return rc;
        for (int i = 0; i < 2; i++) rates[i][run] = sides[i].n_measured * 1e3 / sides[i].ms;
        speedups[run] = rates[1][run] / rates[0][run];
        out->drafted = sides[1];
    }
    for (int i = 0; i < 2; i++) out->rate[i] = bench_median(rates[i], n_runs);
    const bool has_pairs = t->n >= ALIKE && t->gains->n > 0;
    out->speedup = has_pairs ? bench_median(t->gains->at, t->gains->n) : bench_median(speedups, n_runs);
    return ENGINE_OK;
}

/* --- the report --- */

/* Of one answer: each step gives the tokens that were accepted and one more. */
static double per_step(const struct side *side) { return (double)side->n_tokens / (side->n_tokens - side->n_accepted); }

static const char *main_reason(const struct side *side) {
    int most = 0;
    for (int i = 1; i < ENGINE_DRAFT_OFF_COUNT; i++) most = side->off[i] > side->off[most] ? i : most;
    return engine_draft_off_name((enum engine_draft_off)most);
}

static void print_class(const struct trial *t, const struct outcome *outcome) {
    const struct side *drafted = &outcome->drafted;
    if (t->bench->settings.json) {
        printf("{\"class\": \"%s\", \"batch\": %d, \"temperature\": %g, \"plain\": %.2f, \"drafted\": %.2f, \"speedup\": %.4f, "
               "\"tokens_per_step\": %.4f, \"rounds\": %d, \"drafted_tokens\": %d, \"accepted\": %d}\n",
               t->class->name, t->n, (double)t->temperature, outcome->rate[0], outcome->rate[1], outcome->speedup,
               per_step(drafted), drafted->n_rounds, drafted->n_drafted, drafted->n_accepted);
        return;
    }
    printf("  %-10s %8.1f %8.1f %7.2fx %7.2f %7d %6.1f %%  ", t->class->name, outcome->rate[0], outcome->rate[1],
           outcome->speedup, per_step(drafted), drafted->n_rounds,
           drafted->n_drafted > 0 ? 100.0 * drafted->n_accepted / drafted->n_drafted : 0.0);
    for (int i = 0; i < 4; i++)
        printf(" %4.0f", drafted->n_rounds > 0 ? 100.0 * drafted->accepted_at[i] / drafted->n_rounds : 0.0);
    printf("   %s\n", main_reason(drafted));
}

static int run_classes(struct bench *b, float temperature, int n) {
    double sum = 0, worst = INFINITY;
    if (!b->settings.json)
        printf("batch %d, temperature %g\n  class         plain  drafted speed-up tok/step  rounds   right   at depth 1    2    "
               "3    4 %%  "
               "mostly off for\n",
               n, (double)temperature);
    for (int c = 0; c < BENCH_PROMPT_CLASSES; c++) {
        struct gains gains = {0};
        const struct trial t = {
            .bench = b, .class = &bench_prompt_classes[c], .temperature = temperature, .n = n, .gains = &gains};
        struct outcome outcome = {0};
        bench_progress("batch %d, temperature %g: %s", n, (double)temperature, t.class->name);
        int rc = compare_often(&t, &outcome);
        free(gains.at);
        if (rc != ENGINE_OK) return rc;
        bench_progress_end();
        print_class(&t, &outcome);
        fflush(stdout);
        sum += log(outcome.speedup);
        worst = fmin(worst, outcome.speedup);
    }
    if (!b->settings.json) printf("  geometric mean %.2fx, worst %.2fx\n\n", exp(sum / BENCH_PROMPT_CLASSES), worst);
    return ENGINE_OK;
}

int bench_speculative(struct bench *bench) {
    static const float temperatures[] = {0, 0.8f};
    int rc = ENGINE_OK;
    for (int b = 0; b < bench->result.decode.n && rc == ENGINE_OK; b++)
        for (size_t t = 0; t < sizeof temperatures / sizeof *temperatures && rc == ENGINE_OK; t++)
            rc = run_classes(bench, temperatures[t], bench->result.decode.at[b]);
    return rc;
}
