"""What was acknowledged is on disk: kill -9, SIGTERM, a full disk."""

import asyncio
import secrets

import pytest
from conftest import Refused, Stream, fake_text, limit_file_size, run


def restart(make_server, server, **options):
    return make_server(data=server.data, **options)


def test_kill_in_mid_answer_then_continue(make_server):
    server = make_server()

    async def before():
        async with server.client() as c:
            r = await c.say("[[tokens 5000 rate 400]] long")
            await c.wait(lambda: len(c.streams.get(r["g"], Stream("")).text) > 3000)
            # The whole text is on disk at most a second later: other clients' commits go on meanwhile.
            await asyncio.sleep(0)
            server.kill()
            await c.task
            return r, c.streams[r["g"]].text

    r, seen = run(before())
    again = restart(make_server, server)

    async def after():
        async with again.client(resume=[{"g": r["g"], "from": 1}]) as c:
            await c.wait(lambda: c.streams.get(r["g"]))
            snap = c.streams[r["g"]].snapped
            assert snap["st"] == "interrupted"
            question, answer = (await c.ask("hist", conv=r["conv"]))["msgs"]
            assert question["id"] == r["msg"] and answer["id"] == r["ans"]
            assert answer["st"] == "interrupted" and answer["text"] == snap["x"]
            assert fake_text(5000).startswith(answer["text"]) and answer["text"]
            k = await c.ask("cont", cid=secrets.token_hex(8), msg=r["ans"], gen={"max": 50})
            s = await c.done(k["g"])
            assert s.text.startswith(answer["text"]) and fake_text(5000).startswith(s.text)
            assert len(s.text) > len(answer["text"])
            return len(seen), len(answer["text"])

    run(after())


def test_an_acknowledged_send_survives_kill_at_once(make_server):
    server = make_server()
    acknowledged = []
    for i in range(5):

        async def send():
            async with server.client() as c:
                r = await c.say(f"keep me {i} [[tokens 100000 rate 50]]")
                server.kill()
                acknowledged.append((r, i))

        run(send())
        server = restart(make_server, server)

    async def check():
        async with server.client() as c:
            for r, i in acknowledged:
                msgs = (await c.ask("hist", conv=r["conv"]))["msgs"]
                assert [m["id"] for m in msgs] == [r["msg"], r["ans"]] and msgs[0]["text"].startswith(f"keep me {i}")
                assert msgs[1]["st"] == "interrupted"

    run(check())


def test_sigterm_tells_the_clients_and_keeps_the_text(make_server):
    server = make_server()

    async def before():
        async with server.client() as c:
            r = await c.say("[[tokens 100000 rate 1000]]")
            await c.wait(lambda: len(c.streams.get(r["g"], Stream("")).text) > 500)
            server.process.terminate()
            drain = await c.notice("drain")
            assert drain["after_ms"] > 0
            s = await c.done(r["g"])
            assert s.done["why"] == "interrupted"
            assert await c.wait_closed() == 1012
            return r, s.text

    r, text = run(before())
    assert server.stop() == 0
    again = restart(make_server, server)

    async def after():
        async with again.client() as c:
            answer = (await c.ask("hist", conv=r["conv"]))["msgs"][-1]
            assert answer["st"] == "interrupted" and answer["text"] == text

    run(after())


def test_sigterm_with_sixteen_streams_is_clean(make_server):
    server = make_server()

    async def main():
        cookie = server.sign_in()

        async def one():
            async with server.client(cookie) as c:
                r = await c.say("[[tokens 100000 rate 500]]")
                s = await c.done(r["g"])
                return s.done["why"], await c.wait_closed()

        tasks = [asyncio.create_task(one()) for _ in range(16)]
        async with server.client(cookie) as c:
            await c.wait(lambda: sum(n["t"] == "msg" for n in c.notices) == 32)
        server.process.terminate()
        assert set(await asyncio.gather(*tasks)) == {("interrupted", 1012)}

    run(main())
    assert server.stop() == 0


def test_full_disk_is_told_and_loses_nothing_acknowledged(make_server):
    server = make_server(preexec=limit_file_size(400 * 1024))

    async def fill():
        kept, refused, unsaved = [], 0, 0
        async with server.client() as c:
            for i in range(60):
                try:
                    r = await c.say("x" * 20000 + f"{i} [[tokens 20]]")
                except Refused as e:
                    assert e.code == 5002 and len(e.reply["msg"]) > 20, e.reply
                    refused += 1
                    if refused == 3:
                        break
                    continue
                kept.append(r)
                s = await c.done(r["g"])
                assert s.text == fake_text(20), "the text comes whether it can be saved or not"
                if "err" in s.done:
                    assert s.done["err"]["code"] == 5002
                    unsaved += 1
            assert refused == 3 and kept
            await c.ask("convs")  # reading goes on
        return kept

    kept = run(fill())
    server.kill()
    again = restart(make_server, server)

    async def check():
        async with again.client() as c:
            for r in kept:
                msgs = (await c.ask("hist", conv=r["conv"]))["msgs"]
                assert [m["id"] for m in msgs] == [r["msg"], r["ans"]]

    run(check())


def test_answer_that_cannot_be_saved_says_so(make_server):
    """The disk fills while the answer streams: the text goes on, DONE tells."""
    server = make_server(preexec=limit_file_size(300 * 1024))

    async def main():
        async with server.client() as c:
            r = await c.say("[[tokens 40000 rate 40000]]")
            s = await c.done(r["g"])
            assert s.text == fake_text(40000) and s.done["why"] == "stop"
            assert s.done["err"]["code"] == 5002 and "saved" in s.done["err"]["msg"]
            assert sum("could not be saved" in line for line in server.log) < 10, "not with every token"

    run(main())
    server.kill()
