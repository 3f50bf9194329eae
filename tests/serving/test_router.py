"""Two servers behind nginx as docs/recipes/nginx.conf says: one is killed, and requests go on."""

import re
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.serving.fakes import FakeGenerator
from tests.serving.harness import eventually, start

NGINX = shutil.which("nginx")
RECIPE = Path(__file__).parents[2] / "docs" / "recipes" / "nginx.conf"
FAKE_SERVER = Path(__file__).parent / "fake_server.py"
SHORT = {"prompt": "a", "max_tokens": 20}  # 0.1 s
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


class Router:
    """nginx with the recipe's configuration, before the servers at two ports."""

    def __init__(self, folder: Path, ports: list[int], balance: str | None = None) -> None:
        self.port = free_port()
        text = RECIPE.read_text(encoding="utf-8")
        for old, new in zip((8000, 8001, 8002), (self.port, *ports), strict=True):
            text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
        if balance is not None:
            text = re.sub(r"hash .*?;.*", balance, text)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        text = text.replace("http {", f"http {{\naccess_log off;\n{paths}", 1)
        own = f"pid {folder}/pid; error_log {folder}/error.log; daemon off; master_process off;\n"
        (folder / "nginx.conf").write_text(own + text)
        command = [str(NGINX), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]
        self.process = subprocess.Popen(command)
        self.url = f"http://127.0.0.1:{self.port}"
        eventually(self.is_up)

    def is_up(self) -> bool:
        assert self.process.poll() is None, "nginx refused the configuration"
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, **headers: str) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/completions", json=SHORT, headers=headers, timeout=30)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def servers():
    """A server in this process, and one in a child, which the last test kills, with its URL."""
    here = start(FakeGenerator(delay=0.005))
    child = subprocess.Popen(
        [sys.executable, str(FAKE_SERVER), "0"], stdout=subprocess.PIPE, text=True
    )
    url = child.stdout.readline().strip()
    eventually(lambda: httpx.get(f"{url}/health", timeout=60).status_code == 200, seconds=60)
    yield here, child, url
    child.kill()
    child.wait()
    child.stdout.close()
    here.stop()


@pytest.fixture
def route(servers, tmp_path):
    """Starts a router before both servers, as the recipe says or with another way to balance."""
    here, _, url = servers
    routers = []

    def start_router(balance: str | None = None) -> Router:
        ports = [int(address.rsplit(":", 1)[1]) for address in (here.url, url)]
        folder = tmp_path / str(len(routers))
        folder.mkdir()
        routers.append(Router(folder, ports, balance))
        return routers[-1]

    yield start_router
    for router in routers:
        router.stop()


def completed(url: str) -> float:
    """Completions that a server has made."""
    text = httpx.get(f"{url}/metrics").text
    rows = re.findall(r"^kgpt_completions_total\{.*\} (\S+)$", text, re.M)
    return sum(map(float, rows))


def test_a_stream_is_passed_on_as_it_comes(route):
    router = route()
    ask = {"prompt": "a", "max_tokens": 10**6, "stream": True}
    with httpx.stream("POST", f"{router.url}/v1/completions", json=ask, timeout=10) as answer:
        assert next(answer.iter_lines()).startswith("data: ")  # long before the end


def test_a_killed_server_loses_no_request_and_its_conversations_move(servers, route):
    here, child, url = servers
    sticky, balanced = route(), route("least_conn;")

    def served_here(conversation: str) -> bool:
        before = completed(here.url)
        assert sticky.ask(**{"X-Session": conversation}).status_code == 200
        return completed(here.url) > before

    conversations = [f"conversation {n}" for n in range(20)]  # both servers have some
    first = [served_here(one) for one in conversations]
    assert set(first) == {True, False} and [served_here(one) for one in conversations] == first
    before, answers, lock = (completed(here.url), completed(url)), Counter(), threading.Lock()

    def client() -> None:
        for _ in range(12):
            status = balanced.ask().status_code
            with lock:
                answers[status] += 1

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: sum(answers.values()) >= 8)
    assert completed(here.url) > before[0] and completed(url) > before[1]  # both were asked
    child.kill()
    for thread in threads:
        thread.join()
    assert answers == {200: 48}
    assert all(served_here(one) for one in conversations)
