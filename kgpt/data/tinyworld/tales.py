"""Longer stories that tell every fact of the small world, for a base model to be fine-tuned.

A tale states facts and comes back to them, so that a model which continues tales well has learned
the world: who owns what, what follows what, what repeats. No tale asks or answers a question.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from kgpt.data.tinyworld.facts import FIXED_FACTS, echoed_words, owners, sums, visits_of
from kgpt.data.tinyworld.world import FEELINGS, PEOPLE, THINGS, is_held_out

Scene = list[str]  # sentences that belong together, in order
Told = tuple[list[tuple[Any, ...]], Scene]  # a scene after the combinations that it tells


def tales(seed: int) -> Iterator[str]:
    """Endless tales of several scenes; no held-out combination occurs in them."""
    rng = random.Random(f"tales {seed}")
    while True:
        scenes = [_allowed_scene(rng) for _ in range(rng.randint(2, 4))]
        yield " ".join(sentence for scene in scenes for sentence in scene)


def _allowed_scene(rng: random.Random) -> Scene:
    while True:
        combinations, scene = rng.choice(SCENES)(rng)
        if not any(is_held_out(*combination) for combination in combinations):
            return scene


def _possessions(rng: random.Random) -> Told:
    facts, context = owners(rng)
    recalled = [
        sentence
        for name, colour, thing in facts
        for sentence in (f"{name} has a {colour} {thing}.", f"The {thing} belongs to {name}.")
    ]
    rng.shuffle(recalled)
    return [("owns", *fact) for fact in facts], [context, *recalled[: rng.randint(1, 4)]]


def _visits(rng: random.Random) -> Told:
    facts, context = visits_of(rng)
    recalled = [f"{name} went to the {place}." for name, place in rng.sample(facts, len(facts))]
    return [("at", *fact) for fact in facts], [context, *recalled]


def _echo(rng: random.Random) -> Told:
    said = echoed_words(rng)
    first, second = rng.sample(list(PEOPLE), 2)
    return [("echo", said)], [f"{first} said: {said}.", f"{second} said: {said}."]


def _sum(rng: random.Random) -> Told:
    sum_ = sums(rng)
    return [sum_.combination], [f"Look, {sum_.change}.", sum_.result]


def _feeling(rng: random.Random) -> Told:
    name, thing = rng.choice(list(PEOPLE)), rng.choice(THINGS)
    event, feeling = rng.choice(list(FEELINGS.items()))
    combination = ("feels", name, event, thing if "{" in event else "")
    sentences = [f"Look, {name} {event.format(thing=thing)}."]
    return [combination], [*sentences, f"{PEOPLE[name].title()} feels {feeling}."]


def _fact(rng: random.Random) -> Told:
    fixed = rng.choice(FIXED_FACTS)
    return [], [fixed.sentence(rng.choice(list(fixed.facts)))]


SCENES: tuple[Callable[[random.Random], Told], ...] = (
    *(_possessions, _visits, _echo) * 2,
    _sum,
    _feeling,
    *(_fact,) * 3,
)
