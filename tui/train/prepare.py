"""Making a data set of text files, with its progress."""

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
from kgpt_tui.shared.option_rows import Choice
from kgpt_tui.train.preparation import Preparation

KINDS = ("bpe", "char", "byte")
KNOWN = {
    "tinyworld": "a little world of stories and questions, made here",
    "shakespeare": "tiny Shakespeare by characters, downloaded",
}


class PrepareScreen(DismissOnceMixin, ModalScreen[str | None]):
    """Asks for text and a folder, runs `kgpt data prepare`; gives the folder, or None."""

    CSS_PATH = "prepare.tcss"
    HELP_TITLE = "A new data set"
    BINDINGS = [
        Binding("escape", "cancel", "Cancel", id="prepare.cancel"),
        Binding("ctrl+s", "go", "Make it", id="prepare.go", priority=True),
        Binding("down", "app.focus_next", "Next field", id="prepare.next", show=False),
        Binding("up", "app.focus_previous", "Field before", id="prepare.before", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._files = [str(path) for path in texts()]
        self._preparing: Preparation | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static("A data set of your text", classes="title")
            with Grid(id="fields"):
                yield Static("text", classes="name")
                yield Input(
                    placeholder="a file, a folder or a glob",
                    suggester=SuggestFromList(self._files), compact=True, id="source",
                )  # fmt: skip
                yield Static("tokenizer", classes="name")
                yield Choice(KINDS, "bpe", id="kind")
                yield Static("vocabulary", classes="name")
                yield Input("4096", type="integer", compact=True, id="size")
                yield Static("into", classes="name")
                yield Input("data/mine", compact=True, id="out")
            yield Static("what there is", classes="name")
            yield OptionList(
                *(Option(one_line(path, 56), path) for path in self._files[:50]),
                *(Option(f"{name}: {what}", name) for name, what in KNOWN.items()),
                id="files",
                markup=False,
                compact=True,
            )
            yield Static(id="progress", markup=False)
            yield Button("Make it  ^s", id="go", variant="primary", compact=True)

    @on(OptionList.OptionSelected)
    def _picked(self, event: OptionList.OptionSelected) -> None:
        self.query_one("#source", Input).value = event.option_id or ""
        self.query_one("#kind").focus()

    @on(Input.Changed, "#source")
    def _named(self, event: Input.Changed) -> None:
        stem = Path(event.value.rstrip("/") or "mine").name.split(".")[0]
        if stem and "*" not in stem:
            self.query_one("#out", Input).value = str(Path("data") / stem)

    @on(Button.Pressed, "#go")
    def action_go(self) -> None:
        if self._preparing is None:
            self._make()

    @work(exclusive=True, exit_on_error=False)
    async def _make(self) -> None:
        source, size, out = (
            self.query_one(f"#{n}", Input).value for n in ("source", "size", "out")
        )
        if problem := self._problem(source, size, out):
            self._say(problem)
            return
        command = [sys.executable, "-m", "kgpt", "data", "get", source, "--out", out]
        if source not in KNOWN:
            kind = self.query_one("#kind", Choice).value
            command[4:] = ["prepare", source, "--out", out, "--tokenizer", kind]
            command += ["--vocab-size", size]
        self._say("starting …")
        try:
            self._preparing = Preparation(command)
            await self._preparing.finish(self._say)
            self.dismiss(out)
        except (KgptError, OSError) as error:
            self._say(str(error))
        finally:
            self._preparing = None

    def _problem(self, source: str, size: str, out: str) -> str:
        if not source.strip():
            return "Name a text file, a folder or a glob."
        if not out.strip():
            return "Name the folder that the data set is written into."
        if read_data_set(Path(out)) is not None:
            return f"{out} holds a data set already; choose another folder."
        if not size.isdigit() or int(size) < 1:
            return "The vocabulary is a number of tokens, such as 4096."
        return ""

    def _say(self, text: str) -> None:
        self.query_one("#progress", Static).update(sanitize(text))

    def action_cancel(self) -> None:
        if self._preparing is not None:
            self._preparing.cancel()
        self.dismiss(None)
