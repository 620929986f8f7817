/* tool_generate.c - `foresay generate`: one prompt, one answer, streamed to the terminal or as JSON.
 *
 * It goes the way of every request (engine.h), so what it shows is what a chat gets: the text depends on model, prompt, sampling
 * parameters and seed alone. Main thread. */
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "engine/log.h"
#include "engine/options.h"
#include "engine/tools.h"

struct settings {
    const char *model, *prompt, *chat, *system, *isa, *kv_type, *activations, *drafter_name, *verify_name;
    enum engine_drafter drafter;
    enum engine_verify verify;
    const char *draft_files;
    int draft_max, draft_width, n_tokens, threads, ctx, step_tokens, logprobs; /* logprobs: -1 = none */
    struct engine_sampling sampling;
    size_t kv_bytes;
    bool json;
};

/* What came out, kept for the JSON. */
struct answer {
    int32_t *ids;                    /* [capacity] */
    struct engine_logprob *logprobs; /* [capacity][stride] */
    int n_ids, capacity, stride;
    char *text;
    size_t len, size;
    struct engine_event done;
};

static bool answer_open(struct answer *answer, int capacity, int n_logprobs) {
    *answer = (struct answer){.capacity = capacity, .stride = n_logprobs, .size = 4096};
    answer->logprobs = malloc((size_t)capacity * (size_t)n_logprobs * sizeof *answer->logprobs + 1);
    answer->ids = malloc((size_t)capacity * sizeof *answer->ids);
    answer->text = malloc(answer->size);
    return answer->ids && answer->text && answer->logprobs;
}

static void answer_close(struct answer *answer) {
    free(answer->ids);
    free(answer->text);
    free(answer->logprobs);
}

static bool answer_add(struct answer *answer, const struct engine_event *event) {
    size_t len = (size_t)event->text_len;
    if (event->n_tokens > 0 && answer->n_ids < answer->capacity) {
        if (event->n_logprobs > 0)
            memcpy(answer->logprobs + answer->n_ids * answer->stride, event->logprobs,
                   (size_t)answer->stride * sizeof *event->logprobs);
        answer->ids[answer->n_ids++] = event->token;
    }
    if (answer->len + len > answer->size) {
        char *text = realloc(answer->text, 2 * answer->size + len);
        if (!text) return false;
        answer->text = text;
        answer->size = 2 * answer->size + len;
    }
    memcpy(answer->text + answer->len, event->text, len);
    answer->len += len;
    return true;
}

/* Every character that JSON does not take as it is; the text is UTF-8 already. */
static void print_json_string(const char *text, size_t len) {
    putchar('"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c == '\n')
            printf("\\n");
        else if (c < 0x20 || c == 0x7f)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static double rate(int n, float ms) { return n > 0 && ms > 0 ? n * 1e3 / (double)ms : 0; }

/* [[[token, logprob], [likeliest, logprob], ...], ...] */
static void print_logprobs(const struct answer *answer) {
    printf(", \"logprobs\": [");
    for (int i = 0; i < answer->n_ids; i++) {
        const struct engine_logprob *of = answer->logprobs + i * answer->stride;
        for (int j = 0; j < answer->stride; j++)
            printf("%s[%d, %.9g]", j ? ", " : i ? ", [" : "[", of[j].token, (double)of[j].logprob);
        printf("]");
    }
    printf("]");
}

static void print_json(const struct answer *answer) {
    const struct engine_usage *usage = &answer->done.usage;
    static const char *const finish[] = {"stop", "length", "context", "cancelled", "error"};
    printf("{\"ids\": [");
    for (int i = 0; i < answer->n_ids; i++) printf("%s%d", i ? ", " : "", answer->ids[i]);
    printf("], \"text\": ");
    print_json_string(answer->text, answer->len);
    if (answer->stride > 0) print_logprobs(answer);
    printf(", \"finish\": \"%s\", \"prompt_tokens\": %d, \"output_tokens\": %d, \"prefill_tok_s\": %.2f, \"decode_tok_s\": %.2f, "
           "\"draft_rounds\": %d, \"drafted_tokens\": %d, \"accepted_tokens\": %d, \"model_rounds\": %d, \"draft_off\": \"%s\", "
           "\"accepted_at\": [",
           finish[answer->done.finish], usage->prompt_tokens, usage->output_tokens, rate(usage->prompt_tokens, usage->prefill_ms),
           rate(usage->output_tokens - 1, usage->decode_ms), usage->draft_rounds, usage->drafted_tokens, usage->accepted_tokens,
           usage->model_rounds, engine_draft_off_name(usage->draft_off));
    for (int i = 0; i < ENGINE_DRAFT_DEPTHS; i++) printf("%s%d", i ? ", " : "", usage->accepted_at[i]);
    printf("]}\n");
}

static void print_summary(const struct answer *answer) {
    const struct engine_usage *usage = &answer->done.usage;
    printf("\n");
    fflush(stdout);
    fprintf(stderr, "[%d prompt tokens at %.1f tok/s; %d tokens at %.1f tok/s, %d of %d drafted were right%s]\n",
            usage->prompt_tokens, rate(usage->prompt_tokens, usage->prefill_ms), usage->output_tokens,
            rate(usage->output_tokens - 1, usage->decode_ms), usage->accepted_tokens, usage->drafted_tokens,
            answer->done.finish == ENGINE_FINISH_CONTEXT ? "; the context is full" : "");
}

/* Follows the request to its end. False when the output or memory failed. */
static bool follow(struct engine *engine, const struct settings *settings, struct answer *answer) {
    struct engine_event event;
    for (;;) {
        while (engine_poll(engine, &event, 1) == 0) engine_wait(engine, 1000);
        if (event.kind == ENGINE_EVENT_TEXT) {
            if (!answer_add(answer, &event)) return false;
            if (settings->json) continue;
            fwrite(event.text, 1, (size_t)event.text_len, stdout);
            if (fflush(stdout) != 0) return false;
        } else if (event.kind == ENGINE_EVENT_DONE) {
            answer->done = event;
            return true;
        }
    }
}

static int fail(const char *text) {
    fprintf(stderr, "foresay generate: %s\n", text);
    return 1;
}

static int submit(struct engine *engine, const struct settings *settings, struct engine_error *error) {
    struct engine_message messages[2];
    struct engine_request request = {.max_tokens = settings->n_tokens, .sampling = settings->sampling};
    uint64_t id;
    request.logprobs = settings->logprobs >= 0;
    if (request.logprobs) request.n_top_logprobs = settings->logprobs;
    if (settings->chat) {
        if (settings->system)
            messages[request.n_messages++] =
                (struct engine_message){ENGINE_ROLE_SYSTEM, settings->system, strlen(settings->system)};
        messages[request.n_messages++] = (struct engine_message){ENGINE_ROLE_USER, settings->chat, strlen(settings->chat)};
        request.messages = messages;
    } else {
        request.prompt = settings->prompt;
        request.prompt_len = strlen(settings->prompt);
    }
    return engine_submit(engine, &request, &id, error);
}

static int generate(const struct settings *settings) {
    struct engine *engine;
    struct engine_error error;
    struct engine_info info;
    struct answer answer;
    struct engine_config config = engine_config_default();
    config.model_path = settings->model;
    config.isa = settings->isa;
    config.kv_type = settings->kv_type;
    config.activations = settings->activations;
    config.n_threads = settings->threads;
    config.ctx_len = settings->ctx;
    config.step_tokens = settings->step_tokens;
    config.kv_bytes = settings->kv_bytes;
    config.drafter = settings->drafter;
    config.draft_files = settings->draft_files;
    config.verify = settings->verify;
    config.draft_max = settings->draft_max;
    config.draft_width = settings->draft_width;
    config.max_seqs = 1;
    if (engine_open(&engine, &config, &error) != ENGINE_OK) return fail(error.text);
    engine_events_per_token(engine);
    engine_info(engine, &info);
    int rc = 1;
    if (!answer_open(&answer, info.ctx_len, settings->logprobs + 1))
        fail("no memory");
    else if (submit(engine, settings, &error) != ENGINE_OK)
        fail(error.text);
    else if (!follow(engine, settings, &answer))
        fail("cannot write the output");
    else if (answer.done.finish == ENGINE_FINISH_ERROR)
        fail(answer.done.message);
    else
        rc = 0;
    if (rc == 0 && settings->json) print_json(&answer);
    if (rc == 0 && !settings->json) print_summary(&answer);
    answer_close(&answer);
    engine_close(engine);
    if (fflush(stdout) != 0 && rc == 0) rc = fail("cannot write the output");
    return rc;
}

int tool_generate(int argc, char **argv) {
    struct engine_config defaults = engine_config_default();
    struct settings s = {.n_tokens = 256,
                         .logprobs = -1,
                         .step_tokens = defaults.step_tokens,
                         .draft_max = defaults.draft_max,
                         .draft_width = defaults.draft_width,
                         .drafter_name = "auto",
                         .verify_name = "match",
                         .sampling = engine_sampling_default()};
    struct engine_sampling *p = &s.sampling;
    struct option_row rows[] = {
        {"model", OPTION_STRING, &s.model, "FILE", "GGUF file", 0, 0, false},
        {"prompt", OPTION_STRING, &s.prompt, "TEXT", "text to go on with, as it is", 0, 0, false},
        {"chat", OPTION_STRING, &s.chat, "TEXT", "a user's message, put into the model's chat template", 0, 0, false},
        {"system", OPTION_STRING, &s.system, "TEXT", "system message before --chat", 0, 0, false},
        {"n", OPTION_INT, &s.n_tokens, "N", "tokens at most, 0 = until the context is full", 0, 1 << 24, false},
        {"temp", OPTION_FLOAT, &p->temperature, "T", "temperature, 0 = always the likeliest token", 0, 5, false},
        {"top-p", OPTION_FLOAT, &p->top_p, "P", "keep the likeliest tokens that weigh P together, 1 = all", 0, 1, false},
        {"top-k", OPTION_INT, &p->top_k, "K", "keep the K likeliest tokens, 0 = all", 0, 1 << 24, false},
        {"min-p", OPTION_FLOAT, &p->min_p, "P", "drop tokens below P times the likeliest, 0 = none", 0, 1, false},
        {"repeat-penalty", OPTION_FLOAT, &p->repeat_penalty, "R", "weaken what the last 64 tokens had, 1 = off", 0.01, 100,
         false},
        {"seed", OPTION_U64, &p->seed, "S", "the same seed gives the same text", 0, 0, false},
        {"threads", OPTION_INT, &s.threads, "N", "compute threads, 0 = all that are granted", 0, 1024, false},
        {"isa", OPTION_STRING, &s.isa, "NAME", "auto, scalar, avx2, avxvnni, avx512 or amx; does not change the text", 0, 0,
         false},
        {"ctx", OPTION_INT, &s.ctx, "N", "context in tokens, 0 = the model's, at most 8192", 0, 1 << 24, false},
        {"step-tokens", OPTION_INT, &s.step_tokens, "N", "rows of one step; does not change the text", 1, 1 << 16, false},
        {"kv-type", OPTION_STRING, &s.kv_type, "TYPE", "keys and values as auto (int8 if heads allow), f16, int8 or int4", 0, 0,
         false},
        {"activations", OPTION_STRING, &s.activations, "TYPE",
         "inputs of products as auto (int16 for models with weights of 2 bits, mixed with 3), int8, mixed or int16", 0, 0, false},
        {"kv-mem", OPTION_SIZE, &s.kv_bytes, "SIZE", "memory for keys and values, such as 512M", 0, 0, false},
        {"drafter", OPTION_STRING, &s.drafter_name, "NAME",
         "who guesses ahead: " ENGINE_DRAFTER_FORMS "; does not change the text", 0, 0, false},
        {"verify", OPTION_STRING, &s.verify_name, "NAME",
         "how guesses are checked: " ENGINE_VERIFY_FORMS " (lossy); all but match change the text for a seed", 0, 0, false},
        {"draft-max", OPTION_INT, &s.draft_max, "N", "tokens guessed in a step at most", 1, 63, false},
        {"draft-width", OPTION_INT, &s.draft_width, "N", "guesses for the same place; 1 = chains, not trees", 1, 63, false},
        {"logprobs", OPTION_INT, &s.logprobs, "N",
         "with --json: log-probabilities of each token and of the N likeliest, -1 = none", -1, ENGINE_MAX_TOP_LOGPROBS, false},
        {"json", OPTION_FLAG, &s.json, NULL, "one JSON object instead of streamed text", 0, 0, false},
    };
    struct option_set set = {.command = "generate",
                             .usage = "--model FILE (--prompt TEXT | --chat TEXT) [flags]",
                             .about = "Answers one prompt. The text depends on model, prompt, sampling flags and seed alone.",
                             .rows = rows,
                             .n_rows = sizeof rows / sizeof *rows};
    int rc = options_parse(&set, argc, argv, NULL);
    if (rc) return rc == 1 ? 0 : rc;
    if (!s.model || !s.prompt == !s.chat) {
        fprintf(stderr, "foresay generate: --model and one of --prompt and --chat are needed (foresay generate --help)\n");
        return 2;
    }
    if (!engine_drafter_parse(s.drafter_name, &s.drafter, &s.draft_files)) {
        fprintf(stderr, "foresay generate: --drafter is " ENGINE_DRAFTER_FORMS ", not '%s'\n", s.drafter_name);
        return 2;
    }
    if (!engine_verify_parse(s.verify_name, &s.verify)) {
        fprintf(stderr, "foresay generate: --verify is " ENGINE_VERIFY_FORMS ", not '%s'\n", s.verify_name);
        return 2;
    }
    log_set_level(LOG_WARN); /* the terminal belongs to the text */
    return generate(&s);
}
