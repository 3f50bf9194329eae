"""The learning rate that an update really uses is the formula's."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from kgpt import AdamW, LRSchedule, backend
from kgpt.training.callbacks.step_callback import StepCallback

pytestmark = pytest.mark.backend


def formula(step, kind, peak=0.5, floor=0.1, warm=3, end=8):
    """nanoGPT's rule."""
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    if kind == "constant":
        return peak
    if step > end:
        return floor
    done = (step - warm) / (end - warm)
    share = 0.5 * (1 + math.cos(math.pi * done)) if kind == "cosine" else 1 - done
    return floor + share * (peak - floor)


class Weights(StepCallback):
    """Notes the single weight after each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_step_end(self, step, logs):
        backend.sync_model_state(self.model)
        self.seen.append(float(self.model.trainable_variables[0].numpy()[0, 0]))


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("accumulation", [None, 3])
def test_the_rate_applied(kind, accumulation):
    """Where the gradient is 1, plain descent moves the weight by the rate itself."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    optimizer = keras.optimizers.SGD(99.0, gradient_accumulation_steps=accumulation)
    model.compile(optimizer=optimizer, loss=lambda y, prediction: ops.mean(prediction))
    weights = Weights()
    steps = 11
    x = np.ones((steps * (accumulation or 1), 1), "float32")
    before = float(model.trainable_variables[0].numpy()[0, 0])
    rate = LRSchedule(0.5, warmup_steps=3, decay_steps=8, min_lr=0.1, kind=kind)
    model.fit(x, x, batch_size=1, callbacks=[rate, weights], verbose=0)
    moved = -np.diff([before, *weights.seen])
    np.testing.assert_allclose(moved, [formula(s, kind) for s in range(steps)], rtol=1e-4)


def test_the_rate_applied_by_adamw_goes_on_in_a_second_fit():
    """Adam moves a weight whose gradient is always 1 by the rate; steps count across fits."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(
        optimizer=AdamW(99.0, weight_decay=0.0), loss=lambda y, prediction: ops.mean(prediction)
    )
    weights = Weights()
    before = float(model.trainable_variables[0].numpy()[0, 0])
    x = np.ones((5, 1), "float32")
    for _ in range(2):
        rate = LRSchedule(0.5, warmup_steps=3, decay_steps=8, min_lr=0.1)
        model.fit(x, x, batch_size=1, callbacks=[rate, weights], verbose=0)
    moved = -np.diff([before, *weights.seen])
    np.testing.assert_allclose(moved, [formula(s, "cosine") for s in range(10)], rtol=1e-3)


@given(
    peak=st.floats(1e-6, 1), share=st.floats(0, 1), warm=st.integers(0, 50),
    length=st.integers(1, 100), kind=st.sampled_from(["cosine", "linear"]),
)  # fmt: skip
def test_it_rises_to_the_peak_and_falls_to_the_minimum(peak, share, warm, length, kind):
    rate = LRSchedule(peak, warm, warm + length, peak * share, kind)
    rising = [rate.at(step) for step in range(warm + 1)]
    falling = [rate.at(step) for step in range(warm, warm + length + 3)]
    assert rising == sorted(rising) and falling == sorted(falling, reverse=True)
    assert rising[-1] == pytest.approx(peak)
    assert falling[-1] == falling[-3] == pytest.approx(peak * share)
