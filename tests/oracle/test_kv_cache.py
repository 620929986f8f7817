"""Protects the quality of quantised keys and values: perplexity beside half floats, and a number found again in a longer text.

Beside the noise of int8 activations, some 0.3 % on the 1,000 tokens here, what a type costs is small, so the bounds are those of the
README with activations of 16 bits, and with those of 8 bits that noise more. README.md has the numbers over a longer text. Both sides are
our own, whose bits depend on nothing, so a ratio is the same number in every run.

Run as a program it prints how often a pass key is found, by length and type: tests/oracle/test_kv_cache.py [LENGTH ...]
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

BIN = os.environ.get("FORESAY_BIN", "build/foresay")
MODEL = pathlib.Path(os.environ.get("FORESAY_MODEL", ""))
GEMMA = pathlib.Path(os.environ.get("FORESAY_GEMMA", ""))
pytestmark = pytest.mark.skipif(not MODEL.is_file(), reason="FORESAY_MODEL names no file")

TYPES = ["f16", "int8", "int4"]
NOISE = {"int16": 0, "int8": 0.003}  # by activations
BOUNDS = {"int8": 0.003, "int4": 0.03}
WINDOWS = 4
LICENSE = pathlib.Path("/usr/share/common-licenses/GPL-3")  # English on every Debian
KEY = "71432"


def foresay(*arguments):
    return subprocess.run([BIN, *map(str, arguments)], stdout=subprocess.PIPE, check=True, timeout=900).stdout.decode()


def perplexity(model, kv_type, activations):
    output = foresay("perplexity", "--model", model, "--file", LICENSE, "--windows", WINDOWS, "--kv-type", kv_type, "--activations", activations)
    return float(re.search(r"PPL = ([0-9.]+)", output).group(1))


@pytest.mark.parametrize("activations", NOISE)
@pytest.mark.parametrize("model", [MODEL, GEMMA], ids=["smollm2", "gemma"])
def test_perplexity_stays(model, activations):
    if not model.is_file() or not LICENSE.exists():
        pytest.skip("no model file, or no English text on this machine")
    plain = perplexity(model, "f16", activations)
    for kv_type, bound in BOUNDS.items():
        ratio = perplexity(model, kv_type, activations) / plain
        print(f"{model.name}, activations {activations}: {kv_type} {ratio:.4f} of f16's {plain:.4f}")
        assert abs(ratio - 1) < bound + NOISE[activations]


def answer(n_words, depth, kv_type):
    """What the model says about a key at `depth` (0 .. 1) of n_words words of text."""
    words = re.sub(r"\s+", " ", LICENSE.read_text(encoding="utf-8")).split(" ")
    words = (words * 3)[:n_words]
    at = int(n_words * depth)
    text = " ".join([*words[:at], f"\n\nThe pass key is {KEY}. Remember it: {KEY} is the pass key.\n\n", *words[at:]])
    question = f"Somewhere in this text is a pass key. Find it.\n\n{text}\n\nWhat is the pass key?"
    output = foresay(
        "generate", "--model", MODEL, "--chat", question, "-n", 16, "--temp", 0, "--kv-type", kv_type, "--ctx", 8192, "--json"
    )
    return json.loads(output)


def n_found(answers):
    return sum(KEY in a["text"] for a in answers)


def answers(n_words, kv_type):
    return [answer(n_words, depth, kv_type) for depth in (0.1, 0.3, 0.5, 0.7, 0.9)]


def test_the_pass_key_is_found():
    """So small a model misses some keys with half floats too: the other types may miss one more."""
    found = {kv_type: n_found(answers(300, kv_type)) for kv_type in TYPES}
    assert found["f16"] >= 2 and min(found.values()) >= found["f16"] - 1, found


if __name__ == "__main__":
    for n_words in map(int, sys.argv[1:] or ["300", "700", "1400", "2800"]):
        for kv_type in TYPES:
            result = answers(n_words, kv_type)
            print(f"{result[0]['prompt_tokens']:5d} tokens, {kv_type}: found {n_found(result)} of {len(result)}", flush=True)
