"""`kgpt bench serve`: load-test a running server."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

from cyclopts import Parameter

from kgpt.cli.options import StrictInt
from kgpt.errors import KgptError, UsageError


def bench_serve(
    *,
    url: str = "http://127.0.0.1:8000",
    clients: StrictInt = 8,
    seconds: float = 30.0,
    max_tokens: StrictInt = 128,
    api_key: str | None = None,
    json_line: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Measure throughput and latency of a running server.

    Works with any server of the OpenAI API.

    Parameters
    ----------
    url
        Base URL of the server.
    clients
        Number of concurrent clients.
    seconds
        Duration of the test.
    max_tokens
        max_tokens of each request.
    api_key
        The server's API key, if it has one.
    json_line
        Print the results as one JSON object.
    """
    if clients < 1 or seconds <= 0 or max_tokens < 1:
        raise UsageError("--clients, --seconds and --max-tokens must be above zero.")
    from kgpt.serving.load_test import LoadTest

    load_test = LoadTest(url, clients, seconds, max_tokens, key=api_key)
    result = asyncio.run(load_test.run())
    if not result.completed:
        reason = f": {result.errors[0]}" if result.errors else ""
        raise KgptError(f"No request to {url} was completed{reason}.")
    figures = {"clients": clients, **result.as_dict()}
    if json_line:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):20} {value}")
