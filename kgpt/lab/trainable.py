"""The parameters that a configuration trains: all, some, or those of adapters. No Keras here."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterator

from kgpt.checkpoints.bottleneck_format import adapted_modules
from kgpt.checkpoints.lora_modules import matches, projections, target_names
from kgpt.config import Config, LoraConfig
from kgpt.config.parameters import parameter_shapes

EMBEDDINGS = ("token_embedding", "position_embedding")  # what `freeze_layers` freezes, too


def trainable_shapes(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Path and shape of each trained variable."""
    finetune = config.finetune
    if finetune.objective is not None and finetune.has_adapters:
        yield from _adapter_shapes(config)
        return
    frozen_blocks = [f"block_{i}/*" for i in range(finetune.freeze_layers)]
    patterns = [*finetune.freeze, *frozen_blocks, *(EMBEDDINGS if finetune.freeze_layers else ())]
    for path, shape in parameter_shapes(config.model):
        if not any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns):
            yield path, shape


def _adapter_shapes(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The variables of adapters: matrices beside each adapted product, or a prefix of each layer.

    Of LoRA A (rank, in), B (out, rank), and for DoRA a magnitude (out,).
    """
    if config.finetune.method == "prefix":
        model, tokens = config.model, config.prefix.num_virtual_tokens
        for layer, part in itertools.product(range(model.num_layers), ("keys", "values")):
            shape = (model.num_kv_heads, tokens, model.head_dim)
            yield f"block_{layer}/attention/prefix_{part}", shape
        return
    if config.finetune.method == "adapter":
        width, size = config.model.hidden_dim, config.bottleneck.size
        for path in adapted_modules(config.model, config.bottleneck.placement):
            yield f"{path}_adapter_down", (width, size)
            yield f"{path}_adapter_up", (size, width)
        return
    known, lora = projections(config.model), config.lora
    for module in target_names(lora.target_modules, known):
        product, rank = known[module], _rank(lora, module)
        yield f"{product.path}_lora_a", (product.inputs, rank)
        yield f"{product.path}_lora_b", (rank, product.outputs)
        if lora.dora or config.finetune.method == "dora":
            yield f"{product.path}_lora_magnitude", (product.outputs,)


def _rank(lora: LoraConfig, module: str) -> int:
    found = (rank for name, rank in lora.rank_pattern.items() if matches(module, name))
    return next(found, lora.rank)
