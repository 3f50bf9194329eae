"""LangChain's `ChatOpenAI`, unmodified: invoke, stream, tools and structured output."""

import pytest

from tests.clients.weather import Weather

langchain_openai = pytest.importorskip("langchain_openai")

pytestmark = pytest.mark.proof


@pytest.fixture
def model(url):
    return langchain_openai.ChatOpenAI(
        model="tiny", base_url=url, api_key="none", max_retries=0, max_tokens=100
    )


def test_invoke_and_stream(model):
    whole = model.invoke("Hello!")
    assert whole.content and whole.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in model.stream("Hello!")) == whole.content


def test_tools(model):
    from langchain_core.messages import HumanMessage, ToolMessage

    bound = model.bind_tools([Weather], tool_choice="any", parallel_tool_calls=False)
    question = HumanMessage("How warm is it?")
    answer = bound.invoke([question])
    (call,) = answer.tool_calls
    assert call["name"] == "Weather" and Weather(**call["args"])
    streamed = None
    for chunk in bound.stream([question]):
        streamed = chunk if streamed is None else streamed + chunk
    assert [(one["name"], one["args"]) for one in streamed.tool_calls] == [
        (call["name"], call["args"])
    ]
    history = [question, answer, ToolMessage("warm", tool_call_id=call["id"])]
    assert model.bind_tools([Weather]).invoke(history) is not None


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model, method):
    found = model.with_structured_output(Weather, method=method).invoke("How warm is it?")
    assert isinstance(found, Weather)
