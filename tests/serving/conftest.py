"""Fixtures: servers of a fake generator, and clients of them."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.serving.harness import RunningServer, start


@pytest.fixture
def serve() -> Iterator[Callable[..., RunningServer]]:
    """`start` with a fake generator by default; every server is stopped after the test."""
    started: list[RunningServer] = []

    def start_one(*args: Any, **options: Any) -> RunningServer:
        started.append(start(*args, **options))
        return started[-1]

    yield start_one
    for running in started:
        running.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One server with default options, shared by tests that leave no state behind."""
    running = start()
    yield running
    running.stop()


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http
