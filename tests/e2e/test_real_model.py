"""The same conversations with the real engine and a real model."""

import asyncio
import secrets

import openai
import pytest
from conftest import Refused, Stream, run

pytestmark = pytest.mark.real_model
PLAIN = {"temp": 0.8, "seed": 11, "max": 40}


async def own_answers_are_guessed_from_once_allowed_and_forgotten_after(c):
    async def answer():
        # The drafter suffix drafts whatever it costs, so what it finds does not depend on the machine's load.
        r = await c.say("What is the capital of Spain? Say more about it.", gen={**PLAIN, "drafter": "suffix"}, trace=True)
        s = await c.done(r["g"])
        told = [n for t in s.traces for n in t["nodes"] if n[4] == "own"]
        assert sum(n[3] for n in told) == s.done["usage"]["own"]
        return s.text, s.done["usage"]

    text, usage = await answer()
    assert usage["own"] == 0
    await c.ask("learn", on=True)
    for _ in range(20):  # the first one brings the earlier answers, beside itself
        again, usage = await answer()
        assert again == text
        if usage["own"]:
            break
    assert 10 < usage["own"] <= usage["accepted"] <= usage["drafted"]
    await c.ask("learn", on=False)
    again, usage = await answer()
    assert again == text and usage["own"] == 0


def test_an_answer_streams_and_is_kept(make_server):
    server = make_server(real=True)

    async def main():
        async with server.client() as c:
            assert c.welcome["model"]["name"] and c.welcome["model"]["quant"] == "Q4_1"
            r = await c.say("What is the capital of France?", gen={"temp": 0, "max": 40})
            s = await c.done(r["g"])
            assert s.text and s.done["why"] in ("stop", "length")
            assert s.done["usage"]["in"] > 5 and s.done["usage"]["tps"] > 0
            follow_up = await c.say("And of Italy?", conv=r["conv"], gen={"temp": 0, "max": 40})
            s2 = await c.done(follow_up["g"])
            assert s2.done["usage"]["cached"] > 0, "the first turn's prefix is reused"
            answer = (await c.ask("hist", conv=r["conv"]))["msgs"][1]
            assert answer["text"] == s.text
            await own_answers_are_guessed_from_once_allowed_and_forgotten_after(c)

    run(main())


def test_same_seed_same_text_alone_and_among_sixteen(make_server):
    server = make_server(real=True)

    async def main():
        cookie = server.sign_in()
        async with server.client(cookie) as c:
            r = await c.say("Tell me about the sea.", gen=PLAIN)
            alone = (await c.done(r["g"])).text

        async def one(i):
            async with server.client(cookie) as c:
                r = await c.say("Tell me about the sea." if i % 2 else f"Count to {i}.", gen=PLAIN)
                return i, (await c.done(r["g"], 300)).text

        for i, text in await asyncio.gather(*(one(i) for i in range(16))):
            assert text if i % 2 == 0 else text == alone

    run(main())


def test_resume_with_cuts(make_server):
    server = make_server(real=True)

    async def main():
        cookie = server.sign_in()
        async with server.client(cookie) as c:
            r = await c.say("Write a story about a ship.", gen={"temp": 0.8, "seed": 3, "max": 150})
        stream = Stream(r["g"])
        while not stream.done:
            client = server.client(cookie, resume=[{"g": r["g"], "from": stream.last + 1}])
            client.streams[r["g"]] = stream
            async with client as c:
                until = stream.last + 5
                await c.wait(lambda: stream.done or stream.last >= until)
                if not stream.done:
                    await c.cut()
        assert stream.text and not stream.snapped

    run(main())


def test_stop_then_continue_gives_what_would_have_come(make_server):
    """Greedy: a stopped answer that is continued is the uninterrupted one, byte for byte."""
    server = make_server(real=True)

    async def main():
        async with server.client() as c:
            ask = {"text": "List ten animals.", "gen": {"temp": 0, "max": 60}}
            whole = (await c.done((await c.say(**ask))["g"])).text
            ask["gen"] = {"temp": 0, "max": 20}
            r = await c.say(**ask)
            part = (await c.done(r["g"])).text
            assert whole.startswith(part)
            k = await c.ask("cont", cid=secrets.token_hex(8), msg=r["ans"], gen={"temp": 0, "max": 40})
            assert (await c.done(k["g"])).text == whole

    run(main())


def test_kill_in_mid_answer_then_continue(make_server):
    server = make_server(real=True)

    async def before():
        async with server.client() as c:
            r = await c.say("Write a long story about a forest.", gen={"temp": 0.7, "seed": 5, "max": 1500})
            await c.wait(lambda: len(c.streams.get(r["g"], Stream("")).text) > 1200)
            server.kill()
            await c.task
            return r

    r = run(before())
    again = make_server(real=True, data=server.data)

    async def after():
        async with again.client() as c:
            answer = (await c.ask("hist", conv=r["conv"]))["msgs"][-1]
            assert answer["st"] == "interrupted" and answer["text"]
            k = await c.ask("cont", cid=secrets.token_hex(8), msg=r["ans"], gen={"max": 20})
            s = await c.done(k["g"])
            assert s.text.startswith(answer["text"])

    run(after())


def test_cancel_frees_the_engine(make_server):
    server = make_server(real=True)

    async def main():
        async with server.client() as c:
            r = await c.say("Count from 1 to 1000.", gen={"temp": 0})
            await c.wait(lambda: len(c.streams.get(r["g"], Stream("")).text) > 20)
            await c.ask("cancel", g=r["g"])
            assert (await c.done(r["g"])).done["why"] == "cancel"

    run(main())
    assert server.health()["running"] == 0


def test_context_full_and_dropping_the_oldest(make_server):
    server = make_server(real=True, args=["--ctx", "256"])

    async def main():
        async with server.client() as c:
            r = await c.say("My name is Ada. " * 20, gen={"max": 10})
            await c.done(r["g"])
            r2 = await c.say("The weather is fine. " * 30, conv=r["conv"], gen={"max": 10})
            s = await c.done(r2["g"])
            assert s.done["err"]["code"] == 5003
            again = await c.ask("regen", cid="x", msg=r2["ans"], gen={"max": 10}, drop_oldest=True)
            s = await c.done(again["g"])
            assert s.text and any(x["st"] == "trimmed" for x in s.states)
            with pytest.raises(Refused, match="^1001 "):
                await c.say("")

    run(main())


def test_openai_client(make_server):
    server = make_server(real=True)
    key = server.add_user("api")
    with openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0, timeout=120) as client:
        ask = {
            "model": client.models.list().data[0].id,
            "messages": [{"role": "user", "content": "Say hello."}],
            "seed": 4,
            "temperature": 0.8,
            "max_tokens": 30,
        }
        plain = client.chat.completions.create(**ask)
        assert plain.choices[0].message.content and 0 < plain.usage.completion_tokens <= 30
        chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == plain.choices[0].message.content
        assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
        several = client.chat.completions.create(**ask, n=3)
        alone = [client.chat.completions.create(**ask | {"seed": 4 + i}).choices[0].message.content for i in range(3)]
        assert [c.message.content for c in several.choices] == alone and len(set(alone)) == 3
        told = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2).choices[0]
        assert told.message.content == text  # asking changes nothing
        assert b"".join(bytes(t.bytes) for t in told.logprobs.content).startswith(text.encode())
        assert all(len(t.top_logprobs) == 2 and t.top_logprobs[0].logprob >= t.logprob for t in told.logprobs.content)
        completion = client.completions.create(model="default", prompt="The capital of France is", temperature=0, logprobs=1)
        assert completion.choices[0].logprobs.tokens[0] == " Paris"
        assert "".join(completion.choices[0].logprobs.tokens) == completion.choices[0].text
