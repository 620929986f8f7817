"""Does llama.cpp make of our EAGLE head what we make of it? (make check-peer-head; llama-cpp-python is built on first use)

check_head writes a tiny model and a random head and says what our serving path computes from given features and tokens. Here
llama.cpp loads the same two files and computes the same rows: fc of the features, the layer on (token, state), the logits.
What it offers for that is not in its C header yet, hence the symbols' C++ names."""

import ctypes
import os
import subprocess
import sys
import tempfile

import llama_cpp as api
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "oracle"))
from test_heads import CHECK  # noqa: E402

LIB = ctypes.CDLL(os.path.join(os.path.dirname(api.__file__), "lib", "libllama.so"))
LIMIT = 0.007  # relative: both sides have activations of 8 bits; RoPE on other pairs makes 0.01


def arrays(folder):
    raw = subprocess.run([CHECK, "serve", "eagle", folder], stdout=subprocess.PIPE, check=True).stdout
    out, at = {}, 0
    while at < len(raw):
        end = raw.index(b"\n", at)
        name, rows, cols = raw[at:end].decode().split()
        n = int(rows) * int(cols) * 4
        out[name] = np.frombuffer(raw[end + 1 : end + 1 + n], "<f4").reshape(int(rows), int(cols))
        at = end + 1 + n
    return out


class Context:
    def __init__(self, path, other=None):
        self.model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        assert self.model, f"llama.cpp does not load {path}"
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 256
        params.n_threads = params.n_threads_batch = 2
        if other:
            params.ctx_other = other.handle
        self.handle = api.llama_init_from_model(self.model, params)
        assert self.handle

    def states(self, rows, width):
        get = LIB._Z26llama_get_embeddings_nextnP13llama_context
        get.restype, get.argtypes = ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p]
        return np.ctypeslib.as_array(get(self.handle), (rows, width)).copy()


def batch_of(first, embeddings, tokens=None):
    """Rows at positions first ..; memory of the arrays must live until the call is over."""
    n, width = embeddings.shape
    batch = api.llama_batch_init(n, width, 1)
    ctypes.memmove(batch.embd, np.ascontiguousarray(embeddings, np.float32).ctypes.data, n * width * 4)
    if tokens is not None:
        kept = (ctypes.c_int32 * n)(*map(int, tokens))
        batch.token = ctypes.cast(kept, ctypes.POINTER(ctypes.c_int32))
        batch.kept = kept
    batch.n_tokens = n
    for i in range(n):
        batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = first + i, 1, 0, 1
    return batch


def main():
    with tempfile.TemporaryDirectory() as folder:
        ours = arrays(folder)
        quiet = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(quiet, ctypes.c_void_p(0))
        target = Context(f"{folder}/model.gguf")
        head = Context(f"{folder}/head.gguf", target)
    keep = LIB._Z26llama_set_embeddings_nextnP13llama_contextbb
    keep.argtypes = [ctypes.c_void_p, ctypes.c_bool, ctypes.c_bool]
    keep(head.handle, True, False)
    known, width = len(ours["features"]), ours["out"].shape[1]
    tokens = ours["tokens"][0].astype(int)

    assert api.llama_encode(head.handle, batch_of(0, ours["features"])) == 0
    state = head.states(known, width)
    failed = [report("fc of the features", state, ours["features"] @ ours["fc.weight"].T)]
    assert api.llama_decode(head.handle, batch_of(0, state, tokens[:known])) == 0
    failed.append(report("rows of known text", head.states(known, width), ours["out"][:known]))
    for i in range(known, len(tokens)):
        assert api.llama_decode(head.handle, batch_of(i, ours["out"][i - 1 : i], tokens[i : i + 1])) == 0
        failed.append(report(f"guess {i - known + 1}, state", head.states(1, width), ours["out"][i : i + 1]))
        n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(head.model))
        logits = np.ctypeslib.as_array(api.llama_get_logits_ith(head.handle, 0), (n_vocab,))
        vocab = 3 * np.arange(ours["logits"].shape[1]) + 1  # as check_head chose them
        others = np.delete(logits, vocab)
        assert np.all(np.isneginf(others)), "tokens outside the head's own have chances"
        failed.append(report(f"guess {i - known + 1}, logits", logits[vocab], ours["logits"][i - known]))
    sys.exit(any(failed))


def report(name, theirs, mine):
    error = np.linalg.norm(theirs - mine) / np.linalg.norm(mine)
    print(f"{name:24} relative difference {error:.4f}{'' if error < LIMIT else '   TOO LARGE'}")
    return not error < LIMIT


main()
