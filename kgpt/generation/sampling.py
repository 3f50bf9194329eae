"""Choosing the next token: pure functions on (B, V) logits, each row with its own settings.

The order is fixed: repetition penalty, temperature, top-k, top-p, min-p, then a draw. Every
setting is a tensor, so moving one compiles nothing.

The draw adds Gumbel noise and takes the largest logit, which samples the softmax exactly
(Gumbel, 1954). The noise is a hash of (seed, position, token): the same seed gives the same text
alone or in a batch, and on every backend.
"""

from keras import ops

BLOCKED = -1e30  # the logit of a token that must not be drawn


def penalise_repetition(logits, seen, penalty):
    """Divide positive and multiply negative logits of tokens already present (Keskar et al., 2019).

    Args:
        logits: (B, V). seen: (B, V) booleans. penalty: (B,), 1 for none.
    """
    penalty = penalty[:, None]
    lowered = ops.where(logits > 0, logits / penalty, logits * penalty)
    return ops.where(seen, lowered, logits)


def apply_temperature(logits, temperature):
    """logits / temperature; (B,) temperatures. Rows of temperature 0 are left for `draw`."""
    return logits / ops.where(temperature > 0, temperature, 1.0)[:, None]


def filter_top_k(logits, k):
    """Block all but the k largest logits of each row; (B,) int32 k, 0 keeps all."""
    vocabulary = logits.shape[-1]
    ranked = ops.flip(ops.sort(logits, axis=-1), axis=-1)  # (B, V), descending
    last = ops.clip(ops.where(k > 0, k, vocabulary), 1, vocabulary) - 1
    threshold = ops.take_along_axis(ranked, last[:, None], axis=-1)  # (B, 1)
    return ops.where(logits < threshold, BLOCKED, logits)


def filter_top_p(logits, p):
    """Keep the likeliest tokens up to and with the one that reaches probability p (B,)
    (Holtzman et al., 2020)."""
    ranked = ops.flip(ops.sort(logits, axis=-1), axis=-1)
    probabilities = ops.softmax(ranked, axis=-1)
    before = ops.cumsum(probabilities, axis=-1) - probabilities  # mass of likelier tokens
    inside = ops.logical_or(before < p[:, None], p[:, None] >= 1.0)
    threshold = ops.min(ops.where(inside, ranked, -BLOCKED), axis=-1, keepdims=True)
    return ops.where(logits < threshold, BLOCKED, logits)


def filter_min_p(logits, p):
    """Block tokens less likely than p (B,) times the likeliest (Nguyen et al., 2024)."""
    top = ops.max(logits, axis=-1, keepdims=True)
    return ops.where(logits < top + ops.log(ops.maximum(p, 1e-30))[:, None], BLOCKED, logits)


def draw(logits, temperature, seed, position):
    """One token for each row: (B,) int32. Rows of temperature 0 take the likeliest.

    Args:
        logits: (B, V), filtered.
        temperature: (B,). seed: (B,) int32. position: (B,) int32, of the token drawn.
    """
    noise = gumbel_noise(seed, position, logits.shape[-1])
    noise = ops.where((temperature > 0)[:, None], noise, 0.0)
    return ops.cast(ops.argmax(logits + noise, axis=-1), "int32")


def gumbel_noise(seed, position, size):
    """(B, size) float32 noise: a function of each row's seed and position (B,) int32."""
    row = hash32(ops.bitwise_xor(position, hash32(seed)))
    bits = hash32(ops.bitwise_xor(ops.arange(size, dtype="int32")[None, :], row[:, None]))
    uniform = (ops.cast(_shift(bits, 8), "float32") + 0.5) * 2.0**-24  # in (0, 1)
    return -ops.log(-ops.log(uniform))


def hash32(x):
    """A 32-bit integer hash with low bias (Wellons, 2018), in wrapping int32 arithmetic."""
    x = ops.bitwise_xor(x, _shift(x, 16))
    x = x * ops.cast(0x7FEB352D, "int32")
    x = ops.bitwise_xor(x, _shift(x, 15))
    x = x * ops.cast(0x846CA68B - 2**32, "int32")
    return ops.bitwise_xor(x, _shift(x, 16))


def _shift(x, count):
    """Logical right shift of int32: the sign is a bit like any other."""
    return ops.bitwise_and(ops.right_shift(x, count), (1 << (32 - count)) - 1)
