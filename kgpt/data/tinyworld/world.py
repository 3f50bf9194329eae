"""The vocabulary and facts of the small world, and which combinations are held out."""

from __future__ import annotations

import hashlib
import re

HELD_OUT_SHARE = 0.1

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
NEXT_DAY = dict(zip(DAYS, DAYS[1:] + DAYS[:1], strict=True))


def is_held_out(*combination: object) -> bool:
    """True for one combination in ten, chosen by a hash: never in the training text."""
    digest = hashlib.blake2b(repr(combination).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") < HELD_OUT_SHARE * 2**32


def plural(thing: str) -> str:
    return f"{thing}es" if thing.endswith("x") else f"{thing}s"


def count_phrase(number: int, thing: str) -> str:
    return f"{NUMBERS[number]} {thing if number == 1 else plural(thing)}"


def with_articles(words: str) -> str:
    """ "a owl" is "an owl"."""
    return re.sub(r"\ba (?=[aeiou])", "an ", words)
