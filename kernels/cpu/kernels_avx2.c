/* kernels_avx2.c - the inner functions for AVX2 (with FMA and F16C): the templates, compiled with these instructions, as a
 * table. */
#if defined(__x86_64__)
#include "kernels/cpu/attention_template.h"
#include "kernels/cpu/gemm_template.h"
#include "kernels/cpu/matmul_template.h"
#include "kernels/cpu/probe_template.h"
#include "kernels/cpu/row_template.h"

const struct cpu_kernels cpu_kernels_avx2 = {
    .name = "avx2",
    .slice_rows = TILED_SLICE_ROWS,
    .matmul = MATMUL_TABLE,
    KERNELS_BY_NAME,
    .probe_read = probe_read,
    .probe_dots = probe_dots,
};
#endif
