"""The configuration of a run, with the values that differ from the defaults highlighted."""

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

MUTED = "$foreground-muted"


def flatten(values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Nested sections as {"section.key": value}."""
    return {f"{s}.{key}": value for s, keys in values.items() for key, value in keys.items()}


def flat_config(run: Run) -> dict[str, Any]:
    """run.yaml as {"section.key": value}; empty if it cannot be read."""
    try:
        return flatten(yaml.safe_load(run.config_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError):
        return {}


class RunConfigView(VerticalScroll, can_focus=True):
    """Every option in run.yaml with its value."""

    HELP_TITLE = "Configuration"

    def __init__(self, run: Run, id: str | None = None):
        super().__init__(id=id)
        self._run = run

    def compose(self) -> ComposeResult:
        yield Static(id="config-table")

    def on_show(self) -> None:
        self.query_one(Static).update(self._content())

    def _content(self) -> Content:
        values = flat_config(self._run)
        if not values:
            return Content.styled(" run.yaml cannot be read.", "$foreground-muted")
        defaults = flatten(Config().model_dump(mode="json"))
        width = max(len(key.split(".", 1)[1]) for key in values)
        lines, section = [], ""
        for key, value in values.items():
            owner, name = key.split(".", 1)
            if owner != section:
                lines += [Content(""), Content.styled(f" {owner}", "bold $primary")]
                section = owner
            changed = value != defaults.get(key)
            styles = ("$foreground", "bold $foreground") if changed else (MUTED, MUTED)
            lines.append(
                Content.assemble(
                    (f"   {one_line(name):<{width}}  ", styles[0]),
                    (one_line(str(value), 120), styles[1]),
                )
            )
        return Content("\n").join(lines[1:])
