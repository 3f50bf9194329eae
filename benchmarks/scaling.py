"""Predicted throughput of training on 1 to 4,096 accelerators: the tables of docs/scaling.md.

    python -m benchmarks.scaling [--write]

Nothing is measured: the model is that of `kgpt plan`. `--write` puts the tables into the page.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from kgpt.config import Config, DistributeConfig
from kgpt.errors import UsageError
from kgpt.formatting import count
from kgpt.lab.accelerators import Accelerator, find_accelerator
from kgpt.lab.memory_model import training_memory
from kgpt.lab.plan import MeshPlan, plan_mesh, usable_memory

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
DEVICES = {"h100": "H100 SXM", "a100": "A100 80 GB SXM", "tpu-v5e": "TPU v5e", "tpu-v5p": "TPU v5p"}
SIZES = (1, 8, 64, 512, 4096)
BATCH_TOKENS = 1 << 22  # in a step, however many devices
MAX_TENSOR_PARALLEL = 16
LLAMA = {
    "position": "rotary", "norm": "rms", "activation": "swiglu", "bias": False,
    "tie_embeddings": False,
}  # fmt: skip
MODELS = {
    "GPT-2, 124M": {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "vocab_size": 50304,
                    "max_length": 1024},
    "GPT-2 XL, 1.5B": {"num_layers": 48, "num_heads": 25, "hidden_dim": 1600, "vocab_size": 50304,
                       "max_length": 1024},
    "Llama 3 shape, 8B": {"num_layers": 32, "num_heads": 32, "num_kv_heads": 8, "hidden_dim": 4096,
                          "intermediate_dim": 14336, "vocab_size": 128256, "max_length": 8192,
                          **LLAMA},
}  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """The fastest way that was found to train on so many devices."""

    num_devices: int
    batch_size: int
    checkpointing: bool
    plan: MeshPlan


def best_plan(model: dict, device: Accelerator, num_devices: int) -> Prediction | None:
    """The fastest mesh and batch size of a forward pass; None if nothing fits."""
    sequences = BATCH_TOKENS // model["max_length"]
    found = []
    for mesh in meshes(num_devices):
        for checkpointing in (False, True):
            config = Config.parse({
                "model": model,
                "train": {"precision": "bfloat16", "gradient_checkpointing": checkpointing},
                "distribute": mesh.model_dump(),
            })  # fmt: skip
            size = largest_batch(config, device, sequences)
            if size:
                train = {"batch_size": size, "grad_accumulation": sequences // size}
                planned = plan_mesh(with_train(config, **train), device, mesh)
                found.append(Prediction(num_devices, size, checkpointing, planned))
                break  # what fits without recomputation is not recomputed
    return max(found, key=lambda one: one.plan.tokens_per_s, default=None)


def meshes(num_devices: int) -> list[DistributeConfig]:
    """Meshes of powers of two, replicated and FSDP."""
    made, model = [], 1
    while model <= min(num_devices, MAX_TENSOR_PARALLEL):
        data = num_devices // model
        made += [DistributeConfig(data=data, model=model, fsdp=f) for f in {False, data > 1}]
        model *= 2
    return made


def largest_batch(config: Config, device: Accelerator, sequences: int) -> int:
    """The largest power of two of sequences in a forward pass that fits; 0 if none does."""
    size, mesh = sequences, config.distribute
    try:
        mesh.check_model(config.model)
    except UsageError:
        return 0
    usable = usable_memory(device) or 0
    while size >= mesh.data:
        if training_memory(with_train(config, batch_size=size), device).peak <= usable:
            return size
        size //= 2
    return 0


def with_train(config: Config, **changes: int) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def tables() -> str:
    """One table of tokens per second and efficiency for each model."""
    return "\n".join(table(name, shape) for name, shape in MODELS.items())


def table(name: str, model: dict) -> str:
    lines = [f"## {name}", "", f"| devices | {' | '.join(DEVICES.values())} |"]
    lines.append("|---:|" + "---|" * len(DEVICES))
    first: dict[str, float] = {}
    for num_devices in SIZES:
        cells = []
        for short in DEVICES:
            found = best_plan(model, find_accelerator(short, "bfloat16"), num_devices)
            if found is None:
                cells.append("does not fit")
                continue
            rate = found.plan.tokens_per_s / num_devices
            cells.append(describe(found, rate / first.setdefault(short, rate)))
        lines.append(f"| {num_devices:,} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def describe(found: Prediction, efficiency: float) -> str:
    """Tokens per second, efficiency, MFU, and the mesh."""
    mesh = found.plan.mesh
    how = f"{mesh.data} x {mesh.model}" + (", FSDP" if mesh.fsdp else "")
    how += ", recomputing" if found.checkpointing else ""
    rate = count(found.plan.tokens_per_s)
    return f"{rate}, {efficiency:.0%}, MFU {found.plan.mfu:.0%} ({how})"


def main() -> None:
    parser = argparse.ArgumentParser(description="The tables of docs/scaling.md.")
    parser.add_argument("--write", action="store_true")
    made = tables()
    print(made)
    if parser.parse_args().write:
        text = PAGE.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n\n{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
