"""A SavedModel: the whole generator as a TensorFlow graph, for TensorFlow Serving and others.

The model is built and traced by a child process on the TensorFlow backend, whichever backend it
was trained on and whichever runs here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from kgpt.errors import KgptError


def export_saved_model(folder: Path, work: Path, dtype: str | None = None) -> None:
    """Write the model in `folder` as a SavedModel into the empty folder `work`.

    Args:
        dtype: of weights and computation: float32 (also when not given), bfloat16 or float16.

    Raises:
        KgptError: it could not be built; the message says why.
    """
    environment = {
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",  # the graph is for any device, and tracing needs none
    }
    # The allocator's settings for training keep memory that others could use.
    inherited = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-m", "kgpt.export.savedmodel.writer", folder, work]
    child = subprocess.run(
        [*command, dtype or "float32"],
        env=inherited | environment,
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
