"""Speculative decoding with a draft model beside decoding without: `kgpt bench draft`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from kgpt.config import SamplingConfig
from kgpt.errors import UsageError
from kgpt.generation.runner import ModelRunner
from kgpt.generation.sequence import Request
from kgpt.generation.speculative import DraftStats, speculative_decode
from kgpt.model.gpt import GPT


def measure_draft(
    model: GPT, draft: GPT, prompts: Sequence[list[int]], new_tokens: int, temperature: float = 0.0
) -> dict[str, Any]:
    """Acceptance rate, tokens per verification, and tokens per second with and without a draft.

    Args:
        prompts: token ids; each is continued by `new_tokens` tokens, one prompt after the other.

    Raises:
        UsageError: the draft has another vocabulary.
    """
    if model.config.vocab_size != draft.config.vocab_size:
        raise UsageError(
            f"The draft has {draft.config.vocab_size} tokens, but the model "
            f"{model.config.vocab_size}; a draft needs the tokenizer of its model."
        )
    sampling = SamplingConfig(temperature=temperature, max_tokens=new_tokens)
    requests = [Request(ids, sampling, seed=seed) for seed, ids in enumerate(prompts)]
    stats, runner = DraftStats(), ModelRunner(model, 1)
    for request in requests[:1]:  # compile
        _decode(runner, request)
        _decode_with_draft(model, draft, request, DraftStats())
    plain_s = drafted_s = 0.0
    tokens = 0
    for request in requests:
        started = time.perf_counter()
        tokens += _decode(runner, request)
        between = time.perf_counter()
        _decode_with_draft(model, draft, request, stats)
        plain_s, drafted_s = plain_s + between - started, drafted_s + time.perf_counter() - between
    return {
        "tokens": tokens,
        "acceptance_rate": stats.accepted / max(1, stats.drafted),
        "tokens_per_verification": 1 + stats.accepted / max(1, stats.steps),
        "tokens_per_s": tokens / plain_s,
        "tokens_per_s_with_draft": tokens / drafted_s,
        "speedup": plain_s / drafted_s,
    }


def _decode(runner: ModelRunner, request: Request) -> int:
    """The number of tokens generated."""
    runner.add(0, request)
    sequence = runner.sequences[0]
    while not sequence.is_decoding:
        runner.prefill([0])
    while sequence.finish_reason is None:
        runner.decode()
    return len(sequence.token_ids) - len(request.prompt_ids)


def _decode_with_draft(model: GPT, draft: GPT, request: Request, stats: DraftStats) -> None:
    for _ in speculative_decode(model, request, draft, stats=stats):
        pass
