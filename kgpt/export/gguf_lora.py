"""Export of a LoRA adapter to GGUF, for `llama-server --lora` over the base model's GGUF file.

Each adapted matrix W (out, in) has lora_a (rank, in) and lora_b (out, rank), under its name, and
llama.cpp adds alpha / rank * lora_b @ lora_a. As convert_lora_to_gguf.py of llama.cpp writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kgpt.checkpoints.hf_config import model_type_of
from kgpt.checkpoints.lora_modules import projections
from kgpt.checkpoints.peft_format import ADAPTER_CONFIG, PeftAdapter, is_adapter
from kgpt.checkpoints.pretrained import load_config
from kgpt.config import ModelConfig
from kgpt.errors import CheckpointError, UsageError
from kgpt.export.gguf import gguf_tensors, import_gguf


def export_gguf_lora(folder: Path, out: Path, dtype: str | None = None) -> None:
    """Write adapter.gguf to the empty folder `out`, in float32 or float16.

    Raises:
        UsageError: `folder` is no adapter. CheckpointError: llama.cpp cannot apply it.
    """
    gguf = import_gguf(dtype, ("float32", "float16"))
    if not is_adapter(folder):
        raise UsageError(f"{folder} has no {ADAPTER_CONFIG}; for a model the format is gguf.")
    config = load_config(folder)
    adapter, model_type = PeftAdapter(folder, config), model_type_of(config)
    if any(module.magnitude is not None for module in adapter.modules.values()):
        raise CheckpointError(
            f"{folder} is a DoRA adapter, which llama.cpp cannot apply; the format gguf merges it."
        )
    if model_type in ("kgpt", "mistral"):
        raise CheckpointError(f"The base model of {folder} cannot be written as GGUF.")
    alpha = float(adapter.values["lora_alpha"])
    writer = gguf.GGUFWriter(str(out / "adapter.gguf"), model_type)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for name, value in _tensors(adapter, config, model_type, alpha):
        writer.add_tensor(name, np.ascontiguousarray(value, dtype or "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(
    adapter: PeftAdapter, config: ModelConfig, model_type: str, alpha: float
) -> Iterator[tuple[str, np.ndarray]]:
    """lora_a and lora_b of each module, so that alpha / rank is its scaling."""
    known = list(projections(config).values())
    for module in adapter.by_module().values():
        projection = module.projection
        fused = [other for other in known if other.path == projection.path]
        b = np.zeros((module.rank, sum(other.outputs for other in fused)), "float32")
        columns = slice(projection.start, projection.start + projection.outputs)
        b[:, columns] = module.scaling * module.rank / alpha * module.b.T
        parts = list(gguf_tensors(projection.path, b, config, model_type))  # one a module
        name, lora_b = parts[fused.index(projection)]
        yield f"{name}.lora_a", module.a
        yield f"{name}.lora_b", lora_b
