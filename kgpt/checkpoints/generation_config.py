"""generation_config.json: the default sampling of a model, in the words of transformers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kgpt.checkpoints.peft_format import base_folder
from kgpt.config import SamplingConfig
from kgpt.text.special_tokens import read_json_object

GENERATION_CONFIG = "generation_config.json"
# Options that generation_config.json and kgpt name alike, with the same meaning.
SHARED = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
DISABLED = {"min_p": 0.0, "typical_p": 1.0}  # the same in other software, so left out
NEEDS_TO_BE_POSITIVE = ("top_p", "typical_p", "repetition_penalty")


def generation_file(folder: Path) -> Path:
    """The generation_config.json of a model directory, or of an adapter or its base model."""
    own = folder / GENERATION_CONFIG
    return own if own.is_file() else base_folder(folder) / GENERATION_CONFIG


def load_sampling(folder: Path) -> SamplingConfig:
    """The sampling of generation_config.json, with kgpt's defaults for what it leaves out.

    Values that mean "off" in other software do so here: null everywhere, -1 or 0 as `top_k`, and 0
    where only a positive value has a meaning.
    """
    file = generation_file(folder)
    values = read_json_object(file)
    options = {name: values[name] for name in SHARED if not _is_off(name, values.get(name))}
    if not _is_off("max_tokens", values.get("max_new_tokens")):
        options["max_tokens"] = values["max_new_tokens"]
    if values.get("do_sample") is False:
        options["temperature"] = 0
    return SamplingConfig.parse(options, str(file))


def _is_off(name: str, value: Any) -> bool:
    if value is None:
        return True
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    limit = 0 if name in (*NEEDS_TO_BE_POSITIVE, "top_k", "max_tokens") else -1
    return is_number and value <= limit


def generation_config(
    stop_ids: Iterable[int],
    sampling: SamplingConfig | None,
    kept: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The contents of generation_config.json.

    Args:
        stop_ids: ids that end generation.
        sampling: the default sampling; None says nothing about it.
        kept: contents of another such file, which stay as they are.
    """
    values: dict[str, Any] = {"eos_token_id": sorted(stop_ids)} | (kept or {})
    if sampling is None:
        return values
    if sampling.temperature == 0:
        return values | {"do_sample": False}
    options = {name: getattr(sampling, name) for name in SHARED}
    options = {name: value for name, value in options.items() if DISABLED.get(name) != value}
    return values | {"do_sample": True} | options
