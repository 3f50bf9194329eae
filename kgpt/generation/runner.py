"""A batch of texts being written with one model: rows that join, read their prompt, write, leave.

Only what the texts need is compiled, once for each shape: reading a piece of a prompt in one row
or in all, and writing up to `MAX_DECODE_STEPS` tokens in every running row. SamplingParams are tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from kgpt.generation.compiled import Programs
from kgpt.generation.decode import MAX_DECODE_STEPS
from kgpt.generation.sequence import NO_LIMIT, Request, make_idle_state, make_decode_state, make_sampling_params
from kgpt.model.gpt import GPT
from kgpt.model.kv_cache import init_kv_cache

PREFILL_CHUNK_SIZES = (256, 64, 16)  # tokens of a prompt read in one call
MIN_CACHE_LEN = 128  # places of the smallest cache; the next has twice as many


@dataclass
class Token:
    """A token that was written; the alternatives as (id, logprob, filtered probability)."""

    id: int
    logprob: float | None = None
    top: list[tuple[int, float, float]] = field(default_factory=list)


@dataclass
class Row:
    """One text: what was asked, what was written, and what of it the cache remembers."""

    asked: Request | None = None
    text: list[int] = field(default_factory=list)  # prompt and new tokens
    first: int = 0  # index in `text` of the token at position 0 of the cache
    read: int = 0  # positions of the cache that are filled
    writing: bool = False  # the prompt is read, the row is in the loop
    shifted: bool = False  # the text outgrew the model's context
    finish: str | None = None  # "stop" or "length", once written
    reused: int = 0  # tokens of the prompt that were remembered from an earlier text

    @property
    def request(self) -> Request:
        assert self.asked is not None, "an idle row has no request"
        return self.asked

    @property
    def pending(self) -> int:
        """Tokens of the text to be read before the last, which starts the writing."""
        return len(self.text) - 1 - self.first - self.read

    @property
    def new(self) -> list[int]:
        return self.text[len(self.request.ids) :]

    @property
    def place(self) -> int:
        return len(self.text) - 1 - self.first


class ModelRunner:
    """Rows of texts written together.

    Args:
        model: the model; its weights may change between calls.
        rows: how many texts at once, to begin with.
        context: most tokens remembered of a text; the model's `max_length` when not given.
        together: read the prompts of many rows in one call, at the price of a program for each
            number of rows.

    Example of use: `join` a row, call `read` until it is writing, then `write` until it finishes.
    """

    def __init__(
        self, model: GPT, rows: int = 1, context: int | None = None, together: bool = True
    ):
        self.model, self.together = model, together
        self.config = model.config
        self.context = min(context or self.config.max_length, self.config.max_length)
        self.rolls = self.config.position == "rotary"
        self.programs = Programs.of(model)
        self.rows = [Row() for _ in range(rows)]
        self.places = min(MIN_CACHE_LEN, self.context)
        dtype = model.dtype_policy.compute_dtype
        self.cache: Any = init_kv_cache(self.config, rows, self.places, dtype)
        state = make_idle_state(rows, self.config.known_vocab_size)
        self.settings: Any
        self.progress: Any
        self.settings, self.progress = keras.tree.map_structure(ops.convert_to_tensor, state)

    # -- rows ---------------------------------------------------------------------------------

    def join(self, row: int, request: Request) -> None:
        """Give a row a text to write. What it remembers of an equal beginning is kept."""
        request.check(self.config.known_vocab_size)
        old, text = self.rows[row], list(request.ids)
        new = Row(request, text)
        if len(text) > self.context:
            new.first, new.shifted = len(text) - self._kept(len(text)), True
        else:
            new.read = new.reused = self.remembered(row, text)
        self.rows[row] = new
        if old.writing and old.finish is None:
            self._set_running(row, False)

    def remembered(self, row: int, text: Sequence[int]) -> int:
        """How many tokens of `text`, but the last, the row's cache already holds."""
        old = self.rows[row]
        if old.first or old.read > self.context:
            return 0
        return common_prefix(old.text[: old.read], text[:-1])

    def leave(self, row: int) -> None:
        """Stop writing a row; its cache is remembered for a text with the same beginning."""
        held = self.rows[row]
        if held.writing and held.finish is None:
            self._set_running(row, False)
        held.asked, held.writing = None, False

    def rewind(self, row: int, text: Sequence[int]) -> None:
        """Go on from another text with the same prompt; what the cache holds of it is kept."""
        held = self.rows[row]
        held.read = min(held.read, common_prefix(held.text, text), len(text) - 1)
        held.text, held.writing, held.finish = list(text), False, None

    def resize(self, sources: Sequence[int], places: int) -> None:
        """Rearrange: row i takes what row `sources[i]` was; -1 makes an idle one."""
        places = min(places, self.context)
        index = np.maximum(np.asarray(sources, "int32"), 0)
        self.cache = keras.tree.map_structure(
            lambda x: _fit(ops.take(x, index, axis=0), places), self.cache
        )
        state = (self.settings, self.progress)
        self.settings, self.progress = keras.tree.map_structure(
            lambda x: ops.take(x, index, axis=0), state
        )
        self.rows = [self.rows[i] if i >= 0 else Row() for i in sources]
        self.places = places
        for i, source in enumerate(sources):
            if source < 0:
                self._set_running(i, False)

    # -- reading prompts ------------------------------------------------------------------------

    def read(self, rows: Sequence[int]) -> None:
        """Read one piece of the prompt of each of `rows`; one that has none left starts writing."""
        self.reserve(max((self._needed(row, 0) for row in rows), default=0))
        waiting = [row for row in rows if self.rows[row].pending > 0]
        if self.together and 2 * len(waiting) > len(self.rows) > 1:
            self._read_together(waiting)
        else:
            for row in waiting:
                self._read_alone(row)
        for row in rows:
            if self.rows[row].pending == 0:
                self._begin(row)

    def _read_alone(self, row: int) -> None:
        held = self.rows[row]
        ids = self._piece(held)
        size = _piece_size(len(ids), self.places)
        padded = np.zeros((1, size), "int32")
        padded[0, : len(ids)] = ids
        start, count = np.array([[held.read], [len(ids)]], "int32")
        alone = self.programs.slice_row(self.cache, np.int32(row))
        alone = self.programs.read(alone, padded, start, count)
        self.cache = self.programs.update_row(self.cache, np.int32(row), alone)
        held.read += len(ids)

    def _read_together(self, rows: Sequence[int]) -> None:
        pieces = {row: self._piece(self.rows[row]) for row in rows}
        size = _piece_size(max(map(len, pieces.values())), self.places)
        padded = np.zeros((len(self.rows), size), "int32")
        start = np.zeros(len(self.rows), "int32")
        count = np.zeros(len(self.rows), "int32")
        for row, ids in pieces.items():
            padded[row, : len(ids)] = ids
            start[row], count[row] = self.rows[row].read, len(ids)
            self.rows[row].read += len(ids)
        self.cache = self.programs.read(self.cache, padded, start, count)

    def _piece(self, held: Row) -> list[int]:
        begin = held.first + held.read
        return held.text[begin : begin + min(held.pending, PREFILL_CHUNK_SIZES[0], self.places)]

    def _begin(self, row: int) -> None:
        held, vocabulary = self.rows[row], self.config.known_vocab_size
        limit = NO_LIMIT if self.rolls else self.config.max_length
        settings = make_sampling_params(held.request, vocabulary, limit)
        progress = make_decode_state(held.request, held.place, vocabulary, held.new)
        if held.request.sampling.max_tokens <= len(held.new):
            held.finish = "length"
            progress = progress._replace(running=np.array([False]))
        self.settings = self.programs.update_row(self.settings, np.int32(row), settings)
        self.progress = self.programs.update_row(self.progress, np.int32(row), progress)
        held.writing = True

    # -- writing ----------------------------------------------------------------------------------

    def writing(self) -> list[int]:
        """The rows that are in the loop."""
        return [i for i, row in enumerate(self.rows) if row.writing and row.finish is None]

    def write(self, steps: int = MAX_DECODE_STEPS) -> dict[int, list[Token]]:
        """Write up to `steps` (at most `MAX_DECODE_STEPS`) tokens in each row that is writing."""
        active = self.writing()
        if not active:
            return {}
        steps = min(steps, MAX_DECODE_STEPS)
        self.reserve(max(self._needed(row, steps) for row in active))
        # A row that writes alone does not pay for the width of the batch.
        alone = len(active) == 1 < len(self.rows)
        out = self._write_alone(active[0], steps) if alone else self._write_together(steps)
        at = {row: 0 if alone else row for row in active}
        tokens = np.array(out.tokens)
        wanted = [row for row in active if self.rows[row].request.alternatives]
        details = [np.array(part) for part in out[1:]] if wanted else []
        result = {}
        for row in active:
            ids = [int(token) for token in tokens[at[row]] if token >= 0]
            result[row] = [
                _token(token, at[row], i, details if row in wanted else ())
                for i, token in enumerate(ids)
            ]
            self._wrote(row, ids)
        return result

    def _write_together(self, steps: int) -> Any:
        self.cache, self.progress, out = self.programs.write(
            self.cache, self.settings, self.progress, np.int32(steps)
        )
        return out

    def _write_alone(self, row: int, steps: int) -> Any:
        place = np.int32(row)
        cache, settings, progress = self.programs.slice_row(
            (self.cache, self.settings, self.progress), place
        )
        cache, progress, out = self.programs.write(cache, settings, progress, np.int32(steps))
        self.cache = self.programs.update_row(self.cache, place, cache)
        self.progress = self.programs.update_row(self.progress, place, progress)
        return out

    def write_checked(self, guesses: Sequence[int], ahead: int) -> list[Token]:
        """Write in row 0, the only one, as many tokens as `guesses` (at most `ahead`) foresee, and
        one more."""
        self.reserve(self._needed(0, ahead + 1))
        drafts = np.full((1, ahead), -1, "int32")
        drafts[0, : len(guesses)] = guesses
        self.cache, self.progress, tokens = self.programs.verify(
            self.cache, self.settings, self.progress, drafts
        )
        ids = [int(token) for token in np.array(tokens)[0] if token >= 0]
        self._wrote(0, ids)
        return [Token(token) for token in ids]

    def _wrote(self, row: int, ids: list[int]) -> None:
        held = self.rows[row]
        held.text += ids
        held.read += len(ids)
        held.shifted |= held.read > self.context
        if ids and ids[-1] in held.request.stop_ids:
            held.finish = "stop"
        elif len(held.new) >= held.request.sampling.max_tokens:
            held.finish = "length"
        elif not self.rolls and held.place >= self.config.max_length:
            # Positions are used up: read the last part again, from position 0.
            held.first, held.read = len(held.text) - self._kept(len(held.text)), 0
            held.writing, held.shifted = False, True

    # -- shapes -----------------------------------------------------------------------------------

    def _kept(self, length: int) -> int:
        """How much of a text longer than the context is read again: all that rolls, else half."""
        return self.context if self.rolls else max(1, self.config.max_length // 2)

    def _needed(self, row: int, steps: int) -> int:
        return self.rows[row].place + 1 + steps

    def reserve(self, places: int) -> None:
        """Grow the cache until it holds `places` tokens of each text, or the context."""
        if places > self.places and self.places < self.context:
            wanted = min(places, self.context)
            size = next(size for size in sizes(self.context, MIN_CACHE_LEN) if size >= wanted)
            self.resize(range(len(self.rows)), size)

    def _set_running(self, row: int, running: bool) -> None:
        flags = np.array(self.progress.running)
        flags[row] = running
        self.progress = self.progress._replace(running=ops.convert_to_tensor(flags))


def _fit(x, places: int):
    """x (B, K, S, H) with S cut or filled up with zeros to `places`."""
    held = x.shape[2]
    if places <= held:
        return x[:, :, :places]
    return ops.pad(x, ((0, 0), (0, 0), (0, places - held), (0, 0)))


def _piece_size(length: int, places: int) -> int:
    """The smallest size that is compiled and holds `length` tokens."""
    return min(min(size for size in PREFILL_CHUNK_SIZES if size >= length), max(places, length))


def _token(token: int, row: int, step: int, details: Mapping | Sequence[np.ndarray]) -> Token:
    if not details:
        return Token(token)
    logprobs, ids, top, filtered = (part[row, step] for part in details)
    triples = zip(ids.tolist(), top.tolist(), filtered.tolist(), strict=True)
    return Token(token, float(logprobs), list(triples))


def sizes(largest: int, smallest: int, step: int = 2) -> list[int]:
    """The sizes that are compiled, up to `largest`: few, so that growing seldom waits.

    >>> sizes(1024, 128), sizes(8, 1, step=4)
    ([128, 256, 512, 1024], [1, 4, 8])
    """
    found = [min(smallest, largest)]
    while found[-1] < largest:
        found.append(min(step * found[-1], largest))
    return found


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts share from the beginning."""
    length = min(len(first), len(second))
    same = np.asarray(first[:length]) == np.asarray(second[:length])
    return length if same.all() else int(np.argmin(same))
