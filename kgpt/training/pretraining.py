"""Pretraining: a new model learns to continue the texts of a data set."""

from __future__ import annotations

from functools import cached_property

from kgpt import backend
from kgpt.config import Config, SkippedSteps
from kgpt.data.dataset import EvaluationDataset, TrainDataset
from kgpt.data.packing import Sampler
from kgpt.data.sampler import PackedSampler
from kgpt.data.shards import TokenDataset
from kgpt.errors import UsageError
from kgpt.model.gpt import GPT
from kgpt.runs import RunData
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.validation import Validation
from kgpt.training.task import Task, compile_model, next_token_loss


class TokenDatasetTask(Task):
    """A task on a prepared data set, whose batches are sequences of tokens.

    Raises `DataError` if there is no data set in `data.dir`.
    """

    can_skip_steps = True
    divides_batches = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.data = TokenDataset(config.data.dir or "")

    @cached_property
    def tokenizer(self) -> Tokenizer:  # type: ignore[override]
        return self.data.tokenizer

    def describe_data(self) -> RunData:
        return describe(self.data)

    def batches(self, model: GPT, start_step: int) -> TrainDataset:
        return self._train_dataset(start_step)

    @cached_property
    def sampler(self) -> Sampler:
        """What makes the batches."""
        return self._train_dataset(0).sampler

    def _train_dataset(self, start_step: int) -> TrainDataset:
        tc, dc = self.config.train, self.config.data
        return TrainDataset(
            self.data,
            tc.batch_size,
            sequence_length(self.config),
            num_batches=(tc.max_steps - start_step) * tc.grad_accumulation,
            seed=tc.seed,
            start_batch=start_step * tc.grad_accumulation,
            token_dropout=dc.token_dropout,
            token_replacement=dc.token_replacement,
            assistant_only_loss=bool(dc.assistant_only_loss),
            packing=dc.packing or "stream",
            source_batch=self._source_batch,
            rows=rows_of_process(tc.batch_size),
        )

    @cached_property
    def _skipped_steps(self) -> SkippedSteps:
        return SkippedSteps(self.config.train.skip_steps)

    def _source_batch(self, number: int) -> int:
        """The number of a batch without the steps that are skipped."""
        step, within = divmod(number, self.config.train.grad_accumulation)
        step = self._skipped_steps.data_step(step + 1) - 1
        return step * self.config.train.grad_accumulation + within

    def validation(self, status: StatusWriter) -> Validation:
        tc, dc = self.config.train, self.config.data
        dataset = EvaluationDataset(
            self.data,
            tc.batch_size,
            sequence_length(self.config),
            limit=tc.eval_batches,
            assistant_only_loss=bool(dc.assistant_only_loss),
            packing=dc.packing or "stream",
            rows=rows_of_process(tc.batch_size),
        )
        whole = dc.packing in (None, "stream") and not dc.assistant_only_loss
        bytes_per_token = self.data.bytes_per_token("val") if whole else None
        return Validation(dataset, tc.eval_every, tc.max_steps, bytes_per_token, status)

    @property
    def tokens_per_step(self) -> int:
        return self.sampler.tokens_per_batch * self.config.train.grad_accumulation

    @property
    def tokens_per_epoch(self) -> int:
        return self.sampler.tokens_per_epoch

    @property
    def flops_per_token(self) -> float:
        return self.config.model.flops_per_token(sequence_length(self.config))

    def summary(self) -> str:
        model, tokens = self.config.model, self.data.manifest.splits["train"].tokens
        return (
            f"{model.num_parameters() / 1e6:.2f}M parameters, vocabulary {model.vocab_size}, "
            f"context {model.max_length}; {tokens:,} training tokens{self._padding()}"
        )

    def _padding(self) -> str:
        """How much of the batches is padding, and how many documents are truncated."""
        if isinstance(self.sampler, PackedSampler):
            return ""
        padding = f"; {1 - self.sampler.utilization:.1%} of the batches is padding"
        truncated, length = self.sampler.num_truncated, sequence_length(self.config)
        if not truncated:
            return padding
        return f"{padding}; {truncated:,} documents are truncated to {length} tokens"


class Pretraining(TokenDatasetTask):
    """A new model learns to predict the next token."""

    def complete(self) -> None:
        self.config = with_vocabulary(self.config, self.data)
        self.config = with_data_options(self.config, learns_answers=False)

    def build_model(self) -> GPT:
        return build_model(self.config)


def with_vocabulary(config: Config, data: TokenDataset) -> Config:
    """`config` with the vocabulary size of the data set, if it gives none of its own.

    Raises `UsageError` if its own is too small for the data set.
    """
    given, size = config.model.vocab_size, data.manifest.vocab_size
    if given is not None and given < size:
        raise UsageError(
            f"model.vocab_size is {given}, but the tokens of {data.folder} go up to {size}; "
            "leave it out to use the data set's."
        )
    model = config.model.model_copy(update={"vocab_size": given or size})
    return config.model_copy(update={"model": model})


def with_data_options(config: Config, learns_answers: bool) -> Config:
    """`config` with the options of `data` that depend on what is learned, where not given.

    Args:
        learns_answers: learn the assistant's turns alone, of whole conversations.
    """
    data = config.data
    answers, packing = data.assistant_only_loss, data.packing
    changes = {
        "assistant_only_loss": learns_answers if answers is None else answers,
        "packing": packing or ("documents" if learns_answers else "stream"),
    }
    return config.model_copy(update={"data": data.model_copy(update=changes)})


def rows_of_process(batch_size: int) -> slice:
    """The rows of a batch that this process makes."""
    index, count = backend.processes.batch_part()
    return slice(batch_size * index // count, batch_size * (index + 1) // count)


def sequence_length(config: Config) -> int:
    """T, tokens in a training sequence; raises `UsageError` if above the model's context."""
    longest = config.max_text_length
    length = config.train.sequence_length or longest
    if length > longest:
        prefix = config.model.max_length - longest
        less = f" less the {prefix} positions of the prefix" if prefix else ""
        raise UsageError(
            f"train.sequence_length {length} is above model.max_length "
            f"{config.model.max_length}{less}."
        )
    return length


def build_model(config: Config) -> GPT:
    """The compiled model of a configuration, with initial weights."""
    model = new_model(config)
    compile_model(model, config.train, next_token_loss(config))
    return model


def new_model(config: Config) -> GPT:
    """The model of a configuration, with initial weights, not compiled."""
    train_config = config.train
    backend.set_precision(train_config.precision)
    return GPT(
        config.model,
        seed=train_config.seed,
        gradient_checkpointing=train_config.gradient_checkpointing,
        dtype=train_config.dtype_policy,
    )


def describe(data: TokenDataset) -> RunData:
    """What a run notes about its data set."""
    manifest = data.manifest
    tokens = {split: info.tokens for split, info in manifest.splits.items()}
    return RunData(
        path=data.name if data.is_remote else str(data.folder.resolve()),
        sha256=manifest.content_sha256,
        tokenizer_sha256=manifest.tokenizer_sha256,
        vocab_size=manifest.vocab_size,
        train_tokens=tokens.get("train", 0),
        val_tokens=tokens.get("val", 0),
    )
