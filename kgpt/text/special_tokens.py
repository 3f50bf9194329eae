"""Special tokens of a tokenizer by role (bos, eos, unk, pad), stop ids and the chat template.

They are read from the files that transformers writes beside `tokenizer.json`:
tokenizer_config.json, special_tokens_map.json, generation_config.json and config.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kgpt.errors import DataError
from kgpt.files import describe_damage, is_lfs_pointer

TOKEN_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class SpecialTokens:
    """Special tokens by role.

    Attributes:
        tokens: such as {"eos_token": "<|endoftext|>"}; roles without a token are not in it.
        stop_ids: ids that end generation.
        chat_template: Jinja source of the chat template.
        config: contents of tokenizer_config.json; empty for a tokenizer made by kgpt.
    """

    tokens: dict[str, str] = field(default_factory=dict)
    stop_ids: frozenset[int] = frozenset()
    chat_template: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


def read_special_tokens(
    folder: Path, token_to_id: Callable[[str], int | None]
) -> SpecialTokens | None:
    """Special tokens from the files in `folder`; None if none of them names any."""
    config = read_json_object(folder / "tokenizer_config.json")
    merged = read_json_object(folder / "special_tokens_map.json") | config
    tokens = {name: text for name in TOKEN_ROLES if (text := _token_text(merged.get(name)))}
    stop = _stop_ids(folder)
    if (end := token_to_id(tokens.get("eos_token", ""))) is not None:
        stop |= {end}
    template = _chat_template(folder, config)
    if not (config or tokens or stop or template):
        return None
    return SpecialTokens(tokens, frozenset(stop), template, config)


def read_json_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file does not exist."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(describe_damage(file, error)) from None
    if not isinstance(values, dict):
        raise DataError(describe_damage(file, "it contains no JSON object"))
    return values


def added_tokens(folder: Path) -> dict[int, dict[str, Any]]:
    """Tokens that added_tokens.json and tokenizer_config.json add: `AddedToken` options by id."""
    found: dict[int, dict[str, Any]] = {}
    for text, token_id in read_json_object(folder / "added_tokens.json").items():
        found[int(token_id)] = {"content": text, "special": text.startswith("<|")}
    decoder = read_json_object(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    return found | {int(token_id): options for token_id, options in decoder.items()}


def _token_text(token: Any) -> str | None:
    """The text of a token, given as a string or as an object with `content`."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) and token else None


def _stop_ids(folder: Path) -> set[int]:
    """`eos_token_id` of generation_config.json, else of config.json: one id or a list."""
    for name in ("generation_config.json", "config.json"):
        ids = read_json_object(folder / name).get("eos_token_id")
        if ids is None:
            continue
        ids = ids if isinstance(ids, list) else [ids]
        if not all(isinstance(token_id, int) for token_id in ids):
            raise DataError(f"{folder / name} has an eos_token_id that is no number.")
        return set(ids)
    return set()


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return _template_text(file)
    template = config.get("chat_template")
    if template is None:
        template = read_json_object(folder / "chat_template.json").get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {item.get("name"): item.get("template") for item in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _template_text(file: Path) -> str:
    try:
        if not is_lfs_pointer(file):
            return file.read_text(encoding="utf-8")
        reason: object = ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error
    raise DataError(describe_damage(file, reason))
