"""Protects every row of the table of families: a small random model of transformers, written as GGUF as llama.cpp's converter lays
it out, must give the same logits at every position.

The oracle attends over keys and values rounded to half floats, as the engine stores them; the rest is float32 on both sides, so that
what remains is the order of sums. check_logits also compares the bits of chunks, of decode, and of the instruction sets.
"""

import math
import os
import pathlib
import subprocess

import pytest

np = pytest.importorskip("numpy")
gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask  # noqa: E402
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: E402

PROGRAM = pathlib.Path(os.environ.get("FORESAY_BIN", "build/foresay")).parent / "tests" / "check_logits"
pytestmark = pytest.mark.skipif(not PROGRAM.is_file(), reason="check_logits is not built")

VOCAB, WIDTH, FFN, HEADS, KV_HEADS, HEAD_DIM = 160, 64, 96, 4, 2, 32  # heads together are wider than the model
N_TOKENS, WINDOW = 150, 20
TOLERANCE = {"F32": 2e-4, "Q8_0": 0.06}  # root mean square against that of the logits; Q8_0: activations are rounded to int8


def half_attention(module, query, key, value, mask, scaling, softcap=None, **_):
    """Attention as its definition says, over half floats."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.half().float().repeat_interleave(groups, dim=1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = torch.softmax(scores + mask, dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


ALL_ATTENTION_FUNCTIONS.register("half", half_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register("half", eager_mask)


class Case:
    """A family's difference: class of the configuration, its settings, the GGUF architecture and the keys that go with them."""

    def __init__(self, arch, config, keys=None, layers=2, ctx=512, **settings):
        self.arch, self.config, self.keys, self.layers, self.ctx, self.settings = arch, config, keys or {}, layers, ctx, settings

    def make(self):
        config = getattr(transformers, self.config)(
            vocab_size=VOCAB,
            **{"hidden_size": WIDTH, "intermediate_size": FFN, **self.settings},
            num_hidden_layers=self.layers,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            head_dim=HEAD_DIM,
            **({} if "max_position_embeddings" in self.settings else {"max_position_embeddings": self.ctx}),
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        torch.manual_seed(11)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="half").eval()
        gemma = self.arch.startswith("gemma")
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name.endswith("bias"):
                    p.normal_(0, 0.5)
                elif p.dim() == 1:
                    p.normal_(0 if gemma else 1, 0.2)
                elif "embed_tokens" in name:
                    p.normal_(0, 0.35)
                else:
                    sharp = 1.3 if any(part in name for part in ("q_proj", "k_proj", "qkv_proj", "mlp.gate.weight")) else 1
                    p.normal_(0, sharp / math.sqrt(p.shape[-1]))
        return model


def rope(kind, theta=10000.0, **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


LONG = [1.0 + 0.3 * i for i in range(HEAD_DIM // 2)]
SHORT = [1.0 + 0.05 * i for i in range(HEAD_DIM // 2)]
SLIDING = {"attention.sliding_window": WINDOW}
CAPS = {"attn_logit_softcapping": 4.0, "final_logit_softcapping": 3.0}
MOE = {"expert_count": 8, "expert_used_count": 3, "expert_feed_forward_length": 32}
QWEN_MOE = {"moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 3}
YARN_KEYS = {"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 64}
LONG_KEYS = {"rope.scaling.original_context_length": 64, "rope.scaling.attn_factor": math.sqrt(1 + math.log(8) / math.log(64))}
PHI_LONG = {
    "rope_parameters": rope("longrope", long_factor=LONG, short_factor=SHORT, original_max_position_embeddings=64),
    "original_max_position_embeddings": 64,
    "sliding_window": None,
    "hidden_size": HEADS * HEAD_DIM,  # the validator of transformers takes heads to fill the model
}

CASES = {
    "llama": Case("llama", "LlamaConfig", tie_word_embeddings=True),
    "llama-bias": Case("llama", "LlamaConfig", attention_bias=True),
    "llama-linear": Case(
        "llama",
        "LlamaConfig",
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        rope_parameters=rope("linear", factor=4.0),
    ),
    "llama-3": Case(
        "llama",
        "LlamaConfig",
        rope_parameters=rope(
            "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
        ),
    ),
    "mistral": Case("llama", "MistralConfig", sliding_window=None),
    "mistral-window": Case("llama", "MistralConfig", SLIDING, sliding_window=WINDOW),
    "mixtral": Case(
        "llama",
        "MixtralConfig",
        {"expert_count": 8, "expert_used_count": 2},
        num_local_experts=8,
        num_experts_per_tok=2,
        sliding_window=None,
    ),
    "smollm3": Case("smollm3", "SmolLM3Config", layers=5, no_rope_layer_interval=4),
    "qwen2": Case("qwen2", "Qwen2Config"),
    "qwen2-yarn": Case(
        "qwen2",
        "Qwen2Config",
        YARN_KEYS,
        rope_parameters=rope("yarn", factor=8.0, original_max_position_embeddings=64),
    ),
    "qwen3": Case("qwen3", "Qwen3Config", rope_parameters=rope("default", 1e6)),
    "qwen3moe": Case("qwen3moe", "Qwen3MoeConfig", MOE, norm_topk_prob=True, **QWEN_MOE),
    "qwen3moe-shares": Case("qwen3moe", "Qwen3MoeConfig", {**MOE, "expert_weights_norm": False}, norm_topk_prob=False, **QWEN_MOE),
    "gemma": Case("gemma", "GemmaConfig"),
    "gemma2": Case(
        "gemma2",
        "Gemma2Config",
        {**SLIDING, **CAPS},
        layers=4,
        sliding_window=WINDOW,
        attn_logit_softcapping=4.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=HEAD_DIM,
    ),
    "gemma2-wide": Case(
        "gemma2",
        "Gemma2Config",
        {**SLIDING, "attention.scale": 1 / 4},
        layers=2,
        sliding_window=WINDOW,
        query_pre_attn_scalar=16,
    ),
    "gemma3": Case("gemma3", "Gemma3TextConfig", SLIDING, layers=7, sliding_window=WINDOW, query_pre_attn_scalar=HEAD_DIM),
    "gemma3-linear": Case(
        "gemma3",
        "Gemma3TextConfig",
        {**SLIDING, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0, "attention.sliding_window_pattern": 2},
        layers=4,
        sliding_window=WINDOW,
        sliding_window_pattern=2,
        query_pre_attn_scalar=HEAD_DIM,
        rope_parameters={
            "sliding_attention": rope("default"),
            "full_attention": rope("linear", 1e6, factor=8.0),
        },
    ),
    "phi3": Case("phi3", "Phi3Config", SLIDING, sliding_window=WINDOW),
    "phi3-long": Case("phi3", "Phi3Config", LONG_KEYS, **PHI_LONG),
    "phi3-short": Case("phi3", "Phi3Config", LONG_KEYS, **PHI_LONG),
    "phi3-partial": Case(
        "phi3",
        "Phi3Config",
        {"rope.dimension_count": HEAD_DIM // 2},
        rope_parameters=rope("default", partial_rotary_factor=0.5),
        sliding_window=None,
    ),
}

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "input_layernorm": "attn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def interleaved(weight):
    """Rows of each head from halves to pairs, as files of the llama architecture have them."""
    heads = weight.reshape(-1, 2, HEAD_DIM // 2, *weight.shape[1:])
    return heads.swapaxes(1, 2).reshape(weight.shape)


def tensors_of(case, model):
    """(GGUF name, array) pairs."""
    gemma = case.arch.startswith("gemma")
    for name, p in model.named_parameters():
        x = p.detach().numpy()
        if gemma and "norm" in name:
            x = x + 1
        if "_proj" in name and case.arch in ("llama", "smollm3") and (".q_proj" in name or ".k_proj" in name):
            x = interleaved(x)
        top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
        if name in top:
            yield top[name], x
        elif name == "lm_head.weight":
            yield "output.weight", x
        else:
            layer, part = name.removeprefix("model.layers.").split(".", 1)
            if part == "mlp.experts.gate_up_proj":
                yield f"blk.{layer}.ffn_gate_exps.weight", x[:, : x.shape[1] // 2]
                yield f"blk.{layer}.ffn_up_exps.weight", x[:, x.shape[1] // 2 :]
            elif part == "mlp.experts.down_proj":
                yield f"blk.{layer}.ffn_down_exps.weight", x
            elif part == "post_attention_layernorm.weight":
                yield f"blk.{layer}.{'post_attention_norm' if case.arch in ('gemma2', 'gemma3') else 'ffn_norm'}.weight", x
            elif part == "pre_feedforward_layernorm.weight" or part.rsplit(".", 1)[0] in NAMES:
                base, kind = part.rsplit(".", 1)
                yield f"blk.{layer}.{NAMES[base]}.{kind}", x
            else:
                raise AssertionError(f"no GGUF name for {name}")
    kind = (model.config.rope_parameters or {}).get("rope_type")
    if kind == "llama3":
        plain = 10000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        yield "rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    if kind == "longrope":
        yield "rope_factors_long.weight", np.array(LONG, dtype=np.float32)
        yield "rope_factors_short.weight", np.array(SHORT, dtype=np.float32)


def theta_of(config):
    parameters = config.rope_parameters
    return parameters.get("full_attention", parameters)["rope_theta"]


def write(case, model, path, kind, split_experts=False):
    writer = gguf.GGUFWriter(path, case.arch)
    config = model.config
    keys = {
        "block_count": case.layers,
        "context_length": case.ctx,
        "embedding_length": config.hidden_size,
        "feed_forward_length": FFN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD_DIM,
        "attention.value_length": HEAD_DIM,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": HEAD_DIM,
        "rope.freq_base": float(theta_of(config)),
        **case.keys,
    }
    for key, value in keys.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"{case.arch}.{key}", value)
    for name, x in tensors_of(case, model):
        quantised = kind == "Q8_0" and x.ndim > 1 and "gate_inp" not in name
        type_ = gguf.GGMLQuantizationType.Q8_0 if quantised else gguf.GGMLQuantizationType.F32
        parts = {name: x}
        if split_experts and "_exps" in name:
            parts = {name.replace("_exps.", f".{e}."): part for e, part in enumerate(x)}
        for part_name, part in parts.items():
            writer.add_tensor(part_name, gguf.quantize(np.ascontiguousarray(part), type_), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def round_weights(model):
    """The oracle computes with what the file holds."""
    q8 = gguf.GGMLQuantizationType.Q8_0
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1 and not name.endswith("mlp.gate.weight"):
                p.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(p.numpy(), q8), q8)).reshape(p.shape))


def ids_of(n):
    return [1] + np.random.default_rng(3).integers(3, VOCAB, n - 1).tolist()


def engine_logits(path, ids, ctx):
    result = subprocess.run(
        [PROGRAM, path, str(ctx)], input=" ".join(map(str, ids)).encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120
    )
    assert result.returncode == 0, result.stderr.decode()
    return np.frombuffer(result.stdout, dtype=np.float32).reshape(len(ids), -1)


def assert_same_logits(ours, theirs, tolerance):
    scale = np.sqrt((theirs**2).mean())
    error = np.sqrt(((ours - theirs) ** 2).mean(axis=1)) / scale  # by position
    print(f"largest difference {error.max():.2e} at {error.argmax()}, middle {np.median(error):.2e}")
    assert np.isfinite(ours).all()
    # A key that falls on the other side of a half float's edge moves a position by more than the order of sums does.
    assert np.median(error) < tolerance and error.max() < 20 * tolerance
    if tolerance < 1e-3:
        assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).all()


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize("name", CASES)
def test_logits(name, kind, tmp_path):
    case = CASES[name]
    model = case.make()
    if kind == "Q8_0":
        round_weights(model)
    path = tmp_path / "model.gguf"
    write(case, model, path, kind)
    n, ctx = (60, 64) if name == "phi3-short" else (N_TOKENS, case.ctx)
    ids = ids_of(n)
    with torch.no_grad():
        theirs = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    assert_same_logits(engine_logits(path, ids, ctx), theirs, TOLERANCE[kind])


@pytest.mark.parametrize("name", ["llama-3", "llama-linear"])
def test_long_positions(name, tmp_path):
    """Far beyond the original context."""
    case = CASES[name]
    case = Case(case.arch, case.config, case.keys, case.layers, 2048, **case.settings)
    model = case.make()
    write(case, model, tmp_path / "model.gguf", "F32")
    ids = ids_of(1000)
    with torch.no_grad():
        theirs = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    assert_same_logits(engine_logits(tmp_path / "model.gguf", ids, case.ctx), theirs, TOLERANCE["F32"])


def test_older_mixtral_files_have_a_tensor_for_each_expert(tmp_path):
    case = CASES["mixtral"]
    model = case.make()
    write(case, model, tmp_path / "new.gguf", "F32")
    write(case, model, tmp_path / "old.gguf", "F32", split_experts=True)
    ids = ids_of(40)
    new, old = (engine_logits(tmp_path / name, ids, 64) for name in ("new.gguf", "old.gguf"))
    assert (new == old).all()
