"""Chats go out as files and come back: the same but for ids, all or nothing, one's own only."""

import copy
import json
import re

import pytest
from conftest import Refused, fake_text, request, run


def export(server, cookie, query=""):
    answer = request(server.url + "/api/export" + query, Cookie=cookie)
    assert answer.status == 200 and answer.headers["content-disposition"].startswith("attachment;")
    return json.loads(answer.body)


def bring(server, cookie, content, **headers):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return request(server.url + "/api/import", "POST", body, Cookie=cookie, **{"Origin": server.url, **headers})


def without_ids(archive):
    """Ids become places, so that two files are equal when all else is."""
    chats = copy.deepcopy(archive["chats"])
    for chat in chats:
        places = {m["id"]: i for i, m in enumerate(chat["messages"])}
        for m in chat["messages"]:
            m["id"] = places[m["id"]]
            m["parent"] = places.get(m["parent"])
    return chats


async def make_chats(c):
    """One chat with two roots and two answers to one question, one that was stopped, one with text of every kind."""
    r = await c.say("first [[tokens 12]]")
    await c.done(r["g"])
    again = await c.ask("regen", cid="again", msg=r["ans"])
    await c.done(again["g"])
    other = await c.say("another root [[tokens 3]]", conv=r["conv"], root=True)
    await c.done(other["g"])
    below = await c.say("below the first answer [[tokens 3]]", conv=r["conv"], parent=r["ans"])
    await c.done(below["g"])
    stopped = await c.say('"quoted" \\ \t\n 日本 🙂 <b> \u0001 [[tokens 100000 rate 50]]')
    await c.wait(lambda: (s := c.streams.get(stopped["g"])) and s.text)
    await c.ask("cancel", g=stopped["g"])
    await c.done(stopped["g"])
    failed = await c.say("[[fail 1 tokens 5]]")
    await c.done(failed["g"])
    await c.ask("rename", conv=r["conv"], title="Ünter / über")
    return r, below


def test_what_goes_out_comes_in_again_and_is_the_same(server):
    bob = server.sign_in_with_key(server.add_user("bob"))

    async def main():
        async with server.client() as a, server.client(bob) as b:
            r, _ = await make_chats(a)
            mine = export(server, a.cookie)
            assert [len(chat["messages"]) for chat in mine["chats"]] == [7, 2, 2]
            assert mine["chats"][0]["title"] == "Ünter / über"
            assert {m["st"] for chat in mine["chats"] for m in chat["messages"]} == {"done", "stopped", "error"}
            answer = bring(server, b.cookie, mine)
            assert answer.status == 200 and json.loads(answer.body) == {"chats": 3, "messages": 11}, answer.body
            await b.notice("imported")
            assert not [n for n in a.notices if n["t"] == "imported"]
            theirs = export(server, b.cookie)
            assert without_ids(theirs) == without_ids(mine)
            ids = [{m["id"] for chat in file["chats"] for m in chat["messages"]} for file in (mine, theirs)]
            assert not ids[0] & ids[1]
            # It is a chat like any other: listed, found, branched off and continued.
            page = await b.ask("convs")
            conv = next(one for one in page["convs"] if one["title"] == "Ünter / über")
            history = (await b.ask("hist", conv=conv["id"]))["msgs"]
            assert [m["text"] for m in history[:2]] == ["first [[tokens 12]]", fake_text(12)]
            hits = await b.wait_search("another")
            assert [hit["conv"] for hit in hits] == [conv["id"]]
            more = await b.say("go on [[tokens 2]]", conv=conv["id"])
            await b.done(more["g"])
            assert export(server, b.cookie, "?chat=" + conv["id"])["chats"][0]["messages"][-2]["text"] == "go on [[tokens 2]]"
            assert len(export(server, a.cookie)["chats"]) == 3

    run(main())


def test_one_chat_as_json_and_a_branch_as_markdown(server):
    async def main():
        async with server.client() as c:
            r, below = await make_chats(c)
            one = export(server, c.cookie, "?chat=" + r["conv"])
            assert len(one["chats"]) == 1 and one["chats"][0]["title"] == "Ünter / über"
            address = server.url + "/api/export?as=markdown&chat=" + r["conv"]
            newest = request(address, Cookie=c.cookie)
            assert newest.headers["content-type"] == "text/markdown; charset=utf-8"
            assert "filename*=UTF-8''%C3%9Cnter%20_%20%C3%BCber.md" in newest.headers["content-disposition"]
            question, answer = "## You\n\n%s\n", "## Answer\n\n%s\n"
            wanted = ["# Ünter / über\n", question % "first [[tokens 12]]", answer % fake_text(12)]
            wanted += [question % "below the first answer [[tokens 3]]", answer % fake_text(3)]
            assert newest.body.decode() == "\n".join(wanted)
            leaf = request(address + "&leaf=" + r["ans"], Cookie=c.cookie)
            assert leaf.body.decode() == "\n".join(wanted[:3])

    run(main())


def test_a_running_answer_goes_out_as_far_as_it_is_saved(server):
    async def main():
        async with server.client() as c:
            r = await c.say("[[tokens 100000 rate 50]]")
            assert export(server, c.cookie)["chats"][0]["messages"][1]["st"] == "interrupted"
            await c.ask("cancel", g=r["g"])
            await c.done(r["g"])

    run(main())


def test_many_chats_are_streamed(server):
    cookie = server.sign_in()
    message = {"id": "q", "parent": None, "role": "user", "text": "x" * 500, "ts": 5, "st": "done"}
    answer = {"id": "a", "parent": "q", "role": "assistant", "text": "y" * 1500, "ts": 6, "st": "done", "why": "stop"}
    chats = [{"title": f"chat {i}", "ts": i, "messages": [message, answer]} for i in range(10000)]
    archive = {"format": "foresay-chats", "version": 1, "ts": 1, "chats": chats}
    before = server.rss_kb()
    assert json.loads(bring(server, cookie, archive).body) == {"chats": 10000, "messages": 20000}
    assert bring(server, cookie, {**archive, "chats": []}).status == 200, "an import of nothing"
    grown = server.rss_kb()
    assert without_ids(export(server, cookie)) == without_ids(archive)
    assert server.sanitized or server.rss_kb() - grown < 20 * 1024, (before, grown, server.rss_kb())


MESSAGE = {"id": "q", "parent": None, "role": "user", "text": "hello", "ts": 5, "st": "done"}
ANSWER = {"id": "a", "parent": "q", "role": "assistant", "text": "hi", "ts": 6, "st": "done"}


def changed(of, **members):
    return {name: value for name, value in {**of, **members}.items() if value != "absent"}


WRONG_MESSAGES = [
    ([5], "message 1: a message must be an object"),
    ([changed(MESSAGE, role="system")], "message 1: role"),
    ([changed(MESSAGE, role=None)], "message 1: role"),
    ([changed(MESSAGE, text=None)], "message 1: text"),
    ([changed(MESSAGE, text=["x"])], "message 1: text"),
    ([changed(MESSAGE, ts="now")], "message 1: ts"),
    ([changed(MESSAGE, ts=-1)], "message 1: ts"),
    ([changed(MESSAGE, ts=1 << 60)], "message 1: ts"),
    ([changed(MESSAGE, st="running")], "message 1: st"),
    ([changed(MESSAGE, st="")], "message 1: st"),
    ([changed(MESSAGE, st="stopped")], "message 1: a question's st"),
    ([changed(MESSAGE, id="absent")], "message 1: id"),
    ([changed(MESSAGE, id="x" * 65)], "message 1: id"),
    ([changed(MESSAGE, why="stop")], "message 1: usage, why and err"),
    ([changed(MESSAGE, parent="a")], "message 1: parent"),
    ([changed(MESSAGE, parent="q")], "message 1: parent"),
    ([MESSAGE, MESSAGE], "message 2: its id"),
    ([MESSAGE, changed(ANSWER, parent=None)], "message 2: an answer needs"),
    ([MESSAGE, changed(ANSWER, role="user")], "message 2: questions and answers"),
    ([MESSAGE, changed(ANSWER, why="because")], "message 2: why"),
    ([MESSAGE, changed(ANSWER, usage=5)], "message 2: usage"),
    ([MESSAGE, changed(ANSWER, usage={"x": {"id": 5}})], "message 2: usage"),
    ([MESSAGE, changed(ANSWER, usage={"x": "y" * 500})], "message 2: usage"),
    ([MESSAGE, changed(ANSWER, err={"code": 5})], "message 2: err"),
    ([MESSAGE, changed(ANSWER, err={"code": "5", "msg": "x"})], "message 2: err"),
    ([], "messages must be a list"),
    ({}, "messages must be a list"),
]


def test_what_is_wrong_is_named_and_nothing_comes_in(server):
    cookie = server.sign_in()
    good = {"title": "good", "ts": 1, "messages": [MESSAGE, ANSWER]}

    def file_of(*chats, **members):
        return changed({"format": "foresay-chats", "version": 1, "chats": list(chats)}, **members)

    whole = json.dumps(file_of(good)).encode()
    wrong = [(file_of(good, {**good, "messages": messages}), "Chat 2" + (", " if "message " in why else ": ") + why)
             for messages, why in WRONG_MESSAGES]
    wrong += [
        (file_of(good, 5), "Chat 2: a chat must be an object"),
        (file_of(good, changed(good, title="")), "Chat 2: title"),
        (file_of(good, changed(good, title="x" * 201)), "Chat 2: title"),
        (file_of(good, changed(good, title="absent")), "Chat 2: title"),
        (file_of(good, changed(good, ts=None)), "Chat 2: ts"),
        (file_of(good, format="absent"), "This is not a file of exported chats"),
        (file_of(good, format="other"), "This is not a file of exported chats"),
        (file_of(good, version=2), "the file's version is not 1"),
        (file_of(good, chats={}), "chats must be one list"),
        (b"", "This is not a file of exported chats"),
        (b"[]", "This is not a file of exported chats"),
        (b"{}", "This is not a file of exported chats"),
        (whole + b"x", "the file ends too early, or goes on"),
        (whole.replace(b"]}]", b"]},]"), "not JSON at byte"),
        (whole.replace(b'"chats"', b'"chats":[],"chats"'), "chats must be one list"),
        (whole.replace(b'"title"', b'"title":"x","title"'), "not JSON at byte"),
        (whole.replace(b"hello", b"\xff\xfe"), "not JSON at byte"),
    ]
    wrong += [(whole[:n], "") for n in range(1, len(whole) - 1, 7)]
    for content, why in wrong:
        answer = bring(server, cookie, content)
        error = json.loads(answer.body)["error"]
        assert answer.status == 400 and why in error and error.endswith("."), (content, error)
    assert export(server, cookie)["chats"] == []
    reordered = {"chats": [changed(good, unknown=[1])], "version": 1, "format": "foresay-chats", "ts": 5, "x": {"y": []}}
    assert bring(server, cookie, reordered).status == 200, "members in any order; unknown ones are left out"
    assert len(export(server, cookie)["chats"]) == 1


def test_files_are_their_owners_alone(server):
    key = server.add_user("bob")
    bob = server.sign_in_with_key(key)

    async def main():
        async with server.client() as a:
            r = await a.say("secret [[tokens 2]]")
            await a.done(r["g"])
            own = await a.say("other chat [[tokens 2]]")
            await a.done(own["g"])
            address = server.url + "/api/export"
            assert export(server, bob)["chats"] == []
            for query in ("?chat=" + r["conv"], "?as=markdown&chat=" + r["conv"]):
                assert request(address + query, Cookie=bob).status == 404
            there = "?as=markdown&chat=" + own["conv"] + "&leaf=" + r["ans"]
            assert request(address + there, Cookie=a.cookie).status == 404
            for query in ("?chat=5", "?as=markdown", "?chat=" + "g" * 32):
                assert request(address + query, Cookie=bob).status == 400
            nobody = {"Cookie": "foresay_session=fss_" + "A" * 43}
            assert request(address).status == 401 and request(address, **nobody).status == 401
            archive = json.dumps(export(server, a.cookie)).encode()
            imports = server.url + "/api/import"
            assert request(imports, "POST", archive, Origin=server.url).status == 401
            assert request(imports, "POST", archive, Origin=server.url, **nobody).status == 401
            assert request(imports, "POST", archive, Cookie=bob).status == 403, "no Origin"
            assert request(imports, "POST", archive, Cookie=bob, Origin="https://evil.example").status == 403
            # Scripts come with a key.
            auth = {"Authorization": "Bearer " + key}
            assert request(imports, "POST", archive, **auth).status == 200
            assert len(json.loads(request(address, **auth).body)["chats"]) == 2
            assert request(address, Authorization="Bearer fsk_" + "A" * 43).status == 401

    run(main())


def test_an_import_that_is_given_up_makes_room_for_the_next(server):
    import socket

    cookie = server.sign_in()
    host, port = server.url.split("//")[1].split(":")
    head = f"POST /api/import HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: {server.url}\r\nCookie: {cookie}\r\n"
    with socket.create_connection((host, int(port)), 10) as s:
        s.sendall((head + "Content-Length: 100000\r\n\r\n{").encode())
        busy = 0
        while busy != 503:
            busy = bring(server, cookie, b"{}").status
    free = 503
    while free == 503:
        free = bring(server, cookie, b"{}").status
    assert free == 400
    with socket.create_connection((host, int(port)), 10) as s:
        s.sendall((head + f"Content-Length: {65 * 1024 * 1024}\r\n\r\n").encode())
        assert b" 413 " in s.recv(4096).split(b"\r\n")[0]
