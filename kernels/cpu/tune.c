/* tune.c - how a large matrix is best read for one row, found out on the machine that will read it.
 *
 * One row takes hardly longer to compute with than a line takes to come, so what counts is how many lines are under way. On some
 * processors software that asks for them ahead keeps more under way than the prefetchers do, on others it gets in their way: a
 * matrix of 8 bits is read a tenth faster unasked by a Zen 4. Results do not depend on it. Engine thread only. */
#include "kernels/cpu/cpu.h"

enum { LEAST_PAIRS = 5, MOST_PAIRS = 25 };

static const size_t LEAST_BYTES = (size_t)16 << 20; /* what is smaller may stay in a cache from one look to the next */
static const double ENOUGH_S = 0.1;

static double time_product(const struct backend *backend, struct weight *weight, bool unasked, const struct activation *in,
                           float *out) {
    const struct matmul_job job = {.weight = weight, .out = out, .out_stride = weight->n_groups * ROW_GROUP};
    const double start = cpu_now_s();
    weight->comes_unasked = unasked;
    backend->ops->matmul(backend->self, &job, 1, in, 1);
    return cpu_now_s() - start;
}

/* By turns, since a memory that others use, too, changes its speed; the median of the pairs decides. */
static bool is_faster_unasked(const struct backend *backend, struct weight *weight, const struct activation *in, float *out) {
    double ratios[MOST_PAIRS];
    size_t n = 0;
    time_product(backend, weight, false, in, out);
    for (const double begin = cpu_now_s(); n < MOST_PAIRS && (n < LEAST_PAIRS || cpu_now_s() - begin < ENOUGH_S); n++) {
        const bool first = n % 2;
        const double one = time_product(backend, weight, first, in, out), other = time_product(backend, weight, !first, in, out);
        ratios[n] = first ? one / other : other / one;
    }
    return cpu_median(ratios, n) < 1;
}

void backend_cpu_tune(const struct backend *backend, struct weight *weight) {
    const struct cpu *cpu = backend->self;
    const size_t out_bytes = (size_t)weight->n_groups * ROW_GROUP * sizeof(float);
    struct activation in;
    if (!cpu->kernels->probe_read || !dtype_is_quantized(weight->type)) return;
    if (weight->group_bytes * (size_t)weight->n_groups < LEAST_BYTES) return;
    if (activation_alloc(backend, 1, weight->n_cols, false, true, &in) != KERNELS_OK) return;
    float *out = memory_map(out_bytes);
    if (out) weight->comes_unasked = is_faster_unasked(backend, weight, &in, out);
    memory_unmap(out, out_bytes);
    activation_free(backend, &in);
}
