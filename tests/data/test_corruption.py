"""InputCorruption on inputs: as often as asked, repeatable, and nowhere else."""

import numpy as np
import pytest

from kgpt.data.corruption import InputCorruption

INPUTS = np.full((64, 256), 7, dtype=np.int32)


@pytest.mark.parametrize(("dropout", "replacement"), [(0.2, 0.0), (0.0, 0.3), (0.1, 0.5)])
def test_tokens_are_hidden_and_replaced_as_often_as_asked(dropout, replacement):
    noisy = InputCorruption(dropout, replacement, mask_id=1, vocab_size=1000)(
        INPUTS, seed=3, step=4
    )
    hidden, replaced = np.mean(noisy == 1), np.mean((noisy != 1) & (noisy != 7))
    assert hidden == pytest.approx(dropout, abs=0.015)
    assert replaced == pytest.approx(replacement, abs=0.015)
    assert noisy.dtype == np.int32 and noisy.min() >= 0 and noisy.max() < 1000


def test_noise_depends_on_seed_and_step_alone():
    noise = InputCorruption(0.3, 0.3, mask_id=0, vocab_size=50)
    assert np.array_equal(noise(INPUTS, 1, 2), noise(INPUTS, 1, 2))
    assert not np.array_equal(noise(INPUTS, 1, 2), noise(INPUTS, 1, 3))
    assert not np.array_equal(noise(INPUTS, 1, 2), noise(INPUTS, 2, 2))
    assert (INPUTS == 7).all()
