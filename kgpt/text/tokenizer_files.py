"""Read tokenizers from `tokenizer.json`, or from the older vocab.json and merges.txt."""

from __future__ import annotations

from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from kgpt.errors import DataError
from kgpt.files import describe_damage, is_lfs_pointer
from kgpt.text.special_tokens import (
    SpecialTokens,
    added_tokens,
    read_json_object,
    read_special_tokens,
)

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_END = "<|endoftext|>"


def read_tokenizer(path: Path) -> tuple[tokenizers.Tokenizer, SpecialTokens | None]:
    """The tokenizer in a folder or file, and its special tokens if the folder names them."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        try:
            backend_tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise DataError(describe_damage(file, error)) from None
    elif (path / "merges.txt").is_file():
        backend_tokenizer = _read_vocab_and_merges(path)
    else:
        older = "kgpt does not read tokenizer.model" if (path / "tokenizer.model").is_file() else ""
        remedy = older or "name a folder with tokenizer.json"
        raise DataError(f"There is no tokenizer at {file}; {remedy}.")
    if not path.is_dir():
        return backend_tokenizer, None
    _add_missing(backend_tokenizer, path)
    return backend_tokenizer, read_special_tokens(path, backend_tokenizer.token_to_id)


def _read_vocab_and_merges(folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer in vocab.json and merges.txt, with GPT-2's or Qwen2's pre-tokenizer."""
    config = read_json_object(folder / "tokenizer_config.json")
    kind = str(config.get("tokenizer_class", "GPT2Tokenizer")).removesuffix("Fast")
    if kind not in ("GPT2Tokenizer", "Qwen2Tokenizer"):
        raise DataError(
            f"{folder} has a {kind} without tokenizer.json; kgpt reads vocab.json and merges.txt "
            "of GPT-2 and Qwen2 only."
        )
    prefix = bool(config.get("add_prefix_space", False))
    backend_tokenizer = read_gpt2(folder / "vocab.json", folder / "merges.txt", prefix)
    if kind == "Qwen2Tokenizer":
        backend_tokenizer.normalizer = normalizers.NFC()
        backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    return backend_tokenizer


def read_gpt2(vocab: Path, merges: Path, prefix: bool = False) -> tokenizers.Tokenizer:
    """GPT-2's tokenizer from its two files; `prefix` adds a space before every text."""
    try:
        model = models.BPE(*models.BPE.read_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises plain Exception
        file = merges if is_lfs_pointer(merges) else vocab
        raise DataError(describe_damage(file, error)) from None
    backend_tokenizer = tokenizers.Tokenizer(model)
    backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend_tokenizer.decoder = decoders.ByteLevel()
    backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if backend_tokenizer.token_to_id(GPT2_END) is not None:
        backend_tokenizer.add_special_tokens([AddedToken(GPT2_END, special=True, normalized=False)])
    return backend_tokenizer


def _add_missing(backend_tokenizer: tokenizers.Tokenizer, folder: Path) -> None:
    """Add the tokens that are only in the files beside tokenizer.json."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    known = {token.content for token in backend_tokenizer.get_added_tokens_decoder().values()}
    for token_id, options in sorted(added_tokens(folder).items()):
        text = options["content"]
        if text not in known:
            given = {flag: bool(options[flag]) for flag in flags if flag in options}
            backend_tokenizer.add_tokens([AddedToken(text, **given)])
        if backend_tokenizer.token_to_id(text) != token_id:
            raise DataError(f"{folder} gives {text!r} the id {token_id}, which another token has.")
