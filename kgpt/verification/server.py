"""The HTTP server, asked over a real socket."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx

from kgpt.checkpoints.pretrained import load_config
from kgpt.config import ServeConfig
from kgpt.errors import KgptError
from kgpt.generation.generator import TextGenerator
from kgpt.serving.server import Server, address_of, open_socket
from kgpt.serving.state import ServerState
from kgpt.verification.case import Case
from kgpt.verification.observation import Observation

START_TIMEOUT_S = 120
TEMPLATE_TOKENS = 40  # of a message, at most
NUM_STRINGS = 200  # of the fuzzed, one request each


def observe_server(case: Case) -> Observation:
    """Greedy texts, log-likelihood, tokenization and chat template of `kgpt serve`."""
    seen, probe = Observation(), case.probe
    with serving(case) as client:
        greedy = {"temperature": 0, "max_tokens": probe.num_tokens}
        seen.texts = [_complete(client, ids, greedy)["text"] for ids in probe.prompts]
        echo = {"echo": True, "max_tokens": 0, "logprobs": 0}
        scored = [_complete(client, ids, echo)["logprobs"] for ids in probe.windows]
        seen.nats = -sum(sum(window["token_logprobs"][1:]) for window in scored)
        strings = [{"text": text} for text in probe.strings[:NUM_STRINGS]]
        seen.string_ids = [_post(client, "/v1/tokenize", body)["ids"] for body in strings]
        if client.get("/tokenizer_info").json().get("chat_template"):
            longest = load_config(case.folder).max_length
            fitting = itertools.takewhile(lambda chat: _most_tokens(chat) < longest, probe.chats)
            chats = [{"messages": chat} for chat in fitting]
            seen.chat_ids = [_post(client, "/v1/tokenize", body)["ids"] for body in chats]
    return seen


def _most_tokens(chat: list[dict[str, str]]) -> int:
    """More than a conversation takes: one for each byte, and what a template adds to messages.

    The server refuses one that is longer than the model's context.
    """
    return sum(len(message["content"].encode()) + TEMPLATE_TOKENS for message in chat)


@contextlib.contextmanager
def serving(case: Case) -> Iterator[httpx.Client]:
    """A server of the model on a free port of the loopback interface, and a client of it."""
    config = ServeConfig.parse({"port": 0})
    generator = TextGenerator(case.folder)
    state = ServerState("model", config, lambda: generator)
    listener = open_socket(config)
    server = Server(state, listener)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        with httpx.Client(base_url=address_of(listener), timeout=START_TIMEOUT_S) as client:
            _wait_until_ready(client)
            yield client
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)


def _wait_until_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/health").status_code == 200:
                return
        time.sleep(0.1)
    raise KgptError(f"The server was not ready after {START_TIMEOUT_S} seconds.")


def _complete(client: httpx.Client, ids: list[int], options: dict[str, Any]) -> dict[str, Any]:
    reply = _post(client, "/v1/completions", {"model": "model", "prompt": ids, **options})
    choice: dict[str, Any] = reply["choices"][0]
    return choice


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post(path, json=body)
    response.raise_for_status()
    reply: dict[str, Any] = response.json()
    return reply
