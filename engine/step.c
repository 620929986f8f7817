/* step.c - the engine thread: one step after the other while there is work, asleep otherwise.
 *
 * A step: take what came in (requests, cancels), let the scheduler fill the batch, run the model, sample, tell the consumer.
 * Cancels are applied between steps, so a cancelled request costs at most the step that is under way, and a step is short:
 * its rows are bounded by step_tokens. */
#include <assert.h>
#include <string.h>

#include "engine/internal.h"
#include "engine/log.h"

/* --- telling the consumer ---
 *
 * To wake a thread costs a small model a fiftieth of a step, and nobody sees tokens come by twos: those of a running answer may
 * wait for a while, but not for a step that may be long, nor while there is nothing to do. */

enum { FEW_ROWS = 16 /* of a step that does not take long, if the one before did not */ };

/* Lock held. */
static void add_news(struct engine *e, struct request *r) {
    if (r->has_news) return;
    r->has_news = true;
    r->news_next = NULL;
    if (e->news_tail)
        e->news_tail->news_next = r;
    else
        e->news_head = r, e->must_wake = true;
    e->news_tail = r;
}

/* The consumer is woken outside the lock, so that it may call the engine at once from its own thread. */
static void unlock_and_wake(struct engine *e, bool may_wait) {
    const double now = now_ms();
    const bool wake = e->must_wake && (!may_wait || e->is_urgent || now - e->woke_ms >= e->news_ms);
    if (wake) {
        e->must_wake = e->is_urgent = false;
        e->woke_ms = now;
        pthread_cond_broadcast(&e->news);
    }
    pthread_mutex_unlock(&e->lock);
    if (wake && e->config.wake) e->config.wake(e->config.wake_arg);
}

static void wake_now(struct engine *e) {
    pthread_mutex_lock(&e->lock);
    unlock_and_wake(e, false);
}

static struct engine_usage usage_of(const struct request *r) {
    double end = now_ms(), scheduled = r->scheduled_ms > 0 ? r->scheduled_ms : end;
    struct engine_usage usage = {
        .prompt_tokens = r->seq.n_prompt,
        .cached_tokens = r->seq.n_cached,
        .output_tokens = r->seq.n_tokens - r->seq.n_prompt,
        .dropped_messages = r->dropped_messages,
        .draft_rounds = r->n_draft_rounds,
        .drafted_tokens = r->n_drafted,
        .accepted_tokens = r->n_accepted,
        .own_tokens = r->n_own,
        .model_rounds = r->n_model_rounds,
        .drafter = r->drafter,
        .verify = r->verify,
        .draft_off = draft_off_of(r),
        .dropped_traces = r->n_traces_lost,
        .queue_ms = (float)(scheduled - r->submitted_ms),
    };
    memcpy(usage.accepted_at, r->n_accepted_at, sizeof usage.accepted_at);
    if (r->first_token_ms > 0) {
        usage.prefill_ms = (float)(r->first_token_ms - scheduled);
        usage.ttft_ms = (float)(r->first_token_ms - r->submitted_ms);
        usage.decode_ms = (float)(r->last_token_ms - r->first_token_ms);
    }
    return usage;
}

/* Lock held. */
static void tell_progress(struct engine *e, struct request *r) {
    const struct sequence *seq = &r->seq;
    int n_output = seq->n_tokens - seq->n_prompt;
    bool has_prefilled = n_output == 0 && seq->n_computed < seq->n_prompt && seq->n_computed > r->n_prefilled;
    if (n_output == r->n_ready && !has_prefilled) return;
    e->is_urgent |= r->n_ready == 0;
    r->n_ready = n_output;
    trace_publish(r);
    if (has_prefilled) r->n_prefilled = seq->n_computed;
    add_news(e, r);
}

/* Lock held. From here on the request is the consumer's. */
static void tell_finished(struct engine *e, struct request *r) {
    r->n_ready = r->seq.n_tokens - r->seq.n_prompt;
    trace_publish(r);
    r->finish = r->ending;
    r->usage = usage_of(r);
    r->is_finished = true;
    e->is_urgent = true;
    r->stage = REQUEST_FINISHED;
    e->counts.finished += r->finish != ENGINE_FINISH_CANCELLED && r->finish != ENGINE_FINISH_ERROR;
    e->counts.cancelled += r->finish == ENGINE_FINISH_CANCELLED;
    e->counts.failed += r->finish == ENGINE_FINISH_ERROR;
    add_news(e, r);
}

/* Lock held. */
static void copy_stats(struct engine *e) {
    struct engine_stats *s = &e->counts;
    int n_upstream = 0; /* not scheduled yet, but waiting all the same */
    for (const struct request *r = e->live; r; r = r->live_next) n_upstream += r->stage < REQUEST_SCHEDULED;
    s->n_running = e->scheduler.n_running;
    s->kv_tokens = 0;
    for (int i = 0; i < e->scheduler.n_running; i++) s->kv_tokens += e->scheduler.running[i]->n_computed;
    s->n_waiting = e->scheduler.n_waiting + n_upstream;
    s->blocks_total = e->cache.n_blocks;
    s->blocks_free = e->cache.n_free;
    s->blocks_cached = e->cache.n_cached;
    s->blocks_used = e->cache.n_used;
    s->preemptions = e->scheduler.n_preemptions;
    e->stats = *s;
}

static void publish(struct engine *e) {
    assert(e->cache.n_free + e->cache.n_cached + e->cache.n_used == e->cache.n_blocks);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    kv_cache_check(&e->cache); /* every block, after every step: these builds look for our mistakes */
#endif
    pthread_mutex_lock(&e->lock);
    for (int i = 0; i < e->scheduler.n_running; i++) tell_progress(e, e->scheduler.running[i]->owner);
    for (int i = 0; i < e->n_ending; i++) tell_finished(e, e->ending[i]);
    e->n_ending = 0;
    copy_stats(e);
    unlock_and_wake(e, true);
}

/* --- requests come and go --- */

static void end_request(struct engine *e, struct request *r, enum engine_finish finish) {
    assert(!r->is_ending);
    scheduler_remove(&e->scheduler, &r->seq);
    draft_forget(e, r);
    r->is_ending = true;
    r->ending = finish;
    e->ending[e->n_ending++] = r;
}

/* Lock held. */
static void admit(struct engine *e, struct request *r) {
    r->stage = REQUEST_SCHEDULED;
    if (r->cancelled) {
        end_request(e, r, ENGINE_FINISH_CANCELLED);
    } else if (r->status != ENGINE_OK) {
        end_request(e, r, ENGINE_FINISH_ERROR);
    } else {
        scheduler_add(&e->scheduler, &r->seq);
        r->is_started = e->is_urgent = true;
        add_news(e, r);
    }
}

/* Lock held. On closing everything is cancelled. */
static void apply_cancels(struct engine *e) {
    if (!e->has_cancels && !e->closing) return;
    e->has_cancels = false;
    for (struct request *r = e->live; r; r = r->live_next) {
        bool is_ours = r->stage == REQUEST_SCHEDULED && !r->is_ending;
        if (is_ours && (r->cancelled || e->closing)) end_request(e, r, ENGINE_FINISH_CANCELLED);
    }
}

static bool is_idle(const struct engine *e) { return e->scheduler.n_running == 0 && e->scheduler.n_waiting == 0; }

/* Lock held: engine_gather has asked for more requests than have come. */
static bool is_gathering(struct engine *e) {
    int n = 0;
    if (e->n_to_gather == 0) return false;
    for (const struct request *r = e->inbox.head; r; r = r->queue_next) n++;
    if (n >= e->n_to_gather) e->n_to_gather = 0;
    return e->n_to_gather > 0;
}

void engine_gather(struct engine *e, int n) {
    pthread_mutex_lock(&e->lock);
    e->n_to_gather = n;
    pthread_mutex_unlock(&e->lock);
}

void engine_hold(struct engine *e) {
    pthread_mutex_lock(&e->lock);
    e->is_held = true;
    pthread_cond_signal(&e->work); /* if it sleeps, it rests */
    while (!e->rests) pthread_cond_wait(&e->news, &e->lock);
    pthread_mutex_unlock(&e->lock);
}

void engine_let_go(struct engine *e) {
    pthread_mutex_lock(&e->lock);
    e->is_held = e->rests = false;
    pthread_cond_signal(&e->work);
    pthread_mutex_unlock(&e->lock);
}

void engine_delay_news(struct engine *e, double ms) { e->news_ms = ms; }

static bool has_no_work(struct engine *e) {
    return !e->closing && (e->is_held || is_gathering(e) || (!e->inbox.head && !e->has_cancels && is_idle(e)));
}

/* Lock held, but not while memory is touched. */
static void wait_for_work(struct engine *e) {
    while (has_no_work(e)) {
        if (e->is_held) {
            e->rests = true;
            pthread_cond_broadcast(&e->news);
            pthread_cond_wait(&e->work, &e->lock);
            continue;
        }
        unlock_and_wake(e, false);
        bool has_touched = kv_cache_touch_ahead(&e->cache);
        pthread_mutex_lock(&e->lock);
        if (!has_touched && !e->is_held && has_no_work(e)) pthread_cond_wait(&e->work, &e->lock);
    }
}

/* Sleeps until there is work, then takes all that came in. False when the engine closes. */
static bool take_work(struct engine *e) {
    pthread_mutex_lock(&e->lock);
    wait_for_work(e);
    for (struct request *r; (r = queue_pop(&e->inbox));) admit(e, r);
    apply_cancels(e);
    bool go_on = !e->closing;
    unlock_and_wake(e, true);
    return go_on;
}

/* --- one step --- */

/* Lays the plan of the scheduler out as rows. */
static struct model_batch gather_batch(struct engine *e) {
    struct model_batch batch = {.tokens = e->row_tokens, .seqs = e->row_seqs, .logit_rows = e->logit_rows};
    double now = now_ms();
    e->n_sampled = 0;
    for (int i = 0; i < e->scheduler.n_running; i++) {
        struct sequence *seq = e->scheduler.running[i];
        struct request *r = seq->owner;
        if (seq->n_rows == 0) continue;
        if (r->scheduled_ms == 0) r->scheduled_ms = now;
        r->last_logits = -1;
        r->last_path = 0;
        e->row_owners[batch.n_seqs] = r;
        e->row_seqs[batch.n_seqs++] = (struct kernels_seq){
            .first_row = batch.n_rows, .n_rows = seq->n_rows, .first_pos = seq->n_computed, .blocks = seq->table.blocks};
        if (seq->n_draft > 0) {
            e->row_seqs[batch.n_seqs - 1].depth = r->draft->tree.depth;
            e->row_seqs[batch.n_seqs - 1].ancestors = r->draft->tree.ancestors;
        }
        for (int row = 0; row < seq->n_rows; row++) e->row_tokens[batch.n_rows++] = seq->tokens[seq->n_computed + row];
        if (!sequence_wants_logits(seq)) continue;
        struct drawing *d = &e->sampled[e->n_sampled++];
        *d = (struct drawing){.request = r, .first_row = batch.n_logits, .first = seq->n_tokens - seq->n_prompt};
        if (r->draft) walk_begin(&d->walk, &r->draft->tree, 1 + seq->n_draft);
        for (int row = seq->n_draft; row >= 0; row--) e->logit_rows[batch.n_logits++] = batch.n_rows - 1 - row;
    }
    return batch;
}

/* Adds the token to the text. False when the request is to end, and then *finish says why. */
static bool append_token(struct engine *e, struct request *r, int32_t token, enum engine_finish *finish) {
    struct sequence *seq = &r->seq;
    *finish = ENGINE_FINISH_STOP;
    if (!r->ignore_eos && tokenizer_is_eog(e->tokenizer, token)) return false;
    seq->tokens[seq->n_tokens++] = token;
    e->counts.output_tokens++;
    if (seq->n_tokens < seq->max_tokens) return true;
    bool by_count = r->max_output > 0 && seq->n_tokens - seq->n_prompt == r->max_output;
    *finish = by_count ? ENGINE_FINISH_LENGTH : ENGINE_FINISH_CONTEXT;
    return false;
}

/* The draw of the request's next token from this row of logits. */
static struct sampler_draw next_draw(const struct engine *e, const struct request *r, int row) {
    const struct sequence *seq = &r->seq;
    struct sampler_draw draw = {
        .params = &r->sampling,
        .history = {.tokens = seq->tokens, .n_prompt = seq->n_prompt, .n_tokens = seq->n_tokens},
        .logits = model_logits(e->model, row),
        .maxima = model_maxima(e->model, row),
        .n_top = r->n_top,
    };
    if (r->logprobs) draw.logprobs = r->logprobs + (size_t)(seq->n_tokens - seq->n_prompt) * (size_t)(1 + r->n_top);
    return draw;
}

/* True when a row of the draft has the token that was drawn: its logits stand on the same text as those of a later step would, so
 * the next token is drawn from them. */
static bool take_draw(struct engine *e, struct drawing *d, const struct sampler_draw *draw) {
    struct request *r = d->request;
    r->status = draw->status;
    if (r->status != ENGINE_OK) {
        snprintf(r->message, sizeof r->message, "the model produced a value that is not finite for token %d", r->seq.n_tokens);
        log_error("engine", "request %llu: %s", (unsigned long long)r->id, r->message);
        d->finish = ENGINE_FINISH_ERROR;
        d->is_over = true;
        return false;
    }
    d->drawn[d->n_drawn++] = draw->token;
    d->is_over = !append_token(e, r, draw->token, &d->finish);
    return !d->is_over && r->seq.n_draft > 0 && walk_step(&d->walk, draw->token);
}

static void note_times(struct engine *e, struct request *r, double now) {
    if (r->first_token_ms == 0) {
        r->first_token_ms = now;
        e->counts.prompt_tokens += (uint64_t)r->seq.n_prompt;
        e->counts.cached_tokens += (uint64_t)r->seq.n_cached;
    }
    r->last_token_ms = now;
}

/* All draws of this step are made. */
static void settle(struct engine *e, struct drawing *d, double now) {
    struct request *r = d->request;
    if (d->n_drawn > 0) note_times(e, r, now);
    r->last_logits = d->first_row + d->walk.node;
    r->last_path = r->seq.n_draft > 0 ? r->draft->tree.ancestors[d->walk.node] : 0;
    int n_accepted = draft_accept(e, r, d->walk.node);
    draft_count(e, r, n_accepted);
    trace_round(e, d, n_accepted);
    scheduler_accept(&e->scheduler, &r->seq, n_accepted);
    draft_learn(e, r, d->drawn, d->n_drawn);
    if (d->is_over) end_request(e, r, d->finish);
}

static bool is_weighed(const struct drawing *d) { return draft_is_weighed(d->request->verify) && d->request->seq.n_draft > 0; }

/* The tokens of a request whose draft is verified by distribution; they are taken like draws. */
static void take_verified(struct engine *e, struct drawing *d) {
    int32_t tokens[TREE_MAX_NODES];
    struct sampler_draw draw;
    int n = draft_verify(e, d->request, d->first_row, tokens);
    do {
        draw = next_draw(e, d->request, d->first_row + d->walk.node);
        draw.status = n > 0 ? ENGINE_OK : ENGINE_ERR_NUMERIC;
        draw.token = n > 0 ? tokens[d->n_drawn] : 0;
        if (n > 0 && draw.logprobs) sampler_logprobs(&e->sampler, &draw);
    } while (take_draw(e, d, &draw) && d->n_drawn < n);
}

/* Returns the number of tokens. */
static int verify_drafts(struct engine *e) {
    int n_tokens = 0;
    for (int i = 0; i < e->n_sampled; i++) {
        if (!is_weighed(&e->sampled[i])) continue;
        take_verified(e, &e->sampled[i]);
        n_tokens += e->sampled[i].n_drawn;
    }
    return n_tokens;
}

/* Everyone else draws a token, then those draw again whose draft had it, and so on. Returns the number of draws. */
static int draw_tokens(struct engine *e) {
    int n_drawn = 0, n_going = 0;
    for (int i = 0; i < e->n_sampled; i++) {
        if (!is_weighed(&e->sampled[i])) e->going[n_going++] = &e->sampled[i];
    }
    while (n_going > 0) {
        for (int i = 0; i < n_going; i++) {
            const struct drawing *d = e->going[i];
            e->draws[i] = next_draw(e, d->request, d->first_row + d->walk.node);
        }
        sampler_draw(&e->sampler, e->draws, n_going);
        n_drawn += n_going;
        int n_more = 0;
        for (int i = 0; i < n_going; i++) {
            if (take_draw(e, e->going[i], &e->draws[i])) e->going[n_more++] = e->going[i];
        }
        n_going = n_more;
    }
    double now = now_ms();
    for (int i = 0; i < e->n_sampled; i++) settle(e, &e->sampled[i], now);
    return n_drawn;
}

/* After a step of the engine that ended at now and gave n_tokens. */
static void note_even(struct engine *e, bool computed_prompt, int n_tokens, double now) {
    struct engine_even *even = &e->even;
    const int n_seqs = computed_prompt ? 0 : e->n_sampled;
    if (n_seqs != even->n_seqs) {
        *even = (struct engine_even){.n_seqs = n_seqs};
        return;
    }
    even->n_tokens += (uint64_t)n_tokens;
    even->ms += now - e->counts.stepped_ms;
    if (n_seqs > 0 && even->n_tokens > e->counts.even.n_tokens) e->counts.even = *even;
}

static void step(struct engine *e) {
    int n_planned = scheduler_plan(&e->scheduler), n_drafted = draft_plan(e, n_planned);
    assert(n_planned > 0);
    if (n_planned + n_drafted > FEW_ROWS) wake_now(e);
    struct model_batch batch = gather_batch(e);
    assert(batch.n_rows == n_planned + n_drafted);
    double start = now_ms();
    model_forward(e->model, &e->pool, &batch);
    scheduler_commit(&e->scheduler);
    int n_tokens = verify_drafts(e);
    double ms = now_ms() - start; /* to weigh distributions takes time, too, and only drafts need it */
    n_tokens += draw_tokens(e);
    draft_observe(e, &batch);
    draft_time(e, batch.n_rows, n_drafted, n_tokens, ms);
    e->counts.steps++;
    const double now = now_ms();
    note_even(e, n_planned != e->n_sampled, n_tokens, now);
    e->counts.stepped_ms = now;
}

void *engine_thread_run(void *arg) {
    struct engine *e = arg;
    bool was_idle = true;
    while (take_work(e)) {
        if (is_idle(e)) {
            was_idle = true;
        } else {
            if (was_idle) e->even = e->counts.even = (struct engine_even){0};
            was_idle = false;
            step(e);
        }
        publish(e);
    }
    publish(e);
    wake_now(e);
    return NULL;
}
