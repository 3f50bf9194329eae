"""One `kgpt serve` process for all clients, of a tiny model whose chat template renders tools."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from kgpt.config import SamplingConfig
from kgpt.text.special_tokens import SpecialTokens
from kgpt.text.tokenizer import Tokenizer
from tests.peers.templates import QWEN_TOOLS
from tests.serving.harness import eventually
from tests.tiny import write_tiny_model

QUIET = {
    "OPENAI_API_KEY": "none",
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
MAX_TOKENS = 120


def chat_tokenizer():
    """A tokenizer of bytes with a chat template in the form of Qwen's."""
    tokenizer = Tokenizer.of_bytes()
    tokens = {"eos_token": "<|im_end|>"}
    config = {**tokens, "chat_template": QWEN_TOOLS}
    end = tokenizer.token_to_id("<|im_end|>")
    tokenizer.special_tokens = SpecialTokens(tokens, frozenset([end]), QWEN_TOOLS, config)
    return tokenizer


@pytest.fixture(scope="session")
def url(tmp_path_factory):
    """The address of the server's API."""
    folder = write_tiny_model(
        tmp_path_factory.mktemp("models") / "tiny",
        tokenizer=chat_tokenizer(),
        sampling=SamplingConfig(max_tokens=MAX_TOKENS, temperature=0),
        max_length=2048,
    )
    command = [sys.executable, "-m", "kgpt", "serve", "--model", str(folder), "--port", "0"]
    command += ["--max-num-seqs", "2", "--max-context", "2048"]
    # PyTorch compiles nothing on a CPU, so its server is ready soonest.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"KERAS_BACKEND": "torch"}
    )
    try:
        address = process.stdout.readline().strip().split(" on ")[-1]
        health = f"{address}/health"
        eventually(lambda: httpx.get(health, timeout=60).status_code == 200, seconds=300)
        yield f"{address}/v1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """No client may speak to anything but this machine."""
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    real = socket.getaddrinfo

    def only_local(host, *args, **options):
        assert host in ("127.0.0.1", "localhost", None), f"a client looked up {host}"
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", only_local)
