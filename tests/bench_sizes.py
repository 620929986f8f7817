"""bench_sizes.py - how cost grows with the size of a model: random weights in the shapes of models that people have, made on the spot.

    build/venv/bin/python tests/bench_sizes.py --bin build/foresay [--shape 135m 1b 3b] [--type q4_0]

Each file is written (make_model.py), measured by `foresay bench` and removed again. Time does not depend on the weights' values. What does
not fit the disk or the memory that is free is left out, with a line that says so.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

import make_model

BYTES_PER_WEIGHT = {"q4_0": 0.5625, "q4_1": 0.625, "q8_0": 1.0625, "q4_k_m": 0.61}
BESIDE = 2 << 30  # bytes for keys, values, buffers and everybody else


def expected_bytes(shape, kind):
    """Of the file, about."""
    s = make_model.SHAPES[shape]
    kv = s["kv_heads"] * s["width"] // s["heads"]
    layers = s["layers"] * (2 * s["width"] ** 2 + 2 * kv * s["width"] + 3 * s["ffn"] * s["width"])
    return int(layers * BYTES_PER_WEIGHT[kind] + s["vocab"] * s["width"] * (1 if s["tied"] else 2) * 1.0625)


def free_memory():
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":") for line in file)
    return int(fields["MemAvailable"].split()[0]) * 1024


def why_not(shape, kind, folder):
    """What is missing, or None. The file is read through the page cache, which gives way; the repacked weights must fit."""
    need = expected_bytes(shape, kind)
    disk, memory = shutil.disk_usage(folder).free, free_memory()
    if disk < need * 1.1:
        return f"{need / 2**30:.1f} GiB of disk are needed, {disk / 2**30:.1f} are free"
    if memory < need + BESIDE:
        return f"{(need + BESIDE) / 2**30:.1f} GiB of memory are needed, {memory / 2**30:.1f} are free"
    return None


def measure(args, path):
    command = [args.bin, "bench", "--model", str(path), "--only", "prefill,decode,verify", "--prompt", str(args.prompt), "--batch", "1,4,16",
               "--rows", "1,4,8", "--depth", str(args.depth), "--generate", str(args.generate), "--runs", str(args.runs), "--threads", str(args.threads), "--json"]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if out.returncode != 0:
        sys.exit(f"bench_sizes: {' '.join(command)} failed")
    return json.loads(out.stdout)


def row(shape, kind, path, report):
    decode = {d["batch"]: d["tok_s"] for d in report["decode"]}
    verify = {v["rows"]: v["ms"] for v in report["verify"]}
    return (f"{shape + ' ' + kind:<13}{os.path.getsize(path) / 2**20:>8.0f}{report['prefill'][0]['tok_s']:>10.1f}{decode[1]:>9.2f}{decode[4]:>9.1f}"
            f"{decode[16]:>9.1f}{100 * report.get('decode_read_share', 0):>10.0f} %{100 * report.get('prefill_int8_share', 0):>8.0f} %"
            f"{verify[4] / verify[1]:>9.2f}{verify[8] / verify[1]:>8.2f}{report['peak_memory_bytes'] / 2**20:>9.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", default="build/foresay")
    parser.add_argument("--shape", nargs="+", choices=make_model.SHAPES, default=["135m", "1b", "3b"])
    parser.add_argument("--type", choices=make_model.TYPES, default="q4_0")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("build"), help="where the files are made")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--depth", type=int, default=32, help="tokens before decode")
    parser.add_argument("--generate", type=int, default=16)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    print(f"{'':<13}{'file':>8}{'prefill':>10}{'decode, tok/s by batch':>27}{'of memory':>12}{'of int8':>10}{'4 rows':>9}{'8 rows':>8}{'memory':>9}")
    print(f"{'':<13}{'MiB':>8}{args.prompt:>10}{1:>9}{4:>9}{16:>9}{'speed':>12}{'peak':>10}{'x':>9}{'x':>8}{'MiB':>9}", flush=True)
    for shape in args.shape:
        reason = why_not(shape, args.type, args.folder)
        if reason:
            print(f"{shape + ' ' + args.type:<13}left out: {reason}", flush=True)
            continue
        path = args.folder / f"random-{shape}-{args.type}.gguf"
        try:
            print(f"writing {path} ({expected_bytes(shape, args.type) / 2**20:.0f} MiB)", file=sys.stderr)
            subprocess.run([sys.executable, make_model.__file__, "--shape", shape, "--type", args.type, "--out", str(path)], check=True)
            print(row(shape, args.type, path, measure(args, path)), flush=True)
        finally:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
