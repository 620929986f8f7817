/* kv_cache.c - see kv_cache.h. Everything is an index into one array: no pointers to fix, nothing allocated after kv_cache_init.
 */
#include "engine/kv_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* --- hashing --- */

/* One 64-bit lane: xor, multiply by an odd constant, fold the high half down. The lanes differ in their constants. */
static uint64_t lane_mix(uint64_t h, uint64_t value, uint64_t factor) {
    h = (h ^ value) * factor;
    return h ^ (h >> 29);
}

static struct kv_key key_mix(struct kv_key key, uint64_t value) {
    key.a = lane_mix(key.a, value, 0x9e3779b97f4a7c15u);
    key.b = lane_mix(key.b, value + 0x632be59bd9b4e019u, 0xd6e8feb86659fd93u);
    return key;
}

static struct kv_key key_of_block(struct kv_key parent, const int32_t *tokens) {
    struct kv_key key = key_mix(parent, KV_BLOCK);
    for (int i = 0; i < KV_BLOCK; i += 2) {
        key = key_mix(key, (uint64_t)(uint32_t)tokens[i] << 32 | (uint32_t)tokens[i + 1]);
    }
    return key;
}

static bool key_equal(struct kv_key x, struct kv_key y) { return x.a == y.a && x.b == y.b; }

/* --- idle list --- */

static void idle_unlink(struct kv_cache *cache, int32_t id) {
    struct kv_block *block = &cache->blocks[id];
    if (block->prev >= 0)
        cache->blocks[block->prev].next = block->next;
    else
        cache->idle_head = block->next;
    if (block->next >= 0)
        cache->blocks[block->next].prev = block->prev;
    else
        cache->idle_tail = block->prev;
    block->prev = block->next = -1;
}

static void idle_push_head(struct kv_cache *cache, int32_t id) {
    struct kv_block *block = &cache->blocks[id];
    block->prev = -1;
    block->next = cache->idle_head;
    if (block->next >= 0)
        cache->blocks[block->next].prev = id;
    else
        cache->idle_tail = id;
    cache->idle_head = id;
}

static void idle_push_tail(struct kv_cache *cache, int32_t id) {
    struct kv_block *block = &cache->blocks[id];
    block->next = -1;
    block->prev = cache->idle_tail;
    if (block->prev >= 0)
        cache->blocks[block->prev].next = id;
    else
        cache->idle_head = id;
    cache->idle_tail = id;
}

/* --- published blocks --- */

static int32_t *bucket_of(const struct kv_cache *cache, struct kv_key key) {
    return &cache->buckets[(uint32_t)key.a & cache->bucket_mask];
}

static int32_t published_find(const struct kv_cache *cache, struct kv_key key, struct kv_key parent, uint64_t salt,
                              const int32_t *tokens) {
    for (int32_t id = *bucket_of(cache, key); id >= 0; id = cache->blocks[id].bucket_next) {
        const struct kv_block *block = &cache->blocks[id];
        if (key_equal(block->key, key) && key_equal(block->parent, parent) && block->salt == salt &&
            memcmp(block->tokens, tokens, sizeof block->tokens) == 0)
            return id;
    }
    return -1;
}

static void published_remove(struct kv_cache *cache, int32_t id) {
    struct kv_block *block = &cache->blocks[id];
    int32_t *link = bucket_of(cache, block->key);
    while (*link != id) {
        assert(*link >= 0);
        link = &cache->blocks[*link].bucket_next;
    }
    *link = block->bucket_next;
    block->bucket_next = -1;
    block->published = false;
}

/* --- reference counts --- */

static void block_ref(struct kv_cache *cache, int32_t id) {
    struct kv_block *block = &cache->blocks[id];
    if (block->ref_count++ > 0) return;
    assert(block->published); /* an idle block is only worth a reference for its content */
    idle_unlink(cache, id);
    cache->n_cached--;
    cache->n_used++;
}

static void block_unref(struct kv_cache *cache, int32_t id) {
    struct kv_block *block = &cache->blocks[id];
    assert(block->ref_count > 0);
    if (--block->ref_count > 0) return;
    cache->n_used--;
    if (block->published) {
        cache->n_cached++;
        idle_push_tail(cache, id);
    } else {
        cache->n_free++;
        idle_push_head(cache, id);
    }
}

/* The caller has checked that one is available. */
static int32_t block_take(struct kv_cache *cache) {
    int32_t id = cache->idle_head;
    assert(id >= 0);
    idle_unlink(cache, id);
    if (cache->blocks[id].published) {
        published_remove(cache, id);
        cache->n_cached--;
    } else {
        cache->n_free--;
    }
    cache->n_used++;
    cache->blocks[id].ref_count = 1;
    if (id >= cache->n_begun) cache->n_begun = id + 1;
    return id;
}

/* --- public --- */

int kv_cache_init(struct kv_cache *cache, const struct backend *backend, struct kv_pool *pool, bool prefix_cache,
                  uint64_t identity) {
    memset(cache, 0, sizeof *cache);
    cache->backend = backend;
    cache->pool = pool;
    cache->n_blocks = pool->n_blocks;
    cache->prefix_cache = prefix_cache;
    cache->root = key_mix((struct kv_key){1, 2}, identity);
    uint32_t n_buckets = 16;
    while (n_buckets < 2 * (uint32_t)pool->n_blocks) n_buckets *= 2;
    cache->bucket_mask = n_buckets - 1;
    cache->blocks = calloc((size_t)pool->n_blocks, sizeof *cache->blocks);
    cache->buckets = malloc(n_buckets * sizeof *cache->buckets);
    if (!cache->blocks || !cache->buckets) {
        kv_cache_free(cache);
        return -1;
    }
    for (uint32_t i = 0; i < n_buckets; i++) cache->buckets[i] = -1;
    cache->idle_head = cache->idle_tail = -1;
    for (int32_t id = 0; id < cache->n_blocks; id++) {
        cache->blocks[id].bucket_next = -1;
        idle_push_tail(cache, id);
    }
    cache->n_free = cache->n_blocks;
    return 0;
}

void kv_cache_free(struct kv_cache *cache) {
    free(cache->blocks);
    free(cache->buckets);
    cache->blocks = NULL;
    cache->buckets = NULL;
}

enum { TOUCHED_BYTES = 32 << 20 /* that nobody has used yet */ };

bool kv_cache_touch_ahead(struct kv_cache *cache) {
    if (cache->n_touched < cache->n_begun) cache->n_touched = cache->n_begun;
    const size_t ahead = (size_t)(cache->n_touched - cache->n_begun) * cache->pool->block_bytes;
    if (cache->n_touched == cache->n_blocks || ahead >= TOUCHED_BYTES) return false;
    cache->backend->ops->kv_touch(cache->backend->self, cache->pool, cache->n_touched++);
    return true;
}

void kv_table_init(const struct kv_cache *cache, struct kv_table *table, int32_t *blocks, int capacity, uint64_t salt) {
    *table = (struct kv_table){.blocks = blocks, .capacity = capacity, .key = key_mix(cache->root, salt), .salt = salt};
}

int kv_cache_peek(const struct kv_cache *cache, const struct kv_table *table, const int32_t *tokens, int n_tokens, int *n_idle) {
    *n_idle = 0;
    if (!cache->prefix_cache || table->n_hashed != table->n_blocks) return 0;
    struct kv_key parent = table->key;
    int n_hits = 0;
    for (int first = table->n_blocks * KV_BLOCK; first + KV_BLOCK < n_tokens; first += KV_BLOCK) {
        struct kv_key key = key_of_block(parent, tokens + first);
        int32_t id = published_find(cache, key, parent, table->salt, tokens + first);
        if (id < 0) break;
        if (cache->blocks[id].ref_count == 0) (*n_idle)++;
        n_hits++;
        parent = key;
    }
    return n_hits;
}

int kv_cache_match(struct kv_cache *cache, struct kv_table *table, const int32_t *tokens, int n_tokens) {
    if (!cache->prefix_cache || table->n_hashed != table->n_blocks) return 0;
    int n_before = table->n_blocks;
    for (int first = n_before * KV_BLOCK; first + KV_BLOCK < n_tokens; first += KV_BLOCK) {
        struct kv_key key = key_of_block(table->key, tokens + first);
        int32_t id = published_find(cache, key, table->key, table->salt, tokens + first);
        if (id < 0) break;
        assert(table->n_blocks < table->capacity);
        block_ref(cache, id);
        table->blocks[table->n_blocks++] = id;
        table->n_hashed++;
        table->key = key;
    }
    return (table->n_blocks - n_before) * KV_BLOCK;
}

bool kv_cache_reserve(struct kv_cache *cache, struct kv_table *table, int n_computed, int n_tokens) {
    int last = n_computed / KV_BLOCK; /* the block that position n_computed lies in */
    bool copy = last < table->n_blocks && cache->blocks[table->blocks[last]].ref_count > 1;
    int n_more = kv_blocks_for(n_tokens) - table->n_blocks;
    if (n_more < 0) n_more = 0;
    if (n_more + (copy ? 1 : 0) > kv_cache_available(cache)) return false;
    if (copy) {
        int32_t from = table->blocks[last], to = block_take(cache);
        cache->backend->ops->copy_blocks(cache->backend->self, cache->pool, &from, &to, 1);
        table->blocks[last] = to;
        block_unref(cache, from);
    }
    assert(table->n_blocks + n_more <= table->capacity);
    for (int i = 0; i < n_more; i++) table->blocks[table->n_blocks++] = block_take(cache);
    return true;
}

void kv_cache_publish(struct kv_cache *cache, struct kv_table *table, const int32_t *tokens, int n_computed) {
    if (!cache->prefix_cache) return;
    for (; table->n_hashed < n_computed / KV_BLOCK; table->n_hashed++) {
        const int32_t *block_tokens = tokens + table->n_hashed * KV_BLOCK;
        int32_t id = table->blocks[table->n_hashed];
        struct kv_block *block = &cache->blocks[id];
        struct kv_key parent = table->key;
        table->key = key_of_block(parent, block_tokens);
        /* Two sequences may have computed the same text side by side: the first to finish is published, the other stays private.
         */
        if (block->published || published_find(cache, table->key, parent, table->salt, block_tokens) >= 0) continue;
        block->key = table->key;
        block->parent = parent;
        block->salt = table->salt;
        memcpy(block->tokens, block_tokens, sizeof block->tokens);
        block->published = true;
        block->bucket_next = *bucket_of(cache, block->key);
        *bucket_of(cache, block->key) = id;
    }
}

void kv_cache_cut(struct kv_cache *cache, struct kv_table *table, int n_computed) {
    int keep = kv_blocks_for(n_computed);
    assert(keep >= table->n_hashed);
    while (table->n_blocks > keep) block_unref(cache, table->blocks[--table->n_blocks]);
}

void kv_cache_fork(struct kv_cache *cache, const struct kv_table *src, int n_computed, struct kv_table *dst) {
    assert(dst->n_blocks == 0 && dst->salt == src->salt && src->n_blocks == kv_blocks_for(n_computed));
    assert(src->n_blocks <= dst->capacity);
    for (int i = 0; i < src->n_blocks; i++) {
        block_ref(cache, src->blocks[i]);
        dst->blocks[i] = src->blocks[i];
    }
    dst->n_blocks = src->n_blocks;
    dst->n_hashed = src->n_hashed;
    dst->key = src->key;
}

void kv_cache_release(struct kv_cache *cache, struct kv_table *table) {
    /* From the end, so that the deepest block is the first to be taken again: a prefix outlives what hangs on it. */
    while (table->n_blocks > 0) block_unref(cache, table->blocks[--table->n_blocks]);
    kv_table_init(cache, table, table->blocks, table->capacity, table->salt);
}

int kv_cache_shared_prefix(const struct kv_cache *cache, const struct kv_table *table) {
    int n = 0;
    while (n < table->n_blocks && cache->blocks[table->blocks[n]].ref_count > 1) n++;
    return n;
}

int kv_cache_exclusive(const struct kv_cache *cache, const struct kv_table *table) {
    int n = 0;
    for (int i = 0; i < table->n_blocks; i++) n += cache->blocks[table->blocks[i]].ref_count == 1;
    return n;
}

void kv_cache_check(const struct kv_cache *cache) {
    int n_free = 0, n_cached = 0, n_used = 0, n_listed = 0;
    for (int32_t id = cache->idle_head; id >= 0; id = cache->blocks[id].next) {
        assert(cache->blocks[id].ref_count == 0);
        assert(cache->blocks[id].next >= 0 || cache->idle_tail == id);
        n_listed++;
        assert(n_listed <= cache->n_blocks);
    }
    for (int32_t id = 0; id < cache->n_blocks; id++) {
        const struct kv_block *block = &cache->blocks[id];
        if (block->ref_count > 0)
            n_used++;
        else if (block->published)
            n_cached++;
        else
            n_free++;
        if (block->published) assert(published_find(cache, block->key, block->parent, block->salt, block->tokens) == id);
    }
    assert(n_listed == n_free + n_cached);
    assert(n_free == cache->n_free && n_cached == cache->n_cached && n_used == cache->n_used);
    assert(n_free + n_cached + n_used == cache->n_blocks);
    for (int32_t id = cache->n_begun; id < cache->n_blocks; id++)
        assert(cache->blocks[id].ref_count == 0 && !cache->blocks[id].published);
}
