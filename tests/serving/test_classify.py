"""POST /v1/classify: vLLM's response, refusals, and a classifier beside the other endpoints."""

import pytest

from kgpt import TextClassifier
from tests.generation.test_text_classifier import LABELS, TEXTS, write_classifier
from tests.serving.harness import start


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "classifier"
    write_classifier(folder)
    with TextClassifier(folder) as classifier:
        yield classifier


@pytest.fixture(scope="module")
def http(classifier):
    running = start(classifier, name="mood")
    with running.client() as http:
        yield http
    running.stop()


@pytest.mark.parametrize("path", ["/v1/classify", "/classify"])
def test_the_response_is_vllms(http, classifier, path):
    texts = [text[:32] for text in TEXTS if text]
    answer = http.post(path, json={"model": "mood", "input": texts}).json()
    wanted = classifier.probabilities(texts)
    assert [entry["index"] for entry in answer["data"]] == list(range(len(texts)))
    for entry, row in zip(answer["data"], wanted, strict=True):
        assert entry["probs"] == pytest.approx(row.tolist(), abs=1e-5)
        assert entry["label"] == LABELS[row.argmax()] and entry["num_classes"] == 3
    tokens = sum(map(len, texts))
    assert answer["usage"] == {
        "prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0,
    }  # fmt: skip
    assert answer["object"] == "list" and answer["id"].startswith("classify-")
    assert answer["labels"] == LABELS and answer["model"] == "mood"


def test_token_ids_are_texts_too(http):
    text = http.post("/v1/classify", json={"input": "some words"}).json()["data"]
    ids = http.post("/v1/classify", json={"input": list(b"some words")}).json()["data"]
    assert ids == text


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"input": ""}, "empty"),
        ({"input": []}, "a text"),
        ({"input": "x" * 33}, "33 characters"),
        ({"input": [259]}, "does not exist"),
        ({"input": "a", "model": "other"}, "no model"),
        ({"input": "a", "truncate_prompt_tokens": 5}, "not supported"),
        ({"input": "a", "activation": False}, "not supported"),
        ({}, "input"),
    ],
)
def test_what_cannot_be_classified_is_refused(http, body, says):
    answer = http.post("/v1/classify", json=body)
    assert answer.status_code in (400, 404) and says in answer.json()["error"]["message"]


def test_a_classifier_generates_nothing(http):
    for path, body in {
        "/v1/completions": {"prompt": "a"},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
        "/api/generate": {"model": "mood", "prompt": "a", "stream": False},
    }.items():
        answer = http.post(path, json=body)
        assert answer.status_code == 400 and "use POST /v1/classify" in answer.text
    (model,) = http.get("/v1/models").json()["data"]
    assert model["id"] == "mood" and model["kgpt"]["labels"] == LABELS
    assert http.post("/tokenize", json={"prompt": "ab"}).json()["tokens"] == [97, 98]
    assert http.get("/health").json()["status"] == "ready"
    assert http.get("/metrics").status_code == 200


def test_a_language_model_classifies_nothing(client):
    answer = client.post("/v1/classify", json={"input": "a"})
    assert answer.status_code == 400 and "no classifier" in answer.json()["error"]["message"]
