"""The two real models: their files, what transformers makes of them, and the perplexity of both sides on the same windows."""

import functools
import json
import os
import pathlib
import re
import subprocess

import gguf
import pytest
import torch
import transformers

BIN = os.environ.get("FORESAY_BIN", "build/foresay")
CTX = 512
LICENSES = pathlib.Path("/usr/share/common-licenses")  # English on every Debian


class RealModel:
    """A model file and transformers' reading of it in float32; its BOS where texts begin with one."""

    def __init__(self, path):
        self.path = path
        self.oracle = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        ).eval()
        fields = gguf.GGUFReader(path).fields
        adds_bos = fields.get("tokenizer.ggml.add_bos_token")
        self.bos = int(fields["tokenizer.ggml.bos_token_id"].contents()) if adds_bos and adds_bos.contents() else None


@functools.cache
def load(path):
    return RealModel(path)


def real_model(variable):
    """The model that an environment variable names, loaded once."""
    path = pathlib.Path(os.environ.get(variable, ""))
    if not path.is_file():
        pytest.skip(f"{variable} names no file")
    return load(path)


def foresay(*arguments, stdin=None):
    result = subprocess.run([BIN, *map(str, arguments)], input=stdin, stdout=subprocess.PIPE, check=True, timeout=600)
    return result.stdout.decode()


def tokenize(model, text):
    """Our own ids, behind BOS where the model begins texts with it: that they are the right ones is test_tokenizer.py's and
    test_sentencepiece.py's subject."""
    bos = [] if model.bos is None else [model.bos]
    return bos + json.loads(foresay("tokenize", "--model", model.path, stdin=text.encode()))


def english(n_bytes):
    names = "GPL-3 MPL-2.0 Apache-2.0 GFDL-1.3 MPL-1.1 LGPL-2.1 GPL-2 CC0-1.0 GPL-1 LGPL-2 GFDL-1.2".split()
    text = "\n".join((LICENSES / name).read_text(encoding="utf-8") for name in names if (LICENSES / name).exists())[:n_bytes]
    if len(text) < n_bytes:
        pytest.skip("no English text on this machine")
    return text


def oracle_perplexity(oracle, ids, bos):
    """Each window of CTX tokens by itself, positions CTX/2 .. CTX-2 predict the next token. BOS stands in place of a window's first
    token where the model begins texts with it."""
    total, count = 0.0, 0
    for start in range(0, len(ids) - len(ids) % CTX, CTX):
        window = torch.tensor([ids[start : start + CTX]])
        if bos is not None:
            window[0, 0] = bos
        with torch.no_grad():
            hidden = oracle.model(window, use_cache=False).last_hidden_state[:, CTX // 2 : CTX - 1]
            logits = oracle.lm_head(hidden)[0]
        losses = torch.nn.functional.cross_entropy(logits, window[0, CTX // 2 + 1 :], reduction="none").double()
        total += losses.sum().item()
        count += losses.numel()
    return torch.tensor(total / count).exp().item()


def perplexity(path, text, folder, *options):
    """Of foresay with the file at path."""
    text_path = folder / "text.txt"
    text_path.write_text(text, encoding="utf-8")
    output = foresay("perplexity", "--model", path, "--file", text_path, "--ctx", CTX, *options)
    return float(re.fullmatch(r"PPL = ([0-9.]+) \+/- [0-9.]+", output.strip().splitlines()[-1]).group(1))


def perplexities(model, path, oracle, text, folder, *options):
    """Of foresay with the file at path, and of the oracle, on the same windows of the same text."""
    return perplexity(path, text, folder, *options), oracle_perplexity(oracle, tokenize(model, text), model.bos)
