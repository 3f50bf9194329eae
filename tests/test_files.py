"""Atomic writes under real faults: killed writers, full disks, missing permission."""

import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.errors import KgptError
from kgpt.files import (
    atomic_dir,
    discard_partial,
    os_errors_as_kgpt,
    sha256,
    write_json,
    write_text,
)


@given(before=st.text(), after=st.text())
def test_a_file_is_replaced_atomically(before, after, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    file = folder / "deep" / "file.txt"
    write_text(file, before)
    write_text(file, after)
    assert file.read_bytes().decode() == after.replace("\n", os.linesep)
    assert [path.name for path in file.parent.iterdir()] == ["file.txt"]


WRITE_FOREVER = """
import sys
from pathlib import Path
from kgpt.files import write_json
print("begun", flush=True)
number = 0
while True:
    number += 1
    write_json(Path(sys.argv[1]), [number] * 20000)
"""


def test_killed_while_writing_the_file_is_whole(tmp_path):
    import json

    file = tmp_path / "status.json"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOREVER, str(file)], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    while not file.exists():
        assert process.poll() is None
    for _ in range(50):
        value = json.loads(file.read_text())  # what a watcher sees is never half written
        assert len(value) == 20000 and len(set(value)) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(json.loads(file.read_text())) == 20000
    discard_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "x" * 100_000 + "\ud800")
    assert file.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_limit_on_file_size_leaves_the_old_file_and_a_sentence(tmp_path):
    """The operating system itself refuses to write on, halfway through the file."""
    file = tmp_path / "a.txt"
    write_text(file, "old")
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from kgpt.files import os_errors_as_kgpt, write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "with os_errors_as_kgpt('write it'): write_text(Path(sys.argv[1]), 'x' * 100000)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=False
    )
    assert "KgptError: Could not write it: the limit on file sizes is reached" in child.stderr
    assert file.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_sentence_with_its_remedy():
    with (
        pytest.raises(KgptError, match=r"^Could not write it: the disk is full: free some space"),
        os_errors_as_kgpt("write it"),
        open("/dev/full", "w") as file,
    ):
        file.write("x" * 100_000)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "permission denied: choose a folder"),
        (errno.EDQUOT, "quota is used up"),
        (errno.EROFS, "read-only"),
        (errno.ENOTDIR, "Not a directory"),
    ],
)
def test_other_refusals_are_sentences(number, words):
    with pytest.raises(KgptError, match=words), os_errors_as_kgpt("write it"):
        raise OSError(number, os.strerror(number))


def test_errors_of_rust_libraries_are_sentences(tmp_path):
    from kgpt.text.tokenizer import Tokenizer

    (tmp_path / "tokenizer.json").mkdir()  # in the way
    with pytest.raises(KgptError, match=r"it: Is a directory\."), os_errors_as_kgpt("write it"):
        Tokenizer.of_bytes().save(tmp_path)
    with pytest.raises(KgptError, match="the disk is full"), os_errors_as_kgpt("write it"):
        raise RuntimeError('Io error: Os { code: 28, kind: StorageFull, message: "No space" }')
    with pytest.raises(ZeroDivisionError), os_errors_as_kgpt("divide"):
        _ = 1 / 0


def test_a_folder_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "sets" / "one"
    with atomic_dir(target) as work:
        (work / "deep").mkdir()
        (work / "deep" / "file").write_text("x")
        assert not target.exists()
    assert (target / "deep" / "file").read_text() == "x"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_is_replaced_only_by_a_complete_one(tmp_path):
    target = tmp_path / "one"
    with atomic_dir(target) as work:
        (work / "old").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_dir(target) as work:
        (work / "new").write_text("new")
        (work / "nothing").read_text()
    assert [path.name for path in target.iterdir()] == ["old"]
    with atomic_dir(target) as work:
        (work / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_crash_left_is_cleared_by_the_next_attempt(tmp_path):
    (tmp_path / ".partial-one-abc").mkdir()
    (tmp_path / ".partial-other-abc").mkdir()
    with atomic_dir(tmp_path / "one"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".partial-other-abc", "one"]


@given(st.binary(max_size=5000))
def test_checksums_are_sha256(data):
    path = Path("/tmp") / f"kgpt-test-{os.getpid()}"
    path.write_bytes(data)
    try:
        assert sha256(path) == hashlib.sha256(data).hexdigest()
    finally:
        path.unlink()


def test_json_keeps_every_character(tmp_path):
    write_json(tmp_path / "a.json", {"text": "é🦊\n"})
    assert "é🦊" in (tmp_path / "a.json").read_text(encoding="utf-8")
