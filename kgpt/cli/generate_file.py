"""A file of prompts in, a file of answers out: resumable, with progress."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kgpt.config import SamplingConfig
from kgpt.errors import DataError, UsageError
from kgpt.generation.generator import TextGenerator, seed_of, with_seed

PORTION = 64  # prompts in flight; their answers are written before the next are started


def complete_file(
    engine: TextGenerator, settings: SamplingConfig, source: str, target: str
) -> None:
    """Answer the prompts of `source`, one JSON line each, in their order.

    Answers that `target` holds already are kept: the job goes on after them.

    Raises:
        DataError: the source cannot be read. UsageError: the target holds other prompts' answers.
    """
    prompts = read_prompts(source)
    settings = with_seed(settings)
    done = 0 if target == "-" else _answered(Path(target), prompts)
    with _open(target) as out, _progress(target) as bar:
        task = bar.add_task("writing", total=len(prompts), completed=done)
        for first in range(done, len(prompts), PORTION):
            portion = prompts[first : first + PORTION]
            seeded = settings.model_copy(update={"seed": seed_of(settings, first)})

            def write(number: int, completion: Any, portion: list[str] = portion) -> None:
                line = json.dumps(completion.as_dict(portion[number]), ensure_ascii=False)
                out.write(line + "\n")
                out.flush()
                bar.advance(task)

            engine.generate_batch(portion, seeded, on_done=write)


def read_prompts(source: str) -> list[str]:
    """One prompt a line; a line that is a JSON object gives its "prompt"."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} cannot be read: {error}.") from None
    prompts = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if line.startswith("{"):
            try:
                prompts.append(str(json.loads(line)["prompt"]))
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"Line {number} of {source} is no JSON object with a prompt."
                ) from None
        else:
            prompts.append(line)
    if not prompts:
        raise DataError(f"{source} holds no prompts.")
    return prompts


def _answered(target: Path, prompts: list[str]) -> int:
    """How many answers `target` holds; a half-written last line is cut off."""
    if not target.is_file():
        return 0
    whole: list[str] = []
    for line in target.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith("\n"):
            break
        if len(whole) >= len(prompts) or prompt != prompts[len(whole)]:
            raise UsageError(
                f"{target} holds answers to other prompts; name another --output-file."
            )
        whole.append(line)
    target.write_text("".join(whole), encoding="utf-8")
    return len(whole)


def _open(target: str) -> contextlib.AbstractContextManager[TextIO]:
    if target == "-":
        return contextlib.nullcontext(sys.stdout)
    try:
        return open(target, "a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error}.") from None


def _progress(target: str) -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    hidden = not console.is_terminal or target == "-"
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=hidden)
