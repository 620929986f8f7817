"""The OpenAI API with OpenAI's own client, and by hand where it must break."""

import json
import socket
import threading
import time

import openai
import pytest
from conftest import fake_text, request


@pytest.fixture
def key(server):
    return server.add_user("api")


@pytest.fixture
def client(server, key):
    with openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0, timeout=60) as client:
        yield client


def ask(text):
    return [{"role": "user", "content": text}]


def test_models(client):
    assert [m.id for m in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").id == client.models.retrieve("default").id == "fake"
    with pytest.raises(openai.NotFoundError, match="this server runs"):
        client.models.retrieve("gpt/4")


def test_plain_answer(client):
    answer = client.chat.completions.create(
        model="fake",
        messages=[{"role": "system", "content": "Be kind."}, *ask("[[tokens 30]]")],
        temperature=0,
        top_p=0.9,
        seed=5,
        max_tokens=100,
        presence_penalty=0.1,
        frequency_penalty=-0.1,
        logit_bias={"5": -100, "7": 3.5},
        n=1,
        user="somebody",
    )
    choice = answer.choices[0]
    assert choice.message.content == fake_text(30) and choice.message.role == "assistant"
    assert choice.finish_reason == "stop" and answer.object == "chat.completion" and answer.model == "fake"
    assert answer.usage.completion_tokens == 30
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 30


def wait_until_idle(server):
    for _ in range(300):
        if server.health()["running"] == 0:
            return
        time.sleep(0.05)
    raise AssertionError("answers nobody waits for still run")


def test_several_answers(client, server):
    """n answers to one prompt, plain and streamed, with one usage; a client that goes away ends all of them."""
    create = client.chat.completions.create
    answer = create(model="fake", messages=ask("[[tokens 30]]"), n=3, stop=["w9"], logit_bias={"5": 1})
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert {c.message.content for c in answer.choices} == {fake_text(30).split("w9")[0]}
    whole = create(model="fake", messages=ask("[[tokens 30]]"), n=16)
    assert len(whole.choices) == 16 and whole.usage.completion_tokens == 16 * 30
    assert whole.usage.prompt_tokens == create(model="fake", messages=ask("[[tokens 30]]")).usage.prompt_tokens

    texts, reasons, usage = {}, {}, None
    for chunk in create(
        model="fake", messages=ask("[[tokens 300]]"), n=4, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for c in chunk.choices:
            assert c.index not in reasons
            texts[c.index] = texts.get(c.index, "") + (c.delta.content or "")
            if c.finish_reason:
                reasons[c.index] = c.finish_reason
    assert texts == dict.fromkeys(range(4), fake_text(300)) and reasons == dict.fromkeys(range(4), "stop")
    assert usage.completion_tokens == 4 * 300

    answer = client.completions.create(model="fake", prompt="[[tokens 5]]", n=2, best_of=2, logprobs=0)
    assert [c.text for c in answer.choices] == [fake_text(5)] * 2 and all(len(c.logprobs.tokens) == 5 for c in answer.choices)
    with pytest.raises(openai.InternalServerError):
        create(model="fake", messages=ask("[[tokens 10 fail 1]]"), n=3)
    with pytest.raises(openai.APIError):
        list(create(model="fake", messages=ask("[[tokens 10 fail 1]]"), n=3, stream=True))
    for _ in range(3):  # 48 answers of a user who may have 32 at once
        stream = create(model="fake", messages=ask("[[tokens 2000 rate 50]]"), n=16, stream=True)
        next(iter(stream))
        stream.close()
        wait_until_idle(server)
    with create(model="fake", messages=ask("[[tokens 2000 rate 50]]"), n=16, stream=True) as first:
        next(iter(first))
        more = {"model": "fake", "messages": ask("[[tokens 20 rate 50]]"), "n": 16}
        other = threading.Thread(target=lambda: create(**more))
        other.start()
        while server.health()["waiting"] < 16:
            time.sleep(0.05)
        with pytest.raises(openai.RateLimitError):
            create(model="fake", messages=ask("[[tokens 3]]"), n=2)
    other.join()
    wait_until_idle(server)
    assert create(model="fake", messages=ask("[[tokens 3]]")).choices[0].message.content == fake_text(3)


def test_length_and_stop(client):
    answer = client.chat.completions.create(model="default", messages=ask("[[tokens 30]]"), max_completion_tokens=4)
    assert answer.choices[0].message.content == fake_text(4) and answer.choices[0].finish_reason == "length"
    answer = client.chat.completions.create(model="fake", messages=ask("[[tokens 30]]"), stop=["w9", "w18"])
    assert answer.choices[0].message.content == fake_text(30).split("w9")[0]
    answer = client.chat.completions.create(model="fake", messages=ask("[[tokens 30]]"), stop="w9")
    assert answer.choices[0].finish_reason == "stop"


def test_text_parts(client):
    parts = [{"type": "text", "text": "[[echo 1]]a "}, {"type": "text", "text": "ü🙂"}]
    answer = client.chat.completions.create(model="fake", messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == "a ü🙂"


@pytest.mark.parametrize("usage", [False, True])
def test_streamed_answer(client, usage):
    options = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = list(
        client.chat.completions.create(model="fake", messages=ask("[[tokens 300 rate 3000]]"), stream=True, **options)
    )
    with_choice = [c for c in chunks if c.choices]
    assert "".join(c.choices[0].delta.content or "" for c in with_choice) == fake_text(300)
    assert with_choice[0].choices[0].delta.role == "assistant"
    assert with_choice[-1].choices[0].finish_reason == "stop"
    assert len({c.id for c in chunks}) == 1
    if usage:
        assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 300
    else:
        assert all(c.usage is None for c in chunks)


def test_both_ways_give_the_same_bytes(client):
    plain = client.chat.completions.create(model="fake", messages=ask("[[tokens 99]]"), seed=1)
    streamed = client.chat.completions.create(model="fake", messages=ask("[[tokens 99]]"), seed=1, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == plain.choices[0].message.content


# --- log-probabilities ---


def joined(tokens):
    return b"".join(bytes(t.bytes) for t in tokens)


def check_made_up(tokens, n_top):
    """The numbers that tests/fake_engine.c makes up, so that a moved or lost one shows."""
    for i, t in enumerate(tokens):
        assert t.logprob == -0.25 - i % 4
        assert [a.logprob for a in t.top_logprobs] == [-0.5 * (j + 1) for j in range(n_top)]
        if n_top > 0:
            assert t.top_logprobs[0].token == t.token and t.top_logprobs[0].bytes == t.bytes


def streamed(chunks):
    chunks = [c for c in chunks if c.choices]
    tokens = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    return "".join(c.choices[0].delta.content or "" for c in chunks), tokens


@pytest.mark.parametrize("n_top", [None, 0, 1, 20])
def test_logprobs_of_a_chat(client, n_top):
    extra = {} if n_top is None else {"top_logprobs": n_top}
    ask_for = {"model": "fake", "messages": ask("[[tokens 70]]"), "logprobs": True, **extra}
    answer = client.chat.completions.create(**ask_for)
    choice = answer.choices[0]
    tokens = choice.logprobs.content
    assert choice.message.content == fake_text(70) and choice.logprobs.refusal is None
    assert [t.token for t in tokens] == [fake_text(1, i) for i in range(70)]
    assert joined(tokens).decode() == fake_text(70)
    check_made_up(tokens, n_top or 0)
    chunks = list(client.chat.completions.create(**ask_for, stream=True))
    text, parts = streamed(chunks)
    assert text == fake_text(70) and parts == tokens
    assert chunks[-1].choices[0].logprobs is None and chunks[-1].choices[0].finish_reason == "stop"
    for chunk in chunks[:-1]:  # at this pace each chunk carries the tokens of its own text
        if chunk.choices[0].logprobs:
            assert joined(chunk.choices[0].logprobs.content).decode() == chunk.choices[0].delta.content


def test_no_logprobs_unless_asked(client):
    answer = client.chat.completions.create(model="fake", messages=ask("[[tokens 3]]"), logprobs=False)
    assert answer.choices[0].logprobs is None
    stream = client.chat.completions.create(model="fake", messages=ask("[[tokens 3]]"), stream=True)
    assert all(c.choices[0].logprobs is None for c in stream)


@pytest.mark.parametrize("stop", [None, "🙂", "bc", "e"])
def test_logprobs_of_halved_characters_and_stops(client, stop):
    """Each byte is a token: parts of characters have bytes, stop strings take their tokens along."""
    whole = "a é日本🙂bcd"
    want = whole.split(stop)[0] if stop else whole
    ask_for = {"model": "fake", "messages": ask("[[halves 1 echo 1]]" + whole), "logprobs": True, "stop": stop}
    answer = client.chat.completions.create(**ask_for)
    tokens = answer.choices[0].logprobs.content
    assert answer.choices[0].message.content == want
    assert joined(tokens) == want.encode() and len(tokens) == len(want.encode())
    if not stop:
        assert tokens[2].token == "bytes:\\xc3" and tokens[2].bytes == [0xC3] and tokens[0].token == "a"
    text, parts = streamed(client.chat.completions.create(**ask_for, stream=True))
    assert text == want and parts == tokens


def test_completions(client):
    answer = client.completions.create(model="fake", prompt="[[tokens 30]]")
    assert answer.choices[0].text == fake_text(16) and answer.choices[0].finish_reason == "length"
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-") and answer.choices[0].logprobs is None
    assert answer.usage.completion_tokens == 16
    ask_for = {"model": "fake", "prompt": ["[[tokens 30]]"], "max_tokens": 100, "logprobs": 3}
    answer = client.completions.create(**ask_for)
    got = answer.choices[0].logprobs
    pieces = [fake_text(1, i) for i in range(30)]
    assert answer.choices[0].text == fake_text(30) and got.tokens == pieces
    assert got.token_logprobs == [-0.25 - i % 4 for i in range(30)]
    assert got.top_logprobs == [{fake_text(1, i + j): -0.5 * (j + 1) for j in range(3)} for i in range(30)]
    assert got.text_offset == [len(fake_text(i)) for i in range(30)]
    chunks = list(client.completions.create(**ask_for, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 30
    assert chunks[-2].choices[0].finish_reason == "stop" and all(c.object == "text_completion" for c in chunks)
    with_text = [c.choices[0] for c in chunks[:-1] if c.choices[0].logprobs]
    assert "".join(c.choices[0].text for c in chunks[:-1]) == fake_text(30)
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"]:
        assert [x for c in with_text for x in getattr(c.logprobs, name)] == getattr(got, name)


def test_errors_of_completions(client):
    for bad, param in [
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"n": 17}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
    ]:
        with pytest.raises(openai.BadRequestError) as e:
            client.completions.create(**{"model": "fake", "prompt": "x", **bad})
        assert e.value.param == param, bad
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-9", prompt="x")


def test_errors_are_openais(client, server):
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as e:
        create(model="gpt-9", messages=ask("x"))
    assert e.value.code == "model_not_found"
    for bad, param in [
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": "2"}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["x"] * 9}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
    ]:
        with pytest.raises(openai.BadRequestError) as e:
            create(**{"model": "fake", "messages": ask("x"), **bad})
        assert e.value.param == param and e.value.type == "invalid_request_error", bad
    with pytest.raises(openai.BadRequestError, match="u0000 may not stand"):
        create(model="fake", messages=ask("a\0b"))
    with pytest.raises(openai.BadRequestError) as e:
        create(model="fake", messages=ask("x" * 100000))
    assert e.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        create(model="fake", messages=ask("x" * 100000), stream=True)
    with pytest.raises(openai.InternalServerError) as e:
        create(model="fake", messages=ask("[[busy 1]]"))
    assert e.value.status_code == 503
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="fsk_" + "A" * 43).models.list()
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="nonsense").models.list()
    assert request(server.url + "/v1/models").status == 401
    assert request(server.url + "/v1/nothing").status == 404


def test_harmless_fields_are_ignored(server, key):
    body = {"model": "fake", "messages": ask("[[tokens 2]]"), "user": "u", "store": False, "metadata": {"a": "b"}}
    body.update({"service_tier": "auto", "parallel_tool_calls": True, "something_new": [1], "tools": [], "stop": None})
    answer = request(
        server.url + "/v1/chat/completions", "POST", json.dumps(body).encode(), Authorization="Bearer " + key
    )
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == fake_text(2)


def test_an_error_in_mid_stream_is_told(client):
    stream = client.chat.completions.create(model="fake", messages=ask("[[fail 1 tokens 2000 rate 4000]]"), stream=True)
    with pytest.raises(openai.APIError, match="asked for a failure"):
        list(stream)


def wait_for(condition, timeout_s=20):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("abrupt", [True, False])
def test_a_client_that_leaves_stops_the_work_and_nothing_spins(server, key, stream, abrupt):
    """libwebsockets 4.1 does not notice a client leaving a late answer, and spins."""
    host, port = server.url.split("//")[1].split(":")
    body = json.dumps({"model": "fake", "messages": ask("[[tokens 1000000 rate 200]]"), "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    sockets = []
    for _ in range(8):
        s = socket.create_connection((host, int(port)), 30)
        s.sendall(head.encode() + body)
        if stream:
            answer = b""
            while b"w9" not in answer:
                answer += s.recv(4096)
            assert b"text/event-stream" in answer and b"x-accel-buffering: no" in answer
        sockets.append(s)
    wait_for(lambda: server.health()["running"] == 8)
    for s in sockets:
        if abrupt:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        s.close()
    wait_for(lambda: server.health()["running"] == 0)
    before = server.cpu_s()
    time.sleep(1)
    assert server.cpu_s() - before < 0.3
    assert not any("error" in line for line in server.log)


def test_bytes_behind_the_body_do_no_harm(server, key):
    """A second request sent before the first is answered (pipelining): the connection is closed, and the work stops."""
    host, port = server.url.split("//")[1].split(":")
    body = json.dumps({"model": "fake", "messages": ask("[[tokens 200 rate 1000]]")}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), 30) as s:
        s.sendall((head.encode() + body) * 2)
        answer = b""
        s.settimeout(3)
        try:
            while chunk := s.recv(65536):
                answer += chunk
        except OSError:
            pass
    assert answer.count(b"HTTP/1.1 200 OK") <= 1
    wait_for(lambda: server.health()["running"] == 0)


def test_many_at_once(server, key):
    import concurrent.futures

    def one(i):
        with openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0, timeout=60) as c:
            for _ in range(3):
                answer = c.chat.completions.create(model="fake", messages=ask(f"[[tokens {50 + i} rate 2000]]"))
                assert answer.choices[0].message.content == fake_text(50 + i)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(16)))
    assert server.health()["running"] == 0


def test_going_down_ends_the_streams(make_server):
    server = make_server()
    key = server.add_user("api")
    with openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0, timeout=60) as client:
        stream = client.chat.completions.create(model="fake", messages=ask("[[tokens 1000000 rate 500]]"), stream=True)
        next(iter(stream))
        server.process.terminate()
        with pytest.raises(openai.APIError, match="going down"):
            for _ in stream:
                pass
    assert server.stop() == 0
