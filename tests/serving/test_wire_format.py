"""Contract: the terminal app's client decodes from HTTP the chunks that the generator emitted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from kgpt.config import SamplingConfig
from kgpt.protocol import GenerationChunk, merge_chunks
from kgpt_tui.models.client import TOP_LOGPROBS, Client, ServerError
from tests.serving.fakes import FakeGenerator
from tests.serving.harness import RunningServer, start

HELLO = [{"role": "user", "content": "Hello, Grüße 🙂"}]
ASCII_ONLY = dict.fromkeys(range(128, 259), -100.0)  # no half characters, no end of text
SAMPLING = SamplingConfig(max_tokens=40, seed=3, temperature=0.9, top_k=5, logit_bias=ASCII_ONLY)
Result = TypeVar("Result")


class Recorder:
    """A server whose generator's chunks are recorded in `emitted`."""

    def __init__(self, generator: Any):
        self.emitted: list[GenerationChunk] = []
        submit = generator.submit

        def recording_submit(prompt: Any, sampling: Any, on_chunk: Any, **options: Any) -> Any:
            def record(chunk: GenerationChunk) -> None:
                self.emitted.append(chunk)
                on_chunk(chunk)

            return submit(prompt, sampling, record, **options)

        generator.submit = recording_submit
        self.running: RunningServer = start(generator)

    def ask(self, use: Callable[[Client], Awaitable[Result]]) -> Result:
        """The result of `use` on the app's client, connected to the server."""

        async def run() -> Result:
            client = Client(self.running.url)
            try:
                return await use(client)
            finally:
                await client.close()

        self.emitted.clear()
        return asyncio.run(run())

    def stream(
        self, request: Callable[[Client], AsyncIterator[GenerationChunk]]
    ) -> list[GenerationChunk]:
        """The chunks that the client decodes from a stream."""

        async def collect(client: Client) -> list[GenerationChunk]:
            return [chunk async for chunk in request(client)]

        return self.ask(collect)


def tiny_generator(folder: Path) -> Any:
    """A real generator of an untrained model, which compiles only what it uses."""
    from kgpt.generation.generator import TextGenerator
    from tests.tiny import write_tiny_model

    generator = TextGenerator(write_tiny_model(folder, max_length=256), max_num_seqs=2)
    generator.warm_up = lambda progress=None: None  # type: ignore[method-assign,assignment]
    return generator


@pytest.fixture(
    scope="module",
    params=["fake", pytest.param("real", marks=[pytest.mark.backend, pytest.mark.portable])],
)
def recorder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Recorder]:
    is_fake = request.param == "fake"
    folder = tmp_path_factory.mktemp("model")
    recorder = Recorder(FakeGenerator() if is_fake else tiny_generator(folder))
    yield recorder
    recorder.running.stop()
    if not is_fake:
        recorder.running.generator.close()


def as_sent(emitted: list[GenerationChunk]) -> GenerationChunk:
    """All that was emitted of one completion, less what the API has no field for."""
    whole = merge_chunks(emitted)
    receipt = whole.receipt and whole.receipt | {"model": "fake", "adapter": None}
    return replace(whole, token_ids=(), receipt=receipt)


def as_received(received: list[GenerationChunk]) -> GenerationChunk:
    """All that was received of one completion; the usage comes in a chunk after the last."""
    *chunks, usage_chunk = received
    assert usage_chunk == GenerationChunk(usage=usage_chunk.usage)
    return replace(merge_chunks(chunks), usage=usage_chunk.usage)


def stream_chat(client: Client) -> AsyncIterator[GenerationChunk]:
    return client.stream_chat(HELLO, SAMPLING)


def stream_continued_chat(client: Client) -> AsyncIterator[GenerationChunk]:
    said = [*HELLO, {"role": "assistant", "content": "Once"}]
    return client.stream_chat(said, SAMPLING, unfinished=True)


def stream_text(client: Client) -> AsyncIterator[GenerationChunk]:
    return client.stream_text("Once", SAMPLING)


@pytest.mark.parametrize("request_stream", [stream_chat, stream_continued_chat, stream_text])
def test_chunks_received_are_the_chunks_emitted(
    recorder: Recorder, request_stream: Callable[[Client], AsyncIterator[GenerationChunk]]
) -> None:
    received = as_received(recorder.stream(request_stream))
    assert received == as_sent(recorder.emitted)
    assert received.finish_reason == "length" and received.usage is not None
    assert received.usage.completion_tokens == len(received.tokens) == SAMPLING.max_tokens
    assert b"".join(token.bytes for token in received.tokens).decode() == received.text
    assert all(len(token.top_logprobs) == TOP_LOGPROBS for token in received.tokens)
    assert all(token.sampling_prob is not None for token in received.tokens)


def test_the_stop_string_is_received(recorder: Recorder) -> None:
    text = as_received(recorder.stream(stream_text)).text
    stop = text[12:16]
    sampling = SAMPLING.model_copy(update={"stop": [stop, "never"]})
    received = as_received(recorder.stream(lambda client: client.stream_text("Once", sampling)))
    assert received == as_sent(recorder.emitted)
    assert received.finish_reason == "stop" and received.stop == stop
    assert received.text == text[: text.index(stop)]


def test_next_tokens_are_the_candidates_of_the_first_token(recorder: Recorder) -> None:
    candidates = recorder.ask(lambda client: client.next_tokens("Once", SAMPLING))
    (token,) = as_sent(recorder.emitted).tokens
    assert candidates == token.top_logprobs and len(candidates) == TOP_LOGPROBS


def test_token_ids_are_those_that_a_chat_starts_from(recorder: Recorder) -> None:
    ids = recorder.ask(lambda client: client.ids(HELLO))
    expected, _ = recorder.running.generator.chat_template.encode(HELLO, add_generation_prompt=True)
    assert ids == expected
    received = as_received(recorder.stream(stream_chat))
    assert received.usage is not None and received.usage.prompt_tokens == len(ids)


def test_model_and_health_are_the_servers(recorder: Recorder) -> None:
    model = recorder.ask(lambda client: client.model())
    generator = recorder.running.generator
    assert model.id == "fake" and model.chat
    assert model.context == generator.max_context
    assert model.parameters == generator.config.num_parameters()
    health = recorder.ask(lambda client: client.health())
    assert (health.status, health.model) == ("ready", "fake")
    assert health.progress == recorder.running.state.progress


def test_an_error_of_the_server_is_its_sentence(recorder: Recorder) -> None:
    sampling = SAMPLING.model_copy(update={"logit_bias": {10**6: 1.0}})
    with pytest.raises(ServerError, match="1000000"):
        recorder.stream(lambda client: client.stream_text("x", sampling))


def test_a_deadline_is_received() -> None:
    generator = FakeGenerator(delay=0.02)
    recorder = Recorder(generator)
    recorder.running.state.config.timeout = 0.5
    sampling = SAMPLING.model_copy(update={"max_tokens": 4000})
    try:
        received = as_received(recorder.stream(lambda client: client.stream_text("a", sampling)))
    finally:
        recorder.running.stop()
    assert received.finish_reason == "deadline" and received.stop is None
    assert received == as_sent(recorder.emitted)


def test_a_failure_of_the_engine_is_a_server_error() -> None:
    generator = FakeGenerator()
    generator.fail_with = "out of memory"
    recorder = Recorder(generator)
    try:
        with pytest.raises(ServerError, match="engine failed"):
            recorder.stream(stream_text)
    finally:
        recorder.running.stop()
