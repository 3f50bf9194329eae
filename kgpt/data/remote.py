"""Files at an address: https:// by httpx; s3://, gs://, hf:// and others by fsspec (extra remote).

A file is copied whole to a local one: corpora are read more than once, shards are memory-mapped.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from kgpt.errors import DataError, KgptError, UsageError

PART_BYTES = 1 << 20  # read at a time
ATTEMPTS = 3  # of a copy, if the connection is lost
WAIT_S = 0.5  # before the second one; twice as long before the third
HTTP_TIMEOUT_S = 30
Progress = Callable[[int, int | None], None]  # bytes received, bytes in all if known
CREDENTIALS = {
    "s3": "`aws configure`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "`gcloud auth application-default login`",
    "gcs": "`gcloud auth application-default login`",
    "hf": "`hf auth login`",
}
DENIED = ("PermissionError", "NoCredentialsError", "PartialCredentialsError", "GatedRepoError")


def is_remote(source: str) -> bool:
    """True for an address, such as "s3://bucket/a.txt"; False for a path.

    >>> is_remote("s3://bucket/a.txt"), is_remote("data/a.txt"), is_remote("hf:owner/name")
    (True, False, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.\-]*://", source) is not None


def shown_address(address: str) -> str:
    """An address without user, password and query, which may hold secrets.

    >>> shown_address("https://me:secret@host/a.txt?token=1")
    'https://host/a.txt'
    """
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def name_of(address: str) -> str:
    """The name of the file at an address, without its folder."""
    return PurePosixPath(urlsplit(address).path or urlsplit(address).netloc).name


def find_remote(address: str, is_wanted: Callable[[str], bool]) -> list[str]:
    """The addresses of the files that an address of a file, a folder or a glob names, sorted.

    An address of http or https names one file.

    Args:
        is_wanted: whether the file of this name in a folder is one.

    Raises:
        UsageError: there is none, or a package is missing.
        DataError: the store cannot be read.
    """
    if _is_http(address):
        return [address]
    try:
        system, path = _file_system(address)
        if any(character in path for character in "*?["):
            found = [name for name in system.glob(path) if system.isfile(name)]
        elif system.isdir(path):
            found = [name for name in system.find(path) if is_wanted(name)]
        else:
            found = [path] if system.exists(path) else []
        if not found:
            raise FileNotFoundError(path)
        return [str(system.unstrip_protocol(name)) for name in sorted(found)]
    except Exception as error:
        raise _as_kgpt_error(address, error) from None


def fetch(
    address: str,
    target: Path,
    progress: Progress = lambda received, total: None,
    expected_sha256: str | None = None,
) -> None:
    """Copy the file at an address to `target`, which a failure leaves incomplete.

    A lost connection is tried again, from the beginning.

    Raises:
        UsageError: there is no such file, or a package is missing.
        DataError: it cannot be read, or has not `expected_sha256`.
        OSError: `target` cannot be written.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            digest = _copy(address, target, progress)
            break
        except _ConnectionLost as error:
            if attempt == ATTEMPTS:
                raise DataError(str(error)) from None
            time.sleep(WAIT_S * attempt)
    if expected_sha256 not in (None, digest):
        raise DataError(
            f"{shown_address(address)} has not the expected bytes (SHA-256 {digest[:12]}…); "
            "it has changed or is damaged: try again, or make it again."
        )


class _ConnectionLost(DataError):
    """A failure that may pass."""


def _copy(address: str, target: Path, progress: Progress) -> str:
    """Copy a file once; returns its SHA-256."""
    digest, received, total = hashlib.sha256(), 0, None
    with target.open("wb") as file:
        for data, total in _parts(address):
            file.write(data)
            digest.update(data)
            received += len(data)
            progress(received, total)
    if total is not None and received != total:
        raise _ConnectionLost(
            f"{shown_address(address)} has ended after {received:,} of {total:,} bytes; it may be "
            "still being written: try again."
        )
    return digest.hexdigest()


def _parts(address: str) -> Iterator[tuple[bytes, int | None]]:
    """The bytes of a file in parts, each with the size of all if it is known."""
    try:
        yield from _http_parts(address) if _is_http(address) else _fsspec_parts(address)
    except Exception as error:
        raise _as_kgpt_error(address, error) from None


def _http_parts(address: str) -> Iterator[tuple[bytes, int | None]]:
    as_stored = {"accept-encoding": "identity"}
    with httpx.stream(
        "GET", address, headers=as_stored, follow_redirects=True, timeout=HTTP_TIMEOUT_S
    ) as response:
        response.raise_for_status()
        size = response.headers.get("content-length")
        for data in response.iter_raw(PART_BYTES):
            yield data, int(size) if size else None


def _fsspec_parts(address: str) -> Iterator[tuple[bytes, int | None]]:
    system, path = _file_system(address)
    size = system.info(path).get("size")
    with system.open(path, "rb", block_size=8 * PART_BYTES, cache_type="readahead") as file:
        while data := file.read(PART_BYTES):
            yield data, size
    if size:
        yield b"", size


def _file_system(address: str) -> tuple[Any, str]:
    """The file system of fsspec for an address, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UsageError(
            f"{shown_address(address)} needs the package fsspec; install it with "
            '`pip install "kgpt[remote]"`.'
        ) from None
    system, path = url_to_fs(address)
    return system, path


def _is_http(address: str) -> bool:
    return urlsplit(address).scheme.lower() in ("http", "https")


def _as_kgpt_error(address: str, error: Exception) -> KgptError:
    """What a library raised, as a sentence that says what to do."""
    if isinstance(error, KgptError):
        return error
    name, protocol = shown_address(address), urlsplit(address).scheme.lower()
    status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
    lines = str(error).splitlines()
    reason = f"HTTP {status}" if status else lines[0] if lines else type(error).__name__
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return UsageError(f"{name} does not exist, or cannot be seen without credentials.")
    if status in (401, 403) or type(error).__name__ in DENIED:
        remedy = CREDENTIALS.get(protocol, "see the documentation of its store")
        return DataError(
            f"{name} cannot be read without credentials ({reason}); give them: {remedy}."
        )
    if isinstance(error, ImportError):
        return UsageError(f"{protocol}:// needs another package: {reason}.")
    if isinstance(error, ValueError) and "Protocol not known" in reason:
        return UsageError(
            f"{name} is of no store that fsspec knows; name a file, s3://, gs:// or hf://."
        )
    text = f"{name} cannot be read ({reason.rstrip('.')}); check the network and the address."
    passing = isinstance(error, OSError | httpx.TransportError) or (status or 0) >= 500
    return _ConnectionLost(text) if passing else DataError(text)
