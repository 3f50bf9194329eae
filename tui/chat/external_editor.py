"""Editing a text in the user's own editor, while the app is suspended."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported

from kgpt.errors import KgptError


def edit_externally(app: App[Any], text: str) -> str:
    """`text` as the user saved it in $VISUAL, $EDITOR or vi.

    Raises:
        KgptError: the editor could not be started, failed, or the terminal cannot be shared.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "message.md"
        file.write_text(text, encoding="utf-8", errors="replace")
        try:
            with app.suspend():
                subprocess.run([*shlex.split(editor), str(file)], check=True)
            return file.read_text(encoding="utf-8", errors="replace").removesuffix("\n")
        except (OSError, ValueError, subprocess.SubprocessError, SuspendNotSupported) as error:
            raise KgptError(f"The editor {editor} could not be used: {error}.") from error
