/* probe.c - the limits of this machine, measured as the operations meet them: with the same threads and instruction set.
 *
 *  (1) Reading goes over the repacked weights themselves: the same bytes at the same addresses as a decode step, so what the last
 *      cache keeps of them helps both alike.
 *  (2) Dot products work on registers only: what the arithmetic units give when nothing has to be fetched.
 *  (3) Each figure is the median of many short passes, as what it is compared with is a median, and to be taken by turns with it:
 *      how fast a memory is that others use, too, changes from one second to the next.
 * Engine thread only. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include <time.h>

enum {
    MIN_PASSES = 5,
    MAX_PASSES = 101,
    RUN_BYTES = 1 << 20,  /* a thread reads so much at a time */
    DOT_CHUNKS = 64,      /* of a pass; also for threads that come late */
    DOT_LOOPS = 20 * 1000 /* of a chunk: some tens of microseconds */
};

static const double ENOUGH_S = 0.1;

double cpu_now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double cpu_median(double *values, size_t n) {
    qsort(values, n, sizeof *values, by_value);
    return values[n / 2];
}

/* Seconds of a pass. */
static double time_passes(const struct cpu *cpu, int n_chunks, pool_function *function, const void *call) {
    double seconds[MAX_PASSES];
    size_t n = 0;
    pool_run(cpu->pool, n_chunks, function, call); /* wakes the threads */
    for (const double begin = cpu_now_s(); n < MAX_PASSES && (n < MIN_PASSES || cpu_now_s() - begin < ENOUGH_S); n++) {
        const double start = cpu_now_s();
        pool_run(cpu->pool, n_chunks, function, call);
        seconds[n] = cpu_now_s() - start;
    }
    return cpu_median(seconds, n);
}

/* --- reading --- */

static int runs_of(const struct weight_chunk *chunk) { return (int)((chunk->used + RUN_BYTES - 1) / RUN_BYTES); }

static void read_run(const void *call, int index) {
    const struct cpu *cpu = call;
    const struct weight_chunk *chunk = cpu->chunks;
    for (; index >= runs_of(chunk); chunk = chunk->next) index -= runs_of(chunk);
    const size_t first = (size_t)index * RUN_BYTES, left = chunk->used - first;
    cpu->kernels->probe_read(chunk->data + first, left < RUN_BYTES ? left : RUN_BYTES);
}

double backend_cpu_read_speed(const struct backend *backend) {
    const struct cpu *cpu = backend->self;
    double bytes = 0;
    int n_runs = 0;
    for (const struct weight_chunk *chunk = cpu->chunks; chunk; chunk = chunk->next) {
        bytes += (double)chunk->used;
        n_runs += runs_of(chunk);
    }
    if (!cpu->kernels->probe_read || n_runs == 0 || n_runs > POOL_MAX_CHUNKS) return 0;
    return bytes / time_passes(cpu, n_runs, read_run, cpu);
}

/* --- dot products --- */

static void dot_run(const void *call, int index) {
    (void)index;
    ((const struct cpu *)call)->kernels->probe_dots(DOT_LOOPS);
}

double backend_cpu_int8_speed(const struct backend *backend) {
    const struct cpu *cpu = backend->self;
    if (!cpu->kernels->probe_dots) return 0;
    const double ops = cpu->kernels->probe_dots(1) * DOT_LOOPS * DOT_CHUNKS;
    return ops / time_passes(cpu, DOT_CHUNKS, dot_run, cpu);
}
