"""Compiled functions that belong to a model and are made when they are first needed."""

from __future__ import annotations

import weakref
from typing import Self

from kgpt.model.gpt import GPT


class ModelFunctions:
    """The base class of such functions; the model keeps one object of each class."""

    def __init__(self, model: GPT):
        self._model = weakref.ref(model)  # the model keeps this object

    @classmethod
    def of(cls, model: GPT) -> Self:
        """The functions that `model` keeps; made at the first call."""
        kept: dict[type, Self] = model.compiled_functions
        if cls not in kept:
            kept[cls] = cls(model)
        return kept[cls]

    @property
    def model(self) -> GPT:
        model = self._model()
        assert model is not None, "the model of these functions has been freed"
        return model
