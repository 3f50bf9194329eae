"""The README is run: its commands exist, its configuration parses, its scripts work."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from cyclopts import CoercionError, MissingArgumentError, ValidationError

from kgpt.cli import app
from kgpt.config import Config, parse_overrides, presets
from kgpt.data.prepare import prepare
from kgpt.data.sources import Corpus
from kgpt.text.tokenizer import Tokenizer

TEXT = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def shell_lines():
    """Commands of the shell blocks and of inline code, a pipe's parts apart."""
    joined = "\n".join(block.replace("\\\n", " ") for block in blocks("(?:sh|bash|console)?"))
    lines = [line.removeprefix("$ ") for line in joined.splitlines()]
    lines += [code for code in re.findall(r"`([^`\n]+)`", TEXT) if "kgpt " in code]
    parts = [part.strip(" ()") for line in lines for part in re.split(r"\s\|\s|&&|;|&$", line)]
    parts = [re.sub(r"^([A-Z_]+=\S* )+", "", part) for part in parts]
    commands = [part for part in parts if re.match(r"kgpt( |$)", part)]
    return [shlex.split(re.sub(r"[][]", "", part), comments=True) for part in commands]


COMMANDS = sorted({tuple(line) for line in shell_lines()})


@pytest.mark.parametrize("line", COMMANDS, ids=" ".join)
def test_every_command_is_one_that_kgpt_knows(line):
    # Of alternatives in a synopsis, --dtype float32|bfloat16, the first stands for all.
    words = [word.split("|")[0] for word in line[1:] if word not in ("...", "…")]
    words = words[: words.index(">")] if ">" in words else words
    command, names = app, []
    while words and words[0] in command and not words[0].startswith("-"):
        names.append(words.pop(0))
        command = command[names[-1]]
    assert names or words[:1] in ([], ["--help"], ["--version"]), f"there is no {words[:1]}"
    if len(words) == 0 or words[0].startswith("--help"):
        return
    try:
        _, bound, unknown, _ = app.parse_known_args([*names, *words])
    except (CoercionError, MissingArgumentError, ValidationError):
        return  # a placeholder, or what is left out for the reader's sake
    assert not unknown
    if overrides := bound.arguments.get("overrides"):
        parse_overrides(overrides)


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 15


def test_make_targets_exist():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_table_of_presets_is_complete():
    named = set(re.findall(r"`([\w-]+)`", TEXT[TEXT.index("| preset |") : TEXT.index("```yaml")]))
    assert named == set(presets())


@pytest.mark.parametrize("text", blocks("yaml"))
def test_the_configuration_is_valid(text):
    assert Config.parse(yaml.safe_load(text)).train.max_steps == 1000


@pytest.mark.backend
def test_the_script_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("It was Monday. Anna went to the park.\n" * 100)
    prepare(Corpus(["book.txt"]), Tokenizer.of_bytes(), Path("data/book"))
    for script in (block for block in blocks("python") if "import kgpt" in block):
        for there, here in {
            "steps = 200": "steps = 3",
            "_dim=128": "_dim=16",
            "s=4": "s=1",
        }.items():
            script = script.replace(there, here)
        exec(compile(script, "README.md", "exec"), {})
    assert Path("book.keras").is_file()
