"""`Distiller`: a student and its teacher as one Keras model, of which the student is trained."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.errors import UsageError
from kgpt.model.block import compile_blocks
from kgpt.model.gpt import GPT
from kgpt.model.hidden_state_loss import HIDDEN_STATES_OF
from kgpt.model.loss_metric import TokenLoss
from kgpt.training.distillation_loss import DistillationOptions, SoftTargets, distillation_loss
from kgpt.training.losses import NextTokenLoss

Tensor = Any


class Distiller(keras.Model):
    """Trains a student to predict what a teacher with the same tokenizer predicts.

    The teacher runs in the same compiled step, without gradients. Evaluated is the student alone,
    by its cross-entropy. Save the student when training is over.

    Args:
        student: what is trained, as by itself; also adapters alone.
        teacher: frozen from now on.
        temperature, alpha, top_k: see `DistillationOptions`.
        label_smoothing: of the cross-entropy.
        chunk: tokens whose logits are in memory at a time.

    Example:

    >>> student, teacher = (
    ...     GPT({"vocab_size": 65, "num_layers": 1, "num_heads": 2, "hidden_dim": width})
    ...     for width in (8, 16)
    ... )
    >>> distiller = Distiller(student, teacher, temperature=2.0, alpha=0.5)
    >>> distiller.compile("adam")
    """

    def __init__(
        self,
        student: GPT,
        teacher: GPT,
        temperature: float = 2.0,
        alpha: float = 0.5,
        top_k: int | None = None,
        label_smoothing: float = 0.0,
        chunk: int = 4096,
        name: str = "distiller",
    ) -> None:
        super().__init__(name=name, dtype=student.dtype_policy)
        if student.config.vocab_size != teacher.config.vocab_size:
            raise UsageError(
                f"The student has {student.config.vocab_size} tokens, but its teacher "
                f"{teacher.config.vocab_size}; a student needs the tokenizer of its teacher."
            )
        teacher.trainable = False
        self.gpt, self.teacher = student, teacher
        self.options = DistillationOptions(temperature, alpha, top_k)
        self.cross_entropy = NextTokenLoss(label_smoothing, chunk)
        self.token_loss = TokenLoss()
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Tensor:
        """What the student gives: logits (B, T, V), or hidden states."""
        return self.gpt(inputs, training=training)

    def compile(
        self, optimizer: Any = "adamw", jit_compile: bool | str = "auto", **options: Any
    ) -> None:
        """As `GPT.compile`; the loss is the distiller's own.

        Raises `UsageError` if a loss or metrics are given.
        """
        if options.get("loss") is not None or options.get("metrics"):
            raise UsageError("A Distiller has its own loss, and no metrics; leave both out.")
        whole_step = jit_compile if backend.JIT_TRAINING or not jit_compile else "auto"
        super().compile(optimizer=optimizer, jit_compile=whole_step, **options)
        keras_internals.stop_loss_tracker(self)
        compiled = backend.compiles_regions(jit_compile) and not self.run_eagerly
        for model in (self.gpt, self.teacher):
            compile_blocks(model.blocks, compiled)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.token_loss]

    def train_step(self, *args: Any) -> Any:
        return super().train_step(*args[:-1], _for_hidden_states(args[-1]))

    def test_step(self, *args: Any) -> Any:
        return super().test_step(*args[:-1], _for_hidden_states(args[-1]))

    def compute_loss(
        self,
        x: Any = None,
        y: Tensor | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        head, variable = self.gpt.head.weight.as_table(), self.gpt.head.variable
        if training:
            loss = distillation_loss(
                y_pred, head, self._targets(x[HIDDEN_STATES_OF], y), sample_weight, self.options,
                self.cross_entropy.label_smoothing, self.cross_entropy.chunk,
                head_trainable=variable is not None and variable.trainable,
            )  # fmt: skip
        else:
            loss = self.cross_entropy.from_hidden_states(y_pred, head, y, sample_weight, False)
        weights = ops.ones_like(y, "float32") if sample_weight is None else sample_weight
        self.token_loss.update_state(ops.stop_gradient(loss), ops.sum(weights), training)
        return loss

    def _targets(self, inputs: Any, y: Tensor) -> SoftTargets:
        """What the student is to learn of inputs (B, T) with the next tokens `y` (B, T)."""
        with keras_internals.autocast(self.teacher):
            hidden = backend.without_gradient(self.teacher.hidden_states)(inputs)  # (B, T, Dt)
        rows = ops.reshape(hidden, (-1, hidden.shape[-1]))
        ids = ops.reshape(ops.cast(y, "int32"), (-1,))
        return SoftTargets(ids, rows, ops.stop_gradient(self.teacher.head.weight.as_table()))

    def compute_metrics(
        self, x: Any, y: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> dict[str, Any]:
        return self.get_metrics_result()

    def get_metrics_result(self) -> dict[str, Any]:
        return {"loss": self.token_loss.result()}

    def _resolve_auto_jit_compile(self) -> bool:
        return backend.JIT_TRAINING and not self.run_eagerly  # as that of `GPT`


def _for_hidden_states(data: Any) -> Any:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    return {HIDDEN_STATES_OF: x}, y, sample_weight
