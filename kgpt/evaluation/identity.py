"""What identifies a model in an evaluation: its files' SHA-256 and its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kgpt.checkpoints.peft_format import base_folder, tokenizer_folder
from kgpt.checkpoints.pretrained import load_config
from kgpt.files import sha256
from kgpt.generation.receipt import digest_of, digest_of_files

FILES = ("config.json", "tokenizer.json")


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
    """One hash of weights, architecture and tokenizer of a model; of an adapter, its base's too."""
    places = dict.fromkeys((folder, base_folder(folder), tokenizer_folder(folder)))
    files = [place / name for place in places for name in FILES]
    described = [(file.name, sha256(file)) for file in files if file.is_file()]
    return digest_of([digest_of_files(folder), *described])
