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

/* --- codes: eight quads of bytes into the words of one lane, a word a line, and back --- */

static int spread_codes(int bits, const uint32_t quads[QUADS], uint32_t lines[QUADS]) {
    int n = 0, done = 0; /* lines, and bits of the codes that lie in them */
    if (bits == 8) {
        memcpy(lines, quads, QUADS * sizeof *lines);
        return QUADS;
    }
    if (bits >= 4) {
        for (int v = 0; v < 4; v++) lines[n++] = (quads[v] & 0x0f0f0f0fu) | (quads[v + 4] & 0x0f0f0f0fu) << 4;
        done = 4;
    }
    if (bits - done >= 2) {
        for (int t = 0; t < 2; t++, n++) {
            lines[n] = 0;
            for (int f = 0; f < 4; f++) lines[n] |= (quads[4 * t + f] >> done & 0x03030303u) << 2 * f;
        }
        done += 2;
    }
    if (bits > done) {
        lines[n] = 0;
        for (int v = 0; v < QUADS; v++) lines[n] |= (quads[v] >> done & 0x01010101u) << v;
        n++;
    }
    return n;
}

static void gather_codes(int bits, const uint32_t lines[QUADS], uint32_t quads[QUADS]) {
    int n = 0, done = 0;
    memset(quads, 0, QUADS * sizeof *quads);
    if (bits == 8) {
        memcpy(quads, lines, QUADS * sizeof *quads);
        return;
    }
    if (bits >= 4) {
        for (int v = 0; v < QUADS; v++) quads[v] = lines[v % 4] >> v / 4 * 4 & 0x0f0f0f0fu;
        n = done = 4;
    }
    if (bits - done >= 2) {
        for (int v = 0; v < QUADS; v++) quads[v] |= (lines[n + v / 4] >> v % 4 * 2 & 0x03030303u) << done;
        n += 2;
        done += 2;
    }
    if (bits > done)
        for (int v = 0; v < QUADS; v++) quads[v] |= (lines[n] >> v & 0x01010101u) << done;
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
    const int n_lines = spread_codes(type_stored_bits(type), quads, lines);
    for (int i = 0; i < n_lines; i++) memcpy(codes + i * LINE, &lines[i], sizeof lines[i]);
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
    uint8_t *group = weight->data + (size_t)(row / ROW_GROUP) * weight->group_bytes;
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
    memset(weight->data, 0, weight->group_bytes * (size_t)weight->n_groups);
    for (int row = 0; row < weight->n_rows; row++) put_row(weight, row, (const uint8_t *)src + (size_t)row * row_bytes);
}

void weight_row_to_float(const struct weight *weight, int row, float *out) {
    const uint8_t *group = weight->data + (size_t)(row / ROW_GROUP) * weight->group_bytes;
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
