/* pool.h - fork and join over the compute threads of the CPU backend.
 *
 * Work comes in numbered chunks. The engine thread publishes them, works along, and returns when all are done; n_threads - 1
 * workers are the pool's own. One caller at a time. */
#ifndef FORESAY_KERNELS_POOL_H
#define FORESAY_KERNELS_POOL_H

#include <stdint.h>

enum { POOL_MAX_CHUNKS = 0xfffe };

struct pool;

/* Any thread may get any chunk, in no promised order; most often each thread runs an equal part of them, upwards. */
typedef void pool_function(const void *call, int chunk);

/* NULL if memory or threads are refused. */
struct pool *pool_create(int n_threads);
void pool_destroy(struct pool *pool); /* accepts NULL */
int pool_threads(const struct pool *pool);

/* Runs chunks 0 .. n_chunks - 1. A single chunk runs on the caller and wakes nobody. */
void pool_run(struct pool *pool, int n_chunks, pool_function *function, const void *call);
/* ahead: where each thread will most likely read on after this call. Any address will do. */
void pool_run_ahead(struct pool *pool, int n_chunks, pool_function *function, const void *call, const uint8_t *const *ahead);

/* Compute threads that the affinity mask and the cgroup's CPU quota grant to this process; at least 1. */
int pool_granted_cpus(void);

#endif
