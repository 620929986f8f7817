"""bench_peer.py - Foresay beside llama-cpp-python: same file, same threads, same measurement, one alternating run, medians and ratios.

    build/venv/bin/python tests/bench_peer.py --bin build/foresay --model A.gguf B.gguf [--rounds 5] [--quick]

Each round measures both, one after the other (and the other way round in the next one), so that both see the same neighbours on a shared
machine. What is measured:
  prefill          tokens of a prompt of --prompt tokens over the time until it is computed
  decode, batch N  N sequences with --depth tokens before them, one token a sequence and step: tokens of all sequences over wall time, in
                   the phase in which all N decode
The peer is driven through its C API: llama_decode on ready batches (one sequence id a sequence), no sampling, no Python in the loop but the
call itself, which is the most it can do. Ours goes through the whole engine as in `foresay bench`: scheduler, greedy sampling, events.
"""
import argparse
import ctypes
import datetime
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

CHUNK = 512  # tokens of one call while the peer reads a prompt: its own default


class Peer:
    """A model in llama.cpp."""

    def __init__(self, model, threads):
        import llama_cpp

        self.api, self.threads = llama_cpp, threads
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(model.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            sys.exit(f"the peer cannot load {model}")
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def token(self, i):
        return 1000 + (i * 7919) % (self.n_vocab - 2000)

    def context(self, n_seqs, n_tokens):
        params = self.api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_seqs * n_tokens, CHUNK, CHUNK
        params.n_seq_max, params.n_threads, params.n_threads_batch = n_seqs, self.threads, self.threads
        context = self.api.llama_init_from_model(self.model, params)
        if not context:
            sys.exit("the peer has no memory for its context")
        return context

    def batch(self, rows, all_logits):
        """A ready batch of (token, position, sequence) rows."""
        batch = self.api.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, (token, pos, seq) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, pos, 1
            batch.seq_id[i][0] = seq
            batch.logits[i] = all_logits or i == len(rows) - 1
        return batch

    def prompt(self, n, seq):
        return [self.batch([(self.token(i + seq), i, seq) for i in range(at, min(at + CHUNK, n))], False) for at in range(0, n, CHUNK)]

    def compute(self, context, batches):
        """Seconds."""
        start = time.perf_counter()
        for batch in batches:
            if self.api.llama_decode(context, batch) != 0:
                sys.exit("the peer's llama_decode failed")
        self.api.llama_synchronize(context)
        seconds = time.perf_counter() - start
        for batch in batches:
            self.api.llama_batch_free(batch)
        return seconds

    def prefill(self, n):
        context = self.context(1, n + 64)
        self.compute(context, self.prompt(16, 0))  # warm-up
        self.api.llama_memory_clear(self.api.llama_get_memory(context), True)
        rate = n / self.compute(context, self.prompt(n, 0))
        self.api.llama_free(context)
        return rate

    def decode(self, n_seqs, depth, generate):
        context = self.context(n_seqs, depth + generate + 16)
        for seq in range(n_seqs):
            self.compute(context, self.prompt(depth, seq))
        steps = [self.batch([(self.token(step + seq), depth + step, seq) for seq in range(n_seqs)], True) for step in range(generate)]
        rate = n_seqs * generate / self.compute(context, steps)
        self.api.llama_free(context)
        return rate


def measure_peer(args, model):
    peer = Peer(model, args.threads)
    result = {f"prefill {args.prompt}": peer.prefill(args.prompt)}
    for n in args.batch:
        result[f"decode, batch {n}"] = peer.decode(n, args.depth, args.generate)
    return result


def measure_peer_apart(args, model):
    """In a process of its own, so that neither side finds the other's threads or memory."""
    command = [sys.executable, __file__, *sys.argv[1:], "--peer-once", model]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if out.returncode != 0:
        why = out.stderr.strip() or f"it ended with {out.returncode}"
        hint = " (built with AMX? see `make bench-peer`)" if out.returncode < 0 else ""
        sys.exit(f"bench_peer: the peer failed: {why}{hint}")
    return json.loads(out.stdout)


def measure_ours(args, model):
    command = [args.bin, "bench", "--model", model, "--threads", str(args.threads), "--only", "prefill,decode", "--prompt", str(args.prompt),
               "--generate", str(args.generate), "--depth", str(args.depth), "--batch", ",".join(map(str, args.batch)), "--runs", "1",
               "--isa", args.isa, "--json"]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if out.returncode != 0:
        sys.exit(f"bench_peer: {out.stderr.strip().splitlines()[-1]}")
    report = json.loads(out.stdout)
    result = {f"prefill {p['tokens']}": p["tok_s"] for p in report["prefill"]}
    result |= {f"decode, batch {d['batch']}": d["tok_s"] for d in report["decode"]}
    return result, report


def machine():
    fields = dict(line.split(":", 1) for line in subprocess.run(["lscpu"], stdout=subprocess.PIPE, text=True).stdout.splitlines() if ":" in line)
    return f"{fields.get('Model name', '?').strip()} (family {fields.get('CPU family', '?').strip()}), {os.cpu_count()} processors"


def commit():
    out = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return out.stdout.strip() or "?"


def compare(args, model):
    ours, peer = [], []
    for i in range(args.rounds):
        sides = [lambda: ours.append(measure_ours(args, model)), lambda: peer.append(measure_peer_apart(args, model))]
        for measure in sides if i % 2 == 0 else sides[::-1]:
            measure()
        print(f"{pathlib.Path(model).name}: round {i + 1} of {args.rounds} done", file=sys.stderr)
    report = ours[-1][1]
    print(f"\n{report['model']}, {report['type']}, {report['isa']}, {report['threads']} threads")
    print(f"{'medians of ' + str(args.rounds) + ' rounds, tok/s':<28}{'foresay':>10}{'llama.cpp':>11}{'ratio':>8}   spread of the rounds' ratios")
    for name in peer[0]:
        a, b = [r[0][name] for r in ours], [r[name] for r in peer]
        ratios = [x / y for x, y in zip(a, b)]
        print(f"{name:<28}{statistics.median(a):>10.1f}{statistics.median(b):>11.1f}{statistics.median(a) / statistics.median(b):>8.2f}"
              f"   {min(ratios):.2f} .. {max(ratios):.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", default="build/foresay")
    parser.add_argument("--model", nargs="+", default=[])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--isa", default="auto", help="of ours; the peer takes the best it was built for")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=64, help="decode steps measured")
    parser.add_argument("--depth", type=int, default=128, help="prompt tokens before decode, on both sides")
    parser.add_argument("--batch", type=lambda text: [int(n) for n in text.split(",")], default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round, short")
    parser.add_argument("--peer-once", metavar="MODEL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.generate, args.prompt = 1, 16, 128
    if args.peer_once:
        print(json.dumps(measure_peer(args, args.peer_once)))
        return
    if not args.model:
        parser.error("name one model file or more with --model")
    print(f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC; {machine()}; load average {os.getloadavg()[0]:.1f} at the start")
    print(f"foresay at commit {commit()}, llama-cpp-python {importlib.metadata.version('llama-cpp-python')}; prompts of {args.depth} tokens "
          f"before decode, {args.generate} steps")
    for model in args.model:
        compare(args, model)


if __name__ == "__main__":
    main()
