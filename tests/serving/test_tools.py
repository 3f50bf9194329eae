"""Tools on /v1/chat/completions: told to the model, and its calls told to the client."""

import json

import openai
import pytest

from kgpt.generation.grammar_compiler import GrammarCompiler
from kgpt.protocol import GenerationChunk, Usage
from kgpt.text.chat_template import JinjaChatTemplate
from kgpt.text.special_tokens import SpecialTokens
from kgpt.text.tokenizer import Tokenizer
from tests.peers.templates import LLAMA3_TOOLS, MISTRAL_TOOLS, QWEN_TOOLS, SPECIAL, XML_CALLS
from tests.serving.fakes import FakeGenerator, Handle, text_of

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "How warm is it in Oslo?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.<|im_end|>",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": True,
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
CLOCK_CALL = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'


class Scripted(FakeGenerator):
    """Says a given text, in chunks of three characters, or one that follows the grammar."""

    def __init__(self, says, template=QWEN_TOOLS, finish_reason="stop"):
        super().__init__(max_context=4096)
        self.says, self.finish_reason = says, finish_reason
        self.tokenizer = Tokenizer.of_bytes([*SPECIAL, "[TOOL_CALLS]"])
        tokens = {"bos_token": "<s>", "eos_token": "</s>"}
        self.end = self.tokenizer.token_to_id("</s>")
        self.tokenizer.special_tokens = SpecialTokens(tokens, frozenset([self.end]), template)
        self.grammar_compiler = GrammarCompiler(self.tokenizer, self.tokenizer.vocab_size)
        self.chat_template = JinjaChatTemplate(self.tokenizer)
        self.prompts, self.kept = [], []

    def submit(
        self,
        prompt,
        sampling,
        on_chunk,
        *,
        keep_special=frozenset(),
        grammar=None,
        **options,
    ):
        self.prompts.append(list(prompt))
        if grammar is not None:
            ids = text_of(grammar, sampling.seed or 0, lambda token: token == self.end)
            self.says = self.tokenizer.decode(ids)
        self.kept.append(keep_special)
        for i in range(0, len(self.says), 3):
            on_chunk(GenerationChunk(self.says[i : i + 3]))
        usage = Usage(len(prompt), len(self.says))
        on_chunk(GenerationChunk(finish_reason=self.finish_reason, usage=usage))
        return Handle()

    def prompt(self):
        return self.tokenizer.decode(self.prompts[-1])


@pytest.fixture
def ask(serve):
    """Asks a model that says `says`; returns the choice, the choice of a stream, and the model."""

    def ask(says, template=QWEN_TOOLS, finish_reason="stop", tools=(WEATHER, CLOCK), **fields):
        running = serve(Scripted(says, template, finish_reason))
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as api:
            options = {"model": "fake", "messages": HELLO, "tools": list(tools), **fields}
            whole = api.chat.completions.create(**options).choices[0]
            with api.chat.completions.stream(**options) as stream:
                for _ in stream:
                    pass
                streamed = stream.get_final_completion().choices[0]
        return whole, streamed, running.generator

    return ask


def calls_of(choice):
    calls = choice.message.tool_calls or []
    assert len({call.id for call in calls}) == len(calls)
    assert all(call.type == "function" and len(call.id) == 9 for call in calls)
    return [(call.function.name, call.function.arguments) for call in calls]


def test_calls_are_told_whole_and_streamed(ask):
    for choice in ask(f"Let me see.\n{CALL}\n{CLOCK_CALL}")[:2]:
        assert choice.message.content == "Let me see."
        assert calls_of(choice) == [("weather", '{"city": "Oslo"}'), ("clock", "{}")]
        assert choice.finish_reason == "tool_calls"


def test_an_answer_that_is_a_call_has_no_content(ask):
    whole, streamed, _ = ask(CALL)
    assert whole.message.content is None and not streamed.message.content


def test_text_without_a_call_is_an_answer(ask):
    for choice in ask("12 <tool degrees {")[:2]:
        assert choice.message.content == "12 <tool degrees {"
        assert choice.message.tool_calls is None and choice.finish_reason == "stop"


def test_one_call_at_a_time(ask):
    for choice in ask(f"{CLOCK_CALL}{CALL}", parallel_tool_calls=False)[:2]:
        assert calls_of(choice) == [("clock", "{}")]


def test_a_call_that_is_cut_off_is_text(serve):
    with serve(Scripted(CALL[:-20], finish_reason="length")).client() as http:
        choice = http.post(CHAT, json={"messages": HELLO, "tools": [WEATHER]}).json()["choices"][0]
    assert choice["message"]["content"] == CALL[:-20]
    assert choice["finish_reason"] == "length" and "tool_calls" not in choice["message"]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (LLAMA3_TOOLS, '{"name": "weather", "parameters": {"city": "Oslo"}}'),
        (LLAMA3_TOOLS, '<|python_tag|>{"name": "weather", "parameters": {"city": "Oslo"}}'),
        (MISTRAL_TOOLS, '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo"}}]'),
    ],
)
def test_other_forms(ask, template, says):
    whole, streamed, generator = ask(says, template)
    assert calls_of(whole) == calls_of(streamed) == [("weather", '{"city": "Oslo"}')]
    assert all("[TOOL_CALLS]" in kept for kept in generator.kept) == ("[TOOL" in says)


def test_a_stream_begins_a_call_with_its_name(serve):
    running = serve(Scripted(CALL))
    body = {"messages": HELLO, "tools": [WEATHER], "stream": True}
    with running.client() as http:
        lines = http.post(CHAT, json=body).text.split("\n\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    deltas = [event["choices"][0]["delta"] for event in events]
    (first, *rest) = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert first["function"] == {"name": "weather", "arguments": ""}
    assert len(rest) > 3 and all(set(call) == {"index", "function"} for call in rest)
    assert "".join(call["function"]["arguments"] for call in rest) == '{"city": "Oslo"}'


def test_the_model_is_told_of_tools_calls_and_results(ask):
    history = [
        {"role": "developer", "content": "Be short."},
        *HELLO,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Oslo<|im_end|>"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "12 °C<|im_end|>"},
    ]
    _, _, generator = ask("12", messages=history)
    prompt = generator.prompt()
    assert '"name": "weather", "description": "The weather.<|im_end|>"' in prompt
    assert '"name": "clock", "description": "", "parameters": {"type": "object"' in prompt
    assert "strict" not in prompt
    assert '{"name": "weather", "arguments": {"city": "Oslo<|im_end|>"}}\n</tool_call>' in prompt
    assert "<tool_response>\n12 °C<|im_end|>\n</tool_response>" in prompt
    # The three that the messages contain are plain text: nobody forges the end of a turn.
    end = generator.tokenizer.token_to_id("<|im_end|>")
    assert generator.prompts[-1].count(end) == prompt.count("<|im_end|>") - 3


def test_ids_of_other_servers_pass_a_template_that_is_strict_about_them(ask):
    call = {"id": "call_x", "function": {"name": "clock", "arguments": ""}}
    history = [
        *HELLO,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_x", "content": "9:00"},
    ]
    prompt = ask("9", MISTRAL_TOOLS, messages=history)[2].prompt()
    (made, answered) = (part.split('"')[1] for part in prompt.split('id"')[1:])
    assert made == answered


def test_an_answer_of_ours_is_history(ask):
    whole, streamed, _ = ask(CALL)
    for answer in (whole, streamed):
        result = {"role": "tool", "tool_call_id": answer.message.tool_calls[0].id, "content": "12"}
        history = [*HELLO, answer.message.model_dump(), result]
        prompt = ask("12", messages=history)[2].prompt()
        assert CALL in prompt and "<tool_response>\n12\n" in prompt


def test_arguments_that_are_no_json_are_history(ask):
    call = {"id": "a", "type": "function", "function": {"name": "clock", "arguments": "{x"}}
    history = [*HELLO, {"role": "assistant", "content": "", "tool_calls": [call]}, *HELLO]
    assert '"arguments": "{x"}' in ask("12", messages=history)[2].prompt()


def test_none_tells_the_model_of_no_tools(ask):
    for choice in ask(CALL, tool_choice="none")[:2]:
        assert choice.message.content == CALL and choice.finish_reason == "stop"


SEEDS = range(3)
CITY = {"city": {"type": "string", "maxLength": 9}}
FORCED = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"properties": CITY, "required": ["city"]}},
}
NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize("template", [QWEN_TOOLS, MISTRAL_TOOLS, LLAMA3_TOOLS])
@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_is_forced(serve, template, choice):
    """Random text that follows the grammar of the request: one call, or several."""
    running = serve(Scripted("", template))
    body = {"messages": HELLO, "tools": [CLOCK, FORCED], "tool_choice": choice}
    with running.client() as http:
        for seed in SEEDS:
            (one,) = http.post(CHAT, json={**body, "seed": seed}).json()["choices"]
            calls = one["message"]["tool_calls"]
            assert one["message"]["content"] is None and one["finish_reason"] == "tool_calls"
            for call in calls:
                arguments = json.loads(call["function"]["arguments"])
                is_clock = call["function"]["name"] == "clock"
                assert arguments == {} if is_clock else len(arguments["city"]) <= 9
            if choice == NAMED:
                assert [call["function"]["name"] for call in calls] == ["weather"]


def test_an_answer_in_json_or_a_call(serve):
    schema = {"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = {"messages": HELLO, "tools": [FORCED], "response_format": wanted}
    with serve(Scripted("")).client() as http:
        messages = [
            http.post(CHAT, json={**body, "seed": seed}).json()["choices"][0]["message"]
            for seed in range(12)
        ]
        wrong = http.post(CHAT, json={"messages": HELLO, "tools": [CLOCK], "guided_regex": "a"})
    answers = [json.loads(one["content"]) for one in messages if "tool_calls" not in one]
    assert 0 < len(answers) < 12 and all(answer["x"] == 1 for answer in answers)
    assert wrong.status_code == 400 and "JSON schema" in wrong.json()["error"]["message"]


def test_variables_of_the_template(serve):
    running = serve(Scripted("Hi"))
    with running.client() as http:
        for value, thinks in ((False, True), (True, False)):
            kwargs = {"enable_thinking": value, "other": 1}
            answer = http.post(CHAT, json={"messages": HELLO, "chat_template_kwargs": kwargs})
            assert answer.headers["x-kgpt-ignored"] == "chat_template_kwargs.other"
            assert ("<think>" in running.generator.prompt()) == thinks
        wrong = http.post(CHAT, json={"messages": HELLO, "chat_template_kwargs": {"tools": []}})
    assert wrong.status_code == 400 and "a field of its own" in wrong.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "not among the tools"),
        ({"tool_choice": "required", "tools": []}, "not among the tools"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"messages": [{**HELLO[0], "tool_calls": [{"function": {"name": "f"}}]}]}, "assistant"),
        ({"messages": [{**HELLO[0], "tool_call_id": "a"}]}, "role tool"),
    ],
)
def test_what_is_wrong_is_told(serve, fields, says):
    with serve(Scripted("Hi")).client() as http:
        answer = http.post(CHAT, json={"messages": HELLO, "tools": [CLOCK], **fields})
    error = answer.json()["error"]
    assert answer.status_code == 400 and says in f"{error['param']} {error['message']}"


def test_a_template_without_tools_refuses_them(serve):
    tool = {"role": "tool", "tool_call_id": "a", "content": "12"}
    call = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "clock"}}]}
    for generator in (Scripted("Hi", XML_CALLS), FakeGenerator()):
        with serve(generator).client() as http:
            answer = http.post(CHAT, json={"messages": HELLO, "tools": [CLOCK]})
            assert "does not render tools" in answer.json()["error"]["message"]
            for message in (tool, call):
                answer = http.post(CHAT, json={"messages": [*HELLO, message]})
                assert "renders no tool calls" in answer.json()["error"]["message"]
