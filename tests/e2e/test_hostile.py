"""Clients that break rules, by mistake or on purpose."""

import asyncio
import json
import socket

import pytest
from conftest import Refused, Stream, fake_text, run
from websockets.exceptions import ConnectionClosed, InvalidHandshake

BAD_FRAMES = [
    ("{", 1000),
    ("[]", 1000),
    ("", 1000),
    ("null", 1000),
    ('"x"', 1000),
    ('{"t":"send","t":"send"}', 1000),
    ('{"a":"\\u0000"}', 1000),
    ('{"a":"\\ud800"}', 1000),
    ("[" * 5000, 1000),
    ("{}", 1001),
    ('{"t":5}', 1001),
    ('{"t":"nonsense","id":"x"}', 1002),
    ('{"t":"send"}', 1001),
    ('{"t":"send","id":"x"}', 1001),
    ('{"t":"send","id":"x","cid":"c","text":""}', 1001),
    ('{"t":"send","id":"x","cid":"c","text":" \\n "}', 1001),
    ('{"t":"send","id":"x","cid":"c","text":5}', 1001),
    ('{"t":"send","id":"x","cid":"c","text":{"a":1}}', 1001),
    ('{"t":"send","id":"x","cid":"","text":"t"}', 1001),
    ('{"t":"send","id":"x","cid":"c","text":"t","conv":"zz"}', 1001),
    ('{"t":"send","id":"x","cid":"c","text":"t","gen":{"temp":9}}', 1001),
    ('{"t":"send","id":"x","cid":"c","text":"t","gen":{"temp":"hot"}}', 1001),
    ('{"t":"send","id":"x","cid":"c","text":"t","gen":{"top_p":0}}', 1001),
    ('{"t":"send","id":"x","cid":"c","text":"t","gen":{"stop":["a","b","c","d","e","f","g","h","i"]}}', 1001),
    ('{"t":"send","id":"x","cid":"c","text":"t","gen":{"stop":[""]}}', 1001),
    ('{"t":"send","id":"x","cid":"c","text":"t","gen":{"mirostat":2}}', 1001),
    ('{"t":"send","id":"x","cid":"c","text":"t","gen":[]}', 1001),
    ('{"t":"send","id":"' + "x" * 65 + '","cid":"c","text":"t"}', 1001),
    ('{"t":"sub","id":"x","g":"' + "0" * 32 + '","from":0}', 1001),
    ('{"t":"sub","id":"x","g":"' + "0" * 32 + '"}', 1001),
    ('{"t":"hist","id":"x","conv":"' + "0" * 32 + '","limit":0}', 1001),
    ('{"t":"hist","id":"x","conv":"' + "0" * 32 + '","limit":101}', 1001),
    ('{"t":"hist","id":"x","conv":"' + "0" * 32 + '"}', 3000),
    ('{"t":"hist","id":"x","conv":"' + "A" * 32 + '"}', None),
    ('{"t":"rename","id":"x","conv":"' + "0" * 32 + '","title":"t"}', 3000),
    ('{"t":"regen","id":"x","cid":"c","msg":"' + "0" * 32 + '"}', 3000),
    ('{"t":"hello","v":1,"cid":"again"}', 3004),
]


def test_malformed_frames_get_an_error_and_the_connection_lives(server):
    async def main():
        for i in range(0, len(BAD_FRAMES), 30):
            async with server.client() as c:
                for frame, code in BAD_FRAMES[i : i + 30]:
                    c.replies.clear()
                    c.errors.clear()
                    await c.ws.send(frame)
                    got = await c.wait(lambda: c.errors or list(c.replies.values()))
                    assert code is None or got[0]["code"] == code, (frame[:80], got)
                    assert got[0]["msg"].endswith("."), got
                r = await c.say("[[tokens 3]]")
                assert (await c.done(r["g"])).text == fake_text(3)

    run(main())


def test_the_error_names_the_unknown_setting(server):
    async def main():
        async with server.client() as c:
            with pytest.raises(Refused, match="mirostat"):
                await c.say("x", gen={"mirostat": 2})

    run(main())


def test_a_long_paste_fits_and_a_flood_does_not(server):
    async def main():
        async with server.client() as c:
            text = "ü" * 120000 + "[[tokens 3]]"
            r = await c.say(text, drop_oldest=True)
            await c.done(r["g"])
            hist = await c.ask("hist", conv=r["conv"])
            assert hist["msgs"][0]["text"] == text
            await c.ws.send("x" * 262145)
            assert await c.wait_closed() == 1009
            assert c.errors[0]["code"] == 1003

    run(main())


def test_a_frame_in_many_pieces_is_one_message(server):
    async def main():
        async with server.client() as c:
            frame = json.dumps({"t": "ping", "n": 5, "pad": "y" * 200000})
            await c.ws.send([frame[i : i + 7001] for i in range(0, len(frame), 7001)])
            assert (await c.notice("pong"))["n"] == 5

            async def endless():
                try:
                    while True:
                        yield "z" * 50000
                except GeneratorExit:
                    return

            with pytest.raises(ConnectionClosed):
                await c.ws.send(endless())
            assert await c.wait_closed() == 1009

    run(main())


def test_binary_frames_are_refused(server):
    async def main():
        async with server.client() as c:
            await c.ws.send(b"\x00\x01")
            assert await c.wait_closed() == 1003

    run(main())


def test_hello_comes_first(server):
    async def main():
        async with server.client(hello=False) as c:
            await c.send(t="convs", id="1")
            assert await c.wait_closed() == 4500

    run(main())


def test_too_many_messages_are_refused_then_the_connection_is_closed(server):
    async def main():
        async with server.client() as c:
            for i in range(100):
                await c.send(t="convs", id=f"n{i}")
            await c.wait(lambda: len(c.replies) == 100)
            codes = [r.get("code") for r in c.replies.values()]
            assert 30 <= codes.count(None) <= 60 and codes.count(4000) == 100 - codes.count(None)
            assert all(r["retry_ms"] > 0 for r in c.replies.values() if r.get("code") == 4000)
            try:
                for i in range(2000):
                    await c.send(t="convs", id=f"m{i}")
            except ConnectionClosed:
                pass
            assert await c.wait_closed() == 4429

    run(main())


def test_subscriptions_are_bounded(server):
    async def main():
        async with server.client() as c:
            streams = []
            for i in range(32):
                streams.append((await c.say("[[tokens 1000000 rate 20]]"))["g"])
                await asyncio.sleep(0.05)  # below the rate limit
            with pytest.raises(Refused, match="^4003 "):
                await c.say("one too many")
            for g in streams:
                await asyncio.sleep(0.05)
                await c.ask("cancel", g=g)
            for g in streams:
                await c.done(g)

    run(main())


def test_slow_readers_cost_the_server_nothing(server):
    """Twenty-four clients read nothing while 2 MB of text go by: no copies are kept for them, all is there when they read."""

    async def main():
        cookie = server.sign_in()
        tokens = 40000 if server.sanitized else 200000  # slow readers answer no ping: all must be over in 50 s
        text = fake_text(tokens)
        async with server.client(cookie) as c:
            warm = await c.say(f"[[tokens {tokens}]]")
            await c.done(warm["g"])
            before = server.rss_kb()
            r = await c.say(f"[[tokens {tokens} rate 100000]]")
            slow = [await server.client(cookie, max_queue=1).__aenter__() for _ in range(24)]
            for s in slow:
                await s.send(t="sub", id="s", g=r["g"], **{"from": 1})
                s.ws.transport.pause_reading()
            assert (await c.done(r["g"])).text == text
            grown = server.rss_kb() - before
            assert server.sanitized or grown < 24 * 1024, "the log, its copy for the store, and 64 kB a reader; not 24 copies"
            for s in slow:
                s.ws.transport.resume_reading()
                assert (await s.done(r["g"])).text == text
                await s.__aexit__()

    run(main())


def test_connections_of_one_user_are_bounded(server):
    async def main():
        cookie = server.sign_in()
        clients = [await server.client(cookie).__aenter__() for _ in range(64)]
        async with server.client(cookie, hello=False) as c:
            assert await c.wait_closed(4) == 1013
        async with server.client(server.sign_in_with_key(server.add_user("bob"))) as bob:
            await bob.ask("convs")
        await clients[0].__aexit__()
        async with server.client(cookie) as c:
            await c.ask("convs")
        for c in clients[1:]:
            await c.__aexit__()

    run(main())


def test_another_site_cannot_open_a_socket(server):
    async def main():
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
            with pytest.raises(InvalidHandshake, match="403"):
                async with server.client(origin=origin):
                    pass
        with pytest.raises(InvalidHandshake, match="401"):
            async with server.client("foresay_session=nonsense"):
                pass

    run(main())


def test_a_forged_session_is_closed_with_4401(server):
    async def main():
        async with server.client("foresay_session=fss_" + "A" * 43, hello=False) as c:
            assert await c.wait_closed() == 4401

    run(main())


def raw(server, *parts, wait=0.3):
    """Sends bytes on a fresh TCP connection, returns what comes back until the server is silent."""
    host, port = server.url.split("//")[1].split(":")
    with socket.create_connection((host, int(port)), 10) as s:
        s.settimeout(1)
        answer = b""
        try:
            for part in parts:
                s.sendall(part)
            while chunk := s.recv(65536):
                answer += chunk
                s.settimeout(wait)
        except OSError:  # silence, or hung up on
            pass
        return answer


UPGRADE = b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"c" * 7000 + b"\r\n\r\n",
        b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" + UPGRADE % b"bogus" + UPGRADE % b"bogus",
        UPGRADE % b"h2c",
        UPGRADE % (b"w" * 3000),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 60,
        b"POST /api/session HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello",
        b"POST /api/session HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
        b"POST /api/session HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"POST /api/session HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 40,
    ],
)
def test_broken_requests_do_not_hurt(server, request_bytes):
    raw(server, request_bytes)
    raw(server, *[request_bytes[i : i + 11] for i in range(0, min(len(request_bytes), 3000), 11)])
    assert server.health()["status"] == "ok"


def test_a_bogus_upgrade_on_a_used_connection_is_hung_up_on(server):
    """libwebsockets 4.1 would read freed memory there."""
    answer = raw(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", UPGRADE % b"bogus", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.count(b'"status":"ok"') <= 1
    assert server.health()["status"] == "ok"


def test_half_a_request_does_not_block_others(server):
    host, port = server.url.split("//")[1].split(":")
    held = [socket.create_connection((host, int(port))) for _ in range(200)]
    for s in held:
        s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    assert server.health()["status"] == "ok"
    for s in held:
        s.close()
    assert server.health()["status"] == "ok"


def test_idle_server_uses_no_cpu(server):
    """Loops that spin are the classic trouble of this socket library; a second of silence must cost next to nothing."""

    async def main():
        async with server.client() as c:
            r = await c.say("[[tokens 3]]")
            await c.done(r["g"])
            before = server.cpu_s()
            await asyncio.sleep(1)
            assert server.cpu_s() - before < 0.3

    run(main())
