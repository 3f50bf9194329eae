"""The adapter in a folder, of whatever kind. No Keras here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kgpt.checkpoints.bottleneck_format import BottleneckAdapter
from kgpt.checkpoints.peft_format import ADAPTER_CONFIG, PeftAdapter
from kgpt.checkpoints.prefix_format import PrefixAdapter
from kgpt.config import ModelConfig
from kgpt.config.adapters import AdapterConfig
from kgpt.text.special_tokens import read_json_object


class StoredAdapter(Protocol):
    """An adapter that was read from a folder."""

    def config(self) -> AdapterConfig:
        """What it was made with."""

    def variables(self) -> dict[str, np.ndarray]:
        """Its values by the paths of kgpt's variables, in their orientation."""

    @property
    def description(self) -> dict[str, Any]:
        """Its kind, as "kind", and its size by name."""


KINDS: dict[str, Callable[[Path, ModelConfig], StoredAdapter]] = {
    "BOTTLENECK": BottleneckAdapter,
    "PREFIX_TUNING": PrefixAdapter,
}


def read_adapter(folder: Path, config: ModelConfig) -> StoredAdapter:
    """The adapter in `folder`, for a model of `config`.

    Raises:
        CheckpointError: it is damaged, does not fit the model, or is of an unsupported kind.
    """
    kind = read_json_object(folder / ADAPTER_CONFIG).get("peft_type")
    return KINDS.get(str(kind), PeftAdapter)(folder, config)
