"""Compiling grammars off the engine's thread, a few at a time and each within a time limit."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from kgpt.config import StructuredOutputConfig
from kgpt.errors import QueueFull, UsageError
from kgpt.generation.grammar import CompiledGrammar, make_ll_tokenizer
from kgpt.text.tokenizer import Tokenizer

MAX_COMPILING = 2  # threads
MAX_PENDING = 32  # grammars that are compiled or wait for it
MAX_CACHED = 64
COMPILE_TIMEOUT_S = 10.0


class GrammarCompiler:
    """Compiles grammars for one tokenizer, and keeps the latest.

    A thread cannot be ended, so one whose time is up goes on, and counts as pending, until
    llguidance's own limits end it.

    Args:
        tokenizer: of the model.
        vocab_size: number of the model's logits.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int):
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._ll_tokenizer: Any = None
        self._pool = ThreadPoolExecutor(MAX_COMPILING, "grammar")
        self._lock = threading.Lock()  # of the next two
        self._pending = 0
        self._cache: OrderedDict[str, CompiledGrammar] = OrderedDict()
        self._making_tokenizer = threading.Lock()

    def compile(self, options: StructuredOutputConfig) -> CompiledGrammar:
        """Compile a grammar, or find it among the latest.

        Raises:
            UsageError: the grammar cannot be used, or takes longer than `COMPILE_TIMEOUT_S`.
            QueueFull: too many are being compiled.
        """
        future = self.submit(options)
        try:
            return future.result(COMPILE_TIMEOUT_S)
        except TimeoutError:
            future.cancel()
            raise took_too_long() from None

    async def compile_async(self, options: StructuredOutputConfig) -> CompiledGrammar:
        """`compile` for a caller that must not block."""
        future = asyncio.wrap_future(self.submit(options))
        try:
            return await asyncio.wait_for(future, COMPILE_TIMEOUT_S)
        except TimeoutError:
            raise took_too_long() from None

    def submit(self, options: StructuredOutputConfig) -> Future[CompiledGrammar]:
        """Begin to compile a grammar in another thread; see `compile`."""
        key = options.model_dump_json()
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                done: Future[CompiledGrammar] = Future()
                done.set_result(self._cache[key])
                return done
            if self._pending >= MAX_PENDING:
                raise QueueFull(f"{MAX_PENDING} grammars are being compiled; try again later.")
            self._pending += 1
        future = self._pool.submit(self._compile, key, options)
        future.add_done_callback(self._count_down)
        return future

    def close(self) -> None:
        """Compile no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _count_down(self, _: Future[CompiledGrammar]) -> None:
        with self._lock:
            self._pending -= 1

    def _compile(self, key: str, options: StructuredOutputConfig) -> CompiledGrammar:
        with self._making_tokenizer:
            if self._ll_tokenizer is None:
                self._ll_tokenizer = make_ll_tokenizer(self._tokenizer, self._vocab_size)
        grammar = CompiledGrammar(self._ll_tokenizer, self._vocab_size, options)
        with self._lock:
            self._cache[key] = grammar
            if len(self._cache) > MAX_CACHED:
                self._cache.popitem(last=False)
        return grammar


def took_too_long() -> UsageError:
    """The error of a grammar whose time is up."""
    return UsageError(
        f"The grammar was not compiled within {COMPILE_TIMEOUT_S:.0f} seconds; simplify it."
    )
