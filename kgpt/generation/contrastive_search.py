"""Contrastive search (Su et al., 2022): likely tokens whose hidden states differ from the context.

Of the `top_k` most likely tokens the one is chosen that maximises

    (1 - alpha) * probability - alpha * max cosine similarity of its hidden state with those of
                                        all tokens before it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.generation.compiled import CompiledFunctions
from kgpt.generation.generated_token import GeneratedToken
from kgpt.generation.sequence import Request
from kgpt.model.gpt import GPT
from kgpt.model.kv_cache import KVCache, bucket

DEFAULT_K = 4  # candidates when top_k is not given


def contrastive_search(
    model: GPT, request: Request, max_context: int | None = None
) -> Iterator[list[GeneratedToken]]:
    """Yield each token as it is chosen. Generation ends where the model's context does."""
    config, compiled = request.sampling, CompiledFunctions.of(model)
    alpha = config.contrastive_alpha
    width = min(config.top_k or DEFAULT_K, model.config.known_vocab_size)
    max_context = min(max_context or model.max_length, model.max_length)
    ids = list(request.prompt_ids)[-max_context:]
    max_new_tokens = min(config.max_tokens, max_context - len(ids))
    cache_len = min(bucket(len(ids) + max_new_tokens), max_context)
    cache, states, probs = _prefill(compiled, model, ids, cache_len, request.adapter_id)
    context_states = [states]
    cache = _expand_cache(cache, [0] * width)
    for step in range(max_new_tokens):
        candidates = np.argsort(-probs, kind="stable")[:width].astype("int32")
        start = np.full(width, len(ids) + step, "int32")
        cache, hidden, next_probs = compiled.forward_hidden(
            cache, candidates[:, None], start, np.ones(width, "int32")
        )
        hidden, following = backend.to_host((hidden, next_probs))
        states = _normalize(hidden[:, 0])  # (K, D)
        max_similarity = (states @ np.concatenate(context_states).T).max(axis=1)
        best = int(np.argmax((1 - alpha) * probs[candidates] - alpha * max_similarity))
        context_states.append(states[best : best + 1])
        probs = following[best].astype("float32")
        cache = _expand_cache(cache, [best] * width)
        token = int(candidates[best])
        yield [GeneratedToken(token)]
        if token in request.stop_ids:
            return


def _prefill(
    compiled: CompiledFunctions, model: GPT, ids: list[int], cache_len: int, adapter_id: int
) -> tuple[KVCache, np.ndarray, np.ndarray]:
    """The cache of a prompt, its hidden states (T, D) of unit length, and what follows (V,)."""
    padded = np.zeros((1, min(bucket(len(ids)), cache_len)), "int32")
    padded[0, : len(ids)] = ids
    cache, hidden, next_probs = compiled.forward_hidden(
        model.new_cache(1, cache_len, [adapter_id]), padded,
        np.zeros(1, "int32"), np.array([len(ids)], "int32"),
    )  # fmt: skip
    hidden, next_probs = backend.to_host((hidden, next_probs))
    return cache, _normalize(hidden[0, : len(ids)]), next_probs[0].astype("float32")


def _normalize(states: np.ndarray) -> np.ndarray:
    states = states.astype("float32")
    normalized: np.ndarray = states / np.linalg.norm(states, axis=-1, keepdims=True)
    return normalized


def _expand_cache(cache: KVCache, rows: list[int]) -> KVCache:
    """A cache whose row i is a copy of row `rows[i]`."""
    index = backend.to_device(np.array(rows, "int32"))
    return [tuple(ops.take(part, index, axis=0) for part in entry) for entry in cache]
