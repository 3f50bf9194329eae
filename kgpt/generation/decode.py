"""From prompts to new tokens: the model's last logits, a draw, and again."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.config import SamplingConfig
from kgpt.generation import sampling
from kgpt.model.gpt import GPT


class Decoder:
    """Continues prompts with one model; keeps what was compiled for it.

    The text is a sliding window of `max_length` tokens: a longer one goes on with its last part.
    """

    def __init__(self, model: GPT):
        self.model = model
        self._step = backend.compiled(self._next_tokens, model.variables)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        config: SamplingConfig,
        stop_ids: Collection[int] = (),
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[list[int]]:
        """New ids for each prompt, up to `config.max_tokens` or the first of `stop_ids`.

        Args:
            prompts: token ids, at least one each.
            stop_ids: ids that end a text; they are part of what is returned.
            on_token: called with (row, id) for each new token.
        """
        rows = len(prompts)
        texts = [list(prompt) for prompt in prompts]
        written: list[list[int]] = [[] for _ in range(rows)]
        running = np.ones(rows, dtype=bool)
        settings = row_settings(config, rows)
        for _ in range(config.max_tokens):
            chosen = np.array(self._step(*self._window(texts), *settings))
            for row in np.flatnonzero(running):
                token = int(chosen[row])
                texts[row].append(token)
                written[row].append(token)
                running[row] = token not in stop_ids
                if on_token is not None:
                    on_token(int(row), token)
            if not running.any():
                break
        return written

    def _window(self, texts: list[list[int]]):
        """Ids (B, L) padded at the end, and the place of each row's last token (B,)."""
        length = self.model.config.max_length
        ids = np.zeros((len(texts), length), dtype="int32")
        last = np.zeros(len(texts), dtype="int32")
        written = np.zeros(len(texts), dtype="int32")
        for row, text in enumerate(texts):
            tail = text[-length:]
            ids[row, : len(tail)], last[row], written[row] = tail, len(tail) - 1, len(text)
        return ids, last, written

    def _next_tokens(self, ids, last, position, *settings):
        hidden = self.model.hidden_states(ids)  # (B, L, D)
        hidden = ops.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]  # (B, D)
        logits = self.model.logits(hidden)
        present = ops.arange(ids.shape[1])[None, :] <= last[:, None]
        return choose(logits, ids, present, position, *settings)


def row_settings(config: SamplingConfig, rows: int) -> tuple[np.ndarray, ...]:
    """The settings of `choose` for `rows` rows; rows get consecutive seeds."""
    seed = secrets.randbelow(2**31) if config.seed is None else config.seed

    def each(value, dtype="float32"):
        return np.full(rows, value, dtype=dtype)

    seeds = (seed + np.arange(rows, dtype="int64")).astype("uint32").view("int32")
    return (
        seeds,
        each(config.temperature),
        each(config.top_k, "int32"),
        each(config.top_p),
        each(config.min_p),
        each(config.repetition_penalty),
    )


def choose(logits, ids, present, position, seed, temperature, top_k, top_p, min_p, penalty):
    """One token for each row of logits (B, V), given the ids (B, L) where `present`."""
    rows = ops.broadcast_to(ops.arange(ids.shape[0])[:, None], ids.shape)
    seen = ops.scatter(
        ops.reshape(ops.stack([rows, ids], axis=-1), (-1, 2)),
        ops.reshape(ops.cast(present, "int32"), (-1,)),
        logits.shape,
    )
    logits = sampling.penalise_repetition(logits, seen > 0, penalty)
    logits = sampling.apply_temperature(logits, temperature)
    logits = sampling.filter_top_k(logits, top_k)
    logits = sampling.filter_top_p(logits, top_p)
    logits = sampling.filter_min_p(logits, min_p)
    return sampling.draw(logits, temperature, seed, position)
