"""The parts of `benchmarks/gpu.py`: their order, limits, and what they need.

A plan is a list of stages, run one after the other. A stage is a list of chains, run at the same
time; a chain is a list of parts, run one after the other. What is timed has the GPU to itself.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

BACKENDS = ("jax", "torch")


@dataclass(frozen=True)
class Shapes:
    """Shapes of the model, and how much is measured."""

    num_layers: int
    num_heads: int
    hidden_dim: int
    max_length: int
    vocab_size: int
    batch_size: int
    other_batch_size: int
    steps: int
    prompt_tokens: int
    new_tokens: int
    decode_batch_sizes: tuple[int, ...]
    killed_run_steps: int
    device: str
    tests: tuple[str, ...] = (
        "tests/backend",
        "tests/model",
        "tests/generation",
        "tests/training",
    )
    limit_scale: float = 1.0


GPU = Shapes(
    num_layers=12, num_heads=12, hidden_dim=768, max_length=1024, vocab_size=50304, batch_size=32,
    other_batch_size=64, steps=12, prompt_tokens=32, new_tokens=128, decode_batch_sizes=(1, 8, 64),
    killed_run_steps=300, device="cuda",
)  # fmt: skip
REHEARSAL = Shapes(
    num_layers=2, num_heads=2, hidden_dim=64, max_length=64, vocab_size=256, batch_size=2,
    other_batch_size=3, steps=2, prompt_tokens=4, new_tokens=8, decode_batch_sizes=(1, 2),
    killed_run_steps=40, device="cpu", tests=("tests/training/test_schedule.py",), limit_scale=2.0,
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A process of `benchmarks.gpu_run.worker` with its job, for `limit_s` seconds at most."""

    name: str
    job: dict[str, Any]
    limit_s: float
    needs: tuple[str, ...] = ()  # packages
    missing: str | None = None  # why it cannot run at all
    environment: dict[str, str] = field(default_factory=dict)


Stages = list[list[list[Part]]]


def stages_of(shapes: Shapes, work: Path, nanogpt: Path | None, only: str = "") -> Stages:
    """The plan; `only` keeps the parts whose names begin with one of these words."""
    make = _Maker(shapes, work, nanogpt)
    speed = [make.nanogpt(), *(make.train(b) for b in BACKENDS)]
    speed += [make.decode(b) for b in BACKENDS]
    speed += [make.transformers("dynamic"), make.transformers("static")]
    stages: Stages = [[[make.facts()], *([make.smoke(b)] for b in BACKENDS)]]
    stages += [[[part]] for part in speed]
    stages += [[[make.resume(b), make.greedy(b)] for b in BACKENDS]]
    stages += [[[make.tests(b)] for b in BACKENDS]]
    extra = [make.smoke("tensorflow"), make.train("tensorflow"), make.decode("tensorflow")]
    extra += [make.train(b, shapes.other_batch_size) for b in BACKENDS]
    stages += [[[part]] for part in extra]
    wanted = tuple(only.split(","))
    kept = [
        [[p for p in chain if p.name.startswith(wanted)] for chain in stage] for stage in stages
    ]
    return [[chain for chain in stage if chain] for stage in kept if any(stage)]


@dataclass
class _Maker:
    shapes: Shapes
    work: Path
    nanogpt_file: Path | None

    def part(self, name: str, limit_s: float, needs: tuple[str, ...] = (), **job: Any) -> Part:
        backend = job.get("backend")
        return Part(
            name,
            {"shapes": asdict(self.shapes), "work": str(self.work), **job},
            limit_s * self.shapes.limit_scale,
            needs or ((backend,) if backend else ()),
            environment={"KERAS_BACKEND": backend} if backend else {},
        )

    def facts(self) -> Part:
        return self.part("facts", 20, kind="facts")

    def smoke(self, backend: str) -> Part:
        return self.part(f"smoke {backend}", 60, kind="smoke", backend=backend)

    def nanogpt(self) -> Part:
        name, file = "train nanogpt", self.nanogpt_file
        part = self.part(name, 75, kind="nanogpt", backend="torch", file=str(file))
        missing = "there is no model.py of nanoGPT; give --nanogpt FOLDER"
        return part if file else Part(name, part.job, 0, missing=missing)

    def train(self, backend: str, batch_size: int | None = None) -> Part:
        size = batch_size or self.shapes.batch_size
        name = f"train {backend}" + (f" at batch {size}" if batch_size else "")
        return self.part(name, 90, kind="train", backend=backend, batch_size=size)

    def decode(self, backend: str) -> Part:
        return self.part(f"decode {backend}", 75, kind="decode", backend=backend)

    def transformers(self, cache: str) -> Part:
        needs = ("torch", "transformers")
        return self.part(
            f"decode transformers {cache}", 75, needs, kind="transformers", cache=cache
        )

    def tests(self, backend: str) -> Part:
        workers = max(2, (os.cpu_count() or 2) // len(BACKENDS))
        needs = (backend, "pytest", "xdist", "hypothesis")
        return self.part(
            f"tests {backend}", 330, needs, kind="tests", backend=backend, workers=workers
        )

    def resume(self, backend: str) -> Part:
        return self.part(f"resume {backend}", 120, kind="resume", backend=backend)

    def greedy(self, backend: str) -> Part:
        return self.part(f"greedy {backend}", 90, kind="greedy", backend=backend)
