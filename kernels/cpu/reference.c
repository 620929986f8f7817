/* reference.c - every inner function in plain C: the definition that the AVX2 and AVX-512 versions must match to the bit, and
 * what runs on any other processor. Functions over single rows are in row_template.h; here are the matrix products and
 * attention.
 *
 *  (1) A matmul output is one chain of roundings over ascending blocks (or columns), whatever else is computed beside it.
 *  (2) A score is one fmaf chain over ascending dimensions of the scaled query; a head's output is one fmaf chain over
 *      ascending positions, multiplied by the softmax's factor before each chunk of 64 absolute positions, and divided by the
 *      sum at the end.
 *  (3) Positions beyond a row's own are not read as values, and as keys they have no influence. */
#include "kernels/cpu/row_template.h"

/* --- matmul --- */

/* Exact dot products of one block of 16 rows with one activation block. */
static void block_dots(enum dtype type, const uint8_t *codes, const int8_t *q, int32_t q_sum, int32_t dots[ROW_GROUP]) {
    const int zero_point = type == DTYPE_Q8_0 ? 128 : type == DTYPE_Q4_0 ? 8 : 0;
    for (int row = 0; row < ROW_GROUP; row++) {
        int32_t dot = -zero_point * q_sum;
        for (int line = 0; line < (type == DTYPE_Q8_0 ? 8 : 4); line++)
            for (int j = 0; j < 4; j++) {
                const uint8_t code = codes[line * LINE + row * 4 + j];
                if (type == DTYPE_Q8_0)
                    dot += code * q[line * 4 + j];
                else
                    dot += (code & 15) * q[line * 4 + j] + (code >> 4) * q[16 + line * 4 + j];
            }
        dots[row] = dot;
    }
}

static float half_at(const uint8_t *memory, int index) {
    uint16_t half;
    memcpy(&half, memory + index * 2, sizeof half);
    return half_to_float(half);
}

static void quantized_outputs(enum dtype type, const uint8_t *group, const struct activation *in, int row, float acc[ROW_GROUP]) {
    const int n_blocks = in->n_cols / QUANT_BLOCK;
    const size_t first = (size_t)row * (size_t)n_blocks;
    for (int b = 0; b < n_blocks; b++) {
        const uint8_t *scales = group_scales(type, group, b);
        const size_t at = first + (size_t)b;
        int32_t dots[ROW_GROUP];
        block_dots(type, group_codes(type, group, b), in->q + at * QUANT_BLOCK, in->sum[at], dots);
        for (int r = 0; r < ROW_GROUP; r++) {
            if (type == DTYPE_Q4_1) acc[r] = fmaf(half_at(scales, ROW_GROUP + r), in->ds[at], acc[r]);
            acc[r] = fmaf((float)dots[r], half_at(scales, r) * in->d[at], acc[r]);
        }
    }
}

static void float_outputs(enum dtype type, const uint8_t *group, const struct activation *in, int row, float acc[ROW_GROUP]) {
    const float *x = in->f + (size_t)row * (size_t)in->n_cols;
    const size_t column_bytes = ROW_GROUP * dtype_row_bytes(type, 1);
    for (int k = 0; k < in->n_cols; k++) {
        float w[ROW_GROUP];
        dtype_row_to_float(type, group + (size_t)k * column_bytes, w, ROW_GROUP);
        for (int r = 0; r < ROW_GROUP; r++) acc[r] = fmaf(w[r], x[k], acc[r]);
    }
}

static void matmul(const struct matmul_slice *slice) {
    const struct weight *weight = slice->weight;
    for (int g = 0; g < slice->n_groups; g++) {
        const uint8_t *group = weight->data + (size_t)(slice->first_group + g) * weight->group_bytes;
        for (int i = 0; i < slice->n_rows; i++) {
            float acc[ROW_GROUP] = {0};
            (dtype_is_quantized(weight->type) ? quantized_outputs : float_outputs)(weight->type, group, slice->in,
                                                                                   slice->first_row + i, acc);
            float *out = slice->out + (size_t)i * (size_t)slice->out_stride + (size_t)g * ROW_GROUP;
            for (int r = 0; r < ROW_GROUP; r++) out[r] = slice->add ? out[r] + acc[r] : acc[r];
        }
    }
}

/* --- attention --- */

static const uint16_t *page_of(const struct attention_tile *tile, const uint8_t *base, int pos) {
    return (const uint16_t *)(const void *)(base + (size_t)tile->blocks[pos / KV_BLOCK] * tile->block_bytes);
}

static float score(const struct attention_tile *tile, const float *q, int pos) {
    const uint16_t *k = page_of(tile, tile->k, pos) + pos % KV_BLOCK;
    float sum = 0;
    for (int i = 0; i < tile->head_dim; i++) sum = fmaf(q[i], half_to_float(k[i * KV_BLOCK]), sum);
    return sum;
}

static void attend_one(const struct attention_tile *tile, int index) {
    const int head_dim = tile->head_dim, last = tile->pos[index];
    float q[MAX_HEAD_DIM], acc[MAX_HEAD_DIM] = {0};
    struct softmax softmax = {.max = -INFINITY};
    for (int i = 0; i < head_dim; i++) q[i] = tile->q[index][i] * tile->scale;
    for (int first = 0; first <= last; first += ATTENTION_CHUNK) {
        float p[ATTENTION_CHUNK];
        for (int t = 0; t < ATTENTION_CHUNK; t++) p[t] = first + t <= last ? score(tile, q, first + t) : -INFINITY;
        const float factor = softmax_chunk(&softmax, p);
        for (int i = 0; i < head_dim; i++) acc[i] *= factor;
        for (int t = 0; t < ATTENTION_CHUNK && first + t <= last; t++) {
            const int pos = first + t;
            const uint16_t *v = page_of(tile, tile->v, pos) + (size_t)(pos % KV_BLOCK) * (size_t)head_dim;
            for (int i = 0; i < head_dim; i++) acc[i] = fmaf(p[t], half_to_float(v[i]), acc[i]);
        }
    }
    const float total = lane_tree(softmax.lane_sum);
    for (int i = 0; i < head_dim; i++) tile->out[index][i] = acc[i] / total;
}

static void attention(const struct attention_tile *tile) {
    for (int i = 0; i < tile->n; i++) attend_one(tile, i);
}

const struct cpu_kernels cpu_kernels_scalar = {
    .name = "scalar",
    .matmul = {matmul, matmul, matmul, matmul, matmul, matmul},
    .attention = attention,
    .rmsnorm_row = rmsnorm_row,
    .quantize_row = quantize_row,
    .swiglu = swiglu,
    .rope_query = rope_query,
    .rope_key_value = rope_key_value,
};
