"""Each step of sampling against a plain NumPy version, and the draws against chi-squared."""

import keras
import numpy as np
import pytest

from kgpt import backend
from kgpt.generation import sampling
from kgpt.generation.sampling import MASKED_LOGIT, MAX_BAD_WORD_LEN

pytestmark = pytest.mark.backend

V = 40
NOISE = np.random.default_rng(7)
LOGITS = (NOISE.standard_normal((3, V)) * 3).astype("float32")


def run(function, *args):
    return backend.to_host(backend.jit(function)(*args))


def rows(*values, dtype="float32"):
    return np.array(values, dtype)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def kept(filtered):
    return [set(np.flatnonzero(row > MASKED_LOGIT / 2)) for row in filtered]


def nucleus(keys, weights, amount):
    """The indices with the largest keys until their weights reach `amount`."""
    chosen, total = set(), 0.0
    for i in np.argsort(-keys, kind="stable"):
        if total >= amount:
            break
        chosen.add(int(i))
        total += weights[i]
    return chosen


def test_top_k_keeps_the_k_largest():
    got = kept(run(sampling.apply_top_k, LOGITS, rows(1, 7, 0, dtype="int32")))
    want = [set(np.argsort(-LOGITS[0])[:1]), set(np.argsort(-LOGITS[1])[:7]), set(range(V))]
    assert got == want


def test_a_k_above_the_vocabulary_keeps_all():
    assert (
        kept(run(sampling.apply_top_k, LOGITS, rows(*[10_000] * 3, dtype="int32")))
        == [set(range(V))] * 3
    )


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p):
    got = kept(run(sampling.apply_top_p, LOGITS, rows(p, p, p)))
    assert got == [nucleus(row, softmax(row.astype("float64")), p) for row in LOGITS]


def test_min_p_keeps_tokens_likely_relative_to_the_most_likely():
    got = kept(run(sampling.apply_min_p, LOGITS, rows(0.1, 0.5, 0.0)))
    want = [set(np.flatnonzero(softmax(r) >= p * softmax(r).max())) for r, p in zip(LOGITS, (0.1, 0.5, 0.0), strict=True)]  # fmt: skip # noqa: E501
    assert got == want


@pytest.mark.parametrize("p", [0.2, 0.7, 0.95])
def test_typical_keeps_what_surprises_as_expected(p):
    got = kept(run(sampling.apply_typical_p, LOGITS, rows(p, p, p)))
    for row, chosen in zip(LOGITS, got, strict=True):
        probability = softmax(row.astype("float64"))
        surprise = -np.log(probability)
        entropy = (probability * surprise).sum()
        assert chosen == nucleus(-np.abs(surprise - entropy), probability, p)


def test_filters_with_neutral_settings_change_nothing():
    for function, neutral in (
        (sampling.apply_top_p, 1.0), (sampling.apply_min_p, 0.0), (sampling.apply_typical_p, 1.0),
    ):  # fmt: skip
        assert np.array_equal(run(function, LOGITS, rows(*[neutral] * 3)), LOGITS)


def test_repetition_penalty_draws_towards_zero_probability():
    seen = NOISE.random((3, V)) < 0.3
    got = run(sampling.apply_repetition_penalty, LOGITS, seen, rows(1.0, 1.5, 2.0))
    for row, mask, penalty, out in zip(LOGITS, seen, (1.0, 1.5, 2.0), got, strict=True):
        lowered = np.where(row > 0, row / penalty, row * penalty)
        np.testing.assert_allclose(out, np.where(mask, lowered, row), rtol=1e-6)


def test_presence_counts_once_and_frequency_each_time():
    counts = NOISE.integers(0, 4, (3, V)).astype("int32")
    got = run(
        sampling.apply_presence_frequency_penalty,
        LOGITS,
        counts,
        rows(0.5, 0, 1),
        rows(0, 0.3, -0.2),
    )
    want = (
        LOGITS
        - np.array([[0.5], [0], [1]]) * (counts > 0)
        - np.array([[0], [0.3], [-0.2]]) * counts
    )
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_banned_phrase_is_blocked_at_its_last_token():
    tail = np.full((2, MAX_BAD_WORD_LEN - 1), -1, "int32")
    tail[0, -2:], tail[1, -2:] = (4, 5), (5, 4)
    phrases = np.full((2, 3, MAX_BAD_WORD_LEN), -1, "int32")
    phrases[:, 0, -3:] = (4, 5, 6)
    phrases[:, 1, -2:] = (4, 9)
    got = run(sampling.apply_bad_words, LOGITS[:2], tail, phrases)
    assert [set(np.flatnonzero(row < MASKED_LOGIT / 2)) for row in got] == [{6}, {9}]


def test_blocking_ids_leaves_the_rest():
    got = run(sampling.mask_tokens, LOGITS, np.array([[1, -1], [-1, -1], [3, 0]], "int32"))
    assert [set(np.flatnonzero(row < MASKED_LOGIT / 2)) for row in got] == [{1}, set(), {0, 3}]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("temperature", lambda x: sampling.apply_temperature(x, keras.ops.full((1,), 0.7))),
        ("top-k", lambda x: sampling.apply_top_k(x, keras.ops.full((1,), 5, "int32"))),
        ("top-p", lambda x: sampling.apply_top_p(x, keras.ops.full((1,), 0.9))),
        ("min-p", lambda x: sampling.apply_min_p(x, keras.ops.full((1,), 0.2))),
        ("typical", lambda x: sampling.apply_typical_p(x, keras.ops.full((1,), 0.9))),
    ],
)
def test_20000_draws_follow_the_distribution(name, change):
    count, logits = 20_000, LOGITS[:1, :12] / 3

    def draws(x, positions):
        filtered = change(x)
        many = keras.ops.broadcast_to(filtered, (count, 12))
        ones = keras.ops.ones((count,))
        seeds = keras.ops.full((count,), 12345, "int32")
        return filtered, sampling.gumbel_max_sample(many, ones, seeds, positions)

    filtered, drawn = backend.jit(draws)(logits, np.arange(count, dtype="int32"))
    filtered, drawn = backend.to_host((filtered, drawn))
    probability = softmax(filtered[0].astype("float64"))
    expected = probability * count
    observed = np.bincount(drawn, minlength=12)
    possible = expected > 0
    assert observed[~possible].sum() == 0
    statistic = ((observed - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = possible.sum() - 1
    # The 99.9% point of chi-squared (Wilson and Hilferty, 1931).
    bound = freedom * (1 - 2 / (9 * freedom) + 3.09 * np.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < bound, name


def test_noise_is_a_function_of_seed_and_position_alone():
    seeds, positions = rows(5, 5, 6, dtype="int32"), rows(9, 10, 9, dtype="int32")
    noise = run(lambda s, p: sampling.gumbel_noise(s, p, 8), seeds, positions)
    alone = run(lambda s, p: sampling.gumbel_noise(s, p, 8), seeds[1:2], positions[1:2])
    assert np.array_equal(noise[1], alone[0])
    assert len({row.tobytes() for row in noise}) == 3
    # The same on every backend: worked out by hand with NumPy's wrapping integers.
    np.testing.assert_allclose(noise, _numpy_noise(seeds, positions, 8), rtol=1e-4)


def _numpy_noise(seeds, positions, size):
    def scrambled(x):
        x = x.astype("uint32")
        with np.errstate(over="ignore"):
            x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
            x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
        return x ^ (x >> np.uint32(16))

    row = scrambled(positions.astype("uint32") ^ scrambled(seeds))
    bits = scrambled(np.arange(size, dtype="uint32")[None] ^ row[:, None])
    uniform = ((bits >> np.uint32(8)).astype("float32") + np.float32(0.25)) * np.float32(2.0**-24)
    return -np.log(-np.log(uniform.astype("float32")))


def test_of_equally_likely_tokens_the_first_is_taken():
    none = -np.inf
    logits = np.array([[1, 3, 3, 0], [none, none, 2, 2], [none] * 4, [np.nan] * 4], "float32")
    got = keras.ops.convert_to_numpy(sampling.argmax(keras.ops.convert_to_tensor(logits)))
    assert got[:3].tolist() == [1, 2, 0]
    assert 0 <= got[3] < 4  # a model gone wrong names a token all the same


@pytest.mark.parametrize("bits", [0, -1])
def test_noise_is_finite_whatever_the_hash(monkeypatch, bits):
    from kgpt import backend
    from kgpt.generation import sampling

    monkeypatch.setattr(sampling, "hash32", lambda x: x * 0 + bits)
    zeros = backend.to_device(np.zeros(1, "int32"))
    assert np.isfinite(backend.to_host(sampling.gumbel_noise(zeros, zeros, 4))).all()
