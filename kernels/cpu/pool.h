/* pool.h - fork and join over the compute threads of the CPU backend.
 *
 * The engine thread is thread 0 and works along; n_threads - 1 workers are the pool's own. pool_run returns when all are done.
 * One caller at a time. */
#ifndef FORESAY_KERNELS_POOL_H
#define FORESAY_KERNELS_POOL_H

struct pool;

/* What each thread runs: thread is 0 (the caller) .. n_threads - 1. */
typedef void pool_function(void *call, int thread, int n_threads);

/* NULL if memory or threads are refused. */
struct pool *pool_create(int n_threads);
void pool_destroy(struct pool *pool); /* accepts NULL */
int pool_threads(const struct pool *pool);
void pool_run(struct pool *pool, pool_function *function, void *call);

/* Compute threads that the affinity mask and the cgroup's CPU quota grant to this process; at least 1. */
int pool_granted_cpus(void);

#endif
