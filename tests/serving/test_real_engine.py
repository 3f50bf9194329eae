"""The `openai` client against the real engine, on the current backend.

The tests are those that the fake generator passes too.
"""

import pytest

from tests.serving.harness import eventually, start
from tests.serving.test_openai import (  # noqa: F401
    client_of,
    test_a_prefilled_answer_is_continued,
    test_a_stream_says_the_same_as_a_whole_answer,
    test_another_model_is_not_found,
    test_bad_requests_are_explained,
    test_chat,
    test_logprobs_in_chat,
    test_logprobs_of_plain_completions,
    test_logprobs_streamed_are_those_of_the_whole,
    test_n_streams_share_one_response,
    test_n_texts_are_those_of_consecutive_seeds,
    test_parts_of_text_are_one_text,
    test_several_prompts_and_token_ids,
    test_stop_strings_end_the_text_and_are_not_in_it,
    test_the_model_is_listed,
)
from tests.serving.test_responses import (  # noqa: F401
    test_the_clients_own_accumulator_agrees,
    test_the_text_is_that_of_chat,
)
from tests.tiny import write_tiny_model

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from kgpt.generation.generator import TextGenerator

    folder = write_tiny_model(tmp_path_factory.mktemp("model"), max_length=512)
    engine = TextGenerator(folder, max_num_seqs=4, max_queue=60)
    engine.warm_up = lambda progress: progress(0, 0)  # tests compile only what they use
    # Texts of ASCII that go on: an untrained model would write half characters, and end at once.
    engine.default_sampling.logit_bias = dict.fromkeys(range(128, 259), -100.0)
    engine.default_sampling.max_tokens = 20
    running = start(engine, max_num_seqs=4, max_queue=60)
    yield running
    running.stop()


@pytest.fixture
def api(server):
    with client_of(server, timeout=300) as client:
        yield client


def test_seeds_decide(api):
    ask = {"model": "fake", "prompt": "a", "max_tokens": 30}
    texts = [api.completions.create(**ask, seed=seed).choices[0].text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_searches_answer(api):
    for search in ({"beam_size": 3}, {"contrastive_alpha": 0.5, "top_k": 4}):
        answer = api.completions.create(model="fake", prompt="a", max_tokens=6, extra_body=search)
        assert answer.usage.completion_tokens == 6 and answer.choices[0].text


def test_the_next_tokens_distribution(api):
    ask = {"model": "fake", "prompt": "a", "max_tokens": 1, "logprobs": 20}
    answer = api.completions.create(**ask, temperature=1, extra_body={"top_k": 5})
    (token,) = answer.choices[0].logprobs.content
    logprobs = [other["logprob"] for other in token["top_logprobs"]]
    assert logprobs == sorted(logprobs, reverse=True) and len(logprobs) == 20
    kept = [other["sampling_prob"] for other in token["top_logprobs"] if other["sampling_prob"]]
    assert len(kept) <= 5 and sum(kept) == pytest.approx(1, abs=1e-3)


def test_banned_words_of_the_server_are_never_written(server, api):
    ask = {"model": "fake", "prompt": "a", "seed": 3, "max_tokens": 40}
    text = api.completions.create(**ask).choices[0].text
    banned = text[5:7]
    server.state.config.bad_words = [banned]
    try:
        for seed in range(3, 7):
            for more in ({}, {"logit_bias": {str(ord(banned[1])): 100}}):
                asked = {**ask, "seed": seed, "extra_body": {"bad_words": []}, **more}
                answer = api.completions.create(**asked)
                assert banned not in answer.choices[0].text
    finally:
        server.state.config.bad_words = []


def test_a_client_that_goes_away_frees_its_slot(server, api):
    ask = {"model": "fake", "prompt": "a", "max_tokens": 400, "n": 4}
    streams = [api.completions.create(**ask, stream=True) for _ in range(3)]
    for stream in streams:
        next(iter(stream))
        stream.close()
    eventually(lambda: server.generator.stats().active + server.generator.stats().queued == 0)
    assert not server.state.active_streams


def test_echoed_logprobs_are_those_of_generation(api):
    ask = {"model": "fake", "prompt": "To be", "max_tokens": 6, "logprobs": 2, "seed": 1}
    written = api.completions.create(**ask).choices[0].logprobs
    ids = [*b"To be", *(token["id"] for token in written.content)]
    ask |= {"prompt": [ids, ids[:5]], "max_tokens": 0}
    whole, prompt = api.completions.create(**ask, echo=True).choices
    assert whole.logprobs.token_logprobs[5:] == pytest.approx(written.token_logprobs, abs=1e-3)
    assert whole.logprobs.token_logprobs[1:5] == prompt.logprobs.token_logprobs[1:]
    for one, other in zip(whole.logprobs.top_logprobs[5:], written.top_logprobs, strict=True):
        assert one == pytest.approx(other, abs=1e-3)


def test_embeddings_are_those_of_the_generator(server, api):
    texts = ["a boat", "b"]
    answer = api.embeddings.create(model="fake", input=texts)
    expected = server.generator.embed(texts)
    assert [entry.embedding for entry in answer.data] == [
        pytest.approx(row.tolist(), abs=1e-5) for row in expected
    ]
