"""A small world, its stories, its questions, and a judge of answers: the embedded corpus.

A seeded grammar writes any amount of simple stories and conversations about people, animals,
places, things, colours, counting, opposites, days and feelings. One *combination* in ten (Anna with
a blue kite; "what follows" with Monday) is held out: it occurs nowhere in the training text. A
model that answers questions about held-out combinations has learned the rule, not the sentence.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_SHARE = 0.1
FACTS = (1, 1, 2)  # told at once: with two, what belongs to whom has to be kept apart
FOLLOWED = 0.15  # the share of conversations that ask more than once about the same facts

PEOPLE = {
    "Anna": "she", "Ben": "he", "Carla": "she", "David": "he", "Ella": "she", "Finn": "he",
    "Grace": "she", "Hugo": "he", "Iris": "she", "Jack": "he", "Kate": "she", "Leo": "he",
}  # fmt: skip
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "pink", "brown")
THINGS = ("ball", "kite", "book", "hat", "cup", "box", "bike", "lamp", "drum", "boat")
PLACES = (
    "park", "school", "market", "beach", "forest", "farm", "library", "garden", "kitchen", "river",
)  # fmt: skip
ANIMALS = {  # its sound and its home
    "cow": ("moo", "farm"), "dog": ("woof", "house"), "cat": ("meow", "house"),
    "duck": ("quack", "pond"), "frog": ("croak", "pond"), "horse": ("neigh", "stable"),
    "bee": ("buzz", "hive"), "owl": ("hoot", "forest"), "sheep": ("baa", "farm"),
    "pig": ("oink", "farm"), "wolf": ("howl", "forest"), "mouse": ("squeak", "hole"),
}  # fmt: skip
SOUNDS = tuple(sound for sound, _ in ANIMALS.values())
HOMES = tuple(dict.fromkeys(home for _, home in ANIMALS.values()))
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "open": "closed", "up": "down", "wet": "dry",
    "old": "new", "light": "dark", "loud": "quiet", "full": "empty", "long": "short",
    "soft": "hard", "clean": "dirty", "early": "late",
}  # fmt: skip
OPPOSITE_OF = OPPOSITES | {right: left for left, right in OPPOSITES.items()}
FEELINGS = {  # what happened to somebody, and how that feels
    "lost the {thing}": "sad",
    "broke the {thing}": "sorry",
    "found the {thing}": "happy",
    "won a {thing}": "proud",
    "carried the {thing} all day": "tired",
    "had no dinner": "hungry",
    "heard a noise in the night": "afraid",
    "waited for the {thing} a long time": "bored",
}

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
    combination: tuple

    def is_right(self, reply: str) -> bool:
        """Does `reply` say the key words, and none of their rivals?

        >>> question = next(questions(seed=1))
        >>> question.is_right(question.answer), question.is_right("I do not know.")
        (True, False)
        """
        words = re.findall(r"[a-z]+", reply.lower())
        said = f" {self.key.lower()} " in f" {' '.join(words)} "
        return said and not {rival.lower() for rival in self.rivals} & set(words)


def is_held_out(*combination: object) -> bool:
    """True for one combination in ten, chosen by a hash: never in the training text."""
    digest = hashlib.blake2b(repr(combination).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") < HELD_OUT_SHARE * 2**32


# -- questions ---------------------------------------------------------------------------------


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


def _mentioned(question: Question) -> Iterator[tuple]:
    """Facts in a question's text, besides the one it asks about."""
    found = re.findall(r"(\w+) has a (\w+) (\w+)\.", question.text)
    facts = [("owns", *fact) for fact in found]
    facts += [("at", *fact) for fact in re.findall(r"(\w+) went to the (\w+)\.", question.text)]
    return (fact for fact in facts if fact != question.combination)


def _owners(rng: random.Random) -> tuple[list[tuple[str, str, str]], str]:
    """People with a thing each, and the sentences that say so."""
    count = rng.choice(FACTS)
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
    facts, context = _owners(rng)
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
    facts, context = _owners(rng)
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
    facts, context = _visits(rng)
    name, place = rng.choice(facts)
    return Question(
        "place",
        f"{context} Where is {name}?",
        f"{name} went to the {place}.",
        place,
        frozenset(PLACES) - {place},
        ("at", name, place),
    )


def _visits(rng: random.Random) -> tuple[list[tuple[str, str]], str]:
    """People with a place each, and the sentences that say so."""
    count = rng.choice(FACTS)
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
        f"Look, {name} has {_count(first, thing)} and {change} {NUMBERS[second]}. "
        f"How many {plural(thing)} does {name} have now?",
        f"{PEOPLE[name].title()} has {_count(total, thing)} now.",
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


def _about(kind: str, phrases, reply, facts: dict, options) -> Callable[[random.Random], Question]:
    """A kind of question about fixed facts, asked in several ways.

    Phrases have {x} for what is asked about, the reply {y} for what is right. What is held out is
    a fact in one phrasing; it is taught in the others.
    """

    def make(rng: random.Random) -> Question:
        number = rng.randrange(len(phrases))
        asked, right = rng.choice(list(facts.items()))
        return Question(
            kind,
            _with_articles(phrases[number].format(x=asked)),
            _with_articles(reply.format(x=asked, y=right)),
            right,
            frozenset(options) - {asked, right},
            (kind, number, asked),
        )

    return make


_tomorrow = dict(zip(DAYS, DAYS[1:] + DAYS[:1], strict=True))
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
        _tomorrow,
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
        {day: before for before, day in _tomorrow.items()},
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


# -- stories and conversations -----------------------------------------------------------------


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
        _with_articles(f"There {pronoun} saw a {animal}, who says {sound} and lives in a {home}."),
        f"First it was {word}. Then it was {other}.",
        f"The next day was {_tomorrow[day]}.",
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
        if rng.random() < FOLLOWED:
            turns += _followed(rng)
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


def _followed(rng: random.Random) -> list[tuple[str, str]]:
    """Up to four questions about the same facts, which only the first one tells.

    Who is asked again and again must keep apart what belongs to whom: a model learns it from such
    conversations in a fraction of the time that single questions take.
    """
    if rng.random() < 2 / 3:
        facts, context = _owners(rng)
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
        visits, context = _visits(rng)
        known = [("at", *visit) for visit in visits]
        turns = [(f"Where is {name}?", f"{name} went to the {place}.") for name, place in visits]
    if any(is_held_out(*fact) for fact in known):
        return _followed(rng)
    (question, answer), *rest = rng.sample(turns, rng.randint(1, min(4, len(turns))))
    return [(f"{context} {question}", answer), *rest]


def write(folder: Path, conversation_count: int = 40_000, story_count: int = 6_000, seed=0) -> Path:
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


def plural(thing: str) -> str:
    return f"{thing}es" if thing.endswith("x") else f"{thing}s"


def _count(number: int, thing: str) -> str:
    return f"{NUMBERS[number]} {thing if number == 1 else plural(thing)}"


def _with_articles(words: str) -> str:
    """ "a owl" is "an owl"."""
    return re.sub(r"\ba (?=[aeiou])", "an ", words)
