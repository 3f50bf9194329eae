"""Grammars of structured output: what they allow, what is refused, and how they are compiled."""

import json
import random
import string
import threading

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from kgpt.config import StructuredOutputConfig
from kgpt.errors import QueueFull, UsageError
from kgpt.text.special_tokens import SpecialTokens
from kgpt.text.tokenizer import Tokenizer
from tests.generation.random_schemas import random_schema

pytestmark = pytest.mark.backend


def with_prefix_space():
    """A tokenizer that puts a space before every text, as SentencePiece does."""
    backend = Backend(models.Unigram())  # without a token for unknown characters
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    texts = ['{"name": "value", "kind": 12.5} [true, false, null]', *string.printable, *"é😀"] * 9
    trainer = trainers.UnigramTrainer(vocab_size=180, special_tokens=["</s>"], show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend, SpecialTokens(stop_ids=frozenset({0})))


TOKENIZERS = {
    "bytes": Tokenizer.of_bytes(),
    "characters": Tokenizer.of_characters(['abcdefg {}[]":,0123456789-.']),
    "bpe": Tokenizer.train_bpe(['{"name": "value", "number": 12}'] * 9, 300),
    "prefix space": with_prefix_space(),
    "no stop token": Tokenizer.of_bytes(special_tokens=()),
}


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request):
    return TOKENIZERS[request.param]


def compiled(tokenizer=TOKENIZERS["bytes"], **options):
    from kgpt.generation.grammar import CompiledGrammar, make_ll_tokenizer

    size = tokenizer.vocab_size
    options = StructuredOutputConfig.parse(options)
    return CompiledGrammar(make_ll_tokenizer(tokenizer, size), size, options)


def allowed(matcher, vocab_size):
    bits = np.unpackbits(matcher.bitmask.view("uint8"), bitorder="little")
    return set(np.flatnonzero(bits).tolist()) & set(range(vocab_size))


def accepts(grammar, tokenizer, text):
    """Whether the whole text follows the grammar, by its bitmasks and then by its end."""
    matcher = grammar.matcher()
    for token in tokenizer.encode(text):
        if token not in allowed(matcher, tokenizer.vocab_size):
            return False
        matcher.accept(token)
    return matcher.is_complete or bool(
        allowed(matcher, tokenizer.vocab_size) & set(tokenizer.stop_ids)
    )


def test_bitmasks_allow_what_follows_the_grammar(tokenizer):
    if tokenizer.adds_prefix_space:
        pytest.skip("encodes every text with a space before it")
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    grammar = compiled(tokenizer, json_schema={**schema, "additionalProperties": False})
    has_stop = bool(tokenizer.stop_ids)
    assert accepts(grammar, tokenizer, '{"a": 12}')
    assert not accepts(grammar, tokenizer, '{"a": "b"}')
    assert not accepts(grammar, tokenizer, "{}")
    assert accepts(compiled(tokenizer, regex="[ab]{2}c"), tokenizer, "abc")
    assert not accepts(compiled(tokenizer, regex="[ab]{2}c"), tokenizer, "abcc")
    assert accepts(compiled(tokenizer, regex="a+"), tokenizer, "aaa") == has_stop
    assert accepts(compiled(tokenizer, grammar='root ::= "a" [0-9]'), tokenizer, "a7")
    assert accepts(compiled(tokenizer, grammar='start: "a" "b"'), tokenizer, "ab")


def test_any_path_through_the_allowed_tokens_is_valid(tokenizer):
    noise, stop_ids, ended = random.Random(0), tokenizer.stop_ids, 0
    for seed in range(12):
        schema = random_schema(seed)
        matcher, ids = compiled(tokenizer, json_schema=schema).matcher(), []
        while not matcher.is_complete and len(ids) < 300:
            token = noise.choice(sorted(allowed(matcher, tokenizer.vocab_size)))
            if token in stop_ids:
                break
            ids.append(token)
            matcher.accept(token)
        if matcher.is_complete or len(ids) < 300:
            ended += 1
            text = b"".join(tokenizer.token_bytes(i) for i in ids).decode()
            jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    assert ended >= 9


def test_digits_and_letters_of_a_regular_expression_are_those_of_ascii():
    tokenizer = TOKENIZERS["bytes"]
    grammar = compiled(regex=r"\d[\w/]\S")
    assert accepts(grammar, tokenizer, "1_é") and accepts(grammar, tokenizer, "1/\u07c4")
    assert not accepts(grammar, tokenizer, "\u07c4aa")
    assert not accepts(grammar, tokenizer, "1éa")


def test_the_end_is_allowed_only_where_the_text_may_end():
    tokenizer = TOKENIZERS["bytes"]
    matcher = compiled(regex="ab?").matcher()
    assert not allowed(matcher, 300) & set(tokenizer.stop_ids)
    matcher.accept(ord("a"))
    assert set(tokenizer.stop_ids) <= allowed(matcher, 300) and not matcher.is_complete
    matcher.accept(ord("b"))
    assert matcher.is_complete


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4), st.data())
def test_any_choice_is_allowed(choices, data):
    tokenizer = TOKENIZERS["bytes"]
    choices = [choice.encode(errors="replace").decode() for choice in choices]
    grammar = compiled(choices=choices)
    assert accepts(grammar, tokenizer, data.draw(st.sampled_from(choices)))
    assert not accepts(grammar, tokenizer, "".join(choices) + "!")


def test_whitespace_in_json_is_bounded():
    tokenizer = TOKENIZERS["bytes"]
    array = {"type": "array", "items": {"type": "integer"}}
    grammar = compiled(json_schema=array)
    assert accepts(grammar, tokenizer, "[1, 2]") and accepts(grammar, tokenizer, "[1,2]")
    assert not accepts(grammar, tokenizer, "[1,  2]") and not accepts(grammar, tokenizer, " []")
    other = compiled(json_schema=array, whitespace_pattern="\n*")
    assert accepts(other, tokenizer, "[1,\n\n2]") and not accepts(other, tokenizer, "[1, 2]")


def test_a_special_token_is_not_its_text():
    tokenizer = TOKENIZERS["bytes"]
    end = tokenizer.token_to_id("<|im_start|>")
    matcher = compiled(json_schema={"type": "string"}).matcher()
    matcher.accept(ord('"'))
    assert end not in allowed(matcher, tokenizer.vocab_size)
    assert accepts(compiled(json_schema={"type": "string"}), tokenizer, '"<|im_start|>"')
    assert end in allowed(compiled(grammar="start: <|im_start|>").matcher(), tokenizer.vocab_size)


REFUSED = {
    "look-around": ({"regex": "^(?=a)b$"}, "look-around"),
    "backreference": ({"regex": "(a)\\1"}, "backreferences are not supported"),
    "keyword": ({"json_schema": {"type": "array", "uniqueItems": True}}, "it uses uniqueItems"),
    "keywords": ({"json_schema": {"if": {}, "then": {}}}, "it uses if, then"),
    "lenient": ({"json_schema": {"x-guidance": {"lenient": True}, "not": {}}}, "it uses not"),
    "format": ({"json_schema": {"type": "string", "format": "frob"}}, "format: frob"),
    "type": ({"json_schema": {"type": "frob"}}, "frob"),
    "reference": ({"json_schema": {"$ref": "http://example.com/x"}}, "example.com"),
    "overlap": ({"json_schema": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}, "oneOf"),
    "contradiction": ({"json_schema": {"allOf": [{"type": "null"}, {"type": "string"}]}}, "types"),
    "no text": ({"json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}},
                "no text"),
    "no JSON": ({"json_schema": "{"}, "not JSON"),
    "no schema": ({"json_schema": [1]}, "must be a JSON object"),
    "false": ({"json_schema": False}, "allows no text"),
    "rule": ({"grammar": "root ::= nobody"}, "nobody"),
    "lark": ({"grammar": "start: nobody"}, "nobody"),
    "no grammar": ({"grammar": "hello"}, "GBNF"),
    "whitespace": ({"json_object": True, "whitespace_pattern": "("}, "unclosed group"),
    "two": ({"regex": "a", "choices": ["b"]}, "regex and choices"),
    "none": ({"whitespace_pattern": " "}, "none was given"),
    "no choice": ({"choices": []}, "choices"),
    "surrogate": ({"choices": ["\ud800"]}, "choices"),
    "deep": ({"json_schema": json.loads('{"items":' * 90 + "{}" + "}" * 90)}, "64 levels"),
    "large": ({"json_schema": {"title": "x" * (1 << 17)}}, "bytes"),
    "large text": ({"regex": "x" * (1 << 17) + "y"}, "regex"),
    "deep grammar": ({"grammar": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000}, "GBNF"),
    "large GBNF": ({"grammar": 'root ::= "a"\n#' + "x" * (1 << 14)}, "16384"),
    "deep regex": ({"regex": "(" * 5000 + "a" + ")" * 5000}, "regular expression"),
    "cross product": (
        {"json_schema": {"allOf": [{"anyOf": [{"properties": {f"{i} {j}": {"type": "string"}}}
                                              for i in range(10)]} for j in range(8)]}},
        "too large"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_in_a_sentence(name):
    options, words = REFUSED[name]
    with pytest.raises(UsageError, match=words) as refused:
        compiled(**options)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500
    assert str(refused.value).endswith(".")


def test_a_grammar_that_cannot_go_on_says_so():
    from kgpt.generation.grammar import NoTokenAllowed

    matcher = compiled(regex="ab").matcher()
    with pytest.raises(NoTokenAllowed, match="allows no token"):
        matcher.accept(ord("b"))


def test_sequences_follow_one_grammar_apart():
    grammar = compiled(regex="[ab]c")
    first, second = grammar.matcher(), grammar.matcher()
    first.accept(ord("a"))
    assert allowed(first, 256) == {ord("c")} and allowed(second, 256) == {ord("a"), ord("b")}


# -- compiling -------------------------------------------------------------------------------------


@pytest.fixture
def compiler(monkeypatch):
    """A compiler whose compilations last until `release` is set, and take 0.05 s at most."""
    from kgpt.generation import grammar_compiler

    made = grammar_compiler.GrammarCompiler(TOKENIZERS["bytes"], 259)
    made.release = threading.Event()
    real = grammar_compiler.CompiledGrammar

    def slow(*args):
        made.release.wait(30)
        return real(*args)

    monkeypatch.setattr(grammar_compiler, "CompiledGrammar", slow)
    monkeypatch.setattr(grammar_compiler, "COMPILE_TIMEOUT_S", 0.05)
    yield made
    made.release.set()
    made.close()


def options(number=0):
    return StructuredOutputConfig(regex=f"a{number}")


def test_a_compilation_ends_with_its_time(compiler):
    with pytest.raises(UsageError, match="was not compiled within"):
        compiler.compile(options())


def test_compilations_that_take_too_long_do_not_block_others_for_good(compiler):
    from kgpt.generation.grammar_compiler import MAX_PENDING

    futures = [compiler.submit(options(number)) for number in range(MAX_PENDING)]
    with pytest.raises(QueueFull, match="are being compiled"):
        compiler.submit(options(-1))
    compiler.release.set()
    assert all(future.result(30) for future in futures)
    assert compiler.submit(options(-1)).result(30)


def test_a_compiled_grammar_is_kept(compiler):
    compiler.release.set()
    first = compiler.submit(options()).result(30)
    compiler.release.clear()
    assert compiler.compile(options()) is first


def test_the_cache_is_bounded(compiler, monkeypatch):
    from kgpt.generation import grammar_compiler

    monkeypatch.setattr(grammar_compiler, "MAX_CACHED", 2)
    compiler.release.set()
    first = compiler.submit(options()).result(30)
    for number in (1, 2):
        compiler.submit(options(number)).result(30)
    assert compiler.submit(options()).result(30) is not first
