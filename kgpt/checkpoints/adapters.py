"""Adapters of a model: add, merge, save and load them.

model = kgpt.GPT.from_pretrained("openai-community/gpt2")
kgpt.add_lora(model, rank=8, target_modules=["c_attn"])
model.compile(kgpt.AdamW(1e-4), kgpt.NextTokenLoss())
model.fit(...)
kgpt.save_adapter(model, "my-adapter")     # a folder of PEFT; or kgpt.merge_lora(model)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kgpt import backend
from kgpt.checkpoints.adapter_layout import (
    AdapterLayout,
    adapter_config_of,
    adapter_variables,
    alpha_of,
    assign_adapter,
    by_pattern,
)
from kgpt.checkpoints.lora_modules import (
    Projection,
    merge_matrix,
    projections,
    scaling,
    target_names,
)
from kgpt.checkpoints.model_card import ModelCard, write_card
from kgpt.checkpoints.peft_format import ADAPTER_CONFIG, is_adapter
from kgpt.checkpoints.pretrained import write_tokenizer
from kgpt.checkpoints.stored_adapter import read_adapter
from kgpt.config import BottleneckConfig, LoraConfig, PrefixConfig
from kgpt.config.adapters import AdapterConfig
from kgpt.errors import UsageError
from kgpt.files import atomic_dir, os_errors_as_kgpt
from kgpt.model.adapters import detach_adapters
from kgpt.model.bottleneck import attach_bottlenecks
from kgpt.model.gpt import GPT
from kgpt.model.linear import FloatWeight
from kgpt.model.lora import AdapterSpec, Lora, attach_adapters
from kgpt.model.prefix import attach_prefix
from kgpt.text.tokenizer import Tokenizer

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
    add_adapter(model, LoraConfig.parse(options), seed)


def add_bottleneck(
    model: GPT,
    size: int = 64,
    placement: str = "houlsby",
    activation: str = "relu",
    scaling: float = 1.0,
    dropout: float = 0.0,
    seed: int = 0,
) -> None:
    """Freeze a model and give it bottleneck adapters (Houlsby et al., 2019), which alone train.

    The model computes what it did before, until it is trained. Compile it afterwards.

    Args:
        model: as for `add_lora`.
        size: width of each adapter's hidden layer.
        placement: "houlsby", after attention and MLP of each block, or "pfeiffer", after the MLP.
        activation: "relu", "gelu", "silu" or "tanh".
        scaling: factor on the output of each adapter.
        dropout: on the input of the adapters while training.
        seed: of the first values.

    Raises:
        UsageError: an option is invalid, or the model has adapters.
    """
    options = {
        "size": size,
        "placement": placement,
        "activation": activation,
        "scaling": scaling,
        "dropout": dropout,
    }
    add_adapter(model, BottleneckConfig.parse(options), seed)


def add_prefix(model: GPT, num_virtual_tokens: int = 20, seed: int = 0) -> None:
    """Freeze a model and give it a prefix (Li & Liang, 2021), which alone trains.

    Each layer attends to `num_virtual_tokens` more keys and values, at first those that the model
    computes of random tokens. They take as many positions of its context. Compile it afterwards.

    Args:
        model: as for `add_lora`, but without a sliding window.
        seed: of those tokens.

    Raises:
        UsageError: the context has no room for the prefix, the model has a sliding window, or it
            has adapters.
    """
    add_adapter(model, PrefixConfig.parse({"num_virtual_tokens": num_virtual_tokens}), seed)


def add_adapter(
    model: GPT, config: AdapterConfig, seed: int | None = 0, trains: bool = True
) -> None:
    """Freeze a model and give it the adapters that `config` describes.

    Args:
        seed: of their first values; None where others will be assigned.
        trains: the adapters will be trained; else they run beside weights in any format.
    """
    if isinstance(config, PrefixConfig):
        attach_prefix(model, config, seed, trains)
    elif isinstance(config, BottleneckConfig):
        attach_bottlenecks(model, config, seed or 0, trains)
    else:
        known = projections(model.config)
        specs = [_spec(known[name], config) for name in target_names(config.target_modules, known)]
        attach_adapters(model, specs, config.dropout, seed or 0)
    model.adapter_config = config


def _spec(projection: Projection, config: LoraConfig) -> AdapterSpec:
    rank = by_pattern(projection.module, config.rank_pattern, config.rank)
    return AdapterSpec(
        module=projection.module,
        linear=projection.path,
        start=projection.start,
        width=projection.outputs,
        rank=int(rank),
        scaling=scaling(int(rank), alpha_of(projection.module, config), config.rslora),
        dora=config.dora,
    )


def merge_lora(model: GPT) -> None:
    """Add a model's adapters to its weights and remove them: it is an ordinary model again.

    All its weights are trainable then; compile it before training it further.

    Raises:
        UsageError: it has no adapters, adapters of another kind, or its weights are quantized:
            `kgpt merge` merges such an adapter into the weights that it was quantized from.
    """
    if not isinstance(adapter_config_of(model), LoraConfig):
        raise UsageError(
            "A prefix and bottleneck adapters cannot be merged into the weights; save them with "
            "kgpt.save_adapter, and run that folder."
        )
    if any(not isinstance(linear.weight, FloatWeight) for linear in model.linears):
        raise UsageError(
            "The weights are quantized; save the adapter, and merge it with `kgpt merge` into the "
            "model that they were quantized from."
        )
    for linear in model.linears:
        variable = linear.variable
        if not isinstance(linear.adapter, Lora) or variable is None:
            continue
        value = np.array(backend.to_host(variable), "float32")  # (in, out)
        for adapter in linear.adapter.adapters:
            merge_into(value, adapter.spec, backend.to_host([v.value for v in adapter.variables]))
        variable.assign(value)
    detach_adapters(model)
    model.adapter_config = None


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
        card = ModelCard(target.resolve().name, model.config, layout.base, adapter=layout.kind)
        write_card(work, card, kept=target)


def load_adapter(model: GPT, folder: str | Path) -> None:
    """Give a model the adapter of a folder of PEFT, to train it further or to run it unmerged.

    `kgpt.load` and every command take such a folder in place of a model; they merge LoRA and DoRA
    as they read the base model.

    Raises:
        UsageError: there is no adapter, or the model has adapters already.
        CheckpointError: the adapter is damaged, or does not fit the model.
    """
    path = Path(folder)
    if not is_adapter(path):
        raise UsageError(f"{path} has no {ADAPTER_CONFIG}, so it is not an adapter.")
    add_adapter(model, read_adapter(path, model.config).config(), seed=None)
    assign_adapter(model, path)


def _is_replaceable(folder: Path) -> bool:
    files = list(folder.iterdir()) if folder.is_dir() else [folder]
    known = all(file.is_file() and file.suffix in SUFFIXES for file in files)
    return not files or (known and (folder / ADAPTER_CONFIG).is_file())
