"""Folders of PEFT: a LoRA or DoRA adapter of a model that is stored elsewhere. No Keras here.

- adapter_config.json: `base_model_name_or_path`, rank, alpha, the modules that have an adapter
- adapter_model.safetensors: of each module lora_A (rank, in), lora_B (out, rank) and, for DoRA,
  lora_magnitude_vector (out,)

Wherever a model directory is read, such a folder is read as its base model with the adapter merged
into the weights, one weight at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.adapter_keys import (
    HARMLESS_INITS,
    LORA_KEYS,
    UNMERGED_KINDS,
    check_keys,
    common_values,
)
from kgpt.checkpoints.hub import resolve_source
from kgpt.checkpoints.lora_modules import (
    Projection,
    merge_matrix,
    projections,
    scaling,
    shortest_names,
)
from kgpt.checkpoints.safetensors_io import (
    INDEX_FILE,
    NUMPY_DTYPES,
    WEIGHTS_FILE,
    TensorEntry,
    open_file,
    write_arrays,
)
from kgpt.checkpoints.weight_map import PREFIXES
from kgpt.config import LoraConfig, ModelConfig
from kgpt.errors import CheckpointError, KgptError
from kgpt.files import write_json
from kgpt.text.special_tokens import read_json_object

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
PREFIX = "base_model.model."
KEY = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(\.\w+)?(\.weight)?"
)


# -- reading -----------------------------------------------------------------------------------


def is_adapter(folder: Path) -> bool:
    """Is this an adapter's folder? One with the weights of a model too is a model directory."""
    has_weights = any((folder / name).is_file() for name in (WEIGHTS_FILE, INDEX_FILE))
    return (folder / ADAPTER_CONFIG).is_file() and not has_weights


def is_unmerged(folder: Path) -> bool:
    """Is this the folder of an adapter that cannot be merged into the weights of its base model?"""
    kind = is_adapter(folder) and read_json_object(folder / ADAPTER_CONFIG).get("peft_type")
    return kind in UNMERGED_KINDS


def base_folder(folder: Path) -> Path:
    """The model directory of an adapter's base model; any other folder itself.

    `base_model_name_or_path` is a path, also beside or in the folder, a run, or a hub id.
    """
    if not is_adapter(folder):
        return folder
    values = read_json_object(folder / ADAPTER_CONFIG)
    name, revision = values.get("base_model_name_or_path"), values.get("revision")
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{folder / ADAPTER_CONFIG} does not say which model it adapts.")
    near = [path for path in (folder / name, folder.parent / name) if path.is_dir()]
    try:
        base = near[0] if near else resolve_source(f"{name}@{revision}" if revision else name)
    except KgptError as error:
        raise CheckpointError(
            f"{folder} is an adapter of the model {name!r}, which is not found: {error}"
        ) from None
    if is_adapter(base):
        raise CheckpointError(f"{folder} adapts {base}, which is an adapter itself; merge that.")
    return base


def tokenizer_folder(folder: Path) -> Path:
    """The folder with a model's tokenizer: an adapter's own, if it has one, or its base's."""
    return folder if has_tokenizer(folder) else base_folder(folder)


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


@dataclass(frozen=True)
class ModuleAdapter:
    """An adapter of one module: A (rank, in), B (out, rank), magnitude (out,) for DoRA."""

    projection: Projection
    a: np.ndarray
    b: np.ndarray
    magnitude: np.ndarray | None
    alpha: float
    scaling: float

    @property
    def rank(self) -> int:
        return len(self.a)


class PeftAdapter:
    """The adapter in `folder`, for a model of `config`.

    Raises:
        CheckpointError: it is damaged, does not fit the model, or is of an unsupported kind.
    """

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self.folder = folder
        self.values = read_json_object(folder / ADAPTER_CONFIG)
        _check_kind(folder / ADAPTER_CONFIG, self.values)
        self.modules = {
            projection.tensor: self._module(projection, tensors)
            for projection, tensors in self._tensors(projections(config))
        }

    def config(self) -> LoraConfig:
        """What the adapter was made with, modules being named one by one where they differ."""
        modules = self.by_module()
        first = next(iter(modules.values()))
        ranks = {name: a.rank for name, a in modules.items() if a.rank != first.rank}
        alphas = {name: a.alpha for name, a in modules.items() if a.alpha != first.alpha}
        return LoraConfig(
            rank=first.rank,
            alpha=first.alpha,
            dropout=self.values.get("lora_dropout") or 0.0,
            target_modules=list(modules),
            rslora=bool(self.values.get("use_rslora")),
            dora=first.magnitude is not None,
            rank_pattern=ranks,
            alpha_pattern=alphas,
        )

    def by_module(self) -> dict[str, ModuleAdapter]:
        """The adapters by module; `modules` has them by the name of the weight."""
        return {adapter.projection.module: adapter for adapter in self.modules.values()}

    def variables(self) -> dict[str, np.ndarray]:
        """A (in, rank), B (rank, out) and magnitudes by the paths of kgpt's variables."""
        found: dict[str, np.ndarray] = {}
        for name, adapter in self.by_module().items():
            stem = f"{adapter.projection.path.rpartition('/')[0]}/{name.rpartition('.')[2]}_lora"
            found |= {f"{stem}_a": adapter.a.T, f"{stem}_b": adapter.b.T}
            if adapter.magnitude is not None:
                found[f"{stem}_magnitude"] = adapter.magnitude
        return found

    @property
    def description(self) -> dict[str, Any]:
        """What `kgpt info` shows."""
        config = self.config()
        return {
            "kind": "DoRA" if config.dora else "LoRA",
            "rank": config.rank,
            "alpha": config.alpha,
            "modules": len(self.modules),
        }

    def merged(self, name: str, entry: TensorEntry) -> TensorEntry:
        """The tensor `name` of the base model with its adapter, if it has one."""
        adapter = self.modules.get(name)
        if adapter is None:
            return entry
        return MergedEntry(entry.file, entry.dtype, entry.shape, 0, entry, adapter)

    def _tensors(
        self, modules: Mapping[str, Projection]
    ) -> list[tuple[Projection, dict[str, TensorEntry]]]:
        """The tensors of each module that has any, by part."""
        found: dict[str, dict[str, TensorEntry]] = {}
        file = self.folder / ADAPTER_WEIGHTS
        if not file.is_file() and any(self.folder.glob("adapter_model.*")):
            raise CheckpointError(f"{self.folder} has no {ADAPTER_WEIGHTS}, the one format read.")
        for name, entry in open_file(file).items():
            match = KEY.fullmatch(name.removeprefix(PREFIX))
            module = match and _known_module(match["module"], modules)
            if not match or module is None or entry.dtype not in NUMPY_DTYPES:
                raise CheckpointError(
                    f"{file} has the tensor {name}, which kgpt has no place for: it reads the "
                    f"LoRA and DoRA adapters of the modules {_short_list(modules)}."
                )
            found.setdefault(module, {})[match["part"]] = entry
        if not found:
            raise CheckpointError(f"{file} has no adapters.")
        return [(modules[module], parts) for module, parts in found.items()]

    def _module(self, projection: Projection, parts: Mapping[str, TensorEntry]) -> ModuleAdapter:
        module, dora = projection.module, bool(self.values.get("use_dora"))
        names = ("lora_A", "lora_B", *(("lora_magnitude_vector",) if dora else ()))
        if set(parts) != set(names):
            raise CheckpointError(
                f"The adapter {self.folder} has {', '.join(sorted(parts))} of {module}, but its "
                f"{ADAPTER_CONFIG} requires {', '.join(sorted(names))}."
            )
        rank = parts["lora_A"].shape[0]
        sizes = ((rank, projection.inputs), (projection.outputs, rank), (projection.outputs,))
        for name, shape in zip(names, sizes, strict=False):
            if parts[name].shape != shape:
                raise CheckpointError(
                    f"{name} of {module} in the adapter {self.folder} has shape "
                    f"{list(parts[name].shape)}, but the base model requires {list(shape)}."
                )
        arrays = [np.asarray(parts[name].read(), "float32") for name in names]
        alpha = _by_pattern(module, self.values.get("alpha_pattern"), self.values["lora_alpha"])
        factor = scaling(rank, alpha, bool(self.values.get("use_rslora")))
        magnitude = arrays[2] if dora else None
        return ModuleAdapter(projection, arrays[0], arrays[1], magnitude, alpha, factor)


@dataclass(frozen=True)
class MergedEntry(TensorEntry):
    """A weight with its adapter: a `TensorEntry` that is merged, in float32, when read."""

    base: TensorEntry
    adapter: ModuleAdapter

    def read(self) -> np.ndarray:
        weight, adapter = self.base.read(), self.adapter
        transposed = adapter.projection.transposed
        matrix = merge_matrix(
            weight if transposed else weight.T,
            adapter.a,
            adapter.b,
            adapter.scaling,
            adapter.magnitude,
        )
        return matrix if transposed else matrix.T


def _check_kind(file: Path, values: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` if an adapter computes anything but LoRA or DoRA."""
    kind = values.get("peft_type")
    if kind in UNMERGED_KINDS:
        raise CheckpointError(
            f"{file.parent} is an adapter of the kind {kind}, which cannot be merged into the "
            "weights of its base model: it runs as a model by itself, and is neither merged, "
            "exported, quantized, verified nor chosen by request."
        )
    if kind != "LORA":
        raise CheckpointError(
            f"{file} is of the kind {kind!r}; kgpt has LORA, with or without use_dora, "
            f"{' and '.join(UNMERGED_KINDS)}."
        )
    if not isinstance(values.get("lora_alpha"), int | float):
        raise CheckpointError(f"{file} lacks the key 'lora_alpha'.")
    init = values.get("init_lora_weights", True)
    harmless = LORA_KEYS if init in HARMLESS_INITS else LORA_KEYS - {"init_lora_weights"}
    check_keys(file, values, harmless)


def _known_module(name: str, modules: Mapping[str, Projection]) -> str | None:
    """The module called `name`, with or without the prefix of the whole model."""
    names = (name, *(prefix + name for prefix in PREFIXES))
    return next((name for name in names if name in modules), None)


def _by_pattern(module: str, patterns: Mapping[str, Any] | None, default: float) -> float:
    """The value for a module of PEFT's patterns, regular expressions of the end of its name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return float(value)
    return default


def _short_list(modules: Iterable[str]) -> str:
    return ", ".join(sorted({module.rpartition(".")[2] for module in modules}))


# -- writing -----------------------------------------------------------------------------------


def write_adapter(
    folder: Path,
    config: ModelConfig,
    lora: LoraConfig,
    base: str,
    modules: Mapping[str, tuple[int, float]],
    tensors: Mapping[str, np.ndarray],
) -> None:
    """Write an adapter to the existing `folder`.

    Args:
        config: of the base model.
        lora: the options, of which dropout and the kind are taken.
        base: becomes `base_model_name_or_path`.
        modules: rank and alpha of each module that has an adapter.
        tensors: by name without PEFT's prefix, such as "h.0.attn.c_attn.lora_A.weight".
    """
    known = projections(config)
    rank, alpha = next(iter(modules.values()))
    values = common_values("LORA", base) | {
        "r": rank,
        "lora_alpha": _plain(alpha),
        "lora_dropout": lora.dropout,
        "target_modules": shortest_names(modules, known),
        "rank_pattern": {name: r for name, (r, _) in modules.items() if r != rank},
        "alpha_pattern": {name: _plain(x) for name, (_, x) in modules.items() if x != alpha},
        "use_rslora": lora.rslora,
        "use_dora": lora.dora,
        "fan_in_fan_out": not any(projection.transposed for projection in known.values()),
        "bias": "none",
        "modules_to_save": None,
        "init_lora_weights": True,
    }
    write_arrays(folder / ADAPTER_WEIGHTS, {PREFIX + name: x for name, x in tensors.items()})
    write_json(folder / ADAPTER_CONFIG, values)


def _plain(number: float) -> float | int:
    """16 for 16.0, as PEFT writes it."""
    return int(number) if float(number).is_integer() else number
