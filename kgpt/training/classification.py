"""Learning to classify: texts with labels, under a head on a base model or on a new one."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.checkpoints.adapters import add_adapter
from kgpt.checkpoints.classifiers import new_classifier, padding_id
from kgpt.checkpoints.hub import resolve_source
from kgpt.checkpoints.pretrained import load_tokenizer
from kgpt.config import QUANTIZED_BITS, Config
from kgpt.data.corruption import InputCorruption
from kgpt.data.labelled_dataset import LabelledDataset, encode_texts, evaluation_batches
from kgpt.data.labels import LabelledTexts, class_weights, read_labelled, stratified_split
from kgpt.errors import UsageError
from kgpt.generation.model_functions import ModelFunctions
from kgpt.model.classifier import Classifier, check_labels
from kgpt.model.freezing import freeze
from kgpt.model.gpt import GPT
from kgpt.runs import RunData
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.base_model import (
    adapter_config,
    count_trainable,
    flops_per_token,
    with_base_model,
)
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import Logs, StepCallback
from kgpt.training.classification_loss import ClassificationLoss
from kgpt.training.classification_metrics import report
from kgpt.training.classifier_weights import ClassifierWeights
from kgpt.training.optimizers import swap_in_ema_weights
from kgpt.training.pretraining import sequence_length
from kgpt.training.task import Task, compile_model


class Classification(Task):
    """A classifier learns the labels of texts.

    Raises:
        UsageError: no data is named, or it has too few labels.
        DataError: a row cannot be used.
    """

    stored_weights = ClassifierWeights()
    trainable = 0  # parameters, known once the model is built

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        options = config.classification
        if not options.data:
            raise UsageError("No data is named; give files of texts with labels with --data.")
        self.train = self._read(options.data)
        if options.val_data:
            self.val = self._read(options.val_data)
        else:
            self.train, self.val = stratified_split(
                self.train, options.val_fraction, config.train.seed
            )
        self.labels = check_labels(options.labels or self.train.names, options.multi_label)
        self.targets = self.train.targets(self.labels, options.multi_label)

    def _read(self, files: list[str]) -> LabelledTexts:
        options = self.config.classification
        return read_labelled(
            files,
            options.text_field,
            options.label_field,
            options.multi_label,
            options.label_separator,
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:  # type: ignore[override]
        """The base model's; without one, BPE of the training texts."""
        if base := self.config.finetune.model:
            return load_tokenizer(resolve_source(base))
        return Tokenizer.train_bpe(self.train.texts, self.config.classification.vocab_size)

    @cached_property
    def token_ids(self) -> list[list[int]]:
        return encode_texts(self.tokenizer, self.train.texts)

    def describe_data(self) -> RunData:
        val = encode_texts(self.tokenizer, self.val.texts)
        return RunData(
            path=", ".join(self.config.classification.data),
            sha256=f"{self.train.sha256[:32]}{self.val.sha256[:32]}",
            tokenizer_sha256=self.tokenizer.fingerprint,
            vocab_size=self.tokenizer.vocab_size,
            train_tokens=self.tokens_per_epoch,
            val_tokens=sum(map(len, val)),
        )

    def complete(self) -> None:
        config = self.config
        if config.finetune.model is not None:
            config = with_base_model(config)
        else:
            size = {"vocab_size": self.tokenizer.vocab_size}
            config = config.model_copy(update={"model": config.model.model_copy(update=size)})
        if config.finetune.method in ("adapter", "prefix"):
            raise UsageError(
                f"finetune.method {config.finetune.method} is not available for classifiers, whose "
                "adapters are merged into each checkpoint; use lora."
            )
        if (precision := config.finetune.base_precision) in QUANTIZED_BITS:
            raise UsageError(
                f"finetune.base_precision {precision} is not available for classifiers, whose "
                "adapters are merged into each checkpoint; leave it out."
            )
        options = config.classification.model_copy(update={"labels": list(self.labels)})
        train = config.train.model_copy(update={"sample_every": 0, "sample_prompts": []})
        self.config = config.model_copy(update={"classification": options, "train": train})

    def build_model(self) -> Classifier:
        train, finetune = self.config.train, self.config.finetune
        backend.set_precision(train.precision)
        model = self._new_model()
        model.name_or_path = finetune.model
        if finetune.has_adapters:
            add_adapter(model, adapter_config(self.config), train.seed)
        freeze(model, finetune.freeze_layers, finetune.freeze)
        compile_model(model, train, self._loss())
        self.trainable = count_trainable(model)
        return model

    def _new_model(self) -> Classifier:
        """With the weights of the base model, or random ones."""
        train, base = self.config.train, self.config.finetune.model
        multi_label, pad_id = self.config.classification.multi_label, padding_id(self.tokenizer)
        options: dict[str, Any] = {
            "seed": train.seed,
            "gradient_checkpointing": train.gradient_checkpointing,
            "dtype": train.dtype_policy,
        }
        if base is None:
            return Classifier(self.config.model, self.labels, multi_label, pad_id, **options)
        folder = resolve_source(base)
        return new_classifier(
            folder, self.labels, multi_label, pad_id, config=self.config.model, **options
        )

    def _loss(self) -> ClassificationLoss:
        options = self.config.classification
        weights = None
        if options.class_weights is not None:
            weights = class_weights(self.targets, self.labels, options.class_weights)
        return ClassificationLoss(options.multi_label, weights, self.config.train.label_smoothing)

    def batches(self, model: GPT, start_step: int) -> LabelledDataset:
        tc = self.config.train
        return LabelledDataset(
            self.token_ids,
            self.targets,
            tc.batch_size,
            sequence_length(self.config),
            padding_id(self.tokenizer),
            num_batches=(tc.max_steps - start_step) * tc.grad_accumulation,
            seed=tc.seed,
            start_batch=start_step * tc.grad_accumulation,
            corruption=self._corruption(),
        )

    def _corruption(self) -> InputCorruption | None:
        """Of the training texts: what is masked is an end-of-text token."""
        dropout, replacement = self.config.data.token_dropout, self.config.data.token_replacement
        if not dropout and not replacement:
            return None
        mask_id, vocab_size = self.tokenizer.eos_id or 0, self.tokenizer.vocab_size
        return InputCorruption(dropout, replacement, mask_id, vocab_size)

    def validation(self, status: StatusWriter) -> StepCallback | None:
        if not self.val.texts:
            return None
        tc, multi_label = self.config.train, self.config.classification.multi_label
        batches = evaluation_batches(
            encode_texts(self.tokenizer, self.val.texts),
            tc.batch_size,
            sequence_length(self.config),
            padding_id(self.tokenizer),
        )
        targets = self.val.targets(self.labels, multi_label)
        return ClassificationValidation(batches, targets, tc.eval_every, tc.max_steps, status)

    @property
    def tokens_per_step(self) -> int:
        """By the mean length of the texts."""
        tc = self.config.train
        texts = tc.batch_size * tc.grad_accumulation
        return max(1, round(texts * self.tokens_per_epoch / len(self.train)))

    @property
    def tokens_per_epoch(self) -> int:
        return sum(map(len, self.token_ids))

    @property
    def flops_per_token(self) -> float:
        return flops_per_token(self.config, sequence_length(self.config))

    def summary(self) -> str:
        length = sequence_length(self.config)
        longer = sum(len(ids) > length for ids in self.token_ids)
        cut = f", {longer:,} longer than {length} tokens and cut there" if longer else ""
        base = self.config.finetune.model
        return (
            f"{base or 'a new model'}: {self.config.model.num_parameters() / 1e6:.2f}M parameters, "
            f"of which {self.trainable:,} are trained; {len(self.labels)} labels, "
            f"{len(self.train):,} training texts{cut}, {len(self.val):,} for validation"
        )


class ClassificationValidation(StepCallback):
    """Adds `val_loss`, `val_accuracy` and `val_macro_f1` to the logs.

    The weights are the EMA if the optimizer keeps one.

    Args:
        batches: from `evaluation_batches`.
        targets: of all texts, by number.
        every: steps between validations; the last step has one, too.
        total_steps: the last step.
        status: shows "validating" meanwhile.
    """

    def __init__(
        self,
        batches: list[tuple[np.ndarray, np.ndarray]],
        targets: np.ndarray,
        every: int,
        total_steps: int,
        status: StatusWriter,
    ):
        super().__init__()
        self.batches, self.targets = batches, targets
        self.every, self.total_steps, self.status = every, total_steps, status

    def on_step_end(self, step: int, logs: Logs) -> None:
        if step % self.every and step != self.total_steps:
            return
        backend.sync_model_state(self.model)
        with self.status.state("validating"), swap_in_ema_weights(self.model):
            logits = self._logits()
        probabilities = backend.to_host(self.model.probabilities(logits))
        found = report(probabilities, self.targets, self.model.labels)
        logs["val_loss"] = float(self.model.loss(self.targets, logits))
        logs["val_accuracy"], logs["val_macro_f1"] = found.accuracy, found.macro_f1

    def _logits(self) -> np.ndarray:
        """Of all texts: (N, labels)."""
        functions = ClassifierFunctions.of(self.model)
        logits = np.zeros((len(self.targets), len(self.model.labels)), "float32")
        for numbers, token_ids in self.batches:
            logits[numbers] = backend.to_host(functions.logits(token_ids))[: len(numbers)]
        return logits


class ClassifierFunctions(ModelFunctions):
    """The compiled forward pass of a classifier; it compiles anew for each shape."""

    def __init__(self, model: GPT):
        super().__init__(model)
        self.logits = backend.jit(self._logits, variables=model.variables)

    def _logits(self, token_ids: object) -> object:
        """Token ids (B, T) to float32 logits (B, labels)."""
        return ops.cast(self.model(token_ids), "float32")
