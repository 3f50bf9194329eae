"""The result of `kgpt verify`: what was compared, with what, and what was found."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kgpt.checkpoints.peft_format import base_folder
from kgpt.files import sha256
from kgpt.verification.bounds import BOUNDS
from kgpt.verification.checks import Check
from kgpt.versions import installed_versions

HASHED = (
    "config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
    "merges.txt", "generation_config.json", "chat_template.jinja", "model*.safetensors",
    "adapter_model.safetensors",
)  # fmt: skip


@dataclass(frozen=True)
class PlaceResult:
    """A place and its checks.

    Attributes:
        skipped: why it was not observed; None if it was.
        error: why it could not be observed.
        faults: sentences that name what is wrong beyond the checks.
        notes: versions, device and seconds.
    """

    name: str
    precision: str
    checks: list[Check] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    skipped: str | None = None
    error: str | None = None

    @property
    def passed(self) -> bool:
        return not self.sentences

    @property
    def sentences(self) -> list[str]:
        """What is wrong, the most exact first."""
        faults = [*self.faults, *(check.fault for check in self.checks if check.fault)]
        return [f"{self.name}: {fault}." for fault in ([self.error] if self.error else faults)]


@dataclass(frozen=True)
class Certificate:
    """All places of a model.

    Attributes:
        model: as it was named. hashes: SHA-256 of its files.
        probe: what it was observed on.
    """

    model: str
    hashes: dict[str, str]
    probe: dict[str, Any]
    results: list[PlaceResult]

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """The certificate as JSON values, with the versions and the bounds that it holds for."""
        return {
            "model": self.model,
            "passed": self.passed,
            "hashes": self.hashes,
            "versions": installed_versions("keras", "numpy", "tokenizers"),
            "machine": platform.platform(),
            "probe": self.probe,
            "bounds": {name: asdict(bounds) for name, bounds in BOUNDS.items()},
            "places": [asdict(result) | {"passed": result.passed} for result in self.results],
        }


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that say what a model is, an adapter's and its base model's."""
    base = base_folder(folder)
    hashes = {
        file.name: sha256(file) for pattern in HASHED for file in sorted(folder.glob(pattern))
    }
    if base != folder:
        hashes |= {f"base/{name}": digest for name, digest in hash_files(base).items()}
    return hashes
