"""The unmodified `ollama` client against the server."""

import json

import ollama
import pytest

from kgpt.config import SamplingConfig
from kgpt.serving.security import ApiKeys
from tests.serving.fakes import FakeGenerator

HELLO = [{"role": "user", "content": "Hello!"}]
SEED = {"seed": 1, "num_predict": 30}


@pytest.fixture
def api(server):
    return ollama.Client(server.url, timeout=30)


def completion(client, prompt):
    asked = {"prompt": prompt, "seed": 1, "max_tokens": 30}
    return client.post("/v1/completions", json=asked).json()["choices"][0]["text"]


def chat_completion(client, messages, **fields):
    asked = {"messages": messages, "seed": 1, "max_tokens": 30, **fields}
    (choice,) = client.post("/v1/chat/completions", json=asked).json()["choices"]
    return choice["message"]["content"]


def test_chat_says_what_the_openai_endpoint_says(api, client):
    expected = chat_completion(client, HELLO)
    whole = api.chat("fake", HELLO, options=SEED)
    assert whole.message.role == "assistant" and whole.message.content == expected
    assert whole.done and whole.done_reason == "length" and whole.eval_count == 30
    parts = list(api.chat("fake:latest", HELLO, options=SEED, stream=True))
    assert "".join(part.message.content for part in parts) == expected and len(parts) > 4
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].prompt_eval_count == whole.prompt_eval_count > 0


def test_a_message_of_the_client_is_accepted_as_history(api):
    said = api.chat("fake", HELLO, options=SEED).message
    history = [*HELLO, said, {"role": "user", "content": "And?", "images": None}]
    assert api.chat("fake", history, options=SEED).message.content


def test_the_last_message_of_the_assistant_is_continued(api, client):
    begun = [*HELLO, {"role": "assistant", "content": "Once"}]
    expected = chat_completion(client, begun, continue_final_message=True)
    assert api.chat("fake", begun, options=SEED).message.content == expected


def test_a_prompt_is_a_message_and_a_raw_one_a_text(api, client):
    said = api.generate("fake", "Hello!", options=SEED)
    assert said.response == chat_completion(client, HELLO)
    system = [{"role": "system", "content": "Be brief."}, *HELLO]
    said = api.generate("fake", "Hello!", system="Be brief.", options=SEED)
    assert said.response == chat_completion(client, system)
    raw = api.generate("fake", "Hello!", raw=True, options=SEED)
    assert raw.response == completion(client, "Hello!") != said.response
    streamed = api.generate("fake", "Hello!", raw=True, options=SEED, stream=True)
    assert "".join(part.response for part in streamed) == raw.response


def test_a_model_without_a_chat_template_continues_texts(serve):
    running = serve(FakeGenerator(chat=False))
    with running.client() as client:
        api = ollama.Client(running.url)
        assert api.generate("fake", "a", options=SEED).response == completion(client, "a")
        with pytest.raises(ollama.ResponseError, match="no chat template"):
            api.generate("fake", "a", system="Be brief.")


def test_options_are_sampling_options_and_the_rest_are_the_models_own(serve):
    running = serve()
    own = SamplingConfig(max_tokens=17, temperature=0.3, top_p=0.8, repetition_penalty=1.05)
    running.generator.default_sampling = own
    api = ollama.Client(running.url)
    api.generate("fake", "a")
    assert running.generator.samplings[-1] == own
    options = {
        "num_predict": 5,
        "repeat_penalty": 1.2,
        "repeat_last_n": -1,
        "top_k": 3,
        "seed": -1,
        "stop": ["x"],
        "num_ctx": 4096,
        "mirostat": 0,
    }
    api.chat("fake", HELLO, options=options, keep_alive="5m", think=False, format="")
    changed = {"max_tokens": 5, "repetition_penalty": 1.2, "top_k": 3, "stop": ["x"]}
    assert running.generator.samplings[-1] == own.model_copy(update=changed)


def test_ignored_fields_are_named(client):
    asked = {"model": "fake", "prompt": "a", "options": {"num_ctx": 1}, "keep_alive": 0}
    answer = client.post("/api/generate", json=asked)
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert answer.headers["x-kgpt-ignored"] == "keep_alive, options.num_ctx"


@pytest.mark.parametrize(
    ("path", "fields", "says"),
    [
        ("chat", {"messages": [{**HELLO[0], "images": ["aa"]}]}, "images is not supported"),
        ("chat", {"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ("chat", {"temperature": 0}, "temperature belongs in options"),
        ("chat", {"system": "Be brief."}, "system is not supported"),
        ("chat", {"options": {"mirostat": 1}}, "mirostat is not supported"),
        ("chat", {"options": {"temperature": -1}}, "options.temperature"),
        ("chat", {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools is not"),
        ("chat", {"think": "high"}, "think is not supported"),
        ("generate", {"images": ["aa"]}, "images is not supported"),
        ("generate", {"suffix": "x"}, "suffix is not supported"),
        ("generate", {"template": "{{ .Prompt }}"}, "template is not supported"),
        ("generate", {"context": [1, 2]}, "context is not supported"),
        ("generate", {"raw": True, "system": "s"}, "no system message"),
        ("generate", {"top_logprobs": 2}, "needs logprobs"),
        ("generate", {"truncate": False, "prompt": "x" * 9000}, "9000 characters"),
    ],
)
def test_what_cannot_be_honoured_is_refused(client, path, fields, says):
    body = {"model": "fake", **({"messages": HELLO} if path == "chat" else {"prompt": "a"})}
    answer = client.post(f"/api/{path}", json=body | fields)
    assert answer.status_code == 400 and answer.json().keys() == {"error"}
    assert says in answer.json()["error"] and answer.json()["error"].endswith(".")


def test_another_model_is_not_found_and_a_key_is_needed(serve):
    running = serve(keys=ApiKeys(["k"]))
    api = ollama.Client(running.url, headers={"authorization": "Bearer k"})
    with pytest.raises(ollama.ResponseError, match="serves 'fake'") as caught:
        api.chat("llama3", HELLO)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="API key"):
        ollama.Client(running.url).chat("fake", HELLO)


def test_what_exceeds_the_context_is_left_out(api, client):
    turns = [{"role": ("user", "assistant")[n % 2], "content": "x" * 60} for n in range(19)]
    assert api.chat("fake", turns).message.content
    assert api.generate("fake", "x" * 9000, raw=True).response
    asked = {"model": "fake", "messages": turns, "stream": True}
    assert int(client.post("/api/chat", json=asked).headers["x-kgpt-left-out"]) > 0
    kept = client.post("/api/chat", json=asked | {"truncate": False})
    assert kept.status_code == 400 and "context of 512" in kept.json()["error"]


SHAPE = {
    "type": "object",
    "properties": {"sea": {"enum": ["calm", "rough"]}},
    "required": ["sea"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_format_is_followed(api, stream):
    options = {"seed": 1, "num_predict": 400}
    for form in ("json", SHAPE):
        said = api.chat("fake", HELLO, format=form, options=options, stream=stream)
        parts = list(said) if stream else [said]
        text = "".join(part.message.content for part in parts)
        if parts[-1].done_reason == "stop":
            assert isinstance(json.loads(text), dict)
        assert text.startswith("{") and (form == "json" or json.loads(text)["sea"])
    with pytest.raises(ollama.ResponseError, match="Invalid type: nonsense"):
        list(api.chat("fake", HELLO, format={"type": "nonsense"}, stream=stream))


def test_logprobs(api):
    said = api.chat("fake", HELLO, options=SEED, logprobs=True, top_logprobs=2)
    assert len(said.logprobs) == 30 and all(len(token.top_logprobs) == 2 for token in said.logprobs)
    streamed = api.chat("fake", HELLO, options=SEED, logprobs=True, top_logprobs=2, stream=True)
    assert [token for part in streamed for token in part.logprobs or ()] == said.logprobs


def test_times_add_up(api):
    for said in (
        api.generate("fake", "a", options=SEED),
        list(api.generate("fake", "a", options=SEED, stream=True))[-1],
    ):
        assert said.eval_duration > 0 and said.load_duration == 0
        assert said.prompt_eval_duration + said.eval_duration == said.total_duration


def test_an_empty_request_loads_the_model(api):
    assert api.generate("fake").done_reason == "load"
    assert api.chat("fake").done_reason == "load"


def test_an_engine_that_fails_says_so(serve):
    running = serve()
    running.generator.fail_with = "wires crossed"
    api = ollama.Client(running.url)
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match="engine failed"):
            list(api.chat("fake", HELLO, stream=stream))


def test_the_model_is_listed_and_shown(serve):
    running = serve(alias=["llama3"])
    api = ollama.Client(running.url)
    assert [model.model for model in api.list().models] == ["fake", "llama3"]
    (loaded,) = api.ps().models
    assert loaded.name == "fake" and loaded.context_length == 512
    assert loaded.size == 4 * running.generator.config.num_parameters()
    shown = api.show("llama3")
    assert shown.modelinfo["gpt2.context_length"] == 512 and shown.details.family == "gpt2"
    assert "completion" in shown.capabilities and "max_tokens 20" in shown.parameters
    with running.client() as http:
        assert http.get("/api/version").json()["version"]
        assert http.head("/").status_code == 200
        line = http.post("/api/show", json={"name": "other"})
        assert line.status_code == 404 and json.loads(line.text).keys() == {"error"}
