"""make_model.py - writes a GGUF file of the llama architecture with random weights, in the shape of a model that people have.

    python tests/make_model.py --shape 1b --type q4_0 --out model.gguf

For measuring how cost grows with size without downloading anything: the bytes of a block are drawn at random, scales are chosen so that
activations stay finite, and time does not depend on the values. The text such a model gives is noise. The vocabulary is a byte-level BPE of
256 bytes and a few merges (" the" is one token), filled up to the shape's size with names that no text produces. Needs numpy only.
"""
import argparse
import struct
import sys

import numpy

# Of the published models of these sizes: Llama 3.2 1B and 3B (tied head), Mistral 7B, and SmolLM2 135M for quick tries.
SHAPES = {
    "tiny": dict(layers=2, width=256, ffn=512, heads=4, kv_heads=2, vocab=600, tied=False, ctx=2048),  # for tests
    "135m": dict(layers=30, width=576, ffn=1536, heads=9, kv_heads=3, vocab=49152, tied=True, ctx=8192),
    "1b": dict(layers=16, width=2048, ffn=8192, heads=32, kv_heads=8, vocab=128256, tied=True, ctx=8192),
    "3b": dict(layers=28, width=3072, ffn=8192, heads=24, kv_heads=8, vocab=128256, tied=True, ctx=8192),
    "7b": dict(layers=32, width=4096, ffn=14336, heads=32, kv_heads=8, vocab=32000, tied=False, ctx=8192),
}
F32, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K = 0, 2, 3, 8, 12, 14  # ggml's numbers
BLOCK = {Q4_0: (32, 18), Q4_1: (32, 20), Q8_0: (32, 34), Q4_K: (256, 144), Q6_K: (256, 210)}  # weights, bytes
# What quantizers make of a file: the type of most matrices, and of embedding and head.
TYPES = {"q4_0": (Q4_0, Q8_0), "q4_1": (Q4_1, Q8_0), "q8_0": (Q8_0, Q8_0), "q4_k_m": (Q4_K, Q6_K)}
ALIGNMENT = 32


def halves(values):
    return values.astype("<f2").view(numpy.uint8).reshape(-1, 2)


def blocks(rng, kind, n, sigma):
    """n blocks whose weights have about the standard deviation sigma, as bytes."""
    out = rng.integers(0, 256, (n, BLOCK[kind][1]), dtype=numpy.uint8)
    spread = rng.uniform(0.75, 1.25, n) * sigma
    if kind == Q4_0:  # w = d (q - 8), q spread evenly over 16 values: standard deviation 4.6 d
        out[:, 0:2] = halves(spread / 4.6)
    elif kind == Q4_1:  # w = d q + m
        out[:, 0:2] = halves(spread / 4.6)
        out[:, 2:4] = halves(spread / 4.6 * -7.5)
    elif kind == Q8_0:  # w = d q, standard deviation 74 d
        out[:, 0:2] = halves(spread / 74)
    elif kind == Q4_K:  # w = d s q - dmin m with 6-bit s and m: equal ones and dmin = 7.5 d put the mean at zero
        out[:, 0:2] = halves(spread / (4.6 * 48))
        out[:, 2:4] = halves(spread / (4.6 * 48) * 7.5)
        low, high = rng.integers(32, 64, (2, n, 4), dtype=numpy.uint8)  # scales of sub-blocks 0..3 and 4..7
        out[:, 4:8] = out[:, 8:12] = low | high >> 4 << 6
        out[:, 12:16] = (high & 15) | (high & 15) << 4
    else:  # Q6_K: w = d s (q - 32), s an int8 for 16 weights
        scales = rng.integers(64, 128, (n, 16), dtype=numpy.uint8)
        negative = rng.integers(0, 2, (n, 16), dtype=numpy.uint8)
        out[:, 192:208] = scales ^ negative * 255
        out[:, 208:210] = halves(spread / (18.5 * 96))
    return out


class Writer:
    """Keys and tensor descriptions collected first, then the data streamed."""

    def __init__(self):
        self.keys, self.n_keys, self.tensors, self.at = bytearray(), 0, [], 0

    def string(self, text):
        data = text.encode()
        return struct.pack("<Q", len(data)) + data

    def key(self, name, kind, data):
        self.keys += self.string(name) + struct.pack("<I", kind) + data
        self.n_keys += 1

    def u32(self, name, value):
        self.key(name, 4, struct.pack("<I", value))

    def f32(self, name, value):
        self.key(name, 6, struct.pack("<f", value))

    def text(self, name, value):
        self.key(name, 8, self.string(value))

    def array(self, name, kind, items):
        self.key(name, 9, struct.pack("<IQ", kind, len(items)) + b"".join(items))

    def tensor(self, name, kind, rows, cols, sigma):
        per, size = BLOCK.get(kind, (1, 4))
        assert cols % per == 0, f"{name}: {cols} columns do not suit the type"
        n_bytes = rows * cols // per * size
        self.tensors.append((name, kind, rows, cols, sigma, self.at))
        self.at += (n_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT

    def save(self, path, seed):
        rng = numpy.random.Generator(numpy.random.SFC64(seed))
        with open(path, "wb") as file:
            file.write(b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), self.n_keys) + self.keys)
            for name, kind, rows, cols, _, offset in self.tensors:
                dims = [cols] if rows == 1 else [cols, rows]
                file.write(self.string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset))
            file.write(bytes(-file.tell() % ALIGNMENT))
            for name, kind, rows, cols, sigma, _ in self.tensors:
                if kind == F32:
                    file.write(rng.normal(1, sigma, rows * cols).astype("<f4").tobytes())
                else:
                    n = rows * cols // BLOCK[kind][0]
                    for first in range(0, n, 1 << 18):
                        file.write(blocks(rng, kind, min(n - first, 1 << 18), sigma).data)
                file.write(bytes(-file.tell() % ALIGNMENT))


def byte_names():
    """The printable stand-ins of the 256 bytes in byte-level vocabularies."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) if b in plain else chr(256 + others.index(b)) for b in range(256)]


def write_vocabulary(w, size):
    merges = ["t h", "th e", "Ġ the", "i n", "a n", "an d", "Ġ and"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = special + byte_names() + [m.replace(" ", "") for m in merges]
    tokens += [f"<unused{i}>" for i in range(size - len(tokens))]
    w.text("tokenizer.ggml.model", "gpt2")
    w.text("tokenizer.ggml.pre", "smollm")
    w.array("tokenizer.ggml.tokens", 8, [w.string(t) for t in tokens])
    w.array("tokenizer.ggml.token_type", 5, [struct.pack("<i", 3 if i < 3 else 1) for i in range(size)])
    w.array("tokenizer.ggml.merges", 8, [w.string(m) for m in merges])
    w.u32("tokenizer.ggml.bos_token_id", 1)
    w.u32("tokenizer.ggml.eos_token_id", 2)
    w.text("tokenizer.chat_template",
           "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
           "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def describe(w, shape, main, outer):
    width, ffn = shape["width"], shape["ffn"]
    head_dim = width // shape["heads"]
    kv = shape["kv_heads"] * head_dim
    w.tensor("token_embd.weight", outer, shape["vocab"], width, 0.35)
    for i in range(shape["layers"]):
        better = Q6_K if main == Q4_K and i % 2 == 0 else main  # Q4_K_M spends more on these, in about half of the layers
        w.tensor(f"blk.{i}.attn_norm.weight", F32, 1, width, 0.1)
        for name, kind, rows, cols in [("attn_q", main, width, width), ("attn_k", main, kv, width), ("attn_v", better, kv, width),
                                       ("attn_output", main, width, width)]:
            w.tensor(f"blk.{i}.{name}.weight", kind, rows, cols, cols**-0.5)
        w.tensor(f"blk.{i}.ffn_norm.weight", F32, 1, width, 0.1)
        for name, kind, rows, cols in [("ffn_gate", main, ffn, width), ("ffn_up", main, ffn, width), ("ffn_down", better, width, ffn)]:
            w.tensor(f"blk.{i}.{name}.weight", kind, rows, cols, cols**-0.5)
    w.tensor("output_norm.weight", F32, 1, width, 0.1)
    if not shape["tied"]:
        w.tensor("output.weight", outer, shape["vocab"], width, width**-0.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--type", choices=TYPES, default="q4_0")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    shape, (main_type, outer_type) = SHAPES[args.shape], TYPES[args.type]
    if shape["width"] % BLOCK[main_type][0]:
        sys.exit(f"width {shape['width']} does not suit blocks of {BLOCK[main_type][0]}: choose q4_0, q4_1 or q8_0")
    w = Writer()
    w.text("general.architecture", "llama")
    w.text("general.name", f"Random {args.shape.upper()}")
    for name, value in [("block_count", "layers"), ("context_length", "ctx"), ("embedding_length", "width"),
                        ("feed_forward_length", "ffn"), ("attention.head_count", "heads"), ("attention.head_count_kv", "kv_heads")]:
        w.u32(f"llama.{name}", shape[value])
    w.u32("llama.rope.dimension_count", shape["width"] // shape["heads"])
    w.u32("llama.vocab_size", shape["vocab"])
    w.f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    w.f32("llama.rope.freq_base", 500000)
    write_vocabulary(w, shape["vocab"])
    describe(w, shape, main_type, outer_type)
    w.save(args.out, args.seed)


if __name__ == "__main__":
    main()
