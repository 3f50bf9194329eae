"""Bodies drawn from the optional fields of the APIs of OpenAI, vLLM, llama.cpp and Ollama.

No body brings the server down, and every field is honoured, named as ignored, or refused: a value
that changes what is asked for is never ignored.
"""

from collections import Counter
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kgpt.config import SamplingConfig
from kgpt.serving.body import field_names, known_fields
from tests.serving.fakes import FakeGenerator
from tests.serving.harness import start
from tests.serving.request_fields import APIS, MESSAGE, OLLAMA_OPTIONS, OTHER_NAMES

JUNK = st.recursive(
    st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@st.composite
def drawn_fields(draw, fields, most=6):
    """Some of the fields with a value each, and the names of those whose value changes things."""
    names = draw(st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=most))
    body, changed = {}, set()
    for name in names:
        harmless, changing = fields[name]
        kinds = ["null", "junk"] + ["harmless"] * 4 * bool(harmless) + ["changing"] * bool(changing)
        kind = draw(st.sampled_from(kinds))
        changed |= {name} if kind == "changing" else set()
        values = {"null": [None], "harmless": harmless, "changing": changing}
        body[name] = draw(JUNK if kind == "junk" else st.sampled_from(values[kind]))
    return body, changed


@pytest.fixture(scope="module")
def limited():
    """A server whose completions are short."""
    running = start(FakeGenerator(), max_tokens=8)
    with running.client() as running.http:
        yield running
    running.stop()


@pytest.fixture(scope="module")
def declared(limited):
    """The names that an endpoint's schema has, by path; and those of `options`."""
    schema = limited.http.get("/openapi.json").json()
    found = {"options": schema["components"]["schemas"]["SamplingFields"]["properties"].keys()}
    for path, operations in schema["paths"].items():
        if body := operations.get("post", {}).get("requestBody"):
            name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            found[path] = schema["components"]["schemas"][name]["properties"].keys()
    return found


def check_error(answer):
    error = answer.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    assert message.endswith((".", "?")) and len(message) < 1000 and "Traceback" not in message


def check_fields(body, changed, known, ignored):
    """Every field of an accepted body is honoured or ignored, and the latter changes nothing."""
    for name, choice in (("tools", "tool_choice"), ("functions", "function_call")):
        changed = changed - {name} if body.get(choice) == "none" else changed
    for name, value in body.items():
        if value is not None and name not in known:
            assert name in ignored or name in OTHER_NAMES, name
    assert changed <= set(known), f"ignored although it has an effect: {changed - set(known)}"


def one_at_a_time(fields, kind):
    return [(name, value) for name, values in fields.items() for value in values[kind]]


@pytest.mark.parametrize("api", APIS)
def test_each_value_alone_is_accepted_or_refused(limited, declared, api):
    path, base, fields = APIS[api]
    for name, value in one_at_a_time(fields, 0):
        answer = limited.http.post(path, json=base | {name: value})
        assert answer.status_code == 200, answer.text
        ignored = answer.headers.get("x-kgpt-ignored", "")
        check_fields({name: value}, set(), declared[path], {ignored})
    for name, value in one_at_a_time(fields, 1):
        answer = limited.http.post(path, json=base | {name: value})
        assert answer.status_code == 400 or name in declared[path], name


def test_each_value_of_a_message_alone_is_accepted_or_refused(limited):
    for kind, status in ((0, 200), (1, 400)):
        for name, value in one_at_a_time(MESSAGE, kind):
            message = {"role": "assistant", "content": "x", name: value}
            answer = limited.http.post("/v1/chat/completions", json={"messages": [message]})
            assert answer.status_code == status, name


FREE = settings(max_examples=100, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("api", APIS)
def test_every_field_is_honoured_or_named_or_refused(limited, declared, api):
    path, base, fields = APIS[api]
    statuses = Counter()

    @FREE
    @given(drawn_fields(fields), drawn_fields(OLLAMA_OPTIONS, most=4 * ("ollama" in api)))
    def ask(drawn, options):
        (asked, changed), (inner, inner_changed) = drawn, options
        body = base | asked | ({"options": inner} if inner else {})
        answer = limited.http.post(path, json=body)
        statuses[answer.status_code] += 1
        assert answer.status_code in (200, 400, 404), answer.text
        assert answer.status_code != 404 or asked.get("model") is not None
        if answer.status_code != 200:
            return check_error(answer)
        assert "server_error" not in answer.text
        header = answer.headers.get("x-kgpt-ignored", "")
        ignored = {unquote(name) for name in header.split(", ")}
        check_fields(asked, changed, declared[path], ignored)
        within = {name.removeprefix("options.") for name in ignored}
        check_fields(inner, inner_changed, declared["options"], within)
        return check_sampling(asked | inner, limited.generator.samplings[-1])

    ask()
    assert statuses[200] > 10 and statuses[400] > 10


def check_sampling(asked, used):
    """The sampling options of the engine are those of the request."""
    for name in ("temperature", "min_p", "presence_penalty", "frequency_penalty", "min_tokens"):
        if asked.get(name) is not None and asked.get("top_p") != 0:
            assert getattr(used, name) == float(asked[name])
    if type(asked.get("n_predict")) is int and asked["n_predict"] > 0:
        assert used.max_tokens == min(asked["n_predict"], 8)
    assert SamplingConfig.model_validate(used.model_dump()) == used


PARTS = [
    {"type": "text", "text": "x"},
    {"type": "text", "text": "y", "cache_control": {"type": "ephemeral"}, "annotations": []},
    {"type": "image_url", "image_url": {"url": "data:,"}},
    {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    {"type": "text"},
]


def mostly(values):
    """`values`, and junk one time in five."""
    return st.integers(0, 4).flatmap(lambda draw: values if draw else JUNK)


@FREE
@given(
    drawn_fields(MESSAGE, most=4),
    mostly(st.sampled_from(["user", "assistant", "system", "developer"])),
    mostly(st.none() | st.text(max_size=5) | st.lists(st.sampled_from(PARTS), max_size=2)),
)
def test_every_key_of_a_message_too(limited, drawn, role, content):
    extra, changed = drawn
    message = {"role": role, "content": content, **extra}
    answer = limited.http.post("/v1/chat/completions", json={"messages": [message]})
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        return check_error(answer)
    header = answer.headers.get("x-kgpt-ignored", "")
    ignored = {name.removeprefix("messages.0.") for name in header.split(", ")}
    known = {"role", "content", "refusal", "tool_calls", "name"}
    check_fields({k: v for k, v in extra.items() if k != "name"}, changed, known, ignored)
    for index, part in enumerate(content if isinstance(content, list) else []):
        assert part.get("type", "text") == "text"
        assert ("cache_control" in part) == (f"content.{index}.cache_control" in ignored)


def is_unknown(name):
    return name not in known_fields() | field_names()


@FREE
@given(st.dictionaries(st.text(max_size=9).filter(is_unknown), JUNK, max_size=4))
def test_fields_of_any_name_are_named(limited, unknown):
    answer = limited.http.post("/api/gpt/generate", json={"prompt": "a", "config": unknown})
    sent = [name for name, value in unknown.items() if value is not None]
    assert answer.status_code == 200, answer.text
    named = answer.headers["x-kgpt-ignored"].split(", ") if sent else []
    assert [unquote(name) for name in named] == [f"config.{name}" for name in sent]


def test_an_empty_name_is_named(limited):
    answer = limited.http.post("/v1/completions", json={"prompt": "a", "user": "me", "": 1})
    assert answer.headers["x-kgpt-ignored"] == 'user, ""'
