"""`kgpt bench`: figures on this machine."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

from cyclopts import Parameter

from kgpt.cli.options import Whole
from kgpt.errors import KgptError, UsageError


def bench_serve(
    *,
    url: str = "http://127.0.0.1:8000",
    clients: Whole = 8,
    seconds: float = 30.0,
    max_tokens: Whole = 128,
    api_key: str | None = None,
    json_line: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Measure a running server: tokens per second, and how long clients wait.

    Any server that speaks the OpenAI API can be measured.

    Parameters
    ----------
    url
        Where the server is.
    clients
        How many clients ask at the same time.
    seconds
        For how long they ask.
    max_tokens
        The length of each answer.
    api_key
        The server's API key, if it has one.
    json_line
        Print the figures as one JSON object.
    """
    if clients < 1 or seconds <= 0 or max_tokens < 1:
        raise UsageError("--clients, --seconds and --max-tokens must be above zero.")
    from kgpt.serving.load_test import LoadTest

    load_test = LoadTest(url, clients, seconds, max_tokens, key=api_key)
    result = asyncio.run(load_test.run())
    if not result.completed:
        reason = f": {result.errors[0]}" if result.errors else ""
        raise KgptError(f"No answer came from {url}{reason}.")
    figures = {"clients": clients, **result.as_dict()}
    if json_line:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):20} {value}")
