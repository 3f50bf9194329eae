"""The documents and prompts of an evaluation that are finished, so that a killed one goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kgpt.files import os_errors_as_kgpt


def settings_hash(values: Mapping[str, Any]) -> str:
    """A short hash of JSON values, whatever their order."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


class Journal:
    """Finished items by number, one JSON line each; without a folder, in memory alone.

    Args:
        folder: of the evaluation; files of other settings may lie beside this one.
        settings: all that the values depend on: those of an interrupted evaluation count only if
            they are the same.

    Attributes:
        done: the values of the finished items.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]):
        self.file = folder and folder / f"finished-{settings_hash(settings)}.jsonl"
        self.done: dict[int, Any] = {}
        if self.file is not None:
            with os_errors_as_kgpt(f"write {self.file}"):
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self._read(self.file)

    def add(self, numbers: Sequence[int], values: Sequence[Any]) -> None:
        """Write finished items."""
        self.done.update(zip(numbers, values, strict=True))
        if self.file is None:
            return
        lines = [json.dumps(pair) + "\n" for pair in zip(numbers, values, strict=True)]
        with os_errors_as_kgpt(f"write {self.file}"), self.file.open("a", encoding="utf-8") as out:
            out.write("".join(lines))

    def _read(self, file: Path) -> None:
        """Read what is finished, and remove a line that was not written to its end."""
        if not file.is_file():
            return
        whole = 0
        with file.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                number, values = json.loads(line)
                self.done[number] = values
                whole += len(line)
        with file.open("r+b") as opened:
            opened.truncate(whole)
