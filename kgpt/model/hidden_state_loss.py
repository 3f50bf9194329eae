"""What Keras's own train and test steps call of a model whose loss may take hidden states.

A loss with `from_hidden_states` (`kgpt.NextTokenLoss`) is given hidden states, so that training
never stores the (B, T, V) logits; one with `from_model` (`kgpt.DPOLoss`) the model, too, and has
`metrics` of its own. Any other Keras loss is given the logits.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.model.block import Block, compile_blocks
from kgpt.model.linear import Unembedding
from kgpt.model.loss_metric import TokenLoss
from kgpt.model.pretrained import PretrainedModel

Tensor = Any
HIDDEN_STATES_OF = "hidden_states_of"  # the input {HIDDEN_STATES_OF: ids} asks for no logits


def asks_for_hidden_states(inputs: Any) -> bool:
    return isinstance(inputs, dict) and HIDDEN_STATES_OF in inputs


class HiddenStateLossModel(PretrainedModel):
    """The base class of `GPT`, which makes the attributes."""

    blocks: list[Block]
    head: Unembedding
    token_loss: TokenLoss

    def compile(self, *args: Any, jit_compile: bool | str = "auto", **kwargs: Any) -> None:
        """As everywhere in Keras; on PyTorch `jit_compile` compiles the blocks and the loss.

        "auto" compiles on a GPU.
        """
        whole_step = jit_compile if backend.JIT_TRAINING or not jit_compile else "auto"
        super().compile(*args, jit_compile=whole_step, **kwargs)
        if self._loss_takes_hidden_states:
            keras_internals.stop_loss_tracker(self)
            keras_internals.skip_loss_build(self)
        compiled = backend.compiles_regions(jit_compile) and not self.run_eagerly
        compile_blocks(self.blocks, compiled)
        if hasattr(self.loss, "compile"):
            self.loss.compile(compiled)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile a loaded model as it was saved; Keras leaves it to classes with a `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    @property
    def _loss_takes_hidden_states(self) -> bool:
        loss = getattr(self, "loss", None)
        has_metrics = keras_internals.has_compiled_metrics(self)
        takes = hasattr(loss, "from_hidden_states") or hasattr(loss, "from_model")
        return takes and not has_metrics

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """As everywhere in Keras; of the two that are called "loss", the one in use."""
        takes_hidden = self._loss_takes_hidden_states
        unused = keras_internals.loss_tracker(self) if takes_hidden else self.token_loss
        kept = [metric for metric in super().metrics if metric is not unused]
        return [*kept, *getattr(getattr(self, "loss", None), "metrics", ())]

    def train_step(self, *args: Any) -> Any:
        return super().train_step(*args[:-1], self._ask_for_hidden_states(args[-1]))

    def test_step(self, *args: Any) -> Any:
        return super().test_step(*args[:-1], self._ask_for_hidden_states(args[-1]))

    def _ask_for_hidden_states(self, data: Any) -> Any:
        """A batch whose forward pass gives what the compiled loss takes."""
        if not self._loss_takes_hidden_states:
            return data
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        return {HIDDEN_STATES_OF: x}, y, sample_weight

    def compute_loss(
        self,
        x: Any = None,
        y: Tensor | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        if not asks_for_hidden_states(x):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        if hasattr(self.loss, "from_model"):
            return self.loss.from_model(
                self, x[HIDDEN_STATES_OF], y_pred, y, sample_weight, training
            )
        head, variable = self.head.weight.as_table(), self.head.variable
        trainable = variable is not None and variable.trainable
        loss = self.loss.from_hidden_states(y_pred, head, y, sample_weight, training, trainable)
        weights = ops.ones_like(y, "float32") if sample_weight is None else sample_weight
        self.token_loss.update_state(ops.stop_gradient(loss), ops.sum(weights), training)
        return loss

    def compute_metrics(
        self, x: Any, y: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> dict[str, Any]:
        if asks_for_hidden_states(x):
            return self.get_metrics_result()
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_metrics_result(self) -> dict[str, Any]:
        if self._loss_takes_hidden_states:
            own = (self.token_loss, *getattr(self.loss, "metrics", ()))
            return {metric.name: metric.result() for metric in own}
        return super().get_metrics_result()

    def _resolve_auto_jit_compile(self) -> bool:
        # Keras leaves XLA off on TensorFlow without a GPU, where it halves the time of a step.
        return backend.JIT_TRAINING and not self.run_eagerly
