"""Text to token ids and back, exactly: byte-level BPE, characters, or bytes.

All are stored as `tokenizer.json` of the `tokenizers` library, and `decode(encode(s)) == s` for
every string. Special tokens in a text are encoded as plain text unless `allow_special=True`.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from kgpt.errors import DataError, UsageError
from kgpt.files import write_json
from kgpt.text.special_tokens import SpecialTokens
from kgpt.text.token_bytes import byte_alphabet, decoder_rules, token_bytes_table
from kgpt.text.tokenizer_files import read_tokenizer

END_OF_TEXT = "<|endoftext|>"  # between documents; as in GPT-2
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"  # around chat turns; as in ChatML
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)

# The ChatML template as a Jinja template: `tokenizer_config.json` carries it to other software.
CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Tokenizer:
    """A vocabulary with its encoding rules and special tokens.

    >>> tokenizer = Tokenizer.of_bytes()
    >>> tokenizer.decode(tokenizer.encode("naïve 🙂"))
    'naïve 🙂'
    """

    def __init__(
        self, backend_tokenizer: tokenizers.Tokenizer, special_tokens: SpecialTokens | None = None
    ):
        backend_tokenizer.no_truncation()
        backend_tokenizer.no_padding()
        self.backend_tokenizer = backend_tokenizer
        self.special_tokens = self._with_defaults(special_tokens or SpecialTokens())
        self._lock = threading.Lock()  # `encode_special_tokens` is shared state
        self._bytes: list[bytes | None] | None = None
        self._special: dict[int, str] | None = None

    # -- construction and files ------------------------------------------------------------

    @classmethod
    def train_bpe(
        cls,
        texts: Iterable[str],
        vocab_size: int = 4096,
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
        min_frequency: int = 2,
    ) -> Tokenizer:
        """Train byte-level BPE (Sennrich et al., 2016; GPT-2's variant) on a stream of texts."""
        smallest = 256 + len(special_tokens)
        if vocab_size < smallest:
            raise UsageError(
                f"A vocabulary of {vocab_size} is too small for the 256 bytes and "
                f"{len(special_tokens)} special tokens; give at least {smallest}."
            )
        backend_tokenizer = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=list(special_tokens),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend_tokenizer.train_from_iterator((clean(text) for text in texts), trainer)
        return cls(backend_tokenizer)

    @classmethod
    def of_characters(
        cls, texts: Iterable[str], special_tokens: Sequence[str] = SPECIAL_TOKENS
    ) -> Tokenizer:
        """One token for each character seen in `texts`; any other is encoded as its UTF-8 bytes."""
        seen: set[str] = set()
        for text in texts:
            seen.update(clean(text))
        names = sorted(seen) + [f"<0x{byte:02X}>" for byte in range(256)]
        vocab = {name: i for i, name in enumerate(names)}
        backend_tokenizer = tokenizers.Tokenizer(models.BPE(vocab, [], byte_fallback=True))
        # Split every character: BPE then never searches a long text for merges.
        every = tokenizers.Regex(r"[\s\S]")
        backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(every, "isolated")
        backend_tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        _add_special(backend_tokenizer, special_tokens)
        return cls(backend_tokenizer)

    @classmethod
    def of_bytes(cls, special_tokens: Sequence[str] = SPECIAL_TOKENS) -> Tokenizer:
        """One token for each of the 256 bytes."""
        vocab = {character: byte for byte, character in byte_alphabet().items()}
        backend_tokenizer = _byte_level(models.BPE(vocab, []))
        _add_special(backend_tokenizer, special_tokens)
        return cls(backend_tokenizer)

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read the tokenizer in a folder, or in a file `tokenizer.json`.

        A folder can also contain GPT-2's vocab.json and merges.txt instead, and the files that
        name the special tokens (see `SpecialTokens`).

        Raises:
            DataError: there is no tokenizer, it is damaged, or it cannot be decoded id by id.
        """
        tokenizer = cls(*read_tokenizer(Path(path)))
        check_decoding(tokenizer, Path(path))
        return tokenizer

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, and tokenizer_config.json if the tokenizer came with one."""
        self.backend_tokenizer.save(str(folder / "tokenizer.json"))
        if self.special_tokens.config:
            write_json(folder / "tokenizer_config.json", self.tokenizer_config())

    def tokenizer_config(self, max_length: int | None = None) -> dict[str, Any]:
        """The contents of tokenizer_config.json for a model of `max_length` tokens."""
        values: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **self.special_tokens.tokens,
            **self.special_tokens.config,
        }
        if self.special_tokens.chat_template is not None:
            values["chat_template"] = self.special_tokens.chat_template
        return values if max_length is None else values | {"model_max_length": max_length}

    def _with_defaults(self, given: SpecialTokens) -> SpecialTokens:
        """`given`, and what it leaves open as kgpt's own tokenizers have it.

        A tokenizer_config.json leaves nothing open.
        """
        if given.config:
            return given
        vocabulary = {token: self.token_to_id(token) for token in (END_OF_TEXT, TURN_END)}
        known = {token: token_id for token, token_id in vocabulary.items() if token_id is not None}
        names = ("bos_token", "eos_token", "unk_token") if END_OF_TEXT in known else ()
        return SpecialTokens(
            dict.fromkeys(names, END_OF_TEXT) | given.tokens,
            frozenset(known.values()) | given.stop_ids,
            given.chat_template or (CHATML_TEMPLATE if TURN_END in known else None),
        )

    def to_json(self) -> str:
        return self.backend_tokenizer.to_str()

    # -- encoding and decoding -------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Size of the embedding table: the largest id plus one."""
        return max(self.backend_tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 of tokenizer.json: equal for equal tokenizers."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def token_to_id(self, token: str) -> int | None:
        return self.backend_tokenizer.token_to_id(token)

    @property
    def eos_id(self) -> int | None:
        """Id between documents: that of ``<|endoftext|>``, else of the `eos_token`."""
        known = self.token_to_id(END_OF_TEXT)
        return (
            known
            if known is not None
            else self.token_to_id(self.special_tokens.tokens.get("eos_token", ""))
        )

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end generation."""
        return self.special_tokens.stop_ids

    @functools.cached_property
    def bos_ids(self) -> list[int]:
        """Ids to put before every prompt, such as that of Llama's `<s>`; mostly none."""
        with self._lock:
            whole = self.backend_tokenizer.encode("a", add_special_tokens=True).ids
            bare = self.backend_tokenizer.encode("a", add_special_tokens=False).ids
        return whole[: next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)]

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Token ids of `text`; special tokens in it are encoded as plain text unless allowed."""
        return self.encode_batch([text], allow_special)[0]

    def encode_prompt(self, text: str) -> list[int]:
        """Ids from which a model continues `text`; an empty one begins a document."""
        return [*self.bos_ids, *self.encode(text)] or [self.eos_id or 0]

    def encode_batch(self, texts: Sequence[str], allow_special: bool = False) -> list[list[int]]:
        """`encode` for many texts at once, on all cores."""
        cleaned = [clean(text) for text in texts]
        with self._lock:
            self.backend_tokenizer.encode_special_tokens = not allow_special
            encodings = self.backend_tokenizer.encode_batch_fast(cleaned, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(
        self, text: str, allow_special: bool = False
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """`encode`, and the (start, end) character offsets of each token in `text`."""
        with self._lock:
            self.backend_tokenizer.encode_special_tokens = not allow_special
            encoding = self.backend_tokenizer.encode(clean(text), add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(
        self, ids: Iterable[int], skip_special_tokens: bool = False, continues: bool = False
    ) -> str:
        """Text of `ids`; invalid UTF-8 becomes U+FFFD.

        Args:
            skip_special_tokens: leave special tokens out.
            continues: the ids follow others, so that a leading space is kept, which
                SentencePiece tokenizers otherwise add and remove.
        """
        stream = StreamDecoder(self, skip_special_tokens, continues)
        return "".join([stream.feed(token_id) for token_id in ids]) + stream.finish()

    def stream(
        self,
        skip_special_tokens: bool = True,
        continues: bool = True,
        keep_special: frozenset[str] = frozenset(),
    ) -> StreamDecoder:
        """A decoder that takes ids one at a time."""
        return StreamDecoder(self, skip_special_tokens, continues, keep_special)

    def token_bytes(self, token_id: int) -> bytes | None:
        """UTF-8 bytes of a token; None for a special token or an unknown id."""
        if self._bytes is None:
            self._bytes = token_bytes_table(self.backend_tokenizer, self.vocab_size)
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else None

    @property
    def special_by_id(self) -> dict[int, str]:
        """Text of each special token by id."""
        if self._special is None:
            added = self.backend_tokenizer.get_added_tokens_decoder()
            self._special = {i: token.content for i, token in added.items() if token.special}
        return self._special

    @property
    def adds_prefix_space(self) -> bool:
        """True if decoding puts a space before every text, or encoding does, and removes it."""
        rules = {rule["type"]: rule for rule in decoder_rules(self.backend_tokenizer)}
        if not rules or "WordPiece" in rules:
            return True
        strips = rules.get("Strip", {}).get("start", 0) > 0
        return bool(strips or rules.get("Metaspace", {}).get("prepend_scheme", "never") != "never")


class StreamDecoder:
    """Decode ids one at a time into whole characters.

    The texts returned by `feed` and `finish` join to exactly `Tokenizer.decode` of all ids.

    Args:
        keep_special: those that are part of the text even where others are skipped.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        skip_special_tokens: bool = True,
        continues: bool = True,
        keep_special: frozenset[str] = frozenset(),
    ):
        self._tokenizer = tokenizer
        self._special = tokenizer.special_by_id
        self._skip_special, self._keep_special = skip_special_tokens, keep_special
        self._drops_space = not continues and tokenizer.adds_prefix_space
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """The text that `token_id` completes; empty if it ends inside a character."""
        if token_id in self._special:
            name = self._special[token_id]
            skipped = self._skip_special and name not in self._keep_special
            return self._utf8.decode(b"", final=True) + ("" if skipped else name)
        text = self._utf8.decode(self._tokenizer.token_bytes(token_id) or b"")
        if self._drops_space and text:
            self._drops_space = False
            return text.removeprefix(" ")
        return text

    def finish(self) -> str:
        """The rest, after the last id: U+FFFD for an incomplete character."""
        return self._utf8.decode(b"", final=True)


def clean(text: str) -> str:
    """`text` with lone surrogates, which UTF-8 cannot encode, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    backend_tokenizer = tokenizers.Tokenizer(model)
    backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=True
    )
    backend_tokenizer.decoder = decoders.ByteLevel()
    return backend_tokenizer


def _add_special(backend_tokenizer: tokenizers.Tokenizer, tokens: Sequence[str]) -> None:
    backend_tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])


TRUSTED_RULES = {"ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"}
PROBE = "The quick brown fox isn't here; it's 12.5 km (or more) away, naïve one!"


def check_decoding(tokenizer: Tokenizer, path: Path) -> None:
    """Raise `DataError` if decoding id by id gives other text than the tokenizer's own decoder."""
    rules = {rule["type"] for rule in decoder_rules(tokenizer.backend_tokenizer)}
    if rules and rules <= TRUSTED_RULES:
        return
    ids = tokenizer.encode(PROBE)
    expected = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True)
    if tokenizer.decode(ids, skip_special_tokens=True) != expected:
        kind = type(tokenizer.backend_tokenizer.model).__name__
        raise DataError(
            f"The {kind} tokenizer of {path} decodes text in a way that kgpt does not support; "
            "use a model with a byte-level or SentencePiece BPE tokenizer."
        )
