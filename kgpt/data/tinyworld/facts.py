"""Facts of the small world: those that a text tells, and those that never change."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kgpt.data.tinyworld.world import (
    ANIMALS,
    COLOURS,
    DAYS,
    HOMES,
    NEXT_DAY,
    NUMBERS,
    OPPOSITE_OF,
    PEOPLE,
    PLACES,
    SOUNDS,
    THINGS,
    count_phrase,
    with_articles,
)  # fmt: skip

FACT_COUNTS = (1, 1, 2)  # facts that a context tells; two must be kept apart


def owners(rng: random.Random) -> tuple[list[tuple[str, str, str]], str]:
    """People with a thing each, and the sentences that say so."""
    count = rng.choice(FACT_COUNTS)
    facts = list(
        zip(
            rng.sample(list(PEOPLE), count),
            rng.sample(COLOURS, count),
            rng.sample(THINGS, count),
            strict=True,
        )
    )
    return facts, " ".join(f"Look, {name} has a {colour} {thing}." for name, colour, thing in facts)


def visits_of(rng: random.Random) -> tuple[list[tuple[str, str]], str]:
    """People with a place each, and the sentences that say so."""
    count = rng.choice(FACT_COUNTS)
    people, places = rng.sample(list(PEOPLE), count), rng.sample(PLACES, count)
    facts = list(zip(people, places, strict=True))
    return facts, " ".join(f"Look, {name} went to the {place}." for name, place in facts)


def echoed_words(rng: random.Random) -> str:
    """A few words of the world, in no order."""
    words = [*COLOURS, *THINGS, *PLACES, *ANIMALS, *(name.lower() for name in PEOPLE)]
    return " ".join(rng.sample(words, rng.randint(4, 12)))


@dataclass(frozen=True)
class Sum:
    """Things that somebody has, gets and gives away.

    Attributes:
        combination: what is held out or not.
        change: what happens, as a clause.
        total: how many there are then.
        result: the sentence that says so.
    """

    combination: tuple[Any, ...]
    name: str
    thing: str
    change: str
    total: int

    @property
    def result(self) -> str:
        return f"{PEOPLE[self.name].title()} has {count_phrase(self.total, self.thing)} now."


def sums(rng: random.Random) -> Sum:
    """A sum of numbers up to six, or a difference."""
    name, thing = rng.choice(list(PEOPLE)), rng.choice(THINGS)
    first, second = rng.randint(1, 6), rng.randint(1, 6)
    more = rng.random() < 0.5
    if not more:
        first = max(first, second)
    return Sum(
        ("sum", first, second, more, thing),
        name,
        thing,
        f"{name} has {count_phrase(first, thing)} and "
        f"{'then gets' if more else 'then gives away'} {NUMBERS[second]}",
        first + second if more else first - second,
    )


@dataclass(frozen=True)
class FixedFacts:
    """Facts of one kind that are always true.

    Attributes:
        kind: the rule.
        phrases: ways to ask, with {x} for what is asked about.
        reply: the sentence that says a fact, with {y} for what is right.
        facts: y of each x.
        options: words that y is one of.
    """

    kind: str
    phrases: tuple[str, ...]
    reply: str
    facts: Mapping[str, str]
    options: Iterable[str]

    def sentence(self, asked: str) -> str:
        """The fact about `asked`."""
        return with_articles(self.reply.format(x=asked, y=self.facts[asked]))


_more = dict(itertools.pairwise(NUMBERS))
_sounds = {animal: sound for animal, (sound, _) in ANIMALS.items()}
_homes = {animal: home for animal, (_, home) in ANIMALS.items()}
FIXED_FACTS = (
    FixedFacts(
        "opposite",
        (
            "What is the opposite of {x}?",
            "Tell me the opposite of {x}.",
            "What is not {x}?",
            "If it is not {x}, what is it?",
            "Do you know the opposite of {x}?",
            "The word is {x}. What is its opposite?",
        ),
        "The opposite of {x} is {y}.",
        OPPOSITE_OF,
        OPPOSITE_OF,
    ),
    FixedFacts(
        "day after",
        (
            "What day comes after {x}?",
            "Which day follows {x}?",
            "Today is {x}. What day is tomorrow?",
            "Yesterday was {x}. What day is today?",
            "Tell me the day after {x}.",
            "Do you know the day after {x}?",
        ),
        "The day after {x} is {y}.",
        NEXT_DAY,
        DAYS,
    ),
    FixedFacts(
        "day before",
        (
            "What day comes before {x}?",
            "Which day is before {x}?",
            "Today is {x}. What day was yesterday?",
            "Tomorrow is {x}. What day is today?",
            "Tell me the day before {x}.",
            "Do you know the day before {x}?",
        ),
        "The day before {x} is {y}.",
        {day: before for before, day in NEXT_DAY.items()},
        DAYS,
    ),
    FixedFacts(
        "number after",
        (
            "What number comes after {x}?",
            "Which number follows {x}?",
            "Count on from {x}.",
            "Tell me the number after {x}.",
            "Do you know the number after {x}?",
        ),
        "The number after {x} is {y}.",
        _more,
        NUMBERS,
    ),
    FixedFacts(
        "sound",
        (
            "What does a {x} say?",
            "What sound does a {x} make?",
            "Tell me the sound of a {x}.",
            "How does a {x} sound?",
            "Do you know the sound of a {x}?",
        ),
        "The sound of a {x} is {y}.",
        _sounds,
        SOUNDS,
    ),
    FixedFacts(
        "home",
        (
            "Where does a {x} live?",
            "What is the home of a {x}?",
            "Where do you find a {x}?",
            "Tell me where a {x} lives.",
            "Do you know the home of a {x}?",
        ),
        "The home of a {x} is a {y}.",
        _homes,
        HOMES,
    ),
)
