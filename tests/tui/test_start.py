"""The app starts without importing Keras or a backend."""

import json
import subprocess
import sys

START = """
import asyncio, json, sys
from pathlib import Path
from kgpt_tui.app import KgptApp, Options

async def go():
    folder = Path(sys.argv[1])
    app = KgptApp(Options(settings=folder / "s.json", data=folder))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        screen = type(app.screen).__name__
        await pilot.press("f3")
        await pilot.pause()
    heavy = {"keras", "tensorflow", "jax", "torch"} & set(sys.modules)
    print(json.dumps({"screen": screen, "heavy": sorted(heavy)}))

asyncio.run(go())
"""


def test_no_backend_is_imported_at_the_start(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", START, str(tmp_path)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["screen"] == "HomeScreen"
    assert found["heavy"] == []


def test_help_and_version_are_printed():
    for option, words in (("--help", "--server"), ("--version", "kgpt")):
        done = subprocess.run(
            [sys.executable, "-m", "kgpt_tui", option], capture_output=True, text=True, check=True
        )
        assert words in done.stdout
