"""Distilling: the teacher is followed and never changed, runs resume exactly, misfits are named."""

import numpy as np
import pytest
from keras import ops

from kgpt.checkpoints.pretrained import load_model, load_tokenizer
from kgpt.errors import DataError, UsageError
from kgpt.runs import Run
from kgpt.training.distiller import Distiller
from tests.tiny import tiny_model, write_tiny_model
from tests.training.tiny_runs import Trained, make_config

pytestmark = pytest.mark.backend


def test_the_student_learns_what_the_teacher_knows():
    """By the soft loss alone the targets do not count, and the teacher stays as it is."""
    student = tiny_model("llama", num_layers=1, vocab_size=17)
    teacher = tiny_model("gpt2", num_layers=1, noise=0.3, vocab_size=17)
    before = [np.array(ops.convert_to_numpy(v)) for v in teacher.weights]
    ids = np.random.default_rng(0).integers(0, 17, (4, 12)).astype("int32")
    distiller = Distiller(student, teacher, temperature=1.0, alpha=1.0)
    distiller.compile("adam")
    distiller.optimizer.build(distiller.trainable_variables)
    distiller.optimizer.learning_rate = 0.02
    assert len(distiller.trainable_variables) == len(student.trainable_variables)
    losses = distiller.fit(ids, np.zeros_like(ids), epochs=30, batch_size=4, verbose=0)
    losses = losses.history["loss"]
    assert losses[-1] < 0.3 * losses[0]
    for variable, value in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    evaluated = distiller.evaluate(ids, ids, verbose=0, return_dict=True)["loss"]
    logits = ops.convert_to_numpy(student(ids))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_p, ids[..., None], -1).mean()
    assert evaluated == pytest.approx(expected, rel=1e-4)  # the cross-entropy alone


@pytest.fixture
def teacher(data, tmp_path):
    from kgpt.data.shards import TokenDataset

    return write_tiny_model(tmp_path / "teacher", "gpt2", TokenDataset(data).tokenizer)


def config_with(data, teacher, **changes):
    train = {"max_steps": 4, "eval_every": 2, **changes.pop("train", {})}
    sections = {"finetune": {"objective": "distill"}, "distill": {"teacher": str(teacher)}}
    return make_config(data, train=train, **(sections | changes))


@pytest.mark.portable
def test_a_resumed_run_goes_on_as_if_never_stopped(data, teacher):
    whole = Trained(config_with(data, teacher), "whole")
    Trained(config_with(data, teacher, train={"max_steps": 2, "decay_steps": 4}), "parts")
    parts = Trained(config_with(data, teacher, train={"decay_steps": 4}), "parts", resume=True)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-6)
    rows = [row["val_loss"] for row in whole.run.metrics() if "val_loss" in row]
    assert [r["val_loss"] for r in parts.run.metrics() if "val_loss" in r] == pytest.approx(rows)
    checkpoint = whole.run.checkpoint_path(4)
    assert load_model(checkpoint).config.num_layers == 1  # the student's
    assert "teacher" in Run(whole.run.path).config_text()
    assert "learns from" in whole.shown


def test_what_does_not_fit_is_said(data, teacher, tmp_path):
    with pytest.raises(UsageError, match="No teacher is named"):
        Trained(config_with(data, teacher, distill={}))
    other = write_tiny_model(tmp_path / "other", "gpt2")
    with pytest.raises(DataError, match="another tokenizer than that of the teacher"):
        Trained(config_with(data, other))
    vocabulary = {"model": {"vocab_size": 1000}}
    with pytest.raises(UsageError, match="has 1000 tokens, but the teacher"):
        Trained(config_with(data, teacher, **vocabulary))
    short = write_tiny_model(tmp_path / "short", "gpt2", load_tokenizer(teacher), max_length=8)
    with pytest.raises(UsageError, match="context of the teacher"):
        Trained(config_with(data, short))
    with pytest.raises(UsageError, match="The student has 5 tokens"):
        Distiller(tiny_model(vocab_size=5), tiny_model(vocab_size=6))
