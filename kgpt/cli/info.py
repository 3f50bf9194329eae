"""`kgpt info`: a model's architecture, size, memory use and provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kgpt.formatting import size
from kgpt.runs import Run, resolve_model


def info(
    model: str, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
) -> None:
    """Show a model's architecture, size, memory use and provenance.

    Parameters
    ----------
    model
        A model directory, a run (its best checkpoint), or run@step.
    as_json
        Print one JSON object.
    """
    found = model_info(resolve_model(model))
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    table = Table(title=Text(found["folder"]), show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in table_rows(found):
        table.add_row(name, Text(text))
    Console().print(table)


def model_info(folder: Path) -> dict[str, Any]:
    """The data that `kgpt info` shows of a model directory; sizes in bytes."""
    from kgpt.checkpoints import model_info as from_config
    from kgpt.checkpoints.hf_config import model_type_of
    from kgpt.checkpoints.peft_format import base_folder
    from kgpt.checkpoints.pretrained import load_config
    from kgpt.checkpoints.quantized import quantization_of

    config, base = load_config(folder), base_folder(folder)
    return {
        "folder": str(folder),
        "model_type": model_type_of(config),
        "architecture": config.model_dump(),
        "parameters": from_config.parameters_by_part(config),
        "weights_on_disk": weights_size(base),
        "quantization": quantization_of(base),
        "adapter": adapter_info(folder, base),
        "weights": from_config.weight_bytes(config),
        "cache_per_token": from_config.cache_bytes(config),
        "cache_at_full_context": from_config.cache_bytes(config, config.max_length),
        "flops_per_token": from_config.flops_per_token(config, config.max_length),
        "tokenizer": tokenizer_info(folder),
        "provenance": provenance(folder),
    }


def adapter_info(folder: Path, base: Path) -> dict[str, Any] | None:
    """Kind, size and base model of an adapter; None for a model directory."""
    from kgpt.checkpoints.peft_format import ADAPTER_WEIGHTS
    from kgpt.checkpoints.pretrained import load_config
    from kgpt.checkpoints.stored_adapter import read_adapter

    if folder == base:
        return None
    adapter = read_adapter(folder, load_config(folder))
    return {
        **adapter.description,
        "parameters": sum(array.size for array in adapter.variables().values()),
        "size": (folder / ADAPTER_WEIGHTS).stat().st_size,
        "base": str(base),
    }


def weights_size(folder: Path) -> int:
    """Bytes of a model directory's weight files."""
    return sum(file.stat().st_size for file in folder.glob("model*.safetensors"))


def tokenizer_info(folder: Path) -> dict[str, Any] | None:
    """Vocabulary size, special tokens and chat template of the tokenizer; None without one."""
    from kgpt.checkpoints.peft_format import tokenizer_folder
    from kgpt.text.chat_template import load_chat_template
    from kgpt.text.tokenizer import Tokenizer

    folder = tokenizer_folder(folder)
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
    """The run, step and validation loss of a model, as far as they are known."""
    from kgpt.checkpoints.pretrained import TRAINER_STATE, training_state_file
    from kgpt.config import read_yaml
    from kgpt.text.special_tokens import read_json_object

    config = read_json_object(folder / "config.json")
    training = read_json_object(training_state_file(folder, TRAINER_STATE))
    values = {"version": (config.get("kgpt") or {}).get("version"), **training}
    run = Run(folder.resolve().parent.parent)
    if folder.resolve().parent.name == "checkpoints" and run.exists:
        rows = [row for row in run.metrics() if row["step"] == training.get("step")]
        losses = [row["val_loss"] for row in rows if "val_loss" in row]
        data = read_yaml(run.path / "run.yaml").get("data", {}).get("dir")
        values |= {"run": run.name, "val_loss": losses[-1] if losses else None, "data": data}
    return {name: value for name, value in values.items() if value is not None}


def table_rows(info: dict[str, Any]) -> list[tuple[str, str]]:
    """The result of `model_info` as labels and texts of a table."""
    config, parts = info["architecture"], dict(info["parameters"])
    total = parts.pop("total")
    flops = info["flops_per_token"]
    rows = [
        ("architecture", architecture(info["model_type"], config)),
        ("context", f"{config['max_length']:,} tokens"),
        ("parameters", f"{total:,}"),
        *((f"  {part}", f"{count:,}  ({count / total:.0%})") for part, count in parts.items()),
        ("weights", sizes(info["weights"])),
        ("  on disk", size(info["weights_on_disk"]) + stored_as(info["quantization"])),
        ("KV cache per token", sizes(info["cache_per_token"])),
        ("  at full context", sizes(info["cache_at_full_context"])),
        ("FLOPs per token", f"{flops['train']:.3g} to train, {flops['generate']:.3g} to generate"),
    ]
    if adapter := info["adapter"]:
        shown = ("rank", "bottleneck_size", "virtual_tokens", "modules", "parameters")
        facts = [f"{adapter[n]:,} {n}" for n in shown if n in adapter]
        facts = [adapter["kind"], *facts, size(adapter["size"])]
        rows += [("adapter", ", ".join(facts).replace("_", " ")), ("  of", adapter["base"])]
    if tokenizer := info["tokenizer"]:
        rows += [
            ("tokenizer", f"{tokenizer['vocab_size']:,} tokens"),
            ("  special", " ".join(tokenizer["special"]) or "none"),
            ("  chat template", "yes" if tokenizer["chat"] else "no"),
        ]
    for name, value in info["provenance"].items():
        text = f"{value:.4f}" if isinstance(value, float) else str(value)
        rows.append((name.replace("_", " "), text))
    return rows


def architecture(model_type: str, config: dict[str, Any]) -> str:
    """ "llama: 4 layers of 128, 4 heads, feed-forward 384, rotary, rms, swiglu"."""
    heads, num_kv_heads = config["num_heads"], config["num_kv_heads"]
    parts = [
        f"{config['num_layers']} layers of {config['hidden_dim']}",
        f"{heads} heads" + (f", {num_kv_heads} KV heads" if num_kv_heads != heads else ""),
        f"feed-forward {config['intermediate_dim']}",
        f"{config['position']} positions",
        f"{config['norm']} norm",
        config["activation"],
        "tied head" if config["tie_embeddings"] else "separate head",
    ]
    if config["sliding_window"]:
        parts.append(f"window {config['sliding_window']}")
    return f"{model_type}: {', '.join(parts)}"


def stored_as(quantization: dict[str, Any] | None) -> str:
    return f", int{quantization['bits']}" if quantization else ""


def sizes(bytes_by_dtype: dict[str, int]) -> str:
    """ "float32 3.8 MB, bfloat16 1.9 MB"."""
    return ", ".join(f"{dtype} {size(count)}" for dtype, count in bytes_by_dtype.items())
