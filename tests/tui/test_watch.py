"""Watching a run: every key, every state, and damage to its directory."""

import json
import shutil
import time

import pytest

from kgpt.runs import Run
from kgpt_tui.runs.chart import Chart, ChartPanel
from kgpt_tui.runs.chart_board import ChartBoard
from kgpt_tui.runs.run_header import RunHeader
from kgpt_tui.runs.samples_view import SamplesView
from kgpt_tui.runs.screen import RunsScreen
from kgpt_tui.runs.watch import WatchScreen
from kgpt_tui.shared import launch
from kgpt_tui.shared.dialogs import ChoiceDialog, InputDialog
from tests.tui.driving import drive, said, screen_text, wait_until
from tests.tui.fake_trainer import add_sample, dead_pid, make_run, metric, set_status


def watch(script, tmp_path, size=(120, 40), **made):
    """Run `script(app, pilot, screen, run)` on the watch screen of a fake run."""
    run = make_run(tmp_path / "runs", **made)

    async def opened(app, pilot):
        await wait_until(pilot, lambda: isinstance(app.screen, WatchScreen))
        screen = app.screen
        await wait_until(pilot, lambda: screen._drawn.get("status") is not None)
        await script(app, pilot, screen, run)

    drive(opened, tmp_path, size, run=run.name)


def text_of(screen, selector):
    return str(screen.query_one(selector).render())


def commands(run: Run):
    return [name for name, _ in run.take_commands()]


def test_each_command_reaches_the_trainer(tmp_path):
    async def script(app, pilot, screen, run):
        await pilot.press("p")
        assert commands(run) == ["pause"]
        assert "pausing" in text_of(screen, RunHeader)
        set_status(run, state="paused", step=400, total_steps=1000)
        await wait_until(pilot, lambda: screen.monitor.state == "paused")
        await wait_until(pilot, lambda: "pausing" not in text_of(screen, RunHeader))
        await pilot.press("p")
        assert commands(run) == ["resume"]
        await pilot.press("c")
        assert commands(run) == ["checkpoint"]

    watch(script, tmp_path)


@pytest.mark.parametrize(("columns", "is_shown"), [(120, True), (60, False)])
def test_the_header_shows_the_hardware_where_there_is_room(tmp_path, columns, is_shown):
    async def script(app, pilot, screen, run):
        usage = {"cpu_percent": 87.0, "rss_bytes": 1.5e9, "gpu_percent": 99, "gpu_power_w": 612.0}
        run.append("metrics", metric(410, time.time(), 1000) | usage)
        await wait_until(pilot, lambda: "cpu_percent" in screen.monitor.history.last)
        await pilot.pause()
        shown = text_of(screen, RunHeader)
        assert screen.monitor.status.backend in shown
        assert ("CPU 87%, 1.5 GB; GPU 99%, 612 W" in shown) == is_shown

    watch(script, tmp_path, size=(columns, 40))


def test_stop_asks_first(tmp_path):
    async def script(app, pilot, screen, run):
        await pilot.press("x")
        await wait_until(pilot, lambda: isinstance(app.screen, ChoiceDialog))
        await pilot.press("n")
        assert commands(run) == []
        await pilot.press("x")
        await wait_until(pilot, lambda: isinstance(app.screen, ChoiceDialog))
        await pilot.press("y")
        await wait_until(pilot, lambda: (run.path / "control" / "stop").exists())

    watch(script, tmp_path)


def test_a_dialog_dismissed_twice_closes_once(tmp_path):
    async def script(app, pilot, screen, run):
        await pilot.press("x")
        await wait_until(pilot, lambda: isinstance(app.screen, ChoiceDialog))
        question = app.screen
        question.dismiss("n")
        question.dismiss("n")
        await wait_until(pilot, lambda: app.screen is screen)
        await pilot.pause(0.2)
        assert app.screen is screen and commands(run) == []

    watch(script, tmp_path)


def test_nothing_is_updated_while_the_app_closes(tmp_path, monkeypatch):
    """A message of the last poll may be handled after some widgets have been removed."""
    asked, drawn = [], []

    def gone(board):
        asked.append(board.screen)
        monkeypatch.setattr(board.screen, "update_view", lambda: drawn.append(board))
        board.screen.update_if_visible()

    monkeypatch.setattr(ChartBoard, "on_unmount", gone, raising=False)

    async def script(app, pilot, screen, run):
        pass

    watch(script, tmp_path)
    assert asked and not drawn


def test_a_requested_sample_is_shown_when_it_arrives(tmp_path):
    async def script(app, pilot, screen, run):
        await pilot.press("s")
        await wait_until(pilot, lambda: isinstance(app.screen, InputDialog))
        app.screen.query_one("Input").value = "Once upon"
        await pilot.press("enter")
        sent = []
        await wait_until(pilot, lambda: sent.extend(run.take_commands()) or sent)
        assert app.screen is screen and sent == [("sample", {"prompt": "Once upon"})]
        add_sample(run, 410, "Once upon")
        samples = screen.query_one(SamplesView)
        await wait_until(pilot, lambda: "Once upon" in samples.prompts)
        await wait_until(pilot, lambda: "step 410" in text_of(samples, ".step"))

    watch(script, tmp_path)


def test_samples_move_in_time_and_between_prompts(tmp_path):
    async def script(app, pilot, screen, run):
        await pilot.press("2")
        samples = screen.query_one(SamplesView)
        columns = lambda: [str(w.render()) for w in samples.query(".step") if w.parent.display]  # noqa: E731
        await wait_until(pilot, lambda: columns() == ["step 700", "step 800", "step 900"])
        await pilot.press("left")
        assert columns() == ["step 600", "step 700", "step 800"]
        await pilot.press("right", "right", "right")
        assert columns() == ["step 700", "step 800", "step 900"]
        add_sample(run, 910, "Another")
        await wait_until(pilot, lambda: len(samples.prompts) == 2)
        await pilot.press("right_square_bracket")
        assert columns() == ["step 910"]
        await pilot.press("left_square_bracket", "down", "up")
        assert len(columns()) == 3

    watch(script, tmp_path, step=900)


def test_charts_follow_zoom_pan_smooth_and_reset(tmp_path):
    async def script(app, pilot, screen, run):
        board = screen.query_one(ChartBoard)
        chart = screen.query(Chart).first()
        await wait_until(pilot, lambda: chart._datasets and chart._x_max == 400)
        await pilot.press("plus", "plus")
        zoomed = (chart._x_min, chart._x_max)
        assert 1 < zoomed[0] < zoomed[1] < 400
        await pilot.press("right")
        assert chart._x_min > zoomed[0]
        await pilot.press("left", "minus", "up", "down", "shift+up", "shift+down", "r")
        assert (chart._x_min, chart._x_max) == (1, 400) or chart._auto_x_min
        await pilot.press("o")
        assert chart.smoothing == 0.6
        await pilot.press("o", "o", "o", "l")
        assert chart.smoothing == 0.0 and chart.log_scale
        await pilot.press("l", "m")
        assert board.visible_names == ["gradient norm"]
        await pilot.press("M")
        assert board.visible_names == ["loss"]
        run.append("metrics", metric(410, time.time(), 1000))
        await wait_until(pilot, lambda: chart._x_max == 410)

    watch(script, tmp_path, size=(80, 24))


def test_the_mouse_zooms_and_drags(tmp_path):
    async def script(app, pilot, screen, run):
        chart = screen.query(Chart).first()
        await wait_until(pilot, lambda: chart._datasets and chart._x_max == 400)
        from textual.events import MouseScrollUp

        x, y = chart.region.center
        event = MouseScrollUp(chart, int(x), int(y), 0, 0, 0, False, False, False, int(x), int(y))
        app.screen._forward_event(event)
        await wait_until(pilot, lambda: chart.is_zoomed)
        assert chart._x_max - chart._x_min < 399

    watch(script, tmp_path)


def test_views_change_by_key_and_mouse(tmp_path):
    async def script(app, pilot, screen, run):
        switcher = screen.query_one("#switcher")
        for key, name in (("2", "samples"), ("3", "log"), ("4", "config"), ("1", "charts")):
            await pilot.press(key)
            assert switcher.current == name
        await pilot.press("tab")
        assert switcher.current == "samples"
        await pilot.click(screen.query("Tabs Tab")[2])
        assert switcher.current == "log"
        await wait_until(pilot, lambda: screen.query_one("#log").line_count > 3)
        await pilot.press("4")
        await wait_until(pilot, lambda: "hidden_dim" in text_of(screen, "#config-table"))
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(app.screen, RunsScreen))

    watch(script, tmp_path)


@pytest.mark.parametrize(
    ("made", "said", "keys"),
    [
        ({"state": "compiling", "step": 0}, "compiled", {"pause", "stop"}),
        ({"state": "validating"}, "validation loss", {"pause", "stop"}),
        ({"state": "saving"}, "checkpoint", {"pause", "stop"}),
        ({"state": "paused"}, "continues", {"unpause", "stop"}),
        ({"state": "finished", "step": 1000}, "ended", {"train_longer"}),
        ({"state": "failed", "error": "The loss became nan."}, "Press g", {"resume"}),
        ({"state": "training", "pid": 0}, "Press g to resume from step 400", {"resume"}),
    ],
)
def test_each_state_has_a_note_and_its_commands(tmp_path, made, said, keys):
    async def script(app, pilot, screen, run):
        shown = text_of(screen, RunHeader) + text_of(screen, "#banner")
        assert said in shown
        offered = {
            action
            for action in ("pause", "unpause", "resume", "train_longer", "stop")
            if screen.check_action(action, ())
        }
        assert offered == keys

    if made.get("pid") == 0:
        made = made | {"pid": dead_pid()}
    watch(script, tmp_path, **made)


def test_the_resume_key_starts_the_trainer_again(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(
        launch, "_spawn_trainer", lambda run, *more: started.append((run.name, *more))
    )

    async def script(app, pilot, screen, run):
        await pilot.press("g")
        assert [(name, backend) for name, backend, *_ in started] == [("fox", "jax")]

    watch(script, tmp_path, pid=dead_pid())


def test_a_finished_run_is_trained_longer(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(launch, "_spawn_trainer", lambda run, *more: started.append(more))

    async def script(app, pilot, screen, run):
        await pilot.press("g")
        await wait_until(pilot, lambda: isinstance(app.screen, InputDialog))
        app.screen.query_one("Input").value = "12"
        await pilot.press("enter")
        assert isinstance(app.screen, InputDialog)  # not above the steps already done
        app.screen.query_one("Input").value = "1500"
        await pilot.press("enter")
        await wait_until(pilot, lambda: started)
        assert started[0][1] == ["--train.max-steps", "1500"]

    watch(script, tmp_path, state="finished", step=1000)


def test_chat_takes_the_run_or_says_why_not(tmp_path, monkeypatch):
    asked = []

    async def script(app, pilot, screen, run):
        monkeypatch.setattr(app, "open_chat", asked.append)
        await pilot.press("t")
        assert asked == ["fox"]
        shutil.rmtree(run.checkpoints)
        await pilot.press("t")
        assert asked == ["fox"] and "no checkpoint to chat with yet" in said(app)

    watch(script, tmp_path)


def test_a_damaged_run_directory_is_still_shown(tmp_path):
    async def script(app, pilot, screen, run):
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 410, "loss": 1.')
        (run.path / "status.json").write_text("{nonsense")
        await pilot.pause(0.7)
        assert screen.monitor.status.step == 400
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write(
                '5}\n[]\n{"step": 420, "loss": NaN}\n' + json.dumps({"step": 430, "loss": 2}) + "\n"
            )
        await wait_until(pilot, lambda: screen.monitor.history.last["loss"] == 2)
        run.append(
            "samples", {"step": 5, "prompt": "[/b]\x1b[2J", "text": "\u202e[red]x[/abc]\x07"}
        )
        run.log.write_text("[/nonsense]\x1b[31m\n")
        await pilot.press("2")
        await wait_until(pilot, lambda: "[/b]\x1b[2J" in screen.query_one(SamplesView).prompts)
        await pilot.press("right_square_bracket", "3", "4", "1")
        shutil.rmtree(run.path)
        await wait_until(pilot, lambda: screen.monitor.state == "gone")
        await pilot.press("p", "c", "g", "t", "4", "1")
        assert "deleted" in text_of(screen, "#banner")

    watch(script, tmp_path)


def test_metrics_that_are_truncated_are_drawn_again(tmp_path):
    async def script(app, pilot, screen, run):
        run.truncate_after(200)
        await wait_until(pilot, lambda: screen.monitor.history.curve("loss")[0][-1] == 200)
        panel = screen.query(ChartPanel).first()
        await wait_until(pilot, lambda: panel.chart._x_max == 200)

    watch(script, tmp_path)


def test_the_side_shows_what_the_trainer_wrote_and_no_noise(tmp_path):
    async def script(app, pilot, screen, run):
        with run.log.open("a") as log:
            log.write("2026-01-02T03:04:05 step 400  loss 1.2345\n")
            log.write("".join(f"W0000 {n} cuda_dnn.cc:1] noise of a library\n" for n in range(99)))
        await wait_until(pilot, lambda: "loss 1.2345" in screen_text(app))
        assert "noise" not in screen_text(app)

    watch(script, tmp_path)


def test_a_closed_screen_is_not_updated(tmp_path, monkeypatch):
    async def script(app, pilot, screen, run):
        updates = []
        monkeypatch.setattr(screen, "update_view", lambda: updates.append(screen))
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await wait_until(pilot, lambda: not screen.is_attached or not screen.children)
        updates.clear()
        screen.update_if_visible()
        assert not updates

    watch(script, tmp_path)
