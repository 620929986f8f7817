/* test_kv_cache.c - block tables against a model that cannot be wrong: every slot of the fake pool records which token of which
 * user was written there, so reading a sequence back through its table shows any lost, overwritten or wrongly shared block. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/kv_cache.h"

enum { N_BLOCKS = 48, MAX_SEQS = 12, MAX_LEN = 160, TABLE_CAPACITY = MAX_LEN / KV_BLOCK };

struct slot {
    int32_t token;
    uint32_t salt;
};

static void fake_copy_blocks(void *self, struct kv_pool *kv, const int32_t *src, const int32_t *dst, int n) {
    (void)self;
    for (int i = 0; i < n; i++) {
        memcpy(kv->data + (size_t)dst[i] * kv->block_bytes, kv->data + (size_t)src[i] * kv->block_bytes, kv->block_bytes);
    }
}

/* What a block held is lost. */
static int n_touched;
static void fake_kv_touch(void *self, struct kv_pool *kv, int32_t block) {
    (void)self;
    n_touched++;
    if (kv->data) memset(kv->data + (size_t)block * kv->block_bytes, 0xee, kv->block_bytes);
}

static const struct backend_ops fake_ops = {.name = "fake", .copy_blocks = fake_copy_blocks, .kv_touch = fake_kv_touch};
static const struct backend fake_backend = {.ops = &fake_ops};

struct seq {
    bool live;
    int32_t tokens[MAX_LEN];
    int n_tokens, n_computed;
    struct kv_table table;
    int32_t blocks[TABLE_CAPACITY];
};

struct world {
    struct kv_pool pool;
    struct kv_cache cache;
    struct seq seqs[MAX_SEQS];
    uint64_t rng;
};

static uint32_t draw(struct world *w, uint32_t n) {
    w->rng = w->rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->rng >> 33) % n;
}

static void world_open(struct world *w, bool prefix_cache, uint64_t seed) {
    memset(w, 0, sizeof *w);
    w->rng = seed;
    w->pool = (struct kv_pool){.n_blocks = N_BLOCKS, .block_bytes = KV_BLOCK * sizeof(struct slot)};
    w->pool.data = calloc(N_BLOCKS, w->pool.block_bytes);
    assert_int_equal(kv_cache_init(&w->cache, &fake_backend, &w->pool, prefix_cache, 7), 0);
}

static void world_close(struct world *w) {
    kv_cache_free(&w->cache);
    free(w->pool.data);
}

static struct slot *slot_at(struct world *w, const struct seq *s, int pos) {
    int32_t id = s->table.blocks[pos / KV_BLOCK];
    return (struct slot *)(void *)(w->pool.data + (size_t)id * w->pool.block_bytes) + pos % KV_BLOCK;
}

/* What a forward pass does: fills the slots. False when the blocks do not suffice. */
static bool compute(struct world *w, struct seq *s, int n_tokens) {
    if (!kv_cache_reserve(&w->cache, &s->table, s->n_computed, n_tokens)) return false;
    for (int pos = s->n_computed; pos < n_tokens; pos++) {
        *slot_at(w, s, pos) = (struct slot){s->tokens[pos], (uint32_t)s->table.salt};
    }
    s->n_computed = n_tokens;
    kv_cache_publish(&w->cache, &s->table, s->tokens, s->n_computed);
    return true;
}

static void start(struct world *w, struct seq *s, const int32_t *tokens, int n, uint64_t salt) {
    *s = (struct seq){.live = true, .n_tokens = n};
    memcpy(s->tokens, tokens, (size_t)n * sizeof *tokens);
    kv_table_init(&w->cache, &s->table, s->blocks, TABLE_CAPACITY, salt);
}

/* Every sequence reads back what it wrote, and the reference counts are the number of tables a block is in. */
static void check_world(struct world *w) {
    int refs[N_BLOCKS] = {0};
    kv_cache_check(&w->cache);
    for (int i = 0; i < MAX_SEQS; i++) {
        struct seq *s = &w->seqs[i];
        if (!s->live) continue;
        for (int b = 0; b < s->table.n_blocks; b++) refs[s->table.blocks[b]]++;
        for (int pos = 0; pos < s->n_computed; pos++) {
            assert_int_equal(slot_at(w, s, pos)->token, s->tokens[pos]);
            assert_int_equal(slot_at(w, s, pos)->salt, s->table.salt);
        }
    }
    for (int id = 0; id < N_BLOCKS; id++) assert_int_equal(w->cache.blocks[id].ref_count, refs[id]);
}

/* Protects: sharing, copy-on-write, publishing and eviction under any order of operations. */
static void random_operations(bool prefix_cache, int n_operations) {
    struct world w;
    uint64_t seed = 20240607;
    world_open(&w, prefix_cache, seed);
    long hits = 0, refused = 0, forks = 0, preempted = 0, copies = 0;
    for (int n = 0; n < n_operations; n++) {
        struct seq *s = &w.seqs[draw(&w, MAX_SEQS)];
        uint32_t what = draw(&w, 24);
        if (draw(&w, 8) == 0) kv_cache_touch_ahead(&w.cache);
        if (!s->live) { /* allocate: few distinct texts, so that prefixes meet again */
            int32_t tokens[MAX_LEN];
            int length = 1 + (int)draw(&w, MAX_LEN - 40), fork_at = (int)draw(&w, 120);
            int32_t family = (int32_t)draw(&w, 3);
            for (int i = 0; i < length; i++) tokens[i] = i < fork_at ? family : (int32_t)draw(&w, 2);
            start(&w, s, tokens, length, draw(&w, 2));
            s->n_computed = kv_cache_match(&w.cache, &s->table, s->tokens, s->n_tokens);
            hits += s->n_computed;
            assert_true(s->n_computed < s->n_tokens);
        } else if (what < 12) { /* compute some of what is known */
            int more = 1 + (int)draw(&w, 40);
            if (more > s->n_tokens - s->n_computed) more = s->n_tokens - s->n_computed;
            if (!compute(&w, s, s->n_computed + more)) refused++;
        } else if (what < 18) { /* append: the model said something */
            if (s->n_computed == s->n_tokens && s->n_tokens < MAX_LEN) s->tokens[s->n_tokens++] = (int32_t)draw(&w, 2);
        } else if (what < 22) { /* fork */
            struct seq *child = &w.seqs[draw(&w, MAX_SEQS)];
            if (child->live || s->n_computed == 0) continue;
            copies += s->n_computed % KV_BLOCK != 0;
            start(&w, child, s->tokens, s->n_computed, s->table.salt);
            kv_cache_fork(&w.cache, &s->table, s->n_computed, &child->table);
            child->n_computed = s->n_computed;
            if (child->n_tokens < MAX_LEN) child->tokens[child->n_tokens++] = (int32_t)draw(&w, 2);
            forks++;
        } else if (what == 22) { /* preempt: blocks go, tokens stay, the cache may give some back */
            kv_cache_release(&w.cache, &s->table);
            s->n_computed = kv_cache_match(&w.cache, &s->table, s->tokens, s->n_tokens);
            preempted++;
        } else { /* finish or cancel */
            kv_cache_release(&w.cache, &s->table);
            s->live = false;
        }
        check_world(&w);
    }
    printf("seed %llu: %d operations, %ld tokens hit, %ld refused, %ld forks (%ld inside a block), %ld preempted\n",
           (unsigned long long)seed, n_operations, hits, refused, forks, copies, preempted);
    if (prefix_cache)
        assert_true(hits > 0);
    else
        assert_int_equal(hits, 0);
    assert_true(refused > 0 && forks > 0 && copies > 0 && preempted > 0);
    for (int i = 0; i < MAX_SEQS; i++) {
        if (w.seqs[i].live) kv_cache_release(&w.cache, &w.seqs[i].table);
        w.seqs[i].live = false;
    }
    check_world(&w);
    assert_int_equal(w.cache.n_used, 0);
    world_close(&w);
}

static int n_operations(void) { return getenv("FORESAY_TEST_LONG") ? 100000 : 10000; }

static void random_operations_keep_the_invariant(void **state) {
    (void)state;
    random_operations(true, n_operations());
}

static void random_operations_without_prefix_cache(void **state) {
    (void)state;
    random_operations(false, n_operations());
}

static void fill_tokens(int32_t *tokens, int n) {
    for (int i = 0; i < n; i++) tokens[i] = i * 7 + 1;
}

/* Protects: logits of the last prompt token are always computed, also when every block of the prompt is cached. */
static void a_hit_leaves_one_token(void **state) {
    (void)state;
    struct world w;
    int32_t tokens[MAX_LEN];
    fill_tokens(tokens, MAX_LEN);
    world_open(&w, true, 1);
    start(&w, &w.seqs[0], tokens, 3 * KV_BLOCK, 0);
    assert_true(compute(&w, &w.seqs[0], 3 * KV_BLOCK));
    start(&w, &w.seqs[1], tokens, 3 * KV_BLOCK, 0);
    int n_idle;
    assert_int_equal(kv_cache_peek(&w.cache, &w.seqs[1].table, tokens, 3 * KV_BLOCK, &n_idle), 2);
    assert_int_equal(n_idle, 0);
    assert_int_equal(kv_cache_match(&w.cache, &w.seqs[1].table, tokens, 3 * KV_BLOCK), 2 * KV_BLOCK);
    start(&w, &w.seqs[2], tokens, 3 * KV_BLOCK + 1, 0);
    assert_int_equal(kv_cache_match(&w.cache, &w.seqs[2].table, tokens, 3 * KV_BLOCK + 1), 3 * KV_BLOCK);
    w.seqs[1].n_computed = 2 * KV_BLOCK;
    w.seqs[2].n_computed = 3 * KV_BLOCK;
    check_world(&w);
    world_close(&w);
}

/* Protects: a block is found only by its own user, its own text and its own place in the text. */
static void other_salt_text_or_place_misses(void **state) {
    (void)state;
    struct world w;
    int32_t tokens[MAX_LEN], shifted[MAX_LEN];
    fill_tokens(tokens, MAX_LEN);
    world_open(&w, true, 1);
    start(&w, &w.seqs[0], tokens, 64, 5);
    assert_true(compute(&w, &w.seqs[0], 64));
    start(&w, &w.seqs[1], tokens, 64, 6);
    assert_int_equal(kv_cache_match(&w.cache, &w.seqs[1].table, tokens, 64), 0);
    memcpy(shifted, tokens + KV_BLOCK, 64 * sizeof *tokens); /* block 1 as block 0 */
    start(&w, &w.seqs[2], shifted, 48, 5);
    assert_int_equal(kv_cache_match(&w.cache, &w.seqs[2].table, shifted, 48), 0);
    tokens[20]++;
    start(&w, &w.seqs[3], tokens, 64, 5);
    assert_int_equal(kv_cache_match(&w.cache, &w.seqs[3].table, tokens, 64), KV_BLOCK);
    world_close(&w);
}

/* Protects: what is reserved but not computed is not found by others. */
static void nothing_is_published_before_it_is_computed(void **state) {
    (void)state;
    struct world w;
    int32_t tokens[MAX_LEN];
    fill_tokens(tokens, MAX_LEN);
    world_open(&w, true, 1);
    start(&w, &w.seqs[0], tokens, 64, 0);
    assert_true(kv_cache_reserve(&w.cache, &w.seqs[0].table, 0, 64));
    start(&w, &w.seqs[1], tokens, 64, 0);
    assert_int_equal(kv_cache_match(&w.cache, &w.seqs[1].table, tokens, 64), 0);
    kv_cache_release(&w.cache, &w.seqs[0].table);
    assert_int_equal(w.cache.n_free, N_BLOCKS);
    world_close(&w);
}

/* Protects: eviction order. Free blocks go first, then the oldest text, of one text its end first. */
static void eviction_takes_the_oldest_end_first(void **state) {
    (void)state;
    struct world w;
    int32_t old_text[MAX_LEN], new_text[MAX_LEN], filler[MAX_LEN];
    for (int i = 0; i < MAX_LEN; i++) old_text[i] = i, new_text[i] = 1000 + i, filler[i] = 5000 + i;
    world_open(&w, true, 1);
    start(&w, &w.seqs[0], old_text, 65, 0);
    assert_true(compute(&w, &w.seqs[0], 65)); /* 4 published blocks and a free one */
    kv_cache_release(&w.cache, &w.seqs[0].table);
    start(&w, &w.seqs[1], new_text, 64, 0);
    assert_true(compute(&w, &w.seqs[1], 64));
    kv_cache_release(&w.cache, &w.seqs[1].table);
    assert_int_equal(w.cache.n_cached, 8);
    assert_int_equal(w.cache.n_free, N_BLOCKS - 8);
    for (int i = 2, taken = 0; taken < N_BLOCKS - 6; i++) { /* all free ones and two more */
        int n = N_BLOCKS - 6 - taken < TABLE_CAPACITY ? N_BLOCKS - 6 - taken : TABLE_CAPACITY;
        for (int t = 0; t < MAX_LEN; t++) filler[t]++;
        start(&w, &w.seqs[i], filler, n * KV_BLOCK, 9);
        assert_true(kv_cache_reserve(&w.cache, &w.seqs[i].table, 0, n * KV_BLOCK));
        taken += n;
    }
    int n_idle;
    assert_int_equal(kv_cache_peek(&w.cache, &w.seqs[0].table, old_text, 65, &n_idle), 2);
    assert_int_equal(n_idle, 2);
    assert_int_equal(kv_cache_peek(&w.cache, &w.seqs[1].table, new_text, 65, &n_idle), 4);
    world_close(&w);
}

/* Protects: a refused reservation changes nothing. */
static void reserve_is_all_or_nothing(void **state) {
    (void)state;
    struct world w;
    int32_t tokens[MAX_LEN];
    fill_tokens(tokens, MAX_LEN);
    world_open(&w, true, 1);
    for (int i = 0; i < 4; i++) {
        start(&w, &w.seqs[i], tokens, MAX_LEN, (uint64_t)i);
        assert_true(compute(&w, &w.seqs[i], MAX_LEN));
    }
    start(&w, &w.seqs[4], tokens, MAX_LEN, 4);
    assert_int_equal(kv_cache_available(&w.cache), N_BLOCKS - 4 * TABLE_CAPACITY);
    assert_false(kv_cache_reserve(&w.cache, &w.seqs[4].table, 0, MAX_LEN));
    assert_int_equal(w.seqs[4].table.n_blocks, 0);
    assert_int_equal(kv_cache_available(&w.cache), N_BLOCKS - 4 * TABLE_CAPACITY);
    check_world(&w);
    world_close(&w);
}

/* Protects: only so much memory is taken ahead of use, and never a block that somebody had (see random_operations). */
static void memory_is_touched_a_little_ahead(void **state) {
    struct kv_pool pool = {.n_blocks = 6, .block_bytes = 8 << 20};
    struct kv_cache cache;
    struct kv_table table;
    int32_t blocks[4];
    (void)state;
    n_touched = 0;
    assert_int_equal(kv_cache_init(&cache, &fake_backend, &pool, true, 7), 0);
    kv_table_init(&cache, &table, blocks, 4, 1);
    assert_true(kv_cache_reserve(&cache, &table, 0, 1));
    while (kv_cache_touch_ahead(&cache)) assert_true(n_touched < 6);
    assert_int_equal(n_touched, 4);
    kv_cache_release(&cache, &table);
    assert_true(kv_cache_reserve(&cache, &table, 0, 1)); /* the same block again */
    assert_false(kv_cache_touch_ahead(&cache));
    assert_true(kv_cache_reserve(&cache, &table, 1, 3 * KV_BLOCK));
    assert_true(kv_cache_touch_ahead(&cache) && !kv_cache_touch_ahead(&cache)); /* there are no more */
    assert_int_equal(n_touched, 5);
    kv_cache_free(&cache);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_keep_the_invariant),
        cmocka_unit_test(random_operations_without_prefix_cache),
        cmocka_unit_test(a_hit_leaves_one_token),
        cmocka_unit_test(other_salt_text_or_place_misses),
        cmocka_unit_test(nothing_is_published_before_it_is_computed),
        cmocka_unit_test(eviction_takes_the_oldest_end_first),
        cmocka_unit_test(reserve_is_all_or_nothing),
        cmocka_unit_test(memory_is_touched_a_little_ahead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
