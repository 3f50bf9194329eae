"""The model that fine-tuning starts from, and which of its weights are trained."""

from __future__ import annotations

import math

import keras

from kgpt import backend
from kgpt.checkpoints.adapters import add_adapter
from kgpt.checkpoints.hub import resolve_source
from kgpt.checkpoints.peft_format import is_adapter, is_unmerged
from kgpt.checkpoints.pretrained import load_config, load_model, load_tokenizer
from kgpt.config import BottleneckConfig, Config, ModelConfig, PrefixConfig, weight_format
from kgpt.config.adapters import AdapterConfig
from kgpt.errors import DataError, KgptError, UsageError
from kgpt.model.freezing import freeze
from kgpt.model.gpt import GPT
from kgpt.runs import RunData, resolve_model

FREE = ("dropout", "initializer_range")  # options of a model that change no weight


def with_base_model(config: Config) -> Config:
    """`config` with the architecture of `finetune.model`, and a run in it as its checkpoint.

    Raises:
        UsageError: no model is named, `config` asks for another architecture, or its options do
            not fit together.
        KgptError: the model is not found.
    """
    finetune = config.finetune
    if finetune.model is None:
        raise UsageError("No model is named; give the model to fine-tune with --model.")
    _check_method(config)
    folder = resolve_source(finetune.model)
    if is_unmerged(folder):
        raise UsageError(
            f"{finetune.model} is itself an adapter, which cannot be merged; fine-tune its base "
            "model instead."
        )
    if finetune.has_adapters and is_adapter(folder):
        raise UsageError(
            f"{finetune.model} is itself an adapter; merge it with `kgpt merge {finetune.model} "
            "OUT` and fine-tune that, or fine-tune it with --method full."
        )
    model = _architecture(load_config(folder), config.model, finetune.model)
    finetune = finetune.model_copy(update={"model": lasting_name(finetune.model)})
    return config.model_copy(update={"model": model, "finetune": finetune})


def _check_method(config: Config) -> None:
    """Raise `UsageError` for options that say nothing with the method."""
    finetune = config.finetune
    if finetune.has_adapters and (finetune.freeze_layers or finetune.freeze):
        raise UsageError(
            f"finetune.freeze_layers and finetune.freeze are for --method full: {finetune.method} "
            "freezes the whole model."
        )
    if not finetune.has_adapters and finetune.base_precision != "float32":
        raise UsageError(
            f"finetune.base_precision {finetune.base_precision} is for frozen weights: give "
            "--method lora, dora, adapter or prefix, or leave it out."
        )
    if finetune.base_precision == "bfloat16" and config.train.precision != "bfloat16":
        raise UsageError(
            "finetune.base_precision bfloat16 computes in bfloat16; give --train.precision "
            "bfloat16, too."
        )


def _architecture(base: ModelConfig, given: ModelConfig, name: str) -> ModelConfig:
    """That of the base model, with the dropout that is given.

    Options that have their defaults count as not given.
    """
    changes = {}
    for key in given.model_fields_set:
        value, before = getattr(given, key), getattr(base, key)
        if key in FREE:
            changes[key] = value
        elif value != before and value != ModelConfig.model_fields[key].get_default():
            raise UsageError(
                f"model.{key} is {value}, but the model {name} has {before}, which fine-tuning "
                "cannot change; leave it out."
            )
    return base.model_copy(update=changes)


def lasting_name(name: str) -> str:
    """A name that means the same model later: a folder's path, or a hub id."""
    try:
        return str(resolve_model(name).resolve())
    except KgptError:
        return name


def check_tokenizer(config: Config, data: RunData) -> None:
    """Raise `DataError` if a data set was prepared with another tokenizer than the base model's.

    A base model without a tokenizer is compared by the size of its vocabulary.
    """
    name, vocab_size = config.finetune.model, config.model.known_vocab_size
    try:
        tokenizer = load_tokenizer(resolve_source(name or ""))
    except KgptError:
        tokenizer = None
    if tokenizer is not None and tokenizer.fingerprint != data.tokenizer_sha256:
        raise DataError(
            f"The data set {data.path} was prepared with another tokenizer than that of {name}; "
            f"prepare it with `kgpt data prepare FILES --tokenizer {name} --out DIR`, or give the "
            "files with --data."
        )
    if data.vocab_size > vocab_size:
        raise DataError(
            f"The tokens of {data.path} go up to {data.vocab_size}, but {name} has {vocab_size}."
        )


def load_base_model(config: Config) -> GPT:
    """The base model of a complete configuration, not compiled.

    It has adapters, or its own weights are trainable but for those that are to be frozen.
    """
    train, finetune = config.train, config.finetune
    backend.set_precision(train.precision)
    precision = finetune.base_precision
    model = load_model(
        resolve_source(finetune.model or ""),
        seed=train.seed,
        config=config.model,
        gradient_checkpointing=train.gradient_checkpointing,
        dtype="bfloat16" if precision == "bfloat16" else train.dtype_policy,
        weight_format=weight_format(precision),
    )
    model.name_or_path = finetune.model
    if finetune.has_adapters:
        add_adapter(model, adapter_config(config), train.seed)
    freeze(model, finetune.freeze_layers, finetune.freeze)
    return model


def adapter_config(config: Config) -> AdapterConfig:
    """The options of the adapters."""
    if config.finetune.method == "adapter":
        return config.bottleneck
    if config.finetune.method == "prefix":
        return config.prefix
    dora = config.lora.dora or config.finetune.method == "dora"
    return config.lora.model_copy(update={"dora": dora})


def describe_method(config: Config) -> str:
    """Which weights are trained, for people: "LoRA of rank 8"."""
    adapter = adapter_config(config)
    if not config.finetune.has_adapters:
        return config.finetune.method
    if isinstance(adapter, BottleneckConfig):
        return f"bottleneck adapters of size {adapter.size}"
    if isinstance(adapter, PrefixConfig):
        return f"a prefix of {adapter.num_virtual_tokens} virtual tokens"
    return f"{'DoRA' if adapter.dora else 'LoRA'} of rank {adapter.rank}"


def flops_per_token(config: Config, length: int) -> float:
    """Of forward and backward pass; frozen matrices have no gradient of their own.

    Weights frozen one by one are counted as trained.
    """
    whole = config.model.flops_per_token(length)
    return whole * 2 / 3 if config.finetune.has_adapters else whole


def count_trainable(model: keras.Model) -> int:
    """Trainable parameters."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)
