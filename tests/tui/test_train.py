"""The form that starts a run: validation, cost estimate, data preparation, launch."""

import json

import pytest

from kgpt.config import Config
from kgpt.errors import RunError, UsageError
from kgpt_tui.runs.watch import WatchScreen
from kgpt_tui.shared import launch
from kgpt_tui.train import screen as train
from kgpt_tui.train.cost import Throughput, estimate_cost
from kgpt_tui.train.option_rows import Choice, OptionRow
from kgpt_tui.train.prepare_dialog import PrepareDialog
from kgpt_tui.train.run_form import RunForm, form_fields
from kgpt_tui.train.screen import TrainScreen
from tests.tui.driving import drive, said, wait_until
from tests.tui.fake_trainer import make_run


def make_data(folder, tokens=5000, vocabulary=300):
    folder.mkdir(parents=True)
    splits = {"train": {"tokens": tokens}}
    (folder / "manifest.json").write_text(json.dumps({"vocab_size": vocabulary, "splits": splits}))


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path / "data" / "tinyworld")


def form(script, tmp_path, size=(120, 40)):
    async def opened(app, pilot):
        app.switch_mode("train")
        await wait_until(pilot, lambda: isinstance(app.screen, TrainScreen) and app.screen.data)
        await script(app, pilot, app.screen)

    drive(opened, tmp_path, size)


def text_of(screen, selector):
    return str(screen.query_one(selector).render())


def row_of(screen, key):
    return next(row for row in screen.query(OptionRow) if row.field.key == key)


# -- without widgets ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "part"),
    [
        ("train.max_steps", "0", "greater than or equal to 1"),
        ("train.max_steps", "many", "valid integer"),
        ("train.beta_1", "", "valid number"),
        ("train.sample_prompts", "[1", "cannot be parsed"),
        ("model.dropout", "1", "less than 1"),
    ],
)
def test_invalid_values_give_the_configurations_message(key, text, part):
    edited = RunForm("tinyworld")
    edited.edit(key, text)
    config, wrong, said = edited.check()
    assert config is None and wrong == key and part in said


def test_values_that_do_not_fit_together_are_refused():
    edited = RunForm("tinyworld")
    edited.edit("model.num_heads", "5")
    assert "not a multiple of num_heads 5" in edited.check()[2]


@pytest.mark.parametrize("preset", ["tinyworld", "gpt2", "llama-tiny", "qlora"])
def test_displayed_values_parse_to_the_preset(preset):
    edited = RunForm(preset)
    for field in form_fields():
        edited.edits[field.key] = edited.preset_text(field.key)  # as if all was typed again
    assert edited.check()[0] == Config.load(preset)


def test_typing_the_presets_value_is_no_edit():
    edited = RunForm("tinyworld")
    edited.edit("train.seed", "5")
    edited.edit("train.seed", edited.preset_text("train.seed"))
    assert not edited.edits


def test_options_that_are_derived_follow_an_edit():
    edited = RunForm("tinyworld")
    assert edited.text("model.head_dim") == ""  # not set: hidden_dim / num_heads
    edited.edit("model.hidden_dim", "256")
    config = edited.check()[0]
    assert config.model.head_dim == 64
    assert config.model.model_dump()["head_dim"] is None


def test_a_preset_that_fine_tunes_asks_for_the_model(tmp_path):
    async def script(app, pilot, screen):
        screen.query_one("#preset", Choice).value = "lora"
        await wait_until(pilot, lambda: "Name the model" in text_of(screen, "#problem"))
        assert "fine-tuning depends on the model" in text_of(screen, "#cost")
        row_of(screen, "finetune.model").editor.value = "demo"
        await wait_until(pilot, lambda: "Name the model" not in text_of(screen, "#problem"))

    form(script, tmp_path)


def test_the_cost_has_a_time_only_if_measured():
    config = Config.load("tinyworld")
    unknown = estimate_cost(config, 300, "jax")
    assert unknown.time_s is None and unknown.parameters * 4 == unknown.weights
    steps, batch, length = config.train.max_steps, config.train.batch_size, config.model.max_length
    assert unknown.tokens == steps * batch * length
    full = config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": 300})})
    throughputs = [Throughput("fox", full, "jax", 1000.0), Throughput("owl", full, "torch", 9000.0)]
    measured = estimate_cost(config, 300, "jax", throughputs)
    assert measured.time_s == pytest.approx(unknown.tokens / 1000)
    assert measured.basis == "measured in fox"
    with pytest.raises(UsageError, match="vocabulary"):
        estimate_cost(config, None, "jax")
    assert estimate_cost(Config.load("gpt2"), 300, "jax", throughputs).time_s is None  # too large


def test_options_that_save_memory_lower_the_estimate():
    config = Config.load("gpt2")
    least = estimate_cost(config, 50257, "jax").memory
    for changes in ({"optimizer": "lion"}, {"gradient_checkpointing": True}, {"batch_size": 1}):
        train_config = config.train.model_copy(update=changes)
        smaller = config.model_copy(update={"train": train_config})
        assert estimate_cost(smaller, 50257, "jax").memory < least


def test_an_existing_run_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "_spawn_trainer", lambda *_: None)
    launch.start(Config.load("tinyworld"), "fox", "jax").append("metrics", {"step": 1})
    with pytest.raises(RunError, match="exists already"):
        launch.start(Config.load("tinyworld"), "fox", "jax")
    with pytest.raises(UsageError):
        launch.start(Config.load("tinyworld"), "../fox", "jax")


# -- with the screen ---------------------------------------------------------------------------


def test_each_edit_is_validated_and_its_cost_shown(tmp_path):
    async def script(app, pilot, screen):
        parameters = text_of(screen, "#cost")
        assert "unknown until measured" in parameters
        row = row_of(screen, "model.num_layers")
        row.editor.focus()
        await pilot.press("end", "backspace")
        assert row.has_class("-wrong") or screen.query_one("#start").disabled
        await pilot.press("8")
        assert not screen.query_one("#start").disabled and row.has_class("-edited")
        assert text_of(screen, "#cost") != parameters
        assert "model.num_layers" in text_of(screen, "#help")
        await pilot.press("ctrl+r")
        assert row.editor.value == "4" and not row.has_class("-edited")
        row_of(screen, "train.seed").editor.value = "77"
        await wait_until(pilot, lambda: "train.seed" in screen.form.edits)
        await pilot.press("ctrl+l")
        assert set(screen.form.edits) <= {"data.dir"}
        assert row_of(screen, "train.seed").editor.value == screen.form.preset_text("train.seed")

    form(script, tmp_path)


def test_nothing_is_edited_by_opening_the_screen_or_choosing_a_preset(tmp_path, monkeypatch):
    """Each input announces its first value; to check the whole form for each takes a second."""
    edits = []
    monkeypatch.setattr(RunForm, "edit", lambda form, key, text: edits.append((key, text)))

    async def script(app, pilot, screen):
        screen.query_one("#preset", Choice).action_move(1)
        await pilot.pause()
        row = row_of(screen, "train.max_steps")
        row.editor.value = "77"
        await wait_until(pilot, lambda: edits)
        assert edits == [("train.max_steps", "77")]

    form(script, tmp_path)


def test_choices_cycle_and_search_filters(tmp_path):
    async def script(app, pilot, screen):
        usual = screen.form.preset_text("train.optimizer")
        await pilot.press("ctrl+f", *"optimizer", "enter")
        visible = [row.field.key for row in screen.query(OptionRow) if row.display]
        assert visible == ["train.optimizer"] and screen.focused.value == usual
        await pilot.press("right")
        assert screen.form.check()[0].train.optimizer != usual
        await pilot.press("left", "space", "escape")
        assert len([row for row in screen.query(OptionRow) if row.display]) > 40
        await pilot.press("escape")
        await wait_until(pilot, lambda: app.current_mode == "home")

    form(script, tmp_path)


def test_another_preset_fills_the_form(tmp_path):
    async def script(app, pilot, screen):
        screen.query_one("#preset", Choice).value = "gpt2"
        await wait_until(pilot, lambda: row_of(screen, "model.num_layers").editor.value == "12")
        assert screen.query_one("#run").value == "gpt2"
        assert "Choose a data set" in text_of(screen, "#problem")
        screen.query_one("#data", Choice).value = "data/tinyworld"
        await wait_until(pilot, lambda: not screen.query_one("#start").disabled)

    form(script, tmp_path)


def test_another_preset_keeps_the_data_set_and_what_was_edited(tmp_path):
    async def script(app, pilot, screen):
        screen.query_one("#preset", Choice).value = "gpt2"
        await wait_until(pilot, lambda: screen.query_one("#run").value == "gpt2")
        screen.query_one("#data", Choice).value = "data/tinyworld"
        row_of(screen, "train.seed").editor.value = "77"
        await wait_until(pilot, lambda: screen.form.edits.get("train.seed") == "77")
        screen.query_one("#preset", Choice).value = "llama-tiny"
        await wait_until(pilot, lambda: screen.query_one("#run").value == "llama-tiny")
        assert screen.query_one("#data", Choice).value == "data/tinyworld"
        assert row_of(screen, "train.seed").editor.value == "77"
        assert screen.form.text("train.seed") == "77"

    form(script, tmp_path)


def test_start_writes_the_run_and_watches_it(tmp_path, monkeypatch):
    started = []

    def start(config, name, backend):
        started.append((config, name, backend))
        return make_run(tmp_path / "runs", name, 0, state="starting")

    monkeypatch.setattr(launch, "start", start)

    async def script(app, pilot, screen):
        screen.query_one("#run").value = "a/b"
        await pilot.press("ctrl+s")
        assert not started and "cannot name a run" in text_of(screen, "#problem")
        screen.query_one("#run").value = "mine"
        row_of(screen, "train.max_steps").editor.value = "20"
        await pilot.pause()
        await pilot.press("ctrl+s")
        await wait_until(pilot, lambda: isinstance(app.screen, WatchScreen))
        config, name, backend = started[0]
        assert (config.train.max_steps, name) == (20, "mine") and backend in screen.backends

    form(script, tmp_path)


def test_the_measurement_is_shown_as_such(tmp_path, monkeypatch):
    async def measure_throughput(config, backend):
        model = config.model.model_copy(update={"vocab_size": 300})
        return Throughput("x", config.model_copy(update={"model": model}), backend, 2000.0)

    monkeypatch.setattr(train, "measure_throughput", measure_throughput)

    async def script(app, pilot, screen):
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: "measured in these steps" in text_of(screen, "#cost"))

    form(script, tmp_path)


def test_a_data_set_is_asked_for(tmp_path):
    (tmp_path / "novel.txt").write_text("It was a dark night. " * 50)

    async def script(app, pilot, screen):
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: isinstance(app.screen, PrepareDialog))
        dialog = app.screen
        await pilot.press("ctrl+s")
        await wait_until(pilot, lambda: "Name a text file" in text_of(dialog, "#progress"))
        dialog.query_one("#source").value = "novel.txt"
        await pilot.pause()
        assert dialog.query_one("#out").value == "data/novel"
        dialog.query_one("#kind", Choice).value = "byte"
        await pilot.press("ctrl+s")
        await wait_until(pilot, lambda: screen.form.text("data.dir") == "data/novel")
        assert "novel.txt: text, 1.1 kB\nIt is prepared in data/novel." in said(app)
        assert app.screen is screen
        assert "data/novel" in screen.query_one("#data", Choice).choices

    form(script, tmp_path)
