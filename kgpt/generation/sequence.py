"""Requests, and the per-sequence tensors that decoding works on.

`SamplingParams` stay constant while a sequence is generated, `DecodeState` advances with each
token. Both are tuples of tensors with one row per sequence, so every sequence of a batch has its
own parameters and changing them never recompiles. The engine builds them with NumPy, the
SavedModel export inside a TensorFlow graph: `xp` is `numpy` or `keras.ops`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kgpt.config import SamplingConfig
from kgpt.errors import UsageError
from kgpt.generation.sampling import MASKED_LOGIT, MAX_BAD_WORD_LEN, Tensor

if TYPE_CHECKING:
    from kgpt.generation.adapters import LoadedAdapter
    from kgpt.generation.grammar import CompiledGrammar

MAX_STOP_IDS = 16  # token ids that may end a sequence
MAX_BAD_WORDS = 256  # banned token sequences
MAX_TOP_LOGPROBS = 20  # candidates reported with each token
NO_LIMIT = 2**31 - 1


class SamplingParams(NamedTuple):
    """How each sequence is sampled: constant while it is generated."""

    seed: Tensor  # (B,) int32
    temperature: Tensor  # (B,)
    top_k: Tensor  # (B,) int32
    top_p: Tensor  # (B,)
    min_p: Tensor  # (B,)
    typical_p: Tensor  # (B,)
    repetition_penalty: Tensor  # (B,)
    presence_penalty: Tensor  # (B,)
    frequency_penalty: Tensor  # (B,)
    min_tokens: Tensor  # (B,) int32
    logit_bias: Tensor  # (B, V)
    bad_words_ids: Tensor  # (B, MAX_BAD_WORDS, MAX_BAD_WORD_LEN) int32, flush right, -1 in front
    stop_ids: Tensor  # (B, MAX_STOP_IDS) int32, -1 for none
    max_position: Tensor  # (B,) int32, cache position at which decoding must halt
    return_logprobs: Tensor  # (B,) int32, 1 where log-probabilities are reported


# The parameters that are one number per sequence: dtype, and the value that switches each off.
SCALAR_PARAMS: dict[str, tuple[str, float]] = {
    "seed": ("int32", 0),
    "temperature": ("float32", 1),
    "top_k": ("int32", 0),
    "top_p": ("float32", 1),
    "min_p": ("float32", 0),
    "typical_p": ("float32", 1),
    "repetition_penalty": ("float32", 1),
    "presence_penalty": ("float32", 0),
    "frequency_penalty": ("float32", 0),
    "min_tokens": ("int32", 0),
    "return_logprobs": ("int32", 0),
}


class DecodeState(NamedTuple):
    """How far each sequence has been generated."""

    token: Tensor  # (B,) int32, the newest token: not yet in the cache
    cache_position: Tensor  # (B,) int32, where it goes in the cache
    position: Tensor  # (B,) int32, tokens so far: the position whose noise is drawn next
    num_generated: Tensor  # (B,) int32
    remaining_tokens: Tensor  # (B,) int32, tokens that may still be generated
    running: Tensor  # (B,) bool
    prompt_mask: Tensor  # (B, V) bool, tokens that occur in the prompt
    token_counts: Tensor  # (B, V) int32, how often each token was generated
    recent_tokens: Tensor  # (B, MAX_BAD_WORD_LEN - 1) int32, the newest tokens, -1 before the first


@dataclass
class Request:
    """A prompt, and how to continue it.

    Attributes:
        prompt_ids: token ids, at least one.
        sampling: the options; stop strings are left to the detokenizer.
        stop_ids: token ids that end the sequence.
        bad_words_ids: token sequences that are never completed.
        return_logprobs: report log-probabilities of each token and its best candidates.
        seed: `sampling.seed`, or one drawn for this request.
        grammar: what the text must follow.
        adapter: the adapter that generates it; None is the base model.
    """

    prompt_ids: Sequence[int]
    sampling: SamplingConfig
    stop_ids: Iterable[int] = ()
    bad_words_ids: Iterable[Sequence[int]] = ()
    return_logprobs: bool = False
    seed: int = 0
    grammar: CompiledGrammar | None = None
    adapter: LoadedAdapter | None = None

    @property
    def adapter_id(self) -> int:
        """The index of its adapter in the model; 0 is the base model."""
        return self.adapter.index if self.adapter else 0

    def check(self, vocab_size: int) -> None:
        """Raise `UsageError` if no model with this vocabulary can run the request."""
        ids = np.asarray(self.prompt_ids, dtype="int64")
        if ids.size == 0:
            raise UsageError("The prompt is empty; give at least one token.")
        if ids.min() < 0 or ids.max() >= vocab_size:
            raise UsageError(f"Token ids must lie from 0 to {vocab_size - 1}.")
        if any(not 0 <= token < vocab_size for token in self.sampling.logit_bias):
            raise UsageError(f"logit_bias names tokens outside 0 to {vocab_size - 1}.")
        if len(set(self.stop_ids)) > MAX_STOP_IDS:
            raise UsageError(f"At most {MAX_STOP_IDS} token ids may end a text.")
        if len(list(self.bad_words_ids)) > MAX_BAD_WORDS:
            raise UsageError(f"At most {MAX_BAD_WORDS} sequences of tokens may be banned.")
        if self.grammar and (self.sampling.beam_size > 1 or self.sampling.contrastive_alpha):
            raise UsageError(
                "Structured output excludes beam_size and contrastive_alpha; leave one of them out."
            )


def make_sampling_params(
    values: Mapping[str, Tensor],
    batch_size: int | Tensor,
    vocab_size: int,
    *,
    stop_ids: Iterable[int] = (),
    max_position: int = NO_LIMIT,
    logit_bias: Tensor = None,
    bad_words_ids: Tensor = None,
    xp: Any = np,
) -> SamplingParams:
    """The `SamplingParams` of `batch_size` sequences.

    Args:
        values: scalar parameters by name, each (B,) or (1,) for all; those left out are off.
        stop_ids: token ids that end any of the sequences.
        max_position: cache position at which decoding halts.
        logit_bias: (B, V). bad_words_ids: as in `SamplingParams`. None for none.
        xp: `numpy` or `keras.ops`.
    """
    scalars = {
        name: xp.broadcast_to(xp.array(values.get(name, [off]), dtype), (batch_size,))
        for name, (dtype, off) in SCALAR_PARAMS.items()
    }
    ids = sorted(set(stop_ids))
    padded = np.array([ids + [-1] * (MAX_STOP_IDS - len(ids))], "int32")
    if logit_bias is None:
        logit_bias = xp.zeros((batch_size, vocab_size), "float32")
    if bad_words_ids is None:
        bad_words_ids = xp.full((batch_size, MAX_BAD_WORDS, MAX_BAD_WORD_LEN), -1, "int32")
    return SamplingParams(
        logit_bias=logit_bias,
        bad_words_ids=bad_words_ids,
        stop_ids=xp.broadcast_to(xp.array(padded), (batch_size, MAX_STOP_IDS)),
        max_position=xp.full((batch_size,), max_position, "int32"),
        **scalars,
    )


def make_decode_state(
    token_ids: Tensor,
    length: Tensor,
    remaining_tokens: Tensor,
    *,
    cache_position: Tensor,
    num_generated: Tensor,
    prompt_mask: Tensor,
    token_counts: Tensor,
    xp: Any = np,
) -> DecodeState:
    """The `DecodeState` of sequences whose tokens but the last are in the cache.

    Args:
        token_ids: (B, L) int32, of which the first `length` (B,) are real.
        cache_position: (B,) of the last token. The other arguments are as in `DecodeState`.
        xp: `numpy` or `keras.ops`.
    """
    newest = xp.take_along_axis(token_ids, length[:, None] - 1, axis=1)[:, 0]
    offsets = np.arange(MAX_BAD_WORD_LEN - 1, 0, -1, dtype="int32")[None]
    index = length[:, None] - offsets  # (B, MAX_BAD_WORD_LEN - 1)
    recent = xp.take_along_axis(token_ids, xp.maximum(index, 0), axis=1)
    return DecodeState(
        token=newest,
        cache_position=cache_position,
        position=length,
        num_generated=num_generated,
        remaining_tokens=remaining_tokens,
        running=remaining_tokens > 0,
        prompt_mask=prompt_mask,
        token_counts=token_counts,
        recent_tokens=xp.where(index >= 0, recent, -1),
    )


def params_of_request(request: Request, vocab_size: int, max_position: int) -> SamplingParams:
    """The `SamplingParams` of one request: (1, ...) arrays."""
    config = request.sampling
    bias = np.zeros((1, vocab_size), "float32")
    for token, value in config.logit_bias.items():
        bias[0, token] = value
    bad_words = np.full((1, MAX_BAD_WORDS, MAX_BAD_WORD_LEN), -1, "int32")
    for i, word in enumerate(request.bad_words_ids):
        if len(word) == 1:
            bias[0, word[0]] = MASKED_LOGIT
        else:  # of a longer one, its end is what must not be completed
            ending = list(word)[-MAX_BAD_WORD_LEN:]
            bad_words[0, i, MAX_BAD_WORD_LEN - len(ending) :] = ending
    values = {name: [getattr(config, name, 0)] for name in SCALAR_PARAMS}
    values |= {
        "seed": [np.uint32(request.seed & 0xFFFFFFFF).view("int32")],
        "top_k": [min(config.top_k, vocab_size)],
        "return_logprobs": [int(request.return_logprobs)],
    }
    return make_sampling_params(
        values,
        1,
        vocab_size,
        stop_ids=request.stop_ids,
        max_position=max_position,
        logit_bias=bias,
        bad_words_ids=bad_words,
    )


def state_of_request(
    request: Request, cache_position: int, vocab_size: int, output_ids: Sequence[int] = ()
) -> DecodeState:
    """The `DecodeState` of one request: (1, ...) arrays.

    Args:
        cache_position: of the newest token.
        output_ids: tokens generated so far, for a sequence that is resumed.
    """
    token_ids = np.array([[*request.prompt_ids, *output_ids]], "int32")
    prompt_mask = np.zeros((1, vocab_size), bool)
    prompt_mask[0, list(request.prompt_ids)] = True
    counts = np.bincount(np.asarray(output_ids, "int64"), minlength=vocab_size)
    return make_decode_state(
        token_ids,
        np.array([token_ids.shape[1]], "int32"),
        np.array([request.sampling.max_tokens - len(output_ids)], "int32"),
        cache_position=np.array([cache_position], "int32"),
        num_generated=np.array([len(output_ids)], "int32"),
        prompt_mask=prompt_mask,
        token_counts=counts[None].astype("int32"),
    )


def idle_sequences(batch_size: int, vocab_size: int) -> tuple[SamplingParams, DecodeState]:
    """Parameters and state of slots without a request."""
    request = Request([0], SamplingConfig(temperature=0))
    state = state_of_request(request, 0, vocab_size)._replace(running=np.array([False]))
    return (
        make_sampling_params({"temperature": [0]}, batch_size, vocab_size),
        DecodeState(*(np.repeat(part, batch_size, axis=0) for part in state)),
    )
