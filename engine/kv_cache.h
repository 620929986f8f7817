/* kv_cache.h - who owns which block of the KV pool, and which finished blocks can be used again.
 *
 * The pool (kernels.h) is cut into blocks of KV_BLOCK tokens. A sequence holds a block table; tables may share blocks.
 *  (1) A block stands on the idle list if and only if no table holds it (ref_count == 0).
 *  (2) Idle blocks are free (content worthless, taken first) or cached (content published, taken oldest first).
 *  (3) Only a full block is published, and only after the forward pass that filled it has completed.
 *  (4) A block that two tables hold, or that is published, is never written. The first write to a shared, partly filled block
 *      copies it.
 *  (5) A table only grows at its end, and is cut there no deeper than its published blocks, until it is released as a whole.
 *  (6) free + cached + used == total, always.
 * A published block is found by the hash of its tokens chained over its parent's hash and the salt. A hit compares salt, parent
 * and tokens, so that a chance collision of one hash never mixes two texts. Engine thread only. */
#ifndef FORESAY_KV_CACHE_H
#define FORESAY_KV_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/kernels.h"

struct kv_key {
    uint64_t a, b;
};

struct kv_block {
    int32_t ref_count;
    int32_t prev, next;  /* idle list, -1 ends it */
    int32_t bucket_next; /* next published block of the same hash bucket, -1 ends it */
    bool published;
    struct kv_key key, parent;
    uint64_t salt;
    int32_t tokens[KV_BLOCK];
};

/* The block table of one sequence. The owner of the table provides blocks[capacity]. */
struct kv_table {
    int32_t *blocks;
    int n_blocks, capacity;
    int n_hashed;      /* leading full blocks whose key is known */
    struct kv_key key; /* of block n_hashed - 1, or of the salt when n_hashed == 0 */
    uint64_t salt;
};

struct kv_cache {
    const struct backend *backend;
    struct kv_pool *pool;
    struct kv_block *blocks; /* [n_blocks] */
    int32_t *buckets;        /* [bucket_mask + 1], first published block or -1 */
    uint32_t bucket_mask;
    int32_t idle_head, idle_tail; /* taken from the head */
    int n_blocks, n_free, n_cached, n_used;
    int n_begun,
        n_touched; /* blocks from the first on that have been handed out once, or have their memory; the others never were */
    bool prefix_cache;
    struct kv_key root; /* identity of model and cache format; start of every chain */
};

/* Blocks that n_tokens tokens occupy. */
static inline int kv_blocks_for(int n_tokens) { return (n_tokens + KV_BLOCK - 1) / KV_BLOCK; }

/* backend and pool must outlive the cache. identity distinguishes models. Returns 0, or -1 when memory is refused. */
int kv_cache_init(struct kv_cache *cache, const struct backend *backend, struct kv_pool *pool, bool prefix_cache,
                  uint64_t identity);
void kv_cache_free(struct kv_cache *cache);

/* For idle moments: one more block that was never used gets its memory (2.6 ms for two megabytes in a virtual machine, which a
 * prompt would have to wait for). False: enough of them have. */
bool kv_cache_touch_ahead(struct kv_cache *cache);

void kv_table_init(const struct kv_cache *cache, struct kv_table *table, int32_t *blocks, int capacity, uint64_t salt);

/* How many more blocks of tokens[0 .. n_tokens) than the table holds are published, and how many of these nobody uses. */
int kv_cache_peek(const struct kv_cache *cache, const struct kv_table *table, const int32_t *tokens, int n_tokens, int *n_idle);
/* Appends published blocks that continue the table (whose blocks must be full and hashed). At least one of the tokens stays
 * uncovered, because its logits are wanted. Returns the number of tokens gained. */
int kv_cache_match(struct kv_cache *cache, struct kv_table *table, const int32_t *tokens, int n_tokens);
/* Blocks that kv_cache_reserve could hand out. */
static inline int kv_cache_available(const struct kv_cache *cache) { return cache->n_free + cache->n_cached; }
/* Makes positions n_computed .. n_tokens - 1 writable: copies a shared last block, appends blocks. False (and nothing changed)
 * when there are not enough idle blocks. */
bool kv_cache_reserve(struct kv_cache *cache, struct kv_table *table, int n_computed, int n_tokens);
/* The forward pass has filled the table up to n_computed tokens: publishes its full blocks. */
void kv_cache_publish(struct kv_cache *cache, struct kv_table *table, const int32_t *tokens, int n_computed);
/* Gives back the blocks behind the first n_computed tokens: a draft that was rejected had filled them. */
void kv_cache_cut(struct kv_cache *cache, struct kv_table *table, int n_computed);
/* dst (empty, same salt) shares all blocks of src, which holds n_computed tokens. */
void kv_cache_fork(struct kv_cache *cache, const struct kv_table *src, int n_computed, struct kv_table *dst);
/* Gives all blocks back; the table is empty then. */
void kv_cache_release(struct kv_cache *cache, struct kv_table *table);
/* Leading blocks that other tables hold too, and blocks that releasing this table would make idle. */
int kv_cache_shared_prefix(const struct kv_cache *cache, const struct kv_table *table);
int kv_cache_exclusive(const struct kv_cache *cache, const struct kv_table *table);

/* Walks everything and asserts invariants (1), (2) and (6); O(n_blocks). */
void kv_cache_check(const struct kv_cache *cache);

#endif
