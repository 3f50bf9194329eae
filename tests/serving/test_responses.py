"""POST /v1/responses with the unmodified `openai` client."""

import json
from typing import Literal

import pydantic
import pytest

from tests.serving.test_openai import client_of

HELLO = [{"role": "user", "content": "Hello!"}]
LOGPROBS = ["message.output_text.logprobs"]


@pytest.fixture
def api(server):
    with client_of(server) as client:
        yield client


def respond(api, given="Hello!", **options):
    options = {"max_output_tokens": 20, "extra_body": {"seed": 3}} | options
    return api.responses.create(model="fake", input=given, **options)


def chat(api, messages, **options):
    options = {"max_tokens": 20, "seed": 3} | options
    return api.chat.completions.create(model="fake", messages=messages, **options)


def test_the_text_is_that_of_chat(api):
    answer = respond(api)
    expected = chat(api, HELLO)
    assert answer.output_text == expected.choices[0].message.content
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage.input_tokens == expected.usage.prompt_tokens
    assert answer.usage.total_tokens == expected.usage.total_tokens
    assert answer.output[0].role == "assistant" and answer.error is None


def test_a_stopped_text_is_complete(api):
    text = respond(api).output_text
    answer = respond(api, extra_body={"seed": 3, "stop": [text[5:8]]})
    assert answer.status == "completed" and answer.incomplete_details is None
    assert answer.output_text == text[: text.index(text[5:8])]


def test_items_are_messages(api):
    said = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "Hel"}, {"type": "input_text", "text": "lo"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
        {"role": "user", "content": "Again"},
    ]  # fmt: skip
    plain = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Again"},
    ]
    assert respond(api, said).output_text == chat(api, plain).choices[0].message.content


def test_instructions_open_the_system_message(api):
    def of_chat(system):
        messages = [{"role": "system", "content": system}, *HELLO]
        return chat(api, messages).choices[0].message.content

    assert respond(api, instructions="Be brief.").output_text == of_chat("Be brief.")
    both = respond(api, [{"role": "system", "content": "Rhyme."}, *HELLO], instructions="Be brief.")
    assert both.output_text == of_chat("Be brief.\n\nRhyme.")


def test_an_answer_is_history_as_it_came(api):
    first = respond(api)
    history = [*HELLO, *(item.model_dump() for item in first.output), *HELLO]
    said = [*HELLO, {"role": "assistant", "content": first.output_text}, *HELLO]
    assert respond(api, history).output_text == chat(api, said).choices[0].message.content
    assert respond(api, [*HELLO, *first.output, *HELLO]).output_text


def test_the_events_of_a_stream(api):
    whole = respond(api)
    events = list(respond(api, stream=True))
    kinds = [event.type for event in events]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    opening = ["created", "in_progress", "output_item.added", "content_part.added"]
    closing = ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    middle = ["output_text.delta"] * len(deltas)
    assert kinds == [f"response.{kind}" for kind in [*opening, *middle, *closing]]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert len(deltas) > 4
    assert "".join(event.delta for event in deltas) == whole.output_text == events[-4].text
    last = events[-1].response
    assert last.output_text == whole.output_text and last.usage == whole.usage
    assert {event.item_id for event in deltas} == {last.output[0].id}
    assert {events[0].response.id, events[1].response.id} == {last.id}


def test_the_clients_own_accumulator_agrees(api):
    options = {"max_output_tokens": 20, "extra_body": {"seed": 3}}
    with api.responses.stream(model="fake", input="Hello!", **options) as stream:
        texts = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
    assert texts[-1] == respond(api).output_text


def test_logprobs_are_returned_where_asked_for(api):
    whole = respond(api, include=LOGPROBS, top_logprobs=2).output[0].content[0]
    assert len(whole.logprobs) == 20 and all(len(t.top_logprobs) == 2 for t in whole.logprobs)
    assert b"".join(bytes(token.bytes) for token in whole.logprobs).decode() == whole.text
    events = list(respond(api, stream=True, include=LOGPROBS, top_logprobs=2))
    streamed = [
        token.logprob
        for event in events
        if event.type == "response.output_text.delta"
        for token in event.logprobs
    ]
    assert streamed == [token.logprob for token in whole.logprobs]
    assert respond(api).output[0].content[0].logprobs == []


def test_the_text_follows_a_schema(api):
    class Boat(pydantic.BaseModel):
        name: Literal["Argo", "Ark"]
        far: bool

    options = {"model": "fake", "input": "Hello!", "text_format": Boat, "max_output_tokens": 200}
    answer = api.responses.parse(**options)
    assert answer.status == "completed" and isinstance(answer.output_parsed, Boat)
    assert answer.text.format.type == "json_schema" and answer.text.format.name == "Boat"
    with api.responses.stream(**options) as stream:
        assert stream.get_final_response().output_parsed


def test_what_changes_nothing_is_accepted(api):
    answer = respond(
        api, store=True, metadata={"a": "b"}, user="me", background=False, tools=[],
        truncation="disabled", parallel_tool_calls=True, text={"format": {"type": "text"}},
        reasoning={"effort": "none"}, tool_choice="auto", include=["reasoning.encrypted_content"],
    )  # fmt: skip
    assert answer.output_text == respond(api).output_text
    assert answer.metadata == {"a": "b"} and not answer.model_dump()["store"]


def test_the_oldest_turns_can_be_left_out(api, client):
    turns = [{"role": "user", "content": "x" * 200}, {"role": "assistant", "content": "y"}] * 3
    body = {"input": [*turns, *HELLO], "max_output_tokens": 20}
    assert client.post("/v1/responses", json=body).status_code == 400
    answer = client.post("/v1/responses", json=body | {"truncation": "auto"})
    assert answer.status_code == 200 and int(answer.headers["x-kgpt-left-out"]) > 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"previous_response_id": "resp_1"}, "are not stored"),
        ({"conversation": "conv_1"}, "are not stored"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "are not stored"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "'reasoning'"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "'input_image'"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 5, "max_tokens": 6}, "disagree"),
        ({"text": {"format": {"type": "markdown"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema"}}}, "json_schema"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": HELLO}, "messages"),
        ({"model": "other"}, "no model"),
        ({"top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_what_cannot_be_honoured_is_refused(client, changes, says):
    answer = client.post("/v1/responses", json={"input": "Hello!"} | changes)
    assert answer.status_code in (400, 404), answer.text
    assert says in answer.json()["error"]["message"]


def test_a_failure_in_mid_stream_is_an_event(serve):
    running = serve()
    running.generator.delay = 0.01
    with running.client() as http:
        body = {"input": "a", "stream": True, "max_output_tokens": 500}
        with http.stream("POST", "/v1/responses", json=body) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if "output_text.delta" in line)
            running.generator.fail_with = "the engine broke"
            data = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert data[-1]["type"] == "response.failed"
    assert data[-1]["response"]["status"] == "failed"
    assert "engine failed" in data[-1]["response"]["error"]["message"]
    assert not running.state.active_streams


def test_a_client_that_goes_away_frees_its_slot(serve):
    from tests.serving.harness import eventually

    running = serve()
    running.generator.delay = 0.01
    body = {"input": "a", "stream": True, "max_output_tokens": 500}
    with running.client() as http, http.stream("POST", "/v1/responses", json=body) as answer:
        next(answer.iter_lines())
    eventually(running.is_idle)
