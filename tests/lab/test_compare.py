"""Runs are compared on their configurations, and on curves over several axes."""

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from kgpt.config import Config
from kgpt.errors import UsageError
from kgpt.lab.compare import compare, smooth
from kgpt.lab.compare_figure import write_figure
from kgpt.lab.compare_page import page
from kgpt.lab.figures import save_png
from kgpt.lab.terminal_plot import BLANK, plot
from kgpt.runs import Run, RunStatus

ROWS = [
    {"step": 1, "time": 9.0, "loss": 5.0},
    {"step": 5, "time": 99.0, "loss": 4.0, "tokens_per_s": 100.0},
    {"step": 6, "time": 100.0, "val_loss": 3.5},
    {"step": 9, "time": 900.0, "loss": 2.0, "tokens_per_s": 50.0, "val_loss": 3.0},
]


@pytest.fixture
def runs(tmp_path):
    made = []
    for name, rate in (("one", 1e-3), ("<two>", 1e-4)):
        run = Run(tmp_path / name)
        changes = {"train.learning_rate": rate, "train.min_learning_rate": 0.0}
        run.write_config(
            Config.load("shakespeare-cpu", changes | {"model.vocab_size": 50}).to_yaml()
        )
        run.write_status(RunStatus(step=9, tokens_seen=90))
        for row in ROWS:
            run.append("metrics", row)
        made.append(run)
    return made


def test_options_that_differ_and_only_these_are_named(runs):
    comparison = compare(runs)
    assert comparison.differences == {"train.learning_rate": [1e-3, 1e-4]}
    assert [(one.run, one.step, one.loss, one.best_val_loss) for one in comparison.runs] == [
        ("one", 9, 2.0, 3.0), ("<two>", 9, 2.0, 3.0),
    ]  # fmt: skip


def test_each_axis_counts_what_it_says(runs):
    def x(axis):
        return compare(runs, axis=axis).curves[0].x

    per_token = Config.load(str(runs[0].path / "run.yaml")).model.flops_per_token()
    assert x("step") == [1, 5, 9] and x("tokens") == [10, 50, 90]
    assert x("flops") == [tokens * per_token for tokens in (10, 50, 90)]
    assert x("time") == [0, 40 / 100, 40 / 100 + 40 / 50]  # not the hours of a pause
    assert compare(runs, "val_loss").curves[0].x == [6, 9]


def test_smoothing_keeps_a_constant_and_averages_the_rest(runs):
    assert smooth([3.0] * 5, 0.9) == pytest.approx([3.0] * 5)
    curve = compare(runs, smoothing=0.5).curves[1]
    assert curve.raw == [5.0, 4.0, 2.0] and curve.y == pytest.approx([5, 13 / 3, 3])


def test_what_cannot_be_compared_is_refused(runs):
    for call, words in (
        (lambda: compare(runs, axis="epoch"), "one of step, tokens, time, flops"),
        (lambda: compare(runs, "los"), "No run has logged 'los'; they have: loss"),
        (lambda: compare(runs, smoothing=1.0), "below 1"),
    ):
        with pytest.raises(UsageError, match=words):
            call()


def test_the_page_names_every_run_and_loads_nothing(runs):
    html = page(compare(runs, smoothing=0.5))
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(html)
    names = {tag for tag, _ in tags}
    assert not names & {"script", "link", "img", "iframe", "two"}
    assert not re.search(r"(src|href)=|url\(|@import|https?:", html)
    lines = [attributes["d"] for tag, attributes in tags if tag == "path"]
    assert len(lines) == 4 and all(line.count("L") == 2 for line in lines)
    assert "&lt;two&gt;" in html and "train.learning_rate" in html


def test_the_figure_is_a_png_that_names_every_run(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # would look for a display
    monkeypatch.setattr("kgpt.lab.compare_figure.save_png", lambda axes, _: drawn.append(axes))
    comparison = compare(runs, smoothing=0.5)
    names = [replace(comparison.curves[0], run="_$a$"), comparison.curves[1]]
    write_figure(replace(comparison, curves=names), tmp_path / "unused")
    (axes,) = drawn
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [r" _\$a\$", "<two>"]
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == [names[0].raw, names[0].y]
    save_png(axes, tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_without_matplotlib_names_the_extra(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=re.escape("kgpt[plots]")):
        write_figure(compare(runs), tmp_path / "figure.png")


def test_a_falling_line_goes_from_the_upper_left_to_the_lower_right():
    lines = plot([([0, 10], [3.0, 1.0])], width=31, height=6).plain.split("\n")
    dots = [[ord(character) > BLANK for character in line[11:]] for line in lines[:5]]
    assert dots[0][0] and dots[4][-1] and not dots[4][0] and not dots[0][-1]
    assert all(any(column) for column in zip(*dots, strict=True))
    assert "3.0000" in lines[0] and "1.0000" in lines[4] and lines[5].split() == ["0", "10"]
    assert not plot([([], [])]).plain
