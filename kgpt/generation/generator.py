"""Text in, text out: a model directory, served by one engine thread."""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kgpt.checkpoints.pretrained import load_sampling
from kgpt.config import InferenceDtype, SamplingConfig
from kgpt.errors import KgptError
from kgpt.generation.detokenize import IncrementalDetokenizer
from kgpt.generation.engine import Engine
from kgpt.generation.loading import load_for_inference
from kgpt.generation.runner import Token
from kgpt.generation.scheduler import GenerationJob
from kgpt.generation.sequence import Request
from kgpt.model.gpt import GPT
from kgpt.protocol import EngineStats, FinishReason, GenerationChunk, TokenInfo, Usage
from kgpt.text.chat_template import Chat, load_chat_template
from kgpt.text.tokenizer import Tokenizer

Prompt = str | Sequence[int]
OnChunk = Callable[[GenerationChunk], None]


class GenerationFailed(KgptError):
    """The engine could not finish a text."""


@dataclass
class Completion:
    """A whole text: what it continues, why it ended, and what it took."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    token_ids: list[int] = field(default_factory=list)
    tokens: list[TokenInfo] = field(default_factory=list)  # where logprobs were asked for
    stop: str | None = None  # the stop string that ended it
    context_shifted: bool = False  # it outgrew the context: its oldest tokens were dropped

    def as_dict(self, prompt: str) -> dict[str, Any]:
        """What `kgpt generate --json` prints."""
        return {
            "prompt": prompt,
            "text": self.text,
            "finish_reason": self.finish_reason,
            "context_shifted": self.context_shifted,
            "usage": {
                "prompt_tokens": self.usage.prompt_tokens,
                "completion_tokens": self.usage.completion_tokens,
                "cached_tokens": self.usage.cached_tokens,
            },
        }


class Handle:
    """A text on its way. `done` is set when its last event has been given."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.cancel: Callable[[], None] = lambda: None  # ends the text at the next step


class TextGenerator:
    """Text generation with the model of a directory.

    Args:
        folder: a model directory.
        max_num_seqs: texts written at once.
        max_queue: requests that may wait.
        max_context: most tokens remembered of a text; the model's when not given.
        draft: a smaller model of the same tokenizer that guesses ahead, or "prompt_lookup" to guess from
            the text itself. Guessing writes one text at a time, faster.
        dtype: of weights and computation; "int8" holds the matrices in 8 bits.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_num_seqs: int = 8,
        max_queue: int = 64,
        max_context: int | None = None,
        draft: GPT | Literal["prompt_lookup"] | None = None,
        dtype: InferenceDtype = "float32",
    ):
        self.folder = Path(folder)
        self.tokenizer = Tokenizer.load(self.folder)
        self.default_sampling = load_sampling(self.folder)
        self.chat_template: Chat | None = load_chat_template(self.tokenizer)
        self.model = load_for_inference(self.folder, dtype)
        self.config = self.model.config
        self.max_context = min(max_context or self.config.max_length, self.config.max_length)
        self.engine = Engine(self.model, max_num_seqs, max_queue, self.max_context, draft)
        self._banned: dict[str, list[list[int]]] = {}

    def warm_up(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compile what requests will need; `progress` is called with (done, total)."""
        self.engine.warm_up(progress)

    def submit(
        self,
        prompt: Prompt,
        sampling: SamplingConfig,
        on_chunk: OnChunk,
        *,
        top_logprobs: int | None = None,
        timeout: float | None = None,
        watched: bool = True,
    ) -> Handle:
        """Start a text and return at once; `on_chunk` is called in the engine's thread.

        Args:
            prompt: text, or ids. An empty prompt begins a document.
            top_logprobs: report each token with so many alternatives.
            timeout: seconds after which the text ends with "deadline".
            watched: events are wanted as tokens come; otherwise in larger portions.

        Raises:
            QueueFull: too many requests wait.
            UsageError: the prompt or the settings cannot be run.
        """
        request = self.request(prompt, sampling, top_logprobs is not None)
        detokenizer = IncrementalDetokenizer(self.tokenizer, request, top_logprobs)
        handle = Handle()

        def on_tokens(job: GenerationJob, tokens: list[Token], finish: str | None) -> None:
            if handle.done.is_set():
                return
            chunk = detokenizer.feed(tokens, finish)
            if chunk.finish_reason is None:
                if chunk.text or chunk.tokens:
                    on_chunk(chunk)
                return
            if finish is None:  # a stop string ended it: the slot is free now
                job.cancelled = True
            usage = Usage(len(request.ids), detokenizer.num_tokens, job.cached_tokens)
            on_chunk(
                replace(chunk, usage=usage, error=job.error, context_shifted=job.context_shifted)
            )
            handle.done.set()

        job = self.engine.submit(request, on_tokens, watched=watched, timeout=timeout)
        handle.cancel = lambda: self.engine.cancel(job)
        return handle

    def stream(
        self, prompt: Prompt, sampling: SamplingConfig, **options: Any
    ) -> Iterator[GenerationChunk]:
        """The events of one text as they come; closing the iterator cancels the text."""
        chunks: queue.SimpleQueue[GenerationChunk] = queue.SimpleQueue()
        handle = self.submit(prompt, sampling, chunks.put, **options)
        try:
            while True:
                chunk = chunks.get()
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            if not handle.done.is_set():
                handle.cancel()

    def generate(self, prompt: Prompt, sampling: SamplingConfig, **options: Any) -> Completion:
        """Write one text and wait for it.

        Raises:
            GenerationFailed: the engine met an error.
        """
        return _gather(self.stream(prompt, sampling, watched=False, **options))

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        on_done: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        """Write a text for each prompt, many at a time; seeds count up from `sampling.seed`.

        Args:
            on_done: called with (number, completion) as each is ready, in the order of prompts.
        """
        sampling = with_seed(sampling)
        streams: list[Iterator[GenerationChunk]] = []
        done: list[Completion] = []
        ahead = self.engine.max_queue
        for number in range(len(prompts)):
            while len(streams) < min(len(prompts), number + ahead):
                seeded = sampling.model_copy(update={"seed": seed_of(sampling, len(streams))})
                streams.append(self._started(prompts[len(streams)], seeded))
            done.append(_gather(streams[number]))
            if on_done is not None:
                on_done(number, done[-1])
        return done

    def request(self, prompt: Prompt, sampling: SamplingConfig, alternatives=False) -> Request:
        """The prompt and the settings as the engine takes them."""
        if isinstance(prompt, str):
            ids = [*self.tokenizer.bos_ids, *self.tokenizer.encode(prompt)]
        else:
            ids = [int(token) for token in prompt]
        if not ids:
            ids = [self.tokenizer.eos_id or 0]  # a new document begins
        sampling = with_seed(sampling)
        return Request(
            ids,
            sampling,
            stop_ids=self.tokenizer.stop_ids,
            bad_words_ids=self._bad_words_ids(sampling.bad_words),
            alternatives=alternatives,
            seed=sampling.seed or 0,
        )

    def stats(self) -> EngineStats:
        return self.engine.stats()

    def close(self, drain: bool = False) -> None:
        """End the engine's thread; with `drain`, after all texts are written."""
        self.engine.close(drain)

    def __enter__(self) -> TextGenerator:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _started(self, prompt: Prompt, sampling: SamplingConfig) -> Iterator[GenerationChunk]:
        """`stream`, submitted now rather than when first asked."""
        chunks: queue.SimpleQueue[GenerationChunk] = queue.SimpleQueue()
        self.submit(prompt, sampling, chunks.put, watched=False)
        return iter(chunks.get, None)

    def _bad_words_ids(self, phrases: Sequence[str]) -> list[list[int]]:
        """The ways a phrase is usually written: alone, after a space, capitalised."""
        found: list[list[int]] = []
        for phrase in phrases:
            if phrase not in self._banned:
                forms = {phrase, phrase.lower(), phrase.capitalize()}
                forms |= {f" {form}" for form in forms}
                ids = {tuple(form) for form in self.tokenizer.encode_batch(sorted(forms))}
                self._banned[phrase] = [list(form) for form in sorted(ids) if form]
            found += self._banned[phrase]
        return found


def with_seed(sampling: SamplingConfig) -> SamplingConfig:
    """`sampling` with a seed: a random one if it has none."""
    if sampling.seed is not None:
        return sampling
    return sampling.model_copy(update={"seed": secrets.randbelow(2**31)})


def seed_of(sampling: SamplingConfig, number: int) -> int:
    """The seed of one of several texts."""
    return ((sampling.seed or 0) + number) % 2**31


def _gather(chunks: Iterator[GenerationChunk]) -> Completion:
    """All chunks of a text as one completion."""
    text: list[str] = []
    tokens: list[TokenInfo] = []
    token_ids: list[int] = []
    for chunk in chunks:
        text.append(chunk.text)
        tokens += chunk.tokens
        token_ids += chunk.token_ids
        if chunk.finish_reason is not None:
            break
    if chunk.finish_reason == "error":
        raise GenerationFailed(chunk.error or "The text could not be generated.")
    assert chunk.usage is not None and chunk.finish_reason is not None
    return Completion(
        "".join(text),
        chunk.finish_reason,
        chunk.usage,
        token_ids,
        tokens,
        chunk.stop,
        chunk.context_shifted,
    )
