/* test_allocations.c - a warm engine allocates nothing per token: neither its own thread nor a worker nor whoever reads.
 *
 * malloc and its kin are defined here and so stand before the C library's for the whole program; while counting is on, every call
 * is counted by the thread that made it. The sanitizers bring their own malloc: there the test has nothing to count. */
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/engine_fixture.h"
#include "tests/tiny_model.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

enum { N_SEQS = 5, WARM_TOKENS = 8, COUNTED_TOKENS = 64, LENGTH = 1 << 15 };

static atomic_bool counting;
static atomic_int n_ours, n_reader; /* calls of the engine's and the workers' threads; of this program's main thread */
static _Thread_local bool is_reader;

static void count(void) {
    if (atomic_load(&counting)) atomic_fetch_add(is_reader ? &n_reader : &n_ours, 1);
}

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *memory);

void *malloc(size_t size) {
    count();
    return __libc_malloc(size);
}
void *calloc(size_t n, size_t size) {
    count();
    return __libc_calloc(n, size);
}
void *realloc(void *memory, size_t size) {
    count();
    return __libc_realloc(memory, size);
}
void *aligned_alloc(size_t alignment, size_t size) {
    count();
    return __libc_memalign(alignment, size);
}
int posix_memalign(void **out, size_t alignment, size_t size) {
    count();
    *out = __libc_memalign(alignment, size);
    return *out ? 0 : ENOMEM;
}
void free(void *memory) {
    if (memory) count();
    __libc_free(memory);
}
void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
    count();
    return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset); /* NOLINT: the result is an address */
}
int munmap(void *address, size_t size) {
    count();
    return (int)syscall(SYS_munmap, address, size);
}

static const char model_path[] = "build/tests/allocations.gguf";

static struct engine *open_engine(int n_threads, bool has_draft_model) {
    struct tiny_model tiny = tiny_model_default();
    struct engine_config config = engine_config_default();
    struct engine_error error = {""};
    struct engine *engine;
    tiny.ctx = config.ctx_len = LENGTH;
    config.kv_bytes = 128 << 20;
    assert_true(tiny_model_write(model_path, &tiny));
    config.model_path = model_path;
    config.n_threads = n_threads;
    if (has_draft_model) config.drafter = ENGINE_DRAFTER_MODEL, config.draft_files = model_path;
    config.max_seqs = N_SEQS;
    config.step_tokens = 32;
    int rc = engine_open(&engine, &config, &error);
    unlink(model_path);
    if (rc != ENGINE_OK) fail_msg("%s", error.text);
    return engine;
}

/* Every sampler stage is on, so that none allocates behind our back. */
static void submit(struct engine *engine, int i) {
    static const struct engine_bias bias = {.token = 5, .bias = 1};
    static const char *const stop[] = {"never in this noise \x01"};
    struct engine_error error = {""};
    struct engine_request request = prompt_request("the and you of to in", 0, i % 2 ? 0.9f : 0, (uint64_t)i);
    uint64_t id;
    request.max_tokens = LENGTH / 2;
    request.ignore_eos = true;
    request.trace = i % 2;
    request.stop = stop;
    request.n_stop = 1;
    request.verify = (enum engine_verify)(ENGINE_VERIFY_MATCH + i % (ENGINE_VERIFY_TYPICAL - ENGINE_VERIFY_MATCH + 1));
    request.sampling.top_k = 40;
    request.sampling.min_p = 0.01f;
    request.sampling.repeat_penalty = 1.1f;
    request.sampling.frequency_penalty = 0.1f;
    request.sampling.penalty_last_n = 64;
    request.sampling.bias = &bias;
    request.sampling.n_bias = 1;
    int rc = engine_submit(engine, &request, &id, &error);
    if (rc != ENGINE_OK) fail_msg("%s", error.text);
}

/* Reads along until the sequences together have n more tokens each. They end much later than that, however slowly this thread
 * runs. */
static void read_along(struct engine *engine, int n) {
    struct engine_event events[16];
    struct engine_stats start, now;
    engine_stats(engine, &start);
    do {
        int n_events = engine_poll(engine, events, 16);
        if (n_events == 0) engine_wait(engine, 100);
        for (int i = 0; i < n_events; i++) assert_int_not_equal(events[i].kind, ENGINE_EVENT_DONE);
        engine_stats(engine, &now);
    } while (now.n_running < N_SEQS || now.output_tokens < start.output_tokens + (uint64_t)(n * N_SEQS));
}

static void finish(struct engine *engine) {
    struct engine_event event;
    for (uint64_t id = 1; id <= N_SEQS; id++) engine_cancel(engine, id);
    for (int n_done = 0; n_done < N_SEQS;) {
        if (engine_poll(engine, &event, 1) == 0)
            engine_wait(engine, 100);
        else
            n_done += event.kind == ENGINE_EVENT_DONE;
    }
}

static void test_decoding_allocates_nothing(void **state) {
    (void)state;
    is_reader = true;
    for (int i_run = 0; i_run < 6; i_run++) {
        struct engine *engine = open_engine(1 + i_run % 3, i_run >= 3);
        engine_events_per_token(engine);
        for (int i = 0; i < N_SEQS; i++) submit(engine, i);
        read_along(engine, WARM_TOKENS);
        atomic_store(&n_ours, 0);
        atomic_store(&n_reader, 0);
        atomic_store(&counting, true);
        read_along(engine, COUNTED_TOKENS);
        atomic_store(&counting, false);
        finish(engine);
        engine_close(engine);
        assert_int_equal(atomic_load(&n_ours), 0);
        assert_int_equal(atomic_load(&n_reader), 0);
    }
}

/* The counter itself must work, or a zero says nothing. */
static void test_counter_counts(void **state) {
    (void)state;
    is_reader = true;
    atomic_store(&n_reader, 0);
    atomic_store(&counting, true);
    void *volatile memory = malloc(10);
    memory = realloc(memory, 20);
    free(memory);
    void *pages = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(pages, 4096);
    atomic_store(&counting, false);
    assert_int_equal(atomic_load(&n_reader), 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_counter_counts), cmocka_unit_test(test_decoding_allocates_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) {
    puts("test_allocations: nothing to count under a sanitizer\n[  PASSED  ] 0 tests");
    return 0;
}

#endif
