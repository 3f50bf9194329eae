"""Texts with labels: read from rows, split by label, numbered, weighted. No Keras here."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from kgpt.data.sampler import feistel_permutation
from kgpt.data.source_files import SourceFiles
from kgpt.errors import DataError, UsageError

THRESHOLD = 0.5  # probability from which on a text has a label, where it may have several


@dataclass(frozen=True)
class LabelledTexts:
    """Texts, and the labels of each: one, or any number where several are allowed."""

    texts: list[str]
    labels: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def names(self) -> list[str]:
        """The labels that occur, sorted: as numbers where all of them are numbers."""
        found = sorted({name for labels in self.labels for name in labels})
        return sorted(found, key=int) if all(name.isdecimal() for name in found) else found

    @property
    def sha256(self) -> str:
        """Of texts and labels in their order."""
        rows = json.dumps([self.texts, self.labels])
        return hashlib.sha256(rows.encode()).hexdigest()

    def take(self, indices: Iterable[int]) -> LabelledTexts:
        """Those of the given numbers, in that order."""
        numbers = list(indices)
        return replace(
            self, texts=[self.texts[i] for i in numbers], labels=[self.labels[i] for i in numbers]
        )

    def targets(self, names: Sequence[str], multi_label: bool) -> np.ndarray:
        """The number of each text's label (N,) int32; of several (N, labels) float32 of 0 and 1.

        Raises `DataError` if a label is not one of `names`.
        """
        number = {name: i for i, name in enumerate(names)}
        for labels in self.labels:
            for name in labels:
                if name not in number:
                    raise DataError(
                        f"The label {name!r} is not one of the model's: {', '.join(names)}."
                    )
        if not multi_label:
            return np.array([number[name] for (name,) in self.labels], "int32")
        chosen = np.zeros((len(self), len(names)), "float32")
        for row, labels in enumerate(self.labels):
            chosen[row, [number[name] for name in labels]] = 1
        return chosen


def read_labelled(
    sources: Sequence[str],
    text_field: str = "text",
    label_field: str = "label",
    multi_label: bool = False,
    separator: str = "|",
) -> LabelledTexts:
    """Read texts with labels from files of rows: .csv, .jsonl, .json or .parquet.

    A label is text, a number, true or false. Several labels are a list, or one text in which
    `separator` stands between them; none of them is an empty list or text.

    Raises:
        DataError: a row has no such text or label, by file and line; or there are no rows.
        UsageError: there is no such file, or it is no file of rows.
    """
    texts, found = [], []
    for row, where, _ in SourceFiles(sources).rows():
        texts.append(_text(row, where, text_field))
        value = _field(row, where, label_field, "--label-field")
        found.append(_several(value, where, separator) if multi_label else (_one(value, where),))
    if not texts:
        raise DataError(f"{', '.join(sources)} has no rows.")
    return LabelledTexts(texts, found)


def read_texts(sources: Sequence[str], text_field: str = "text") -> list[str]:
    """Read texts from files of rows, as `read_labelled` does."""
    return [_text(row, where, text_field) for row, where, _ in SourceFiles(sources).rows()]


def _field(row: dict[str, Any], where: str, name: str, flag: str) -> Any:
    if name not in row:
        raise DataError(
            f"{where} has no field {name!r}; choose one with {flag} (its fields: {', '.join(row)})."
        )
    return row[name]


def _text(row: dict[str, Any], where: str, name: str) -> str:
    text = _field(row, where, name, "--text-field")
    if not isinstance(text, str):
        raise DataError(f"{where} has {type(text).__name__}, not text, in the field {name!r}.")
    return text


def _one(value: Any, where: str) -> str:
    if isinstance(value, list):
        raise DataError(f"{where} has a list of labels; give --multi-label to learn several.")
    if value is None or value == "" or isinstance(value, dict):
        raise DataError(f"{where} has no label.")
    return _name(value)


def _several(value: Any, where: str, separator: str) -> tuple[str, ...]:
    if isinstance(value, dict):
        raise DataError(f"{where} has an object in place of labels.")
    if isinstance(value, str):
        value = [part.strip() for part in value.split(separator)]
    values = [value] if not isinstance(value, list) else value
    return tuple(dict.fromkeys(_name(item) for item in values if item not in (None, "")))


def _name(value: Any) -> str:
    """1.0 is called 1, as a column of integers with a gap is read."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def stratified_split(
    data: LabelledTexts, fraction: float, seed: int
) -> tuple[LabelledTexts, LabelledTexts]:
    """Training and validation texts: of each label `fraction` are held out, rounded.

    Of a text with several labels the rarest counts. Every label keeps a text to learn from, and
    the order within each part is that of the data.
    """
    counts = Counter(name for labels in data.labels for name in labels)
    strata: dict[str, list[int]] = {}
    for index, labels in enumerate(data.labels):
        rarest = min(labels, key=lambda name: (counts[name], name), default="")
        strata.setdefault(rarest, []).append(index)
    held_out: set[int] = set()
    for number, members in enumerate(strata[name] for name in sorted(strata)):
        count = min(math.floor(fraction * len(members) + 0.5), len(members) - 1)
        chosen = feistel_permutation(np.arange(count), len(members), seed, number)
        held_out |= {members[i] for i in chosen}
    train = [i for i in range(len(data)) if i not in held_out]
    return data.take(train), data.take(sorted(held_out))


def class_weights(
    targets: np.ndarray, names: Sequence[str], given: Literal["balanced"] | dict[str, float]
) -> list[float]:
    """The weight of each label in the loss.

    "balanced" is inversely proportional to how often a label occurs: N / (labels * count), as in
    scikit-learn; of several labels a text, (N - count) / count.

    Raises `UsageError` if weights are given for other labels; what is not given weighs 1.
    """
    if given != "balanced":
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise UsageError(f"class_weights has {unknown[0]!r}, which is no label of the data.")
        return [float(given.get(name, 1.0)) for name in names]
    if targets.ndim == 2:
        counts = targets.sum(axis=0)
        return [float((len(targets) - n) / n) if 0 < n < len(targets) else 1.0 for n in counts]
    counts = np.bincount(targets, minlength=len(names))
    return [float(len(targets) / (len(names) * n)) if n else 1.0 for n in counts]
