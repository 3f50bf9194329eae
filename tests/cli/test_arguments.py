"""Values that look like options, and consoles that cannot show every character."""

import io
import json
import sys

import pytest

from kgpt.cli import app, main
from kgpt.cli.arguments import attach_values
from kgpt.cli.streams import check_text, escape_what_cannot_be_shown, read_standard_input
from kgpt.errors import UsageError

VALUES = ["-", "- item", "--", "-5", "-x", "--x=1", "-> é", "---", "--maxtokens"]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("option", ["--prompt", "--stop", "--input-file", "--bad-words"])
def test_an_option_takes_the_next_word_whatever_it_is(option, value):
    words = ["generate", "--model", "m", option, value, "--max-tokens", "2"]
    _, bound, unknown, _ = app.parse_known_args(attach_values(app, words))
    taken = {**bound.arguments, **vars(bound.arguments["sampling"])}
    name = option.removeprefix("--").replace("-", "_")
    assert not unknown and taken["max_tokens"] == 2
    assert taken[name] == ([value] if name in ("stop", "bad_words") else value)


@pytest.mark.parametrize(
    "words",
    [["generate", "--prompt", "--json"], ["generate", "--prompt", "--seed=1"], ["generate"], [],
     ["generate", "--prompt"], ["runs"], ["runs", "--help"], ["data", "prepare", "-", "--", "-x"],
     ["train", "gpt2", "--train.seed", "-1"], ["generate", "--prompt", "--help"], ["tarin", "-x"]],
)  # fmt: skip
def test_options_of_the_command_are_no_values(words):
    assert attach_values(app, list(words)) == words


def console(monkeypatch, encoding, data=b""):
    """Standard streams of this encoding; returns the bytes of stdout and stderr."""
    outputs = io.BytesIO(), io.BytesIO()
    for name, buffer in zip(("stdout", "stderr"), outputs, strict=True):
        stream = io.TextIOWrapper(buffer, encoding=encoding, write_through=True)
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding=encoding))
    return outputs


TEXT = "naïve → 日本 🙂 \udce9"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "shift_jis", "utf-16"])
def test_every_character_can_be_printed(encoding, monkeypatch):
    outputs = console(monkeypatch, encoding)
    escape_what_cannot_be_shown()
    print(TEXT)
    print(json.dumps({"text": TEXT}, ensure_ascii=False), file=sys.stderr)
    shown, reported = (output.getvalue().decode(encoding) for output in outputs)
    assert json.loads(reported)["text"] == TEXT  # escapes are those of JSON
    if encoding == "ascii":
        assert shown == "na\\u00efve \\u2192 \\u65e5\\u672c \\ud83d\\ude42 \\udce9\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    ("words", "code"),
    [(["--help"], 0), (["generate", "--help"], 0), (["train", "--help"], 0), (["runs", "list"], 0),
     (["data", "show", "nö→"], 1), (["generate", "--model", "日本"], 1),
     (["generate", "--model", "m", "--tęmp", "1"], 2), (["\udce9"], 2), (["info", "\udce9"], 1)],
)  # fmt: skip
def test_no_command_fails_at_a_character(encoding, words, code, monkeypatch):
    outputs = console(monkeypatch, encoding)
    with pytest.raises(SystemExit) as ended:
        main(words)
    shown, reported = (output.getvalue().decode(encoding) for output in outputs)
    assert (ended.value.code or 0) == code, reported
    assert "defect" not in reported and (shown if code == 0 else reported.startswith("kgpt: "))


@pytest.mark.parametrize("words", [["generate", "--model", "m", "--prompt", "\udce9"]])
def test_an_argument_that_is_no_text_is_refused(words, monkeypatch, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    outputs = console(monkeypatch, "utf-8")
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert outputs[1].getvalue().decode().startswith("kgpt: The prompt is not UTF-8 text; ")


def test_standard_input_is_text_without_its_mark_or_refused(monkeypatch):
    console(monkeypatch, "utf-8", "\ufeffnaïve".encode())
    escape_what_cannot_be_shown()
    assert read_standard_input() == "naïve"
    console(monkeypatch, "utf-8", "naïve".encode("latin-1"))
    escape_what_cannot_be_shown()
    with pytest.raises(UsageError, match="Standard input is not UTF-8 text; convert it"):
        read_standard_input()
    assert check_text(TEXT[:-1], "The line") == TEXT[:-1]
