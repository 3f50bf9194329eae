"""`kgpt classify train`: resolve the configuration, lock the run directory, train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from kgpt.cli.options import MemoryFraction
from kgpt.cli.train import named_run, run_to_resume, run_training, split_flags
from kgpt.config import Config, parse_overrides
from kgpt.errors import UsageError

FLAGS = (
    "--model", "--data", "--val-data", "--text-field", "--label-field", "--multi-label",
    "--class-weights", "--method", "--run", "--resume", "--memory-fraction", "--quiet", "--debug",
)  # fmt: skip
PRESET, PRESET_OF_NEW_MODELS = "classify", "classify-small"
Files = Annotated[list[str] | None, Parameter(negative_iterable=())]


def train(
    config: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    model: str | None = None,
    data: Files = None,
    val_data: Files = None,
    text_field: str | None = None,
    label_field: str | None = None,
    multi_label: Annotated[bool, Parameter(negative="")] = False,
    class_weights: str | None = None,
    method: str | None = None,
    run: str | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    memory_fraction: MemoryFraction = None,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train a classifier on texts with labels, or resume such a run.

    Parameters
    ----------
    config
        The name of a preset, or a YAML file; when not given, the preset classify, or
        classify-small without --model.
    model
        The model that learns to classify: a model directory, a run, run@step, or a hub id. Without
        it a new, small one is trained.
    data
        Files of rows with text and label: .csv, .jsonl, .json or .parquet; repeat it for several.
    val_data
        Such files to validate on; when not given, a tenth of the texts of each label.
    text_field
        The field of rows with the text; "text" when not given.
    label_field
        The field of rows with the label; "label" when not given.
    multi_label
        A text has any number of labels, a list or divided by "|".
    class_weights
        Weights of the labels in the loss: balanced, or as in "{rare: 5}".
    method
        The weights that are trained: full, lora or dora. The head always is.
    run
        The name of the run; the configuration's name and the time if not given.
    resume
        Resume the run from its latest valid checkpoint, as its run.yaml says. What CONFIG and
        flags state changes it, where it may change.
    quiet
        Print nothing.
    """
    config, flags = split_flags(config, overrides)
    given: dict[str, Any] = {
        "finetune.model": model,
        "finetune.method": method,
        "classification.data": data and [str(Path(file).resolve()) for file in data],
        "classification.val_data": val_data and [str(Path(file).resolve()) for file in val_data],
        "classification.text_field": text_field,
        "classification.label_field": label_field,
        "classification.multi_label": multi_label or None,
        "classification.class_weights": class_weights,
    }
    changes = parse_overrides(flags, FLAGS)
    changes |= {key: value for key, value in given.items() if value is not None}
    if resume:
        directory = run_to_resume(run)
        resolved = Config.resume(directory.path / "run.yaml", config, changes)
    else:
        preset = config or (PRESET if changes.get("finetune.model") else PRESET_OF_NEW_MODELS)
        directory, resolved = named_run(run, preset), Config.load(preset, changes)
    resolved.finetune.objective = "classification"
    if not resolved.classification.data:
        raise UsageError("No data is named; give files of texts with labels with --data.")
    return run_training(resolved, directory, resume, quiet, memory_fraction)
