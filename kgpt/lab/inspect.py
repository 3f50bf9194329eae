"""What broke here? The batch of a step: its texts, the loss of each token, gradients by layer."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from kgpt import backend
from kgpt.checkpoints.pretrained import path_below
from kgpt.evaluation.likelihood import losses_of_targets
from kgpt.lab.replay import Batch, Batches, Replay, replay
from kgpt.runs import Run
from kgpt.training.optimizers import unwrap_optimizer
from kgpt.training.stored_weights import gpt_of
from kgpt.training.task import loss_chunk


@dataclass(frozen=True)
class TokenLoss:
    """A target of a batch and its loss in nats, with dropout as in training.

    Attributes:
        row: in the batch, counted over all batches of the step.
        position: of the target in its row, from 1.
        weight: in the mean; 0 for what is not learned.
    """

    row: int
    position: int
    token_id: int
    loss: float
    weight: float


@dataclass(frozen=True)
class InspectedStep:
    """A step of a run.

    Attributes:
        checkpoint: the step of the checkpoint that it was replayed from; 0 for the beginning.
        loss, grad_norm, lr: as the replay gives them.
        recorded: the row of metrics.jsonl of the step; None if the run logged none.
        rows: the texts of the batch: the ids of each row's inputs and its last target.
        tokens: the targets that count.
        layers: norm of the gradient before clipping, by layer.
    """

    step: int
    checkpoint: int
    loss: float
    grad_norm: float | None
    lr: float
    recorded: dict[str, Any] | None
    rows: list[list[int]]
    tokens: list[TokenLoss]
    layers: dict[str, float]

    @property
    def is_exact(self) -> bool | None:
        """Whether the replayed loss is the recorded number; None if none is recorded."""
        return None if self.recorded is None else self.recorded["loss"] == self.loss

    def highest(self, count: int) -> list[TokenLoss]:
        """The targets with the highest loss."""
        return sorted(self.tokens, key=lambda token: -token.loss)[:count]

    def row_loss(self, row: int) -> float | None:
        """The weighted mean loss of a row; None if none of it counts."""
        own = [token for token in self.tokens if token.row == row]
        total = sum(token.weight for token in own)
        return sum(token.loss * token.weight for token in own) / total if total else None


def inspect_step(run: Run, step: int) -> InspectedStep:
    """See `InspectedStep`; raises as `kgpt.lab.replay.replay`."""
    state = replay(run, step)
    batches = state.batches()
    tokens = _token_losses(state, batches)
    with tempfile.TemporaryDirectory(prefix="kgpt-inspect-") as scratch:
        state.save(Path(scratch) / "state")
        row = state.train(Batches(batches))
        state.load(Path(scratch) / "state")
    layers = _gradient_norms(state, batches)
    logged = next((r for r in run.metrics() if r["step"] == step and "loss" in r), None)
    return InspectedStep(
        step, state.checkpoint, row["loss"], row.get("grad_norm"), row["lr"], logged,
        [ids for batch in batches for ids in _ids(batch)], tokens, layers,
    )  # fmt: skip


def _ids(batch: Batch) -> list[list[int]]:
    inputs, targets = batch[0], np.asarray(batch[1])
    ids = np.asarray(inputs["token_ids"] if isinstance(inputs, dict) else inputs)
    return [[int(x) for x in [*row, last]] for row, last in zip(ids, targets[:, -1], strict=True)]


def _token_losses(state: Replay, batches: Sequence[Batch]) -> list[TokenLoss]:
    """The loss of each target that counts, with the dropout that the step is about to draw."""
    model = gpt_of(state.model)
    chunk = loss_chunk(state.task.config)

    def losses_in_training(ids: Any, targets: Any) -> Any:
        return losses_of_targets(model, ids, targets, chunk, training=True)

    compute = backend.jit(backend.without_gradient(losses_in_training), model.variables)
    count = model.dropout_key.count
    drawn = np.array(backend.to_host(count))  # a copy: on a CPU it is a view
    found: list[TokenLoss] = []
    first = 0
    for number, batch in enumerate(batches):
        count.assign(drawn + number)
        targets = np.asarray(batch[1])
        weights = np.asarray(batch[2]) if len(batch) > 2 else np.ones(targets.shape, "float32")
        ids = keras.tree.map_structure(ops.convert_to_tensor, batch[0])
        losses = backend.to_host(compute(ids, ops.convert_to_tensor(targets)))  # (B, T)
        for row, column in zip(*np.nonzero(weights), strict=True):
            place = (row, column)
            numbers = int(targets[place]), float(losses[place]), float(weights[place])
            found.append(TokenLoss(first + int(row), int(column) + 1, *numbers))
        first += len(targets)
    count.assign(drawn)
    return found


def _gradient_norms(state: Replay, batches: Sequence[Batch]) -> dict[str, float]:
    """The norm of the gradient of each layer at the step, which is trained on once more."""
    optimizer = unwrap_optimizer(state.model.optimizer)
    optimizer.record_gradient_norms()
    state.model.make_train_function(force=True)
    state.train(Batches(batches))
    norms = backend.to_host(optimizer.gradient_norms)
    squares: dict[str, float] = {}
    for variable, norm in zip(state.model.trainable_variables, norms, strict=True):
        layer = path_below(variable).partition("/")[0]
        squares[layer] = squares.get(layer, 0.0) + float(norm) ** 2
    return {layer: square**0.5 for layer, square in squares.items()}
