"""Reward functions: where they come from, what they are given, and how their failures read."""

import importlib.metadata

import numpy as np
import pytest

from kgpt.data.tinyworld import prompts, questions, reward
from kgpt.errors import TrainingFailed, UsageError
from kgpt.training.rewards import Reward, load_reward, load_rewards, total_rewards

SOURCE = """
def length(prompts, completions, **columns):
    return [float(len(text)) for text in completions]

def right(prompts, completions, answer):
    return [float(a in text) for text, a in zip(completions, answer)]

class Fussy:
    def __call__(self, prompts, completions):
        return [None for _ in prompts]

fussy = Fussy()
number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_a_function_of_a_file(file):
    rewards = load_rewards([f"{file}:length", f"{file}:right", f"{file}:fussy"], [1, 0.5, 2])
    assert [r.name for r in rewards] == ["length", "right", "fussy"]
    columns = {"answer": ["b", "x"], "level": [1, 2]}
    values = np.stack([r(["p", "q"], ["ab", "cde"], columns) for r in rewards], axis=1)
    np.testing.assert_array_equal(values, [[2, 1, np.nan], [3, 0, np.nan]])
    np.testing.assert_array_equal(total_rewards(rewards, values), [2.5, 3])


def test_an_installed_entry_point(monkeypatch):
    entry = importlib.metadata.EntryPoint("shortest", "builtins:len", "kgpt.rewards")
    entries = importlib.metadata.EntryPoints([entry])
    monkeypatch.setattr("kgpt.training.rewards.entry_points", lambda **by: entries.select(**by))
    assert load_reward("shortest") is len


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tinyword", "did you mean tinyworld?"),
        ("{file}:lenght", "did you mean length?"),
        ("{file}:number", "has no function number"),
        ("nowhere.py:f", "There is no file nowhere.py"),
        ("{folder}/broken.py:f", "SyntaxError"),
        ("{folder}/notes.txt:f", "is not a Python file"),
    ],
)
def test_what_cannot_be_loaded_is_said(file, name, says):
    (file.parent / "broken.py").write_text("def f(:")
    (file.parent / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=says.replace("?", "\\?")):
        load_reward(name.format(file=file, folder=file.parent))


def test_no_reward_is_a_sentence():
    with pytest.raises(UsageError, match="give --reward file.py:function.*tinyworld"):
        load_rewards([])


def test_a_failure_names_the_function_and_the_prompt():
    def picky(prompts, completions, **columns):
        if "two" in prompts:
            raise KeyError("no such word")
        return [1.0] * len(prompts)

    with pytest.raises(TrainingFailed, match="picky failed for the prompt 'two': KeyError"):
        Reward("picky", picky)(["one", "two", "three"], ["a", "b", "c"], {})


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ([1.0], "must return a list of 2 numbers or None.*not list of 1"),
        (3.0, "must return a list of 2 numbers or None.*not float"),
        (["good", "bad"], "must return a list of 2 numbers"),
        ([1.0, float("inf")], "returned inf for the prompt 'q'"),
    ],
)
def test_what_is_no_reward_is_refused(returned, says):
    with pytest.raises(TrainingFailed, match=says):
        Reward("mine", lambda prompts, completions: returned)(["p", "q"], ["a", "b"], {})


def test_a_completion_needs_one_reward():
    rewards = [Reward("a", len), Reward("b", len)]
    with pytest.raises(TrainingFailed, match="a and b is None for a completion"):
        total_rewards(rewards, np.array([[1.0, np.nan], [np.nan, np.nan]]))


def test_the_judge_of_the_small_world_agrees_with_its_questions():
    rows, asked = list(prompts(60, seed=3)), {}
    for question in questions(3):
        asked.setdefault(question.text, question)
        if len(asked) == len(rows):
            break
    assert [row["prompt"][0]["content"] for row in rows] == list(asked)
    columns = {name: [row[name] for row in rows] for name in ("key", "rivals")}
    judge = Reward("tinyworld", reward)
    answers = [[{"role": "assistant", "content": q.answer}] for q in asked.values()]
    assert judge([], [], {"key": [], "rivals": []}).shape == (0,)
    assert judge(rows, answers, columns).all()
    others = answers[1:] + answers[:1]
    ours = judge(rows, others, columns)
    expected = [q.is_right(a[0]["content"]) for q, a in zip(asked.values(), others, strict=True)]
    np.testing.assert_array_equal(ours, expected)
    assert not ours.all()
