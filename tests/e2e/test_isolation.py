"""One user never sees another's data."""

import pytest
from conftest import Refused, request, run


def test_another_users_things_are_not_found(server):
    key = server.add_user("bob")
    bob = server.sign_in_with_key(key)

    async def main():
        async with server.client() as a, server.client(bob) as b:
            assert b.welcome["user"] == {"name": "bob", "admin": False, "learn": False}
            done = await a.say("secret [[tokens 20]]")
            await a.done(done["g"])
            running = await a.say("secret [[tokens 100000 rate 50]]")
            for r in (done, running):
                asks = [
                    ("hist", {"conv": r["conv"]}),
                    ("rename", {"conv": r["conv"], "title": "mine"}),
                    ("delete", {"conv": r["conv"]}),
                    ("sub", {"g": r["g"], "from": 1}),
                    ("cancel", {"g": r["g"]}),
                    ("regen", {"cid": "1", "msg": r["ans"]}),
                    ("cont", {"cid": "2", "msg": r["ans"]}),
                    ("send", {"cid": "3", "conv": r["conv"], "text": "hi"}),
                    ("send", {"cid": "4", "conv": r["conv"], "parent": r["ans"], "text": "hi"}),
                    ("convs", {"before": r["conv"]}),
                    ("hist", {"conv": r["conv"], "before": r["ans"]}),
                ]
                for t, fields in asks:
                    with pytest.raises(Refused, match="^3000 "):
                        await b.ask(t, **fields)
            assert (await b.ask("convs"))["convs"] == []
            mine = await b.say("mine [[tokens 2]]")
            with pytest.raises(Refused, match="^3000 "):
                await b.say("x", conv=mine["conv"], parent=done["ans"])
            with pytest.raises(Refused, match="^3000 "):
                await b.ask("hist", conv=mine["conv"], before=done["ans"])
            await b.done(mine["g"])
            own = {mine["conv"]}
            assert {n.get("conv", n.get("c", {}).get("id")) for n in b.notices if n["t"] in ("msg", "conv")} == own
            assert len((await a.ask("convs"))["convs"]) == 2
            await a.ask("cancel", g=running["g"])
            await a.done(running["g"])

        async with server.client(bob, resume=[{"g": running["g"], "from": 1}, {"g": done["g"], "from": 1}]) as b:
            await b.wait(lambda: len(b.errors) == 2)
            assert {e["code"] for e in b.errors} == {3000} and not b.streams

    run(main())


def test_the_same_cid_of_two_users_is_two_messages(server):
    bob = server.sign_in_with_key(server.add_user("bob"))

    async def main():
        async with server.client() as a, server.client(bob) as b:
            one = await a.ask("send", cid="same", text="[[tokens 1]]")
            two = await b.ask("send", cid="same", text="[[tokens 1]]")
            assert one["conv"] != two["conv"]

    run(main())


def test_sign_out_closes_the_sockets_of_that_session_only(server):
    key = server.add_user("bob")
    one, two = server.sign_in_with_key(key), server.sign_in_with_key(key)

    async def main():
        async with server.client(one) as a, server.client(two) as b:
            assert request(server.url + "/api/session", "DELETE", Cookie=one).status == 403, "no Origin"
            answer = request(server.url + "/api/session", "DELETE", Cookie=one, Origin=server.url)
            assert answer.status == 204 and "foresay_session=;" in answer.headers["set-cookie"]
            assert await a.wait_closed() == 4401
            await b.ask("convs")
        async with server.client(one, hello=False) as c:
            assert await c.wait_closed() == 4401

    run(main())


def test_search_finds_ones_own_messages_only(server):
    bob = server.sign_in_with_key(server.add_user("bob"))

    async def main():
        async with server.client() as a, server.client(bob) as b:
            done = await a.say("the secret of ada [[tokens 12]]")
            await a.done(done["g"])
            mine = await b.say("nothing of the kind [[tokens 12]]")
            await b.done(mine["g"])
            assert (await b.ask("search", q="secret"))["hits"] == []
            assert (await b.ask("search", q="u1 secret"))["hits"] == []
            found = (await b.ask("search", q="w0"))["hits"]
            assert [hit["conv"] for hit in found] == [mine["conv"]]
            with pytest.raises(Refused, match="^3000 "):
                await b.ask("search", q="w0", before=done["ans"])
            hit = (await a.ask("search", q="Secret ad"))["hits"][0]
            assert hit["text"] == ["the ", "secret", " of ", "ada", " [[tokens 12]]"]
            assert (hit["conv"], hit["id"], hit["role"]) == (done["conv"], done["msg"], "user")

    run(main())
