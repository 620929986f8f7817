/* load.c - weights into the backend's layout, by all compute threads.
 *
 * A matrix is cut into runs of row groups. A run is a matrix by itself: its own rows of the file, its own bytes of the repacked
 * form, of a pair every other group. So the threads share nothing, the first touch of the pages is spread too, and the result
 * does not depend on the cut.
 * Engine thread only. */
#include "kernels/cpu/cpu.h"

enum { RUN_BYTES = 1 << 20 }; /* of the repacked form: some tenths of a millisecond */

struct repack_call {
    const struct weight *weight;
    const uint8_t *src;
    int groups_per_run;
};

static void repack_run(const void *arg, int chunk) {
    const struct repack_call *call = arg;
    const int first = chunk * call->groups_per_run, left = call->weight->n_groups - first;
    const int n_groups = left < call->groups_per_run ? left : call->groups_per_run;
    const int rows_left = call->weight->n_rows - first * ROW_GROUP;
    struct weight run = *call->weight;
    run.n_groups = n_groups;
    run.n_rows = rows_left < n_groups * ROW_GROUP ? rows_left : n_groups * ROW_GROUP;
    run.data += (size_t)first * run.group_stride;
    weight_repack(&run, call->src + (size_t)first * ROW_GROUP * dtype_row_bytes(run.type, run.n_cols));
}

void weight_repack_parallel(struct cpu *cpu, struct weight *weight, const void *src) {
    struct repack_call call = {.weight = weight, .src = src};
    const int fit = (int)(RUN_BYTES / weight->group_bytes), least = weight->n_groups / POOL_MAX_CHUNKS + 1;
    call.groups_per_run = fit > least ? fit : least;
    pool_run(cpu->pool, (weight->n_groups + call.groups_per_run - 1) / call.groups_per_run, repack_run, &call);
}

size_t backend_weight_bytes(enum dtype type, int64_t n_rows, int n_cols) {
    if ((unsigned)type >= DTYPE_COUNT) return 0;
    const size_t group = group_bytes(type, n_cols), n_groups = ((size_t)n_rows + ROW_GROUP - 1) / ROW_GROUP;
    return (group * n_groups + LINE - 1) / LINE * LINE;
}
