"""Adapters in the API: named by requests, listed, loaded and unloaded while serving."""

import pytest

from tests.serving.fakes import FakeAdapter, FakeGenerator

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def adapted(serve):
    """A server of the model `fake`, also called `other`, with the adapter `poet`."""
    generator = FakeGenerator()
    running = serve(generator, alias=["other"], runtime_lora_updating=True)
    generator.adapters.loaded = [FakeAdapter("poet", "/adapters/poet")]
    with running.client() as http:
        yield http, generator


REQUESTS = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "a"},
    "/v1/responses": {"input": "a"},
    "/api/chat": {"messages": HELLO, "stream": False},
    "/api/generate": {"prompt": "a", "stream": False},
}


@pytest.mark.parametrize("path", REQUESTS)
def test_a_request_names_the_adapter_that_answers(adapted, path):
    http, generator = adapted
    for model, adapter in [
        ("poet", "poet"), ("fake:poet", "poet"), ("other:poet", "poet"), ("fake", None),
    ]:  # fmt: skip
        answer = http.post(path, json={"model": model, **REQUESTS[path]})
        assert answer.status_code == 200, answer.text
        assert generator.adapters_used[-1] == adapter
        named = model if path.startswith("/api") else "fake:poet" if adapter else "fake"
        assert answer.json()["model"] == named
    for unknown in ("poem", "fake:poem", "none:poet"):
        answer = http.post(path, json={"model": unknown, **REQUESTS[path]})
        assert answer.status_code == 404


def test_prompts_are_embedded_and_scored_by_the_adapter(adapted, monkeypatch):
    http, generator = adapted
    submit, used = generator.submit_forward, []
    monkeypatch.setattr(generator, "submit_forward", lambda jobs: (used.extend(jobs), submit(jobs)))
    answer = http.post("/v1/embeddings", json={"model": "poet", "input": "a"})
    assert answer.json()["model"] == "fake:poet"
    echo = {"prompt": "ab", "echo": True, "logprobs": 1, "max_tokens": 0}
    assert http.post("/v1/completions", json={"model": "poet", **echo}).status_code == 200
    assert [job.adapter.name for job in used] == ["poet", "poet"]


def test_adapters_are_listed_with_their_model(adapted):
    http, _ = adapted
    models = {m["id"]: m.get("parent") for m in http.get("/v1/models").json()["data"]}
    assert models == {"fake": None, "other": None, "fake:poet": "fake"}
    assert http.get("/v1/models/fake:poet").json()["parent"] == "fake"
    tags = {m["name"]: m["details"]["parent_model"] for m in http.get("/api/tags").json()["models"]}
    assert tags == {"fake": "", "other": "", "fake:poet": "fake"}
    shown = http.post("/api/show", json={"model": "fake:poet"}).json()
    assert shown["details"]["parent_model"] == "fake"


def test_adapters_are_loaded_and_unloaded_while_serving(adapted, tmp_path):
    http, generator = adapted
    load = {"lora_name": "new", "lora_path": str(tmp_path)}
    done = http.post("/v1/load_lora_adapter", json=load)
    assert done.text == "Success: LoRA adapter 'new' added successfully."
    assert http.post("/v1/completions", json={"model": "new", "prompt": "a"}).status_code == 200
    for change, sentence in [
        ({}, "already been loaded"),
        ({"lora_name": "fake"}, "name of the model"),
        ({"lora_name": ""}, "lora_name"),
        ({"lora_name": "x", "lora_path": "owner/repository"}, "There is no folder"),
        ({"load_inplace": True}, "load_inplace"),
    ]:
        refused = http.post("/v1/load_lora_adapter", json=load | change)
        assert refused.status_code == 400 and sentence in refused.json()["error"]["message"]
    gone = http.post("/v1/unload_lora_adapter", json={"lora_name": "new"})
    assert gone.text == "Success: LoRA adapter 'new' removed successfully."
    assert http.post("/v1/completions", json={"model": "new", "prompt": "a"}).status_code == 404
    assert http.post("/v1/unload_lora_adapter", json={"lora_name": "new"}).status_code == 404
    assert generator.adapters.names == ["poet"]
    assert 'kgpt_adapter_completions_total{adapter="new"} 1.0' in http.get("/metrics").text


def test_nothing_is_loaded_by_requests_unless_it_is_allowed(client, tmp_path):
    for path in ("load", "unload"):
        body = {"lora_name": "a", "lora_path": str(tmp_path)}
        assert client.post(f"/v1/{path}_lora_adapter", json=body).status_code == 404


def test_an_adapter_answers_by_its_own_chat_template(adapted):
    http, generator = adapted

    class Template:
        tool_call_format, variables = None, frozenset()

        def encode(self, messages, *args, **kwargs):
            return [7] * 5, []

    generator.adapters.loaded[0].chat_template = Template()
    for path in ("/v1/chat/completions", "/api/chat"):
        answer = http.post(path, json={"model": "poet", "messages": HELLO, "stream": False}).json()
        count = answer.get("prompt_eval_count") or answer["usage"]["prompt_tokens"]
        assert count == 5
    ids = http.post("/v1/tokenize", json={"model": "poet", "messages": HELLO}).json()["ids"]
    assert ids == [7] * 5
