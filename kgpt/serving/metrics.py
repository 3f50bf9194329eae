"""Figures for Prometheus: what the engine does, and what clients wait for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

WINDOW_S = 10.0  # over which tokens per second are counted
NEWEST_SHARE = 0.1  # weight of the newest answer in the mean duration
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The meters of one server.

    Args:
        stats: gives the engine's `EngineStats`; None before there is an engine.
    """

    def __init__(self, stats: Callable[[], Any]):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "kgpt_requests", "Requests answered.", ["path", "status"], registry=self.registry
        )
        self.first_token = Histogram(
            "kgpt_time_to_first_token_seconds",
            "From a request's arrival to its first text.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.duration = Histogram(
            "kgpt_answer_seconds",
            "From a request's arrival to the end of its answer.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.finished = Counter(
            "kgpt_answers", "Texts that ended, by reason.", ["reason"], registry=self.registry
        )
        self.mean_duration = 0.0  # of the latest answers, in seconds
        self.speed = Speed()
        self.registry.register(EngineFigures(stats, self.speed))

    def ended(self, reason: str, seconds: float) -> None:
        """Note the end of a text, and how long after its request it came."""
        self.finished.labels(reason).inc()
        self.duration.observe(seconds)
        self.mean_duration += (seconds - self.mean_duration) * NEWEST_SHARE

    def render(self) -> bytes:
        """All figures in Prometheus's text format."""
        return generate_latest(self.registry)


class Speed:
    """Tokens per second over the last seconds, from marks of a count that only grows."""

    def __init__(self, window: float = WINDOW_S):
        self.window = window
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, total: int) -> None:
        """Note that `total` tokens were written by now."""
        now = time.monotonic()
        self._marks.append((now, total))
        while now - self._marks[0][0] > self.window:
            self._marks.popleft()

    def rate(self) -> float:
        """Tokens per second between the first and the last mark in the window."""
        if len(self._marks) < 2:
            return 0.0
        (begin, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / max(end - begin, 1e-3)


class EngineFigures(Collector):
    """Reads the engine when Prometheus asks."""

    def __init__(self, stats: Callable[[], Any], speed: Speed):
        self._stats, self._speed = stats, speed

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "kgpt_tokens_per_second", "Tokens written, over ten seconds.", self._speed.rate()
        )
        stats = self._stats()
        if stats is None:
            return
        yield GaugeMetricFamily("kgpt_slots", "Sequences decoded at once.", stats.max_num_seqs)
        yield GaugeMetricFamily("kgpt_slots_active", "Texts being written.", stats.active)
        yield GaugeMetricFamily("kgpt_queue", "Texts waiting for a slot.", stats.queued)
        yield CounterMetricFamily("kgpt_tokens_in", "Prompt tokens taken.", stats.prompt_tokens)
        yield CounterMetricFamily("kgpt_tokens_out", "Tokens written.", stats.generation_tokens)
        yield CounterMetricFamily(
            "kgpt_tokens_cached", "Prompt tokens found in the cache.", stats.cached_tokens
        )


class CountRequests:
    """ASGI middleware that counts answers by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]):
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Paths that do not exist share a label: clients must not make labels.
        path = scope["path"] if scope["path"] in self.paths else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counted)
