"""Clients that keep a server busy: what they see of any server that speaks the OpenAI API."""

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

LEFT_WITHIN = 4  # pieces of an answer; few answers have more, since tokens come in bursts


@dataclass
class Outcome:
    """What the clients saw together."""

    statuses: Counter[int] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    finished: int = 0
    hung_up: int = 0
    tokens: int = 0
    seconds: float = 0.0
    first_token: list[float] = field(default_factory=list)  # seconds from asking
    durations: list[float] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """The figures, rounded: rates per second, times in seconds."""
        return {
            "tokens_per_second": round(self.tokens_per_second, 1),
            "answers": self.finished,
            "first_token_median": _at(self.first_token, 0.5),
            "first_token_95": _at(self.first_token, 0.95),
            "answer_median": _at(self.durations, 0.5),
            "refused": self.statuses[429],
            "errors": len(self.errors),
        }


@dataclass
class Load:
    """How clients behave. Each asks, reads the stream to its end, and asks again.

    Args:
        hang_up: share of requests left at a random place.
        fields: more fields of each request.
    """

    url: str
    clients: int = 8
    seconds: float = 30.0
    max_tokens: int = 128
    hang_up: float = 0.0
    key: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    async def run(self, every_second: Callable[[], None] | None = None) -> Outcome:
        """Keep asking for `seconds`, then let what was begun come to its end."""
        outcome, loop = Outcome(), asyncio.get_running_loop()
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        begun = loop.time()

        async def client(number: int, http: httpx.AsyncClient) -> None:
            dice = random.Random(number)
            while loop.time() - begun < self.seconds:
                try:
                    await self._ask(http, dice, outcome)
                except (httpx.HTTPError, ValueError, KeyError) as error:
                    outcome.errors.append(f"{type(error).__name__}: {error}")
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
        outcome.seconds = loop.time() - begun
        return outcome

    async def _ask(self, http: httpx.AsyncClient, dice: random.Random, outcome: Outcome) -> None:
        """One request, read to its end or left at a random place."""
        leave_at = dice.randrange(LEFT_WITHIN) if dice.random() < self.hang_up else None
        body = {
            "prompt": f"The number {dice.randrange(10**6)} is",
            "max_tokens": self.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.fields,
        }
        loop = asyncio.get_running_loop()
        asked, chunks, counted = loop.time(), 0, None
        async with http.stream("POST", "/v1/completions", json=body) as answer:
            outcome.statuses[answer.status_code] += 1
            if answer.status_code != 200:
                await self._refused(answer, outcome)
                return
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    outcome.errors.append(str(event["error"]))
                    return
                counted = (event.get("usage") or {}).get("completion_tokens", counted)
                if event["choices"] and event["choices"][0].get("text"):
                    chunks += 1
                    if chunks == 1:
                        outcome.first_token.append(loop.time() - asked)
                if leave_at is not None and chunks > leave_at:
                    outcome.hung_up += 1
                    outcome.tokens += chunks
                    return
        outcome.finished += 1
        outcome.durations.append(loop.time() - asked)
        outcome.tokens += chunks if counted is None else counted

    async def _refused(self, answer: httpx.Response, outcome: Outcome) -> None:
        await answer.aread()
        if answer.status_code != 429:
            outcome.errors.append(f"{answer.status_code}: {answer.text[:200]}")
        await asyncio.sleep(0.2)


def _at(times: list[float], share: float) -> float | None:
    """The time that `share` of `times` do not exceed."""
    if len(times) < 2:
        return round(times[0], 4) if times else None
    return round(statistics.quantiles(times, n=100)[round(share * 100) - 1], 4)
