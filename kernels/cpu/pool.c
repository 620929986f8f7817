/* pool.c - the thread pool: one epoch line out, one done line back per worker.
 *
 *  (1) `function` and `call` are written before the epoch moves and read after it was seen to move; they stay until all are done.
 *  (2) Whoever waits spins for SPIN_NS and then sleeps in a futex. Layers of a model follow each other within microseconds, so a
 *      running model never pays for a wake-up, and a pool without work uses no processor.
 *  (3) No wake-up is lost: a sleeper announces itself and then looks again; a waker moves the word and then looks for sleepers.
 * Both sides are sequentially consistent, so at least one of them sees the other; the futex compares the word once more. (4) With
 * more threads than processors, spinning would take the processor from the one that is waited for: then nobody spins. pool_run:
 * one thread at a time. */
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

struct worker {
    _Alignas(CACHE_LINE) atomic_uint done; /* the last epoch that this worker finished */
    struct pool *pool;
    int thread;
    pthread_t handle;
};

struct pool {
    _Alignas(CACHE_LINE) atomic_uint epoch; /* moves by one for each pool_run, and once more to stop */
    pool_function *function;
    void *call;
    atomic_bool stop;
    _Alignas(CACHE_LINE) atomic_int n_sleeping; /* workers in a futex */
    atomic_bool caller_sleeps;
    int n_threads, n_started; /* n_started workers have a handle */
    bool spin;
    struct worker workers[];
};

static void futex_wait(atomic_uint *word, unsigned expected) {
    syscall(SYS_futex, (void *)word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}
static void futex_wake(atomic_uint *word) { syscall(SYS_futex, (void *)word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }

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

/* Spins until *word != old; false when patience ran out. */
static bool spin_until_moved(const struct pool *pool, const atomic_uint *word, unsigned old) {
    if (atomic_load_explicit(word, memory_order_acquire) != old) return true;
    if (!pool->spin) return false;
    const int64_t deadline = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_BEFORE_CLOCK; i++) {
            cpu_pause();
            if (atomic_load_explicit(word, memory_order_acquire) != old) return true;
        }
    } while (now_ns() < deadline);
    return false;
}

static unsigned wait_for_epoch(struct pool *pool, unsigned seen) {
    if (!spin_until_moved(pool, &pool->epoch, seen)) {
        atomic_fetch_add(&pool->n_sleeping, 1);
        while (atomic_load(&pool->epoch) == seen) futex_wait(&pool->epoch, seen);
        atomic_fetch_sub(&pool->n_sleeping, 1);
    }
    return atomic_load_explicit(&pool->epoch, memory_order_acquire);
}

static void *worker_main(void *arg) {
    struct worker *worker = arg;
    struct pool *pool = worker->pool;
    unsigned epoch = 0;
    for (;;) {
        epoch = wait_for_epoch(pool, epoch);
        if (atomic_load(&pool->stop)) return NULL;
        pool->function(pool->call, worker->thread, pool->n_threads);
        atomic_store(&worker->done, epoch);
        if (atomic_load(&pool->caller_sleeps)) futex_wake(&worker->done);
    }
}

static void wait_for_worker(struct pool *pool, struct worker *worker, unsigned epoch) {
    if (spin_until_moved(pool, &worker->done, epoch - 1)) return;
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&worker->done) != epoch) futex_wait(&worker->done, epoch - 1);
    atomic_store(&pool->caller_sleeps, false);
}

/* Moves the epoch; what was written before is visible to the workers. */
static unsigned start_epoch(struct pool *pool) {
    const unsigned epoch = atomic_fetch_add(&pool->epoch, 1) + 1;
    if (atomic_load(&pool->n_sleeping) > 0) futex_wake(&pool->epoch);
    return epoch;
}

void pool_run(struct pool *pool, pool_function *function, void *call) {
    if (pool->n_threads == 1) {
        function(call, 0, 1);
        return;
    }
    pool->function = function;
    pool->call = call;
    const unsigned epoch = start_epoch(pool);
    function(call, 0, pool->n_threads);
    for (int i = 0; i < pool->n_threads - 1; i++) wait_for_worker(pool, &pool->workers[i], epoch);
}

/* Signals belong to the program's own threads, so workers start with all of them blocked. */
static bool start_workers(struct pool *pool) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = 0;
    for (int i = 0; i < pool->n_threads - 1 && rc == 0; i++) {
        struct worker *worker = &pool->workers[i];
        worker->pool = pool;
        worker->thread = i + 1;
        rc = pthread_create(&worker->handle, NULL, worker_main, worker);
        if (rc == 0) pool->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc == 0;
}

struct pool *pool_create(int n_threads) {
    assert(n_threads >= 1);
    const size_t bytes = sizeof(struct pool) + (size_t)n_threads * sizeof(struct worker);
    struct pool *pool = aligned_alloc(CACHE_LINE, bytes);
    if (!pool) return NULL;
    *pool = (struct pool){.n_threads = n_threads, .spin = n_threads <= pool_granted_cpus()};
    for (int i = 0; i < n_threads - 1; i++) atomic_init(&pool->workers[i].done, 0);
    if (start_workers(pool)) return pool;
    pool_destroy(pool);
    return NULL;
}

void pool_destroy(struct pool *pool) {
    if (!pool) return;
    atomic_store(&pool->stop, true);
    start_epoch(pool);
    for (int i = 0; i < pool->n_started; i++) pthread_join(pool->workers[i].handle, NULL);
    free(pool);
}

int pool_threads(const struct pool *pool) { return pool->n_threads; }
