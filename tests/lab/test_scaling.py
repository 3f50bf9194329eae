"""Laws are found again from losses made by them; families keep their shape; runs are resumed."""

import json
import sys

import numpy as np
import pytest

from kgpt.config import Config, ModelConfig
from kgpt.errors import DataError, KgptError, RunError, UsageError
from kgpt.lab.scaling import training
from kgpt.lab.scaling.family import members, parse_sizes, parse_tokens, resize
from kgpt.lab.scaling.law import Observation, ScalingLaw, bootstrap, fit
from kgpt.lab.scaling.recommendation import nearest, study
from kgpt.lab.scaling.training import matmul_parameters, observe, train_in_process, train_members
from kgpt.runs import RunStatus, new_run
from tests.cli.running import kgpt

LAW = ScalingLaw(E=1.8, A=30.0, B=200.0, alpha=0.35, beta=0.37)
SIZES, TOKENS = (1e5, 2e5, 4e5, 8e5, 1.6e6), (2e6, 4e6, 8e6, 1.6e7)
LARGEST = 6 * SIZES[-1] * TOKENS[-1]


def observations(noise=0.0, seed=0):
    """Losses of the law with noise of a standard deviation in log L."""
    rng = np.random.default_rng(seed)
    return [
        Observation(f"{n:g}-{d:g}", n, d, LAW.loss(n, d) * np.exp(noise * rng.standard_normal()))
        for n in SIZES
        for d in TOKENS
    ]


def test_known_coefficients_are_found():
    found = fit(observations())
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(LAW, name), rel=1e-3), name


def test_the_optimum_is_the_lowest_loss_of_its_budget():
    parameters, tokens = LAW.optimum(1e13)
    assert 6 * parameters * tokens == pytest.approx(1e13)
    best = LAW.loss(parameters, tokens)
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert LAW.loss(parameters * factor, tokens / factor) > best


def test_an_outlier_does_not_change_the_law():
    spoiled = observations()
    spoiled[3] = Observation("spoiled", spoiled[3].parameters, spoiled[3].tokens, 9.0)
    found = fit(spoiled)
    assert found.optimum(1e13)[0] == pytest.approx(LAW.optimum(1e13)[0], rel=0.25)


def test_noise_is_in_the_intervals():
    some = [study(observations(noise, 1), samples=20).recommendation for noise in (0.001, 0.01)]
    widths = [one.parameters.high / one.parameters.low for one in some]
    assert 1 < widths[0] < widths[1]
    for one in some:
        assert one.parameters.low <= LAW.optimum(LARGEST)[0] <= one.parameters.high


@pytest.mark.slow
def test_intervals_cover_the_truth_at_their_rate():
    true, covered, trials = LAW.optimum(3e13)[0], 0, 40
    for seed in range(trials):
        some = observations(0.003, seed)
        laws = bootstrap(some, fit(some), 60)
        low, high = np.quantile([law.optimum(3e13)[0] for law in laws], [0.05, 0.95])
        covered += low <= true <= high
    assert 0.8 * trials <= covered < trials


def test_it_does_not_extrapolate_in_silence():
    some = observations()
    assert study(some, 1e13, samples=3).recommendation.beyond == 1.0
    with pytest.raises(UsageError, match="times beyond what was trained; .* or give --extrapolate"):
        study(some, 1e18, samples=3)
    far = study(some, 1e18, extrapolate=True, samples=3).recommendation
    assert far.is_extrapolated and far.beyond == pytest.approx(1e18 / LARGEST, rel=1e-6)


def test_too_few_runs_are_refused():
    for some in (observations()[:5], observations()[:8], observations()[::4] * 2):
        with pytest.raises(DataError, match="too few for a scaling law"):
            fit(some)


def test_a_family_keeps_the_shape_of_its_configuration():
    model = ModelConfig(
        vocab_size=64, num_layers=4, num_heads=8, num_kv_heads=2, hidden_dim=128,
        intermediate_dim=344, position="rotary",
    )  # fmt: skip
    assert resize(model, 4) == model
    for layers in (1, 2, 6, 16):
        other = resize(model, layers)
        assert (other.num_layers, other.head_dim, other.hidden_dim) == (layers, 16, 32 * layers)
        assert other.intermediate_dim == pytest.approx(other.hidden_dim * 344 / 128, abs=4)
        assert nearest(model, matmul_parameters(other)) == other
    assert resize(model, 6).num_kv_heads == 3 and resize(model, 6, 16 * 5).num_kv_heads == 5
    with pytest.raises(UsageError, match="no multiple of the size of a head, 16"):
        resize(model, 2, 100)


def make_members(**changes):
    options = {"data.dir": "data/x", "train.batch_size": 4, "train.warmup_steps": 100} | changes
    return members(
        Config.load("shakespeare-cpu", options),
        "s", parse_sizes("1,2,3"), parse_tokens("64k,128k,256k"),
    )  # fmt: skip


def test_each_run_ends_its_schedule_with_its_tokens():
    made = make_members()
    names = [member.name for member in made]
    assert names[0] == "s-1x32-64.0k" and names[-1] == "s-3x96-256k" and len(set(names)) == 9
    train = made[-1].config.train
    assert train.max_steps == 256_000 / (4 * 64) and train.decay_steps is None
    assert train.warmup_steps == 100 and made[0].config.train.warmup_steps == 25
    assert all(member.config.train.eval_every for member in make_members(**{"train.eval_every": 0}))
    with pytest.raises(UsageError, match="Two runs would be called s-1x32-1"):
        members(made[0].config, "s", [(1, 32), (1, None)], [1e6])
    for parse, text in ((parse_sizes, "2,x"), (parse_sizes, "0"), (parse_tokens, "1,M")):
        with pytest.raises(UsageError, match="should be numbers"):
            parse(text)


def finish(member, run, loss, state="finished"):
    """What `kgpt train` leaves."""
    run.path.mkdir(parents=True, exist_ok=True)
    model = member.config.model.model_copy(update={"vocab_size": 64})
    run.write_config(member.config.model_copy(update={"model": model}).to_yaml())
    steps = member.config.train.max_steps
    run.append("metrics", {"step": steps, "time": 1.0, "loss": 1.0, "val_loss": loss})
    run.write_status(RunStatus(state=state, step=steps, tokens_seen=steps * 4 * 64))


def test_runs_that_are_interrupted_go_on_and_finished_ones_stay():
    made, trained = make_members(), []

    def train(member, run, resume):
        if len(trained) == 4:
            finish(member, run, 2.0, state="stopped")
            trained.append("stopped")
            raise KeyboardInterrupt
        trained.append((member.name, resume))
        finish(member, run, 2.0)

    with pytest.raises(KeyboardInterrupt):
        train_members(made, train)
    runs = train_members(made, train)
    names = [member.name for member in made]
    assert trained == [
        *((name, False) for name in names[:4]), "stopped",
        (names[4], True), *((name, False) for name in names[5:]),
    ]  # fmt: skip
    assert [one.run for one in observe(runs)] == names
    train_members(made, train)
    assert len(trained) == 10
    with pytest.raises(RunError, match="with other options"):
        train_members(make_members(**{"train.seed": 3}), train)


def test_the_command_fits_and_recommends(tmp_path, capsys, monkeypatch):
    def train(member, run, resume):
        model = member.config.model.model_copy(update={"vocab_size": 64})
        tokens = member.config.train.max_steps * 4 * 64
        finish(member, run, LAW.loss(matmul_parameters(model), tokens))

    monkeypatch.setattr(training, "train_in_process", train)
    few = lambda some, law, samples, seed: bootstrap(some, law, 5, seed)  # noqa: E731
    monkeypatch.setattr("kgpt.lab.scaling.recommendation.bootstrap", few)
    words = ["scaling", "train", "shakespeare-cpu", "--data", "data/x", "--train.batch-size", "4"]
    words += ["--sizes", "1,2,3", "--tokens", "1M,2M,4M", "--png", str(tmp_path / "s.png")]
    code, out, error = kgpt(capsys, *words)
    assert code == 0 and error.count("training scaling-") == 9
    assert "such as num_layers" in " ".join(out.split()) and "scaling-3x96-4.0M" in out
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    names = [f"scaling-{size}-{n}.0M" for size in ("1x32", "2x64", "3x96") for n in (1, 2, 4)]
    code, out, _ = kgpt(capsys, "scaling", "fit", *names, "--json")
    found = json.loads(out)
    assert code == 0 and found["law"]["alpha"] == pytest.approx(LAW.alpha, rel=0.05)
    assert len(found["observations"]) == 9 and found["confidence"] == 0.9
    assert kgpt(capsys, "scaling", "fit", *names, "--budget", "1e20")[0] == 2
    assert kgpt(capsys, "scaling", "fit", *names[:3])[0] == 1


def test_a_run_that_fails_is_named(monkeypatch):
    member = make_members()[0]
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(KgptError, match="The run s-1x32-64.0k failed"):
        train_in_process(member, new_run(member.name), False)
    written = Config.load(str(new_run(member.name).path / "scaling.yaml"))
    assert written == member.config


def test_a_run_without_a_validation_loss_is_no_observation():
    run = new_run("none")
    run.path.mkdir(parents=True)
    run.write_config("")
    with pytest.raises(DataError, match="none has not finished with a validation loss"):
        observe([run])


def test_scipy_is_of_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(UsageError, match=r"kgpt\[scaling\]"):
        fit(observations())
