"""The state of a run as a watcher sees it, and how each state looks."""

from __future__ import annotations

from textual.content import Content

from kgpt.runs import FINAL_STATES, Run, RunStatus
from kgpt_tui.shared import launch

ACTIVE_STATES = (
    "starting", "compiling", "training", "paused", "validating", "sampling", "saving",
)  # fmt: skip
ENDED_STATES = (*FINAL_STATES, "dead")
STATE_COLORS = {
    "training": "$success",
    "finished": "$primary",
    "paused": "$warning",
    "stopped": "$foreground-muted",
    "failed": "$error",
    "dead": "$error",
    "gone": "$foreground-muted",
}
TRANSIENT_COLOR = "$accent"  # of all other states
STATE_NOTES = {
    "starting": "the libraries are being loaded",
    "compiling": "the first step is being compiled; this can take a minute",
    "validating": "the validation loss is being computed",
    "sampling": "a sample is being generated",
    "saving": "a checkpoint is being saved",
    "paused": "p continues",
    "dead": "its process is gone",
    "gone": "its folder was deleted",
}


def effective_state(run: Run, status: RunStatus | None = None) -> str:
    """The state in status.json, or `dead` (the process is gone), or `gone` (the folder is)."""
    if not run.exists:
        return "gone"
    status = status or run.status()
    launch.reap_children()
    return "dead" if status.is_dead else status.state


def state_color(state: str) -> str:
    return STATE_COLORS.get(state, TRANSIENT_COLOR)


def state_badge(state: str) -> Content:
    """A state as a coloured dot and its name."""
    color = state_color(state)
    return Content.assemble(("● ", color), (state, f"bold {color}"))
