"""Load test: concurrent clients of any server with the OpenAI API, and what they measure."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

DISCONNECT_WITHIN = 4  # chunks; few streams have more, since tokens come in bursts


@dataclass
class LoadTestResult:
    """What all clients measured together; times in seconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    completed: int = 0
    disconnected: int = 0
    tokens: int = 0
    seconds: float = 0.0
    time_to_first_token: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """What `kgpt bench serve` prints, rounded; times in seconds."""
        return {
            "tokens_per_second": round(self.tokens_per_second, 1),
            "completed": self.completed,
            "time_to_first_token_p50": _quantile(self.time_to_first_token, 0.5),
            "time_to_first_token_p95": _quantile(self.time_to_first_token, 0.95),
            "latency_p50": _quantile(self.latencies, 0.5),
            "rejected": self.statuses[429],
            "errors": len(self.errors),
        }


@dataclass
class LoadTest:
    """Clients that each request a stream, read it to its end, and request the next.

    Args:
        url: of the server.
        clients: how many run concurrently.
        seconds: how long they start new requests.
        disconnect_rate: share of requests whose client disconnects after a random chunk.
        key: the server's API key.
        fields: additional fields of each request.
    """

    url: str
    clients: int = 8
    seconds: float = 30.0
    max_tokens: int = 128
    disconnect_rate: float = 0.0
    key: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    async def run(self, every_second: Callable[[], None] | None = None) -> LoadTestResult:
        """Start requests for `seconds`, then wait for the active ones."""
        result, loop = LoadTestResult(), asyncio.get_running_loop()
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        started = loop.time()

        async def client(number: int, http: httpx.AsyncClient) -> None:
            rng = random.Random(number)
            while loop.time() - started < self.seconds:
                try:
                    await self._request(http, rng, result)
                except (httpx.HTTPError, ValueError, KeyError) as error:
                    result.errors.append(f"{type(error).__name__}: {error}")
                    await asyncio.sleep(0.1)

        async def watch() -> None:
            while every_second is not None:
                await asyncio.sleep(1)
                every_second()

        async with httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=300,
            limits=httpx.Limits(max_connections=None),
        ) as http:
            watching = asyncio.create_task(watch())
            await asyncio.gather(*(client(number, http) for number in range(self.clients)))
            watching.cancel()
        result.seconds = loop.time() - started
        return result

    async def _request(
        self, http: httpx.AsyncClient, rng: random.Random, result: LoadTestResult
    ) -> None:
        """One request, read to its end or to a random chunk."""
        disconnect_after = (
            rng.randrange(DISCONNECT_WITHIN) if rng.random() < self.disconnect_rate else None
        )
        body = {
            "prompt": f"The number {rng.randrange(10**6)} is",
            "max_tokens": self.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.fields,
        }
        loop = asyncio.get_running_loop()
        sent, chunks, num_tokens = loop.time(), 0, None
        async with http.stream("POST", "/v1/completions", json=body) as response:
            result.statuses[response.status_code] += 1
            if response.status_code != 200:
                await self._record_rejection(response, result)
                return
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    result.errors.append(str(event["error"]))
                    return
                num_tokens = (event.get("usage") or {}).get("completion_tokens", num_tokens)
                if event["choices"] and event["choices"][0].get("text"):
                    chunks += 1
                    if chunks == 1:
                        result.time_to_first_token.append(loop.time() - sent)
                if disconnect_after is not None and chunks > disconnect_after:
                    result.disconnected += 1
                    result.tokens += chunks
                    return
        result.completed += 1
        result.latencies.append(loop.time() - sent)
        result.tokens += chunks if num_tokens is None else num_tokens

    async def _record_rejection(self, response: httpx.Response, result: LoadTestResult) -> None:
        await response.aread()
        if response.status_code != 429:
            result.errors.append(f"{response.status_code}: {response.text[:200]}")
        await asyncio.sleep(0.2)


def _quantile(times: list[float], share: float) -> float | None:
    """The time that a `share` of `times` does not exceed."""
    if len(times) < 2:
        return round(times[0], 4) if times else None
    return round(statistics.quantiles(times, n=100)[round(share * 100) - 1], 4)
