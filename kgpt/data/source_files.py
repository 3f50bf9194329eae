"""Find the files that sources name: paths, folders, globs, addresses, standard input, the Hub.

Gzipped and remote files, and those in another encoding than UTF-8, are first written to a temporary
file.
"""

from __future__ import annotations

import glob
import gzip
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from kgpt.data.encodings import check_encoding, detect_encoding, open_file, transcode
from kgpt.data.hub import HubOptions, hub_name, write_parquet
from kgpt.data.invalid_rows import InvalidRows
from kgpt.data.remote import fetch, find_remote, is_remote, name_of, shown_address
from kgpt.data.rows import ROW_FORMATS, Row, read_rows
from kgpt.errors import DataError, UsageError
from kgpt.files import os_errors_as_kgpt

TEXT_FORMATS = ("txt", "md")
FORMATS = (*TEXT_FORMATS, *ROW_FORMATS)
SUFFIXES = tuple(f".{name}" for name in FORMATS)
PART_BYTES = 1 << 20  # copied at a time


class SourceFiles:
    """The files of a list of sources, in a fixed order; iterated, each with its name.

    Args:
        sources: files, folders and globs, also at an address (s3://, gs://, hf://, https://), "-"
            for standard input, or "hf:owner/name" for a data set of the Hugging Face Hub.
        encoding: of all text files; None detects it for each.
        hub: what is loaded of a data set of the Hub.

    Attributes:
        names: the files, as they were named.
        files: where they can be read, as UTF-8; temporary ones live as long as this object.
        notes: a line for each file in another encoding.

    Raises:
        UsageError: a source does not exist, or none of them names a file.
        DataError: a file is damaged.
    """

    def __init__(
        self, sources: Sequence[str], encoding: str | None = None, hub: HubOptions | None = None
    ):
        self._hub = hub or HubOptions()
        self._encoding = encoding and check_encoding(encoding)
        self._spool = tempfile.TemporaryDirectory(prefix="kgpt-")
        self.names: list[str] = []
        self.files: list[Path] = []
        self.notes: list[str] = []
        for source in sources:
            self._add(source)
        if not self.files:
            raise UsageError(f"No {', '.join(SUFFIXES)} files were found in {', '.join(sources)}.")
        self.total_bytes = sum(file.stat().st_size for file in self.files)

    def __iter__(self) -> Iterator[tuple[Path, str]]:
        return zip(self.files, self.names, strict=True)

    def rows(self, invalid: InvalidRows | None = None) -> Iterator[Row]:
        """The rows of all files, see `read_rows`; raises `UsageError` if one is a text."""
        for file, name in self:
            if format_of(file) not in ROW_FORMATS:
                known = ", ".join(f".{suffix}" for suffix in ROW_FORMATS)
                raise UsageError(f"{name} is a text; give files of rows: {known}.")
            yield from read_rows(file, format_of(file), short_name(name), invalid)

    def _add(self, source: str) -> None:
        if hub := hub_name(source):
            self.names.append(source)
            folder = Path(tempfile.mkdtemp(dir=self._spool.name))
            self.files.append(write_parquet(hub, self._hub, folder))
            return
        if is_remote(source):
            for address in _find_remote(source):
                self._read(self._fetched(address), shown_address(address))
            return
        for path in _expand(source):
            self._read(path, str(path))

    def _read(self, path: Path, name: str) -> None:
        self.names.append(name)
        self.files.append(self._as_utf8(self._decompress(path), name))

    def _fetched(self, address: str) -> Path:
        """A temporary copy of a remote file."""
        target = Path(tempfile.mkdtemp(dir=self._spool.name)) / name_of(address)
        with os_errors_as_kgpt(f"copy {shown_address(address)} into {self._spool.name}"):
            fetch(address, target)
        return target

    def _decompress(self, path: Path) -> Path:
        """`path` itself, or a temporary file with the contents of a gzipped file or stdin."""
        if path.name != "-" and path.suffix != ".gz":
            return path
        name = "stdin.txt" if path.name == "-" else f"{len(path.parts)}-{path.stem}"
        target = Path(tempfile.mkdtemp(dir=self._spool.name)) / name
        with (
            os_errors_as_kgpt(f"decompress {path} into {self._spool.name}"),
            sys.stdin.buffer if path.name == "-" else open_file(path) as raw,
            target.open("wb") as plain,
        ):
            if path.name == "-":
                shutil.copyfileobj(raw, plain, PART_BYTES)
                return target
            try:
                shutil.copyfileobj(gzip.GzipFile(fileobj=raw), plain, PART_BYTES)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise DataError(f"{path} is damaged and cannot be decompressed: {error}.") from None
        return target

    def _as_utf8(self, file: Path, name: str) -> Path:
        """`file` itself, or a temporary file with its text as UTF-8 without a byte-order mark."""
        if format_of(file) == "parquet":
            return file
        with os_errors_as_kgpt(f"read {name}"):
            encoding = self._encoding or detect_encoding(file, name)
            if encoding == "utf-8" and not self._encoding:
                return file
            target = Path(tempfile.mkdtemp(dir=self._spool.name)) / file.name
            replaced = transcode(file, target, encoding)
        bad = f"; {replaced:,} characters could not be decoded and became U+FFFD" * bool(replaced)
        self.notes.append(f"{name}: decoded from {encoding}{bad}")
        return target


def short_name(name: str) -> str:
    """How errors call a source: a file by its name without the folder."""
    return name if hub_name(name) else Path(name).name


def format_of(file: Path) -> str:
    """The format of a file by its suffix, .gz aside, one of `FORMATS`; "" if it is another."""
    suffixes = [suffix.lower() for suffix in file.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1][1:] if suffixes and suffixes[-1] in SUFFIXES else ""


def _find_remote(source: str) -> list[str]:
    """The addresses of the files that a source names."""
    addresses = find_remote(source, lambda name: bool(format_of(Path(name))))
    for address in addresses:
        if not format_of(Path(name_of(address))):
            raise _unknown_format(shown_address(address))
    return addresses


def _unknown_format(name: str) -> UsageError:
    known = ", ".join(SUFFIXES)
    return UsageError(f"kgpt cannot read {name}; it reads {known}, and these gzipped.")


def _expand(source: str) -> list[Path]:
    """The files that a source names; Path("-") for standard input."""
    if source == "-":
        return [Path("-")]
    path = Path(source)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file() and format_of(file))
    paths = [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(source))]
    if not paths:
        raise UsageError(f"{source} does not exist; name a file, a folder, a glob or '-'.")
    for file in paths:
        if file.is_file() and not format_of(file):
            raise _unknown_format(str(file))
    return [file for file in paths if file.is_file()]
