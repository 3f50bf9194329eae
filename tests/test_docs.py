"""README, documentation and contributing guide are run: commands, scripts, configurations, links.

Shell blocks hold commands that a reader can type in order; their `kgpt` commands run here on tiny
models, in a folder with the files they name. Blocks of other languages are run or parsed likewise.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pkgutil
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from kgpt import GPT, add_lora, save_adapter
from kgpt.cli import app, main
from kgpt.cli.sweep import split_space
from kgpt.config import Config, parse_overrides
from kgpt.runs import resolve_model
from tests.pages import PAGES, ROOT

KERAS_PAGE = ROOT / "docs" / "guides" / "keras.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TINY = shlex.split(
    "--train.max-steps 2 --train.eval-every 2 --train.sample-every 0 --train.warmup-steps 0 "
    "--train.batch-size 2 --model.num-layers 1 --model.num-heads 2 --model.hidden-dim 8 "
    "--model.num-kv-heads 1 --model.intermediate-dim 8 --model.max-length 32 "
    "--train.sequence-length 16"
)
# Commands that are only parsed here, and where they run.
ELSEWHERE = {
    "demo": "tests/cli/test_demo.py",
    "serve": "tests/serving/test_process.py",
    "bench serve": "tests/serving/test_load.py",
    "launch": "tests/training/test_processes.py",
    "bench train": "tests/training/test_bench.py",
    "verify": "tests/verification: runs processes of every backend",
    "sweep": "tests/lab/test_sweep.py: processes that train",
    "bench draft": "tests/cli/test_distill.py",
    "scaling train": "tests/lab/test_scaling.py",
    "scaling fit": "tests/lab/test_scaling.py",
    "bench generate": "tests/generation/test_bench.py",
    "data get": "tests/data/test_download.py: needs a network",
    "import": "tests/checkpoints/test_importers.py: the sources are downloads",
    "runs pause": "tests/training/test_callbacks.py: needs a run that is training",
    "runs resume": "likewise",
    "runs stop": "likewise",
    "runs sample": "likewise",
    "runs checkpoint": "likewise",
    "push": "tests/cli/test_push.py: needs a network",
    "merge": "tests/checkpoints/test_adapters.py: the folder would exist already",
    "export": "tests/export: TensorFlow, ONNX and GGUF take long or are extras",
}


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def shell_commands(page: Path) -> list[list[str]]:
    """The commands of a page's shell blocks as words, without environment variables before them."""
    body = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    commands = []
    for line in body.splitlines():
        for part in re.split(r"\s\|\s|&&|;", line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if words:
                commands.append(words)
    return commands


def inline_commands(page: Path) -> list[list[str]]:
    """Commands of kgpt in running text."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [shlex.split(code) for code in re.findall(r"`(kgpt [^`\n]+)`", text)]


def command_of(words: list[str]) -> tuple[Any, str, list[str]]:
    """The command's app, its name, and the words after it."""
    command, names, rest = app, [], list(words)
    while rest and not rest[0].startswith("-") and rest[0] in command:
        names.append(rest.pop(0))
        command = command[names[-1]]
    return command, " ".join(names), rest


def cases(find: Any) -> list[Any]:
    return [
        pytest.param(words, id=f"{page.stem}: {' '.join(words)}")
        for page in PAGES
        for words in find(page)
        if words[0] == "kgpt"
    ]


@pytest.mark.parametrize("words", cases(shell_commands))
def test_every_command_is_accepted_as_it_stands(words: list[str]) -> None:
    _, name, rest = command_of(words[1:])
    assert name or rest[:1] in ([], ["--help"], ["--version"]), f"there is no {words}"
    _, bound, unknown, _ = app.parse_known_args(words[1:])
    assert not unknown
    flags = [*bound.arguments.get("overrides", ())]
    first = bound.arguments.get("config")
    if isinstance(first, str) and first.startswith("--"):
        flags.insert(0, first)  # of a run that is resumed without a configuration
    parse_overrides(split_space(flags)[1] if name == "sweep" else flags)


@pytest.mark.parametrize("words", cases(inline_commands))
def test_commands_in_running_text_exist(words: list[str]) -> None:
    command, name, rest = command_of(words[1:])
    assert name, f"there is no {words}"
    known = {flag for argument in command.assemble_argument_collection() for flag in argument.names}
    flags = {word.partition("=")[0] for word in rest if word.startswith("--")} - {"--help"}
    assert {flag for flag in flags if "." not in flag} <= known


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with every file, data set and run that the pages name, all of them tiny."""
    folder = tmp_path_factory.mktemp("docs")
    before, patches = Path.cwd(), []
    for module in pkgutil.iter_modules([str(ROOT / "kgpt" / "cli")]):
        found = importlib.import_module(f"kgpt.cli.{module.name}")
        for name in ("prepare_process", "silence_native_code"):
            if hasattr(found, name) and module.name != "environment":
                patches.append(mock.patch.object(found, name))
    with mock.patch.dict(os.environ, {"KGPT_RUNS": str(folder / "runs")}):
        for patch in patches:
            patch.start()
        os.chdir(folder)
        try:
            fill(folder)
            yield folder
        finally:
            os.chdir(before)
            for patch in patches:
                patch.stop()


def fill(folder: Path) -> None:
    """Write the files that the pages name and train the one tiny model that stands for all."""
    story = "Once upon a time it was Monday. Anna went to the park.\n\n" * 200
    (folder / "book.txt").write_text(story)
    for name in ("notes", "more"):
        (folder / name).mkdir()
        rows = [json.dumps({"body": f"{story[:400]} {i}"}) for i in range(20)]
        (folder / name / "a.jsonl").write_text("\n".join(rows))
    moods = [f"I am {mood} {i}.,{mood}" for i in range(20) for mood in ("calm", "angry")]
    (folder / "moods.csv").write_text("\n".join(["text,label", *moods]))
    (folder / "prompts.txt").write_text("Once\nAnna\n")
    (configuration,) = blocks(ROOT / "docs" / "guides" / "training.md", "yaml")
    (folder / "mine.yaml").write_text(configuration)
    (folder / "runs" / "llama-tiny-sweep").mkdir(parents=True)
    (folder / "runs" / "llama-tiny-sweep" / "best.yaml").write_text(configuration)
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Anna."}]
    asked = {"prompt": turns[:1], "key": "Anna", "rivals": ["Ben"], "answer": "Anna"}
    for name in ("prompts.jsonl", "data/tinyworld-prompts.jsonl"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"{json.dumps(asked)}\n" * 4)
    pair = {"prompt": "?", "chosen": "A", "rejected": "B"}
    for name in ("pairs.jsonl", "data/tinyworld-preferences.jsonl"):
        (folder / name).write_text(f"{json.dumps(pair)}\n" * 4)
    (rewards,) = blocks(ROOT / "docs" / "guides" / "grpo.md", "python")
    (folder / "rewards.py").write_text(rewards)
    (folder / "chat.jsonl").write_text("\n".join([json.dumps({"messages": turns})] * 40))
    kgpt("data prepare chat.jsonl --out data/tinyworld --tokenizer byte --quiet")
    kgpt("data prepare book.txt --out data/book --vocab-size 400 --quiet")
    kgpt(["train", "llama-tiny", "--data", "data/tinyworld", "--run", "demo", "--quiet", *TINY])
    for name in ("shakespeare", "book", "mine", "on-jax", "on-torch", "my-run", "tinyworld"):
        shutil.copytree(folder / "runs" / "demo", folder / "runs" / name)
    shutil.copytree(resolve_model("demo"), folder / "smollm2")
    model = GPT.from_pretrained(folder / "smollm2")
    add_lora(model, rank=2)
    save_adapter(model, folder / "my-adapter")


def kgpt(words: str | list[str]) -> None:
    """Run a command in this process; any exit code but 0 fails the test."""
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(words) if isinstance(words, str) else words)
    assert ended.value.code in (0, None), f"kgpt {words} ended with {ended.value.code}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_run(page: Path, sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGPT_RUNS", str(sandbox / "runs"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    for words in shell_commands(page):
        if words[0] != "kgpt" or len(words) == 1:
            continue
        _, name, _ = command_of(words[1:])
        if name in ELSEWHERE or (name == "eval" and "--server" in words):
            continue
        words = words[1:]
        if name == "distill":
            words = [*words, *TINY[:10], "--train.sequence-length", "16"]
        if name in ("train", "finetune", "classify train", "distill") and "--resume" not in words:
            run = words[words.index("--run") + 1] if "--run" in words else ""
            shutil.rmtree(sandbox / "runs" / run, ignore_errors=True)
        if name == "train":
            words = [*with_data(on_one_device(words)), *TINY, "--quiet"]
            if "--resume" in words:
                words += ["--train.max-steps", "3"]
            if "--from" in words:  # the steps there are
                source = words.index("--from") + 1
                words[source] = re.sub(r"@\d+", "@latest", words[source])
                words += ["--train.max-steps", "4"]
        if name == "lr-find":
            words += [*TINY, "--steps", "10"]
        if name in ("finetune", "classify train"):
            words += [*TINY[: TINY.index("--model.num-layers")], "--quiet"]
            words += [] if words[1] == "dpo" else ["--train.sequence-length", "32"]
        if words[:2] == ["finetune", "grpo"]:
            words += ["--grpo.num-generations", "2", "--grpo.max-completion-length", "4"]
        if "--out" in words:
            shutil.rmtree(sandbox / words[words.index("--out") + 1], ignore_errors=True)
        if name == "generate" and "--max-tokens" not in words:
            words += ["--max-tokens", "2"]
        if name == "quantize":
            shutil.rmtree(sandbox / "demo-int8", ignore_errors=True)
        kgpt(words)


def on_one_device(words: list[str]) -> list[str]:
    """A train command without its mesh, which takes JAX and several devices."""
    mesh = [i for i, word in enumerate(words) if word.startswith("--distribute.")]
    values = [i + 1 for i in mesh if words[i] != "--distribute.fsdp"]
    return [word for i, word in enumerate(words) if i not in {*mesh, *values}]


def with_data(words: list[str]) -> list[str]:
    """A train command whose preset needs a downloaded corpus, on the corpus of the sandbox."""
    given = "--data" in words or "--resume" in words
    return words if given else [*words, "--data", "data/tinyworld"]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != KERAS_PAGE], ids=lambda page: page.stem
)
def test_the_scripts_run(page: Path, sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page, one after the other in one namespace."""
    monkeypatch.setenv("KGPT_RUNS", str(sandbox / "runs"))
    run_scripts(page)


def run_scripts(page: Path) -> None:
    """Execute the Python blocks of a page, on models that are smaller than the page says."""
    namespace: dict[str, Any] = {}
    for number, script in enumerate(blocks(page, "python")):
        for there, here in {
            "steps = 200": "steps = 3",
            "hidden_dim=128": "hidden_dim=16",
            "num_layers=4": "num_layers=1",
            "max_tokens=20": "max_tokens=2",
        }.items():
            script = script.replace(there, here)
        with openai_server(script) as text:
            code = compile(text, f"{page.name}[{number}]", "exec", dont_inherit=True)
            exec(code, namespace)


@pytest.mark.portable
@pytest.mark.backend
def test_the_road_from_fit_to_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("Once upon a time it was Monday.\n\n" * 200)
    kgpt("data prepare book.txt --out data/book --vocab-size 300 --quiet")
    run_scripts(KERAS_PAGE)
    assert (tmp_path / "book-model" / "model.safetensors").is_file()


class openai_server:
    """Where a script speaks to a server, one that it can speak to: the fake engine's."""

    def __init__(self, script: str) -> None:
        self.script = script
        self.running: Any = None

    def __enter__(self) -> str:
        address = "http://127.0.0.1:8000"
        if address not in self.script:
            return self.script
        from tests.serving.harness import start

        self.running = start(name="tinyworld")
        return self.script.replace(address, self.running.url)

    def __exit__(self, *failure: object) -> None:
        if self.running is not None:
            self.running.stop()


def test_configurations_are_valid() -> None:
    texts = [text for page in PAGES for text in blocks(page, "yaml")]
    assert texts
    for text in texts:
        Config.parse(yaml.safe_load(text))


def test_make_targets_and_extras_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"^make ([\w-]+)", text, re.MULTILINE):
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
        for extras in re.findall(r"\[([\w,]+)\]\"", text):
            assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_table_of_extras_is_complete() -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "quickstart.md"):
        text = page.read_text(encoding="utf-8")
        rows = text[text.index("| extra |") :].split("\n\n")[0]
        assert set(re.findall(r"`([\w-]+)`", rows)) >= set(PROJECT["optional-dependencies"])
