"""A fake `TextGenerator` without a model: fast, deterministic, with the real one's interface.

Its texts are words determined by the prompt and the seed, generated one byte a step for at most
`max_num_seqs` sequences at a time, so that queues, cancellation and deadlines can be tested.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.config import ModelConfig, SamplingConfig
from kgpt.errors import KgptError, QueueFull, UsageError
from kgpt.generation.forward_job import ForwardJob, PromptLogprobs
from kgpt.generation.grammar import CompiledGrammar
from kgpt.generation.grammar_compiler import GrammarCompiler
from kgpt.protocol import EngineStats, FinishReason, GenerationChunk, TokenInfo, TopLogprob, Usage
from kgpt.text.chat_template import ChatMLTemplate
from kgpt.text.tokenizer import Tokenizer

OnChunk = Callable[[GenerationChunk], None]
WORDS = ["a", "little", "boat", "went", "far", "over", "über", "sea", "🙂", "then", "home"]


class Handle:
    def __init__(self) -> None:
        self.cancelled = False
        self.done = threading.Event()

    def cancel(self) -> None:
        self.cancelled = True


class Job:
    """One completion: its remaining bytes, and the text not emitted yet."""

    def __init__(
        self,
        generator: FakeGenerator,
        prompt: str | Sequence[int],
        sampling: SamplingConfig,
        on_chunk: OnChunk,
        top_logprobs: int | None,
        timeout: float | None,
    ):
        self.generator, self.sampling, self.on_chunk = generator, sampling, on_chunk
        self.top_logprobs, self.handle = top_logprobs, Handle()
        self.deadline = time.monotonic() + timeout if timeout else None
        self.prompt_tokens = max(len(prompt), 1)
        self.bytes = story(prompt, 0 if sampling.temperature == 0 else sampling.seed)
        self.stream = generator.tokenizer.stream()
        self.num_tokens, self.buffer = 0, ""
        self.receipt: dict[str, Any] | None = None

    def is_over(self) -> bool:
        """End a completion, also a queued one, if it is cancelled or past its deadline."""
        if self.handle.cancelled:
            return self.end("cancelled")
        if self.deadline is not None and time.monotonic() > self.deadline:
            return self.end("deadline")
        return False

    def step(self) -> bool:
        """Generate one byte; True if the completion has ended."""
        if self.is_over():
            return True
        token = self.generator.fail_with or next(self.bytes, None)
        if token is None:
            return self.end("stop")
        if isinstance(token, str):
            return self.end("error", error=token)
        self.num_tokens += 1
        self.buffer += self.stream.feed(token)
        tokens = [self.info(token)] if self.top_logprobs is not None else []
        for stop in self.sampling.stop:
            if stop in self.buffer:
                self.buffer = self.buffer[: self.buffer.index(stop)]
                return self.end("stop", stop, tokens)
        if self.num_tokens == self.sampling.max_tokens:
            return self.end("length", tokens=tokens)
        keep = max((len(stop) - 1 for stop in self.sampling.stop), default=0)
        ready = self.buffer[: max(len(self.buffer) - keep, 0)]
        self.buffer = self.buffer[len(ready) :]
        self.on_chunk(GenerationChunk(ready, tuple(tokens)))
        return False

    def end(
        self,
        reason: FinishReason,
        stop: str | None = None,
        tokens: Sequence[TokenInfo] = (),
        error: str | None = None,
    ) -> bool:
        if reason == "length":
            self.buffer += self.stream.finish()
        usage = Usage(self.prompt_tokens, self.num_tokens)
        out_of_memory = (error or "").startswith("Out of memory;")
        self.on_chunk(
            GenerationChunk(
                self.buffer,
                tuple(tokens),
                (),
                reason,
                stop,
                usage,
                error,
                out_of_memory,
                receipt=self.receipt if reason in ("stop", "length") else None,
            )
        )
        self.handle.done.set()
        return True

    def info(self, token: int) -> TokenInfo:
        """A token with made-up probabilities, whose candidates are the bytes after it."""
        decode = self.generator.tokenizer.decode
        top = tuple(
            TopLogprob(other, decode([other]), bytes([other]), -0.5 - i, 0.5**i)
            for i in range(self.top_logprobs or 0)
            for other in [(token + i) % 256]
        )
        text = decode([token])
        return TokenInfo(token, text, bytes([token]), -0.5, 1.0 if top else None, top)


def story(prompt: str | Sequence[int], seed: int | None) -> Iterator[int]:
    """The bytes of an endless text determined by the prompt and the seed."""
    start = str((list(prompt) if not isinstance(prompt, str) else prompt, seed)).encode()
    for i in itertools.count():
        digest = hashlib.sha256(start + str(i).encode()).digest()
        yield from (WORDS[digest[0] % len(WORDS)] + " ").encode()


def text_of(
    grammar: CompiledGrammar, seed: int, is_end: Callable[[int], bool] = lambda token: token > 255
) -> Iterator[int]:
    """The tokens of a text that follows a grammar, determined by the seed."""
    matcher, noise = grammar.matcher(), random.Random(seed)
    while not matcher.is_complete:
        bits = np.unpackbits(matcher.bitmask.view("uint8"), bitorder="little")
        token = noise.choice(np.flatnonzero(bits).tolist())
        if is_end(token):
            return
        yield token
        matcher.accept(token)


def run_forward(job: ForwardJob, error: str | None) -> None:
    """End a job with made-up results that its token ids determine."""
    ids = np.array(job.token_ids, "int32")
    if error:
        job.error = KgptError(error)
    elif job.task == "embedding":
        job.result = np.array([ids.sum(), len(ids)], "float32") / np.hypot(ids.sum(), len(ids))
    else:
        top = ids[:, None] + np.arange(job.top_logprobs)
        logprobs = -0.5 - np.arange(job.top_logprobs, dtype="float32")
        job.result = PromptLogprobs(
            -ids[1:].astype("float32") / 100, top % 256, np.broadcast_to(logprobs, top.shape)
        )
    job.end("error" if error else "cancelled" if job.cancelled else "done")


@dataclass
class FakeAdapter:
    name: str
    folder: Path
    chat_template: Any = None


class FakeAdapters:
    """The adapters of a fake generator, which have an effect on nothing."""

    def __init__(self) -> None:
        self.loaded: list[FakeAdapter] = []

    @property
    def names(self) -> list[str]:
        return [adapter.name for adapter in self.loaded]

    def load(self, name: str, folder: Path) -> None:
        if name in self.names:
            raise UsageError(f"The adapter {name!r} has already been loaded; unload it first.")
        self.loaded.append(FakeAdapter(name, folder))

    def unload(self, name: str) -> None:
        self.loaded = [adapter for adapter in self.loaded if adapter.name != name]


class FakeGenerator:
    """A fake `TextGenerator`.

    Args:
        delay: seconds that a step takes.
        chat: has a chat template.
        warm: an event that the warm-up waits for.
    """

    def __init__(
        self,
        max_num_seqs: int = 8,
        max_queue: int = 64,
        max_context: int = 512,
        delay: float = 0.0,
        chat: bool = True,
        warm: threading.Event | None = None,
    ):
        self.tokenizer = Tokenizer.of_bytes()
        self.chat_template = ChatMLTemplate(self.tokenizer) if chat else None
        self.default_sampling = SamplingConfig(max_tokens=20)
        self.config = ModelConfig(
            vocab_size=259, max_length=max_context, num_layers=1, num_heads=1, hidden_dim=2
        )
        self.max_context, self.max_queue, self.delay = max_context, max_queue, delay
        self.dtype = "float32"
        self._stats = EngineStats(max_num_seqs)
        self.grammar_compiler = GrammarCompiler(self.tokenizer, self.config.known_vocab_size)
        self.fail_with: str | None = None
        self.samplings: list[SamplingConfig] = []
        self.adapters = FakeAdapters()
        self.adapters_used: list[str | None] = []  # by each request
        self.closed = False
        self._warm = warm
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._forward: deque[ForwardJob] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def chat_template_of(self, adapter: Any) -> Any:
        return adapter.chat_template if adapter and adapter.chat_template else self.chat_template

    def load_adapter(self, name: str, folder: Path) -> None:
        self.adapters.load(name, folder)

    def warm_up(self, progress: Callable[[int, int], None]) -> None:
        progress(1, 2)
        if self._warm is not None:
            self._warm.wait()
        progress(2, 2)

    def submit(
        self,
        prompt: str | Sequence[int],
        sampling: SamplingConfig,
        on_chunk: OnChunk,
        *,
        top_logprobs: int | None = None,
        timeout: float | None = None,
        stream: bool = True,
        grammar: CompiledGrammar | None = None,
        keep_special: frozenset[str] = frozenset(),
        adapter: Any = None,
        receipt: bool = False,
    ) -> Handle:
        self.adapters_used.append(adapter and adapter.name)
        job = Job(self, prompt, sampling, on_chunk, top_logprobs, timeout)
        job.receipt = {"kgpt_receipt": 1, "model": "/folder"} if receipt else None
        if grammar is not None:
            job.bytes = text_of(grammar, sampling.seed or 0)
        with self._changed:
            if len(self._waiting) + len(self._active) >= self.max_queue + self._stats.max_num_seqs:
                raise QueueFull("full")
            self.samplings.append(sampling)
            self._waiting.append(job)
            self._stats.prompt_tokens += job.prompt_tokens
            self._stats.requests += 1
            self._changed.notify()
        return job.handle

    def submit_forward(self, jobs: Sequence[ForwardJob]) -> None:
        with self._changed:
            if len(self._forward) + len(jobs) > self.max_queue + self._stats.max_num_seqs:
                raise QueueFull("full")
            self._forward.extend(jobs)
            self._changed.notify()

    def stats(self) -> EngineStats:
        self._stats.active, self._stats.queued = len(self._active), len(self._waiting)
        return self._stats

    def close(self, drain: bool = False) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify()

    def _run(self) -> None:
        while not self.closed:
            with self._changed:
                while not (self._waiting or self._active or self._forward or self.closed):
                    self._changed.wait()
                if self._forward:
                    run_forward(self._forward.popleft(), self.fail_with)
                self._waiting = deque(job for job in self._waiting if not job.is_over())
                while self._waiting and len(self._active) < self._stats.max_num_seqs:
                    self._active.append(self._waiting.popleft())
            self._stats.generation_tokens += len(self._active)
            self._active = [job for job in self._active if not job.step()]
            time.sleep(self.delay)
