"""Coherence: what a judge predicts of completions, after their prompts and without them."""

import math

import pytest

from kgpt.config import EvaluationConfig
from kgpt.evaluation.completions import coherence
from kgpt.evaluation.prompts import Prompt
from kgpt.text.tokenizer import Tokenizer


class Judge:
    """Gives a target as many bits as the last digit of its byte."""

    context = 8

    def losses(self, windows, progress=None):
        bits = [(window.targets % 10 * window.weights).sum() for window in windows]
        return [total * math.log(2) for total in bits]


def test_bits_of_the_completions_alone_per_byte_of_theirs():
    """Bytes of "bd" are 98 and 100, of "é" 195 and 169, of "c" 99: 8 + 0, 5 + 9 and 9 bits."""
    prompts = [Prompt("long prompts count for nothing"), Prompt("a"), Prompt("")]
    found = coherence(
        Judge(), Tokenizer.of_bytes(), prompts, ["bd", "é", "c"], EvaluationConfig(stride=4)
    )
    assert found.rows.tolist() == [
        [pytest.approx(8), 2], [pytest.approx(14), 2], [pytest.approx(9), 1],
    ]  # fmt: skip
    assert found.value == pytest.approx((8 + 14 + 9) / 5) and found.better == "lower"


def test_an_empty_completion_adds_nothing():
    found = coherence(
        Judge(), Tokenizer.of_bytes(), [Prompt("a"), Prompt("a")], ["", "c"], EvaluationConfig()
    )
    assert found.rows.tolist() == [[0, 0], [pytest.approx(9), 1]]
