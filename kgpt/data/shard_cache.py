"""A data set at an address, whose shards are copied to a local cache when they are first read.

The cache is bounded: the shards that were not read for the longest time make room for new ones.
KGPT_CACHE names its folder, KGPT_CACHE_GB its largest size.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import filelock
import numpy as np
import platformdirs

from kgpt.data.remote import fetch, shown_address
from kgpt.errors import DataError, UsageError
from kgpt.files import os_errors_as_kgpt

DEFAULT_GB = 50.0
ATTEMPTS = 3  # to open a file that another process may evict


class StoredFile(NamedTuple):
    """A file of a data set: its name, its size in bytes, and its SHA-256."""

    name: str
    size: int
    sha256: str


class ShardCache:
    """Files by their SHA-256, in a folder that several processes may share.

    Args:
        folder: None for that of the environment.
        max_bytes: of all files; None for that of the environment.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int | None = None):
        named = os.environ.get("KGPT_CACHE") or platformdirs.user_cache_dir("kgpt")
        self.folder = (folder or Path(named)) / "shards"
        self.max_bytes = _bound_of_environment() if max_bytes is None else max_bytes

    def path(self, address: str, file: StoredFile) -> Path:
        """Where the file of a data set at `address` is, copied from there if it is not yet.

        Raises:
            DataError: it cannot be had, or has other bytes than the manifest says, or is larger
                than the cache.
        """
        path = self.folder / file.sha256
        if not _is_whole(path, file):
            with (
                os_errors_as_kgpt(f"copy {file.name} into {self.folder}"),
                self._locked(file.sha256),
            ):
                if not _is_whole(path, file):
                    self._fetch(f"{address}/{file.name}", file, path)
        os.utime(path)
        return path

    def _fetch(self, address: str, file: StoredFile, path: Path) -> None:
        if file.size > self.max_bytes:
            raise DataError(
                f"{shown_address(address)} has {file.size:,} bytes, more than the cache in "
                f"{self.folder} may hold; set KGPT_CACHE_GB to more."
            )
        self._make_room(file.size)
        partial = path.with_name(f".partial-{path.name}")
        try:
            fetch(address, partial, expected_sha256=file.sha256)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Delete the files that were not read for the longest time until `size` bytes have room."""
        with self._locked("evict"):
            found = []
            for path in self.folder.glob("[!.]*"):
                with contextlib.suppress(FileNotFoundError):
                    found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            total = sum(file_size for _, file_size, _ in found) + size
            for _, file_size, path in sorted(found):
                if total <= self.max_bytes:
                    break
                path.unlink(missing_ok=True)
                total -= file_size

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.folder / f".{name}.lock"):
            yield


class RemoteDataSet:
    """The files of a data set at an address.

    Attributes:
        folder: a local folder with the small ones: manifest and tokenizer.

    Raises:
        DataError: there is no data set, or it cannot be read.
    """

    def __init__(self, address: str, cache: ShardCache | None = None):
        self.address, self.cache = address.rstrip("/"), cache or ShardCache()
        name = hashlib.sha256(self.address.encode()).hexdigest()[:32]
        self.folder = self.cache.folder.parent / "data-sets" / name
        with os_errors_as_kgpt(f"write to {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.folder / ".lock"):
                self._fetch_small_files()

    def file(self, name: str, size: int) -> Path:
        """A file without checksum, such as the offsets of documents."""
        path = self.folder / name
        with os_errors_as_kgpt(f"write {path}"), filelock.FileLock(self.folder / ".lock"):
            if not path.is_file():
                self._fetch(name)
        if path.stat().st_size != size:
            path.unlink()
            raise DataError(f"{shown_address(self.address)}/{name} has not {size:,} bytes.")
        return path

    def shard(self, file: StoredFile) -> Path:
        return self.cache.path(self.address, file)

    def _fetch_small_files(self) -> None:
        manifest = self.folder / "manifest.json"
        before = manifest.read_bytes() if manifest.is_file() else None
        try:
            self._fetch("manifest.json")
        except UsageError as error:
            name = shown_address(self.address)
            raise DataError(f"There is no data set at {name}: {error}") from None
        if before != manifest.read_bytes():  # another data set, or none before
            for path in self.folder.glob("[!.]*"):
                if path != manifest:
                    path.unlink()
        if not (self.folder / "tokenizer.json").is_file():
            with contextlib.suppress(UsageError):  # only some tokenizers have one
                self._fetch("tokenizer_config.json")
            self._fetch("tokenizer.json")

    def _fetch(self, name: str) -> None:
        partial = self.folder / f".partial-{name}"
        try:
            fetch(f"{self.address}/{name}", partial)
            partial.replace(self.folder / name)
        finally:
            partial.unlink(missing_ok=True)


class RemoteShards(Sequence[np.ndarray]):
    """Shards of a remote data set as memory-mapped arrays, each opened when it is read."""

    def __init__(self, data_set: RemoteDataSet, files: list[StoredFile], dtype: np.dtype[Any]):
        self._data_set, self._files, self._dtype = data_set, files, dtype

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        for _ in range(ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):
                path = self._data_set.shard(self._files[index])
                return np.memmap(path, dtype=self._dtype, mode="r")
        raise DataError(
            f"Other processes delete shards from {self._data_set.cache.folder} before they are "
            "read; set KGPT_CACHE_GB to more."
        )


def _is_whole(path: Path, file: StoredFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size


def _bound_of_environment() -> int:
    text = os.environ.get("KGPT_CACHE_GB", "")
    try:
        gigabytes = float(text) if text else DEFAULT_GB
    except ValueError:
        gigabytes = 0
    if not 0 < gigabytes < float("inf"):
        raise UsageError(f"KGPT_CACHE_GB should be a number of gigabytes above 0, not {text!r}.")
    return int(gigabytes * 10**9)
