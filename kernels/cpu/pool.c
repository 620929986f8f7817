/* pool.c - the thread pool: one word says how many chunks there are and which is next.
 *
 *  (1) `ticket` holds the number of chunks (high half) and the next one (low half). Whoever moves it from a state with next <
 *      count owns that chunk, and until the chunk is done the call cannot end; so `function` and `call` may be read after the
 *      claim.
 *  (2) pool_run waits for chunks, not for workers. A worker that has lost its processor to somebody else delays nobody, unless
 *      it lost it in the middle of a chunk: the caller then does what is left. This is what keeps a busy machine at the speed
 *      of the processors that it really gives.
 *  (3) Whoever waits spins for SPIN_NS and then sleeps in a futex. The layers of a model follow each other within
 *      microseconds, so a running model never pays for a wake-up, and a pool without work uses no processor.
 *  (4) No wake-up is lost: a sleeper announces itself and then looks again; a waker changes the word and then looks for
 *      sleepers. Both sides are sequentially consistent, so at least one sees the other; the futex compares the word once
 *      more.
 *  (5) With more threads than processors, spinning would take the processor from the one that is waited for: then nobody
 *      spins.
 * pool_run: one thread at a time. */
#include "kernels/cpu/pool.h"

#include <assert.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    CACHE_LINE = 64,
    SPIN_NS = 50 * 1000,      /* longer than the engine's serial work between two operations */
    SPINS_BEFORE_CLOCK = 128, /* pauses between two looks at the clock */
};

static const uint32_t STOP = UINT32_MAX; /* a ticket without work that tells workers to end */

struct pool {
    _Alignas(CACHE_LINE) _Atomic uint32_t ticket;
    pool_function *function;
    const void *call;
    _Alignas(CACHE_LINE) _Atomic uint32_t n_done; /* chunks of this call */
    _Alignas(CACHE_LINE) atomic_int n_sleeping;   /* workers in a futex */
    atomic_bool caller_sleeps;
    int n_threads, n_started; /* n_started workers have a handle */
    bool spin;
    pthread_t handles[];
};

static bool has_work(uint32_t ticket) { return (ticket & 0xffff) < ticket >> 16; }

static void futex_wait(_Atomic uint32_t *word, uint32_t expected) {
    syscall(SYS_futex, (void *)word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}
static void futex_wake(_Atomic uint32_t *word) { syscall(SYS_futex, (void *)word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void cpu_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Spins while *word == old; gives up after SPIN_NS. */
static void spin_while(const struct pool *pool, _Atomic uint32_t *word, uint32_t old) {
    if (!pool->spin || atomic_load_explicit(word, memory_order_acquire) != old) return;
    const int64_t deadline = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_BEFORE_CLOCK; i++) {
            cpu_pause();
            if (atomic_load_explicit(word, memory_order_acquire) != old) return;
        }
    } while (now_ns() < deadline);
}

/* Claims chunks and runs them until none is left; the ticket that was seen last. */
static uint32_t run_chunks(struct pool *pool) {
    uint32_t ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    while (has_work(ticket)) {
        if (!atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket + 1)) continue;
        pool->function(pool->call, (int)(ticket & 0xffff));
        const uint32_t done = atomic_fetch_add(&pool->n_done, 1) + 1;
        if (done == ticket >> 16 && atomic_load(&pool->caller_sleeps)) futex_wake(&pool->n_done);
        ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    }
    return ticket;
}

static void *worker_main(void *arg) {
    struct pool *pool = arg;
    uint32_t ticket;
    while ((ticket = run_chunks(pool)) != STOP) {
        spin_while(pool, &pool->ticket, ticket);
        if (atomic_load_explicit(&pool->ticket, memory_order_relaxed) != ticket) continue;
        atomic_fetch_add(&pool->n_sleeping, 1);
        while (atomic_load(&pool->ticket) == ticket) futex_wait(&pool->ticket, ticket);
        atomic_fetch_sub(&pool->n_sleeping, 1);
    }
    return NULL;
}

/* Publishes a ticket, and with it everything written before. */
static void publish(struct pool *pool, uint32_t ticket) {
    atomic_store(&pool->ticket, ticket);
    if (atomic_load(&pool->n_sleeping) > 0) futex_wake(&pool->ticket);
}

static void wait_until_done(struct pool *pool, uint32_t n_chunks) {
    uint32_t done;
    while ((done = atomic_load_explicit(&pool->n_done, memory_order_acquire)) != n_chunks) {
        spin_while(pool, &pool->n_done, done);
        if (atomic_load_explicit(&pool->n_done, memory_order_relaxed) != done) continue;
        atomic_store(&pool->caller_sleeps, true);
        while ((done = atomic_load(&pool->n_done)) != n_chunks) futex_wait(&pool->n_done, done);
        atomic_store(&pool->caller_sleeps, false);
    }
}

void pool_run(struct pool *pool, int n_chunks, pool_function *function, const void *call) {
    assert(n_chunks <= POOL_MAX_CHUNKS);
    if (pool->n_threads == 1 || n_chunks <= 1) {
        for (int chunk = 0; chunk < n_chunks; chunk++) function(call, chunk);
        return;
    }
    pool->function = function;
    pool->call = call;
    atomic_store_explicit(&pool->n_done, 0, memory_order_relaxed);
    publish(pool, (uint32_t)n_chunks << 16);
    run_chunks(pool);
    wait_until_done(pool, (uint32_t)n_chunks);
}

/* Signals belong to the program's own threads, so workers start with all of them blocked. */
static bool start_workers(struct pool *pool) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = 0;
    while (rc == 0 && pool->n_started < pool->n_threads - 1) {
        rc = pthread_create(&pool->handles[pool->n_started], NULL, worker_main, pool);
        if (rc == 0) pool->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc == 0;
}

struct pool *pool_create(int n_threads) {
    assert(n_threads >= 1);
    const size_t bytes = sizeof(struct pool) + (size_t)n_threads * sizeof(pthread_t);
    struct pool *pool = aligned_alloc(CACHE_LINE, (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    if (!pool) return NULL;
    *pool = (struct pool){.n_threads = n_threads, .spin = n_threads <= pool_granted_cpus()};
    if (start_workers(pool)) return pool;
    pool_destroy(pool);
    return NULL;
}

void pool_destroy(struct pool *pool) {
    if (!pool) return;
    publish(pool, STOP);
    for (int i = 0; i < pool->n_started; i++) pthread_join(pool->handles[i], NULL);
    free(pool);
}

int pool_threads(const struct pool *pool) { return pool->n_threads; }
