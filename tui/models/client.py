"""A client of the HTTP API: every failure is one `ServerError` with a sentence.

Responses are parsed leniently, since the server may not be kgpt's; text is not altered.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, get_args

import httpx
from httpx_sse import ServerSentEvent, SSEError, aconnect_sse

from kgpt.config import SamplingConfig
from kgpt.errors import KgptError
from kgpt.protocol import FinishReason, GenerationChunk, TokenInfo, TopLogprob, Usage
from kgpt_tui.models.server_info import Health, ModelInfo

TOP_LOGPROBS = 20  # the most that the API gives
MALFORMED = (SSEError, ValueError, KeyError, TypeError, IndexError, AttributeError)
READ_TIMEOUT_S = 60.0  # seconds without a byte after which a stream counts as stuck


class ServerError(KgptError):
    """The server could not be reached, refused, broke off or sent a malformed response."""


class RefusedError(ServerError):
    """The server refused a request."""


class Client:
    """One server, by its address and key; `model` asks for one of several models."""

    def __init__(
        self, address: str, key: str = "", transport: httpx.AsyncBaseTransport | None = None,
        model: str = "",
    ):  # fmt: skip
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.address, self.key = address.rstrip("/").removesuffix("/v1").rstrip("/"), key
        self._wanted, self.info = model, ModelInfo("")
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
        """Of a server without `/health` it is "ready", and of one that answers 503 "starting"."""
        with _as_server_errors(self):
            response = await self._http.get("/health", timeout=5.0)
            if response.status_code == 401 or response.status_code > 503:
                _object(response)
            body = _json_object(response) or {}
            status = str(body.get("status"))
            if status not in ("starting", "draining"):
                status = "starting" if response.status_code == 503 else "ready"
            progress = body.get("progress")
            pair = (int(progress[0]), int(progress[1])) if progress else None
            return Health(status, pair, str(body.get("model") or ""))

    async def model(self) -> ModelInfo:
        """The model asked for, or else the first that the server has."""
        with _as_server_errors(self):
            entries = _object(await self._http.get("/v1/models"))["data"]
            if not entries:
                raise ServerError("The server has no model.")
            names = [str(entry["id"]) for entry in entries]
            if self._wanted and self._wanted not in names:
                known = ", ".join(names)
                raise ServerError(f"The server has no model {self._wanted}; it has: {known}.")
            self.info = _model_info(entries[names.index(self._wanted) if self._wanted else 0])
            return self.info

    async def ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, up to and including the header of the assistant's turn."""
        with _as_server_errors(self):
            body = {"messages": list(messages)}
            return list(_object(await self._http.post("/v1/tokenize", json=body))["ids"])

    async def next_tokens(
        self, prompt: str | list[int], sampling: SamplingConfig
    ) -> tuple[TopLogprob, ...]:
        """The most probable next tokens after `prompt`, in descending order."""
        if not self.info.is_kgpt:
            return ()
        body = request(sampling) | {"prompt": prompt, "max_tokens": 1, "min_tokens": 0}
        body |= {"logprobs": TOP_LOGPROBS, "beam_size": 1, "contrastive_alpha": 0.0}
        body["truncate"] = "auto"
        with _as_server_errors(self):
            choice = _object(await self._http.post("/v1/completions", json=body))["choices"][0]
            tokens = decode_logprobs(choice.get("logprobs"))
            return tokens[0].top_logprobs if tokens else ()

    async def stream_chat(
        self, messages: Sequence[dict[str, str]], sampling: SamplingConfig, unfinished: bool = False
    ) -> AsyncIterator[GenerationChunk]:
        """The assistant's answer; `unfinished` continues the last message."""
        body = self._options(sampling) | {"messages": list(messages)}
        if self.info.logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if unfinished:
            body["continue_final_message"] = True
        async for chunk in self._stream("/v1/chat/completions", body):
            yield chunk

    async def stream_text(
        self, prompt: str, sampling: SamplingConfig
    ) -> AsyncIterator[GenerationChunk]:
        """A continuation of `prompt`."""
        body = self._options(sampling) | {"prompt": prompt}
        if self.info.logprobs:
            body["logprobs"] = TOP_LOGPROBS
        async for chunk in self._stream("/v1/completions", body):
            yield chunk

    def _options(self, sampling: SamplingConfig) -> dict[str, Any]:
        """The fields of a stream; other servers get those of sampling that were changed."""
        body: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        if self.info.id:
            body["model"] = self.info.id
        if self.info.is_kgpt:
            return body | request(sampling) | {"truncate": "auto", "kgpt_receipt": True}
        usual = request(SamplingConfig())
        changed = {k: v for k, v in request(sampling).items() if v != usual.get(k)}
        return body | changed | {"max_tokens": sampling.max_tokens}

    async def _stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[GenerationChunk]:
        try:
            async for chunk in self._chunks(path, body):
                yield chunk
        except RefusedError:
            if self.info.is_kgpt or "logprobs" not in body:
                raise
            self.info = replace(self.info, logprobs=False)
            plain = {k: v for k, v in body.items() if k not in ("logprobs", "top_logprobs")}
            async for chunk in self._chunks(path, plain):
                yield chunk

    async def _chunks(self, path: str, body: dict[str, Any]) -> AsyncIterator[GenerationChunk]:
        with _as_server_errors(self):
            finished = False
            async with self._events(path, body) as (left_out, events):
                if left_out:
                    yield GenerationChunk(left_out=left_out)
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
    ) -> AsyncIterator[tuple[int, AsyncIterator[ServerSentEvent]]]:
        async with aconnect_sse(self._http, "POST", path, json=body) as source:
            if source.response.status_code != 200:
                await source.response.aread()
                _object(source.response)
            left_out = source.response.headers.get("x-kgpt-left-out", "0")
            yield int(left_out), source.aiter_sse()


def _model_info(entry: dict[str, Any]) -> ModelInfo:
    """From kgpt's own entry, or from what vLLM and llama.cpp tell of the context."""
    info, meta = entry.get("kgpt") or {}, entry.get("meta") or {}
    context = info.get("context") or entry.get("max_model_len") or meta.get("n_ctx_train")
    return ModelInfo(
        str(entry["id"]), int(context or 0), bool(info.get("chat", True)),
        int(info.get("parameters") or meta.get("n_params") or 0), str(info.get("backend") or ""),
        is_kgpt="kgpt" in entry, sampling=dict(info.get("sampling") or {}),
    )  # fmt: skip


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
        receipt=choice.get("kgpt_receipt"),
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
    body = _json_object(response)
    if response.status_code >= 400:
        error = body.get("error") if body else None
        if response.status_code == 401:
            raise ServerError("The server wants another key; give it with --api-key-file.")
        raise RefusedError(_sentence(error) if error else _refusal(response.status_code))
    if body is None:
        raise ValueError("no JSON object")
    return body


def _json_object(response: httpx.Response) -> dict[str, Any] | None:
    try:
        body = response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


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

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
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
