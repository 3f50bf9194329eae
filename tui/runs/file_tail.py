"""Files that other processes append to, read incrementally.

A reader keeps its offset and returns only what was appended since. An incomplete last line is left
for the next read, a file that vanishes is waited for, and a file that was replaced (a resumed run
does this to its metrics) is read again from its beginning.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

CHUNK = 256 << 10  # bytes per read: about ten milliseconds of parsing


class FileTail:
    """Bytes appended to a file since the last read.

    Args:
        path: the file, which need not exist yet.
        tail: bytes before its end to start at; the beginning by default.
    """

    def __init__(self, path: Path, tail: int | None = None):
        self.path = path
        self._tail = tail
        self._offset: int | None = None
        self._inode = 0

    def read(self, chunk: int = CHUNK) -> tuple[bytes, bool]:
        """(up to `chunk` new bytes, True if the file is new or was replaced)."""
        try:
            with self.path.open("rb") as file:
                stat = os.fstat(file.fileno())
                fresh = self._offset is None or stat.st_size < self._offset
                fresh = fresh or stat.st_ino != self._inode
                if fresh:
                    skip = 0 if self._tail is None else max(0, stat.st_size - self._tail)
                    self._offset, self._inode = skip, stat.st_ino
                file.seek(self._offset or 0)
                return file.read(chunk), fresh
        except OSError:
            self._offset = None  # a file that reappears under this name is another one
            return b"", False

    def advance(self, consumed: int) -> None:
        self._offset = (self._offset or 0) + consumed


class JsonLines:
    """The rows of a JSON-lines file, each returned once."""

    def __init__(self, path: Path):
        self._file = FileTail(path)

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """(new rows, True if they replace all earlier rows); no rows means nothing new.

        Lines that are not a JSON object, or longer than a chunk, are skipped.
        """
        data, fresh = self._file.read()
        end = data.rfind(b"\n") + 1
        if not end and len(data) == CHUNK:
            end = CHUNK
        self._file.advance(end)
        return list(parse(data[:end].splitlines())), fresh


class TextTail:
    """The end of a log, then what is appended to it."""

    def __init__(self, path: Path, tail: int = 64 << 10):
        self._file = FileTail(path, tail)

    def read(self) -> tuple[str, bool]:
        """(new text, True if it replaces all earlier text)."""
        data, fresh = self._file.read()
        end = data.rfind(b"\n") + 1 or len(data)
        self._file.advance(end)
        return data[:end].decode("utf-8", "replace"), fresh


def parse(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects among `lines`."""
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row
