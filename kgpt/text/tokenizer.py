"""Text to token ids and back, exactly: byte-level BPE, characters, or bytes.

All three are stored as `tokenizer.json` of the `tokenizers` library, and all three can write every
string: `decode(encode(s)) == s`. What a user types is text even where it looks like a special
token; only `allow_special=True` gives such words their power.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from kgpt.errors import UsageError
from kgpt.files import write_json
from kgpt.text.special_tokens import SpecialTokens
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
    """A vocabulary and its rules.

    Example:

    >>> tokenizer = Tokenizer.of_bytes()
    >>> tokenizer.decode(tokenizer.encode("naïve 🙂"))
    'naïve 🙂'
    """

    def __init__(self, inner: tokenizers.Tokenizer, special_tokens: SpecialTokens | None = None):
        inner.no_truncation()
        inner.no_padding()
        self.backend_tokenizer = inner
        self.special_tokens = special_tokens or self._own_special_tokens()
        self._lock = threading.Lock()  # whether special tokens count is a state of `inner`
        self._bytes: list[bytes | None] | None = None
        self._special: dict[int, str] | None = None

    # -- making one ------------------------------------------------------------------------

    @classmethod
    def train_bpe(
        cls,
        texts: Iterable[str],
        vocab_size: int = 4096,
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
        min_frequency: int = 2,
    ) -> Tokenizer:
        """Learn byte-level BPE (Sennrich et al., 2016; GPT-2's variant) from a stream of texts."""
        smallest = 256 + len(special_tokens)
        if vocab_size < smallest:
            raise UsageError(
                f"A vocabulary of {vocab_size} cannot hold the 256 bytes and "
                f"{len(special_tokens)} special tokens; give at least {smallest}."
            )
        inner = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=list(special_tokens),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        inner.train_from_iterator((clean(text) for text in texts), trainer)
        return cls(inner)

    @classmethod
    def of_characters(
        cls, texts: Iterable[str], special_tokens: Sequence[str] = SPECIAL_TOKENS
    ) -> Tokenizer:
        """One token for each character seen in `texts`; any other is written as its bytes."""
        seen: set[str] = set()
        for text in texts:
            seen.update(clean(text))
        names = sorted(seen) + [f"<0x{byte:02X}>" for byte in range(256)]
        inner = tokenizers.Tokenizer(
            models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True)
        )
        # One character a piece: the model then never searches a long text for merges.
        inner.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
        inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        _add_special(inner, special_tokens)
        return cls(inner)

    @classmethod
    def of_bytes(cls, special_tokens: Sequence[str] = SPECIAL_TOKENS) -> Tokenizer:
        """One token for each of the 256 bytes."""
        alphabet = byte_alphabet()
        inner = _byte_level(models.BPE({alphabet[byte]: byte for byte in range(256)}, []))
        _add_special(inner, special_tokens)
        return cls(inner)

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read the tokenizer in a folder, or in a file `tokenizer.json`.

        A folder may also hold GPT-2's older vocab.json and merges.txt, and files that say what the
        special tokens are for (see `SpecialTokens`).
        """
        return cls(*read_tokenizer(Path(path)))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, and what is known of the special tokens of a foreign tokenizer."""
        self.backend_tokenizer.save(str(folder / "tokenizer.json"))
        if self.special_tokens.config:
            write_json(folder / "tokenizer_config.json", self.settings())

    def settings(self, max_length: int | None = None) -> dict[str, Any]:
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

    def _own_special_tokens(self) -> SpecialTokens:
        """The roles in a tokenizer without files that name them."""
        vocabulary = {token: self.token_to_id(token) for token in (END_OF_TEXT, TURN_END)}
        known = {token: token_id for token, token_id in vocabulary.items() if token_id is not None}
        names = ("bos_token", "eos_token", "unk_token") if END_OF_TEXT in known else ()
        return SpecialTokens(
            dict.fromkeys(names, END_OF_TEXT),
            frozenset(known.values()),
            CHATML_TEMPLATE if TURN_END in known else None,
        )

    def to_json(self) -> str:
        return self.backend_tokenizer.to_str()

    # -- using it --------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Number of ids a model needs rows for: the largest id plus one."""
        return max(self.backend_tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary and rules: equal exactly for equal tokenizers."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def token_to_id(self, token: str) -> int | None:
        return self.backend_tokenizer.token_to_id(token)

    @property
    def eos_id(self) -> int | None:
        """The id between documents: of <|endoftext|>, else of the tokenizer's own end."""
        known = self.token_to_id(END_OF_TEXT)
        return (
            known
            if known is not None
            else self.token_to_id(self.special_tokens.tokens.get("eos_token", ""))
        )

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids at which a text ends."""
        return self.special_tokens.stop_ids

    @functools.cached_property
    def bos_ids(self) -> list[int]:
        """Ids that the model wants before every text, such as Llama's <s>; mostly none."""
        with self._lock:
            whole = self.backend_tokenizer.encode("a", add_special_tokens=True).ids
            bare = self.backend_tokenizer.encode("a", add_special_tokens=False).ids
        return whole[: next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)]

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """The ids of `text`. Special tokens inside it stay plain text unless allowed."""
        return self.encode_batch([text], allow_special)[0]

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
        """`encode`, and for each id the first and last-plus-one character it stands for."""
        with self._lock:
            self.backend_tokenizer.encode_special_tokens = not allow_special
            encoding = self.backend_tokenizer.encode(clean(text), add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(
        self, ids: Iterable[int], skip_special_tokens: bool = False, continues: bool = False
    ) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD.

        Args:
            skip_special_tokens: leave special tokens out.
            continues: the ids go on from others. It matters to tokenizers that begin every text
                with a space of their own, as SentencePiece does.
        """
        stream = StreamDecoder(self, skip_special_tokens, continues)
        return "".join([stream.feed(token_id) for token_id in ids]) + stream.finish()

    def stream(self, skip_special_tokens: bool = True, continues: bool = True) -> StreamDecoder:
        """A decoder that is fed ids one by one."""
        return StreamDecoder(self, skip_special_tokens, continues)

    def token_bytes(self, token_id: int) -> bytes | None:
        """The bytes a token stands for; None for a special token, or an id without one."""
        if self._bytes is None:
            self._bytes = _token_bytes(self.backend_tokenizer, self.vocab_size)
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else None

    @property
    def special_by_id(self) -> dict[int, str]:
        """The special tokens: id and name."""
        if self._special is None:
            added = self.backend_tokenizer.get_added_tokens_decoder()
            self._special = {i: token.content for i, token in added.items() if token.special}
        return self._special

    @property
    def adds_prefix_space(self) -> bool:
        """True if encoding puts a space before every text, which decoding takes off again."""
        rules = {rule["type"]: rule for rule in _decoder_rules(self.backend_tokenizer)}
        strips = rules.get("Strip", {}).get("start", 0) > 0
        return strips or rules.get("Metaspace", {}).get("prepend_scheme", "never") != "never"


class StreamDecoder:
    """Turns ids into text as they come, never giving half a character.

    The pieces given by `feed` and `finish` join to exactly `Tokenizer.decode` of all ids.
    """

    def __init__(
        self, tokenizer: Tokenizer, skip_special_tokens: bool = True, continues: bool = True
    ):
        self._tokenizer = tokenizer
        self._special = tokenizer.special_by_id
        self._skip_special = skip_special_tokens
        self._drops_space = not continues and tokenizer.adds_prefix_space
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """The text that `token_id` completes; empty while a character is unfinished."""
        if token_id in self._special:
            name = "" if self._skip_special else self._special[token_id]
            return self._utf8.decode(b"", final=True) + name
        text = self._utf8.decode(self._tokenizer.token_bytes(token_id) or b"")
        if self._drops_space and text:
            self._drops_space = False
            return text.removeprefix(" ")
        return text

    def finish(self) -> str:
        """What is left when no more ids come: U+FFFD for an unfinished character."""
        return self._utf8.decode(b"", final=True)


def clean(text: str) -> str:
    """`text` with lone surrogates, which no encoding can write, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _byte_level(model) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    return inner


def _add_special(inner: tokenizers.Tokenizer, tokens: Sequence[str]) -> None:
    inner.add_special_tokens([AddedToken(token, special=True) for token in tokens])


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: itself if printable, else U+0100 onwards."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + i) for i, byte in enumerate(others)
    }


def _decoder_rules(inner: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """What the decoder does, one step after the other."""
    if inner.decoder is None:
        return []
    rules = json.loads(inner.decoder.__getstate__())
    return rules["decoders"] if rules["type"] == "Sequence" else [rules]


def _token_bytes(inner: tokenizers.Tokenizer, size: int) -> list[bytes | None]:
    """The bytes of each id, read off the vocabulary."""
    special = inner.get_added_tokens_decoder()
    byte_of = {character: byte for byte, character in byte_alphabet().items()}
    rules = {rule["type"] for rule in _decoder_rules(inner)}
    spaces = "▁" if rules & {"Metaspace", "Replace"} else " "  # SentencePiece's visible space
    table: list[bytes | None] = [None] * size
    for token, token_id in inner.get_vocab(with_added_tokens=True).items():
        if token_id in special:
            table[token_id] = None if special[token_id].special else token.encode()
        elif "ByteLevel" in rules and byte_of.keys() >= set(token):
            table[token_id] = bytes(byte_of[character] for character in token)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            table[token_id] = bytes([int(token[3:5], 16)])
        else:
            table[token_id] = token.replace(spaces, " ").encode()
    return table
