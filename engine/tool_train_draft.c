/* tool_train_draft.c - `foresay train-draft`: makes a drafter for a model from the model's own text.
 *
 * The model answers questions, half of the time greedily and half at temperature 0.8. Three in five it has invented itself: given
 * a chat that breaks off where the user is to speak, it speaks for the user (Xu et al., Magpie, 2024). The others are templates
 * times topics (train_prompts.h), so that lists, tables, code and letters are not rare. What it says goes to OUT.text, token by
 * token, one answer after the other; that file is the checkpoint: after a kill --resume goes on behind the last whole answer. At
 * the end an n-gram store is distilled from it and written to OUT. One answer in twenty is kept out of the store and tells how
 * often its first guess is right, and how many tokens a step would have given there. Heads learn from the same text
 * (tool_train_head.c). Main thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/internal.h"
#include "engine/log.h"
#include "engine/options.h"
#include "engine/tools.h"
#include "engine/train_head.h"
#include "engine/train_prompts.h"
#include "engine/train_text.h"

enum { QUESTION_TOKENS = 120, QUESTION_BYTES = 2048, ANSWER_TOKENS = 384, MAX_AT_ONCE = 256, REPORT_EVERY_MS = 10000 };

struct settings {
    const char *model, *out, *kind, *isa;
    float hours;
    int max_tokens, at_once, threads;
    size_t max_bytes;
    bool resume;
};

struct answer {
    uint64_t id, seed;
    bool is_question; /* the model is still inventing it */
    char question[QUESTION_BYTES];
    size_t question_len;
    int32_t ids[ANSWER_TOKENS + 1];
    int n;
};

struct training {
    const struct settings *settings;
    struct engine *engine;
    FILE *file;
    struct text_head head;
    struct token_list turn; /* the beginning of a chat, up to where the user speaks; empty = this model's chats have none */
    struct answer answers[MAX_AT_ONCE];
    uint64_t n_asked;            /* the next question's seed */
    uint64_t n_tokens, n_before; /* of answers in the file; of these when this run began */
    double begun_ms, reported_ms;
};

static int fail(const char *what, const char *why) {
    fprintf(stderr, "foresay train-draft: %s%s%s\n", what, why ? ": " : "", why ? why : "");
    return 1;
}

/* --- the text file --- */

/* Counts whole answers and cuts off what was written in part. False when the file cannot be read or changed. */
static bool find_end(struct training *t) {
    int32_t token;
    long at = (long)sizeof t->head, end = at;
    uint64_t n = 0;
    while (fread(&token, sizeof token, 1, t->file) == 1) {
        at += (long)sizeof token;
        n += token >= 0;
        if (token != TEXT_END) continue;
        end = at;
        t->n_tokens += n;
        n = 0;
    }
    return fseek(t->file, end, SEEK_SET) == 0 && ftruncate(fileno(t->file), end) == 0;
}

static int open_text(struct training *t, const char *path) {
    struct text_head head;
    t->file = fopen(path, "r+b");
    if (!t->file) {
        t->file = fopen(path, "w+b");
        if (!t->file || fwrite(&t->head, sizeof t->head, 1, t->file) != 1) return fail(path, strerror(errno));
        return 0;
    }
    if (!t->settings->resume) return fail(path, "is there from an earlier run; go on with --resume, or remove it");
    if (fread(&head, sizeof head, 1, t->file) != 1 || memcmp(&head, &t->head, sizeof head) != 0)
        return fail(path, "holds the text of another model");
    return find_end(t) ? 0 : fail(path, strerror(errno));
}

/* The prompt as the model saw it, then what it said. */
static bool write_answer(struct training *t, struct answer *a) {
    struct token_list prompt = {0};
    struct engine_error error;
    struct engine_message message = {ENGINE_ROLE_USER, a->question, a->question_len};
    const struct chat_prompt chat = {.messages = &message, .n_messages = 1};
    if (chat_template_render(t->engine->chat_template, &chat, &prompt, NULL, &error) != ENGINE_OK) prompt.n = 0;
    for (size_t i = 0; i < prompt.n; i++) prompt.ids[i] = text_of_prompt(prompt.ids[i]);
    size_t n = (size_t)a->n;
    a->ids[n++] = TEXT_END;
    t->n_tokens += (uint64_t)a->n;
    bool is_written = fwrite(prompt.ids, sizeof *prompt.ids, prompt.n, t->file) == prompt.n &&
                      fwrite(a->ids, sizeof *a->ids, n, t->file) == n && fflush(t->file) == 0;
    token_list_free(&prompt);
    return is_written;
}

/* --- asking --- */

/* What two chats have in common that begin with different words. */
static int find_turn(struct training *t, struct engine_error *error) {
    struct token_list other = {0};
    struct engine_message message = {ENGINE_ROLE_USER, "Hello", 5};
    const struct chat_prompt prompt = {.messages = &message, .n_messages = 1};
    int rc = chat_template_render(t->engine->chat_template, &prompt, &t->turn, NULL, error);
    message.text = "Why";
    message.len = 3;
    if (rc == ENGINE_OK) rc = chat_template_render(t->engine->chat_template, &prompt, &other, NULL, error);
    size_t n = 0;
    while (n < t->turn.n && n < other.n && t->turn.ids[n] == other.ids[n]) n++;
    t->turn.n = n;
    token_list_free(&other);
    return rc;
}

/* The model speaks for the user. */
static int invent(struct training *t, struct answer *a, struct engine_error *error) {
    struct engine_request request = {
        .ids = t->turn.ids, .n_ids = (int)t->turn.n, .max_tokens = QUESTION_TOKENS, .sampling = engine_sampling_default()};
    request.sampling.temperature = 1;
    request.sampling.top_p = 0.95f;
    request.sampling.seed = a->seed;
    a->is_question = true;
    return engine_submit(t->engine, &request, &a->id, error);
}

static int ask(struct training *t, struct answer *a, struct engine_error *error) {
    struct engine_message message = {ENGINE_ROLE_USER, a->question, a->question_len};
    struct engine_request request = {
        .messages = &message, .n_messages = 1, .max_tokens = ANSWER_TOKENS, .sampling = engine_sampling_default()};
    request.sampling.temperature = a->seed % 2 ? 0.8f : 0;
    request.sampling.top_p = 1;
    request.sampling.seed = a->seed;
    a->is_question = false;
    return engine_submit(t->engine, &request, &a->id, error);
}

/* Neighbours differ in both, and all pairs come before the first one returns with another seed. */
static void take_template(struct answer *a) {
    enum {
        N_TEMPLATES = sizeof train_templates / sizeof *train_templates,
        N_TOPICS = sizeof train_topics / sizeof *train_topics
    };
    uint64_t i = a->seed / 5 * 2 + a->seed % 5 % 2;
    const char *template = train_templates[i % N_TEMPLATES], *topic = train_topics[(i / N_TEMPLATES + i * 29) % N_TOPICS];
    char *place = strstr(template, "%s");
    int n = snprintf(a->question, sizeof a->question, "%.*s%s%s", (int)(place - template), template, topic, place + 2);
    a->question_len = (size_t)n;
}

static int begin(struct training *t, struct answer *a, struct engine_error *error) {
    a->seed = t->n_asked++;
    a->n = 0;
    a->question_len = 0;
    if (a->seed % 5 >= 2 && t->turn.n > 0) return invent(t, a, error);
    take_template(a);
    return ask(t, a, error);
}

static void note_text(struct answer *a, const struct engine_event *event) {
    size_t len = (size_t)event->text_len;
    if (!a->is_question && event->n_tokens > 0 && a->n < ANSWER_TOKENS) a->ids[a->n++] = event->token;
    if (!a->is_question || a->question_len + len > sizeof a->question) return;
    memcpy(a->question + a->question_len, event->text, len);
    a->question_len += len;
}

/* The answer or the question is whole. A question that does not end in time is none. */
static int go_on(struct training *t, struct answer *a, const struct engine_event *done) {
    struct engine_error error;
    if (done->finish == ENGINE_FINISH_ERROR) return fail(done->message, NULL);
    if (!a->is_question && a->n > 0 && !write_answer(t, a)) return fail("the text cannot be written", strerror(errno));
    const bool has_question = a->is_question && done->finish == ENGINE_FINISH_STOP && a->question_len > 0;
    int rc = has_question ? ask(t, a, &error) : begin(t, a, &error);
    return rc == ENGINE_OK ? 0 : fail(error.text, NULL);
}

static struct answer *find_answer(struct training *t, uint64_t id) {
    for (int i = 0; i < t->settings->at_once; i++) {
        if (t->answers[i].id == id) return &t->answers[i];
    }
    return NULL;
}

static bool is_time_up(const struct training *t) {
    return now_ms() - t->begun_ms >= (double)t->settings->hours * 3.6e6 ||
           (t->settings->max_tokens > 0 && t->n_tokens >= (uint64_t)t->settings->max_tokens);
}

static void report(struct training *t) {
    double now = now_ms(), spent_ms = now - t->begun_ms;
    if (now - t->reported_ms < REPORT_EVERY_MS) return;
    t->reported_ms = now;
    fprintf(stderr, "%llu tokens, %.0f a second, %.1f minutes left\n", (unsigned long long)t->n_tokens,
            (double)(t->n_tokens - t->n_before) * 1e3 / spent_ms, (double)t->settings->hours * 60 - spent_ms / 6e4);
}

/* Keeps at_once answers under way until the time is up. */
static int gather_text(struct training *t) {
    struct engine_error error;
    struct engine_event event;
    if (find_turn(t, &error) != ENGINE_OK) return fail(error.text, NULL);
    for (int i = 0; i < t->settings->at_once; i++) {
        if (begin(t, &t->answers[i], &error) != ENGINE_OK) return fail(error.text, NULL);
    }
    while (!is_time_up(t)) {
        if (engine_poll(t->engine, &event, 1) == 0) {
            engine_wait(t->engine, 1000);
            continue;
        }
        struct answer *a = find_answer(t, event.id);
        if (event.kind == ENGINE_EVENT_TEXT) note_text(a, &event);
        if (event.kind != ENGINE_EVENT_DONE) continue;
        if (go_on(t, a, &event) != 0) return 1;
        report(t);
    }
    return 0;
}

/* --- the store --- */

/* Divides the text: one answer in TEXT_HELD_OUT to held, the others to *text. */
static void divide(const int32_t *all, uint64_t n, int32_t *text, uint64_t *n_text, int32_t *held, uint64_t *n_held) {
    uint64_t i_answer = 0;
    *n_text = *n_held = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (text_is_held_out(i_answer))
            held[(*n_held)++] = all[i];
        else
            text[(*n_text)++] = all[i];
        i_answer += all[i] == TEXT_END;
    }
}

static uint64_t tokens_of(const int32_t *text, uint64_t n_text) {
    uint64_t n = 0;
    for (uint64_t i = 0; i < n_text; i++) n += text[i] >= 0;
    return n;
}

static double share_right(const struct ngram_store *store, const int32_t *held, uint64_t n) {
    struct ngram_guess guesses[NGRAM_NEXT];
    uint64_t n_tried = 0, n_right = 0;
    int known = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (held[i] >= 0 && known > 0) {
            n_tried++;
            n_right += ngram_find(store, held + i - known, known, guesses) > 0 && guesses[0].token == held[i];
        }
        known = held[i] < 0 ? 0 : known < NGRAM_ORDERS ? known + 1 : NGRAM_ORDERS;
    }
    return n_tried ? (double)n_right / (double)n_tried : 0;
}

/* Trees and chains of equal size, played again on what was kept out. */
static void report_gain(const struct ngram_store *store, const int32_t *held, uint64_t n) {
    static const int nodes[] = {1, 3, 7, 15}, widths[] = {1, 4};
    printf("tokens a step there, with what the text itself repeats: guesses a step  1     3     7     15\n");
    for (int w = 0; w < 2; w++) {
        printf("%67s", w == 0 ? "chains" : "trees");
        for (int i = 0; i < 4; i++) {
            struct replay_sums sums;
            if (speculative_replay(held, n, store, nodes[i], widths[w], &sums) == 0 && sums.n_steps > 0)
                printf("  %.2f", (double)sums.n_tokens / (double)sums.n_steps);
        }
        printf("\n");
    }
}

static int write_store(const char *path, const void *image, uint64_t size) {
    char part[4096];
    snprintf(part, sizeof part, "%s.part", path);
    FILE *file = fopen(part, "wb");
    bool is_whole = file && fwrite(image, 1, (size_t)size, file) == size && fflush(file) == 0 && fsync(fileno(file)) == 0;
    if (file && fclose(file) != 0) is_whole = false;
    if (!is_whole || rename(part, path) != 0) return fail(path, strerror(errno));
    return 0;
}

static int distill(struct training *t) {
    const struct settings *s = t->settings;
    uint64_t n = 0, n_text, n_held, size;
    long end = fseek(t->file, 0, SEEK_END) == 0 ? ftell(t->file) : -1;
    if (end < 0 || fseek(t->file, (long)sizeof t->head, SEEK_SET) != 0) return fail("the text cannot be read", strerror(errno));
    size_t room = (size_t)end / sizeof(int32_t);
    int32_t *all = malloc(3 * room * sizeof *all), *text = all + room, *held = text + room;
    if (!all) return fail("no memory for the text", NULL);
    n = fread(all, sizeof *all, room, t->file);
    divide(all, n, text, &n_text, held, &n_held);
    uint32_t n_vocab = (uint32_t)tokenizer_vocab_size(t->engine->tokenizer);
    void *image = ngram_build(text, n_text, n_vocab, t->head.vocab_digest, t->head.target_digest, s->max_bytes, &size);
    struct ngram_store store;
    int rc = image ? write_store(s->out, image, size) : fail("no memory for the store", NULL);
    if (rc == 0 && !ngram_open(&store, image, size, n_vocab, 0, 0)) {
        printf("%s: %llu bytes from %llu tokens; on %llu tokens kept out its first guess is right %.1f %% of the time\n", s->out,
               (unsigned long long)size, (unsigned long long)store.header->n_text, (unsigned long long)tokens_of(held, n_held),
               100 * share_right(&store, held, n_held));
        report_gain(&store, held, n_held);
    }
    free(image);
    free(all);
    return rc;
}

/* --- the command --- */

static int train(const struct settings *s) {
    static struct training t;
    struct engine_error error;
    struct engine_config config = engine_config_default();
    char path[4096];
    config.model_path = s->model;
    config.isa = s->isa;
    config.n_threads = s->threads;
    config.max_seqs = s->at_once;
    if (engine_open(&t.engine, &config, &error) != ENGINE_OK) return fail(error.text, NULL);
    engine_events_per_token(t.engine);
    t.settings = s;
    memcpy(t.head.magic, "fstext 1", sizeof t.head.magic);
    draft_digests(t.engine->tokenizer, t.engine->model, &t.head.vocab_digest, &t.head.target_digest);
    snprintf(path, sizeof path, "%s.text", s->out);
    int rc = open_text(&t, path);
    t.n_before = t.n_asked = t.n_tokens; /* beyond all seeds that were used: no answer has fewer tokens than seeds */
    t.begun_ms = t.reported_ms = now_ms();
    if (rc == 0) rc = gather_text(&t);
    if (rc == 0) rc = distill(&t);
    engine_close(t.engine);
    token_list_free(&t.turn);
    if (t.file) fclose(t.file);
    return rc;
}

/* A store and a head, each in half of the time: OUT.ngram and OUT.head.gguf. */
static int train_all(const struct settings *s, const struct train_head_settings *base) {
    char store[4096], text[4200], head[4096];
    struct settings half = *s;
    struct train_head_settings learn = *base;
    snprintf(store, sizeof store, "%s.ngram", s->out);
    snprintf(text, sizeof text, "%s.text", store);
    snprintf(head, sizeof head, "%s.head.gguf", s->out);
    half.out = store;
    half.hours = learn.hours = s->hours / 2;
    learn.kind = HEAD_RECURRENT;
    learn.out = head;
    learn.max_tokens = 0; /* the limit is the text's */
    if (!learn.text) learn.text = text;
    if (train(&half) != 0 || train_head(&learn) != 0) return 1;
    printf("for both: --drafter auto:%s,%s\n", store, head);
    return 0;
}

static bool find_kind(const char *name, enum head_kind *kind) {
    static const char *const names[HEAD_KINDS] = {
        [HEAD_EAGLE] = "eagle", [HEAD_MEDUSA] = "medusa", [HEAD_RECURRENT] = "recurrent"};
    for (int i = 0; i < HEAD_KINDS; i++) {
        *kind = (enum head_kind)i;
        if (strcmp(names[i], name) == 0) return true;
    }
    return false;
}

int tool_train_draft(int argc, char **argv) {
    struct settings s = {.kind = "ngram", .hours = 8, .at_once = 16, .max_bytes = 8 << 20};
    struct train_head_settings head = {.epochs = 3, .rate = 1e-3f, .save_minutes = 5};
    struct option_row rows[] = {
        {"model", OPTION_STRING, &s.model, "FILE", "GGUF file that the drafter is for", 0, 0, false},
        {"out", OPTION_STRING, &s.out, "FILE", "the drafter; FILE.text beside it is the checkpoint", 0, 0, false},
        {"kind", OPTION_STRING, &s.kind, "NAME",
         "ngram (lets the model write, and counts); eagle, medusa or recurrent (heads, which learn from that text); all (ngram, "
         "then recurrent: OUT.ngram, OUT.head.gguf)",
         0, 0, false},
        {"text", OPTION_STRING, &head.text, "FILE", "heads: the text of an ngram run, OUT.text if not given", 0, 0, false},
        {"hours", OPTION_FLOAT, &s.hours, "H", "time at most; what follows takes seconds", 0, 1000, false},
        {"epochs", OPTION_INT, &head.epochs, "N", "heads: times that the text is learned", 1, 1000, false},
        {"vocab", OPTION_INT, &head.n_vocab, "N",
         "heads: tokens that can be guessed, the frequent ones (0: 2048 by a recurrent head, else 8192)", 0, 1 << 20, false},
        {"steps", OPTION_INT, &head.steps, "N",
         "heads: tokens of a draft that are learned (0: 3; with all 1, enough for a head that only hints)", 0, TRAIN_MOST_STEPS,
         false},
        {"rate", OPTION_FLOAT, &head.rate, "R", "heads: learning rate at its height", 1e-7, 1, false},
        {"save-minutes", OPTION_FLOAT, &head.save_minutes, "M", "heads: between two checkpoints", 0, 1e6, false},
        {"tokens", OPTION_INT, &s.max_tokens, "N", "stop at so many tokens, 0 = none", 0, 1 << 30, false},
        {"size", OPTION_SIZE, &s.max_bytes, "SIZE", "of the drafter at most", 0, 0, false},
        {"resume", OPTION_FLAG, &s.resume, NULL, "go on with the text of an earlier run", 0, 0, false},
        {"batch", OPTION_INT, &s.at_once, "N", "answers written at once", 1, MAX_AT_ONCE, false},
        {"threads", OPTION_INT, &s.threads, "N", "compute threads, 0 = all that are granted", 0, 1024, false},
        {"isa", OPTION_STRING, &s.isa, "NAME", "auto, scalar, avx2, avxvnni, avx512 or amx", 0, 0, false},
    };
    struct option_set set = {.command = "train-draft",
                             .usage = "--model FILE --out FILE [--kind ngram] [--hours 8] [--resume]",
                             .about =
                                 "Lets a model talk and makes a drafter for it of what it says: a store of what it tends to say, "
                                 "or a drafting head that learns from that text. FILE.text and FILE.state are checkpoints.",
                             .rows = rows,
                             .n_rows = sizeof rows / sizeof *rows};
    int rc = options_parse(&set, argc, argv, NULL);
    if (rc) return rc == 1 ? 0 : rc;
    if (!s.model || !s.out) {
        fprintf(stderr, "foresay train-draft: --model and --out are needed (foresay train-draft --help)\n");
        return 2;
    }
    bool is_ngram = strcmp(s.kind, "ngram") == 0, is_all = strcmp(s.kind, "all") == 0;
    if (!is_ngram && !is_all && !find_kind(s.kind, &head.kind)) {
        fprintf(stderr, "foresay train-draft: --kind is ngram, eagle, medusa, recurrent or all, not '%s'\n", s.kind);
        return 2;
    }
    if (head.n_vocab == 0) head.n_vocab = is_all || head.kind == HEAD_RECURRENT ? 2048 : 8192;
    if (head.steps == 0) head.steps = is_all ? 1 : TRAIN_STEPS;
    log_set_level(LOG_WARN);
    if (is_ngram) return train(&s);
    head.model = s.model;
    head.out = s.out;
    head.isa = s.isa;
    head.hours = s.hours;
    head.max_tokens = s.max_tokens;
    head.threads = s.threads;
    head.resume = s.resume;
    return is_all ? train_all(&s, &head) : train_head(&head);
}
