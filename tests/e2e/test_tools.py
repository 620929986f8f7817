"""`foresay bench` and `foresay inspect` on a small random model: what they print, and what they refuse."""

import json
import os
import pathlib
import re
import subprocess
import sys

import gguf
import pytest
from conftest import MODEL, REAL

MAKE_MODEL = pathlib.Path(__file__).parents[1] / "make_model.py"
SHORT = ["--runs", "1", "--generate", "8", "--prompt", "40", "--batch", "1,3", "--rows", "1,4", "--context", "32,300", "--depth", "20"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    subprocess.run([sys.executable, MAKE_MODEL, "--shape", "tiny", "--type", "q4_k_m", "--out", path], check=True)
    return path


def run(*args):
    env = {name: value for name, value in os.environ.items() if not name.startswith("FORESAY_")}  # they are settings too
    return subprocess.run([REAL, *map(str, args)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)


def refused(result, *words, code):
    assert result.returncode == code and result.stdout == ""
    message = result.stderr.strip().splitlines()[-1]
    assert all(word in message for word in words), message


# --- bench ---


def test_bench_measures_every_part(model):
    result = run("bench", "--model", model, "--json", *SHORT)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [p["tokens"] for p in report["prefill"]] == [40]
    assert [d["batch"] for d in report["decode"]] == [1, 3]
    assert [v["rows"] for v in report["verify"]] == [1, 4]
    assert [c["tokens"] for c in report["context"]] == [32, 300]
    for part, unit in [("prefill", "tok_s"), ("decode", "tok_s"), ("verify", "ms"), ("context", "ms")]:
        assert all(point[unit] > 0 for point in report[part])
    assert 0 < report["kv_waste"] < 0.1 and report["kv_mean_tokens"] > 100
    if report["isa"] != "scalar":
        assert report["read_gb_s"] > 0 and report["int8_tops"] > 0 and report["decode_read_share"] > 0
    tensors = {t.name: t for t in gguf.GGUFReader(model).tensors}
    blocks = sum(int(t.n_elements) for name, t in tensors.items() if name.startswith("blk.") and "norm" not in name)
    assert report["layer_ops_per_token"] == 2 * blocks
    read = sum(int(t.n_bytes) for name, t in tensors.items() if "norm" not in name and name != "token_embd.weight")
    assert read <= report["weight_bytes_per_token"] < 1.1 * read
    token = 2 * 2 * (2 * 64 + 4)  # layers, heads of keys and of values, their codes and scales
    assert 20 * token <= report["kv_bytes_per_token"] < 150 * token


def test_bench_runs_the_parts_that_are_asked_for(model):
    result = run("bench", "--model", model, "--json", "--only", "verify", *SHORT)
    report = json.loads(result.stdout)
    assert "verify" in report and not {"prefill", "decode", "context", "kv_waste", "read_gb_s"} & report.keys()


@pytest.mark.real_model
def test_a_loaded_model_lies_in_memory_once():
    report = inspect(MODEL)
    weights, buffers = mib(value(report, "weights"))[0], mib(value(report, "buffers"))[0]
    result = run("bench", "--model", MODEL, "--json", "--only", "verify", "--rows", "1")
    peak = json.loads(result.stdout)["peak_memory_bytes"] / 2**20
    assert weights < peak < weights + buffers + 50  # the file's own pages would be 94 more


def test_bench_works_in_plain_c_with_small_keys_and_values(model):
    report = json.loads(run("bench", "--model", model, "--json", "--isa", "scalar", "--kv-type", "int4", "--only", "decode", "--batch", "1", "--generate", "4", "--depth", "8").stdout)
    assert report["isa"] == "scalar" and report["kv_type"] == "int4" and "int8_tops" not in report and report["decode"][0]["tok_s"] > 0


def test_bench_prints_a_table(model):
    result = run("bench", "--model", model, *SHORT)
    assert result.returncode == 0
    for line in [r"prefill +40 tokens", r"decode, batch +3 ", r"step of +4 rows", r"decode behind +300 ", r"KV blocks .* %", r"peak memory .* MiB"]:
        assert re.search(line, result.stdout), line


def test_bench_guesses_with_the_drafter_that_is_named(model):
    def lines(*options):
        result = run("bench", "--model", model, "--json", "--speculative", "--batch", "1", "--generate", "8", "--runs", "1", *options)
        return [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{"class"')]

    assert len(lines("--drafter", "suffix")) == 20
    assert sum(line["drafted_tokens"] for line in lines("--drafter", "suffix")) > 0
    assert sum(line["drafted_tokens"] for line in lines("--drafter", "none")) == 0


def test_bench_refuses_what_it_cannot_do(model, tmp_path):
    refused(run("bench"), "--model is needed", code=2)
    refused(run("bench", "--model", tmp_path / "no.gguf"), "no.gguf", code=1)
    for option, value in [("--batch", "1,,2"), ("--batch", "0"), ("--batch", "2000"), ("--rows", "4,"), ("--prompt", "x"), ("--rows", "1000")]:
        refused(run("bench", "--model", model, option, value), option, f'"{value}"', "list", code=2)
    refused(run("bench", "--model", model, "--only", "prefill,deocde"), '"deocde"', "context and blocks", code=2)
    refused(run("bench", "--model", model, "--prompt", "40,5000"), "--prompt", "5000", code=1)
    refused(run("bench", "--model", model, "--context", "5000"), "--context", "5000", code=1)
    refused(run("bench", "--model", model, "--depth", "2040"), "--depth 2040", "2048", code=1)
    refused(run("bench", "--model", model, "--isa", "mmx"), "mmx", code=1)
    refused(run("bench", "--model", model, "--kv-type", "int3"), "int3", code=1)


# --- inspect ---


def inspect(path, *args):
    result = run("inspect", path, *args)
    assert result.returncode == 0 and result.stderr == ""
    return result.stdout


def value(report, label):
    return re.search(rf"^ *{label} +(.*)$", report, re.M)[1]


def mib(text):
    return [float(number) * (1024 if unit == "GiB" else 1) for number, unit in re.findall(r"([\d.]+) ([MG]iB)", text)]


def with_type(data, name, number):
    """The file's bytes with another type for a matrix; the type's blocks must be as large."""
    at = data.index(name) + len(name) + 4 + 2 * 8
    return data[:at] + number.to_bytes(4, "little") + data[at + 4:]


def test_inspect_counts_as_the_gguf_package_does(model):
    report = inspect(model, "--tensors")
    reader = gguf.GGUFReader(model)
    assert value(report, "family") == "llama" and value(report, "name") == "Random TINY"
    total = sum(int(t.n_elements) for t in reader.tensors)
    assert value(report, "parameters").startswith(f"{total} ({total / 1e6:.1f} million) in {len(reader.tensors)} tensors")
    kinds = {t.tensor_type.name for t in reader.tensors}
    for kind in kinds:
        mine = [t for t in reader.tensors if t.tensor_type.name == kind]
        n, size = sum(int(t.n_elements) for t in mine), sum(int(t.n_bytes) for t in mine)
        assert re.search(rf"^  {kind} +{len(mine)} tensors +{n} parameters +{size / 2**20:.1f} MiB$", report, re.M), kind
    assert kinds == {"Q4_K", "Q6_K", "F32"}
    for t in reader.tensors:
        shape = " ".join(str(int(n)) for n in t.shape)
        assert re.search(rf"^{re.escape(t.name)} +{t.tensor_type.name} +{shape}$", report, re.M)
    assert value(report, "runs here") == "yes"


def test_inspect_tells_the_memory_that_is_needed(model):
    report = inspect(model)
    size = sum(int(t.n_bytes) for t in gguf.GGUFReader(model).tensors) / 2**20
    weights, read = mib(value(report, "weights"))
    assert size - 0.1 < weights < 1.2 * size + 0.1 and read < weights
    kv, int8, int4 = mib(value(report, "keys, values"))
    assert abs(kv - 1000 * 2 * 2 * 2 * 64 * 2 / 2**20) < 0.1  # layers, K and V, heads, head_dim, bytes
    assert kv / 4 < int4 < int8 < 0.6 * kv
    assert re.search(r"MiB \(f16\), .* \(int8\), .* \(int4\) for 1,000 tokens", value(report, "keys, values"))
    [buffers] = mib(value(report, "buffers"))
    needed = mib(value(report, "memory"))[0]
    assert abs(needed - weights - buffers - 2.048 * int8) < 0.2  # what heads of 64 get by default
    assert "one conversation of 2048 tokens" in value(report, "memory")


@pytest.mark.parametrize("change, words", [
    (lambda data: data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lamma", 1), ["lamma", "llama"]),
    (lambda data: with_type(data, b"blk.1.ffn_up.weight", 40), ["blk.1.ffn_up.weight", "NVFP4", "Q4_K"]),
    (lambda data: data.replace(b"blk.1.attn_q.weight", b"blk.1.attn_Q.weight"), ["blk.1.attn_q.weight"]),
    (lambda data: data.replace(b"blk.1.attn_norm.weight", b"blk.9.attn_norm.weight"), ["attn_norm.weight"]),
    (lambda data: data.replace(b"tokenizer.ggml.merges", b"tokenizer.ggml.mergez"), ["merges"]),
], ids=["family", "type", "missing", "norm", "merges"])
def test_inspect_says_why_a_model_cannot_run(model, tmp_path, change, words):
    data = model.read_bytes()
    changed = change(data)
    assert changed != data and len(changed) == len(data)
    path = tmp_path / "changed.gguf"
    path.write_bytes(changed)
    report = inspect(path)
    assert value(report, "runs here").startswith("no: ") and all(word in value(report, "runs here") for word in words), report
    assert str(tmp_path) not in value(report, "runs here")
    refused(run("bench", "--model", path), *words, code=1)


def test_inspect_refuses_what_is_no_gguf_file(tmp_path):
    refused(run("inspect"), "name one file", code=2)
    refused(run("inspect", tmp_path / "no.gguf"), "no.gguf", code=1)
    (tmp_path / "text.gguf").write_text("This is no model. " * 100)
    refused(run("inspect", tmp_path / "text.gguf"), "text.gguf", code=1)
