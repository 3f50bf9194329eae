"""The embedded corpus: repeatable, right, and never telling what is held out."""

import itertools
import json
import re

import pytest

from kgpt.data import tinyworld
from kgpt.data.tinyworld import conversations, is_held_out, questions, stories, tales, world
from kgpt.data.tinyworld.facts import FIXED_FACTS

COUNT = 3000


def first(source, count=COUNT):
    return list(itertools.islice(source, count))


def facts_in(text):
    """What a text says of possessions, places and feelings, read independently of the grammar."""
    owned = re.findall(r"(\w+) has a (red|blue|green|yellow|black|white|pink|brown) (\w+)\.", text)
    went = re.findall(r"(\w+) went to the (\w+)\.", text)
    return [("owns", *fact) for fact in owned] + [("at", *fact) for fact in went]


def test_the_same_seed_writes_the_same_and_another_does_not(tmp_path):
    once = tinyworld.write(tmp_path / "a", 200, 50, seed=3).read_bytes()
    assert tinyworld.write(tmp_path / "b", 200, 50, seed=3).read_bytes() == once
    assert tinyworld.write(tmp_path / "c", 200, 50, seed=4).read_bytes() != once


def test_the_corpus_holds_stories_and_conversations(tmp_path):
    lines = tinyworld.write(tmp_path, 200, 50).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert sum("messages" in row for row in rows) == 200
    assert sum("text" in row for row in rows) == 50
    for row in rows:
        roles = [message["role"] for message in row.get("messages", ())]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_no_story_says_what_is_held_out():
    said = [fact for story in first(stories(1)) for fact in facts_in(story)]
    assert len(said) > COUNT
    assert not any(is_held_out(*fact) for fact in said)


def test_no_tale_says_what_is_held_out_and_none_asks():
    told = first(tales(1))
    said = [fact for tale in told for fact in facts_in(tale)]
    assert len(said) > COUNT
    assert not any(is_held_out(*fact) for fact in said)
    assert not any("?" in tale for tale in told)


def test_tales_tell_every_fixed_fact():
    told = " ".join(first(tales(1)))
    for fixed in FIXED_FACTS:
        assert all(fixed.sentence(asked) in told for asked in fixed.facts)


def test_no_conversation_says_what_is_held_out():
    for talk in first(conversations(1)):
        for fact in facts_in(" ".join(message["content"] for message in talk)):
            assert not is_held_out(*fact)


def test_held_out_questions_are_never_asked_in_training():
    trained = {message["content"] for talk in first(conversations(1)) for message in talk}
    asked = first(questions(2, held_out=True), 500)
    assert all(is_held_out(*question.combination) for question in asked)
    assert not {question.text for question in asked} & trained
    assert not any(is_held_out(*q.combination) for q in first(questions(2)))


def test_about_one_combination_in_ten_is_held_out():
    combinations = list(itertools.product(world.PEOPLE, world.COLOURS, world.THINGS))
    share = sum(is_held_out("owns", *c) for c in combinations) / len(combinations)
    assert 0.07 < share < 0.13


@pytest.mark.parametrize("held_out", [True, False])
def test_every_kind_is_asked_and_its_answer_judged_right(held_out):
    asked = first(questions(5, held_out), 2000)
    assert len({question.kind for question in asked}) == 12
    for question in asked:
        assert question.is_right(question.answer)
        assert question.is_right(question.answer.upper())
        assert not question.is_right("")


def test_every_rival_makes_a_reply_wrong():
    for question in first(questions(6), 500):
        for rival in question.rivals:
            assert not question.is_right(f"It is {rival}.")
            assert not question.is_right(f"{question.answer} Or {rival}.")


def test_key_words_are_whole_words():
    question = next(q for q in questions(1) if q.key == "owl" or q.key == "red" or q.kind == "sum")
    assert not question.is_right(question.answer.replace(question.key, f"{question.key}ish"))


def test_sums_and_days_are_right():
    """The grammar's arithmetic, done again here."""
    number = {name: i for i, name in enumerate(world.NUMBERS)}
    for question in first(questions(8)):
        if question.kind == "sum":
            pattern = r"has (\w+) \w+ and then (gets|gives away) (\w+)\."
            one, change, two = re.search(pattern, question.text).groups()
            sign = 1 if change == "gets" else -1
            assert number[question.key] == number[one] + sign * number[two]
        if question.kind == "day after":
            asked = next(day for day in world.DAYS if day in question.text)
            index = world.DAYS.index(asked)
            assert question.key == world.DAYS[(index + 1) % 7]


def test_an_echo_must_be_said_word_for_word():
    question = next(q for q in questions(9) if q.kind == "echo")
    words = question.key.split()
    assert not question.is_right(f"You said: {' '.join(reversed(words))}.")
    assert not question.is_right(f"You said: {' '.join(words[:-1])}.")
