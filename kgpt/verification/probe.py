"""What every place is asked: the same text, prompts, strings and conversations each time."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from kgpt.errors import UsageError
from kgpt.text.tokenizer import Tokenizer

MAX_WINDOWS, MAX_WINDOW_LENGTH = 4, 128  # of the text whose logits are compared
PROMPT_LENGTHS = (1, 5, 12)
NUM_STRINGS = 2000

# In the public domain: Shakespeare, and the rest written for this file. Some is not ASCII.
TEXT = """\
To be, or not to be, that is the question: Whether 'tis nobler in the mind to suffer the slings \
and arrows of outrageous fortune, or to take arms against a sea of troubles and by opposing end \
them. To die: to sleep; no more; and by a sleep to say we end the heart-ache and the thousand \
natural shocks that flesh is heir to, 'tis a consummation devoutly to be wish'd.

Once upon a time, on a Monday, Anna went to the park with a red ball. It wasn't far. "Where is \
the dog?" she asked. The dog was in the garden, and it was happy.

def mean(x):
    return sum(x) / len(x)  # 3.5 of [3, 4]

Naïve café — 12,345.67 €; 你好，世界 🙂
"""

Draw = Callable[[random.Random], str]
CHARACTERS: list[Draw] = [
    lambda r: chr(r.randrange(32, 127)),
    lambda r: chr(r.randrange(32)),
    lambda r: chr(r.randrange(0x80, 0xD800)),
    lambda r: chr(r.randrange(0xE000, 0x110000)),
    lambda r: r.choice(["😀", "👩‍👩‍👧", "🇩🇪", "👍🏽", "e\u0301", "\u202e", "\ufeff"]),
    lambda r: r.choice([" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2028", "\u3000", "\u200b"]),
    lambda r: " " * r.randrange(1, 20),
    lambda r: r.choice(["'s", "'LL", "n't", "don't", "12345", "the", " world", "ing"]),
]


@dataclass(frozen=True)
class Probe:
    """The inputs, as plain values.

    Attributes:
        windows: N lists of T token ids of the text, for logits and bits per byte.
        window_bytes: UTF-8 bytes of the tokens of the windows that are predicted.
        prompts: token ids of the prompts of greedy decoding.
        num_tokens: greedy tokens of each.
        strings: fuzzed, in which special tokens are plain text.
        chats: conversations, for the chat template.
    """

    windows: list[list[int]]
    window_bytes: int
    prompts: list[list[int]]
    num_tokens: int
    strings: list[str]
    chats: list[list[dict[str, str]]]

    @classmethod
    def make(
        cls, tokenizer: Tokenizer, max_length: int, num_tokens: int, text: str = TEXT
    ) -> Probe:
        """The probe of a model; a `UsageError` if `text` has fewer than two tokens."""
        ids = tokenizer.encode(text)
        length = min(len(ids), max_length, MAX_WINDOW_LENGTH)
        if length < 2:
            raise UsageError("The text to verify on has fewer than two tokens; give more.")
        count = min(len(ids) // length, MAX_WINDOWS)
        windows = [ids[i * length : (i + 1) * length] for i in range(count)]
        predicted = [token for window in windows for token in window[1:]]
        longest = max(1, max_length // 2)
        special = sorted(tokenizer.special_by_id.values())
        rng = random.Random(0)
        vocabulary = [rng.randrange(tokenizer.vocab_size) for _ in range(NUM_STRINGS)]
        words = [tokenizer.decode([token], continues=True) for token in vocabulary]
        return cls(
            windows=windows,
            window_bytes=max(1, sum(len(tokenizer.token_bytes(i) or b"") for i in predicted)),
            prompts=[ids[: min(n, longest)] for n in PROMPT_LENGTHS],
            num_tokens=min(num_tokens, max_length - min(max(PROMPT_LENGTHS), longest)),
            strings=list(fuzzed(NUM_STRINGS, special, words)),
            chats=conversations(),
        )

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Probe:
        return cls(**json.loads(file.read_text(encoding="utf-8")))


def fuzzed(count: int, special_tokens: list[str], words: list[str], seed: int = 0) -> Iterator[str]:
    """Strings of all of Unicode, whitespace, `words`, and special tokens, whole and cut.

    Args:
        words: texts of tokens of the vocabulary, so that its merges are used.
    """
    rng = random.Random(seed)
    parts = [*special_tokens, *(token[:-1] for token in special_tokens), "<|", "|>"]
    drawn: list[Draw] = [lambda r: r.choice(parts), lambda r: r.choice(words)]
    alphabets = [*CHARACTERS, *drawn, drawn[1]]
    for _ in range(count):
        pools = rng.choices(alphabets, k=rng.randrange(1, 4))
        yield "".join(rng.choice(pools)(rng) for _ in range(rng.randrange(0, 30)))


def conversations() -> list[list[dict[str, str]]]:
    """Conversations for the chat template: one turn, several, and one that ends in whitespace.

    None holds a special token: transformers takes one in a message as special, kgpt as text.
    """
    ask = {"role": "user", "content": "What is 1 < 2? naïve 😀"}
    answer = {"role": "assistant", "content": "True, <b>indeed</b>."}
    return [[ask], [ask, answer, {"role": "user", "content": "Why?\n\n  Say it again."}]]
