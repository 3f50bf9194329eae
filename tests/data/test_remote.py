"""Sources at an address: the same data as from files, and one sentence for every fault."""

import gzip
import http.server
import json
import threading
from typing import ClassVar

import fsspec
import pytest

from kgpt.data import remote
from kgpt.data.remote import fetch, find_remote, shown_address
from kgpt.data.sources import Corpus
from kgpt.errors import DataError, UsageError

ROWS = "".join(json.dumps({"text": f"Story {number}."}) + "\n" for number in range(20)).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ROWS; /half.jsonl ends early, /flaky.jsonl only at first, /401.jsonl is forbidden."""

    requests: ClassVar[list[str]] = []

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.requests.append(path)
        if path[1:4] in ("401", "404", "503"):
            self.send_error(int(path[1:4]))
            return
        ends_early = path == "/half.jsonl" or (path == "/flaky.jsonl" and len(self.requests) < 3)
        self.send_response(200)
        self.send_header("Content-Length", str(len(ROWS)))
        self.end_headers()
        self.wfile.write(ROWS[:50] if ends_early else ROWS)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of a local HTTP server."""
    monkeypatch.setattr(remote, "WAIT_S", 0)
    Handler.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture
def store(monkeypatch):
    """A folder of two files in fsspec's store in memory."""
    monkeypatch.setattr(remote, "WAIT_S", 0)
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pipe("/bucket/a.jsonl", ROWS)
    files.pipe("/bucket/sub/b.jsonl.gz", gzip.compress(ROWS))
    files.pipe("/bucket/picture.png", b"\x00")
    yield files
    files.store.clear()


def read(*sources):
    return ["".join(document.parts) for document in Corpus(sources).documents()]


STORIES = [f"Story {number}." for number in range(20)]


def test_a_folder_a_glob_and_a_file_of_a_store(store, tmp_path):
    assert read("memory://bucket") == STORIES * 2  # and not the picture
    assert read("memory://bucket/*.jsonl") == STORIES
    assert read("memory://bucket/sub/b.jsonl.gz") == STORIES
    (tmp_path / "c.jsonl").write_bytes(ROWS)
    corpus = Corpus([f"file://{tmp_path}/c.jsonl"])
    assert corpus.names == [f"file://{tmp_path}/c.jsonl"]
    assert [note.partition(": ")[2] for note in corpus.notes] == ["20 texts (field 'text')"]


def test_a_file_over_http_is_named_without_its_secrets(server):
    corpus = Corpus([f"{server}/a.jsonl?token=secret"])
    assert corpus.names == [f"{server}/a.jsonl"]
    assert ["".join(document.parts) for document in corpus.documents()] == STORIES
    assert shown_address("s3://key:secret@host/a") == "s3://host/a"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("404.jsonl", "404.jsonl does not exist"),
        ("401.jsonl", "without credentials (HTTP 401)"),
        ("503.jsonl", "cannot be read (HTTP 503); check the network"),
        ("half.jsonl", "cannot be read (peer closed connection"),
        ("a.png", "kgpt cannot read http://127.0.0.1"),
    ],
)
def test_a_fault_of_a_server_is_one_sentence(server, path, sentence):
    with pytest.raises((DataError, UsageError)) as caught:
        Corpus([f"{server}/{path}"])
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_lost_connection_is_tried_again(server, tmp_path):
    fetch(f"{server}/flaky.jsonl", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == ROWS
    assert Handler.requests == ["/flaky.jsonl"] * 3


def test_a_file_that_shrinks_while_it_is_read_is_refused(store, tmp_path, monkeypatch):
    whole = store.info
    monkeypatch.setattr(type(store), "info", lambda self, path: whole(path) | {"size": 10**6})
    with pytest.raises(DataError, match="has ended after [0-9]+ of 1,000,000 bytes"):
        fetch("memory://bucket/a.jsonl", tmp_path / "a")


def test_bytes_other_than_expected_are_refused(store, tmp_path):
    with pytest.raises(DataError, match="has not the expected bytes"):
        fetch("memory://bucket/a.jsonl", tmp_path / "a", expected_sha256="0" * 64)


class NoCredentialsError(Exception):
    """As botocore names it."""


@pytest.mark.parametrize(
    ("address", "error", "sentence"),
    [
        ("memory://bucket/none.jsonl", None, "memory://bucket/none.jsonl does not exist"),
        ("memory://none/*.jsonl", None, "does not exist"),
        ("nostore://a.jsonl", None, "is of no store that fsspec knows"),
        ("s3://b/a.jsonl", NoCredentialsError("Unable to locate"), "AWS_ACCESS_KEY_ID"),
        ("s3://b/a.jsonl", ImportError("Install s3fs to access S3"), "package: Install s3fs"),
        ("gs://b/a.jsonl", OSError("unreachable"), r"gs://b/a.jsonl cannot be read \(unreachable"),
    ],
)
def test_a_fault_of_a_store_is_one_sentence(store, monkeypatch, address, error, sentence):
    if error is not None:

        def fail(address):
            raise error

        monkeypatch.setattr(remote, "_file_system", fail)
    with pytest.raises((DataError, UsageError), match=sentence):
        find_remote(address, lambda name: True)


def test_without_fsspec_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    with pytest.raises(UsageError, match=r'pip install "kgpt\[remote\]"'):
        Corpus(["s3://bucket/a.txt"])


def test_an_address_that_answers_nothing_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "WAIT_S", 0)
    with pytest.raises(DataError, match="http://127.0.0.1:9/a.txt cannot be read"):
        fetch("http://127.0.0.1:9/a.txt", tmp_path / "a")
