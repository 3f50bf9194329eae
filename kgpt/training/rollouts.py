"""Rollouts: completions of a policy as it is now, with their rewards, as the batches of `fit`.

The completions are decoded by kgpt's continuous batching on the variables that are trained: there
is no second copy of the weights. An epoch of `fit` is one update, before which Keras has brought
the model's variables up to date on every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.config import SamplingConfig
from kgpt.config.grpo import GRPOConfig
from kgpt.data.preferences import Content, PromptRow, encode_prompt, parse_prompt
from kgpt.data.sampler import feistel_permutation, splitmix64
from kgpt.errors import UsageError
from kgpt.generation.model_functions import ModelFunctions
from kgpt.generation.scheduler import generate
from kgpt.generation.sequence import Request
from kgpt.model.adapters import adapters_disabled
from kgpt.model.gpt import GPT
from kgpt.text.chat_template import load_chat_template
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.grpo_loss import group_advantages, tempered, token_weights
from kgpt.training.log_probs import token_log_probs
from kgpt.training.optimizers import unwrap_optimizer
from kgpt.training.rewards import Reward, total_rewards

Tensor = Any
Batch = tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt and its token ids."""

    row: PromptRow
    token_ids: list[int]


@dataclass
class Rollout:
    """The completions of one update, or of several with `num_iterations`.

    Attributes:
        step: the number of the first update that trains on them.
        prompts: P of them.
        completions: N = P * G lists of token ids, the G of a prompt after one another.
        rewards: (N, R) of each reward function, not weighted; NaN for none.
        old_log_probs: (N, T) of the tokens after each of a sequence; None if not needed.
    """

    step: int
    prompts: list[EncodedPrompt]
    completions: list[list[int]]
    rewards: np.ndarray
    old_log_probs: np.ndarray | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class RolloutDataset(keras.utils.PyDataset):
    """The batches of one update, which train the model on completions of its own.

    Pass it to `fit` with one epoch for each update. Prompts, completions and so batches are a
    function of the seed, the number of the update, and the weights before it.

    Args:
        model: a compiled `kgpt.GPT`, with `kgpt.GRPOLoss`.
        tokenizer: of the model.
        prompts: all of them: texts, rows with a "prompt" and other columns, or encoded.
        rewards: the reward functions; see `kgpt.training.rewards`.
        config: the options of GRPO.
        batch_size: B completions in a batch.
        grad_accumulation: batches of an update.
        seed: of the order of the prompts and of the completions.
        reference: the model before training, for `config.beta`; the model itself without its
            adapters where it has some.
        on_rollout: called with each `Rollout` and the texts of its completions.
        restore: the `Rollout` of an update that has begun, given its first step, when a run is
            resumed amid the iterations on it.

    Attributes:
        rollout: the latest; its `metrics` are means over its completions.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        prompts: Iterable[EncodedPrompt | Mapping[str, Any] | str],
        rewards: Iterable[Reward | Callable[..., Any]],
        config: GRPOConfig,
        batch_size: int,
        grad_accumulation: int = 1,
        seed: int = 0,
        reference: GPT | None = None,
        on_rollout: Callable[[Rollout, list[str]], None] | None = None,
        restore: Callable[[int], Rollout | None] | None = None,
    ):
        super().__init__()
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.prompts = [encoded(prompt, tokenizer) for prompt in prompts]
        self.rewards = [r if isinstance(r, Reward) else Reward(r.__name__, r) for r in rewards]
        self.seed = seed
        self.batch_size, self.num_batches_ = batch_size, grad_accumulation
        self.on_rollout, self.restore = on_rollout, restore
        self.num_prompts = prompts_per_update(config, batch_size, grad_accumulation)
        if not self.prompts:
            raise UsageError("There is no prompt that fits the context; shorten them.")
        longest = max(len(prompt.token_ids) for prompt in self.prompts)
        self.length = longest + config.max_completion_length - 1  # T of all batches
        self.sampling = SamplingConfig(
            temperature=config.temperature, max_tokens=config.max_completion_length
        )
        self.functions = LogProbFunctions(model, config.temperature)
        self.reference: LogProbFunctions | None = None
        if config.beta and reference is not None:
            self.reference = LogProbFunctions(reference, config.temperature)
        elif config.beta and model.adapter_config is None:
            raise UsageError("grpo.beta needs a reference: adapters, or the model before training.")
        self.rollout: Rollout | None = None
        self._batches: list[Batch] = []

    def __len__(self) -> int:
        return self.num_batches_

    def __getitem__(self, index: int) -> Batch:
        if self.rollout is None:  # Keras looks at a batch before the first epoch
            self.on_epoch_begin()
        return self._batches[index]

    def on_epoch_begin(self) -> None:
        """Generate the completions of the update that comes next, unless it has them."""
        step = updates_made(self.model) + 1
        first = step - (step - 1) % self.config.num_iterations
        if self.rollout is not None and self.rollout.step == first:
            return
        restored = self.restore(first) if self.restore is not None and first < step else None
        if first < step and restored is None:
            raise UsageError(
                f"The completions of step {first} are missing, which step {step} trains on as "
                "well; resume from a checkpoint before them, or start a new run."
            )
        self.rollout = restored or self._generate(first)
        self._batches = self._make_batches(self.rollout)

    # -- rollouts -----------------------------------------------------------------------------

    def _generate(self, step: int) -> Rollout:
        """The completions of the update number `step`, scored."""
        prompts = [self.prompts[i] for i in self.order(step)]
        completions = self._complete([p for p in prompts for _ in self._group], step)
        texts = [
            self.tokenizer.decode(ids, skip_special_tokens=True, continues=True)
            for ids in completions
        ]
        rewards = score(self.rewards, [p.row for p in prompts for _ in self._group], texts)
        rollout = Rollout(step, prompts, completions, rewards)
        if self.config.num_iterations > 1:
            rollout.old_log_probs = self._log_probs(self.functions.policy, *self._padded(rollout))
        if self.on_rollout is not None:
            self.on_rollout(rollout, texts)
        return rollout

    @property
    def _group(self) -> range:
        return range(self.config.num_generations)

    def order(self, step: int) -> list[int]:
        """Numbers of the prompts of an update: each once in an epoch, in a random order."""
        size, number = len(self.prompts), (step - 1) // self.config.num_iterations
        indices = np.arange(number * self.num_prompts, (number + 1) * self.num_prompts)
        epochs = indices // size
        found = [
            feistel_permutation(indices[epochs == epoch] % size, size, self.seed, int(epoch))
            for epoch in np.unique(epochs)
        ]
        return [int(i) for i in np.concatenate(found)]

    def _complete(self, prompts: Sequence[EncodedPrompt], step: int) -> list[list[int]]:
        """A completion of each prompt. As many as are decoded at once are a batch of their own, so
        that none depends on how long others take."""
        seeds = splitmix64(np.arange(len(prompts)), self.seed, step) % np.uint64(2**31)
        requests = [
            Request(p.token_ids, self.sampling, stop_ids=self.tokenizer.stop_ids, seed=int(seed))
            for p, seed in zip(prompts, seeds, strict=True)
        ]
        size, done = self.config.max_num_seqs, []
        for start in range(0, len(requests), size):
            done += generate(self.model, requests[start : start + size], max_num_seqs=size)
        return [job.token_ids for job in done]

    # -- batches ------------------------------------------------------------------------------

    def _padded(self, rollout: Rollout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs, targets and the mask of completions: (N, T) each."""
        prompts = [p for p in rollout.prompts for _ in self._group]
        whole = np.zeros((len(prompts), self.length + 1), "int32")
        mask = np.zeros((len(prompts), self.length), "float32")
        for row, (prompt, ids) in enumerate(zip(prompts, rollout.completions, strict=True)):
            start, end = len(prompt.token_ids), len(prompt.token_ids) + len(ids)
            whole[row, :end] = [*prompt.token_ids, *ids]
            mask[row, start - 1 : end - 1] = 1
        return whole[:, :-1], whole[:, 1:], mask

    def _make_batches(self, rollout: Rollout) -> list[Batch]:
        config, (inputs, targets, mask) = self.config, self._padded(rollout)
        totals = total_rewards(self.rewards, rollout.rewards)
        advantages = group_advantages(totals, config.num_generations, config.scale_rewards)
        rollout.metrics = self._metrics(rollout, totals)
        y = {"token_ids": targets, "advantages": advantages[:, None]}
        if rollout.old_log_probs is not None:
            y["old_log_probs"] = rollout.old_log_probs
        if config.beta:
            reference = self.functions.no_adapters if self.reference is None else (
                self.reference.policy
            )  # fmt: skip
            y["ref_log_probs"] = self._log_probs(reference, inputs, targets, mask)
        if config.mask_truncated_completions:
            mask = mask * ~self._truncated(rollout)[:, None]
        weights = token_weights(
            mask, config.loss_type, config.max_completion_length, self.batch_size
        )
        parts = [slice(i, i + self.batch_size) for i in range(0, len(mask), self.batch_size)]
        return [(inputs[p], {k: v[p] for k, v in y.items()}, weights[p]) for p in parts]

    def _log_probs(
        self, function: Any, inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray
    ) -> np.ndarray:
        """(N, T) log-probabilities of targets, 0 outside of completions, a batch at a time."""
        size = self.batch_size
        found = [
            backend.to_host(function(inputs[i : i + size], targets[i : i + size]))
            for i in range(0, len(inputs), size)
        ]
        return np.concatenate(found) * mask

    def _truncated(self, rollout: Rollout) -> np.ndarray:
        """(N,) booleans: completions that did not end by themselves."""
        stop = self.tokenizer.stop_ids
        return np.array([not ids or ids[-1] not in stop for ids in rollout.completions])

    def _metrics(self, rollout: Rollout, totals: np.ndarray) -> dict[str, float]:
        """By trl's names."""
        groups = totals.reshape(-1, self.config.num_generations)
        deviations = groups.std(axis=1, ddof=1)
        values = {
            "reward": totals.mean(),
            "reward_std": deviations.mean(),
            "frac_reward_zero_std": np.isclose(deviations, 0).mean(),
            "completions/mean_length": np.mean([len(ids) for ids in rollout.completions]),
            "completions/clipped_ratio": self._truncated(rollout).mean(),
        }
        if len(self.rewards) > 1:
            for reward, column in zip(self.rewards, rollout.rewards.T, strict=True):
                some = column[~np.isnan(column)]
                values[f"rewards/{reward.name}/mean"] = some.mean() if len(some) else np.nan
        return {name: float(value) for name, value in values.items() if np.isfinite(value)}


class LogProbFunctions(ModelFunctions):
    """Log-probabilities of targets (B, T) after the tokens of inputs (B, T), without gradients.

    Attributes:
        policy: of the model as it is.
        no_adapters: of the model without its adapters.
    """

    def __init__(self, model: GPT, temperature: float):
        super().__init__(model)
        self.temperature = temperature
        self.policy = backend.jit(self._log_probs, model.variables)
        self.no_adapters = backend.jit(self._without_adapters, model.variables)

    def _log_probs(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with keras_internals.autocast(self.model):
            hidden = tempered(self.model.hidden_states(inputs), self.temperature)
            table = self.model.head.weight.as_table()
            return token_log_probs(hidden, ops.cast(table, hidden.dtype), targets, training=False)

    def _without_adapters(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with adapters_disabled(self.model):
            return self._log_probs(inputs, targets)


def encoded(prompt: EncodedPrompt | Mapping[str, Any] | str, tokenizer: Tokenizer) -> EncodedPrompt:
    """A prompt with its token ids, by the tokenizer's chat template if it has one.

    Raises `ValueError` if a row has no prompt.
    """
    if isinstance(prompt, EncodedPrompt):
        return prompt
    row = parse_prompt({"prompt": prompt} if isinstance(prompt, str) else prompt)
    template = load_chat_template(tokenizer)
    return EncodedPrompt(row, encode_prompt(row.prompt, tokenizer, template))


def updates_made(model: keras.Model) -> int:
    """The number of updates of a compiled model, with those that float16 skipped."""
    iterations = int(unwrap_optimizer(model.optimizer).iterations)
    return iterations + int(getattr(model, "skipped_steps", 0))


def prompts_per_update(config: GRPOConfig, batch_size: int, grad_accumulation: int) -> int:
    """P prompts, whose completions are all the batches of an update.

    Raises `UsageError` if their number is not a multiple of `num_generations`.
    """
    completions, group = batch_size * grad_accumulation, config.num_generations
    if completions % group:
        raise UsageError(
            f"train.batch_size {batch_size} times train.grad_accumulation {grad_accumulation} must "
            f"be a multiple of grpo.num_generations {group}; change one of them."
        )
    return completions // group


def score(rewards: Sequence[Reward], rows: Sequence[PromptRow], texts: Sequence[str]) -> np.ndarray:
    """(N, R) rewards of completions: of texts where the prompt is one, else of messages."""
    prompts = [row.prompt for row in rows]
    completions: list[Content] = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    names = dict.fromkeys(name for row in rows for name in row.columns)
    columns = {name: [row.columns.get(name) for row in rows] for name in names}
    return np.stack([reward(prompts, completions, columns) for reward in rewards], axis=1)
