/* turn.c - see turn.h. In the order of a generation's life: limits and tables, path, engine, checkpoints, end, forgetting. */
#include "gateway/turn.h"

#include "engine/log.h"
#include "gateway/learning.h"
#include "gateway/trace.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* --- tables --- */

static unsigned bucket_of_id(const struct store_id *id) { /* ids are random: their first digits are a hash */
    unsigned hash = 0;
    for (int i = 0; i < 8; i++) hash = hash * 31 + (unsigned char)id->text[i];
    return hash % GATEWAY_BUCKETS;
}

struct generation *turn_find(struct gateway *gateway, const struct store_id *id, int64_t user) {
    struct generation *g = gateway->turns.by_id[bucket_of_id(id)];
    while (g && (g->user != user || strcmp(g->ids.generation.text, id->text) != 0)) g = g->next_by_id;
    return g;
}

static void unlink_id(struct generation *g) {
    struct generation **at = &g->gateway->turns.by_id[bucket_of_id(&g->ids.generation)];
    while (*at != g) at = &(*at)->next_by_id;
    *at = g->next_by_id;
}

static void link_engine(struct generation *g) {
    struct generation **bucket = &g->gateway->turns.by_engine[g->engine_id % GATEWAY_BUCKETS];
    g->next_by_engine = *bucket;
    *bucket = g;
}

static void unlink_engine(struct generation *g) {
    struct generation **at = &g->gateway->turns.by_engine[g->engine_id % GATEWAY_BUCKETS];
    while (*at && *at != g) at = &(*at)->next_by_engine;
    if (*at) *at = g->next_by_engine;
}

static void link_ended(struct generation *g) {
    struct turns *turns = &g->gateway->turns;
    g->older = turns->newest_ended;
    if (g->older)
        g->older->newer = g;
    else
        turns->oldest_ended = g;
    turns->newest_ended = g;
    turns->ended_bytes += stream_bytes(g->stream);
}

static void unlink_ended(struct generation *g) {
    struct turns *turns = &g->gateway->turns;
    *(g->older ? &g->older->newer : &turns->oldest_ended) = g->newer;
    *(g->newer ? &g->newer->older : &turns->newest_ended) = g->older;
    turns->ended_bytes -= stream_bytes(g->stream);
}

/* Calls visit for every generation in memory that belongs to nobody else; visit may free it. */
static void for_each(struct gateway *gateway, void (*visit)(struct generation *g, const void *arg), const void *arg) {
    for (int i = 0; i < GATEWAY_BUCKETS; i++) {
        for (struct generation *g = gateway->turns.by_id[i], *next; g; g = next) {
            next = g->next_by_id;
            visit(g, arg);
        }
    }
}

struct generation *turn_find_live(struct gateway *gateway, const struct store_id *conv, int64_t user) {
    if (gateway->turns.n_running == 0) return NULL;
    for (int i = 0; i < GATEWAY_BUCKETS; i++) {
        for (struct generation *g = gateway->turns.by_id[i]; g; g = g->next_by_id) {
            if (g->stored && g->user == user && g->phase != TURN_ENDED && strcmp(g->ids.conv.text, conv->text) == 0) return g;
        }
    }
    return NULL;
}

/* --- begin --- */

static bool refuse(struct wire_error *error, int code, const char *message) {
    error->code = code;
    snprintf(error->message, sizeof error->message, "%s", message);
    return false;
}

bool turn_may_begin(struct gateway *gateway, int64_t user, struct wire_error *error) {
    if (gateway->draining) return refuse(error, CODE_DRAINING, "The server is going down; try again in a moment.");
    if (!gateway->engine) return refuse(error, CODE_ENGINE_DOWN, "The model is not loaded yet; try again in a moment.");
    if (gateway->turns.n_running >= LIMIT_GENERATIONS)
        return refuse(error, CODE_BUSY, "The server is busy; try again in a moment.");
    if (!user_counts_take(&gateway->counts, user, USER_GENERATIONS, LIMIT_USER_GENERATIONS)) {
        return refuse(error, CODE_TOO_MANY, "Too many of your answers are being written at once; wait for one or stop one.");
    }
    user_counts_give(&gateway->counts, user, USER_GENERATIONS);
    return true;
}

static void on_timer(struct timer *timer);

struct generation *turn_new(struct gateway *gateway, int64_t user, const struct wire_stream *ids, bool stored, const char *base,
                            size_t base_len, struct gen_params *params, struct wire_error *error) {
    if (!turn_may_begin(gateway, user, error)) return NULL;
    struct generation *g = calloc(1, sizeof *g);
    struct stream *stream = stream_new(base, base_len);
    if (!g || !stream || !user_counts_take(&gateway->counts, user, USER_GENERATIONS, LIMIT_USER_GENERATIONS)) {
        free(g);
        stream_free(stream);
        refuse(error, CODE_INTERNAL, base_len >= STREAM_MAX_TEXT ? "This answer is too long to go on with." : "Out of memory.");
        return NULL;
    }
    g->gateway = gateway;
    g->user = user;
    g->ids = *ids;
    g->stored = stored;
    g->stream = stream;
    g->params = *params;
    *params = (struct gen_params){0};
    if (!g->params.has_seed) {
        if (getrandom(&g->params.sampling.seed, sizeof g->params.sampling.seed, 0) < 0)
            g->params.sampling.seed = (uint64_t)clock_ms();
        g->params.sampling.seed >>= 11; /* 53 bits: a JavaScript number holds it, so it can be sent back */
    }
    timer_init(&g->timer, on_timer);
    g->checkpoint_len = base_len;
    struct generation **bucket = &gateway->turns.by_id[bucket_of_id(&g->ids.generation)];
    g->next_by_id = *bucket;
    *bucket = g;
    gateway->turns.n_running++;
    return g;
}

static void end(struct generation *g, enum stream_why why, int code, const char *message);

static const char *store_trouble(const struct store_op *op) {
    return op->error[0]                    ? op->error
           : op->status == STORE_NOT_FOUND ? "The conversation is gone."
                                           : "The history could not be reached.";
}

static void submit_path(struct generation *g, const struct store_op *op, bool continued) {
    int n = 0, has_system = g->params.system != NULL;
    struct engine_message *messages = calloc((size_t)(op->n_messages + has_system), sizeof *messages);
    struct wire_error error = {0};
    if (!messages) {
        end(g, WHY_ERROR, CODE_INTERNAL, "Out of memory.");
        return;
    }
    if (has_system) {
        messages[n++] = (struct engine_message){ENGINE_ROLE_SYSTEM, g->params.system, strlen(g->params.system)};
    }
    for (int i = 0; i < op->n_messages; i++) {
        const struct store_message *m = &op->messages[i];
        enum engine_role role = m->role == MESSAGE_USER ? ENGINE_ROLE_USER : ENGINE_ROLE_ASSISTANT;
        messages[n++] = (struct engine_message){role, m->text, m->text_len};
    }
    if (continued && op->messages[op->n_messages - 1].text_len == 0) { /* nothing to go on from: answer afresh */
        n--;
        continued = false;
    }
    if (!turn_submit(g, messages, n, continued, &error)) end(g, WHY_ERROR, error.code, error.message);
    free(messages);
}

static void on_path(struct store_op *op, bool continued) {
    struct generation *g = op->context;
    g->saves_in_flight--;
    if (g->cancel_wanted)
        end(g, g->interrupted ? WHY_INTERRUPTED : WHY_CANCEL, 0, "");
    else if (op->status != STORE_OK)
        end(g, WHY_ERROR, CODE_STORE_DOWN, store_trouble(op));
    else if (op->n_messages == 0)
        end(g, WHY_ERROR, CODE_NOT_FOUND, "The conversation is gone.");
    else {
        learning_begin(g, op);
        submit_path(g, op, continued);
    }
    store_op_free(op);
}
static void on_path_new(struct store_op *op) { on_path(op, false); }
static void on_path_continued(struct store_op *op) { on_path(op, true); }

void turn_begin(struct generation *g, const struct store_id *message, bool continued) {
    struct store_op *op = store_op_new(STORE_PATH);
    if (op) {
        op->user = g->user;
        op->message = *message;
        op->context = g;
        op->done = continued ? on_path_continued : on_path_new;
        learning_prepare(g);
        g->saves_in_flight++;
        if (gateway_post(g->gateway, op)) return;
        g->saves_in_flight--;
        store_op_free(op);
    }
    end(g, WHY_ERROR, CODE_STORE_DOWN, "The history is overloaded; try again in a moment.");
}

/* --- the engine --- */

static uint64_t mix(uint64_t x) { /* splitmix64's finaliser: every input bit reaches every output bit */
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

uint64_t turn_user_key(const struct gateway *gateway, int64_t user) {
    return mix(mix((uint64_t)user ^ gateway->salt_key[0]) ^ gateway->salt_key[1]);
}

/* The request says what to answer; how is the generation's own. */
static bool submit(struct generation *g, struct engine_request *request, struct wire_error *error) {
    struct gateway *gateway = g->gateway;
    struct engine_error trouble = {{0}};
    request->drop_oldest = g->params.drop_oldest;
    request->max_tokens = g->params.max_tokens;
    request->sampling = g->params.sampling;
    request->drafter = g->params.drafter;
    request->verify = g->params.verify;
    request->stop = (const char *const *)g->params.stop;
    request->n_stop = g->params.n_stop;
    request->logprobs = g->params.logprobs;
    request->n_top_logprobs = g->params.n_top_logprobs;
    request->trace = g->params.trace && turns_show_guesses(gateway);
    request->cache_salt = turn_user_key(gateway, g->user);
    if (g->learns) request->user_key = request->cache_salt;
    int status = gateway->engine ? engine_submit(gateway->engine, request, &g->engine_id, &trouble) : ENGINE_ERR_CLOSED;
    if (status != ENGINE_OK) {
        error->code = protocol_code_of_engine(status);
        snprintf(error->message, sizeof error->message, "%.199s", trouble.text[0] ? trouble.text : "The model is not running.");
        return false;
    }
    g->phase = TURN_RUNNING;
    link_engine(g);
    if (g->stored) timer_set(&gateway->timers, &g->timer, clock_ms() + TURN_CHECKPOINT_MS);
    return true;
}

bool turn_submit(struct generation *g, const struct engine_message *messages, int n, bool continued, struct wire_error *error) {
    struct engine_request request = {.messages = messages, .n_messages = n, .continue_last = continued};
    return submit(g, &request, error);
}

bool turn_submit_prompt(struct generation *g, const char *prompt, size_t len, struct wire_error *error) {
    struct engine_request request = {.prompt = prompt, .prompt_len = len};
    return submit(g, &request, error);
}

void turn_cancel(struct generation *g) {
    if (g->phase == TURN_RUNNING && !g->cancel_wanted && g->gateway->engine) engine_cancel(g->gateway->engine, g->engine_id);
    g->cancel_wanted = true;
}

static void checkpoint(struct generation *g);

/* TURN_CHECKPOINT_BYTES, or an eighth of a long text: a save writes the whole, so it has to be worth it.
 * When one has failed, the next waits for the timer: a full disk is not asked at every token. */
static bool is_much_unsaved(const struct generation *g) {
    size_t len = g->stream->text_len, unsaved = len - g->checkpoint_len;
    return g->stored && !g->unsaved && unsaved >= TURN_CHECKPOINT_BYTES && unsaved >= len / 8;
}

static bool keep_event(struct generation *g, const struct engine_event *event) {
    struct stream *s = g->stream;
    int n_accepted = turns_show_guesses(g->gateway) ? event->n_accepted : 0;
    size_t len = (size_t)event->text_len;
    if (len > 0 && !stream_add_text(s, event->text, len, event->n_tokens, n_accepted)) return false;
    return logprobs_add(&g->logprobs, g->gateway->engine, event, s->text, s->text_len);
}

static void on_text(struct generation *g, const struct engine_event *event) {
    if (g->overflowed) return;
    if (keep_event(g, event)) {
        if (g->saves_in_flight == 0 && is_much_unsaved(g)) checkpoint(g);
        return;
    }
    log_warn("turn", "an answer reached %zu bytes and is ended", g->stream->text_len);
    g->overflowed = true;
    engine_cancel(g->gateway->engine, g->engine_id);
}

/* What finds no room is lost: the answer does not need it. */
static void on_trace(struct generation *g, const struct engine_trace *trace) {
    struct buffer *out = &g->gateway->scratch;
    buffer_clear(out);
    put_trace(out, g->gateway->engine, trace);
    if (out->failed || !stream_add_trace(g->stream, out->data, out->len)) g->n_traces_lost++;
}

static void on_engine_done(struct generation *g, const struct engine_event *event) {
    static const enum stream_why whys[] = {
        [ENGINE_FINISH_STOP] = WHY_STOP,        [ENGINE_FINISH_LENGTH] = WHY_LENGTH, [ENGINE_FINISH_CONTEXT] = WHY_CONTEXT,
        [ENGINE_FINISH_CANCELLED] = WHY_CANCEL, [ENGINE_FINISH_ERROR] = WHY_ERROR,
    };
    enum stream_why why = whys[event->finish];
    g->result.usage = event->usage;
    g->result.usage.dropped_traces += g->n_traces_lost;
    if (why == WHY_CANCEL && g->overflowed)
        why = WHY_LENGTH;
    else if (why == WHY_CANCEL && g->interrupted)
        why = WHY_INTERRUPTED;
    if (why != WHY_ERROR) {
        end(g, why, 0, "");
    } else if (event->status == ENGINE_ERR_TOO_LONG) {
        char message[256];
        snprintf(message, sizeof message, "%.170s.%s", event->message,
                 g->stored ? " Start a new conversation, or leave out the oldest messages." : "");
        end(g, why, CODE_CONTEXT_FULL, message);
    } else {
        end(g, why, protocol_code_of_engine(event->status), event->message[0] ? event->message : "The model failed.");
    }
}

static void on_engine_event(struct gateway *gateway, const struct engine_event *event) {
    struct generation *g = gateway->turns.by_engine[event->id % GATEWAY_BUCKETS];
    while (g && g->engine_id != event->id) g = g->next_by_engine;
    if (!g || g->phase != TURN_RUNNING) return; /* given up at shutdown */
    switch (event->kind) {
    case ENGINE_EVENT_STARTED:
        if (event->usage.dropped_messages > 0) stream_add_state(g->stream, STREAM_TRIMMED, event->usage.dropped_messages, 0);
        break;
    case ENGINE_EVENT_PREFILL:
        stream_add_state(g->stream, STREAM_PREFILL, event->n_tokens, event->usage.prompt_tokens);
        break;
    case ENGINE_EVENT_TEXT:
        on_text(g, event);
        break;
    case ENGINE_EVENT_TRACE:
        on_trace(g, &event->trace);
        break;
    case ENGINE_EVENT_DONE:
        on_engine_done(g, event);
        break;
    }
}

static void look_at_engine(struct gateway *gateway) {
    enum { BATCH = 32, ROUNDS = 16 };
    struct engine_event events[BATCH];
    for (int round = 0; gateway->engine && round < ROUNDS; round++) {
        int n = engine_poll(gateway->engine, events, BATCH);
        for (int i = 0; i < n; i++) on_engine_event(gateway, &events[i]);
        if (n == 0) return;
    }
    gateway_wake(gateway); /* more than a loop's share: the sockets first, then the rest */
}

/* When text comes out tells which guesses of a drafter came true, and so something about the text, also to those who see nothing
 * but the sizes and times of encrypted packets. Paced, it comes out by the clock, and nothing of a round's guesses is sent beside
 * it: that would be seen in the sizes. */
bool turns_show_guesses(const struct gateway *gateway) { return gateway->config.pace_ms == 0; }

void turns_poll_engine(struct gateway *gateway) {
    const int64_t now = clock_ms(), pace_ms = gateway->config.pace_ms;
    if (pace_ms > 0 && now < gateway->next_look_ms) {
        timer_set(&gateway->timers, &gateway->pace_timer, gateway->next_look_ms);
        return;
    }
    if (pace_ms > 0) gateway->next_look_ms = (now / pace_ms + 1) * pace_ms;
    look_at_engine(gateway);
}

void turns_on_pace(struct timer *timer) { turns_poll_engine(container_of(timer, struct gateway, pace_timer)); }

/* --- saving --- */

static bool post_save(struct generation *g, struct store_op *op, void (*done)(struct store_op *op)) {
    if (!op) return false;
    op->user = g->user;
    op->message = g->ids.message;
    op->generation = g->ids.generation;
    op->context = g;
    op->done = done;
    if (store_op_set_text(op, g->stream->text ? g->stream->text : "", g->stream->text_len) && gateway_post(g->gateway, op)) {
        g->saves_in_flight++;
        return true;
    }
    store_op_free(op);
    return false;
}

static void on_checkpoint(struct store_op *op) {
    struct generation *g = op->context;
    bool failed = op->status == STORE_FULL || op->status == STORE_ERROR;
    g->saves_in_flight--;
    if (op->status == STORE_OK) g->checkpoint_len = op->text_len;
    if (failed && !g->unsaved) log_warn("turn", "a running answer could not be saved: %s", store_trouble(op));
    g->unsaved = failed;
    store_op_free(op);
}

static void checkpoint(struct generation *g) {
    if (g->saves_in_flight == 0 && g->stream->text_len > g->checkpoint_len) {
        post_save(g, store_op_new(STORE_CHECKPOINT), on_checkpoint); /* a full queue: the next one comes soon */
    }
    timer_set(&g->gateway->timers, &g->timer, clock_ms() + TURN_CHECKPOINT_MS);
}

static enum message_state final_state(const struct generation *g) {
    switch (g->result.why) {
    case WHY_STOP:
        return MESSAGE_DONE;
    case WHY_LENGTH:
    case WHY_CONTEXT:
        return MESSAGE_LENGTH;
    case WHY_CANCEL:
        return MESSAGE_STOPPED;
    case WHY_INTERRUPTED:
        return MESSAGE_INTERRUPTED;
    case WHY_ERROR:
        break;
    }
    return MESSAGE_ERROR;
}

static struct store_op *finish_op(const struct generation *g) {
    struct store_op *op = store_op_new(STORE_FINISH);
    struct buffer meta = {0};
    wire_meta(&meta, &g->result);
    buffer_append(&meta, "", 1);
    if (op) op->state = final_state(g);
    if (!op || meta.failed || !store_op_set_meta(op, meta.data)) {
        store_op_free(op);
        op = NULL;
    }
    buffer_free(&meta);
    return op;
}

/* --- the end --- */

static void destroy(struct generation *g) {
    timer_cancel(&g->gateway->timers, &g->timer);
    unlink_id(g);
    if (g->phase == TURN_ENDED) unlink_ended(g);
    stream_free(g->stream);
    logprobs_free(&g->logprobs);
    gen_params_free(&g->params);
    free(g);
}

static bool is_held(const struct generation *g) { return g->stream->readers || g->saves_in_flight > 0; }

/* Frees the oldest that nobody reads until the rest fits. */
static void make_room(struct turns *turns) {
    for (struct generation *g = turns->oldest_ended, *next; g && turns->ended_bytes > TURN_KEEP_BYTES; g = next) {
        next = g->newer;
        if (g->stored && !is_held(g)) destroy(g);
    }
}

static void publish(struct generation *g, const struct store_op *saved) {
    struct turns *turns = &g->gateway->turns;
    g->phase = TURN_ENDED;
    g->ended_ms = clock_ms();
    stream_finish(g->stream, &g->result);
    gen_params_free(&g->params);
    turns->n_running--;
    user_counts_give(&g->gateway->counts, g->user, USER_GENERATIONS);
    make_room(turns);
    link_ended(g);
    timer_set(&g->gateway->timers, &g->timer, g->ended_ms + (g->unsaved ? TURN_RETRY_MS : TURN_KEEP_MS));
    if (g->ended) g->ended(g, saved); /* may free an API generation: nothing after this */
}

static void on_final_save(struct store_op *op) {
    struct generation *g = op->context;
    g->saves_in_flight--;
    g->unsaved = op->status == STORE_FULL || op->status == STORE_ERROR;
    if (g->unsaved) {
        log_error("turn", "an answer could not be saved: %s", store_trouble(op));
        g->result.code = CODE_STORE_DOWN;
        snprintf(g->result.message, sizeof g->result.message, "The answer could not be saved: %.180s", store_trouble(op));
    }
    if (op->status == STORE_OK) learning_end(g);
    publish(g, op->status == STORE_OK ? op : NULL);
    store_op_free(op);
}

static void end(struct generation *g, enum stream_why why, int code, const char *message) {
    if (g->phase == TURN_RUNNING) unlink_engine(g);
    timer_cancel(&g->gateway->timers, &g->timer);
    g->phase = TURN_SAVING;
    g->result.why = why;
    g->result.code = code;
    g->result.seed = g->params.sampling.seed;
    snprintf(g->result.message, sizeof g->result.message, "%s", message);
    if (g->stored && post_save(g, finish_op(g), on_final_save)) return;
    if (g->stored) {
        g->unsaved = true;
        g->result.code = CODE_STORE_DOWN;
        snprintf(g->result.message, sizeof g->result.message, "The answer could not be saved: the history is overloaded.");
    }
    publish(g, NULL);
}

void turn_fail(struct generation *g) { end(g, WHY_ERROR, CODE_INTERNAL, ""); }

/* --- after the end --- */

static void on_late_save(struct store_op *op) {
    struct generation *g = op->context;
    g->saves_in_flight--;
    g->unsaved = op->status == STORE_FULL || op->status == STORE_ERROR;
    if (!g->unsaved) log_info("turn", "an answer that could not be saved before is saved now");
    store_op_free(op);
}

static void retry_save(struct generation *g) {
    if (g->saves_in_flight > 0) return;
    int code = g->result.code;
    if (code == CODE_STORE_DOWN) g->result.code = 0; /* if it works, there is no trouble to keep */
    post_save(g, finish_op(g), on_late_save);
    g->result.code = code;
}

static void on_timer(struct timer *timer) {
    struct generation *g = container_of(timer, struct generation, timer);
    int64_t now = clock_ms();
    if (g->phase == TURN_RUNNING) {
        checkpoint(g);
        return;
    }
    if (now - g->ended_ms >= TURN_KEEP_MS && !is_held(g)) {
        destroy(g);
        return;
    }
    if (g->unsaved) retry_save(g);
    int64_t due = g->ended_ms + TURN_KEEP_MS;
    timer_set(&g->gateway->timers, timer, g->unsaved || due <= now ? now + TURN_RETRY_MS : due);
}

static void destroy_ended(struct generation *g, const struct store_op *saved) {
    (void)saved;
    destroy(g);
}

void turn_forget(struct generation *g) {
    assert(!g->stored && !g->stream->readers);
    g->ended = destroy_ended;
    if (g->phase == TURN_ENDED)
        destroy(g);
    else
        turn_cancel(g);
}

static void cancel_if_in(struct generation *g, const void *arg) {
    const struct generation *like = arg;
    if (g->user == like->user && g->phase != TURN_ENDED && strcmp(g->ids.conv.text, like->ids.conv.text) == 0) turn_cancel(g);
}
void turns_cancel_conversation(struct gateway *gateway, const struct store_id *conv, int64_t user) {
    const struct generation like = {.user = user, .ids.conv = *conv};
    for_each(gateway, cancel_if_in, &like);
}

static void stop_learning(struct generation *g, const void *user) {
    if (g->user == *(const int64_t *)user) g->learns = false;
}
void turns_stop_learning(struct gateway *gateway, int64_t user) { for_each(gateway, stop_learning, &user); }

static void interrupt(struct generation *g, const void *arg) {
    (void)arg;
    if (g->phase == TURN_ENDED) return;
    g->interrupted = !g->cancel_wanted; /* a person's stop stays a stop */
    turn_cancel(g);
}
void turns_interrupt_all(struct gateway *gateway) { for_each(gateway, interrupt, NULL); }

static void give_up(struct generation *g, const void *arg) {
    (void)arg;
    if (g->phase == TURN_RUNNING) end(g, WHY_INTERRUPTED, 0, "");
}
void turns_give_up(struct gateway *gateway) { for_each(gateway, give_up, NULL); }

static void free_one(struct generation *g, const void *arg) {
    (void)arg;
    destroy(g);
}
void turns_free(struct gateway *gateway) { for_each(gateway, free_one, NULL); }
