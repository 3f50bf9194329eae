"""The data set and the training of a model: `DataConfig` and `TrainConfig`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from kgpt.config.precision import Precision, compute_dtype
from kgpt.config.section import Section, TextList
from kgpt.config.skipped_steps import SkippedSteps
from kgpt.errors import UsageError

Packing = Literal["stream", "documents", "none"]


class DataConfig(Section):
    """The data set and the corruption of its inputs."""

    dir: str | None = Field(
        None,
        description="A data set made by `kgpt data prepare`: its folder, or its address, such as "
        "s3://bucket/set.",
    )
    assistant_only_loss: bool | None = Field(
        None,
        description="In conversations, compute the loss on assistant turns only. When not given, "
        "only where a model is fine-tuned.",
    )
    packing: Packing | None = Field(
        None,
        description="How documents become sequences: cut from the stream of all of them; whole "
        "documents packed together, with attention within each alone; or none, a document in each, "
        "in batches of similar length. When not given, documents where a model is fine-tuned on "
        "conversations, else stream.",
    )
    token_dropout: float = Field(
        0.0, ge=0, lt=1, description="Fraction of input tokens replaced by the mask token."
    )
    token_replacement: float = Field(
        0.0, ge=0, lt=1, description="Fraction of input tokens replaced by random ones."
    )

    def check_named(self) -> None:
        """Raise `UsageError` unless a data set is named."""
        if self.dir is None:
            raise UsageError("No data set is named; give --data DIR, made by `kgpt data prepare`.")


class TrainConfig(Section):
    """The options of training. A *step* is one optimizer update."""

    max_steps: int = Field(2000, ge=1, description="Total number of weight updates.")
    batch_size: int = Field(12, ge=1, description="Sequences per forward pass.")
    grad_accumulation: int = Field(
        1, ge=1, description="Forward passes per update, their gradients averaged."
    )
    sequence_length: int | None = Field(
        None, ge=1, description="Tokens per training sequence; model.max_length when not given."
    )
    optimizer: Literal["adamw", "lion", "muon"] = Field("adamw", description="The optimizer.")
    learning_rate: float = Field(1e-3, gt=0, description="Maximum learning rate.")
    min_learning_rate: float = Field(1e-4, ge=0, description="Learning rate after the decay.")
    warmup_steps: int = Field(100, ge=0, description="Steps of linear warm-up.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Decay of the learning rate after warm-up."
    )
    decay_steps: int | None = Field(
        None, ge=1, description="Step at which the decay ends; max_steps when not given."
    )
    weight_decay: float = Field(0.1, ge=0, description="Decoupled weight decay, on matrices only.")
    beta_1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta_2: float = Field(0.99, ge=0, lt=1, description="Decay of the second moment.")
    max_grad_norm: float | None = Field(
        1.0, ge=0, description="Clip gradients to this global norm; 0 or null: do not clip."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Fraction of the target spread over all tokens."
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="Decay of the EMA of the weights; 0 is no EMA."
    )
    precision: Precision = Field(
        "float32",
        description="Precision of the computation; weights stay float32. tensorfloat32 is float32 "
        "with the matrix products of a GPU in TF32. On a CPU bfloat16 is faster on PyTorch only.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Compile the training step: by XLA on JAX and TensorFlow; on PyTorch the "
        "blocks and the loss by torch.compile, which auto does on a GPU only.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, more time."
    )
    loss_chunk: int | None = Field(
        None,
        ge=1,
        description="Tokens per chunk of the chunked cross-entropy; when not given, 4096 on a CPU, "
        "and by memory on a GPU.",
    )
    seed: int = Field(1337, ge=0, lt=2**31, description="Seed of weights, batches and dropout.")
    log_every: int = Field(10, ge=1, description="Steps between rows of metrics.")
    eval_every: int = Field(250, ge=0, description="Steps between validations; 0: never.")
    eval_batches: int | None = Field(
        None, ge=1, description="Batches per validation; the whole validation set when not given."
    )
    eval_suite: str | None = Field(
        None,
        description="A YAML file of evaluations, as of `kgpt eval --suite`, made at each "
        "validation; their figures are in metrics.jsonl as val_NAME_METRIC.",
    )
    checkpoint_every: int = Field(250, ge=0, description="Steps between checkpoints; 0: the end.")
    keep_checkpoints: int = Field(3, ge=1, description="Number of checkpoints to keep.")
    sample_every: int = Field(250, ge=0, description="Steps between samples; 0: never.")
    sample_prompts: TextList = Field(["\n"], description="Prompts of the samples.")
    early_stopping: int | None = Field(
        None, ge=1, description="Stop after this many validations without improvement."
    )
    skip_steps: str | None = Field(
        None,
        description="Steps whose data is left out, such as 1200-1230,1500: from the first on, that "
        "of later steps is trained on.",
    )
    tensorboard: bool = Field(False, description="Write TensorBoard event files.")
    tracker: Literal["wandb", "trackio"] | None = Field(
        None, description="Also log to this tracker, which must be installed."
    )

    @field_validator("skip_steps")
    @classmethod
    def _steps_are_listed(cls, value: str | None) -> str | None:
        SkippedSteps(value)
        return value

    @model_validator(mode="after")
    def _rates_fit(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate {self.min_learning_rate} is above "
                f"learning_rate {self.learning_rate}"
            )
        return self

    @property
    def dtype_policy(self) -> str:
        """The Keras dtype policy for `precision`."""
        dtype = compute_dtype(self.precision)
        return dtype if dtype == "float32" else f"mixed_{dtype}"
