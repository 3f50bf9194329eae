"""The loss that training and evaluation report."""

import math

import pytest
from keras import ops

from kgpt.model.loss_metric import TokenLoss

pytestmark = pytest.mark.backend


def after(metric, *batches, training):
    for mean, tokens in batches:
        metric.update_state(ops.convert_to_tensor(mean), ops.convert_to_tensor(tokens), training)
    return float(metric.result())


def test_training_reports_the_last_batch_and_evaluation_all_tokens():
    assert after(TokenLoss(), (3.0, 10), (1.0, 5), training=True) == 1.0
    assert after(TokenLoss(), (3.0, 10), (1.5, 5), training=False) == pytest.approx(2.5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_training_loss_that_is_no_number_stays_until_the_reset(bad):
    """So it is found at the next row of metrics, whatever came after it."""
    metric = TokenLoss()
    loss = after(metric, (3.0, 10), (bad, 10), (1.0, 5), training=True)
    assert str(loss) == str(bad)
    metric.reset_state()
    assert after(metric, (2.0, 5), training=True) == 2.0
