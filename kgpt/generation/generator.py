"""Text generation with the model of a directory: text in, text out, one engine thread."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.generation_config import load_sampling
from kgpt.checkpoints.pretrained import load_tokenizer
from kgpt.config import DtypeOption, KVCacheDtype, SamplingConfig, StructuredOutputConfig
from kgpt.errors import UsageError
from kgpt.generation.adapters import NO_ADAPTERS, Adapters, LoadedAdapter
from kgpt.generation.bad_words import BadWords
from kgpt.generation.completion import Completion
from kgpt.generation.context_shift import encode_chat
from kgpt.generation.detokenize import IncrementalDetokenizer
from kgpt.generation.engine import Engine
from kgpt.generation.forward_job import ForwardJob
from kgpt.generation.grammar import CompiledGrammar
from kgpt.generation.grammar_compiler import GrammarCompiler
from kgpt.generation.handle import Handle, OnChunk
from kgpt.generation.loading import inference_dtype, load_for_inference
from kgpt.generation.prompt_ids import Prompt, all_prompt_ids, prompt_ids
from kgpt.generation.receipt import ReceiptWriter
from kgpt.generation.scoring import ScoredPrompt, embed, score
from kgpt.generation.seeds import seed_of, with_seed
from kgpt.generation.sequence import Request
from kgpt.generation.speculative import DraftSource
from kgpt.protocol import EngineStats, GenerationChunk
from kgpt.text.chat_template import Chat, load_chat_template


class TextGenerator:
    """Generates text with the model of a directory.

    Args:
        folder: a model directory.
        max_num_seqs, max_queue: sequences decoded at once, and requests that may wait besides.
        max_context: tokens kept of each sequence; the model's `max_length` when not given.
        draft_model: for speculative decoding: a smaller model with the same tokenizer, or
            "prompt_lookup". Sequences are then generated one at a time, each faster.
        kv_cache_dtype: of the KV caches; "auto" is that of the computation.
        dtype: of weights and computation; "auto" is the format of a quantized model directory, else
            float32. "int8" and "int4" quantize the weights.
        adapters: folders of PEFT by name, for completions with `adapter=` a name; see `Adapters`.
        max_adapters, max_lora_rank: room for adapters that are loaded later.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_num_seqs: int = 8,
        max_queue: int = 64,
        max_context: int | None = None,
        draft_model: DraftSource | None = None,
        dtype: DtypeOption = "auto",
        kv_cache_dtype: KVCacheDtype = "auto",
        adapters: Mapping[str, Path] = NO_ADAPTERS,
        max_adapters: int | None = None,
        max_lora_rank: int | None = None,
    ):
        self.folder = Path(folder)
        self.tokenizer = load_tokenizer(self.folder)
        self.default_sampling = load_sampling(self.folder)
        self.chat_template: Chat | None = load_chat_template(self.tokenizer)
        self.dtype = inference_dtype(self.folder, dtype)
        self.model = load_for_inference(self.folder, self.dtype)
        self.model.kv_cache_dtype = kv_cache_dtype
        self.adapters = Adapters(
            self.model, self.folder, self.tokenizer, adapters, max_adapters, max_lora_rank
        )
        self.config = self.model.config
        self.max_context = min(max_context or self.model.max_length, self.model.max_length)
        self.engine = Engine(self.model, max_num_seqs, max_queue, self.max_context, draft_model)
        self.grammar_compiler = GrammarCompiler(self.tokenizer, self.config.known_vocab_size)
        self._bad_words = BadWords(self.tokenizer)
        self._receipts = ReceiptWriter(
            self.folder, self.tokenizer, self.config, self.max_context, self.dtype, kv_cache_dtype
        )

    def warm_up(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compile what requests will need; `progress` is called with (done, total)."""
        self.engine.warm_up(progress)

    # -- one completion -------------------------------------------------------------------------

    def generate(
        self,
        prompt: Prompt,
        sampling: SamplingConfig | None = None,
        *,
        top_logprobs: int | None = None,
        timeout: float | None = None,
        adapter: str | None = None,
        receipt: bool = False,
        **overrides: Any,
    ) -> Completion:
        """Continue a prompt and wait for the whole completion.

        Args:
            prompt: text, or token ids. An empty prompt starts a document.
            sampling: the options; `default_sampling` when not given.
            top_logprobs: report each token with this many candidates.
            timeout: seconds after which it ends with "deadline".
            adapter: the name of one of `adapters`; the model alone when not given.
            receipt: give the completion a `receipt`, with which `kgpt replay` repeats it.
            overrides: fields of `SamplingConfig`, such as `temperature=0.8`, and one of
                `StructuredOutputConfig`, such as `json_schema={...}`, `regex=` or `choices=`.

        Raises:
            UsageError: the prompt or an option is invalid. QueueFull: too many requests wait.
            GenerationFailed: the engine failed, or a grammar allowed no further token.
        """
        sampling, options = self._options(sampling, overrides, adapter)
        options |= {"top_logprobs": top_logprobs, "timeout": timeout, "receipt": receipt}
        return Completion.from_chunks(self.start(prompt, sampling, **options))

    def stream(
        self,
        prompt: Prompt,
        sampling: SamplingConfig | None = None,
        *,
        top_logprobs: int | None = None,
        timeout: float | None = None,
        adapter: str | None = None,
        receipt: bool = False,
        **overrides: Any,
    ) -> Iterator[GenerationChunk]:
        """The chunks of a completion as they come; closing the iterator cancels it.

        The arguments are those of `generate`. The last chunk has a `finish_reason`.
        """
        chunks: queue.SimpleQueue[GenerationChunk] = queue.SimpleQueue()
        sampling, options = self._options(sampling, overrides, adapter)
        options |= {"top_logprobs": top_logprobs, "timeout": timeout, "receipt": receipt}
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

    def chat(
        self,
        messages: Sequence[dict[str, str]],
        sampling: SamplingConfig | None = None,
        **options: Any,
    ) -> Completion:
        """The assistant's reply to `messages`, each {"role": ..., "content": ...}.

        `options` are those of `generate`. The oldest turns are dropped where all of them exceed
        the context.

        Raises:
            UsageError: the model has no chat template. See also `generate`.
        """
        prompt = self.chat_prompt(messages, adapter=options.get("adapter"))
        return self.generate(prompt, sampling, **options)

    def stream_chat(
        self,
        messages: Sequence[dict[str, str]],
        sampling: SamplingConfig | None = None,
        **options: Any,
    ) -> Iterator[GenerationChunk]:
        """`chat` as the chunks of `stream`."""
        prompt = self.chat_prompt(messages, adapter=options.get("adapter"))
        return self.stream(prompt, sampling, **options)

    def chat_prompt(
        self, messages: Sequence[dict[str, str]], reserve: int = 1, adapter: str | None = None
    ) -> list[int]:
        """The prompt ids of a chat, with at least `reserve` tokens of the context left."""
        chat_template = self.chat_template_of(self.adapters.find(adapter))
        if chat_template is None:
            raise UsageError(
                f"{self.folder} has no chat template; it continues text, but does not converse."
            )
        return encode_chat(chat_template, list(messages), self.max_context - reserve)[0]

    def chat_template_of(self, adapter: LoadedAdapter | None) -> Chat | None:
        """The chat template of an adapter, or of the model."""
        return adapter.chat_template if adapter and adapter.chat_template else self.chat_template

    # -- many completions -----------------------------------------------------------------------

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig | None = None,
        on_done: Callable[[int, Completion], None] | None = None,
        adapter: str | None = None,
        receipt: bool = False,
        **overrides: Any,
    ) -> list[Completion]:
        """Continue every prompt, many at a time; seeds count up from `sampling.seed`.

        Args:
            on_done: called with (index, completion) as each is ready, in the order of prompts.
        """
        sampling, options = self._options(sampling, overrides, adapter)
        sampling, options["receipt"] = with_seed(sampling), receipt
        started: list[Iterator[GenerationChunk]] = []
        done: list[Completion] = []
        for index in range(len(prompts)):
            while len(started) < min(len(prompts), index + self.engine.capacity):
                seed = seed_of(sampling, len(started))
                seeded = sampling.model_copy(update={"seed": seed})
                started.append(self.start(prompts[len(started)], seeded, **options))
            done.append(Completion.from_chunks(started[index]))
            if on_done is not None:
                on_done(index, done[-1])
        return done

    # -- prompts alone --------------------------------------------------------------------------

    def score(
        self, prompts: Sequence[Prompt], top_logprobs: int = 0, adapter: str | None = None
    ) -> list[ScoredPrompt]:
        """Log-probabilities of the tokens of each prompt, with `top_logprobs` candidates each.

        Raises:
            UsageError: a prompt is longer than the context. GenerationFailed: the engine failed.
        """
        ids, chosen = all_prompt_ids(self.tokenizer, prompts), self.adapters.find(adapter)
        return score(self.engine, self.tokenizer, ids, top_logprobs, chosen)

    def embed(self, prompts: Sequence[Prompt], adapter: str | None = None) -> np.ndarray:
        """Embeddings (N, hidden_dim) of length 1: the mean of each prompt's final hidden states.

        Raises:
            UsageError: a prompt is longer than the context. GenerationFailed: the engine failed.
        """
        ids = all_prompt_ids(self.tokenizer, prompts)
        return embed(self.engine, ids, self.adapters.find(adapter))

    def submit_forward(self, jobs: Sequence[ForwardJob]) -> None:
        """Queue prompts for a forward pass; see `Engine.submit_forward`."""
        self.engine.submit_forward(jobs)

    # -- the engine -----------------------------------------------------------------------------

    def submit(
        self,
        prompt: Prompt,
        sampling: SamplingConfig,
        on_chunk: OnChunk,
        *,
        top_logprobs: int | None = None,
        timeout: float | None = None,
        stream: bool = True,
        grammar: CompiledGrammar | None = None,
        keep_special: frozenset[str] = frozenset(),
        adapter: LoadedAdapter | None = None,
        receipt: bool = False,
    ) -> Handle:
        """Start a completion and return at once; `on_chunk` is called in the engine's thread.

        Args:
            stream: chunks are wanted as tokens come; otherwise in larger portions.
            grammar: what the text must follow; from `grammar_compiler`.
            keep_special: special tokens that are part of the text, where generated.
            adapter: from `adapters`.
                The other arguments are those of `generate`.

        Raises:
            UsageError: the prompt or an option is invalid. QueueFull: too many requests wait.
        """
        request = self.request(prompt, sampling, top_logprobs is not None, grammar, adapter)
        detokenizer = IncrementalDetokenizer(self.tokenizer, request, top_logprobs, keep_special)
        open_receipt = self._receipts.start(request, keep_special) if receipt else None
        handle = Handle(detokenizer, len(request.prompt_ids), on_chunk, open_receipt)
        job = self.engine.submit(request, handle.on_tokens, stream=stream, timeout=timeout)
        handle.cancel = lambda: self.engine.cancel(job)
        return handle

    def sampling(
        self, sampling: SamplingConfig | None, overrides: dict[str, Any]
    ) -> SamplingConfig:
        """`sampling`, or the model's default, with `overrides`; a bad one is a `UsageError`."""
        sampling = sampling or self.default_sampling
        return SamplingConfig.parse(sampling.model_dump() | overrides) if overrides else sampling

    def _options(
        self, sampling: SamplingConfig | None, overrides: dict[str, Any], adapter: str | None
    ) -> tuple[SamplingConfig, dict[str, Any]]:
        """The sampling options that were asked for, and the grammar and adapter for `submit`."""
        structured = StructuredOutputConfig.if_given(overrides)
        names = StructuredOutputConfig.model_fields
        others = {name: value for name, value in overrides.items() if name not in names}
        grammar = self.grammar_compiler.compile(structured) if structured else None
        chosen = self.adapters.find(adapter)
        return self.sampling(sampling, others), {"grammar": grammar, "adapter": chosen}

    def request(
        self,
        prompt: Prompt,
        sampling: SamplingConfig,
        return_logprobs: bool = False,
        grammar: CompiledGrammar | None = None,
        adapter: LoadedAdapter | None = None,
    ) -> Request:
        """The prompt and the options as the engine takes them."""
        sampling = with_seed(sampling)
        tokenizer = adapter.tokenizer if adapter and adapter.tokenizer else self.tokenizer
        return Request(
            prompt_ids(self.tokenizer, prompt),
            sampling,
            stop_ids=tokenizer.stop_ids,
            bad_words_ids=self._bad_words.ids(sampling.bad_words),
            return_logprobs=return_logprobs,
            seed=sampling.seed or 0,
            grammar=grammar,
            adapter=adapter,
        )

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Load an adapter while requests are running; see `Adapters.load`."""
        self.adapters.load(name, folder, self.engine)

    def stats(self) -> EngineStats:
        return self.engine.stats()

    def close(self, drain: bool = False) -> None:
        """End the engine's thread; with `drain`, after all requests have ended."""
        self.grammar_compiler.close()
        self.engine.close(drain)

    def __enter__(self) -> TextGenerator:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def start(
        self, prompt: Prompt, sampling: SamplingConfig, **options: Any
    ) -> Iterator[GenerationChunk]:
        """Submit now, with the options of `submit`; the chunks as they are read."""
        chunks: queue.SimpleQueue[GenerationChunk] = queue.SimpleQueue()
        self.submit(prompt, sampling, chunks.put, stream=False, **options)
        return iter(chunks.get, None)
