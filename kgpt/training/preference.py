"""Learning from preferences, by DPO, IPO, KTO or ORPO, as a task of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from kgpt.config import Config
from kgpt.data.preference_dataset import (
    CompletionBatches,
    PreferenceDataset,
    UnpairedPreferenceDataset,
)
from kgpt.data.preference_files import (
    PreferenceFolder,
    Preferences,
    read_labeled_completions,
    read_pairs,
    write_preferences,
)
from kgpt.errors import DataError
from kgpt.files import os_errors_as_kgpt
from kgpt.model.gpt import GPT
from kgpt.runs import RunData
from kgpt.text.chat_template import load_chat_template
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.base_model import (
    check_tokenizer,
    count_trainable,
    describe_method,
    flops_per_token,
    load_base_model,
    with_base_model,
)
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import Logs
from kgpt.training.callbacks.validation import Validation
from kgpt.training.preference_loss import PreferenceLoss
from kgpt.training.preference_losses import DPOLoss, IPOLoss, KTOLoss, ORPOLoss
from kgpt.training.pretraining import sequence_length
from kgpt.training.reference import reference_log_probs
from kgpt.training.task import Task, compile_model, loss_chunk

REFERENCE = "reference.safetensors"


def prepare_preferences(
    config: Config, files: Sequence[str], tokenizer: Tokenizer, folder: Path
) -> list[str]:
    """Write the preferences in files to `folder`; returns lines for people.

    Args:
        config: with the base model's architecture.
        tokenizer: of the base model.

    Raises:
        DataError: a row is no preference, or nothing is left.
    """
    read = read_labeled_completions if config.finetune.objective == "kto" else read_pairs
    preferences = read(files, tokenizer, sequence_length(config))
    contents = write_preferences(folder, preferences, tokenizer, files)
    kind = "pairs" if preferences.paired else "completions"
    counts = ", ".join(f"{count:,} {name}" for name, count in contents["counts"].items())
    return [f"prepared {', '.join(files)}: {counts} {kind}, in {folder}"]


def make_loss(config: Config) -> PreferenceLoss:
    """The loss that a configuration asks for."""
    options = config.preference
    common: dict[str, Any] = {"beta": options.beta, "chunk": loss_chunk(config)}
    if config.finetune.objective == "dpo":
        return DPOLoss(label_smoothing=options.label_smoothing, **common)
    if config.finetune.objective == "kto":
        return KTOLoss(
            desirable_weight=options.desirable_weight,
            undesirable_weight=options.undesirable_weight,
            **common,
        )
    return IPOLoss(**common) if config.finetune.objective == "ipo" else ORPOLoss(**common)


class PreferenceOptimization(Task):
    """A model learns to prefer some completions to others.

    Raises `DataError` if there are no preferences in `data.dir`.
    """

    trainable = 0  # parameters, known once the model is built

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.data = PreferenceFolder(config.data.dir or "")
        self.tokenizer = self.data.tokenizer
        if config.finetune.objective != "kto" and not self.data.contents["paired"]:
            raise DataError(
                f"{self.data.folder} holds completions with labels, which only kto learns from."
            )
        self.train, self.val = self.data.part("train"), self.data.part("val")
        self.reference: dict[str, dict[str, np.ndarray]] = {}

    def describe_data(self) -> RunData:
        contents = self.data.contents
        return RunData(
            path=str(self.data.folder.resolve()),
            sha256=contents["sha256"],
            tokenizer_sha256=contents["tokenizer_sha256"],
            vocab_size=contents["vocab_size"],
            train_tokens=contents["tokens"]["train"],
            val_tokens=contents["tokens"]["val"],
        )

    def complete(self) -> None:
        config = with_base_model(self.config)
        check_tokenizer(config, self.describe_data())
        self.config = config
        self.metric_names = make_loss(config).METRICS

    def encode_prompt(self, prompt: str) -> list[int]:
        """Of a model with a chat template, a prompt is what the user says first."""
        template = load_chat_template(self.tokenizer)
        if template is None:
            return super().encode_prompt(prompt)
        return template.encode([{"role": "user", "content": prompt}], add_generation_prompt=True)[0]

    def build_model(self) -> GPT:
        model = load_base_model(self.config)
        if self.precomputes_reference:
            self.reference = self._reference(model)
        compile_model(model, self.config.train, make_loss(self.config))
        self.trainable = count_trainable(model)
        return model

    @property
    def precomputes_reference(self) -> bool:
        """Whether the reference's log-probabilities are computed before the first step."""
        wanted = self.config.preference.precompute_ref_log_probs
        full = not self.config.finetune.has_adapters
        return self.config.finetune.objective != "orpo" and (full or bool(wanted))

    def _reference(self, model: GPT) -> dict[str, dict[str, np.ndarray]]:
        """Those of both parts: read from the data's folder, or computed and written there."""
        file, about = self.data.folder / REFERENCE, {"model": str(self.config.finetune.model)}
        if (found := _read_reference(file, about)) is not None:
            return found
        found = {
            name: reference_log_probs(model, self._dataset(part), chunk=loss_chunk(self.config))
            for name, part in (("train", self.train), ("val", self.val))
            if len(part)
        }
        with os_errors_as_kgpt(f"write {file}"):
            flat = {f"{part}/{k}": v for part, arrays in found.items() for k, v in arrays.items()}
            partial = file.with_suffix(".partial")
            save_file(flat, partial, metadata=about)
            partial.replace(file)
        return found

    def _dataset(self, part: Preferences, **options: Any) -> CompletionBatches:
        batch_size = self.config.train.batch_size
        if self.config.finetune.objective == "kto":
            return UnpairedPreferenceDataset(part.completions, part.labels, batch_size, **options)
        return PreferenceDataset(part.completions, batch_size, **options)

    def batches(self, model: GPT, start_step: int) -> CompletionBatches:
        tc = self.config.train
        dataset = self._dataset(
            self.train,
            num_batches=(tc.max_steps - start_step) * tc.grad_accumulation,
            seed=tc.seed,
            start_batch=start_step * tc.grad_accumulation,
        )
        dataset.reference = self.reference.get("train", {})
        return dataset

    def validation(self, status: StatusWriter) -> Validation | None:
        if not len(self.val):
            return None
        tc = self.config.train
        whole = len(self._dataset(self.val))
        limit = min(whole, tc.eval_batches or whole)
        dataset = self._dataset(self.val, shuffle=False, num_batches=limit)
        dataset.reference = self.reference.get("val", {})
        return PreferenceValidation(dataset, tc.eval_every, tc.max_steps, status=status)

    @property
    def tokens_per_step(self) -> int:
        """On average; a batch has as many as its pairs or completions."""
        tc = self.config.train
        rows = tc.batch_size * tc.grad_accumulation
        return max(1, round(rows * self.tokens_per_epoch / len(self.train)))

    @property
    def tokens_per_epoch(self) -> int:
        return len(self.train.completions.tokens)

    @property
    def flops_per_token(self) -> float:
        mean = round(self.tokens_per_epoch / len(self.train.completions))
        return flops_per_token(self.config, max(1, mean))

    def summary(self) -> str:
        finetune, kind = self.config.finetune, "pairs" if self.train.paired else "completions"
        how = describe_method(self.config)
        return (
            f"{finetune.model}: {str(finetune.objective).upper()} on {len(self.train):,} {kind}, "
            f"{len(self.val):,} for validation; {how}: {self.trainable:,} parameters are trained"
        )


class PreferenceValidation(Validation):
    """Adds `val_loss` and the metrics of the loss, such as `val_rewards/accuracies`."""

    def values(self, found: dict[str, float]) -> Logs:
        return {f"val_{name}": value for name, value in found.items()}


def _read_reference(file: Path, about: dict[str, str]) -> dict[str, dict[str, np.ndarray]] | None:
    """What was written for the same model; None if there is nothing."""
    if not file.is_file():
        return None
    with safe_open(file, framework="np") as tensors:
        if tensors.metadata() != about:
            return None
        found: dict[str, dict[str, np.ndarray]] = {}
        for key in tensors.keys():  # noqa: SIM118
            part, _, name = key.partition("/")
            found.setdefault(part, {})[name] = tensors.get_tensor(key)
    return found
