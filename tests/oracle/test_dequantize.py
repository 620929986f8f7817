"""Protects the reading of weights: every type to floats, bit for bit as the `gguf` package does it, from random bytes and from its own
quantisers."""

import os
import pathlib
import subprocess

import pytest

np = pytest.importorskip("numpy")
gguf = pytest.importorskip("gguf")

PROGRAM = pathlib.Path(os.environ.get("FORESAY_BIN", "build/foresay")).parent / "tests" / "check_dequantize"
pytestmark = pytest.mark.skipif(not PROGRAM.is_file(), reason="check_dequantize is not built")

TYPES = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL".split()
QUANTISED_BY_GGUF = "BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0".split()
ROWS, COLS = 64, 768


def ours(name, data):
    result = subprocess.run([PROGRAM, name, str(COLS)], input=data.tobytes(), stdout=subprocess.PIPE, check=True, timeout=60)
    return np.frombuffer(result.stdout, dtype=np.float32).reshape(-1, COLS)


def theirs(name, data):
    with np.errstate(all="ignore"):
        return gguf.dequantize(data, gguf.GGMLQuantizationType[name]).astype(np.float32)


def assert_same_bits(name, data):
    expected, got = theirs(name, data), ours(name, data)
    assert expected.shape == got.shape == (ROWS, COLS)
    same = (expected.view(np.uint32) == got.view(np.uint32)) | (np.isnan(expected) & np.isnan(got)) | ((expected == 0) & (got == 0))
    assert same.all(), f"{np.count_nonzero(~same)} of {same.size} differ, first: {expected[~same][0]!r}, ours {got[~same][0]!r}"
    return expected


def random_bytes(name, seed):
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    data = np.random.default_rng(seed).integers(0, 256, (ROWS, COLS // block * size), dtype=np.uint8)
    return data.view({"F32": np.float32, "F16": np.float16}.get(name, np.uint8))


@pytest.mark.parametrize("name", TYPES)
def test_random_bytes(name):
    floats = assert_same_bits(name, random_bytes(name, seed=5))
    assert np.isfinite(floats).mean() > 0.8  # most of the halves are numbers


@pytest.mark.parametrize("name", QUANTISED_BY_GGUF)
def test_quantised_weights(name):
    weights = np.random.default_rng(6).standard_normal((ROWS, COLS), dtype=np.float32)
    floats = assert_same_bits(name, gguf.quantize(weights, gguf.GGMLQuantizationType[name]))
    assert np.abs(floats - weights).max() < 0.5
