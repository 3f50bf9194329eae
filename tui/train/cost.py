"""Estimated cost of a training run: parameters, memory, FLOPs, and time where it was measured.

Memory is estimated from tensor shapes. Time is never guessed: it is scaled, by FLOPs per token,
from the throughput of an earlier run on the same backend, or it is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kgpt.config import Config, compute_dtype, default_loss_chunk
from kgpt.errors import UsageError

OPTIMIZER_SLOTS = {"adamw": 2, "lion": 1, "muon": 1}  # moments per weight
MAX_FLOPS_RATIO = 4  # a throughput of a model with more or less FLOPs per token is not scaled
FLOAT32 = 4  # bytes; weights, gradients and moments are always float32


@dataclass(frozen=True)
class Throughput:
    """Tokens per second that a configuration reached in `run`."""

    run: str
    config: Config
    backend: str
    tokens_per_s: float

    @property
    def flops_per_s(self) -> float:
        return self.tokens_per_s * flops_per_token(self.config)


@dataclass(frozen=True)
class CostEstimate:
    """Counts, bytes, FLOPs and seconds; `time_s` is None if no throughput was measured."""

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    tokens: int
    flops: int
    time_s: float | None = None
    basis: str = ""  # where `time_s` comes from

    @property
    def memory(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate_cost(
    config: Config,
    vocab_size: int | None,
    backend: str,
    throughputs: Iterable[Throughput] = (),
) -> CostEstimate:
    """The cost of a run on a data set with `vocab_size` tokens.

    Raises:
        UsageError: neither the configuration nor the data set gives the size of the vocabulary, or
            a model is fine-tuned, whose size is not known here.
    """
    if config.finetune.objective is not None:
        raise UsageError("The cost of fine-tuning depends on the model; measure it by a short run.")
    config = with_vocabulary(config, vocab_size)
    model, train = config.model, config.train
    parameters = model.num_parameters()
    length = sequence_length(config)
    tokens = train.max_steps * train.batch_size * train.grad_accumulation * length
    flops = tokens * flops_per_token(config)
    copies = OPTIMIZER_SLOTS[train.optimizer] + bool(train.ema_decay)
    measured = nearest(config, backend, throughputs)
    return CostEstimate(
        parameters,
        weights=parameters * FLOAT32,
        gradients=parameters * FLOAT32 * (2 if train.grad_accumulation > 1 else 1),
        optimizer=parameters * FLOAT32 * copies,
        activations=activation_bytes(config, length),
        tokens=tokens,
        flops=flops,
        time_s=flops / measured.flops_per_s if measured else None,
        basis=_basis(config, measured) if measured else "",
    )


def activation_bytes(config: Config, length: int) -> int:
    """Activations saved for the backward pass, and the logits of one loss chunk.

    Values per token and layer: about 8 D for norms, residuals, attention output and projections,
    2 (N + K) H for queries, keys and values, 3 F for the feed-forward layer (4 F when gated), and
    N T for the attention weights. Gradient checkpointing saves D per layer and recomputes one
    layer at a time.
    """
    model, train = config.model, config.train
    gated = model.activation == "swiglu"
    layer = 8 * model.hidden_dim + 2 * (model.num_heads + model.num_kv_heads) * model.head_dim
    layer += (4 if gated else 3) * model.intermediate_dim + model.num_heads * length
    saved = layer * model.num_layers
    if train.gradient_checkpointing:
        saved = model.hidden_dim * model.num_layers + layer
    itemsize = FLOAT32 if compute_dtype(train.precision) == "float32" else 2
    tokens = train.batch_size * length
    vocab_size = model.vocab_size or 0
    chunk = train.loss_chunk or default_loss_chunk(vocab_size, train.precision, None)
    logits = 3 * min(chunk, tokens) * vocab_size * FLOAT32
    return tokens * saved * itemsize + logits


def nearest(config: Config, backend: str, throughputs: Iterable[Throughput]) -> Throughput | None:
    """The throughput nearest in FLOPs per token, on this backend and in this precision.

    Of several equally near, the last one.
    """
    flops = flops_per_token(config)
    ratios = [
        (_ratio(flops_per_token(each.config), flops), each)
        for each in reversed([*throughputs])
        if each.backend == backend and each.config.train.precision == config.train.precision
    ]
    ratio, found = min(ratios, key=lambda pair: pair[0], default=(0.0, None))
    return found if ratio <= MAX_FLOPS_RATIO else None


def with_vocabulary(config: Config, vocab_size: int | None) -> Config:
    """`config` with the vocabulary size of the data set, if it has none of its own."""
    size = config.model.vocab_size or vocab_size
    if size is None:
        raise UsageError("The vocabulary is not known; choose a data set.")
    model = config.model.model_copy(update={"vocab_size": size})
    return config.model_copy(update={"model": model})


def sequence_length(config: Config) -> int:
    return config.train.sequence_length or config.model.max_length


def flops_per_token(config: Config) -> int:
    return config.model.flops_per_token(sequence_length(config))


def _basis(config: Config, measured: Throughput) -> str:
    same = config.model == measured.config.model and _batch(config) == _batch(measured.config)
    if same:
        return f"measured in {measured.run}"
    millions = measured.config.model.num_parameters() / 1e6
    return f"scaled from {measured.run} ({millions:.1f}M parameters)"


def _batch(config: Config) -> tuple[int, int | None]:
    return config.train.batch_size, config.train.sequence_length


def _ratio(a: float, b: float) -> float:
    return max(a / b, b / a)
