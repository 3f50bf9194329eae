"""Download well-known corpora once and verify their checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from kgpt.errors import DataError
from kgpt.files import os_errors_as_kgpt, sha256

Progress = Callable[[int, int | None], None]  # bytes received, bytes in all if known


@dataclass(frozen=True)
class Download:
    """A corpus that can be downloaded, and the options to prepare and train on it."""

    url: str
    sha256: str
    path: Path
    data_set: str
    tokenizer: str
    preset: str


DOWNLOADS = {
    "shakespeare": Download(
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        path=Path("data/shakespeare.txt"),
        data_set="data/shakespeare-char",
        tokenizer="char",
        preset="shakespeare-cpu",
    )
}


def download(source: Download, progress: Progress) -> Path:
    """The file of `source`, downloaded unless it exists with the right checksum."""
    if source.path.is_file() and sha256(source.path) == source.sha256:
        return source.path
    partial = source.path.with_name(f".partial-{source.path.name}")
    digest = hashlib.sha256()
    with os_errors_as_kgpt(f"write {source.path}"):
        source.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fetch(source, partial, digest, progress)
            if digest.hexdigest() != source.sha256:
                raise DataError(
                    f"{source.url} did not give the expected text (SHA-256 "
                    f"{digest.hexdigest()[:12]}…); try again, or use another text."
                )
            partial.replace(source.path)
        finally:
            partial.unlink(missing_ok=True)
    return source.path


def _fetch(source: Download, target: Path, digest: hashlib._Hash, progress: Progress) -> None:
    try:
        with (
            httpx.stream("GET", source.url, follow_redirects=True, timeout=30) as response,
            target.open("wb") as file,
        ):
            response.raise_for_status()
            total = response.headers.get("content-length")
            for chunk in response.iter_bytes():
                file.write(chunk)
                digest.update(chunk)
                progress(file.tell(), int(total) if total else None)
    except httpx.HTTPError as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{source.url} cannot be reached ({reason}); check the network, or save the text as "
            f"{source.path} and run this again."
        ) from None
