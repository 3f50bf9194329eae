"""Reading tokenizers: `tokenizer.json`, or the vocab.json and merges.txt from before it."""

from __future__ import annotations

from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from kgpt.errors import DataError
from kgpt.text.special_tokens import (
    SpecialTokens,
    added_tokens,
    read_json_object,
    read_special_tokens,
)

QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_END = "<|endoftext|>"


def read_tokenizer(path: Path) -> tuple[tokenizers.Tokenizer, SpecialTokens | None]:
    """The tokenizer in a folder or a file, and what the folder says of its special tokens."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        try:
            inner = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise DataError(f"{file} is not a tokenizer: {error}.") from None
    elif (path / "merges.txt").is_file():
        inner = _read_vocab_and_merges(path)
    else:
        older = "kgpt does not read tokenizer.model" if (path / "tokenizer.model").is_file() else ""
        remedy = older or "name a folder with tokenizer.json"
        raise DataError(f"There is no tokenizer at {file}; {remedy}.")
    if not path.is_dir():
        return inner, None
    _add_missing(inner, path)
    return inner, read_special_tokens(path, inner.token_to_id)


def _read_vocab_and_merges(folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a folder with vocab.json and merges.txt, as GPT-2 or Qwen2 cut words."""
    config = read_json_object(folder / "tokenizer_config.json")
    kind = str(config.get("tokenizer_class", "GPT2Tokenizer")).removesuffix("Fast")
    if kind not in ("GPT2Tokenizer", "Qwen2Tokenizer"):
        raise DataError(
            f"{folder} has a {kind} without tokenizer.json; kgpt reads vocab.json and merges.txt "
            "of GPT-2 and Qwen2 only."
        )
    prefix = bool(config.get("add_prefix_space", False))
    inner = read_gpt2(folder / "vocab.json", folder / "merges.txt", prefix)
    if kind == "Qwen2Tokenizer":
        inner.normalizer = normalizers.NFC()
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    return inner


def read_gpt2(vocab: Path, merges: Path, prefix: bool = False) -> tokenizers.Tokenizer:
    """GPT-2's tokenizer from its two files; with `prefix`, every text begins with a space."""
    try:
        inner = tokenizers.Tokenizer(models.BPE(*models.BPE.read_file(str(vocab), str(merges))))
    except Exception as error:  # the library raises plain Exception
        raise DataError(f"{vocab} or {merges} is damaged: {error}.") from None
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    if inner.token_to_id(GPT2_END) is not None:
        inner.add_special_tokens([AddedToken(GPT2_END, special=True, normalized=False)])
    return inner


def _add_missing(inner: tokenizers.Tokenizer, folder: Path) -> None:
    """Add the tokens that only the files beside tokenizer.json know."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    known = {token.content for token in inner.get_added_tokens_decoder().values()}
    for token_id, facts in sorted(added_tokens(folder).items()):
        text = facts["content"]
        if text not in known:
            given = {flag: bool(facts[flag]) for flag in flags if flag in facts}
            inner.add_tokens([AddedToken(text, **given)])
        if inner.token_to_id(text) != token_id:
            raise DataError(f"{folder} gives {text!r} the id {token_id}, which is taken.")
