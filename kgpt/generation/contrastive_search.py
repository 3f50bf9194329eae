"""Contrastive search (Su et al., 2022): likely tokens that do not repeat what was said before.

Of the `top_k` likeliest tokens the one is taken that maximises

    (1 - alpha) * probability - alpha * the greatest cosine similarity of its hidden state
                                        with those of the text so far.
"""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from kgpt.generation.compiled import Programs
from kgpt.generation.runner import Token
from kgpt.generation.sequence import Request
from kgpt.model.gpt import GPT
from kgpt.model.kv_cache import bucket, init_kv_cache

DEFAULT_K = 4  # candidates when top_k is not given


def contrastive_search(
    model: GPT, request: Request, context: int | None = None
) -> Iterator[list[Token]]:
    """Write a text, giving each token as it is found.

    It ends where the model's context does.
    """
    config, programs = request.sampling, Programs.of(model)
    width = min(config.top_k or DEFAULT_K, model.config.known_vocab_size)
    context = min(context or model.config.max_length, model.config.max_length)
    ids = list(request.ids)[-context:]
    room = min(config.max_tokens, context - len(ids))
    cache, said, probabilities = _read(programs, model, ids, min(bucket(len(ids) + room), context))
    cache = _copies(cache, [0] * width)
    for step in range(room):
        candidates = np.argsort(-probabilities, kind="stable")[:width].astype("int32")
        start = np.full(width, len(ids) + step, "int32")
        cache, hidden, after = programs.look(
            cache, candidates[:, None], start, np.ones(width, "int32")
        )
        states = _unit(np.array(hidden, "float32")[:, 0])  # (K, D)
        likeness = (states @ np.concatenate(said).T).max(axis=1)
        alpha = config.contrastive_alpha
        best = int(np.argmax((1 - alpha) * probabilities[candidates] - alpha * likeness))
        said.append(states[best : best + 1])
        probabilities = np.array(after, "float32")[best]
        cache = _copies(cache, [best] * width)
        token = int(candidates[best])
        yield [Token(token)]
        if token in request.stop_ids:
            return


def _read(programs: Programs, model: GPT, ids: list[int], places: int):
    """The cache of a prompt, its hidden states (1 x (T, D), unit length), and what follows."""
    dtype = model.dtype_policy.compute_dtype
    size = min(bucket(len(ids)), places)
    padded = np.zeros((1, size), "int32")
    padded[0, : len(ids)] = ids
    cache, hidden, after = programs.look(
        init_kv_cache(model.config, 1, places, dtype), padded,
        np.zeros(1, "int32"), np.array([len(ids)], "int32"),
    )  # fmt: skip
    states = _unit(np.array(hidden, "float32")[0, : len(ids)])
    return cache, [states], np.array(after, "float32")[0]


def _unit(states: np.ndarray) -> np.ndarray:
    return states / np.linalg.norm(states, axis=-1, keepdims=True)


def _copies(cache, rows: list[int]):
    """A cache whose row i is a copy of `rows[i]`."""
    index = np.array(rows, "int32")
    return keras.tree.map_structure(lambda x: ops.take(x, index, axis=0), cache)
