"""Stories and conversations of the small world, and the corpus file they are written to."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from kgpt.data.tinyworld.facts import owners, visits_of
from kgpt.data.tinyworld.questions import questions
from kgpt.data.tinyworld.world import (
    ANIMALS,
    COLOURS,
    DAYS,
    FEELINGS,
    NEXT_DAY,
    OPPOSITE_OF,
    PEOPLE,
    PLACES,
    THINGS,
    is_held_out,
    with_articles,
)  # fmt: skip

FOLLOW_UP_SHARE = 0.15  # of conversations that ask several questions about the same facts

OPENINGS = (
    ("Hello!", "Hello! Ask me about my small world."),
    ("Hi!", "Hi! Ask me about my small world."),
    ("Good morning!", "Good morning! Ask me about my small world."),
    ("Who are you?", "I am a small model. I know a small world."),
    ("What do you know?", "I know people, animals, places, things, colours, numbers and days."),
    ("How are you?", "I am fine, thank you."),
)
CLOSINGS = (
    ("Thank you!", "You are welcome."),
    ("Thanks!", "You are welcome."),
    ("Goodbye!", "Goodbye! Come back soon."),
)


def stories(seed: int) -> Iterator[str]:
    """Endless stories of a few sentences; no held-out combination occurs in them."""
    rng = random.Random(f"stories {seed}")
    while True:
        yield _story(rng)


def _story(rng: random.Random) -> str:
    name, place = _allowed(rng, "at", tuple(PEOPLE), PLACES)
    _, colour, thing = _allowed(rng, "owns", (name,), COLOURS, THINGS)
    animal, (sound, home) = rng.choice(list(ANIMALS.items()))
    day, pronoun = rng.choice(DAYS), PEOPLE[name]
    word, other = rng.choice(list(OPPOSITE_OF.items()))
    sentences = [
        f"It was {day}. {name} went to the {place}.",
        f"{name} has a {colour} {thing}.",
        with_articles(f"There {pronoun} saw a {animal}, who says {sound} and lives in a {home}."),
        f"First it was {word}. Then it was {other}.",
        f"The next day was {NEXT_DAY[day]}.",
    ]
    events = [event for event in FEELINGS if not is_held_out("feels", name, event, thing)]
    event = rng.choice(events or ["had no dinner"])
    sentences.append(f"{name} {event.format(thing=thing)}. {name} was {FEELINGS[event]}.")
    first, *rest = sentences
    rng.shuffle(rest)
    return " ".join([first, *rest[: rng.randint(2, len(rest))]])


def _allowed(rng: random.Random, relation: str, *choices: tuple[str, ...]) -> tuple[str, ...]:
    """One of each of `choices`, together not held out."""
    while True:
        picked = tuple(rng.choice(options) for options in choices)
        if not is_held_out(relation, *picked):
            return picked


def conversations(seed: int) -> Iterator[list[dict[str, str]]]:
    """Endless conversations: questions, some with others after them, small talk around them."""
    rng = random.Random(f"conversations {seed}")
    source = questions(seed)
    while True:
        turns = [rng.choice(OPENINGS)] if rng.random() < 0.15 else []
        if rng.random() < FOLLOW_UP_SHARE:
            turns += _follow_ups(rng)
        else:
            asked = (next(source) for _ in range(rng.randint(1, 3)))
            turns += [(question.text, question.answer) for question in asked]
        if rng.random() < 0.1:
            turns.append(rng.choice(CLOSINGS))
        yield [
            {"role": role, "content": content}
            for turn in turns
            for role, content in zip(("user", "assistant"), turn, strict=True)
        ]


def _follow_ups(rng: random.Random) -> list[tuple[str, str]]:
    """Up to four questions about the same facts, which only the first one tells.

    Who is asked again and again must keep apart what belongs to whom: a model learns it from such
    conversations in a fraction of the time that single questions take.
    """
    if rng.random() < 2 / 3:
        facts, context = owners(rng)
        known: list[tuple[str, ...]] = [("owns", *fact) for fact in facts]
        turns = [
            turn
            for name, colour, thing in facts
            for turn in (
                (f"What colour is {name}'s {thing}?", f"{name} has a {colour} {thing}."),
                (f"Who has the {thing}?", f"The {thing} belongs to {name}."),
            )
        ]
    else:
        visits, context = visits_of(rng)
        known = [("at", *visit) for visit in visits]
        turns = [(f"Where is {name}?", f"{name} went to the {place}.") for name, place in visits]
    if any(is_held_out(*fact) for fact in known):
        return _follow_ups(rng)
    (question, answer), *rest = rng.sample(turns, rng.randint(1, min(4, len(turns))))
    return [(f"{context} {question}", answer), *rest]


def write(
    folder: Path, conversation_count: int = 40_000, story_count: int = 6_000, seed: int = 0
) -> Path:
    """Write the corpus as `folder`/tinyworld.jsonl, stories among conversations."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tinyworld.jsonl"
    talk, tales = conversations(seed), stories(seed)
    every = max(1, conversation_count // max(1, story_count))
    with file.open("w", encoding="utf-8") as out:
        for number in range(conversation_count):
            out.write(json.dumps({"messages": next(talk)}) + "\n")
            if story_count and number % every == 0:
                out.write(json.dumps({"text": next(tales)}) + "\n")
    return file
