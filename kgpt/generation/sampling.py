"""Choosing the next token: pure functions on (B, V) logits, each row with its own settings.

The order is fixed, and that of transformers where it has the step: logit bias, repetition
penalty, presence and frequency penalties, banned phrases, minimum length, then for rows that
sample: temperature, top-k, top-p, min-p, typical-p, and a draw. Every setting is a tensor, so
moving one compiles nothing; a step that no row asks for is skipped while running.

The draw adds Gumbel noise and takes the largest logit, which samples the softmax exactly
(Gumbel, 1954). The noise is a hash of (seed, position, token): the same seed gives the same text
alone or in a batch, and on every backend.
"""

from keras import ops

MASKED_LOGIT = -1e30  # the logit of a token that must not be drawn
MAX_BAD_WORD_LEN = 16  # tokens of a banned phrase that are compared


def apply_logit_bias(logits, bias):
    """logits plus (B, V) biases; -inf never happens, a ban is `MASKED_LOGIT`."""
    return logits + bias


def apply_repetition_penalty(logits, seen, penalty):
    """Divide positive and multiply negative logits of tokens already present (Keskar et al., 2019).

    Args:
        logits: (B, V). seen: (B, V) booleans. penalty: (B,), 1 for none.
    """
    penalty = penalty[:, None]
    lowered = ops.where(logits > 0, logits / penalty, logits * penalty)
    return ops.where(seen, lowered, logits)


def apply_presence_frequency_penalty(logits, counts, presence, frequency):
    """Lower tokens already written, once (presence) and for each time (frequency), as OpenAI does.

    Args:
        logits: (B, V). counts: (B, V) integers. presence, frequency: (B,), 0 for none.
    """
    counts = ops.cast(counts, "float32")
    written = ops.cast(counts > 0, "float32")
    return logits - presence[:, None] * written - frequency[:, None] * counts


def apply_bad_words(logits, tail, phrases):
    """Block the token that would complete a banned phrase.

    Args:
        logits: (B, V).
        tail: (B, MAX_BAD_WORD_LEN - 1) the last tokens of each text, -1 before its beginning.
        phrases: (B, P, MAX_BAD_WORD_LEN) ids, flush right, -1 in front; an unused phrase is all -1.
    """
    begun, last = phrases[:, :, :-1], phrases[:, :, -1]  # (B, P, MAX_BAD_WORD_LEN - 1), (B, P)
    fits = ops.logical_or(begun < 0, begun == tail[:, None])
    hit = ops.logical_and(ops.all(fits, axis=-1), last >= 0)  # (B, P)
    return mask_tokens(logits, ops.where(hit, last, -1))


def mask_tokens(logits, ids):
    """Block the ids (B, E) of each row; -1 blocks nothing."""
    rows = ops.broadcast_to(ops.arange(ops.shape(ids)[0])[:, None], ops.shape(ids))
    places = ops.stack([rows, ops.maximum(ids, 0)], axis=-1)  # (B, E, 2)
    hits = ops.scatter(
        ops.reshape(places, (-1, 2)),
        ops.cast(ops.reshape(ids >= 0, (-1,)), "int32"),
        ops.shape(logits),
    )
    return ops.where(hits > 0, MASKED_LOGIT, logits)


def apply_temperature(logits, temperature):
    """logits / temperature; (B,) temperatures. Rows of temperature 0 are left for `draw`."""
    return logits / ops.where(temperature > 0, temperature, 1.0)[:, None]


def apply_top_k(logits, k):
    """Block all but the k largest logits of each row; (B,) int32 k, 0 keeps all."""
    vocabulary = logits.shape[-1]
    k = ops.where(k > 0, ops.minimum(k, vocabulary), vocabulary)
    kept = top_mass_mask(logits, ops.ones_like(logits), ops.cast(k, "float32"))
    return ops.where(kept, logits, MASKED_LOGIT)


def apply_top_p(logits, p):
    """Keep the likeliest tokens up to and with the one that reaches probability p (B,)
    (Holtzman et al., 2020)."""
    kept = top_mass_mask(logits, ops.softmax(logits, axis=-1), p)
    return ops.where(ops.logical_or(kept, p[:, None] >= 1.0), logits, MASKED_LOGIT)


def apply_min_p(logits, p):
    """Block tokens less likely than p (B,) times the likeliest (Nguyen et al., 2024)."""
    top = ops.max(logits, axis=-1, keepdims=True)
    return ops.where(logits < top + ops.log(ops.maximum(p, 1e-30))[:, None], MASKED_LOGIT, logits)


def apply_typical_p(logits, p):
    """Keep the tokens whose surprise is nearest the expected, up to probability p (B,)
    (locally typical sampling, Meister et al., 2023)."""
    surprise = -ops.log_softmax(logits, axis=-1)
    probability = ops.exp(-surprise)
    entropy = ops.sum(probability * ops.minimum(surprise, 1e4), axis=-1, keepdims=True)
    kept = top_mass_mask(-ops.absolute(surprise - entropy), probability, p)
    return ops.where(ops.logical_or(kept, p[:, None] >= 1.0), logits, MASKED_LOGIT)


def top_mass_mask(values, weights, amount):
    """The largest values of each row, until their weights reach an amount: (B, V) booleans.

    A value is kept while all greater ones together weigh less than `amount`; equals are kept
    together. The threshold is found by bisection on the bits of the floats, which order as
    integers do: 32 sums in place of a sort, several times faster on a processor.

    Args:
        values: (B, V) float32. weights: (B, V), not negative. amount: (B,).
    """
    bits = ops.view(values, dtype="int32")
    order = ops.where(bits < 0, ops.bitwise_xor(bits, 0x7FFFFFFF), bits)  # ascends as values do
    low = ops.min(order, axis=-1)
    high = ops.max(order, axis=-1)

    def halve(_, bounds):
        low, high = bounds
        # The mean rounded down, without overflow.
        middle = ops.bitwise_and(low, high) + ops.right_shift(ops.bitwise_xor(low, high), 1)
        greater = ops.sum(ops.where(order > middle[:, None], weights, 0.0), axis=-1)
        enough = greater < amount
        return ops.where(enough, low, middle + 1), ops.where(enough, middle, high)

    _, high = ops.fori_loop(0, 32, halve, (low, high))
    return order >= high[:, None]


def gumbel_max_sample(logits, temperature, seed, position):
    """One token for each row: (B,) int32. Rows of temperature 0 take the likeliest.

    Args:
        logits: (B, V), filtered.
        temperature: (B,). seed: (B,) int32. position: (B,) int32, of the token drawn.
    """
    noise = gumbel_noise(seed, position, logits.shape[-1])
    noise = ops.where((temperature > 0)[:, None], noise, 0.0)
    return argmax(logits + noise)


def argmax(logits):
    """The first largest logit of each row: (B,) int32.

    XLA on CPU takes several times as long over an argmax.
    """
    last = logits.shape[-1] - 1
    largest = logits == ops.max(logits, axis=-1, keepdims=True)
    return ops.min(ops.where(largest, ops.arange(last + 1, dtype="int32"), last), axis=-1)


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
