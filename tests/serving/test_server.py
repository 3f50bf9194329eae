"""The server's life: starting, queues, disconnects, deadlines, rules, figures, draining."""

import asyncio
import json
import re
import socket
import threading

import httpx
import pytest

from kgpt.errors import CheckpointError, UsageError
from kgpt.serving import filters
from kgpt.serving.metrics import Throughput
from tests.serving.fakes import FakeGenerator
from tests.serving.harness import eventually

LONG = {"prompt": "a", "max_tokens": 100_000, "stream": True}


def figure(http, name):
    """A figure of /metrics."""
    return float(re.search(rf"^{re.escape(name)} (\S+)$", http.get("/metrics").text, re.M)[1])


def test_health_tells_how_far_the_warm_up_is(serve):
    warm = threading.Event()
    running = serve(FakeGenerator(warm=warm), wait=False)
    with running.client() as http:
        eventually(lambda: running.state.progress == (1, 2))
        answer = http.get("/health")
        assert answer.status_code == 503
        assert answer.json() == {"status": "starting", "progress": [1, 2], "model": "fake"}
        refused = http.post("/v1/completions", json={"prompt": "a"})
        assert refused.status_code == 503 and "retry-after" in refused.headers
        assert "(1 of 2)" in refused.json()["error"]["message"]
        assert http.get("/").status_code == http.get("/metrics").status_code == 200
        warm.set()
        eventually(lambda: http.get("/health").status_code == 200)
        assert http.post("/v1/completions", json={"prompt": "a"}).status_code == 200


def test_a_model_that_cannot_be_loaded_ends_the_server(serve):
    class Broken(FakeGenerator):
        def warm_up(self, progress):
            raise CheckpointError("The weights are damaged.")

    running = serve(Broken(), wait=False)
    running.thread.join(60)
    assert not running.thread.is_alive()
    assert str(running.state.failure) == "The weights are damaged."


def test_no_part_of_a_response_waits_for_an_acknowledgement(serve):
    running = serve()
    with running.client() as http:
        http.get("/health")
        (connection,) = running.server.server_state.connections
        link = connection.transport.get_extra_info("socket")
        assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot(serve, stream):
    running = serve(FakeGenerator(max_context=10**6, delay=0.001), max_tokens=10**6)
    ask = {**LONG, "stream": stream, "n": 3}

    async def ask_and_go_away():
        async with httpx.AsyncClient(base_url=running.url, timeout=30) as http:
            asking = asyncio.create_task(http.post("/v1/completions", json=ask))
            while running.generator.stats().active < 3:
                await asyncio.sleep(0.01)
            asking.cancel()

    asyncio.run(asyncio.wait_for(ask_and_go_away(), 30))
    eventually(lambda: running.generator.stats().active == 0 and not running.state.active_streams)
    with running.client() as http:
        eventually(
            lambda: 'kgpt_completions_total{finish_reason="cancelled"}' in http.get("/metrics").text
        )
        assert figure(http, 'kgpt_completions_total{finish_reason="cancelled"}') == 3


def test_all_texts_are_queued_or_none(serve):
    running = serve(
        FakeGenerator(max_num_seqs=2, max_queue=2, delay=0.001), max_num_seqs=2, max_queue=2
    )
    with running.client() as http, http.stream("POST", "/v1/completions", json=LONG) as answer:
        text = answer.iter_text()
        next(text)
        full = http.post("/v1/completions", json={"prompt": "b", "n": 4})
        assert full.status_code == 429
        eventually(lambda: running.generator.stats().active == 1)
        never = http.post("/v1/completions", json={"prompt": "b", "n": 5})
        assert never.status_code == 400 and "more than the 4" in never.json()["error"]["message"]
        batch = http.post("/api/gpt/batch-generate", json={"prompts": ["a"] * 4})
        assert batch.status_code == 429 and batch.json()["texts"] is None


def test_a_deadline_ends_a_text_as_far_as_it_is(serve):
    running = serve(FakeGenerator(delay=0.02), timeout=1.0)
    with running.client() as http:
        answer = http.post("/v1/completions", json={"prompt": "a", "max_tokens": 4000}).json()
        (choice,) = answer["choices"]
        assert choice["text"] and choice["finish_reason"] == "length"
        assert choice["stop_reason"] == "deadline"
        assert 0 < answer["usage"]["completion_tokens"] < 100


def test_a_text_that_never_began_is_too_late(serve):
    running = serve(FakeGenerator(max_num_seqs=1, delay=0.01), timeout=30)
    with running.client() as http:
        with http.stream("POST", "/v1/completions", json=LONG) as answer:
            text = answer.iter_text()
            next(text)
            running.state.config.timeout = 0.001
            late = http.post("/v1/completions", json={"prompt": "b"})
        assert late.status_code == 429 and late.json()["error"]["code"] == "deadline"


def test_the_servers_rules_cannot_be_removed(serve):
    running = serve(bad_words=["secret"], max_tokens=30)
    with running.client() as http:
        for config in ({}, {"bad_words": []}, {"bad_words": None, "max_tokens": 4000}):
            asked = {"prompt": "a", "config": {"max_tokens": 50, **config}}
            answer = http.post("/api/gpt/generate", json=asked)
            assert answer.json()["usage"]["completion_tokens"] <= 30
            used = running.generator.samplings[-1]
            assert used.bad_words == ["secret"] and used.max_tokens <= 30
        own = {"prompt": "a", "config": {"bad_words": ["mine"]}}
        http.post("/api/gpt/generate", json=own)
        assert running.generator.samplings[-1].bad_words == ["secret", "mine"]
        many = {"prompt": "a", "config": {"bad_words": ["x"] * 64}}
        assert "at most 63" in http.post("/api/gpt/generate", json=many).json()["error"]


class Censor:
    """Writes stars for every vowel, and holds back what follows the last space."""

    def __init__(self):
        self.held = ""

    def feed(self, text):
        ready, space, self.held = (self.held + text).rpartition(" ")
        return self._starred(ready + space)

    def finish(self):
        return self._starred(self.held)

    def _starred(self, text):
        return re.sub("[aeiou]", "*", text)


@pytest.fixture
def censored(serve, monkeypatch):
    entry = type("Entry", (), {"name": "censor", "load": staticmethod(lambda: Censor)})
    monkeypatch.setattr(filters, "entry_points", lambda group: [entry])
    return serve(output_filter=["censor"])


def test_an_output_filter_sees_every_answer(censored, client):
    asked = {"prompt": "a", "seed": 1, "max_tokens": 50}
    plain = client.post("/v1/completions", json=asked).json()["choices"][0]["text"]
    expected = re.sub("[aeiou]", "*", plain)
    with censored.client() as http:
        whole = http.post("/v1/completions", json=asked).json()["choices"][0]["text"]
        streamed = ""
        with http.stream("POST", "/v1/completions", json={**asked, "stream": True}) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    streamed += json.loads(line[6:])["choices"][0]["text"]
        assert whole == streamed == expected != plain
        refused = http.post("/v1/completions", json={**asked, "logprobs": 1})
        assert refused.status_code == 400 and "filters" in refused.json()["error"]["message"]
        refused = http.post("/v1/completions", json={**asked, "kgpt_receipt": True})
        assert refused.status_code == 400 and "kgpt_receipt" in refused.json()["error"]["message"]


def test_each_choice_has_a_receipt_where_it_is_asked_for(client):
    asked = {"prompt": "a", "n": 2, "max_tokens": 5}
    named = {"kgpt_receipt": 1, "model": "fake", "adapter": None}
    for path in ("/v1/completions", "/v1/chat/completions"):
        body = asked | {"messages": [{"role": "user", "content": "a"}]}
        del body["prompt" if "chat" in path else "messages"]
        for wanted, expected in ((True, [named] * 2), (False, [None] * 2)):
            plain = client.post(path, json=body | {"kgpt_receipt": wanted}).json()["choices"]
            assert [choice.get("kgpt_receipt") for choice in plain] == expected
        streamed = client.post(path, json=body | {"kgpt_receipt": True, "stream": True}).text
        events = [json.loads(line[6:]) for line in streamed.splitlines() if line[:7] == "data: {"]
        choices = [choice for event in events for choice in event["choices"]]
        receipts = [choice["kgpt_receipt"] for choice in choices if choice["finish_reason"]]
        assert receipts == [named] * 2
        assert sum("kgpt_receipt" in choice for choice in choices) == 2


def test_a_filter_that_fails_lets_nothing_through(serve, monkeypatch):
    class Failing(Censor):
        def feed(self, text):
            raise RuntimeError("broken filter")

    entry = type("Entry", (), {"name": "bad", "load": staticmethod(lambda: Failing)})
    monkeypatch.setattr(filters, "entry_points", lambda group: [entry])
    running = serve(output_filter=["bad"])
    with running.client() as http:
        whole = http.post("/v1/completions", json={"prompt": "a"})
        assert whole.status_code == 500 and "broken" not in whole.text
        stream = http.post("/v1/completions", json={"prompt": "a", "stream": True})
        assert "server_error" in stream.text and '"text"' not in stream.text
        eventually(lambda: running.generator.stats().active == 0)


def test_an_unknown_filter_is_explained(serve):
    with pytest.raises(UsageError, match="No output filter is called 'censor'"):
        serve(output_filter=["censor"])


def test_metrics_count_what_happened(serve):
    running = serve()
    with running.client() as http:
        http.post("/v1/completions", json={"prompt": "abc", "max_tokens": 7})
        http.post("/v1/completions", json={"prompt": "a", "temperature": -1})
        http.get("/made/up/path")
        assert figure(http, "kgpt_prompt_tokens_total") == 3
        assert figure(http, "kgpt_generation_tokens_total") == 7
        assert (
            figure(http, "kgpt_max_num_seqs") == 8
            and figure(http, "kgpt_num_requests_running") == 0
        )
        assert figure(http, "kgpt_num_requests_waiting") == 0
        assert figure(http, "kgpt_time_to_first_token_seconds_count") == 1
        assert figure(http, 'kgpt_completions_total{finish_reason="length"}') == 1
        path = 'kgpt_http_requests_total{path="/v1/completions",status='
        assert figure(http, path + '"200"}') == figure(http, path + '"400"}') == 1
        assert figure(http, 'kgpt_http_requests_total{path="other",status="404"}') == 1
        assert "made" not in http.get("/metrics").text


def test_throughput_is_tokens_over_time(monkeypatch):
    from kgpt.serving import metrics

    now = [100.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    throughput = Throughput(window=10)
    assert throughput.rate() == 0
    for total in range(0, 2100, 100):  # 100 tokens a second, for 20 seconds
        throughput.record(total)
        now[0] += 1
    assert throughput.rate() == pytest.approx(100)
    for _ in range(11):
        throughput.record(2000)
        now[0] += 1
    assert throughput.rate() == 0


def test_tokenize(client):
    answer = client.post("/v1/tokenize", json={"text": "a <|im_end|>"}).json()
    assert answer["count"] == len(answer["ids"]) == 12  # what looks special is plain text
    assert "".join(answer["tokens"]) == "a <|im_end|>"
    chat = client.post("/v1/tokenize", json={"messages": [{"role": "user", "content": "a"}]})
    assert chat.json()["tokens"][0] == "<|im_start|>"
    for wrong in ({}, {"text": "a", "messages": []}, {"text": 5}):
        assert client.post("/v1/tokenize", json=wrong).status_code == 400


def test_the_simple_pair(client):
    config = {"seed": 5, "max_tokens": 9}
    both = client.post("/api/gpt/batch-generate", json={"prompts": ["x", "y"], "config": config})
    assert both.json()["success"] is True and both.json()["error"] is None
    alone = client.post("/api/gpt/generate", json={"prompt": "x", "config": config}).json()
    assert alone["success"] is True and alone["text"] == both.json()["texts"][0]
    for wrong in ({"prompt": "x", "config": {"top_p": 2}}, {"prompt": 5}, {}):
        answer = client.post("/api/gpt/generate", json=wrong)
        assert answer.status_code == 400
        assert answer.json()["success"] is False and answer.json()["error"].endswith(".")


def test_the_schema_has_the_bounds_of_the_configuration(client):
    from kgpt.config import SamplingConfig

    fields = client.get("/openapi.json").json()["components"]["schemas"]["SamplingFields"]
    assert list(fields["properties"]) == list(SamplingConfig.model_fields)
    own = SamplingConfig.model_json_schema()["properties"]
    for name, field in fields["properties"].items():
        assert field["description"] == own[name]["description"]
        if own[name].get("type") in ("number", "integer"):
            (number,) = [s for s in field["anyOf"] if s["type"] == own[name]["type"]]
            for bound in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
                assert number.get(bound) == own[name].get(bound)


def test_draining_lets_answers_finish_and_takes_no_more(serve):
    running = serve(FakeGenerator(delay=0.005))
    with running.client() as http:
        ask = {"prompt": "a", "max_tokens": 100, "stream": True}
        with http.stream("POST", "/v1/completions", json=ask) as answer:
            lines = answer.iter_lines()
            next(lines)
            running.server.handle_exit(15, None)
            assert http.get("/health").json()["status"] == "draining"
            refused = http.post("/v1/completions", json={"prompt": "b"})
            assert refused.status_code == 503 and "retry-after" in refused.headers
            assert [line for line in lines if line][-1] == "data: [DONE]"
    running.thread.join(60)
    assert not running.thread.is_alive() and running.generator.closed


def test_draining_ends_in_time(serve):
    running = serve(
        FakeGenerator(delay=0.005, max_context=10**6), drain_timeout=0.3, max_tokens=10**6
    )
    with running.client() as http, http.stream("POST", "/v1/completions", json=LONG) as answer:
        lines = answer.iter_lines()
        next(lines)
        running.server.handle_exit(15, None)
        rest = [line for line in lines if line]
        assert "cut off" in json.loads(rest[-1].removeprefix("data: "))["error"]["message"]
    running.thread.join(60)
    assert not running.thread.is_alive()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("unfinished", [True, False])
def test_a_conversation_beyond_the_context_is_truncated_where_asked(serve, stream, unfinished):
    turns = [{"role": ("user", "assistant")[n % 2], "content": "x" * 60} for n in range(20)]
    messages = [{"role": "system", "content": "s"}, *(turns if unfinished else turns[:-1])]
    body = {"messages": messages, "stream": stream, "continue_final_message": unfinished}
    with serve(FakeGenerator()).client() as http:
        refused = http.post("/v1/chat/completions", json=body)
        assert refused.json()["error"]["code"] == "context_length_exceeded"
        answer = http.post("/v1/chat/completions", json=body | {"truncate": "auto"})
        assert answer.status_code == 200
        assert 0 < int(answer.headers["x-kgpt-left-out"]) < 20
        fits = http.post(
            "/v1/chat/completions", json={"messages": messages[:3], "truncate": "auto"}
        )
        assert fits.status_code == 200 and "x-kgpt-left-out" not in fits.headers
        text = {"prompt": "y" * 9000, "stream": stream, "truncate": "auto"}
        assert http.post("/v1/completions", json=text).status_code == 200
