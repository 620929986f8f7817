/* pool.c - the thread pool: every thread has a range of chunks, and takes from the others' when its own is used up.
 *
 *  (1) A thread works upwards through its own range, so it reads memory in one run, also across chunks: the processor's
 *      prefetchers start once a call, not once a chunk. Thieves take from the other end.
 *  (2) A range is one word: its end (high half) and the next chunk (low half). Whoever moves a word from a state with next < end
 *      owns that chunk, and until it is done the call cannot end; so `function` and `call` beside the range, which are written
 *      before it, may be read after the claim. It does not matter which call a claim was meant for.
 *  (3) pool_run waits for chunks, not for workers. A worker that has lost its processor to somebody else delays nobody, unless
 *      it lost it in the middle of a chunk: the others then do what is left. This is what keeps a busy machine at the speed
 *      of the processors that it really gives.
 *  (4) Lines that pass between processors are what a short call costs, 0.1 to 0.5 us each. So all that is between the caller and
 *      a worker is in one line: the worker waits for its range, finds the call beside it, and counts its chunks there; the
 *      caller adds up what the threads have counted. The caller's first chunk is never in its range, so it begins at once.
 *      Who waits fetches what it will most likely read next: the memory is idle then, too.
 *  (5) Whoever waits spins for SPIN_NS and then sleeps in a futex. The layers of a model follow each other within microseconds,
 *      so a running model never pays for a wake-up, and a pool without work uses no processor.
 *  (6) A sleeper announces itself and then looks again; a waker changes the word and then looks for sleepers. The caller that
 *      sleeps and the workers that end do so in sequentially consistent order, so no wake-up is lost. Towards the workers there
 *      is no such order, since it would make the caller wait for its own writes: one that falls asleep in the very moment may be
 *      overlooked until the caller looks again, behind its first chunk, or misses a call that the others do without it.
 *  (7) With more threads than processors, spinning would take the processor from the one that is waited for: then nobody
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

static const uint32_t NO_MORE = 0xffff; /* an empty range that no call has */

enum {
    CACHE_LINE = 64,
    CALL_LINES = 4,           /* of what a call is described in, fetched before the first claim */
    FIRST_LINES = 256,        /* that who would wait fetches before it looks whether it must: half a microsecond of reading */
    LINES_AT_ONCE = 16,       /* between two looks */
    AHEAD_BYTES = 96 * 1024,  /* at most; leaves most of an L2 cache of 512 KiB to what is in use */
    SPIN_NS = 50 * 1000,      /* longer than the engine's serial work between two operations */
    SPINS_BEFORE_CLOCK = 128, /* pauses between two looks at the clock */
};

/* The caller is thread 0. */
struct thread {
    _Alignas(CACHE_LINE) _Atomic uint32_t range;
    _Atomic uint32_t n_done; /* chunks, of all calls; only the thread itself writes it */
    pool_function *function;
    _Atomic(const void *) call;
    _Atomic(const uint8_t *) ahead; /* or NULL */
    _Alignas(CACHE_LINE) struct pool *pool;
    int index;
    const uint8_t *fetching; /* while it waits */
    int n_fetched;           /* bytes of it */
    pthread_t handle;
};

struct pool {
    _Alignas(CACHE_LINE) atomic_int n_sleeping; /* workers in a futex */
    atomic_bool caller_sleeps;
    _Atomic uint32_t n_endings; /* what a sleeping caller waits for */
    int n_threads, n_started;   /* n_started workers have a handle */
    bool spin;
    uint32_t n_given; /* chunks, of all calls */
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

typedef bool pool_condition(const struct thread *thread);

/* The next lines of what will most likely be read, up to AHEAD_BYTES. */
static void fetch_some(struct thread *thread, int n_lines) {
    for (int i = 0; i < n_lines && thread->n_fetched < AHEAD_BYTES; i++, thread->n_fetched += CACHE_LINE)
        __builtin_prefetch(thread->fetching + thread->n_fetched, 0, 2);
}

/* Until it holds; gives up after SPIN_NS. */
static bool spin_until(pool_condition *holds, struct thread *thread) {
    const uint8_t *ahead = atomic_load_explicit(&thread->ahead, memory_order_relaxed);
    if (ahead) {
        thread->fetching = ahead;
        thread->n_fetched = 0;
    }
    fetch_some(thread, FIRST_LINES);
    if (holds(thread)) return true;
    if (!thread->pool->spin) return false;
    const int64_t deadline = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_BEFORE_CLOCK; i++) {
            cpu_pause();
            if (holds(thread)) return true;
            fetch_some(thread, LINES_AT_ONCE);
        }
    } while (now_ns() < deadline);
    return false;
}

/* --- claims --- */

enum { NOTHING = -1 };

static bool has_chunks(uint32_t range) { return (range & 0xffff) < range >> 16; }

/* Of its own range a thread takes the first chunk, of another's the last. */
static int claim(struct thread *owner, bool is_thief) {
    uint32_t range = atomic_load_explicit(&owner->range, memory_order_acquire);
    while (has_chunks(range)) {
        const uint32_t left = is_thief ? range - 0x10000 : range + 1;
        if (atomic_compare_exchange_weak_explicit(&owner->range, &range, left, memory_order_acq_rel, memory_order_acquire))
            return (int)(is_thief ? left >> 16 : range & 0xffff);
    }
    return NOTHING;
}

/* A chunk of owner's range. */
static void run_chunk(struct thread *self, const struct thread *owner, int chunk) {
    owner->function(atomic_load_explicit(&owner->call, memory_order_relaxed), chunk);
    const uint32_t n_done = atomic_load_explicit(&self->n_done, memory_order_relaxed) + 1;
    atomic_store_explicit(&self->n_done, n_done, memory_order_release); /* the call may end with this */
}

/* Runs chunks until none is left. */
static void run_chunks(struct thread *self) {
    struct pool *pool = self->pool;
    for (int i = 0; i < pool->n_threads; i++) {
        struct thread *owner = &pool->threads[(self->index + i) % pool->n_threads];
        for (int chunk; (chunk = claim(owner, i > 0)) != NOTHING;) run_chunk(self, owner, chunk);
    }
}

/* --- workers --- */

static bool has_news(const struct thread *self) {
    const uint32_t range = atomic_load_explicit(&self->range, memory_order_acquire);
    return range == NO_MORE || has_chunks(range);
}

static void wait_for_news(struct thread *self) {
    struct pool *pool = self->pool;
    if (spin_until(has_news, self)) return;
    atomic_fetch_add(&pool->n_sleeping, 1);
    for (uint32_t range; range = atomic_load(&self->range), !has_news(self);) futex_wait(&self->range, range);
    atomic_fetch_sub(&pool->n_sleeping, 1);
}

static void fetch_call(const struct thread *self) {
    const char *call = atomic_load_explicit(&self->call, memory_order_relaxed);
    for (int i = 0; i < CALL_LINES; i++) __builtin_prefetch(call + i * CACHE_LINE);
}

static void *worker_main(void *arg) {
    struct thread *self = arg;
    struct pool *pool = self->pool;
    while (wait_for_news(self), atomic_load(&self->range) != NO_MORE) {
        fetch_call(self);
        run_chunks(self);
        atomic_fetch_add(&self->n_done, 0); /* in one order with caller_sleeps */
        if (atomic_load(&pool->caller_sleeps)) {
            atomic_fetch_add(&pool->n_endings, 1);
            futex_wake(&pool->n_endings);
        }
    }
    return NULL;
}

/* --- the caller --- */

static void wake_workers(struct pool *pool) {
    for (int i = 1; i < pool->n_threads && atomic_load(&pool->n_sleeping) > 0; i++) futex_wake(&pool->threads[i].range);
}

/* Equal ranges, ascending, but for chunk 0, the caller's first. */
static void give(struct pool *pool, uint32_t n_chunks, pool_function *function, const void *call, const uint8_t *const *ahead) {
    const uint32_t n = (uint32_t)pool->n_threads;
    pool->n_given += n_chunks;
    for (uint32_t i = 0; i < n; i++) {
        struct thread *thread = &pool->threads[i];
        const uint32_t from = n_chunks * i / n, end = n_chunks * (i + 1) / n;
        thread->function = function;
        atomic_store_explicit(&thread->call, call, memory_order_relaxed);
        atomic_store_explicit(&thread->ahead, ahead ? ahead[i] : NULL, memory_order_relaxed);
        atomic_store_explicit(&thread->range, end << 16 | (from > 0 ? from : 1), memory_order_release);
    }
}

static bool is_done(const struct thread *caller) {
    const struct pool *pool = caller->pool;
    uint32_t n_done = 0;
    for (int i = 0; i < pool->n_threads; i++) n_done += atomic_load(&pool->threads[i].n_done);
    return n_done == pool->n_given;
}

static void wait_until_done(struct pool *pool) {
    struct thread *caller = &pool->threads[0];
    if (spin_until(is_done, caller)) return;
    atomic_store(&pool->caller_sleeps, true);
    for (uint32_t n_endings; n_endings = atomic_load(&pool->n_endings), !is_done(caller);)
        futex_wait(&pool->n_endings, n_endings);
    atomic_store(&pool->caller_sleeps, false);
}

void pool_run_ahead(struct pool *pool, int n_chunks, pool_function *function, const void *call, const uint8_t *const *ahead) {
    assert(n_chunks <= POOL_MAX_CHUNKS);
    if (pool->n_threads == 1 || n_chunks <= 1) {
        for (int chunk = 0; chunk < n_chunks; chunk++) function(call, chunk);
        return;
    }
    struct thread *caller = &pool->threads[0];
    give(pool, (uint32_t)n_chunks, function, call, ahead);
    wake_workers(pool);
    run_chunk(caller, caller, 0);
    wake_workers(pool);
    run_chunks(caller);
    wait_until_done(pool);
}

void pool_run(struct pool *pool, int n_chunks, pool_function *function, const void *call) {
    pool_run_ahead(pool, n_chunks, function, call, NULL);
}

/* --- beginning and end --- */

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
    for (int i = 0; i < n_threads; i++) pool->threads[i] = (struct thread){.pool = pool, .index = i, .n_fetched = AHEAD_BYTES};
    if (start_workers(pool)) return pool;
    pool_destroy(pool);
    return NULL;
}

void pool_destroy(struct pool *pool) {
    if (!pool) return;
    for (int i = 0; i < pool->n_threads; i++) atomic_store(&pool->threads[i].range, NO_MORE);
    wake_workers(pool);
    for (int i = 1; i <= pool->n_started; i++) pthread_join(pool->threads[i].handle, NULL);
    free(pool);
}

int pool_threads(const struct pool *pool) { return pool->n_threads; }
