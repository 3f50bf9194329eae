"""`kgpt demo`: generate a corpus, train on it, test the model and chat with it, in minutes.

Every step is that of its own command: `kgpt data get`, `kgpt train`, `kgpt generate`, `kgpt chat`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.eval import progress_on
from kgpt.cli.tinyworld import make_tinyworld
from kgpt.cli.train import FLAGS, run_training
from kgpt.config import Config, SamplingConfig, parse_overrides
from kgpt.data.tinyworld import Question
from kgpt.data.tinyworld import questions as endless_questions
from kgpt.errors import KgptError
from kgpt.formatting import duration
from kgpt.runs import Run, new_run, resolve_model

if TYPE_CHECKING:
    from kgpt.generation.completion import Completion
    from kgpt.generation.generator import TextGenerator

SHOWN = 15  # questions in the table
REPLY_TOKENS = 24
QUESTIONS_SEED = 2026
EXPECTED = 0.9  # the accuracy that the preset reaches
MIN_ACCURACY = 0.8  # less is not chance: something went wrong
SCRIPT = (
    "Good morning!",
    "Look, Iris has a black drum. Look, Leo has a green kite. What colour is Leo's kite?",
    "Who has the drum?",
    "What is not early?",
    "What sound does an owl make?",
    "Look, Ella has four hats and then gets three. How many hats does Ella have now?",
    "Thank you!",
)


def demo(
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    run: str | None = None,
    data: str = "data/tinyworld",
    questions: Annotated[int, Parameter(validator=Number(gte=1))] = 200,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Generate a corpus, train on it, test and chat with the model.

    Ctrl-C saves; the same command resumes. Any key of the preset `tinyworld` can be set, as with
    `kgpt train`: --train.max-steps 500.

    Parameters
    ----------
    run
        The name of the run; a finished one is only tested. If not given: an interrupted demo, or
        a new run demo, demo-2, …
    data
        The folder of the data set, created if it does not exist.
    questions
        Number of held-out questions to ask.
    quiet
        Print only the fraction of correct answers.
    """
    changes = {"data.dir": data} | parse_overrides(overrides, FLAGS)
    directory = new_run(run) if run else next_run()
    if directory.exists:
        config = Config.resume(directory.path / "run.yaml", None, changes)
    else:
        config = Config.load("tinyworld", changes)
    prepare_process()
    started = time.perf_counter()
    console = Console(quiet=quiet)
    again = f"kgpt demo --run {directory.name}"
    if not (Path(data) / "manifest.json").is_file():
        title(console, "A small world")
        make_tinyworld(Path(data), quiet)
    if directory.status().state != "finished":
        title(console, f"Training the run {directory.name}")
        code = run_training(config, directory, resume=directory.exists, quiet=quiet)
        if directory.status().state != "finished":
            console.print(Text(f"Nothing is lost: go on with `{again}`."))
            return code
    silence_native_code()
    right = show_what_it_learned(directory, questions, console)
    show_next(directory, console, duration(time.perf_counter() - started))
    Console().print(
        f"{right} of {questions} held-out questions answered correctly ({right / questions:.1%}).",
        highlight=False,
    )
    check(right / questions)
    return 0


def next_run() -> Run:
    """The latest demo if it was interrupted, else a new run: demo, demo-2, …"""
    latest = new_run("demo")
    for number in itertools.count(2):
        following = new_run(f"demo-{number}")
        if not following.exists:
            break
        latest = following
    status = latest.status()
    interrupted = status.is_dead or status.state in ("stopped", "failed")
    return latest if interrupted or not latest.exists else following


def show_what_it_learned(run: Run, count: int, console: Console) -> int:
    """Ask the held-out questions and hold the conversation; returns how many were right."""
    from kgpt.generation.generator import TextGenerator

    title(console, f"{count} questions about what the training text never says")
    asked = held_out_questions(count)
    with TextGenerator(resolve_model(run.name)) as engine:
        with progress_on(console)("answering", count) as advance:
            prompts = [[user(question.text)] for question in asked]
            replies = reply(engine, prompts, lambda *_: advance(1))
        console.print(answers_table(asked[:SHOWN], replies[:SHOWN]))
        title(console, "A conversation")
        converse(engine, console)
    return sum(q.is_right(text) for q, text in zip(asked, replies, strict=True))


def converse(engine: TextGenerator, console: Console) -> None:
    """A scripted conversation of several turns."""
    messages: list[dict[str, str]] = []
    for line in SCRIPT:
        messages.append(user(line))
        answer = reply(engine, [messages])[0]
        messages.append({"role": "assistant", "content": answer})
        console.print(Text("you   ", style="bold cyan") + Text(line), soft_wrap=True)
        console.print(Text("kgpt  ", style="bold green") + Text(answer), soft_wrap=True)


def held_out_questions(count: int) -> list[Question]:
    """The first `count` different questions about held-out combinations."""
    different: dict[str, Question] = {}
    for question in endless_questions(QUESTIONS_SEED, held_out=True):
        different.setdefault(question.text, question)
        if len(different) == count:
            break
    return list(different.values())


def reply(
    engine: TextGenerator,
    conversations: list[list[dict[str, str]]],
    on_done: Callable[[int, Completion], None] | None = None,
) -> list[str]:
    """The model's reply in each conversation, at temperature 0; see `generate_batch`."""
    greedy = SamplingConfig(temperature=0, max_tokens=REPLY_TOKENS)
    prompts = [engine.chat_prompt(messages, reserve=REPLY_TOKENS) for messages in conversations]
    completions = engine.generate_batch(prompts, greedy, on_done)
    return [completion.text.strip() for completion in completions]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def answers_table(asked: list[Question], replies: list[str]) -> Table:
    """Questions, replies, and whether they are right."""
    table = Table(show_lines=False, pad_edge=False)
    table.add_column("question", ratio=6)
    table.add_column("reply", ratio=4)
    table.add_column("", no_wrap=True)
    for question, text in zip(asked, replies, strict=True):
        right = question.is_right(text)
        mark = Text("right", style="green") if right else Text("wrong", style="bold red")
        table.add_row(Text(question.text), Text(text), mark)
    return table


def show_next(run: Run, console: Console, spent: str) -> None:
    """What to do with a trained model."""
    title(console, f"Done in {spent}")
    commands = {
        f"kgpt chat --model {run.name}": "ask it yourself",
        f"kgpt-tui --run {run.name}": "its curves, its tokens, a chat, in the terminal app",
        f'kgpt generate --model {run.name} --prompt "It was Monday."': "have it tell a story",
        f"kgpt info {run.name}": "what it is made of",
        "kgpt data get shakespeare": "go on with real text",
        "kgpt train shakespeare-cpu --data data/shakespeare-char": "",
    }
    for command, purpose in commands.items():
        line = Text(f"# {purpose}\n", style="dim") if purpose else Text()
        console.print(line + Text(command, style="bold"), soft_wrap=True)


def check(accuracy: float) -> None:
    """Raise a `KgptError` if the accuracy is too low to be chance."""
    if accuracy < MIN_ACCURACY:
        raise KgptError(
            f"The demo answers {EXPECTED:.0%} or more with its default options; "
            f"{accuracy:.0%} means too few training steps, or a bug."
        )


def title(console: Console, text: str) -> None:
    console.print()
    console.print(Rule(Text(text, style="bold"), align="left", style="dim"))
