"""Decode programs: a small fixed set of decode steps, of which a batch runs the least it needs.

On a GPU a condition that is known on the device alone is a round trip to the host, so there a
program holds no condition: what its sequences cannot ask for is absent, and what they can is
always applied, with neutral parameters where one does not ask. Which program a batch needs is
known on the host from its requests. On a CPU a condition costs nothing and saves work, so a
program skips what no sequence asks for; a backend that compiles has one program for all there,
because each further one would lengthen the warm-up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kgpt import backend
from kgpt.generation.sequence import Request


class DecodeProgram(NamedTuple):
    """What a decode step computes.

    Attributes:
        samples: temperature, top-k, top-p, min-p and the draw; without it, argmax.
        has_processors: logit bias, penalties, bad words, minimum length, and typical-p.
        has_logprobs: log-probabilities of the tokens and of the best candidates.
        branches: skip at run time, by `cond`, what no sequence asks for.
    """

    samples: bool = True
    has_processors: bool = True
    has_logprobs: bool = True
    branches: bool = True

    def covers(self, request: Request) -> bool:
        """Whether it computes all that the request asks for."""
        return (
            (self.samples or request.sampling.temperature == 0)
            and (self.has_processors or not needs_processors(request))
            and (self.has_logprobs or not request.return_logprobs)
        )


GENERAL = DecodeProgram()
SAMPLE = DecodeProgram(has_processors=False, has_logprobs=False)
GREEDY = SAMPLE._replace(samples=False)


def needs_processors(request: Request) -> bool:
    """Whether the request changes logits by more than temperature, top-k, top-p and min-p."""
    config = request.sampling
    return bool(
        request.grammar
        or config.logit_bias
        or list(request.bad_words_ids)
        or config.min_tokens > 0
        or config.repetition_penalty != 1
        or config.presence_penalty != 0
        or config.frequency_penalty != 0
        or config.typical_p < 1
    )


def decode_programs() -> tuple[DecodeProgram, ...]:
    """The programs in use on this backend and device, the least first; the last covers all."""
    if not backend.specializes_decoding():
        return (GENERAL,)
    branches = not backend.branches_on_host()
    return tuple(program._replace(branches=branches) for program in (GREEDY, SAMPLE, GENERAL))


def program_for(programs: Iterable[DecodeProgram], requests: Iterable[Request]) -> DecodeProgram:
    """The first of `programs` that covers every request."""
    requests = list(requests)
    return next(program for program in programs if all(map(program.covers, requests)))
