"""The unmodified `openai` client against the server."""

import openai
import pytest

from kgpt.serving.security import ApiKeys
from tests.serving.fakes import FakeGenerator
from tests.serving.harness import eventually

HELLO = [{"role": "user", "content": "Hello!"}]


def client_of(running, key="none", timeout=30):
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0, timeout=timeout)


@pytest.fixture
def api(server):
    with client_of(server) as client:
        yield client


def test_the_model_is_listed(api):
    (model,) = api.models.list().data
    assert model.id == "fake" and model.kgpt["context"] == 512 and model.kgpt["chat"]
    assert api.models.retrieve("fake").id == "fake"


def test_chat(api):
    answer = api.chat.completions.create(model="fake", messages=HELLO, seed=1, max_tokens=12)
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and len(choice.message.content) > 5
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_a_stream_says_the_same_as_a_whole_answer(api):
    asked = {"model": "fake", "messages": HELLO, "seed": 7, "max_tokens": 60}
    whole = api.chat.completions.create(**asked)
    chunks = list(
        api.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 4
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_usage_is_sent_only_when_asked_for(api):
    chunks = list(api.chat.completions.create(model="fake", messages=HELLO, stream=True))
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    assert all(chunk.choices for chunk in chunks)


def test_logprobs_in_chat(api):
    answer = api.chat.completions.create(
        model="fake", messages=HELLO, max_tokens=8, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == 8
    assert b"".join(bytes(t.bytes) for t in content).decode() == answer.choices[0].message.content
    assert all(len(token.top_logprobs) == 3 for token in content)
    for token in content:
        same = [other for other in token.top_logprobs if other.id == token.id]
        assert [other.logprob for other in same] == [token.logprob] * len(same)
        assert token.sampling_prob == (same[0].sampling_prob if same else None)


def test_logprobs_streamed_are_those_of_the_whole(api):
    asked = {"model": "fake", "messages": HELLO, "seed": 3, "logprobs": True, "top_logprobs": 2}
    whole = api.chat.completions.create(**asked).choices[0].logprobs.content
    streamed = []
    for chunk in api.chat.completions.create(**asked, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert streamed == whole


def test_logprobs_of_plain_completions(api):
    answer = api.completions.create(model="fake", prompt="a", max_tokens=5, logprobs=4, seed=2)
    found = answer.choices[0].logprobs
    said = b"".join(bytes(token["bytes"]) for token in found.content)
    assert said.decode(errors="replace") == answer.choices[0].text
    assert answer.choices[0].text.isascii() and found.text_offset == [0, 1, 2, 3, 4]
    assert [len(top) for top in found.top_logprobs] == [4] * 5
    assert [token["logprob"] for token in found.content] == found.token_logprobs


def test_n_texts_are_those_of_consecutive_seeds(api):
    asked = {"model": "fake", "messages": HELLO, "max_tokens": 30}
    four = api.chat.completions.create(**asked, n=4, seed=10)
    alone = [api.chat.completions.create(**asked, seed=10 + i) for i in range(4)]
    assert [c.message.content for c in four.choices] == [
        answer.choices[0].message.content for answer in alone
    ]
    assert len({c.message.content for c in four.choices}) == 4
    assert four.usage.prompt_tokens == alone[0].usage.prompt_tokens
    assert four.usage.completion_tokens == 4 * 30


def test_n_streams_share_one_response(api):
    asked = {"model": "fake", "messages": HELLO, "max_tokens": 30, "n": 4, "seed": 10}
    whole = api.chat.completions.create(**asked)
    texts = [""] * 4
    for chunk in api.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]


def test_stop_strings_end_the_text_and_are_not_in_it(api):
    asked = {"model": "fake", "prompt": "x", "seed": 5, "max_tokens": 100}
    text = api.completions.create(**asked).choices[0].text
    stop = text[12:16]
    for given in (stop, [stop, "never to be met"]):
        answer = api.completions.create(**asked, stop=given).choices[0]
        assert answer.text == text[: text.index(stop)]
        assert answer.finish_reason == "stop" and answer.stop_reason == stop
        streamed = api.completions.create(**asked, stop=given, stream=True)
        assert "".join(chunk.choices[0].text for chunk in streamed) == answer.text


def test_several_prompts_and_token_ids(api):
    texts = api.completions.create(model="fake", prompt=["a", "b"], seed=1, n=2)
    alone = api.completions.create(model="fake", prompt="b", seed=2)
    as_ids = api.completions.create(model="fake", prompt=[ord("b")], seed=2)
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    assert texts.choices[3].text == alone.choices[0].text == as_ids.choices[0].text
    assert texts.usage.prompt_tokens == 2


def test_a_prefilled_answer_is_continued(server, api):
    said = [*HELLO, {"role": "assistant", "content": "Once"}]
    more = api.chat.completions.create(
        model="fake", messages=said, seed=1, extra_body={"continue_final_message": True}
    )
    chat = server.generator.chat_template
    prompt, _ = chat.encode(said, continue_final_message=True)
    assert prompt[-4:] == list(b"Once")
    direct = api.completions.create(model="fake", prompt=prompt, seed=1)
    assert more.choices[0].message.content == direct.choices[0].text


def test_parts_of_text_are_one_text(api):
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]
    asked = {"model": "fake", "seed": 1}
    whole = api.chat.completions.create(messages=HELLO, **asked)
    parted = api.chat.completions.create(messages=[{"role": "user", "content": parts}], **asked)
    assert parted.choices[0].message.content == whole.choices[0].message.content


def test_every_sampling_control_arrives(server, api):
    api.chat.completions.create(
        model="fake",
        messages=HELLO,
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=1,
        frequency_penalty=-1,
        logit_bias={"5": -100},
        extra_body={"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.2, "bad_words": ["x"]},
    )
    got = server.generator.samplings[-1]
    assert got.max_tokens == 9 and got.temperature == 0.5 and got.top_p == 0.9
    assert got.presence_penalty == 1 and got.frequency_penalty == -1
    assert got.logit_bias == {5: -100.0} and got.bad_words == ["x"]
    assert got.top_k == 3 and got.min_p == 0.1 and got.repetition_penalty == 1.2


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"temperature": -1}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 500}]}, "context is 512"),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, "has 9000 characters"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"top_logprobs": 3}, "needs logprobs"),
        ({"n": 65}, "n "),
        ({"n": 64, "extra_body": {"beam_size": 2, "contrastive_alpha": 0.5}}, "exclude each other"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "does not render tools"),
        ({"max_tokens": 4, "extra_body": {"min_tokens": 5}}, "min_tokens 5"),
        ({"extra_body": {"continue_final_message": True}}, "the assistant"),
        ({"stop": ["x"] * 65}, "at most 64"),
    ],
)
def test_bad_requests_are_explained(api, asked, says):
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(**{"model": "fake", "messages": HELLO, **asked})
    assert says in caught.value.body["message"]
    assert caught.value.body["message"].endswith((".", "?"))


@pytest.mark.parametrize("refused", [{"suffix": "x"}, {"best_of": 2}])
def test_what_cannot_be_honoured_is_refused(api, refused):
    with pytest.raises(openai.BadRequestError, match="is not supported"):
        api.completions.create(model="fake", prompt="a", **refused)


def test_another_model_is_not_found(api):
    with pytest.raises(openai.NotFoundError, match="serves 'fake'"):
        api.chat.completions.create(model="../../etc/passwd", messages=HELLO)
    with pytest.raises(openai.NotFoundError):
        api.models.retrieve("gpt-9")


def test_a_model_has_aliases(serve):
    api = client_of(serve(alias=["gpt-4o", "org/model", "fake"]))
    assert [model.id for model in api.models.list().data] == ["fake", "gpt-4o", "org/model"]
    for name in ("fake", "gpt-4o", "org/model", ""):
        assert api.chat.completions.create(model=name, messages=HELLO).model == "fake"
    assert api.models.retrieve("org/model").id == "org/model"
    with pytest.raises(openai.NotFoundError, match="serves 'fake'"):
        api.completions.create(model="gpt-4", prompt="a")


def test_any_model_name_is_accepted_where_asked(serve):
    api = client_of(serve(any_model_name=True))
    assert api.completions.create(model="gpt-4", prompt="a").model == "fake"
    assert api.models.retrieve("org/model").id == "org/model"
    assert [model.id for model in api.models.list().data] == ["fake"]


def test_a_model_without_a_chat_template_says_so(serve):
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client_of(serve(FakeGenerator(chat=False))).chat.completions.create(
            model="fake", messages=HELLO
        )


def test_keys(serve):
    running = serve(keys=ApiKeys(["first-key", "second-key"]))
    for key in ("first-key", "second-key"):
        assert client_of(running, key).models.list().data
    for key in ("first-ke", "first-key2", "x"):
        with pytest.raises(openai.AuthenticationError, match="API key"):
            client_of(running, key).models.list()


def test_a_full_queue_is_a_rate_limit(serve):
    running = serve(
        FakeGenerator(max_num_seqs=1, max_queue=1, delay=0.01), max_num_seqs=1, max_queue=1
    )
    client = client_of(running)
    asked = {"model": "fake", "messages": HELLO, "max_tokens": 4000, "stream": True}
    streams = [client.chat.completions.create(**asked) for _ in range(2)]
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**asked)
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert caught.value.body["code"] == "queue_full"
    for stream in streams:
        stream.close()
    eventually(lambda: running.generator.stats().active + running.generator.stats().queued == 0)
    assert client.chat.completions.create(model="fake", messages=HELLO).choices


def test_an_engine_that_fails_is_a_server_error(serve):
    running = serve()
    running.generator.fail_with = "wires crossed at 0x7f"
    client = client_of(running)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="fake", messages=HELLO)
    assert "0x7f" not in str(caught.value)
    with pytest.raises(openai.APIError, match="engine failed"):
        list(client.chat.completions.create(model="fake", messages=HELLO, stream=True))


def test_an_engine_out_of_memory_is_unavailable_and_says_what_to_do(serve):
    running = serve()
    running.generator.fail_with = "Out of memory; lower max_num_seqs."
    client = client_of(running)
    with pytest.raises(openai.InternalServerError, match="lower max_num_seqs") as caught:
        client.chat.completions.create(model="fake", messages=HELLO)
    assert (caught.value.status_code, caught.value.code) == (503, "out_of_memory")
    with pytest.raises(openai.APIError, match="lower max_num_seqs"):
        list(client.chat.completions.create(model="fake", messages=HELLO, stream=True))
    running.generator.fail_with = None
    assert client.chat.completions.create(model="fake", messages=HELLO).choices
