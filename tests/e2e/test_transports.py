"""The same messages on every transport: WebSocket, SSE, long polling, polling."""

import asyncio
import contextlib
import itertools
import json
import os
import random
import secrets
import socket
import time

import pytest
from conftest import TRANSPORTS, Refused, Stream, fake_text, request, run

HTTP = TRANSPORTS[1:]


def http(server, cookie, path, method="GET", body=None, origin=None):
    headers = {"Cookie": cookie} if cookie else {}
    return request(server.url + path, method, body, **headers, **({"Origin": origin or server.url} if method != "GET" else {}))


def hello(server, cookie=None):
    """The id of a new connection."""
    answer = http(server, cookie or server.cookie or server.sign_in(), "/api/cmd", "POST", b'{"t":"hello","v":1,"cid":"c"}')
    assert answer.status == 200, answer.body
    return json.loads(answer.body)["connection"]


def poll(server, id, **arguments):
    answer = http(server, server.cookie, f"/api/poll?connection={id}" + "".join(f"&{k}={v}" for k, v in arguments.items()))
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def test_one_conversation_read_by_all_at_once(server):
    """Same texts, checked against length and checksum, and the same notices in the same order."""

    async def main():
        cookie = server.sign_in()
        clients = [await server.client(cookie, transport).__aenter__() for transport in TRANSPORTS]
        turns = [await c.say(f"[[tokens 300 rate 1000]] {c.welcome['sid']}") for c in clients]
        for sender, r in zip(clients, turns):
            for c in clients:
                if c is not sender:
                    await c.ask("sub", g=r["g"], **{"from": 1})
        for c in clients:
            for r in turns:
                s = await c.done(r["g"])
                assert s.text == fake_text(300) and not s.snapped
        await clients[0].ask("rename", conv=turns[0]["conv"], title="all of us")
        for c in clients:
            await c.wait(lambda: any(m["t"] == "conv" and m["c"]["title"] == "all of us" for m in c.notices))
        for c in clients[1:]:
            assert c.notices == clients[0].notices
            assert c.numbers == list(range(1, len(c.numbers) + 1))
        for c in clients:
            await c.__aexit__()

    run(main())


@pytest.mark.parametrize("transport", HTTP)
def test_every_request_works(server, transport):
    async def main():
        async with server.client(transport=transport) as c:
            r = await c.say("[[tokens 100000 rate 200]]")
            await c.wait(lambda: r["g"] in c.streams and c.streams[r["g"]].text)
            await c.ask("cancel", g=r["g"])
            assert (await c.done(r["g"])).done["why"] == "cancel"
            again = await c.ask("cont", cid="again", msg=r["ans"], gen={"max": 5})
            assert (await c.ask("cont", cid="again", msg=r["ans"]))["g"] == again["g"]
            await c.wait(lambda: c.streams[again["g"]].done)
            long = await c.say("ü" * 100000 + "[[tokens 3]]", drop_oldest=True)
            await c.done(long["g"])
            assert (await c.ask("hist", conv=long["conv"]))["msgs"][0]["text"].startswith("üüü")
            await c.send(t="ping", n=7)
            assert (await c.notice("pong"))["n"] == 7
            await c.post('{"t":"convs","id":"a"}\n\n{"t":"nonsense","id":"b"}\n{"t":"convs","id":"c"}\n')
            await c.wait(lambda: {"a", "b", "c"} <= set(c.replies))
            assert c.replies["a"]["convs"] == c.replies["c"]["convs"] and c.replies["b"]["code"] == 1002
            with pytest.raises(Refused, match="^3000 "):
                await c.ask("delete", conv="0" * 32)

    run(main())


@pytest.mark.parametrize("seed", [1, 2])
def test_switches_between_all_pairs_lose_and_double_nothing(server, seed):
    """Cut after every few events; each time another transport goes on at the number where the last one was cut."""
    rng = random.Random(seed)
    pairs = list(itertools.product(TRANSPORTS, repeat=2))
    rng.shuffle(pairs)
    order = [transport for pair in pairs for transport in pair]

    async def main():
        cookie = server.sign_in()
        async with server.client(cookie) as c:
            g = (await c.say(f"[[tokens {len(order) * 40} rate 1000]]"))["g"]
        stream = Stream(g)
        for transport in order:
            client = server.client(cookie, transport, resume=[{"g": g, "from": stream.last + 1}])
            client.streams[g] = stream
            c = await client.__aenter__()
            until = stream.last + rng.randint(0, 40)
            await c.wait(lambda: stream.done or stream.last >= until)
            await (c.cut() if rng.random() < 0.7 else c.__aexit__())
        client = server.client(cookie, rng.choice(HTTP), resume=[{"g": g, "from": stream.last + 1}])
        client.streams[g] = stream
        if not stream.done:
            async with client as c:
                await c.done(g)
        assert stream.text == fake_text(len(order) * 40) and not stream.snapped

    run(main())


@pytest.mark.parametrize("seed", [1, 2])
def test_lost_answers_and_broken_streams_lose_nothing_of_a_connection(server, seed):
    """Answers thrown away, requests broken, readers changed: each message of the connection arrives once, in order."""
    rng = random.Random(seed)

    async def main():
        async with server.client(transport="longpoll") as c:
            asked = []
            for i in range(30):
                c.transport = rng.choice(HTTP)
                if rng.random() < 0.5:
                    c.lose = rng.randint(1, 3)
                asked.append(asyncio.create_task(c.say(f"[[tokens 30 rate 1000]] {i}")))
                await asyncio.sleep(rng.random() * 0.1)
                c.interrupt()
            for task in asked:
                stream = await c.done((await task)["g"])
                assert stream.text == fake_text(30) and not stream.snapped
            assert c.numbers == list(range(1, len(c.numbers) + 1))
            assert len((await c.ask("convs", limit=100))["convs"]) == 30

    run(main())


def test_a_post_that_is_repeated_is_done_once(server):
    async def main():
        async with server.client(transport="longpoll") as c:
            await c.ask("convs")
            body = json.dumps({"t": "send", "id": "once", "cid": secrets.token_hex(8), "text": "[[tokens 2]]"})
            for _ in range(3):
                await c.post(body, n=2)
            await c.wait(lambda: "once" in c.replies)  # the client complains about a second answer
            c.posts = 2
            assert len((await c.ask("convs"))["convs"]) == 1

    run(main())


def test_a_poll_is_answered_at_once_or_after_the_wait(server):
    id = hello(server)
    first = poll(server, id, wait=60)
    assert [m["t"] for m in first["msgs"]] == ["welcome"] and first["next"] == 1
    assert poll(server, id, wait=60) == first, "not acknowledged: again"
    assert poll(server, id, after=1) == {"next": 1, "msgs": []}
    begun = time.monotonic()
    assert poll(server, id, after=1, wait=1) == {"next": 1, "msgs": []}
    assert time.monotonic() - begun >= 0.95

    async def main():
        async with server.client(transport="longpoll", wait=60) as c:
            await asyncio.sleep(0.2)  # it waits
            await c.ask("convs")  # far below the 60 s

    begun = time.monotonic()
    run(main())
    assert time.monotonic() - begun < 30


def test_a_new_reader_ends_the_one_before(server):
    async def main():
        async with server.client(transport="sse") as c:
            async with c.http.get(c.url("/api/poll", after=c.after, wait=0)) as response:
                assert await response.json() == {"next": c.after, "msgs": []}
            await c.ask("convs")  # the event stream came back by itself
            first = asyncio.create_task(c.http.get(c.url("/api/poll", after=c.after, wait=60)))
            await asyncio.sleep(0.1)
            c.interrupt()
            async with await first as response:
                assert (await response.json())["msgs"] == []

    run(main())


def test_messages_that_are_not_kept_any_more_are_gone(server):
    """An event stream does not wait to hear what arrived, so old messages are forgotten; the client then begins anew."""

    async def main():
        async with server.client(transport="sse") as c:
            r = await c.say("[[tokens 40000]]")
            await c.done(r["g"])
            for after, status in [(0, 410), (1, 410), (c.after, 200), (c.after + 1, 400)]:
                async with c.http.get(c.url("/api/poll", after=after)) as response:
                    assert response.status == status, after
                    if status != 200:
                        assert (await response.json())["error"].endswith(".")

    run(main())


def test_another_user_gets_nothing(server):
    id, bob = hello(server), server.sign_in_with_key(server.add_user("bob"))
    for cookie, status in [(bob, 410), (None, 401), ("foresay_session=fss_" + "A" * 43, 410)]:
        for method, path in [("GET", "/api/poll"), ("GET", "/api/events"), ("POST", "/api/cmd"), ("DELETE", "/api/cmd")]:
            answer = http(server, cookie, f"{path}?connection={id}&n=1", method, b'{"t":"convs","id":"1"}' if method == "POST" else None)
            assert answer.status == status and json.loads(answer.body)["error"].endswith("."), (cookie, path)
    assert [m["t"] for m in poll(server, id)["msgs"]] == ["welcome"]

    async def main():
        async with server.client() as a:
            r = await a.say("secret [[tokens 10]]")
            await a.done(r["g"])
        for transport in HTTP:
            async with server.client(bob, transport, resume=[{"g": r["g"], "from": 1}]) as b:
                await b.wait(lambda: b.errors)
                assert b.errors[0]["code"] == 3000 and not b.streams
                with pytest.raises(Refused, match="^3000 "):
                    await b.ask("sub", g=r["g"], **{"from": 1})

    run(main())


def test_bad_input_gets_a_sentence(server):
    id, cookie = hello(server), server.cookie
    here = f"?connection={id}"
    cases = [
        ("POST", "", b"{", 400),
        ("POST", "", b"", 400),
        ("POST", "", b'{"t":"convs","id":"1"}', 400),
        ("POST", "", b'{"t":"hello","v":2,"cid":"c"}', 400),
        ("POST", "?connection=x", b"{}", 400),
        ("POST", "?connection=" + "x" * 200, b"{}", 400),
        ("POST", "?connection=" + "0" * 32, b"{}", 410),
        ("POST", here, b"{}", 400),
        ("POST", here + "&n=0", b"{}", 400),
        ("POST", here + "&n=-1", b"{}", 400),
        ("POST", here + "&n=1x", b"{}", 400),
        ("POST", here + "&n=99999999999999999999", b"{}", 400),
        ("POST", here + "&n=2", b"{}", 409),
        ("POST", here + "&n=1", b"x" * (513 * 1024), 413),
        ("GET", "", None, 400),
        ("GET", here + "&after=1", None, 400),
        ("GET", here + "&after=x", None, 400),
        ("PUT", here, b"{}", 405),
        ("HEAD", here, None, 405),
    ]
    for method, query, body, status in cases:
        for path in ["/api/cmd"] if method in ("POST", "PUT") else ["/api/poll", "/api/events"]:
            answer = http(server, cookie, path + query, method, body)
            assert answer.status == status, (method, path + query, answer.status)
            assert method == "HEAD" or json.loads(answer.body)["error"].endswith("."), answer.body
    for wait in ("61", "x", "-1", "1.5"):
        assert http(server, cookie, f"/api/poll{here}&wait={wait}").status == 400
    assert request(server.url + "/api/events" + here, Cookie=cookie, Last_Event_ID="x").status == 400
    for method in ("POST", "DELETE"):
        for origin in ("https://evil.example", "null"):
            assert http(server, cookie, "/api/cmd" + here + "&n=1", method, b"{}" if method == "POST" else None, origin).status == 403
        assert request(server.url + "/api/cmd" + here, method, b"{}" if method == "POST" else None, Cookie=cookie).status == 403
    assert [m["t"] for m in poll(server, id)["msgs"]] == ["welcome"], "nothing of all that reached the connection"


def test_a_message_that_is_too_long_ends_the_connection(server):
    async def main():
        async with server.client(transport="longpoll") as c:
            await c.post("x" * 262145)
            await c.wait(lambda: c.errors)
            assert c.errors[0]["code"] == 1003 and await c.wait_closed() == 1009

    run(main())


def test_connections_are_bounded(server):
    """For one user, by the same number as WebSockets, and the refusal is a sentence."""
    cookie = server.sign_in()
    ids = [hello(server, cookie) for _ in range(64)]
    answer = http(server, cookie, "/api/cmd", "POST", b'{"t":"hello","v":1,"cid":"c"}')
    assert answer.status == 503 and "too many connections of this user" in json.loads(answer.body)["error"]
    hello(server, server.sign_in_with_key(server.add_user("bob")))
    assert http(server, cookie, f"/api/cmd?connection={ids[0]}", "DELETE").status == 204
    assert http(server, cookie, f"/api/poll?connection={ids[0]}").status == 410
    hello(server, cookie)


def test_too_many_messages_end_the_connection(server):
    async def main():
        async with server.client(transport="longpoll") as c:
            await c.post("\n".join(json.dumps({"t": "convs", "id": f"n{i}"}) for i in range(100)))
            await c.wait(lambda: len(c.replies) == 100)
            assert 50 <= [r.get("code") for r in c.replies.values()].count(4000) <= 70
            await c.post("\n".join(json.dumps({"t": "convs", "id": f"m{i}"}) for i in range(2000)))
            assert await c.wait_closed() == 4429

    run(main())


@pytest.mark.parametrize("transport", HTTP)
def test_the_end_of_a_connection_is_told(server, transport):
    cookie = server.sign_in_with_key(server.add_user("bob"))

    async def main():
        async with server.client(cookie, transport) as c:
            assert http(server, cookie, "/api/session", "DELETE").status == 204
            assert await c.wait_closed() == 4401
        answer = http(server, cookie, "/api/cmd", "POST", b'{"t":"hello","v":1,"cid":"c"}')
        assert answer.status == 401

    run(main())


def test_a_restart_is_told_and_readers_do_not_hold_it_up(make_server):
    server = make_server()

    async def main():
        hello(server)  # nobody reads this one
        clients = [await server.client(transport=transport).__aenter__() for transport in HTTP]
        assert await asyncio.to_thread(server.stop) == 0
        assert "came to rest" not in "".join(server.log), "it did not wait for the one that nobody reads"
        for c in clients:
            assert c.transport == "poll" or any(m["t"] == "drain" for m in c.notices), "one that polls may come too late"
            await c.cut()

    run(main())


def sockets_of(server):
    folder = f"/proc/{server.process.pid}/fd"
    links = []
    for fd in os.listdir(folder):
        try:
            links.append(os.readlink(f"{folder}/{fd}"))
        except OSError:
            pass
    return sum(link.startswith("socket:") for link in links)


LEAVE = {
    "closes": lambda s: s.close(),
    "ends its side": lambda s: s.shutdown(socket.SHUT_WR),
    "asks before its turn": lambda s: s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
}


@pytest.mark.parametrize("leave", LEAVE)
def test_readers_that_leave_are_noticed_and_cost_nothing(server, leave):
    """libwebsockets 4.1 would not notice, and spin."""
    host, port = server.url.split("//")[1].split(":")
    before = sockets_of(server)
    open_sockets = []
    for path in ["/api/events?after=1&", "/api/poll?after=1&wait=60&"] * 5:
        s = socket.create_connection((host, int(port)), 10)
        id = hello(server)
        poll(server, id)
        s.sendall(f"GET {path}connection={id} HTTP/1.1\r\nHost: x\r\nCookie: {server.cookie}\r\n\r\n".encode())
        open_sockets.append(s)
    time.sleep(0.3)
    assert sockets_of(server) >= before + 10
    for s in open_sockets:
        LEAVE[leave](s)
    end = time.monotonic() + 20
    while sockets_of(server) > before and time.monotonic() < end:
        time.sleep(0.05)
    assert sockets_of(server) <= before
    used = server.cpu_s()
    time.sleep(1)
    assert server.cpu_s() - used < 0.3
    for s in open_sockets:
        s.close()


def test_a_request_in_the_same_packet_as_one_that_waits(server):
    host, port = server.url.split("//")[1].split(":")
    for path in ["/api/events?", "/api/poll?wait=60&after=1&"]:
        with socket.create_connection((host, int(port)), 10) as s:
            id = hello(server)
            poll(server, id)
            ask = f"GET {path}connection={id} HTTP/1.1\r\nHost: x\r\nCookie: {server.cookie}\r\n\r\n".encode()
            s.sendall(ask + ask)
            time.sleep(0.3)
            used = server.cpu_s()
            time.sleep(1)
            assert server.cpu_s() - used < 0.3
    assert server.health()["status"] == "ok"


def open_events(server, id):
    """A reader that takes next to nothing by itself."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, port = server.url.split("//")[1].split(":")
    s.connect((host, int(port)))
    s.sendall(f"GET /api/events?connection={id} HTTP/1.1\r\nHost: x\r\nCookie: {server.cookie}\r\n\r\n".encode())
    return s


def read_events(s, stream):
    """To the end of the generation or of the stream."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    with s, s.makefile(encoding="utf-8", newline="\n") as lines, contextlib.suppress(ConnectionError):
        for line in lines:
            if line.startswith("data: ") and (message := json.loads(line[6:])).get("g") == stream.g and message["t"] != "ok":
                stream.apply(message)
                if stream.done:
                    return


def test_a_slow_event_stream_gets_fewer_and_larger_messages(server):
    """It reads nothing while the text is written; nothing is copied for it (sse.h), and all is there when it reads."""
    tokens = 10000

    async def main():
        cookie = server.sign_in()
        async with server.client(cookie) as c:
            g = (await c.say(f"[[tokens {tokens} rate 10000]]"))["g"]
            resume = json.dumps({"t": "hello", "v": 1, "cid": "c", "resume": [{"g": g, "from": 1}]}).encode()
            answer = http(server, cookie, "/api/cmd", "POST", resume)
            slow = open_events(server, json.loads(answer.body)["connection"])
            await c.done(g)
        stream = Stream(g)
        await asyncio.to_thread(read_events, slow, stream)
        if not stream.done:  # on a very slow machine the server has given up on it
            async with server.client(cookie, resume=[{"g": g, "from": stream.last + 1}]) as c:
                c.streams[g] = stream
                await c.done(g)
        assert stream.text == fake_text(tokens) and stream.frames < tokens / 50

    run(main())
