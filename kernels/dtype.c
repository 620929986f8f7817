/* dtype.c - element types of weights: names, sizes, and one row from the file's layout to floats.
 *
 *  (1) A half float is converted by integer arithmetic alone, and to the bit as F16C does it: subnormals, infinities and the
 *      quieting of NaNs included. So the scalar backend and the vector ones write the same KV cache.
 *  (2) d * q is exact in a float (11 by 8 bits), hence "d * q + m" has one rounding whichever way it is computed.
 * Any thread. */
#include "kernels/kernels.h"

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
};

const char *dtype_name(enum dtype type) { return infos[type].name; }

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

static void q4_0_to_float(const uint8_t *src, float *dst, int64_t n_blocks) {
    for (int64_t b = 0; b < n_blocks; b++, src += sizeof(struct block_q4_0), dst += QUANT_BLOCK) {
        struct block_q4_0 block;
        memcpy(&block, src, sizeof block);
        const float d = half_to_float(block.d);
        for (int j = 0; j < QUANT_BLOCK / 2; j++) {
            dst[j] = d * (float)((block.qs[j] & 15) - 8);
            dst[j + QUANT_BLOCK / 2] = d * (float)((block.qs[j] >> 4) - 8);
        }
    }
}

static void q4_1_to_float(const uint8_t *src, float *dst, int64_t n_blocks) {
    for (int64_t b = 0; b < n_blocks; b++, src += sizeof(struct block_q4_1), dst += QUANT_BLOCK) {
        struct block_q4_1 block;
        memcpy(&block, src, sizeof block);
        const float d = half_to_float(block.d), m = half_to_float(block.m);
        for (int j = 0; j < QUANT_BLOCK / 2; j++) {
            dst[j] = d * (float)(block.qs[j] & 15) + m;
            dst[j + QUANT_BLOCK / 2] = d * (float)(block.qs[j] >> 4) + m;
        }
    }
}

static void q8_0_to_float(const uint8_t *src, float *dst, int64_t n_blocks) {
    for (int64_t b = 0; b < n_blocks; b++, src += sizeof(struct block_q8_0), dst += QUANT_BLOCK) {
        struct block_q8_0 block;
        memcpy(&block, src, sizeof block);
        const float d = half_to_float(block.d);
        for (int j = 0; j < QUANT_BLOCK; j++) dst[j] = d * (float)block.qs[j];
    }
}

static void half_row_to_float(const uint8_t *src, float *dst, int64_t n, bool brain) {
    for (int64_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, src + i * 2, sizeof bits);
        dst[i] = brain ? float_from_bits((uint32_t)bits << 16) : half_to_float(bits);
    }
}

void dtype_row_to_float(enum dtype type, const void *src, float *dst, int64_t n_cols) {
    switch (type) {
    case DTYPE_F32:
        memcpy(dst, src, (size_t)n_cols * sizeof *dst);
        break;
    case DTYPE_F16:
        half_row_to_float(src, dst, n_cols, false);
        break;
    case DTYPE_BF16:
        half_row_to_float(src, dst, n_cols, true);
        break;
    case DTYPE_Q4_0:
        q4_0_to_float(src, dst, n_cols / QUANT_BLOCK);
        break;
    case DTYPE_Q4_1:
        q4_1_to_float(src, dst, n_cols / QUANT_BLOCK);
        break;
    case DTYPE_Q8_0:
        q8_0_to_float(src, dst, n_cols / QUANT_BLOCK);
        break;
    case DTYPE_COUNT:
        break;
    }
}
