"""Quantize: a model directory stored anew in 8 or 4 bits, and what that costs in perplexity."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from kgpt.checkpoints.hf_config import model_type_of
from kgpt.checkpoints.pretrained import FORMER_NAMES, TRAINER_STATE, load_config
from kgpt.checkpoints.quantized import (
    FILES,
    bits_of,
    is_transposed,
    quantization_of,
)
from kgpt.checkpoints.weight_map import Stored, layout
from kgpt.checkpoints.weights import Weights
from kgpt.data.sampler import evaluation_batch, num_evaluation_batches
from kgpt.data.shards import TokenStream
from kgpt.errors import CheckpointError, UsageError
from kgpt.files import sha256, write_json
from kgpt.model.quantization import GROUP_SIZE, quantize_int4, quantize_int8

LARGEST = 65504.0  # of any weight; float16 holds its scale
NOT_COPIED = (
    "config.json", "checksums.json", "model.safetensors.index.json",
    TRAINER_STATE, FORMER_NAMES[TRAINER_STATE],
)  # fmt: skip


def write_quantized(source: Path, work: Path, bits: int) -> None:
    """Store the model directory `source` in the empty folder `work`, in `bits` bits.

    Raises:
        UsageError: `source` is quantized already.
        CheckpointError: `source` is damaged.
    """
    if quantization_of(source) is not None:
        raise UsageError(f"{source} is quantized already; give the model that it was made from.")
    config = load_config(source)
    weights = Weights(source, config)
    tensors: dict[str, np.ndarray] = {}
    for stored in layout(config, model_type_of(config)):
        for name, _, _ in stored.tensors():
            tensors |= _stored_as(name, weights.tensor(name), stored, bits)
    save_file(tensors, work / FILES[bits], metadata={"format": "kgpt"})
    facts = {"bits": bits, "group": GROUP_SIZE if bits == 4 else None}
    facts["sha256"] = sha256(work / FILES[bits])
    values = json.loads((source / "config.json").read_text(encoding="utf-8"))
    values["kgpt"] = (values.get("kgpt") or {}) | {"quantization": facts}
    write_json(work / "config.json", values)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja", ".txt") and file.name not in NOT_COPIED:
            shutil.copyfile(file, work / file.name)


def _stored_as(name: str, value: np.ndarray, stored: Stored, bits: int) -> dict[str, np.ndarray]:
    """The tensors that take the place of the tensor `name`."""
    kept = bits_of(stored, value.shape, bits)
    if kept is None:
        return {name: np.array(value, "float32")}
    flipped = is_transposed(stored)
    matrix = np.array(value.T if flipped else value, "float32", order="C")
    if not np.abs(matrix).max(initial=0) <= LARGEST:
        raise CheckpointError(
            f"The tensor {name} holds values that are no numbers, or above {LARGEST:g}."
        )
    q, scale = quantize_int4(matrix) if kept == 4 else quantize_int8(matrix)
    key = f"{name}.int{kept}{'.T' if flipped else ''}"
    return {key: q, f"{key}.scale": scale}


def perplexity(
    folder: Path,
    stream: TokenStream,
    most: int,
    loss_mask: TokenStream | None = None,
    batch_size: int = 4,
) -> float:
    """exp(mean loss) of a model directory over the first `most` tokens of `stream`.

    Windows of the model's whole context lie side by side. With `loss_mask` only those tokens
    count.
    """
    from kgpt.checkpoints.pretrained import load_model
    from kgpt.training.losses import NextTokenLoss

    model = load_model(folder)
    model.compile(loss=NextTokenLoss())
    length = min(model.config.max_length, max(1, len(stream) - 1))
    count = min(
        num_evaluation_batches(stream, length, batch_size), -(-most // (length * batch_size))
    )
    total = tokens = 0.0
    for index in range(count):
        inputs, targets, weights = evaluation_batch(stream, length, batch_size, index, loss_mask)
        loss = model.test_on_batch(inputs, targets, sample_weight=weights, return_dict=True)["loss"]
        model.reset_metrics()
        total, tokens = total + float(loss) * weights.sum(), tokens + weights.sum()
    return math.exp(min(total / max(1.0, tokens), 700.0))


def validation_tokens(source: str, folder: Path) -> tuple[TokenStream, TokenStream | None]:
    """What perplexity is measured on: a data set's validation part, or a text file.

    Of conversations only what the assistant says counts: the second result says where.

    Raises:
        UsageError: there is too little of it, or it was made with another tokenizer.
    """
    from kgpt.data.shards import TokenDataset
    from kgpt.text.tokenizer import Tokenizer

    tokenizer, loss_mask = Tokenizer.load(folder), None
    if Path(source).is_file():
        text = Path(source).read_text(encoding="utf-8", errors="replace")
        stream = TokenStream([np.array(tokenizer.encode(text), dtype="int64")])
    else:
        data = TokenDataset(source)
        if data.tokenizer.fingerprint != tokenizer.fingerprint:
            raise UsageError(
                f"{source} was made with another tokenizer than the model's; give a text file, or "
                f"prepare the text with --tokenizer {folder}."
            )
        stream, loss_mask = data.tokens("val"), data.loss_mask("val")
    if len(stream) < 2:
        raise UsageError(f"{source} holds no text to measure perplexity on; give more.")
    return stream, loss_mask
