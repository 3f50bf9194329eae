"""The data set and the training of a model: `DataConfig` and `TrainConfig`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from kgpt.config.section import Section


class DataConfig(Section):
    """Which data set is trained on, and how its batches are drawn."""

    dir: str | None = Field(None, description="A folder made by `kgpt data prepare`.")
    assistant_only_loss: bool = Field(
        False, description="Of conversations, learn only what the assistant says."
    )
    token_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of input tokens hidden behind the mask token."
    )
    token_replacement: float = Field(
        0.0, ge=0, lt=1, description="Share of input tokens replaced by random ones."
    )


class TrainConfig(Section):
    """How a model is trained. A *step* is one update of the weights."""

    max_steps: int = Field(2000, ge=1, description="Updates of the weights in all.")
    batch_size: int = Field(12, ge=1, description="Sequences in one forward pass.")
    grad_accumulation: int = Field(
        1, ge=1, description="Forward passes whose gradients make one update."
    )
    sequence_length: int | None = Field(
        None, ge=1, description="Tokens in a training sequence; model.max_length when not given."
    )
    optimizer: Literal["adamw", "lion", "muon"] = Field("adamw", description="The optimizer.")
    learning_rate: float = Field(1e-3, gt=0, description="The highest learning rate.")
    min_learning_rate: float = Field(1e-4, ge=0, description="Where the decay ends.")
    warmup_steps: int = Field(100, ge=0, description="Updates of linear warm-up.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate falls after warm-up."
    )
    decay_steps: int | None = Field(
        None, ge=1, description="The update at which the decay ends; max_steps when not given."
    )
    weight_decay: float = Field(0.1, ge=0, description="Decoupled decay, of matrices only.")
    beta_1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta_2: float = Field(0.99, ge=0, lt=1, description="Decay of the second moment.")
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="Clip gradients to this global norm."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target spread over all tokens."
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="Decay of the EMA of the weights; 0 keeps none."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Number format of the computation; weights stay float32."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, more time."
    )
    loss_chunk: int = Field(
        4096, ge=1, description="Tokens whose logits the loss computes at once."
    )
    seed: int = Field(1337, ge=0, lt=2**31, description="Seed of weights, batches and dropout.")
    log_every: int = Field(10, ge=1, description="Steps between metric rows.")
    eval_every: int = Field(250, ge=0, description="Steps between validations; 0 is never.")
    eval_batches: int | None = Field(
        None, ge=1, description="Validation batches; all of the validation set when not given."
    )
    checkpoint_every: int = Field(250, ge=0, description="Steps between checkpoints; 0: the end.")
    keep_checkpoints: int = Field(3, ge=1, description="How many checkpoints are kept.")
    sample_every: int = Field(250, ge=0, description="Steps between samples; 0 is never.")
    sample_prompts: list[str] = Field(["\n"], description="What the samples begin with.")
    early_stopping: int | None = Field(
        None, ge=1, description="Stop after so many validations without improvement."
    )
    tensorboard: bool = Field(False, description="Write TensorBoard event files in the run.")
    tracker: Literal["wandb", "trackio"] | None = Field(
        None, description="Also report to this tracker, which must be installed."
    )

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
        return self.precision if self.precision == "float32" else f"mixed_{self.precision}"
