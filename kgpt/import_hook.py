"""Code that runs around the import of another package, whoever imports it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class ImportHook(MetaPathFinder):
    """Finds modules as the other finders do; they are executed within `around`.

    Args:
        names: of the modules. Put the hook at the beginning of `sys.meta_path`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.searching = names, False

    def around(self, module: ModuleType) -> AbstractContextManager[None]:
        """The context in which `module` is executed."""
        raise NotImplementedError

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.names or self.searching:
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
            with self.around(module):
                execute(module)

        loader.exec_module = exec_module
