"""How the screens of the training side look, at three sizes, dark and light."""

import os
import time

import pytest

from kgpt_tui.runs.compare import CompareScreen
from kgpt_tui.runs.run_list import RunList
from kgpt_tui.runs.run_monitor import RunMonitor
from kgpt_tui.runs.watch import WatchScreen
from kgpt_tui.train import launch
from tests.tui.driving import drive, wait_until
from tests.tui.fake_trainer import make_run
from tests.tui.snapshots import matches_snapshot, settle

NOW = 1_800_000_000.0
SIZES = [(40, 12), (80, 24), (120, 40)]
looks = pytest.mark.parametrize(
    ("size", "theme"), [(s, t) for s in SIZES for t in ("kgpt-dark", "kgpt-light")]
)


@pytest.fixture(autouse=True)
def _still(monkeypatch, tmp_path):
    """No clock, no other machine's backends, no other folder: the same picture every time."""
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setattr(launch, "installed_backends", lambda: ["jax", "torch"])
    monkeypatch.chdir(tmp_path)


def name_of(screen, size, theme):
    return f"{screen}-{size[0]}x{size[1]}-{theme.removeprefix('kgpt-')}"


def make_runs(tmp_path):
    folder = tmp_path / "runs"
    runs = [
        make_run(folder, "fox", 640, 1000),
        make_run(folder, "fox-wide", 1000, 1000, state="finished", model__hidden_dim=768),
        make_run(
            folder, "torn", 330, 1000, state="failed", error="The loss became nan at step 331."
        ),
    ]
    for age, run in enumerate(runs):
        for file in run.path.iterdir():
            os.utime(file, (NOW - 4000 * age, NOW - 4000 * age))
    return runs


@looks
def test_home(tmp_path, size, theme):
    make_runs(tmp_path)

    async def script(app, pilot):
        await wait_until(pilot, lambda: "models" in app.screen._listed)
        await settle(pilot)
        assert matches_snapshot(app, name_of("home", size, theme))

    drive(script, tmp_path, size, theme)


@looks
def test_watch(tmp_path, size, theme):
    run = make_runs(tmp_path)[0]

    async def script(app, pilot):
        await wait_until(pilot, lambda: isinstance(app.screen, WatchScreen))
        await wait_until(
            pilot, lambda: "metrics" in app.screen._drawn and app.screen.monitor.samples
        )
        await settle(pilot)
        assert matches_snapshot(app, name_of("watch", size, theme))
        await pilot.press("2")
        await settle(pilot)
        assert matches_snapshot(app, name_of("samples", size, theme))

    drive(script, tmp_path, size, theme, run=run.name)


@looks
def test_runs_and_compare(tmp_path, size, theme):
    runs = make_runs(tmp_path)

    async def script(app, pilot):
        app.switch_mode("runs")
        await wait_until(pilot, lambda: getattr(app.screen, "_visible", None))
        await pilot.press("space", "down", "space")
        await settle(pilot)
        assert matches_snapshot(app, name_of("runs", size, theme))
        app.push_screen(CompareScreen([run.path for run in runs]))
        await wait_until(pilot, lambda: getattr(app.screen, "_drawn", None))
        await settle(pilot)
        assert matches_snapshot(app, name_of("compare", size, theme))

    drive(script, tmp_path, size, theme)


@looks
def test_train(tmp_path, size, theme):
    async def script(app, pilot):
        app.switch_mode("train")
        await wait_until(pilot, lambda: app.screen.query("#problem"))
        await settle(pilot)
        assert matches_snapshot(app, name_of("train", size, theme))

    drive(script, tmp_path, size, theme)


def test_empty_states(tmp_path):
    async def script(app, pilot):
        await wait_until(pilot, lambda: "models" in app.screen._listed)
        assert "The demo starts one" in str(app.screen.query_one("#no-runs").render())
        app.switch_mode("runs")
        await wait_until(pilot, lambda: app.screen.has_class("-empty"))
        assert "No runs in" in str(app.screen.query_one("#empty-text").render())

    drive(script, tmp_path, (80, 24))


def test_a_large_run_costs_little(tmp_path, capsys):
    """100,000 rows: what a key costs, printed and not judged."""
    import resource

    run = make_run(tmp_path / "runs", "long", 100_000, 200_000, every=1)

    async def script(app, pilot):
        await wait_until(pilot, lambda: isinstance(app.screen, WatchScreen))
        await wait_until(pilot, lambda: app.screen._drawn.get("metrics"), 60)
        await pilot.pause(1)
        costs = {}
        for key in ("o", "l", "plus", "right", "r", "2", "1", "p"):
            begin = time.process_time()
            await pilot.press(key)
            await pilot.pause()
            costs[key] = 1000 * (time.process_time() - begin)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        with capsys.disabled():
            shown = ", ".join(f"{key} {cost:.0f} ms" for key, cost in costs.items())
            print(f"\n100,000 rows, key to repaint: {shown}; peak memory {peak:.0f} MB")

    drive(script, tmp_path, run=run.name)


def test_the_list_and_a_feed_agree(tmp_path):
    import asyncio

    run = make_runs(tmp_path)[0]
    everything, monitor = RunList(), RunMonitor(run.path)
    asyncio.run(everything.refresh())
    asyncio.run(monitor.read_all())
    row = next(row for row in everything.rows if row.run.path == run.path)
    assert row.summary.best == monitor.history.best[0]
    assert row.summary.last["loss"] == monitor.history.last["loss"]
