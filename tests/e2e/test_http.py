"""The plain HTTP side: page, sign-in, session, health."""

import gzip
import json
import re
import socket

from conftest import cookie_of, request, run


def test_health_needs_no_sign_in(server):
    answer = request(server.url + "/health")
    health = json.loads(answer.body)
    assert answer.status == 200 and answer.headers["content-type"] == "application/json"
    assert health["status"] == "ok" and health["model"] == "fake" and health["uptime_s"] >= 0


def test_a_code_works_once(server):
    answer = request(server.url + "/sign-in?code=" + server.code)
    assert answer.status == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie
    me = request(server.url + "/api/session", Cookie=cookie_of(answer))
    assert json.loads(me.body) == {"user": {"name": "admin", "admin": True}}
    again = request(server.url + "/sign-in?code=" + server.code)
    assert again.status == 303 and again.headers["location"] == "/?code=expired"
    assert "set-cookie" not in again.headers


def test_wrong_codes_are_limited(server):
    statuses = [request(server.url + f"/sign-in?code=AAAAA-AAAAA-AAAAA-AAA{i:02}").status for i in range(30)]
    assert statuses[0] == 303 and statuses[-1] == 429


def test_keys_open_sessions(server):
    key = server.add_user("bob")
    url = server.url + "/api/session"
    assert request(url).status == 401
    assert request(url, Cookie="foresay_session=fss_" + "A" * 43).status == 401
    good = request(url, "POST", json.dumps({"key": key}).encode())
    assert good.status == 204 and good.body == b""
    me = request(url, Cookie=cookie_of(good))
    assert json.loads(me.body)["user"] == {"name": "bob", "admin": False}
    for body, status in [(b"{}", 400), (b"", 400), (b"x", 400), (b'{"key":5}', 400), (b'{"key":"fsk_no"}', 401)]:
        answer = request(url, "POST", body)
        assert answer.status == status and json.loads(answer.body)["error"].endswith("."), body
    unknown = json.dumps({"key": key[:-3] + ("aaa" if not key.endswith("aaa") else "bbb")}).encode()
    assert request(url, "POST", unknown).status == 401
    assert request(url, "POST", json.dumps({"key": key}).encode(), Origin="https://evil.example").status == 403
    assert request(url, "POST", b"x" * 5000).status == 413
    assert request(url, "DELETE", Origin=server.url).status == 401


def test_the_page_and_its_headers(server):
    page = request(server.url + "/")
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "require-trusted-types-for 'script'" in policy
    assert server.url.replace("http", "ws", 1) in policy, "older Safari does not count ws: as 'self'"
    assert page.headers["x-content-type-options"] == "nosniff" and page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cross-origin-opener-policy"] == "same-origin" and page.headers["cache-control"] == "no-cache"
    etag = page.headers["etag"]
    same = request(server.url + "/", If_None_Match=etag)
    assert same.status == 304 and same.body == b"" and same.headers["etag"] == etag
    head = request(server.url + "/", "HEAD")
    assert head.status == 200 and head.body == b"" and int(head.headers["content-length"]) == len(page.body)


def test_addresses_and_methods_that_do_not_exist(server):
    for path, method, status in [
        ("/nothing", "GET", 404),
        ("/../etc/passwd", "GET", 404),
        ("/health", "POST", 405),
        ("/health", "DELETE", 405),
        ("/api/session", "PUT", 405),
        ("/v1/ws", "GET", 404),
    ]:
        body = b"{}" if method in ("POST", "PUT") else None
        answer = request(server.url + path, method, body)
        assert answer.status == status, path
        assert json.loads(answer.body)["error"]


def test_one_connection_serves_many_requests(server):
    host, port = server.url.split("//")[1].split(":")
    with socket.create_connection((host, int(port)), 10) as s:
        for _ in range(50):
            s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while b"}\n" not in answer:
                answer += s.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_large_body_is_refused_readably(server):
    answer = request(server.url + "/v1/chat/completions", "POST", b"x" * (3 * 1024 * 1024), Authorization="Bearer fsk_x")
    assert answer.status == 413 and json.loads(answer.body)["error"]["message"]
    assert server.health()["status"] == "ok"


def test_a_taken_port_is_a_sentence(server):
    import subprocess

    port = server.url.rsplit(":", 1)[1]
    command = [server.binary, "serve", "--model", "none", "--port", port, "--data", server.data + "-other"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and f"Port {port} on 127.0.0.1 is in use" in done.stderr


def test_two_servers_cannot_share_a_folder(server):
    import subprocess

    command = [server.binary, "serve", "--model", "none", "--port", "0", "--data", server.data]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and server.data in done.stderr


def test_the_licences_of_what_the_page_carries(server):
    answer = request(server.url + "/licences.txt")
    assert answer.status == 200 and answer.headers["content-type"] == "text/plain; charset=utf-8"
    for name in ("preact ", "@preact/signals-core ", "katex ", "marked ", "highlight.js ", "libwebsockets ", "libsodium "):
        assert "\n" + name in answer.body.decode()


def test_page_files_come_compressed_to_whoever_takes_that(server):
    page = request(server.url + "/").body.decode()
    paths = ["/", "/licences.txt", *re.findall(r'(?:src|href)="(/assets/[^"]+)"', page)]
    assert len(paths) == 4
    for path in paths:
        plain = request(server.url + path)
        small = request(server.url + path, Accept_Encoding="br, GZip;q=0.5")
        assert plain.headers["content-encoding"] is None and small.headers["content-encoding"] == "gzip"
        assert gzip.decompress(small.body) == plain.body and len(small.body) < 0.9 * len(plain.body)
        assert small.headers["vary"] == plain.headers["vary"] == "accept-encoding"
        assert small.headers["content-type"] == plain.headers["content-type"]
        assert small.headers["cache-control"] == plain.headers["cache-control"]
        assert small.headers["content-security-policy"] == plain.headers["content-security-policy"]
        etag = small.headers["etag"]
        assert etag != plain.headers["etag"], "two forms, two tags"
        assert request(server.url + path, Accept_Encoding="gzip", If_None_Match=etag).status == 304
        assert request(server.url + path, If_None_Match=etag).status == 200
        head = request(server.url + path, "HEAD", Accept_Encoding="gzip")
        assert head.body == b"" and int(head.headers["content-length"]) == len(small.body)
    for refused in ("gzip;q=0", "gzip; q=0.000", "x-gzip", "gzipped", "identity", "br", "*;q=0", "x" * 200 + ", gzip"):
        assert request(server.url + "/", Accept_Encoding=refused).headers["content-encoding"] is None, refused
    for taken in ("gzip;q=0.001", "deflate,gzip", "gzip;q=1.0, br", "br ,\tgzip"):
        assert request(server.url + "/", Accept_Encoding=taken).headers["content-encoding"] == "gzip", taken
