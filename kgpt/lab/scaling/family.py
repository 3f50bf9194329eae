"""Models of several sizes made from one configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kgpt.config import Config, ModelConfig
from kgpt.errors import UsageError
from kgpt.formatting import count

MAX_WARMUP_SHARE = 10  # at most a tenth of the steps


@dataclass(frozen=True)
class Member:
    """A run of the family, to be trained.

    Attributes:
        name: of the run, such as scaling-4x128-2.0M: layers, width, tokens.
    """

    name: str
    config: Config


def resize(model: ModelConfig, layers: int, width: int | None = None) -> ModelConfig:
    """A model with another depth, and the width in proportion, or as given.

    The size of a head stays, the number of heads follows; a feed-forward width that is given stays
    in proportion, and so does the number of key/value heads, as far as it can.

    Raises `UsageError` if the width is no multiple of the size of a head.
    """
    head = model.head_dim
    if width is None:
        width = max(1, round(model.hidden_dim / model.num_layers * layers / head)) * head
    if width % head:
        raise UsageError(f"A width of {width} is no multiple of the size of a head, {head}.")
    heads, group = width // head, model.num_heads // model.num_kv_heads
    changes = {"num_layers": layers, "hidden_dim": width, "num_heads": heads}
    if "num_kv_heads" in model.model_fields_set:
        changes["num_kv_heads"] = heads // group if heads % group == 0 else heads
    if "intermediate_dim" in model.model_fields_set:
        scaled = model.intermediate_dim * width / model.hidden_dim
        changes["intermediate_dim"] = max(8, round(scaled / 8) * 8)
    return model.model_copy(update=changes)


def parse_sizes(text: str) -> list[tuple[int, int | None]]:
    """Layers and widths.

    >>> parse_sizes("2,4,6x192")
    [(2, None), (4, None), (6, 192)]
    """
    sizes: list[tuple[int, int | None]] = []
    try:
        for part in text.split(","):
            layers, _, width = part.partition("x")
            sizes.append((int(layers), int(width) if width else None))
            if min(number for number in sizes[-1] if number is not None) < 1:
                raise ValueError
    except ValueError:
        raise UsageError(
            f"--sizes should be numbers of layers, or LAYERSxWIDTH, as in 2,4,6x192, not {text!r}."
        ) from None
    return sizes


def parse_tokens(text: str) -> list[float]:
    """Numbers of tokens, with k, M or G.

    >>> parse_tokens("500k,2M,1e7")
    [500000.0, 2000000.0, 10000000.0]
    """
    factors = {"k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
    try:
        found = [
            float(part.rstrip("kMGB")) * factors.get(part.strip()[-1:], 1.0)
            for part in text.split(",")
        ]
        if min(found) < 1:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--tokens should be numbers of tokens, as in 500k,2M,8M, not {text!r}."
        ) from None
    return found


def members(
    config: Config, name: str, sizes: Sequence[tuple[int, int | None]], tokens: Sequence[float]
) -> list[Member]:
    """A run for each size and number of tokens, the cheapest first.

    The schedule of each run ends with the run, so that its last loss is that of its tokens. A
    warm-up is at most a tenth of it.

    Raises `UsageError` if two runs would be the same.
    """
    made = [
        _member(config, name, layers, width, total) for layers, width in sizes for total in tokens
    ]
    names = [member.name for member in made]
    if twice := next((one for one in names if names.count(one) > 1), None):
        raise UsageError(f"Two runs would be called {twice}; give sizes and tokens that differ.")
    return sorted(made, key=_cost)


def _member(config: Config, name: str, layers: int, width: int | None, tokens: float) -> Member:
    model, train = resize(config.model, layers, width), config.train
    length = train.sequence_length or model.max_length
    steps = max(1, round(tokens / (train.batch_size * train.grad_accumulation * length)))
    changes = {
        "max_steps": steps,
        "decay_steps": None,
        "warmup_steps": min(train.warmup_steps, steps // MAX_WARMUP_SHARE),
        "eval_every": min(train.eval_every or steps, steps),
    }
    changed = config.model_copy(update={"model": model, "train": train.model_copy(update=changes)})
    return Member(f"{name}-{layers}x{model.hidden_dim}-{count(tokens)}", changed)


def _cost(member: Member) -> float:
    model, train = member.config.model, member.config.train
    return float(model.num_layers * model.hidden_dim**2 * train.max_steps)
