"""64 clients at once, a tenth of whose requests are left midway: nothing breaks or leaks.

`KGPT_LOAD_SECONDS` says how long; the full test is five minutes:

    KGPT_LOAD_SECONDS=300 KERAS_BACKEND=jax python -m pytest tests/serving/test_load.py -m slow -s
"""

import asyncio
import os
import resource
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from kgpt.serving.load_test import LoadTest
from tests.serving.harness import eventually
from tests.tiny import write_tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.backend,
    pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc"),
]
SECONDS = float(os.environ.get("KGPT_LOAD_SECONDS", "60"))
CLIENTS = 64


@pytest.fixture
def server(tmp_path):
    """A `kgpt serve` process with fewer places than clients; gives it and its URL."""
    folder = write_tiny_model(tmp_path / "tiny", max_length=64)
    command = [sys.executable, "-m", "kgpt", "serve", "--model", str(folder), "--port", "0"]
    command += ["--max-num-seqs", "16", "--max-queue", "32"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = child.stdout.readline().strip().split(" on ")[-1]
        eventually(lambda: httpx.get(f"{url}/health", timeout=60).status_code == 200, seconds=900)
        yield child, url
        child.terminate()
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.stdout.close()


def figure(url, name):
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def resident(process_id):
    """Memory of a process, in MiB."""
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def test_many_clients(server):
    child, url = server
    short = min(SECONDS / 4, 20)
    asyncio.run(
        LoadTest(url, CLIENTS, short, 48, disconnect_rate=0.1).run()
    )  # until memory is settled
    alone = asyncio.run(LoadTest(url, 1, short, 48).run())
    memory = []
    many = LoadTest(url, CLIENTS, SECONDS, 48, disconnect_rate=0.1)
    together = asyncio.run(many.run(lambda: memory.append(resident(child.pid))))
    ratio = together.tokens_per_second / alone.tokens_per_second
    print(
        f"\none client {alone.tokens_per_second:.0f} tokens/s, {CLIENTS} clients "
        f"{together.tokens_per_second:.0f} tokens/s ({ratio:.1f} times); "
        f"{together.completed} answers, {together.disconnected} left midway, "
        f"statuses {dict(together.statuses)}, errors {together.errors[:3]}; "
        f"memory {memory[0]:.0f} to {memory[-1]:.0f} MiB, at most {max(memory):.0f}"
    )
    assert together.errors == []
    assert set(together.statuses) <= {200, 429}
    assert together.completed > CLIENTS and together.disconnected > 0
    eventually(
        lambda: (
            figure(url, "kgpt_num_requests_running")
            == figure(url, "kgpt_num_requests_waiting")
            == 0
        )
    )
    tenth = max(len(memory) // 10, 1)
    early, late = sum(memory[:tenth]) / tenth, sum(memory[-tenth:]) / tenth
    assert late < early * 1.05 + 20
    ask = {"prompt": "a", "max_tokens": 4}
    assert httpx.post(f"{url}/v1/completions", json=ask, timeout=60).status_code == 200
