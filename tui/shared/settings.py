"""User settings, saved as JSON: theme, key bindings, rendering, sampling presets.

A damaged or unwritable file is never fatal: the defaults are used, and `problem` says why.
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
    """The settings file of this user."""
    return user_config_path("kgpt") / "tui.json"


def data_folder() -> Path:
    """The folder of this user's conversations."""
    return user_data_path("kgpt")


class Settings(BaseModel):
    """The settings and their defaults."""

    model_config = ConfigDict(extra="ignore", validate_assignment=True)

    theme: str = Field(DARK, description="Colours of the app.")
    compact: bool = Field(False, description="No empty lines between messages.")
    rendering: Literal["auto", "plain", "markdown"] = Field(
        "auto", description="How answers are rendered; auto: Markdown for chat models."
    )
    colouring: Literal["probability", "entropy"] = Field(
        "probability", description="What the colours of inspected tokens mean."
    )
    sidebar: bool = Field(True, description="Show the list of conversations on wide terminals.")
    panel: Literal["sampling", "tokens", "none"] = Field(
        "sampling", description="The right panel of the chat on wide terminals."
    )
    last_model: str | None = Field(None, description="The last model used in the chat.")
    presets: dict[str, dict[str, Any]] = Field({}, description="Your own sampling presets.")
    keys: dict[str, str] = Field({}, description="Key bindings by binding id.")


class SettingsFile:
    """The settings and the file they are saved in."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or config_file()
        self.problem = ""
        self.values = self._read()

    def _read(self) -> Settings:
        try:
            return Settings.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return Settings()
        except (OSError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            self.problem = f"The settings in {self.path} could not be read ({reason})."
            return Settings()

    def save(self) -> str:
        """Save the settings; returns what went wrong, or an empty string."""
        try:
            with os_errors_as_kgpt(f"save the settings in {self.path}"):
                write_text(self.path, self.values.model_dump_json(indent=2) + "\n")
        except KgptError as error:
            self.problem = str(error)
            return self.problem
        return ""
