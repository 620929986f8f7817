"""Drafting heads against torch: gradients written by hand against autograd, the serving path against plain floats."""

import os
import subprocess

import numpy as np
import pytest
import torch

CHECK = os.path.join(os.path.dirname(os.environ["FORESAY_BIN"]), "tests", "check_head")
STEPS = 3
HEADS, KV_HEADS, DIM, EPS, BASE = 4, 2, 16, 1e-5, 10000.0


def arrays(*arguments):
    """What check_head prints, as double tensors by name."""
    raw = subprocess.run([CHECK, *map(str, arguments)], stdout=subprocess.PIPE, check=True).stdout
    out, at = {}, 0
    while at < len(raw):
        end = raw.index(b"\n", at)
        name, rows, cols = raw[at:end].decode().split()
        n = int(rows) * int(cols) * 4
        values = np.frombuffer(raw[end + 1 : end + 1 + n], "<f4").astype(np.float64)
        out[name] = torch.tensor(values.reshape(int(rows), int(cols)))
        at = end + 1 + n
    return out


def norm(x, gamma, eps=EPS):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * gamma


def turn(x, first, dim, base=BASE):
    """x: [rows, heads, dim], row i at position first + i; pairs (2i, 2i + 1)."""
    frequency = base ** (-torch.arange(0, dim, 2, dtype=x.dtype) / dim)
    angle = (first + torch.arange(x.shape[0], dtype=x.dtype))[:, None, None] * frequency
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)


def attend(q, keys, values, mask, dim):
    """q: [n, heads, dim]; keys, values: [m, kv heads, dim]; mask: [n, m]."""
    group = q.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    scores = torch.einsum("nhd,mhd->hnm", q, keys) / dim**0.5
    probs = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return torch.einsum("hnm,mhd->nhd", probs, values).flatten(1)


def cross_entropy(w, out, target, weight):
    logits = out @ w["output.weight"].T
    return -(weight * (target * logits.log_softmax(-1)).sum(-1)).sum()


def eagle_loss(w, data):
    state = data["input"] @ w["fc.weight"].T
    n = state.shape[0]
    loss, keys, values = 0, [], []
    for step in range(STEPS):
        rows = n - 1 - step
        state = state[:rows]
        token = data["embeddings"][1 + step :]
        wide = torch.cat([norm(token, w["blk.0.attn_norm.weight"]), norm(state, w["blk.0.attn_norm_2.weight"])], -1)
        q, k, v = (wide @ w[f"blk.0.attn_{part}.weight"].T for part in "qkv")
        q = turn(q.view(rows, HEADS, DIM), step, DIM)
        keys.append(turn(k.view(rows, KV_HEADS, DIM), step, DIM))
        values.append(v.view(rows, KV_HEADS, DIM))
        # Keys of step 0 up to the row's own position, of later steps its own alone.
        mask = [torch.ones(rows, keys[0].shape[0], dtype=torch.bool).tril()]
        mask += [torch.eye(rows, other.shape[0], dtype=torch.bool) for other in keys[1:]]
        mixed = attend(q, torch.cat(keys), torch.cat(values), torch.cat(mask, 1), DIM)
        mid = state + mixed @ w["blk.0.attn_output.weight"].T
        normed = norm(mid, w["blk.0.ffn_norm.weight"])
        gate, up = normed @ w["blk.0.ffn_gate.weight"].T, normed @ w["blk.0.ffn_up.weight"].T
        state = mid + (torch.nn.functional.silu(gate) * up) @ w["blk.0.ffn_down.weight"].T
        out = norm(state, w["output_norm.weight"])
        loss += 0.8**step * cross_entropy(w, out, data["target"][1 + step :], data["weight"][0, 1 + step :])
    return loss


def medusa_loss(w, data):
    x = norm(data["input"], w["output_norm.weight"])
    n, loss = x.shape[0], 0
    for k in range(3):
        rows = x[: n - 1 - k]
        out = rows + torch.nn.functional.silu(rows @ w[f"medusa.{k}.weight"].T)
        loss += 0.8**k * cross_entropy(w, out, data["target"][1 + k :], data["weight"][0, 1 + k :])
    return loss


def recurrent_step(w, token, state):
    wide = torch.cat([norm(token, w["token_norm.weight"]), norm(state, w["state_norm.weight"])], -1)
    product = torch.nn.functional.silu(wide @ w["ffn_gate.weight"].T) * (wide @ w["ffn_up.weight"].T)
    return wide @ w["skip.weight"].T + product @ w["ffn_down.weight"].T


def recurrent_loss(w, data):
    state, loss = data["input"], 0
    for step in range(STEPS):
        state = recurrent_step(w, data["embeddings"][1 + step :], state[: data["input"].shape[0] - 1 - step])
        out = norm(state, w["output_norm.weight"])
        loss += 0.8**step * cross_entropy(w, out, data["target"][1 + step :], data["weight"][0, 1 + step :])
    return loss


LOSSES = {"eagle": eagle_loss, "medusa": medusa_loss, "recurrent": recurrent_loss}


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients(kind):
    data = arrays("gradients", kind)
    weights = {name: data[name].requires_grad_() for name in data if f"d:{name}" in data}
    loss = LOSSES[kind](weights, data)
    loss.backward()
    assert abs(loss.item() / data["loss"].item() - 1) < 1e-5
    for name, weight in weights.items():
        got = data[f"d:{name}"]
        error = (got - weight.grad).norm() / weight.grad.norm()
        assert weight.grad.norm() > 0 and error < 1e-4, (name, error)


def close(got, want, limit):
    """The serving path keeps activations in 8 bits: single values differ, the whole hardly."""
    error = ((got - want).norm() / want.norm()).item()
    assert error < limit, error


def test_eagle_serves():
    data = arrays("serve", "eagle")
    w = {name: data[name] for name in data if name.endswith(".weight")}
    known, n = data["features"].shape[0], data["embeddings"].shape[0]
    state = data["features"] @ w["fc.weight"].T
    # Drafted rows stand on the output of the row before them; it is taken as served, so that each row is tested by itself.
    state = torch.cat([state, data["out"][known - 1 : n - 1]])
    wide = torch.cat([norm(data["embeddings"], w["blk.0.attn_norm.weight"]), norm(state, w["blk.0.attn_norm_2.weight"])], -1)
    q, k, v = (wide @ w[f"blk.0.attn_{part}.weight"].T for part in "qkv")
    q, k = turn(q.view(n, HEADS, DIM), 0, DIM), turn(k.view(n, KV_HEADS, DIM), 0, DIM)
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    mid = state + attend(q, k, v.view(n, KV_HEADS, DIM), mask, DIM) @ w["blk.0.attn_output.weight"].T
    normed = norm(mid, w["blk.0.ffn_norm.weight"])
    product = torch.nn.functional.silu(normed @ w["blk.0.ffn_gate.weight"].T) * (normed @ w["blk.0.ffn_up.weight"].T)
    out = mid + product @ w["blk.0.ffn_down.weight"].T
    for row in range(n):
        close(data["out"][row], out[row], 0.02)
    close(data["logits"], norm(out[known:], w["output_norm.weight"]) @ w["output.weight"].T, 0.03)


def test_medusa_serves():
    data = arrays("serve", "medusa")
    x = norm(data["state"], data["output_norm.weight"])
    for k in range(4):
        out = x + torch.nn.functional.silu(x @ data[f"medusa.{k}.weight"].T)
        close(data[f"logits{k}"], out @ data["output.weight"].T, 0.03)


def test_recurrent_serves():
    data = arrays("serve", "recurrent")
    state = data["state"]
    n = state.shape[0]
    for round in range(2):
        rows = range(round * n, (round + 1) * n)
        out = recurrent_step(data, data["embeddings"][rows.start : rows.stop], state)
        for i, row in enumerate(rows):
            close(data[f"out{row}"][0], out[i], 0.02)
            close(data[f"logits{row}"][0], norm(out[i], data["output_norm.weight"]) @ data["output.weight"].T, 0.03)
        state = torch.cat([data[f"out{row}"] for row in rows])
