"""Logits processors, logits warpers and the draw: pure functions on (B, V) logits.

The order is fixed, and that of transformers where it has the step: logit bias, repetition
penalty, presence and frequency penalties, bad words, minimum length; then, for sequences that
sample: temperature, top-k, top-p, min-p, typical-p, and the draw. Every parameter is a tensor with
one value per sequence, so changing one never recompiles; `generation/program.py` says when a step
that no sequence asks for is skipped.

The draw adds Gumbel noise and takes the largest logit, which samples the softmax exactly
(Gumbel, 1954). The noise is a hash of (seed, position, token): the same seed gives the same text
alone or in a batch, and on every backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from kgpt import backend

MASKED_LOGIT = -1e30  # the logit of a token that must not be drawn
GRAMMAR_BIAS = -2e30  # the bias of a token that a grammar does not allow, below all others
MAX_BAD_WORD_LEN = 16  # tokens of a bad word that are compared
INT32_MIN = -(2**31)
DIGIT_BITS = 4  # of a threshold, found in one pass by `top_mass_mask_by_digits`

Tensor = Any
SelectTopMass = Callable[[Tensor, Tensor, Tensor], Tensor]  # `top_mass_mask`, or its equal


def mask_by_grammar(bias: Tensor, bitmask: Tensor) -> Tensor:
    """Biases (B, V), `GRAMMAR_BIAS` where bit i % 32 of bitmask[:, i // 32] (B, W) int32 is 0."""
    bits = ops.right_shift(bitmask[:, :, None], ops.arange(32, dtype="int32"))  # (B, W, 32)
    bits = ops.reshape(ops.bitwise_and(bits, 1), (-1, 32 * bitmask.shape[1]))[:, : bias.shape[1]]
    return ops.where(bits > 0, bias, GRAMMAR_BIAS)


def apply_logit_bias(logits: Tensor, bias: Tensor) -> Tensor:
    """Add biases (B, V), `MASKED_LOGIT` for a token that is never sampled."""
    return logits + bias


def apply_repetition_penalty(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Divide positive and multiply negative logits of tokens that occur (Keskar et al., 2019).

    Args:
        logits: (B, V). seen: (B, V) booleans. penalty: (B,), 1 for none.
    """
    penalty = penalty[:, None]
    lowered = ops.where(logits > 0, logits / penalty, logits * penalty)
    return ops.where(seen, lowered, logits)


def apply_presence_frequency_penalty(
    logits: Tensor, counts: Tensor, presence: Tensor, frequency: Tensor
) -> Tensor:
    """Lower generated tokens, once (presence) and per occurrence (frequency), as OpenAI does.

    Args:
        logits: (B, V). counts: (B, V) integers. presence, frequency: (B,), 0 for none.
    """
    counts = ops.cast(counts, "float32")
    generated = ops.cast(counts > 0, "float32")
    return logits - presence[:, None] * generated - frequency[:, None] * counts


def apply_bad_words(logits: Tensor, recent_tokens: Tensor, bad_words_ids: Tensor) -> Tensor:
    """Mask the tokens that would complete a bad word.

    Args:
        logits: (B, V).
        recent_tokens: (B, MAX_BAD_WORD_LEN - 1) newest tokens, -1 before the first.
        bad_words_ids: (B, P, MAX_BAD_WORD_LEN), flush right, -1 in front; all -1 for none.
    """
    prefix, last = bad_words_ids[:, :, :-1], bad_words_ids[:, :, -1]  # (B, P, L - 1), (B, P)
    matches = ops.logical_or(prefix < 0, prefix == recent_tokens[:, None])
    completes = ops.logical_and(ops.all(matches, axis=-1), last >= 0)  # (B, P)
    return mask_tokens(logits, ops.where(completes, last, -1))


def mask_tokens(logits: Tensor, ids: Tensor) -> Tensor:
    """Mask the ids (B, E) of each row; -1 masks nothing."""
    return ops.where(backend.occurs(ids, logits.shape[-1]), MASKED_LOGIT, logits)


def apply_temperature(logits: Tensor, temperature: Tensor) -> Tensor:
    """logits / temperature (B,); rows of temperature 0, which are greedy, are unchanged."""
    return logits / ops.where(temperature > 0, temperature, 1.0)[:, None]


def apply_top_k(logits: Tensor, k: Tensor, select: SelectTopMass | None = None) -> Tensor:
    """Mask all but the k largest logits of each row; (B,) int32 k, 0 keeps all."""
    select, vocab_size = select or top_mass_mask, logits.shape[-1]
    k = ops.where(k > 0, ops.minimum(k, vocab_size), vocab_size)
    kept = select(logits, ops.ones_like(logits), ops.cast(k, "float32"))
    return ops.where(kept, logits, MASKED_LOGIT)


def apply_top_p(logits: Tensor, p: Tensor, select: SelectTopMass | None = None) -> Tensor:
    """Keep the smallest set of most likely tokens with total probability >= p (B,): nucleus
    sampling (Holtzman et al., 2020)."""
    kept = (select or top_mass_mask)(logits, ops.softmax(logits, axis=-1), p)
    return ops.where(ops.logical_or(kept, p[:, None] >= 1.0), logits, MASKED_LOGIT)


def apply_min_p(logits: Tensor, p: Tensor) -> Tensor:
    """Mask tokens with probability < p (B,) times the largest (Nguyen et al., 2024)."""
    top = ops.max(logits, axis=-1, keepdims=True)
    return ops.where(logits < top + ops.log(ops.maximum(p, 1e-30))[:, None], MASKED_LOGIT, logits)


def apply_typical_p(logits: Tensor, p: Tensor, select: SelectTopMass | None = None) -> Tensor:
    """Keep the tokens whose surprisal is closest to the entropy, up to total probability p (B,):
    locally typical sampling (Meister et al., 2023)."""
    surprisal = -ops.log_softmax(logits, axis=-1)
    probs = ops.exp(-surprisal)
    entropy = ops.sum(probs * ops.minimum(surprisal, 1e4), axis=-1, keepdims=True)
    kept = (select or top_mass_mask)(-ops.absolute(surprisal - entropy), probs, p)
    return ops.where(ops.logical_or(kept, p[:, None] >= 1.0), logits, MASKED_LOGIT)


def top_mass_mask(values: Tensor, weights: Tensor, amount: Tensor) -> Tensor:
    """Mask of the largest values of each row whose weights add up to an amount: (B, V) booleans.

    A value is kept while the weights of all greater ones sum to less than `amount`; equal values
    are kept together. The threshold is found by bisection on the bits of the floats, which order
    like integers: 32 sums instead of a sort, several times faster on CPU.

    Args:
        values: (B, V) float32. weights: (B, V), not negative. amount: (B,).
    """
    order = _order(values)
    low = ops.min(order, axis=-1)
    high = ops.max(order, axis=-1)

    def halve(_: Tensor, bounds: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        low, high = bounds
        # The mean rounded down, without overflow.
        middle = ops.bitwise_and(low, high) + ops.right_shift(ops.bitwise_xor(low, high), 1)
        greater = ops.sum(ops.where(order > middle[:, None], weights, 0.0), axis=-1)
        enough = greater < amount
        return ops.where(enough, low, middle + 1), ops.where(enough, middle, high)

    _, high = ops.fori_loop(0, 32, halve, (low, high))
    return order >= high[:, None]


def top_mass_mask_by_digits(values: Tensor, weights: Tensor, amount: Tensor) -> Tensor:
    """`top_mass_mask` for a GPU: no loop, and a quarter of the passes over the vocabulary.

    The threshold is found four bits at a time from the top, each by 15 sums at once.
    """
    order = _order(values)[:, None]  # (B, 1, V)
    weights, amount = weights[:, None], amount[:, None]
    prefix = ops.zeros_like(order[:, :, 0])  # (B, 1): the threshold's bits above the digit
    for shift in range(32 - DIGIT_BITS, -1, -DIGIT_BITS):
        digits = ops.arange((1 << DIGIT_BITS) - 1, dtype="int32")[None]  # (1, 15)
        rest = (1 << shift) - 1  # all lower bits are set: the largest number with this digit
        bounds = ops.bitwise_or(prefix, ops.bitwise_or(ops.left_shift(digits, shift), rest))
        bounds = ops.bitwise_xor(bounds, INT32_MIN)  # ascends as the digits do
        greater = ops.sum(ops.where(order > bounds[:, :, None], weights, 0.0), axis=-1)  # (B, 15)
        digit = ops.sum(ops.cast(greater >= amount, "int32"), axis=-1, keepdims=True)
        prefix = ops.bitwise_or(prefix, ops.left_shift(digit, shift))
    return order[:, 0] >= ops.bitwise_xor(prefix, INT32_MIN)


def _order(values: Tensor) -> Tensor:
    """int32 that ascend as the float32 values do."""
    bits = ops.view(values, dtype="int32")
    return ops.where(bits < 0, ops.bitwise_xor(bits, 0x7FFFFFFF), bits)


def gumbel_max_sample(
    logits: Tensor, temperature: Tensor, seed: Tensor, position: Tensor
) -> Tensor:
    """One token for each row: (B,) int32. Rows of temperature 0 are greedy.

    Args:
        logits: (B, V), warped.
        temperature: (B,). seed: (B,) int32. position: (B,) int32, of the sampled token.
    """
    noise = gumbel_noise(seed, position, logits.shape[-1])
    noise = ops.where((temperature > 0)[:, None], noise, 0.0)
    return argmax(logits + noise)


def argmax(logits: Tensor) -> Tensor:
    """The index of the first largest logit of each row: (B,) int32.

    Several times faster than `ops.argmax` with XLA on CPU.
    """
    last = logits.shape[-1] - 1
    largest = logits == ops.max(logits, axis=-1, keepdims=True)
    return ops.min(ops.where(largest, ops.arange(last + 1, dtype="int32"), last), axis=-1)


def gumbel_noise(seed: Tensor, position: Tensor, size: int) -> Tensor:
    """(B, size) float32 noise: a function of each row's seed and position (B,) int32."""
    row = hash32(ops.bitwise_xor(position, hash32(seed)))
    bits = hash32(ops.bitwise_xor(ops.arange(size, dtype="int32")[None, :], row[:, None]))
    # In (0, 1): with 0.5 the largest would round to 1, and its noise be infinite.
    uniform = (ops.cast(_shift(bits, 8), "float32") + 0.25) * 2.0**-24
    return -ops.log(-ops.log(uniform))


def hash32(x: Tensor) -> Tensor:
    """A 32-bit integer hash with low bias (Wellons, 2018), in wrapping int32 arithmetic."""
    x = ops.bitwise_xor(x, _shift(x, 16))
    x = x * ops.cast(0x7FEB352D, "int32")
    x = ops.bitwise_xor(x, _shift(x, 15))
    x = x * ops.cast(0x846CA68B - 2**32, "int32")
    return ops.bitwise_xor(x, _shift(x, 16))


def _shift(x: Tensor, count: int) -> Tensor:
    """Logical right shift of int32: zeros come in, not the sign."""
    return ops.bitwise_and(ops.right_shift(x, count), (1 << (32 - count)) - 1)
