"""Leaving the app while runs that it started are going on: stop them, leave them, or stay."""

from __future__ import annotations

from textual.app import App

from kgpt.errors import KgptError
from kgpt_tui.shared.dialogs import ChoiceDialog
from kgpt_tui.train import launch


async def leave(app: App) -> None:
    """End the app, after asking what becomes of the runs started here."""
    alive = launch.alive()
    if not alive:
        app.exit()
        return
    names = ", ".join(run.name for run in alive)
    answer = await app.push_screen_wait(
        ChoiceDialog(
            "Leave kgpt?",
            f"Still training: {names}. Detached, it goes on without the app, "
            "and can be watched again at any time.",
            {"d": "Detach", "s": "Stop and save", "c": "Stay"},
        )
    )
    if answer == "s":
        for run in alive:
            try:
                run.send("stop")
            except (KgptError, OSError) as error:
                app.notify(str(error), severity="error", markup=False)
                return
    if answer in ("d", "s"):
        app.exit()
