"""Folders of bottleneck adapters, as LLM-Adapters (Hu et al., 2023) extends PEFT. No Keras here.

- adapter_config.json: `peft_type` "BOTTLENECK", `bottleneck_size`, `non_linearity`, `scaling`,
  `adapter_dropout`, the modules on whose output there is an adapter
- adapter_model.safetensors: of each module adapter_down (size, D) and adapter_up (D, size)

PEFT itself has no such method.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.adapter_keys import COMMON_KEYS, check_keys, common_values
from kgpt.checkpoints.lora_modules import projections, shortest_names
from kgpt.checkpoints.peft_format import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PREFIX,
)
from kgpt.checkpoints.safetensors_io import open_file, write_arrays
from kgpt.config import BottleneckConfig, ModelConfig
from kgpt.errors import CheckpointError, UsageError
from kgpt.files import write_json
from kgpt.text.special_tokens import read_json_object

PARTS = ("down", "up")
KEYS = COMMON_KEYS | {
    "bottleneck_size", "non_linearity", "adapter_dropout", "scaling", "target_modules",
    "init_weights",
}  # fmt: skip


class BottleneckAdapter:
    """The bottleneck adapters in `folder`, for a model of `config`.

    Raises:
        CheckpointError: they are damaged, do not fit the model, or are of an unsupported kind.
    """

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self.file, self.model = folder / ADAPTER_WEIGHTS, config
        self.values = read_json_object(folder / ADAPTER_CONFIG)
        check_keys(folder / ADAPTER_CONFIG, self.values, KEYS)
        self._entries = open_file(self.file)

    def config(self) -> BottleneckConfig:
        """What the adapters were made with."""
        values, known = self.values, adapted_modules(self.model, "houlsby")
        of_mlp = adapted_modules(self.model, "pfeiffer")
        has_attention = any(f"{known[path]}." in name for name in self._entries for path in known
                            if path not in of_mlp)  # fmt: skip
        options = {
            "size": values.get("bottleneck_size"),
            "placement": "houlsby" if has_attention else "pfeiffer",
            "activation": values.get("non_linearity"),
            "scaling": values.get("scaling", 1.0),
            "dropout": values.get("adapter_dropout") or 0.0,
        }
        try:
            return BottleneckConfig.parse(options)
        except UsageError as error:
            file = self.file.with_name(ADAPTER_CONFIG)
            raise CheckpointError(f"{file} does not describe adapters: {error}") from None

    def variables(self) -> dict[str, np.ndarray]:
        """Their values by the paths of kgpt's variables: (D, size) and (size, D)."""
        config = self.config()
        names = {
            f"{PREFIX}{module}.adapter_{part}.weight": f"{path}_adapter_{part}"
            for path, module in adapted_modules(self.model, config.placement).items()
            for part in PARTS
        }
        if set(names) != set(self._entries):
            name = min(set(names) ^ set(self._entries))
            what = "lacks" if name in names else "has no place for"
            raise CheckpointError(
                f"{self.file} {what} the tensor {name}: kgpt reads adapters on the outputs of "
                "every MLP, and of every attention or none."
            )
        width, size = self.model.hidden_dim, config.size
        shapes = {"down": (size, width), "up": (width, size)}
        for name, path in names.items():
            expected, found = shapes[path.rpartition("_")[2]], self._entries[name].shape
            if found != expected:
                raise CheckpointError(
                    f"{name} in {self.file} has shape {list(found)}, but its {ADAPTER_CONFIG} and "
                    f"the base model require {list(expected)}."
                )
        return {
            path: np.asarray(self._entries[name].read(), "float32").T
            for name, path in names.items()
        }

    @property
    def description(self) -> dict[str, Any]:
        """What `kgpt info` shows."""
        config = self.config()
        return {
            "kind": "bottleneck adapter",
            "bottleneck_size": config.size,
            "modules": len(self._entries) // len(PARTS),
        }


def adapted_modules(config: ModelConfig, placement: str) -> dict[str, str]:
    """The modules on whose output there is an adapter, by path of kgpt's product."""
    ends = ("attention/output", "mlp/down") if placement == "houlsby" else ("mlp/down",)
    return {
        projection.path: projection.module
        for projection in projections(config).values()
        if projection.path.endswith(ends)
    }


def write_bottlenecks(
    folder: Path,
    config: ModelConfig,
    options: BottleneckConfig,
    base: str,
    variables: Mapping[str, np.ndarray],
) -> None:
    """Write adapters, given by the paths of kgpt's variables, to the existing `folder`.

    Args:
        config: of the base model.
        base: becomes `base_model_name_or_path`.
    """
    modules = adapted_modules(config, options.placement)
    values = common_values("BOTTLENECK", base) | {
        "bottleneck_size": options.size,
        "non_linearity": options.activation,
        "adapter_dropout": options.dropout,
        "scaling": options.scaling,
        "target_modules": shortest_names(modules.values(), projections(config)),
        "use_parallel_adapter": False,
        "bias": "none",
    }
    tensors = {
        f"{PREFIX}{module}.adapter_{part}.weight": np.ascontiguousarray(
            variables[f"{path}_adapter_{part}"].T
        )
        for path, module in modules.items()
        for part in PARTS
    }
    write_arrays(folder / ADAPTER_WEIGHTS, tensors)
    write_json(folder / ADAPTER_CONFIG, values)
