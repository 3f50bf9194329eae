"""A server that speaks kgpt's HTTP API without a model, and fails in each way on request (`fault`).

In a test: `async with FakeServer() as fake`. As a program it takes `serve`'s options, so that it
can stand in for `kgpt serve`.
"""

import argparse
import asyncio
import contextlib
import json
import math
from pathlib import Path
from typing import Any

ANSWER = "The moon is a quiet lamp, and the sea keeps its light for later."
OTHERS = (" a", " the", "\n", "é", " [/b]", "", "\x1b[31m", "🦊")


def words(text: str) -> list[str]:
    """Words with the space before them."""
    found: list[str] = []
    for word in text.split(" "):
        found.append(word if not found else f" {word}")
    return found


def entry(text: str, chance: float, temperature: float = 1.0) -> dict[str, Any]:
    """A logprob entry with alternatives, in OpenAI's format with kgpt's additional fields."""
    rest = (1 - chance) / len(OTHERS)
    chances = {text: chance} | {other: rest for other in OTHERS if other != text}
    warm = {t: p ** (1 / max(temperature, 0.01)) for t, p in chances.items()}
    total = sum(warm.values())
    top = [
        {"token": t, "id": 100 + i, "logprob": math.log(p), "sampling_prob": warm[t] / total}
        for i, (t, p) in enumerate(chances.items())
    ]
    return top[0] | {"bytes": list(text.encode()), "top_logprobs": top}


class FakeServer:
    """Answers on loopback; `requests` are the bodies of streams it was asked for."""

    def __init__(self, answer: str = ANSWER, chat: bool = True, pause: float = 0.0, key: str = ""):
        self.answer, self.chat, self.pause, self.key = answer, chat, pause, key
        self.fault = ""  # "die", "hang", "garbage", "refuse", "not json"
        self.warming = 0  # health checks to answer with "starting"
        self.context = 128
        self.left_out = 0  # messages that a truncated conversation loses
        self.sampling: dict[str, Any] = {}  # the model's own defaults
        self.other = ""  # another server's habits: "ollama", "vllm", "llama.cpp"
        self.requests: list[dict[str, Any]] = []
        self.predictions: list[dict[str, Any]] = []  # requests for the next token alone
        self.cancelled = 0
        self.port = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> "FakeServer":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                _, path, _ = line.decode().split(" ", 2)
                headers: dict[str, str] = {}
                while (line := await reader.readline()).strip():
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                length = int(headers.get("content-length", 0))
                body = json.loads(await reader.readexactly(length)) if length else {}
                await self._answer(path, headers, body, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            self.cancelled += 1
        finally:
            with contextlib.suppress(ConnectionError):
                writer.close()

    async def _answer(
        self,
        path: str,
        headers: dict[str, str],
        body: dict[str, Any],
        writer: asyncio.StreamWriter,
    ) -> None:
        if self.other and path != "/v1/chat/completions":
            return self._send_as_other(path, writer)
        if path == "/health":
            starting, self.warming = self.warming > 0, self.warming - 1
            status = {"status": "starting" if starting else "ready", "model": "fake"}
            status["progress"] = [1, 4] if starting else None
            return self._send(writer, status, 503 if starting else 200)
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return self._send(writer, {"error": {"message": "wrong key"}}, 401)
        if path == "/v1/models":
            info = {"context": self.context, "chat": self.chat, "parameters": 1_200_000}
            info["sampling"] = self.sampling
            model = {"id": "fake", "object": "model", "kgpt": info | {"backend": "jax"}}
            return self._send(writer, {"object": "list", "data": [model]})
        if path == "/v1/tokenize":
            text = body.get("text") or " ".join(m["content"] for m in body.get("messages", []))
            tokens = words(text)
            answer = {"ids": list(range(len(tokens))), "tokens": tokens, "count": len(tokens)}
            return self._send(writer, answer)
        (self.requests if body.get("stream") else self.predictions).append(body)
        if self.other and "logprobs" in body:
            return self._send(writer, {"error": {"message": "logprobs: not supported"}}, 400)
        if self.fault == "refuse":
            return self._send(writer, {"error": {"message": "temperature is too high."}}, 400)
        if self.fault == "not json":
            return self._send(writer, "<html>", 200)
        if not body.get("stream"):
            token = entry(" moon", 0.6, body.get("temperature", 1.0))
            logprobs = {"content": [token]}
            return self._send(writer, {"choices": [{"text": " moon", "logprobs": logprobs}]})
        return await self._stream(path, body, writer)

    def _send_as_other(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/v1/models":
            names = ("small", "large")
            models = [{"id": name, "object": "model", "max_model_len": 4096} for name in names]
            return self._send(writer, {"object": "list", "data": models})
        if path == "/health" and self.other != "ollama":
            starting, self.warming = self.warming > 0, self.warming - 1
            if starting:
                return self._send(writer, {"error": {"message": "Loading model"}}, 503)
            return self._send(writer, {"status": "ok"} if self.other == "llama.cpp" else "", 200)
        return self._send(writer, "404 page not found", 404)

    async def _stream(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
        head += f"X-Kgpt-Left-Out: {self.left_out}\r\n" if self.left_out else ""
        writer.write(f"{head}\r\n".encode())
        tokens = words(self.answer)[: body.get("max_tokens", 10_000)]
        for position, text in enumerate(tokens):
            if position == 3 and self.fault == "die":
                writer.close()
                return
            if position == 3 and self.fault == "hang":
                await asyncio.sleep(3600)
            if position == 3 and self.fault == "garbage":
                writer.write(b"data: {]\n\n")
            chance = 0.05 + 0.9 * ((position * 7) % 10) / 10
            logprobs = {"content": [entry(text, chance, body.get("temperature", 1.0))]}
            logprobs = None if self.other else logprobs
            self._event(path, writer, text, logprobs, None)
            await writer.drain()
            await asyncio.sleep(self.pause)
        receipt = {"kgpt_receipt": 1} if body.get("kgpt_receipt") else None
        self._event(path, writer, "", None, "stop", receipt)
        usage = {"prompt_tokens": 12, "completion_tokens": len(tokens)}
        writer.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode())
        writer.write(b"data: [DONE]\n\n")
        await writer.drain()
        writer.close()

    def _event(
        self,
        path: str,
        writer: asyncio.StreamWriter,
        text: str,
        logprobs: dict[str, Any] | None,
        reason: str | None,
        receipt: dict[str, Any] | None = None,
    ) -> None:
        choice = {
            "index": 0,
            "logprobs": logprobs,
            "finish_reason": reason,
            "kgpt_receipt": receipt,
        }
        choice |= {"delta": {"content": text}} if "chat" in path else {"text": text}
        writer.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())

    def _send(
        self, writer: asyncio.StreamWriter, body: dict[str, Any] | str, status: int = 200
    ) -> None:
        data = json.dumps(body).encode() if isinstance(body, dict) else body.encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("--model")
    parser.add_argument("--name")
    parser.add_argument("--port", type=int)
    parser.add_argument("--api-key-file", type=Path)
    chosen = parser.parse_args()
    key = chosen.api_key_file.read_text().strip() if chosen.api_key_file else ""
    async with FakeServer(key=key, pause=0.02) as fake:
        fake.warming = 3
        print(f"kgpt: serving {chosen.model} on {fake.address}", flush=True)
        await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main())
