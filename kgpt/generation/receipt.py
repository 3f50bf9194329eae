"""The receipt of a completion: all that decided its text, to generate it again and compare.

A receipt holds the token ids of the prompt, the settings with the seed, and the SHA-256 of weights,
architecture, tokenizer, chat template, adapter and text. `kgpt replay` reads it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import keras

import kgpt
from kgpt import backend
from kgpt.checkpoints.peft_format import ADAPTER_CONFIG, base_folder, is_adapter
from kgpt.checkpoints.pretrained import is_optimizer_state
from kgpt.config import (
    InferenceDtype,
    KVCacheDtype,
    ModelConfig,
    SamplingConfig,
    StructuredOutputConfig,
)
from kgpt.config.section import Section
from kgpt.files import sha256
from kgpt.generation.adapters import LoadedAdapter
from kgpt.generation.sequence import Request
from kgpt.text.tokenizer import Tokenizer

REPEATABLE = ("stop", "length", "content_filter")  # finish reasons that no clock decides


class ReceiptSettings(Section):
    """How the text was generated, besides the prompt.

    Attributes:
        sampling: with the seed that was used.
        structured_output: what the text follows, if anything.
        keep_special: special tokens that are part of the text.
        max_context: tokens kept of the sequence.
        dtype: of weights and computation.
        kv_cache_dtype: of the KV cache.
    """

    sampling: SamplingConfig
    structured_output: StructuredOutputConfig | None = None
    keep_special: tuple[str, ...] = ()
    max_context: int
    dtype: InferenceDtype
    kv_cache_dtype: KVCacheDtype = "auto"


class Receipt(Section):
    """The receipt of one completion, as JSON has it.

    Attributes:
        kgpt_receipt: the version of the format.
        model: where the model was: a folder, or its name in the API.
        adapter: likewise of the adapter; None is the model alone.
        prompt_ids: token ids of the prompt, after the chat template.
        sha256: by part: weights, architecture, tokenizer, chat_template, adapter, settings, prompt
            and text.
        versions: of kgpt, Keras and the backend.
    """

    kgpt_receipt: Literal[1] = 1
    model: str
    adapter: str | None = None
    prompt_ids: list[int]
    settings: ReceiptSettings
    finish_reason: str
    completion_tokens: int
    backend: str
    device: str
    versions: dict[str, str]
    sha256: dict[str, str]


class ReceiptWriter:
    """Writes the receipts of one loaded model; its files are read once, for the first receipt.

    Args:
        folder: of the model, or of an adapter that was merged.
        dtype, kv_cache_dtype: as loaded.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        config: ModelConfig,
        max_context: int,
        dtype: InferenceDtype,
        kv_cache_dtype: KVCacheDtype = "auto",
    ):
        self._folder, self._tokenizer, self._config = folder, tokenizer, config
        self._max_context, self._dtype = max_context, dtype
        self._kv_cache_dtype = kv_cache_dtype
        self._adapters: dict[LoadedAdapter, str] = {}

    def start(self, request: Request, keep_special: frozenset[str]) -> OpenReceipt:
        """The receipt of a completion that begins now."""
        adapter, grammar = request.adapter, request.grammar
        tokenizer = adapter.tokenizer if adapter and adapter.tokenizer else self._tokenizer
        settings = ReceiptSettings(
            sampling=request.sampling,
            structured_output=grammar.options if grammar else None,
            keep_special=tuple(sorted(keep_special)),
            max_context=self._max_context,
            dtype=self._dtype,
            kv_cache_dtype=self._kv_cache_dtype,
        )
        digests = self._model_digests | tokenizer_digests(tokenizer)
        digests["settings"] = digest_of(settings.model_dump(mode="json"))
        digests["prompt"] = digest_of(list(request.prompt_ids))
        if adapter:
            digests["adapter"] = self._digest_of_adapter(adapter)
        model, prompt_ids = str(self._folder.resolve()), list(request.prompt_ids)
        name = str(adapter.folder.resolve()) if adapter else None
        return OpenReceipt(model, name, prompt_ids, settings, digests)

    @functools.cached_property
    def _model_digests(self) -> dict[str, str]:
        architecture = self._config.model_dump(mode="json")
        files = digest_of_files(self._folder)
        return {"weights": files, "architecture": digest_of(architecture)}

    def _digest_of_adapter(self, adapter: LoadedAdapter) -> str:
        if adapter not in self._adapters:
            self._adapters[adapter] = digest_of_files(adapter.folder, with_base=False)
        return self._adapters[adapter]


class OpenReceipt:
    """A receipt whose text is still being generated."""

    def __init__(
        self,
        model: str,
        adapter: str | None,
        prompt_ids: list[int],
        settings: ReceiptSettings,
        digests: dict[str, str],
    ):
        self._model, self._adapter, self._prompt_ids = model, adapter, prompt_ids
        self._settings, self._digests = settings, digests
        self._text = hashlib.sha256()

    def add(self, text: str) -> None:
        """The completion goes on with `text`."""
        self._text.update(text.encode())

    def close(self, finish_reason: str, completion_tokens: int) -> dict[str, Any] | None:
        """The receipt as JSON; None where a clock or an error ended the text."""
        if finish_reason not in REPEATABLE:
            return None
        receipt = Receipt(
            model=self._model,
            adapter=self._adapter,
            prompt_ids=self._prompt_ids,
            settings=self._settings,
            finish_reason=finish_reason,
            completion_tokens=completion_tokens,
            backend=backend.name,
            device=backend.device()[0],
            versions=versions(),
            sha256=self._digests | {"text": self._text.hexdigest()},
        )
        return receipt.model_dump(mode="json")


def digest_of(values: Any) -> str:
    """SHA-256 of values as JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def digest_of_files(folder: Path, with_base: bool = True) -> str:
    """SHA-256 of the files of weights; of an adapter also its settings and, if wanted, its base."""
    return digest_of([sha256(file) for file in _weight_files(folder, with_base)])


def _weight_files(folder: Path, with_base: bool) -> Iterator[Path]:
    files = sorted(folder.glob("*.safetensors"))
    yield from (file for file in files if not is_optimizer_state(file.name))
    if is_adapter(folder):
        yield folder / ADAPTER_CONFIG
        if with_base:
            yield from _weight_files(base_folder(folder), with_base)


def tokenizer_digests(tokenizer: Tokenizer) -> dict[str, str]:
    """SHA-256 of a tokenizer with its special tokens, and of its chat template."""
    special = tokenizer.special_tokens
    parts = [tokenizer.fingerprint, special.tokens, sorted(tokenizer.stop_ids)]
    return {"tokenizer": digest_of(parts), "chat_template": digest_of(special.chat_template)}


def versions() -> dict[str, str]:
    """Versions of kgpt, Keras and the backend in use."""
    engine = str(sys.modules[backend.name].__version__)
    return {"kgpt": kgpt.__version__, "keras": keras.__version__, backend.name: engine}
