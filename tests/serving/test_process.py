"""The server as a process: killed, told to end, started anew, and started wrongly."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.serving.harness import eventually

HERE = Path(__file__).parent
LONG = {"prompt": "a", "max_tokens": 10**6, "stream": True}


@pytest.fixture
def process():
    """Starts a server process; returns it and its URL once it is ready."""
    started = []

    def start(*command, port=0):
        command = command or (sys.executable, str(HERE / "fake_server.py"), str(port))
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(child)
        url = child.stdout.readline().strip().split(" on ")[-1]
        eventually(lambda: httpx.get(f"{url}/health", timeout=60).status_code == 200, seconds=300)
        return child, url

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


def test_killed_in_mid_stream(process):
    child, url = process()
    with httpx.stream("POST", f"{url}/v1/completions", json=LONG, timeout=10) as answer:
        lines = answer.iter_lines()
        next(lines)
        child.kill()
        begun = time.monotonic()
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
        assert time.monotonic() - begun < 5  # at once, and not by a time-out
    again, same = process(port=url.rsplit(":", 1)[1])
    assert same == url
    assert httpx.post(f"{same}/v1/completions", json={"prompt": "a"}).status_code == 200
    assert again.poll() is None


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_and_exit_codes(process, kind, code):
    child, url = process()
    ask = {"prompt": "a", "max_tokens": 50, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=ask, timeout=10) as answer:
        lines = answer.iter_lines()
        next(lines)
        child.send_signal(kind)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert child.wait(20) == code
    assert child.stdout.read() == ""


def test_a_second_signal_ends_it_at_once(process):
    child, url = process()
    with httpx.stream("POST", f"{url}/v1/completions", json=LONG, timeout=10) as answer:
        lines = answer.iter_lines()
        next(lines)
        child.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0  # without it, after 30 s of draining


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--port", "99999"], "65535"),
        (["--prot", "1"], "--port"),
        (["--api-key-file", "missing"], "cannot be read"),
        (["--output-filter", "missing"], "No output filter"),
    ],
)
def test_wrong_commands_are_one_sentence(tmp_path, options, says):
    (tmp_path / "config.json").write_text("{}")
    command = [sys.executable, "-m", "kgpt", "serve", "--model", str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert says in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.backend
@pytest.mark.portable
def test_kgpt_serve(process, tmp_path):
    """With an adapter, which answers as the model that it is merged into does."""
    import kgpt
    from tests.generation.adapters import write_adapter
    from tests.tiny import write_tiny_model

    base = write_tiny_model(tmp_path / "tiny", max_length=64, noise=0.2)
    poet = write_adapter(tmp_path / "poet", base, rank=2)
    (tmp_path / "keys").write_text("open-sesame\n")
    child, url = process(
        *(sys.executable, "-m", "kgpt", "serve", "--model", str(base), "--port", "0"),
        *("--max-num-seqs", "2", "--api-key-file", str(tmp_path / "keys")),
        *("--adapter", str(poet)),
    )
    keys = {"authorization": "Bearer open-sesame"}
    with httpx.Client(base_url=url, headers=keys, timeout=60) as http:
        model, adapter = http.get("/v1/models").json()["data"]
        assert (adapter["id"], adapter["parent"]) == ("tiny:poet", "tiny")
        assert model["id"] == "tiny" and model["kgpt"]["backend"] == os.environ["KERAS_BACKEND"]
        ask = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
        assert http.post("/v1/chat/completions", json=ask).status_code == 200
        ask = {"prompt": "To be", "max_tokens": 8, "temperature": 0}
        texts = [
            http.post("/v1/completions", json=ask | {"model": name}).json()["choices"][0]["text"]
            for name in ("tiny", "tiny:poet")
        ]
    for source, text in zip((base, poet), texts, strict=True):
        with kgpt.load(source) as generator:
            assert generator.generate("To be", temperature=0, max_tokens=8).text == text
    assert texts[0] != texts[1]
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 0
    assert child.stdout.read() == ""
