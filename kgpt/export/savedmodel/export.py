"""Export to a SavedModel: the whole text generator, or classifier, as one TensorFlow graph.

A child process on the TensorFlow backend builds and traces the model, whichever backend it was
trained on and whichever this process runs: python -m kgpt.export.savedmodel.export MODEL OUT DTYPE.
The last line of its standard output is a JSON object: {"missing": {reason: [signature]}}, or
{"error": sentence}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kgpt.errors import KgptError

if TYPE_CHECKING:
    from kgpt.export.savedmodel.served_model import ServedModel


def export_saved_model(folder: Path, out: Path, dtype: str | None = None) -> None:
    """Write the model of `folder` as a SavedModel to the empty folder `out`.

    Args:
        dtype: of weights and computation: float32 (also if not given), bfloat16 or float16.

    Raises:
        KgptError: the export failed; the message says why.
    """
    overrides = {
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",  # the graph runs on any device, and tracing needs none
    }
    # The allocator settings of training would keep memory that the child needs.
    inherited = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    child = subprocess.run(
        [
            sys.executable,
            "-m",
            "kgpt.export.savedmodel.export",
            str(folder),
            str(out),
            dtype or "float32",
        ],
        env=inherited | overrides,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    lines = child.stdout.splitlines()
    report = json.loads(lines[-1]) if lines else {}
    if child.returncode != 0 or "error" in report:
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        raise KgptError(report.get("error") or f"The SavedModel could not be written: {last}.")
    for reason, names in report["missing"].items():
        print(f"without {', '.join(names)}: {reason}")


def write_saved_model(folder: Path, out: Path, dtype: str = "float32") -> dict[str, list[str]]:
    """Write the SavedModel in this process; returns the missing signatures by reason."""
    import tensorflow as tf

    from kgpt.export.savedmodel.assets import write_assets

    served = load_served_model(folder, dtype)
    tf.saved_model.save(served.state, str(out), served.signatures)
    write_assets(folder, out, served)
    missing: dict[str, list[str]] = {}
    for name, reason in served.missing.items():
        missing.setdefault(reason, []).append(name)
    return missing


def load_served_model(folder: Path, dtype: str = "float32") -> ServedModel:
    """The model of `folder` on the TensorFlow backend: a generator's or a classifier's."""
    from kgpt.checkpoints.classifier_head import ClassifierHead
    from kgpt.checkpoints.classifiers import load_classifier
    from kgpt.checkpoints.generation_config import load_sampling
    from kgpt.checkpoints.pretrained import load_model, load_tokenizer
    from kgpt.export.savedmodel.classifier import ServedClassifier
    from kgpt.export.savedmodel.signatures import ServedGenerator

    tokenizer = load_tokenizer(folder)
    if ClassifierHead.load(folder) is not None:
        return ServedClassifier(load_classifier(folder, dtype=dtype), tokenizer)
    return ServedGenerator(load_model(folder, dtype=dtype), tokenizer, load_sampling(folder))


def main(arguments: list[str]) -> None:
    """The child process."""
    folder, out, dtype = arguments
    report: dict[str, Any]
    try:
        report = {"missing": write_saved_model(Path(folder), Path(out), dtype)}
    except KgptError as error:
        report = {"error": str(error)}
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
