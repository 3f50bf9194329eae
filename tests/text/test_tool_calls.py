"""Tool calls: found from the template, written, and read back from any chunks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.errors import UsageError
from kgpt.text.jinja_sandbox import Template
from kgpt.text.tool_call_parser import ToolCallDelta, ToolCallParser
from kgpt.text.tool_calls import ToolCallFormat, find_tool_call_format
from tests.peers.templates import TEMPLATES, TOOL_TEMPLATES

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
FORMATS = {
    "hermes": ToolCallFormat("<tool_call>", "</tool_call>"),
    "hermes list": ToolCallFormat("<tool_call>", "</tool_call>", is_list=True),
    "mistral": ToolCallFormat("[TOOL_CALLS]", is_list=True, short_ids=True),
    "llama": ToolCallFormat("", arguments_key="parameters"),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text() | st.sampled_from(["</tool_call>", "<tool_call>", "[TOOL_CALLS][", '"}\\"', "}{"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
NAMES = st.sampled_from(["f", "get_weather", "a.b-c"])
CALLS = st.lists(
    st.fixed_dictionaries({"name": NAMES, "arguments": st.dictionaries(st.text(), JSON)}),
    min_size=1, max_size=3,
)  # fmt: skip


def read(format, chunks, stream=False, names=("f", "get_weather", "a.b-c")):
    """The content of a message and its calls, as (name, arguments)."""
    parser = ToolCallParser(format, names, stream)
    content, calls = "", []
    for i, chunk in enumerate(chunks):
        for event in parser.feed(chunk, last=i == len(chunks) - 1):
            if isinstance(event, str):
                content += event
                continue
            assert isinstance(event, ToolCallDelta)
            if event.name is not None:
                assert event.id.isalnum() and len(event.id) == 9
                calls.append([event.name, ""])
            assert event.index == len(calls) - 1
            calls[-1][1] += event.arguments
    assert parser.num_calls <= len(calls)
    return content, [tuple(call) for call in calls]


@st.composite
def cut(draw, text):
    """`text` in chunks."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    ends = [*places, len(text)]
    return [text[a:b] for a, b in zip([0, *places], ends, strict=True)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", FORMATS)
@given(calls=CALLS, data=st.data())
def test_calls_round_trip_in_any_chunks(name, stream, calls, data):
    format = FORMATS[name]
    content, found = read(format, data.draw(cut(format.write(calls))), stream)
    assert content == ""
    parsed = [{"name": one, "arguments": json.loads(arguments)} for one, arguments in found]
    assert parsed == calls


@pytest.mark.parametrize("stream", [False, True])
@given(calls=CALLS, before=st.text(), after=st.text(), data=st.data())
def test_text_around_calls_is_content(stream, calls, before, after, data):
    format = FORMATS["hermes"]
    text = f"{before}\n{format.write(calls)}\n{after}"
    content, found = read(format, data.draw(cut(text)), stream)
    assert len(found) == len(calls)
    assert content.split() == (before.rstrip() + "\n" + after).split()


MARKS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<tool", "_call>"]
SYNTAX = [*'{}[]",:\\\n 1', '"name"', '"f', '"x"', '"arguments"', '{"name": "f", "arguments": {']
PIECES = st.lists(st.sampled_from([*MARKS, *SYNTAX, "é"]) | st.text(max_size=3), max_size=20).map(
    "".join
)


@pytest.mark.parametrize("name", FORMATS)
@given(text=PIECES, data=st.data())
def test_text_without_a_call_passes_unchanged(name, text, data):
    content, calls = read(FORMATS[name], [text])
    if not calls:
        assert content == text
    assert (content, calls) == read(FORMATS[name], data.draw(cut(text)))


@pytest.mark.parametrize("name", FORMATS)
@given(text=PIECES, data=st.data())
def test_a_stream_loses_nothing(name, text, data):
    """Whatever a model writes, each letter that is no syntax is content or part of a call."""
    content, calls = read(FORMATS[name], data.draw(cut(text)), stream=True)
    if not calls:
        assert content == text
    said = content + "".join(arguments for _, arguments in calls)
    assert said.count("é") == text.count("é")


MALFORMED = [
    '<tool_call>{"name": "f", "arguments": {"x": }}</tool_call>',
    '<tool_call>{"name": "f", "arguments": "none"}</tool_call>',
    '<tool_call>{"name": 1, "arguments": {}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"x": 1',
    "<tool_call>f(1)</tool_call>",
    "<tool_call></tool_call>",
    "<tool_call>",
    "<tool_ca",
]


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_call_stays_text(text):
    assert read(FORMATS["hermes"], [f"So: {text}"]) == (f"So: {text}", [])
    assert read(FORMATS["hermes"], list(f"So: {text}")) == (f"So: {text}", [])


def test_the_call_after_a_malformed_one_is_read():
    text = '<tool_call>{"name"}</tool_call> <tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert read(FORMATS["hermes"], [text])[1] == [("f", "{}")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "f", "arguments": {"x": 1}</tool_call>',  # a brace is missing
        '<tool_call>{"arguments": {"x": 1}, "name": "f"}</tool_call>',
        '<tool_call>{"function": {"name": "f", "arguments": {"x": 1}}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"x": 1}, "id": "a1"}</tool_call>',
        '<tool_call>{"name": "f", "parameters": {"x": 1}}',
    ],
)
def test_forms_that_models_write_too(text, stream):
    assert read(FORMATS["hermes"], list(text), stream) == ("", [("f", '{"x": 1}')])


@pytest.mark.parametrize("stream", [False, True])
def test_calls_of_llama(stream):
    call = '{"name": "f", "parameters": {"x": 1}}'
    wanted = [("f", '{"x": 1}')]
    for text in (call, f"<|python_tag|>{call}", f" \n{call}", f"[{call}]"):
        assert read(FORMATS["llama"], list(text), stream) == ("", wanted)
    assert read(FORMATS["llama"], [f"{call}; {call}"], stream) == ("", wanted * 2)
    assert read(FORMATS["llama"], [f"So <|python_tag|>{call}"], stream) == ("So", wanted)


@pytest.mark.parametrize(
    "text",
    ['{"answer": {"x": 1}}', '{"name": "Ada", "arguments": {}}', "[1, 2]", "{", "[", " ", '{"na'],
)
def test_an_answer_in_json_is_no_call(text):
    assert read(FORMATS["llama"], list(text), True) == (text, [])


def test_an_answer_in_json_is_not_held_back():
    parser = ToolCallParser(FORMATS["llama"], ["f"], stream=True)
    assert parser.feed('{"ans') == ['{"ans']


def test_arguments_come_as_they_are_written():
    parser = ToolCallParser(FORMATS["hermes"], ["f"], stream=True)
    assert parser.feed('Hi\n<tool_call>\n{"name": "f", "argum') == ["Hi"]
    (first, second) = parser.feed('ents": {"x": ')
    assert (first.index, first.name, first.arguments) == (0, "f", "")
    assert second == ToolCallDelta(0, '{"x": ')
    assert parser.feed('"a"}') == [ToolCallDelta(0, '"a"}')]
    assert parser.feed("}\n</tool_call>", last=True) == []


@pytest.mark.parametrize("name", TOOL_TEMPLATES)
def test_the_form_is_found_from_the_template(name):
    source, expected = TOOL_TEMPLATES[name]
    assert find_tool_call_format(Template(source, TOKENS).render) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_without_tools_has_none(name):
    assert find_tool_call_format(Template(TEMPLATES[name], TOKENS).render) is None


def test_a_template_that_fails_has_none():
    assert find_tool_call_format(Template("{{ raise_exception('no') }}", TOKENS).render) is None
    with pytest.raises(UsageError):
        Template("{{ raise_exception('no') }}", TOKENS).render([])
