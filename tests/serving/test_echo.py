"""`echo` of text completions: the prompt, and its log-probabilities as lm_eval reads them."""

import pytest

from tests.serving.fakes import FakeGenerator
from tests.serving.test_openai import client_of

PROMPT = "a naïve 🙂 boat"
SIZE = len(PROMPT.encode())


@pytest.fixture
def api(server):
    with client_of(server) as client:
        yield client


def complete(api, **options):
    return api.completions.create(model="fake", **{"prompt": PROMPT, "max_tokens": 6} | options)


def test_the_prompt_stands_before_its_completion(api):
    alone = complete(api, seed=1)
    for prompt in (PROMPT, list(PROMPT.encode())):
        answer = complete(api, prompt=prompt, seed=1, echo=True)
        (choice,) = answer.choices
        assert choice.logprobs is None and answer.usage == alone.usage
        if prompt == PROMPT:
            assert choice.text == PROMPT + alone.choices[0].text
        else:
            assert choice.text.startswith(PROMPT)


def test_nothing_is_generated_of_zero_tokens(server, api):
    before = len(server.generator.samplings)
    answer = complete(api, prompt=["a", "bc"], max_tokens=0, echo=True, n=2)
    assert [choice.text for choice in answer.choices] == ["a", "a", "bc", "bc"]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 0)
    assert len(server.generator.samplings) == before


def test_logprobs_cover_prompt_and_completion(api):
    (choice,) = complete(api, echo=True, logprobs=2, seed=1).choices
    lists = choice.logprobs
    alone = complete(api, logprobs=2, seed=1).choices[0].logprobs
    assert lists.token_logprobs[0] is lists.top_logprobs[0] is None
    assert lists.token_logprobs[1:SIZE] == pytest.approx([-b / 100 for b in PROMPT.encode()[1:]])
    assert lists.token_logprobs[SIZE:] == alone.token_logprobs
    assert lists.top_logprobs[SIZE:] == alone.top_logprobs
    assert [max(top.values()) for top in lists.top_logprobs[1:]] == [-0.5] * (SIZE + 5)
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset", "content"):
        assert len(getattr(lists, name)) == SIZE + 6
    for token, offset in zip(lists.tokens, lists.text_offset, strict=True):
        assert token.startswith("bytes:") or choice.text[offset] == token


def test_the_shape_that_lm_eval_reads(api):
    ids = [list(b"a boat"), list(b"far over")]
    answer = complete(api, prompt=ids, max_tokens=1, temperature=0, echo=True, logprobs=1, seed=5)
    for choice, prompt in zip(answer.choices, ids, strict=True):
        scored = choice.logprobs.token_logprobs[2:-1]  # after a context of two tokens
        assert scored == pytest.approx([-token / 100 for token in prompt[2:]])
        assert all(len(top) == 1 for top in choice.logprobs.top_logprobs[1:])


def test_a_stream_begins_with_the_prompt(api):
    asked = {"echo": True, "logprobs": 1, "seed": 1, "n": 2}
    whole = complete(api, **asked).choices
    texts, tokens = ["", ""], [[], []]
    for chunk in complete(api, **asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            tokens[choice.index] += choice.logprobs.token_logprobs
    assert texts == [choice.text for choice in whole]
    assert tokens == [choice.logprobs.token_logprobs for choice in whole]


def test_zero_tokens_are_streamed_too(api):
    chunks = list(complete(api, echo=True, max_tokens=0, stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == PROMPT


def test_a_prompt_may_fill_the_context_if_nothing_follows(api, client):
    answer = complete(api, prompt="a" * 512, echo=True, max_tokens=0, logprobs=1)
    assert len(answer.choices[0].logprobs.tokens) == 512
    ask = {"prompt": "a" * 512, "echo": True, "max_tokens": 1}
    assert client.post("/v1/completions", json=ask).status_code == 400


def test_an_empty_prompt_has_no_logprobs(api):
    lists = complete(api, prompt="", echo=True, max_tokens=0, logprobs=1).choices[0].logprobs
    assert lists.tokens == lists.token_logprobs == lists.text_offset == []


def test_bad_requests_are_explained(client, serve):
    for path, body, says in (
        ("/v1/completions", {"prompt": "a", "max_tokens": 0}, "echo"),
        ("/v1/completions", {"prompt": "a", "max_tokens": -5, "echo": True}, "max_tokens"),
        ("/v1/completions", {"prompt": ["a"] * 64, "n": 64, "max_tokens": 0, "echo": True}, "4096"),
        ("/v1/chat/completions", {"messages": [], "echo": True}, "/v1/completions"),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 400 and says in answer.json()["error"]["message"]
    running = serve(FakeGenerator(max_num_seqs=1, max_queue=0), max_num_seqs=1, max_queue=0)
    with running.client() as http:
        ask = {"prompt": ["a", "b"], "max_tokens": 0, "echo": True, "logprobs": 1}
        assert http.post("/v1/completions", json=ask).status_code == 400
