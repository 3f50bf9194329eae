"""One part of `benchmarks/gpu.py`, in its own process; its job is the argument, as JSON.

Each result is a line of standard output: "RESULT " and a JSON object. A part that fails exits with
an error on the last line.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import traceback
from typing import Any

MODULES = {
    "facts": "checks", "smoke": "checks", "tests": "checks", "resume": "checks",
    "greedy": "checks", "nanogpt": "speed", "train": "speed", "decode": "speed",
    "transformers": "speed",
}  # fmt: skip


def emit(**row: Any) -> None:
    print("RESULT " + json.dumps(row), flush=True)


def main() -> None:
    # A job in the background of a shell inherits that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    job = json.loads(sys.argv[1])
    module = importlib.import_module(f"benchmarks.gpu_run.{MODULES[job['kind']]}")
    try:
        getattr(module, job["kind"])(job)
    except Exception as error:
        traceback.print_exc()
        first_line = (str(error).strip().splitlines() or [""])[0]
        print(f"{type(error).__name__}: {first_line}", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
