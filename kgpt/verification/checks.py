"""An observation against the reference: each check with its bound, and a sentence if it fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kgpt.text.tokenizer import Tokenizer
from kgpt.verification.bounds import Bounds
from kgpt.verification.observation import Expected, Observation
from kgpt.verification.probe import Probe


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: "logits", "greedy", "bits_per_byte", "token_ids", "chat_template", "stop_tokens" or
            "weights".
        value: the difference, or how much is equal.
        bound: the greatest difference allowed; None where all must be equal.
        fault: what is wrong; None if the check passes.
    """

    name: str
    value: float | str
    bound: float | None = None
    fault: str | None = None


def compare(
    seen: Observation, expected: Expected, probe: Probe, bounds: Bounds, tokenizer: Tokenizer
) -> list[Check]:
    """The checks of what a place gives; what it does not give is left out."""
    limit = bounds.logits * expected.largest_logit
    return list(_checks(seen, expected, probe, bounds, limit, tokenizer))


def _checks(
    seen: Observation,
    expected: Expected,
    probe: Probe,
    bounds: Bounds,
    limit: float,
    tokenizer: Tokenizer,
) -> Iterator[Check]:
    if seen.logits is not None:
        yield _logits(seen.logits, expected.logits, limit)
    if (nats := _nats(seen, probe)) is not None:
        yield _bits_per_byte(nats, nats_of(expected.logits, probe), probe, bounds.bits_per_byte)
    if seen.tokens is not None:
        stop_ids = frozenset(expected.stop_ids)
        yield _greedy(seen.tokens, expected, limit, lambda a, b: _first_token(a, b, stop_ids))
    if seen.texts is not None:
        yield _greedy(seen.texts, expected, limit, lambda a, b: _first_text(a, b, tokenizer))
    if seen.string_ids is not None:
        yield _equal_ids("token_ids", seen.string_ids, expected.string_ids, probe.strings)
    if seen.chat_ids is not None and expected.chat_ids is not None:
        shown = [chat[-1]["content"] for chat in probe.chats]
        yield _equal_ids("chat_template", seen.chat_ids, expected.chat_ids, shown)
    if seen.stop_ids is not None:
        yield _stop_tokens(seen.stop_ids, expected.stop_ids)
    if seen.num_weights is not None:
        yield Check("weights", f"{seen.num_weights:,}")


def _logits(seen: np.ndarray, expected: np.ndarray, limit: float) -> Check:
    difference = np.abs(seen - expected)
    worst = float(difference.max()) if np.isfinite(difference).all() else math.inf
    fault = None
    if not worst <= limit:
        row, position, token = np.unravel_index(int(difference.argmax()), difference.shape)
        fault = (
            f"the logit of token {token} at position {position} of window {row} is off by "
            f"{worst:.3g}, above the bound {limit:.3g}"
        )
    return Check("logits", worst, limit, fault)


def nats_of(logits: np.ndarray, probe: Probe) -> float:
    """Negative log-likelihood of the windows' tokens but the first."""
    targets = np.array(probe.windows)[:, 1:, None]
    rows = np.asarray(logits[:, :-1], "float64")  # (N, T - 1, V)
    top = rows.max(-1, keepdims=True)
    logsumexp = np.log(np.exp(rows - top).sum(-1, keepdims=True)) + top
    return float((logsumexp - np.take_along_axis(rows, targets, axis=-1)).sum())


def _nats(seen: Observation, probe: Probe) -> float | None:
    return seen.nats if seen.logits is None else nats_of(seen.logits, probe)


def _bits_per_byte(seen: float, expected: float, probe: Probe, bound: float) -> Check:
    ours, theirs = (nats / math.log(2) / probe.window_bytes for nats in (seen, expected))
    fault = None
    if not abs(ours - theirs) <= bound * theirs:
        fault = f"the text has {ours:.5f} bits per byte instead of {theirs:.5f}"
    return Check("bits_per_byte", ours, bound * theirs, fault)


# -- greedy decoding -------------------------------------------------------------------------------

# Where two continuations first differ: the index of the reference's token and the other token, or
# None if the place ends there or gives no ids.
Difference = tuple[int, int | None]


def _greedy(
    seen: Sequence[list[int]] | Sequence[str],
    expected: Expected,
    limit: float,
    first_difference: Callable[..., Difference | None],
) -> Check:
    """Equal to the reference, unless that chose between two logits within the bound of both."""
    equal, fault = [], None
    for number, (ours, theirs) in enumerate(zip(seen, expected.tokens, strict=True)):
        difference = first_difference(ours, theirs)
        equal.append(len(theirs) if difference is None else difference[0])
        if difference is None:
            continue
        logits = expected.token_logits[number]
        gap = _gap(logits[min(difference[0], len(logits) - 1)], difference[1])
        if difference[0] >= len(theirs) or gap > 2 * limit:
            fault = fault or _greedy_fault(number, difference, theirs, expected.stop_ids)
    counts = ", ".join(map(str, equal))
    return Check("greedy", counts, 2 * limit, fault)


def _gap(logits: np.ndarray, token: int | None) -> float:
    """How far the logit of `token`, else the second largest, is below the largest."""
    second = np.partition(logits, -2)[-2] if token is None else logits[token]
    return float(logits.max() - second)


def _greedy_fault(
    number: int, difference: Difference, expected: list[int], stop_ids: list[int]
) -> str:
    index, token = difference
    where = f"greedy token {index} of prompt {number}"
    if index >= len(expected) and expected[-1] in stop_ids:
        return f"generation goes on after the stop token {expected[-1]} at {where}"
    if index >= len(expected):
        return f"there is a {where}, beyond those asked for"
    if token is None:
        before = f"after the token {expected[index - 1]}, " if index else ""
        return f"generation ends or differs {before}at {where}, which should be {expected[index]}"
    return f"{where} is {token} instead of {expected[index]}"


def _first_token(
    seen: list[int], expected: list[int], stop_ids: frozenset[int]
) -> Difference | None:
    ours = seen[:-1] if seen and seen[-1] in stop_ids else seen
    theirs = expected[:-1] if expected and expected[-1] in stop_ids else expected
    for index, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            return index, a
    if len(ours) == len(theirs):
        return None
    shared = min(len(ours), len(theirs))
    if len(ours) > shared:  # the reference ended here, with a stop token or the last token
        return len(expected), ours[shared]
    return shared, seen[shared] if len(seen) > shared else None


def _first_text(seen: str, expected: list[int], tokenizer: Tokenizer) -> Difference | None:
    if seen == tokenizer.decode(expected, skip_special_tokens=True, continues=True):
        return None
    for index in range(len(expected)):
        if not seen.startswith(_stable(tokenizer, expected[: index + 1])):
            return index, None
    return len(expected), None


def _stable(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text of `ids` without a character that is not complete yet."""
    return tokenizer.decode(ids, skip_special_tokens=True, continues=True).rstrip("\ufffd")


# -- tokens ----------------------------------------------------------------------------------------


def _equal_ids(
    name: str, seen: list[list[int]], expected: list[list[int]], texts: Sequence[str]
) -> Check:
    wrong = [i for i, (a, b) in enumerate(zip(seen, expected, strict=False)) if a != b]
    fault = None
    if wrong:
        i = wrong[0]
        what = "the token ids" if name == "token_ids" else "the chat template's ids"
        fault = f"{what} of {texts[i][:60]!r} are {_short(seen[i])}, not {_short(expected[i])}"
    return Check(
        name, f"{len(seen) - len(wrong)}/{len(seen)}" if wrong else f"{len(seen):,}", None, fault
    )


def _short(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 12 else f"{str(ids[:12])[:-1]}, …]"


def _stop_tokens(seen: list[int], expected: list[int]) -> Check:
    fault = None
    if seen != expected:
        fault = f"the stop tokens are {seen}, not {expected} (eos_token_id)"
    return Check("stop_tokens", ", ".join(map(str, seen)), None, fault)
