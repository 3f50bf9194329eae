"""How often a step waits for the device: only where a row of metrics is written."""

import pytest

from kgpt import backend
from kgpt.training.callbacks.run_control import RunControl
from tests.training.tiny_runs import Trained, make_config
from tests.transfers import count_transfers

pytestmark = pytest.mark.backend

# On TensorFlow Keras asks, for each of the two batches, whether there was one: on the host.
WAITS_IN_KERAS = 2 if backend.name == "tensorflow" else 0


def test_nothing_is_read_from_the_device_between_rows_of_metrics(data, monkeypatch):
    reads = {}
    on_step_end = RunControl.on_step_end  # of the last callback

    def counted(control, step, logs):
        on_step_end(control, step, logs)
        reads[step] = (seen.to_host, sum(seen.waits.values()))

    monkeypatch.setattr(RunControl, "on_step_end", counted)
    train = {"max_steps": 9, "log_every": 4, "checkpoint_every": 0, "grad_accumulation": 2}
    with count_transfers() as seen:
        Trained(make_config(data, train=train))
    read = {
        step: tuple(now - before for now, before in zip(reads[step], reads[step - 1], strict=True))
        for step in range(2, 9)
    }
    # At a row: whether the loss is finite, and the row itself.
    at_rows = {step: 2 if step % 4 == 0 else 0 for step in range(2, 9)}
    assert read == {step: (count, WAITS_IN_KERAS) for step, count in at_rows.items()}, seen.waits
