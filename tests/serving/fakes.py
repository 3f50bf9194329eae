"""A text engine without a model: quick, deterministic, and with the real one's manners.

Its texts are words that follow from the prompt and the seed, written a byte a step in at most
`max_num_seqs` texts at a time, so that queues, cancelling and deadlines can be seen at work.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import deque

from kgpt.config import ModelConfig, SamplingConfig
from kgpt.errors import QueueFull
from kgpt.protocol import EngineStats, GenerationChunk, TokenInfo, TopLogprob, Usage
from kgpt.text.chat_template import ChatMLTemplate
from kgpt.text.tokenizer import Tokenizer

WORDS = ["a", "little", "boat", "went", "far", "over", "über", "sea", "🙂", "then", "home"]


class Handle:
    def __init__(self):
        self.cancelled = False
        self.done = threading.Event()

    def cancel(self) -> None:
        self.cancelled = True


class Job:
    """One text: its bytes to come, and what was sent of it."""

    def __init__(self, engine, prompt, sampling: SamplingConfig, on_event, top_logprobs, timeout):
        self.generator, self.sampling, self.on_event = engine, sampling, on_event
        self.top_logprobs, self.handle = top_logprobs, Handle()
        self.deadline = time.monotonic() + timeout if timeout else None
        self.prompt_tokens = max(len(prompt), 1)
        self.bytes = story(prompt, 0 if sampling.temperature == 0 else sampling.seed)
        self.stream = engine.tokenizer.stream()
        self.written, self.held = 0, ""

    def is_over(self) -> bool:
        """End a text, also one that waits, that was cancelled or is too late; True if it was."""
        if self.handle.cancelled:
            return self.end("cancelled")
        if self.deadline is not None and time.monotonic() > self.deadline:
            return self.end("deadline")
        return False

    def step(self) -> bool:
        """Write a byte; True when the text has ended."""
        if self.is_over():
            return True
        token = self.generator.fail_with or next(self.bytes)
        if isinstance(token, str):
            return self.end("error", error=token)
        self.written += 1
        self.held += self.stream.feed(token)
        tokens = [self.info(token)] if self.top_logprobs is not None else []
        for stop in self.sampling.stop:
            if stop in self.held:
                self.held = self.held[: self.held.index(stop)]
                return self.end("stop", stop, tokens)
        if self.written == self.sampling.max_tokens:
            return self.end("length", tokens=tokens)
        keep = max((len(stop) - 1 for stop in self.sampling.stop), default=0)
        ready = self.held[: max(len(self.held) - keep, 0)]
        self.held = self.held[len(ready) :]
        self.on_event(GenerationChunk(ready, tuple(tokens)))
        return False

    def end(self, reason, stop=None, tokens=(), error=None) -> bool:
        if reason == "length":
            self.held += self.stream.finish()
        usage = Usage(self.prompt_tokens, self.written)
        self.on_event(GenerationChunk(self.held, tuple(tokens), (), reason, stop, usage, error))
        self.handle.done.set()
        return True

    def info(self, token: int) -> TokenInfo:
        def entry(kind, token, logprob, *more):
            spelled = self.generator.tokenizer.decode([token])
            return kind(token, spelled, bytes([token]), logprob, *more)

        others = [entry(TopLogprob, (token + i) % 256, -0.5 - i, 0.5**i) for i in range(20)]
        top = tuple(others[: self.top_logprobs])
        return entry(TokenInfo, token, -0.5, 1.0 if top else None, top)


def story(prompt, seed):
    """The bytes of an endless text that follows from the prompt and the seed."""
    start = str((list(prompt) if not isinstance(prompt, str) else prompt, seed)).encode()
    for i in itertools.count():
        digest = hashlib.sha256(start + str(i).encode()).digest()
        yield from (WORDS[digest[0] % len(WORDS)] + " ").encode()


class FakeGenerator:
    """See the top of this file.

    Args:
        delay: seconds that a step takes.
        warm: an event to wait for while warming up.
    """

    def __init__(
        self, max_num_seqs=8, max_queue=64, max_context=512, delay=0.0, chat=True, warm=None
    ):
        self.tokenizer = Tokenizer.of_bytes()
        self.chat_template = ChatMLTemplate(self.tokenizer) if chat else None
        self.default_sampling = SamplingConfig(max_tokens=20)
        self.config = ModelConfig(
            vocab_size=259, max_length=max_context, num_layers=1, num_heads=1, hidden_dim=2
        )
        self.max_context, self.max_queue, self.delay = max_context, max_queue, delay
        self.figures = EngineStats(max_num_seqs)
        self.fail_with: str | None = None
        self.samplings: list[SamplingConfig] = []
        self.closed = False
        self._warm = warm
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def warm_up(self, progress=None) -> None:
        progress(1, 2)
        if self._warm is not None:
            self._warm.wait()
        progress(2, 2)

    def submit(
        self, prompt, sampling, on_event, *, top_logprobs=None, timeout=None, stream=True
    ) -> Handle:
        job = Job(self, prompt, sampling, on_event, top_logprobs, timeout)
        with self._changed:
            if len(self._waiting) + len(self._active) >= self.max_queue + self.figures.max_num_seqs:
                raise QueueFull("full")
            self.samplings.append(sampling)
            self._waiting.append(job)
            self.figures.prompt_tokens += job.prompt_tokens
            self.figures.requests += 1
            self._changed.notify()
        return job.handle

    def stats(self) -> EngineStats:
        self.figures.active, self.figures.queued = len(self._active), len(self._waiting)
        return self.figures

    def close(self, drain=False) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify()

    def _run(self) -> None:
        while not self.closed:
            with self._changed:
                while not (self._waiting or self._active or self.closed):
                    self._changed.wait()
                self._waiting = deque(job for job in self._waiting if not job.is_over())
                while self._waiting and len(self._active) < self.figures.max_num_seqs:
                    self._active.append(self._waiting.popleft())
            self.figures.generation_tokens += len(self._active)
            self._active = [job for job in self._active if not job.step()]
            time.sleep(self.delay)
