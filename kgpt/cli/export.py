"""`kgpt export`: convert a model to the formats of other software."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.config import did_you_mean
from kgpt.errors import UsageError
from kgpt.files import atomic_dir, os_errors_as_kgpt
from kgpt.formatting import size
from kgpt.runs import resolve_model

# A format is a function of the model directory, the empty folder to fill, and the storage dtype.
FORMATS = {
    "gguf": "kgpt.export.gguf:export_gguf",
    "gguf-lora": "kgpt.export.gguf_lora:export_gguf_lora",
    "hf": "kgpt.checkpoints.convert:export_hugging_face",
    "keras": "kgpt.export.keras_file:export_keras",
    "onnx": "kgpt.export.onnx:export_onnx",
    "savedmodel": "kgpt.export.savedmodel.export:export_saved_model",
}
STORAGE_DTYPES = ("float32", "bfloat16", "float16")
GGUF_DTYPES = ("q8_0", "q4_0")  # of llama.cpp


def export(*, model: str, format: str, out: str, dtype: str | None = None) -> None:
    """Convert a model to the format of other software.

    Parameters
    ----------
    model
        A model directory, a run (its best checkpoint), or run@step.
    format
        hf: a folder for transformers and vLLM. gguf: a file for llama.cpp, tokenizer included,
        in float32, float16, q8_0 or q4_0; it needs the extra "gguf", and no converter. gguf-lora:
        the same of a LoRA adapter alone, for llama-server --lora. onnx: a decoder with KV cache for
        onnxruntime; it needs the extra "onnx". keras: a .keras file. savedmodel: the
        whole text generator for TensorFlow Serving; OUT is then a numbered version, such as
        my-model/1. A classifier goes to hf, keras, onnx and savedmodel.
    out
        The output folder, which must be empty or not exist.
    dtype
        Of the stored weights: float32, bfloat16 or float16, for gguf also q8_0 or q4_0. If not
        given, hf keeps the model's, the others use float32.
    """
    if format not in FORMATS:
        hint = did_you_mean(format, FORMATS) or f"the formats are {', '.join(FORMATS)}."
        raise UsageError(f"There is no format {format!r}; {hint}")
    dtypes = STORAGE_DTYPES + (GGUF_DTYPES if format == "gguf" else ())
    if dtype is not None and dtype not in dtypes:
        raise UsageError(f"--dtype must be {', '.join(dtypes)}, not {dtype!r}.")
    if format == "savedmodel" and not Path(out).name.isdecimal():
        raise UsageError(f"TensorFlow Serving needs numbered versions; give --out {out}/1.")
    folder, target = resolve_model(model), new_target(out)
    prepare_process()
    silence_native_code()
    module, name = FORMATS[format].split(":")
    with os_errors_as_kgpt(f"write {target}"), atomic_dir(target) as work:
        getattr(import_module(module), name)(folder, work, dtype)
    print(f"{target}: {format}, {size(size_of(target))}")


def new_target(out: str) -> Path:
    """The path `out`; a `UsageError` unless it is empty or does not exist."""
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists already; choose another folder, or delete it.")
    return target


def size_of(folder: Path) -> int:
    """Bytes of all files in `folder`."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
