"""The page in a real browser: it chats, shows text as it comes, and stops an answer."""

import base64
import hashlib
import json
import os
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kgpt.config import SamplingConfig
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


def ask(page, text):
    """Send `text` and wait for the end of the answer; returns its element."""
    page.get_by_label("Message").fill(text)
    eventually(lambda: page.get_by_role("button", name="Send").is_enabled())
    answer = page.locator(".assistant").nth(page.locator(".assistant").count())
    page.keyboard.press("Enter")
    answer.locator(".note").first.wait_for()
    return answer


def test_a_conversation_goes_on_beyond_the_context(page, serve):
    running = serve(FakeGenerator(max_context=200))
    page.goto(running.url)
    answers = [ask(page, f"Question {number}: {'and so on. ' * 4}") for number in range(5)]
    assert page.locator(".note.error").count() == 0
    assert "left out" not in answers[0].text_content()
    assert "older messages left out of the context" in answers[-1].text_content()
    assert page.problems == []


def stream(page, *events, status=200):
    """Let the server's answer be these events, all in one write."""
    body = "".join(
        f"data: {event if event == '[DONE]' else json.dumps(event)}\n\n" for event in events
    )
    headers = {"content-type": "text/event-stream"}
    page.route(
        "**/v1/chat/completions", lambda r: r.fulfill(status=status, body=body, headers=headers)
    )


PIECES = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in ("So", " it", " is")]
END = [
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}},
]


def test_an_answer_in_one_piece_has_no_rate(page, serve):
    running = serve(FakeGenerator(delay=0.02))
    page.goto(running.url)
    assert "tokens/s" in ask(page, "Slowly").text_content()
    stream(page, *PIECES, *END, "[DONE]")
    text = ask(page, "At once").text_content()
    assert text.startswith("So it is3 tokens") and "tokens/s" not in text


@pytest.mark.parametrize(
    ("events", "sentence"),
    [
        (PIECES, "closed the connection in the middle"),
        ([*PIECES, {"error": {"message": "Out of memory; ask for less."}}], "Out of memory"),
        ([{"error": {"message": "Out of memory; ask for less."}}], "Out of memory"),
    ],
)
def test_an_answer_that_fails_says_why_and_loses_no_text(page, serve, events, sentence):
    running = serve()
    page.goto(running.url)
    stream(page, *events)
    answer = ask(page, "My question")
    assert sentence in answer.locator(".note.error").text_content()
    typed = page.get_by_label("Message").input_value()
    assert typed == ("" if events[0] in PIECES else "My question")
    page.unroute("**/v1/chat/completions")
    assert ask(page, "My question").locator(".note.error").count() == 0


def test_a_server_that_has_gone_leaves_the_text(page, serve):
    running = serve()
    page.goto(running.url)
    eventually(lambda: page.locator("#model").text_content().startswith("fake"))
    page.route("**/v1/chat/completions", lambda route: route.abort())
    answer = ask(page, "Are you there?")
    assert "is it still running?" in answer.locator(".note.error").text_content()
    assert page.get_by_label("Message").input_value() == "Are you there?"


def test_another_conversation_knows_nothing_of_a_running_answer(page, serve):
    running = serve(FakeGenerator(delay=0.02))
    page.goto(running.url)
    sent = []
    page.on("request", lambda r: "completions" in r.url and sent.append(r.post_data_json))
    page.get_by_label("Message").fill("First")
    eventually(lambda: page.get_by_role("button", name="Send").is_enabled())
    page.keyboard.press("Enter")
    eventually(lambda: len(page.locator(".assistant").text_content()) > 3)
    page.get_by_role("button", name="New").click()
    ask(page, "Second")
    assert page.locator(".turn").count() == 2
    assert sent[-1]["messages"] == [{"role": "user", "content": "Second"}]
    assert page.problems == []


def test_the_models_own_sampling_settings_are_its_defaults(page, serve):
    generator = FakeGenerator()
    generator.default_sampling = SamplingConfig(max_tokens=7, temperature=0.25)
    page.goto(serve(generator).url)
    assert "7 tokens" in ask(page, "Hello").text_content()
    assert generator.samplings[-1].temperature == 0.25
    page.get_by_role("button", name="Sampling").click()
    assert page.get_by_label("temperature").get_attribute("placeholder") == "0.25"


def test_enter_accepts_what_an_input_method_proposes_and_sends_nothing(page, serve):
    page.goto(serve().url)
    prompt = page.get_by_label("Message")
    prompt.fill("かんじ")
    eventually(lambda: page.get_by_role("button", name="Send").is_enabled())
    for composing in ({"isComposing": True}, {"keyCode": 229}):  # the latter in Safari
        prompt.dispatch_event("keydown", {"key": "Enter", "bubbles": True, **composing})
    assert prompt.input_value() == "かんじ" and page.locator(".turn").count() == 0
    page.keyboard.press("Shift+Enter")
    assert prompt.input_value() == "かんじ\n"
    assert ask(page, "漢字").text_content()


def test_documentation_shows_every_endpoint(page, serve):
    running = serve()
    page.goto(running.url + "/docs")
    eventually(lambda: page.locator("details").count() > 10)
    page.get_by_text("/v1/chat/completions").click()
    assert page.get_by_text("repetition_penalty").first.is_visible()
    screenshot(page, "docs")
    assert page.problems == []


ELSEWHERE = """<script>
fetch("%s/v1/chat/completions", {
  method: "POST",
  headers: {"content-type": "application/json", "x-own": "1"},
  body: JSON.stringify({messages: [{role: "user", content: "Hello!"}], user: "me"}),
}).then(async (answer) => {
  const body = await answer.json();
  document.title = answer.headers.get("x-kgpt-ignored") + ": " + body.choices[0].message.content;
}).catch((error) => { document.title = "blocked"; });
</script>"""


@pytest.mark.parametrize("allowed", [True, False])
def test_a_page_of_another_origin_chats_where_it_is_allowed(page, serve, tmp_path, allowed):
    pages = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)
    )
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{pages.server_port}"
    running = serve(cors_origin=[origin] if allowed else [])
    (tmp_path / "index.html").write_text(ELSEWHERE % running.url)
    page.goto(origin)
    eventually(lambda: page.title() != "" and page.title() != origin)
    pages.shutdown()
    assert page.title().startswith("user: ") if allowed else page.title() == "blocked"
    assert bool(running.generator.samplings) == allowed
