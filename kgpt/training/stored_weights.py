"""Which weights of a trained model a checkpoint holds, and in which format.

A trained model is a `kgpt.GPT`, or a Keras model around one, which it has as its attribute `gpt`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgpt.checkpoints.adapter_layout import AdapterLayout, adapter_variables, assign_adapter
from kgpt.checkpoints.parts import Part, write_index
from kgpt.checkpoints.peft_format import is_adapter
from kgpt.checkpoints.pretrained import load_weights, path_below, write_config, write_tokenizer
from kgpt.checkpoints.safetensors_io import WEIGHTS_FILE
from kgpt.checkpoints.weights import write_weights, write_weights_part
from kgpt.config import ModelConfig, SamplingConfig
from kgpt.config.parameters import parameter_shapes
from kgpt.model.gpt import GPT
from kgpt.text.tokenizer import Tokenizer


def gpt_of(model: keras.Model) -> GPT:
    """The `kgpt.GPT` that a trained model is or contains."""
    found: GPT = model if isinstance(model, GPT) else model.gpt
    return found


class Layout(ABC):
    """How weights in host memory are written; independent of the model, which trains on.

    Attributes:
        has_parts: whether several processes write them together, each a part; else the first
            writes them all.
    """

    has_parts = False

    @abstractmethod
    def write(
        self,
        folder: Path,
        weights: Mapping[str, np.ndarray],
        tokenizer: Tokenizer | None,
        sampling: SamplingConfig | None,
    ) -> None:
        """Write the arrays, by path, as files of the existing `folder`."""

    def write_part(self, folder: Path, weights: Mapping[str, np.ndarray], part: Part) -> None:
        """Write the arrays of one process of several."""
        return None

    def write_rest(
        self,
        folder: Path,
        weights: Mapping[str, np.ndarray],
        tokenizer: Tokenizer | None,
        sampling: SamplingConfig | None,
        part: Part,
    ) -> None:
        """Write what there is once, in the first process, when all parts are written."""
        self.write(folder, weights, tokenizer, sampling)


@dataclass(frozen=True)
class ModelDirectory(Layout):
    """A whole model in Hugging Face's format."""

    has_parts = True
    config: ModelConfig

    def write(
        self,
        folder: Path,
        weights: Mapping[str, np.ndarray],
        tokenizer: Tokenizer | None,
        sampling: SamplingConfig | None,
    ) -> None:
        write_config(folder, self.config, tokenizer, sampling)
        write_weights(folder, self.config, weights.__getitem__)

    def write_part(self, folder: Path, weights: Mapping[str, np.ndarray], part: Part) -> None:
        write_weights_part(folder, self.config, weights, part)

    def write_rest(
        self,
        folder: Path,
        weights: Mapping[str, np.ndarray],
        tokenizer: Tokenizer | None,
        sampling: SamplingConfig | None,
        part: Part,
    ) -> None:
        write_config(folder, self.config, tokenizer, sampling)
        write_index(folder, WEIGHTS_FILE, part.count)


@dataclass(frozen=True)
class AdapterFolder(Layout):
    """The adapters alone, as a folder of PEFT, with their tokenizer."""

    adapter: AdapterLayout

    def write(
        self,
        folder: Path,
        weights: Mapping[str, np.ndarray],
        tokenizer: Tokenizer | None,
        sampling: SamplingConfig | None,
    ) -> None:
        self.adapter.write(folder, weights)
        if tokenizer is not None:
            write_tokenizer(folder, tokenizer, self.adapter.config.max_length, sampling)


class StoredWeights:
    """The weights of the `kgpt.GPT`: all of them, or the adapters alone if it has any.

    A task whose model has more weights, such as a head, overrides these methods.
    """

    def variables(self, model: keras.Model) -> dict[str, Any]:
        """The variables by path, in any order; frozen ones, too."""
        gpt = gpt_of(model)
        if gpt.adapter_config is not None:
            return adapter_variables(gpt)
        weights = {path_below(variable): variable for variable in gpt.weights}
        return {path: weights[path] for path, _ in parameter_shapes(gpt.config)}

    def layout(self, model: keras.Model) -> Layout:
        """How their values are written."""
        gpt = gpt_of(model)
        if gpt.adapter_config is not None:
            return AdapterFolder(AdapterLayout.of(gpt))
        return ModelDirectory(gpt.config)

    def load(self, model: keras.Model, folder: Path) -> None:
        """Assign what a checkpoint holds to the variables."""
        if is_adapter(folder):
            assign_adapter(gpt_of(model), folder)
        else:
            load_weights(gpt_of(model), folder)
