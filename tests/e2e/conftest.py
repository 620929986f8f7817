"""Servers under test and a client that speaks chat.v1.

FORESAY_FAKE_BIN: the server with the scripted engine (make build/foresay-fake); most tests use it.
FORESAY_BIN and FORESAY_MODEL: the real ones; tests marked real_model are left out without them.
A server listens on a free port of 127.0.0.1, keeps its data in a temporary folder, and is ended by its own pid.
"""

import asyncio
import functools
import json
import os
import re
import resource
import secrets
import signal
import subprocess
import threading
import time
import urllib.request
from http.cookies import SimpleCookie

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

FAKE = os.environ.get("FORESAY_FAKE_BIN", "build/foresay-fake")
REAL = os.environ.get("FORESAY_BIN", "build/foresay")
MODEL = os.environ.get("FORESAY_MODEL", "")
START_S = 60  # for sanitizer builds and model loading on a busy machine


def pytest_configure(config):
    config.addinivalue_line("markers", "real_model: needs FORESAY_BIN and FORESAY_MODEL")


def pytest_collection_modifyitems(items):
    usable = os.path.exists(REAL) and os.path.exists(MODEL)
    for item in items:
        if "real_model" in item.keywords and not usable:
            item.add_marker(pytest.mark.skip(reason="FORESAY_BIN or FORESAY_MODEL is missing"))


# --- CRC-32C, in Python, so that both ends do not share a mistake ---

_TABLE = []
for _i in range(256):
    _c = _i
    for _ in range(8):
        _c = (_c >> 1) ^ (0x82F63B78 if _c & 1 else 0)
    _TABLE.append(_c)


@functools.lru_cache(maxsize=16)  # many clients get the same long text
def crc32c(data: bytes) -> str:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 255] ^ (crc >> 8)
    return f"{crc ^ 0xFFFFFFFF:08x}"


def fake_text(n: int, first: int = 0) -> str:
    """What tests/fake_engine.c answers: n tokens."""
    kinds = [" w%d", " né%d", " 日本%d", ' "q%d"', "\n%d.", " 🙂%d", " \\%d", " <b>%d", "\t%d"]
    return "".join(kinds[i % 9] % i for i in range(first, first + n))


# --- servers ---


class Server:
    def __init__(self, binary, data, model="none", args=(), env=None, preexec=None):
        self.binary, self.data, self.model, self.args = binary, str(data), model, list(args)
        self.env, self.preexec = {**os.environ, **(env or {})}, preexec
        self.process = None
        self.log = []
        self.cookie = None

    def start(self):
        command = [self.binary, "serve", "--model", self.model, "--port", "0", "--data", self.data, *self.args]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env, preexec_fn=self.preexec
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        timer = threading.Timer(START_S, self.process.kill)
        timer.start()
        self.url = None
        for line in self.process.stdout:
            found = re.search(r"(http://\S+)/sign-in\?code=(\S+)", line)
            if found:
                self.url, self.code = found.group(1), found.group(2)
                break
        timer.cancel()
        assert self.url, "the server printed no URL:\n" + "".join(self.log)
        return self

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)

    @property
    def ws_url(self):
        return self.url.replace("http", "ws", 1) + "/v1/ws"

    def sign_in(self):
        """The administrator's session cookie, by the printed code."""
        response = request(self.url + "/sign-in?code=" + self.code)
        assert response.status == 303, response.body
        self.cookie = cookie_of(response)
        return self.cookie

    def add_user(self, name, *flags):
        """An API key."""
        done = subprocess.run(
            [self.binary, "user", "add", name, "--data", self.data, *flags], capture_output=True, text=True, env=self.env
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def sign_in_with_key(self, key):
        response = request(self.url + "/api/session", "POST", json.dumps({"key": key}).encode())
        assert response.status == 204, response.body
        return cookie_of(response)

    def client(self, cookie=None, transport="websocket", **options):
        kind = Client if transport == "websocket" else functools.partial(HttpClient, transport)
        return kind(self, cookie or self.cookie or self.sign_in(), **options)

    @property
    def sanitized(self):
        """Sanitizers keep freed memory and shadow the rest: sizes say nothing then."""
        with open(self.binary, "rb") as binary:
            code = binary.read()
        return b"__asan_init" in code or b"__tsan_init" in code

    def rss_kb(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1))

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def health(self):
        return json.loads(request(self.url + "/health").body)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.cookie = None

    def stop(self, timeout=30):
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError("the server did not end:\n" + "".join(self.log))
        self._reader.join()
        self.process.stdout.close()
        self.cookie = None
        return self.process.returncode


@pytest.fixture
def make_server(tmp_path):
    """make_server(**options) starts one; all are ended, and must end cleanly, after the test."""
    servers = []

    def make(real=False, data=None, **options):
        binary, model = (REAL, MODEL) if real else (FAKE, "none")
        server = Server(binary, data or tmp_path / f"data{len(servers)}", model, **options).start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        ended_by_test = server.process.poll() is not None
        status = server.stop()
        log = "".join(server.log)
        assert "Sanitizer" not in log and "runtime error" not in log, log
        assert ended_by_test or status == 0, log


@pytest.fixture
def server(make_server):
    return make_server()


# --- plain HTTP ---


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


_opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))


def request(url, method="GET", body=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    req = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        with _opener.open(req, timeout=30) as response:
            return Response(response.status, response.headers, response.read())
    except urllib.error.HTTPError as response:
        return Response(response.code, response.headers, response.read())


def cookie_of(response):
    jar = SimpleCookie(response.headers["set-cookie"])
    return f"foresay_session={jar['foresay_session'].value}"


# --- a client of chat.v1 ---


class Refused(Exception):
    def __init__(self, reply):
        super().__init__(f"{reply['code']} {reply['msg']}")
        self.code, self.reply = reply["code"], reply


class Stream:
    """Applies the events of one generation by the client rule; complains about anything else."""

    def __init__(self, g, base=""):
        self.g, self.last, self.text, self.done, self.start, self.states, self.frames = g, 0, base, None, None, [], 0
        self.snapped, self.accepted, self.traces, self.trace_at = None, 0, [], []

    def apply(self, m):
        self.frames += 1
        if m["t"] == "snap":
            self.text, self.last, self.snapped = m["x"], m["upto"], m
            return
        n = m.get("n", 1)
        assert m["s"] == self.last + 1, f"event {m['s']} after {self.last}"
        self.last = m["s"] + n - 1
        if m["t"] == "start":
            self.start = m
            assert len(self.text.encode()) == m["base"]
        elif m["t"] == "state":
            self.states.append(m)
        elif m["t"] == "d":
            self.text += m["x"]
            self.accepted += m.get("acc", 0)
        elif m["t"] == "trace":
            self.traces.append({name: m[name] for name in ("r", "acc", "bonus", "nodes")})
            self.trace_at.append(len(self.text))
        elif m["t"] == "done":
            self.done = m
            self.check()

    def check(self):
        data = self.text.encode()
        assert len(data) == self.done["len"]
        assert crc32c(data) == self.done["crc"]


class Client:
    """async with server.client() as c: ... Replies are matched by id; events go to streams; the rest to c.notices."""

    def __init__(self, server, cookie, hello=True, resume=None, origin=None, **connect_options):
        self.server, self.cookie, self.say_hello, self.resume = server, cookie, hello, resume
        self.origin = server.url if origin is None else origin
        self.options = {"max_size": None, "ping_interval": None, "compression": None, "proxy": None, **connect_options}
        self.streams, self.notices, self.replies, self.errors = {}, [], {}, []
        self.changed = asyncio.Event()
        self.closed = self.trouble = None
        self.count = 0

    async def __aenter__(self):
        self.ws = await connect(
            self.server.ws_url,
            subprotocols=["chat.v1"],
            additional_headers={"Cookie": self.cookie, "Origin": self.origin},
            open_timeout=30,
            **self.options,
        )
        self.task = asyncio.create_task(self._read())
        if self.say_hello:
            await self.send(t="hello", v=1, cid=secrets.token_hex(4), **({"resume": self.resume} if self.resume else {}))
            self.welcome = await self.notice("welcome")
        return self

    async def __aexit__(self, *_):
        await self.ws.close()
        await self.task

    async def cut(self):
        """As a lost network: no close frame."""
        self.ws.transport.abort()
        await self.task

    async def _read(self):
        try:
            async for frame in self.ws:
                message = json.loads(frame)
                self._take(message)
                if message["t"] == "ping":  # unanswered for 25 s, the server takes the client for gone
                    await self.send(t="pong", n=message["n"])
                self.changed.set()
        except ConnectionClosed:
            pass
        except Exception as trouble:
            self.trouble = trouble
        self.closed = self.ws.close_code
        self.changed.set()

    def _take(self, m):
        kind = m["t"]
        if kind in ("ok", "err") and "id" in m:
            assert m["id"] not in self.replies, "answered twice"
            self.replies[m["id"]] = m
        elif kind in ("start", "state", "d", "trace", "done", "snap"):
            self.streams.setdefault(m["g"], Stream(m["g"])).apply(m)
        elif kind == "err":
            self.errors.append(m)
        else:
            if kind == "msg" and m["m"]["st"] == "running":  # what stands there already; the events bring the rest
                self.streams.setdefault(m["m"]["g"], Stream(m["m"]["g"], m["m"]["text"]))
            self.notices.append(m)

    async def wait(self, condition, timeout=60):
        """Until condition() holds, looked at after every frame."""
        end = time.monotonic() + timeout
        while True:
            result = condition()
            if result:
                return result
            if self.trouble:
                raise self.trouble
            assert self.closed is None, f"closed with {self.closed} while waiting"
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), max(0.01, end - time.monotonic()))

    async def wait_closed(self, timeout=60):
        """The code."""
        await asyncio.wait_for(asyncio.shield(self.task), timeout)
        return self.closed

    async def send(self, **message):
        await self.ws.send(json.dumps(message, ensure_ascii=False))

    async def ask(self, t, **fields):
        """Sends a request, returns its ok, raises Refused for its err."""
        self.count += 1
        name = f"r{self.count}"
        await self.send(t=t, id=name, **fields)
        reply = await self.wait(lambda: self.replies.get(name))
        if reply["t"] == "err":
            raise Refused(reply)
        return reply

    async def say(self, text, **fields):
        """A send with a fresh cid."""
        return await self.ask("send", cid=secrets.token_hex(8), text=text, **fields)

    async def wait_search(self, q):
        """The hits, once all messages are ready for search."""
        while (page := await self.ask("search", q=q))["indexing"]:
            await asyncio.sleep(0.05)
        return page["hits"]

    async def done(self, g, timeout=60):
        stream = await self.wait(lambda: (s := self.streams.get(g)) and s.done and s, timeout)
        return stream

    async def notice(self, t, timeout=60, **members):
        """Takes the first notice of this type with these members."""

        def find():
            for i, m in enumerate(self.notices):
                if m["t"] == t and all(m.get(k) == v for k, v in members.items()):
                    return self.notices.pop(i)

        return await self.wait(find, timeout)


TRANSPORTS = ["websocket", "sse", "longpoll", "poll"]


class HttpClient(Client):
    """The same over POST /api/cmd and GET /api/events or /api/poll. The transport may be changed in mid-flight.

    `lose` answers are thrown away as if they had not arrived; `numbers` are those of the messages that were taken."""

    def __init__(self, transport, *args, wait=20, **options):
        super().__init__(*args, **options)
        self.transport, self.wait_s, self.lose = transport, wait, 0
        self.posts, self.after, self.numbers, self.reading = 0, 0, [], None
        self.posting = asyncio.Lock()  # like the page, one at a time: of two on their way the second may be there first

    async def __aenter__(self):
        self.http = aiohttp.ClientSession(headers={"Cookie": self.cookie, "Origin": self.origin})
        hello = {"t": "hello", "v": 1, "cid": secrets.token_hex(4), **({"resume": self.resume} if self.resume else {})}
        async with self.http.post(self.server.url + "/api/cmd", json=hello) as response:
            if response.status != 200:
                await self.http.close()
            assert response.status == 200, await response.text()
            self.id = (await response.json())["connection"]
        self.task = asyncio.create_task(self._read())
        self.welcome = await self.notice("welcome")
        assert self.welcome["sid"] == self.id
        return self

    async def __aexit__(self, *_):
        if self.closed is None:
            await self.leave()

    def url(self, path, **arguments):
        return f"{self.server.url}{path}?connection={self.id}" + "".join(f"&{k}={v}" for k, v in arguments.items())

    async def leave(self):
        """Says that it goes; the reader is told."""
        async with self.http.delete(self.url("/api/cmd")) as response:
            assert response.status in (204, 410)
        await self.cut()

    async def cut(self):
        self.closed = self.closed or 0
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.http.close()

    def interrupt(self):
        """Breaks the request that waits; the next one says what has arrived."""
        if self.reading:
            self.reading.cancel()

    async def _read(self):
        try:
            while self.closed is None:
                self.reading = asyncio.create_task(self._events() if self.transport == "sse" else self._poll())
                await asyncio.wait([self.reading])
                if not self.reading.cancelled() and (trouble := self.reading.exception()):
                    if not isinstance(trouble, (aiohttp.ClientError, ConnectionError)):
                        raise trouble
                    await asyncio.sleep(0.02)
        except Exception as trouble:
            self.trouble = trouble
        finally:
            self.interrupt()
            self.changed.set()

    def _took(self, number, message):
        self.after = number
        self.numbers.append(number)
        self._take(message)
        self.changed.set()

    async def _poll(self):
        wait = self.wait_s if self.transport == "longpoll" else 0
        async with self.http.get(self.url("/api/poll", after=self.after, wait=wait)) as response:
            answer = await self._body(response)
        if self.lose > 0:
            self.lose -= 1
            return
        for i, message in enumerate(answer["msgs"]):
            self._took(answer["next"] - len(answer["msgs"]) + 1 + i, message)
        if "close" in answer:
            self.closed = answer["close"]["code"]
        elif self.transport == "poll" and not answer["msgs"]:
            await asyncio.sleep(0.02)

    async def _body(self, response):
        if response.status != 200:
            self.closed = response.status
            raise ConnectionError(await response.text())
        return await response.json()

    async def _events(self):
        headers = {"Last-Event-ID": str(self.after)}
        async with self.http.get(self.url("/api/events"), headers=headers, read_bufsize=2**22) as response:
            if response.status != 200:
                return await self._body(response)
            assert response.headers["content-type"] == "text/event-stream"
            event = {}
            async for line in response.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    event[name] = value
                    continue
                if event.get("event") == "close":
                    self.closed = json.loads(event["data"])["code"]
                elif "data" in event:
                    if self.lose > 0:
                        self.lose -= 1
                        return
                    self._took(int(event["id"]), json.loads(event["data"]))
                event = {}

    async def send(self, **message):
        await self.post(json.dumps(message, ensure_ascii=False))

    async def post(self, body, n=None):
        async with self.posting:
            self.posts += n is None
            async with self.http.post(self.url("/api/cmd", n=n or self.posts), data=body.encode()) as response:
                assert response.status == 204, await response.text()


def run(coroutine):
    return asyncio.run(coroutine)


def limit_file_size(size):
    """For preexec: writes past this fail, as on a full disk."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit
