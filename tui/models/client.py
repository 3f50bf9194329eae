"""A client of the HTTP API: every failure is one `ServerError` with a sentence.

Responses are parsed leniently, since the server may not be kgpt's; text is not altered.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, get_args

import httpx
from httpx_sse import ServerSentEvent, SSEError, aconnect_sse

from kgpt.config import SamplingConfig
from kgpt.errors import KgptError
from kgpt.protocol import FinishReason, GenerationChunk, TokenInfo, TopLogprob, Usage

TOP_LOGPROBS = 20  # the most that the API gives
MALFORMED = (SSEError, ValueError, KeyError, TypeError, IndexError, AttributeError)
READ_TIMEOUT_S = 60.0  # seconds without a byte after which a stream counts as stuck


class ServerError(KgptError):
    """The server could not be reached, refused, broke off or sent a malformed response."""


@dataclass(frozen=True)
class Health:
    """The body of `/health`."""

    status: str
    progress: tuple[int, int] | None = None
    model: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """The entry of `/v1/models` for the served model."""

    id: str
    context: int = 0
    chat: bool = True
    parameters: int = 0
    backend: str = ""


class Client:
    """One server, by its address and key."""

    def __init__(
        self, address: str, key: str = "", transport: httpx.AsyncBaseTransport | None = None
    ):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.address, self.key = address.rstrip("/"), key
        timeout = httpx.Timeout(10.0, read=READ_TIMEOUT_S)
        try:
            self._http = httpx.AsyncClient(
                base_url=self.address, headers=headers, timeout=timeout, transport=transport,
                trust_env=False,
            )  # fmt: skip
        except (httpx.InvalidURL, ValueError) as error:
            raise ServerError(f"{address} is not an address: {error}.") from None

    @property
    def is_closed(self) -> bool:
        return self._http.is_closed

    async def close(self) -> None:
        await self._http.aclose()

    async def health(self) -> Health:
        with _as_server_errors(self):
            response = await self._http.get("/health", timeout=5.0)
            body = _object(response)
            progress = body.get("progress")
            pair = (int(progress[0]), int(progress[1])) if progress else None
            return Health(str(body.get("status", "ready")), pair, str(body.get("model") or ""))

    async def model(self) -> ModelInfo:
        """The first model the server has."""
        with _as_server_errors(self):
            entry = _object(await self._http.get("/v1/models"))["data"][0]
            info = entry.get("kgpt") or {}
            return ModelInfo(
                str(entry["id"]), int(info.get("context") or 0), bool(info.get("chat", True)),
                int(info.get("parameters") or 0), str(info.get("backend") or ""),
            )  # fmt: skip

    async def ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, up to and including the header of the assistant's turn."""
        with _as_server_errors(self):
            body = {"messages": list(messages)}
            return list(_object(await self._http.post("/v1/tokenize", json=body))["ids"])

    async def next_tokens(
        self, prompt: str | list[int], sampling: SamplingConfig
    ) -> tuple[TopLogprob, ...]:
        """The most probable next tokens after `prompt`, in descending order."""
        body = request(sampling) | {"prompt": prompt, "max_tokens": 1, "min_tokens": 0}
        body |= {"logprobs": TOP_LOGPROBS, "beam_size": 1, "contrastive_alpha": 0.0}
        with _as_server_errors(self):
            choice = _object(await self._http.post("/v1/completions", json=body))["choices"][0]
            tokens = decode_logprobs(choice.get("logprobs"))
            return tokens[0].top_logprobs if tokens else ()

    async def stream_chat(
        self, messages: Sequence[dict[str, str]], sampling: SamplingConfig, unfinished: bool = False
    ) -> AsyncIterator[GenerationChunk]:
        """The assistant's answer; `unfinished` continues the last message."""
        body = request(sampling) | {"messages": list(messages), "stream": True, "logprobs": True}
        body |= {"top_logprobs": TOP_LOGPROBS, "continue_final_message": unfinished}
        async for chunk in self._stream("/v1/chat/completions", body):
            yield chunk

    async def stream_text(
        self, prompt: str, sampling: SamplingConfig
    ) -> AsyncIterator[GenerationChunk]:
        """A continuation of `prompt`."""
        body = request(sampling) | {"prompt": prompt, "stream": True, "logprobs": TOP_LOGPROBS}
        async for chunk in self._stream("/v1/completions", body):
            yield chunk

    async def _stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[GenerationChunk]:
        body = body | {"stream_options": {"include_usage": True}}
        with _as_server_errors(self):
            finished = False
            async with self._events(path, body) as events:
                async for event in events:
                    if event.data == "[DONE]":
                        return
                    chunk = decode_chunk(json.loads(event.data))
                    finished = finished or chunk.finish_reason is not None
                    yield chunk
            if not finished:
                raise ServerError("The server closed the connection in the middle of the answer.")

    @asynccontextmanager
    async def _events(
        self, path: str, body: dict[str, Any]
    ) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
        async with aconnect_sse(self._http, "POST", path, json=body) as source:
            if source.response.status_code != 200:
                await source.response.aread()
                _object(source.response)
            yield source.aiter_sse()


def request(sampling: SamplingConfig) -> dict[str, Any]:
    """The fields of `sampling` as the API takes them; ids of logit_bias are strings in JSON."""
    fields = sampling.model_dump(mode="json")
    return {name: value for name, value in fields.items() if value is not None}


def decode_chunk(body: dict[str, Any]) -> GenerationChunk:
    """One event of a stream, of either kind of completion."""
    if "error" in body:
        raise ServerError(_sentence(body["error"]))
    usage = _usage(body["usage"]) if body.get("usage") else None
    if not body.get("choices"):
        return GenerationChunk(usage=usage)
    choice = body["choices"][0]
    text = (choice.get("delta") or {}).get("content") or choice.get("text") or ""
    if not isinstance(text, str):
        raise ValueError("text is not a string")
    reason, stop = _finish_reason(choice), choice.get("stop_reason")
    return GenerationChunk(
        text,
        decode_logprobs(choice.get("logprobs")),
        finish_reason=reason,
        stop=stop if reason == "stop" and isinstance(stop, str) else None,
        usage=usage,
        index=int(choice.get("index") or 0),
    )


def _finish_reason(choice: dict[str, Any]) -> FinishReason | None:
    """Reasons that only other servers give (such as tool_calls) count as "stop"."""
    reason = choice.get("finish_reason")
    if choice.get("stop_reason") == "deadline":
        return "deadline"
    return reason if reason is None or reason in get_args(FinishReason) else "stop"


def _usage(body: dict[str, Any]) -> Usage:
    cached = (body.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    prompt, completion = body.get("prompt_tokens") or 0, body.get("completion_tokens") or 0
    return Usage(int(prompt), int(completion), int(cached))


def decode_logprobs(logprobs: dict[str, Any] | None) -> tuple[TokenInfo, ...]:
    """Tokens from `logprobs` in the format of chats, or in the older one of completions."""
    if not logprobs:
        return ()
    if logprobs.get("content"):
        return tuple(
            TokenInfo(
                **_candidate(entry),
                top_logprobs=tuple(
                    TopLogprob(**_candidate(top)) for top in entry.get("top_logprobs") or []
                ),
            )
            for entry in logprobs["content"]
        )
    texts = logprobs.get("tokens") or []
    token_logprobs = logprobs.get("token_logprobs") or [0.0] * len(texts)
    tops = logprobs.get("top_logprobs") or [{}] * len(texts)
    return tuple(
        TokenInfo(-1, text, b"", logprob or 0.0, None, _older_candidates(top or {}))
        for text, logprob, top in zip(texts, token_logprobs, tops, strict=False)
    )


def _candidate(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `TopLogprob` from an entry in the format of chats."""
    return {
        "id": int(entry.get("id", -1)), "text": entry["token"],
        "bytes": bytes(entry.get("bytes") or ()), "logprob": float(entry["logprob"]),
        "sampling_prob": entry.get("sampling_prob"),
    }  # fmt: skip


def _older_candidates(top: dict[str, float]) -> tuple[TopLogprob, ...]:
    return tuple(TopLogprob(-1, text, b"", logprob) for text, logprob in top.items())


def _object(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of a response; errors of the API become a `ServerError`."""
    starting = response.status_code == 503 and response.request.url.path.endswith("/health")
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.status_code >= 400 and not starting:
        error = body.get("error") if isinstance(body, dict) else None
        if response.status_code == 401:
            raise ServerError("The server wants another key; give it with --api-key-file.")
        raise ServerError(_sentence(error) if error else _refusal(response.status_code))
    if not isinstance(body, dict):
        raise ValueError("no JSON object")
    return body


def _refusal(code: int) -> str:
    return f"The server refused with HTTP status {code} and gave no reason."


def _sentence(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "The server failed and gave no reason.")


class _as_server_errors:
    """Raises what a connection can raise as a `ServerError`."""

    def __init__(self, client: Client):
        self.client = client

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, MALFORMED):
            problem = "The server's response is malformed; is it an OpenAI-compatible server?"
        elif isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            problem = f"No server answers at {self.client.address}; is it running?"
        elif isinstance(error, httpx.TimeoutException):
            problem = "The server timed out; stop the answer or try again."
        elif isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
            problem = f"{self.client.address} is not an address such as http://127.0.0.1:8000."
        elif isinstance(error, httpx.HTTPError):
            problem = "The connection to the server broke."
        elif isinstance(error, RuntimeError) and self.client.is_closed:
            problem = "The connection was closed; choose a model again."
        else:
            return
        raise ServerError(problem) from error
