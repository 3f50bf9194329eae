"""Servers for tests: real sockets, an event loop in a thread, and usually a fake generator."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from kgpt.config import ServeConfig
from kgpt.serving.security import ApiKeys
from kgpt.serving.server import Server, address_of, open_socket
from kgpt.serving.state import ServerState
from tests.serving.fakes import FakeGenerator


class RunningServer:
    """A server of `generator` in a thread.

    Args:
        options: fields of `ServeConfig`.
    """

    def __init__(self, generator: Any, keys: ApiKeys | None, name: str, options: dict[str, Any]):
        config = ServeConfig.parse({"port": 0, **options})
        self.generator = generator
        self.state = ServerState(name, config, lambda: generator)
        listener: socket.socket = open_socket(config)
        self.url = address_of(listener)  # now, since a failing server closes the socket
        self.server = Server(self.state, listener, keys)
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [listener]}, daemon=True
        )
        self.thread.start()

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, **options)

    def is_idle(self) -> bool:
        """True when no request is active or waiting."""
        stats = self.generator.stats()
        return stats.active == stats.queued == 0

    def stop(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(10)


def start(
    generator: Any = None,
    keys: ApiKeys | None = None,
    wait: bool = True,
    name: str = "fake",
    **options: Any,
) -> RunningServer:
    """Serve a `TextGenerator` or, by default, a fake; with `wait`, return once it is ready."""
    running = RunningServer(generator or FakeGenerator(), keys, name, options)
    if wait:
        eventually(lambda: running.state.status == "ready" and running.server.started)
    return running


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until `condition` is true; fail if it never is."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the condition did not come true in time"
        time.sleep(0.005)
