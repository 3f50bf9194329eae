"""What the user prefers, kept in a file: theme, keys, rendering, sampling presets.

A damaged or unwritable file is never fatal: the defaults serve, and `problem` says why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from platformdirs import user_config_path, user_data_path
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kgpt.errors import KgptError
from kgpt.files import os_errors_as_kgpt, write_text

DARK, LIGHT = "kgpt-dark", "kgpt-light"


def config_file() -> Path:
    """Where the settings live on this system."""
    return user_config_path("kgpt") / "tui.json"


def data_folder() -> Path:
    """Where the conversations live on this system."""
    return user_data_path("kgpt")


class Settings(BaseModel):
    """Each field is a preference; all have defaults."""

    model_config = ConfigDict(extra="ignore", validate_assignment=True)

    theme: str = Field(DARK, description="Colours of the app.")
    compact: bool = Field(False, description="No empty lines between messages.")
    rendering: Literal["auto", "plain", "markdown"] = Field(
        "auto", description="How answers are shown; auto is Markdown for chat models."
    )
    colouring: Literal["probability", "entropy"] = Field(
        "probability", description="What the colours of inspected tokens mean."
    )
    sidebar: bool = Field(True, description="List of conversations where there is room.")
    panel: Literal["sampling", "tokens", "none"] = Field(
        "sampling", description="What the right side of a chat shows where there is room."
    )
    last_model: str | None = Field(None, description="The model chatted with last.")
    presets: dict[str, dict[str, Any]] = Field({}, description="Sampling presets of your own.")
    keys: dict[str, str] = Field({}, description="Keys by the id of what they do.")


class SettingsFile:
    """Settings with the file they came from."""

    def __init__(self, path: Path | None = None):
        self.path = path or config_file()
        self.problem = ""
        self.values = self._read()

    def _read(self) -> Settings:
        try:
            return Settings.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return Settings()  # type: ignore[call-arg]
        except (OSError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            self.problem = f"The settings in {self.path} could not be read ({reason})."
            return Settings()  # type: ignore[call-arg]

    def save(self) -> str:
        """Write the settings; returns what went wrong, or an empty string."""
        try:
            with os_errors_as_kgpt(f"save the settings in {self.path}"):
                write_text(self.path, self.values.model_dump_json(indent=2) + "\n")
        except KgptError as error:
            self.problem = str(error)
            return self.problem
        return ""
