"""`benchmarks/finetune.py`: its commands are kgpt's, and its goals are judged rightly."""

import json
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.finetune_run.measure import asked_in_training
from benchmarks.finetune_run.rows import ROWS, chosen_rows
from benchmarks.finetune_run.table import markdown, missed_goals
from kgpt.cli import app
from kgpt.cli.demo import held_out_questions
from kgpt.config import Config, parse_overrides

BASE = {"seconds": 1.0, "trained": 1000, "parameters": 1000, "right": 2.0, "perplexity": 3.0}
REACHED = {
    "base": BASE,
    "lora": BASE | {"trained": 20, "right": 80.0, "perplexity": 3.4},
    "qlora": BASE | {"trained": 20, "right": 77.0},
    "full": BASE | {"right": 90.0},
    "half": BASE | {"right": 40.0, "chosen": 60.0},
    "dpo": BASE | {"chosen": 81.0},
    "grpo": BASE | {"right": 55.0},
}


def rows(*names):
    return [row for row in ROWS if row.name in names]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_a_command_that_kgpt_accepts(row):
    _, bound, unknown, _ = app.parse_known_args(row.words)
    assert not unknown
    assert bound.arguments["run"] == row.name
    assert bound.arguments.get("model") == row.base
    Config.load(bound.arguments["config"], parse_overrides([*bound.arguments.get("overrides", ())]))


def test_rows_come_after_what_they_start_from():
    assert [row.name for row in chosen_rows(["qlora"])] == ["base", "qlora"]
    assert [row.name for row in chosen_rows(["grpo", "full"])] == ["base", "full", "half", "grpo"]
    assert chosen_rows([]) == list(ROWS)
    with pytest.raises(SystemExit, match="no row loar"):
        chosen_rows(["loar"])


def test_goals_that_are_just_reached_are_not_missed():
    assert missed_goals(ROWS, REACHED) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("base", {"right": 10.5}),
        ("lora", {"right": 79.5}),
        ("lora", {"trained": 21}),
        ("lora", {"perplexity": 3.5}),
        ("qlora", {"right": 76.5}),
        ("full", {"right": 89.5}),
        ("dpo", {"chosen": 79.5}),
        ("grpo", {"right": 54.5}),
    ],
)
def test_a_goal_that_is_missed_is_reported_with_its_row(name, change):
    results = REACHED | {name: REACHED[name] | change}
    (missed,) = missed_goals(rows(name), results)
    assert missed.startswith(f"{name}: {next(iter(change))} (")


def test_the_table_has_figures_before_and_after():
    lines = markdown(ROWS, REACHED).splitlines()
    assert lines[2 + 1] == "| lora | 20 (2.0%) | 2.0% → 80.0% | 3.00 → 3.40 |  | 1 |"
    assert len(lines) == 2 + len(ROWS)
    assert len(markdown(ROWS, {"base": BASE}).splitlines()) == 2 + 1


def test_a_held_out_question_in_training_data_is_found(tmp_path):
    question = held_out_questions(1)[0].text
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "Hello!"}]}))
    assert asked_in_training(tmp_path) == []
    file.write_text(json.dumps({"messages": [{"role": "user", "content": question}]}))
    assert asked_in_training(tmp_path) == [question]


def test_the_guide_shows_the_commands_of_the_rows():
    text = (Path(__file__).parents[2] / "docs/guides/finetune.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```text\n(kgpt data get.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = [sorted(shlex.split(line)[1:]) for line in block.replace("\\\n", "").splitlines()]
    for row in rows("base", "lora", "full"):
        assert sorted(row.words) in shown
