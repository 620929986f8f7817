"""bench_peer.py - Foresay beside llama-cpp-python: same file, same threads, one alternating run, medians and ratios.

Each round runs `foresay bench` and the peer once, one after the other, so that both see the same neighbours on a shared machine.
The peer is driven through its C API (llama_decode on ready batches, no sampling, no Python in the loop but the call itself), which
is the most it can do. Decode with batch B: B sequences of --depth prompt tokens each, one token a sequence and step.
"""
import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time


def peer_rounds(model, threads, prompt, generate, batches, depth):
    """One measurement of the peer: {"prefill_tok_s": x, "decode": {batch: tok_s}}. Runs in a process of its own."""
    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    handle = llama_cpp.llama_model_load_from_file(model.encode(), llama_cpp.llama_model_default_params())
    vocab = llama_cpp.llama_model_get_vocab(handle)
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    token = lambda i: 1000 + (i * 7919) % (n_vocab - 2000)

    def context(n_seqs, n_ctx):
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, 512, 512
        params.n_seq_max, params.n_threads, params.n_threads_batch = n_seqs, threads, threads
        return llama_cpp.llama_init_from_model(handle, params)

    def decode(ctx, rows, last_logits_only):
        batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, (tok, pos, seq) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = tok, pos, 1
            batch.seq_id[i][0] = seq
            batch.logits[i] = not last_logits_only or i == len(rows) - 1
        if llama_cpp.llama_decode(ctx, batch) != 0:
            sys.exit("the peer's llama_decode failed")
        llama_cpp.llama_synchronize(ctx)
        llama_cpp.llama_batch_free(batch)

    result = {"decode": {}}
    ctx = context(1, prompt + 64)
    decode(ctx, [(token(i), i, 0) for i in range(16)], True)  # warm-up
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ctx), True)
    start = time.perf_counter()
    for at in range(0, prompt, 512):
        decode(ctx, [(token(i), i, 0) for i in range(at, min(at + 512, prompt))], True)
    result["prefill_tok_s"] = prompt / (time.perf_counter() - start)
    llama_cpp.llama_free(ctx)
    for n in batches:
        ctx = context(n, n * (depth + generate + 16))
        for seq in range(n):
            decode(ctx, [(token(i + seq), i, seq) for i in range(depth)], True)
        start = time.perf_counter()
        for step in range(generate):
            decode(ctx, [(token(step + seq), depth + step, seq) for seq in range(n)], False)
        result["decode"][str(n)] = n * generate / (time.perf_counter() - start)
        llama_cpp.llama_free(ctx)
    return result


def ours_round(binary, model, threads, prompt, generate, batches):
    command = [binary, "bench", "--model", model, "--threads", str(threads), "--prompt", str(prompt), "--generate", str(generate),
               "--batch", ",".join(map(str, batches)), "--json"]
    out = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    return {"prefill_tok_s": out["prefill_tok_s"], "decode": {str(d["batch"]): d["tok_s"] for d in out["decode"]}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", default="build/foresay")
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=128)
    parser.add_argument("--depth", type=int, default=16, help="prompt tokens before the peer's decode is timed; 16 is what foresay bench does")
    parser.add_argument("--batch", default="1,16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-once", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    batches = [int(b) for b in args.batch.split(",")]
    if args.peer_once:
        print(json.dumps(peer_rounds(args.model, args.threads, args.prompt, args.generate, batches, args.depth)))
        return
    ours, peer = [], []
    for i in range(args.rounds):
        ours.append(ours_round(args.bin, args.model, args.threads, args.prompt, args.generate, batches))
        out = subprocess.run([sys.executable, *sys.argv, "--peer-once"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        peer.append(json.loads(out.stdout))
        print(f"round {i + 1} of {args.rounds} done", file=sys.stderr)
    rows = [(f"prefill {args.prompt}", lambda r: r["prefill_tok_s"])]
    rows += [(f"decode, batch {b}", lambda r, b=b: r["decode"][str(b)]) for b in batches]
    print(f"{'medians of ' + str(args.rounds) + ' rounds, tok/s':<28}{'foresay':>10}{'llama.cpp':>11}{'ratio':>8}")
    for name, get in rows:
        a, b = statistics.median(map(get, ours)), statistics.median(map(get, peer))
        print(f"{name:<28}{a:>10.0f}{b:>11.0f}{a / b:>8.2f}")


if __name__ == "__main__":
    main()
