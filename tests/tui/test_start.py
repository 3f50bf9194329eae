"""The app starts light: no numerics, and a screen at once."""

import json
import subprocess
import sys

START = """
import asyncio, json, sys, time
from pathlib import Path
began = time.perf_counter()
from kgpt_tui.app import KgptApp, Options

async def go():
    folder = Path(sys.argv[1])
    app = KgptApp(Options(settings=folder / "s.json", data=folder))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        seconds = time.perf_counter() - began
        shown = type(app.screen).__name__
        await pilot.press("f3")
        await pilot.pause()
    heavy = {"keras", "tensorflow", "jax", "torch", "numpy"} & set(sys.modules)
    print(json.dumps({"seconds": seconds, "screen": shown, "heavy": sorted(heavy)}))

asyncio.run(go())
"""


def test_no_backend_is_imported_at_the_start(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", START, str(tmp_path)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"first screen after {found['seconds']:.2f} s")
    assert found["screen"] == "HomeScreen"
    assert not {"keras", "tensorflow", "jax", "torch"} & set(found["heavy"])


def test_help_and_version_are_printed():
    for option, words in (("--help", "--server"), ("--version", "kgpt")):
        done = subprocess.run(
            [sys.executable, "-m", "kgpt_tui", option], capture_output=True, text=True, check=True
        )
        assert words in done.stdout
