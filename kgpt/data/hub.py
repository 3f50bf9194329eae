"""Data sets of the Hugging Face Hub by name, read by the package `datasets` (extra "hub")."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from kgpt.errors import DataError, UsageError
from kgpt.files import os_errors_as_kgpt

PREFIX, ADDRESS = "hf:", "hf://datasets/"  # the longer one is how huggingface_hub writes a path


@dataclass(frozen=True)
class HubOptions:
    """What is loaded of a data set: `datasets.load_dataset` has the same arguments.

    Attributes:
        config: the configuration; None for the default or only one.
        split: such as "train" or "train[:10%]".
        show_progress: bars of downloads, on standard error.
    """

    config: str | None = None
    split: str = "train"
    show_progress: bool = True


def hub_name(source: str) -> str | None:
    """The name of a data set: "a/b" for "hf:a/b"; None for a source that is a file.

    >>> hub_name("hf:karpathy/tiny_shakespeare"), hub_name("hf://datasets/a/b"), hub_name("a/b")
    ('karpathy/tiny_shakespeare', 'a/b', None)
    >>> hub_name("hf://datasets/a/b/train.jsonl")  # a file in its repository
    """
    if source.startswith("hf://"):
        name = source.removeprefix(ADDRESS)
        return name if name != source and len(PurePosixPath(name).parts) <= 2 else None
    return source[len(PREFIX) :] if source.startswith(PREFIX) else None


def write_parquet(name: str, options: HubOptions, folder: Path) -> Path:
    """Load a data set and write it to a parquet file in `folder`; returns the file.

    Raises:
        UsageError: there is no such data set, configuration or split, or a package is missing.
        DataError: the Hub cannot be reached, or the data set cannot be read.
    """
    rows = _load(name, options)
    target = folder / "rows.parquet"
    with os_errors_as_kgpt(f"write the rows of {name} to {folder}"):
        rows.to_parquet(str(target))
    return target


def _load(name: str, options: HubOptions) -> Any:
    try:
        import datasets
    except ImportError:
        raise UsageError(
            "Data sets of the Hub need the package datasets; install it with "
            '`pip install "kgpt[hub]"`.'
        ) from None
    if not options.show_progress:
        datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, options.config, split=options.split)
    except Exception as error:
        raise _as_kgpt_error(name, options, error) from None


def _as_kgpt_error(name: str, options: HubOptions, error: Exception) -> DataError | UsageError:
    """What `load_dataset` raised, as a sentence that says what to do."""
    text = str(error)
    known = ", ".join(re.findall(r"'([^']+)'", text[text.find("[") :].partition("]")[0]))
    if "Config name is missing" in text:
        return UsageError(f"{name} has the configurations {known}; choose one: --dataset-config.")
    if text.startswith("BuilderConfig"):
        return UsageError(f"{name} has no configuration {options.config}; it has: {known}.")
    if text.startswith("Unknown split"):
        return UsageError(f"{name} has no split {options.split}; it has: {known}.")
    if isinstance(error, ConnectionError):
        return DataError(
            f"The Hugging Face Hub cannot be reached for {name}; connect to the internet, or name "
            "files instead."
        )
    kind = type(error).__name__
    if kind in ("DatasetNotFoundError", "HFValidationError"):
        return UsageError(
            f"There is no data set {name} on the Hugging Face Hub, or it wants a login "
            "(`hf auth login`)."
        )
    lines = str(error.__cause__ or error).splitlines()
    return DataError(f"The data set {name} cannot be read: {lines[0] if lines else kind}.")
