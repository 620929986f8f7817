/* engine_fixture.h - what tests of the engine share: submit, follow all requests to their DONE, keep what came out.
 *
 * An outcome checks its own events as they come: STARTED before text, nothing after DONE, tokens as the trace of their round
 * had said; whole UTF-8 is left to the detokenizer's tests. Works with any model; one consumer thread. Link engine.a and
 * kernels.a. */
#ifndef FORESAY_ENGINE_FIXTURE_H
#define FORESAY_ENGINE_FIXTURE_H

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"

struct outcome {
    uint64_t id; /* 0: not submitted */
    bool started, done;
    int n_events, n_prefill;
    int32_t *ids;
    int n_ids;
    struct engine_logprob *logprobs; /* [n_ids][stride], if they were asked for */
    int stride;
    char *text; /* terminated */
    size_t len;
    int n_tokens, n_right, n_traces; /* sums of the events; rounds that were traced */
    struct engine_trace trace;       /* of the newest of them */
    struct engine_event end;         /* DONE */
};

static inline void outcome_free(struct outcome *o) {
    free(o->ids);
    free(o->logprobs);
    free(o->text);
    *o = (struct outcome){0};
}

static inline void outcome_add_logprobs(struct outcome *o, const struct engine_event *event) {
    size_t n = (size_t)event->n_logprobs;
    assert(event->n_tokens == 1 && event->token == event->logprobs[0].token);
    assert(o->n_ids == 1 || o->stride == event->n_logprobs);
    o->stride = event->n_logprobs;
    o->logprobs = realloc(o->logprobs, (size_t)o->n_ids * n * sizeof *o->logprobs);
    memcpy(o->logprobs + (size_t)(o->n_ids - 1) * n, event->logprobs, n * sizeof *o->logprobs);
}

/* The round's token number k: of those guessed right, then the bonus. */
static inline int32_t trace_token(const struct engine_trace *t, int k) {
    for (int i = 1; i < t->n_nodes; i++) {
        if (t->nodes[i].accepted && k-- == 0) return t->nodes[i].token;
    }
    return t->bonus;
}

static inline void outcome_add_trace(struct outcome *o, const struct engine_trace *t) {
    int n_accepted = -1;
    assert(o->started && t->round > o->trace.round && t->first >= o->n_tokens && t->n_nodes > 1);
    assert(t->n_nodes <= ENGINE_TRACE_NODES && t->nodes[0].parent == -1 && t->nodes[0].accepted);
    for (int i = 0, last = 0; i < t->n_nodes; i++) {
        const struct engine_trace_node *node = &t->nodes[i];
        assert(node->parent < i && node->chance >= 0 && node->chance <= 1);
        assert(!node->accepted || i == 0 || node->parent == last); /* one path */
        if (node->accepted) last = i;
        n_accepted += node->accepted;
    }
    assert(n_accepted == t->n_accepted);
    o->trace = *t;
    o->n_traces++;
}

/* The trace came before its tokens, and perhaps before the last of earlier ones, whose text was held back. */
static inline void outcome_check_token(const struct outcome *o, const struct engine_event *event) {
    int k = o->n_tokens - o->trace.first;
    if (o->n_traces == 0 || event->n_tokens != 1 || k < 0 || k > o->trace.n_accepted) return;
    assert(event->n_accepted == (k < o->trace.n_accepted) && event->token == trace_token(&o->trace, k));
}

static inline void outcome_add(struct outcome *o, const struct engine_event *event) {
    assert(!o->done && event->id == o->id);
    o->n_events++;
    switch (event->kind) {
    case ENGINE_EVENT_STARTED:
        assert(!o->started && o->n_events == 1);
        o->started = true;
        break;
    case ENGINE_EVENT_PREFILL:
        assert(o->started && o->len == 0 && event->n_tokens < event->usage.prompt_tokens);
        o->n_prefill++;
        break;
    case ENGINE_EVENT_TEXT:
        assert(o->started && event->text_len >= 0 && event->text_len <= ENGINE_TEXT_MAX);
        o->text = realloc(o->text, o->len + (size_t)event->text_len + 1);
        memcpy(o->text + o->len, event->text, (size_t)event->text_len);
        o->len += (size_t)event->text_len;
        o->text[o->len] = 0;
        o->ids = realloc(o->ids, (size_t)(o->n_ids + 1) * sizeof *o->ids);
        if (event->n_tokens > 0) o->ids[o->n_ids++] = event->token;
        outcome_check_token(o, event);
        o->n_tokens += event->n_tokens;
        o->n_right += event->n_accepted;
        if (event->n_logprobs > 0) outcome_add_logprobs(o, event);
        break;
    case ENGINE_EVENT_TRACE:
        outcome_add_trace(o, &event->trace);
        break;
    case ENGINE_EVENT_DONE:
        o->done = true;
        o->end = *event;
        break;
    }
}

/* Hands each event to its outcome; returns the number of events. Events of requests that are not in the list are dropped. */
static inline int fixture_poll(struct engine *engine, struct outcome *outcomes, int n, int max_events) {
    struct engine_event events[64];
    int n_events = engine_poll(engine, events, max_events < 64 ? max_events : 64);
    for (int i = 0; i < n_events; i++) {
        for (int k = 0; k < n; k++) {
            if (outcomes[k].id == events[i].id) outcome_add(&outcomes[k], &events[i]);
        }
    }
    return n_events;
}

static inline bool all_done(const struct outcome *outcomes, int n) {
    for (int i = 0; i < n; i++) {
        if (outcomes[i].id && !outcomes[i].done) return false;
    }
    return true;
}

static inline void fixture_finish(struct engine *engine, struct outcome *outcomes, int n) {
    while (!all_done(outcomes, n)) {
        if (fixture_poll(engine, outcomes, n, 64) == 0) engine_wait(engine, 1000);
    }
}

/* Follows one request from submit to DONE. */
static inline struct outcome fixture_run(struct engine *engine, const struct engine_request *request) {
    struct outcome o = {0};
    struct engine_error error = {""};
    int rc = engine_submit(engine, request, &o.id, &error);
    if (rc != ENGINE_OK) fprintf(stderr, "submit: %s\n", error.text);
    assert(rc == ENGINE_OK);
    fixture_finish(engine, &o, 1);
    return o;
}

/* DONE is given out after the step that released the blocks was published, so the counters are current. */
static inline bool nothing_left(struct engine *engine) {
    struct engine_stats stats;
    engine_stats(engine, &stats);
    return stats.n_running == 0 && stats.n_waiting == 0 && stats.blocks_used == 0 &&
           stats.blocks_free + stats.blocks_cached == stats.blocks_total;
}

static inline struct engine_request prompt_request(const char *prompt, int max_tokens, float temperature, uint64_t seed) {
    struct engine_request request = {
        .prompt = prompt, .prompt_len = strlen(prompt), .max_tokens = max_tokens, .sampling = engine_sampling_default()};
    request.sampling.temperature = temperature;
    request.sampling.seed = seed;
    return request;
}

#endif
