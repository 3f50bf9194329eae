"""What clients of other servers send: it is honoured, ignored by name, or refused."""

import json
import re

import openai
import pytest

from kgpt.serving.compatibility import IGNORED, NO_LIMIT, UNSUPPORTED
from kgpt.serving.ignored_fields import MAX_NAMES

HELLO = [{"role": "user", "content": "Hello!"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def ask(client, path=TEXT, **fields):
    body = {"messages": HELLO} if path == CHAT else {"prompt": "a"}
    return client.post(path, json=body | fields)


def ignored(answer):
    assert answer.status_code == 200, answer.text
    return answer.headers.get("x-kgpt-ignored")


def refusal(answer):
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["message"].endswith((".", "?"))
    return error


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    "fields",
    [
        {"temprature": 1},
        {"user": "me", "metadata": {}, "keep_alive": "5m"},
        {"tool_choice": "none", "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"prompt\0": 1},
    ],
)
def test_a_field_without_effect_is_ignored_and_named(client, path, fields):
    plain = ask(client, path, seed=1).json()["choices"]
    answer = ask(client, path, seed=1, **fields)
    names = {name.replace("%00", "\0") for name in ignored(answer).split(", ")}
    assert names == fields.keys() and answer.json()["choices"] == plain
    assert "x-kgpt-ignored" not in ask(client, path).headers


def test_fields_within_objects_are_named_by_their_path(client):
    part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    messages = [*HELLO, {"role": "user", "content": [part], "id": 7, "größe": 1}]
    options = {"include_usage": None, "include_obfuscation": False}
    answer = ask(client, CHAT, messages=messages, stream=True, stream_options=options)
    assert set(ignored(answer).split(", ")) == {
        "messages.1.content.0.cache_control",
        "messages.1.id",
        "messages.1.gr%C3%B6%C3%9Fe",
        "stream_options.include_obfuscation",
    }
    simple = client.post("/api/gpt/generate", json={"prompt": "a", "config": {"user": "me"}})
    assert ignored(simple) == "config.user"


def test_the_header_is_short_and_safe(client):
    hostile = {f"x\r\nset-cookie: {i}" + "y" * 9000: i for i in range(60)}
    header = ignored(ask(client, **hostile))
    assert header.endswith(", ...") and header.count(",") == MAX_NAMES
    assert len(header) < 6000 and re.fullmatch(r"[\w%.,~ -]+", header)
    assert "set-cookie" not in ask(client, **hostile).headers


def test_ignored_fields_are_counted_by_known_names(serve):
    with serve().client() as http:
        for made_up in ("a", "b"):
            ask(http, CHAT, user="me", messages=[{**HELLO[0], "user": 1, made_up: 2}] * 3)
        found = re.findall(r'^kgpt_ignored_fields_total{field="(\w+)"} (\S+)', metrics(http), re.M)
        assert dict(found) == {"user": "2.0", "other": "2.0"}


def metrics(http):
    return http.get("/metrics").text


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_null_is_absent(client, path):
    names = {*UNSUPPORTED, *IGNORED, "seed", "n", "stream", "logprobs", "truncate", "model"}
    for some in (sorted(names)[::2], sorted(names)[1::2]):
        assert ignored(ask(client, path, **dict.fromkeys(some))) is None
    assert "prompt is missing" in refusal(client.post(TEXT, json={"prompt": None}))["message"]


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({"n_predict": 5}, {"max_tokens": 5}),
        ({"num_predict": 5, "max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 6}, {"max_tokens": 6}),
        ({"repeat_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"max_tokens": -1}, {"max_tokens": 40}),
        ({"seed": 2**31 + 5}, {"seed": 5}),
        ({"seed": -1}, {"seed": None}),
        ({"seed": -2}, {"seed": 2**31 - 2}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_p": 0}, {"temperature": 0}),
        ({"logit_bias": []}, {"logit_bias": {}}),
    ],
)
def test_values_and_names_of_other_servers_are_honoured(serve, given, used):
    running = serve(max_tokens=40)
    with running.client() as http:
        for path in (CHAT, TEXT):
            assert ignored(ask(http, path, **given)) is None
            sampling = running.generator.samplings[-1].model_dump()
            assert {name: sampling[name] for name in used} == used
        simple = http.post("/api/gpt/generate", json={"prompt": "a", "config": given})
        assert ignored(simple) is None
    assert NO_LIMIT > 40


@pytest.mark.parametrize(
    ("path", "fields", "param", "says"),
    [
        (TEXT, {"max_tokens": 4, "n_predict": 5}, "n_predict", "are the same option"),
        (TEXT, {"messages": HELLO}, "messages", "is a field of POST /v1/chat/completions"),
        (CHAT, {"prompt": "a"}, "prompt", "is a field of POST"),
        (CHAT, {"add_special_tokens": True}, "add_special_tokens", "not supported"),
        (TEXT, {"add_special_tokens": False}, "add_special_tokens", "not supported"),
        (CHAT, {"mirostat": 2}, "mirostat", "not supported; leave it out"),
        (CHAT, {"repeat_penalty": 1.1, "repeat_last_n": 64}, "repeat_last_n", "not supported"),
        (CHAT, {"stream_options": {"continuous_usage_stats": True}}, None, "not supported"),
        (CHAT, {"messages": [{**HELLO[0], "prefix": True}]}, "messages.0.prefix", "continue_final"),
        (CHAT, {"messages": [{**HELLO[0], "images": ["iVBO"]}]}, "messages.0.images", "images"),
        (CHAT, {"top_logprobs": 3}, None, "needs logprobs"),
        ("/api/gpt/generate", {"temperature": 0}, "temperature", "belongs in config"),
        ("/api/gpt/generate", {"stream": True}, "stream", "is a field of POST"),
    ],
)
def test_what_is_known_and_cannot_be_honoured_is_refused(client, path, fields, param, says):
    answer = ask(client, path, **fields)
    if path.startswith("/api"):
        assert answer.status_code == 400 and says in answer.json()["error"]
    else:
        error = refusal(answer)
        assert says in error["message"] and param in (None, error["param"])


def test_every_neutral_value_passes_and_every_other_is_refused(client):
    other = {"sentinel": ["of no server"]}
    for name, neutral in UNSUPPORTED.items():
        if isinstance(neutral, tuple):
            for value in neutral:
                assert ignored(ask(client, CHAT, **{name: value})) == name
            assert refusal(ask(client, CHAT, **{name: other}))["param"] == name


def test_an_answer_is_accepted_as_history(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as api:
        answer = api.chat.completions.create(model="fake", messages=HELLO)
        said = answer.choices[0].message
        extra = {"annotations": [], "audio": None, "function_call": None, "tool_calls": []}
        for message in (said, said.model_dump(), said.model_dump() | extra):
            again = [*HELLO, message, *HELLO]
            assert api.chat.completions.create(model="fake", messages=again).choices


def test_a_refusal_is_what_the_assistant_said(client):
    text = {"role": "assistant", "content": "I cannot."}
    refused = {"role": "assistant", "content": None, "refusal": "I cannot."}
    ids = [
        client.post("/v1/tokenize", json={"messages": [*HELLO, said]}).json()["ids"]
        for said in (text, refused)
    ]
    assert ids[0] == ids[1]


def test_logprobs_that_are_off_are_none(client):
    choices = ask(client, TEXT, logprobs=False).json()["choices"]
    assert choices[0]["logprobs"] is None
    assert ignored(ask(client, CHAT, top_logprobs=0)) is None


def test_strict_refuses_what_is_unknown(serve):
    with serve(strict=True).client() as http:
        error = refusal(ask(http, temprature=1))
        assert error["message"] == "Unknown field 'temprature'; did you mean temperature?"
        assert error["param"] == "temprature"
        error = refusal(ask(http, CHAT, messages=[{**HELLO[0], "temprature": 1}]))
        assert error["message"] == "Unknown field 'temprature'; GET /docs lists the fields."
        assert error["param"] == "messages.0.temprature"
        assert ignored(ask(http, CHAT, user="me", tools=[], annotations=None)) == "user, tools"
        assert len(json.dumps(refusal(ask(http, **{"x" * 9000: 1})))) < 400
