"""`kgpt-tui --web` in a real browser: the app renders, takes keys and chats."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from tests.tui.fake_server import FakeServer

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TIMEOUT_S = 120


def wait(condition, what):
    """Poll `condition()` until it is true and return its value, or fail with `what`."""
    end = time.monotonic() + TIMEOUT_S
    while not (found := condition()):
        assert time.monotonic() < end, f"timed out waiting for {what}"
        time.sleep(0.2)
    return found


@pytest.fixture
def fake():
    """A fake server in a thread with a loop of its own."""
    loop, server = asyncio.new_event_loop(), FakeServer()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    yield server
    loop.call_soon_threadsafe(loop.stop)


@pytest.fixture
def address(fake, tmp_path):
    """The address that `kgpt-tui --web` prints."""
    environment = os.environ | {
        "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_DATA_HOME": str(tmp_path / "share"), "TEXTUAL_ANIMATIONS": "none",
    }  # fmt: skip
    log = (tmp_path / "web.log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "kgpt_tui", "--web", "--server", fake.address],
        stdout=log, stderr=log, env=environment, cwd=tmp_path,
    )  # fmt: skip
    try:
        said = wait(
            lambda: re.search(r"http://127\.0\.0\.1:\d+", (tmp_path / "web.log").read_text()),
            "an address",
        )
        wait(lambda: answers(said[0]), "the web server")
        yield said[0]
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def answers(address):
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


def test_a_browser_shows_the_app_and_chats(address, fake):
    playwright = pytest.importorskip("playwright.sync_api")
    folder = Path(os.environ.get("KGPT_SCREENSHOTS", "build/screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as tools:
        try:
            browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        page = browser.new_page(viewport={"width": 1200, "height": 760})
        page.goto(f"{address}/?fontsize=14")
        page.wait_for_selector(".textual-terminal canvas, .textual-terminal .xterm-screen")
        page.wait_for_timeout(6000)
        page.mouse.click(600, 700)
        deadline = time.monotonic() + TIMEOUT_S
        while not fake.requests and time.monotonic() < deadline:
            page.keyboard.type("What is the moon?", delay=30)
            page.keyboard.press("Enter")
            page.wait_for_timeout(5000)
        page.wait_for_timeout(2000)
        page.screenshot(path=folder / "kgpt-tui-web.png")
        browser.close()
    assert "What is the moon?" in str(fake.requests[0])
