/* kernels_avxvnni.c - the inner functions for AVX2 with the 256-bit dot products of AVX-VNNI (processors with
 * VNNI but without AVX-512): the templates, compiled with these instructions, as a
 * table. */
#if defined(__x86_64__)
#include "kernels/cpu/attention_template.h"
#include "kernels/cpu/gemm_template.h"
#include "kernels/cpu/matmul_template.h"
#include "kernels/cpu/probe_template.h"
#include "kernels/cpu/row_template.h"

const struct cpu_kernels cpu_kernels_avxvnni = {
    .name = "avxvnni",
    .slice_rows = TILED_SLICE_ROWS,
    .matmul = MATMUL_TABLE,
    .attention = attention,
    .rmsnorm_row = rmsnorm_row,
    .quantize_row = quantize_row,
    .rmsnorm_add_row = rmsnorm_add_row,
    .soft_cap_row = soft_cap_row,
    .glu = glu,
    .route_row = route_row,
    .combine_row = combine_row,
    .gemm_tile = gemm_tile,
    .rope_query = rope_query,
    .rope_key_value = rope_key_value,
    .probe_read = probe_read,
    .probe_dots = probe_dots,
};
#endif
