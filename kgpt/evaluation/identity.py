"""What identifies a model in an evaluation: its files' SHA-256 and its size."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from kgpt.checkpoints.peft_format import base_folder, tokenizer_folder
from kgpt.checkpoints.pretrained import load_config
from kgpt.files import sha256

FILES = ("config.json", "adapter_config.json", "tokenizer.json")


def model_identity(folder: Path) -> dict[str, Any]:
    """The hash of architecture, weights and tokenizer of a model directory, and what it is."""
    config = load_config(folder)
    return {
        "folder": str(folder.resolve()),
        "sha256": model_sha256(folder),
        "parameters": config.num_parameters(),
        "vocab_size": config.vocab_size,
        "max_length": config.max_length,
    }


def model_sha256(folder: Path) -> str:
    """One hash of all files that decide what a model computes; of an adapter, its base's too."""
    digest = hashlib.sha256()
    for place in dict.fromkeys((folder, base_folder(folder), tokenizer_folder(folder))):
        weights = sorted(place.glob("*.safetensors"))
        for file in [*(place / name for name in FILES), *weights]:
            if file.is_file() and file.name != "optimizer.safetensors":
                digest.update(f"{file.name} {sha256(file)}\n".encode())
    return digest.hexdigest()
