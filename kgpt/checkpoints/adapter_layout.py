"""The adapters of a model and how they are stored, of every kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.bottleneck_format import write_bottlenecks
from kgpt.checkpoints.lora_modules import matches
from kgpt.checkpoints.peft_format import write_adapter
from kgpt.checkpoints.prefix_format import write_prefix
from kgpt.checkpoints.stored_adapter import read_adapter
from kgpt.config import BottleneckConfig, LoraConfig, ModelConfig, PrefixConfig
from kgpt.config.adapters import AdapterConfig
from kgpt.errors import CheckpointError, UsageError
from kgpt.model.adapters import adapter_weights
from kgpt.model.gpt import GPT
from kgpt.model.lora import Adapter, Lora

PARTS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")


@dataclass(frozen=True)
class AdapterLayout:
    """How the adapters of a model are stored; independent of the model and its values.

    Attributes:
        config: of the base model. adapter: the options of the adapters.
        base: what adapter_config.json calls the base model.
        modules: of LoRA: rank and alpha by module.
        paths: of LoRA: the variable that each tensor is the transpose of.
    """

    config: ModelConfig
    adapter: AdapterConfig
    base: str
    modules: dict[str, tuple[int, float]]
    paths: dict[str, str]

    @classmethod
    def of(cls, model: GPT, base_model: str | Path | None = None) -> AdapterLayout:
        """That of a model with adapters, whose base is what it was loaded from if not given."""
        config, base = adapter_config_of(model), base_model or model.name_or_path
        if base is None:
            raise UsageError("Say where the base model is: save_adapter(..., base_model=...).")
        base = str(Path(base).resolve()) if Path(base).is_dir() else str(base)
        modules: dict[str, tuple[int, float]] = {}
        paths: dict[str, str] = {}
        for adapter in lora_adapters(model):
            assert isinstance(config, LoraConfig), "its adapters are LoRA"
            module = adapter.spec.module
            modules[module] = (adapter.spec.rank, alpha_of(module, config))
            for part, variable in zip(PARTS, adapter.variables, strict=False):
                paths[f"{module}.{part}"] = _path(variable)
        return cls(model.config, config, base, modules, paths)

    @property
    def kind(self) -> str:
        """By the name that PEFT has for it."""
        names = {PrefixConfig: "PREFIX_TUNING", BottleneckConfig: "BOTTLENECK", LoraConfig: "LORA"}
        return names[type(self.adapter)]

    def write(self, folder: Path, variables: Mapping[str, np.ndarray]) -> None:
        """Write the values of the variables, given by path, to the existing `folder`."""
        if isinstance(self.adapter, PrefixConfig):
            write_prefix(folder, self.config, self.base, variables)
        elif isinstance(self.adapter, BottleneckConfig):
            write_bottlenecks(folder, self.config, self.adapter, self.base, variables)
        else:
            tensors = {
                name: np.ascontiguousarray(variables[path].T) for name, path in self.paths.items()
            }
            write_adapter(folder, self.config, self.adapter, self.base, self.modules, tensors)


def assign_adapter(model: GPT, folder: Path) -> None:
    """Assign the values of an adapter's folder to the same adapters of a model."""
    saved, variables = read_adapter(folder, model.config), adapter_variables(model)
    values = saved.variables()
    if {path: tuple(v.shape) for path, v in variables.items()} != {
        path: value.shape for path, value in values.items()
    }:
        raise CheckpointError(f"{folder} has adapters of other modules or sizes than the model.")
    for path, variable in variables.items():
        variable.assign(values[path])


def adapter_variables(model: GPT) -> dict[str, Any]:
    """The variables of a model's adapters by path."""
    adapter_config_of(model)
    return {_path(variable): variable for _, variable in adapter_weights(model)}


def adapter_config_of(model: GPT) -> AdapterConfig:
    """The options of a model's adapters; `UsageError` if it has none."""
    if model.adapter_config is None:
        raise UsageError("The model has no adapters; kgpt.add_lora adds them.")
    return model.adapter_config


def lora_adapters(model: GPT) -> list[Adapter]:
    loras = [linear.adapter for linear in model.linears if isinstance(linear.adapter, Lora)]
    return [adapter for lora in loras for adapter in lora.adapters]


def _path(variable: Any) -> str:
    return str(variable.path).partition("/")[2]


def alpha_of(module: str, config: LoraConfig) -> float:
    return by_pattern(module, config.alpha_pattern, config.alpha)


def by_pattern(module: str, patterns: Mapping[str, float], default: float) -> float:
    found = (value for pattern, value in patterns.items() if matches(module, pattern))
    return next(found, default)
