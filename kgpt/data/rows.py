"""Files of rows: .jsonl, .json, .csv and .parquet, each row a dictionary."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kgpt.data.encodings import open_file
from kgpt.data.invalid_rows import InvalidRows
from kgpt.errors import DataError, UsageError
from kgpt.files import describe_damage

ROW_FORMATS = ("jsonl", "json", "csv", "parquet")
BATCH_ROWS = 256
LARGEST_JSON = 1 << 30  # bytes: a .json file is read whole

Row = tuple[dict[str, Any], str, int]


def read_rows(
    file: Path, kind: str, name: str, invalid: InvalidRows | None = None
) -> Iterator[Row]:
    """The rows of a file.

    Args:
        kind: one of `ROW_FORMATS`.
        name: how errors call the file.
        invalid: takes lines that are not JSON and the like; None refuses them.

    Yields:
        the row, where it is (such as "a.jsonl, line 3"), and the bytes of the file up to its end.

    Raises:
        DataError: the file is damaged, or a row of it is invalid and not skipped.
    """
    return READERS[kind](file, name, invalid or InvalidRows())


def _jsonl(file: Path, name: str, invalid: InvalidRows) -> Iterator[Row]:
    end = 0
    with open_file(file) as raw:
        for number, line in enumerate(raw, 1):
            end += len(line)
            if not line.strip():
                continue
            where = f"{name}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                invalid.add(DataError(f"{where} is not JSON; each line must be one object."))
                continue
            if _is_object(row, where, invalid):
                yield row, where, end


def _json(file: Path, name: str, invalid: InvalidRows) -> Iterator[Row]:
    """A list of rows; an object with such a list as its only list; or one row."""
    size = file.stat().st_size
    if size > LARGEST_JSON:
        raise DataError(f"{name} is too large for a .json file; write one row a line, as .jsonl.")
    try:
        value = json.loads(open_file(file).read())
    except ValueError as error:
        raise DataError(f"{name} is not JSON: {error}.") from None
    if isinstance(value, dict):
        lists = [item for item in value.values() if _is_rows(item)]
        value = lists[0] if len(lists) == 1 and "messages" not in value else [value]
    if not isinstance(value, list):
        raise DataError(f"{name} contains no list of rows.")
    for number, row in enumerate(value, 1):
        where = f"{name}, row {number}"
        if _is_object(row, where, invalid):
            yield row, where, size * number // len(value)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value) and bool(value)


def _csv(file: Path, name: str, invalid: InvalidRows) -> Iterator[Row]:
    csv.field_size_limit(1 << 30)
    with file.open(encoding="utf-8", newline="") as text:
        dialect: Any = "excel-tab" if "\t" in text.readline() else "excel"
        text.seek(0)
        reader = csv.DictReader(text, dialect=dialect, strict=True)
        size, end = file.stat().st_size, 0
        try:
            for row in reader:
                where = f"{name}, line {reader.line_num}"
                if None in row or None in row.values():
                    problem = "has not as many cells as the header has columns."
                    invalid.add(DataError(f"{where} {problem}"))
                    continue
                end = min(size, end + sum(len(cell) + 1 for cell in row.values()))
                yield dict(row), where, end
        except csv.Error as error:
            raise DataError(f"{name}, line {reader.line_num + 1}: {error}.") from None


def _parquet(file: Path, name: str, invalid: InvalidRows) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UsageError(
            'Reading .parquet needs pyarrow; install it with `pip install "kgpt[parquet]"`.'
        ) from None
    try:
        table = parquet.ParquetFile(file)
        step, number = file.stat().st_size / max(1, table.metadata.num_rows), 0
        for batch in table.iter_batches(batch_size=BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield row, f"{name}, row {number}", int(step * number)
    except (ArrowException, OSError) as error:
        raise DataError(describe_damage(file, error, name)) from None


def _is_object(row: Any, where: str, invalid: InvalidRows) -> bool:
    """Whether a row is a JSON object; another is given to `invalid`."""
    if not isinstance(row, dict):
        invalid.add(DataError(f"{where} is no JSON object."))
        return False
    return True


READERS = {"jsonl": _jsonl, "json": _json, "csv": _csv, "parquet": _parquet}
