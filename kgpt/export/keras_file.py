"""A `.keras` file: the model for those who program with Keras."""

from __future__ import annotations

from pathlib import Path

from kgpt.checkpoints.pretrained import load_model
from kgpt.errors import UsageError
from kgpt.text.tokenizer import Tokenizer


def export_keras(folder: Path, out: Path, dtype: str | None = None) -> None:
    """Write model.keras and tokenizer.json into the empty folder `out`.

    `import kgpt.model.gpt` before `keras.saving.load_model` makes the layers known.
    """
    if dtype not in (None, "float32"):
        raise UsageError(f"A .keras file holds float32 weights, not {dtype}.")
    load_model(folder).save(out / "model.keras")
    Tokenizer.load(folder).save(out)
