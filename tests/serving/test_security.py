"""Who is let in, and what is refused before it costs anything."""

import contextlib
import gc
import os
import socket
import stat
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.config import ServeConfig
from kgpt.errors import UsageError
from kgpt.serving.http_timeouts import TimeoutH11Protocol
from kgpt.serving.limits import json_depth
from kgpt.serving.security import ApiKeys
from kgpt.serving.server import open_socket
from tests.serving.fakes import FakeGenerator
from tests.serving.harness import eventually

JSON = {"content-type": "application/json"}


def test_another_address_needs_keys(tmp_path):
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(UsageError, match="give --api-key-file too"):
            open_socket(ServeConfig(host=host, port=0))
    (tmp_path / "keys").write_text("k\n")
    open_socket(ServeConfig(host="0.0.0.0", port=0, api_key_file=str(tmp_path / "keys"))).close()


@pytest.mark.parametrize("content", ["", "\n  \n", "two words\n", "ключ\n"])
def test_files_without_usable_keys_are_refused(tmp_path, content):
    (tmp_path / "keys").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError):
        ApiKeys.from_file(tmp_path / "keys")


def test_keys_are_read_one_a_line(tmp_path):
    (tmp_path / "keys").write_text("one\n\n two \r\n")
    keys = ApiKeys.from_file(tmp_path / "keys")
    assert keys.accepts("Bearer one") and keys.accepts("bearer two")
    for header in (None, "", "one", "Bearer", "Bearer on", "Bearer three", "Basic one", "Bearer é"):
        assert not keys.accepts(header)


def test_keys_guard_all_but_what_says_nothing(serve):
    with serve(keys=ApiKeys(["k"])).client() as http:
        for path in ("/", "/docs", "/health", "/openapi.json"):
            assert http.get(path).status_code == 200
        for path in ("/v1/models", "/metrics", "/nothing"):
            assert http.get(path).status_code == 401
            assert http.get(path).headers["www-authenticate"] == "Bearer"
        refused = http.post("/api/gpt/generate", json={"prompt": "a"})
        assert refused.status_code == 401 and refused.json()["success"] is False
        assert http.get("/v1/models", headers={"authorization": "Bearer k"}).status_code == 200


def test_other_host_names_are_refused_on_loopback(client):
    for host in ("evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:80"):
        answer = client.get("/health", headers={"host": host})
        assert answer.status_code == 403 and "localhost" in answer.json()["error"]["message"]
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:5", "[::1]:80"):
        assert client.get("/health", headers={"host": host}).status_code == 200


def test_pages_of_other_sites_are_refused(server, client):
    ask = {"prompt": "a"}
    other = client.post("/v1/completions", json=ask, headers={"origin": "https://evil.example"})
    assert other.status_code == 403
    own = client.post("/v1/completions", json=ask, headers={"origin": server.url})
    assert own.status_code == 200
    assert not [name for name in own.headers if name.startswith("access-control")]
    answer = client.options("/v1/completions", headers={"access-control-request-method": "POST"})
    assert answer.status_code == 405


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("kind", [None, FORM, f"{FORM}; charset=UTF-8"])
def test_a_body_of_no_type_is_json_unless_a_page_sent_it(server, client, kind):
    headers = {"content-type": kind} if kind else {}
    body = b'{"prompt": "a+%20b", "seed": 1, "max_tokens": 5}'
    answer = client.post("/v1/completions", content=body, headers=headers)
    assert answer.status_code == 200
    typed = client.post("/v1/completions", content=body, headers=JSON)
    assert answer.json()["choices"] == typed.json()["choices"]
    for origin, status in ((server.url, 400), ("null", 403)):
        sent = client.post("/v1/completions", content=body, headers=headers | {"origin": origin})
        assert sent.status_code == status
    as_text = client.post("/v1/completions", content=body, headers={"content-type": "text/plain"})
    assert as_text.status_code == 400


def preflight(http, origin):
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "x-a"}
    return http.options("/v1/completions", headers={"origin": origin, **asks})


@pytest.mark.parametrize("keys", [None, ApiKeys(["k"])])
@pytest.mark.parametrize("allowed", ["https://page.example", "https://page.example/", "*"])
def test_pages_of_allowed_origins_may_use_the_server(serve, keys, allowed):
    headers = {"authorization": "Bearer k"} if keys else {}
    with serve(keys=keys, cors_origin=["https://a.example", allowed]).client() as http:
        for origin in ("https://page.example", "https://page.example.evil.example"):
            listed = allowed == "*" or origin == "https://page.example"
            asked = preflight(http, origin)
            answer = http.post(
                "/v1/completions",
                json={"prompt": "a", "user": "me"},
                headers=headers | {"origin": origin},
            )
            assert asked.status_code == (200 if listed else 400)
            assert answer.status_code == (200 if listed or keys else 403)
            for one in (asked, answer):
                allow = one.headers.get("access-control-allow-origin")
                assert allow == ({"*": "*"}.get(allowed, origin) if listed else None)
            if listed:
                assert asked.headers["access-control-allow-headers"] == "x-a"
                exposed = answer.headers["access-control-expose-headers"]
                assert "X-Kgpt-Ignored" in exposed and answer.headers["x-kgpt-ignored"]
        assert http.get("/health", headers={"host": "evil.example"}).status_code != 200 or keys


@pytest.mark.parametrize("origin", ["example.com", "https://", "https://a.example/path", ""])
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(UsageError, match="write it like https://example.com"):
        ServeConfig.parse({"cors_origin": [origin]})


def test_answers_carry_protective_headers(client):
    for answer in (client.get("/health"), client.get("/nothing"), client.get("/")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


@pytest.mark.parametrize("streamed", [False, True])
def test_ten_megabytes_are_refused(client, streamed):
    body = b'{"prompt": "' + b"a" * 10_000_000 + b'"}'
    content = (body[i : i + 65536] for i in range(0, len(body), 65536)) if streamed else body
    answer = client.post("/v1/completions", content=content, headers=JSON)
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"prompt": "\xff\xfe"}', "UTF-8"),
        (b'{"prompt": ', "not JSON"),
        (b"[" * 100_000, "nested"),
        (b'{"prompt": ' + b'{"a":' * 100_000, "nested"),
        (b'{"prompt": "a", "temperature": 1e999}', "temperature"),
        (b'{"prompt": "a", "temperature": NaN}', "temperature"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "JSON"),
        (b'{"prompt": "a", "stop": [' + b'"",' * 200_000 + b'""]}', "at most 64"),
        (b'{"prompt": [' + b"-1," * 200_000 + b"1]}", "prompts"),
        (b'{"prompt": "a", "logit_bias": {"999999999999999999999": 1}}', "token id"),
        (b'{"prompt": [99999999999999999999]}', "token id"),
        (b"{" + b",".join(b'"x%d": 1' % i for i in range(50_000)) + b"}", "too many"),
        (b'{"prompt": "a", "messages": [{"role": "user"}]}', "of POST /v1/chat/completions"),
        (b'"just a text"', "object"),
        (b"", "missing"),
    ],
)
def test_hostile_bodies_are_refused_quickly(client, body, says):
    begun = time.process_time()
    answer = client.post("/v1/completions", content=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert says in message and len(message) < 400
    assert "Traceback" not in answer.text and 'File "' not in answer.text
    assert time.process_time() - begun < 5


def test_halves_of_surrogate_pairs_do_no_harm(client):
    body = b'{"prompt": "\\ud800", "stop": "\\udfff", "bad_words": ["\\ud83d"], "model": "\\ud800"}'
    answer = client.post("/v1/completions", content=body, headers=JSON)
    assert answer.status_code == 404 and r"\ud800" in answer.json()["error"]["message"]
    body = body.replace(b', "model": "\\ud800"', b"")
    assert client.post("/v1/completions", content=body, headers=JSON).status_code == 200


def test_a_million_stop_strings_are_refused(serve):
    body = b'{"prompt": "a", "stop": [' + b'"x",' * 999_999 + b'"x"]}'
    for options in ({}, {"max_body": 16 << 20}):
        with serve(**options).client() as http:
            answer = http.post("/v1/completions", content=body, headers=JSON)
            assert answer.status_code in (400, 413)


@given(
    st.recursive(
        st.text('[]{}"\\a') | st.integers(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"\\'), inner),
    )
)
def test_depth_is_that_of_the_parsed_json(value):
    import json

    def deep(item):
        if isinstance(item, dict):
            item = list(item.values())
        return 1 + max(map(deep, item), default=0) if isinstance(item, list) else 0

    assert json_depth(json.dumps(value).encode(), 10_000) == deep(value)


def test_depth_takes_linear_time():
    begun = time.process_time()
    assert json_depth(b'"' + b'\\"' * 1_000_000, 32) == 0
    assert json_depth(b'"' * 1_000_001, 32) == 0
    assert time.process_time() - begun < 5


def test_slow_headers_are_cut_off_and_others_served(serve, monkeypatch):
    monkeypatch.setattr(TimeoutH11Protocol, "header_timeout", 0.3)
    running = serve()
    host, port = running.url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(50)]
    for connection in slow:
        connection.settimeout(10)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
    until = time.monotonic() + 0.6
    while time.monotonic() < until:  # a byte now and then does not buy time
        for connection in slow:
            try:
                connection.sendall(b"X")
            except OSError:
                continue
        with running.client() as http:
            assert http.get("/health").status_code == 200
    for connection in slow:
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1000) == b""
        connection.close()
    eventually(lambda: len(running.server.server_state.connections) == 0)


def test_a_connection_that_says_nothing_is_closed(serve, monkeypatch):
    monkeypatch.setattr(TimeoutH11Protocol, "header_timeout", 0.2)
    host, port = serve().url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as silent:
        assert silent.recv(10) == b""


def test_slow_bodies_are_refused(serve, monkeypatch):
    from kgpt.serving import limits

    monkeypatch.setattr(limits.BodyLimitMiddleware.__init__, "__defaults__", (0.2,))
    host, port = serve().url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        slow.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
        )
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_who_never_reads_is_dropped(serve, monkeypatch):
    monkeypatch.setattr(TimeoutH11Protocol, "write_timeout", 0.2)
    engine = FakeGenerator(max_context=10_000_000)
    engine.default_sampling.max_tokens = 1_000_000
    running = serve(engine, max_tokens=10_000_000)
    host, port = running.url.removeprefix("http://").split(":")
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect((host, int(port)))
    body = b'{"prompt": "a", "stream": true}'
    deaf.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        + b"Content-Length: %d\r\n\r\n" % len(body)
        + body
    )
    eventually(lambda: running.generator.stats().requests == 1)
    eventually(lambda: running.generator.stats().active == 0)
    deaf.close()


def test_unix_socket_is_its_owners_alone(serve, tmp_path):
    path = str(tmp_path / "kgpt.sock")
    running = serve(uds=path)
    assert running.url == f"unix:{path}"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    transport = httpx.HTTPTransport(uds=path)
    with httpx.Client(transport=transport, base_url="http://any.name") as http:
        assert http.get("/health").json()["status"] == "ready"
    with pytest.raises(UsageError, match="listening on"):
        open_socket(ServeConfig(uds=path))
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match="is a file already"):
        open_socket(ServeConfig(uds=str(tmp_path / "file")))
    running.stop()
    open_socket(ServeConfig(uds=path)).close()  # one left behind is replaced
    gc.collect()


def test_a_port_in_use_is_explained():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="choose another --port"):
            open_socket(ServeConfig(port=taken.getsockname()[1]))
