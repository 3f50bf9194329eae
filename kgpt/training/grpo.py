"""GRPO as a task of `kgpt finetune`: a model learns what reward functions reward."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.hub import resolve_source
from kgpt.checkpoints.pretrained import load_model, load_tokenizer
from kgpt.config import Config
from kgpt.data.preferences import encode_prompt, read_prompts
from kgpt.errors import UsageError
from kgpt.model.gpt import GPT
from kgpt.runs import Run, RunData
from kgpt.text.chat_template import load_chat_template
from kgpt.training.base_model import (
    count_trainable,
    flops_per_token,
    load_base_model,
    with_base_model,
)
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import Logs, StepCallback
from kgpt.training.grpo_loss import GRPOLoss
from kgpt.training.rewards import load_rewards
from kgpt.training.rollouts import EncodedPrompt, Rollout, RolloutDataset, prompts_per_update
from kgpt.training.task import Task, compile_model, loss_chunk


class GRPO(Task):
    """A model is rewarded for completions of its own; see `kgpt.training.rollouts`.

    Raises:
        UsageError: a model, prompts or a reward is missing. DataError: a row has no prompt.
    """

    prefetches = False

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.finetune.model is None:
            raise UsageError("No model is named; give the model to fine-tune with --model.")
        if not config.grpo.prompts:
            raise UsageError("No prompts are named; give files of rows with a prompt with --data.")
        self.rewards = load_rewards(config.grpo.reward, config.grpo.reward_weights)
        self.tokenizer = load_tokenizer(resolve_source(config.finetune.model))
        template = load_chat_template(self.tokenizer)
        self.all_prompts = [
            EncodedPrompt(row, encode_prompt(row.prompt, self.tokenizer, template))
            for row in read_prompts(config.grpo.prompts)
        ]
        self.prompts = self.all_prompts
        self.trainable = 0
        self.log = RolloutLog(self)

    def describe_data(self) -> RunData:
        digest = hashlib.sha256(self.tokenizer.fingerprint.encode())
        for prompt in self.all_prompts:
            columns = json.dumps(prompt.row.columns, sort_keys=True, default=str)
            digest.update(f"{prompt.token_ids} {columns}\n".encode())
        return RunData(
            path=str(Path(self.config.grpo.prompts[0]).resolve()),
            sha256=digest.hexdigest(),
            tokenizer_sha256=self.tokenizer.fingerprint,
            vocab_size=self.tokenizer.vocab_size,
            train_tokens=sum(len(prompt.token_ids) for prompt in self.all_prompts),
            val_tokens=0,
        )

    def complete(self) -> None:
        config = with_base_model(self.config)
        grpo = config.grpo.model_copy(
            update={
                "prompts": [_absolute(name) for name in config.grpo.prompts],
                "reward": [_absolute(name) for name in config.grpo.reward],
            }
        )
        self.config = config.model_copy(update={"grpo": grpo})
        self.prompts = self._fitting()
        tc = config.train
        self.num_prompts = prompts_per_update(grpo, tc.batch_size, tc.grad_accumulation)

    def _fitting(self) -> list[EncodedPrompt]:
        """The prompts that leave room for a completion."""
        longest = self.config.max_text_length - self.config.grpo.max_completion_length
        fitting = [prompt for prompt in self.all_prompts if len(prompt.token_ids) <= longest]
        if not fitting:
            raise UsageError(
                f"No prompt leaves room for grpo.max_completion_length "
                f"{self.config.grpo.max_completion_length} in the context of "
                f"{self.config.max_text_length} tokens; lower it, or shorten the prompts."
            )
        return fitting

    def build_model(self) -> GPT:
        config, grpo = self.config, self.config.grpo
        model = load_base_model(config)
        loss = GRPOLoss(
            grpo.temperature, grpo.beta, grpo.epsilon, grpo.epsilon_high,
            loss_chunk(config), one_update=grpo.num_iterations == 1,
        )  # fmt: skip
        compile_model(model, config.train, loss)
        self.trainable = count_trainable(model)
        return model

    def batches(self, model: GPT, start_step: int) -> RolloutDataset:
        tc = self.config.train
        self.log.data = RolloutDataset(
            model,
            self.tokenizer,
            self.prompts,
            self.rewards,
            self.config.grpo,
            tc.batch_size,
            tc.grad_accumulation,
            tc.seed,
            self._reference(model),
            self.log.write,
            self.log.restore,
        )
        return self.log.data

    def _reference(self, model: GPT) -> GPT | None:
        """The model before training, where it is needed and not the model without adapters."""
        if not self.config.grpo.beta or model.adapter_config is not None:
            return None
        source = resolve_source(self.config.finetune.model or "")
        return load_model(source, dtype=self.config.train.dtype_policy)

    def epochs(self, start_step: int) -> int:
        return self.config.train.max_steps - start_step

    def callbacks(self, status: StatusWriter) -> Sequence[StepCallback]:
        self.log.run = status.run
        return (self.log,)

    @property
    def metric_names(self) -> tuple[str, ...]:  # type: ignore[override]
        grpo, several = self.config.grpo, len(self.rewards) > 1
        return (
            "reward",
            "reward_std",
            "frac_reward_zero_std",
            "completions/mean_length",
            "completions/clipped_ratio",
            "entropy",
            *["clip_ratio"] * (grpo.num_iterations > 1),
            *["kl"] * bool(grpo.beta),
            *[f"rewards/{reward.name}/mean" for reward in self.rewards if several],
        )

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        longest = max(len(prompt.token_ids) for prompt in self.prompts)
        return longest + self.config.grpo.max_completion_length

    @property
    def tokens_per_step(self) -> int:
        tc = self.config.train
        return tc.batch_size * tc.grad_accumulation * (self.length - 1)

    @property
    def tokens_per_epoch(self) -> int:
        updates = len(self.prompts) * self.config.grpo.num_iterations / self.num_prompts
        return round(self.tokens_per_step * updates)

    @property
    def flops_per_token(self) -> float:
        return flops_per_token(self.config, self.length)

    def summary(self) -> str:
        left_out = len(self.all_prompts) - len(self.prompts)
        notes = f" ({left_out:,} more are too long)" if left_out else ""
        rewards = ", ".join(self.config.grpo.reward)
        return (
            f"{self.config.finetune.model}: {self.trainable:,} parameters are trained by the "
            f"rewards {rewards} on {len(self.prompts):,} prompts{notes}"
        )


class RolloutLog(StepCallback):
    """Adds the metrics of rollouts to the logs, and writes completions.jsonl and samples.

    A row of completions.jsonl has the step that is the first to train on it, the prompt, the
    completion, and each reward. With several iterations it also has what resuming amid them needs.
    """

    data: RolloutDataset

    def __init__(self, task: GRPO) -> None:
        super().__init__()
        self.task = task
        self.run: Run | None = None

    def on_step_end(self, step: int, logs: Logs) -> None:
        rollout = self.data.rollout
        if rollout is None:
            return
        logs |= rollout.metrics
        every = self.task.config.train.sample_every
        if self.run is not None and every and step % every == 0:
            self.run.append("samples", self._sample(step, rollout))

    def write(self, rollout: Rollout, texts: list[str]) -> None:
        """Append the completions of a rollout."""
        if self.run is None:
            return
        names, group = [r.name for r in self.task.rewards], self.task.config.grpo.num_generations
        for i, text in enumerate(texts):
            values = [None if np.isnan(value) else value for value in rollout.rewards[i].tolist()]
            row: dict[str, Any] = {
                "step": rollout.step,
                "prompt": rollout.prompts[i // group].row.prompt,
                "completion": text,
                "rewards": dict(zip(names, values, strict=True)),
            }
            if rollout.old_log_probs is not None:
                row["token_ids"] = rollout.completions[i]
                row["log_probs"] = rollout.old_log_probs[i].tolist()
            self.run.append("completions", row)

    def restore(self, step: int) -> Rollout | None:
        """The rollout whose first update was `step`, as it was written; None if it was not."""
        rows = [row for row in self.run.completions() if row["step"] == step] if self.run else []
        prompts = [self.data.prompts[i] for i in self.data.order(step)]
        if len(rows) != len(prompts) * self.task.config.grpo.num_generations:
            return None
        if any("log_probs" not in row for row in rows):
            return None
        rewards = np.array([list(row["rewards"].values()) for row in rows], "float64")
        log_probs = np.array([row["log_probs"] for row in rows], "float32")
        return Rollout(step, prompts, [row["token_ids"] for row in rows], rewards, log_probs)

    def _sample(self, step: int, rollout: Rollout) -> dict[str, Any]:
        """The first completion, as a row of samples.jsonl."""
        prompt = rollout.prompts[0].row.prompt
        text = self.task.tokenizer.decode(
            rollout.completions[0], skip_special_tokens=True, continues=True
        )
        return {
            "step": step,
            "prompt": prompt if isinstance(prompt, str) else str(prompt[-1]["content"]),
            "text": text,
            "sampling": self.data.sampling.model_dump(),
        }


def _absolute(name: str) -> str:
    """A file, or "file.py:function", with the file's absolute path; other names unchanged."""
    file, colon, function = name.rpartition(":") if ".py:" in name else (name, "", "")
    path = Path(file)
    return f"{path.resolve()}{colon}{function}" if path.exists() else name
