"""The kinds of adapters that a model may have beside its frozen weights."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from kgpt.config.bottleneck import BottleneckConfig
from kgpt.config.lora import LoraConfig
from kgpt.config.prefix import PrefixConfig

AdapterConfig = LoraConfig | BottleneckConfig | PrefixConfig

_ADAPTER_CONFIG: TypeAdapter[AdapterConfig] = TypeAdapter(AdapterConfig)


def parse_adapter_config(value: Any) -> AdapterConfig:
    """The options of adapters, or the whole dictionary of one of the kinds.

    >>> parse_adapter_config({"num_virtual_tokens": 4})
    PrefixConfig(num_virtual_tokens=4)
    """
    return _ADAPTER_CONFIG.validate_python(value)
