"""Let Keras find kgpt's classes, whichever of the two is imported first.

`keras.saving.load_model` knows a class once it is registered, which importing its module does. So
that `import kgpt` loads neither Keras nor a model, placeholders are registered as soon as Keras has
been imported; they import the class when a file names it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from kgpt.import_hook import ImportHook

CLASSES = {  # the names under which the classes of each module are registered
    "kgpt.model.gpt": ("GPT",),
    "kgpt.model.classifier": ("Classifier",),
    "kgpt.model.attention": ("CausalSelfAttention",),
    "kgpt.model.block": ("Block", "MLP"),
    "kgpt.model.initializers": ("CheckpointInitializer", "Normal"),
    "kgpt.model.layers": ("Dropout", "LayerNorm", "RMSNorm"),
    "kgpt.training.classification_loss": ("ClassificationLoss",),
    "kgpt.training.grpo_loss": ("GRPOLoss",),
    "kgpt.training.losses": ("NextTokenLoss",),
    "kgpt.training.metrics": ("BitsPerByte", "Perplexity"),
    "kgpt.training.preference_losses": ("DPOLoss", "IPOLoss", "KTOLoss", "ORPOLoss"),
    "kgpt.training.optimizers": ("AdamW", "Lion", "Muon"),
}


def register_with_keras() -> None:
    """Register the placeholders now if Keras is imported, else when it is."""
    if "keras" in sys.modules:
        _register(sys.modules["keras"])
    else:
        sys.meta_path.insert(0, _KerasHook(["keras"]))


def _register(keras: ModuleType) -> None:
    for module, names in CLASSES.items():
        for name in names:
            if keras.saving.get_registered_object(f"kgpt>{name}") is None:
                keras.saving.register_keras_serializable("kgpt", name)(_placeholder(module, name))


def _placeholder(module: str, name: str) -> type:
    """A class that becomes the class `name` of `module` when it is made from a configuration."""

    def from_config(config: dict[str, Any]) -> Any:
        return getattr(import_module(module), name).from_config(config)

    members = {"from_config": staticmethod(from_config), "get_config": lambda self: {}}
    return type(name, (), members)


class _KerasHook(ImportHook):
    """Registers the placeholders once Keras is imported."""

    @contextmanager
    def around(self, module: ModuleType) -> Iterator[None]:
        yield
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        _register(module)
