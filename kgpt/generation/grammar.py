"""Structured output as a grammar of llguidance, and a sequence's way through it.

llguidance (https://github.com/guidance-ai/llguidance) says after each token which ones may come
next. A `CompiledGrammar` is shared by all sequences that ask for it; each follows it with a
`TokenMatcher` of its own.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import llguidance
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark, is_lark_syntax

from kgpt.config import StructuredOutputConfig
from kgpt.errors import KgptError, UsageError
from kgpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:  # types alone
    from llguidance._lib import JsonCompileOptions

ONE_SPACE = "[ ]?"  # whitespace in JSON: a small model would otherwise add it without end
MAX_GBNF_BYTES = 1 << 14  # its conversion takes time with the square of the number of rules
# Of one matcher: 50 000 states of its lexer are up to 100 MB.
LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)


class NoTokenAllowed(KgptError):
    """A grammar allows no token after the text so far."""


class TokenMatcher:
    """Follows one sequence through a grammar.

    Attributes:
        bitmask: (W,) int32, W = ceil(V / 32); bit i % 32 of word i // 32 is set where the token i
            may come next.
        is_complete: the text satisfies the grammar, and nothing can follow it.
    """

    def __init__(self, matcher: LLMatcher, bitmask: np.ndarray, is_complete: bool):
        self._matcher, self.bitmask, self.is_complete = matcher, bitmask, is_complete

    def accept(self, token_id: int) -> None:
        """Go on with a token, unless it ends the sequence.

        Raises:
            NoTokenAllowed: the token is not allowed, or none can follow it.
        """
        self._matcher.consume_token(token_id)
        self.update()

    def update(self) -> None:
        """Compute `bitmask` and `is_complete` for the position that has been reached."""
        bitmask = np.frombuffer(self._matcher.compute_bitmask(), "<i4")[: len(self.bitmask)]
        if self._matcher.is_error():
            raise NoTokenAllowed(
                f"The grammar allows no token here: {_reason(self._matcher.get_error())}."
            )
        no_more = self._matcher.is_stopped() or not bitmask.any()
        self.is_complete = bool(no_more and self._matcher.is_accepting())
        self.bitmask = bitmask

    def copy(self) -> TokenMatcher:
        return TokenMatcher(self._matcher.deep_copy(), self.bitmask, self.is_complete)


class CompiledGrammar:
    """A grammar, compiled for the vocabulary of one model.

    Raises:
        UsageError: the grammar is wrong, too large, or allows no text.
    """

    def __init__(self, tokenizer: LLTokenizer, vocab_size: int, options: StructuredOutputConfig):
        self.options = options
        kind, text = to_llguidance(options)
        matcher = LLMatcher(tokenizer, text, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise UsageError(f"The {kind} cannot be used: {_reason(matcher.get_error())}.")
        self._start = TokenMatcher(matcher, np.zeros(-(-vocab_size // 32), "int32"), False)
        try:
            self._start.update()
        except NoTokenAllowed:
            raise UsageError(f"The {kind} allows no text at all.") from None

    def matcher(self) -> TokenMatcher:
        """A matcher at the beginning of the text."""
        return self._start.copy()


def to_llguidance(options: StructuredOutputConfig) -> tuple[str, str]:
    """What the options ask for, in words, and as a grammar of llguidance."""
    if options.regex is not None:
        # \d and \w are those of ASCII, as in the patterns of JSON schemas.
        regex = llguidance.regex_to_lark(options.regex, use_ascii="dw")
        return "regular expression", LLMatcher.grammar_from_lark(f"start: /{regex}/")
    if options.choices is not None:
        texts = " | ".join(_lark_string(choice) for choice in options.choices)
        return "list of choices", LLMatcher.grammar_from_lark(f"start: {texts}")
    if options.grammar is not None:
        return "grammar", LLMatcher.grammar_from_lark(_as_lark(options.grammar))
    schema = {"type": "object"} if options.json_object else options.json_schema
    return "JSON schema", _grammar_of_schema(schema, options.whitespace_pattern or ONE_SPACE)


def _grammar_of_schema(schema: Any, whitespace: str) -> str:
    overrides: JsonCompileOptions = {  # also of what a schema itself says under "x-guidance"
        "whitespace_pattern": whitespace,
        "item_separator": ",",
        "key_separator": ":",
        "lenient": False,
        "coerce_one_of": False,
    }
    try:
        return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=overrides)
    except ValueError as error:
        raise UsageError(f"The JSON schema cannot be used: {_reason(str(error))}.") from None


def _as_lark(grammar: str) -> str:
    """A grammar in Lark's form; GBNF, the form of llama.cpp, is converted."""
    if is_lark_syntax(grammar):
        return grammar
    size = len(grammar.encode())
    if size > MAX_GBNF_BYTES:
        raise UsageError(
            f"The GBNF grammar has {size} bytes; at most {MAX_GBNF_BYTES} are allowed."
        )
    try:
        return gbnf_to_lark(grammar)
    except Exception as error:  # the converter raises plain ones, RecursionError too
        raise UsageError(f"The GBNF grammar cannot be used: {_reason(str(error))}.") from None


def _lark_string(text: str) -> str:
    """A string literal of Lark, whose escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _reason(message: str) -> str:
    """An error of llguidance as part of a sentence."""
    if unknown := re.search(r"Unimplemented keys: \[(.*?)\]", message):
        return f"it uses {unknown[1].replace(chr(34), '')}, which is not supported"
    errors = re.findall(r"^\s*error: (.+)$", message, re.MULTILINE)  # of a regular expression
    first = errors[-1] if errors else message.strip().partition("\n")[0]
    return first.removesuffix(".")[:300]


class _Vocabulary:
    """A tokenizer as llguidance's `TokenizerWrapper` takes it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int):
        names = tokenizer.special_by_id
        self._tokenizer = tokenizer
        self.tokens = [
            names[i].encode() if i in names else tokenizer.token_bytes(i) or b""
            for i in range(min(vocab_size, tokenizer.vocab_size))
        ]
        self.tokens += [b""] * (vocab_size - len(self.tokens))  # never allowed
        self.special_token_ids = sorted(id for id in names if id < vocab_size)
        self.eos_token_ids = sorted(id for id in tokenizer.stop_ids if id < vocab_size)
        if not self.eos_token_ids:  # llguidance needs one: an id in a word beyond the bitmask
            self.tokens += [b""] * (-vocab_size % 32) + [b"<|none|>"]
            self.eos_token_ids = [len(self.tokens) - 1]
            self.special_token_ids += self.eos_token_ids
        self.eos_token_id = self.eos_token_ids[0]
        special = set(self.special_token_ids)
        self._ids = {raw: i for i, raw in enumerate(self.tokens) if raw and i not in special}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: bytes) -> list[int]:
        """The tokens of text that the grammar leaves no choice about."""
        try:
            ids = self._tokenizer.encode(text.decode(errors="replace"))
        except Exception:  # of any kind: a character without a token
            return self._longest_match(text)
        known = all(i < len(self.tokens) for i in ids)
        if known and b"".join(self.tokens[i] for i in ids) == text:
            return ids
        return self._longest_match(text)  # a tokenizer that puts a space before every text

    def _longest_match(self, text: bytes) -> list[int]:
        ids, start = [], 0
        while start < len(text):
            ends = range(min(len(text), start + self._longest), start, -1)
            end = next((end for end in ends if text[start:end] in self._ids), None)
            if end is None:  # no token continues the text
                break
            ids.append(self._ids[text[start:end]])
            start = end
        return ids


def make_ll_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> LLTokenizer:
    """llguidance's index of the vocabulary: 0.3 s for 50 000 tokens."""
    vocabulary = _Vocabulary(tokenizer, vocab_size)
    wrapper = llguidance.TokenizerWrapper(vocabulary)
    return LLTokenizer(wrapper, eos_token=vocabulary.eos_token_ids)
