"""openai-python, unmodified: chat, streams, history, parsed answers, tools and responses."""

import openai
import pytest

from tests.clients.weather import Weather

pytestmark = pytest.mark.proof

HELLO = [{"role": "user", "content": "How warm is it?"}]
SHORT = {"model": "tiny", "max_tokens": 12}


@pytest.fixture(scope="module")
def api(url):
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_chat_and_stream(api):
    whole = api.chat.completions.create(messages=HELLO, **SHORT)
    assert whole.usage.completion_tokens > 0 and whole.choices[0].message.content
    options = {"stream_options": {"include_usage": True}}
    chunks = list(api.chat.completions.create(messages=HELLO, stream=True, **SHORT, **options))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_an_answer_is_history(api):
    answer = api.chat.completions.create(messages=HELLO, **SHORT).choices[0].message
    history = [*HELLO, answer.model_dump(), *HELLO]
    assert api.chat.completions.create(messages=history, **SHORT).choices[0].message.content


def test_parsed_answers(api):
    parsed = api.chat.completions.parse(model="tiny", messages=HELLO, response_format=Weather)
    assert isinstance(parsed.choices[0].message.parsed, Weather)
    history = [*HELLO, parsed.choices[0].message.model_dump(), *HELLO]
    assert api.chat.completions.create(messages=history, **SHORT).choices


def test_tools(api):
    tool = openai.pydantic_function_tool(Weather)
    options = {"model": "tiny", "messages": HELLO, "tools": [tool], "tool_choice": "required"}
    options["parallel_tool_calls"] = False
    parsed = api.chat.completions.parse(**options).choices[0]
    (call,) = parsed.message.tool_calls
    assert parsed.finish_reason == "tool_calls"
    assert isinstance(call.function.parsed_arguments, Weather)
    with api.chat.completions.stream(**options) as stream:
        events = [event.type for event in stream]
        streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert "tool_calls.function.arguments.delta" in events
    assert streamed.function.arguments == call.function.arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": "warm"}
    history = [*HELLO, parsed.message.model_dump(), result]
    assert api.chat.completions.create(messages=history, tools=[tool], **SHORT).choices


def test_responses(api):
    asked = {"model": "tiny", "input": "How warm is it?", "max_output_tokens": 16}
    whole = api.responses.create(**asked)
    assert whole.output_text
    events = list(api.responses.create(stream=True, **asked))
    said = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(said) == events[-1].response.output_text == whole.output_text
    assert events[0].type == "response.created"
