/* pool.c - the thread pool: every thread has a range of chunks, and takes from the others' when its own is used up.
 *
 *  (1) A thread works upwards through its own range, so it reads memory in one run, also across chunks: the processor's
 *      prefetchers start once a call, not once a chunk. Thieves take from the other end.
 *  (2) A range is one word: its end (high half) and the next chunk (low half). Whoever moves a word from a state with next < end
 *      owns that chunk, and until it is done the call cannot end; so `function` and `call` may be read after the claim. They
 *      and n_done are written before the ranges are. It does not matter which call a claim was meant for.
 *  (3) pool_run waits for chunks, not for workers. A worker that has lost its processor to somebody else delays nobody, unless
 *      it lost it in the middle of a chunk: the others then do what is left. This is what keeps a busy machine at the speed
 *      of the processors that it really gives.
 *  (4) `round` changes with each call, after the ranges. Whoever waits spins for SPIN_NS and then sleeps in a futex. The layers
 *      of a model follow each other within microseconds, so a running model never pays for a wake-up, and a pool without work
 *      uses no processor.
 *  (5) No wake-up is lost: a worker reads `round` before it looks for chunks, and sleeps only while it is the same; a sleeper
 *      announces itself and then looks again; a waker changes the word and then looks for sleepers. Both sides are
 *      sequentially consistent, so at least one sees the other; the futex compares the word once more.
 *  (6) With more threads than processors, spinning would take the processor from the one that is waited for: then nobody
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

static const uint32_t STOP = UINT32_MAX; /* the round that tells workers to end */

/* The caller is thread 0. */
struct thread {
    _Alignas(CACHE_LINE) _Atomic uint32_t range;
    struct pool *pool;
    int index;
    pthread_t handle;
};

struct pool {
    _Alignas(CACHE_LINE) _Atomic uint32_t round;
    pool_function *function;
    const void *call;
    uint32_t n_chunks;
    _Alignas(CACHE_LINE) _Atomic uint32_t n_done; /* chunks of this call */
    _Alignas(CACHE_LINE) atomic_int n_sleeping;   /* workers in a futex */
    atomic_bool caller_sleeps;
    int n_threads, n_started; /* n_started workers have a handle */
    bool spin;
    struct thread threads[];
};

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

enum { NOTHING = -1 };

/* The first or the last chunk of a range that is left. */
static int claim(struct thread *owner, bool last) {
    uint32_t range = atomic_load_explicit(&owner->range, memory_order_acquire);
    while ((range & 0xffff) < range >> 16) {
        const uint32_t left = last ? range - 0x10000 : range + 1;
        if (atomic_compare_exchange_weak_explicit(&owner->range, &range, left, memory_order_acq_rel, memory_order_acquire))
            return (int)(last ? left >> 16 : range & 0xffff);
    }
    return NOTHING;
}

static int claim_any(struct pool *pool, int index) {
    int chunk = claim(&pool->threads[index], false);
    for (int i = 1; i < pool->n_threads && chunk == NOTHING; i++)
        chunk = claim(&pool->threads[(index + i) % pool->n_threads], true);
    return chunk;
}

/* Runs chunks until none is left. */
static void run_chunks(struct pool *pool, int index) {
    for (int chunk; (chunk = claim_any(pool, index)) != NOTHING;) {
        pool->function(pool->call, chunk);
        const uint32_t n_chunks = pool->n_chunks; /* the call may end with the next line */
        if (atomic_fetch_add(&pool->n_done, 1) + 1 == n_chunks && atomic_load(&pool->caller_sleeps)) futex_wake(&pool->n_done);
    }
}

static void *worker_main(void *arg) {
    const struct thread *self = arg;
    struct pool *pool = self->pool;
    uint32_t round;
    while ((round = atomic_load(&pool->round)) != STOP) {
        run_chunks(pool, self->index);
        spin_while(pool, &pool->round, round);
        if (atomic_load_explicit(&pool->round, memory_order_relaxed) != round) continue;
        atomic_fetch_add(&pool->n_sleeping, 1);
        while (atomic_load(&pool->round) == round) futex_wait(&pool->round, round);
        atomic_fetch_sub(&pool->n_sleeping, 1);
    }
    return NULL;
}

static void begin_round(struct pool *pool, uint32_t round) {
    atomic_store(&pool->round, round);
    if (atomic_load(&pool->n_sleeping) > 0) futex_wake(&pool->round);
}

/* Equal ranges, ascending. */
static void divide(struct pool *pool, uint32_t n_chunks) {
    const uint32_t n = (uint32_t)pool->n_threads;
    for (uint32_t i = 0; i < n; i++)
        atomic_store_explicit(&pool->threads[i].range, (n_chunks * (i + 1) / n) << 16 | n_chunks * i / n, memory_order_release);
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
    pool->n_chunks = (uint32_t)n_chunks;
    atomic_store_explicit(&pool->n_done, 0, memory_order_relaxed);
    divide(pool, (uint32_t)n_chunks);
    const uint32_t round = atomic_load_explicit(&pool->round, memory_order_relaxed) + 1;
    begin_round(pool, round == STOP ? 0 : round);
    run_chunks(pool, 0);
    wait_until_done(pool, (uint32_t)n_chunks);
}

/* Signals belong to the program's own threads, so workers start with all of them blocked. */
static bool start_workers(struct pool *pool) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = 0;
    while (rc == 0 && pool->n_started < pool->n_threads - 1) {
        struct thread *thread = &pool->threads[pool->n_started + 1];
        rc = pthread_create(&thread->handle, NULL, worker_main, thread);
        if (rc == 0) pool->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc == 0;
}

struct pool *pool_create(int n_threads) {
    assert(n_threads >= 1);
    struct pool *pool = aligned_alloc(CACHE_LINE, sizeof(struct pool) + (size_t)n_threads * sizeof(struct thread));
    if (!pool) return NULL;
    *pool = (struct pool){.n_threads = n_threads, .spin = n_threads <= pool_granted_cpus()};
    for (int i = 0; i < n_threads; i++) pool->threads[i] = (struct thread){.pool = pool, .index = i};
    if (start_workers(pool)) return pool;
    pool_destroy(pool);
    return NULL;
}

void pool_destroy(struct pool *pool) {
    if (!pool) return;
    begin_round(pool, STOP);
    for (int i = 1; i <= pool->n_started; i++) pthread_join(pool->threads[i].handle, NULL);
    free(pool);
}

int pool_threads(const struct pool *pool) { return pool->n_threads; }
