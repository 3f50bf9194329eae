"""Where a run was trained, for whoever repeats it: `environment.jsonl`, a row for each start."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from pathlib import Path
from typing import Any

from kgpt import backend
from kgpt.processor import processor
from kgpt.versions import installed_versions


def environment() -> dict[str, Any]:
    """Versions, backend, device, processor and command line of this process."""
    kind, device = backend.device()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": installed_versions("keras", "numpy", backend.name),
        "backend": backend.name,
        "device": f"{kind} ({device})",
        "processor": processor(),
        "cpus": os.cpu_count(),
        "system": platform.platform(),
    }
