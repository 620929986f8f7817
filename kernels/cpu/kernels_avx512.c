/* kernels_avx512.c - the inner functions for AVX-512 (F, BW, DQ, VL, VNNI): the templates, compiled with these instructions,
 * as a table; and that of AMX, which is the same but for products on tiles. */
#if defined(__x86_64__)
#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/attention_template.h"
#include "kernels/cpu/gemm_template.h"
#include "kernels/cpu/matmul_template.h"
#include "kernels/cpu/probe_template.h"
#include "kernels/cpu/row_template.h"

const struct cpu_kernels cpu_kernels_avx512 = {
    .name = "avx512",
    .slice_rows = TOKEN_TILE,
    .matmul = MATMUL_TABLE,
    KERNELS_BY_NAME,
    .probe_read = probe_read,
    .probe_dots = probe_dots,
};
#endif
