"""`GPT.generate`: token ids in, token ids out, as in transformers; or text, as in KerasHub."""

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
from kgpt.text.tokenizer import Tokenizer


def generate(
    model: GPT,
    token_ids: Any,
    max_tokens: int | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    eos_token_id: int | Iterable[int] | None = None,
    pad_token_id: int | None = None,
    **sampling: Any,
) -> Any:
    """Continue one prompt or a batch of prompts.

    Args:
        token_ids: a list of ids, a list of such lists (of any lengths), or an integer array or
            tensor of shape (T,) or (B, T); with a `tokenizer`, a text or a list of texts.
        max_tokens: new tokens per prompt, at most; `SamplingConfig`'s default when not given.
        tokenizer: encodes and decodes texts, and names the ids that end them.
        eos_token_id: an id, or several, that end a sequence.
        pad_token_id: fills array rows that end early; the first `eos_token_id`, or 0, when not
            given.
        sampling: other fields of `SamplingConfig`, such as `temperature=0` or `seed=7`. The
            seeds of a batch count up from `seed`.

    Returns:
        Prompt and continuation in the kind that was given: a list, a list of lists, a text, a list
        of texts, or an array of shape (T + N,) or (B, T + N), where N is the number of tokens of
        the longest continuation.

    Raises:
        UsageError: an id or an option is invalid.
    """
    if max_tokens is not None:
        sampling["max_tokens"] = max_tokens
    if texts := _texts(token_ids):
        whole = _generate_texts(model, texts, tokenizer, eos_token_id, sampling)
        return whole[0] if isinstance(token_ids, str) else whole
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


def _texts(prompt: Any) -> list[str]:
    """The prompts if they are texts; none if they are ids."""
    texts = [prompt] if isinstance(prompt, str) else prompt
    is_text = isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)
    return list(texts) if is_text else []


def _generate_texts(
    model: GPT,
    texts: list[str],
    tokenizer: Tokenizer | None,
    eos_token_id: int | Iterable[int] | None,
    sampling: dict[str, Any],
) -> list[str]:
    """Each text with its continuation."""
    if tokenizer is None:
        raise UsageError("Text needs the tokenizer of the training data; give tokenizer=...")
    prompts = [tokenizer.encode_prompt(text) for text in texts]
    stop = tokenizer.stop_ids if eos_token_id is None else eos_token_id
    sequences = generate(model, prompts, eos_token_id=stop, **sampling)
    return [
        text + tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True, continues=True)
        for text, prompt, ids in zip(texts, prompts, sequences, strict=True)
    ]


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
