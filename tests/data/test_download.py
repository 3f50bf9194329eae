"""Downloads: checked, resumable by running again, and clear when there is no network."""

import dataclasses
import hashlib
import http.server
import socket
import threading

import pytest

from kgpt.data import remote
from kgpt.data.download import DOWNLOADS, Download, download
from kgpt.errors import DataError

TEXT = b"To be, or not to be.\n" * 5000
SHA256 = hashlib.sha256(TEXT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves TEXT whole, TEXT cut short, or an error."""

    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(TEXT)))
        self.end_headers()
        self.wfile.write(TEXT[:50_000] if self.path == "/broken" else TEXT)

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch):
    monkeypatch.setattr(remote, "WAIT_S", 0)


@pytest.fixture(scope="module")
def server():
    """The address of a local HTTP server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def source(url, folder, sha256=SHA256):
    return Download(url, sha256, folder / "text.txt", "data/set", "char", "shakespeare-cpu")


def nothing(read, total):
    pass


def test_what_is_fetched_is_kept_and_not_fetched_again(server, tmp_path):
    told = []
    wanted = source(f"{server}/text", tmp_path)
    assert download(wanted, lambda *args: told.append(args)).read_bytes() == TEXT
    assert told[-1] == (len(TEXT), len(TEXT))
    nowhere = dataclasses.replace(wanted, url="http://127.0.0.1:9/gone")
    assert download(nowhere, nothing).read_bytes() == TEXT


def test_a_changed_copy_is_fetched_anew(server, tmp_path):
    wanted = source(f"{server}/text", tmp_path)
    wanted.path.write_bytes(TEXT[:-1])
    assert download(wanted, nothing).read_bytes() == TEXT


def test_another_text_than_expected_is_refused(server, tmp_path):
    with pytest.raises(DataError, match=r"has not the expected bytes .*: try again"):
        download(source(f"{server}/text", tmp_path, sha256="0" * 64), nothing)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("/broken", "cannot be read .*; check the network"), ("/missing", "does not exist")],
)
def test_a_failed_transfer_leaves_nothing(server, tmp_path, path, sentence):
    with pytest.raises(DataError, match=sentence):
        download(source(f"{server}{path}", tmp_path), nothing)
    assert not list(tmp_path.iterdir())


def test_offline_is_one_sentence_with_the_remedy(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(DataError) as caught:
        download(source(f"http://127.0.0.1:{port}/text", tmp_path), nothing)
    sentence = str(caught.value)
    assert "check the network and the address; or save the text as" in sentence
    assert str(tmp_path / "text.txt") in sentence
    assert "\n" not in sentence


def test_shakespeare_is_the_text_everyone_uses():
    known = DOWNLOADS["shakespeare"]
    assert known.sha256.startswith("86c4e6aa") and known.sha256.endswith("5ed")
    assert known.url.startswith("https://")
