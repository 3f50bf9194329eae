"""`kgpt info`: what a model is made of, what it needs, and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kgpt.runs import Run, resolve_model


def info(model: str, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False):
    """What a model is made of, what it needs, and where it comes from.

    Parameters
    ----------
    model
        A model directory, a run (its best checkpoint), or run@step.
    as_json
        Print one JSON object.
    """
    facts = gather(resolve_model(model))
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    table = Table(title=Text(facts["folder"]), show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in lines(facts):
        table.add_row(name, Text(text))
    Console().print(table)


def gather(folder: Path) -> dict[str, Any]:
    """All facts about a model directory, sizes in bytes."""
    from kgpt.checkpoints import model_info
    from kgpt.checkpoints.hf_config import model_type_of
    from kgpt.checkpoints.pretrained import load_config
    from kgpt.checkpoints.quantized import quantization_of

    config = load_config(folder)
    stored = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
    return {
        "folder": str(folder),
        "family": model_type_of(config),
        "architecture": config.model_dump(),
        "parameters": model_info.parameters_by_part(config),
        "weights_on_disk": stored,
        "quantization": quantization_of(folder),
        "weights": model_info.weight_bytes(config),
        "cache_per_token": model_info.cache_bytes(config),
        "cache_at_full_context": model_info.cache_bytes(config, config.max_length),
        "flops_per_token": model_info.flops_per_token(config, config.max_length),
        "tokenizer": tokenizer_facts(folder),
        "provenance": provenance(folder),
    }


def tokenizer_facts(folder: Path) -> dict[str, Any] | None:
    """The tokenizer's size, special tokens and whether it has a chat template; None if none."""
    from kgpt.text.chat_template import load_chat_template
    from kgpt.text.tokenizer import Tokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return None
    tokenizer = Tokenizer.load(folder)
    return {
        "vocab_size": tokenizer.vocab_size,
        "special": list(tokenizer.special_by_id.values()),
        "chat": load_chat_template(tokenizer) is not None,
        "sha256": tokenizer.fingerprint,
    }


def provenance(folder: Path) -> dict[str, Any]:
    """Which run and step a model is of, and how good it was there, as far as is known."""
    from kgpt.checkpoints.pretrained import TRAINER_STATE, training_state_file
    from kgpt.text.special_tokens import read_json_object

    config = read_json_object(folder / "config.json")
    training = read_json_object(training_state_file(folder, TRAINER_STATE))
    found = {"version": (config.get("kgpt") or {}).get("version"), **training}
    run = Run(folder.resolve().parent.parent)
    if folder.resolve().parent.name == "checkpoints" and run.exists:
        rows = [row for row in run.metrics() if row["step"] == training.get("step")]
        losses = [row["val_loss"] for row in rows if "val_loss" in row]
        data = read_yaml_data(run)
        found |= {"run": run.name, "val_loss": losses[-1] if losses else None, "data": data}
    return {name: value for name, value in found.items() if value is not None}


def read_yaml_data(run: Run) -> str | None:
    """The data set that a run's configuration names."""
    from kgpt.config import read_yaml

    return read_yaml(run.path / "run.yaml").get("data", {}).get("dir")


def lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts as rows for a person."""
    shape, parts = facts["architecture"], dict(facts["parameters"])
    total = parts.pop("total")
    cache, full = facts["cache_per_token"], facts["cache_at_full_context"]
    flops = facts["flops_per_token"]
    rows = [
        ("architecture", architecture(facts["family"], shape)),
        ("context", f"{shape['max_length']:,} tokens"),
        ("parameters", f"{total:,}"),
        *((f"  {part}", f"{count:,}  ({count / total:.0%})") for part, count in parts.items()),
        ("weights", ", ".join(f"{name} {size(n)}" for name, n in facts["weights"].items())),
        ("  on disk", size(facts["weights_on_disk"]) + stored_as(facts["quantization"])),
        ("cache a token", ", ".join(f"{name} {size(n)}" for name, n in cache.items())),
        ("  at full context", ", ".join(f"{name} {size(n)}" for name, n in full.items())),
        ("FLOPs a token", f"{flops['train']:.3g} to train, {flops['generate']:.3g} to write"),
    ]
    tokenizer = facts["tokenizer"]
    if tokenizer:
        rows += [
            ("tokenizer", f"{tokenizer['vocab_size']:,} tokens"),
            ("  special", " ".join(tokenizer["special"]) or "none"),
            ("  chat template", "yes" if tokenizer["chat"] else "no"),
        ]
    for name, value in facts["provenance"].items():
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        rows.append((name.replace("_", " "), shown))
    return rows


def architecture(family: str, shape: dict[str, Any]) -> str:
    """ "llama: 4 layers of 128, 4 heads, feed-forward 384, rotary, rms, swiglu"."""
    heads, kv = shape["num_heads"], shape["num_kv_heads"] or shape["num_heads"]
    parts = [
        f"{shape['num_layers']} layers of {shape['hidden_dim']}",
        f"{heads} heads" + (f" sharing {kv} for keys and values" if kv != heads else ""),
        f"feed-forward {shape['intermediate_dim'] or 4 * shape['hidden_dim']}",
        f"{shape['position']} positions",
        f"{shape['norm']} norm",
        shape["activation"],
        "tied head" if shape["tie_embeddings"] else "separate head",
    ]
    if shape["sliding_window"]:
        parts.append(f"window {shape['sliding_window']}")
    return f"{family}: {', '.join(parts)}"


def stored_as(quantization: dict[str, Any] | None) -> str:
    return f", in {quantization['bits']} bits" if quantization else ""


def size(count: float) -> str:
    """Bytes for a person: "512 B", "3.8 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
