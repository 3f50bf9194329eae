"""Export to a `.keras` file, for Keras programs."""

from __future__ import annotations

from pathlib import Path

from kgpt.checkpoints.classifier_head import ClassifierHead
from kgpt.checkpoints.classifiers import load_classifier
from kgpt.checkpoints.pretrained import load_model, load_tokenizer
from kgpt.errors import UsageError


def export_keras(folder: Path, out: Path, dtype: str | None = None) -> None:
    """Write model.keras and tokenizer.json to the empty folder `out`.

    `keras.saving.load_model` reads it after `import kgpt`.
    """
    if dtype not in (None, "float32"):
        raise UsageError(f"A .keras file has float32 weights, not {dtype}; leave out --dtype.")
    load = load_model if ClassifierHead.load(folder) is None else load_classifier
    load(folder).save(out / "model.keras")
    load_tokenizer(folder).save(out)
