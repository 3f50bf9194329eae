"""The places that could run a model: backends, precisions, exports, other software, the server."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kgpt.checkpoints.peft_format import base_folder, is_adapter
from kgpt.checkpoints.quantized import quantization_of
from kgpt.config import did_you_mean
from kgpt.errors import UsageError

BACKENDS = {"jax": "jax", "tensorflow": "tensorflow", "torch": "torch"}
PRECISIONS = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Place:
    """A place that runs the model.

    Attributes:
        name: of one or two words.
        observe: the function of a `Case` that observes it, as "module:function".
        backend: of the process that observes it.
        precision: a key of `BOUNDS`.
        source: the weights: "model", "int4" (quantized) or "adapter" (with an adapter).
        options: keyword arguments of the function.
        on_gpu: the process may use the GPU.
        requires: modules that must be installed.
        export: the format that `--export` can give a folder for.
    """

    name: str
    observe: str
    backend: str
    precision: str = "float32"
    source: str = "model"
    options: dict[str, Any] = field(default_factory=dict)
    on_gpu: bool = False
    requires: tuple[str, ...] = ()
    export: str | None = None

    @property
    def missing(self) -> str | None:
        """The module that is not installed; None if all are."""
        modules = (BACKENDS[self.backend], *self.requires)
        return next((m for m in modules if importlib.util.find_spec(m) is None), None)


def all_places(folder: Path, has_gpu: bool) -> list[Place]:
    """Every place for the model of `folder`; some may lack software or not support the model."""
    places: list[Place] = []
    quantized = quantization_of(base_folder(folder)) is not None
    for name in BACKENDS:
        for on_gpu in (False, True) if has_gpu else (False,):
            places += _backend_places(name, on_gpu, quantized, is_adapter(folder))
    if not quantized:
        observe = "kgpt.verification.backends:observe_reference"
        places.append(Place("numpy int4", observe, _default_backend(), "int4"))
    return places + _export_places()


def _backend_places(name: str, on_gpu: bool, quantized: bool, adapter: bool) -> list[Place]:
    prefix = f"{name} gpu" if on_gpu else name
    module = "kgpt.verification.backends"
    places = [
        Place(
            f"{prefix} {dtype}", f"{module}:observe_precision", name, dtype,
            options={"dtype": dtype}, on_gpu=on_gpu,
        )
        for dtype in PRECISIONS
    ]  # fmt: skip
    if not quantized:
        places.append(
            Place(
                f"{prefix} int4",
                f"{module}:observe_precision",
                name,
                "int8",
                "int4",
                {"dtype": "int4"},
                on_gpu=on_gpu,
            )
        )  # its head is int8, as are activations there
    source = "model" if adapter else "adapter"
    observe = f"{module}:observe_adapter"
    return [*places, Place(f"{prefix} adapter", observe, name, source=source, on_gpu=on_gpu)]


def _export_places() -> list[Place]:
    def observer(module: str, function: str) -> str:
        return f"kgpt.verification.{module}:{function}"

    files = "torch" if importlib.util.find_spec("torch") else _default_backend()
    onnx, gguf = ("onnx", "onnxruntime"), ("gguf",)
    return [
        Place("server", observer("server", "observe_server"), _default_backend()),
        Place("hf", observer("hugging_face", "observe_files"), files, export="hf"),
        Place(
            "transformers", observer("hugging_face", "observe_transformers"), "torch",
            requires=("transformers",), export="hf",
        ),
        Place("onnx", observer("onnx", "observe_onnx"), files, requires=onnx, export="onnx"),
        Place("gguf", observer("gguf", "observe_gguf"), files, requires=gguf, export="gguf"),
        Place(
            "llama.cpp", observer("gguf", "observe_llama_cpp"), files,
            requires=(*gguf, "xllamacpp"), export="gguf",
        ),
        Place(
            "savedmodel", observer("savedmodel", "observe_saved_model"), "tensorflow",
            export="savedmodel",
        ),
    ]  # fmt: skip


def _default_backend() -> str:
    """The backend of `KERAS_BACKEND`, else the first that is installed."""
    chosen = os.environ.get("KERAS_BACKEND")
    installed = [name for name, module in BACKENDS.items() if importlib.util.find_spec(module)]
    return chosen if chosen in installed else installed[0]


def select(places: Sequence[Place], only: Sequence[str]) -> list[Place]:
    """The places whose name has all words of an entry of `only`; all if it is empty."""
    if not only:
        return list(places)
    known = sorted({word for place in places for word in place.name.split()})
    for word in (word for entry in only for word in entry.split()):
        if word not in known:
            hint = did_you_mean(word, known) or f"the words are {', '.join(known)}."
            raise UsageError(f"No place is called {word!r}; {hint}")
    wanted = [set(entry.split()) for entry in only]
    return [p for p in places if any(words <= set(p.name.split()) for words in wanted)]


def recognise_exports(paths: Sequence[Path]) -> Mapping[str, Path]:
    """The format of each existing export; a `UsageError` for a path that is none."""
    found: dict[str, Path] = {}
    for path in paths:
        found[_format_of(path)] = path
    return found


def _format_of(path: Path) -> str:
    if path.suffix == ".gguf" and path.is_file():
        return "gguf"
    signs = {
        "onnx": "model.onnx",
        "gguf": "model.gguf",
        "savedmodel": "saved_model.pb",
        "hf": "config.json",
    }
    for name, file in signs.items():
        if (path / file).is_file():
            return name
    raise UsageError(f"{path} holds no {', '.join(signs.values())}, so it is no export to verify.")
