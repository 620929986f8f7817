/* bench_speculative.c - `foresay bench --speculative`: what guessing ahead gains, class by class, against the same engine
 * without.
 *
 * Each prompt of bench_prompts.h is answered twice, once plainly and once with the drafter; which comes first alternates. Its
 * prefix is in the cache before, so that both compute the same. The two texts must be equal, or the run ends with an error. With
 * batch N, N answers are written at once, the prompts of the class in turn, each with a seed of its own, and where one ends the
 * next begins, as a server has it. What is measured is decoding: the tokens between the moment that N answers have begun and
 * the first end after which there is none to follow, on the wall clock; how many those are depends on when answers end, so each
 * run has a rate of its own. Main thread. */
#include <math.h>
#include <string.h>

#include "engine/bench.h"
#include "engine/bench_prompts.h"

struct side {
    double ms;
    int n_measured; /* tokens of those ms */
    int n_tokens, n_rounds, n_drafted, n_accepted;
    int accepted_at[ENGINE_DRAFT_DEPTHS], off[ENGINE_DRAFT_OFF_COUNT];
    uint64_t text; /* digest of the ids, answer by answer */
};

/* One measurement: a class, at a temperature, n at once. */
struct trial {
    struct bench *bench;
    const struct bench_prompt_class *class;
    float temperature;
    int n;
};

static int fail(struct bench *bench, int status, const char *what, const char *class) {
    snprintf(bench->error.text, sizeof bench->error.text, "%s (class %s)", what, class);
    return status;
}

static int submit(const struct trial *t, int prompt, int i, enum engine_drafter drafter, int max_tokens, uint64_t *id) {
    const char *text = t->class->prompts[prompt % BENCH_PROMPTS];
    const struct engine_message message = {ENGINE_ROLE_USER, text, strlen(text)};
    struct engine_request request = {.messages = &message,
                                     .n_messages = 1,
                                     .max_tokens = max_tokens,
                                     .sampling = engine_sampling_default(),
                                     .drafter = drafter};
    request.sampling.temperature = t->temperature;
    request.sampling.seed = (uint64_t)(prompt * 100 + i);
    return engine_submit(t->bench->engine, &request, id, &t->bench->error);
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
    int first_prompt, max_tokens, n_total;
    enum engine_drafter drafter;
    int n_submitted, n_ended, n_begun; /* n_begun: of the first n */
    uint64_t first_id, text[MOST_ANSWERS];
    bool has_begun[MOST_ANSWERS];
    int n_measured; /* tokens while n run; ms: when that began, then how long it was */
    bool is_measuring;
    double ms;
};

static int submit_next(struct race *race) {
    uint64_t id;
    const int i = race->n_submitted;
    int rc = submit(race->trial, race->first_prompt + i, i, race->drafter, race->max_tokens, &id);
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
    race->ms = now_ms();
}

static int note_end(struct race *race) {
    race->n_ended++;
    if (race->n_submitted < race->n_total) return submit_next(race);
    if (race->is_measuring) race->ms = now_ms() - race->ms;
    race->is_measuring = false;
    return ENGINE_OK;
}

static int take_event(struct race *race, const struct engine_event *event, struct side *side) {
    const int answer = (int)(event->id - race->first_id);
    if (event->kind == ENGINE_EVENT_TEXT && event->n_tokens > 0) {
        race->text[answer] = (race->text[answer] ^ (uint32_t)event->token) * 0x100000001b3u;
        race->n_measured += race->is_measuring ? event->n_tokens : 0;
        note_begin(race, answer);
    }
    if (event->kind != ENGINE_EVENT_DONE) return ENGINE_OK;
    if (event->finish == ENGINE_FINISH_ERROR)
        return fail(race->trial->bench, event->status, event->message, race->trial->class->name);
    note_begin(race, answer);
    add_usage(side, &event->usage);
    return note_end(race);
}

/* n_total answers from prompt `first` on, as many at once as the trial has. */
static int answer(const struct trial *t, int first, int n_total, enum engine_drafter drafter, int max_tokens, struct side *side) {
    struct engine_event event;
    struct race race = {.trial = t, .first_prompt = first, .max_tokens = max_tokens, .n_total = n_total, .drafter = drafter};
    int rc = ENGINE_OK;
    while (rc == ENGINE_OK && race.n_submitted < t->n) rc = submit_next(&race);
    while (rc == ENGINE_OK && race.n_ended < n_total) {
        if (engine_poll(t->bench->engine, &event, 1) > 0)
            rc = take_event(&race, &event, side);
        else
            engine_wait(t->bench->engine, 1000);
    }
    side->ms += race.ms;
    side->n_measured += race.n_measured;
    for (int i = 0; i < n_total; i++) side->text = side->text * 31 + race.text[i];
    return rc;
}

/* Not measured: fills the cache with the prompts. Of many answers at once few are measured, so the memory that they take must
 * have been touched before: the first round's blocks stay in the cache, so it takes two. */
static int warm_up(const struct trial *t, int first, int n_tokens) {
    struct side unused = {0};
    int rc = answer(t, first, t->n, ENGINE_DRAFTER_NONE, 1, &unused);
    for (int i = 0; i < 2 && t->n > 1 && rc == ENGINE_OK; i++)
        rc = answer(t, first, t->n, ENGINE_DRAFTER_NONE, n_tokens, &unused);
    return rc;
}

/* plain: [0], drafted: [1]. Odd runs begin with the other side. */
static int compare(const struct trial *t, int run, struct side sides[2]) {
    const enum engine_drafter drafters[2] = {ENGINE_DRAFTER_NONE, t->bench->settings.drafter};
    const int step = t->n < BENCH_PROMPTS ? t->n : BENCH_PROMPTS, n_tokens = t->bench->settings.n_generate;
    for (int first = 0; first < BENCH_PROMPTS; first += step) {
        int rc = warm_up(t, first, n_tokens);
        for (int i = 0; i < 2 && rc == ENGINE_OK; i++) {
            const int which = (first / step + i + run) % 2;
            rc = answer(t, first, t->n > 1 ? WAVES * t->n : 1, drafters[which], n_tokens, &sides[which]);
        }
        if (rc != ENGINE_OK) return rc;
        bool is_same = t->bench->settings.verify == ENGINE_VERIFY_MATCH || t->temperature <= 0; /* or only the distribution */
        if (is_same && sides[0].text != sides[1].text)
            return fail(t->bench, ENGINE_ERR_MODEL, "the text with a drafter differs from the text without", t->class->name);
    }
    return ENGINE_OK;
}

/* What all runs of a trial say. */
struct outcome {
    struct side drafted; /* the last run's counts */
    double rate[2];      /* medians, tokens per second */
    double speedup;      /* the median of the runs' own: both sides of a run have met much the same machine */
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
    out->speedup = bench_median(speedups, n_runs);
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
        const struct trial t = {.bench = b, .class = &bench_prompt_classes[c], .temperature = temperature, .n = n};
        struct outcome outcome = {0};
        bench_progress("batch %d, temperature %g: %s", n, (double)temperature, t.class->name);
        int rc = compare_often(&t, &outcome);
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
