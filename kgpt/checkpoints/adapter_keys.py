"""The keys of adapter_config.json, by which PEFT describes an adapter. No Keras here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kgpt.errors import CheckpointError

# Those with which an adapter computes what kgpt computes, whatever the value.
COMMON_KEYS = frozenset((
    "auto_mapping", "base_model_name_or_path", "bias", "inference_mode", "peft_type",
    "peft_version", "revision", "task_type",
))  # fmt: skip
LORA_KEYS = COMMON_KEYS | {
    "alpha_pattern", "corda_config", "ensure_weight_tying", "ephemeral_gpu_offload", "eva_config",
    "exclude_modules", "fan_in_fan_out", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config",
    "megatron_core", "qalora_group_size", "r", "rank_pattern", "runtime_config", "target_modules",
    "use_dora", "use_rslora",
}  # fmt: skip
UNMERGED_KINDS = ("BOTTLENECK", "PREFIX_TUNING")
HARMLESS_INITS = (True, False, None, "gaussian", "eva", "orthogonal")  # others change the base


def check_keys(file: Path, values: Mapping[str, Any], harmless: Collection[str]) -> None:
    """Raise `CheckpointError` if a key asks for what kgpt does not compute."""
    used = [key for key, value in values.items() if value and key not in harmless]
    if values.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise CheckpointError(f"{file} has {used[0]} {values[used[0]]!r}, which kgpt cannot do.")


def common_values(kind: str, base: str) -> dict[str, Any]:
    """The keys that every adapter_config.json has."""
    return {
        "peft_type": kind,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": None,
        "inference_mode": True,
    }
