"""Imports Keras and TensorFlow without the optional packages that kgpt does not use through them.

Keras imports matplotlib, pandas and scikit-learn where they are installed, and on PyTorch
and TensorFlow also JAX: about a second. They stay importable afterwards.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

IMPORTERS = ("keras", "tensorflow")
OPTIONAL = ("IPython", "matplotlib", "pandas", "sklearn")
DYNAMO = "torch._dynamo"


def skip_optional_packages(backend: str) -> None:
    """Let later imports of Keras and TensorFlow in this process find no optional package."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(backend))


class _Finder(MetaPathFinder):
    """Finds `IMPORTERS` as the other finders do, and hides packages while they are imported."""

    def __init__(self, backend: str) -> None:
        self.backend, self.searching = backend, False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in IMPORTERS or self.searching:
            return None
        self.searching = True
        try:
            spec = find_spec(name)
        finally:
            self.searching = False
        if spec is not None and spec.loader is not None:
            self._extend(spec.loader)
        return spec

    def _extend(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with hidden_packages(self.backend):
                execute(module)

        loader.exec_module = exec_module


@contextlib.contextmanager
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
