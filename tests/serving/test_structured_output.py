"""Structured output over HTTP, under the names of OpenAI, vLLM and llama.cpp."""

import json
import threading

import jsonschema
import pydantic
import pytest
from openai import OpenAI

SCHEMA = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["x"],
    "additionalProperties": False,
}
GRAMMAR = 'root ::= "{" ["] "x" ["] ":" [0-9] "}"'
REGEX = r'\{"x":\d{1,2}\}'
TEXTS = ['{"x":1}', '{"x":2}']
NAMED = {"name": "point", "schema": SCHEMA, "strict": True}
FIELDS = {
    "OpenAI": {"response_format": {"type": "json_schema", "json_schema": NAMED}},
    "OpenAI's responses": {"response_format": {"type": "json_schema", **NAMED}},
    "vLLM": {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": "[ ]?"}},
    "vLLM, as text": {"structured_outputs": {"json": json.dumps(SCHEMA)}},
    "vLLM regex": {"structured_outputs": {"regex": REGEX}},
    "vLLM choice": {"structured_outputs": {"choice": TEXTS}},
    "vLLM grammar": {"structured_outputs": {"grammar": GRAMMAR}},
    "guided_json": {"guided_json": SCHEMA, "guided_whitespace_pattern": " "},
    "guided_regex": {"guided_regex": REGEX},
    "guided_choice": {"guided_choice": TEXTS},
    "guided_grammar": {"guided_grammar": GRAMMAR, "response_format": {"type": "text"}},
    "llama.cpp": {"json_schema": SCHEMA},
    "llama.cpp grammar": {"grammar": GRAMMAR},
    "llama.cpp response_format": {"response_format": {"type": "json_object", "schema": SCHEMA}},
}
TEXT = {"prompt": "x", "max_tokens": 40}
CHAT = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 40}


def text_of(answer):
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"]


@pytest.mark.parametrize("name", FIELDS)
def test_texts_follow_what_is_asked_for(client, name):
    for path, body in (("/v1/completions", TEXT), ("/v1/chat/completions", CHAT)):
        for seed in range(4):
            answer = client.post(path, json=body | FIELDS[name] | {"seed": seed})
            assert "x-kgpt-ignored" not in answer.headers
            value = json.loads(text_of(answer))
            jsonschema.validate(value, SCHEMA)


def test_the_minimal_format_too(client):
    ask = {"config": {"max_tokens": 40}, **FIELDS["vLLM"]}
    answer = client.post("/api/gpt/generate", json={"prompt": "x", **ask}).json()
    answers = client.post("/api/gpt/batch-generate", json={"prompts": ["x", "y"], **ask}).json()
    for text in [answer["text"], *answers["texts"]]:
        jsonschema.validate(json.loads(text), SCHEMA)
    within = {"prompt": "x", "config": FIELDS["vLLM"]}
    refused = client.post("/api/gpt/generate", json=within)
    assert refused.status_code == 400 and "structured_outputs" in refused.json()["error"]


def test_a_json_object(client):
    for seed in range(9):
        ask = {"response_format": {"type": "json_object"}, "max_tokens": 400, "seed": seed}
        answer = client.post("/v1/completions", json=TEXT | ask)
        if answer.json()["choices"][0]["finish_reason"] == "stop":
            assert isinstance(json.loads(text_of(answer)), dict)


NEUTRAL = [
    {"response_format": {"type": "text"}},
    {"structured_outputs": {}},
    {"guided_json": ""},
    {"guided_choice": []},
    {"guided_regex": "", "grammar": "", "json_schema": None},
]


@pytest.mark.parametrize("body", NEUTRAL)
def test_what_asks_for_nothing_changes_nothing(client, body):
    free = text_of(client.post("/v1/completions", json=TEXT))
    assert text_of(client.post("/v1/completions", json=TEXT | body)) == free


REFUSED = {
    "two": ({"guided_json": SCHEMA, "grammar": GRAMMAR}, "exclude each other", "grammar"),
    "two in one": ({"structured_outputs": {"json": {}, "regex": "a"}}, "exactly one", None),
    "no schema": ({"response_format": {"type": "json_schema"}}, "needs a json_schema", None),
    "type": ({"response_format": {"type": "xml"}}, "response_format.type", "response_format.type"),
    "keyword": ({"guided_json": {"type": "array", "contains": {}}}, "uses contains, which", None),
    "no text": ({"json_schema": False}, "allows no text", "json_schema"),
    "no JSON": ({"guided_json": "{"}, "not JSON", "guided_json"),
    "no list": ({"guided_choice": "a"}, "guided_choice", "guided_choice"),
    "regex": ({"guided_regex": "(a)\\1"}, "backreferences", None),
    "grammar": ({"grammar": "root ::= x"}, "'x' not found", None),
    "deep": (
        {"json_schema": json.loads('{"not":' * 90 + "{}" + "}" * 90)}, "levels", None
    ),
    "structural tag": ({"structured_outputs": {"structural_tag": "{}"}}, "not supported", None),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused(client, name):
    fields, words, param = REFUSED[name]
    answer = client.post("/v1/completions", json=TEXT | fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert words in error["message"] and error["message"].endswith(".")
    assert param is None or error["param"] == param


def test_unknown_keys_within_are_named(client):
    body = TEXT | {"structured_outputs": {"regex": "a", "frob": 1, "disable_fallback": True}}
    answer = client.post("/v1/completions", json=body)
    assert text_of(answer) == "a"
    ignored = set(answer.headers["x-kgpt-ignored"].replace(",", " ").split())
    assert ignored == {"structured_outputs.frob", "structured_outputs.disable_fallback"}


def test_a_compilation_that_takes_too_long_is_refused_and_blocks_nobody(serve, monkeypatch):
    from kgpt.generation import grammar_compiler

    release, real = threading.Event(), grammar_compiler.CompiledGrammar

    def slow(*args):
        release.wait(30)
        return real(*args)

    monkeypatch.setattr(grammar_compiler, "COMPILE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(grammar_compiler, "MAX_PENDING", 3)
    monkeypatch.setattr(grammar_compiler, "CompiledGrammar", slow)
    with serve().client() as client:
        ask = [TEXT | {"guided_regex": f"a{i}"} for i in range(5)]
        answers = [client.post("/v1/completions", json=body) for body in ask]
        assert [answer.status_code for answer in answers[:2]] == [400, 400]
        assert "was not compiled within" in answers[0].json()["error"]["message"]
        assert client.post("/v1/completions", json=TEXT).status_code == 200
        release.set()
        monkeypatch.setattr(grammar_compiler, "COMPILE_TIMEOUT_S", 30)
        assert text_of(client.post("/v1/completions", json=ask[4])) == "a4"


class Point(pydantic.BaseModel):
    x: int = pydantic.Field(ge=0, le=99)


def test_openai_parses_into_a_class(server):
    with OpenAI(base_url=f"{server.url}/v1", api_key="none") as openai:
        done = openai.chat.completions.parse(model="fake", **CHAT, response_format=Point)
        assert isinstance(done.choices[0].message.parsed, Point)
        pieces = openai.chat.completions.create(
            model="fake", **CHAT, stream=True, response_format=FIELDS["OpenAI"]["response_format"]
        )
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert Point.model_validate_json(text)
