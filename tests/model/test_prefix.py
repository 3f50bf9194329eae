"""Prefix tuning: a prefix is what tokens before the text would be, in training and decoding."""

import keras
import numpy as np
import pytest

import kgpt
from kgpt import backend
from kgpt.checkpoints.adapter_layout import adapter_variables
from kgpt.errors import UsageError
from kgpt.generation.runner import ModelRunner
from kgpt.generation.sequence import Request
from kgpt.model.adapters import adapters_disabled
from tests.model.models import KINDS, dequantized, quantized_model
from tests.model.test_gradients import gradients_by_training
from tests.tiny import tiny_model

pytestmark = pytest.mark.backend

P, SEED = 5, 4
TOKENS = np.random.default_rng(SEED).integers(0, 37, (1, P)).astype("int32")  # of a new prefix


def prefixed(kind, **options):
    """A model whose prefix is that of `TOKENS`."""
    model = tiny_model(seed=3, noise=0.3, **KINDS[kind])
    kgpt.add_prefix(model, P, seed=SEED)
    return model


def behind_tokens(ids):
    """`ids` (B, T) behind the tokens of the prefix, (B, P + T)."""
    return np.concatenate([np.repeat(TOKENS, len(ids), axis=0), ids], axis=1)


def logits(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "sinusoidal", "qk-norm"])
def test_a_new_prefix_is_what_tokens_before_the_text_would_be(kind, ids):
    """Also in each of several packed sequences, which it precedes."""
    ids = ids[:, :18]
    model, plain = prefixed(kind), tiny_model(seed=3, noise=0.3, **KINDS[kind])
    expected = logits(plain, behind_tokens(ids))[:, P:]
    np.testing.assert_allclose(logits(model, ids), expected, atol=1e-4)
    packed = {"token_ids": ids, "segment_ids": np.repeat([[1] * 7 + [2] * 11], 2, axis=0)}
    found = logits(model, packed)
    np.testing.assert_allclose(found[:, :7], expected[:, :7], atol=1e-4)
    second = logits(plain, behind_tokens(ids[:, 7:]))[:, P:]
    np.testing.assert_allclose(found[:, 7:], second, atol=1e-4)
    with adapters_disabled(model):
        np.testing.assert_allclose(logits(model, ids), logits(plain, ids), atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", pytest.param("llama", marks=pytest.mark.portable)])
def test_text_is_generated_behind_the_prefix(kind):
    """Prompts of several lengths in one batch, whose cache grows and is used anew."""
    model, plain = prefixed(kind), tiny_model(seed=3, noise=0.3, **KINDS[kind])
    prompts, options = [[3, 1, 4, 1], [5]], {"max_tokens": 9, "temperature": 0}
    behind = [behind_tokens(np.array([prompt]))[0].tolist() for prompt in prompts]
    expected = [whole[P:] for whole in plain.generate(behind, **options)]
    assert model.generate(prompts, **options) == expected


@pytest.mark.portable
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_prefix_outlives_a_text_longer_than_the_context(kind):
    """The latest half of the text is read again, behind the same prefix."""
    model = prefixed(kind)
    runner = run(model, [3, 1, 4], 40)
    sequence = runner.sequences[0]
    assert len(sequence.output_ids) == 40 and sequence.context_shifted
    for (keys, values), block in zip(runner.cache, model.blocks, strict=True):
        for part, expected in zip((keys, values), block.attention.prefix.variables, strict=True):
            np.testing.assert_array_equal(backend.to_host(part)[0, :, :P], expected.numpy())
    ids = sequence.token_ids[sequence.cache_offset :]
    assert run(model, ids[:6], len(ids) - 6).sequences[0].token_ids == ids


def run(model, prompt, max_tokens):
    """A runner with a context of 12 that has continued a prompt."""
    runner = ModelRunner(model, 1, max_context=12)
    runner.add(0, Request(prompt, kgpt.SamplingConfig(max_tokens=max_tokens, temperature=0)))
    while runner.sequences[0].finish_reason is None:
        if runner.decoding_slots():
            runner.decode()
        else:
            runner.prefill([0])
    return runner


@pytest.mark.parametrize("kind", ["gpt2", pytest.param("llama", marks=pytest.mark.portable)])
def test_gradients_are_those_of_a_float_model_on_int8_weights(kind, ids):
    """Recomputed blocks too; no weight but the prefix moves."""
    ids = ids[:, :12]
    model = quantized_model(kind, gradient_checkpointing=True)
    twin = dequantized(model)
    found = []
    for each in (model, twin):
        kgpt.add_prefix(each, P, seed=SEED)
        rng = np.random.default_rng(1)
        for variable in adapter_variables(each).values():
            variable.assign(rng.normal(0, 1, variable.shape))
        found.append(gradients_by_training(each, ids, ids)[0])
        assert set(found[-1]) == set(adapter_variables(each))
    for path, gradient in found[1].items():
        np.testing.assert_allclose(found[0][path], gradient, atol=2e-5, err_msg=path)
        assert np.abs(gradient).max() > 1e-5


def test_what_has_no_place_for_a_prefix_is_refused(ids):
    with pytest.raises(UsageError, match="sliding window; use lora or adapter"):
        kgpt.add_prefix(tiny_model("window"))
    with pytest.raises(UsageError, match="no room for text in a context of 24"):
        kgpt.add_prefix(tiny_model(**KINDS["gpt2"]), 24)
    model = prefixed("gpt2")
    with pytest.raises(ValueError, match=f"24 tokens, but the model's max_length is {24 - P}"):
        model(ids)
    with pytest.raises(UsageError, match="cannot be merged"):
        kgpt.merge_lora(model)
    with pytest.raises(UsageError, match="adapters already"):
        kgpt.add_prefix(model)
