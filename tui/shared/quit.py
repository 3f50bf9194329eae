"""Quitting the app while runs that it started are active: stop them, detach them, or stay."""

from __future__ import annotations

from typing import Any

from textual.app import App

from kgpt.errors import KgptError
from kgpt_tui.shared import launch
from kgpt_tui.shared.dialogs import ChoiceDialog


async def quit_app(app: App[Any]) -> None:
    """Exit, after asking what to do with active runs that were started here."""
    active = launch.active_runs()
    if not active:
        app.exit()
        return
    names = ", ".join(run.name for run in active)
    answer = await app.push_screen_wait(
        ChoiceDialog(
            "Quit kgpt?",
            f"Still training: {names}. A detached run continues without the app "
            "and can be watched again at any time.",
            {"d": "Detach", "s": "Stop and save", "c": "Cancel"},
        )
    )
    if answer == "s":
        for run in active:
            try:
                run.send("stop")
            except (KgptError, OSError) as error:
                app.notify(str(error), severity="error", markup=False)
                return
    if answer in ("d", "s"):
        app.exit()
