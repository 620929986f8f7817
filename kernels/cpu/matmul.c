/* matmul.c - matrix products cut into pieces for the threads.
 *
 * The output rows of all jobs of a call stand in one line of row groups, so that Q, K and V cost one fork and join.
 *  (1) Up to TOKEN_TILE activation rows the weights are the traffic: they are streamed once, and each thread takes a fixed part
 * of the line, the same in every step. (2) More rows (prefill): the line is cut into panels that stay in the L2 cache while all
 * activation rows pass; threads take panels from a counter, since a thread may lose its processor for a while. (3) Neither choice
 * changes the order of operations in an output. */
#include "kernels/cpu/cpu.h"

#include <stdatomic.h>

enum {
    PANEL_BYTES = 128 * 1024,   /* of weights; leaves room for the activations in an L2 of 512 KiB and more */
    PANELS_PER_THREAD = 6,      /* enough to even out threads of unequal speed */
    SERIAL_WEIGHTS = 24 * 1024, /* products below which a fork costs more than it saves */
    SWIGLU_GROUPS = 4,
};

struct matmul_call {
    const struct cpu *cpu;
    const struct matmul_job *jobs; /* for SwiGLU two: gate and up, side by side in one line of groups */
    int n_jobs, n_groups;          /* the line */
    const struct activation *in;
    int n;
    int panel; /* groups; 0: each thread takes one fixed part */
    atomic_int next;
    void (*run)(const struct matmul_call *call, int first, int end);
};

static int at_most(int a, int b) { return a < b ? a : b; }
static int at_least(int a, int b) { return a > b ? a : b; }

/* Groups first..end of the line: of each job the part that falls in. */
static void run_jobs(const struct matmul_call *call, int first, int end) {
    int job_first = 0;
    for (int j = 0; j < call->n_jobs; j++) {
        const struct matmul_job *job = &call->jobs[j];
        const int from = at_least(first - job_first, 0), to = at_most(end - job_first, job->weight->n_groups);
        job_first += job->weight->n_groups;
        if (from >= to) continue;
        struct matmul_slice slice = {.weight = job->weight, .in = call->in, .first_group = from, .n_groups = to - from};
        slice.out_stride = job->out_stride;
        slice.add = job->add;
        for (int row = 0; row < call->n; row += TOKEN_TILE) {
            slice.first_row = row;
            slice.n_rows = at_most(call->n - row, TOKEN_TILE);
            slice.out = job->out + (size_t)row * (size_t)job->out_stride + (size_t)from * ROW_GROUP;
            call->cpu->kernels->matmul[job->weight->type](&slice);
        }
    }
}

/* Gate and up of a few groups into a tile on the stack, combined on the way out. */
static void run_swiglu_tile(const struct matmul_call *call, struct matmul_slice slice) {
    enum { STRIDE = SWIGLU_GROUPS * ROW_GROUP };
    float gate[TOKEN_TILE * STRIDE], up[TOKEN_TILE * STRIDE];
    const struct matmul_job *gate_job = &call->jobs[0], *up_job = &call->jobs[1];
    const struct cpu_kernels *kernels = call->cpu->kernels;
    slice.out_stride = STRIDE;
    slice.weight = gate_job->weight;
    slice.out = gate;
    kernels->matmul[slice.weight->type](&slice);
    slice.weight = up_job->weight;
    slice.out = up;
    kernels->matmul[slice.weight->type](&slice);
    float *out = gate_job->out + (size_t)slice.first_row * (size_t)gate_job->out_stride + (size_t)slice.first_group * ROW_GROUP;
    for (int i = 0; i < slice.n_rows; i++)
        kernels->swiglu(gate + i * STRIDE, up + i * STRIDE, out + (size_t)i * (size_t)gate_job->out_stride,
                        slice.n_groups * ROW_GROUP);
}

static void run_swiglu(const struct matmul_call *call, int first, int end) {
    struct matmul_slice slice = {.in = call->in};
    for (slice.first_row = 0; slice.first_row < call->n; slice.first_row += TOKEN_TILE) {
        slice.n_rows = at_most(call->n - slice.first_row, TOKEN_TILE);
        for (slice.first_group = first; slice.first_group < end; slice.first_group += SWIGLU_GROUPS) {
            slice.n_groups = at_most(end - slice.first_group, SWIGLU_GROUPS);
            run_swiglu_tile(call, slice);
        }
    }
}

static void thread_part(void *arg, int thread, int n_threads) {
    struct matmul_call *call = arg;
    if (call->panel == 0) {
        const int64_t groups = call->n_groups;
        call->run(call, (int)(groups * thread / n_threads), (int)(groups * (thread + 1) / n_threads));
        return;
    }
    int first;
    while ((first = atomic_fetch_add_explicit(&call->next, call->panel, memory_order_relaxed)) < call->n_groups)
        call->run(call, first, at_most(first + call->panel, call->n_groups));
}

static int panel_groups(const struct matmul_call *call) {
    if (call->n <= TOKEN_TILE) return 0;
    const int64_t cached = PANEL_BYTES / (int64_t)call->jobs[0].weight->group_bytes;
    const int fair = call->n_groups / (pool_threads(call->cpu->pool) * PANELS_PER_THREAD);
    return at_least(at_most(fair, (int)cached), 1);
}

static void dispatch(struct matmul_call *call) {
    if (call->n <= 0) return;
    const int64_t weights = (int64_t)call->n_groups * ROW_GROUP * call->in->n_cols;
    call->panel = panel_groups(call);
    atomic_init(&call->next, 0);
    if (weights * call->n <= SERIAL_WEIGHTS)
        thread_part(call, 0, 1);
    else
        pool_run(call->cpu->pool, thread_part, call);
}

void cpu_matmul(void *self, const struct matmul_job *jobs, int n_jobs, const struct activation *in, int n) {
    struct matmul_call call = {.cpu = self, .jobs = jobs, .n_jobs = n_jobs, .in = in, .n = n, .run = run_jobs};
    for (int j = 0; j < n_jobs; j++) call.n_groups += jobs[j].weight->n_groups;
    dispatch(&call);
}

void cpu_matmul_swiglu(void *self, const struct weight *gate, const struct weight *up, const struct activation *in, int n,
                       float *out, int out_stride) {
    const struct matmul_job jobs[2] = {{.weight = gate, .out = out, .out_stride = out_stride}, {.weight = up}};
    struct matmul_call call = {.cpu = self, .jobs = jobs, .n_jobs = 2, .in = in, .n = n, .run = run_swiglu};
    call.n_groups = gate->n_groups;
    dispatch(&call);
}
