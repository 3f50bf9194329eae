"""Tokens as the conversation database stores them: compressed JSON, one object per token."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

from kgpt.protocol import TokenInfo, TopLogprob


def encode_tokens(tokens: Sequence[TokenInfo]) -> bytes:
    """`tokens` as a BLOB; `bytes` (in hex) is kept only where it is not the text's UTF-8."""
    entries = [
        _entry(token) | {"top_logprobs": [_entry(other) for other in token.top_logprobs]}
        for token in tokens
    ]
    return zlib.compress(json.dumps(entries).encode(), 1)


def decode_tokens(blob: bytes) -> list[TokenInfo]:
    """The inverse of `encode_tokens`."""
    return [
        TokenInfo(
            **_fields(entry),
            top_logprobs=tuple(TopLogprob(**_fields(other)) for other in entry["top_logprobs"]),
        )
        for entry in json.loads(zlib.decompress(blob))
    ]


def _entry(token: TopLogprob) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": token.id, "text": token.text, "logprob": token.logprob,
        "sampling_prob": token.sampling_prob,
    }  # fmt: skip
    if token.bytes != _utf8(token.text):
        entry["bytes"] = token.bytes.hex()
    return entry


def _fields(entry: dict[str, Any]) -> dict[str, Any]:
    text = entry["text"]
    spelled = bytes.fromhex(entry["bytes"]) if "bytes" in entry else _utf8(text)
    return {
        "id": entry["id"], "text": text, "bytes": spelled, "logprob": entry["logprob"],
        "sampling_prob": entry["sampling_prob"],
    }  # fmt: skip


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")
