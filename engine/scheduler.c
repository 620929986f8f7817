/* scheduler.c - one token budget a step, shared by decode rows and prefill chunks.
 *
 * Order of a plan:
 *  (1) Every sequence that decodes gets its row: a long prompt never stops the text of others.
 *  (2) Waiting sequences are admitted while there are slots, rows and blocks. Users take turns: a sequence gets the round after
 * its user's latest one that still waits or runs, and rounds are admitted in order (start-time fair queueing with a cost of one).
 *  (3) What is left of the budget goes to prompts. The one admitted first has a quarter for certain, so that it cannot starve;
 * the rest goes to the shortest first, which brings most first tokens soonest. Of prompts that begin alike one computes, the
 * others wait for its blocks: samples of one prompt cost one prefill. When blocks run out, the sequence that loses the least work
 * gives way: the fewest computed tokens that nobody else holds. The sequence with the most work is never chosen while another
 * runs, so some sequence always advances. Admission keeps a reserve (the blocks that admitted prompts still need, one for each
 * running sequence, one in a hundred), so that this stays rare. */
#include "engine/scheduler.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { OLDEST_SHARE = 4 }; /* the oldest prompt is sure of 1 / OLDEST_SHARE of the rows that decoding leaves */

int scheduler_init(struct scheduler *s, struct kv_cache *cache, int step_tokens, int max_seqs) {
    assert(max_seqs > 0 && step_tokens >= max_seqs);
    *s = (struct scheduler){.cache = cache, .step_tokens = step_tokens, .max_seqs = max_seqs};
    s->running = calloc((size_t)max_seqs, sizeof *s->running);
    s->order = calloc((size_t)max_seqs, sizeof *s->order);
    if (s->running && s->order) return 0;
    scheduler_free(s);
    return -1;
}

void scheduler_free(struct scheduler *s) {
    free(s->running);
    free(s->order);
    s->running = s->order = NULL;
}

/* --- waiting list --- */

static bool stands_before(const struct sequence *x, const struct sequence *y) {
    return x->round != y->round ? x->round < y->round : x->arrival < y->arrival;
}

static void waiting_insert(struct scheduler *s, struct sequence *seq) {
    struct sequence **link = &s->waiting;
    while (*link && stands_before(*link, seq)) link = &(*link)->next;
    seq->next = *link;
    *link = seq;
    seq->state = SEQUENCE_WAITING;
    s->n_waiting++;
}

static void waiting_remove(struct scheduler *s, struct sequence *seq) {
    struct sequence **link = &s->waiting;
    while (*link != seq) {
        assert(*link);
        link = &(*link)->next;
    }
    *link = seq->next;
    seq->next = NULL;
    s->n_waiting--;
}

static uint64_t next_round(const struct scheduler *s, uint64_t salt) {
    uint64_t round = s->round_now;
    for (const struct sequence *seq = s->waiting; seq; seq = seq->next) {
        if (seq->salt == salt && seq->round >= round) round = seq->round + 1;
    }
    for (int i = 0; i < s->n_running; i++) {
        if (s->running[i]->salt == salt && s->running[i]->round >= round) round = s->running[i]->round + 1;
    }
    return round;
}

void scheduler_add(struct scheduler *s, struct sequence *seq) {
    assert(seq->state == SEQUENCE_NEW && seq->n_tokens > 0);
    assert(kv_blocks_for(seq->max_tokens) <= s->cache->n_blocks);
    seq->round = next_round(s, seq->salt);
    seq->arrival = s->n_arrivals++;
    waiting_insert(s, seq);
}

/* --- running --- */

static void running_remove(struct scheduler *s, struct sequence *seq) {
    int i = 0;
    while (s->running[i] != seq) {
        i++;
        assert(i < s->n_running);
    }
    s->n_running--;
    memmove(s->running + i, s->running + i + 1, (size_t)(s->n_running - i) * sizeof *s->running);
    s->rows_left += seq->n_rows;
    seq->n_rows = seq->n_draft = 0;
    kv_cache_release(s->cache, &seq->table);
    seq->n_computed = 0;
}

void scheduler_remove(struct scheduler *s, struct sequence *seq) {
    if (seq->state == SEQUENCE_WAITING)
        waiting_remove(s, seq);
    else if (seq->state == SEQUENCE_RUNNING)
        running_remove(s, seq);
    seq->state = SEQUENCE_NEW;
}

static void preempt(struct scheduler *s, struct sequence *seq) {
    running_remove(s, seq);
    seq->n_preempted++;
    s->n_preemptions++;
    waiting_insert(s, seq); /* its round has passed, so it comes back before newer ones */
}

/* Computed tokens that would have to be computed again, as far as other sequences do not keep them. */
static int work_lost(const struct scheduler *s, const struct sequence *seq) {
    int kept = kv_cache_shared_prefix(s->cache, &seq->table) * KV_BLOCK;
    return seq->n_computed > kept ? seq->n_computed - kept : 0;
}

/* The sequence to preempt; it gives back at least one block. Equal losses: the newest. */
static struct sequence *choose_victim(const struct scheduler *s) {
    struct sequence *victim = NULL;
    int least = 0;
    for (int i = 0; i < s->n_running; i++) {
        struct sequence *seq = s->running[i];
        if (kv_cache_exclusive(s->cache, &seq->table) == 0) continue;
        int lost = work_lost(s, seq);
        if (victim && (lost > least || (lost == least && !stands_before(victim, seq)))) continue;
        victim = seq;
        least = lost;
    }
    return victim;
}

/* Gives seq n rows, preempting others (or seq itself, then it has none) until the blocks suffice. */
static void give_rows(struct scheduler *s, struct sequence *seq, int n) {
    while (!kv_cache_reserve(s->cache, &seq->table, seq->n_computed, seq->n_computed + seq->n_rows + n)) {
        struct sequence *victim = choose_victim(s);
        assert(s->n_running > 1 && victim); /* alone, a sequence fits: scheduler_add */
        preempt(s, victim);
        if (victim == seq) return;
    }
    seq->n_rows += n;
    s->rows_left -= n;
}

static int rows_wanted(const struct sequence *seq) { return seq->n_tokens - seq->n_computed - seq->n_rows; }

/* --- plan --- */

static void plan_decode(struct scheduler *s) {
    int n = s->n_running;
    memcpy(s->order, s->running, (size_t)n * sizeof *s->order);
    for (int i = 0; i < n; i++) {
        struct sequence *seq = s->order[i];
        if (seq->state == SEQUENCE_RUNNING && rows_wanted(seq) == 1) give_rows(s, seq, 1);
    }
}

/* Blocks that running sequences need for the tokens they already know and the next one. */
static int blocks_promised(const struct scheduler *s) {
    int n = 0;
    for (int i = 0; i < s->n_running; i++) {
        const struct sequence *seq = s->running[i];
        int more = kv_blocks_for(seq->n_tokens + 1) - seq->table.n_blocks;
        if (more > 0) n += more;
    }
    return n;
}

static bool has_room_for(const struct scheduler *s, const struct sequence *seq) {
    if (s->n_running == 0) return true;
    int n_idle;
    int n_hits = kv_cache_peek(s->cache, &seq->table, seq->tokens, seq->n_tokens, &n_idle);
    int need = kv_blocks_for(seq->n_tokens + 1) - n_hits + n_idle;
    int reserve = blocks_promised(s) + s->n_running + s->cache->n_blocks / 100;
    return need + reserve <= kv_cache_available(s->cache);
}

/* Text that others have computed by now need not be computed again. Only between blocks, so a chunk that ends inside one does not
 * look. */
static void take_cached(struct scheduler *s, struct sequence *seq) {
    if (seq->n_computed != seq->table.n_blocks * KV_BLOCK) return;
    int gained = kv_cache_match(s->cache, &seq->table, seq->tokens, seq->n_tokens);
    seq->n_computed += gained;
    if (seq->n_preempted == 0) seq->n_cached += gained;
}

static void plan_admit(struct scheduler *s) {
    while (s->waiting && s->n_running < s->max_seqs && s->rows_left > 0) {
        struct sequence *seq = s->waiting;
        if (!has_room_for(s, seq)) break;
        waiting_remove(s, seq);
        seq->state = SEQUENCE_RUNNING;
        if (seq->round > s->round_now) s->round_now = seq->round;
        s->running[s->n_running++] = seq;
        take_cached(s, seq);
    }
}

static int compare_wanted(const void *x, const void *y) {
    const struct sequence *a = *(struct sequence *const *)x, *b = *(struct sequence *const *)y;
    int wanted_a = rows_wanted(a), wanted_b = rows_wanted(b);
    if (wanted_a != wanted_b) return wanted_a < wanted_b ? -1 : 1;
    return stands_before(a, b) ? -1 : 1;
}

/* Rows that the idle blocks and the rest of the sequence's own last block can take. */
static int rows_that_fit(const struct scheduler *s, const struct sequence *seq) {
    return (kv_cache_available(s->cache) + seq->table.n_blocks) * KV_BLOCK - seq->n_computed - seq->n_rows;
}

/* Another sequence computes the very block in this step that seq needs next: it will be there for both. */
static bool is_being_computed(const struct scheduler *s, const struct sequence *seq) {
    const int end = (seq->table.n_hashed + 1) * KV_BLOCK;
    const int32_t *block = seq->tokens + end - KV_BLOCK;
    if (!s->cache->prefix_cache || seq->n_computed != end - KV_BLOCK || seq->n_tokens <= end) return false;
    for (int i = 0; i < s->n_running; i++) {
        const struct sequence *other = s->running[i];
        const struct kv_table *x = &other->table, *y = &seq->table;
        if (other == seq || other->n_computed + other->n_rows - other->n_draft < end || x->salt != y->salt) continue;
        if (x->n_hashed != y->n_hashed || x->key.a != y->key.a || x->key.b != y->key.b) continue;
        if (memcmp(other->tokens + end - KV_BLOCK, block, KV_BLOCK * sizeof *block) == 0) return true;
    }
    return false;
}

/* A chunk shrinks to the idle blocks, and waits for a step when there are none: prompts do not push out what decodes. Only when
 * the step would be empty otherwise (prompts hold everything and none can go on) somebody has to give way. */
static void give_chunk(struct scheduler *s, struct sequence *seq, int at_most) {
    if (seq->state != SEQUENCE_RUNNING) return;
    if (seq->n_rows == 0) take_cached(s, seq);
    if (seq->n_rows == 0 && is_being_computed(s, seq)) return;
    int n = rows_wanted(seq), fits = rows_that_fit(s, seq);
    if (n > at_most) n = at_most;
    if (n > s->rows_left) n = s->rows_left;
    if (n > fits) n = fits > 0 || s->rows_left < s->step_tokens ? fits : 1;
    if (n > 0) give_rows(s, seq, n);
}

static void plan_prefill(struct scheduler *s) {
    int n = 0;
    for (int i = 0; i < s->n_running; i++) {
        if (rows_wanted(s->running[i]) > 0) s->order[n++] = s->running[i];
    }
    if (n == 0) return;
    struct sequence *oldest = s->order[0];
    if (n > 1) give_chunk(s, oldest, (s->rows_left + OLDEST_SHARE - 1) / OLDEST_SHARE);
    qsort(s->order, (size_t)n, sizeof *s->order, compare_wanted);
    for (int i = 0; i < n && s->rows_left > 0; i++) give_chunk(s, s->order[i], s->rows_left);
}

int scheduler_plan(struct scheduler *s) {
    uint64_t n_preempted_before = s->n_preemptions;
    s->rows_left = s->step_tokens;
    for (int i = 0; i < s->n_running; i++) s->running[i]->n_rows = s->running[i]->n_draft = 0;
    plan_decode(s);
    if (s->n_preemptions == n_preempted_before) plan_admit(s);
    plan_prefill(s);
    return s->step_tokens - s->rows_left;
}

int scheduler_extend(struct scheduler *s, struct sequence *seq, int n) {
    assert(sequence_wants_logits(seq) && seq->n_draft == 0);
    int fits = rows_that_fit(s, seq);
    if (n > s->rows_left) n = s->rows_left;
    if (n > fits) n = fits;
    if (n <= 0) return 0;
    bool has_room = kv_cache_reserve(s->cache, &seq->table, seq->n_computed, seq->n_computed + seq->n_rows + n);
    assert(has_room);
    seq->n_rows += n;
    seq->n_draft = n;
    s->rows_left -= n;
    return n;
}

void scheduler_commit(struct scheduler *s) {
    for (int i = 0; i < s->n_running; i++) {
        struct sequence *seq = s->running[i];
        seq->n_computed += seq->n_rows - seq->n_draft;
        seq->n_rows = 0;
        kv_cache_publish(s->cache, &seq->table, seq->tokens, seq->n_computed);
    }
}

void scheduler_accept(struct scheduler *s, struct sequence *seq, int n_accepted) {
    assert(n_accepted >= 0 && n_accepted <= seq->n_draft && seq->n_computed + n_accepted <= seq->n_tokens);
    if (seq->n_draft == 0) return;
    seq->n_draft = 0;
    seq->n_computed += n_accepted;
    kv_cache_publish(s->cache, &seq->table, seq->tokens, seq->n_computed);
    kv_cache_cut(s->cache, &seq->table, seq->n_computed);
}
