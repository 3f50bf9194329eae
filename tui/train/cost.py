"""What a training run will take: parameters, memory, operations, and time where it was measured.

The memory is an estimate from shapes. The time is never guessed: it comes from the tokens a second
that an earlier run reached on the same backend, scaled by the operations a token takes, or it is
unknown until measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kgpt.config import Config
from kgpt.errors import UsageError

MOMENTS = {"adamw": 2, "lion": 1, "muon": 1}  # copies of the weights that the optimizer keeps
APART = 4  # times more or less work a token; a measurement further off says nothing
FLOAT32 = 4  # bytes; weights, gradients and moments are always float32


@dataclass(frozen=True)
class Speed:
    """Tokens a second that a configuration reached in `run`."""

    run: str
    config: Config
    backend: str
    tokens_per_s: float


@dataclass(frozen=True)
class Cost:
    """Counts, bytes, operations and seconds; `time_s` is None until something was measured."""

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    tokens: int
    flops: int
    time_s: float | None = None
    basis: str = ""

    @property
    def memory(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate(config: Config, vocab_size: int | None, backend: str, speeds: Iterable[Speed] = ()):
    """The `Cost` of a run; raises `UsageError` while the vocabulary is not known."""
    config = with_vocabulary(config, vocab_size)
    model, train = config.model, config.train
    parameters = model.num_parameters()
    length = train.sequence_length or model.max_length
    tokens = train.max_steps * train.batch_size * train.grad_accumulation * length
    flops = tokens * model.flops_per_token(length)
    copies = MOMENTS[train.optimizer] + bool(train.ema_decay)
    speed = nearest(config, backend, speeds)
    return Cost(
        parameters,
        weights=parameters * FLOAT32,
        gradients=parameters * FLOAT32 * (2 if train.grad_accumulation > 1 else 1),
        optimizer=parameters * FLOAT32 * copies,
        activations=activation_bytes(config, length),
        tokens=tokens,
        flops=flops,
        time_s=flops / flops_per_second(speed) if speed else None,
        basis=_basis(config, speed) if speed else "",
    )


def activation_bytes(config: Config, length: int) -> int:
    """What the backward pass needs of the forward pass, and the logits of one chunk.

    Numbers a token and layer: about 8 D for norms, residuals, attention output and projections,
    2 (N + K) H for queries, keys and values, 3 F for the feed-forward layer (4 F when gated), and
    N T for the attention weights. Recomputing keeps D a layer and one layer in full.
    """
    model, train = config.model, config.train
    gated = model.activation == "swiglu"
    layer = 8 * model.hidden_dim + 2 * (model.num_heads + model.num_kv_heads) * model.head_dim
    layer += (4 if gated else 3) * model.intermediate_dim + model.num_heads * length
    stored = layer * model.num_layers
    if train.gradient_checkpointing:
        stored = model.hidden_dim * model.num_layers + layer
    size = FLOAT32 if train.precision == "float32" else 2
    tokens = train.batch_size * length
    logits = 3 * min(train.loss_chunk, tokens) * (model.vocab_size or 0) * FLOAT32
    return tokens * stored * size + logits


def nearest(config: Config, backend: str, speeds: Iterable[Speed]) -> Speed | None:
    """The measurement nearest in work a token, on this backend and in this precision."""
    alike = [
        speed
        for speed in speeds
        if speed.backend == backend and speed.config.train.precision == config.train.precision
    ]
    work = flops_per_token(config)
    apart = {_ratio(flops_per_token(speed.config), work): speed for speed in alike}
    near = min(apart, default=None)
    return apart[near] if near is not None and near <= APART else None


def with_vocabulary(config: Config, vocab_size: int | None) -> Config:
    """`config` with the vocabulary of the data set, if it names none itself."""
    size = config.model.vocab_size or vocab_size
    if size is None:
        raise UsageError("The vocabulary is not known; choose a data set.")
    model = config.model.model_copy(update={"vocab_size": size})
    return config.model_copy(update={"model": model})


def flops_per_token(config: Config) -> int:
    return config.model.flops_per_token(config.train.sequence_length or config.model.max_length)


def flops_per_second(speed: Speed) -> float:
    return speed.tokens_per_s * flops_per_token(speed.config)


def _basis(config: Config, speed: Speed) -> str:
    same = config.model == speed.config.model and _batch(config) == _batch(speed.config)
    if same:
        return f"measured in {speed.run}"
    millions = speed.config.model.num_parameters() / 1e6
    return f"scaled from {speed.run} ({millions:.1f}M parameters)"


def _batch(config: Config) -> tuple[int, int | None]:
    return config.train.batch_size, config.train.sequence_length


def _ratio(a: float, b: float) -> float:
    return max(a / b, b / a)
