"""`kgpt generate` with whatever people type: a text, or one sentence."""

import contextlib
import io
import json
import math
import re
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kgpt.cli import main
from tests.tiny import write_tiny_model

pytestmark = [pytest.mark.backend, pytest.mark.portable]

CONTEXT = 32
SENSIBLE = {
    "max_tokens": ["3", "8"], "min_tokens": ["0", "3"], "temperature": ["0", "1e-40", "0.3", "100"],
    "top_k": ["0", "1", "100000"], "top_p": ["1e-40", "0.5", "1"], "min_p": ["0", "0.3", "1"],
    "typical_p": ["1e-40", "0.5", "1"], "repetition_penalty": ["1e-40", "1.5", "10"],
    "presence_penalty": ["-2", "2"], "frequency_penalty": ["-2", "2"], "seed": ["0", "2147483647"],
    "beam_size": ["1", "2"], "length_penalty": ["-10", "0", "10"], "early_stopping": [None],
    "contrastive_alpha": ["0"], "num_samples": ["1", "2"], "logit_bias.0": ["-100", "100"],
    "logit_bias.255": ["0"], "prompt": ["", "a", "x" * 300, "\x00", "\n", "[bold]", "-1", "é"],
    "stop": ["a", "\n", "é", "[", "x" * 300], "bad_words": ["a", "a b", "\n", "é"],
}  # fmt: skip
OTHERWISE = ["-1", "-0", "0.5", "1e30", "1e999", "nan", "-inf", "x", "", " ", "1,0",
             "99999999999999999999"]  # fmt: skip
UNKNOWN = ["logit_bias.1000000", "logit_bias.-1", "logit_bias.x", "logit_bias", "top_q", "stop.0"]
typed = st.sampled_from([*SENSIBLE] * 4 + UNKNOWN).flatmap(
    lambda name: st.tuples(st.just(name), st.sampled_from(SENSIBLE.get(name, []) * 4 + OTHERWISE))
)


def soon(flags):
    """Nothing in `flags` asks for hours."""
    with contextlib.suppress(ValueError):
        if 8 < float(flags.get("max_tokens", 0)) < math.inf:
            return False
    return True


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    from kgpt.generation.generator import TextGenerator

    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(
        folder, "gpt2", seed=5, max_length=CONTEXT, num_layers=1, num_heads=2, hidden_dim=16
    )
    with TextGenerator(folder, max_num_seqs=2) as made:
        yield made


def generate(engine, flags):
    """What the command gives for settings as pairs."""
    words = ["--" + name.replace("_", "-") + ("" if v is None else f"={v}") for name, v in flags]
    return run(engine, words)


def run(engine, words):
    """Exit code, standard output and standard error of the command, with `engine` as its engine."""
    output, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch("kgpt.cli.generate.prepare_process"),
        mock.patch("kgpt.cli.generate.silence_native_code"),
        mock.patch(
            "kgpt.generation.generator.TextGenerator", return_value=contextlib.nullcontext(engine)
        ),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as ending,
    ):
        main(["generate", "--model", str(engine.folder), "--json", *words])
    return ending.value.code or 0, output.getvalue(), errors.getvalue()


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in SENSIBLE for value in SENSIBLE[name]]
)
def test_a_sensible_setting_is_taken(engine, name, value):
    flags = {"max_tokens": "8", "prompt": "a"} | {name: value}
    assert generate(engine, flags.items())[0] == 0


@settings(max_examples=150)
@given(st.lists(typed, max_size=6).map(dict).filter(soon))
@example({"temperature": "-1"})
@example({"top_p": "0"})
@example({"prompt": "x" * 300, "beam_size": "2"})
@example({"contrastive_alpha": "0.5", "beam_size": "2"})
@example({"min_tokens": "9"})
def test_settings_are_taken_or_refused_in_a_sentence(engine, flags):
    flags = {"max_tokens": "8", "prompt": "a"} | flags
    code, output, errors = generate(engine, flags.items())
    assert "Traceback" not in errors
    if code == 0:
        answers = [json.loads(line) for line in output.splitlines()]
        assert len(answers) == int(flags.get("num_samples", 1))
        for answer in answers:
            assert answer["finish_reason"] in ("length", "stop")
            assert answer["usage"]["completion_tokens"] <= int(flags["max_tokens"])
            assert not flags.get("stop") or flags["stop"] not in answer["text"]
    else:
        assert code == 2 and not output
        assert errors.strip().endswith((".", "?")) and len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--temperature", "-1"], "temperature should be greater than or equal to 0, not -1.0."),
        (["--top-p", "0"], "top_p should be greater than 0, not 0.0."),
        (["--top-k", "0.9"], "--top-k should be an integer, not '0.9'."),
        (["--num-samples", "1.9"], "--num-samples should be an integer, not '1.9'."),
        (["--min-p", "low"], "--min-p should be a number, not 'low'."),
        (["--early-stopping=soon"], "--early-stopping should be true or false, not 'soon'."),
        (["--logit-bias", "3"], "--logit-bias needs a name, as in --logit-bias.NAME VALUE."),
        (["--logit-bias.300", "1"], "logit_bias names tokens outside 0 to 258."),
        (["--min-tokens", "9", "--max-tokens", "8"], "min_tokens 9 is above max_tokens 8."),
        (
            ["--prompt-lookup", "--draft-model", "x"],
            "Give --draft-model or --prompt-lookup, not both.",
        ),
    ],
)
def test_what_is_refused_is_told(engine, words, sentence):
    assert run(engine, ["--prompt", "a", *words]) == (2, "", f"kgpt: {sentence}\n")


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path, monkeypatch):
    from kgpt.cli.generate_file import read_prompts

    (tmp_path / "a.txt").write_text("\ufeffTo be\nOr not", encoding="utf-8")
    assert read_prompts(str(tmp_path / "a.txt")) == ["To be", "Or not"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeffTo be\n"))
    assert read_prompts("-") == ["To be"]


SCHEMA = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}
STRUCTURES = {
    "schema": (["--json-schema", json.dumps(SCHEMA)], r"\[ ?[12] ?, ?[12] ?\]"),
    "schema file": (["--json-schema", "schema.json"], r"\[ ?[12] ?, ?[12] ?\]"),
    "regex": (["--regex", "-[ab]{3}"], "-[ab]{3}"),
    "choices": (["--choice", "yes", "--choice", "no"], "yes|no"),
    "grammar": (["--grammar", 'root ::= "a" [bc]'], "a[bc]"),
    "grammar file": (["--grammar", "grammar.gbnf"], "a[bc]"),
    "whitespace": (["--json-schema", json.dumps(SCHEMA), "--whitespace-pattern", "_"],
                   "\\[_?[12]_?,_?[12]_?\\]"),
}  # fmt: skip


@pytest.fixture
def in_folder_with_grammars(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "grammar.gbnf").write_text('root ::= "a" [bc]')


@pytest.mark.usefixtures("in_folder_with_grammars")
@pytest.mark.parametrize("name", STRUCTURES)
def test_texts_follow_the_structure_asked_for(engine, name, tmp_path):
    flags, pattern = STRUCTURES[name]
    code, output, errors = run(engine, ["--prompt", "x", "--num-samples", "2", *flags])
    assert (code, errors) == (0, "")
    (tmp_path / "prompts.txt").write_text("x\ny\n")
    files = ["--input-file", "prompts.txt", "--output-file", "out.jsonl"]
    assert run(engine, [*files, *flags])[0] == 0
    lines = output.splitlines() + (tmp_path / "out.jsonl").read_text().splitlines()
    assert len(lines) == 4
    for line in lines:
        assert re.fullmatch(pattern, json.loads(line)["text"]), line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--json-schema", "missing.json"], "missing.json cannot be read"),
        (["--json-schema", "{"], "not JSON"),
        (["--json-schema", '{"not": {}}'], "it uses not"),
        (["--regex", "("], "regular expression cannot be used"),
        (["--regex", "a", "--choice", "b"], "exactly one"),
        (["--grammar", "root ::= x"], "'x' not found"),
        (["--regex", "a", "--beam-size", "2"], "excludes beam_size"),
    ],
)
def test_a_structure_that_cannot_be_followed_is_refused(engine, flags, words):
    code, output, errors = run(engine, ["--prompt", "x", *flags])
    assert (code, output) == (2, "") and words in " ".join(errors.split())


PARTS = '{"prompt": [{"type": "text", "text": "c"}]}'
LINES = f'{{"prompt": "a\u2028b"}}\r\n\n{PARTS}\n plain\u2028text\r\n'


def test_a_line_ends_at_a_line_feed_only(tmp_path):
    from kgpt.cli.generate_file import _num_completed, read_prompts

    file = tmp_path / "a.jsonl"
    file.write_text(LINES, encoding="utf-8", newline="")
    prompts = ["a\u2028b", "c", " plain\u2028text"]
    assert read_prompts(str(file)) == prompts
    done = "".join(json.dumps({"prompt": p}, ensure_ascii=False) + "\n" for p in prompts)
    file.write_text(done + '{"prompt": "half', encoding="utf-8")
    assert _num_completed(file, [*prompts, "half"]) == 3
    assert file.read_text(encoding="utf-8") == done


@pytest.mark.parametrize("line", ['{"prompt": null}', '{"prompt": 3}', "{", '{"text": "a"}', "{}"])
def test_a_prompt_that_is_no_text_is_refused(tmp_path, line):
    from kgpt.cli.generate_file import read_prompts
    from kgpt.errors import DataError

    (tmp_path / "a.jsonl").write_text("one\n" + line)
    with pytest.raises(DataError, match="Line 2 of .* is not a JSON object whose"):
        read_prompts(str(tmp_path / "a.jsonl"))
