"""A model directory for the Hugging Face ecosystem, streamed from one folder into another.

One weight is in memory at a time, and no backend is loaded.
"""

from __future__ import annotations

from pathlib import Path

from kgpt.checkpoints.hf_config import model_type_of
from kgpt.checkpoints.pretrained import load_config, load_sampling, write_config
from kgpt.checkpoints.weights import Weights, write_weights
from kgpt.errors import CheckpointError
from kgpt.text.tokenizer import Tokenizer


def export_hugging_face(folder: Path, out: Path, dtype: str | None = None) -> None:
    """Write the model of `folder` into the empty folder `out`; stored as before without `dtype`.

    Raises `CheckpointError` if no family that others know can express the model.
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
    """Rewrite the model of `folder` in kgpt's layout into the empty folder `out`."""
    config = load_config(folder)
    weights = Weights(folder, config)
    dtype = dtype or weights.dtype
    sampling = load_sampling(folder) if (folder / "generation_config.json").is_file() else None
    write_config(out, config, tokenizer or Tokenizer.load(folder), sampling, dtype)
    write_weights(out, config, weights.read, dtype)
