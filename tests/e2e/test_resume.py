"""Exactly once, however often the line is cut."""

import asyncio
import random

import pytest
from conftest import Refused, Stream, fake_text, run


async def follow(server, cookie, g, rng, tokens, cuts):
    """Reads generation g to its end over many connections, each cut at a random event."""
    stream, n_cuts = Stream(g), 0
    while not stream.done:
        client = server.client(cookie, hello=True, resume=[{"g": g, "from": stream.last + 1}])
        client.streams[g] = stream
        async with client as c:
            if n_cuts == cuts:
                await c.done(g)
                break
            until = stream.last + rng.randint(0, 2 * tokens // cuts)
            await c.wait(lambda: stream.done or stream.last >= until)
            if not stream.done:
                n_cuts += 1
                await c.cut()
    return stream, n_cuts


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hundreds_of_cuts_lose_and_double_nothing(server, seed):
    rng = random.Random(seed)
    print("seed", seed)

    async def main():
        cookie = server.sign_in()
        async with server.client(cookie) as c:
            r = await c.say("[[tokens 3000 rate 1500]]")
        results = await asyncio.gather(*(follow(server, cookie, r["g"], rng, 3000, 60) for _ in range(3)))
        for stream, _ in results:
            assert stream.text == fake_text(3000) and not stream.snapped
        assert sum(n for _, n in results) >= 60

    run(main())


def test_the_sender_may_leave_before_the_first_token(server):
    async def main():
        cookie = server.sign_in()
        async with server.client(cookie) as c:
            r = await c.say("[[tokens 50 prefill 5 rate 1000]]")
            await c.cut()
        async with server.client(cookie, resume=[{"g": r["g"], "from": 1}]) as c:
            assert (await c.done(r["g"])).text == fake_text(50)

    run(main())


def test_every_starting_point_of_a_finished_stream(server):
    async def main():
        async with server.client() as c:
            r = await c.say("[[tokens 30 prefill 2]]")
            whole = await c.done(r["g"])
            head = whole.last
        for start in range(1, head + 2):
            client = server.client(resume=[{"g": r["g"], "from": start}])
            s = client.streams[r["g"]] = Stream(r["g"])
            s.last, s.text = start - 1, fake_text(max(0, min(30, start - 4)))  # start, two states, then the tokens
            async with client as c:
                if start <= head:
                    assert (await c.done(r["g"])).text == fake_text(30)
        async with server.client() as c:
            with pytest.raises(Refused, match="^1001 "):
                await c.ask("sub", g=r["g"], **{"from": head + 2})

    run(main())


def test_unsub_stops_the_events_and_sub_brings_them_back(server):
    async def main():
        async with server.client() as c:
            r = await c.say("[[tokens 400 rate 800]]")
            s = await c.wait(lambda: c.streams.get(r["g"]))
            await c.ask("unsub", g=r["g"])
            frames = s.frames
            async with server.client() as d:
                await d.ask("sub", g=r["g"], **{"from": 1})
                await d.done(r["g"])
            assert s.frames == frames
            await c.ask("sub", g=r["g"], **{"from": s.last + 1})
            assert (await c.done(r["g"])).text == fake_text(400)

    run(main())


def test_an_unknown_stream_is_not_found(server):
    async def main():
        async with server.client(resume=[{"g": "ab" * 16, "from": 1}]) as c:
            await c.wait(lambda: c.errors)
            assert c.errors[0]["g"] == "ab" * 16 and c.errors[0]["code"] == 3000
            for t in ("sub", "cancel"):
                with pytest.raises(Refused, match="^3000 "):
                    await c.ask(t, g="cd" * 16, **({"from": 1} if t == "sub" else {}))

    run(main())
