/* gemm.c - products of float matrices, for training: both factors are copied into panels that the inner tile reads in order,
 * GEMM_DEPTH of their common dimension at a time, then tiles of the result are shared out to the threads.
 *
 * A panel of the left factor is [depth][GEMM_ROWS], one of the right factor [depth][GEMM_COLS]; zeros fill what sticks out. */
#include <string.h>

#include "kernels/cpu/cpu.h"

enum {
    GEMM_DEPTH = 256,
    BLOCK_PANELS = 16, /* panels of the left factor that stay in the second cache while those of the right one pass by */
    SPLIT_COLS = 4,    /* pieces of the right factor, so that few rows still keep all threads busy */
};

struct gemm_call {
    const struct cpu_kernels *kernels;
    const struct gemm_job *job;
    int first, depth; /* of the common dimension */
    int n_row_panels, n_col_panels;
    float *rows, *cols; /* the panels */
};

static int panels(int n, int size) { return (n + size - 1) / size; }

size_t gemm_scratch_floats(int m, int n, int k) {
    const size_t depth = (size_t)(k < GEMM_DEPTH ? k : GEMM_DEPTH);
    return depth * (size_t)(panels(m, GEMM_ROWS) * GEMM_ROWS + panels(n, GEMM_COLS) * GEMM_COLS);
}

/* n vectors of depth floats side by side: element i of vector v is src[v * vector + i * step]. */
static void pack(const float *src, size_t vector, size_t step, int n, int size, int depth, float *out) {
    if (n < size) memset(out, 0, (size_t)(size * depth) * sizeof *out);
    if (vector == 1) {
        for (int i = 0; i < depth; i++) memcpy(out + i * size, src + (size_t)i * step, (size_t)n * sizeof *out);
        return;
    }
    for (int v = 0; v < n; v++) {
        const float *from = src + (size_t)v * vector;
        for (int i = 0; i < depth; i++) out[i * size + v] = from[(size_t)i * step];
    }
}

static void pack_panel(const void *arg, int i) {
    const struct gemm_call *g = arg;
    const struct gemm_job *job = g->job;
    const bool is_left = i < g->n_row_panels;
    const int size = is_left ? GEMM_ROWS : GEMM_COLS, at = (is_left ? i : i - g->n_row_panels) * size;
    const int left = (is_left ? job->m : job->n) - at, n = left < size ? left : size;
    const size_t begin = (size_t)g->first;
    float *out = (is_left ? g->rows : g->cols) + (size_t)at * (size_t)g->depth;
    if (is_left)
        pack(job->a + (size_t)at * job->a_row + begin * job->a_col, job->a_row, job->a_col, n, size, g->depth, out);
    else
        pack(job->b + (size_t)at * job->b_col + begin * job->b_row, job->b_col, job->b_row, n, size, g->depth, out);
}

/* A tile that sticks out is computed beside the result and copied. */
static void edge_tile(const struct gemm_call *g, const float *a, const float *b, float *c, int n_rows, int n_cols) {
    float tile[GEMM_ROWS * GEMM_COLS] = {0};
    const size_t bytes = (size_t)n_cols * sizeof *tile;
    for (int i = 0; i < n_rows; i++) memcpy(tile + i * GEMM_COLS, c + (size_t)i * g->job->c_row, bytes);
    g->kernels->gemm_tile(a, b, g->depth, tile, GEMM_COLS);
    for (int i = 0; i < n_rows; i++) memcpy(c + (size_t)i * g->job->c_row, tile + i * GEMM_COLS, bytes);
}

static void one_tile(const struct gemm_call *g, int row_panel, int col_panel) {
    const struct gemm_job *job = g->job;
    const int row = row_panel * GEMM_ROWS, col = col_panel * GEMM_COLS;
    const float *a = g->rows + (size_t)row * (size_t)g->depth, *b = g->cols + (size_t)col * (size_t)g->depth;
    float *c = job->c + (size_t)row * job->c_row + col;
    const int n_rows = job->m - row < GEMM_ROWS ? job->m - row : GEMM_ROWS;
    const int n_cols = job->n - col < GEMM_COLS ? job->n - col : GEMM_COLS;
    if (n_rows == GEMM_ROWS && n_cols == GEMM_COLS)
        g->kernels->gemm_tile(a, b, g->depth, c, job->c_row);
    else
        edge_tile(g, a, b, c, n_rows, n_cols);
}

static void multiply_block(const void *arg, int i) {
    const struct gemm_call *g = arg;
    const int first = i / SPLIT_COLS * BLOCK_PANELS, piece = i % SPLIT_COLS;
    const int end = first + BLOCK_PANELS < g->n_row_panels ? first + BLOCK_PANELS : g->n_row_panels;
    const int last_col = g->n_col_panels * (piece + 1) / SPLIT_COLS;
    for (int col = g->n_col_panels * piece / SPLIT_COLS; col < last_col; col++) {
        for (int row = first; row < end; row++) one_tile(g, row, col);
    }
}

void cpu_gemm(void *self, const struct gemm_job *job) {
    const struct cpu *cpu = self;
    struct gemm_call g = {.kernels = cpu->kernels, .job = job};
    g.n_row_panels = panels(job->m, GEMM_ROWS);
    g.n_col_panels = panels(job->n, GEMM_COLS);
    if (!job->add) {
        for (int i = 0; i < job->m; i++) memset(job->c + (size_t)i * job->c_row, 0, (size_t)job->n * sizeof *job->c);
    }
    for (g.first = 0; g.first < job->k; g.first += g.depth) {
        g.depth = job->k - g.first < GEMM_DEPTH ? job->k - g.first : GEMM_DEPTH;
        g.rows = job->scratch;
        g.cols = g.rows + (size_t)(g.n_row_panels * GEMM_ROWS) * (size_t)g.depth;
        pool_run(cpu->pool, g.n_row_panels + g.n_col_panels, pack_panel, &g);
        pool_run(cpu->pool, panels(g.n_row_panels, BLOCK_PANELS) * SPLIT_COLS, multiply_block, &g);
    }
}
