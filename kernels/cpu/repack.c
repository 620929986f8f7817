/* repack.c - weights from the file's layout into groups of 16 rows (cpu.h draws the layout) and single rows back.
 *
 *  (1) Repacking moves bytes and changes none, except Q8_0's codes, which become unsigned (xor 0x80) for the
 *      unsigned-by-signed dot products of x86.
 *  (2) Source rows may have any alignment. Rows that do not exist become zero bytes, which are zero weights in every type (for
 *      Q8_0 because their d is zero). Runs at load, and for embedding look-ups. */
#include "kernels/cpu/cpu.h"

#include <string.h>

enum { HALVES_BYTES = ROW_GROUP * 2 }; /* 16 half floats */

static size_t codes_bytes(enum dtype type) { return type == DTYPE_Q8_0 ? 8 * LINE : 4 * LINE; }

size_t group_bytes(enum dtype type, int n_cols) {
    if (dtype_row_bytes(type, n_cols) == 0) return 0;
    const size_t cols = (size_t)n_cols, blocks = cols / QUANT_BLOCK;
    switch (type) {
    case DTYPE_F32:
        return cols * ROW_GROUP * sizeof(float);
    case DTYPE_F16:
    case DTYPE_BF16:
        return (cols * HALVES_BYTES + LINE - 1) / LINE * LINE;
    case DTYPE_Q4_1:
        return blocks * (LINE + codes_bytes(type));
    case DTYPE_Q4_0:
    case DTYPE_Q8_0:
        return (blocks + 1) / 2 * LINE + blocks * codes_bytes(type);
    case DTYPE_COUNT:
        break;
    }
    return 0;
}

const uint8_t *group_scales(enum dtype type, const uint8_t *group, int block) {
    const size_t b = (size_t)block;
    if (type == DTYPE_Q4_1) return group + b * (LINE + codes_bytes(type));
    return group + b / 2 * (LINE + 2 * codes_bytes(type)) + b % 2 * HALVES_BYTES;
}

const uint8_t *group_codes(enum dtype type, const uint8_t *group, int block) {
    const size_t b = (size_t)block;
    if (type == DTYPE_Q4_1) return group + b * (LINE + codes_bytes(type)) + LINE;
    return group + (b / 2 + 1) * LINE + b * codes_bytes(type);
}

/* Four codes of one row out of a block go to one lane of each line. */
static void put_codes(uint8_t *codes, int lane, const uint8_t *src, int n_lines, uint32_t flip) {
    for (int line = 0; line < n_lines; line++) {
        uint32_t quad;
        memcpy(&quad, src + line * 4, sizeof quad);
        quad ^= flip;
        memcpy(codes + line * LINE + lane * 4, &quad, sizeof quad);
    }
}

static void put_block(enum dtype type, uint8_t *group, int block, int lane, const uint8_t *src) {
    uint8_t *scales = (uint8_t *)(uintptr_t)group_scales(type, group, block) + lane * 2;
    uint8_t *codes = (uint8_t *)(uintptr_t)group_codes(type, group, block);
    memcpy(scales, src, 2);
    switch (type) {
    case DTYPE_Q4_0:
        put_codes(codes, lane, src + 2, 4, 0);
        break;
    case DTYPE_Q4_1:
        memcpy(scales + HALVES_BYTES, src + 2, 2);
        put_codes(codes, lane, src + 4, 4, 0);
        break;
    default:
        put_codes(codes, lane, src + 2, 8, 0x80808080u);
        break;
    }
}

static void put_row(struct weight *weight, int row, const uint8_t *src) {
    uint8_t *group = weight->data + (size_t)(row / ROW_GROUP) * weight->group_bytes;
    const int lane = row % ROW_GROUP;
    if (dtype_is_quantized(weight->type)) {
        const int n_blocks = weight->n_cols / QUANT_BLOCK;
        const size_t block_bytes = dtype_row_bytes(weight->type, QUANT_BLOCK);
        for (int b = 0; b < n_blocks; b++) put_block(weight->type, group, b, lane, src + (size_t)b * block_bytes);
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

/* The block of one lane in the file's layout again. */
static void get_block(enum dtype type, const uint8_t *group, int block, int lane, uint8_t *out) {
    const uint8_t *scales = group_scales(type, group, block) + lane * 2, *codes = group_codes(type, group, block) + lane * 4;
    const int n_lines = (int)codes_bytes(type) / LINE;
    const uint8_t flip = type == DTYPE_Q8_0 ? 0x80 : 0;
    memcpy(out, scales, 2);
    out += 2;
    if (type == DTYPE_Q4_1) {
        memcpy(out, scales + HALVES_BYTES, 2);
        out += 2;
    }
    for (int line = 0; line < n_lines; line++)
        for (int j = 0; j < 4; j++) out[line * 4 + j] = codes[line * LINE + j] ^ flip;
}

void weight_row_to_float(const struct weight *weight, int row, float *out) {
    const uint8_t *group = weight->data + (size_t)(row / ROW_GROUP) * weight->group_bytes;
    const int lane = row % ROW_GROUP;
    if (dtype_is_quantized(weight->type)) {
        uint8_t block[sizeof(struct block_q8_0)]; /* the largest */
        for (int b = 0; b < weight->n_cols / QUANT_BLOCK; b++) {
            get_block(weight->type, group, b, lane, block);
            dtype_row_to_float(weight->type, block, out + b * QUANT_BLOCK, QUANT_BLOCK);
        }
        return;
    }
    const size_t size = dtype_row_bytes(weight->type, 1);
    for (size_t k = 0; k < (size_t)weight->n_cols; k++)
        dtype_row_to_float(weight->type, group + (k * ROW_GROUP + (size_t)lane) * size, out + k, 1);
}
