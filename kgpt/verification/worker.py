"""The child process that observes some places: python -m kgpt.verification.worker WORK PLACE...

WORK has places.json, with what each place is given, and probe.json. The observation of a place is
written there as soon as it is made.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from kgpt.errors import CheckpointError, UsageError
from kgpt.verification.case import Case
from kgpt.verification.observation import Observation
from kgpt.verification.places import Place
from kgpt.verification.probe import Probe


def write_request(work: Path, places: dict[str, tuple[Place, Path, Path | None]]) -> None:
    """Write places.json: of each place the model's folder, and the export that is given."""
    values = {
        key: {
            "place": dataclasses.asdict(place),
            "folder": str(folder),
            "export": export and str(export),
        }
        for key, (place, folder, export) in places.items()
    }
    (work / "places.json").write_text(json.dumps(values), encoding="utf-8")


def observe(place: Place, case: Case) -> Observation:
    """What a place gives, or the sentence that says why it gives nothing."""
    start = time.monotonic()
    module, function = place.observe.split(":")
    try:
        if place.on_gpu:
            _require_gpu()
        seen: Observation = getattr(import_module(module), function)(case, **place.options)
    except (CheckpointError, UsageError) as error:
        # An export that does not support the model is no fault; one that cannot be read is.
        sentence = str(error).rstrip(".")
        seen = Observation(error=sentence) if case.export else Observation(skipped=sentence)
    except Exception as error:
        traceback.print_exc()
        seen = Observation(error=f"{type(error).__name__}: {error}".splitlines()[0])
    seen.notes["seconds"] = f"{time.monotonic() - start:.1f}"
    return seen


def _require_gpu() -> None:
    from kgpt import backend

    if backend.device()[0] != "gpu":
        raise UsageError(f"{backend.name} finds no GPU; install the extra gpu")


def main(arguments: list[str]) -> None:
    work = Path(arguments[0])
    request: dict[str, Any] = json.loads((work / "places.json").read_text(encoding="utf-8"))
    probe = Probe.read(work / "probe.json")
    for key in arguments[1:]:
        values = request[key]
        place = Place(**values["place"])
        export = values["export"] and Path(values["export"])
        case = Case(Path(values["folder"]), probe, work, export, place.precision)
        observe(place, case).write(work, key)


if __name__ == "__main__":
    main(sys.argv[1:])
