"""Which options may change when a run is resumed.

A checkpoint holds weights of certain shapes and the state of a certain optimizer. What either
depends on is fixed, and so is what decides which losses can be compared. All else may change.
"""

from __future__ import annotations

from typing import Any

from kgpt.config.loading import Config
from kgpt.config.overrides import options

FIXED = ("train.optimizer", "data.assistant_only_loss", "data.packing")
FIXED_SECTIONS = (
    "model", "finetune", "lora", "bottleneck", "prefix", "preference", "classification", "distill",
)  # fmt: skip
FREE = (  # of these sections
    "model.dropout", "model.initializer_range", "lora.dropout", "bottleneck.dropout",
)  # fmt: skip
LEFT_TO_DATA = ("vocab_size", "assistant_only_loss", "packing")
Changes = dict[str, tuple[Any, Any]]


def config_changes(before: Config, after: Config) -> Changes:
    """Each option that differs, as {"section.key": (before, after)}.

    Derived values count with the values that they have. What was left to the data set does not
    count.

    >>> config_changes(Config(), Config.parse({"train": {"seed": 1}}))
    {'train.seed': (1337, 1)}
    """
    changes: Changes = {}
    for section, key, _ in options():
        old, new = (getattr(getattr(config, section), key) for config in (before, after))
        if old != new and (key not in LEFT_TO_DATA or None not in (old, new)):
            changes[f"{section}.{key}"] = old, new
    return changes


def is_fixed(key: str, before: Any, after: Any) -> bool:
    """Whether a run cannot be resumed with this change of the option `key`.

    >>> is_fixed("train.learning_rate", 1e-3, 1e-4), is_fixed("model.num_layers", 2, 4)
    (False, True)
    """
    if key == "train.ema_decay":
        return not before  # the checkpoint has no EMA
    if key == "train.precision":
        return "float16" in (before, after)  # whose loss scaling is part of the optimizer's state
    return key in FIXED or (key.partition(".")[0] in FIXED_SECTIONS and key not in FREE)
