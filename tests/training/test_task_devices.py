"""Tasks that need one device or one process refuse more of them in a sentence."""

from types import SimpleNamespace

import pytest

from kgpt import backend
from kgpt.config import Config
from kgpt.errors import UsageError
from kgpt.training.distillation import Distillation
from kgpt.training.distribute import check_task
from kgpt.training.preference import PreferenceOptimization
from kgpt.training.pretraining import Pretraining


def check(task, processes, monkeypatch, **sections):
    monkeypatch.setattr(backend.distribution, "process_count", lambda: processes)
    monkeypatch.setattr(backend.processes, "device_count", lambda: processes)
    config = Config.parse(sections)
    names = ("can_distribute", "divides_batches")
    check_task(SimpleNamespace(config=config, **{name: getattr(task, name) for name in names}))


def test_one_process_on_one_device_trains_all(monkeypatch):
    for task in (Pretraining, PreferenceOptimization, Distillation):
        check(task, 1, monkeypatch)


def test_several_processes_need_batches_that_divide(monkeypatch):
    check(Pretraining, 2, monkeypatch)
    with pytest.raises(UsageError, match="dpo trains in one process, not in 2"):
        check(PreferenceOptimization, 2, monkeypatch, finetune={"objective": "dpo"})
    with pytest.raises(UsageError, match="train.eval_suite needs one process"):
        check(Pretraining, 2, monkeypatch, train={"eval_suite": "tasks.yaml"})


@pytest.mark.parametrize(("processes", "data"), [(2, 1), (1, 2)])
def test_a_student_and_its_teacher_share_one_device(processes, data, monkeypatch):
    with pytest.raises(UsageError, match="distill trains on one device"):
        sections = {"finetune": {"objective": "distill"}, "distribute": {"data": data}}
        check(Distillation, processes, monkeypatch, **sections)
