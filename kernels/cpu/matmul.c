/* matmul.c - matrix products cut into chunks for the threads.
 *
 * The output rows of all jobs of a call stand in one line of row groups, so that Q, K and V cost one fork and join.
 *  (1) Up to TOKEN_TILE activation rows the weights are the traffic: they are streamed once, in chunks long enough for the
 *      memory.
 *  (2) More rows (prefill): chunks are panels that stay in the L2 cache while all activation rows pass.
 *  (3) Neither choice changes the order of operations in an output. */
#include "kernels/cpu/cpu.h"

enum {
    PANEL_BYTES = 128 * 1024,    /* of weights; leaves room for the activations in an L2 of 512 KiB and more */
    STREAM_BYTES = 40 * 1024,    /* a microsecond or two of one thread: long against a claim, short against a product */
    CHUNKS_PER_THREAD = 16,      /* at most, for streams: evens out threads of unequal speed */
    PANELS_PER_THREAD = 8,       /* at least: a panel of several groups finds its activations in the L1 cache */
    TALL_CHUNKS_PER_THREAD = 4,  /* with tall slices, which prepare their activations once for all groups of a chunk */
    SERIAL_PRODUCTS = 24 * 1024, /* products below which a fork costs more than it saves */
    GLU_GROUPS = 8,
    TILE_AHEAD_BYTES = 8 * 1024,            /* what a thread reads while it combines a tile of a row, and more */
    FEW_ROWS = 4,                           /* whose quantisation does not matter */
    QUANT_GROUPS = QUANT_BLOCK / ROW_GROUP, /* of a block of a quantised row */
    BLOCK_GROUPS = ROW_BLOCK / ROW_GROUP,
    MAXIMA_GROUPS = 4 * BLOCK_GROUPS, /* after so many the maxima are taken, while their outputs are in a cache */
};

struct matmul_call {
    struct cpu *cpu;
    const struct matmul_job *jobs; /* for a GLU two: gate and up, side by side in one line of groups */
    int n_jobs, n_groups;          /* the line */
    const struct activation *in;
    enum glu_kind glu;
    struct activation *to; /* of a GLU: NULL, or int8 is all that is wanted */
    int n;
    int unit, n_units, n_chunks; /* groups that stay together; of the line; chunks of n_units / n_chunks units, or one more */
    void (*run)(const struct matmul_call *call, int first, int end);
};

static int at_most(int a, int b) { return a < b ? a : b; }
static int at_least(int a, int b) { return a > b ? a : b; }

static void multiply(const struct cpu_kernels *kernels, const struct matmul_slice *slice) {
    const enum dtype type = slice->weight->type;
    kernels->matmul[type](slice);
    if (!slice->in->rest || !dtype_is_quantized(type)) return;
    struct matmul_slice rest = *slice;
    rest.in = slice->in->rest;
    rest.add = true;
    kernels->matmul[type](&rest);
}

static void add_bias(const struct matmul_slice *slice, const float *bias) {
    for (int row = 0; row < slice->n_rows; row++) {
        float *out = slice->out + (size_t)row * (size_t)slice->out_stride;
        for (int i = 0; i < slice->n_groups * ROW_GROUP; i++) out[i] += bias[i];
    }
}

static void take_maxima(const struct cpu_kernels *kernels, const struct matmul_job *job, const struct matmul_slice *slice) {
    const int n = job->weight->n_rows, n_blocks = row_blocks(n), first = slice->first_group * ROW_GROUP;
    for (int row = 0; row < slice->n_rows; row++) {
        float *maxima = job->maxima + (size_t)(slice->first_row + row) * (size_t)n_blocks + first / ROW_BLOCK;
        kernels->maxima_row(slice->out + (size_t)row * (size_t)slice->out_stride, at_most(n - first, slice->n_groups * ROW_GROUP),
                            maxima);
    }
}

static void run_job(const struct matmul_call *call, const struct matmul_job *job, int from, int to) {
    const struct cpu_kernels *kernels = call->cpu->kernels;
    struct matmul_slice slice = {.weight = job->weight, .in = call->in, .first_group = from, .n_groups = to - from};
    slice.out_stride = job->out_stride;
    slice.add = job->add;
    for (int row = 0; row < call->n; row += kernels->slice_rows) {
        slice.first_row = row;
        slice.n_rows = at_most(call->n - row, kernels->slice_rows);
        slice.out = job->out + (size_t)row * (size_t)job->out_stride + (size_t)from * ROW_GROUP;
        for (int i = 0; i < slice.n_rows; i++)
            fetch_for_write(slice.out + (size_t)i * (size_t)job->out_stride, (size_t)slice.n_groups * ROW_GROUP * sizeof(float));
        multiply(kernels, &slice);
        if (job->bias) add_bias(&slice, job->bias + (size_t)from * ROW_GROUP);
        if (job->maxima) take_maxima(kernels, job, &slice);
    }
}

/* Groups first..end of the line: of each job the part that falls in. */
static void run_jobs(const struct matmul_call *call, int first, int end) {
    int job_first = 0;
    for (int j = 0; j < call->n_jobs; j++) {
        const struct matmul_job *job = &call->jobs[j];
        const int from = at_least(first - job_first, 0), to = at_most(end - job_first, job->weight->n_groups);
        job_first += job->weight->n_groups;
        const int step = job->maxima ? MAXIMA_GROUPS : call->n_groups;
        for (int at = from; at < to; at += step) run_job(call, job, at, at_most(at + step, to));
    }
}

/* Outputs of gate and up, before they are combined. */
struct glu_tile {
    float values[2 * MAX_SLICE_ROWS * GLU_GROUPS * ROW_GROUP];
    const float *up; /* gate is values */
    int row, step;   /* from a row to the next, from a group to the next, of both */
};

/* Weights of one type that weight_load_pair has laid are read as one, groups of gate and up by turns: a thread then has one run
 * of memory before it. Two runs by turns are read a third slower. */
static void multiply_glu(const struct matmul_call *call, struct matmul_slice slice, struct glu_tile *tile) {
    const struct cpu_kernels *kernels = call->cpu->kernels;
    const struct weight *gate = slice.weight, *up = call->jobs[1].weight;
    const int width = slice.n_groups * ROW_GROUP;
    slice.out = tile->values;
    if (up->type == gate->type && up->data == gate->data + gate->group_bytes) {
        struct weight both = *gate;
        both.group_stride = both.group_bytes;
        slice.weight = &both;
        slice.first_group *= 2;
        slice.n_groups *= 2;
        slice.out_stride = tile->row = 2 * width;
        tile->step = 2 * ROW_GROUP;
        tile->up = tile->values + ROW_GROUP;
        multiply(kernels, &slice);
        return;
    }
    slice.out_stride = tile->row = width;
    tile->step = ROW_GROUP;
    tile->up = tile->values + slice.n_rows * width;
    multiply(kernels, &slice);
    slice.weight = up;
    slice.out += slice.n_rows * width;
    multiply(kernels, &slice);
}

/* While a tile is combined its thread reads nothing: what is far enough behind it is asked for before. */
static void fetch_next_tile(const struct matmul_slice *slice) {
    const int next = slice->first_group + slice->n_groups;
    if (next < slice->weight->n_groups)
        fetch_far(slice->weight->data + (size_t)next * slice->weight->group_stride + PREFETCH_BYTES, TILE_AHEAD_BYTES);
}

/* Gate and up of a few groups into a tile on the stack, combined there, and from there to where it is wanted: what would quantise
 * it later might run on a thread that has none of it in its caches. */
static void run_glu_tile(const struct matmul_call *call, const struct matmul_slice *slice) {
    struct glu_tile tile;
    const int width = slice->n_groups * ROW_GROUP, block = slice->first_group / QUANT_GROUPS;
    const struct cpu_kernels *kernels = call->cpu->kernels;
    if (call->to) fetch_activation_for_write(call->to, slice->first_row, slice->n_rows, block, width / QUANT_BLOCK);
    multiply_glu(call, *slice, &tile);
    if (call->n <= TOKEN_TILE) fetch_next_tile(slice);
    if (call->to) {
        kernels->glu(call->glu, tile.values, tile.up, tile.step, tile.values, slice->n_rows * width);
        kernels->quantize_tile(tile.values, slice->n_rows, width / QUANT_BLOCK, call->to, slice->first_row, block);
        return;
    }
    const size_t stride = (size_t)call->jobs->out_stride;
    float *out = call->jobs->out + (size_t)slice->first_row * stride + (size_t)slice->first_group * ROW_GROUP;
    for (int i = 0; i < slice->n_rows; i++)
        kernels->glu(call->glu, tile.values + i * tile.row, tile.up + i * tile.row, tile.step, out + (size_t)i * stride, width);
}

static void run_glu(const struct matmul_call *call, int first, int end) {
    struct matmul_slice slice = {.weight = call->jobs->weight, .in = call->in};
    const int slice_rows = call->cpu->kernels->slice_rows;
    for (slice.first_row = 0; slice.first_row < call->n; slice.first_row += slice_rows) {
        slice.n_rows = at_most(call->n - slice.first_row, slice_rows);
        for (slice.first_group = first; slice.first_group < end; slice.first_group += GLU_GROUPS) {
            slice.n_groups = at_most(end - slice.first_group, GLU_GROUPS);
            run_glu_tile(call, &slice);
        }
    }
}

static int chunk_begin(const struct matmul_call *call, int chunk) {
    return at_most((int)((int64_t)call->n_units * chunk / call->n_chunks) * call->unit, call->n_groups);
}

static void run_chunk(const void *arg, int chunk) {
    const struct matmul_call *call = arg;
    call->run(call, chunk_begin(call, chunk), chunk_begin(call, chunk + 1));
}

static int ceil_div(int a, int b) { return (a + b - 1) / b; }

/* A multiple of n_threads, so that equal threads end together; fewer where there is little to do. */
static int count_chunks(const struct matmul_call *call, int n_threads) {
    const int64_t group_bytes = (int64_t)call->jobs[0].weight->group_bytes * (call->run == run_glu ? 2 : 1);
    const int64_t bytes = call->n_groups * group_bytes;
    if ((int64_t)call->n_groups * ROW_GROUP * call->in->n_cols * call->n <= SERIAL_PRODUCTS) return 1;
    if (call->n > TOKEN_TILE) {
        const int least = call->cpu->kernels->slice_rows > TOKEN_TILE ? TALL_CHUNKS_PER_THREAD : PANELS_PER_THREAD;
        const int64_t panels = bytes / PANEL_BYTES / n_threads + 1;
        return (int)(panels > least ? panels : least) * n_threads;
    }
    const int64_t rounds = bytes / STREAM_BYTES / n_threads;
    return (rounds < 1 ? 1 : rounds > CHUNKS_PER_THREAD ? CHUNKS_PER_THREAD : (int)rounds) * n_threads;
}

/* Groups that stay together. Whole tiles of a GLU are quantised faster than what is left of one. */
static int chunk_unit(const struct matmul_call *call, int n_threads) {
    if (call->to) return call->n > FEW_ROWS && call->n_groups >= 4 * GLU_GROUPS * n_threads ? GLU_GROUPS : QUANT_GROUPS;
    return call->jobs->maxima ? BLOCK_GROUPS : 1;
}

/* Where the chunk begins to read. */
static const uint8_t *chunk_data(const struct matmul_call *call, int chunk) {
    int group = chunk_begin(call, chunk);
    const struct matmul_job *job = call->jobs;
    for (; job->weight->n_groups <= group && job + 1 < call->jobs + call->n_jobs; job++) group -= job->weight->n_groups;
    return job->weight->data + (size_t)group * job->weight->group_stride;
}

/* What was computed before will likely be followed by this again. */
static void note_follower(const struct matmul_call *call) {
    const struct weight *first = call->jobs->weight;
    struct weight_ahead *before = call->cpu->last;
    call->cpu->last = first->ahead;
    if (!before || before->follower == first->data) return;
    const int n = pool_threads(call->cpu->pool);
    before->follower = first->data;
    for (int i = 0; i < n; i++) before->at[i] = chunk_data(call, (int)((int64_t)call->n_chunks * i / n));
}

static void dispatch(struct matmul_call *call) {
    if (call->n <= 0) return;
    struct pool *pool = call->cpu->pool;
    call->unit = chunk_unit(call, pool_threads(pool));
    call->n_units = ceil_div(call->n_groups, call->unit);
    call->n_chunks = at_most(count_chunks(call, pool_threads(pool)), at_most(call->n_units, POOL_MAX_CHUNKS));
    if (call->n > TOKEN_TILE) {
        pool_run(pool, call->n_chunks, run_chunk, call);
        return;
    }
    struct weight_ahead *ahead = call->jobs->weight->ahead;
    note_follower(call);
    pool_run_ahead(pool, call->n_chunks, run_chunk, call, ahead->at);
}

void cpu_matmul(void *self, const struct matmul_job *jobs, int n_jobs, const struct activation *in, int n) {
    struct matmul_call call = {.cpu = self, .jobs = jobs, .n_jobs = n_jobs, .in = in, .n = n, .run = run_jobs};
    for (int j = 0; j < n_jobs; j++) call.n_groups += jobs[j].weight->n_groups;
    dispatch(&call);
}

void cpu_matmul_glu(void *self, enum glu_kind kind, const struct weight *gate, const struct weight *up,
                    const struct activation *in, int n, float *out, int out_stride, struct activation *to) {
    const struct matmul_job jobs[2] = {{.weight = gate, .out = out, .out_stride = out_stride}, {.weight = up}};
    struct matmul_call call = {.cpu = self, .jobs = jobs, .n_jobs = 2, .in = in, .glu = kind, .n = n, .run = run_glu};
    call.n_groups = gate->n_groups;
    if (to && !to->f) call.to = to;
    dispatch(&call);
    if (to && to->f) cpu_quantize(self, out, out_stride, n, to);
}
