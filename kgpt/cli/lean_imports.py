"""Imports Keras and TensorFlow without the optional packages that kgpt does not use through them.

Keras imports matplotlib, pandas and scikit-learn where they are installed, and on PyTorch
and TensorFlow also JAX: about a second. They stay importable afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any

from kgpt.import_hook import ImportHook

IMPORTERS = ("keras", "tensorflow")
OPTIONAL = ("IPython", "matplotlib", "pandas", "sklearn")
DYNAMO = "torch._dynamo"


def skip_optional_packages(backend: str) -> None:
    """Let later imports of Keras and TensorFlow in this process find no optional package."""
    if not any(isinstance(finder, LeanHook) for finder in sys.meta_path):
        sys.meta_path.insert(0, LeanHook(IMPORTERS, backend))


class LeanHook(ImportHook):
    """Hides packages while modules are imported."""

    def __init__(self, names: Sequence[str], backend: str) -> None:
        super().__init__(names)
        self.backend = backend

    def around(self, module: ModuleType) -> AbstractContextManager[None]:
        return hidden_packages(self.backend)


@contextmanager
def hidden_packages(backend: str) -> Iterator[None]:
    """A block in which importing an optional package that is not loaded yet fails."""
    names = OPTIONAL if backend == "jax" else (*OPTIONAL, "jax")
    stand_ins: dict[str, Any] = dict.fromkeys(names)  # None in sys.modules: an ImportError
    if backend == "torch":
        stand_ins[DYNAMO] = _dynamo_without_compiler()
    stand_ins = {name: value for name, value in stand_ins.items() if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, value in stand_ins.items():
            if sys.modules.get(name, value) is value:
                sys.modules.pop(name, None)


def _dynamo_without_compiler() -> ModuleType:
    """A `torch._dynamo` for Keras's image operations, which only mark a function as not compiled.

    The real one takes 0.7 s to import; `torch.compile` imports it.
    """

    def disable(*args: Any, **options: Any) -> Callable[[Any], Any]:
        return lambda function: function

    module = ModuleType(DYNAMO)
    module.disable = disable  # type: ignore[attr-defined]
    return module
