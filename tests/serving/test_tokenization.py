"""Text to token ids and back: kgpt's endpoints under /v1, and vLLM's without it."""

import pytest

TEXT = "a <|im_end|> naïve 🙂"
HELLO = [{"role": "user", "content": "a"}]


def test_texts_survive_both_ways(client):
    ids = client.post("/v1/tokenize", json={"text": TEXT}).json()["ids"]
    assert ids == list(TEXT.encode())
    for name in ("ids", "tokens"):
        answer = client.post("/v1/detokenize", json={name: ids}).json()
        assert answer == {"text": TEXT, "prompt": TEXT}
    assert client.post("/v1/tokenize", json={"prompt": TEXT}).json()["ids"] == ids


def test_vllms_endpoints_recognise_special_tokens(client):
    ask = {"prompt": TEXT, "return_token_strs": True}
    answer = client.post("/tokenize", json=ask).json()
    assert answer["max_model_len"] == 512 and answer["count"] == len(answer["tokens"])
    assert "<|im_end|>" in answer["token_strs"] and answer["tokens"][2] > 255
    back = client.post("/detokenize", json={"tokens": answer["tokens"]}).json()
    assert back == {"prompt": TEXT}
    assert client.post("/tokenize", json={"prompt": "a"}).json()["token_strs"] is None


def test_both_tokenize_a_conversation_alike(client):
    ours = client.post("/v1/tokenize", json={"messages": HELLO}).json()
    vllms = client.post("/tokenize", json={"messages": HELLO}).json()
    assert vllms["tokens"] == ours["ids"]


def test_the_tokenizer_is_described(client):
    info = client.get("/tokenizer_info").json()
    assert info["eos_token"] == info["bos_token"] == "<|endoftext|>"
    assert "im_start" in info["chat_template"] and info["model_max_length"] == 512


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/tokenize", {}),
        ("/v1/tokenize", {"text": "a", "messages": HELLO}),
        ("/v1/tokenize", {"text": "a", "prompt": "b"}),
        ("/v1/detokenize", {}),
        ("/v1/detokenize", {"ids": ["a"]}),
        ("/v1/detokenize", {"ids": [-1]}),
        ("/v1/detokenize", {"ids": [259]}),
        ("/v1/detokenize", {"ids": [1], "tokens": [1]}),
        ("/v1/detokenize", {"ids": [1], "model": "other"}),
        ("/tokenize", {"prompt": "a", "messages": HELLO}),
        ("/tokenize", {"messages": HELLO, "add_generation_prompt": False}),
        ("/detokenize", {"tokens": [1 << 31]}),
    ],
)
def test_bad_requests_are_explained(client, path, body):
    answer = client.post(path, json=body)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["message"].endswith((".", "?"))
