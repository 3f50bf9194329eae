"""POST /v1/embeddings: forms of input, encodings, refusals, and who is admitted."""

import base64

import numpy as np
import pytest

from tests.serving.fakes import FakeGenerator
from tests.serving.test_openai import client_of


@pytest.fixture
def api(server):
    with client_of(server) as client:
        yield client


def embed(api, texts, **options):
    answer = api.embeddings.create(model="fake", input=texts, **options)
    assert [entry.index for entry in answer.data] == list(range(len(answer.data)))
    return [np.array(entry.embedding, "float32") for entry in answer.data], answer


def test_texts_and_token_ids_have_one_embedding_each(api):
    texts = ["a boat", "naïve 🙂", "b"]
    found, answer = embed(api, texts)
    ids = [list(text.encode()) for text in texts]
    for same in (embed(api, ids)[0], [embed(api, text)[0][0] for text in texts]):
        np.testing.assert_array_equal(np.stack(same), np.stack(found))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, ids))
    assert [np.linalg.norm(row) for row in found] == pytest.approx([1, 1, 1])


def test_base64_is_the_same_numbers(client):
    """The openai client asks for base64 by default; without it, it receives numbers."""
    rows = {}
    for encoding in ("float", "base64", None):
        ask = {"input": "a boat", "encoding_format": encoding}
        rows[encoding] = client.post("/v1/embeddings", json=ask).json()["data"][0]["embedding"]
    decoded = np.frombuffer(base64.b64decode(rows["base64"]), "<f4")
    np.testing.assert_array_equal(decoded, np.array(rows["float"], "float32"))
    assert rows[None] == rows["float"]


def test_dimensions_are_those_of_the_model(api, client):
    assert embed(api, "a", dimensions=2)[0][0].shape == (2,)
    answer = client.post("/v1/embeddings", json={"input": "a", "dimensions": 1})
    assert answer.status_code == 400 and "have 2 numbers" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"input": ""}, "empty"),
        ({"input": ["a", ""]}, "empty"),
        ({"input": []}, "a text"),
        ({"input": [["a"]]}, "a text"),
        ({"input": ["a", [1]]}, "a text"),
        ({"input": [259]}, "does not exist"),
        ({"input": "a" * 513}, "513"),
        ({"input": ["a"] * 65}, "64"),
        ({"input": "a", "encoding_format": "int8"}, "base64"),
        ({"input": "a", "truncate_prompt_tokens": 5}, "not supported"),
        ({"input": "a", "model": "other"}, "no model"),
        ({}, "input"),
    ],
)
def test_what_cannot_be_embedded_is_refused(client, body, says):
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code in (400, 404)
    assert says in answer.json()["error"]["message"]


def test_a_text_may_fill_the_context(client):
    answer = client.post("/v1/embeddings", json={"input": "a" * 512})
    assert answer.status_code == 200 and answer.json()["usage"]["prompt_tokens"] == 512


def test_more_texts_than_may_wait_are_refused(serve):
    running = serve(FakeGenerator(max_num_seqs=2, max_queue=2), max_num_seqs=2, max_queue=2)
    with running.client() as http:
        assert http.post("/v1/embeddings", json={"input": ["a"] * 4}).status_code == 200
        answer = http.post("/v1/embeddings", json={"input": ["a"] * 5})
        assert answer.status_code == 400 and "4" in answer.json()["error"]["message"]
        running.generator.max_queue = 1  # as if others waited
        assert http.post("/v1/embeddings", json={"input": ["a"] * 4}).status_code == 429


def test_a_failing_engine_is_an_error_of_the_server(serve):
    running = serve()
    running.generator.fail_with = "the engine broke"
    with running.client() as http:
        answer = http.post("/v1/embeddings", json={"input": "a"})
    assert answer.status_code == 500 and "the engine broke" not in answer.text
    assert not running.state.active_streams
