/* test_scheduler.c - plans keep their promises: the budget, a row for everyone who decodes, turns between users, no starvation,
 * no livelock, no block lost. The model is played by a counter: a sequence whose last token was computed gets one more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/scheduler.h"

static void no_copy(void *self, struct kv_pool *kv, const int32_t *src, const int32_t *dst, int n) {
    (void)self, (void)kv, (void)src, (void)dst, (void)n;
}
static const struct backend_ops fake_ops = {.name = "fake", .copy_blocks = no_copy};
static const struct backend fake_backend = {.ops = &fake_ops};

enum { MAX_JOBS = 64 };

struct job {
    struct sequence seq;
    bool live, done;
    int finish_at; /* n_tokens at which it ends */
    int finished_step, first_row_step;
};

struct world {
    struct kv_pool pool;
    struct kv_cache cache;
    struct scheduler scheduler;
    struct job jobs[MAX_JOBS];
    int n_jobs, n_steps, n_cached;
    uint64_t rng;
};

static uint32_t draw(struct world *w, uint32_t n) {
    w->rng = w->rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->rng >> 33) % n;
}

static void world_open(struct world *w, int n_blocks, int step_tokens, int max_seqs, bool prefix_cache) {
    memset(w, 0, sizeof *w);
    w->rng = 99;
    w->pool = (struct kv_pool){.n_blocks = n_blocks};
    assert_int_equal(kv_cache_init(&w->cache, &fake_backend, &w->pool, prefix_cache, 1), 0);
    assert_int_equal(scheduler_init(&w->scheduler, &w->cache, step_tokens, max_seqs), 0);
}

static void job_remove(struct world *w, struct job *job) {
    w->n_cached += job->seq.n_cached;
    scheduler_remove(&w->scheduler, &job->seq);
    free(job->seq.tokens);
    free(job->seq.table.blocks);
    job->live = false;
}

static void world_close(struct world *w) {
    for (int i = 0; i < w->n_jobs; i++) {
        if (w->jobs[i].live) job_remove(w, &w->jobs[i]);
    }
    kv_cache_check(&w->cache);
    assert_int_equal(w->cache.n_used, 0);
    scheduler_free(&w->scheduler);
    kv_cache_free(&w->cache);
}

static struct job *add(struct world *w, int n_prompt, int n_output, uint64_t salt, int32_t text) {
    struct job *job = &w->jobs[w->n_jobs++];
    struct sequence *seq = &job->seq;
    int most = n_prompt + n_output;
    *job = (struct job){.live = true, .finish_at = most, .finished_step = -1, .first_row_step = -1};
    *seq = (struct sequence){.n_prompt = n_prompt, .n_tokens = n_prompt, .max_tokens = most, .salt = salt, .owner = job};
    seq->tokens = calloc((size_t)most, sizeof *seq->tokens);
    for (int i = 0; i < most; i++) seq->tokens[i] = text * 1000 + i;
    kv_table_init(&w->cache, &seq->table, calloc((size_t)kv_blocks_for(most), sizeof(int32_t)), kv_blocks_for(most), salt);
    scheduler_add(&w->scheduler, seq);
    return job;
}

/* One step, with everything a plan promises checked. Returns its rows. */
static int run_step(struct world *w) {
    struct scheduler *s = &w->scheduler;
    bool was_decoding[MAX_JOBS];
    struct sequence *sampled[MAX_JOBS];
    int n_rows = 0, n_sampled = 0;
    uint64_t preempted_before = s->n_preemptions;
    for (int i = 0; i < w->n_jobs; i++) {
        struct sequence *seq = &w->jobs[i].seq;
        was_decoding[i] = w->jobs[i].live && seq->state == SEQUENCE_RUNNING && seq->n_tokens - seq->n_computed == 1;
    }
    int n_planned = scheduler_plan(s);
    assert_true(n_planned > 0 && n_planned <= s->step_tokens && s->n_running <= s->max_seqs);
    for (int i = 0; i < w->n_jobs; i++) {
        struct sequence *seq = &w->jobs[i].seq;
        if (!w->jobs[i].live) continue;
        if (seq->n_rows > 0 && w->jobs[i].first_row_step < 0) w->jobs[i].first_row_step = w->n_steps;
        if (was_decoding[i] && s->n_preemptions == preempted_before) assert_int_equal(seq->n_rows, 1);
        if (seq->state != SEQUENCE_RUNNING) assert_true(seq->n_rows == 0 && seq->table.n_blocks == 0 && seq->n_computed == 0);
        assert_true(seq->n_rows >= 0 && seq->n_computed + seq->n_rows <= seq->n_tokens);
        assert_true(seq->table.n_blocks >= kv_blocks_for(seq->n_computed + seq->n_rows));
        n_rows += seq->n_rows;
        if (sequence_wants_logits(seq)) sampled[n_sampled++] = seq;
    }
    assert_int_equal(n_rows, n_planned);
    scheduler_commit(s);
    kv_cache_check(&w->cache);
    for (int i = 0; i < n_sampled; i++) {
        struct job *job = sampled[i]->owner;
        if (++sampled[i]->n_tokens < job->finish_at) continue;
        job->done = true;
        job->finished_step = w->n_steps;
        job_remove(w, job);
    }
    w->n_steps++;
    return n_rows;
}

static void run_to_end(struct world *w, int at_most) {
    while (w->scheduler.n_running + w->scheduler.n_waiting > 0) {
        run_step(w);
        assert_true(w->n_steps <= at_most);
    }
}

/* Protects: one budget for all; a chunked prompt takes ceil(n / budget) steps and decoding goes on meanwhile. */
static void a_long_prompt_is_chunked_and_stops_nobody(void **state) {
    (void)state;
    struct world w;
    world_open(&w, 200, 64, 4, true);
    struct job *chat = add(&w, 10, 100, 1, 1);
    run_step(&w);
    assert_int_equal(chat->seq.n_tokens, 11);
    struct job *document = add(&w, 1000, 5, 2, 2);
    for (int i = 0; i < 15; i++) {
        assert_int_equal(run_step(&w), 64);
        assert_int_equal(chat->seq.n_tokens, 12 + i);
    }
    assert_int_equal(document->seq.n_computed, 15 * 63);
    run_step(&w);
    assert_int_equal(document->seq.n_tokens, 1001);
    run_to_end(&w, 200);
    assert_int_equal(w.scheduler.n_preemptions, 0);
    world_close(&w);
}

/* Protects: a user with ten requests does not keep another user's one request waiting behind all of them. */
static void users_take_turns(void **state) {
    (void)state;
    struct world w;
    world_open(&w, 400, 32, 2, true);
    struct job *many[10];
    for (int i = 0; i < 10; i++) many[i] = add(&w, 20, 20, 1, i);
    run_step(&w);
    struct job *single = add(&w, 20, 20, 2, 50);
    run_to_end(&w, 2000);
    int before = 0;
    for (int i = 0; i < 10; i++) before += many[i]->first_row_step < single->first_row_step;
    assert_true(before <= 3); /* two ran already, one may share its round */
    for (int i = 1; i < 10; i++) assert_true(many[i]->first_row_step >= many[i - 1]->first_row_step);
    world_close(&w);
}

/* Protects: short prompts overtake a long one, but the long one always gets its share. */
static void short_prompts_first_without_starving_the_long(void **state) {
    (void)state;
    struct world w;
    world_open(&w, 400, 64, 4, false);
    struct job *document = add(&w, 2000, 2, 1, 1);
    run_step(&w);
    int last = document->seq.n_computed;
    for (int i = 0; w.n_jobs < MAX_JOBS && i < 40; i++) { /* a stream of one-step prompts that would fill every step */
        struct job *quick = add(&w, 48, 1, 2 + (uint64_t)i, 2 + i);
        run_step(&w);
        assert_true(quick->done);
        assert_true(document->seq.n_computed - last >= 16);
        last = document->seq.n_computed;
    }
    world_close(&w);
}

/* Protects: when blocks run out the least work is lost, nothing is lost for good, and the pool is enough for all to finish one
 * after another. */
static void preemption_recomputes_and_everyone_finishes(void **state) {
    (void)state;
    for (int prefix_cache = 0; prefix_cache < 2; prefix_cache++) {
        struct world w;
        world_open(&w, 20, 32, 8, prefix_cache);
        for (int i = 0; i < 12; i++) add(&w, 20 + i, 200, (uint64_t)i, i); /* 14 blocks each at the end */
        run_to_end(&w, 20000);
        for (int i = 0; i < 12; i++) assert_true(w.jobs[i].done);
        printf("prefix cache %d: %d steps, %llu preemptions\n", prefix_cache, w.n_steps,
               (unsigned long long)w.scheduler.n_preemptions);
        assert_true(w.scheduler.n_preemptions > 0);
        world_close(&w);
    }
}

/* Protects: the victim is the one with the fewest computed tokens of its own. */
static void the_victim_loses_the_least(void **state) {
    (void)state;
    struct world w;
    world_open(&w, 16, 512, 3, true);
    struct job *small = add(&w, 30, 40, 1, 1), *large = add(&w, 140, 40, 2, 2); /* 2 + 9 blocks, then both grow */
    struct job *third = add(&w, 60, 5, 3, 3);
    run_step(&w);
    assert_int_equal(w.scheduler.n_running, 2); /* the reserve keeps the third out for now */
    while (w.scheduler.n_preemptions == 0) run_step(&w);
    assert_int_equal(small->seq.n_preempted, 1);
    assert_int_equal(large->seq.n_preempted, 0);
    run_to_end(&w, 500);
    assert_true(small->done && large->done && third->done);
    world_close(&w);
}

/* Protects: a prompt that a running sequence has computed by now is taken from it, also in mid-prefill. */
static void prefixes_computed_meanwhile_are_taken(void **state) {
    (void)state;
    struct world w;
    world_open(&w, 200, 64, 4, true);
    struct job *first = add(&w, 640, 30, 7, 5);
    for (int i = 0; i < 5; i++) run_step(&w);
    struct job *second = add(&w, 640, 30, 7, 5);
    run_to_end(&w, 100);
    assert_int_equal(first->seq.n_cached, 0);
    assert_true(second->seq.n_cached >= 320);
    assert_true(second->finished_step < first->finished_step + 20);
    world_close(&w);
}

/* Protects: a draft takes what is left of budget and blocks, nothing from others; what is rejected leaves no block behind and is
 * never published, what is accepted counts as computed. */
/* Protects: samples of one prompt cost one prefill, also when all are asked for at once; nobody waits for another user's. */
static void prompts_that_are_alike_are_computed_once(void **state) {
    (void)state;
    enum { N = 4, PROMPT = 100, KEPT = PROMPT / KV_BLOCK * KV_BLOCK };
    for (int prefix_cache = 0; prefix_cache < 2; prefix_cache++) {
        struct world w;
        struct job *jobs[N];
        world_open(&w, 200, 1024, N + 1, prefix_cache);
        for (int i = 0; i < N; i++) jobs[i] = add(&w, PROMPT, 20, 7, 5);
        struct job *foreign = add(&w, PROMPT, 20, 8, 5);
        int n_rows = 0;
        while (foreign->seq.n_computed < PROMPT || jobs[N - 1]->seq.n_computed < PROMPT) n_rows += run_step(&w);
        for (int i = 0; i < N; i++) assert_int_equal(jobs[i]->seq.n_cached, prefix_cache && i > 0 ? KEPT : 0);
        assert_int_equal(foreign->seq.n_cached, 0);
        if (prefix_cache) assert_true(n_rows < 2 * PROMPT + (N - 1) * (PROMPT - KEPT) + (N + 1) * 20);
        run_to_end(&w, 200);
        world_close(&w);
    }
}

static void drafts_take_what_is_left(void **state) {
    (void)state;
    struct world w;
    world_open(&w, 16, 64, 4, true);
    struct job *job = add(&w, 30, 200, 1, 1), *other = add(&w, 10, 3, 2, 2);
    struct sequence *seq = &job->seq;
    run_step(&w);
    for (int round = 0; round < 60; round++) {
        int n_tokens = seq->n_tokens, n_right = (int)draw(&w, 8);
        int n_rows = scheduler_plan(&w.scheduler), n_free = w.cache.n_free + w.cache.n_cached;
        int n = scheduler_extend(&w.scheduler, seq, round % 10);
        assert_true(n <= round % 10 && n <= 64 - n_rows && (n == round % 10 || n_free == 0 || n_free * KV_BLOCK > n));
        assert_true(sequence_wants_logits(seq) && seq->n_rows == 1 + n);
        assert_true(seq->table.n_blocks == kv_blocks_for(n_tokens + n));
        scheduler_commit(&w.scheduler);
        assert_int_equal(seq->n_computed, n_tokens);
        assert_true(seq->table.n_hashed <= n_tokens / KV_BLOCK);
        if (n_right > n) n_right = n;
        seq->n_tokens += n_right + 1;
        scheduler_accept(&w.scheduler, seq, n_right);
        assert_int_equal(seq->n_computed, n_tokens + n_right);
        if (n > 0) assert_int_equal(seq->table.n_blocks, kv_blocks_for(n_tokens + n_right));
        assert_int_equal(seq->table.n_hashed, seq->n_computed / KV_BLOCK);
        kv_cache_check(&w.cache);
        if (other->live) job_remove(&w, other);
        if (seq->n_tokens > 180) break;
    }
    assert_int_equal(w.scheduler.n_preemptions, 0);
    assert_true(seq->n_tokens > 180);
    world_close(&w);
}

/* Protects: where blocks are short a draft shrinks, and nobody is preempted for it. */
static void drafts_shrink_to_the_blocks(void **state) {
    (void)state;
    struct world w;
    world_open(&w, 4, 64, 2, true);
    struct job *job = add(&w, 60, 4, 1, 1);
    run_step(&w);
    assert_int_equal(scheduler_plan(&w.scheduler), 1);
    assert_int_equal(scheduler_extend(&w.scheduler, &job->seq, 20), 3);
    scheduler_commit(&w.scheduler);
    job->seq.n_tokens++;
    scheduler_accept(&w.scheduler, &job->seq, 0);
    assert_int_equal(job->seq.n_computed, 61);
    world_close(&w);
}

/* Protects: all of it at once, in random order, with cancels at any moment. */
static void random_load_keeps_every_promise(void **state) {
    (void)state;
    int n_rounds = getenv("FORESAY_TEST_LONG") ? 100 : 10;
    uint64_t preemptions = 0, cached = 0;
    for (int round = 0; round < n_rounds; round++) {
        struct world w;
        world_open(&w, 24 + round % 30, 16 + 8 * (round % 5), 1 + round % 12, round % 2);
        w.rng = (uint64_t)round * 7919 + 5;
        while (w.n_jobs < MAX_JOBS || w.scheduler.n_running + w.scheduler.n_waiting > 0) {
            if (w.n_jobs < MAX_JOBS && draw(&w, 3) == 0) {
                uint32_t user = draw(&w, 4);
                add(&w, 1 + (int)draw(&w, 250), 1 + (int)draw(&w, 100), user, (int32_t)(2 * user + draw(&w, 2)));
            }
            struct job *job = w.n_jobs ? &w.jobs[draw(&w, (uint32_t)w.n_jobs)] : NULL;
            if (job && job->live && draw(&w, 40) == 0) {
                job_remove(&w, job);
                kv_cache_check(&w.cache);
            }
            if (w.scheduler.n_running + w.scheduler.n_waiting > 0) run_step(&w);
            assert_true(w.n_steps < 200000);
        }
        preemptions += w.scheduler.n_preemptions;
        cached += (uint64_t)w.n_cached;
        world_close(&w);
    }
    printf("%d rounds, %llu preemptions, %llu cached tokens seen\n", n_rounds, (unsigned long long)preemptions,
           (unsigned long long)cached);
    assert_true(preemptions > 0 && cached > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_long_prompt_is_chunked_and_stops_nobody),
        cmocka_unit_test(users_take_turns),
        cmocka_unit_test(short_prompts_first_without_starving_the_long),
        cmocka_unit_test(preemption_recomputes_and_everyone_finishes),
        cmocka_unit_test(the_victim_loses_the_least),
        cmocka_unit_test(prefixes_computed_meanwhile_are_taken),
        cmocka_unit_test(prompts_that_are_alike_are_computed_once),
        cmocka_unit_test(drafts_take_what_is_left),
        cmocka_unit_test(drafts_shrink_to_the_blocks),
        cmocka_unit_test(random_load_keeps_every_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
