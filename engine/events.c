/* events.c - the consumer's side: news of requests become events. Detokenizing and stop strings happen here, off the engine
 * thread.
 *
 * Order of a request's events: STARTED, PREFILL ..., TEXT and TRACE ..., DONE. Tokens that pile up between two polls come out as
 * one event, but not over the beginning of a round that is traced; with log-probabilities each has its own. A stop string ends
 * the text here; the engine thread is told to stop, and DONE follows once it has given the blocks back. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "engine/internal.h"

/* What the engine thread has published of a request, copied under the lock. */
struct news {
    bool is_started, is_finished;
    int n_ready, n_prefilled, n_traces;
};

void engine_events_per_token(struct engine *e) { e->each_token = true; }

/* --- text --- */

static void push_token(struct engine *e, struct request *r) {
    r->n_unreported++;
    r->n_unreported_right += r->is_guess[r->n_read];
    r->last_token = r->seq.tokens[r->seq.n_prompt + r->n_read++];
    detokenizer_push(&r->detokenizer, r->last_token);
    if (!r->detokenizer.stopped) return;
    r->n_read_at_stop = r->n_read;
    request_stop(e, r);
}

/* The next token, or the end of the text. False when there is nothing new, or a round to tell of first. */
static bool advance(struct engine *e, struct request *r, const struct news *news) {
    if (trace_next(r, news->n_traces)) return false;
    if (!r->detokenizer.stopped && r->n_read < news->n_ready) {
        push_token(e, r);
        return true;
    }
    if (!news->is_finished || r->is_flushed) return false;
    detokenizer_finish(&r->detokenizer);
    return r->is_flushed = true;
}

enum { CHAR_BYTES = 4 }; /* what detokenizer_take wants to have room for */

/* Adds what the detokenizer has to the event's text. */
static void take_text(struct request *r, struct engine_event *event) {
    size_t len = (size_t)event->text_len, n = 1;
    while (n > 0 && len + CHAR_BYTES <= sizeof event->text)
        len += n = detokenizer_take(&r->detokenizer, event->text + len, sizeof event->text - len);
    event->text_len = (int)len;
}

/* Fills the event with text until it is full or nothing more is known. False when there is no text (with each_token: no token).
 */
static bool text_event(struct engine *e, struct request *r, const struct news *news, struct engine_event *event) {
    int n_read = r->n_read;
    for (;;) {
        take_text(r, event);
        bool is_full = event->text_len + CHAR_BYTES > (int)sizeof event->text;
        if (is_full || (e->each_token && (r->n_read > n_read || event->text_len > 0)) || !advance(e, r, news)) break;
    }
    if (event->text_len == 0 && !(e->each_token && r->n_read > n_read)) return false;
    event->kind = ENGINE_EVENT_TEXT;
    event->n_tokens = r->n_unreported;
    event->n_accepted = r->n_unreported_right;
    event->token = r->last_token;
    r->n_unreported = r->n_unreported_right = 0;
    return true;
}

/* The text of the next token to report has begun to come out. At the end so has everything that no stop string swallowed, even if
 * it is no text: half a character. */
static bool has_begun(const struct request *r) {
    if (r->n_reported == r->n_read) return false;
    return r->detokenizer.n_out > r->reported_bytes || (r->is_flushed && !r->detokenizer.stopped);
}

static void report_token(const struct engine *e, struct request *r, struct engine_event *event) {
    const struct engine_logprob *from = r->logprobs + (size_t)r->n_reported * (size_t)(1 + r->n_top);
    size_t len;
    event->n_tokens = 1;
    event->n_accepted = r->is_guess[r->n_reported];
    event->token = from->token;
    event->n_logprobs = 1 + r->n_top;
    memcpy(event->logprobs, from, (size_t)event->n_logprobs * sizeof *from);
    tokenizer_piece(e->tokenizer, event->token, &len);
    r->reported_bytes += len;
    r->n_reported++;
}

/* One token, or the rest of a long text. */
static bool logprob_event(struct engine *e, struct request *r, const struct news *news, struct engine_event *event) {
    do {
        take_text(r, event);
        if (!has_begun(r) && event->text_len == 0) continue;
        if (has_begun(r)) report_token(e, r, event);
        event->kind = ENGINE_EVENT_TEXT;
        return true;
    } while (advance(e, r, news));
    return false;
}

/* --- events --- */

static bool trace_event(struct request *r, const struct news *news, struct engine_event *event) {
    const struct engine_trace *trace = trace_next(r, news->n_traces);
    if (!trace) return false;
    event->kind = ENGINE_EVENT_TRACE;
    event->trace = *trace;
    r->n_traces_read++;
    return true;
}

static void done_event(struct request *r, struct engine_event *event) {
    event->kind = ENGINE_EVENT_DONE;
    event->finish = r->finish;
    event->usage = r->usage;
    if (r->detokenizer.stopped) {
        event->finish = ENGINE_FINISH_STOP; /* whatever happened to the tokens after it */
        event->usage.output_tokens = r->n_read_at_stop;
    }
    if (event->finish != ENGINE_FINISH_ERROR) return;
    event->status = r->status;
    memcpy(event->message, r->message, sizeof event->message);
}

/* The next event of a request, DONE as the last. False when there is none yet. */
static bool next_event(struct engine *e, struct request *r, const struct news *news, struct engine_event *event) {
    /* Text and trace are not cleared: they are as long as text_len and the kind say. */
    memset(event, 0, offsetof(struct engine_event, text));
    memset((char *)event + offsetof(struct engine_event, token), 0, sizeof *event - offsetof(struct engine_event, token));
    event->id = r->id;
    event->text_len = 0;
    if (news->is_started && !r->gave_started) {
        event->kind = ENGINE_EVENT_STARTED;
        event->usage.prompt_tokens = r->seq.n_prompt;
        event->usage.dropped_messages = r->dropped_messages;
        return r->gave_started = true;
    }
    if (news->n_prefilled > r->gave_prefilled && news->n_ready == 0) {
        event->kind = ENGINE_EVENT_PREFILL;
        event->n_tokens = r->gave_prefilled = news->n_prefilled;
        event->usage.prompt_tokens = r->seq.n_prompt;
        return true;
    }
    if (r->wants_logprobs ? logprob_event(e, r, news, event) : text_event(e, r, news, event)) return true;
    if (trace_event(r, news, event)) return true;
    if (news->is_finished) done_event(r, event);
    return news->is_finished;
}

static struct request *take_news(struct engine *e, struct news *news) {
    pthread_mutex_lock(&e->lock);
    struct request *r = e->news_head;
    if (r) {
        e->news_head = r->news_next;
        if (!e->news_head) {
            e->news_tail = NULL;
            e->must_wake = e->is_urgent = false; /* there is nothing left to be told of */
        }
        r->has_news = false;
        *news = (struct news){r->is_started, r->is_finished, r->n_ready, r->n_prefilled, r->n_traces_ready};
        r->n_traces_done = r->n_traces_read;
    }
    pthread_mutex_unlock(&e->lock);
    return r;
}

/* The event array was full before the request's news were told: it stays first in line. */
static void put_back(struct engine *e, struct request *r) {
    pthread_mutex_lock(&e->lock);
    if (!r->has_news) {
        r->has_news = true;
        r->news_next = e->news_head;
        e->news_head = r;
        if (!e->news_tail) e->news_tail = r;
    }
    pthread_mutex_unlock(&e->lock);
}

static void forget(struct engine *e, struct request *r) {
    pthread_mutex_lock(&e->lock);
    if (r->live_prev)
        r->live_prev->live_next = r->live_next;
    else
        e->live = r->live_next;
    if (r->live_next) r->live_next->live_prev = r->live_prev;
    e->n_live--;
    pthread_mutex_unlock(&e->lock);
    request_free(r);
}

int engine_poll(struct engine *e, struct engine_event *events, int max) {
    struct news news;
    int n = 0;
    while (n < max) {
        struct request *r = take_news(e, &news);
        if (!r) break;
        bool more = true;
        while (n < max && (more = next_event(e, r, &news, &events[n]))) {
            if (events[n++].kind != ENGINE_EVENT_DONE) continue;
            forget(e, r);
            r = NULL;
            break;
        }
        if (r && more) put_back(e, r);
    }
    return n;
}

void engine_wait(struct engine *e, int timeout_ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until); /* the condition was made for this clock, see engine_open */
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_mutex_lock(&e->lock);
    while (!e->news_head && pthread_cond_timedwait(&e->news, &e->lock, &until) != ETIMEDOUT) {
    }
    pthread_mutex_unlock(&e->lock);
}
