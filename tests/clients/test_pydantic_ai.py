"""pydantic-ai, unmodified: agents with a tool and with a type of output."""

from typing import Literal

import pytest

from tests.clients.weather import Weather

pydantic_ai = pytest.importorskip("pydantic_ai")

pytestmark = pytest.mark.proof


@pytest.fixture
def model(url):
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return OpenAIChatModel("tiny", provider=OpenAIProvider(base_url=url, api_key="none"))


def test_text(model):
    assert pydantic_ai.Agent(model, model_settings={"max_tokens": 12}).run_sync("Hello!").output


def test_a_type_of_output(model):
    agent = pydantic_ai.Agent(model, output_type=Weather)
    assert isinstance(agent.run_sync("How warm is it?").output, Weather)
    agent = pydantic_ai.Agent(model, output_type=pydantic_ai.NativeOutput(Weather))
    assert isinstance(agent.run_sync("How warm is it?").output, Weather)


def test_a_tool(model):
    """A random model calls the tool or ends the run; of some runs, one does both."""
    called = []
    agent = pydantic_ai.Agent(model, output_type=Weather)

    @agent.tool_plain
    def thermometer(city: Literal["Oslo", "Rome"]) -> float:
        """The temperature in a city."""
        called.append(city)
        return 12.5

    for seed in range(20):
        settings = {"seed": seed, "temperature": 1.0}
        result = agent.run_sync("How warm is it?", model_settings=settings)
        assert isinstance(result.output, Weather)
        if called:
            break
    assert set(called) <= {"Oslo", "Rome"} and called
