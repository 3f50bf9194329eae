"""The configuration of a run; what differs from the defaults stands out."""

from __future__ import annotations

from typing import Any

import yaml
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from kgpt.config import Config
from kgpt.runs import Run
from kgpt_tui.shared.display import one_line


def flat_config(run: Run) -> dict[str, Any]:
    """{"section.key": value} of run.yaml; nothing if it cannot be read."""
    try:
        values = yaml.safe_load(run.config_text())
        return {f"{s}.{k}": value for s, keys in values.items() for k, value in keys.items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError):
        return {}


class RunSettings(VerticalScroll, can_focus=True):
    """Every key of run.yaml with its value."""

    HELP_TITLE = "Settings of the run"

    def __init__(self, run: Run, id: str | None = None):
        super().__init__(id=id)
        self._run = run

    def compose(self) -> ComposeResult:
        yield Static(id="settings-table")

    def on_show(self) -> None:
        self.query_one(Static).update(self._content())

    def _content(self) -> Content:
        values = flat_config(self._run)
        if not values:
            return Content.styled(" run.yaml cannot be read.", "$foreground-muted")
        usual = {
            f"{s}.{k}": v for s, keys in Config().model_dump(mode="json").items()
            for k, v in keys.items()
        }  # fmt: skip
        width = max(len(key.split(".", 1)[1]) for key in values)
        lines, section = [], ""
        for key, value in values.items():
            owner, name = key.split(".", 1)
            if owner != section:
                lines += [Content(""), Content.styled(f" {owner}", "bold $primary")]
                section = owner
            changed = value != usual.get(key)
            lines.append(
                Content.assemble(
                    (
                        f"   {one_line(name):<{width}}  ",
                        "$foreground" if changed else "$foreground-muted",
                    ),
                    (
                        one_line(str(value), 120),
                        "bold $foreground" if changed else "$foreground-muted",
                    ),
                )
            )
        return Content("\n").join(lines[1:])
