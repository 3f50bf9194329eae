"""A configuration with what a plan must know of it: the architecture and the vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

from kgpt.checkpoints.hf_config import from_hugging_face
from kgpt.config import Config
from kgpt.data.shards import TokenDataset
from kgpt.errors import UsageError
from kgpt.files import os_errors_as_kgpt
from kgpt.runs import resolve_model

ASSUMED_VOCAB_SIZE = 50257  # GPT-2's, as `kgpt bench train` assumes
PLANNED = (None, "sft")  # objectives


def complete(config: Config) -> tuple[Config, list[str]]:
    """`config` with the model that is fine-tuned and a vocabulary, and what was assumed.

    Raises:
        UsageError: another objective than the next token, or no model to fine-tune, is given.
    """
    objective = config.finetune.objective
    if objective not in PLANNED:
        raise UsageError(
            f"Only pretraining and supervised fine-tuning are planned, not {objective}; measure "
            "that by a few steps of `kgpt finetune`."
        )
    if objective is not None:
        config = _with_base_model(config)
    if config.model.vocab_size is not None:
        return config, []
    size = _vocab_size(config.data.dir)
    notes = [] if size else [f"assumed: a vocabulary of {ASSUMED_VOCAB_SIZE:,}; give --data.dir"]
    model = config.model.model_copy(update={"vocab_size": size or ASSUMED_VOCAB_SIZE})
    return config.model_copy(update={"model": model}), notes


def _with_base_model(config: Config) -> Config:
    name = config.finetune.model
    if name is None:
        raise UsageError("Name the model to fine-tune: --finetune.model DIR.")
    file = resolve_model(name) / "config.json"
    with os_errors_as_kgpt(f"read {file}"):
        model = from_hugging_face(json.loads(file.read_text(encoding="utf-8")))
    return config.model_copy(update={"model": model})


def _vocab_size(folder: str | None) -> int | None:
    """The vocabulary of a prepared data set; None if there is none."""
    if folder is None or not (Path(folder) / "manifest.json").is_file():
        return None
    return TokenDataset(folder).manifest.vocab_size
