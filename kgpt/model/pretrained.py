"""What a user does with a whole GPT besides training it: load, save, generate, export.

The implementations are in layers above this one, so they are found when they are called.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Self

import keras

from kgpt import backend
from kgpt.config.adapters import AdapterConfig
from kgpt.errors import UsageError


class PretrainedModel(keras.Model):
    """The base class of `GPT`."""

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """The model of a directory, run or hub id; see `kgpt.checkpoints.pretrained`."""
        return import_module("kgpt.checkpoints.pretrained").from_pretrained(source, **options)

    def save_pretrained(self, folder: str | Path, tokenizer: Any = None, **options: Any) -> None:
        """Write a model directory; see `kgpt.checkpoints.pretrained.save_pretrained`."""
        pretrained = import_module("kgpt.checkpoints.pretrained")
        pretrained.save_pretrained(self, folder, tokenizer, **options)

    def add_adapter(self, config: AdapterConfig, seed: int | None = 0, trains: bool = True) -> None:
        """Freeze the model and give it adapters; see `kgpt.checkpoints.adapters.add_adapter`."""
        import_module("kgpt.checkpoints.adapters").add_adapter(self, config, seed, trains)

    generates_text = True  # a classifier does not

    @property
    def trained_with_adapters(self) -> list[keras.Variable]:
        """Weights that adapters leave trainable: none but the new head of a classifier."""
        return []

    def generate(self, token_ids: Any, **options: Any) -> Any:
        """Continue token ids (T,) or (B, T), or text; see `kgpt.generation.keras_api.generate`."""
        return import_module("kgpt.generation.keras_api").generate(self, token_ids, **options)

    def export(
        self,
        filepath: str | Path,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **options: Any,
    ) -> None:
        """Keras's export of the forward pass, from token ids (B, T) to logits (B, T, V).

        `kgpt export` converts a model directory on every backend, with the text generation.

        Raises:
            UsageError: Keras cannot export the model in this format on this backend.
        """
        if input_signature is None:
            input_signature = [keras.InputSpec(shape=(None, None), dtype="int32")]
        try:
            super().export(str(filepath), format, verbose, input_signature, **options)
        except (OSError, ImportError):
            raise
        except Exception as error:
            raise UsageError(
                f"Keras cannot export this model as {format} on {backend.name}; write it with "
                "model.save_pretrained(DIR, tokenizer) and convert it with "
                "`kgpt export --model DIR --format savedmodel|onnx|gguf --out OUT`."
            ) from error
