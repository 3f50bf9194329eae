"""Servers for tests: real sockets, a real event loop in a thread, and an engine without a model."""

import threading
import time
from types import SimpleNamespace

import httpx
import pytest

from kgpt.config import ServeConfig
from kgpt.serving.server import Server, address_of, open_socket
from kgpt.serving.state import Service
from tests.serving.fakes import FakeEngine


def start(engine, keys=None, wait=True, name="fake", **options):
    """Serve `engine` in a thread. Returns what a test wants to look at, and `stop`."""
    config = ServeConfig.parse({"port": 0, **options})
    service = Service(name, config, lambda: engine)
    listener = open_socket(config)
    url = address_of(listener)  # before the server, which may end at once and close it
    server = Server(service, listener, keys)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()

    def stop():
        server.should_exit = server.force_exit = True
        thread.join(10)

    running = SimpleNamespace(
        url=url, engine=engine, service=service, server=server, thread=thread, stop=stop
    )
    running.client = lambda **more: httpx.Client(base_url=url, timeout=30, **more)
    if wait:
        eventually(lambda: service.state == "ready" and server.started)
    return running


def eventually(condition, seconds=20.0):
    """Wait for `condition`; a test fails if it never comes true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.005)


@pytest.fixture
def serve():
    """`start`, with all that was started stopped in the end."""
    started = []

    def begin(engine=None, **options):
        started.append(start(engine or FakeEngine(), **options))
        return started[-1]

    yield begin
    for running in started:
        running.stop()


@pytest.fixture(scope="module")
def server():
    """One server with default options, for tests that leave no trace."""
    running = start(FakeEngine())
    yield running
    running.stop()


@pytest.fixture
def client(server):
    with server.client() as http:
        yield http
