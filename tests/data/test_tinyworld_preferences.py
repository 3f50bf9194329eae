"""Pairs of answers about the small world: one right, one wrong, each question once."""

from kgpt.cli.tinyworld import make_preferences
from kgpt.data.preferences import read_preferences
from kgpt.data.tinyworld import preferences, questions


def test_the_chosen_answer_is_right_and_the_rejected_wrong():
    rows = list(preferences(300))
    assert len({row["prompt"] for row in rows}) == 300
    judges, source = {}, questions(2)
    while len(judges.keys() & {row["prompt"] for row in rows}) < 300:
        question = next(source)
        judges[question.text] = question
    for row in rows:
        judge = judges[row["prompt"]]
        assert judge.is_right(row["chosen"]) and not judge.is_right(row["rejected"])


def test_the_file_is_read_as_pairs(tmp_path):
    make_preferences(tmp_path / "pairs", quiet=True, count=20)
    assert len(list(read_preferences([str(tmp_path / "pairs.jsonl")]))) == 20


def test_held_out_pairs_are_about_what_the_others_never_say():
    pairs, held_out = list(preferences(300)), list(preferences(100, held_out=True))
    said = {text for row in pairs for text in row.values()}
    assert len(held_out) == 100
    assert not said & {row["prompt"] for row in held_out}
