"""What a file of rows contains, recognized from its first rows before it is read as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from kgpt.conversations import FIELDS, Message, messages_of_row, renamed_roles, trainable_messages
from kgpt.data.invalid_rows import InvalidRows
from kgpt.data.rows import Row, read_rows
from kgpt.errors import DataError

SAMPLE_ROWS = 1000
DEFAULT_FIELD = "text"
OTHER_FIELD = "content"  # the text of rows of code, and of some other data sets


@dataclass(frozen=True)
class RowFormat:
    """How the rows of a file are read.

    Attributes:
        conversations: the format of conversations, such as "ShareGPT"; None if rows are texts.
        text_field: the field with the text of a row.
        summary: what was recognized, for people.
    """

    conversations: str | None
    text_field: str
    summary: str


def recognize_rows(
    file: Path,
    kind: str,
    name: str,
    text_field: str = DEFAULT_FIELD,
    invalid: InvalidRows | None = None,
) -> RowFormat:
    """The format of a file of rows.

    Args:
        kind: one of `kgpt.data.rows.ROW_FORMATS`.
        name: how errors call the file.
        text_field: the field with the text of a row. Where rows have no "text" but "content",
            which is text, it is that.
        invalid: takes the rows that cannot be used; None refuses them.

    Raises:
        DataError: the file is damaged, or its first row is an invalid conversation.
    """
    invalid = invalid or InvalidRows()
    reader = read_rows(file, kind, name, invalid)
    rows = list(islice(reader, SAMPLE_ROWS))
    if not rows:
        return RowFormat(None, text_field, "no rows")
    first, found = _first_valid(rows, text_field, invalid)
    is_default = text_field == DEFAULT_FIELD and DEFAULT_FIELD not in first
    if is_default and isinstance(first.get(OTHER_FIELD), str) and found is None:
        text_field = OTHER_FIELD
    count = _count(rows, file.stat().st_size, next(reader, None) is None)
    if found is None:
        used, what = [text_field], f"{count} texts (field {text_field!r}"
    else:
        used = list(FIELDS[found[0]])
        what = f"{count} conversations ({', '.join([found[0], *_roles(rows)])}"
    unused = [field for field in first if field not in used]
    rest = f"; not used: {', '.join(unused)}" if unused else ""
    return RowFormat(found and found[0], text_field, f"{what}{rest})")


def conversation_of(
    row: Mapping[str, Any], where: str, end: int = 0
) -> tuple[str, list[Message]] | None:
    """The format of a row and its conversation, or None if it is no conversation.

    Raises:
        DataError: the conversation cannot be learned from; the sentence names its place.
    """
    try:
        found = messages_of_row(row)
        return found and (found[0], trainable_messages(found[1]))
    except ValueError as error:
        raise DataError(f"{where}: {error}.") from None


def _first_valid(
    rows: Sequence[Row], text_field: str, invalid: InvalidRows
) -> tuple[dict[str, Any], tuple[str, list[Message]] | None]:
    """The first row that can be used, and its conversation, if it is one."""
    for row in rows:
        if isinstance(row[0].get(text_field), str):
            return row[0], None
        try:
            found = conversation_of(*row)
        except DataError as error:
            invalid.add(error)
            continue
        if found is not None or isinstance(row[0].get(OTHER_FIELD), str):
            return row[0], found
    return rows[0][0], None


def _roles(rows: Sequence[Row]) -> list[str]:
    """The roles that are read as others: ["human → user", "gpt → assistant"]."""
    renamed: dict[str, str] = {}
    for row, _, _ in rows:
        renamed |= renamed_roles(row)
    return [f"{theirs} → {ours}" for theirs, ours in renamed.items()]


def _count(rows: Sequence[Row], size: int, are_all: bool) -> str:
    """How many rows there are; of a longer file judged by the bytes that the first ones take."""
    if are_all:
        return f"{len(rows):,}"
    about = round(len(rows) * size / max(1, rows[-1][2]), -2)
    return f"about {int(about):,}"
