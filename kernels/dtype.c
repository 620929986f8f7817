/* dtype.c - element types of weights: names, sizes, and rows from the file's layout to plain blocks and to floats.
 *
 *  (1) A half float is converted by integer arithmetic alone, and to the bit as F16C does it: subnormals, infinities and the
 *      quieting of NaNs included. So the scalar backend and the vector ones write the same KV cache.
 *  (2) d * scale * code is exact in a float for every type (Q6_K has the most bits: 11 + 7 + 5), hence "product + minimum" has
 *      one rounding whichever way it is computed.
 * Any thread. */
#include "kernels/plain_block.h"

#include <string.h>

struct dtype_info {
    const char *name;
    int block_cols; /* weights in a block */
    int block_bytes;
};

static const struct dtype_info infos[DTYPE_COUNT] = {
    [DTYPE_F32] = {"F32", 1, 4},
    [DTYPE_F16] = {"F16", 1, 2},
    [DTYPE_BF16] = {"BF16", 1, 2},
    [DTYPE_Q4_0] = {"Q4_0", QUANT_BLOCK, sizeof(struct block_q4_0)},
    [DTYPE_Q4_1] = {"Q4_1", QUANT_BLOCK, sizeof(struct block_q4_1)},
    [DTYPE_Q8_0] = {"Q8_0", QUANT_BLOCK, sizeof(struct block_q8_0)},
    [DTYPE_Q5_0] = {"Q5_0", QUANT_BLOCK, 22},
    [DTYPE_Q5_1] = {"Q5_1", QUANT_BLOCK, 24},
    [DTYPE_Q4_K] = {"Q4_K", SUPER_COLS, 144},
    [DTYPE_Q5_K] = {"Q5_K", SUPER_COLS, 176},
    [DTYPE_Q6_K] = {"Q6_K", SUPER_COLS, 210},
    [DTYPE_Q3_K] = {"Q3_K", SUPER_COLS, 110},
    [DTYPE_Q2_K] = {"Q2_K", SUPER_COLS, 84},
    [DTYPE_IQ4_NL] = {"IQ4_NL", QUANT_BLOCK, 18},
};

const char *dtype_name(enum dtype type) { return infos[type].name; }

int dtype_block_cols(enum dtype type) { return infos[type].block_cols; }

size_t dtype_row_bytes(enum dtype type, int64_t n_cols) {
    const struct dtype_info *info = &infos[type];
    if (n_cols <= 0 || n_cols % info->block_cols != 0) return 0;
    return (size_t)(n_cols / info->block_cols) * (size_t)info->block_bytes;
}

bool dtype_is_quantized(enum dtype type) { return infos[type].block_cols > 1; }

static float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float half_to_float(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 0x1fu, mantissa = half & 0x3ffu;
    if (exponent == 0x1f) {
        const uint32_t quiet = mantissa ? 0x400000u : 0;
        return float_from_bits(sign | 0x7f800000u | quiet | mantissa << 13);
    }
    if (exponent != 0) return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    const float magnitude = (float)mantissa * 0x1p-24f; /* subnormal or zero: exact */
    return sign ? -magnitude : magnitude;
}

/* Drops the lowest `shift` bits (1..31) of value, rounding to nearest, ties to even. */
static uint32_t shift_right_even(uint32_t value, int shift) {
    const uint32_t half_way = 1u << (shift - 1), low = value & ((half_way << 1) - 1);
    const uint32_t kept = value >> shift;
    return kept + (low > half_way || (low == half_way && (kept & 1)));
}

uint16_t float_to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    if (magnitude >= 0x38800000u) return (uint16_t)(sign | shift_right_even(magnitude - 0x38000000u, 13));
    if (magnitude <= 0x33000000u) return (uint16_t)sign; /* 2^-25 is a tie with zero */
    const int exponent = (int)(magnitude >> 23);         /* 102..112: a subnormal half, in units of 2^-24 */
    return (uint16_t)(sign | shift_right_even((magnitude & 0x7fffffu) | 0x800000u, 126 - exponent));
}

/* --- quantised blocks --- */

const uint8_t iq4_nl_table[16] = {IQ4_NL_TABLE};

static uint16_t half_at(const uint8_t *memory) {
    uint16_t half;
    memcpy(&half, memory, sizeof half);
    return half;
}

/* 16 bytes: the low nibbles are columns 0..15, the high ones 16..31. */
static void read_nibbles(const uint8_t *src, uint8_t *codes) {
    for (int j = 0; j < QUANT_BLOCK / 2; j++) {
        codes[j] = src[j] & 15;
        codes[j + QUANT_BLOCK / 2] = src[j] >> 4;
    }
}

/* Adds bit j of 32 to code j. */
static void read_fifth_bits(const uint8_t *src, uint8_t *codes) {
    for (int j = 0; j < QUANT_BLOCK; j++) codes[j] = (uint8_t)(codes[j] | (src[j / 8] >> j % 8 & 1) << 4);
}

/* `bits` bits at `shift` of each of 32 bytes become bits `to`.. of the codes. */
static void read_field(const uint8_t *src, int shift, int bits, int to, uint8_t *codes) {
    const int mask = (1 << bits) - 1;
    for (int j = 0; j < QUANT_BLOCK; j++) codes[j] = (uint8_t)(codes[j] | (src[j] >> shift & mask) << to);
}

/* d, dmin, 12 bytes of 6-bit scales and minima, [32 bytes of fifth bits,] 128 bytes of nibbles: 32 bytes for two sub-blocks. */
static void read_q4_k_or_q5_k(bool five, const uint8_t *src, int sub, struct plain_block *out) {
    const uint8_t *packed = src + 4, *fifth = src + 16, *nibbles = fifth + (five ? QUANT_BLOCK : 0);
    int scale, min;
    if (sub < 4) {
        scale = packed[sub] & 63;
        min = packed[sub + 4] & 63;
    } else {
        scale = (packed[sub + 4] & 15) | packed[sub - 4] >> 6 << 4;
        min = packed[sub + 4] >> 4 | packed[sub] >> 6 << 4;
    }
    out->d = half_at(src);
    out->m = half_at(src + 2);
    out->scale[0] = out->scale[1] = (int8_t)scale;
    out->min[0] = out->min[1] = (uint8_t)min;
    read_field(nibbles + sub / 2 * QUANT_BLOCK, sub % 2 * 4, 4, 0, out->codes);
    if (five) read_field(fifth, sub, 1, 4, out->codes);
}

/* 128 bytes of nibbles, 64 of two high bits, 16 signed scales, d. The two halves of 128 columns each have 64 and 32 bytes. */
static void read_q6_k(const uint8_t *src, int sub, struct plain_block *out) {
    const int half = sub / 4, quarter = sub % 4;
    read_field(src + half * 64 + quarter % 2 * QUANT_BLOCK, quarter / 2 * 4, 4, 0, out->codes);
    read_field(src + 128 + half * QUANT_BLOCK, quarter * 2, 2, 4, out->codes);
    memcpy(out->scale, src + 192 + 2 * sub, 2);
    out->d = half_at(src + 208);
}

/* 32 bytes of third bits (set: 4 more), 64 of two low bits, 12 of 6-bit scales (low nibbles of 0..7 and 8..15, then the high
 * pairs of k, k + 4, k + 8, k + 12), d. */
static void read_q3_k(const uint8_t *src, int sub, struct plain_block *out) {
    const uint8_t *packed = src + 96;
    read_field(src + 32 + sub / 4 * QUANT_BLOCK, sub % 4 * 2, 2, 0, out->codes);
    read_field(src, sub, 1, 2, out->codes);
    for (int h = 0; h < 2; h++) {
        const int k = 2 * sub + h, low = packed[k % 8] >> k / 8 * 4 & 15, high = packed[8 + k % 4] >> k / 4 * 2 & 3;
        out->scale[h] = (int8_t)((low | high << 4) - 32);
    }
    out->d = half_at(src + 108);
}

/* 16 bytes of scale (low) and minimum (high nibble), 64 of codes, d, dmin. */
static void read_q2_k(const uint8_t *src, int sub, struct plain_block *out) {
    read_field(src + 16 + sub / 4 * QUANT_BLOCK, sub % 4 * 2, 2, 0, out->codes);
    for (int h = 0; h < 2; h++) {
        out->scale[h] = (int8_t)(src[2 * sub + h] & 15);
        out->min[h] = src[2 * sub + h] >> 4;
    }
    out->d = half_at(src + 80);
    out->m = half_at(src + 82);
}

static void read_small(enum dtype type, const uint8_t *src, struct plain_block *out) {
    out->d = half_at(src);
    src += 2;
    if (type_has_minimum(type)) {
        out->m = half_at(src);
        src += 2;
    }
    if (type == DTYPE_Q8_0) {
        for (int j = 0; j < QUANT_BLOCK; j++) out->codes[j] = src[j] ^ 0x80;
        return;
    }
    const bool five = type == DTYPE_Q5_0 || type == DTYPE_Q5_1;
    read_nibbles(src + (five ? 4 : 0), out->codes);
    if (five) read_fifth_bits(src, out->codes);
}

void plain_block_read(enum dtype type, const uint8_t *row, int64_t index, struct plain_block *out) {
    const int64_t n_inside = infos[type].block_cols / QUANT_BLOCK;
    const uint8_t *src = row + index / n_inside * infos[type].block_bytes;
    const int sub = (int)(index % n_inside);
    *out = (struct plain_block){.scale = {1, 1}, .min = {1, 1}};
    switch (type) {
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        read_q4_k_or_q5_k(type == DTYPE_Q5_K, src, sub, out);
        break;
    case DTYPE_Q6_K:
        read_q6_k(src, sub, out);
        break;
    case DTYPE_Q3_K:
        read_q3_k(src, sub, out);
        break;
    case DTYPE_Q2_K:
        read_q2_k(src, sub, out);
        break;
    default:
        read_small(type, src, out);
        break;
    }
}

void plain_block_to_float(enum dtype type, const struct plain_block *block, float *out) {
    const float d = half_to_float(block->d), m = half_to_float(block->m);
    for (int h = 0; h < 2; h++) {
        const float scale = d * (float)block->scale[h];
        const float minimum = type_is_k(type) ? -(m * (float)block->min[h]) : m;
        for (int j = h * QUANT_BLOCK / 2; j < (h + 1) * QUANT_BLOCK / 2; j++) {
            const float product = scale * (float)code_to_whole(type, block->codes[j]);
            out[j] = type_has_minimum(type) ? product + minimum : product;
        }
    }
}

/* --- rows --- */

static void half_row_to_float(const uint8_t *src, float *dst, int64_t n, bool brain) {
    for (int64_t i = 0; i < n; i++) {
        const uint16_t bits = half_at(src + i * 2);
        dst[i] = brain ? float_from_bits((uint32_t)bits << 16) : half_to_float(bits);
    }
}

void dtype_row_to_float(enum dtype type, const void *src, float *dst, int64_t n_cols) {
    switch (type) {
    case DTYPE_F32:
        memcpy(dst, src, (size_t)n_cols * sizeof *dst);
        return;
    case DTYPE_F16:
    case DTYPE_BF16:
        half_row_to_float(src, dst, n_cols, type == DTYPE_BF16);
        return;
    default:
        break;
    }
    for (int64_t b = 0; b < n_cols / QUANT_BLOCK; b++) {
        struct plain_block block;
        plain_block_read(type, src, b, &block);
        plain_block_to_float(type, &block, dst + b * QUANT_BLOCK);
    }
}
