"""`GPT.generate`: token ids in, token ids out, as in KerasHub and transformers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.config import SamplingConfig
from kgpt.errors import UsageError
from kgpt.generation.scheduler import generate as run_requests
from kgpt.generation.seeds import seed_of, with_seed
from kgpt.generation.sequence import Request
from kgpt.model.gpt import GPT


def generate(
    model: GPT,
    token_ids: Any,
    max_tokens: int | None = None,
    *,
    eos_token_id: int | Iterable[int] | None = None,
    pad_token_id: int | None = None,
    **sampling: Any,
) -> Any:
    """Continue one prompt or a batch of prompts.

    Args:
        token_ids: a list of ids, a list of such lists (of any lengths), or an integer array or
            tensor of shape (T,) or (B, T).
        max_tokens: new tokens per prompt, at most; `SamplingConfig`'s default when not given.
        eos_token_id: an id, or several, that end a sequence.
        pad_token_id: fills array rows that end early; the first `eos_token_id`, or 0, when not
            given.
        sampling: other fields of `SamplingConfig`, such as `temperature=0` or `seed=7`. The
            seeds of a batch count up from `seed`.

    Returns:
        Prompt and new ids in the kind that was given: a list, a list of lists, or an array of
        shape (T + N,) or (B, T + N), where N is the number of tokens of the longest continuation.

    Raises:
        UsageError: an id or an option is invalid.
    """
    if max_tokens is not None:
        sampling["max_tokens"] = max_tokens
    config = with_seed(SamplingConfig.parse(sampling))
    stop_ids = _stop_ids(eos_token_id)
    is_list = isinstance(token_ids, list | tuple)
    prompts, is_batch = _prompts(token_ids)
    requests = [
        Request(prompt, config, stop_ids=stop_ids, seed=seed_of(config, row))
        for row, prompt in enumerate(prompts)
    ]
    for request in requests:
        request.check(model.config.known_vocab_size)
    jobs = run_requests(model, requests)
    sequences = [[*prompt, *job.token_ids] for prompt, job in zip(prompts, jobs, strict=True)]
    if is_list:
        return sequences if is_batch else sequences[0]
    pad = pad_token_id if pad_token_id is not None else next(iter(stop_ids), 0)
    padded = np.full((len(sequences), max(map(len, sequences), default=0)), pad, "int32")
    for row, ids in enumerate(sequences):
        padded[row, : len(ids)] = ids
    result = padded if is_batch else padded[0]
    return result if isinstance(token_ids, np.ndarray) else ops.convert_to_tensor(result)


def _stop_ids(eos_token_id: int | Iterable[int] | None) -> list[int]:
    if eos_token_id is None:
        return []
    return list(eos_token_id) if isinstance(eos_token_id, Iterable) else [eos_token_id]


def _prompts(token_ids: Any) -> tuple[list[list[int]], bool]:
    """The prompts as lists of ids, and whether they are a batch."""
    if not isinstance(token_ids, list | tuple):
        array = backend.to_host(token_ids)
        if array.ndim not in (1, 2) or not np.issubdtype(array.dtype, np.integer):
            raise UsageError(
                "token_ids must be integers of shape (T,) or (B, T), "
                f"not {array.dtype} of shape {array.shape}."
            )
        token_ids = array.tolist()
        is_batch = array.ndim == 2
    else:
        is_batch = bool(token_ids) and isinstance(token_ids[0], Sequence | np.ndarray)
    prompts = token_ids if is_batch else [token_ids]
    try:
        return [[int(token) for token in prompt] for prompt in prompts], is_batch
    except (TypeError, ValueError):
        raise UsageError("token_ids must be a list of ids, or a list of such lists.") from None
