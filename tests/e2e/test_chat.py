"""A conversation over a real socket: turns, streams, history."""

import asyncio
import secrets
import time

import pytest
from conftest import Refused, fake_text, run


def refused(code):
    return pytest.raises(Refused, match=f"^{code} ")


def test_welcome_tells_who_and_what(server):
    async def main():
        async with server.client() as c:
            w = c.welcome
            assert w["v"] == 1 and w["user"] == {"name": "admin", "admin": True, "learn": False}
            assert w["model"] == {"name": "fake", "ctx": 8192, "quant": "none"}
            assert w["max_frame"] == 262144 and w["hb_ms"] > 0 and w["server"]["node"]
            await c.send(t="ping", n=77)
            assert (await c.notice("pong"))["n"] == 77

    run(main())


def test_send_streams_the_answer_exactly_once(server):
    async def main():
        async with server.client() as c:
            r = await c.say("[[tokens 500 rate 2000 prefill 3]] go", gen={"seed": 7, "temp": 0.5})
            s = await c.done(r["g"])
            assert s.text == fake_text(500)
            assert s.start["conv"] == r["conv"] and s.start["msg"] == r["ans"] and s.start["parent"] == r["msg"]
            assert [x["st"] for x in s.states] == ["prefill"] * 3
            assert s.done["why"] == "stop" and s.done["usage"]["out"] == 500 and s.done["usage"]["seed"] == 7
            assert s.frames < 200, "text is merged, not one frame a token"
            hist = await c.ask("hist", conv=r["conv"])
            question, answer = hist["msgs"]
            assert (question["role"], question["st"], question["parent"]) == ("user", "done", None)
            assert (answer["text"], answer["st"], answer["why"]) == (fake_text(500), "done", "stop")
            assert answer["usage"] == s.done["usage"] and not hist["more"]

    run(main())


def rounds_of(text_tokens, guesses):
    """How many guesses each round of tests/fake_engine.c's script has right."""
    at, rounds = 1, []
    while at < text_tokens:
        rounds.append(min(len(rounds) % (guesses + 1), text_tokens - at - 1))
        at += rounds[-1] + 1
    return rounds


def test_guesses_are_told_to_those_who_ask_in_their_place_and_again(server):
    script, right = "[[tokens 400 guess 3]] go", rounds_of(400, 3)

    async def main():
        async with server.client() as c:
            assert c.welcome["trace"] is True
            r = await c.say(script, trace=True)
            s = await c.done(r["g"])
            assert s.text == fake_text(400) and s.accepted == s.done["usage"]["accepted"] == sum(right)
            assert [t["acc"] for t in s.traces] == right and [t["r"] for t in s.traces] == list(range(1, len(right) + 1))
            known = " w0"
            for trace, at in zip(s.traces, s.trace_at):
                nodes = trace["nodes"]
                words = [token for _, token, _, is_right, _ in nodes if is_right][1:] + [trace["bonus"]]
                assert nodes[0][:2] == [-1, known] and len(nodes) == 5 and len(words) == trace["acc"] + 1
                assert s.text.startswith("".join(words), at), "a round comes before its text, and right after the text before it"
                assert all(0 <= parent < i and 0 < chance <= 1 for i, (parent, _, chance, _, _) in enumerate(nodes) if i)
                known = words[-1]
            async with server.client() as late:
                await late.ask("sub", g=r["g"], **{"from": 1})
                again = await late.done(r["g"])
                assert again.traces == s.traces and again.text == s.text
            plain = await c.done((await c.say(script))["g"])
            assert plain.text == s.text and not plain.traces and plain.accepted == sum(right)
            answer = (await c.ask("hist", conv=r["conv"]))["msgs"][1]
            assert answer["text"] == s.text and "traces_lost" not in answer["usage"]
            parts = await c.done((await c.say("[[echo 1 halves 1 guess 2]]日本né🙂 end", trace=True))["g"])
            assert parts.text == "日本né🙂 end" and [0xe6] == parts.traces[0]["nodes"][0][1]
            data = "日".encode()[:1]
            for trace in parts.traces:
                path = [token for _, token, _, is_right, _ in trace["nodes"] if is_right][1:]
                data += b"".join(bytes(t) if isinstance(t, list) else t.encode() for t in [*path, trace["bonus"]])
            assert data == parts.text.encode(), "a token that is not whole characters comes as its bytes"

    run(main())


def test_paced_text_comes_by_the_clock(make_server):
    server = make_server(args=["--pace-ms", "150"])

    async def main():
        async with server.client() as c:
            begun = time.monotonic()
            r = await c.say("[[tokens 200 rate 400]] go")
            s = await c.done(r["g"])
            looks = (time.monotonic() - begun) / 0.150 + 2
            assert s.text == fake_text(200)
            assert s.frames - 2 <= looks, "one look at the engine a tick, one frame a look; and start and done"
            assert c.welcome["trace"] is False
            s = await c.done((await c.say("[[tokens 50 guess 3]]", trace=True))["g"])
            assert s.text == fake_text(50) and not s.traces and s.accepted == 0 < s.done["usage"]["accepted"]

    run(main())


def test_a_seed_is_chosen_and_reported_when_none_is_given(server):
    async def main():
        async with server.client() as c:
            seeds = set()
            for _ in range(3):
                r = await c.say("hi")
                seeds.add((await c.done(r["g"])).done["usage"]["seed"])
            assert len(seeds) == 3 and all(0 <= s < 2**53 for s in seeds)

    run(main())


def test_same_cid_is_the_same_message(server):
    async def main():
        async with server.client() as c, server.client() as d:
            cid = secrets.token_hex(8)
            first = await c.ask("send", cid=cid, text="[[tokens 300 rate 1000]]")
            again = await d.ask("send", cid=cid, text="[[tokens 300 rate 1000]]")
            assert {k: v for k, v in again.items() if k != "id"} == {k: v for k, v in first.items() if k != "id"}
            assert (await c.done(first["g"])).text == (await d.done(first["g"])).text == fake_text(300)
            assert len((await c.ask("hist", conv=first["conv"]))["msgs"]) == 2
            late = await d.ask("send", cid=cid, text="something else")
            assert late["g"] == first["g"]

    run(main())


def test_two_sockets_of_one_user_see_the_same(server):
    async def main():
        async with server.client() as a, server.client() as b:
            r = await a.say("[[tokens 400 rate 2000]] both")
            user = await b.notice("msg")
            answer = await b.notice("msg")
            assert user["m"]["text"].endswith("both") and answer["m"]["st"] == "running" and answer["m"]["g"] == r["g"]
            assert (await b.notice("conv"))["c"]["live"] == r["g"]
            await b.ask("sub", g=r["g"], **{"from": 1})
            assert (await a.done(r["g"])).text == (await b.done(r["g"])).text == fake_text(400)
            assert (await b.notice("conv"))["c"]["live"] is None

    run(main())


def test_stop_in_one_tab_is_seen_in_the_other(server):
    async def main():
        async with server.client() as a, server.client() as b:
            r = await a.say("[[tokens 100000 rate 500]]")
            await b.ask("sub", g=r["g"], **{"from": 1})
            await b.wait(lambda: len(b.streams[r["g"]].text) > 50)
            await b.ask("cancel", g=r["g"])
            one, two = await a.done(r["g"]), await b.done(r["g"])
            assert one.done["why"] == two.done["why"] == "cancel" and one.text == two.text
            answer = (await a.ask("hist", conv=r["conv"]))["msgs"][-1]
            assert answer["st"] == "stopped" and answer["text"] == one.text
            assert fake_text(100000).startswith(one.text) and one.text
            await a.ask("cancel", g=r["g"])  # once more is no error

    run(main())


def test_continue_goes_on_in_the_same_message(server):
    async def main():
        async with server.client() as c:
            r = await c.say("[[tokens 60]]", gen={"max": 20})
            s = await c.done(r["g"])
            assert s.text == fake_text(20) and s.done["why"] == "length"
            k = await c.ask("cont", cid=secrets.token_hex(8), msg=r["ans"])
            assert k["ans"] == r["ans"] and k["g"] != r["g"] and "msg" not in k
            s2 = await c.done(k["g"])
            assert s2.text == fake_text(60) and s2.start["base"] == len(fake_text(20).encode())
            with refused(3004):  # a finished answer has nothing to go on with
                await c.ask("cont", cid=secrets.token_hex(8), msg=r["ans"])

    run(main())


def test_regenerate_makes_a_sibling(server):
    async def main():
        async with server.client() as c:
            r = await c.say("[[tokens 5]]")
            await c.done(r["g"])
            again = await c.ask("regen", cid=secrets.token_hex(8), msg=r["ans"])
            assert again["conv"] == r["conv"] and again["msg"] == r["msg"] and again["ans"] != r["ans"]
            assert (await c.done(again["g"])).text == fake_text(5)
            msgs = (await c.ask("hist", conv=r["conv"]))["msgs"]
            assert [m["parent"] for m in msgs] == [None, r["msg"], r["msg"]]

    run(main())


def test_branches_edit_and_new_root(server):
    async def main():
        async with server.client() as c:
            r = await c.say("one [[tokens 3]]")
            await c.done(r["g"])
            r2 = await c.say("two [[tokens 3]]", conv=r["conv"])
            await c.done(r2["g"])
            edited = await c.say("two, edited [[tokens 3]]", conv=r["conv"], parent=r["ans"])
            await c.done(edited["g"])
            root = await c.say("one, edited [[tokens 3]]", conv=r["conv"], root=True)
            await c.done(root["g"])
            parents = {m["id"]: m["parent"] for m in (await c.ask("hist", conv=r["conv"]))["msgs"]}
            assert parents[r2["msg"]] == r["ans"] and parents[edited["msg"]] == r["ans"] and parents[root["msg"]] is None
            with refused(1001):
                await c.say("x", parent=r["ans"])
            with refused(3000):
                await c.say("x", conv=r["conv"], parent="0" * 32)

    run(main())


def test_an_answer_that_runs_blocks_what_would_follow_it(server):
    async def main():
        async with server.client() as c:
            r = await c.say("[[tokens 100000 rate 100]]")
            for question in (
                c.say("next", conv=r["conv"]),
                c.ask("regen", cid="a", msg=r["ans"]),
                c.ask("cont", cid="b", msg=r["ans"]),
            ):
                with refused(3004):
                    await question
            await c.ask("cancel", g=r["g"])
            await c.done(r["g"])
            await c.done((await c.say("next [[tokens 2]]", conv=r["conv"]))["g"])

    run(main())


def test_history_pages(server):
    async def main():
        async with server.client() as c:
            conv, ids = None, []
            for i in range(8):
                r = await c.say(f"number {i} [[tokens 2]]", **({"conv": conv} if conv else {}))
                conv = r["conv"]
                await c.done(r["g"])
                ids += [r["msg"], r["ans"]]
            seen, before = [], None
            for _ in range(10):
                page = await c.ask("hist", conv=conv, limit=5, **({"before": before} if before else {}))
                seen = [m["id"] for m in page["msgs"]] + seen
                if not page["more"]:
                    break
                before = seen[0]
            assert seen == ids

            convs = [conv]
            for i in range(6):
                r = await c.say(f"conversation {i} [[tokens 1]]")
                await c.done(r["g"])
                convs.insert(0, r["conv"])
            seen, before = [], None
            for _ in range(10):
                page = await c.ask("convs", limit=3, **({"before": before} if before else {}))
                seen += [x["id"] for x in page["convs"]]
                if not page["more"]:
                    break
                before = seen[-1]
            assert seen == convs

    run(main())


def test_rename_and_delete(server):
    async def main():
        async with server.client() as a, server.client() as b:
            r = await a.say("A question?\nwith a second line [[tokens 2]]")
            await a.done(r["g"])
            title = (await a.ask("hist", conv=r["conv"]))["title"]
            assert title.startswith("A question")
            await a.ask("rename", conv=r["conv"], title="Über 🙂")
            await b.wait(lambda: any(n["t"] == "conv" and n["c"]["title"] == "Über 🙂" for n in b.notices))
            assert (await b.ask("hist", conv=r["conv"]))["title"] == "Über 🙂"
            for bad in ("", "x" * 201):
                with refused(1001):
                    await a.ask("rename", conv=r["conv"], title=bad)
            running = await a.say("[[tokens 100000 rate 100]]", conv=r["conv"])
            await a.ask("delete", conv=r["conv"])
            assert (await b.wait(lambda: [n for n in b.notices if n.get("deleted")]))[0]["conv"] == r["conv"]
            assert (await a.done(running["g"])).done["why"] == "cancel"
            with refused(3000):
                await a.ask("hist", conv=r["conv"])
            with refused(3000):
                await a.ask("delete", conv=r["conv"])
            assert (await a.ask("convs"))["convs"] == []

    run(main())


async def own_guesses(c, **fields):
    """What the scripted engine counts: earlier answers of this user that it had when this one began."""
    r = await c.say("[[tokens 3]] x", **fields)
    return (await c.done(r["g"])).done["usage"]["own"], r


async def own_guesses_soon(c, expected):
    """Earlier answers are read beside the first turn that wants them."""
    for n in range(100):
        own, r = await own_guesses(c)
        if own:
            assert own == expected + n
            return n + 1, r
    raise AssertionError("earlier answers never came")


def test_own_answers_help_whoever_allows_it_and_nobody_else(make_server):
    server = make_server()
    bob = server.sign_in_with_key(server.add_user("bob"))

    async def main():
        async with server.client() as c, server.client() as tab, server.client(bob) as b:
            assert [(await own_guesses(c))[0] for _ in range(3)] == [0] * 3
            with refused(1001):
                await c.ask("learn")
            await c.ask("learn", on=True)
            assert (await tab.notice("learn"))["on"] is True
            n, last = await own_guesses_soon(c, 3)
            assert (await own_guesses(c))[0] == 3 + n
            assert [(await own_guesses(b))[0] for _ in range(2)] == [0] * 2
            await b.ask("learn", on=True)
            await own_guesses_soon(b, 2)
            # A deleted conversation is forgotten with all the rest; what is left comes back.
            await c.ask("delete", conv=last["conv"])
            assert (await own_guesses(c))[0] == 0
            m, _ = await own_guesses_soon(c, 4 + n)
            async with server.client() as later:
                assert later.welcome["user"]["learn"] is True
            return 4 + n + m

    n = run(main())
    server.stop()
    again = make_server(data=server.data)

    async def after():
        async with again.client() as c:
            assert c.welcome["user"]["learn"] is True
            await c.ask("convs")  # which is read behind them
            assert (await own_guesses(c))[0] == n
            await c.ask("learn", on=False)
            assert [(await own_guesses(c))[0] for _ in range(3)] == [0] * 3
            async with again.client() as later:
                assert later.welcome["user"]["learn"] is False
            await c.ask("learn", on=True)  # nothing was left: all of it is read anew, with what was answered meanwhile
            await c.ask("convs")
            assert (await own_guesses(c))[0] == n + 4

    run(after())


def test_context_full_says_what_to_do(make_server):
    server = make_server(args=["--ctx", "256"])

    async def main():
        async with server.client() as c:
            r = await c.say("first " * 100 + "[[tokens 2]]")
            await c.done(r["g"])
            r2 = await c.say("second " * 100 + "[[tokens 2]]", conv=r["conv"])
            s = await c.done(r2["g"])
            assert s.done["why"] == "error" and s.done["err"]["code"] == 5003
            assert s.done["err"]["msg"].endswith("256. Start a new conversation, or leave out the oldest messages.")
            answer = (await c.ask("hist", conv=r["conv"]))["msgs"][-1]
            assert answer["st"] == "error" and answer["err"]["code"] == 5003
            r3 = await c.ask("regen", cid="again", msg=r2["ans"], drop_oldest=True)
            s = await c.done(r3["g"])
            assert s.done["why"] == "stop" and s.states[0]["st"] == "trimmed" and s.states[0]["dropped"] > 0

    run(main())


def test_trouble_of_the_engine_is_told_and_kept(server):
    async def main():
        async with server.client() as c:
            r = await c.say("[[busy 1]]")
            s = await c.done(r["g"])
            assert s.done["why"] == "error" and s.done["err"]["code"] == 4002
            r = await c.say("[[fail 1 tokens 10]]")
            s = await c.done(r["g"])
            assert s.text == fake_text(5) and s.done["err"] == {"code": 5000, "msg": "The script asked for a failure."}
            answer = (await c.ask("hist", conv=r["conv"]))["msgs"][-1]
            assert answer["st"] == "error" and answer["text"] == fake_text(5)

    run(main())


def test_system_message_and_stop_strings(server):
    async def main():
        async with server.client() as c:
            r = await c.say("[[tokens 50]]", gen={"stop": ["w9", "never"], "system": "Be brief."})
            s = await c.done(r["g"])
            assert s.text == fake_text(50).split("w9")[0] and s.done["why"] == "stop"
            roles = [m["role"] for m in (await c.ask("hist", conv=r["conv"]))["msgs"]]
            assert roles == ["user", "assistant"], "the system message is not stored"

    run(main())


def test_sixteen_clients_at_once(server):
    async def main():
        cookie = server.sign_in()

        async def one(i):
            async with server.client(cookie) as c:
                for n in range(3):
                    r = await c.say(f"[[tokens {200 + i} rate 4000]] {i} {n}")
                    assert (await c.done(r["g"])).text == fake_text(200 + i)

        await asyncio.gather(*(one(i) for i in range(16)))

    run(main())
    assert server.health()["connections"] == 0


def test_search_finds_an_answer_when_it_is_done_and_not_after_its_deletion(server):
    async def main():
        async with server.client() as c:
            r = await c.say("[[tokens 40 rate 20]]")
            assert (await c.ask("search", q="w0"))["hits"] == []
            await c.done(r["g"])
            page = await c.ask("search", q="日本2 w0")
            assert [hit["id"] for hit in page["hits"]] == [r["ans"]] and not page["more"] and not page["indexing"]
            again = await c.ask("regen", cid="again", msg=r["ans"])
            await c.done(again["g"])
            first = await c.ask("search", q="w0", limit=1)
            assert [hit["id"] for hit in first["hits"]] == [again["ans"]] and first["more"]
            rest = await c.ask("search", q="w0", before=again["ans"])
            assert [hit["id"] for hit in rest["hits"]] == [r["ans"]] and not rest["more"]
            for q in ("", 5, None, "x" * 257):
                with pytest.raises(Refused, match="^1001 q must be"):
                    await c.ask("search", q=q)
            for q in ('"', '"*', "AND", "NEAR(", "w0 OR *", "(", "owner:u1", "-"):
                await c.ask("search", q=q)
            await c.ask("delete", conv=r["conv"])
            assert (await c.ask("search", q="w0"))["hits"] == []

    run(main())
