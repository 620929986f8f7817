"""Quantisers for the types that the gguf package only reads: each weight to the nearest value that its block can hold, the scales from the
largest weights. Plain, not the best that can be done: what counts is that the blocks are valid and look like real ones.

    quantise("Q4_K", floats)  ->  uint8 [rows, bytes], for every type (those of the gguf package go there)
"""

import gguf
import numpy as np

IQ4_NL_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32)


def half(x):
    """Rounded to half floats, and their bytes [n, 2]."""
    halves = x.astype(np.float16)
    return halves.astype(np.float32), halves.view(np.uint8).reshape(len(x), 2)


def over(x, step):
    return np.divide(x, step, out=np.zeros_like(x), where=step != 0)


def interleave(codes, shifts):
    """codes [n, groups, len(shifts), bytes]: one byte takes a code of each shift."""
    shifts = np.array(shifts, dtype=np.uint8).reshape(1, 1, -1, 1)
    return np.bitwise_or.reduce(codes << shifts, axis=2).reshape(len(codes), -1)


def with_minima(x, width, largest_code, largest_scale):
    """x ~= d * scale * code - dmin * minimum, width weights to a scale."""
    x = x.reshape(len(x), -1, width)
    low = np.minimum(x.min(axis=2), 0)
    step = (x.max(axis=2) - low) / largest_code
    (d, d_bytes), (dmin, dmin_bytes) = half(step.max(axis=1) / largest_scale), half(-low.min(axis=1) / largest_scale)
    scale = np.clip(np.rint(over(step, d[:, None])), 0, largest_scale)
    minimum = np.clip(np.rint(over(-low, dmin[:, None])), 0, largest_scale)
    code = over(x + (dmin[:, None] * minimum)[:, :, None], (d[:, None] * scale)[:, :, None])
    code = np.clip(np.rint(code), 0, largest_code).astype(np.uint8)
    return code, scale.astype(np.uint8), minimum.astype(np.uint8), d_bytes, dmin_bytes


def symmetric(x, most_negative, largest_scale):
    """x ~= d * scale * code, code from most_negative to -most_negative - 1, 16 weights to a scale."""
    x = x.reshape(len(x), -1, 16)
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    step = peak / most_negative
    d, d_bytes = half(np.abs(step).max(axis=1) / largest_scale)
    scale = np.clip(np.rint(over(step, d[:, None])), -largest_scale, largest_scale)
    code = np.clip(np.rint(over(x, (d[:, None] * scale)[:, :, None])), most_negative, -most_negative - 1)
    return (code - most_negative).astype(np.uint8), scale.astype(np.int8), d_bytes


def q2_k(x):
    code, scale, minimum, d, dmin = with_minima(x, 16, 3, 15)
    return [scale | minimum << 4, interleave(code.reshape(-1, 2, 4, 32), [0, 2, 4, 6]), d, dmin]


def q3_k(x):
    code, scale, d = symmetric(x, -4, 31)
    stored = (scale + 32).astype(np.uint8)
    low = interleave((stored & 15).reshape(-1, 1, 2, 8), [0, 4])
    high = interleave((stored >> 4).reshape(-1, 1, 4, 4), [0, 2, 4, 6])
    return [
        interleave((code >> 2).reshape(-1, 1, 8, 32), range(8)),
        interleave((code & 3).reshape(-1, 2, 4, 32), [0, 2, 4, 6]),
        low,
        high,
        d,
    ]


def six_bit_pairs(scale, minimum):
    return [
        scale[:, :4] | scale[:, 4:] >> 4 << 6,
        minimum[:, :4] | minimum[:, 4:] >> 4 << 6,
        scale[:, 4:] & 15 | (minimum[:, 4:] & 15) << 4,
    ]


def q4_k(x):
    code, scale, minimum, d, dmin = with_minima(x, 32, 15, 63)
    return [d, dmin, *six_bit_pairs(scale, minimum), interleave(code.reshape(-1, 4, 2, 32), [0, 4])]


def q5_k(x):
    code, scale, minimum, d, dmin = with_minima(x, 32, 31, 63)
    high = interleave((code >> 4).reshape(-1, 1, 8, 32), range(8))
    return [d, dmin, *six_bit_pairs(scale, minimum), high, interleave((code & 15).reshape(-1, 4, 2, 32), [0, 4])]


def q6_k(x):
    code, scale, d = symmetric(x, -32, 127)
    low = interleave((code & 15).reshape(-1, 2, 2, 64), [0, 4])
    return [low, interleave((code >> 4).reshape(-1, 2, 4, 32), [0, 2, 4, 6]), scale.view(np.uint8), d]


def iq4_nl(x):
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)[:, 0]
    d, d_bytes = half(peak / IQ4_NL_VALUES[0])
    between = (IQ4_NL_VALUES[1:] + IQ4_NL_VALUES[:-1]) / 2
    code = np.searchsorted(between, over(x, d[:, None])).astype(np.uint8)
    return [d_bytes, interleave(code.reshape(-1, 1, 2, 16), [0, 4])]


OWN = {"Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k, "IQ4_NL": iq4_nl}


def quantise(name, x):
    kind = gguf.GGMLQuantizationType[name]
    x = np.ascontiguousarray(x, dtype=np.float32)
    if name not in OWN:
        return gguf.quantize(x, kind).reshape(len(x), -1).view(np.uint8)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.concatenate([part.reshape(-1, part.shape[-1]) for part in OWN[name](x.reshape(-1, block))], axis=1)
    assert out.shape[1] == size
    return out.reshape(len(x), -1)
