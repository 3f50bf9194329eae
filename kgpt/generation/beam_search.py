"""Beam search: the most likely sequences, several hypotheses at a time.

Sequences and scores are those of transformers: candidates are ranked by summed log-probability,
finished hypotheses by that sum over length to the power of the length penalty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from kgpt import backend
from kgpt.generation.generated_token import GeneratedToken
from kgpt.generation.runner import ModelRunner
from kgpt.generation.sequence import Request
from kgpt.model.gpt import GPT


@dataclass
class Beam:
    """An unfinished hypothesis: generated tokens and the sum of their log-probabilities."""

    token_ids: list[int] = field(default_factory=list)
    logprob: float = 0.0


@dataclass
class BeamHypothesis:
    """A finished hypothesis and its score."""

    token_ids: list[int]
    score: float


class BeamState:
    """The beams of one request: which continue, which are finished, when to stop."""

    def __init__(self, request: Request, max_new_tokens: int):
        self.config = request.sampling
        self.beam_size, self.max_new_tokens = self.config.beam_size, max_new_tokens
        self.eos_ids = set(request.stop_ids)
        self.beams = [Beam()]
        self.finished: list[BeamHypothesis] = []
        self.done = max_new_tokens < 1

    @property
    def num_candidates(self) -> int:
        """Continuations that are ranked: enough to go on if the best of them all end."""
        return max(2, 1 + len(self.eos_ids)) * self.beam_size

    def step(self, logprobs: np.ndarray) -> tuple[list[int], list[int]]:
        """Extend the beams by next-token log-probabilities (beam_size, V).

        Returns the source beam and the token of each new beam. Rows beyond the beams are ignored.
        """
        totals = np.array([beam.logprob for beam in self.beams], "float32")
        scores = (logprobs[: len(self.beams)] + totals[:, None]).reshape(-1)
        keep = min(self.num_candidates, scores.size)
        best = np.argpartition(-scores, keep - 1)[:keep]
        best = best[np.argsort(-scores[best], kind="stable")]
        sources, tokens = np.divmod(best, logprobs.shape[1])
        length = len(self.beams[0].token_ids) + 1
        is_end = np.array([int(t) in self.eos_ids for t in tokens])
        is_end |= length >= self.max_new_tokens
        candidates = [
            Beam([*self.beams[source].token_ids, int(token)], float(score))
            for source, token, score in zip(sources, tokens, scores[best], strict=True)
        ]
        self._finish([candidates[i] for i in np.flatnonzero(is_end[: self.beam_size])])
        kept = np.flatnonzero(~is_end)[: self.beam_size]
        self.beams = [candidates[i] for i in kept]
        self.done = self._is_done(length)
        return [int(i) for i in sources[kept]], [int(i) for i in tokens[kept]]

    def _finish(self, ended: list[Beam]) -> None:
        """Keep the best `beam_size` finished hypotheses."""
        if len(self.finished) == self.beam_size and self.config.early_stopping:
            return
        for beam in ended:
            score = beam.logprob / len(beam.token_ids) ** self.config.length_penalty
            self.finished.append(BeamHypothesis(beam.token_ids, score))
        self.finished = sorted(self.finished, key=lambda found: -found.score)[: self.beam_size]

    def _is_done(self, length: int) -> bool:
        """No beam can continue, or none can beat the worst of enough finished hypotheses."""
        if not self.beams:
            return True
        if len(self.finished) < self.beam_size:
            return False
        best_possible = self.beams[0].logprob / length**self.config.length_penalty
        return self.config.early_stopping or best_possible <= self.finished[-1].score


def beam_search(
    model: GPT, request: Request, max_context: int | None = None
) -> Iterator[list[GeneratedToken]]:
    """Search; yields [] at each step, and at last the tokens of the best hypothesis."""
    best: list[int] = []
    for finished in search_beams(model, request, max_context):
        best = finished[0].token_ids if finished else []
        yield []
    yield [GeneratedToken(token) for token in best]


def search_beams(
    model: GPT, request: Request, max_context: int | None = None
) -> Iterator[list[BeamHypothesis]]:
    """The finished hypotheses after each step, best first."""
    runner = ModelRunner(model, 1, max_context)
    max_new_tokens = request.sampling.max_tokens
    if not runner.has_rolling_cache:
        max_new_tokens = min(max_new_tokens, runner.max_context - len(request.prompt_ids))
    beams = BeamState(request, max_new_tokens)
    runner.add(0, request)
    while not runner.sequences[0].is_decoding:
        runner.prefill([0])
        yield []
    runner.ensure_cache_capacity(runner.sequences[0].cache_position + 1 + max_new_tokens)
    runner.resize([0] * beams.beam_size, runner.cache_len)
    while not beams.done:
        runner.cache, logprobs = runner.compiled.next_logprobs(
            runner.cache, runner.params, runner.state
        )
        sources, tokens = beams.step(backend.to_host(logprobs))
        if not beams.done:
            padding = [0] * (beams.beam_size - len(sources))
            runner.cache, runner.state = runner.compiled.reorder_cache(
                runner.cache, runner.params, runner.state,
                np.array(sources + padding, "int32"), np.array(tokens + padding, "int32"),
            )  # fmt: skip
        yield beams.finished
    yield beams.finished
