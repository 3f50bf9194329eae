"""docs/scaling.md says what the model behind `kgpt plan` computes."""

import pytest

from benchmarks.scaling import BEGIN, END, MODELS, PAGE, best_plan, tables
from kgpt.config import Config
from kgpt.lab.accelerators import find_accelerator
from kgpt.lab.plan import make_plan


def test_the_page_has_the_tables_of_the_script():
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == tables().strip()


def test_efficiency_never_exceeds_that_of_the_computation():
    device = find_accelerator("h100", "bfloat16")
    found = best_plan(MODELS["GPT-2, 124M"], device, 64)
    assert found.plan.mesh.num_devices == 64 and found.plan.mfu < device.efficiency


def test_the_plan_agrees_with_what_was_measured_on_an_h200():
    """GPT-2 124M at batch 32 on JAX, in docs/performance.md: 19.3 GiB and 66.8 ms a step."""
    overrides = {"model.vocab_size": 50304, "train.batch_size": 32, "train.grad_accumulation": 1}
    best = make_plan(Config.load("gpt2", overrides), find_accelerator("h200", "bfloat16")).best
    assert best.memory.peak / 2**30 == pytest.approx(19.3, rel=0.15)
    assert 1e3 * best.step_s == pytest.approx(66.8, rel=0.25)
