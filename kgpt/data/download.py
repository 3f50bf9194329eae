"""Download well-known corpora once and verify their checksums."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kgpt.data.remote import Progress, fetch
from kgpt.errors import DataError, UsageError
from kgpt.files import os_errors_as_kgpt, sha256


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
    with os_errors_as_kgpt(f"write {source.path}"):
        source.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fetch(source.url, partial, progress, source.sha256)
            partial.replace(source.path)
        except (DataError, UsageError) as error:
            remedy = f"or save the text as {source.path} and run this again."
            raise DataError(f"{str(error).rstrip('.')}; {remedy}") from None
        finally:
            partial.unlink(missing_ok=True)
    return source.path
