"""The decode path: every token that kgpt generates comes out of `decode_n_tokens`.

Pure functions of (model, cache, params, state), compiled by `generation/compiled.py` and traced
into a TensorFlow graph by the SavedModel export.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.generation import sampling
from kgpt.generation.program import GENERAL, DecodeProgram
from kgpt.generation.sampling import Tensor
from kgpt.generation.sequence import MAX_TOP_LOGPROBS, DecodeState, SamplingParams
from kgpt.model.gpt import GPT
from kgpt.model.kv_cache import KVCache

MAX_DECODE_STEPS = 16  # tokens generated per sequence in one call, at most

DecodeStep = Callable[[Tensor, Tensor, Tensor, KVCache], tuple[Tensor, KVCache]]


class DecodeOutput(NamedTuple):
    """The tokens that a call generated, T = MAX_DECODE_STEPS, and A candidates each.

    All but `tokens` are None from a program without log-probabilities.
    """

    tokens: Tensor  # (B, T) int32, -1 where a sequence generated nothing
    logprobs: Tensor = None  # (B, T) of the sampled tokens under the model; 0 unless asked for
    top_ids: Tensor = None  # (B, T, A) int32, the most likely tokens
    top_logprobs: Tensor = None  # (B, T, A) under the model
    top_sampling_probs: Tensor = None  # (B, T, A) after all logits processors and warpers


class Progress(NamedTuple):
    """What a decode step advances, beside the KV cache."""

    index: Tensor  # () int32, steps done in this call
    state: DecodeState
    output: tuple[Tensor, ...]  # the fields of `DecodeOutput` that the program computes


def prefill(model: GPT, cache: KVCache, token_ids: Tensor, start: Tensor, count: Tensor) -> KVCache:
    """The cache with the first `count` (B,) of token_ids (B, T) added at positions `start` (B,)."""
    return model.call_with_cache(token_ids, start, count, cache)[1]


def decode_n_tokens(
    step: DecodeStep,
    cache: KVCache,
    params: SamplingParams,
    state: DecodeState,
    num_steps: Tensor,
    program: DecodeProgram = GENERAL,
) -> tuple[KVCache, DecodeState, DecodeOutput]:
    """Generate up to `num_steps` tokens in each running sequence: one loop, which ends with them.

    Args:
        step: `GPT.decode_step` of the model, or an equivalent.
        num_steps: at most `MAX_DECODE_STEPS`; a tensor, so any number shares one program.
    """

    def is_unfinished(progress: Progress, cache: KVCache) -> Tensor:
        return ops.logical_and(progress.index < num_steps, ops.any(progress.state.running))

    def body(progress: Progress, cache: KVCache) -> tuple[Progress, KVCache]:
        return decode_one_token(step, program, params, progress, cache)

    start = (start_progress(state, program, ops), cache)
    progress, cache = ops.while_loop(is_unfinished, body, start)
    return cache, progress.state, DecodeOutput(*progress.output)


def decode_one_token(
    step: DecodeStep,
    program: DecodeProgram,
    params: SamplingParams,
    progress: Progress,
    cache: KVCache,
) -> tuple[Progress, KVCache]:
    """Generate one token in each running sequence; the others stay as they are."""
    index, state, output = progress
    count = ops.cast(state.running, "int32")
    logits, cache = step(state.token, state.cache_position, count, cache)
    token, logprobs = sample_next_token(logits, params, state, program)
    token = ops.where(state.running, token, -1)
    output = tuple(
        backend.update_column(column, index, new)
        for column, new in zip(output, (token, *logprobs), strict=True)
    )
    return Progress(index + 1, advance(params, state, token, program), output), cache


def start_progress(state: DecodeState, program: DecodeProgram, xp: Any = np) -> Progress:
    """No step done yet; `xp` is `numpy` or `keras.ops`."""
    batch_size, length = ops.shape(state.token)[0], MAX_DECODE_STEPS
    top = min(MAX_TOP_LOGPROBS, state.token_counts.shape[1])
    output: tuple[Tensor, ...] = (xp.full((batch_size, length), -1, "int32"),)
    if program.has_logprobs:
        shape = (batch_size, length, top)
        output += (
            xp.zeros((batch_size, length), "float32"),
            xp.zeros(shape, "int32"),
            xp.zeros(shape, "float32"),
            xp.zeros(shape, "float32"),
        )
    return Progress(xp.zeros((), "int32"), state, output)


def verify_draft(
    model: GPT,
    cache: KVCache,
    params: SamplingParams,
    state: DecodeState,
    draft_tokens: Tensor,
    program: DecodeProgram = GENERAL,
) -> tuple[KVCache, DecodeState, Tensor]:
    """Accept as many draft tokens as the model agrees with, and add one, in one forward pass.

    The result is exactly what `decode_n_tokens` generates: noise is a function of (seed,
    position), so a draft only saves time.

    Args:
        draft_tokens: (B, J) proposed next tokens, -1 for none.

    Returns:
        The cache, the state, and (B, J + 1) tokens: -1 after the first that the draft missed.
    """
    proposed = ops.maximum(draft_tokens, 0)
    token_ids = ops.concatenate([state.token[:, None], proposed], axis=1)  # (B, J + 1)
    count = ops.cast(state.running, "int32") * token_ids.shape[1]
    hidden, cache = model.call_with_cache(token_ids, state.cache_position, count, cache)
    logits = model.unembed(hidden)  # (B, J + 1, V)
    tokens, still_running = [], state.running
    for i in range(token_ids.shape[1]):
        token = sample_next_token(logits[:, i], params, state, program)[0]
        token = ops.where(state.running, token, -1)
        tokens.append(token)
        after = advance(params, state, token, program)
        accepted = token == draft_tokens[:, i] if i < draft_tokens.shape[1] else token >= 0
        # A rejected draft ends this call, not the sequence.
        still_running = ops.where(token >= 0, after.running, still_running)
        state = after._replace(running=ops.logical_and(after.running, accepted))
    return cache, state._replace(running=still_running), ops.stack(tokens, axis=1)


def sample_next_token(
    logits: Tensor, params: SamplingParams, state: DecodeState, program: DecodeProgram = GENERAL
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The next token of each sequence (B,) from logits (B, V), and its log-probabilities.

    The latter are the fields of `DecodeOutput` but the first, for one step; none without
    `program.has_logprobs`.
    """
    warped = logits
    if program.has_processors:
        warped = apply_logits_processors(warped, params, state, program)
    if program.samples:
        samples = params.temperature > 0
        warped = _where_any(
            program, samples, lambda x: apply_logits_warpers(x, params, program), warped
        )
    token = _draw(warped, params, state, program)
    if not program.has_logprobs:
        return token, ()
    return token, _logprobs(logits, warped, token, params, program)


def _draw(
    logits: Tensor, params: SamplingParams, state: DecodeState, program: DecodeProgram
) -> Tensor:
    """One token for each row of warped logits: (B,) int32."""

    def sample() -> Tensor:
        return sampling.gumbel_max_sample(logits, params.temperature, params.seed, state.position)

    if not program.samples:
        return sampling.argmax(logits)
    if not program.branches:
        return sample()
    return backend.cond(ops.any(params.temperature > 0), sample, lambda: sampling.argmax(logits))


def apply_logits_processors(
    logits: Tensor, params: SamplingParams, state: DecodeState, program: DecodeProgram = GENERAL
) -> Tensor:
    """Bias, penalties, bad words and minimum length: for greedy sequences too."""
    p = params
    logits = sampling.apply_logit_bias(logits, p.logit_bias)
    logits = _where_any(
        program,
        p.repetition_penalty != 1,
        lambda x: sampling.apply_repetition_penalty(
            x, ops.logical_or(state.prompt_mask, state.token_counts > 0), p.repetition_penalty
        ),
        logits,
    )
    logits = _where_any(
        program,
        ops.logical_or(p.presence_penalty != 0, p.frequency_penalty != 0),
        lambda x: sampling.apply_presence_frequency_penalty(
            x, state.token_counts, p.presence_penalty, p.frequency_penalty
        ),
        logits,
    )
    logits = _where_any(
        program,
        p.bad_words_ids[:, :, -1] >= 0,
        lambda x: sampling.apply_bad_words(x, state.recent_tokens, p.bad_words_ids),
        logits,
    )
    too_short = state.num_generated < p.min_tokens
    return _where_any(
        program,
        too_short,
        lambda x: sampling.mask_tokens(x, ops.where(too_short[:, None], p.stop_ids, -1)),
        logits,
    )


def apply_logits_warpers(logits: Tensor, params: SamplingParams, program: DecodeProgram) -> Tensor:
    """Temperature, then top-k, top-p, min-p and typical-p, of sequences that sample."""
    p = params
    select = sampling.top_mass_mask if program.branches else sampling.top_mass_mask_by_digits
    warpers = [
        (p.top_k > 0, lambda x: sampling.apply_top_k(x, p.top_k, select)),
        (p.top_p < 1, lambda x: sampling.apply_top_p(x, p.top_p, select)),
        (p.min_p > 0, lambda x: sampling.apply_min_p(x, p.min_p)),
    ]
    if program.has_processors:  # rarely asked for
        warpers += [(p.typical_p < 1, lambda x: sampling.apply_typical_p(x, p.typical_p, select))]
    logits = sampling.apply_temperature(logits, p.temperature)
    for mask, warp in warpers:
        logits = _where_any(program, mask, warp, logits)
    return logits


def _logprobs(
    logits: Tensor, warped: Tensor, token: Tensor, params: SamplingParams, program: DecodeProgram
) -> tuple[Tensor, ...]:
    """Log-probabilities of the sampled and of the most likely tokens, if any sequence asks."""
    top = min(MAX_TOP_LOGPROBS, logits.shape[1])
    batch_size = ops.shape(logits)[0]

    def compute() -> tuple[Tensor, ...]:
        allowed = logits
        if program.has_processors:  # others follow no grammar
            excluded = params.logit_bias <= sampling.GRAMMAR_BIAS
            allowed = ops.where(excluded, sampling.MASKED_LOGIT, logits)
        logprobs = ops.log_softmax(allowed, axis=-1)  # (B, V)
        top_logprobs, top_ids = ops.top_k(logprobs, top)  # (B, A)
        # A greedy sequence samples its choice with certainty.
        greedy = ops.one_hot(token, logits.shape[1], dtype="float32")
        samples = (params.temperature > 0)[:, None]
        probs = ops.where(samples, ops.softmax(warped, axis=-1), greedy)
        top_ids = ops.cast(top_ids, "int32")
        return (
            ops.take_along_axis(logprobs, token[:, None], axis=-1)[:, 0],
            top_ids,
            top_logprobs,
            ops.take_along_axis(probs, top_ids, axis=-1),
        )

    def skip() -> tuple[Tensor, ...]:
        zeros = ops.zeros((batch_size, top))
        return ops.zeros((batch_size,)), ops.zeros((batch_size, top), "int32"), zeros, zeros

    if not program.branches:
        return compute()
    logprobs: tuple[Tensor, ...] = backend.cond(ops.any(params.return_logprobs > 0), compute, skip)
    return logprobs


def advance(
    params: SamplingParams, state: DecodeState, token: Tensor, program: DecodeProgram = GENERAL
) -> DecodeState:
    """The state after each running sequence has been given its next token (B,).

    What only logits processors read is left as it is by a program without them.
    """
    s, was_active = state, state.running
    step = ops.cast(was_active, "int32")
    is_stop = ops.any(params.stop_ids == token[:, None], axis=-1)
    cache_position, remaining = s.cache_position + step, s.remaining_tokens - step
    has_room = ops.logical_and(remaining > 0, cache_position < params.max_position)
    goes_on = ops.logical_and(has_room, ops.logical_not(is_stop))
    state = s._replace(
        token=ops.where(was_active, token, s.token),
        cache_position=cache_position,
        position=s.position + step,
        num_generated=s.num_generated + step,
        remaining_tokens=remaining,
        running=ops.logical_and(was_active, goes_on),
    )
    if not program.has_processors:
        return state
    one_hot = ops.arange(s.token_counts.shape[1], dtype="int32")[None] == token[:, None]  # (B, V)
    shifted = ops.concatenate([s.recent_tokens[:, 1:], token[:, None]], axis=1)
    return state._replace(
        token_counts=s.token_counts + ops.cast(one_hot, "int32"),
        recent_tokens=ops.where(was_active[:, None], shifted, s.recent_tokens),
    )


def _where_any(
    program: DecodeProgram, mask: Tensor, change: Callable[[Tensor], Tensor], logits: Tensor
) -> Tensor:
    """`change(logits)`, which leaves sequences outside `mask` (B, ...) alone; skipped, where the
    program branches, if none is in it."""
    if not program.branches:
        return change(logits)
    return backend.cond(ops.any(mask), lambda: change(logits), lambda: logits)
