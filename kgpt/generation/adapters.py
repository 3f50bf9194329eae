"""The adapters of a text generator: loaded by name, unloaded while requests are running."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from kgpt.checkpoints.lora_modules import Projection, merge_matrix, projections
from kgpt.checkpoints.peft_format import (
    ADAPTER_CONFIG,
    ModuleAdapter,
    PeftAdapter,
    has_tokenizer,
    is_adapter,
)
from kgpt.checkpoints.weights import Weights
from kgpt.errors import UsageError
from kgpt.model.multi_lora import AdapterMatrices, assign_adapter_matrices, attach_multi_lora
from kgpt.text.chat_template import Chat, load_chat_template
from kgpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from kgpt.generation.engine import Engine
    from kgpt.model.gpt import GPT

NO_ADAPTERS: Mapping[str, Path] = MappingProxyType({})
DEFAULT_MAX_RANK = 16  # of adapters that are loaded later


@dataclass(eq=False)
class LoadedAdapter:
    """An adapter that requests may name.

    Attributes:
        index: of its matrices in the model, from 1.
        tokenizer, chat_template: its own, if its folder has them.
        is_loaded: false once it is unloaded; requests under way still end with it.
    """

    name: str
    folder: Path
    index: int
    tokenizer: Tokenizer | None = None
    chat_template: Chat | None = None
    is_loaded: bool = True


class Adapters:
    """The adapters over one model, each in a place of its own among the model's matrices.

    Args:
        model: loaded for inference from `folder`; it gets the matrices here.
        tokenizer: of the model.
        named: folders of PEFT by name, loaded at once.
        max_adapters: adapters loaded at once, of any modules; when not given, as many as `named`,
            of the modules of those alone.
        max_rank: the largest rank; when not given, that of `named`, and at least 16 if
            `max_adapters` is given.

    Raises:
        UsageError: one is no adapter, or there are too many. CheckpointError: one does not fit the
            model.
    """

    def __init__(
        self,
        model: GPT,
        folder: Path,
        tokenizer: Tokenizer,
        named: Mapping[str, Path],
        max_adapters: int | None = None,
        max_rank: int | None = None,
    ) -> None:
        self._model, self._folder, self._tokenizer = model, folder, tokenizer
        self._lock = threading.Lock()
        self._loaded: dict[str, LoadedAdapter] = {}
        self._unloaded: list[LoadedAdapter] = []  # requests under way may still use them
        self.max_adapters = len(named) if max_adapters is None else max_adapters
        if len(named) > self.max_adapters:
            raise UsageError(
                f"{len(named)} adapters were given, but max_adapters is {max_adapters}."
            )
        read = {name: self._read(path) for name, path in named.items()}
        self._set_layout(read.values(), max_adapters is not None, max_rank)
        for name, adapter in read.items():
            self._put(name, adapter, ())

    def _set_layout(
        self, given: Collection[PeftAdapter], is_open: bool, max_rank: int | None
    ) -> None:
        """Decide which modules have room, and for which ranks and kinds of adapters."""
        modules = [module for adapter in given for module in adapter.by_module().values()]
        largest = max((module.rank for module in modules), default=1)
        self.max_rank = max_rank or max(largest, DEFAULT_MAX_RANK if is_open else 1)
        self._has_dora = is_open or any(module.magnitude is not None for module in modules)
        chosen = {module.projection.module for module in modules}
        self._columns: dict[str, int] = {}  # of A, by module: where its own begin
        ranks: dict[str, int] = {}  # by path of a `Linear`
        for projection in projections(self._model.config).values() if self.max_adapters else ():
            if is_open or projection.module in chosen:
                self._columns[projection.module] = ranks.get(projection.path, 0)
                ranks[projection.path] = self._columns[projection.module] + self.max_rank
        self._ranks = ranks
        if self.max_adapters:
            attach_multi_lora(self._model, self.max_adapters, ranks, self._has_dora)

    # -- by name --------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        return list(self._loaded)

    @property
    def loaded(self) -> list[LoadedAdapter]:
        return list(self._loaded.values())

    def find(self, name: str | None) -> LoadedAdapter | None:
        """The adapter called `name`; None without a name, a `UsageError` if there is none."""
        return self.get(name) if name else None

    def get(self, name: str) -> LoadedAdapter:
        """The adapter called `name`; a `UsageError` if none is."""
        try:
            return self._loaded[name]
        except KeyError:
            known = ", ".join(self._loaded) or "none is loaded"
            raise UsageError(f"There is no adapter {name[:100]!r} ({known}).") from None

    def load(self, name: str, folder: str | Path, engine: Engine) -> None:
        """Load another adapter, while `engine` runs requests with those there are.

        Raises:
            UsageError: the name is taken, there is no room, or it is no adapter.
            CheckpointError: the adapter is damaged, or does not fit the model.
        """
        if not self.max_adapters:
            raise UsageError("There is no room for adapters; set max_adapters.")
        adapter = self._read(Path(folder))
        engine.call(lambda: self._put(name, adapter, engine.adapters_in_use()))

    def unload(self, name: str) -> None:
        """Let no further request use an adapter; those under way end with it.

        Its room is free for another when they have.
        """
        with self._lock:
            adapter = self.get(name)
            adapter.is_loaded = False
            self._unloaded.append(self._loaded.pop(name))

    # -- files and matrices ---------------------------------------------------------------------

    def _read(self, folder: Path) -> PeftAdapter:
        if not is_adapter(folder):
            raise UsageError(f"{folder} has no {ADAPTER_CONFIG}, so it is not an adapter.")
        return PeftAdapter(folder, self._model.config)

    def _put(self, name: str, adapter: PeftAdapter, in_use: Collection[LoadedAdapter]) -> None:
        """Give an adapter a free place; in the engine's thread, once there is one."""
        if not name:
            raise UsageError("An adapter needs a name.")
        with self._lock:
            if name in self._loaded:
                raise UsageError(f"The adapter {name!r} has already been loaded; unload it first.")
            self._check(adapter)
            tokenizer = self._own_tokenizer(adapter.folder)
            index = self._free_index(in_use)
            assign_adapter_matrices(self._model, index, self._matrices(adapter))
            template = load_chat_template(tokenizer) if tokenizer else None
            loaded = LoadedAdapter(name, adapter.folder, index, tokenizer, template)
            self._loaded[name] = loaded

    def _free_index(self, in_use: Collection[LoadedAdapter]) -> int:
        self._unloaded = [adapter for adapter in self._unloaded if adapter in in_use]
        taken = {adapter.index for adapter in (*self._loaded.values(), *self._unloaded)}
        free = [index for index in range(1, self.max_adapters + 1) if index not in taken]
        if free:
            return free[0]
        if self._unloaded:
            name = self._unloaded[0].name
            raise UsageError(f"Requests still use the adapter {name!r}; try again when they end.")
        raise UsageError(
            f"There is room for max_adapters={self.max_adapters} adapters; unload one first."
        )

    def _check(self, adapter: PeftAdapter) -> None:
        """Raise `UsageError` if there is no room for an adapter's modules and ranks."""
        modules = adapter.by_module()
        is_dora = any(module.magnitude is not None for module in modules.values())
        if not modules.keys() <= self._columns.keys() or (is_dora and not self._has_dora):
            raise UsageError(
                f"The adapter {adapter.folder} is DoRA, or adapts modules that the first adapters "
                "do not; set max_adapters to load any."
            )
        rank = max(module.rank for module in modules.values())
        if rank > self.max_rank:
            raise UsageError(
                f"The adapter {adapter.folder} has the rank {rank}, but max_lora_rank is "
                f"{self.max_rank}; raise it."
            )

    def _own_tokenizer(self, folder: Path) -> Tokenizer | None:
        if not has_tokenizer(folder):
            return None
        tokenizer = Tokenizer.load(folder)
        ours, its = self._tokenizer.backend_tokenizer, tokenizer.backend_tokenizer
        if ours.get_vocab() != its.get_vocab():
            raise UsageError(f"The adapter {folder} has another tokenizer than the model.")
        return tokenizer

    def _matrices(self, adapter: PeftAdapter) -> dict[str, AdapterMatrices]:
        """The adapter's matrices by path of each `Linear`, padded to the largest rank."""
        modules = adapter.by_module().values()
        is_dora = any(module.magnitude is not None for module in modules)
        weights = Weights(self._folder, self._model.config) if is_dora else None
        known = projections(self._model.config).values()
        found: dict[str, AdapterMatrices] = {}
        for module in modules:
            projection = module.projection
            if projection.path not in found:
                outputs = sum(p.outputs for p in known if p.path == projection.path)
                rank = self._ranks[projection.path]
                found[projection.path] = AdapterMatrices(
                    np.zeros((projection.inputs, rank), "float32"),
                    np.zeros((rank, outputs), "float32"),
                    np.ones(outputs, "float32"),
                )
            matrices, first = found[projection.path], self._columns[projection.module]
            ranks, columns = slice(first, first + module.rank), _columns_of(projection)
            matrices.a[:, ranks] = module.a.T
            matrices.b[ranks, columns] = module.scaling * module.b.T
            if weights is not None:
                weight = weights.read(projection.path)[:, columns]
                matrices.factor[columns] = _dora_factor(weight.T, module)
        return found


def _columns_of(projection: Projection) -> slice:
    """The outputs of a `Linear` that are those of a module."""
    return slice(projection.start, projection.start + projection.outputs)


def _dora_factor(weight: np.ndarray, module: ModuleAdapter) -> np.ndarray:
    """magnitude / norm(W + scaling B A) of each output of W (out, in): (out,)."""
    merged = merge_matrix(weight, module.a, module.b, module.scaling)
    factor: np.ndarray = module.magnitude / np.linalg.norm(merged, axis=1)
    return factor
