"""The commands `kgpt data`."""

import io
import signal
import subprocess
import sys

import pytest

from kgpt.data.shards import TokenDataset
from tests.cli.running import kgpt

pytestmark = pytest.mark.usefixtures("own_folder")


def test_prepare_shows_what_it_made_and_verify_checks_it(data, capsys):
    code, out, _ = kgpt(capsys, "data", "show", data, "--verify")
    assert code == 0
    assert "All checksums match." in out and "It was Monday." in out
    shard = data / "train-00000.bin"
    shard.write_bytes(b"\x01" + shard.read_bytes()[1:])
    code, _, error = kgpt(capsys, "data", "show", data, "--verify")
    assert code == 1
    assert "bytes of train-00000.bin have changed; make it again" in error


def test_prepare_reads_standard_input(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"to be or not to be " * 99)))
    code, out, _ = kgpt(capsys, "data", "prepare", "-", "--out", "set", "--tokenizer", "char")
    assert code == 0
    assert TokenDataset("set").manifest.splits["train"].tokens == 1692  # nine tenths of 99 * 19
    assert "to be or not" in out


def test_quiet_prints_nothing(text, capsys):
    arguments = ("data", "prepare", text, "--out", "set", "--tokenizer", "byte", "--quiet")
    assert kgpt(capsys, *arguments) == (0, "", "")


def test_get_offline_is_one_sentence(monkeypatch, capsys):
    from kgpt.data import download

    source = download.DOWNLOADS["shakespeare"]
    nowhere = download.Download(
        "http://127.0.0.1:9/x", source.sha256, source.path, "set", "char", source.preset
    )
    monkeypatch.setitem(download.DOWNLOADS, "shakespeare", nowhere)
    monkeypatch.setattr("kgpt.data.remote.WAIT_S", 0)
    code, _, error = kgpt(capsys, "data", "get", "shakespeare")
    assert code == 1
    assert "cannot be read" in error and "data/shakespeare.txt" in error


def test_a_reader_that_leaves_early_causes_no_noise(data):
    command = f"{sys.executable} -m kgpt data show {data} | true"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert run.stderr == ""


def test_interrupted_prepare_ends_with_130_and_leaves_nothing(tmp_path):
    (tmp_path / "big.jsonl").write_text('{"text": "so many words to be counted"}\n' * 500_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "kgpt", "data", "prepare", "big.jsonl", "--out", "sets/one",
         "--tokenizer", "byte"],
        stderr=subprocess.DEVNULL,
        # A suite that runs in the background inherits a SIGINT that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while not list(tmp_path.glob("sets/.partial-*")):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert list((tmp_path / "sets").iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(text, tmp_path):
    """On a real file system of 64 kB, in a mount namespace of the test's own."""
    (tmp_path / "small").mkdir()
    text.write_text("x" * 400_000)
    mount = "mount -t tmpfs -o size=64k none small"
    inside = f"{mount} && {sys.executable} -m kgpt data prepare text.txt --tokenizer byte --out "
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        if subprocess.run([*namespace, mount], capture_output=True, check=False).returncode:
            pytest.skip("this system gives no mount namespaces")
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    run = subprocess.run(
        [*namespace, f"{inside} small/set; echo $?; ls -A small"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "kgpt: Could not write the data set small/set: the disk is full: free some" in run.stderr
    assert run.stdout.split() == ["1"]
    assert "Traceback" not in run.stderr
