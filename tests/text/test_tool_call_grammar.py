"""The grammar of forced calls allows what the parser reads as calls of the tools, and no more."""

import pytest

from kgpt.config import StructuredOutputConfig
from kgpt.generation.grammar import CompiledGrammar, NoTokenAllowed, make_ll_tokenizer
from kgpt.text.tokenizer import Tokenizer
from kgpt.text.tool_call_grammar import tool_call_grammar
from kgpt.text.tool_call_parser import ToolCallParser
from kgpt.text.tool_calls import ToolCallFormat

FORMATS = {
    "hermes": ToolCallFormat("<tool_call>", "</tool_call>"),
    "list": ToolCallFormat("<tool_calls>", "</tool_calls>", is_list=True),
    "mistral": ToolCallFormat("[TOOL_CALLS]", is_list=True),
    "llama": ToolCallFormat("", arguments_key="parameters"),
}
TOOLS = [
    {
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"$ref": "#/$defs/City"}},
                "required": ["city"],
                "$defs": {"City": {"type": "string", "maxLength": 9}},
            },
        }
    },
    {"function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}},
]
CALLS = [
    {"name": "weather", "arguments": {"city": "Oslo"}},
    {"name": "clock", "arguments": {}},
]
TOKENIZER = Tokenizer.of_bytes(["<|endoftext|>", "[TOOL_CALLS]"])
SPECIAL = {text: i for i, text in TOKENIZER.special_by_id.items()}


def follow(format, text, **options):
    """Whether the grammar allows `text`, and whether the answer may end there."""
    grammar = tool_call_grammar(format, TOOLS, SPECIAL, **options)
    size, config = TOKENIZER.vocab_size, StructuredOutputConfig(grammar=grammar)
    matcher = CompiledGrammar(make_ll_tokenizer(TOKENIZER, size), size, config).matcher()
    for token in TOKENIZER.encode(text, allow_special=True):
        if not matcher.bitmask[token // 32] >> (token % 32) & 1:
            return False, False
        try:
            matcher.accept(token)
        except NoTokenAllowed:
            return False, False
    ends = TOKENIZER.stop_ids | {TOKENIZER.eos_id}
    may_end = any(matcher.bitmask[end // 32] >> (end % 32) & 1 for end in ends)
    return True, matcher.is_complete or may_end


@pytest.mark.parametrize("name", FORMATS)
def test_calls_are_allowed_and_read_back(name):
    format = FORMATS[name]
    several = [CALLS[:1], CALLS[1:]] + ([CALLS] if format.start else [])
    for calls in several:
        text = format.write(calls)
        assert follow(format, text) == (True, True)
        parser = ToolCallParser(format, ["weather", "clock"])
        assert not any(isinstance(event, str) for event in parser.feed(text, last=True))
        assert parser.num_calls == len(calls)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "call",
    [
        {"name": "other", "arguments": {}},
        {"name": "weather", "arguments": {}},
        {"name": "weather", "arguments": {"city": 1}},
        {"name": "weather", "arguments": {"city": "Oslo is long"}},
        {"name": "clock", "arguments": {"x": 1}},
    ],
)
def test_other_calls_are_not_allowed(name, call):
    assert not follow(FORMATS[name], FORMATS[name].write([call]))[0]


@pytest.mark.parametrize("name", FORMATS)
def test_text_and_too_many_calls_are_not_allowed(name):
    format = FORMATS[name]
    assert not follow(format, "Hello")[0]
    assert not follow(format, format.write(CALLS), max_calls=1)[0]
    assert follow(format, format.write(CALLS[:1])[:-3]) == (True, False)


@pytest.mark.parametrize("name", FORMATS)
def test_an_answer_in_json_may_be_allowed_too(name):
    schema = {"type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"]}
    format = FORMATS[name]
    assert follow(format, '{"warm": true}', answer=schema) == (True, True)
    assert follow(format, format.write(CALLS[:1]), answer=schema) == (True, True)
    assert not follow(format, '{"warm": 1}', answer=schema)[0]
