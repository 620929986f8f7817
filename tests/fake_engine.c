/* fake_engine.c - engine.h with a script instead of a model: the gateway's tests run against it at full speed, on any machine.
 *
 * The answer is a pure function of the last user message: token i is a short piece that carries the number i, so a lost, doubled
 * or moved token shows. What the message may ask for, in double brackets, words and numbers separated by blanks:
 *   [[tokens 200]] how many (FORESAY_FAKE_TOKENS, else 40)      [[rate 50]] tokens a second, 0 = no pause (FORESAY_FAKE_RATE,
 * else 0)
 *   [[prefill 4]]  prefill events before the first token        [[fail 1]] ends as an error after half of the tokens
 *   [[busy 1]]     engine_submit refuses with ENGINE_ERR_BUSY   [[echo 1]] the answer is what follows the brackets
 *   [[halves 1]]   with echo: a token is a byte, so that characters come in parts
 *   [[guess 3]]    rounds of so many guesses, of which 0, 1, 2, 3, 0, 1 ... are right, and one beside the first that is wrong;
 *                  wrong ones have ids from WRONG on, guess i of a round has a chance of 0.8 to the power i
 * A token's id is its number, or ECHO_TOKENS + its first two bytes, or BYTE_TOKENS + its byte. Log-probabilities are made up:
 * token i of the answer has -0.25 - i % 4, the likeliest ones are it and those with the next ids at -0.5, -1, -1.5 ...
 * A user's own texts are counted, not read: usage says as many own_tokens as texts were there when his request began.
 * A prompt counts one token for four bytes; more than ctx_len is ENGINE_ERR_TOO_LONG, or the oldest messages are left out if
 * asked. One thread plays all requests; the queue of events is bounded, and the thread waits when it is full. */
#define _GNU_SOURCE /* memmem */
#include "engine/engine.h"
#include "engine/utf8.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { QUEUE = 4096, MAX_REQUESTS = 512, MAX_USERS = 64, ECHO_TOKENS = 1 << 22, BYTE_TOKENS = 1 << 23, WRONG = 1000 };

struct play {
    uint64_t id;
    char *text;                /* whole answer */
    int *ends;                 /* [n_tokens] where each token's text ends */
    int32_t *ids;              /* [n_tokens] */
    bool cut, logprobs, trace; /* cut: a stop string ends the last token, perhaps all of it */
    int n_top;
    int n_guesses, n_rounds, n_drafted, n_accepted;
    int first, n_tokens, next; /* the first token to send (a continued answer), how many there are, the next one */
    int prefill, prefill_sent, prompt_tokens, dropped, n_own;
    enum engine_finish finish;
    int status;
    char message[256];
    double rate, begun_s;
    bool cancelled, started;
};

struct engine {
    struct engine_config config;
    int ctx_len, max_seqs, max_waiting;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closing;
    uint64_t last_id;
    struct play *plays[MAX_REQUESTS]; /* in order of arrival; the first max_seqs run */
    int n_plays;
    struct engine_event queue[QUEUE];
    int head, n_events;
    struct engine_stats stats;
    struct {
        uint64_t key;
        int n_texts;
    } users[MAX_USERS];
    int n_users;
};

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* --- the script --- */

static double directive(const char *prompt, const char *name, const char *variable, double otherwise) {
    const char *from = strstr(prompt, "[["), *to = from ? strstr(from, "]]") : NULL, *set = variable ? getenv(variable) : NULL;
    if (set) otherwise = strtod(set, NULL);
    for (const char *at = from; to && at && at < to; at++) {
        at = strstr(at, name);
        if (!at || at > to) break;
        return strtod(at + strlen(name), NULL);
    }
    return otherwise;
}

static int piece(char out[32], int i) {
    static const char *const kinds[] = {" w%d", " né%d", " 日本%d", " \"q%d\"", "\n%d.", " 🙂%d", " \\%d", " <b>%d", "\t%d"};
    return snprintf(out, 32, kinds[i % 9], i);
}

/* Length of the UTF-8 character at text. */
static int character(const char *text) {
    unsigned char c = (unsigned char)*text;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

/* The first two bytes of the character as a number. */
static int32_t echo_token(const char *text) {
    int32_t id = 0;
    for (int i = 0; i < character(text) && i < 2; i++) id = id << 8 | (unsigned char)text[i];
    return ECHO_TOKENS + id;
}

static void write_answer(struct play *p, const char *prompt) {
    bool echo = directive(prompt, "echo", NULL, 0) > 0, halves = directive(prompt, "halves", NULL, 0) > 0;
    const char *rest = strstr(prompt, "]]");
    rest = rest ? rest + 2 : "";
    int n = echo ? (int)strlen(rest) : (int)directive(prompt, "tokens", "FORESAY_FAKE_TOKENS", 40), used = 0;
    p->text = calloc((size_t)n * 32 + 1, 1);
    p->ends = calloc((size_t)n + 1, sizeof *p->ends);
    p->ids = calloc((size_t)n + 1, sizeof *p->ids);
    if (!p->text || !p->ends || !p->ids) abort();
    for (int i = 0; i < n && (!echo || *rest); i++) {
        int len = echo ? character(rest) : piece(p->text + used, i), n_parts = halves ? len : 1;
        if (echo) memcpy(p->text + used, rest, (size_t)len);
        used += len;
        for (int part = 0; part < n_parts; part++) { /* the text comes with the first one */
            p->ids[p->n_tokens] = halves ? BYTE_TOKENS + (unsigned char)rest[part] : echo ? echo_token(rest) : i;
            p->ends[p->n_tokens++] = used;
        }
        if (echo) rest += len;
    }
}

/* The answer ends before the first stop string, or after max tokens. */
static void cut_answer(struct play *p, const struct engine_request *request) {
    char *end = NULL;
    for (int i = 0; i < request->n_stop; i++) {
        char *at = strstr(p->text, request->stop[i]);
        if (at && (!end || at < end)) end = at;
    }
    p->finish = ENGINE_FINISH_STOP;
    for (int i = 0; end && i < p->n_tokens; i++) {
        if (p->ends[i] <= end - p->text) continue;
        p->ends[i] = (int)(end - p->text);
        p->cut = true;
        p->n_tokens = i + 1;
    }
    if (request->max_tokens > 0 && p->n_tokens - p->first > request->max_tokens) {
        p->n_tokens = p->first + request->max_tokens;
        p->finish = ENGINE_FINISH_LENGTH;
    }
}

static void go_on_after(struct play *p, const struct engine_message *base) {
    while (p->first < p->n_tokens && p->ends[p->first] <= (int)base->len) p->first++;
}

static void count_prompt(struct play *p, const struct engine *engine, const struct engine_request *request) {
    size_t total = 0;
    int first = 0;
    for (int i = 0; i < request->n_messages; i++) total += request->messages[i].len / 4 + 4;
    while (request->drop_oldest && total > (size_t)engine->ctx_len && first < request->n_messages - 1) {
        total -= request->messages[first++].len / 4 + 4;
    }
    p->dropped = first;
    p->prompt_tokens = (int)total;
    if (total <= (size_t)engine->ctx_len) return;
    p->finish = ENGINE_FINISH_ERROR;
    p->status = ENGINE_ERR_TOO_LONG;
    p->n_tokens = p->first = 0;
    snprintf(p->message, sizeof p->message, "The prompt has %zu tokens, the context holds %d", total, engine->ctx_len);
}

/* A plain prompt is played like a user's message. */
static struct play *play_new(const struct engine *engine, const struct engine_request *asked) {
    struct engine_message only = {ENGINE_ROLE_USER, asked->prompt, asked->prompt_len};
    struct engine_request chat = *asked, *request = &chat;
    if (chat.n_messages == 0) chat.messages = &only, chat.n_messages = 1;
    const struct engine_message *user = NULL, *last = &request->messages[request->n_messages - 1];
    struct play *p = calloc(1, sizeof *p);
    for (int i = 0; i < request->n_messages; i++) {
        if (request->messages[i].role == ENGINE_ROLE_USER) user = &request->messages[i];
    }
    char *prompt = user ? strndup(user->text, user->len) : strdup("");
    if (!p || !prompt) abort();
    write_answer(p, prompt);
    if (request->continue_last) go_on_after(p, last);
    cut_answer(p, request);
    p->logprobs = request->logprobs;
    p->n_top = request->n_top_logprobs;
    p->trace = request->trace;
    p->n_guesses = (int)directive(prompt, "guess", NULL, 0);
    p->rate = directive(prompt, "rate", "FORESAY_FAKE_RATE", 0);
    p->prefill = (int)directive(prompt, "prefill", NULL, 0);
    if (directive(prompt, "fail", NULL, 0) > 0) {
        p->n_tokens = p->first + (p->n_tokens - p->first) / 2;
        p->finish = ENGINE_FINISH_ERROR;
        p->status = ENGINE_ERR_NUMERIC;
        snprintf(p->message, sizeof p->message, "The script asked for a failure.");
    }
    count_prompt(p, engine, request);
    p->next = p->first;
    free(prompt);
    return p;
}

static void play_free(struct play *p) {
    free(p->text);
    free(p->ends);
    free(p->ids);
    free(p);
}

/* --- the thread --- */

static struct engine_event *push(struct engine *engine, const struct play *p, enum engine_event_kind kind) {
    while (engine->n_events == QUEUE && !engine->closing) pthread_cond_wait(&engine->changed, &engine->lock);
    if (engine->closing) return NULL;
    struct engine_event *event = &engine->queue[(engine->head + engine->n_events) % QUEUE];
    *event = (struct engine_event){.id = p->id, .kind = kind};
    event->usage.prompt_tokens = p->prompt_tokens;
    event->usage.dropped_messages = p->dropped;
    return event;
}

/* Publishes what push gave and the caller filled. */
static void pushed(struct engine *engine) {
    if (engine->n_events++ == 0 && engine->config.wake) engine->config.wake(engine->config.wake_arg);
    pthread_cond_broadcast(&engine->changed);
}

static void push_done(struct engine *engine, const struct play *p) {
    struct engine_event *event = push(engine, p, ENGINE_EVENT_DONE);
    if (!event) return;
    event->finish = p->cancelled ? ENGINE_FINISH_CANCELLED : p->finish;
    event->status = p->cancelled ? ENGINE_OK : p->status;
    memcpy(event->message, p->message, sizeof event->message);
    event->usage.output_tokens = p->next - p->first;
    event->usage.own_tokens = p->n_own;
    event->usage.draft_rounds = p->n_rounds;
    event->usage.drafted_tokens = p->n_drafted;
    event->usage.accepted_tokens = p->n_accepted;
    event->usage.drafter = p->n_guesses > 0 ? ENGINE_DRAFTER_SUFFIX : ENGINE_DRAFTER_NONE;
    event->usage.ttft_ms = 1;
    event->usage.decode_ms = (float)((now_s() - p->begun_s) * 1000);
    pushed(engine);
}

static void put_logprobs(const struct play *p, struct engine_event *event, int len) {
    if (!p->logprobs || (len == 0 && p->cut && p->next == p->n_tokens - 1)) return;
    event->n_logprobs = 1 + p->n_top;
    event->logprobs[0] = (struct engine_logprob){event->token, -0.25f - (float)(p->next % 4)};
    for (int i = 0; i < p->n_top; i++) event->logprobs[1 + i] = (struct engine_logprob){event->token + i, -0.5f * (float)(i + 1)};
}

static void add_guess(struct engine_trace *t, int parent, int32_t token, float chance, bool accepted) {
    t->nodes[t->n_nodes++] = (struct engine_trace_node){token, chance, (int8_t)parent, ENGINE_DRAFTER_SUFFIX, accepted, false};
}

static void write_trace(const struct play *p, int n_accepted, struct engine_trace *t) {
    *t = (struct engine_trace){.round = p->n_rounds, .first = p->next - p->first, .n_accepted = n_accepted};
    float chance = 1;
    add_guess(t, -1, p->next > 0 ? p->ids[p->next - 1] : WRONG, chance, true);
    for (int i = 0; i < p->n_guesses; i++) {
        chance *= 0.8f;
        add_guess(t, i, i < n_accepted ? p->ids[p->next + i] : p->ids[p->next] + WRONG + i, chance, i < n_accepted);
    }
    add_guess(t, 0, p->ids[p->next] + 2 * WRONG, 0.1f, false);
    t->bonus = p->ids[p->next + n_accepted];
}

/* How many tokens come at once: the first token of an answer alone, as nothing is known before it. */
static int play_round(struct engine *engine, struct play *p) {
    struct engine_event *event;
    if (p->n_guesses == 0 || p->next == p->first) return 1;
    int n_left = p->n_tokens - p->next, n_accepted = p->n_rounds++ % (p->n_guesses + 1);
    if (n_accepted >= n_left) n_accepted = n_left - 1;
    p->n_drafted += p->n_guesses + 1;
    p->n_accepted += n_accepted;
    if (p->trace && (event = push(engine, p, ENGINE_EVENT_TRACE))) {
        write_trace(p, n_accepted, &event->trace);
        pushed(engine);
    }
    return n_accepted + 1;
}

/* One step of one request. True: it is over. */
static bool step(struct engine *engine, struct play *p, double now) {
    struct engine_event *event;
    if (!p->started) {
        p->started = true;
        p->begun_s = now;
        if ((event = push(engine, p, ENGINE_EVENT_STARTED))) pushed(engine);
    }
    if (!p->cancelled && p->prefill_sent < p->prefill) {
        if ((event = push(engine, p, ENGINE_EVENT_PREFILL))) {
            event->n_tokens = p->prompt_tokens * ++p->prefill_sent / p->prefill;
            pushed(engine);
        }
        return false;
    }
    if (p->cancelled || p->next >= p->n_tokens) {
        push_done(engine, p);
        return true;
    }
    if (p->rate > 0 && (p->next - p->first) > (now - p->begun_s) * p->rate) return false;
    int n = play_round(engine, p), from = p->next > 0 ? p->ends[p->next - 1] : 0, len = p->ends[p->next + n - 1] - from;
    if ((event = push(engine, p, ENGINE_EVENT_TEXT))) {
        memcpy(event->text, p->text + from, (size_t)len);
        event->text_len = len;
        event->n_tokens = n;
        event->n_accepted = n - 1;
        event->token = p->ids[p->next + n - 1];
        put_logprobs(p, event, len);
        pushed(engine);
        engine->stats.output_tokens += (uint64_t)n;
    }
    p->next += n;
    return false;
}

static void *run(void *arg) {
    struct engine *engine = arg;
    pthread_mutex_lock(&engine->lock);
    while (!engine->closing) {
        double now = now_s();
        bool paced = false;
        for (int i = 0; i < engine->n_plays && i < engine->max_seqs && !engine->closing; i++) {
            struct play *p = engine->plays[i];
            paced = paced || p->rate > 0;
            if (!step(engine, p, now)) continue;
            play_free(p);
            engine->n_plays--;
            memmove(&engine->plays[i], &engine->plays[i + 1], (size_t)(engine->n_plays - i) * sizeof *engine->plays);
            i--;
        }
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 1000000;
        if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
        if (engine->closing) break;
        if (engine->n_plays == 0)
            pthread_cond_wait(&engine->changed, &engine->lock);
        else if (paced)
            pthread_cond_timedwait(&engine->changed, &engine->lock, &until);
    }
    pthread_mutex_unlock(&engine->lock);
    return NULL;
}

/* --- engine.h --- */

struct engine_config engine_config_default(void) {
    return (struct engine_config){.max_seqs = 16, .max_waiting = 64, .step_tokens = 256};
}
struct engine_sampling engine_sampling_default(void) {
    return (struct engine_sampling){.temperature = 0.7f, .top_p = 0.95f, .repeat_penalty = 1.0f};
}

int engine_open(struct engine **out, const struct engine_config *config, struct engine_error *error) {
    struct engine *engine = calloc(1, sizeof *engine);
    (void)error;
    if (!engine) abort();
    engine->config = *config;
    engine->ctx_len = config->ctx_len > 0 ? config->ctx_len : 8192;
    engine->max_seqs = config->max_seqs > 0 ? config->max_seqs : 16;
    engine->max_waiting = config->max_waiting > 0 ? config->max_waiting : 64;
    pthread_mutex_init(&engine->lock, NULL);
    pthread_cond_init(&engine->changed, NULL);
    if (pthread_create(&engine->thread, NULL, run, engine) != 0) abort();
    *out = engine;
    return ENGINE_OK;
}

void engine_close(struct engine *engine) {
    if (!engine) return;
    pthread_mutex_lock(&engine->lock);
    engine->closing = true;
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->lock);
    pthread_join(engine->thread, NULL);
    for (int i = 0; i < engine->n_plays; i++) play_free(engine->plays[i]);
    pthread_mutex_destroy(&engine->lock);
    pthread_cond_destroy(&engine->changed);
    free(engine);
}

/* Lock held. Users who were never fed share a place. */
static int *n_texts_of(struct engine *engine, uint64_t key) {
    static int none;
    for (int i = 0; i < engine->n_users; i++) {
        if (engine->users[i].key == key) return &engine->users[i].n_texts;
    }
    return &none;
}

int engine_user_text(struct engine *engine, uint64_t user_key, const char *text, size_t len) {
    if (user_key == 0 || !utf8_valid(text, len)) return ENGINE_ERR_ARGUMENT;
    pthread_mutex_lock(&engine->lock);
    int i = 0;
    while (i < engine->n_users && engine->users[i].key != user_key) i++;
    if (i == MAX_USERS) abort();
    if (i == engine->n_users) engine->users[engine->n_users++].key = user_key;
    engine->users[i].n_texts++;
    pthread_mutex_unlock(&engine->lock);
    return ENGINE_OK;
}

bool engine_knows_user(struct engine *engine, uint64_t user_key) {
    pthread_mutex_lock(&engine->lock);
    bool knows = *n_texts_of(engine, user_key) > 0;
    pthread_mutex_unlock(&engine->lock);
    return knows;
}

void engine_forget_user(struct engine *engine, uint64_t user_key) {
    pthread_mutex_lock(&engine->lock);
    *n_texts_of(engine, user_key) = 0;
    pthread_mutex_unlock(&engine->lock);
}

int engine_submit(struct engine *engine, const struct engine_request *request, uint64_t *id, struct engine_error *error) {
    int status = ENGINE_ERR_ARGUMENT;
    struct play *p = request->n_messages > 0 || request->prompt ? play_new(engine, request) : NULL;
    if (!p) {
        snprintf(error->text, sizeof error->text, "The script needs messages or a prompt.");
        return status;
    }
    const struct engine_message only = {ENGINE_ROLE_USER, request->prompt, request->prompt_len};
    const struct engine_message *last = request->n_messages > 0 ? &request->messages[request->n_messages - 1] : &only;
    bool busy = last->len > 0 && memmem(last->text, last->len, "[[busy", 6);
    pthread_mutex_lock(&engine->lock);
    if (busy || engine->n_plays >= engine->max_seqs + engine->max_waiting || engine->n_plays >= MAX_REQUESTS) {
        status = ENGINE_ERR_BUSY;
        snprintf(error->text, sizeof error->text, "%d answers wait already.", engine->n_plays);
        play_free(p);
    } else {
        status = ENGINE_OK;
        *id = p->id = ++engine->last_id;
        p->n_own = *n_texts_of(engine, request->user_key);
        engine->plays[engine->n_plays++] = p;
        pthread_cond_broadcast(&engine->changed);
    }
    pthread_mutex_unlock(&engine->lock);
    return status;
}

void engine_cancel(struct engine *engine, uint64_t id) {
    pthread_mutex_lock(&engine->lock);
    for (int i = 0; i < engine->n_plays; i++) {
        if (engine->plays[i]->id != id) continue;
        engine->plays[i]->cancelled = true;
        engine->stats.cancelled++;
    }
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->lock);
}

int engine_poll(struct engine *engine, struct engine_event *events, int max) {
    int n = 0;
    pthread_mutex_lock(&engine->lock);
    while (n < max && engine->n_events > 0) {
        events[n++] = engine->queue[engine->head];
        engine->head = (engine->head + 1) % QUEUE;
        engine->n_events--;
    }
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->lock);
    return n;
}

void engine_wait(struct engine *engine, int timeout_ms) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += timeout_ms / 1000;
    pthread_mutex_lock(&engine->lock);
    if (engine->n_events == 0) pthread_cond_timedwait(&engine->changed, &engine->lock, &until);
    pthread_mutex_unlock(&engine->lock);
}

struct engine_token_text engine_token_text(const struct engine *engine, int32_t token) {
    static _Thread_local char texts[8][32]; /* a caller may look at a few at once */
    static _Thread_local int turn;
    char *text = texts[turn = (turn + 1) % 8];
    size_t len = 0;
    (void)engine;
    if (token >= BYTE_TOKENS) {
        text[len++] = (char)(token - BYTE_TOKENS);
    } else if (token >= ECHO_TOKENS) {
        token -= ECHO_TOKENS;
        if (token > 0xFF) text[len++] = (char)(token >> 8);
        text[len++] = (char)token;
    } else {
        len = (size_t)piece(text, token);
    }
    return (struct engine_token_text){.bytes = text, .len = len, .is_utf8 = utf8_valid(text, len)};
}

void engine_info(const struct engine *engine, struct engine_info *out) {
    *out = (struct engine_info){
        .model_name = "fake",
        .architecture = "script",
        .quantization = "none",
        .isa = "none",
        .n_threads = 1,
        .ctx_len = engine->ctx_len,
        .vocab_size = 1000,
        .max_seqs = engine->max_seqs,
        .can_chat = true,
        .can_learn = true,
    };
}

void engine_stats(struct engine *engine, struct engine_stats *out) {
    pthread_mutex_lock(&engine->lock);
    *out = engine->stats;
    out->n_running = engine->n_plays < engine->max_seqs ? engine->n_plays : engine->max_seqs;
    out->n_waiting = engine->n_plays - out->n_running;
    pthread_mutex_unlock(&engine->lock);
}

const struct engine_tool engine_tools[] = {{0}};
