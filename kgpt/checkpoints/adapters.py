"""LoRA and DoRA adapters of a model: add, merge, save and load them.

model = kgpt.GPT.from_pretrained("openai-community/gpt2")
kgpt.add_lora(model, rank=8, target_modules=["c_attn"])
model.compile(kgpt.AdamW(1e-4), kgpt.NextTokenLoss())
model.fit(...)
kgpt.save_adapter(model, "my-adapter")     # a folder of PEFT; or kgpt.merge_lora(model)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kgpt import backend
from kgpt.checkpoints.lora_modules import (
    Projection,
    matches,
    merge_matrix,
    projections,
    scaling,
    target_names,
)
from kgpt.checkpoints.model_card import ModelCard, write_card
from kgpt.checkpoints.peft_format import ADAPTER_CONFIG, PeftAdapter, is_adapter, write_adapter
from kgpt.checkpoints.pretrained import write_tokenizer
from kgpt.config import LoraConfig, ModelConfig
from kgpt.errors import CheckpointError, UsageError
from kgpt.files import atomic_dir, os_errors_as_kgpt
from kgpt.model.gpt import GPT
from kgpt.model.linear import FloatWeight
from kgpt.model.lora import Adapter, AdapterSpec, attach_adapters, detach_adapters
from kgpt.text.tokenizer import Tokenizer

PARTS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
SUFFIXES = (".json", ".jinja", ".md", ".safetensors", ".txt")


def add_lora(
    model: GPT,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    target_modules: str | list[str] = "all-linear",
    rslora: bool = False,
    dora: bool = False,
    seed: int = 0,
) -> None:
    """Freeze a model and give it LoRA or DoRA adapters, the only weights that train from then on.

    The model computes what it did before, until it is trained. Compile it afterwards.

    Args:
        model: any `kgpt.GPT`; also one with int8 weights (QLoRA), from
            `kgpt.GPT.from_pretrained(..., weight_format="int8")`.
        rank: of each adapter.
        alpha: its output is multiplied by alpha / rank.
        dropout: on the input of the adapters while training.
        target_modules: "all-linear", or names as PEFT takes them: "q_proj" is every module of that
            name, "model.layers.0.self_attn.q_proj" is one; "model.layers.[01].*" is a pattern.
        rslora: multiply by alpha / sqrt(rank) instead (Kalajdzievski, 2023).
        dora: DoRA (Liu et al., 2024): also train the norm of each output's weights.
        seed: of the first values of the matrices A.

    Raises:
        UsageError: an option is invalid, no module has such a name, or the model has adapters.
    """
    options = {
        "rank": rank,
        "alpha": alpha,
        "dropout": dropout,
        "target_modules": target_modules,
        "rslora": rslora,
        "dora": dora,
    }
    if isinstance(target_modules, str) and target_modules != "all-linear":
        options["target_modules"] = [target_modules]
    apply_lora(model, LoraConfig.parse(options), seed)


def apply_lora(model: GPT, config: LoraConfig, seed: int = 0) -> None:
    """`add_lora` with the options of `config`."""
    known = projections(model.config)
    specs = [_spec(known[name], config) for name in target_names(config.target_modules, known)]
    attach_adapters(model, specs, config.dropout, seed)
    model.lora = config


def _spec(projection: Projection, config: LoraConfig) -> AdapterSpec:
    rank = _by_pattern(projection.module, config.rank_pattern, config.rank)
    return AdapterSpec(
        module=projection.module,
        linear=projection.path,
        start=projection.start,
        width=projection.outputs,
        rank=int(rank),
        scaling=scaling(int(rank), _alpha(projection.module, config), config.rslora),
        dora=config.dora,
    )


def _alpha(module: str, config: LoraConfig) -> float:
    return _by_pattern(module, config.alpha_pattern, config.alpha)


def _by_pattern(module: str, patterns: Mapping[str, float], default: float) -> float:
    found = (value for pattern, value in patterns.items() if matches(module, pattern))
    return next(found, default)


def merge_lora(model: GPT) -> None:
    """Add a model's adapters to its weights and remove them: it is an ordinary model again.

    All its weights are trainable then; compile it before training it further.

    Raises:
        UsageError: it has no adapters, or its weights are quantized: `kgpt merge` merges such an
            adapter into the weights that it was quantized from.
    """
    _adapters(model)
    if any(not isinstance(linear.weight, FloatWeight) for linear in model.linears):
        raise UsageError(
            "The weights are quantized; save the adapter, and merge it with `kgpt merge` into the "
            "model that they were quantized from."
        )
    for linear in model.linears:
        variable = linear.variable
        if linear.lora is None or variable is None:
            continue
        value = np.array(backend.to_host(variable), "float32")  # (in, out)
        for adapter in linear.lora.adapters:
            merge_into(value, adapter.spec, backend.to_host([v.value for v in adapter.variables]))
        variable.assign(value)
    detach_adapters(model)
    model.lora = None


def merge_into(kernel: np.ndarray, spec: AdapterSpec, values: Sequence[np.ndarray]) -> None:
    """Add an adapter to a `kernel` (in, out), in place.

    Args:
        values: A (in, rank), B (rank, width), and of DoRA the magnitude (width,).
    """
    a, b, *magnitude = values
    columns = slice(spec.start, spec.start + spec.width)
    kernel[:, columns] = merge_matrix(kernel[:, columns].T, a.T, b.T, spec.scaling, *magnitude).T


# -- files -----------------------------------------------------------------------------------------


def save_adapter(
    model: GPT,
    folder: str | Path,
    tokenizer: Tokenizer | None = None,
    base_model: str | Path | None = None,
) -> None:
    """Write a model's adapters as a folder of PEFT, which is complete or not there at all.

    Args:
        folder: a new or empty folder, or an adapter's, which is replaced.
        tokenizer: saved with the adapter, if it is another than the base model's.
        base_model: where the base model is: a model directory, a run or a hub id; what the model
            was loaded from when not given.

    Raises:
        UsageError: it has no adapters, or it is not known where the base model is.
    """
    target = Path(folder)
    layout = AdapterLayout.of(model, base_model)
    if target.exists() and not _is_replaceable(target):
        raise UsageError(f"{target} is not an adapter and not empty; choose another folder.")
    with os_errors_as_kgpt(f"write {target}"), atomic_dir(target) as work:
        variables = {path: backend.to_host(v.value) for path, v in adapter_variables(model).items()}
        layout.write(work, variables)
        if tokenizer is not None:
            write_tokenizer(work, tokenizer, model.config.max_length)
        card = ModelCard(target.resolve().name, model.config, layout.base, adapter=True)
        write_card(work, card, kept=target)


@dataclass(frozen=True)
class AdapterLayout:
    """How the adapters of a model are stored; independent of the model and its values.

    Attributes:
        config: of the base model. lora: the options of the adapters.
        base: what adapter_config.json calls the base model.
        modules: rank and alpha by module.
        paths: the variable that each tensor is the transpose of.
    """

    config: ModelConfig
    lora: LoraConfig
    base: str
    modules: dict[str, tuple[int, float]]
    paths: dict[str, str]

    @classmethod
    def of(cls, model: GPT, base_model: str | Path | None = None) -> AdapterLayout:
        """That of a model with adapters, whose base is what it was loaded from if not given."""
        adapters, lora, base = _adapters(model), model.lora, base_model or model.name_or_path
        assert lora is not None
        if base is None:
            raise UsageError("Say where the base model is: save_adapter(..., base_model=...).")
        base = str(Path(base).resolve()) if Path(base).is_dir() else str(base)
        modules = {a.spec.module: (a.spec.rank, _alpha(a.spec.module, lora)) for a in adapters}
        paths = {
            f"{adapter.spec.module}.{part}": _path(variable)
            for adapter in adapters
            for part, variable in zip(PARTS, adapter.variables, strict=False)
        }
        return cls(model.config, lora, base, modules, paths)

    def write(self, folder: Path, variables: Mapping[str, np.ndarray]) -> None:
        """Write the values of the variables, given by path, to the existing `folder`."""
        tensors = {
            name: np.ascontiguousarray(variables[path].T) for name, path in self.paths.items()
        }
        write_adapter(folder, self.config, self.lora, self.base, self.modules, tensors)


def load_adapter(model: GPT, folder: str | Path) -> None:
    """Give a model the adapter of a folder of PEFT, to train it further or to run it unmerged.

    `kgpt.load` and every command take such a folder in place of a model, and merge it as they
    read the base model.

    Raises:
        UsageError: there is no adapter, or the model has adapters already.
        CheckpointError: the adapter is damaged, or does not fit the model.
    """
    path = Path(folder)
    if not is_adapter(path):
        raise UsageError(f"{path} has no {ADAPTER_CONFIG}, so it is not an adapter.")
    apply_lora(model, PeftAdapter(path, model.config).config())
    assign_adapter(model, path)


def assign_adapter(model: GPT, folder: Path) -> None:
    """Assign the values of an adapter's folder to the same adapters of a model."""
    saved = PeftAdapter(folder, model.config).by_module()
    adapters = _adapters(model)
    if {a.spec.module: a.spec.rank for a in adapters} != {m: x.rank for m, x in saved.items()}:
        raise CheckpointError(f"{folder} has adapters of other modules or ranks than the model.")
    for adapter in adapters:
        stored = saved[adapter.spec.module]
        values = (stored.a.T, stored.b.T, stored.magnitude)
        for variable, value in zip(adapter.variables, values, strict=False):
            variable.assign(value)


def adapter_variables(model: GPT) -> dict[str, Any]:
    """The variables of a model's adapters by path."""
    return {_path(v): v for adapter in _adapters(model) for v in adapter.variables}


def _adapters(model: GPT) -> list[Adapter]:
    """A model's adapters; `UsageError` if it has none."""
    found = [adapter for linear in model.linears if linear.lora for adapter in linear.lora.adapters]
    if not found:
        raise UsageError("The model has no adapters; kgpt.add_lora adds them.")
    return found


def _path(variable: Any) -> str:
    return str(variable.path).partition("/")[2]


def _is_replaceable(folder: Path) -> bool:
    files = list(folder.iterdir()) if folder.is_dir() else [folder]
    known = all(file.is_file() and file.suffix in SUFFIXES for file in files)
    return not files or (known and (folder / ADAPTER_CONFIG).is_file())
