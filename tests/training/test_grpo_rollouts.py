"""Rollouts are completions of the weights as they are, and training on them raises the reward."""

import gc

import keras
import numpy as np
import pytest

from kgpt import GRPOLoss, add_lora, backend
from kgpt.config.grpo import GRPOConfig
from kgpt.data.preferences import PromptRow
from kgpt.errors import UsageError
from kgpt.generation.scheduler import generate
from kgpt.generation.sequence import Request
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.optimizers import AdamW
from kgpt.training.rewards import Reward
from kgpt.training.rollouts import EncodedPrompt, LogProbFunctions, RolloutDataset
from tests.tiny import tiny_model

TOKENIZER = Tokenizer.of_bytes()
PROMPTS = [
    EncodedPrompt(PromptRow(text, {"letter": letter}), TOKENIZER.encode(text))
    for text, letter in (("one", "a"), ("three", "b"), ("no", "a"))
]


def low_bytes(prompts, completions):
    """The share of completions in the lower half of the byte values."""
    return [sum(ord(c) < 128 for c in text) / max(1, len(text)) for text in completions]


def policy(rate=0.03, lora=False, **options):
    """A compiled model, and the data set of its rollouts."""
    config = GRPOConfig(**{"num_generations": 4, "max_completion_length": 4, **options})
    model = tiny_model("llama", num_layers=1, noise=0.05)
    if lora:
        add_lora(model, rank=4)
    loss = GRPOLoss(
        config.temperature, config.beta, config.epsilon, one_update=config.num_iterations == 1
    )
    model.compile(optimizer=AdamW(rate), loss=loss)
    model.optimizer.build(model.trainable_variables)
    rewards = [Reward("low_bytes", low_bytes)]
    return model, RolloutDataset(model, TOKENIZER, PROMPTS, rewards, config, 8, seed=3)


def fit(model, data, updates):
    """Train; returns the rollouts and what was logged, an item an update."""
    rollouts, rows = [], []

    class Keep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rollouts.append(data.rollout)
            rows.append({name: float(value) for name, value in (logs or {}).items()})

    model.fit(data, epochs=updates, shuffle=False, verbose=0, callbacks=[Keep()])
    return rollouts, rows


@pytest.mark.backend
def test_training_raises_the_reward_of_the_weights_as_they_are():
    """Each rollout is of the weights before its update: with these it comes again, else not."""
    model, data = policy()
    weights, make = [], data._generate

    def keep_weights(step):
        weights.append([np.array(backend.to_host(v)) for v in model.trainable_variables])
        return make(step)

    data._generate = keep_weights
    rollouts, rows = fit(model, data, 16)
    rewards = [rollout.metrics["reward"] for rollout in rollouts]
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.15
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert [rollout.step for rollout in rollouts] == list(range(1, 17))

    def complete(values, rollout):
        for variable, value in zip(model.trainable_variables, values, strict=True):
            variable.assign(value)
        return data._complete([p for p in rollout.prompts for _ in range(4)], rollout.step)

    assert complete(weights[0], rollouts[0]) == rollouts[0].completions
    assert complete(weights[-1], rollouts[-1]) == rollouts[-1].completions
    assert complete(weights[0], rollouts[-1]) != rollouts[-1].completions


@pytest.mark.backend
def test_there_is_no_second_copy_of_the_weights():
    """Of the shape of the embedding there are the weight and the optimizer's two moments."""
    model, data = policy()
    shape = tuple(model.token_embedding.variable.shape)
    counted = {
        "jax": lambda: sum(x.shape == shape for x in _jax_arrays()),
        "torch": lambda: len({x.data_ptr() for x in _torch_tensors() if tuple(x.shape) == shape}),
    }.get(backend.name)
    if counted is None:
        pytest.skip("TensorFlow does not list its tensors")
    fit(model, data, 1)
    before = counted()
    data._generate(2)
    assert counted() <= before
    generate(model, [Request([1, 2], data.sampling)])
    assert counted() <= before


def _jax_arrays():
    import jax

    gc.collect()
    return jax.live_arrays()


def _torch_tensors():
    import torch

    gc.collect()  # what earlier tests left; some of it has no storage, as under vmap
    tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
    return [x for x in tensors if torch._C._has_storage(x)]


@pytest.mark.backend
@pytest.mark.portable
def test_several_updates_with_adapters_and_their_reference():
    model, data = policy(0.2, lora=True, num_iterations=2, beta=0.01)
    rollouts, rows = fit(model, data, 4)
    assert [r.step for r in rollouts] == [1, 1, 3, 3]
    assert rows[0]["clip_ratio"] == 0 and rows[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert rows[1]["clip_ratio"] > 0 and rows[1]["kl"] > 1e-4
    assert rows[2]["clip_ratio"] == 0  # new completions, of the model itself
    assert data[0][1]["old_log_probs"].any() and data[0][1]["ref_log_probs"].any()


@pytest.mark.backend
@pytest.mark.portable
def test_log_probs_of_the_policy_and_of_what_it_was():
    """With new adapters both are those of the logits; then only the policy's change."""
    model, _ = policy(lora=True)
    functions = LogProbFunctions(model, 0.5)
    ids = np.array([[1, 2, 3, 4]], "int32")
    logits = backend.to_host(model(ids[:, :-1])) / 0.5
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(expected, ids[:, 1:, None], -1)[..., 0]
    arguments = ids[:, :-1], ids[:, 1:]
    for function in (functions.policy, functions.no_adapters):
        np.testing.assert_allclose(backend.to_host(function(*arguments)), expected, atol=1e-5)
    for variable in model.trainable_variables:
        variable.assign(np.full(variable.shape, 0.1, "float32"))
    np.testing.assert_allclose(
        backend.to_host(functions.no_adapters(*arguments)), expected, atol=1e-5
    )
    assert abs(backend.to_host(functions.policy(*arguments)) - expected).max() > 0.01


def test_prompts_come_once_an_epoch_and_groups_stay_together():
    _, data = policy()
    first, second, third = (data.order(step) for step in (1, 2, 3))
    assert sorted(first + second[:1]) == [0, 1, 2] and sorted(second[1:] + third) == [0, 1, 2]
    rollout = data._generate(1)
    x, y, weights = data[0]
    assert x.shape == weights.shape == (8, len("three") + 4 - 1)
    for row in range(8):
        prompt = rollout.prompts[row // 4].token_ids
        completion = y["token_ids"][row][weights[row] > 0]
        assert x[row][: len(prompt)].tolist() == prompt
        assert completion.tolist() == rollout.completions[row]
    groups = y["advantages"].reshape(2, 4)
    np.testing.assert_allclose(groups.sum(1), 0, atol=1e-5)


def test_truncated_completions_can_be_left_out():
    _, data = policy(mask_truncated_completions=True)
    rollout = data._generate(1)
    rollout.completions[0] = [65, TOKENIZER.eos_id]
    ((_, _, weights),) = data._make_batches(rollout)
    assert weights[0].any() and not weights[1:].any()


def test_the_number_of_completions_is_a_multiple_of_the_group():
    with pytest.raises(UsageError, match="batch_size 8 times .* multiple of grpo.num_generations"):
        policy(num_generations=3)
