"""Preferences as token ids: read from files of rows, split, and kept in a folder of their own.

preferences.json        what they are of, their numbers, and a checksum
train.safetensors, val.safetensors    token ids and labels
tokenizer.json          what they were encoded with
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from kgpt.data.invalid_rows import InvalidRows
from kgpt.data.preference_dataset import Completions
from kgpt.data.preferences import (
    PreferencePair,
    encode_completion,
    encode_pair,
    read_labeled,
    read_preferences,
)
from kgpt.errors import DataError
from kgpt.files import atomic_dir, os_errors_as_kgpt, write_json
from kgpt.text.chat_template import load_chat_template
from kgpt.text.tokenizer import Tokenizer

CONTENTS = "preferences.json"
VAL_FRACTION = 0.1
Ids = Sequence[int]
Row = tuple[Ids, Ids, float]  # prompt, completion, label


@dataclass(frozen=True)
class Preferences:
    """Completions with labels, 1 for a good one and 0 for a bad one.

    Attributes:
        paired: the first half are chosen completions, and the second half the rejected ones of the
            same prompts.
    """

    completions: Completions
    labels: np.ndarray
    paired: bool

    def __len__(self) -> int:
        return len(self.completions) // 2 if self.paired else len(self.completions)

    def split(self, val_fraction: float = VAL_FRACTION) -> tuple[Preferences, Preferences]:
        """Those for training and for validation; all of one prompt are in the same part.

        Where there are two prompts or more, no part is empty.
        """
        keys = [
            hashlib.blake2b(self.completions.row(i)[0].tobytes(), digest_size=8).digest()
            for i in range(len(self))
        ]
        prompts = sorted(set(keys))
        held_out = set(prompts[: int(np.ceil(val_fraction * len(prompts)))])
        if len(held_out) == len(prompts):
            held_out = set()
        is_val = np.array([key in held_out for key in keys], bool)
        return self.take(np.flatnonzero(~is_val)), self.take(np.flatnonzero(is_val))

    def take(self, rows: np.ndarray) -> Preferences:
        """Some of the pairs or completions."""
        numbers = np.concatenate([rows, rows + len(self)]) if self.paired else rows
        kept = self.completions.take(numbers.tolist())
        return Preferences(kept, self.labels[numbers], self.paired)


def read_pairs(
    sources: Sequence[str],
    tokenizer: Tokenizer,
    max_length: int | None = None,
    invalid: InvalidRows | None = None,
) -> Preferences:
    """Pairs of completions as token ids, from rows with `prompt`, `chosen` and `rejected`.

    Args:
        sources: files, folders or globs, or hf:owner/name.
        tokenizer: of the model, whose chat template it has.
        max_length: prompt and completion are cut after so many tokens. A pair of which a
            completion is then empty is left out.
        invalid: takes the rows that are no pairs; None refuses them.

    Raises:
        DataError: a row is no pair, or nothing is left.
    """
    return encode_pairs(read_preferences(sources, invalid), tokenizer, max_length)


def encode_pairs(
    pairs: Iterable[PreferencePair], tokenizer: Tokenizer, max_length: int | None = None
) -> Preferences:
    """`read_pairs` of pairs that have been read."""
    template = load_chat_template(tokenizer)
    encoded = [encode_pair(pair, tokenizer, template, max_length) for pair in pairs]
    encoded = [pair for pair in encoded if pair.chosen_ids and pair.rejected_ids]
    rows: list[Row] = [(pair.prompt_ids, pair.chosen_ids, 1.0) for pair in encoded]
    rows += [(pair.prompt_ids, pair.rejected_ids, 0.0) for pair in encoded]
    return _preferences(rows, paired=True)


def read_labeled_completions(
    sources: Sequence[str],
    tokenizer: Tokenizer,
    max_length: int | None = None,
    invalid: InvalidRows | None = None,
) -> Preferences:
    """Completions as token ids, from rows with `prompt`, `completion` and `label`.

    Pairs are taken, too: the chosen completions are the good ones. Arguments as of `read_pairs`.
    """
    template = load_chat_template(tokenizer)
    rows: list[Row] = []
    try:
        for row in read_labeled(sources, invalid):
            ids = encode_completion(row.prompt, row.completion, tokenizer, template, max_length)
            rows += [(ids.prompt_ids, ids.completion_ids, float(row.label))]
    except DataError as error:
        if rows:
            raise
        try:
            pairs = read_pairs(sources, tokenizer, max_length, invalid)
        except DataError:
            raise error from None
        return Preferences(pairs.completions, pairs.labels, paired=False)
    return _preferences([row for row in rows if row[1]], paired=False)


def _preferences(rows: Sequence[Row], paired: bool) -> Preferences:
    if not rows:
        raise DataError(
            "There is no preference of which a completion fits; check the files, or give more room "
            "with --train.sequence-length."
        )
    labels = np.array([row[2] for row in rows], np.float32)
    return Preferences(Completions(row[:2] for row in rows), labels, paired)


# -- a folder --------------------------------------------------------------------------------------


def write_preferences(
    folder: Path, preferences: Preferences, tokenizer: Tokenizer, sources: Sequence[str]
) -> dict[str, Any]:
    """Split preferences and write them to `folder`, complete or not at all.

    Returns the contents of preferences.json.
    """
    parts = dict(zip(("train", "val"), preferences.split(), strict=True))
    digest = hashlib.sha256(tokenizer.fingerprint.encode())
    for part in parts.values():
        digest.update(part.completions.fingerprint().encode() + part.labels.tobytes())
    contents = {
        "sources": list(sources),
        "paired": preferences.paired,
        "counts": {name: len(part) for name, part in parts.items()},
        "tokens": {name: len(part.completions.tokens) for name, part in parts.items()},
        "sha256": digest.hexdigest(),
        "tokenizer_sha256": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
    }
    with os_errors_as_kgpt(f"write {folder}"), atomic_dir(folder) as work:
        for name, part in parts.items():
            save_file(
                part.completions.arrays() | {"labels": part.labels}, work / f"{name}.safetensors"
            )
        tokenizer.save(work)
        write_json(work / CONTENTS, contents)
    return contents


class PreferenceFolder:
    """What `write_preferences` wrote.

    Attributes:
        contents: of preferences.json. tokenizer: what the completions were encoded with.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        try:
            self.contents: dict[str, Any] = json.loads(
                (self.folder / CONTENTS).read_text(encoding="utf-8")
            )
        except (OSError, ValueError):
            raise DataError(
                f"{folder} holds no preferences; give files with prompt, chosen and rejected."
            ) from None
        self.tokenizer = Tokenizer.load(self.folder)

    def part(self, name: str) -> Preferences:
        """The part "train" or "val"."""
        file = self.folder / f"{name}.safetensors"
        with os_errors_as_kgpt(f"read {file}"):
            arrays = load_file(file)
        labels = arrays.pop("labels")
        return Preferences(Completions.of_arrays(**arrays), labels, self.contents["paired"])
