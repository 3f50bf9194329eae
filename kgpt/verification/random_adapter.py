"""A random LoRA adapter, to verify that it computes the same merged and not merged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kgpt.checkpoints.lora_modules import projections
from kgpt.checkpoints.peft_format import base_folder, write_adapter
from kgpt.checkpoints.pretrained import load_config
from kgpt.config import LoraConfig

RANK, ALPHA = 4, 8.0
STRENGTH = 0.1  # standard deviation of what the adapter adds to a module's normal output


def write_random_adapter(folder: Path, target: Path) -> Path:
    """Write an adapter of all linear modules of the model in `folder` to `target`."""
    config, rng = load_config(folder), np.random.default_rng(0)
    known = projections(config)
    tensors: dict[str, np.ndarray] = {}
    for name, module in known.items():
        a = rng.normal(0, module.inputs**-0.5, (RANK, module.inputs))
        b = rng.normal(0, STRENGTH * RANK**0.5 / ALPHA, (module.outputs, RANK))
        tensors[f"{name}.lora_A.weight"] = a.astype("float32")
        tensors[f"{name}.lora_B.weight"] = b.astype("float32")
    target.mkdir()
    modules = dict.fromkeys(known, (RANK, ALPHA))
    lora = LoraConfig(rank=RANK, alpha=ALPHA)
    write_adapter(target, config, lora, str(base_folder(folder).resolve()), modules, tensors)
    return target
