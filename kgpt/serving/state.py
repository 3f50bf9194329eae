"""What all endpoints share: the text generator, the server's status, its limits and metrics."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

from annotated_types import MaxLen

import kgpt
from kgpt.config import SamplingConfig, ServeConfig, StructuredOutputConfig
from kgpt.errors import UsageError
from kgpt.generation.context_shift import encode_chat, longest_prompt
from kgpt.serving.errors import APIError
from kgpt.serving.filters import FilterFactory, load_filters
from kgpt.serving.metrics import Metrics

if TYPE_CHECKING:
    from kgpt.generation.adapters import LoadedAdapter
    from kgpt.generation.generator import TextGenerator
    from kgpt.generation.grammar import CompiledGrammar
    from kgpt.generation.text_classifier import TextClassifier
    from kgpt.serving.request_stream import Cancellable
    from kgpt.text.chat_template import Chat
    from kgpt.text.tokenizer import Tokenizer


MAX_BAD_WORDS = next(
    bound.max_length
    for bound in SamplingConfig.model_fields["bad_words"].metadata
    if isinstance(bound, MaxLen)
)

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class ServerState:
    """One served model.

    Args:
        name: the model's name in the API.
        load: loads the generator or classifier; called in a thread, since it takes seconds.
    """

    def __init__(
        self, name: str, config: ServeConfig, load: Callable[[], TextGenerator | TextClassifier]
    ):
        self.name, self.config = name, config
        self.filters: list[FilterFactory] = load_filters(config.output_filter)
        self.status: Literal["starting", "ready", "draining"] = "starting"
        self.progress: tuple[int, int] | None = None  # of the warm-up: (done, total)
        self.failure: BaseException | None = None  # why the model could not be loaded
        self.created = int(time.time())
        self.active_streams: set[Cancellable] = set()
        self.metrics = Metrics(lambda: self._generator.stats() if self._generator else None)
        self._generator: TextGenerator | TextClassifier | None = None
        self._max_prompt_chars = 0
        self._load = load
        # One thread, since the tokenizer's handling of special tokens is mutable state.
        self._tokenizer_pool = ThreadPoolExecutor(1, "tokenizer")
        self._loader = threading.Thread(target=self._start, name="warm-up", daemon=True)

    def start_loading(self) -> None:
        """Load and warm up the model in a thread."""
        self._loader.start()

    @property
    def is_loading(self) -> bool:
        return self._loader.is_alive()

    def _start(self) -> None:
        try:
            generator = self._load()
            self._max_prompt_chars = generator.max_context * max_token_bytes(generator.tokenizer)
            self._generator = generator
            generator.warm_up(self._set_progress)
            if self.status == "starting":
                self.status = "ready"
        except BaseException as error:
            self.failure = error

    def _set_progress(self, done: int, total: int) -> None:
        self.progress = (done, total)

    @property
    def generator(self) -> TextGenerator:
        """The generator, as `served`; an `APIError` 400 if a classifier is served."""
        if is_classifier(served := self.served):
            raise APIError(
                400, "This model is a classifier, which generates no text; use POST /v1/classify."
            )
        return cast("TextGenerator", served)

    @property
    def classifier(self) -> TextClassifier:
        """The classifier, as `served`; an `APIError` 400 if a language model is served."""
        if not is_classifier(served := self.served):
            raise APIError(
                400, "This model is no classifier; `kgpt classify train` makes one of it."
            )
        return cast("TextClassifier", served)

    @property
    def served(self) -> TextGenerator | TextClassifier:
        """What is served, once it accepts requests; before and after, an `APIError` 503."""
        if self.status == "draining":
            raise APIError(503, "The server is shutting down.", code="draining", retry_after=10)
        if self._generator is None or self.status == "starting":
            done, total = self.progress or (0, 0)
            progress = f" ({done} of {total})" if total else ""
            raise APIError(
                503, f"The model is being warmed up{progress}.", code="starting", retry_after=2
            )
        return self._generator

    def record_throughput(self) -> None:
        """Take a sample for the metric of tokens per second."""
        if self._generator is not None:
            self.metrics.throughput.record(self._generator.stats().generation_tokens)

    def drain(self) -> None:
        """Accept no more requests; active ones continue."""
        self.status = "draining"

    def cancel_all(self) -> None:
        """Cancel all active requests."""
        for stream in list(self.active_streams):
            stream.cancel()

    def close(self) -> None:
        """Stop the engine and cancel active requests; a warm-up cannot be interrupted."""
        self._tokenizer_pool.shutdown(wait=False, cancel_futures=True)
        if self._generator is not None and not self.is_loading:
            self._generator.close(drain=False)

    async def run_with_tokenizer(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function that uses the tokenizer without blocking the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._tokenizer_pool, function, *args)

    @property
    def names(self) -> list[str]:
        """The model's name and its aliases."""
        return list(dict.fromkeys((self.name, *self.config.alias)))

    @property
    def adapters(self) -> list[LoadedAdapter]:
        """The adapters of the model; a classifier has none."""
        return [] if is_classifier(self.served) else self.generator.adapters.loaded

    def name_of(self, adapter: LoadedAdapter | None) -> str:
        """The name in the API of the model, or of one of its adapters."""
        return f"{self.name}:{adapter.name}" if adapter else self.name

    def adapter_for(self, name: str | None) -> LoadedAdapter | None:
        """The adapter that a request names, as NAME or MODEL:NAME; None is the model itself.

        Rejects a request for another model. The name is compared, and used for nothing else.
        """
        if not name or name in self.names:
            return None
        for adapter in self.adapters:
            if name in (adapter.name, *(f"{model}:{adapter.name}" for model in self.names)):
                return adapter
        if not self.config.any_model_name:
            raise APIError(
                404,
                f"There is no model {name[:100]!r} here; this server serves {self.name!r}.",
                param="model",
                code="model_not_found",
            )
        return None

    def resolve_sampling(self, requested: dict[str, Any]) -> SamplingConfig:
        """The model's defaults, overridden by a request's fields, within the server's limits."""
        values = self.generator.default_sampling.model_dump() | requested
        values["max_tokens"] = min(values["max_tokens"], self.config.max_tokens)
        limit = MAX_BAD_WORDS - len(self.config.bad_words)
        if len(values["bad_words"]) > limit:
            raise UsageError(f"bad_words: this server accepts at most {limit} phrases.")
        values["bad_words"] = [*self.config.bad_words, *filter(None, values["bad_words"])]
        self.check_token_ids(values["logit_bias"])
        values["stop"] = [stop for stop in values["stop"] if stop]
        return SamplingConfig.parse(values)

    async def compile_grammar(
        self, options: StructuredOutputConfig | None
    ) -> CompiledGrammar | None:
        """What `RequestStream.submit` takes for structured output; None for free text."""
        if options is None:
            return None
        return await self.generator.grammar_compiler.compile_async(options)

    async def encode_prompt(
        self, prompt: str | Sequence[int], room: int | None = None, answer: bool = True
    ) -> list[int]:
        """Token ids of a prompt: text is encoded, ids are checked.

        Args:
            room: tokens to leave for the answer, up to half of the context, by leaving out the
                oldest of the prompt; None leaves out nothing.
            answer: one is generated, so the prompt may not fill the context.

        Raises:
            APIError: the prompt leaves no room in the context.
        """
        generator = self.served
        if isinstance(prompt, str):
            prompt = prompt if room is None else prompt[-self._max_prompt_chars :]
            self._check_prompt_chars(len(prompt))
            text_ids = await self.run_with_tokenizer(generator.tokenizer.encode, prompt)
            ids = [*generator.tokenizer.bos_ids, *text_ids]
        else:
            ids = list(prompt)
            self.check_token_ids(ids)
        ids = ids if room is None else ids[-self._longest_prompt(room) :]
        return self._check_context(ids, answer)

    def _longest_prompt(self, room: int) -> int:
        """Tokens of the longest prompt that leaves `room`, up to half of the context."""
        return longest_prompt(self.generator.max_context, room)

    def _last_messages(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those that may fit, which spares the tokenizer the others; the system message first."""
        system = [message for message in messages[:1] if message["role"] == "system"]
        lengths = [len(message["content"]) for message in messages[len(system) :]]
        first = len(system)
        while sum(lengths) > self._max_prompt_chars and len(lengths) > 1:
            lengths.pop(0)
            first += 1
        return system + messages[first:]

    def chat_template_of(self, adapter: LoadedAdapter | None) -> Chat:
        """The chat template of an adapter or of the model; a `UsageError` if it has none."""
        chat_template = self.generator.chat_template_of(adapter)
        if chat_template is None:
            raise UsageError("This model has no chat template; use POST /v1/completions.")
        return chat_template

    async def encode_chat(
        self,
        messages: list[dict[str, Any]],
        continue_final_message: bool = False,
        room: int | None = None,
        template: Mapping[str, Any] = NO_OPTIONS,
        adapter: LoadedAdapter | None = None,
    ) -> tuple[list[int], int]:
        """Token ids of a conversation, up to where the assistant's answer starts.

        Args:
            continue_final_message: the answer continues the last message.
            room: tokens to leave for the answer, up to half of the context, by leaving out the
                oldest turns; None leaves out nothing.
            template: `tools` and `variables` of `Chat.encode`.
            adapter: whose chat template it is; None is the model's.

        Returns:
            The token ids, and how many messages were left out.

        Raises:
            APIError: the conversation leaves no room in the context.
        """
        kept = messages if room is None else self._last_messages(messages)
        whole = kept[-1:] if room is not None else kept  # what cannot be left out
        self._check_prompt_chars(sum(len(message["content"]) for message in whole))
        longest = sys.maxsize if room is None else self._longest_prompt(room)
        chat_template = self.chat_template_of(adapter)
        ids, left_out = await self.run_with_tokenizer(
            lambda: encode_chat(chat_template, kept, longest, continue_final_message, **template)
        )
        return self._check_context(ids), left_out + len(messages) - len(kept)

    def check_token_ids(self, ids: Iterable[int]) -> None:
        """Reject ids that are not in the vocabulary."""
        largest, vocab_size = max(ids, default=0), self.served.tokenizer.vocab_size
        if largest >= vocab_size:
            raise UsageError(
                f"The token id {largest} does not exist; the largest is {vocab_size - 1}."
            )

    def _check_prompt_chars(self, count: int) -> None:
        """Reject a prompt that cannot fit before spending time on its tokenization."""
        if count > self._max_prompt_chars:
            raise APIError(
                400,
                f"The prompt has {count} characters, which is more than the model's context "
                f"of {self.served.max_context} tokens can hold; shorten it.",
                code="context_length_exceeded",
            )

    def _check_context(self, ids: list[int], answer: bool = True) -> list[int]:
        context = self.served.max_context
        if len(ids) >= context + (not answer):
            with_answer = " with the answer" if answer else ""
            raise APIError(
                400,
                f"The prompt has {len(ids)} tokens, but the model's context is {context}"
                f"{with_answer}; shorten the prompt.",
                code="context_length_exceeded",
            )
        return ids

    def retry_after(self) -> int:
        """Seconds until a full queue may accept requests: half the time it takes to empty."""
        stats = self._generator.stats() if self._generator else None
        if stats is None:
            return 1
        queue_time = self.metrics.mean_latency * stats.queued / max(stats.max_num_seqs, 1)
        return round(min(60, max(1, queue_time / 2)))

    def fingerprint(self) -> str:
        """`system_fingerprint` of responses: kgpt's version and the Keras backend."""
        return f"kgpt-{kgpt.__version__}-{os.environ.get('KERAS_BACKEND', 'unknown')}"


def is_classifier(served: Any) -> bool:
    """Whether it gives texts labels, rather than continuing them."""
    return getattr(served, "labels", None) is not None


def max_token_bytes(tokenizer: Tokenizer) -> int:
    """The length in bytes of the longest token."""
    return max(len(tokenizer.token_bytes(i) or b"") for i in range(tokenizer.vocab_size)) or 1
