"""The page in a real browser: it chats, shows text as it comes, and stops an answer."""

import base64
import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest

from kgpt.serving.security import ApiKeys
from tests.serving.fakes import FakeGenerator
from tests.serving.harness import eventually

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def test_only_the_pages_own_script_may_run(client):
    for path in ("/", "/docs"):
        response = client.get(path)
        rules = response.headers["content-security-policy"]
        script = re.search(r"<script>(.*?)</script>", response.text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in rules
        assert rules.startswith("default-src 'none'") and "unsafe" not in rules


def test_the_pages_fetch_nothing_from_elsewhere_and_write_no_html(client):
    for path in ("/", "/docs"):
        html = client.get(path).text
        assert not re.search(r"https?://", html)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", html)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as tools:
        try:
            opened = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1100, "height": 760})
    opened = context.new_page()
    opened.problems = []
    opened.on("console", lambda m: m.type == "error" and opened.problems.append(m.text))
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    yield opened
    context.close()


def screenshot(page, name):
    folder = Path(os.environ.get("KGPT_SCREENSHOTS", "build/screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def test_chat_streams_and_stops(page, serve):
    running = serve(FakeGenerator(delay=0.02))
    page.goto(running.url)
    page.get_by_role("button", name="Sampling").click()
    page.get_by_label("max_tokens").fill("40")
    page.get_by_label("temperature").fill("0")
    page.get_by_label("Message").fill("Tell me of a <b>boat</b>.")
    page.keyboard.press("Enter")
    answer = page.locator(".assistant").first
    eventually(lambda: len(answer.text_content()) > 3)
    part = answer.text_content()
    assert "streaming" in answer.get_attribute("class")
    eventually(lambda: page.locator(".streaming").count() == 0)
    whole = answer.text_content()
    assert whole.startswith(part) and len(whole) > len(part)
    assert "40 tokens" in whole and "reached max_tokens" in whole
    assert page.locator(".user").text_content() == "Tell me of a <b>boat</b>."
    assert page.locator(".user b").count() == 0
    assert running.generator.samplings[-1].temperature == 0

    page.get_by_label("max_tokens").fill("4000")
    page.get_by_label("Message").fill("And then?")
    page.keyboard.press("Enter")
    eventually(lambda: len(page.locator(".assistant").nth(1).text_content()) > 3)
    screenshot(page, "chat-light")
    page.get_by_role("button", name="Stop").click()
    eventually(lambda: page.locator(".streaming").count() == 0)
    assert "stopped" in page.locator(".assistant").nth(1).text_content()
    eventually(lambda: running.generator.stats().active == 0)
    page.get_by_role("button", name="Change between light and dark").click()
    screenshot(page, "chat-dark")
    assert page.problems == []


def test_narrow_screen_and_a_model_without_chat(page, serve):
    running = serve(FakeGenerator(chat=False))
    page.set_viewport_size({"width": 390, "height": 720})
    page.goto(running.url)
    eventually(lambda: page.get_by_role("button", name="Send").is_enabled())
    page.get_by_label("Message").fill("Once upon a time")
    page.keyboard.press("Enter")
    page.locator(".assistant .note").wait_for()
    assert page.locator(".assistant").text_content().startswith("Once upon a time")
    screenshot(page, "completion-narrow")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    assert page.problems == []


def test_asks_for_a_key_and_says_what_was_refused(page, serve):
    running = serve(keys=ApiKeys(["open-sesame"]))
    page.goto(running.url)
    page.get_by_role("textbox", name="API key").fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("not accepted").wait_for()
    page.get_by_role("textbox", name="API key").fill("open-sesame")
    page.keyboard.press("Enter")
    page.get_by_text("fake ·").wait_for()
    page.get_by_label("Message").fill("x" * 600)
    page.keyboard.press("Enter")
    page.locator(".note.error").wait_for()
    assert "context" in page.locator(".note.error").text_content()


def test_documentation_shows_every_endpoint(page, serve):
    running = serve()
    page.goto(running.url + "/docs")
    eventually(lambda: page.locator("details").count() > 10)
    page.get_by_text("/v1/chat/completions").click()
    assert page.get_by_text("repetition_penalty").first.is_visible()
    screenshot(page, "docs")
    assert page.problems == []
