/* reference.c - every inner function in plain C: the definition that the AVX2 and AVX-512 versions must match to the bit, and
 * what runs on any other processor. Functions over single rows are in row_template.h; here are the matrix products and
 * attention.
 *
 *  (1) A matmul output is one chain of roundings over ascending blocks (or columns), whatever else is computed beside it.
 *  (2) A score is one fmaf chain over ascending dimensions of the scaled query; a head's output is one fmaf chain over
 *      ascending positions, multiplied by the softmax's factor before each chunk of 64 absolute positions. Each span of 512
 *      absolute positions is summed apart; spans are joined in ascending order, and the result is divided by the sum.
 *      With a window, a row begins at the chunk of the first position it sees, and earlier positions of that chunk weigh 0.
 *      Over quantised keys (kernels.h: kv_type) the scaled query is turned and quantised (kv_template.h), and a score is one
 *      exact integer dot product times both scales. Values of KV_INT8 enter chunk by chunk as exact sums of codes times weights
 *      in 14 bits. Those of KV_INT4 enter as their codes, with weights times their scales; minima are summed apart (position p
 *      in p mod 16) and added at the end, and the result is turned back.
 *  (3) Positions beyond a row's own are not read as values, and as keys they have no influence. */
#include "kernels/cpu/kv_template.h"
#include "kernels/cpu/row_template.h"
#include "kernels/cpu/weight_layout.h"

/* --- matmul --- */

/* One block of one output row, ready to be multiplied. */
struct ready_block {
    float d, min; /* with the scales in them where those serve all 32 columns */
    int scale[2], scale_min[2];
    int whole[QUANT_BLOCK];
};

static void ready_lane(enum dtype type, const uint8_t *group, int b, int lane, struct ready_block *out) {
    struct plain_block block;
    lane_get(type, group, b, lane, &block);
    const bool halved = type_scales_halves(type);
    out->d = half_to_float(block.d);
    out->min = half_to_float(block.m);
    if (!halved) out->d *= (float)block.scale[0]; /* by 1 where the type has no scales */
    if (!halved) out->min *= (float)(type_is_k(type) ? -block.min[0] : 1);
    for (int h = 0; h < 2; h++) {
        out->scale[h] = halved ? block.scale[h] : 1;
        out->scale_min[h] = block.min[h];
    }
    for (int i = 0; i < QUANT_BLOCK; i++) out->whole[i] = code_to_whole(type, block.codes[i]);
}

/* acc and one block of one activation row: the definition of kernels.h. */
static float add_block(enum dtype type, const struct ready_block *w, const struct activation *in, size_t at, float acc) {
    const int8_t *q = in->q + at * QUANT_BLOCK;
    int32_t dots[2] = {0, 0}, sum = 0;
    for (int i = 0; i < QUANT_BLOCK; i++) dots[i / 16] += w->whole[i] * q[i];
    for (int h = 0; h < 2; h++) sum += w->scale[h] * dots[h];
    if (type == DTYPE_Q2_K) {
        const int32_t minima = w->scale_min[0] * in->sum16[2 * at] + w->scale_min[1] * in->sum16[2 * at + 1];
        acc = fmaf((float)minima, -(w->min * in->d[at]), acc);
    } else if (type_has_minimum(type)) {
        acc = fmaf(w->min, in->ds[at], acc);
    }
    return fmaf((float)sum, w->d * in->d[at], acc);
}

/* 16 outputs for the n activation rows from `first` on. A block is unpacked once for all of them. */
static void quantized_outputs(enum dtype type, const uint8_t *group, const struct activation *in, int first, int n,
                              float acc[][ROW_GROUP]) {
    const int n_blocks = in->n_cols / QUANT_BLOCK;
    for (int b = 0; b < n_blocks; b++)
        for (int lane = 0; lane < ROW_GROUP; lane++) {
            struct ready_block block;
            ready_lane(type, group, b, lane, &block);
            for (int i = 0; i < n; i++) {
                const size_t at = (size_t)(first + i) * (size_t)n_blocks + (size_t)b;
                acc[i][lane] = add_block(type, &block, in, at, acc[i][lane]);
            }
        }
}

static void float_outputs(enum dtype type, const uint8_t *group, const struct activation *in, int first, int n,
                          float acc[][ROW_GROUP]) {
    const float *x = in->f + (size_t)first * (size_t)in->n_cols;
    const size_t column_bytes = ROW_GROUP * dtype_row_bytes(type, 1);
    for (int k = 0; k < in->n_cols; k++) {
        float w[ROW_GROUP];
        dtype_row_to_float(type, group + (size_t)k * column_bytes, w, ROW_GROUP);
        for (int i = 0; i < n; i++)
            for (int r = 0; r < ROW_GROUP; r++) acc[i][r] = fmaf(w[r], x[(size_t)i * (size_t)in->n_cols + (size_t)k], acc[i][r]);
    }
}

static void matmul(const struct matmul_slice *slice) {
    const struct weight *weight = slice->weight;
    for (int g = 0; g < slice->n_groups; g++) {
        const uint8_t *group = weight->data + (size_t)(slice->first_group + g) * weight->group_stride;
        float acc[TOKEN_TILE][ROW_GROUP] = {{0}};
        (dtype_is_quantized(weight->type) ? quantized_outputs : float_outputs)(weight->type, group, slice->in, slice->first_row,
                                                                               slice->n_rows, acc);
        for (int i = 0; i < slice->n_rows; i++) {
            float *out = slice->out + (size_t)i * (size_t)slice->out_stride + (size_t)g * ROW_GROUP;
            for (int r = 0; r < ROW_GROUP; r++) out[r] = slice->add ? out[r] + acc[i][r] : acc[i][r];
        }
    }
}

/* --- attention --- */

static struct kv_pages pages_of(const struct attention_tile *tile, int pos) { return attention_pages(tile, pos / KV_BLOCK); }

/* Half float `index` of the arrays of 16 that hold scales. */
static float scale_at(const uint8_t *scales, int pos, int index) {
    return half_to_float(((const uint16_t *)(const void *)scales)[index * KV_BLOCK + pos % KV_BLOCK]);
}

static float score_f16(const struct attention_tile *tile, const float *q, int pos) {
    const uint16_t *k = (const uint16_t *)(const void *)pages_of(tile, pos).k;
    float sum = 0;
    for (int i = 0; i < tile->head_dim; i++) sum = fmaf(q[i], half_to_float(k[i * KV_BLOCK + pos % KV_BLOCK]), sum);
    return sum;
}

static float score_int8(const struct attention_tile *tile, const struct query_codes *q, int pos) {
    const struct kv_pages pages = pages_of(tile, pos);
    const int8_t *k = (const int8_t *)pages.k;
    int32_t dot = 0;
    for (int i = 0; i < tile->head_dim; i++) dot += q->q[i] * k[(i / 4 * KV_BLOCK + pos % KV_BLOCK) * 4 + i % 4];
    return (float)dot * (q->d * scale_at(pages.k_scales, pos, 0));
}

/* acc += p * value; minima: [head_dim / 32][16], the p * m of KV_INT4, added to acc at the end. */
static void add_value(const struct attention_tile *tile, int pos, float p, float *acc, float (*minima)[LANES]) {
    const int n = tile->head_dim, slot = pos % KV_BLOCK;
    const struct kv_pages pages = pages_of(tile, pos);
    const void *page = pages.v;
    if (tile->type == KV_F16) {
        const uint16_t *v = (const uint16_t *)page + slot * n;
        for (int i = 0; i < n; i++) acc[i] = fmaf(p, half_to_float(v[i]), acc[i]);
    } else {
        const uint8_t *v = (const uint8_t *)page + slot * n / 2;
        for (int g = 0; g < n / KV_GROUP; g++, v += KV_GROUP / 2) {
            const float weight = p * scale_at(pages.v_scales, pos, 2 * g);
            minima[g][slot] = fmaf(p, scale_at(pages.v_scales, pos, 2 * g + 1), minima[g][slot]);
            for (int i = 0; i < KV_GROUP; i++) {
                const int code = i < KV_GROUP / 2 ? v[i] & 15 : v[i - KV_GROUP / 2] >> 4;
                acc[g * KV_GROUP + i] = fmaf(weight, (float)code, acc[g * KV_GROUP + i]);
            }
        }
    }
}

/* acc += p * values, for the positions first + begin .. first + end - 1 of a chunk, whose largest weight is `peak` (KV_INT8). */
static void add_values_int8(const struct attention_tile *tile, int first, int begin, int end, const float *p, float peak,
                            float *acc) {
    float weight[ATTENTION_CHUNK];
    uint32_t most = 0;
    for (int t = begin; t < end; t++) {
        const float d = scale_at(pages_of(tile, first + t).v_scales, first + t, 0);
        const uint32_t magnitude = bits_of(d) & 0x7fffffffu;
        weight[t] = p[t] * d;
        most = magnitude > most ? magnitude : most;
    }
    const struct weight_scale scale = weight_scale_of(peak * float_of(most));
    for (int d = 0; d < tile->head_dim; d++) {
        int32_t sum = 0;
        for (int t = begin; t < end && scale.inverse > 0; t++) {
            const int8_t *page = (const int8_t *)pages_of(tile, first + t).v;
            sum += nearest_within(weight[t] * scale.inverse, 0, MOST_WEIGHT) *
                   page[int8_value_at(tile->head_dim, (first + t) % KV_BLOCK, d)];
        }
        acc[d] = fmaf((float)sum, scale.step, acc[d]);
    }
}

static void attend_one(const struct attention_tile *tile, int index) {
    const int head_dim = tile->head_dim, last = tile->pos[index], begin = attention_first_seen(tile->spec, last);
    const int start = begin > tile->span ? begin / ATTENTION_CHUNK * ATTENTION_CHUNK : tile->span;
    float q[MAX_HEAD_DIM], *acc = tile->part[index] + PART_HEAD, minima[MAX_HEAD_DIM / KV_GROUP][LANES] = {{0}};
    struct softmax softmax = {.max = -INFINITY};
    struct query_codes codes;
    for (int i = 0; i < head_dim; i++) acc[i] = 0, q[i] = tile->q[index][i] * tile->spec->scale;
    if (tile->type != KV_F16) {
        hadamard(q, head_dim);
        quantize_query(q, head_dim, &codes);
    }
    for (int first = start; first <= last && first < tile->span + ATTENTION_SPAN; first += ATTENTION_CHUNK) {
        float p[ATTENTION_CHUNK];
        for (int t = 0; t < ATTENTION_CHUNK; t++)
            p[t] = first + t > last       ? 0
                   : tile->type == KV_F16 ? score_f16(tile, q, first + t)
                                          : score_int8(tile, &codes, first + t);
        if (tile->spec->soft_cap > 0) soft_cap_row(p, ATTENTION_CHUNK, tile->spec->soft_cap);
        for (int t = 0; t < ATTENTION_CHUNK; t++)
            if (first + t > last || first + t < begin) p[t] = -INFINITY;
        const struct softmax_factors factors = softmax_chunk(&softmax, p);
        const float factor = factors.before;
        for (int i = 0; i < head_dim; i++) acc[i] *= factor;
        for (int g = 0; g < MAX_HEAD_DIM / KV_GROUP; g++)
            for (int l = 0; l < LANES; l++) minima[g][l] *= factor;
        const int seen = last + 1 - first < ATTENTION_CHUNK ? last + 1 - first : ATTENTION_CHUNK;
        if (tile->type == KV_INT8) add_values_int8(tile, first, begin > first ? begin - first : 0, seen, p, factors.chunk, acc);
        for (int t = 0; t < seen && tile->type != KV_INT8; t++) add_value(tile, first + t, p[t], acc, minima);
    }
    if (tile->type == KV_INT4) add_minima(acc, head_dim, minima);
    tile->part[index][PART_MAX] = softmax.max;
    tile->part[index][PART_TOTAL] = lane_tree(softmax.lane_sum);
}

static void attention(const struct attention_tile *tile) {
    for (int i = 0; i < tile->n; i++) attend_one(tile, i);
}

static void gemm_tile(const float *a, const float *b, int k, float *c, size_t c_row) {
    for (int i = 0; i < GEMM_ROWS; i++) {
        for (int j = 0; j < GEMM_COLS; j++) {
            float *sum = &c[(size_t)i * c_row + (size_t)j];
            for (int at = 0; at < k; at++) *sum = fmaf(a[at * GEMM_ROWS + i], b[at * GEMM_COLS + j], *sum);
        }
    }
}

static void maxima_row(const float *x, int n, float *maxima) {
    for (; n > 0; n -= ROW_BLOCK, x += ROW_BLOCK) *maxima++ = plain_maximum(x, n < ROW_BLOCK ? n : ROW_BLOCK);
}

const struct cpu_kernels cpu_kernels_scalar = {
    .name = "scalar",
    .slice_rows = TOKEN_TILE,
    .matmul = {[0 ... DTYPE_COUNT - 1] = matmul},
    KERNELS_BY_NAME,
};
