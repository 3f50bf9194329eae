"""From one model directory to another: storage dtype, tokenizer, quantization.

Copying holds one weight in memory at a time, and no backend is loaded.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from kgpt.checkpoints.classifier_head import ClassifierHead
from kgpt.checkpoints.generation_config import generation_file
from kgpt.checkpoints.hf_config import model_type_of
from kgpt.checkpoints.model_card import copy_card
from kgpt.checkpoints.peft_format import ADAPTER_CONFIG, base_folder
from kgpt.checkpoints.pretrained import (
    FORMER_NAMES,
    TRAINER_STATE,
    load_config,
    load_tokenizer,
    write_config,
)
from kgpt.checkpoints.quantized import FILES, quantization_of, quantize_tensor
from kgpt.checkpoints.safetensors_io import INDEX_FILE
from kgpt.checkpoints.weight_map import tensor_mappings
from kgpt.checkpoints.weights import Weights, write_weights
from kgpt.errors import CheckpointError, UsageError
from kgpt.files import sha256, write_json
from kgpt.model.quantization import GROUP_SIZE
from kgpt.text.special_tokens import read_json_object
from kgpt.text.tokenizer import Tokenizer

NOT_COPIED = (
    "config.json", "checksums.json", ADAPTER_CONFIG, INDEX_FILE, TRAINER_STATE,
    FORMER_NAMES[TRAINER_STATE],
)  # fmt: skip


def export_hugging_face(folder: Path, out: Path, dtype: str | None = None) -> None:
    """Write the model of `folder` to the empty folder `out`; in its own dtype if not given.

    Raises `CheckpointError` if no Hugging Face `model_type` can express the model.
    """
    if model_type_of(load_config(folder)) == "kgpt":
        raise CheckpointError(
            f"{folder} mixes parts of GPT-2 and Llama in a way that only kgpt can run, so there is "
            "no Hugging Face form of it; the formats onnx and keras work."
        )
    copy_model(folder, out, dtype)


def copy_model(
    folder: Path, out: Path, dtype: str | None = None, tokenizer: Tokenizer | None = None
) -> None:
    """Write the model of `folder`, in any readable layout, to the empty folder `out`."""
    config, head = load_config(folder), ClassifierHead.load(folder)
    num_labels = head.num_labels if head else None
    weights = Weights(folder, config, num_labels)
    dtype = dtype or weights.dtype
    kept = read_json_object(generation_file(folder))
    values = head.as_config(config) if head else {}
    write_config(out, config, tokenizer or load_tokenizer(folder), None, dtype, kept, **values)
    write_weights(out, config, weights.read, dtype, num_labels=num_labels)
    copy_card(folder, out, config)


def quantize_model(folder: Path, out: Path, bits: int) -> None:
    """Write the model of `folder` to the empty folder `out`, in `bits` (8 or 4) bits a weight.

    Raises:
        UsageError: `folder` is quantized already.
        CheckpointError: `folder` is damaged.
    """
    if quantization_of(folder) is not None:
        raise UsageError(f"{folder} is quantized already; give the model that it was made from.")
    config, head = load_config(folder), ClassifierHead.load(folder)
    num_labels = head.num_labels if head else None
    weights = Weights(folder, config, num_labels)
    tensors: dict[str, np.ndarray] = {}
    for mapping in tensor_mappings(config, model_type_of(config), num_labels):
        for name, _, _ in mapping.tensors():
            tensors |= quantize_tensor(name, weights.tensor(name), mapping, bits)
    save_file(tensors, out / FILES[bits], metadata={"format": "kgpt"})
    quantization = {
        "bits": bits,
        "group": GROUP_SIZE if bits == 4 else None,
        "sha256": sha256(out / FILES[bits]),
    }
    base = base_folder(folder)
    values = json.loads((base / "config.json").read_text(encoding="utf-8"))
    values["kgpt"] = (values.get("kgpt") or {}) | {"quantization": quantization}
    write_json(out / "config.json", values)
    for file in (*base.iterdir(), *(folder.iterdir() if folder != base else ())):
        if file.suffix in (".json", ".jinja", ".txt") and file.name not in NOT_COPIED:
            shutil.copyfile(file, out / file.name)
    copy_card(folder, out, config)
