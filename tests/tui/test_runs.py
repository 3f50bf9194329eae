"""The table of runs: filtering, pinning, comparing, deleting; unreadable folders."""

import errno
import os

from kgpt.runs import Run
from kgpt_tui.runs import run_list
from kgpt_tui.runs.chart import SMOOTHINGS, ChartPanel
from kgpt_tui.runs.compare import CompareScreen
from kgpt_tui.runs.run_list import differing_keys
from kgpt_tui.runs.watch import WatchScreen
from kgpt_tui.shared.dialogs import ChoiceDialog
from kgpt_tui.train.screen import TrainScreen
from tests.tui.driving import drive, wait_until
from tests.tui.fake_trainer import make_run


def runs(script, tmp_path, size=(120, 40)):
    """Run `script(app, pilot, screen)` on the table of three runs."""
    folder = tmp_path / "runs"
    make_run(folder, "fox", 300, 1000, state="finished", model__hidden_dim=768)
    make_run(folder, "owl", 200, 1000, state="stopped", train__learning_rate=3e-4)
    make_run(folder, "running", 100, 1000)

    async def opened(app, pilot):
        app.switch_mode("runs")
        await wait_until(pilot, lambda: len(getattr(app.screen, "_visible", ())) == 3)
        await script(app, pilot, app.screen)

    drive(opened, tmp_path, size)


def names(screen):
    return [row.run.name for row in screen._visible]


def test_runs_are_filtered_by_name_state_and_difference(tmp_path):
    async def script(app, pilot, screen):
        assert names(screen)[0] == "running"  # active runs come first
        await pilot.press("slash", *"768", "enter")
        await wait_until(pilot, lambda: names(screen) == ["fox"])
        await pilot.press("escape")
        await wait_until(pilot, lambda: len(names(screen)) == 3)
        await pilot.press("slash", *"stop", "enter")
        await wait_until(pilot, lambda: names(screen) == ["owl"])
        await pilot.press("slash", *"nonsense")
        await wait_until(pilot, lambda: screen.has_class("-empty"))

    runs(script, tmp_path)


def test_pinned_runs_share_the_chart(tmp_path):
    async def script(app, pilot, screen):
        panel = screen.query_one(ChartPanel)
        await wait_until(pilot, lambda: len(panel.chart._lines) == 1)
        await pilot.press("space", "down", "space")
        await wait_until(pilot, lambda: len(panel.chart._lines) == 2)
        await pilot.press("v", "o", "l")
        assert (panel.chart.smoothing, panel.chart.log_scale) == (SMOOTHINGS[1], True)
        await pilot.press("space")
        await wait_until(pilot, lambda: len(panel.chart._lines) == 1)

    runs(script, tmp_path)


def test_comparing_names_what_differs(tmp_path):
    async def script(app, pilot, screen):
        await pilot.press("c")
        await wait_until(pilot, lambda: isinstance(app.screen, CompareScreen) and app.screen._drawn)
        table = str(app.screen.query_one("#table").render())
        assert "model.hidden_dim" in table and "train.learning_rate" in table
        assert "model.num_layers" not in table
        chart = app.screen.query_one(ChartPanel).chart
        assert len(chart._lines) == 3
        await pilot.press("m", "M", "o", "l")
        assert (chart.smoothing, chart.log_scale) == (SMOOTHINGS[1], True)
        await pilot.press("escape")
        await wait_until(pilot, lambda: app.screen is screen)

    runs(script, tmp_path)


def test_enter_watches_and_n_begins_a_new_run(tmp_path):
    async def script(app, pilot, screen):
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(app.screen, WatchScreen))
        assert app.screen.monitor.name == names(screen)[0]
        await pilot.press("escape")
        await wait_until(pilot, lambda: app.screen is screen)
        await pilot.press("n")
        await wait_until(pilot, lambda: isinstance(app.screen, TrainScreen))

    runs(script, tmp_path)


def test_delete_asks_first_and_refuses_active_runs(tmp_path):
    folder = tmp_path / "runs"

    async def script(app, pilot, screen):
        await pilot.press("d")
        await pilot.pause(0.2)
        assert app.screen is screen  # the highlighted run is active
        await pilot.press("down", "d")
        await wait_until(pilot, lambda: isinstance(app.screen, ChoiceDialog))
        await pilot.press("k", "d")
        await wait_until(pilot, lambda: isinstance(app.screen, ChoiceDialog))
        doomed = screen._selected().run.name
        await pilot.press("d")
        await wait_until(pilot, lambda: not (folder / doomed).exists())
        await wait_until(pilot, lambda: doomed not in names(screen))
        assert sorted(os.listdir(folder)) == sorted({"fox", "owl", "running"} - {doomed})

    runs(script, tmp_path)


def test_a_locked_run_is_not_deleted_whatever_its_status(tmp_path):
    async def script(app, pilot, screen):
        row = next(row for row in screen.list.rows if row.run.name == "owl")
        row.run.lock()  # as a trainer does
        try:
            screen._delete(Run(row.run.path))
            assert row.run.exists
        finally:
            row.run.unlock()

    runs(script, tmp_path)


def test_a_runs_folder_that_cannot_be_read_is_reported(tmp_path, monkeypatch):
    def refuse():
        raise PermissionError(errno.EACCES, "Permission denied")

    async def script(app, pilot, screen):
        monkeypatch.setattr(run_list, "all_runs", refuse)
        await wait_until(pilot, lambda: screen.has_class("-empty"))
        message = str(screen.query_one("#empty-text").render())
        assert message == "The runs cannot be read: Permission denied."
        await pilot.press("c", "space", "d")
        assert app.screen is screen and not screen.pinned

    runs(script, tmp_path)


def test_unreadable_configurations_are_not_compared():
    assert differing_keys([{}, {"a": 1}, {"a": 2, "b": 1}]) == ["a", "b"]
