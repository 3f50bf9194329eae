"""Questions about the small world, with their answers and a judge of replies."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kgpt.data.tinyworld.facts import (
    FIXED_FACTS,
    FixedFacts,
    echoed_words,
    owners,
    sums,
    visits_of,
)
from kgpt.data.tinyworld.world import (
    COLOURS,
    FEELINGS,
    NUMBERS,
    PEOPLE,
    PLACES,
    THINGS,
    is_held_out,
    plural,
    with_articles,
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question with its right answer.

    Attributes:
        kind: the rule it needs.
        text: what is asked.
        answer: a right reply, as the corpus has it.
        key: the words that make a reply right.
        rivals: words of the same sort; one of them in a reply makes it wrong.
        combination: what is held out or not.
    """

    kind: str
    text: str
    answer: str
    key: str
    rivals: frozenset[str]
    combination: tuple[Any, ...]

    def is_right(self, reply: str) -> bool:
        """Does `reply` say the key words, and none of their rivals?

        >>> question = next(questions(seed=1))
        >>> question.is_right(question.answer), question.is_right("I do not know.")
        (True, False)
        """
        return says(reply, self.key, self.rivals)


def says(reply: str, key: str, rivals: Iterable[str]) -> bool:
    """Does `reply` say the words of `key`, and none of the `rivals`?"""
    words = re.findall(r"[a-z]+", reply.lower())
    said = f" {key.lower()} " in f" {' '.join(words)} "
    return said and not {rival.lower() for rival in rivals} & set(words)


def questions(seed: int, held_out: bool = False) -> Iterator[Question]:
    """Endless questions of all kinds, about combinations that are held out, or are not."""
    rng = random.Random(f"questions {seed}")
    while True:
        question = rng.choice(KINDS)(rng)
        if is_held_out(*question.combination) == held_out and _context_is_allowed(question):
            yield question


def _context_is_allowed(question: Question) -> bool:
    """The other facts a question mentions must not be held out, whatever it asks."""
    return not any(is_held_out(*fact) for fact in _mentioned(question))


def _mentioned(question: Question) -> Iterator[tuple[Any, ...]]:
    """Facts in a question's text, besides the one it asks about."""
    found = re.findall(r"(\w+) has a (\w+) (\w+)\.", question.text)
    facts = [("owns", *fact) for fact in found]
    facts += [("at", *fact) for fact in re.findall(r"(\w+) went to the (\w+)\.", question.text)]
    return (fact for fact in facts if fact != question.combination)


def _colour(rng: random.Random) -> Question:
    facts, context = owners(rng)
    name, colour, thing = rng.choice(facts)
    return Question(
        "colour",
        f"{context} What colour is {name}'s {thing}?",
        f"{name} has a {colour} {thing}.",
        colour,
        frozenset(COLOURS) - {colour},
        ("owns", name, colour, thing),
    )


def _owner(rng: random.Random) -> Question:
    facts, context = owners(rng)
    name, colour, thing = rng.choice(facts)
    return Question(
        "owner",
        f"{context} Who has the {thing}?",
        f"The {thing} belongs to {name}.",
        name,
        frozenset(PEOPLE) - {name},
        ("owns", name, colour, thing),
    )


def _place(rng: random.Random) -> Question:
    facts, context = visits_of(rng)
    name, place = rng.choice(facts)
    return Question(
        "place",
        f"{context} Where is {name}?",
        f"{name} went to the {place}.",
        place,
        frozenset(PLACES) - {place},
        ("at", name, place),
    )


def _echo(rng: random.Random) -> Question:
    said = echoed_words(rng)
    return Question(
        "echo", f"Say after me: {said}.", f"You said: {said}.", said, frozenset(), ("echo", said)
    )


def _sum(rng: random.Random) -> Question:
    sum_ = sums(rng)
    number = NUMBERS[sum_.total]
    return Question(
        "sum",
        f"Look, {sum_.change}. How many {plural(sum_.thing)} does {sum_.name} have now?",
        sum_.result,
        number,
        frozenset(NUMBERS) - {number},
        sum_.combination,
    )


def _feeling(rng: random.Random) -> Question:
    name, thing = rng.choice(list(PEOPLE)), rng.choice(THINGS)
    event, feeling = rng.choice(list(FEELINGS.items()))
    return Question(
        "feeling",
        f"Look, {name} {event.format(thing=thing)}. How does {name} feel?",
        f"{PEOPLE[name].title()} feels {feeling}.",
        feeling,
        frozenset(FEELINGS.values()) - {feeling},
        ("feels", name, event, thing if "{" in event else ""),
    )


def _about(fixed: FixedFacts) -> Callable[[random.Random], Question]:
    """A kind of question about fixed facts, asked in several ways.

    What is held out is a fact in one phrasing; it is taught in the others.
    """

    def make(rng: random.Random) -> Question:
        number = rng.randrange(len(fixed.phrases))
        asked, right = rng.choice(list(fixed.facts.items()))
        return Question(
            fixed.kind,
            with_articles(fixed.phrases[number].format(x=asked)),
            fixed.sentence(asked),
            right,
            frozenset(fixed.options) - {asked, right},
            (fixed.kind, number, asked),
        )

    return make


KINDS: tuple[Callable[[random.Random], Question], ...] = (
    *(_colour, _owner, _place, _echo) * 2,  # what must be read off the question needs practice
    _sum,
    _feeling,
    *map(_about, FIXED_FACTS),
)
