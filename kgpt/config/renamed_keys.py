"""Former names of keys in run.yaml and preset files, which are migrated when they are read.

Elsewhere a former name is an unknown key, and the current one is suggested.
"""

from __future__ import annotations

from typing import Any

RENAMED_KEYS = {
    "banned": "bad_words",
    "clip_norm": "max_grad_norm",
    "ema": "ema_decay",
    "replies_only": "assistant_only_loss",
}


def with_renamed_keys(values: dict[str, Any]) -> dict[str, Any]:
    """The keys of one section with current names; a current name beside a former one wins.

    >>> with_renamed_keys({"clip_norm": 0.5, "seed": 1})
    {'max_grad_norm': 0.5, 'seed': 1}
    """
    renamed: dict[str, Any] = {}
    for name, value in values.items():
        new_name = RENAMED_KEYS.get(name, name)
        if new_name == name or new_name not in values:
            renamed[new_name] = value
    return renamed


def current_name(name: str) -> str:
    """The current name of a key or flag: "--train.ema" becomes "--train.ema-decay"."""
    head, dot, key = name.removeprefix("--").rpartition(".")
    new = RENAMED_KEYS.get(key.replace("-", "_"), key)
    return f"--{head}{dot}{new.replace('_', '-')}" if name.startswith("--") else head + dot + new
