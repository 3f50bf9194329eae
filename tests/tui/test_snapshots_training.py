"""Snapshots of the home, run and training screens at three sizes, dark and light."""

import asyncio
import os
import time

import pytest

from kgpt_tui.runs.chart import Chart
from kgpt_tui.runs.compare import CompareScreen
from kgpt_tui.runs.run_list import RunList
from kgpt_tui.runs.run_monitor import RunMonitor
from kgpt_tui.runs.watch import WatchScreen
from kgpt_tui.shared import launch
from tests.tui.driving import SIZES, drive, wait_until
from tests.tui.fake_trainer import make_run
from tests.tui.snapshots import matches_snapshot, settle

NOW = 1_800_000_000.0
at_every_size = pytest.mark.parametrize(
    ("size", "theme"), [(s, t) for s in SIZES for t in ("kgpt-dark", "kgpt-light")]
)


@pytest.fixture(autouse=True)
def _fixed_surroundings(monkeypatch, tmp_path):
    """A fixed clock, backends and working directory, so that screens are reproducible."""
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


@at_every_size
def test_home(tmp_path, size, theme):
    make_runs(tmp_path)

    async def script(app, pilot):
        await wait_until(pilot, lambda: "models" in app.screen._listed)
        await settle(pilot)
        assert matches_snapshot(app, name_of("home", size, theme))

    drive(script, tmp_path, size, theme)


@at_every_size
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


@at_every_size
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


@at_every_size
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


def test_a_long_run_is_drawn_with_few_points(tmp_path):
    """However many rows a run has, each line of a chart has at most two points per column."""
    run = make_run(tmp_path / "runs", "long", 20_000, 40_000, every=1)

    async def script(app, pilot):
        await wait_until(pilot, lambda: isinstance(app.screen, WatchScreen))
        screen = app.screen
        chart = screen.query(Chart).first()
        await wait_until(pilot, lambda: screen.monitor.history.rows == 20_000)
        await wait_until(pilot, lambda: chart._x_max > 19_000)
        for key in ("o", "l", "plus", "right", "r"):
            await pilot.press(key)
            await pilot.pause()
            points = [len(dataset.x) for dataset in chart._datasets]
            assert points and max(points) <= 2 * max(20, chart.size.width), key
        values = screen.monitor.history.curve("loss")[1]
        await pilot.press("o", "o", "o", "l")  # neither smoothed nor logarithmic
        assert chart._datasets[0].y.max() == values.max()

    drive(script, tmp_path, run=run.name)


def test_the_list_and_a_monitor_agree(tmp_path):
    run = make_runs(tmp_path)[0]
    everything, monitor = RunList(), RunMonitor(run.path)
    asyncio.run(everything.refresh())
    asyncio.run(monitor.read_all())
    row = next(row for row in everything.rows if row.run.path == run.path)
    assert row.summary.best == monitor.history.best[0]
    assert row.summary.last["loss"] == monitor.history.last["loss"]
