"""Questions about the small world, with their answers and a judge of replies."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kgpt.data.tinyworld.world import (
    ANIMALS,
    COLOURS,
    DAYS,
    FEELINGS,
    HOMES,
    NEXT_DAY,
    NUMBERS,
    OPPOSITE_OF,
    PEOPLE,
    PLACES,
    SOUNDS,
    THINGS,
    count_phrase,
    is_held_out,
    plural,
    with_articles,
)  # fmt: skip

FACT_COUNTS = (1, 1, 2)  # facts in a question's context; two must be kept apart


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
        words = re.findall(r"[a-z]+", reply.lower())
        said = f" {self.key.lower()} " in f" {' '.join(words)} "
        return said and not {rival.lower() for rival in self.rivals} & set(words)


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


def visits_of(rng: random.Random) -> tuple[list[tuple[str, str]], str]:
    """People with a place each, and the sentences that say so."""
    count = rng.choice(FACT_COUNTS)
    people, places = rng.sample(list(PEOPLE), count), rng.sample(PLACES, count)
    facts = list(zip(people, places, strict=True))
    return facts, " ".join(f"Look, {name} went to the {place}." for name, place in facts)


def _echo(rng: random.Random) -> Question:
    words = [*COLOURS, *THINGS, *PLACES, *ANIMALS, *(name.lower() for name in PEOPLE)]
    said = " ".join(rng.sample(words, rng.randint(4, 12)))
    return Question(
        "echo", f"Say after me: {said}.", f"You said: {said}.", said, frozenset(), ("echo", said)
    )


def _sum(rng: random.Random) -> Question:
    name, thing = rng.choice(list(PEOPLE)), rng.choice(THINGS)
    first, second = rng.randint(1, 6), rng.randint(1, 6)
    more = rng.random() < 0.5
    if not more:
        first = max(first, second)
    total = first + second if more else first - second
    change = "then gets" if more else "then gives away"
    number = NUMBERS[total]
    return Question(
        "sum",
        f"Look, {name} has {count_phrase(first, thing)} and {change} {NUMBERS[second]}. "
        f"How many {plural(thing)} does {name} have now?",
        f"{PEOPLE[name].title()} has {count_phrase(total, thing)} now.",
        number,
        frozenset(NUMBERS) - {number},
        ("sum", first, second, more, thing),
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


def _about(
    kind: str,
    phrases: Sequence[str],
    reply: str,
    facts: Mapping[str, str],
    options: Iterable[str],
) -> Callable[[random.Random], Question]:
    """A kind of question about fixed facts, asked in several ways.

    Phrases have {x} for what is asked about, the reply {y} for what is right. What is held out is
    a fact in one phrasing; it is taught in the others.
    """

    def make(rng: random.Random) -> Question:
        number = rng.randrange(len(phrases))
        asked, right = rng.choice(list(facts.items()))
        return Question(
            kind,
            with_articles(phrases[number].format(x=asked)),
            with_articles(reply.format(x=asked, y=right)),
            right,
            frozenset(options) - {asked, right},
            (kind, number, asked),
        )

    return make


_more = dict(itertools.pairwise(NUMBERS))
_sounds = {animal: sound for animal, (sound, _) in ANIMALS.items()}
_homes = {animal: home for animal, (_, home) in ANIMALS.items()}
KINDS: tuple[Callable[[random.Random], Question], ...] = (
    *(_colour, _owner, _place, _echo) * 2,  # what must be read off the question needs practice
    _sum,
    _feeling,
    _about(
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
    _about(
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
    _about(
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
    _about(
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
    _about(
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
    _about(
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
