"""Which characters the bytes of a text file mean: UTF-8, another encoding, or no text at all."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import BinaryIO

from kgpt.errors import DataError
from kgpt.files import LFS_POINTER, describe_damage

PART_BYTES = 1 << 20  # read at a time
SAMPLE_BYTES = 1 << 18  # seen by the detector
MANY = 1000  # invalid bytes after which a file is not read on
FEW = 16  # bytes beyond ASCII that are too few for the detector
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_file(file: Path) -> BinaryIO:
    """Open a file for reading; raises `DataError` if it cannot be."""
    try:
        return file.open("rb")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None


def detect_encoding(file: Path, name: str) -> str:
    """The encoding of a text file: "utf-8", or the Python name of another one.

    A byte-order mark decides; then whether all bytes are UTF-8; then charset-normalizer.

    Raises:
        DataError: the file is no text, or UTF-8 with damaged bytes; `name` is used for the file.
    """
    with file.open("rb") as raw:
        beginning = raw.read(SAMPLE_BYTES)
        if beginning.startswith(LFS_POINTER):
            raise DataError(describe_damage(file, "", name))
        for mark, encoding in BYTE_ORDER_MARKS:
            if beginning.startswith(mark):
                return encoding
        if utf16 := _utf16_without_mark(beginning):
            return utf16
        raw.seek(0)
        nulls, bad, valid, first = _scan(raw)
    if nulls:
        raise DataError(f"{name} is not a text file: it contains {nulls:,} NUL bytes.")
    if not bad:
        return "utf-8"
    if valid > 10 * bad:  # other encodings seldom form valid sequences of several bytes
        raise DataError(
            f"{name} is UTF-8 with {bad:,} invalid bytes, the first at byte {first:,}; repair it, "
            "or replace them by U+FFFD with --encoding utf-8."
        )
    return _guess(file, first, name)


def transcode(source: Path, target: Path, encoding: str) -> int:
    """Write `source`, decoded, to `target` as UTF-8; returns how many characters became U+FFFD."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    replaced = 0
    with source.open("rb") as raw, target.open("w", encoding="utf-8", newline="") as plain:
        while data := raw.read(PART_BYTES):
            text = decoder.decode(data)
            replaced += text.count("\ufffd")
            plain.write(text)
        text = decoder.decode(b"", final=True)
        plain.write(text)
    return replaced + text.count("\ufffd")


def check_encoding(encoding: str) -> str:
    """`encoding` if Python knows it as an encoding of text; else raises `DataError`."""
    try:
        "".encode(encoding)
    except LookupError:
        raise DataError(
            f"{encoding!r} is no encoding; common ones are utf-8, utf-16 and cp1252."
        ) from None
    return encoding


def _utf16_without_mark(data: bytes) -> str | None:
    """UTF-16 of mostly Latin text without a mark: every second byte is zero, and no other."""
    pairs = len(data) // 2
    if pairs < 2:
        return None
    even, odd = data[0::2].count(0) / pairs, data[1::2].count(0) / pairs
    if odd > 0.4 and even < 0.05:
        return "utf-16-le"
    return "utf-16-be" if even > 0.4 and odd < 0.05 else None


def _scan(raw: BinaryIO) -> tuple[int, int, int, int]:
    """NUL bytes, invalid UTF-8 bytes, valid sequences of several bytes, the first invalid byte."""
    nulls = bad = valid = 0
    first, offset, rest = -1, 0, b""
    while data := raw.read(PART_BYTES):
        nulls += data.count(0)
        data, at = rest + data, 0
        while True:
            try:
                text = data[at:].decode("utf-8")
                valid, rest, at = valid + _not_ascii(text), b"", len(data)
                break
            except UnicodeDecodeError as error:
                valid += _not_ascii(data[at : at + error.start].decode("utf-8"))
                if at + error.end == len(data) and error.reason.startswith("unexpected end"):
                    rest = data[at + error.start :]  # a character that goes on in the next part
                    break
                first = offset + at + error.start if first < 0 else first
                bad, at = bad + error.end - error.start, at + error.end
                if bad > MANY:
                    return nulls, bad, valid, first
        offset += len(data) - len(rest)
    if rest:
        first, bad = (offset if first < 0 else first), bad + len(rest)
    return nulls, bad, valid, first


def _not_ascii(text: str) -> int:
    return len(text) - len(text.encode("ascii", "ignore"))


def _guess(file: Path, first: int, name: str) -> str:
    """What charset-normalizer makes of the text around the first byte that is not UTF-8."""
    from charset_normalizer import from_bytes

    with file.open("rb") as raw:
        raw.seek(max(0, first - SAMPLE_BYTES // 2))
        sample = raw.read(SAMPLE_BYTES)
    match = from_bytes(sample).best()
    few = sum(byte > 0x7F for byte in sample) < FEW and _is_printable(sample, "cp1252")
    if few or (match is not None and "cp1252" in match.could_be_from_charset):
        return "cp1252"  # of several that give the same text the common one
    if match is None or not _is_printable(sample, match.encoding):
        raise DataError(
            f"{name} is not a text file: its bytes are text in no known encoding; "
            "if it is text, name its encoding with --encoding."
        )
    return str(match.encoding)


def _is_printable(data: bytes, encoding: str) -> bool:
    """True if `data` decodes to text without control characters but white space."""
    text = data.decode(encoding, "replace")
    return "\ufffd" not in text and not any(
        ord(character) < 32 and not character.isspace() for character in text
    )
