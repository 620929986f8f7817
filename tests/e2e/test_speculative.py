"""Speculation as users meet it: no text changes by it, usage tells of it, a drafter is trained, killed, resumed, refused where it is wrong."""

import json
import os
import re
import signal
import subprocess
import time

import openai
import pytest
from conftest import MODEL, REAL, run

pytestmark = pytest.mark.real_model
QUOTE = "Repeat this text word for word: The keeper of the lighthouse climbed the stairs, lit the lamp, and wrote the date into the book."


def foresay(*args):
    env = {k: v for k, v in os.environ.items() if not k.startswith("FORESAY_")}
    return subprocess.run([REAL, *map(str, args)], capture_output=True, text=True, timeout=300, env=env)


def generate(*args):
    result = foresay("generate", "--model", MODEL, "--chat", QUOTE, "--n", 40, "--json", *args)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_no_drafter_changes_an_answer(make_server):
    server = make_server(real=True)
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=server.add_user("ada"), max_retries=0)

    def answer(drafter, temperature, verify=None):
        body = ({"drafter": drafter} if drafter else {}) | ({"verify": verify} if verify else {})
        return client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": QUOTE}], max_tokens=40, temperature=temperature, seed=5, extra_body=body
        )

    for temperature in (0, 0.8):
        plain = answer("none", temperature)
        assert plain.usage.completion_tokens_details.accepted_prediction_tokens == 0
        for drafter in ("suffix", "auto", None, "merge", "recurrent"):
            drafted = answer(drafter, temperature)
            assert drafted.choices == plain.choices and drafted.usage.completion_tokens == plain.usage.completion_tokens
            details = drafted.usage.completion_tokens_details
            assert drafter != "suffix" or details.accepted_prediction_tokens + details.rejected_prediction_tokens > 0
            told = drafted.usage.model_extra["speculation"]
            assert told["drafter"] == (drafter or "auto") and sum(told["accepted_at"]) == details.accepted_prediction_tokens
            assert told["model_rounds"] <= told["rounds"] and told["off"] in ("", "prompts", "no guess", "cost", "loss", "room")
            assert drafter in ("auto", None) or (told["model_rounds"] > 0) == (drafter != "suffix")
        assert plain.usage.model_extra["speculation"] == {"drafter": "none", "verify": "match", "rounds": 0, "model_rounds": 0, "accepted_at": [], "off": "none"}
    async def traced():
        async with server.client() as c:
            r = await c.say(QUOTE, gen={"max": 40, "temp": 0, "seed": 5}, trace=True)
            s = await c.done(r["g"])
            assert s.text == answer("none", 0).choices[0].message.content
            assert sum(t["acc"] for t in s.traces) == s.accepted == s.done["usage"]["accepted"]
            assert [t["r"] for t in s.traces] == list(range(1, s.done["usage"]["rounds"] + 1))
            for trace, at in zip(s.traces, s.trace_at):
                tokens = [token for _, token, _, is_right, _ in trace["nodes"] if is_right][1:] + [trace["bonus"]]
                assert "".join(t for t in tokens if isinstance(t, str)).strip() in s.text[max(0, at - 1) :]
                assert all(node[4] in ("suffix", "ngram", "recurrent") for node in trace["nodes"][1:])

    run(traced())
    for bad, sentence in [("crystal ball", "drafter must be"), ("model", "no draft model"), (3, "drafter must be")]:
        with pytest.raises(openai.BadRequestError) as e:
            answer(bad, 0)
        assert sentence in e.value.message
    for mode in ("token", "block", "multi-step", "traversal"):
        weighed = answer("suffix", 0, mode)
        assert weighed.choices == answer("none", 0).choices
        told = weighed.usage.model_extra["speculation"]
        assert told["verify"] == mode and told["rounds"] > 0
    assert answer("suffix", 0.8, "typical").usage.model_extra["speculation"]["verify"] == "typical"
    with pytest.raises(openai.BadRequestError) as e:
        answer("suffix", 0, "blindly")
    assert "verify must be match, token" in e.value.message


def test_a_store_is_trained_killed_and_resumed(tmp_path):
    store, command = tmp_path / "own.ngram", ["train-draft", "--model", MODEL, "--out", tmp_path / "own.ngram", "--batch", 4]
    first = subprocess.Popen([REAL, *map(str, command)], stderr=subprocess.DEVNULL)
    text = tmp_path / "own.ngram.text"
    until = time.monotonic() + 200
    while time.monotonic() < until and (not text.exists() or text.stat().st_size < 2000):
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    size = text.stat().st_size
    assert size >= 2000 and not store.exists()
    with open(text, "ab") as file:
        file.write(b"\x05\x00\x00")  # an answer that was cut off
    refused = foresay(*command)
    assert refused.returncode == 1 and "--resume" in refused.stderr
    done = foresay(*command, "--resume", "--tokens", size // 4 + 20)
    assert done.returncode == 0, done.stderr
    assert re.search(r"own.ngram: \d+ bytes from \d+ tokens", done.stdout)
    assert text.stat().st_size > size and text.stat().st_size % 4 == 0

    plain = generate("--drafter", "none", "--temp", 0.8, "--logprobs", 2)
    for kind in ("ngram", "merge", "auto"):
        drafted = generate("--drafter", f"{kind}:{store}", "--temp", 0.8, "--logprobs", 2)
        assert drafted["ids"] == plain["ids"] and drafted["text"] == plain["text"] and drafted["logprobs"] == plain["logprobs"]
        assert kind == "auto" or drafted["drafted_tokens"] > 0

    damaged = bytearray(store.read_bytes())
    damaged[-3] ^= 1
    store.write_bytes(damaged)
    refused = foresay("generate", "--model", MODEL, "--prompt", "x", "--drafter", f"ngram:{store}")
    assert refused.returncode == 1 and "own.ngram is damaged" in refused.stderr
    store.write_bytes(damaged[:-20])
    refused = foresay("generate", "--model", MODEL, "--prompt", "x", "--drafter", f"ngram:{store}")
    assert refused.returncode == 1 and "is cut off" in refused.stderr


def test_the_model_as_its_own_drafter_is_always_right():
    for temperature in (0, 0.8):
        plain = generate("--drafter", "none", "--temp", temperature)
        drafted = generate("--drafter", f"model:{MODEL}", "--temp", temperature)
        assert drafted["ids"] == plain["ids"] and drafted["text"] == plain["text"]
        assert drafted["accepted_tokens"] == drafted["drafted_tokens"] > 10
        assert drafted["model_rounds"] == drafted["draft_rounds"] and sum(drafted["accepted_at"]) == drafted["accepted_tokens"]


def test_the_word_none_leaves_the_built_in_drafters_away():
    own = generate("--drafter", "merge", "--temp", 0)
    bare = generate("--drafter", "auto:none", "--temp", 0)
    assert own["ids"] == bare["ids"] and own["model_rounds"] > 0 and bare["model_rounds"] == 0
    refused = foresay("generate", "--model", MODEL, "--prompt", "x", "--drafter", "merge:none")
    assert refused.returncode == 1 and "merge needs a store" in refused.stderr


def test_a_draft_model_that_does_not_fit_is_refused(tmp_path):
    def refused(file):
        result = foresay("generate", "--model", MODEL, "--prompt", "x", "--drafter", f"model:{file}")
        assert result.returncode == 1
        return result.stderr

    half = tmp_path / "half.gguf"
    with open(MODEL, "rb") as file:
        half.write_bytes(file.read(20_000_000))
    assert "half.gguf" in refused(half)
    assert "no such file" in refused(tmp_path / "none.gguf")
