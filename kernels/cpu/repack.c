/* repack.c - weights from the file's layout into groups of 16 rows (weight_layout.h draws the layout) and single rows back.
 *
 *  (1) Repacking moves bits and changes no value: what comes back is the block that went in. Codes become unsigned (Q8_0's by an
 *      xor), for the unsigned-by-signed dot products of x86.
 *  (2) Source rows may have any alignment. Rows that do not exist become zero bytes, which are zero weights in every type,
 *      because their d and m are zero. Runs at load, and for embedding look-ups. */
#include "kernels/cpu/weight_layout.h"

#include <string.h>

enum {
    HALVES_BYTES = ROW_GROUP * 2, /* 16 half floats */
    QUADS = QUANT_BLOCK / 4,      /* of four columns in a block: one lane of a vector each */
};

size_t group_bytes(enum dtype type, int n_cols) {
    if (dtype_row_bytes(type, n_cols) == 0) return 0;
    const size_t cols = (size_t)n_cols;
    if (dtype_is_quantized(type)) return blocks_bytes(type, cols / QUANT_BLOCK);
    return (cols * ROW_GROUP * dtype_row_bytes(type, 1) + LINE - 1) / LINE * LINE;
}

/* --- codes: eight quads of bytes, one for each vector, into the words of one lane, one for each line, and back --- */

/* The same bits of all four bytes. */
static uint32_t field(uint32_t quad, uint32_t mask) { return quad & mask * 0x01010101u; }

static void spread_codes(int bits, const uint32_t c[QUADS], uint32_t lines[QUADS]) {
    switch (bits) {
    case 2:
        for (int t = 0; t < 2; t++) lines[t] = c[4 * t] | c[4 * t + 1] << 2 | c[4 * t + 2] << 4 | c[4 * t + 3] << 6;
        break;
    case 3:
        for (int k = 0; k < 3; k++) lines[k] = c[2 * k] | c[2 * k + 1] << 3;
        lines[0] |= field(c[6], 6) << 5;
        lines[1] |= field(c[6], 1) << 7 | field(c[7], 1) << 6;
        lines[2] |= field(c[7], 6) << 5;
        break;
    case 4:
        for (int v = 0; v < 4; v++) lines[v] = c[v] | c[v + 4] << 4;
        break;
    case 5:
        memcpy(lines, c, 5 * sizeof *lines);
        lines[0] |= field(c[5], 0x1c) << 3;
        lines[1] |= field(c[5], 3) << 6 | field(c[7], 2) << 4;
        lines[2] |= field(c[6], 0x1c) << 3;
        lines[3] |= field(c[6], 3) << 6 | field(c[7], 1) << 5;
        lines[4] |= field(c[7], 0x1c) << 3;
        break;
    case 6:
        for (int i = 0; i < 6; i++)
            lines[i] = c[i / 3 * 4 + i % 3] | field(c[i / 3 * 4 + 3], 0x30u >> i % 3 * 2) << (2 + i % 3 * 2);
        break;
    default:
        memcpy(lines, c, QUADS * sizeof *lines);
        break;
    }
}

static void gather_codes(int bits, const uint32_t l[QUADS], uint32_t c[QUADS]) {
    switch (bits) {
    case 2:
        for (int v = 0; v < QUADS; v++) c[v] = field(l[v / 4] >> v % 4 * 2, 3);
        break;
    case 3:
        for (int v = 0; v < 6; v++) c[v] = field(l[v / 2] >> v % 2 * 3, 7);
        c[6] = field(l[0] >> 5, 6) | field(l[1] >> 7, 1);
        c[7] = field(l[2] >> 5, 6) | field(l[1] >> 6, 1);
        break;
    case 4:
        for (int v = 0; v < QUADS; v++) c[v] = field(l[v % 4] >> v / 4 * 4, 15);
        break;
    case 5:
        for (int v = 0; v < 5; v++) c[v] = field(l[v], 31);
        c[5] = field(l[0] >> 3, 0x1c) | field(l[1] >> 6, 3);
        c[6] = field(l[2] >> 3, 0x1c) | field(l[3] >> 6, 3);
        c[7] = field(l[4] >> 3, 0x1c) | field(l[1] >> 4, 2) | field(l[3] >> 5, 1);
        break;
    case 6:
        for (int g = 0; g < 2; g++, l += 3, c += 4) {
            for (int k = 0; k < 3; k++) c[k] = field(l[k], 63);
            c[3] = field(l[0] >> 2, 0x30) | field(l[1] >> 4, 0x0c) | field(l[2] >> 6, 3);
        }
        break;
    default:
        memcpy(c, l, QUADS * sizeof *c);
        break;
    }
}

/* --- blocks --- */

void lane_put(enum dtype type, uint8_t *group, int block, int lane, const struct plain_block *in) {
    const struct block_place place = block_place(type, group, block);
    uint8_t *halves = group + (place.halves - group) + lane * 2, *codes = group + (place.codes - group) + lane * 4;
    memcpy(halves, &in->d, 2);
    if (type_has_minimum(type)) memcpy(halves + HALVES_BYTES, &in->m, 2);
    if (type_is_k(type)) {
        uint8_t *integers = group + (place.integers - group) + lane;
        const bool halved = type_scales_halves(type);
        integers[0] = (uint8_t)(in->scale[0] | (type == DTYPE_Q2_K ? in->min[0] << 4 : 0));
        integers[ROW_GROUP] = !halved ? in->min[0] : (uint8_t)(in->scale[1] | (type == DTYPE_Q2_K ? in->min[1] << 4 : 0));
    }
    uint32_t quads[QUADS], lines[QUADS];
    memcpy(quads, in->codes, sizeof quads);
    spread_codes(type_stored_bits(type), quads, lines);
    for (int i = 0; i < type_stored_bits(type); i++) memcpy(codes + i * LINE, &lines[i], sizeof lines[i]);
}

void lane_get(enum dtype type, const uint8_t *group, int block, int lane, struct plain_block *out) {
    const struct block_place place = block_place(type, group, block);
    *out = (struct plain_block){.scale = {1, 1}, .min = {1, 1}};
    memcpy(&out->d, place.halves + lane * 2, 2);
    if (type_has_minimum(type)) memcpy(&out->m, place.halves + HALVES_BYTES + lane * 2, 2);
    if (type_is_k(type)) {
        const uint8_t first = place.integers[lane], second = place.integers[ROW_GROUP + lane];
        const bool packed = type == DTYPE_Q2_K, halved = type_scales_halves(type);
        out->scale[0] = (int8_t)(packed ? first & 15 : first);
        out->scale[1] = !halved ? out->scale[0] : (int8_t)(packed ? second & 15 : second);
        if (packed) out->min[0] = first >> 4, out->min[1] = second >> 4;
        if (!halved) out->min[0] = out->min[1] = second;
    }
    uint32_t quads[QUADS], lines[QUADS] = {0};
    const int n_lines = type_stored_bits(type);
    for (int i = 0; i < n_lines; i++) memcpy(&lines[i], place.codes + i * LINE + lane * 4, sizeof lines[i]);
    gather_codes(n_lines, lines, quads);
    memcpy(out->codes, quads, sizeof quads);
}

/* --- rows --- */

static void put_row(struct weight *weight, int row, const uint8_t *src) {
    uint8_t *group = weight->data + (size_t)(row / ROW_GROUP) * weight->group_stride;
    const int lane = row % ROW_GROUP;
    if (dtype_is_quantized(weight->type)) {
        for (int b = 0; b < weight->n_cols / QUANT_BLOCK; b++) {
            struct plain_block block;
            plain_block_read(weight->type, src, b, &block);
            lane_put(weight->type, group, b, lane, &block);
        }
        return;
    }
    const size_t size = dtype_row_bytes(weight->type, 1);
    for (size_t k = 0; k < (size_t)weight->n_cols; k++)
        memcpy(group + (k * ROW_GROUP + (size_t)lane) * size, src + k * size, size);
}

void weight_repack(struct weight *weight, const void *src) {
    const size_t row_bytes = dtype_row_bytes(weight->type, weight->n_cols);
    for (int g = 0; g < weight->n_groups; g++) memset(weight->data + (size_t)g * weight->group_stride, 0, weight->group_bytes);
    for (int row = 0; row < weight->n_rows; row++) put_row(weight, row, (const uint8_t *)src + (size_t)row * row_bytes);
}

void weight_row_to_float(const struct weight *weight, int row, float *out) {
    const uint8_t *group = weight->data + (size_t)(row / ROW_GROUP) * weight->group_stride;
    const int lane = row % ROW_GROUP;
    if (dtype_is_quantized(weight->type)) {
        for (int b = 0; b < weight->n_cols / QUANT_BLOCK; b++) {
            struct plain_block block;
            lane_get(weight->type, group, b, lane, &block);
            plain_block_to_float(weight->type, &block, out + b * QUANT_BLOCK);
        }
        return;
    }
    const size_t size = dtype_row_bytes(weight->type, 1);
    for (size_t k = 0; k < (size_t)weight->n_cols; k++)
        dtype_row_to_float(weight->type, group + (k * ROW_GROUP + (size_t)lane) * size, out + k, 1);
}
