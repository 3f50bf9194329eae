"""The bytes of each token of a vocabulary, by the rules of the tokenizer's decoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import tokenizers

# What the decoder of WordPiece does to each token after a space has been put before it.
CLEANUP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
    (" 'm", "'m"), (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable character for each byte: itself if printable, else from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + i) for i, byte in enumerate(others)
    }


def decoder_rules(backend_tokenizer: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """The steps of the decoder, as in tokenizer.json; empty if it has no decoder."""
    if backend_tokenizer.decoder is None:
        return []
    rules = json.loads(backend_tokenizer.decoder.__getstate__())
    return rules["decoders"] if rules["type"] == "Sequence" else [rules]


def token_bytes_table(backend_tokenizer: tokenizers.Tokenizer, size: int) -> list[bytes | None]:
    """UTF-8 bytes of each id, from the vocabulary; None for special tokens."""
    special = backend_tokenizer.get_added_tokens_decoder()
    to_bytes = _rule(decoder_rules(backend_tokenizer))
    table: list[bytes | None] = [None] * size
    for token, token_id in backend_tokenizer.get_vocab(with_added_tokens=True).items():
        if token_id in special:
            table[token_id] = None if special[token_id].special else token.encode()
        else:
            table[token_id] = to_bytes(token)
    return table


def _rule(rules: list[dict[str, Any]]) -> Callable[[str], bytes]:
    """The function from a token's name to its bytes; a word begins with its space."""
    if not rules:  # the library joins the tokens with spaces
        return lambda token: f" {token}".encode()
    by_type = {rule["type"]: rule for rule in rules}
    if "WordPiece" in by_type:
        return lambda token: _word_piece(token, by_type["WordPiece"]).encode()
    byte_of = {character: byte for byte, character in byte_alphabet().items()}
    spaces = "▁" if by_type.keys() & {"Metaspace", "Replace"} else " "  # SentencePiece's space

    def to_bytes(token: str) -> bytes:
        if "ByteLevel" in by_type and byte_of.keys() >= set(token):
            return bytes(byte_of[character] for character in token)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace(spaces, " ").encode()

    return to_bytes


def _word_piece(token: str, rule: dict[str, Any]) -> str:
    text = token[len(rule["prefix"]) :] if token.startswith(rule["prefix"]) else f" {token}"
    for before, after in CLEANUP if rule["cleanup"] else ():
        text = text.replace(before, after)
    return text
