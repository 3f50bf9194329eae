"""What a batch of texts needs while it is written: settings that stay, progress that moves.

Both are tuples of tensors with one row a text, so that each text of a batch has its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from kgpt.config import SamplingConfig
from kgpt.errors import UsageError
from kgpt.generation.sampling import BLOCKED, WIDTH

STOP_IDS = 16  # ids that may end a text
PHRASES = 256  # banned sequences of tokens
ALTERNATIVES = 20  # likeliest tokens reported beside the chosen one
FOREVER = 2**31 - 1


class Settings(NamedTuple):
    """How each text is written: constant while it runs."""

    seed: Any  # (B,) int32
    temperature: Any  # (B,)
    top_k: Any  # (B,) int32
    top_p: Any  # (B,)
    min_p: Any  # (B,)
    typical_p: Any  # (B,)
    repetition_penalty: Any  # (B,)
    presence_penalty: Any  # (B,)
    frequency_penalty: Any  # (B,)
    min_tokens: Any  # (B,) int32
    bias: Any  # (B, V)
    phrases: Any  # (B, PHRASES, WIDTH) int32, banned sequences, flush right, -1 in front
    stops: Any  # (B, STOP_IDS) int32, -1 for none
    limit: Any  # (B,) int32, position at which the model's memory ends
    wants: Any  # (B,) int32, 1 where alternatives are reported


class Progress(NamedTuple):
    """How far each text is."""

    token: Any  # (B,) int32, the last token: chosen or given, not yet in the cache
    place: Any  # (B,) int32, its position in the cache
    index: Any  # (B,) int32, tokens of the text so far: the position that noise is drawn for
    written: Any  # (B,) int32, tokens generated
    budget: Any  # (B,) int32, tokens that may still be
    running: Any  # (B,) bool
    prompt: Any  # (B, V) bool, tokens of the prompt
    counts: Any  # (B, V) int32, how often each token was generated
    tail: Any  # (B, WIDTH - 1) int32, the last tokens before the next, -1 before the beginning


@dataclass
class Request:
    """A prompt, as ids, and how to go on from it."""

    ids: Sequence[int]
    sampling: SamplingConfig
    stop_ids: Iterable[int] = ()
    bad_words_ids: Iterable[Sequence[int]] = ()
    alternatives: bool = False
    seed: int = field(default=0)  # settled: `sampling.seed`, or one drawn for this request

    def check(self, vocab_size: int) -> None:
        """Raise `UsageError` for what no batch can run."""
        ids = np.asarray(self.ids, dtype="int64")
        if ids.size == 0:
            raise UsageError("The prompt is empty; give at least one token.")
        if ids.min() < 0 or ids.max() >= vocab_size:
            raise UsageError(f"Token ids must lie from 0 to {vocab_size - 1}.")
        if any(not 0 <= token < vocab_size for token in self.sampling.logit_bias):
            raise UsageError(f"logit_bias names tokens outside 0 to {vocab_size - 1}.")
        if len(set(self.stop_ids)) > STOP_IDS:
            raise UsageError(f"At most {STOP_IDS} token ids may end a text.")
        if len(list(self.bad_words_ids)) > PHRASES:
            raise UsageError(f"At most {PHRASES} sequences of tokens may be banned.")


def settings_row(request: Request, vocab_size: int, limit: int) -> Settings:
    """The `Settings` of one text: (1, ...) arrays."""
    config = request.sampling
    bias = np.zeros((1, vocab_size), "float32")
    for token, value in config.logit_bias.items():
        bias[0, token] = value
    phrases = np.full((1, PHRASES, WIDTH), -1, "int32")
    for i, phrase in enumerate(request.bad_words_ids):
        if len(phrase) == 1:
            bias[0, phrase[0]] = BLOCKED
        else:  # of a longer phrase, its end is what must not be completed
            part = list(phrase)[-WIDTH:]
            phrases[0, i, WIDTH - len(part) :] = part
    stops = np.full((1, STOP_IDS), -1, "int32")
    ends = sorted(set(request.stop_ids))
    stops[0, : len(ends)] = ends
    seed = np.uint32(request.seed & 0xFFFFFFFF).view("int32")
    return Settings(
        seed=np.array([seed], "int32"),
        temperature=np.array([config.temperature], "float32"),
        top_k=np.array([min(config.top_k, vocab_size)], "int32"),
        top_p=np.array([config.top_p], "float32"),
        min_p=np.array([config.min_p], "float32"),
        typical_p=np.array([config.typical_p], "float32"),
        repetition_penalty=np.array([config.repetition_penalty], "float32"),
        presence_penalty=np.array([config.presence_penalty], "float32"),
        frequency_penalty=np.array([config.frequency_penalty], "float32"),
        min_tokens=np.array([config.min_tokens], "int32"),
        bias=bias,
        phrases=phrases,
        stops=stops,
        limit=np.array([limit], "int32"),
        wants=np.array([int(request.alternatives)], "int32"),
    )


def progress_row(
    request: Request, place: int, vocab_size: int, new: Sequence[int] = ()
) -> Progress:
    """The `Progress` of one text whose tokens but the last lie in the cache: (1, ...) arrays.

    Args:
        place: the last token's position in the cache.
        new: tokens generated so far, when a text goes on.
    """
    text = [*request.ids, *new]
    prompt = np.zeros((1, vocab_size), bool)
    prompt[0, list(request.ids)] = True
    counts = np.bincount(np.asarray(new, "int64"), minlength=vocab_size)[None].astype("int32")
    tail = ([-1] * (WIDTH - 1) + text)[-(WIDTH - 1) :]
    return Progress(
        token=np.array([text[-1]], "int32"),
        place=np.array([place], "int32"),
        index=np.array([len(text)], "int32"),
        written=np.array([len(new)], "int32"),
        budget=np.array([request.sampling.max_tokens - len(new)], "int32"),
        running=np.array([True]),
        prompt=prompt,
        counts=counts,
        tail=np.array([tail], "int32"),
    )


def idle_rows(rows: int, vocab_size: int) -> tuple[Settings, Progress]:
    """Rows with nothing to do."""
    request = Request([0], SamplingConfig(temperature=0))
    settings = settings_row(request, vocab_size, FOREVER)
    progress = progress_row(request, 0, vocab_size)._replace(running=np.array([False]))
    return (
        Settings(*(np.repeat(part, rows, axis=0) for part in settings)),
        Progress(*(np.repeat(part, rows, axis=0) for part in progress)),
    )
