# test_cli.py - protects the command line: help, hints, exit codes, sentences for bad input, `user add`, the life of `serve`.
#
# FORESAY_BIN is the real binary; FORESAY_FAKE_BIN the same with a scripted engine, which serves without a model file.
import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess

import pytest
from conftest import FAKE, cookie_of, request
from conftest import REAL as BIN

LIMIT_S = 60  # nothing here takes long; a sanitizer build on a busy machine takes longer


def run(*args, binary=BIN, env=None, stdin=""):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FORESAY_")}
    return subprocess.run([binary, *map(str, args)], capture_output=True, text=True, input=stdin, timeout=LIMIT_S, env={**clean, **(env or {})})


def refused(result, *parts, code):
    """Ended with this code and one clear sentence, not a crash."""
    assert result.returncode == code, result.stderr
    assert "foresay" in result.stderr
    for part in parts:
        assert part in result.stderr
    return result


def status_with_key(server, key=None):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return request(server.url + "/v1/models", **headers).status


def session(server, cookie):
    return request(server.url + "/api/session", Cookie=cookie)


# --- help and hints ---


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_the_commands(args):
    result = run(*args)
    assert result.returncode == 0 and result.stderr == ""
    for command in ["serve", "user", "generate", "perplexity", "bench", "tokenize", "inspect"]:
        assert re.search(rf"^  {command}\s+\S", result.stdout, re.M)


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["serve", "--help"], ["user", "--help"], ["inspect", "--help"]])
def test_output_that_cannot_be_written_is_a_failure(args):
    with open("/dev/full", "w") as full:
        result = subprocess.run([BIN, *args], stdout=full, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S)
    assert result.returncode == 1 and "the output could not be written whole: No space left on device." in result.stderr


def test_version():
    assert re.fullmatch(r"foresay \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize("command", [["serve"], ["user", "add"], ["user", "key"], ["generate"], ["perplexity"], ["bench"], ["tokenize"], ["inspect"]])
def test_every_command_explains_itself(command):
    result = run(*command, "--help")
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.startswith(f"usage: foresay {' '.join(command)}")
    options = result.stdout.split("options:\n")[1].split("\n\n")[0].splitlines()
    assert max(map(len, options)) <= 130 and not any(line.endswith(" ") for line in options)


def test_unknown_words_get_a_hint():
    refused(run("sreve"), "unknown command 'sreve'; did you mean serve?", code=2)
    refused(run("xyzzy"), "unknown command 'xyzzy' (foresay --help lists them)", code=2)
    refused(run("serve", "--modle", "x"), "unknown option --modle; did you mean --model?", code=2)
    refused(run("user", "add", "ann", "--amdin"), "did you mean --admin?", code=2)
    refused(run("user", "delete", "ann"), "unknown command 'delete'", "usage: foresay user add", "foresay user remove", code=2)
    refused(run("serve", "my.gguf"), "my.gguf is not an option; for the model write --model", code=2)
    assert run("user").returncode == 2
    assert run("user", "add").returncode == 2
    assert run("user", "add", "ann", "bob").returncode == 2


# --- serve: bad input ---


def test_serve_without_a_model_says_how_to_get_one():
    refused(run("serve"), "--model", "make run", code=2)


def test_serve_with_a_missing_model(tmp_path):
    refused(run("serve", "--model", tmp_path / "no.gguf", "--port", 0, "--data", tmp_path / "data"), "no.gguf", code=1)


def test_serve_with_a_file_that_is_no_model(tmp_path):
    (tmp_path / "text.gguf").write_text("This is no model. " * 100)
    refused(run("serve", "--model", tmp_path / "text.gguf", "--port", 0, "--data", tmp_path / "data"), "text.gguf", code=1)


def test_bad_settings_are_named(tmp_path):
    refused(run("serve", "--model", "m", "--port", "99999"), "--port needs a whole number from 0 to 65535, not '99999'", code=2)
    refused(run("serve", "--model", "m", env={"FORESAY_PORT": "x"}), "FORESAY_PORT needs a whole number", code=2)
    config = tmp_path / "foresay.json"
    config.write_text(json.dumps({"modell": "m"}))
    refused(run("serve", "--config", config), "modell in", "did you mean model?", code=2)


def test_data_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "foresay.db").write_text("This is no database. " * 100)
    serve = ["serve", "--model", "m", "--port", 0, "--data"]
    refused(run(*serve, tmp_path / "file", binary=FAKE), "is a file, not a folder", code=1)
    refused(run(*serve, tmp_path / "file" / "below", binary=FAKE), "a file is in the way", code=1)
    refused(run(*serve, tmp_path / "other", binary=FAKE), "is not a database", code=1)


def test_database_of_a_newer_version(tmp_path):
    assert run("user", "add", "ann", "--data", tmp_path).returncode == 0
    with sqlite3.connect(tmp_path / "foresay.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    refused(run("serve", "--model", "m", "--port", 0, "--data", tmp_path, binary=FAKE), "has version 99", "versions up to 4", code=1)
    refused(run("user", "add", "bob", "--data", tmp_path), "has version 99", code=1)


def test_port_in_use(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(run("serve", "--model", "m", "--port", port, "--data", tmp_path, binary=FAKE), str(port), code=1)


# --- serve: its life ---


def test_the_link_works_once_and_the_end_is_clean(make_server, tmp_path):
    server = make_server(data=tmp_path / "data")
    answer = request(f"{server.url}/sign-in?code={server.code}")
    assert answer.status == 303 and answer.headers["Location"] == "/"
    who = session(server, cookie_of(answer))
    assert json.loads(who.body)["user"] == {"name": "admin", "admin": True}
    assert request(f"{server.url}/sign-in?code={server.code}").headers["Location"] == "/?code=expired"
    assert request(server.url + "/api/session").status == 401
    assert server.stop() == 0
    assert oct(os.stat(tmp_path / "data").st_mode & 0o777) == "0o700"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_right_after_the_link_ends_cleanly(make_server, number):
    server = make_server()
    server.process.send_signal(number)
    assert server.process.wait(LIMIT_S) == 0


def test_settings_from_all_sources_are_logged(make_server, tmp_path):
    config = tmp_path / "foresay.json"
    config.write_text(json.dumps({"max-seqs": 3, "ctx": 512, "threads": 1, "host": "192.0.2.1"}))
    server = make_server(args=["--config", str(config), "--threads", "2"], env={"FORESAY_CTX": "1024", "FORESAY_HOST": "127.0.0.1"})
    server.stop()
    line = next(line for line in server.log if "settings: host" in line)
    for part in ["host 127.0.0.1", "threads 2", "ctx 1024", "max-seqs 3"]:
        assert part in line


def test_two_servers_do_not_share_a_folder(make_server, tmp_path):
    server = make_server(data=tmp_path / "data")
    second = run("serve", "--model", "m", "--port", 0, "--data", tmp_path / "data", binary=FAKE)
    refused(second, "is in use by another foresay", f"process {server.process.pid}", code=1)
    assert server.health()["status"] == "ok"


def test_restart_after_kill_keeps_the_sign_in(make_server, tmp_path):
    server = make_server(data=tmp_path / "data")
    cookie = server.sign_in()
    server.kill()
    server.start()
    assert json.loads(session(server, cookie).body)["user"]["name"] == "admin"


# --- user add ---


def test_user_add_prints_a_key_once(tmp_path):
    result = run("user", "add", "Ann Lee", "--data", tmp_path / "data")
    assert result.returncode == 0
    key = result.stdout.strip()
    assert re.fullmatch(r"fsk_[A-Za-z0-9_-]{43}", key)
    assert "User Ann Lee was added" in result.stderr and key not in result.stderr
    for name in os.listdir(tmp_path / "data"):
        assert key.encode() not in (tmp_path / "data" / name).read_bytes()
    refused(run("user", "add", "ann lee", "--data", tmp_path / "data"), "there is a user ann lee already", code=1)
    refused(run("user", "add", " ", "--data", tmp_path / "data"), "A name has", code=1)
    assert run("user", "add", "boss", "--admin", env={"FORESAY_DATA": str(tmp_path / "data")}).returncode == 0
    database = sqlite3.connect(tmp_path / "data" / "foresay.db")
    assert database.execute("SELECT name, admin FROM users ORDER BY id").fetchall() == [("Ann Lee", 0), ("boss", 1)]
    database.close()


def test_no_variable_makes_an_administrator(tmp_path):
    assert run("user", "add", "ann", "--data", tmp_path, env={"FORESAY_ADMIN": "1"}).returncode == 0
    database = sqlite3.connect(tmp_path / "foresay.db")
    assert database.execute("SELECT admin FROM users").fetchall() == [(0,)]
    database.close()


def test_user_add_beside_a_running_server(make_server):
    server = make_server()
    assert status_with_key(server) == 401
    assert status_with_key(server, "fsk_" + "A" * 43) == 401
    for name in ["ann", "bob", "carol"]:
        assert status_with_key(server, server.add_user(name)) == 200


def test_users_are_listed_get_new_keys_and_go(make_server):
    server = make_server()
    data = ["--data", server.data]
    cookie, ann, bob = server.sign_in(), server.add_user("ann"), server.add_user("bob")
    signed_in = server.sign_in_with_key(ann)

    async def main():
        async with server.client(signed_in) as page, server.client(server.sign_in_with_key(bob)) as other:
            await page.say("[[tokens 3]]")
            listed = run("user", "list", *data)
            assert listed.stdout == "admin (administrator, chats: 0, no API key)\nann (chats: 1)\nbob (chats: 0)\n"
            new = run("user", "key", "ann", *data).stdout.strip()
            assert status_with_key(server, ann) == 401 and status_with_key(server, new) == 200
            assert session(server, signed_in).status == 401
            await page.send(t="ping", n=1)
            assert await page.wait_closed() == 4401, "a page that is open is signed out, too"
            refused(run("user", "remove", "ann", *data), "--yes", code=2)
            assert run("user", "remove", "ann", "--yes", *data).returncode == 0
            assert status_with_key(server, new) == 401
            assert status_with_key(server, server.add_user("ann")) == 200
            await other.send(t="ping", n=1)
            await other.ask("convs")

    asyncio.run(main())
    assert session(server, cookie).status == 200
    assert "ann (chats: 0)" in run("user", "list", *data).stdout
    refused(run("user", "key", "eve", *data), "there is no user eve", code=1)
    refused(run("user", "remove", "eve", "--yes", *data), "there is no user eve", code=1)
    refused(run("user", "remove", "admin", "--yes", *data), "The last administrator cannot be removed.", code=1)
    refused(run("user", "list", "ann", *data), "takes no name", code=2)
    key = run("user", "key", "admin", *data).stdout.strip()
    assert status_with_key(server, key) == 200 and session(server, cookie).status == 401
