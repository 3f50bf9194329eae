"""The process that writes a SavedModel: python -m kgpt.export.savedmodel.writer MODEL OUT DTYPE.

Its last line on standard output is a JSON object: what is missing from the SavedModel, by reason,
or an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tensorflow as tf

from kgpt.checkpoints.pretrained import load_model, load_sampling
from kgpt.errors import KgptError
from kgpt.export.savedmodel.files import write_files
from kgpt.export.savedmodel.signatures import ServedModel
from kgpt.text.tokenizer import Tokenizer


def write_saved_model(folder: Path, out: Path, dtype: str = "float32") -> dict[str, list[str]]:
    """Write the model in `folder` into the empty folder `out`.

    Returns:
        the signatures that could not be made, by reason.
    """
    tokenizer, defaults = Tokenizer.load(folder), load_sampling(folder)
    served = ServedModel(load_model(folder, dtype=dtype), tokenizer, defaults)
    tf.saved_model.save(served.state, str(out), served.signatures)
    write_files(folder, out, served)
    missing: dict[str, list[str]] = {}
    for name, reason in served.missing.items():
        missing.setdefault(reason, []).append(name)
    return missing


def main(arguments: list[str]) -> None:
    folder, out, dtype = arguments
    try:
        report = {"missing": write_saved_model(Path(folder), Path(out), dtype)}
    except KgptError as error:
        report = {"error": str(error)}
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
