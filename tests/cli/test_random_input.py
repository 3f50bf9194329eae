"""Random command lines and configuration files: taken, or refused in one sentence.

Commands run up to the point where they would load a backend.
"""

import contextlib
import importlib
import io
import os
import pkgutil
import sys
from unittest import mock

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import kgpt.cli
from kgpt.cli import app, main
from kgpt.config import options
from kgpt.errors import KgptError
from tests.test_damaged_files import TEXT, write_model

REACHED = "The command would do its work now."
ODD = [
    "", " ", "-", "--", "---", "- item", "-1", "0", "1", "1.5", "1e999", "nan", "-inf", "None",
    "true", "[", "{", "[1, 2]", "{a: 1}", "null", "é→🙂", "\udce9", "\x00", "\n", "x" * 300, "a=b",
    "99999999999999999999", "2001-99-99", "../x", ".", "@1", "one@x", "one@1", "model", "set",
    "one", "text.txt", "config.yaml", "hf:a/b", "a/b", "http://x", "bpe", "byte", "4", "8",
]  # fmt: skip


def commands(command=app, words=()):
    """Every command as its words and the app that has its options."""
    for name in names(command):
        child = command[name]
        if names(child):
            yield from commands(child, (*words, name))
        else:
            yield (*words, name), child


def names(command):
    """The names of the commands in a group; none of a command."""
    return [name for name in command if not name.startswith("-")]


COMMANDS = dict(commands())
FLAGS = {
    words: [name for argument in child.assemble_argument_collection() for name in argument.names
            if name.startswith("--")]
    for words, child in COMMANDS.items()
}  # fmt: skip
OPTIONS = [f"--{section}.{key.replace('_', '-')}" for section, key, _ in options()]


@st.composite
def command_lines(draw):
    words = draw(st.sampled_from(sorted(COMMANDS)))
    names = FLAGS[words] + (draw(st.sampled_from([[], OPTIONS])) if words == ("train",) else [])
    value = st.sampled_from(ODD) | st.text(max_size=8)
    flag = st.tuples(st.sampled_from(names), value) if names else st.tuples(value)
    joined = flag.map(lambda pair: ("=".join(pair),))
    line = st.lists(flag | joined | st.tuples(value), max_size=5)
    return [*words, *(word for part in draw(line) for word in part)]


@pytest.fixture(scope="module", autouse=True)
def _workplace(tmp_path_factory):
    """A folder with a text, a model, a data set and a run; nothing long or remote is started."""
    folder = tmp_path_factory.mktemp("work")
    write_model(folder / "model")
    (folder / "text.txt").write_text(TEXT)
    (folder / "config.yaml").write_text("train: {max_steps: 1}\n")
    (folder / "runs" / "one").mkdir(parents=True)
    (folder / "runs" / "one" / "run.yaml").write_text("train: {}\n")
    before = os.getcwd()
    with contextlib.ExitStack() as stack:
        stop = mock.Mock(side_effect=KgptError(REACHED))
        for module in pkgutil.iter_modules(kgpt.cli.__path__):
            found = importlib.import_module(f"kgpt.cli.{module.name}")
            if hasattr(found, "prepare_process") and module.name != "environment":
                stack.enter_context(mock.patch.object(found, "prepare_process", stop))
        for name in ("kgpt.data.download.download", "kgpt.serving.load_test.LoadTest",
                     "kgpt.data.tinyworld.write", "kgpt.checkpoints.hub.download",
                     "kgpt.data.hub.load_hub"):  # fmt: skip
            with contextlib.suppress(AttributeError):
                stack.enter_context(mock.patch(name, stop))
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def run(words):
    """The exit code of a command, and what it prints as errors."""
    errors = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"KGPT_RUNS": "runs"}),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n"))),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        main(words)
    return ended.value.code or 0, errors.getvalue()


def check(words):
    code, errors = run(words)
    told = [line for line in errors.splitlines() if line.startswith("kgpt: ")]
    assert "Traceback" not in errors and "defect of kgpt" not in errors, (words, errors)
    assert code in (0, 1, 2), (words, code)
    assert len(told) == (code != 0), (words, errors)
    if told:
        assert errors.endswith(told[0] + "\n") and told[0].endswith((".", "?")), (words, errors)


@settings(max_examples=400)
@given(command_lines())
def test_any_command_line_is_taken_or_refused_in_a_sentence(words):
    check(words)


@pytest.mark.parametrize(
    "words",
    [["generate", "--model", "model", "--prompt", "- item"], ["chat", "--model", "model"],
     ["generate", "--model", "model", "--input-file", "-", "--output-file", "-"],
     ["train", "config.yaml", "--data", "set"], ["export", "--model", "model", "--format", "hf",
     "--out", "new"], ["info", "model"], ["demo"]],
)  # fmt: skip
def test_what_is_valid_reaches_the_work(words):
    assert run(words) in ((1, f"kgpt: {REACHED}\n"), (0, ""))


KEYS = [(section, key) for section, key, _ in options()]
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates()
    | st.sampled_from(["on", "1e3", "0x10", "###", "auto"])
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(scalars, x, max_size=3),
    max_leaves=6,
)


@st.composite
def configurations(draw):
    config = {}
    for section, key in draw(st.lists(st.sampled_from(KEYS), max_size=4)):
        config.setdefault(section, {})[key] = draw(values)
    for _ in range(draw(st.integers(0, 1))):
        config[draw(scalars)] = draw(values)
    return yaml.safe_dump(config, allow_unicode=True)


@settings(max_examples=300)
@given(configurations() | st.text(max_size=30))
@example("train:\n  learning_rate: 2001-99-99\n")
@example("1: {a: 1}")
@example("train: {1: 2}")
@example("&a [*a]")
@example("[" * 2000)
@example("train: &a {seed: *a}")
@example("!!python/object/apply:os.getcwd []")
def test_any_configuration_file_is_taken_or_refused_in_a_sentence(text):
    with open("random.yaml", "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)
    check(["train", "random.yaml", "--data", "set"])
