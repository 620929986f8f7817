"""Protects the arithmetic of every weight type: the real models' matrices, quantised again to each type, give the perplexity of
transformers (float32) with the same file's weights dequantised by the gguf package.

Matrices whose rows do not suit a K type's blocks of 256 take another type, as in files that people have (FALLBACK); the printed line says
how many weights each type carries. By default three types of SmolLM2 on about 500 tokens, where activations rounded to int8 leave up to a
percent of noise: that finds wrong arithmetic. With FORESAY_ALL_TYPES=1 (make oracle-types) all types of both models on ten times as many,
within 0.5 %. Keys and values stay half floats: what int8 does to them is test_kv_cache.py's.
"""

import copy
import functools
import os
import struct

import pytest

np = pytest.importorskip("numpy")
gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from quantisers import quantise  # noqa: E402
from real_models import english, perplexities, real_model  # noqa: E402

TYPES = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL".split()
FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
ALL = os.environ.get("FORESAY_ALL_TYPES")
RUNS = [("FORESAY_MODEL", t) for t in (TYPES if ALL else ["Q3_K", "Q5_1", "IQ4_NL"])]
RUNS += [("FORESAY_GEMMA", t) for t in (TYPES if ALL else [])]
TEXT_BYTES, TOLERANCE = (50_000, 0.005) if ALL else (5_000, 0.02)
TEXT_BYTES = int(os.environ.get("FORESAY_TEXT_BYTES", TEXT_BYTES))  # up to 220,000

NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def parameter_name(name):
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.weight"


def as_parameter(name, weight, config):
    """Files of the llama architecture have the rows of q and k in pairs; transformers has them in halves."""
    if config.model_type == "llama" and ("attn_q" in name or "attn_k" in name):
        pairs = weight.reshape(-1, config.head_dim // 2, 2, weight.shape[1])
        weight = pairs.swapaxes(1, 2).reshape(weight.shape)
    return torch.from_numpy(np.ascontiguousarray(weight))


def floats(tensor):
    return gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape.tolist())))


def write_like(reader, path, tensors):
    """A file with the reader's keys and other tensors: (name, shape as GGUF has it, type, bytes)."""
    keys_end = min(t.field.offset for t in reader.tensors)
    with open(path, "wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), struct.unpack("<Q", reader.data[16:24].tobytes())[0]))
        file.write(reader.data[24:keys_end].tobytes())
        offset = 0
        for name, shape, kind, data in tensors:
            name = name.encode()
            file.write(struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
            file.write(struct.pack("<IQ", kind, offset))
            offset += data.nbytes + -data.nbytes % reader.alignment
        file.write(bytes(-file.tell() % reader.alignment))
        for _, _, _, data in tensors:
            file.write(data.tobytes() + bytes(-data.nbytes % reader.alignment))


def type_for(name, n_cols):
    block, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    return name if n_cols % block == 0 else FALLBACK[name]


@functools.cache
def floats_of(model):
    """The file's matrices by name, and a copy of the oracle to write others into."""
    oracle = copy.deepcopy(model.oracle)
    parameters = dict(oracle.named_parameters())
    matrices = {t.name: floats(t) for t in gguf.GGUFReader(model.path).tensors if len(t.shape) > 1}
    for name, weight in matrices.items():
        assert torch.equal(as_parameter(name, weight, oracle.config), parameters[parameter_name(name)])  # as transformers reads it
    return matrices, oracle


def requantise(model, name, path):
    """Writes the file; returns the oracle with the same weights, and how many weights each type carries."""
    reader = gguf.GGUFReader(model.path)
    matrices, oracle = floats_of(model)
    parameters = dict(oracle.named_parameters())
    tensors, carried = [], {}
    for tensor in reader.tensors:
        used, data = tensor.tensor_type.name, tensor.data
        if tensor.name in matrices:
            weight = matrices[tensor.name]
            used = type_for(name, weight.shape[1])
            data = quantise(used, weight)
            carried[used] = carried.get(used, 0) + weight.size
            raw = data.view({"F32": np.float32, "F16": np.float16}.get(used, np.uint8))
            rounded = gguf.dequantize(raw, gguf.GGMLQuantizationType[used]).astype(np.float32)
            with torch.no_grad():
                parameters[parameter_name(tensor.name)].copy_(as_parameter(tensor.name, rounded, oracle.config))
        tensors.append((tensor.name, tensor.shape.tolist(), gguf.GGMLQuantizationType[used], data))
    write_like(reader, path, tensors)
    return oracle, carried


@pytest.mark.parametrize("variable,name", RUNS)
def test_perplexity(variable, name, tmp_path):
    model, path = real_model(variable), tmp_path / "model.gguf"
    oracle, carried = requantise(model, name, path)
    ours, theirs = perplexities(model, path, oracle, english(TEXT_BYTES), tmp_path, "--kv-type", "f16")
    path.unlink()
    share = ", ".join(f"{used} {100 * n / sum(carried.values()):.0f} %" for used, n in carried.items())
    print(f"\n{model.path.name} as {name} ({share}): ours {ours:.4f}, transformers {theirs:.4f}, {100 * (ours / theirs - 1):+.2f} %")
    assert abs(ours / theirs - 1) < TOLERANCE
