"""Structured output in the engine: valid texts, other sequences untouched, ends and failures."""

import json
import threading

import jsonschema
import pytest

from kgpt.config import ModelConfig, SamplingConfig, StructuredOutputConfig
from kgpt.errors import UsageError
from tests.generation.models import KINDS
from tests.generation.random_schemas import random_schema

pytestmark = pytest.mark.backend
NUM_SLOTS = 8
POINT = {
    "type": "object",
    "properties": {
        "x": {"type": "integer", "minimum": 0, "maximum": 99},
        "name": {"enum": ["a", "b"]},
    },
    "required": ["x", "name"],
    "additionalProperties": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from kgpt import GPT
    from kgpt.checkpoints.pretrained import save_model
    from kgpt.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.of_bytes()
    sizes = {"vocab_size": tokenizer.vocab_size, "max_length": 128}
    path = tmp_path_factory.mktemp("model")
    save_model(GPT(ModelConfig(**{**KINDS["llama"], **sizes}), seed=5), path, tokenizer)
    return path


@pytest.fixture(scope="module")
def generator(folder):
    from kgpt.generation.generator import TextGenerator

    with TextGenerator(folder, max_num_seqs=NUM_SLOTS, max_queue=600) as made:
        made.warm_up()
        yield made


def config(count=120, **settings):
    return SamplingConfig(**{"temperature": 1.0, "seed": 3, "max_tokens": count} | settings)


def run_together(generator, jobs):
    """Completions of (prompt, sampling, structured output or None), all submitted at once."""
    from kgpt.generation.completion import Completion

    grammars = [options and generator.grammar_compiler.compile(options) for _, _, options in jobs]
    chunks = [[] for _ in jobs]
    handles = []
    ready = threading.Event()
    generator.engine._tasks.append(lambda: ready.wait(30))  # none starts before all are queued
    for (prompt, sampling, _), grammar, received in zip(jobs, grammars, chunks, strict=True):
        handles.append(
            generator.submit(prompt, sampling, received.append, grammar=grammar, stream=False)
        )
    ready.set()
    for handle in handles:
        assert handle.done.wait(120)
    return [Completion.from_chunks(received) for received in chunks]


def check_random_schemas(generator, seeds):
    """Generate one text for each schema, and validate those that ended; returns how many did."""
    schemas = [random_schema(seed) for seed in seeds]
    jobs = [
        ("x", config(400, seed=seed), StructuredOutputConfig(json_schema=schema))
        for seed, schema in zip(seeds, schemas, strict=True)
    ]
    ended = 0
    for schema, completion in zip(schemas, run_together(generator, jobs), strict=True):
        assert completion.finish_reason in ("stop", "length"), (schema, completion)
        if completion.finish_reason == "stop":
            ended += 1
            checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
            validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
            validator.validate(json.loads(completion.text))
    return ended


def test_texts_of_random_schemas_are_valid(generator):
    assert check_random_schemas(generator, range(20)) >= 18


@pytest.mark.proof
def test_texts_of_500_random_schemas_are_valid(generator):
    assert check_random_schemas(generator, range(1000, 1500)) >= 475


def test_others_in_the_batch_are_untouched(generator):
    regex = StructuredOutputConfig(regex="[a-z ]{30}!")
    jobs = [
        ("once", config(40, seed=1), StructuredOutputConfig(json_schema=POINT)),
        ("upon", config(40, seed=2, temperature=0), regex),
        *[(f"free {i}", config(40, seed=i, top_k=20 * (i % 2))) for i in range(6)],
    ]
    jobs = [(prompt, sampling, *rest, None)[:3] for prompt, sampling, *rest in jobs]
    alone = [run_together(generator, [job])[0] for job in jobs]
    together = run_together(generator, jobs)
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert [one.finish_reason for one in together[:2]] == ["stop", "stop"]
    assert any(len(one.token_ids) == 40 for one in together[2:])


def test_a_row_whose_grammar_has_ended_does_not_run_on(generator):
    """It would write into the cache of the next prompt in its slot."""
    from kgpt import backend

    jobs = [("a", config(), StructuredOutputConfig(choices=["b"])), ("free", config(30), None)]
    assert run_together(generator, jobs)[0].text == "b"
    running = backend.to_host(generator.engine._scheduler.runner.state.running)
    assert not running.any()


def test_another_grammar_compiles_no_program(generator):
    from kgpt.generation.compiled import CompiledFunctions

    functions = CompiledFunctions.of(generator.model)
    before = functions.compilations()
    for size in (1, 3):
        jobs = [("a", config(9), StructuredOutputConfig(regex=f"[a-f]{{{size}}}"))] * size
        assert all(len(one.text) == size for one in run_together(generator, jobs))
    assert functions.compilations() == before


def test_options_of_generate_stream_and_batch(generator):
    assert generator.generate("x", config(), choices=["yes", "no"]).text in ("yes", "no")
    pieces = list(generator.stream("x", config(), regex="[0-9]{5}"))
    assert "".join(piece.text for piece in pieces).isdigit()
    texts = generator.generate_batch(["a", "b", "c"], config(), json_schema=json.dumps(POINT))
    assert all(json.loads(one.text)["name"] in "ab" for one in texts)
    free = generator.generate("x", config(9))
    assert generator.generate("x", config(9), regex=None, json_object=False).text == free.text


def test_a_text_that_is_cut_off_ends_with_length(generator):
    cut = generator.generate("x", config(5), json_schema=POINT)
    whole = generator.generate("x", config(), json_schema=POINT)
    assert (cut.finish_reason, whole.finish_reason) == ("length", "stop")
    assert whole.text.startswith(cut.text) and len(cut.token_ids) == 5


def test_the_stop_token_ends_a_text_that_may_go_on(generator):
    done = generator.generate("x", config(400, seed=1), regex="[ -~]+")
    assert done.finish_reason == "stop" and done.text.isascii()
    assert done.token_ids[-1] in generator.tokenizer.stop_ids
    exact = generator.generate("x", config(), regex="abc")
    assert exact.text == "abc" and len(exact.token_ids) == 3


def test_an_empty_text_ends_at_once(generator):
    empty = generator.generate("x", config(), regex="(|)")
    assert (empty.text, empty.finish_reason) == ("", "stop")


def test_sampling_options_apply_after_the_mask(generator):
    hard = {"top_k": 1, "top_p": 0.01, "min_p": 1, "repetition_penalty": 10, "min_tokens": 50}
    hard |= {"presence_penalty": 2, "logit_bias": {ord("!"): 100, ord("a"): -100}}
    done = generator.generate("aaa", config(60, **hard), regex="a{9}b")
    assert (done.text, done.finish_reason) == ("aaaaaaaaab", "stop")


def test_logprobs_are_of_the_allowed_tokens(generator):
    done = generator.generate("x", config(), regex="[ab]c", top_logprobs=3)
    first, second = done.tokens
    allowed = {one.text: one.logprob for one in first.top_logprobs if one.logprob > -100}
    assert set(allowed) == {"a", "b"}
    assert sum(2.718281828**logprob for logprob in allowed.values()) == pytest.approx(1, abs=1e-4)
    assert second.logprob == pytest.approx(0, abs=1e-5)


def test_the_oldest_tokens_are_dropped_as_in_free_text(generator):
    long = generator.generate("x" * 100, config(400), regex="[a-c]{200}d")
    assert long.context_shifted and long.finish_reason == "stop" and len(long.text) == 201


def test_what_no_token_can_follow_ends_with_an_error(generator):
    from kgpt.generation.completion import Completion, GenerationFailed

    free = ("x", config(30, seed=4), None)
    alone = run_together(generator, [free])[0].token_ids
    grammar = grammar_without_d(generator, "a{3}d")
    chunks = []
    handle = generator.submit("x", config(), chunks.append, grammar=grammar)
    assert run_together(generator, [free])[0].token_ids == alone
    assert handle.done.wait(30)
    assert chunks[-1].finish_reason == "error" and chunks[-1].no_token_allowed
    assert "".join(chunk.text for chunk in chunks) == "aaa"
    with pytest.raises(GenerationFailed, match="allows no token"):
        Completion.from_chunks(chunks)


def grammar_without_d(generator, regex):
    """A grammar for a vocabulary in which no token has the letter d."""
    from kgpt.generation.grammar import CompiledGrammar, make_ll_tokenizer
    from kgpt.text.tokenizer import Tokenizer

    tokenizer, size = Tokenizer.of_bytes(), generator.config.known_vocab_size
    table = [tokenizer.token_bytes(i) for i in range(size)]
    tokenizer._bytes = [b"" if raw == b"d" else raw for raw in table]
    return CompiledGrammar(
        make_ll_tokenizer(tokenizer, size), size, StructuredOutputConfig(regex=regex)
    )


def test_bad_words_are_not_generated(generator):
    done = generator.generate("x", config(bad_words=["b"]), regex="[ab]{20}")
    assert done.text == "a" * 20
    forced = generator.generate("x", config(bad_words=["b"]), regex="ab{20}")
    assert (forced.text, forced.finish_reason) == ("a", "content_filter")


def test_a_client_that_leaves_midway_frees_its_slot(generator):
    expected = generator.generate("then", config(20)).token_ids
    for _ in range(NUM_SLOTS + 2):
        stream = generator.stream("x", config(4000), regex="[a-f]{3000}")
        assert next(stream).text
        stream.close()
    assert generator.generate("then", config(20)).token_ids == expected
    assert generator.generate("x", config(), regex="[a-f]{3}").finish_reason == "stop"


@pytest.mark.portable
def test_search_is_refused_and_drafts_are_left_out(generator, folder):
    from kgpt.generation.generator import TextGenerator

    for search in ({"beam_size": 2}, {"contrastive_alpha": 0.5}):
        with pytest.raises(UsageError, match="excludes beam_size"):
            generator.generate("x", config(**search), regex="a")
    with TextGenerator(folder, draft_model="prompt_lookup") as drafting:
        text = drafting.generate("x", config(), json_schema=POINT).text
    assert text == generator.generate("x", config(), json_schema=POINT).text
