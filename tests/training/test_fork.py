"""Forks repeat their parents where nothing changes, and say what does."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.config import Config, SkippedSteps
from kgpt.errors import KgptError, RunError
from kgpt.runs import Run, family_order, find_run, parent_of
from tests.training.test_resume import another
from tests.training.tiny_runs import DROPOUT, Trained, contents, make_config

KEPT = {"eval_every": 2, "eval_batches": 1, "keep_checkpoints": 9}


@pytest.fixture(scope="module")
def parent(data, tmp_path_factory):
    """A run of 6 steps with a checkpoint at each second one, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGPT_RUNS", str(tmp_path_factory.mktemp("runs")))
        return Trained(make_config(data, train=KEPT, **DROPOUT), "parent")


@pytest.fixture
def fork(parent, data, monkeypatch):
    """Makes a fork of the step 4 of `parent` with other settings."""
    monkeypatch.setenv("KGPT_RUNS", str(parent.run.path.parent))

    def make(name, folder=data, step=4, **train):
        config = make_config(folder, train=KEPT | train, **DROPOUT)
        return Trained(config, name, fork_of=f"parent@{step}")

    return make


@pytest.mark.portable
@pytest.mark.backend
def test_an_unchanged_fork_repeats_its_parent(parent, fork):
    before = contents(parent.run)
    child = fork("same")
    assert child.run.metrics()[:4] == parent.run.metrics()[:4]  # copied
    assert child.losses == parent.losses
    assert child.run.checkpoint_steps() == [4, 6]
    assert str(parent_of(child.run)) == "parent@4" and parent_of(parent.run) is None
    assert "forked from parent at step 4" in child.shown and "→" not in child.shown
    assert contents(parent.run) == before


@pytest.mark.backend
@pytest.mark.portable
def test_other_settings_and_data_are_said_and_used(parent, fork, data, tmp_path):
    other = another(data, tmp_path)
    child = fork("other", other, learning_rate=0.02, batch_size=2, max_steps=7)
    assert "train.learning_rate 0.01 → 0.02" in child.shown
    assert f"data set {data} → {other}" in child.shown
    assert list(child.losses) == list(range(1, 8))
    assert child.losses[4] == parent.losses[4] and child.losses[5] != parent.losses[5]
    resumed = Trained(make_config(other, train=KEPT | {"max_steps": 8}), "other", resume=True)
    assert resumed.losses[7] == child.losses[7] and resumed.losses[8]


@pytest.mark.backend
@pytest.mark.portable
def test_a_refused_fork_leaves_nothing(fork):
    deeper = make_config(find_run("parent").data_path(), model={"num_layers": 2})
    with pytest.raises(RunError, match="num_layers 1, which cannot change to 2 when it is forked"):
        Trained(deeper, "refused", fork_of="parent@4")
    with pytest.raises(RunError, match="has no checkpoint 5; it has: 2, 4, 6"):
        fork("refused", step=5)
    assert not contents(Run(find_run("parent").path.parent / "refused"))


@pytest.mark.backend
@pytest.mark.portable
def test_a_fork_without_its_checkpoint_is_not_begun_anew(fork, data):
    child = fork("lost", max_steps=5)
    for step in child.run.checkpoint_steps():
        (child.run.checkpoint_path(step) / "checksums.json").unlink()
        child.run.checkpoint_path(step).rename(child.run.path / f"gone-{step}")
    with pytest.raises(
        RunError, match="start it again with `kgpt train --from parent@4 --run lost"
    ):
        Trained(make_config(data, train=KEPT, **DROPOUT), "lost", resume=True)


@pytest.mark.backend
def test_skipped_steps_are_those_of_the_data(parent, fork):
    """The updates 3 and 4 take the data of 5 and 6: as a run whose batches are these."""
    child = fork("skips", step=2, skip_steps="3-4", max_steps=4)
    assert "the data of the steps 3-4 is skipped: 2 steps of data, from step 3 on" in child.shown
    batches, usual = child.task.batches(None, 2), parent.task.batches(None, 4)
    for index in range(2):
        assert [x.tolist() for x in batches[index]] == [x.tolist() for x in usual[index]]
    assert child.losses[3] != parent.losses[3]


@pytest.mark.backend
@pytest.mark.portable
def test_what_was_trained_on_cannot_be_skipped(parent, fork, data):
    with pytest.raises(RunError, match="fork it with .kgpt train --from RUN@STEP. from a checkp"):
        fork("late", skip_steps="4-5")
    longer = KEPT | {"max_steps": 8, "skip_steps": "7"}
    assert fork("early", skip_steps="5-6", max_steps=5)
    assert Config.parse({"train": longer}).train.skip_steps == "7"


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), max_size=5))
def test_each_step_has_data_and_skipped_data_has_none(pairs):
    text = ",".join(f"{first}-{first + more}" if more else f"{first}" for first, more in pairs)
    skipped = SkippedSteps(text or None)
    left_out = {step for first, more in pairs for step in range(first, first + more + 1)}
    seen = [step for step in range(1, 200) if step not in left_out]
    assert [skipped.data_step(step) for step in range(1, len(seen) + 1)] == seen
    assert [skipped.step_of(step) for step in seen] == list(range(1, len(seen) + 1))
    assert {step for step in range(1, 200) if skipped.step_of(step) is None} == left_out
    assert len(skipped) == len(left_out)
    assert {step for some in skipped.before(20) for step in some} == {
        s for s in left_out if s <= 20
    }


@pytest.mark.parametrize("text", ["0", "4-2", "a", "1-", "1,,2", ""])
def test_what_is_no_list_of_steps_is_refused(text):
    with pytest.raises(KgptError, match="skip_steps"):
        Config.parse({"train": {"skip_steps": text}})


def test_families_follow_their_parents(tmp_path):
    def run(name, parent=None):
        made = Run(tmp_path / name)
        made.write_config("")
        if parent:
            about = {"run": parent, "path": str(tmp_path / parent), "step": 2}
            (made.path / "parent.json").write_text(json.dumps(about))
        return made

    runs = [run("c", "b"), run("x"), run("a"), run("b", "a"), run("orphan", "gone"), run("y", "y")]
    ordered = [(each.name, depth) for each, depth in family_order(runs)]
    assert ordered == [("x", 0), ("a", 0), ("b", 1), ("c", 2), ("orphan", 0), ("y", 0)]
    loop = [run("one", "two"), run("two", "one")]
    assert [(each.name, depth) for each, depth in family_order(loop)] == [("one", 0), ("two", 0)]
