"""Atomic writes of files and directories, checksums, and errors of the operating system.

Everything is written under a temporary name beside the target, synced to disk and renamed, so that
a reader never sees an incomplete file or directory.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kgpt.errors import KgptError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how a Git LFS pointer begins
TEMPORARY = ".partial-"  # prefix of unfinished files and directories, safe to delete


@contextlib.contextmanager
def os_errors_as_kgpt(action: str) -> Iterator[None]:
    """Raise errors of the operating system (full disk, ...) as a `KgptError` with a remedy."""
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number is None:
            raise
        remedy = {
            errno.ENOSPC: "the disk is full: free some space, or choose another folder",
            errno.EDQUOT: "the disk quota is used up: free some space, or choose another folder",
            errno.EACCES: "permission denied: choose a folder that you can write to",
            errno.EROFS: "the disk is read-only: choose another folder",
            errno.EFBIG: "the limit on file sizes is reached: see `ulimit -f`",
        }.get(number, os.strerror(number) if number else str(error))
        raise KgptError(f"Could not {action}: {remedy}.") from error


def _error_number(error: Exception) -> int | None:
    """The errno of `error`; None if it does not come from the operating system.

    Rust libraries (tokenizers, safetensors) give it only in the text of their own exceptions.
    """
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)|Os \{ code: (\d+)", str(error))
    return int(found[1] or found[2]) if found else None


def describe_damage(file: Path, reason: object, name: str | None = None) -> str:
    """The sentence for a file that cannot be parsed: why, and what to do if that is known.

    Args:
        reason: what the parser says.
        name: how the file is called; its path if not given.
    """
    name = name or str(file)
    if is_lfs_pointer(file):
        return f"{name} is a Git LFS pointer, not the file itself; run `git lfs pull` where it is."
    with contextlib.suppress(OSError):
        if file.is_file() and not file.stat().st_size:
            return f"{name} is empty; copy or download it again."
    text = str(reason).replace("\n", " ").rstrip(".")
    return f"{name} is damaged: {text}; copy or download it again."


def is_lfs_pointer(file: Path) -> bool:
    """Is it what a clone without Git LFS has in place of a large file?"""
    try:
        with file.open("rb") as raw:
            return raw.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False


def write_text(path: Path, text: str) -> None:
    """Replace the contents of `path` by `text` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def atomic_dir(target: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `target` when the block ends without error.

    An existing `target` is replaced only then. What a crash leaves behind begins with `.partial-`
    and is deleted by the next call for the same target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    discard_partial(target.parent, f"{target.name}-")
    # Named before it is created, so that an interrupt in between leaves nothing behind.
    work = target.parent / f"{TEMPORARY}{target.name}-{secrets.token_hex(4)}"
    try:
        work.mkdir(mode=0o700)
        yield work
        finish_dir(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def finish_dir(work: Path, target: Path) -> None:
    """Sync the files of the temporary folder `work`, which becomes `target` and may replace it."""
    for file in work.rglob("*"):
        if file.is_file():
            sync(file)
    os.chmod(work, 0o755)
    if target.exists():
        replaced = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=target.parent))
        os.replace(target, replaced)  # an empty folder may be replaced by a folder
        os.replace(work, target)
        shutil.rmtree(replaced)
    else:
        os.replace(work, target)
    sync(target.parent)


def discard_partial(folder: Path, name: str = "") -> None:
    """Delete temporary files and directories left by a crash in `folder` (only those of `name`)."""
    for path in folder.glob(f"{TEMPORARY}{name}*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """fsync a file, or a directory's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
