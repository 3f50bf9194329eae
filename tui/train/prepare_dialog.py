"""The dialog that prepares a data set from text files."""

from __future__ import annotations

import sys
from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Grid, Vertical
from textual.screen import ModalScreen
from textual.suggester import SuggestFromList
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from kgpt.errors import KgptError
from kgpt_tui.models.discovery import read_data_set, texts
from kgpt_tui.shared.dialogs import DismissOnceMixin
from kgpt_tui.shared.display import one_line, sanitize
from kgpt_tui.train.data_preparation import DataPreparation
from kgpt_tui.train.option_rows import Choice

KINDS = ("bpe", "char", "byte")
BUILT_IN = {
    "tinyworld": "synthetic stories and questions, generated here",
    "shakespeare": "tiny Shakespeare, character-level, downloaded",
}


class PrepareDialog(DismissOnceMixin, ModalScreen[str | None]):
    """Asks for text and an output folder and runs `kgpt data`; returns the folder, or None."""

    CSS_PATH = "prepare_dialog.tcss"
    HELP_TITLE = "A new data set"
    BINDINGS = [
        Binding("escape", "cancel", "Cancel", id="prepare.cancel"),
        Binding("ctrl+s", "prepare", "Prepare", id="prepare.start", priority=True),
        Binding("down", "app.focus_next", "Next field", id="prepare.next", show=False),
        Binding("up", "app.focus_previous", "Previous field", id="prepare.before", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._files = [str(path) for path in texts()]
        self._preparation: DataPreparation | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static("A data set from your text", classes="title")
            with Grid(id="fields"):
                yield Static("text", classes="name")
                yield Input(
                    placeholder="a file, a folder, a glob, or hf:owner/name",
                    suggester=SuggestFromList(self._files), compact=True, id="source",
                )  # fmt: skip
                yield Static("tokenizer", classes="name")
                yield Choice(KINDS, "bpe", id="kind")
                yield Static("vocabulary", classes="name")
                yield Input("4096", type="integer", compact=True, id="size")
                yield Static("output", classes="name")
                yield Input("data/mine", compact=True, id="out")
            yield Static("sources found here", classes="name")
            yield OptionList(
                *(Option(one_line(path, 56), path) for path in self._files[:50]),
                *(Option(f"{name}: {detail}", name) for name, detail in BUILT_IN.items()),
                id="files",
                markup=False,
                compact=True,
            )
            yield Static(id="progress", markup=False)
            yield Button("Prepare  ^s", id="start", variant="primary", compact=True)

    @on(OptionList.OptionSelected)
    def _source_selected(self, event: OptionList.OptionSelected) -> None:
        self.query_one("#source", Input).value = event.option_id or ""
        self.query_one("#kind").focus()

    @on(Input.Changed, "#source")
    def _source_changed(self, event: Input.Changed) -> None:
        stem = Path(event.value.rstrip("/") or "mine").name.split(".")[0]
        if stem and "*" not in stem:
            self.query_one("#out", Input).value = str(Path("data") / stem)

    @on(Button.Pressed, "#start")
    def action_prepare(self) -> None:
        if self._preparation is None:
            self._prepare()

    @work(exclusive=True, exit_on_error=False)
    async def _prepare(self) -> None:
        source, size, out = (
            self.query_one(f"#{n}", Input).value for n in ("source", "size", "out")
        )
        if problem := self._problem(source, size, out):
            self._show_progress(problem)
            return
        command = [sys.executable, "-m", "kgpt", "data", "get", source, "--out", out]
        if source not in BUILT_IN:
            kind = self.query_one("#kind", Choice).value
            command[4:] = ["prepare", source, "--out", out, "--tokenizer", kind]
            command += ["--vocab-size", size]
        self._show_progress("starting …")
        try:
            preparation = self._preparation = DataPreparation(command)
            await preparation.wait(
                lambda stage: self._show_progress("\n".join([*preparation.recognized, stage]))
            )
            said = "\n".join([*preparation.recognized, f"It is prepared in {out}."])
            self.app.notify(sanitize(said), markup=False)
            self.dismiss(out)
        except (KgptError, OSError) as error:
            self._show_progress(str(error))
        finally:
            self._preparation = None

    def _problem(self, source: str, size: str, out: str) -> str:
        if not source.strip():
            return "Name a text file, a folder, a glob, or a data set of the Hub as hf:owner/name."
        if not out.strip():
            return "Name the folder to write the data set to."
        if read_data_set(Path(out)) is not None:
            return f"{out} contains a data set already; choose another folder."
        if not size.isdigit() or int(size) < 1:
            return "The vocabulary is a number of tokens, such as 4096."
        return ""

    def _show_progress(self, text: str) -> None:
        self.query_one("#progress", Static).update(sanitize(text))

    def action_cancel(self) -> None:
        if self._preparation is not None:
            self._preparation.cancel()
        self.dismiss(None)
