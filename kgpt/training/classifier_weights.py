"""What a checkpoint of a classifier holds: always a whole classifier, adapters being merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import load_file

from kgpt.checkpoints.adapter_layout import adapter_variables
from kgpt.checkpoints.adapters import merge_into
from kgpt.checkpoints.classifier_head import ClassifierHead
from kgpt.checkpoints.pretrained import UNMERGED, load_weights, path_below, write_config
from kgpt.checkpoints.safetensors_io import write_arrays
from kgpt.checkpoints.weights import write_weights
from kgpt.config import ModelConfig, SamplingConfig
from kgpt.model.classifier import Classifier
from kgpt.model.lora import AdapterSpec, Lora
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.stored_weights import Layout, StoredWeights


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter: its columns of the variable `kernel`, and the paths of A, B and magnitude."""

    kernel: str
    spec: AdapterSpec
    paths: tuple[str, ...]


@dataclass(frozen=True)
class ClassifierDirectory(Layout):
    """A classifier in Hugging Face's format; beside it the adapters that are merged into it."""

    config: ModelConfig
    head: ClassifierHead
    adapters: tuple[StoredAdapter, ...] = ()

    def write(
        self,
        folder: Path,
        weights: Mapping[str, np.ndarray],
        tokenizer: Tokenizer | None,
        sampling: SamplingConfig | None,
    ) -> None:
        def read(path: str) -> np.ndarray:
            adapters = [adapter for adapter in self.adapters if adapter.kernel == path]
            if not adapters:
                return weights[path]
            value = np.array(weights[path], "float32")
            for adapter in adapters:
                merge_into(value, adapter.spec, [weights[path] for path in adapter.paths])
            return value

        write_config(folder, self.config, tokenizer, **self.head.as_config(self.config))
        write_weights(folder, self.config, read, num_labels=self.head.num_labels)
        if self.adapters:
            paths = [path for adapter in self.adapters for path in adapter.paths]
            write_arrays(folder / UNMERGED, {path: weights[path] for path in (*paths, "score")})


class ClassifierWeights(StoredWeights):
    """All weights of a `kgpt.Classifier`, and its adapters, if it has any."""

    def variables(self, model: keras.Model) -> dict[str, Any]:
        return {path_below(variable): variable for variable in model.weights}

    def layout(self, model: Classifier) -> Layout:
        head = ClassifierHead.of(model)
        assert head is not None, "a classifier has a head"
        return ClassifierDirectory(model.config, head, tuple(_adapters(model)))

    def load(self, model: Classifier, folder: Path) -> None:
        if model.adapter_config is None:
            load_weights(model, folder)
            return
        saved = load_file(folder / UNMERGED)
        for path, variable in (adapter_variables(model) | {"score": model.head.variable}).items():
            variable.assign(saved[path])


def _adapters(model: Classifier) -> list[StoredAdapter]:
    return [
        StoredAdapter(
            path_below(linear.variable), adapter.spec, tuple(map(path_below, adapter.variables))
        )
        for linear in model.linears
        if isinstance(linear.adapter, Lora)
        for adapter in linear.adapter.adapters
    ]
