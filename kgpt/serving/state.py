"""What the routes share: the engine once it is there, the server's state, and its rules."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

from annotated_types import MaxLen

import kgpt
from kgpt.config import SamplingConfig, ServeConfig
from kgpt.errors import UsageError
from kgpt.serving.errors import Refusal
from kgpt.serving.filters import MakeFilter, load_filters
from kgpt.serving.metrics import Metrics

if TYPE_CHECKING:
    from kgpt.generation.generator import TextGenerator
    from kgpt.serving.request_stream import Answers
    from kgpt.text.tokenizer import Tokenizer


MOST_BANNED = next(
    bound.max_length
    for bound in SamplingConfig.model_fields["bad_words"].metadata
    if isinstance(bound, MaxLen)
)


class Service:
    """One model being served.

    Args:
        name: the model's name in the API.
        load: makes the engine; called in a thread, for it takes a while.
    """

    def __init__(self, name: str, config: ServeConfig, load: Callable[[], TextGenerator]):
        self.name, self.config = name, config
        self.filters: list[MakeFilter] = load_filters(config.output_filter)
        self.state: Literal["starting", "ready", "draining"] = "starting"
        self.progress: tuple[int, int] | None = None
        self.failure: BaseException | None = None
        self.created = int(time.time())
        self.running: set[Answers] = set()
        self.metrics = Metrics(lambda: self._engine and self._engine.stats())
        self._engine: TextGenerator | None = None
        self._most_characters = 0  # that may fit the context
        self._load = load
        # One thread: whether special tokens are taken as such is a state of the tokenizer.
        self._tokenizing = ThreadPoolExecutor(1, "tokenizer")
        self.starting = threading.Thread(target=self._start, name="warm-up", daemon=True)

    def _start(self) -> None:
        try:
            engine = self._load()
            self._most_characters = engine.max_context * longest_token(engine.tokenizer)
            self._engine = engine
            engine.warm_up(self._progressed)
            if self.state == "starting":
                self.state = "ready"
        except BaseException as error:
            self.failure = error

    def _progressed(self, done: int, total: int) -> None:
        self.progress = (done, total)

    @property
    def engine(self) -> TextGenerator:
        """The engine, ready for requests; otherwise a `Refusal` with status 503."""
        if self.state == "draining":
            raise Refusal(503, "The server is about to end.", code="draining", retry_after=10)
        if self._engine is None or self.state == "starting":
            done, total = self.progress or (0, 0)
            how_far = f" ({done} of {total})" if total else ""
            raise Refusal(
                503, f"The model is being warmed up{how_far}.", code="starting", retry_after=2
            )
        return self._engine

    def mark_speed(self) -> None:
        """Note how much is written by now, for the figure of tokens per second."""
        if self._engine is not None:
            self.metrics.speed.mark(self._engine.stats().generation_tokens)

    def drain(self) -> None:
        """Take no more requests; those running go on."""
        self.state = "draining"

    def cancel_all(self) -> None:
        """End what is still being written."""
        for answers in list(self.running):
            answers.cancel()

    def close(self) -> None:
        """Stop the engine. What still runs is cancelled; a warm-up cannot be."""
        self._tokenizing.shutdown(wait=False, cancel_futures=True)
        if self._engine is not None and not self.starting.is_alive():
            self._engine.close(drain=False)

    async def tokenizing(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function that uses the tokenizer, without holding up other requests."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._tokenizing, work, *arguments)

    def check_model(self, name: str | None) -> None:
        """Refuse a request for another model. The name is compared, and used for nothing else."""
        if name is not None and name != self.name:
            raise Refusal(
                404,
                f"There is no model {name[:100]!r} here; this server serves {self.name!r}.",
                param="model",
                code="model_not_found",
            )

    def sampling(self, given: dict[str, Any]) -> SamplingConfig:
        """The sampling of a request: the model's defaults, what was given, the server's rules."""
        values = self.engine.default_sampling.model_dump() | given
        values["max_tokens"] = min(values["max_tokens"], self.config.max_tokens)
        limit = MOST_BANNED - len(self.config.bad_words)
        if len(values["bad_words"]) > limit:
            raise UsageError(f"bad_words: at most {limit} phrases are taken here.")
        values["bad_words"] = [*self.config.bad_words, *filter(None, values["bad_words"])]
        self._check_ids(values["logit_bias"])
        values["stop"] = [stop for stop in values["stop"] if stop]
        return SamplingConfig.parse(values)

    async def prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        """A prompt as ids, which must leave room in the context."""
        engine = self.engine
        if isinstance(prompt, str):
            self._check_length(len(prompt))
            text_ids = await self.tokenizing(engine.tokenizer.encode, prompt)
            ids = [*engine.tokenizer.bos_ids, *text_ids]
        else:
            ids = list(prompt)
            self._check_ids(ids)
        return self._fitting(ids)

    async def chat_ids(self, messages: list[dict[str, str]], go_on: bool = False) -> list[int]:
        """A conversation as ids that end where the assistant is to write.

        Args:
            go_on: write on in the last message, not in a new one.
        """
        chat = self.engine.chat_template
        if chat is None:
            raise UsageError("This model has no chat template; use POST /v1/completions.")
        self._check_length(sum(len(message["content"]) for message in messages))
        options = {"continue_final_message": True} if go_on else {"add_generation_prompt": True}
        ids, _ = await self.tokenizing(lambda: chat.encode(messages, **options))
        return self._fitting(ids)

    def _check_ids(self, ids: Iterable[int]) -> None:
        largest, vocab_size = max(ids, default=0), self.engine.tokenizer.vocab_size
        if largest >= vocab_size:
            raise UsageError(
                f"The token id {largest} does not exist; the largest is {vocab_size - 1}."
            )

    def _check_length(self, characters: int) -> None:
        """Refuse what cannot fit before it is turned into tokens, which takes its time."""
        if characters > self._most_characters:
            raise Refusal(
                400,
                f"The prompt has {characters} characters, which is more than the model's context "
                f"of {self.engine.max_context} tokens can hold; shorten it.",
                code="context_length_exceeded",
            )

    def _fitting(self, ids: list[int]) -> list[int]:
        context = self.engine.max_context
        if len(ids) >= context:
            raise Refusal(
                400,
                f"The prompt has {len(ids)} tokens, but the model's context is {context} with "
                "the answer; shorten the prompt.",
                code="context_length_exceeded",
            )
        return ids

    def retry_after(self) -> int:
        """Seconds until a full queue may have room: half the queue's time at the usual pace."""
        stats = self._engine.stats() if self._engine else None
        if stats is None:
            return 1
        queue = self.metrics.mean_duration * stats.queued / max(stats.max_num_seqs, 1)
        return round(min(60, max(1, queue / 2)))

    def fingerprint(self) -> str:
        """What answers name as `system_fingerprint`: the software that wrote them."""
        return f"kgpt-{kgpt.__version__}-{os.environ.get('KERAS_BACKEND', 'unknown')}"


def longest_token(tokenizer: Tokenizer) -> int:
    """The most bytes that one token stands for."""
    return max(len(tokenizer.token_bytes(i) or b"") for i in range(tokenizer.vocab_size)) or 1
