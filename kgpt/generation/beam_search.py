"""Beam search: the likeliest texts, looked for with several at a time.

Sequences and scores are those of transformers: candidates are ranked by summed log-probability,
finished texts by that sum over length to the power of the length penalty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from kgpt.generation.runner import ModelRunner, Token
from kgpt.generation.sequence import Request
from kgpt.model.gpt import GPT


@dataclass
class Beam:
    """A text on its way: new tokens, and the sum of their log-probabilities."""

    ids: list[int] = field(default_factory=list)
    total: float = 0.0


@dataclass
class Found:
    """A finished text and its score."""

    ids: list[int]
    score: float


class Hypotheses:
    """The beams of one request: which go on, which are finished, when to stop."""

    def __init__(self, request: Request, max_new: int):
        self.config = request.sampling
        self.size, self.max_new = self.config.beam_size, max_new
        self.ends = set(request.stop_ids)
        self.beams = [Beam()]
        self.found: list[Found] = []
        self.done = max_new < 1

    @property
    def candidates(self) -> int:
        """How many continuations are ranked: enough to go on if the best of them all end."""
        return max(2, 1 + len(self.ends)) * self.size

    def choose(self, logprobs: np.ndarray) -> tuple[list[int], list[int]]:
        """From the beams' next-token log-probabilities (size, V): sources and tokens of the next.

        Rows beyond the beams there are, are ignored.
        """
        totals = np.array([beam.total for beam in self.beams], "float32")
        scores = (logprobs[: len(self.beams)] + totals[:, None]).reshape(-1)
        keep = min(self.candidates, scores.size)
        best = np.argpartition(-scores, keep - 1)[:keep]
        best = best[np.argsort(-scores[best], kind="stable")]
        sources, tokens = np.divmod(best, logprobs.shape[1])
        length = len(self.beams[0].ids) + 1
        ended = np.array([int(t) in self.ends for t in tokens]) | (length >= self.max_new)
        full = len(self.found) == self.size and self.config.early_stopping
        for i in np.flatnonzero(ended[: self.size]):
            if not full:
                ids = [*self.beams[sources[i]].ids, int(tokens[i])]
                score = float(scores[best[i]]) / length**self.config.length_penalty
                self.found.append(Found(ids, score))
        self.found = sorted(self.found, key=lambda text: -text.score)[: self.size]
        going = np.flatnonzero(~ended)[: self.size]
        self.beams = [
            Beam([*self.beams[sources[i]].ids, int(tokens[i])], float(scores[best[i]]))
            for i in going
        ]
        self.done = self._is_done(length)
        return [int(i) for i in sources[going]], [int(i) for i in tokens[going]]

    def _is_done(self, length: int) -> bool:
        """No beam can go on, or none can beat the worst of enough finished texts."""
        if not self.beams:
            return True
        if len(self.found) < self.size:
            return False
        best_possible = self.beams[0].total / length**self.config.length_penalty
        return self.config.early_stopping or best_possible <= self.found[-1].score


def beam_search(model: GPT, request: Request, context: int | None = None) -> Iterator[list[Token]]:
    """Search; gives [] at each step and at last the tokens of the best text."""
    best: list[int] = []
    for found in search_beams(model, request, context):
        best = found[0].ids if found else []
        yield []
    yield [Token(token) for token in best]


def search_beams(model: GPT, request: Request, context: int | None = None) -> Iterator[list[Found]]:
    """The finished texts after each step, best first."""
    batch = ModelRunner(model, 1, context)
    room = request.sampling.max_tokens
    if not batch.rolls:
        room = min(room, batch.context - len(request.ids))
    hypotheses = Hypotheses(request, room)
    batch.join(0, request)
    while not batch.rows[0].writing:
        batch.read([0])
        yield []
    batch.reserve(batch.rows[0].place + 1 + room)
    batch.resize([0] * hypotheses.size, batch.places)
    programs = batch.programs
    while not hypotheses.done:
        batch.cache, logprobs = programs.rank(batch.cache, batch.settings, batch.progress)
        sources, tokens = hypotheses.choose(np.array(logprobs))
        if not hypotheses.done:
            padding = hypotheses.size - len(sources)
            batch.cache, batch.progress = programs.follow(
                batch.cache, batch.settings, batch.progress,
                np.array(sources + [0] * padding, "int32"),
                np.array(tokens + [0] * padding, "int32"),
            )  # fmt: skip
        yield hypotheses.found
    yield hypotheses.found
