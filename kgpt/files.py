"""Files that are whole or not there: atomic writes, checksums, and the disk that is full.

A reader never sees half of a file or folder written here: the work happens under a temporary name
beside the target, is forced to the disk, and is then renamed.
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

TEMPORARY = ".partial-"  # names that begin so are unfinished work, safe to delete


@contextlib.contextmanager
def os_errors_as_kgpt(action: str) -> Iterator[None]:
    """Turn the operating system's refusals into one sentence: full disk, no permission, ..."""
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number is None:
            raise
        remedy = {
            errno.ENOSPC: "the disk is full: free some space, or choose another folder",
            errno.EDQUOT: "the disk quota is used up: free some space, or choose another folder",
            errno.EACCES: "permission denied: choose a folder you may write to",
            errno.EROFS: "the disk is read-only: choose another folder",
            errno.EFBIG: "files may not be so large here: see `ulimit -f`",
        }.get(number, os.strerror(number) if number else str(error))
        raise KgptError(f"Could not {action}: {remedy}.") from error


def _error_number(error: Exception) -> int | None:
    """The operating system's error behind `error`; None if it is none of these.

    Libraries in Rust (tokenizers, safetensors) tell it only in the text of their own exceptions.
    """
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)|Os \{ code: (\d+)", str(error))
    return int(found[1] or found[2]) if found else None


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one motion, surviving a crash at any moment."""
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

    An existing `target` is replaced only then. After a crash what is left behind begins with
    `.partial-` and is deleted by the next call for the same parent.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    discard_partial(target.parent, f"{target.name}-")
    # Named before it is made, so that an interrupt between the two leaves nothing behind.
    work = target.parent / f"{TEMPORARY}{target.name}-{secrets.token_hex(4)}"
    try:
        work.mkdir(mode=0o700)
        yield work
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
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def discard_partial(folder: Path, name: str = "") -> None:
    """Delete what a crash left unfinished in `folder` (or only the work on `name`)."""
    for left in folder.glob(f"{TEMPORARY}{name}*"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file's contents, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
